//! Creation, close and logout, with several callers or pools.

use std::cell::Cell;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Waker};
use std::time::Duration;

use mongo_core::auth::Credential;
use mongo_core::bson::doc;
use mongo_core::error::ClosedReason;
use mongo_core::pools::{Backend, PoolState, PooledConnection, Pools, PoolsConfig};
use mongo_core::{Error, ErrorKind, ServerAddress};
use mongo_testkit::Matcher;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{LIMIT, Sim, eventually, get_in_task, hold, one, ping, status_of, two};

on_both! {
    an_event_handler_may_use_the_pools,
}

on_both! {
    on a paused clock:
    unlimited_timeouts_do_not_overflow,
    a_pool_closed_alone_is_replaced,
    closed_pools_are_not_replaced,
    a_dropped_close_closes_all_connections_but_those_in_use,
    a_close_waits_for_rotated_pools,
    a_close_waits_for_replaced_pools,
    a_close_interrupts_retired_pools,
    a_logout_waits_for_pools_of_its_former_credential,
    concurrent_closes_wait_equally_long,
    concurrent_closes_both_wait_for_tasks,
    concurrent_logouts_wait_equally_long,
    a_close_does_not_wait_for_an_undriven_runtime,
}

/// Pools with a close timeout of two seconds.
fn impatient<B: Backend<Config: Default>>(sim: &Sim) -> Pools<B> {
    let config = PoolsConfig::default().with_close_timeout(Duration::from_secs(2));
    sim.builder("").config(config).build().expect("pools")
}

/// Keeps a connection in use for `seconds`, and checks that it is usable until then.
fn use_for<B: Backend>(mut held: PooledConnection<B>, seconds: u64) -> JoinHandle<()> {
    tokio::spawn(async move {
        sleep(Duration::from_secs(seconds)).await;
        let reply = held.run_command("db", &doc! {"ping": 1}).await;
        reply.expect("it still works");
    })
}

/// Runs a command that is never answered, and returns its error.
fn use_for_good<B: Backend>(mut held: PooledConnection<B>) -> JoinHandle<Error> {
    tokio::spawn(async move {
        let failed = held.run_command("db", &doc! {"find": "c"}).await;
        failed.map(drop).expect_err("interrupted")
    })
}

/// The seconds that a future takes, rounded. It has to complete within [`LIMIT`].
async fn seconds(taking: impl Future<Output = ()>) -> u64 {
    let begun = Instant::now();
    timeout(LIMIT, taking).await.expect("it ends");
    begun.elapsed().as_secs_f64().round() as u64
}

async fn unlimited_timeouts_do_not_overflow<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let config = PoolsConfig::default()
        .with_maintenance_interval(Duration::MAX)
        .with_unused_timeout(Duration::MAX)
        .with_wait_timeout(Duration::MAX)
        .with_close_timeout(Duration::MAX);
    let builder = sim.builder::<B>("minPoolSize=2").config(config);
    let pools = builder.build().expect("pools");
    ping(&pools).await.expect("a ping");
    // The maintenance has no interval, but it still creates missing connections.
    eventually("minPoolSize connections", || status_of(&pools).idle == 2).await;
    pools.close().await;
}

/// Runs on its own thread, which is left behind if it deadlocks.
async fn an_event_handler_may_use_the_pools<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let address: ServerAddress = sim.set.address(0).parse().expect("an address");
    let known: Arc<OnceLock<Pools<B>>> = Arc::default();
    let handler = {
        let known = known.clone();
        move |_: &_| {
            if let Some(pools) = known.get() {
                // The result does not matter: the pools may already be closed.
                let _ = pools.connect();
                let _ = pools.for_server(&address);
            }
        }
    };
    let pools = sim.builder::<B>("").on_sdam(handler).build();
    let pools = pools.expect("pools");
    assert!(known.set(pools.clone()).is_ok());
    let (done, connected) = oneshot::channel();
    let (connecting, runtime) = (pools.clone(), Handle::current());
    std::thread::spawn(move || {
        let _entered = runtime.enter();
        let _ = done.send(connecting.connect());
    });
    let connected = timeout(LIMIT, connected).await.expect("no deadlock");
    connected.expect("no panic").expect("connected");
    ping(&pools).await.expect("a ping");
    pools.close().await;
}

async fn a_pool_closed_alone_is_replaced<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("maxPoolSize=1");
    let held = hold(&pools, 1).await;
    let waiting = get_in_task(&pools);
    eventually("it waits", || status_of(&pools).waiting == 1).await;
    let pool = pools.for_server(held[0].server()).expect("its pool");
    pool.close();
    // Waiters and later callers use the next pool.
    let begun = Instant::now();
    let got = waiting.await.expect("no panic").expect("a connection");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    let next = pools.for_server(got.server()).expect("its pool");
    assert_eq!((pool.status().size, next.status().size), (1, 1));
    drop((held, got));
    ping(&pools).await.expect("a ping");
    let status = status_of(&pools);
    assert_eq!((status.state, status.created), (PoolState::Ready, 1));
    assert_eq!(pool.status().size, 0);
    pools.close().await;
}

async fn closed_pools_are_not_replaced<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("");
    let server = ping(&pools).await.expect("a ping");
    let one = pools.with_credential(one()).expect("a handle");
    ping(&one).await.expect("a ping");
    one.for_server(&server).expect("its pool").close();
    one.logout().await;
    let refused = one.for_server(&server).expect_err("logged out");
    assert!(matches!(refused.kind(), ErrorKind::PoolClosed), "{refused}");
    assert_eq!(status_of(&pools).state, PoolState::Ready);
    pools.for_server(&server).expect("its pool").close();
    pools.close().await;
    let refused = pools.for_server(&server).expect_err("closed");
    assert!(matches!(refused.kind(), ErrorKind::PoolClosed), "{refused}");
    assert!(pools.status().is_empty());
}

