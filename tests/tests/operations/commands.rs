//! What is added to commands.

use std::time::Duration;

use mongo_core::bson::{Document, doc, rawdoc};
use mongo_core::operation::{OperationKind, SessionOptions};
use mongo_core::pools::Backend;
use mongo_core::select::{ReadPreference, ReadPreferenceMode};
use mongo_core::wire::Readiness;
use mongo_core::{ReadConcern, WriteConcern};
use tokio::time::timeout;

use crate::support::World;

on_both! {
    a_command_has_an_implicit_session_and_the_cluster_time,
    concerns_of_the_connection_string_reach_reads_and_writes,
    a_read_preference_selects_and_is_sent,
    a_retryable_write_has_a_number,
    a_command_with_fields_of_a_session_is_refused,
    an_unacknowledged_write_has_no_session,
    an_unacknowledged_write_awaits_no_reply,
    attempts_of_one_operation_have_its_id,
    a_command_on_a_connection_has_the_same_fields,
    a_failed_write_is_found_by_check_write,
}

pub(crate) fn session_of(command: &Document) -> Option<&Document> {
    command.get_document("lsid").ok()
}

async fn a_command_has_an_implicit_session_and_the_cluster_time<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    for _ in 0..2 {
        let reply = world.pools.command("admin", &doc! { "ping": 1 }).await;
        assert_eq!(reply.expect("a reply").get_f64("ok").ok(), Some(1.0));
    }
    let pings = world.commands.of("ping");
    assert!(
        pings.iter().all(|ping| session_of(ping).is_some()),
        "{pings:?}"
    );
    for absent in [
        "txnNumber",
        "readConcern",
        "writeConcern",
        "$readPreference",
        "maxTimeMS",
    ] {
        assert!(!pings[0].contains_key(absent), "{absent}");
    }
    assert_eq!(pings[0].get_str("$db").ok(), Some("admin"));
    world.pools.close().await;
}

async fn concerns_of_the_connection_string_reach_reads_and_writes<B: Backend<Config: Default>>() {
    let options = "w=majority&journal=true&wTimeoutMS=500&readConcernLevel=local";
    let world = World::<B>::replica_set(options).await;
    let pools = &world.pools;
    let find = doc! { "find": "c" };
    let insert = doc! { "insert": "c", "documents": [{ "x": 1 }] };
    let run = [
        pools.command("db", &insert).kind(OperationKind::Write),
        pools
            .command("db", &insert)
            .kind(OperationKind::Write)
            .write_concern(WriteConcern::nodes(1)),
        pools
            .command("db", &insert)
            .kind(OperationKind::Write)
            .write_concern(WriteConcern::default()),
        pools.command("db", &insert),
        pools.command("db", &find).kind(OperationKind::Read),
        pools
            .command("db", &find)
            .kind(OperationKind::Read)
            .read_concern(ReadConcern::default()),
        pools.command("db", &find).comment("why"),
    ];
    for command in run {
        command.await.map(drop).expect("a reply");
    }
    let inserts = world.commands.of("insert");
    let full = doc! { "w": "majority", "j": true, "wtimeout": 500_i64 };
    let concerns = inserts
        .iter()
        .map(|own| own.get_document("writeConcern").ok().cloned());
    let concerns: Vec<_> = concerns.collect();
    assert_eq!(concerns[1..], [Some(doc! { "w": 1 }), None, None]);
    assert_eq!(
        concerns[0].as_ref().map(Document::len),
        Some(full.len()),
        "{concerns:?}"
    );
    let finds = world.commands.of("find");
    assert_eq!(
        finds[0].get_document("readConcern").ok(),
        Some(&doc! { "level": "local" })
    );
    assert!(!finds[1].contains_key("readConcern") && !finds[2].contains_key("readConcern"));
    assert_eq!(finds[2].get_str("comment").ok(), Some("why"));
    assert_eq!(pools.write_concern().journal, Some(true));
    pools.close().await;
}

