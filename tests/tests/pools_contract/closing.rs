//! Close, and the end of pools.

use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use mongo_core::bson::doc;
use mongo_core::error::ClosedReason;
use mongo_core::pools::{
    Backend, CheckBudget, ManagerConfig, PooledConnection, Pools, PoolsConfig, RecyclingMethod,
    ServerPool,
};
use mongo_core::select::{ReadPreference, ReadPreferenceMode};
use mongo_core::{Error, ErrorKind, ServerAddress};
use mongo_testkit::{Deployment, Matcher};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::support::{Kept, Sim, eventually, get_in_task, hold, ping, pools, status_of};

on_both! {
    no_connection_or_task_outlives_a_close,
    no_connection_or_task_outlives_the_last_handle,
}

on_both! {
    on a paused clock:
    a_close_waits_for_connections_in_use,
    a_close_interrupts_connections_after_the_close_timeout,
    a_close_fails_waiters_at_once,
    a_close_fails_server_selections_at_once,
    a_removed_server_closes_its_pool,
    for_server_returns_the_pool_of_a_server,
    a_connection_being_checked_is_not_handed_out_of_a_closed_pool,
    a_check_fails_if_its_pool_was_closed,
}

async fn use_all<B: Backend<Config: Default>>(set: &Deployment) -> mongo_core::pools::Pools<B> {
    let pools = pools::<B>(&format!("{}&minPoolSize=2", set.uri()));
    drop(hold(&pools, 5).await);
    let secondary = ReadPreference::new(ReadPreferenceMode::Secondary);
    drop(pools.read(secondary).await.expect("a secondary"));
    pools
}

async fn all_sockets_are_closed(set: &Deployment) {
    for server in 0..set.len() {
        let server = set.server(server);
        server.wait_for("no socket", |seen| seen.open == 0).await;
    }
}

/// The reply to the connection's check has arrived, but is not read yet.
async fn a_connection_being_checked_is_not_handed_out_of_a_closed_pool<B>()
where
    B: Backend<Config: Default>,
{
    let refused = checked_until::<B>(ServerPool::close).await;
    assert!(matches!(refused.kind(), ErrorKind::PoolClosed), "{refused}");
    let refused = checked_until::<B>(|pool| pool.clear(false)).await;
    assert!(
        matches!(refused.kind(), ErrorKind::PoolCleared),
        "{refused}"
    );
}

/// The same where nobody else looks at the pool: in the check of a generic pool.
async fn a_check_fails_if_its_pool_was_closed<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let verified = ManagerConfig::new(RecyclingMethod::Verified);
    let builder = sim.builder("").manager_config(verified);
    let pools: Pools<B> = builder.build().expect("pools");
    let mut connection = pools.get().await.expect("a connection");
    let pool = pools.for_server(connection.server()).expect("its pool");
    let (second, mut budget) = (Duration::from_secs(1), CheckBudget::default());
    let recycle = pool
        .factory()
        .recycle(&mut connection, second.into(), &mut budget);
    let closes = async { pool.close() };
    let (checked, ()) = tokio::join!(recycle, closes);
    let error = checked.expect_err("the pool is closed");
    let stale = ErrorKind::ConnectionClosed(ClosedReason::Stale);
    assert_eq!(error.kind().to_string(), stale.to_string());
    drop(connection);
    pools.close().await;
}

/// The error of a caller whose connection was being checked when its pool ended.
async fn checked_until<B>(end: impl Fn(&ServerPool<B>)) -> Error
where
    B: Backend<Config: Default>,
{
    let sim = Sim::of(1).await;
    let kept = Kept::default();
    let pools: Pools<B> = sim
        .builder("")
        .manager_config(ManagerConfig::new(RecyclingMethod::Verified))
        .event_handlers(kept.handlers())
        .build()
        .expect("pools");
    let server = pools.get().await.expect("a connection").server().clone();
    let pool = pools.for_server(&server).expect("its pool");
    let second = Duration::from_secs(1);
    let mut checked = pin!(pool.get(second.into()));
    let mut context = Context::from_waker(Waker::noop());
    assert!(checked.as_mut().poll(&mut context).is_pending());
    sleep(second / 2).await;
    end(&pool);
    let refused = checked.await.map(drop).expect_err("the pool has ended");
    assert_eq!(kept.count("ConnectionCheckedOut"), 1, "the first one");
    assert_eq!(pool.status().size, 0);
    pools.close().await;
    refused
}

async fn no_connection_or_task_outlives_a_close<B: Backend<Config: Default>>() {
    let set = Deployment::replica_set("rs").members(3).start().await;
    let before = Handle::current().metrics().num_alive_tasks();
    let pools = use_all::<B>(&set).await;
    pools.close().await;
    all_sockets_are_closed(&set).await;
    // The set has a task for each connection, which ends with it.
    eventually("no task", || {
        Handle::current().metrics().num_alive_tasks() <= before
    })
    .await;
    drop(pools);
}

async fn no_connection_or_task_outlives_the_last_handle<B: Backend<Config: Default>>() {
    let set = Deployment::replica_set("rs").members(3).start().await;
    let before = Handle::current().metrics().num_alive_tasks();
    let pools = use_all::<B>(&set).await;
    let other = pools.clone();
    let held = pools.get().await.expect("a connection");
    drop(pools);
    ping(&other).await.expect("a handle is left");
    drop(other);
    // A connection in use stays open until it is returned.
    eventually("all but one", || set.server(0).look(|seen| seen.open) == 1).await;
    drop(held);
    all_sockets_are_closed(&set).await;
    eventually("no task", || {
        Handle::current().metrics().num_alive_tasks() <= before
    })
    .await;
}

