//! Driver sessions and snapshot sessions.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use mongo_core::bson::{Bson, Document, Timestamp, doc};
use mongo_core::operation::{OperationKind, SessionOptions};
use mongo_core::pools::Backend;
use mongo_core::{Error, ErrorKind};
use mongo_testkit::{Action, Matcher};

use super::{find, insert, lsids};
use crate::support::{World, insert as insert_in, with_orders};

on_both! {
    sessions_1_snapshot_excludes_causal_consistency,
    sessions_2_the_pool_is_lifo,
    sessions_3_the_cluster_time_is_gossipped,
    sessions_4_explicit_and_implicit_sessions,
    sessions_5_a_session_is_for_its_client,
    sessions_8_an_exhausted_first_batch_returns_the_session,
    sessions_9_an_exhausted_getmore_returns_the_session,
    sessions_11_find_and_getmore_have_one_session,
    sessions_14_a_session_is_allocated_after_the_check_out,
    sessions_18_no_implicit_session_without_support,
    sessions_19_an_explicit_session_needs_support,
    sessions_21_snapshottime_needs_snapshot,
    sessions_22_no_snapshottime_without_snapshot,
}

fn refused<B: Backend>(world: &World<B>, options: SessionOptions) {
    let error = world.pools.start_session(options).map(drop);
    let error = error.expect_err("a contradiction");
    assert!(matches!(error.kind(), ErrorKind::Configuration(_)));
}

async fn sessions_1_snapshot_excludes_causal_consistency<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let options = SessionOptions::default().with_snapshot(true);
    refused(&world, options.with_causal_consistency(true));
    world.pools.close().await;
}

async fn sessions_2_the_pool_is_lifo<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let (a, b) = (world.session(), world.session());
    let ids = [b.id().to_owned(), a.id().to_owned()];
    drop(a);
    drop(b);
    let (first, second) = (world.session(), world.session());
    assert_eq!([first.id().to_owned(), second.id().to_owned()], ids);
    drop((first, second));
    world.pools.close().await;
}

async fn sessions_3_the_cluster_time_is_gossipped<B: Backend<Config: Default>>() {
    for name in ["ping", "aggregate", "find", "insert"] {
        let world = World::<B>::replica_set("").await;
        let command = match name {
            "ping" => doc! { "ping": 1 },
            "aggregate" => doc! { "aggregate": "c", "pipeline": [], "cursor": {} },
            "find" => doc! { "find": "c" },
            _ => doc! { "insert": "c", "documents": [{ "x": 1 }] },
        };
        // The client learns the time from its first reply.
        find(&world).await.map(drop).expect("a reply");
        world.commands.clear();
        let mut replies = Vec::new();
        for _ in 0..2 {
            let reply = world.pools.command("db", &command).await;
            let reply = reply.expect("a reply").to_document().expect("BSON");
            replies.push(reply.get_document("$clusterTime").cloned());
        }
        let sent = world.commands.of(name);
        assert!(sent[0].contains_key("$clusterTime"), "{name}");
        let second = sent[1].get_document("$clusterTime").cloned();
        assert_eq!(second.ok(), replies[0].clone().ok(), "{name}");
        world.pools.close().await;
    }
}

async fn sessions_4_explicit_and_implicit_sessions<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    insert_in(&world.pools, &mut session)
        .await
        .expect("a write");
    insert(&world).await.map(drop).expect("a write");
    let sent = lsids(&world.commands.of("insert"));
    let own = Document::try_from(session.id()).expect("BSON");
    assert_eq!(sent[0], Some(own));
    assert!(sent[1].is_some() && sent[1] != sent[0]);
    drop(session);
    world.pools.close().await;
}

async fn sessions_5_a_session_is_for_its_client<B: Backend<Config: Default>>() {
    let (first, second) = (
        World::<B>::replica_set("").await,
        World::<B>::replica_set("").await,
    );
    let mut session = second.session();
    let error = insert_in(&first.pools, &mut session).await;
    let error = error.expect_err("another client");
    assert!(error.to_string().contains("another client"), "{error}");
    drop(session);
    first.pools.close().await;
    second.pools.close().await;
}

/// Reads so many orders of ten in batches of this size, and then looks which session is free.
async fn is_returned<B: Backend<Config: Default>>(batch: i32, read: usize) -> bool {
    let world = with_orders::<B>().await;
    let command = doc! { "find": "orders", "batchSize": batch };
    let command = world.pools.command("shop", &command);
    let command = command.kind(OperationKind::Read).batch_size(7);
    let mut orders = command.cursor().await.expect("a cursor");
    for _ in 0..read {
        let order = orders.next_document().await.expect("a batch");
        order.expect("an order");
    }
    find(&world).await.map(drop).expect("a reply");
    let sent = lsids(&world.commands.of("find"));
    drop(orders);
    world.pools.close().await;
    sent[0] == sent[1]
}

