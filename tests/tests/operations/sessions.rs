//! Sessions: what they add to commands, and what they refuse.

use std::time::Duration;

use mongo_core::ErrorKind;
use mongo_core::auth::{AuthMechanism, Credential};
use mongo_core::bson::{Document, doc};
use mongo_core::operation::{OperationKind, SessionOptions, TransactionOptions};
use mongo_core::pools::Backend;
use mongo_testkit::{Deployment, SimNetwork};
use tokio::time::sleep;

use crate::commands::session_of;
use crate::support::{World, begun, begun_on, insert};

on_both! {
    sessions_are_used_again,
    an_explicit_session_is_causally_consistent,
    a_session_of_other_pools_is_refused,
    a_close_ends_the_sessions_on_the_server,
    credentials_have_sessions_of_their_own,
    a_connection_of_another_router_refuses_the_transaction,
    a_command_with_its_own_read_concern_stays_causal,
    a_snapshot_session_refuses_another_read_concern,
    a_transaction_dropped_with_its_connection_is_not_reused,
    a_cancelled_command_leaves_its_session_dirty,
}

async fn sessions_are_used_again<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    for _ in 0..2 {
        world.ping().await.expect("a reply");
    }
    let first = world.session();
    let second = world.session();
    assert_ne!(first.id(), second.id());
    let (first_id, second_id) = (first.id().to_owned(), second.id().to_owned());
    drop(first);
    drop(second);
    let again = world.session();
    assert_eq!(again.id(), &*second_id);
    let pings = world.commands.of("ping");
    assert_eq!(session_of(&pings[0]), session_of(&pings[1]));
    let first_id = Document::try_from(&*first_id).expect("a document");
    assert_eq!(session_of(&pings[0]), Some(&first_id));
    world.pools.close().await;
}

async fn an_explicit_session_is_causally_consistent<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    let options = SessionOptions::default();
    for (options, is_causal) in [
        (options.clone(), true),
        (options.with_causal_consistency(false), false),
    ] {
        let mut session = world.pools.start_session(options).expect("a session");
        let before = world.commands.of("find").len();
        for kind in [
            OperationKind::Read,
            OperationKind::Read,
            OperationKind::Command,
        ] {
            let find = world.pools.command("db", &doc! { "find": "c" }).kind(kind);
            find.session(&mut session).await.map(drop).expect("a reply");
        }
        let finds = world.commands.of("find");
        assert!(!finds[before].contains_key("readConcern"));
        if session.operation_time().is_some() {
            let second = finds[before + 1].get_document("readConcern").ok();
            let after = second.and_then(|own| own.get_timestamp("afterClusterTime").ok());
            assert_eq!(after.is_some(), is_causal);
        }
        assert!(
            !finds[before + 2].contains_key("readConcern"),
            "not guessed"
        );
    }
    world.pools.close().await;
}

async fn a_session_of_other_pools_is_refused<B: Backend<Config: Default>>() {
    let (one, other) = (
        World::<B>::replica_set("").await,
        World::<B>::replica_set("").await,
    );
    let session = one.pools.start_session(SessionOptions::default());
    let mut session = session.expect("a session");
    let ping = doc! { "ping": 1 };
    let refused = other.pools.command("db", &ping).session(&mut session).await;
    let refused = refused.map(drop).expect_err("another deployment");
    assert!(
        matches!(refused.kind(), ErrorKind::Configuration(_)),
        "{refused}"
    );
    let mut connection = other.pools.get().await.expect("a connection");
    let refused = connection.command("db", &ping).session(&mut session).await;
    refused.map(drop).expect_err("another deployment");
    drop(connection);
    assert_eq!(other.commands.of("ping"), []);
    one.pools.close().await;
    other.pools.close().await;
}

async fn a_close_ends_the_sessions_on_the_server<B: Backend<Config: Default>>() {
    let world = World::<B>::replica_set("").await;
    world.ping().await.expect("a reply");
    let session = world.session();
    let other = world.session();
    drop((session, other));
    world.pools.close().await;
    let ended = world.commands.of("endSessions");
    assert_eq!(ended.len(), 1);
    assert_eq!(
        ended[0].get_array("endSessions").map(Vec::len).ok(),
        Some(2)
    );
    assert!(session_of(&ended[0]).is_none());
    world.pools.close().await;
    assert_eq!(world.commands.of("endSessions").len(), 1);
}

async fn credentials_have_sessions_of_their_own<B: Backend<Config: Default>>() {
    let network = SimNetwork::new(5);
    let set = Deployment::replica_set("rs")
        .members(1)
        .network(&network)
        .plain_user("one", "first")
        .plain_user("two", "second");
    let world = World::<B>::over(set.start().await, &network, "");
    let of = |name: &str, password: &str| {
        let credential = Credential::new(name, password).with_mechanism(AuthMechanism::Plain);
        world.pools.with_credential(credential).expect("a handle")
    };
    let (one, two) = (of("one", "first"), of("two", "second"));
    for pools in [&one, &two, &one, &two] {
        pools
            .command("db", &doc! { "ping": 1 })
            .await
            .map(drop)
            .expect("a reply");
    }
    let pings = world.commands.of("ping");
    let ids: Vec<_> = pings.iter().map(session_of).collect();
    assert!(
        ids[0] == ids[2] && ids[1] == ids[3] && ids[0] != ids[1],
        "{ids:?}"
    );
    let session = one.start_session(SessionOptions::default());
    let mut session = session.expect("a session");
    let refused = two
        .command("db", &doc! { "ping": 1 })
        .session(&mut session)
        .await;
    refused.map(drop).expect_err("another credential");
    drop(session);
    // Those of both are ended.
    world.pools.close().await;
    assert_eq!(world.commands.of("endSessions").len(), 2);
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