async fn a_close_waits_for_connections_in_use<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("");
    let mut held = pools.get().await.expect("a connection");
    let user = tokio::spawn(async move {
        sleep(Duration::from_secs(5)).await;
        held.run_command("db", &doc! {"ping": 1})
            .await
            .expect("it still works");
    });
    let begun = Instant::now();
    pools.close().await;
    let took = begun.elapsed();
    assert!((5..6).contains(&took.as_secs()), "{took:?}");
    user.await.expect("no panic");
    let address = sim.set.address(0);
    eventually("no socket", || sim.network.open_streams(&address) == 0).await;
}

async fn a_close_interrupts_connections_after_the_close_timeout<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let config = PoolsConfig::default().with_close_timeout(Duration::from_secs(2));
    let pools = sim.builder::<B>("").config(config).build().expect("pools");
    let mut held = pools.get().await.expect("a connection");
    sim.set
        .server(0)
        .script()
        .add(Matcher::command("find").never_answer());
    let user = tokio::spawn(async move {
        let failed = held.run_command("db", &doc! {"find": "c"}).await.map(drop);
        failed.expect_err("interrupted")
    });
    sleep(Duration::from_millis(10)).await;
    let begun = Instant::now();
    pools.close().await;
    let took = begun.elapsed();
    assert!((2..3).contains(&took.as_secs()), "{took:?}");
    let error = user.await.expect("no panic");
    assert!(
        matches!(
            error.kind(),
            ErrorKind::ConnectionClosed(ClosedReason::Interrupted)
        ),
        "{error}"
    );
}

/// Closes the pools. The waiter fails at once, although a connection is still in use.
async fn told_of_a_close<B: Backend>(
    pools: &Pools<B>,
    waiting: JoinHandle<Result<PooledConnection<B>, Error>>,
    held: Vec<PooledConnection<B>>,
) {
    let begun = Instant::now();
    let closing = pools.clone();
    let closing = tokio::spawn(async move { closing.close().await });
    let refused = waiting.await.expect("no panic").expect_err("closed");
    assert!(matches!(refused.kind(), ErrorKind::PoolClosed), "{refused}");
    assert!(
        begun.elapsed() < Duration::from_millis(10),
        "{:?}",
        begun.elapsed()
    );
    drop(held);
    closing.await.expect("no panic");
}

async fn a_close_fails_waiters_at_once<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("maxPoolSize=1");
    let held = hold(&pools, 1).await;
    let waiting = get_in_task(&pools);
    eventually("it waits", || status_of(&pools).waiting == 1).await;
    told_of_a_close(&pools, waiting, held).await;
}

async fn a_close_fails_server_selections_at_once<B: Backend<Config: Default>>() {
    let sim = Sim::of(2).await;
    let pools = sim.pools::<B>("");
    let held = hold(&pools, 1).await;
    sim.set.step_down(0);
    let known = || pools.topology().description();
    eventually("no primary is known", || known().primary().is_none()).await;
    let waiting = get_in_task(&pools);
    // Gives the selection time to start: nothing else shows it.
    sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    told_of_a_close(&pools, waiting, held).await;
}

async fn a_removed_server_closes_its_pool<B: Backend<Config: Default>>() {
    let sim = Sim::of(3).await;
    let pools = sim.pools::<B>("maxPoolSize=1");
    let leaving: ServerAddress = sim.set.address(2).parse().expect("an address");
    pools.connect().expect("connected");
    eventually("all are known", || {
        pools.topology().snapshot().server(&leaving).is_some()
    })
    .await;
    ping(&pools).await.expect("a ping");
    sleep(Duration::from_secs(1)).await;
    let pool = pools.for_server(&leaving).expect("a pool");
    let deadline = || Duration::from_secs(5).into();
    let mut held = pool.get(deadline()).await.expect("a connection");
    let waiting = {
        let pool = pool.clone();
        tokio::spawn(async move { pool.get(Duration::from_secs(5).into()).await })
    };
    sleep(Duration::from_millis(10)).await;
    sim.set.remove(2);
    let refused = waiting.await.expect("no panic").expect_err("it left");
    assert!(matches!(refused.kind(), ErrorKind::PoolClosed), "{refused}");
    let unknown = pools.for_server(&leaving).expect_err("no such server");
    assert!(
        unknown.to_string().contains(&leaving.to_string()),
        "{unknown}"
    );
    // A connection in use stays usable, and closes when it is returned.
    held.run_command("db", &doc! {"ping": 1})
        .await
        .expect("it still works");
    drop(held);
    eventually("no socket", || {
        sim.network.open_streams(&sim.set.address(2)) == 0
    })
    .await;
    assert!(pools.status().iter().all(|pool| pool.server != leaving));
    pools.close().await;
}

async fn for_server_returns_the_pool_of_a_server<B: Backend<Config: Default>>() {
    let sim = Sim::of(3).await;
    let pools = sim.pools::<B>("");
    ping(&pools).await.expect("a ping");
    sleep(Duration::from_secs(1)).await;
    for server in 0..3 {
        let address: ServerAddress = sim.set.address(server).parse().expect("an address");
        let pool = pools.for_server(&address).expect("a pool");
        let got = pool.get(Duration::from_secs(5).into()).await;
        assert_eq!(*got.expect("a connection").server(), address);
    }
    assert_eq!(pools.status().len(), 3);
    let nowhere: ServerAddress = "nowhere.test:1".parse().expect("an address");
    pools.for_server(&nowhere).expect_err("no such server");
    pools.close().await;
}
