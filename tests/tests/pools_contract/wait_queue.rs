//! The order and the timeouts of waiters.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mongo_core::auth::Credential;
use mongo_core::error::Wait;
use mongo_core::pools::{Backend, PinReason, PooledConnection, Pools, PoolsConfig};
use mongo_core::{Error, ErrorKind};
use mongo_testkit::{Action, Gate};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::support::{Sim, eventually, get_in_task, handshake, hold, ping, settled, status_of};

on_both! {
    on a paused clock:
    check_outs_are_first_in_first_out,
    a_timeout_counts_connections_by_use,
    a_returned_connection_serves_a_waiter_with_a_pending_attempt,
    no_waiter_is_overtaken_while_a_pool_grows,
    a_cancelled_waiter_leaves_its_turn_to_the_next,
    a_wait_is_counted_in_its_histogram_bucket,
    each_check_out_is_counted_once_and_no_sweep,
}

async fn check_outs_are_first_in_first_out<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("maxPoolSize=2");
    let own = pools.clone();
    let held = hold(&pools, 2).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for number in 0..10 {
        let (pools, order) = (pools.clone(), order.clone());
        tasks.push(tokio::spawn(async move {
            let connection = pools.get().await.expect("a connection");
            order.lock().expect("no panic").push(number);
            sleep(Duration::from_millis(10)).await;
            drop(connection);
        }));
        eventually("it waits", || status_of(&own).waiting == number + 1).await;
    }
    // Later callers do not overtake.
    drop(held);
    for task in tasks {
        task.await.expect("no panic");
    }
    assert_eq!(*order.lock().expect("no panic"), Vec::from_iter(0..10));
}

async fn a_timeout_counts_connections_by_use<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let options = "maxPoolSize=4&waitQueueTimeoutMS=150";
    let one = Credential::new("one", "first").with_source("admin");
    let pools = sim
        .pools::<B>(options)
        .with_credential(one)
        .expect("a handle");
    let mut held = hold(&pools, 4).await;
    held[0].pin(PinReason::Cursor);
    held[1].pin(PinReason::Transaction);
    held[2].pin(PinReason::Cursor);
    assert_eq!(in_use(&pools.get().await), (2, 1, 1));
    held[2].unpin();
    held[1].pin(PinReason::Cursor);
    let begun = Instant::now();
    let timed_out = pools.get().await;
    assert_eq!(in_use(&timed_out), (2, 0, 2));
    let error = timed_out.expect_err("all are in use");
    let ErrorKind::Timeout { wait, after } = error.kind() else {
        panic!("{error}");
    };
    assert_eq!(*wait, Wait::WaitQueue);
    let bound = Duration::from_millis(150);
    for time in [*after, begun.elapsed()] {
        assert!(time >= bound && time < bound * 2, "{time:?}");
    }
    assert_eq!(error.user(), Some("one"));
    let server = error.server().expect("the server");
    assert_eq!(server.to_string(), sim.set.address(0));
    // Dropping a pinned connection unpins it.
    drop(held.remove(0));
    let one_more = pools.get().await.expect("a connection");
    assert_eq!(in_use(&pools.get().await), (1, 0, 3));
    drop(one_more);
    drop(held);
    pools.close().await;
}

/// The connections in use by cursors, transactions and other operations.
fn in_use<B: Backend>(timed_out: &Result<PooledConnection<B>, Error>) -> (usize, usize, usize) {
    let error = timed_out.as_ref().expect_err("all are in use");
    match error.cause().map(Error::kind) {
        Some(ErrorKind::PoolExhausted(in_use)) => {
            (in_use.cursors, in_use.transactions, in_use.others)
        }
        cause => panic!("{error}: {cause:?}"),
    }
}

async fn a_returned_connection_serves_a_waiter_with_a_pending_attempt<
    B: Backend<Config: Default>,
>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("");
    let held = pools.get().await.expect("a connection");
    let server = sim.set.server(0);
    settled(server, 1).await;
    let gate = Gate::new();
    server
        .script()
        .add(handshake().then(Action::WaitFor(gate.clone())));
    let waiting = get_in_task(&pools);
    server
        .wait_for("its own attempt", |seen| seen.open == 4)
        .await;
    sleep(Duration::from_millis(100)).await;
    let id = held.id();
    drop(held);
    let begun = Instant::now();
    let served = waiting.await.expect("no panic").expect("a connection");
    assert!(
        begun.elapsed() < Duration::from_millis(50),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(served.id(), id);
    // The pending connection is not lost.
    gate.open();
    eventually("the other one is idle", || {
        let status = status_of(&pools);
        (status.size, status.idle, status.in_use) == (2, 1, 1)
    })
    .await;
    drop(served);
    pools.close().await;
}

