//! The cap on the connections to one server, across all credentials.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use mongo_core::bson::doc;
use mongo_core::error::Wait;
use mongo_core::event::{CmapEvent, EventHandlers};
use mongo_core::pools::{Backend, PoolStatus, PooledConnection, Pools, PoolsConfig};
use mongo_core::{Error, ErrorKind};
use mongo_testkit::{Action, Gate, Matcher};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    LIMIT, Tenants, eventually, get_in_task, handshake, hold, of_tenant, ping, settled, tenant_name,
};

on_both! {
    on a paused clock:
    the_least_recently_used_connection_makes_room,
    a_returned_slot_goes_to_the_pool_that_waited_longest,
    a_cancelled_waiter_takes_no_slot_from_others,
    a_waiter_served_from_its_pool_takes_no_slot_from_others,
    a_slot_is_released_however_its_connection_ends,
    a_detached_connection_keeps_its_slot,
    min_pool_size_takes_only_free_slots,
    min_pool_size_connections_make_room,
    pending_connections_are_limited_across_tenants,
    a_warm_up_at_a_full_cap_makes_room,
    a_warm_up_without_room_does_not_block_the_runtime,
    a_wait_for_a_slot_times_out,
    a_spare_connection_of_a_served_waiter_makes_room,
    a_spare_connection_of_a_dropped_waiter_makes_room,
}

/// Returns handles for `count` tenants of one server.
pub(crate) async fn tenants<B: Backend<Config: Default>>(
    count: usize,
    options: &str,
    cap: u32,
) -> (Tenants, Vec<Pools<B>>) {
    let tenants = Tenants::of(1, count).await;
    let pools = tenants.pools::<B>(options, cap);
    let handles = (0..count).map(|tenant| of_tenant(&pools, tenant));
    (tenants, handles.collect())
}

/// The pool of a tenant.
fn status_for<B: Backend>(pools: &[Pools<B>], tenant: usize) -> PoolStatus {
    let name = tenant_name(tenant);
    let mut status = pools[0].status().into_iter();
    let own = status.find(|pool| pool.user.as_deref() == Some(&name));
    own.expect("a pool")
}

/// The number of connections of each tenant that has a pool.
fn sizes<B: Backend>(pools: &[Pools<B>]) -> BTreeMap<String, usize> {
    let status = pools[0].status().into_iter();
    status
        .map(|pool| (pool.user.expect("a user").to_string(), pool.size))
        .collect()
}

fn of_sizes(sizes: &[usize]) -> BTreeMap<String, usize> {
    let named = |(tenant, size): (usize, &usize)| (tenant_name(tenant), *size);
    sizes.iter().enumerate().map(named).collect()
}

/// The most connections that the server had open at a time, without the monitors'.
pub(crate) fn most_open(tenants: &Tenants) -> u64 {
    tenants.set.server(0).look(|seen| seen.most_open) - 2
}

pub(crate) async fn waits<B: Backend>(pools: &[Pools<B>], tenant: usize, count: usize) {
    eventually("it waits", || {
        let name = tenant_name(tenant);
        let status = pools[0].status().into_iter();
        let mut own = status.filter(|pool| pool.user.as_deref() == Some(&name));
        own.any(|pool| pool.waiting == count)
    })
    .await;
}

/// A check-out with a tenant's handle, once it waits.
async fn wait_for<B: Backend>(
    pools: &[Pools<B>],
    tenant: usize,
) -> JoinHandle<Result<PooledConnection<B>, Error>> {
    let waiting = get_in_task(&pools[tenant]);
    waits(pools, tenant, 1).await;
    waiting
}

async fn got<B: Backend>(
    waiting: JoinHandle<Result<PooledConnection<B>, Error>>,
) -> PooledConnection<B> {
    waiting.await.expect("no panic").expect("a connection")
}

