//! How many connections there are, and for how long.

use std::time::Duration;

use mongo_core::bson::doc;
use mongo_core::pools::{Backend, ManagerConfig, PoolsConfig};
use mongo_testkit::{Action, Gate, Matcher};
use tokio::time::{Instant, sleep};

use crate::support::{
    Kept, Sim, eventually, get_in_task, handshake, hold, ping, settled, status_of,
};

on_both! {
    on a paused clock:
    no_more_are_open_than_may_be,
    no_more_are_made_at_a_time_than_may_be,
    the_smallest_size_is_kept,
    the_smallest_size_is_made_again_after_a_failure,
    what_is_idle_for_too_long_goes,
    lifetimes_end_at_different_times,
    a_warm_up_connects_to_every_member,
}

async fn no_more_are_open_than_may_be<B: Backend<Config: Default>>() {
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

async fn no_more_are_made_at_a_time_than_may_be<B: Backend<Config: Default>>() {
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

async fn the_smallest_size_is_kept<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("minPoolSize=4");
    let mut held = pools.get().await.expect("a connection");
    eventually("the smallest size", || status_of(&pools).size == 4).await;
    // One that fails is replaced.
    let server = sim.set.server(0);
    let find = Matcher::command("find").once();
    server.script().add(find.drop_connection());
    held.run_command("db", &doc! {"find": "c"})
        .await
        .expect_err("the server hung up");
    drop(held);
    eventually("the smallest size", || {
        let status = status_of(&pools);
        status.idle == 4 && status.created > 4
    })
    .await;
    pools.close().await;
}

async fn the_smallest_size_is_made_again_after_a_failure<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let kept = Kept::default();
    let pools = sim
        .builder::<B>("minPoolSize=2&heartbeatFrequencyMS=500")
        .event_handlers(kept.handlers())
        .build()
        .expect("pools");
    ping(&pools).await.expect("a ping");
    eventually("the smallest size", || status_of(&pools).idle == 2).await;
    sim.set.kill(0).await;
    eventually("all are gone", || status_of(&pools).size == 0).await;
    assert_eq!(kept.count("PoolCleared"), 1);
    sim.set.restart(0).await;
    sim.set.elect(0);
    eventually("the pool is ready", || kept.count("PoolReady") == 2).await;
    // Not only at the next round of maintenance.
    let ready = Instant::now();
    eventually("the smallest size", || status_of(&pools).idle == 2).await;
    assert!(
        ready.elapsed() < Duration::from_secs(1),
        "{:?}",
        ready.elapsed()
    );
    pools.close().await;
}

async fn what_is_idle_for_too_long_goes<B: Backend<Config: Default>>() {
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

async fn lifetimes_end_at_different_times<B: Backend<Config: Default>>() {
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