async fn sessions_8_an_exhausted_first_batch_returns_the_session<B: Backend<Config: Default>>() {
    assert!(is_returned::<B>(11, 1).await);
    assert!(!is_returned::<B>(3, 1).await, "the cursor is open");
}

async fn sessions_9_an_exhausted_getmore_returns_the_session<B: Backend<Config: Default>>() {
    assert!(!is_returned::<B>(3, 3).await, "before the last batch");
    assert!(is_returned::<B>(3, 4).await);
}

async fn sessions_11_find_and_getmore_have_one_session<B: Backend<Config: Default>>() {
    let preferences = [
        "primary",
        "primaryPreferred",
        "secondary",
        "secondaryPreferred",
        "nearest",
    ];
    for preference in preferences {
        for is_sharded in [false, true] {
            let options = format!("readPreference={preference}");
            let world = match is_sharded {
                false => World::<B>::replica_set(&options).await,
                true => World::<B>::sharded(1, &options).await,
            };
            world
                .set
                .insert("db.c", (0..3).map(|id| doc! { "_id": id }));
            let command = doc! { "find": "c", "batchSize": 2 };
            let command = world.pools.command("db", &command);
            let cursor = command.kind(OperationKind::Read).cursor().await;
            let mut cursor = cursor.expect("a cursor");
            while cursor.next_document().await.expect("a batch").is_some() {}
            let finds = lsids(&world.commands.of("find"));
            assert!(finds[0].is_some());
            assert_eq!(finds, lsids(&world.commands.of("getMore")));
            drop(cursor);
            world.pools.close().await;
        }
    }
}

async fn sessions_14_a_session_is_allocated_after_the_check_out<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("maxPoolSize=1&retryWrites=true").await;
    let update = doc! { "q": {}, "u": { "$set": { "a": 1 } } };
    let modify = doc! { "findAndModify": "c", "query": {}, "update": { "$set": { "a": 1 } } };
    let commands = [
        doc! { "insert": "c", "documents": [{}] },
        doc! { "delete": "c", "deletes": [{ "q": {}, "limit": 1 }] },
        doc! { "update": "c", "updates": [update.clone()] },
        doc! { "update": "c", "updates": [update] },
        doc! { "findAndModify": "c", "query": {}, "remove": true },
        modify.clone(),
        modify,
    ];
    let writes = commands.iter().map(async |command| {
        let write = world.pools.command("db", command);
        write.kind(OperationKind::Write).await.map(drop)
    });
    let (written, found) = tokio::join!(join_all(writes), find(&world));
    let written: Result<Vec<()>, Error> = written.into_iter().collect();
    written.expect("replies");
    found.map(drop).expect("a reply");
    let mut used = BTreeSet::new();
    for name in ["insert", "delete", "update", "findAndModify", "find"] {
        let sent = lsids(&world.commands.of(name)).into_iter();
        used.extend(sent.map(|id| id.expect("a session").to_string()));
    }
    assert_eq!(used.len(), 1, "one connection, one session at a time");
    world.pools.close().await;
}

/// Members that support no sessions.
async fn without_sessions<B: Backend<Config: Default>>() -> World<B> {
    let world = World::<B>::replica_set("").await;
    for member in 0..3 {
        let none = doc! { "logicalSessionTimeoutMinutes": Bson::Null };
        let hello = Matcher::hello().then(Action::Merge(none));
        world.set.server(member).script().add(hello);
    }
    world
}

async fn sessions_18_no_implicit_session_without_support<B: Backend<Config: Default>>() {
    let world = without_sessions::<B>().await;
    let _ = find(&world).await;
    let _ = insert(&world).await;
    for name in ["find", "insert"] {
        assert_eq!(lsids(&world.commands.of(name)), [None], "{name}");
    }
    world.pools.close().await;
}

async fn sessions_19_an_explicit_session_needs_support<B: Backend<Config: Default>>() {
    let world = without_sessions::<B>().await;
    let mut session = world.session();
    let read = world.pools.command("db", &doc! { "find": "c" });
    let read = read.kind(OperationKind::Read).session(&mut session).await;
    let written = insert_in(&world.pools, &mut session).await;
    for error in [read.map(drop), written] {
        let error = error.expect_err("no sessions").to_string();
        assert!(error.contains("does not support sessions"), "{error}");
    }
    assert!(world.commands.of("find").is_empty());
    drop(session);
    world.pools.close().await;
}

async fn sessions_21_snapshottime_needs_snapshot<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let time = Timestamp {
        time: 1,
        increment: 0,
    };
    refused(&world, SessionOptions::default().with_snapshot_time(time));
    world.pools.close().await;
}

/// The getter gives an `Option`, so that there is no error.
async fn sessions_22_no_snapshottime_without_snapshot<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    let read = world.pools.command("db", &doc! { "find": "c" });
    let read = read.kind(OperationKind::Read).session(&mut session).await;
    read.map(drop).expect("a reply");
    assert_eq!(session.snapshot_time(), None);
    drop(session);
    world.pools.close().await;
}