async fn the_least_recently_used_connection_makes_room<B: Backend<Config: Default>>() {
    let (server, pools) = tenants::<B>(5, "", 3).await;
    for tenant in [0, 1, 2, 0] {
        ping(&pools[tenant]).await.expect("a ping");
    }
    assert_eq!(sizes(&pools), of_sizes(&[1, 1, 1]), "there is room for all");
    ping(&pools[3]).await.expect("a ping");
    assert_eq!(sizes(&pools), of_sizes(&[1, 0, 1, 1]));
    // A connection in use makes no room.
    let held = pools[2].get().await.expect("a connection");
    ping(&pools[4]).await.expect("a ping");
    assert_eq!(sizes(&pools), of_sizes(&[0, 0, 1, 1, 1]));
    for (tenant, closed) in [(0, 1), (1, 1), (2, 0), (3, 0), (4, 0)] {
        assert_eq!(status_for(&pools, tenant).closed.idle, closed, "{tenant}");
    }
    drop(held);
    assert_eq!(most_open(&server), 3);
    pools[0].close().await;
}

async fn a_returned_slot_goes_to_the_pool_that_waited_longest<B: Backend<Config: Default>>() {
    let (server, pools) = tenants::<B>(3, "", 2).await;
    let mut held = hold(&pools[0], 2).await;
    let first = wait_for(&pools, 1).await;
    let second = wait_for(&pools, 2).await;
    // The pool that holds all connections also waits, after the others.
    let last = wait_for(&pools, 0).await;
    drop(held.pop());
    let first = got(first).await;
    assert!(!second.is_finished() && !last.is_finished());
    drop(first);
    let second = got(second).await;
    assert!(!last.is_finished());
    drop(second);
    drop(got(last).await);
    drop(held);
    assert_eq!(most_open(&server), 2);
    pools[0].close().await;
}

async fn a_cancelled_waiter_takes_no_slot_from_others<B: Backend<Config: Default>>() {
    let (_server, pools) = tenants::<B>(2, "", 1).await;
    let held = pools[0].get().await.expect("a connection");
    let id = held.id();
    let waiting = wait_for(&pools, 1).await;
    waiting.abort();
    waits(&pools, 1, 0).await;
    drop(held);
    let again = pools[0].get().await.expect("a connection");
    assert_eq!(again.id(), id, "no waiter needed its slot");
    drop(again);
    pools[0].close().await;
}

async fn a_waiter_served_from_its_pool_takes_no_slot_from_others<B: Backend<Config: Default>>() {
    let (_server, pools) = tenants::<B>(2, "", 2).await;
    let (own, other) = (hold(&pools[0], 1).await, hold(&pools[1], 1).await);
    let waiting = wait_for(&pools, 0).await;
    drop(own);
    let own = got(waiting).await;
    let id = other[0].id();
    drop(other);
    let again = pools[1].get().await.expect("a connection");
    assert_eq!(again.id(), id, "no waiter needed its slot");
    drop((own, again));
    pools[0].close().await;
}

async fn a_slot_is_released_however_its_connection_ends<B: Backend<Config: Default>>() {
    let (server, pools) = tenants::<B>(2, "heartbeatFrequencyMS=500", 1).await;
    ping(&pools[0]).await.expect("the monitors are connected");
    let member = server.set.server(0);
    settled(member, 1).await;
    // The connection fails while in use.
    let mut held = pools[0].get().await.expect("a connection");
    let waiting = wait_for(&pools, 1).await;
    member
        .script()
        .add(Matcher::command("find").once().drop_connection());
    let failed = held.run_command("db", &doc! {"find": "c"}).await.map(drop);
    failed.expect_err("the server hung up");
    drop(held);
    drop(got(waiting).await);
    // The attempt fails.
    member.script().add(handshake().once().drop_connection());
    pools[0].get().await.expect_err("the server hung up");
    drop(pools[1].get().await.expect("a connection"));
    // The caller is cancelled before the connection is made.
    let gate = Gate::new();
    let rule = handshake().once().then(Action::WaitFor(gate.clone()));
    let rule = member.script().add(rule);
    let attempt = get_in_task(&pools[0]);
    eventually("the attempt", || member.script().applied(rule) == 1).await;
    attempt.abort();
    gate.open();
    drop(got(wait_for_any(&pools, 1)).await);
    // Its pool is cleared.
    drop(pools[0].get().await.expect("a connection"));
    server.set.kill(0).await;
    eventually("no connection", || sizes(&pools) == of_sizes(&[0, 0])).await;
    server.set.restart(0).await;
    server.set.elect(0);
    drop(pools[1].get().await.expect("a connection"));
    // Its credential is logged out.
    let held = pools[1].get().await.expect("a connection");
    let waiting = wait_for(&pools, 0).await;
    let leaving = pools[1].clone();
    let leaving = tokio::spawn(async move { leaving.logout().await });
    drop(held);
    drop(got(waiting).await);
    leaving.await.expect("no panic");
    assert_eq!(most_open(&server), 1);
    pools[0].close().await;
}

