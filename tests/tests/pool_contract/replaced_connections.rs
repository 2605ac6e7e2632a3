//! Connections that are no longer handed out, and their replacements.
//!
//! The clock is paused, as in [`errors`](super::errors).

use std::time::Duration;

use mongo_core::ErrorKind;
use mongo_core::pools::{ManagerConfig, RecyclingMethod};
use mongo_testkit::{Action, Matcher, ScriptedServer};
use tokio::time::{Instant, advance, pause, sleep};

use crate::errors::{AT_ONCE, CONNECT_TIMEOUT, LONG, ping, server, setup};
use crate::{Backend, Setup};

async fn connections_past_their_idle_time_or_lifetime_are_replaced<B: Backend>() {
    pause();
    let server = server().await;
    let limits: [fn(&mut ManagerConfig); 2] = [
        |config| config.max_idle_time = Some(Duration::from_secs(60)),
        |config| config.max_lifetime = Some(Duration::from_secs(60)),
    ];
    for limit in limits {
        let mut manager = ManagerConfig::default();
        limit(&mut manager);
        let pool = B::build(setup(&server).manager(manager));
        let first = pool.get().await.expect("a connection").id();
        // A lifetime is up to a tenth shorter.
        advance(Duration::from_secs(53)).await;
        let second = pool.get().await.expect("a connection").id();
        assert_eq!(second, first);
        advance(Duration::from_secs(61)).await;
        let third = pool.get().await.expect("a connection").id();
        assert_ne!(third, first);
        assert_eq!(pool.status().size, 1);
    }
}

async fn a_cleared_pool_hands_out_no_stale_connection<B: Backend>() {
    pause();
    let server = server().await;
    let pool = B::build(setup(&server).max_size(2));
    let (in_use, idle) = (pool.get().await, pool.get().await);
    let mut in_use = in_use.expect("a connection");
    drop(idle);
    pool.factory().clear(None);
    let new = pool.get().await.expect("a connection");
    assert_eq!((new.id(), new.generation()), (3, 1));
    drop(new);
    // The connection in use stays usable, and closes at its check-in.
    ping(&mut in_use).await.expect("a reply");
    drop(in_use);
    server.wait_for("one left", |seen| seen.open == 1).await;
    assert_eq!(pool.get().await.expect("a connection").id(), 3);
}

async fn a_connection_closed_while_idle_is_replaced<B: Backend>() {
    pause();
    let server = server().await;
    let pool = B::build(setup(&server).max_size(3));
    let three = [pool.get().await, pool.get().await, pool.get().await];
    assert!(three.iter().all(Result::is_ok));
    drop(three);
    server.close_connections().await;
    // Let the reactor run.
    sleep(Duration::from_millis(1)).await;
    let mut connection = pool.get().await.expect("a new connection");
    assert_eq!(connection.id(), 4);
    ping(&mut connection).await.expect("a reply");
}

/// The server closes each connection after its handshake. The command fails, and a check-out makes
/// two connections at most.
async fn a_connection_closed_after_its_handshake_is_replaced_once<B: Backend>() {
    pause();
    let server = ScriptedServer::builder().unix().start().await;
    let pool = B::build(Setup::new(server.uri()).wait(LONG));
    let closing = || Matcher::hello().once().then(Action::Close);
    server.script().add(closing());
    server.script().add(closing());
    let mut connection = pool.get().await.expect("a connection");
    let error = ping(&mut connection).await.expect_err("closed");
    assert!(matches!(error.kind(), ErrorKind::Network(_)), "{error}");
    drop(connection);
    assert_eq!(server.look(|seen| seen.accepted), 2);
    let mut connection = pool.get().await.expect("another");
    ping(&mut connection).await.expect("a reply");
}

/// Only a ping finds a peer that is connected but no longer answers.
async fn a_ping_finds_a_silent_peer<B: Backend>() {
    pause();
    let server = server().await;
    let later = Duration::from_secs(30);
    for (method, idle) in [
        (RecyclingMethod::Verified, Duration::ZERO),
        (RecyclingMethod::VerifiedAfter(later), later),
    ] {
        let pool = B::build(setup(&server).manager(ManagerConfig::new(method)));
        let first = pool.get().await.expect("a connection").id();
        let number = server.look(|seen| seen.accepted);
        let dead = Matcher::any_command().on_connection(number).never_answer();
        if !idle.is_zero() {
            // Not checked yet.
            let early = pool.get().await.expect("a connection").id();
            assert_eq!(early, first);
        }
        server.script().add(dead);
        advance(idle).await;
        let begin = Instant::now();
        let mut connection = pool.get().await.expect("a new connection");
        assert!(begin.elapsed() < CONNECT_TIMEOUT + AT_ONCE);
        assert_ne!(connection.id(), first);
        ping(&mut connection).await.expect("a reply");
        server.script().clear();
    }
}

on_both!(
    connections_past_their_idle_time_or_lifetime_are_replaced,
    a_cleared_pool_hands_out_no_stale_connection,
    a_connection_closed_while_idle_is_replaced,
    a_connection_closed_after_its_handshake_is_replaced_once,
    a_ping_finds_a_silent_peer,
);
