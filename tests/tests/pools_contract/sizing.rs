//! The number of connections, and their lifetimes.

use std::time::Duration;

use mongo_core::auth::Credential;
use mongo_core::bson::doc;
use mongo_core::pools::{Backend, ManagerConfig, PooledConnection, Pools, PoolsConfig};
use mongo_core::{Error, ErrorKind};
use mongo_testkit::{Action, Gate, Matcher};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::support::{
    Sim, eventually, get_in_task, handshake, hold, observed, ping, settled, status_of,
};

on_both! {
    on a paused clock:
    max_pool_size_limits_open_connections,
    max_connecting_limits_pending_connections,
    min_pool_size_is_kept,
    min_pool_size_is_restored_after_a_failure,
    min_idle_is_kept_beside_connections_in_use,
    a_min_idle_over_the_largest_size_is_refused,
    connections_past_max_idle_time_close,
    lifetimes_are_spread,
    a_warm_up_connects_to_every_member,
    a_warm_up_waits_for_attempts_of_others,
    a_warm_up_fails_with_attempts_of_others,
    a_warm_up_without_room_fails_in_time,
}

async fn max_pool_size_limits_open_connections<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("maxPoolSize=3");
    let held = hold(&pools, 3).await;
    let waiting: Vec<_> = (0..5).map(|_| get_in_task(&pools)).collect();
    eventually("five wait", || status_of(&pools).waiting == 5).await;
    let status = status_of(&pools);
    let counts = (status.size, status.in_use, status.idle, status.pending);
    assert_eq!(counts, (3, 3, 0, 0), "{status:?}");
    drop(held);
    for task in waiting {
        drop(task.await.expect("no panic").expect("a connection"));
    }
    let status = status_of(&pools);
    let counts = (status.size, status.in_use, status.idle, status.waiting);
    assert_eq!(counts, (3, 0, 3, 0), "{status:?}");
    assert_eq!(status.created, 3);
    pools.close().await;
}

async fn max_connecting_limits_pending_connections<B: Backend<Config: Default>>() {
    for max_connecting in [1, 2, 5] {
        let sim = Sim::of(1).await;
        let pools = sim.pools::<B>(&format!("maxConnecting={max_connecting}"));
        ping(&pools).await.expect("the monitors are connected");
        let server = sim.set.server(0);
        settled(server, 1).await;
        let gate = Gate::new();
        let hold_back = handshake().then(Action::WaitFor(gate.clone()));
        server.script().add(hold_back);
        let waiting: Vec<_> = (0..20).map(|_| get_in_task(&pools)).collect();
        sleep(Duration::from_secs(1)).await;
        let status = status_of(&pools);
        assert_eq!(status.pending, max_connecting, "{status:?}");
        assert_eq!(server.look(|seen| seen.open), 3 + max_connecting as u64);
        gate.open();
        let mut held = Vec::new();
        for task in waiting {
            held.push(task.await.expect("no panic").expect("a connection"));
        }
        assert_eq!(status_of(&pools).in_use, 20);
        drop(held);
        pools.close().await;
    }
}

async fn min_pool_size_is_kept<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("minPoolSize=4");
    let mut held = pools.get().await.expect("a connection");
    eventually("minPoolSize connections", || status_of(&pools).size == 4).await;
    // A failed connection is replaced.
    let server = sim.set.server(0);
    let find = Matcher::command("find").once();
    server.script().add(find.drop_connection());
    held.run_command("db", &doc! {"find": "c"})
        .await
        .expect_err("the server hung up");
    drop(held);
    eventually("minPoolSize connections", || {
        let status = status_of(&pools);
        status.idle == 4 && status.created > 4
    })
    .await;
    pools.close().await;
}

async fn min_pool_size_is_restored_after_a_failure<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let (pools, kept) = observed(sim.builder::<B>("minPoolSize=2&heartbeatFrequencyMS=500"));
    ping(&pools).await.expect("a ping");
    eventually("minPoolSize connections", || status_of(&pools).idle == 2).await;
    sim.set.kill(0).await;
    eventually("all are gone", || status_of(&pools).size == 0).await;
    assert_eq!(kept.count("PoolCleared"), 1);
    sim.set.restart(0).await;
    sim.set.elect(0);
    eventually("the pool is ready", || kept.count("PoolReady") == 2).await;
    // Before the next round of maintenance.
    let ready = Instant::now();
    eventually("minPoolSize connections", || status_of(&pools).idle == 2).await;
    assert!(
        ready.elapsed() < Duration::from_secs(1),
        "{:?}",
        ready.elapsed()
    );
    pools.close().await;
}

async fn min_idle_is_kept_beside_connections_in_use<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let config = PoolsConfig::default()
        .with_min_idle(2)
        .with_maintenance_interval(Duration::from_secs(1));
    let pools = sim.builder::<B>("maxPoolSize=4").config(config);
    let pools = pools.build().expect("pools");
    pools.warm_up().await.expect("two connections");
    let counts = || {
        let status = status_of(&pools);
        (status.idle, status.in_use)
    };
    assert_eq!(counts(), (2, 0));
    let mut held = hold(&pools, 1).await;
    eventually("two idle ones beside one", || counts() == (2, 1)).await;
    held.extend(hold(&pools, 2).await);
    eventually("the largest size", || counts() == (1, 3)).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(counts(), (1, 3));
    // Those that were returned stay: the bounds of idle connections are others.
    drop(held);
    assert_eq!(counts(), (4, 0));
    pools.close().await;
}

