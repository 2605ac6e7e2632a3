//! The three versions do the same, and the points at which they differ.

use std::sync::OnceLock;

use bson::doc;
use migrating::backend::{ErrorKind, Pools};
use migrating::{Order, after, before_bb8_mongodb, before_driver};
use mongo_testkit::{Deployment, RealServer, User};

/// Runs a block on each version's type.
macro_rules! on_each {
    ($uri:expr, |$shop:ident, $name:ident| $body:block) => {
        for version in 0..3 {
            match version {
                0 => {
                    let ($shop, $name) = (before_bb8_mongodb::Shop::connect($uri).await, "bb8");
                    let $shop = $shop.expect("a shop");
                    $body
                }
                1 => {
                    let ($shop, $name) = (before_driver::Shop::connect($uri).await, "driver");
                    let $shop = $shop.expect("a shop");
                    $body
                }
                _ => {
                    let ($shop, $name) = (after::Shop::connect($uri).await, "after");
                    let $shop = $shop.expect("a shop");
                    $body
                }
            }
        }
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn all_versions_leave_the_same_data() {
    let set = Deployment::replica_set("rs").members(1).start().await;
    let mut left = Vec::new();
    on_each!(&set.uri(), |shop, name| {
        for (id, total) in [(2, 250), (1, 125), (3, 40)] {
            shop.add(&Order::new(id, total)).await.expect(name);
        }
        assert!(shop.add(&Order::new(1, 125)).await.is_err(), "{name}");
        shop.pay(2).await.expect(name);
        let open = shop.open().await.expect(name);
        assert_eq!(open, [Order::new(1, 125), Order::new(3, 40)], "{name}");
        // A payment that is there already undoes the whole transaction.
        assert!(shop.pay(2).await.is_err(), "{name}");

        left.push((set.documents("shop.orders"), set.documents("shop.payments")));
        for collection in ["orders", "payments"] {
            let drop = mongodb::bson::doc! { "drop": collection };
            let client = mongodb::Client::with_uri_str(set.uri())
                .await
                .expect("a client");
            client.database("shop").run_command(drop).await.expect("ok");
        }
    });
    assert_eq!(left.len(), 3);
    assert!(left.iter().all(|one| *one == left[0]), "{left:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_named_at_once() {
    let set = Deployment::replica_set("rs").members(1);
    let set = set.user(User::new("app", "pencil")).start().await;
    let outcome = after::Shop::connect(&set.uri_for("app", "wr0ng")).await;
    let error = outcome.err().expect("an error");
    assert!(
        matches!(error.kind(), ErrorKind::Authentication(_)),
        "{error:?}"
    );
}

/// bson 2, which the official driver has by default, passes by serde.
#[tokio::test(flavor = "multi_thread")]
async fn documents_of_bson_2_are_commands_and_replies() {
    use mongodb::bson as bson2;

    let set = Deployment::replica_set("rs").members(1).start().await;
    let pools = Pools::new(&set.uri()).expect("pools");
    let order = bson2::doc! { "_id": bson2::oid::ObjectId::new(), "at": bson2::DateTime::now() };
    let insert = bson2::doc! { "insert": "orders", "documents": [order.clone()] };
    let mut connection = pools.get().await.expect("a connection");
    let reply = connection.run_command("shop", &insert).await.expect("ok");
    reply.check_write().expect("a write");

    let find = bson2::doc! { "find": "orders" };
    let reply = connection.run_command("shop", &find).await.expect("ok");
    let reply: bson2::Document = reply.deserialize().expect("a document");
    let cursor = reply.get_document("cursor").expect("a cursor");
    let batch = cursor.get_array("firstBatch").expect("a batch");
    assert_eq!(batch, &[bson2::Bson::from(order)]);
}

/// A pool that the tests of a process share, each of which has a runtime of its own: the monitors
/// start again, and connections of a runtime that has ended are replaced.
#[test]
fn a_static_pool_serves_one_runtime_after_another() {
    static POOLS: OnceLock<Pools> = OnceLock::new();
    let server = RealServer::shared();
    for _ in 0..3 {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let pools = POOLS.get_or_init(|| Pools::new(&server.uri()).expect("pools"));
            let mut connection = pools.get().await.expect("a connection");
            let ping = connection.run_command("admin", &doc! { "ping": 1 }).await;
            ping.expect("ok");
        });
    }
}
