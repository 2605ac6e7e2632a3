//! Causal consistency.

use mongo_core::bson::{Bson, Document, doc};
use mongo_core::operation::{OperationKind, SessionOptions};
use mongo_core::pools::{Backend, Session};
use mongo_core::{OwnedReply, ReadConcern};

use super::find;
use crate::support::World;

on_both! {
    causal_1_a_new_session_has_no_operation_time,
    causal_2_the_first_read_has_no_afterclustertime,
    causal_3_each_reply_updates_the_operation_time,
    causal_4_a_read_follows_a_read,
    causal_5_a_read_follows_a_write,
    causal_6_only_a_causal_session_sends_afterclustertime,
    causal_7_no_afterclustertime_without_cluster_times,
    causal_8_the_default_read_concern_has_no_level,
    causal_9_a_read_concern_is_merged,
    causal_11_no_cluster_time_without_support,
    causal_12_the_cluster_time_is_sent,
}

const READS: [&str; 4] = ["find", "aggregate", "count", "distinct"];

fn command(name: &str) -> Document {
    match name {
        "find" => doc! { "find": "c" },
        "aggregate" => doc! { "aggregate": "c", "pipeline": [], "cursor": {} },
        "count" => doc! { "count": "c" },
        "distinct" => doc! { "distinct": "c", "key": "x" },
        "insert" => doc! { "insert": "c", "documents": [{ "_id": 1 }] },
        "delete" => doc! { "delete": "c", "deletes": [{ "q": {}, "limit": 1 }] },
        "update" => doc! { "update": "c", "updates": [{ "q": {}, "u": { "x": 1 } }] },
        _ => doc! { "findAndModify": "c", "query": {}, "remove": true },
    }
}

async fn reply<B: Backend>(world: &World<B>, session: &mut Session<B>, name: &str) -> OwnedReply {
    let kind = match READS.contains(&name) {
        true => OperationKind::Read,
        false => OperationKind::Write,
    };
    let own = command(name);
    let own = world.pools.command("db", &own).kind(kind);
    own.session(session).await.expect("a reply")
}

async fn run<B: Backend>(world: &World<B>, session: &mut Session<B>, name: &str) {
    drop(reply(world, session, name).await);
}

/// A field of the read concern of the last command of a name.
fn concern<B: Backend>(world: &World<B>, name: &str, field: &str) -> Option<Bson> {
    let commands = world.commands.of(name);
    let last = commands.last().expect("a command");
    last.get_document("readConcern").ok()?.get(field).cloned()
}

fn after<B: Backend>(world: &World<B>, name: &str) -> Option<Bson> {
    concern(world, name, "afterClusterTime")
}

fn time<B: Backend>(session: &Session<B>) -> Option<Bson> {
    session.operation_time().map(Bson::Timestamp)
}

async fn causal_1_a_new_session_has_no_operation_time<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let session = world.session();
    assert_eq!(session.operation_time(), None);
    drop(session);
    world.pools.close().await;
}

async fn causal_2_the_first_read_has_no_afterclustertime<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let options = SessionOptions::default().with_causal_consistency(true);
    let mut session = world.pools.start_session(options).expect("a session");
    run(&world, &mut session, "find").await;
    assert_eq!(after(&world, "find"), None);
    drop(session);
    world.pools.close().await;
}

async fn causal_3_each_reply_updates_the_operation_time<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    for (name, is_causal) in [("find", true), ("insert", false)] {
        let options = SessionOptions::default().with_causal_consistency(is_causal);
        let mut session = world.pools.start_session(options).expect("a session");
        let reply = reply(&world, &mut session, name).await;
        let sent = reply.get("operationTime").expect("BSON").expect("a time");
        assert_eq!(sent.as_timestamp(), session.operation_time());
    }
    let mut session = world.session();
    let wrong = world.pools.command("db", &doc! { "noSuchCommand": 1 });
    let error = wrong.session(&mut session).await.map(drop);
    let error = error.expect_err("no such command");
    let reply = &error.command().expect("a reply").reply;
    let sent = reply.get("operationTime").expect("BSON").expect("a time");
    assert_eq!(sent.as_timestamp(), session.operation_time());
    drop(session);
    world.pools.close().await;
}

async fn causal_4_a_read_follows_a_read<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    for name in READS {
        let mut session = world.session();
        run(&world, &mut session, "find").await;
        let read = time(&session);
        assert!(read.is_some());
        run(&world, &mut session, name).await;
        assert_eq!(after(&world, name), read, "{name}");
    }
    world.pools.close().await;
}

async fn causal_5_a_read_follows_a_write<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    // The second insert fails: its key exists.
    for name in ["insert", "insert", "update", "delete", "findAndModify"] {
        let mut session = world.session();
        run(&world, &mut session, name).await;
        let written = time(&session);
        assert!(written.is_some());
        run(&world, &mut session, "find").await;
        assert_eq!(after(&world, "find"), written, "{name}");
    }
    world.pools.close().await;
}

async fn two_reads_have_no_time<B: Backend>(world: &World<B>, mut session: Session<B>) {
    for _ in 0..2 {
        run(world, &mut session, "find").await;
        assert_eq!(after(world, "find"), None);
    }
}

async fn causal_6_only_a_causal_session_sends_afterclustertime<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let options = SessionOptions::default().with_causal_consistency(false);
    let session = world.pools.start_session(options).expect("a session");
    two_reads_have_no_time(&world, session).await;
    world.pools.close().await;
}

async fn causal_7_no_afterclustertime_without_cluster_times<B: Backend<Config: Default>>() {
    let world = World::<B>::standalone("").await;
    let session = world.session();
    two_reads_have_no_time(&world, session).await;
    world.pools.close().await;
}

async fn causal_8_the_default_read_concern_has_no_level<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    run(&world, &mut session, "find").await;
    let read = time(&session);
    run(&world, &mut session, "count").await;
    assert_eq!(concern(&world, "count", "level"), None);
    assert_eq!(after(&world, "count"), read);
    drop(session);
    world.pools.close().await;
}

async fn causal_9_a_read_concern_is_merged<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let mut session = world.session();
    run(&world, &mut session, "find").await;
    let read = time(&session);
    let own = command("count");
    let count = world.pools.command("db", &own).kind(OperationKind::Read);
    let count = count.read_concern(ReadConcern::MAJORITY);
    count
        .session(&mut session)
        .await
        .map(drop)
        .expect("a reply");
    assert_eq!(concern(&world, "count", "level"), Some("majority".into()));
    assert_eq!(after(&world, "count"), read);
    drop(session);
    world.pools.close().await;
}

async fn causal_11_no_cluster_time_without_support<B: Backend<Config: Default>>() {
    let world = World::<B>::standalone("").await;
    for _ in 0..2 {
        find(&world).await.map(drop).expect("a reply");
    }
    let sent = world.commands.of("find");
    assert!(sent.iter().all(|own| !own.contains_key("$clusterTime")));
    world.pools.close().await;
}

async fn causal_12_the_cluster_time_is_sent<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    // The client learns the time from its first reply.
    for _ in 0..2 {
        find(&world).await.map(drop).expect("a reply");
    }
    assert!(world.commands.of("find")[1].contains_key("$clusterTime"));
    world.pools.close().await;
}