async fn a_read_preference_selects_and_is_sent<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("readPreference=secondary").await;
    let find = doc! { "find": "c" };
    let nearest = ReadPreference::new(ReadPreferenceMode::Nearest);
    let reads = [
        world.pools.command("db", &find).kind(OperationKind::Read),
        world
            .pools
            .command("db", &find)
            .kind(OperationKind::Command),
        world.pools.command("db", &find).read_preference(nearest),
    ];
    for read in reads {
        read.await.map(drop).expect("a reply");
    }
    let servers = world.commands.servers_of("find");
    let primary = world.set.address(0);
    assert!(
        servers[0] != primary && servers[1] == primary,
        "{servers:?}"
    );
    let finds = world.commands.of("find");
    let modes = finds.iter().map(|own| {
        let preference = own.get_document("$readPreference").ok()?;
        preference.get_str("mode").ok()
    });
    assert!(modes.eq([Some("secondary"), None, Some("nearest")]));
    world.pools.close().await;
}

async fn a_retryable_write_has_a_number<B: Backend<Config: Default>>() {
    for (options, is_numbered) in [("", true), ("retryWrites=false", false)] {
        let world = World::<B>::replica_set(options).await;
        let insert = doc! { "insert": "c", "documents": [{ "x": 1 }] };
        for _ in 0..2 {
            let write = world.pools.command("db", &insert);
            let write = write.kind(OperationKind::Write);
            let reply = write.await.expect("a reply");
            reply.check_write().expect("a write");
        }
        let many = world.pools.command("db", &insert);
        let many = many.kind(OperationKind::Write);
        many.not_retryable().await.map(drop).expect("a reply");
        let inserts = world.commands.of("insert");
        let numbers: Vec<_> = inserts
            .iter()
            .map(|own| own.get_i64("txnNumber").ok())
            .collect();
        let expected = match is_numbered {
            true => [Some(1), Some(2), None],
            false => [None, None, None],
        };
        assert_eq!(numbers, expected);
        world.pools.close().await;
    }
    let world = World::<B>::standalone("").await;
    let insert = doc! { "insert": "c", "documents": [{ "x": 1 }] };
    let write = world.pools.command("db", &insert);
    let write = write.kind(OperationKind::Write);
    write.await.map(drop).expect("a reply");
    assert!(!world.commands.of("insert")[0].contains_key("txnNumber"));
    world.pools.close().await;
}

async fn a_command_with_fields_of_a_session_is_refused<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    for field in [
        "lsid",
        "txnNumber",
        "autocommit",
        "startTransaction",
        "$clusterTime",
        "$db",
    ] {
        let refused = world
            .pools
            .command("db", &doc! { "ping": 1, field: 1 })
            .await;
        let refused = refused.map(drop).expect_err("a field of the session");
        assert!(refused.to_string().contains(field), "{refused}");
    }
    let empty = world.pools.command("db", &doc! {}).await;
    empty.map(drop).expect_err("an empty command");
    world.pools.close().await;
}

async fn an_unacknowledged_write_has_no_session<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("w=0").await;
    let insert = doc! { "insert": "c", "documents": [{ "x": 1 }] };
    let write = world.pools.command("db", &insert);
    let write = write.kind(OperationKind::Write);
    write.await.map(drop).expect("a reply");
    assert_eq!(session_of(&world.commands.of("insert")[0]), None);
    let mut session = world.session();
    let write = world.pools.command("db", &insert);
    let write = write.kind(OperationKind::Write);
    let refused = write.session(&mut session).await.map(drop);
    refused.expect_err("a session");
    world.pools.close().await;
}