async fn a_min_idle_over_the_largest_size_is_refused<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let config = PoolsConfig::default().with_min_idle(5);
    let over_the_size = sim.builder::<B>("maxPoolSize=4").config(config.clone());
    let config = config.with_max_connections_per_server(3);
    let over_the_cap = sim.builder::<B>("").config(config);
    for (builder, least) in [(over_the_size, "4"), (over_the_cap, "3")] {
        let error = builder.build().map(drop).expect_err("no room");
        let shown = error.to_string();
        assert!(shown.contains("`min_idle` is 5"), "{shown}");
        assert!(shown.ends_with(least), "{shown}");
    }
}

async fn connections_past_max_idle_time_close<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("maxIdleTimeMS=60000");
    drop(hold(&pools, 3).await);
    sleep(Duration::from_secs(50)).await;
    // Last in, first out: one is used, the others may go.
    ping(&pools).await.expect("a ping");
    sleep(Duration::from_secs(25)).await;
    let status = status_of(&pools);
    assert_eq!((status.size, status.idle, status.closed.idle), (1, 1, 2));
    sleep(Duration::from_secs(60)).await;
    let status = status_of(&pools);
    assert_eq!((status.size, status.closed.idle), (0, 3), "{status:?}");
    pools.close().await;
}

async fn lifetimes_are_spread<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let mut manager = ManagerConfig::default();
    manager.max_lifetime = Some(Duration::from_secs(1000));
    let pools = sim
        .builder::<B>("maxConnecting=50")
        .manager_config(manager)
        .config(PoolsConfig::default().with_maintenance_interval(Duration::from_secs(1)))
        .build()
        .expect("pools");
    drop(hold(&pools, 30).await);
    sleep(Duration::from_secs(899)).await;
    assert_eq!(status_of(&pools).size, 30);
    sleep(Duration::from_secs(51)).await;
    let half = status_of(&pools).size;
    assert!((1..30).contains(&half), "{half} of 30 are left");
    sleep(Duration::from_secs(55)).await;
    let status = status_of(&pools);
    assert_eq!((status.size, status.closed.idle), (0, 30));
    pools.close().await;
}

async fn a_warm_up_connects_to_every_member<B: Backend<Config: Default>>() {
    let sim = Sim::of(3).await;
    let pools = sim.pools::<B>("minPoolSize=2");
    pools.connect().expect("connected");
    eventually("all members are known", || {
        let known = pools.topology().snapshot();
        known
            .servers()
            .iter()
            .filter(|entry| entry.description().server_type.is_data_bearing())
            .count()
            == 3
    })
    .await;
    pools.warm_up().await.expect("warm");
    let status = pools.status();
    assert_eq!(status.len(), 3, "{status:?}");
    assert!(status.iter().all(|pool| pool.idle == 2), "{status:?}");
    pools.close().await;
}

/// Makes a set's only server hold back the handshakes of new connections. Returns the gate, and a
/// caller that waits for a connection.
async fn others_attempt<B: Backend>(sim: &Sim, pools: &Pools<B>) -> (Gate, Waiting<B>) {
    pools.connect().expect("connected");
    let known = || pools.topology().description();
    eventually("a primary", || known().primary().is_some()).await;
    settled(sim.set.server(0), 0).await;
    let gate = Gate::new();
    let hold_back = handshake().then(Action::WaitFor(gate.clone()));
    sim.set.server(0).script().add(hold_back);
    let waiting = get_in_task(pools);
    eventually("it is tried", || {
        pools.status().iter().any(|pool| pool.pending == 1)
    })
    .await;
    (gate, waiting)
}

type Waiting<B> = JoinHandle<Result<PooledConnection<B>, Error>>;

/// A warm-up in its own task, which has been running for a second.
async fn warm_up_in_task<B: Backend>(pools: &Pools<B>) -> JoinHandle<Result<(), Error>> {
    let pools = pools.clone();
    let warming = tokio::spawn(async move { pools.warm_up().await });
    sleep(Duration::from_secs(1)).await;
    assert!(!warming.is_finished(), "no connection is there");
    warming
}

async fn a_warm_up_waits_for_attempts_of_others<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("maxConnecting=1&maxPoolSize=1");
    let (gate, waiting) = others_attempt(&sim, &pools).await;
    let warming = warm_up_in_task(&pools).await;
    gate.open();
    let held = waiting.await.expect("no panic").expect("a connection");
    // The connection exists, though in use.
    warming.await.expect("no panic").expect("warm");
    assert_eq!(status_of(&pools).created, 1);
    drop(held);
    pools.close().await;
}

async fn a_warm_up_fails_with_attempts_of_others<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("maxConnecting=1");
    let wrong = Credential::new("two", "wrong").with_source("admin");
    let pools = pools.with_credential(wrong).expect("a handle");
    let (gate, waiting) = others_attempt(&sim, &pools).await;
    let warming = warm_up_in_task(&pools).await;
    gate.open();
    let refused = waiting.await.expect("no panic").expect_err("wrong");
    assert!(refused.is_authentication(), "{refused}");
    let refused = warming.await.expect("no panic").expect_err("wrong");
    assert!(refused.is_authentication(), "{refused}");
    pools.close().await;
}

async fn a_warm_up_without_room_fails_in_time<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let config = PoolsConfig::default()
        .with_max_connections_per_server(1)
        .with_wait_timeout(Duration::from_secs(3));
    let pools = sim.builder::<B>("").config(config).build().expect("pools");
    let held = hold(&pools, 1).await;
    let one = Credential::new("one", "first").with_source("admin");
    let one = pools.with_credential(one).expect("a handle");
    let warming = warm_up_in_task(&one).await;
    let failed = warming.await.expect("no panic").expect_err("no room");
    let cause = failed.cause().expect("the connections in use").kind();
    let is_told = matches!(cause, ErrorKind::PoolExhausted(use_) if use_.server_full == Some(1));
    assert!(failed.is_timeout() && is_told, "{failed}");
    drop(held);
    pools.close().await;
}
