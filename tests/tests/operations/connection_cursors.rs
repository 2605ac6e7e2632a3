//! Cursors on one connection.

use std::time::Duration;

use futures_util::StreamExt;
use mongo_core::bson::{Document, doc};
use mongo_core::operation::TimeoutMode;
use mongo_core::pools::{Backend, PoolsConfig};
use mongo_testkit::{Action, Deployment, ErrorReply, Matcher, Rule};

use crate::support::{World, eventually, find, with_orders, with_users_of};

on_both! {
    a_cursor_on_a_connection_works_likewise,
    a_dropped_cursor_on_a_connection_is_closed,
    a_cursor_closed_after_its_connection_broke_is_closed_on_the_server,
    an_exhaust_cursor_closed_after_its_connection_broke_is_closed_on_the_server,
    a_cursor_closed_after_a_time_out_is_closed_on_the_server,
    an_exhaust_cursor_closed_after_a_time_out_is_closed_on_the_server,
    an_exhaust_getmore_reauthenticates,
    a_first_document_of_another_type_closes_its_cursor,
}

async fn a_cursor_on_a_connection_works_likewise<B: Backend<Config: Default>>() {
    let world = with_orders::<B>().await;
    let mut connection = world.pools.get().await.expect("a connection");
    let orders = connection.command("shop", &find()).cursor().await;
    assert_eq!(orders.expect("a cursor").count().await, 10);
    let orders = connection.command("shop", &find()).cursor().await;
    orders.expect("a cursor").close().await;
    assert_eq!(world.commands.of("killCursors").len(), 1);
    let finds = world.commands.of("find");
    let more = world.commands.of("getMore");
    let mut sessions = more.iter().map(|own| own.get("lsid"));
    assert!(sessions.all(|lsid| lsid == finds[0].get("lsid")));
    drop(connection);
    world.pools.close().await;
}

async fn a_dropped_cursor_on_a_connection_is_closed<B: Backend<Config: Default>>() {
    let world = with_orders::<B>().await;
    let mut connection = world.pools.get().await.expect("a connection");
    let orders = connection.command("shop", &find()).cursor().await;
    drop(orders.expect("a cursor"));
    eventually("killCursors", || {
        !world.commands.of("killCursors").is_empty()
    })
    .await;
    assert!(!connection.is_closed());
    drop(connection);
    world.pools.close().await;
}

/// A cursor whose `getMore` fails, and which is closed after it.
async fn closed_after_a_failure<B: Backend>(
    world: World<B>,
    failure: Rule,
    limit: Option<Duration>,
    exhaust: bool,
) {
    world.set.server(0).script().add(failure);
    let mut connection = world.pools.get().await.expect("a connection");
    let find = connection.command("shop", &doc! { "find": "orders", "batchSize": 2 });
    let find = match limit {
        Some(limit) => find.timeout(limit).timeout_mode(TimeoutMode::Iteration),
        None => find,
    };
    let find = if exhaust { find.exhaust() } else { find };
    let mut cursor = find.cursor().await.expect("a cursor");
    for _ in 0..2 {
        cursor.next::<Document>().await.expect("a document");
    }
    cursor.next::<Document>().await.expect_err("a failure");
    cursor.close().await;
    drop(connection);
    let kills = || world.set.server(0).look(|seen| seen.count("killCursors"));
    eventually("killCursors", || kills() == 1).await;
    assert_eq!(world.set.server(0).open_cursors(), 0);
    world.pools.close().await;
}

async fn closed_after_a_break<B: Backend<Config: Default>>(exhaust: bool) {
    let world = with_orders::<B>().await;
    let broken = Matcher::command("getMore").times(1).drop_connection();
    closed_after_a_failure(world, broken, None, exhaust).await;
}

async fn closed_after_a_time_out<B: Backend<Config: Default>>(exhaust: bool) {
    let world = with_orders::<B>().await;
    let late = Matcher::command("getMore").times(1);
    let late = late.then(Action::Delay(Duration::from_secs(5)));
    let limit = Duration::from_secs(1);
    closed_after_a_failure(world, late, Some(limit), exhaust).await;
}

async fn a_cursor_closed_after_its_connection_broke_is_closed_on_the_server<
    B: Backend<Config: Default>,
>() {
    closed_after_a_break::<B>(false).await;
}

async fn an_exhaust_cursor_closed_after_its_connection_broke_is_closed_on_the_server<
    B: Backend<Config: Default>,
>() {
    closed_after_a_break::<B>(true).await;
}

async fn a_cursor_closed_after_a_time_out_is_closed_on_the_server<B: Backend<Config: Default>>() {
    closed_after_a_time_out::<B>(false).await;
}

async fn an_exhaust_cursor_closed_after_a_time_out_is_closed_on_the_server<
    B: Backend<Config: Default>,
>() {
    closed_after_a_time_out::<B>(true).await;
}

async fn an_exhaust_getmore_reauthenticates<B: Backend<Config: Default>>() {
    for exhaust in [false, true] {
        let one = Deployment::replica_set("rs").members(1);
        let (world, pools) = with_users_of::<B>(one, "", PoolsConfig::default()).await;
        let orders = (0..4).map(|id| doc! { "_id": id });
        world.set.insert("shop.orders", orders);
        let required = ErrorReply::new(391, "ReauthenticationRequired", "expired");
        let refused = Matcher::command("getMore").times(1);
        let refused = refused.then(Action::Error(required));
        world.set.server(0).script().add(refused);
        let mut connection = pools.get().await.expect("a connection");
        let find = connection.command("shop", &doc! { "find": "orders", "batchSize": 2 });
        let find = if exhaust { find.exhaust() } else { find };
        let mut cursor = find.cursor().await.expect("a cursor");
        for _ in 0..4 {
            let next = cursor.next::<Document>().await;
            next.unwrap_or_else(|error| panic!("exhaust {exhaust}: {error}"));
        }
        drop(cursor);
        drop(connection);
        world.pools.close().await;
    }
}

async fn a_first_document_of_another_type_closes_its_cursor<B: Backend<Config: Default>>() {
    #[derive(Debug, serde::Deserialize)]
    struct Other {
        #[expect(dead_code, reason = "only its absence counts")]
        missing: String,
    }
    let world = with_orders::<B>().await;
    let find = doc! { "find": "orders", "batchSize": 2 };
    let first = world.pools.command("shop", &find).first::<Other>().await;
    first.expect_err("another type");
    let mut connection = world.pools.get().await.expect("a connection");
    let find = connection.command("shop", &find).exhaust();
    let first = find.first::<Other>().await;
    first.expect_err("another type");
    drop(connection);
    let open = || world.set.server(0).open_cursors();
    eventually("no cursor", || open() == 0).await;
    // A first batch without documents is not the end.
    let empty = doc! { "find": "orders", "batchSize": 0 };
    let find = world.pools.command("shop", &empty);
    let first = find.first::<Document>().await;
    assert!(first.expect("a document").is_some());
    assert_eq!(open(), 0);
    let mut connection = world.pools.get().await.expect("a connection");
    let find = connection.command("shop", &empty).exhaust();
    let first = find.first::<Document>().await;
    assert!(first.expect("a document").is_some());
    assert_eq!(open(), 0);
    drop(connection);
    world.pools.close().await;
}
