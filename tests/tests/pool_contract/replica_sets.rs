//! A plain pool keeps to the replica set that its options name.

use bson::doc;
use mongo_core::ErrorKind;
use mongo_testkit::Deployment;

use crate::{Backend, Setup};

on_both! {
    a_plain_pool_writes_into_no_other_replica_set,
    a_server_of_no_replica_set_is_refused,
}

async fn a_plain_pool_writes_into_no_other_replica_set<B: Backend>() {
    let set = Deployment::replica_set("rs0").members(1).start().await;
    let uri = |name: &str| format!("mongodb://{}/?replicaSet={name}", set.address(0));
    let insert = doc! { "insert": "things", "documents": [{ "_id": 1 }] };
    for name in ["other", "rs", "RS0", "rs00"] {
        let pool = B::build(Setup::new(uri(name)));
        let error = pool.get().await.map(drop).expect_err("another set");
        assert!(matches!(error.kind(), ErrorKind::Handshake(_)), "{error}");
        assert!(error.to_string().contains("replicaSet"), "{error}");
        assert_eq!(pool.status().size, 0);
    }
    assert_eq!(set.server(0).look(|seen| seen.count("insert")), 0);
    let pool = B::build(Setup::new(uri("rs0")));
    let mut connection = pool.get().await.expect("the set");
    connection
        .run_command("shop", &insert)
        .await
        .expect("written");
    assert_eq!(set.documents("shop.things").len(), 1);
}

/// A standalone and a `mongos` belong to no set.
async fn a_server_of_no_replica_set_is_refused<B: Backend>() {
    for deployment in [Deployment::standalones(1), Deployment::sharded(1)] {
        let deployment = deployment.start().await;
        let uri = format!("mongodb://{}/?replicaSet=rs0", deployment.address(0));
        let pool = B::build(Setup::new(uri));
        let error = pool.get().await.map(drop).expect_err("no set");
        assert!(error.to_string().contains("no replica set"), "{error}");
        let pool = B::build(Setup::new(format!("mongodb://{}", deployment.address(0))));
        pool.get().await.expect("any server");
    }
}