fn wait_for_any<B: Backend>(
    pools: &[Pools<B>],
    tenant: usize,
) -> JoinHandle<Result<PooledConnection<B>, Error>> {
    get_in_task(&pools[tenant])
}

async fn a_detached_connection_keeps_its_slot<B: Backend<Config: Default>>() {
    let (server, pools) = tenants::<B>(2, "", 1).await;
    let held = pools[0].get().await.expect("a connection");
    let mut detached = PooledConnection::detach(held);
    assert_eq!(status_for(&pools, 0).size, 0, "its pool no longer has it");
    let waiting = wait_for(&pools, 1).await;
    sleep(Duration::from_secs(5)).await;
    assert!(!waiting.is_finished(), "the server still has it open");
    let answered = detached
        .run_command("db", &doc! {"ping": 1})
        .await
        .map(drop);
    answered.expect("it still works");
    drop(detached);
    drop(got(waiting).await);
    assert_eq!(most_open(&server), 1);
    pools[0].close().await;
}

async fn min_pool_size_takes_only_free_slots<B: Backend<Config: Default>>() {
    let (server, pools) = tenants::<B>(3, "minPoolSize=2", 3).await;
    for pools in &pools[..2] {
        ping(pools).await.expect("a ping");
    }
    let all = || sizes(&pools).values().sum::<usize>();
    eventually("all slots are taken", || all() == 3).await;
    // Pools do not take connections from each other in turns.
    let made = || status_for(&pools, 0).created + status_for(&pools, 1).created;
    let before = made();
    sleep(Duration::from_secs(300)).await;
    assert_eq!((made(), all()), (before, 3));
    assert_eq!(most_open(&server), 3);
    pools[0].close().await;
}

async fn min_pool_size_connections_make_room<B: Backend<Config: Default>>() {
    let (server, pools) = tenants::<B>(2, "minPoolSize=2", 2).await;
    ping(&pools[0]).await.expect("a ping");
    eventually("minPoolSize connections", || {
        status_for(&pools, 0).idle == 2
    })
    .await;
    let held = pools[1].get().await.expect("a connection");
    assert_eq!(sizes(&pools), of_sizes(&[1, 1]));
    drop(held);
    assert_eq!(most_open(&server), 2);
    pools[0].close().await;
}

async fn a_wait_for_a_slot_times_out<B: Backend<Config: Default>>() {
    let (_server, pools) = tenants::<B>(2, "waitQueueTimeoutMS=200", 2).await;
    let held = hold(&pools[0], 2).await;
    let late = pools[1].get().await.expect_err("no slot");
    let ErrorKind::Timeout { wait, after } = late.kind() else {
        panic!("{late}");
    };
    assert_eq!(*wait, Wait::WaitQueue);
    assert!(*after >= Duration::from_millis(200), "{after:?}");
    assert_eq!(late.user(), Some(&*tenant_name(1)));
    // Its own pool is empty: other tenants have the connections.
    let cause = late.cause().expect("the connections in use").to_string();
    assert!(cause.contains("max_connections_per_server=2"), "{cause}");
    drop(held);
    drop(pools[1].get().await.expect("a connection"));
    pools[0].close().await;
}

