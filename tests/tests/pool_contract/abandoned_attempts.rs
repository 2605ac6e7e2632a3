//! Attempts that outlive their callers, in a plain pool.

use std::time::Duration;

use mongo_core::ErrorKind;
use mongo_testkit::{Action, Gate, Matcher, ScriptedServer};

use crate::{Backend, Setup, eventually};

on_both!(
    the_status_counts_spare_connections,
    a_plain_pool_keeps_its_size,
    callers_with_short_timeouts_are_eventually_served,
    a_closed_pool_leaves_no_connection_open,
);

const LIMIT: Duration = Duration::from_secs(10);
const HASTE: Duration = Duration::from_millis(50);

/// A server that answers the first hello of each connection once the gate is open.
async fn gated(gate: &Gate) -> ScriptedServer {
    ScriptedServer::builder()
        .rule(Matcher::hello().then(Action::WaitFor(gate.clone())))
        .start()
        .await
}

async fn available<B: Backend>(pool: &B, count: usize) {
    eventually("idle ones", || pool.status().available == count).await;
}

async fn the_status_counts_spare_connections<B: Backend>() {
    let gate = Gate::new();
    let server = gated(&gate).await;
    let pool = B::build(Setup::new(server.uri()).max_size(2));
    let late = pool.get_within(HASTE).await.expect_err("no answer");
    assert!(late.is_timeout(), "{late}");
    gate.open();
    available(&pool, 1).await;
    assert_eq!(pool.status().size, 1);
    drop(pool.get().await.expect("the connection"));
    assert_eq!(server.look(|seen| seen.accepted), 1);
}

/// Eight callers use eight connections, while attempts of cancelled callers continue.
async fn a_plain_pool_keeps_its_size<B: Backend>() {
    let gate = Gate::new();
    let server = gated(&gate).await;
    let pool = B::build(Setup::new(server.uri()).max_size(8));
    for _ in 0..4 {
        let hasty = (0..8).map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.get_within(HASTE).await.map(drop) })
        });
        for hasty in hasty.collect::<Vec<_>>() {
            let late = hasty.await.expect("no panic").expect_err("no answer");
            assert!(late.is_timeout(), "{late}");
        }
    }
    gate.open();
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(pool.get().await.expect("a connection"));
    }
    drop(held);
    available(&pool, 8).await;
    assert!(server.look(|seen| seen.most_open) <= 8);
    pool.close();
    server.wait_for("none open", |seen| seen.open == 0).await;
}

async fn callers_with_short_timeouts_are_eventually_served<B: Backend>() {
    let server = ScriptedServer::builder()
        .rule(Matcher::hello().then(Action::Delay(Duration::from_millis(150))))
        .start()
        .await;
    let pool = B::build(Setup::new(server.uri()).max_size(8));
    let served = async { while pool.get_within(HASTE).await.is_err() {} };
    tokio::time::timeout(LIMIT, served).await.expect("served");
    assert_eq!(server.look(|seen| seen.accepted), 1);
}

async fn a_closed_pool_leaves_no_connection_open<B: Backend>() {
    let gate = Gate::new();
    let server = gated(&gate).await;
    let pool = B::build(Setup::new(server.uri()).max_size(4));
    for _ in 0..2 {
        pool.get_within(HASTE).await.expect_err("no answer");
    }
    let waiting = pool.clone();
    let waiting = tokio::spawn(async move { waiting.get().await.map(drop) });
    server.wait_for("an attempt", |seen| seen.open > 0).await;
    pool.close();
    let closed = waiting.await.expect("no panic").expect_err("it is closed");
    assert!(matches!(closed.kind(), ErrorKind::PoolClosed), "{closed}");
    server.wait_for("none open", |seen| seen.open == 0).await;
    let status = pool.status();
    assert_eq!((status.size, status.available), (0, 0), "{status:?}");
    gate.open();
}