async fn a_dropped_close_closes_all_connections_but_those_in_use<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("");
    let mut held = pools.get().await.expect("a connection");
    let address = sim.set.address(0);
    assert!(sim.network.open_streams(&address) > 1, "the monitor's");
    {
        let mut closing = pin!(pools.close());
        let mut context = Context::from_waker(Waker::noop());
        assert!(closing.as_mut().poll(&mut context).is_pending());
    }
    eventually("one socket", || sim.network.open_streams(&address) == 1).await;
    let pinged = held.run_command("db", &doc! {"ping": 1}).await;
    pinged.expect("it still works");
    drop(held);
    eventually("no socket", || sim.network.open_streams(&address) == 0).await;
}

async fn a_close_waits_for_rotated_pools<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("").with_credential(one()).expect("a handle");
    let user = use_for(pools.get().await.expect("a connection"), 4);
    pools.rotate(two()).expect("a rotation");
    ping(&pools).await.expect("a ping");
    assert_eq!(seconds(pools.close()).await, 4);
    user.await.expect("no panic");
}

async fn a_close_waits_for_replaced_pools<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("");
    let held = pools.get().await.expect("a connection");
    let pool = pools.for_server(held.server()).expect("its pool");
    let user = use_for(held, 4);
    pool.close();
    ping(&pools).await.expect("a ping");
    assert_eq!(seconds(pools.close()).await, 4);
    user.await.expect("no panic");
}

async fn a_close_interrupts_retired_pools<B: Backend<Config: Default>>() {
    let sim = Sim::of(3).await;
    let leaving: ServerAddress = sim.set.address(2).parse().expect("an address");
    let pools = impatient::<B>(&sim);
    pools.connect().expect("connected");
    let known = || pools.topology().snapshot().server(&leaving).cloned();
    let takes_reads =
        || known().is_some_and(|entry| entry.description().server_type.is_data_bearing());
    eventually("it is known", takes_reads).await;
    for server in [0, 2] {
        let find = Matcher::command("find").never_answer();
        sim.set.server(server).script().add(find);
    }
    let left = pools.for_server(&leaving).expect("its pool");
    let left = left.get(LIMIT.into()).await.expect("a connection");
    let one = pools.with_credential(one()).expect("a handle");
    let logged_out = use_for_good(one.get().await.expect("a connection"));
    let left = use_for_good(left);
    sim.set.remove(2);
    eventually("it is gone", || known().is_none()).await;
    {
        let mut leaving = pin!(one.logout());
        let mut context = Context::from_waker(Waker::noop());
        assert!(leaving.as_mut().poll(&mut context).is_pending());
    }
    assert_eq!(seconds(pools.close()).await, 2);
    for user in [logged_out, left] {
        let error = timeout(LIMIT, user).await.expect("it ends");
        let error = error.expect("no panic");
        let interrupted = ErrorKind::ConnectionClosed(ClosedReason::Interrupted);
        assert_eq!(error.kind().to_string(), interrupted.to_string());
    }
}

async fn a_logout_waits_for_pools_of_its_former_credential<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = impatient::<B>(&sim);
    let (mine, other) = (
        pools.with_credential(one()).expect("a handle"),
        pools.with_credential(two()).expect("a handle"),
    );
    let others = use_for(other.get().await.expect("a connection"), 10);
    other
        .rotate(Credential::new("four", "fourth"))
        .expect("new");
    let rotated = use_for(mine.get().await.expect("a connection"), 1);
    mine.rotate(Credential::new("three", "third")).expect("new");
    assert_eq!(seconds(mine.logout()).await, 1);
    rotated.await.expect("no panic");
    // It does not wait for pools of another credential.
    others.await.expect("no panic");
    pools.close().await;
}

async fn concurrent_closes_wait_equally_long<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("");
    let user = use_for(pools.get().await.expect("a connection"), 5);
    let first = pools.clone();
    let first = tokio::spawn(async move { seconds(first.close()).await });
    sleep(Duration::from_millis(10)).await;
    assert_eq!(seconds(pools.close()).await, 5);
    assert_eq!(first.await.expect("no panic"), 5);
    user.await.expect("no panic");
    assert_eq!(seconds(pools.close()).await, 0);
}

async fn concurrent_closes_both_wait_for_tasks<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("");
    ping(&pools).await.expect("a ping");
    let is_over = Cell::new(false);
    let first = async {
        pools.close().await;
        is_over.set(true);
    };
    let second = async {
        pools.close().await;
        assert!(is_over.get(), "both waited for the tasks");
    };
    tokio::join!(first, second);
}

async fn concurrent_logouts_wait_equally_long<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("");
    let one = pools.with_credential(one()).expect("a handle");
    let user = use_for(one.get().await.expect("a connection"), 5);
    let first = one.clone();
    let first = tokio::spawn(async move { seconds(first.logout()).await });
    sleep(Duration::from_millis(10)).await;
    assert_eq!(seconds(one.logout()).await, 5);
    assert_eq!(first.await.expect("no panic"), 5);
    user.await.expect("no panic");
    pools.close().await;
}

async fn a_close_does_not_wait_for_an_undriven_runtime<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = impatient::<B>(&sim);
    let other = Builder::new_current_thread().enable_all().build();
    let other = other.expect("a runtime");
    {
        let _entered = other.enter();
        pools.connect().expect("connected");
    }
    assert_eq!(seconds(pools.close()).await, 2);
    other.shutdown_background();
}
