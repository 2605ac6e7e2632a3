//! Sessions: what they add to commands, and what they refuse.

use std::time::Duration;

use mongo_core::bson::{Document, doc};
use mongo_core::operation::{OperationKind, SessionOptions, TransactionOptions};
use mongo_core::pools::Backend;
use tokio::time::sleep;

use crate::support::{World, begun, begun_on, insert};

on_both! {
    a_connection_of_another_router_refuses_the_transaction,
    a_command_with_its_own_read_concern_stays_causal,
    a_snapshot_session_refuses_another_read_concern,
    a_transaction_dropped_with_its_connection_is_not_reused,
    a_cancelled_command_leaves_its_session_dirty,
}

async fn a_connection_of_another_router_refuses_the_transaction<B: Backend<Config: Default>>() {
    let world = World::<B>::sharded(2, "").await;
    let find = doc! { "find": "c" };
    let mut pooled = begun(&world).await;
    let pinned = pooled.pinned_server().expect("a router").clone();
    let (mut own, mut other) = (None, None);
    while own.is_none() || other.is_none() {
        let connection = world.pools.get().await.expect("a connection");
        match *connection.server() == pinned {
            true => own = Some(connection),
            false => other = Some(connection),
        }
    }
    let (mut own, mut other) = (own.expect("one"), other.expect("one"));
    // A transaction that began on a connection is pinned as well.
    let mut alone = own.start_session(SessionOptions::default()).expect("one");
    let options = TransactionOptions::default();
    alone.start_transaction(options).expect("a transaction");
    let first = own.command("db", &find).session(&mut alone).await;
    first.map(drop).expect("a reply");
    for session in [&mut pooled, &mut alone] {
        let outcome = other.command("db", &find).session(session).await;
        let error = outcome.map(drop).expect_err("another router").to_string();
        assert!(error.contains(&pinned.to_string()), "{error}");
        let commit = other.commit_transaction(session).await;
        commit.expect_err("another router");
        let next = own.command("db", &find).session(session).await;
        next.map(drop).expect("a reply");
        own.commit_transaction(session).await.expect("a commit");
        // Afterwards the session can be used on any.
        let next = other.command("db", &find).session(session).await;
        next.map(drop).expect("a reply");
    }
    drop((own, other, pooled, alone));
    world.pools.close().await;
}

async fn a_command_with_its_own_read_concern_stays_causal<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    insert(&world.pools, &mut session).await.expect("a write");
    assert!(session.operation_time().is_some());
    let find = doc! { "find": "c", "readConcern": { "level": "majority" } };
    let find = world.pools.command("db", &find).kind(OperationKind::Read);
    let find = find.session(&mut session).await;
    find.map(drop).expect("a reply");
    let sent = &world.commands.of("find")[0];
    let concern = sent.get_document("readConcern").expect("a concern");
    assert!(concern.contains_key("afterClusterTime"), "{concern}");
    assert_eq!(concern.get_str("level").ok(), Some("majority"));
    drop(session);
    world.pools.close().await;
}

async fn a_snapshot_session_refuses_another_read_concern<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let options = SessionOptions::default().with_snapshot(true);
    let mut session = world.pools.start_session(options).expect("a session");
    let find = doc! { "find": "c", "readConcern": { "level": "local" } };
    let find = world.pools.command("db", &find).kind(OperationKind::Read);
    let error = find.session(&mut session).await.map(drop);
    let error = error.expect_err("another level").to_string();
    assert!(error.contains("snapshot"), "{error}");
    assert!(world.commands.of("find").is_empty());
    drop(session);
    world.pools.close().await;
}

async fn a_transaction_dropped_with_its_connection_is_not_reused<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let mut connection = world.pools.get().await.expect("a connection");
    let session = begun_on(&mut connection).await;
    let id = session.id().to_owned();
    drop((session, connection));
    sleep(Duration::from_secs(1)).await;
    let ping = world.pools.command("db", &doc! { "ping": 1 }).await;
    ping.map(drop).expect("a reply");
    let lsid = world.commands.of("ping")[0].get_document("lsid").cloned();
    let is_same = lsid.expect("an id") == Document::try_from(&*id).expect("BSON");
    let open = world.set.server(0).open_transactions();
    assert!(!is_same || open == 0, "its transaction is open: {open}");
    world.pools.close().await;
}

async fn a_cancelled_command_leaves_its_session_dirty<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    world.cancelled_insert(&mut session).await;
    assert!(session.is_dirty());
    insert(&world.pools, &mut session).await.expect("a write");
    assert!(session.is_dirty(), "the server may still run the first one");
    drop(session);
    world.pools.close().await;
}