async fn an_unacknowledged_write_awaits_no_reply<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("maxPoolSize=1&timeoutMS=5000").await;
    let insert = doc! { "insert": "c", "documents": [{ "x": 1 }] };
    let unacknowledged = WriteConcern::nodes(0);
    // What the server would say is not awaited either.
    let data = doc! { "failCommands": ["insert"], "errorCode": 11600 };
    world.fail(2, data);
    for _ in 0..2 {
        let write = world.pools.command("db", &insert);
        let reply = write.write_concern(unacknowledged.clone()).await;
        assert_eq!(reply.expect("a reply").into_raw(), rawdoc! { "ok": 1 });
    }
    let mut connection = world.pools.get().await.expect("a connection");
    let write = connection.command("db", &insert).kind(OperationKind::Write);
    let reply = write.write_concern(unacknowledged.clone()).await;
    assert_eq!(reply.expect("a reply").into_raw(), rawdoc! { "ok": 1 });
    assert_eq!(connection.readiness(), Readiness::Idle);
    // The next reply is that of the next command.
    let count = doc! { "count": "c" };
    let reply = connection.command("db", &count).await.expect("a reply");
    assert_eq!(reply.get_i32("n").expect("a count"), 1);
    let (id, is_new) = (connection.id(), connection.is_new());
    drop(connection);
    let again = world.pools.get().await.expect("a connection");
    assert_eq!((again.id(), is_new), (id, false), "one connection for all");
    drop(again);
    for own in world.commands.of("insert") {
        let concern = own.get_document("writeConcern").expect("a concern");
        assert_eq!(concern, &doc! { "w": 0 });
        assert!(!own.contains_key("lsid") && !own.contains_key("$clusterTime"));
    }
    // A read has a reply, and so has a command with a concern of its own.
    let read = world.pools.command("db", &count).kind(OperationKind::Read);
    let reply = read.write_concern(unacknowledged).await.expect("a reply");
    assert!(reply.get("n").is_ok_and(|n| n.is_some()));
    let own = doc! { "insert": "c", "documents": [{ "x": 2 }], "writeConcern": { "w": 1 } };
    let write = world.pools.command("db", &own).kind(OperationKind::Write);
    let reply = write.write_concern(WriteConcern::nodes(0)).await;
    let reply = reply.expect("a reply");
    assert_eq!(reply.get_i32("n").expect("a count"), 1);
    world.pools.close().await;
}

async fn attempts_of_one_operation_have_its_id<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let data = doc! { "failCommands": ["count"], "closeConnection": true };
    world.fail(1, data);
    let count = doc! { "count": "c" };
    for _ in 0..2 {
        let read = world.pools.command("db", &count).kind(OperationKind::Read);
        read.await.map(drop).expect("a reply");
    }
    let mut connection = world.pools.get().await.expect("a connection");
    let on_connection = connection.command("db", &count).await.map(drop);
    on_connection.expect("a reply");
    connection.run_command("db", &count).await.expect("a reply");
    // A cancelled operation leaves nothing behind.
    let cancelled = timeout(Duration::ZERO, connection.command("db", &count)).await;
    cancelled.map(drop).expect_err("cancelled");
    connection.run_command("db", &count).await.expect("a reply");
    drop(connection);
    let ids = world.commands.operations_of("count");
    assert_eq!(ids.len(), 7, "{ids:?}");
    assert!(ids[0].is_some() && ids[0] == ids[1] && ids[1] < ids[2] && ids[2] < ids[3]);
    assert_eq!((ids[4], ids[6]), (None, None));
    assert!(ids[3] < ids[5]);
    world.pools.close().await;
}

async fn a_command_on_a_connection_has_the_same_fields<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("w=majority").await;
    let mut connection = world.pools.get().await.expect("a connection");
    let session = connection.start_session(SessionOptions::default());
    let mut session = session.expect("a session");
    let insert = doc! { "insert": "c", "documents": [{ "x": 1 }] };
    for session in [None, Some(&mut session)] {
        let write = connection.command("db", &insert).kind(OperationKind::Write);
        let write = match session {
            Some(session) => write.session(session),
            None => write,
        };
        let reply = write.await.expect("a reply");
        reply.check_write().expect("a write");
    }
    for write in world.commands.of("insert") {
        assert!(session_of(&write).is_some() && write.contains_key("txnNumber"));
        assert_eq!(
            write.get_document("writeConcern").ok(),
            Some(&doc! { "w": "majority" })
        );
    }
    drop(connection);
    world.pools.close().await;
}

async fn a_failed_write_is_found_by_check_write<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let insert = doc! { "insert": "c", "documents": [{ "_id": 1 }, { "_id": 1 }] };
    let write = world.pools.command("db", &insert);
    let write = write.kind(OperationKind::Write);
    let error = write
        .await
        .expect("a reply")
        .check_write()
        .expect_err("twice");
    assert_eq!(error.code(), Some(11000));
    world.pools.close().await;
}