/// Polls a future once, which must be pending.
async fn begin<F: Future>(mut waits: Pin<&mut F>) {
    poll_fn(|context| {
        assert!(waits.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
}

async fn a_spare_connection_of_a_served_waiter_makes_room<B: Backend<Config: Default>>() {
    let (_server, pools) = tenants::<B>(2, "waitQueueTimeoutMS=3000", 2).await;
    let held = pools[0].get().await.expect("a connection");
    let mut waits = pin!(pools[0].get());
    // Polled only once: not again before there are two connections that it could get.
    begin(waits.as_mut()).await;
    sleep(Duration::from_secs(1)).await;
    drop(held);
    let served = waits.await.expect("either");
    ping(&pools[1]).await.expect("the other one makes room");
    drop(served);
    pools[0].close().await;
}

async fn a_spare_connection_of_a_dropped_waiter_makes_room<B: Backend<Config: Default>>() {
    let (_server, pools) = tenants::<B>(2, "waitQueueTimeoutMS=3000", 2).await;
    let held = pools[0].get().await.expect("a connection");
    {
        let mut gone = pin!(pools[0].get());
        // Polled only until it waits: it is dropped without taking the new connection.
        begin(gone.as_mut()).await;
        sleep(Duration::from_secs(1)).await;
    }
    ping(&pools[1]).await.expect("it makes room");
    drop(held);
    pools[0].close().await;
}

async fn pending_connections_are_limited_across_tenants<B: Backend<Config: Default>>() {
    let tenants = Tenants::of(1, 41).await;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (pending, highest) = (now.clone(), most.clone());
    let handlers = EventHandlers::new().on_cmap(move |event| match event {
        CmapEvent::ConnectionCreated(_) => {
            let pending = pending.fetch_add(1, Ordering::SeqCst) + 1;
            highest.fetch_max(pending, Ordering::SeqCst);
        }
        CmapEvent::ConnectionReady(_) => {
            pending.fetch_sub(1, Ordering::SeqCst);
        }
        _ => {}
    });
    let config = PoolsConfig::default().with_max_connecting_per_server(3);
    let pools = tenants.builder::<B>("", config).event_handlers(handlers);
    let pools = pools.build().expect("pools");
    drop(
        of_tenant(&pools, 40)
            .get()
            .await
            .expect("the server is known"),
    );
    let slow = handshake().then(Action::Delay(Duration::from_millis(50)));
    tenants.set.server(0).script().add(slow);
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut running = JoinSet::new();
    for tenant in 0..40 {
        let (tenant_pools, order) = (of_tenant(&pools, tenant), order.clone());
        running.spawn(async move {
            let connection = tenant_pools.get().await.expect("served");
            order.lock().expect("no panic").push(tenant);
            connection
        });
    }
    let held = timeout(LIMIT, running.join_all()).await.expect("in time");
    assert_eq!(held.len(), 40);
    assert_eq!(most.load(Ordering::SeqCst), 3);
    assert_eq!(now.load(Ordering::SeqCst), 0);
    let order = order.lock().expect("no panic").clone();
    // Three connections are made at a time.
    let mut places = order.iter().enumerate();
    let is_in_turn = places.all(|(place, tenant)| place.abs_diff(*tenant) < 6);
    assert!(is_in_turn, "first in, first out: {order:?}");
    drop(held);
    pools.close().await;
}

async fn a_warm_up_at_a_full_cap_makes_room<B: Backend<Config: Default>>() {
    let (server, pools) = tenants::<B>(2, "", 2).await;
    drop(hold(&pools[0], 2).await);
    pools[1].warm_up().await.expect("room");
    assert_eq!(sizes(&pools), of_sizes(&[1, 1]));
    assert_eq!(most_open(&server), 2);
    pools[0].close().await;
}

/// Each round gets the connection that the pool has.
async fn a_warm_up_without_room_does_not_block_the_runtime<B: Backend<Config: Default>>() {
    let options = "&minPoolSize=2&waitQueueTimeoutMS=2000&serverSelectionTimeoutMS=2000";
    let (_server, pools) = tenants::<B>(2, options, 2).await;
    let held = pools[0].get().await.expect("a connection");
    drop(pools[1].get().await.expect("a connection"));
    let (begun, turns) = (Instant::now(), AtomicUsize::new(0));
    let others = async {
        loop {
            turns.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(100)).await;
        }
    };
    let warmed = tokio::select! {
        warmed = pools[1].warm_up() => warmed,
        () = others => unreachable!("it never ends"),
    };
    let error = warmed.expect_err("the cap is full");
    assert!(error.is_timeout(), "{error:?}");
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    assert!(turns.load(Ordering::Relaxed) > 10);
    drop(held);
    pools[0].close().await;
}