/// A pool that is cold again grows by two connections in 20 ms. Connections returned during that
/// time serve waiters in order.
async fn no_waiter_is_overtaken_while_a_pool_grows<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("");
    let address = ping(&pools).await.expect("a ping");
    let server = sim.set.server(0);
    settled(server, 1).await;
    let pool = pools.for_server(&address).expect("its pool");
    pool.clear(false);
    pool.ready();
    server
        .script()
        .add(handshake().then(Action::Delay(Duration::from_millis(20))));
    let mut tasks = JoinSet::new();
    for _ in 0..64 {
        let pools = pools.clone();
        tasks.spawn(async move {
            let begun = Instant::now();
            let mut first = None;
            for _ in 0..20 {
                let connection = pools.get().await.expect("a connection");
                first.get_or_insert(begun.elapsed());
                sleep(Duration::from_millis(1)).await;
                drop(connection);
            }
            first.expect("it had twenty")
        });
    }
    let waits = tasks.join_all().await;
    let longest = waits.into_iter().max().expect("64");
    assert!(longest < Duration::from_millis(80), "{longest:?}");
    pools.close().await;
}

async fn a_cancelled_waiter_leaves_its_turn_to_the_next<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("maxPoolSize=1");
    let held = hold(&pools, 1).await;
    let mut tasks: Vec<_> = (0..6).map(|_| get_in_task(&pools)).collect();
    eventually("six wait", || status_of(&pools).waiting == 6).await;
    for gone in [0, 2, 3] {
        tasks[gone].abort();
    }
    eventually("three wait", || status_of(&pools).waiting == 3).await;
    drop(held);
    for task in [5, 4, 1]
        .map(|number| tasks.remove(number))
        .into_iter()
        .rev()
    {
        drop(task.await.expect("no panic").expect("a connection"));
    }
    let status = status_of(&pools);
    assert_eq!((status.size, status.idle, status.waiting), (1, 1, 0));
    pools.close().await;
}

async fn a_wait_is_counted_in_its_histogram_bucket<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("maxPoolSize=1");
    ping(&pools).await.expect("a ping");
    let before = status_of(&pools).wait_times;
    let held = hold(&pools, 1).await;
    let waiting = get_in_task(&pools);
    sleep(Duration::from_millis(300)).await;
    drop(held);
    drop(waiting.await.expect("no panic").expect("a connection"));
    let after = status_of(&pools).wait_times;
    assert_eq!(after.at_once, before.at_once + 1);
    // From 100 to 500 ms.
    assert_eq!(after.buckets[5], before.buckets[5] + 1, "{after:?}");
    pools.close().await;
}

/// However it ends; and what goes on in the pool besides is no check-out.
async fn each_check_out_is_counted_once_and_no_sweep<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let every_second = PoolsConfig::default().with_maintenance_interval(Duration::from_secs(1));
    let pools: Pools<B> = sim
        .builder("maxPoolSize=2&waitQueueTimeoutMS=100")
        .config(every_second)
        .build()
        .expect("pools");
    let counted = || {
        let status = status_of(&pools);
        let times = status.wait_times;
        let counted = times.at_once + times.buckets.iter().sum::<u64>();
        (counted, status.waiting, status.in_use, status.idle)
    };
    let held = hold(&pools, 2).await;
    assert_eq!(counted(), (2, 0, 2, 0));
    let waiting = [(); 3].map(|()| get_in_task(&pools));
    eventually("they wait", || counted() == (2, 3, 2, 0)).await;
    for task in waiting {
        task.abort();
        drop(task.await.expect_err("cancelled"));
    }
    assert_eq!(counted(), (5, 0, 2, 0));
    pools.get().await.map(drop).expect_err("all are in use");
    assert_eq!(counted(), (6, 0, 2, 0));
    drop(held);
    assert_eq!(counted(), (6, 0, 0, 2));
    sleep(Duration::from_secs(20)).await;
    assert_eq!(counted(), (6, 0, 0, 2), "after 20 sweeps");
    drop(hold(&pools, 2).await);
    assert_eq!(counted(), (8, 0, 0, 2));
    pools.close().await;
}
