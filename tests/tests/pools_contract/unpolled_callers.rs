//! Callers that get a bad connection, are not polled or leave, and hung attempts: none of them
//! delays other tenants.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use mongo_core::auth::Credential;
use mongo_core::bson::doc;
use mongo_core::net::CredentialProvider;
use mongo_core::pools::{
    Backend, ManagerConfig, PoolStatus, PooledConnection, Pools, PoolsConfig, ServerPool,
};
use mongo_core::select::Criterion;
use mongo_core::{Deadline, Error};
use mongo_testkit::{Action, Matcher};
use tokio::time::{Instant, sleep, timeout};

use crate::slots::waits;
use crate::support::{
    LIMIT, Sim, Tenants, begin, eventually, get_in_task, handshake, hold, of_tenant, one, ping,
    pool_of, settled, status_of, tenant_name,
};

on_both! {
    on a paused clock:
    a_waiter_whose_connection_fails_its_check_takes_an_idle_one,
    a_waiter_whose_connection_fails_its_check_keeps_its_turn,
    an_unpolled_waiter_keeps_no_idle_connection_from_other_tenants,
    a_waiter_whose_connection_made_room_waits_for_another_one,
    an_abandoned_attempt_gives_its_permit_to_another_tenant,
    an_abandoned_attempt_gives_its_slot_to_another_tenant,
    a_later_waiter_does_not_inherit_the_turn_of_one_that_left,
    an_attempt_with_an_old_secret_fails_no_later_caller,
    callers_with_short_timeouts_do_not_starve_another_tenant,
    an_attempt_with_an_old_secret_fails_no_attempt_with_a_new_one,
    a_close_does_not_wait_for_an_unpolled_waiter,
    a_hung_attempt_blocks_no_tenant_without_a_connect_timeout,
    a_later_waiter_does_not_inherit_the_turn_of_one_served_from_its_pool,
}

async fn get<B: Backend>(pool: &ServerPool<B>) -> PooledConnection<B> {
    pool.get(Deadline::after(LIMIT))
        .await
        .expect("a connection")
}

/// Returns a connection that owes a reply, which never arrives.
async fn return_owing<B: Backend>(mut connection: PooledConnection<B>) {
    let find = doc! {"find": "c"};
    let cut = timeout(
        Duration::from_millis(50),
        connection.run_command("db", &find),
    );
    assert!(cut.await.is_err());
    drop(connection);
}

fn slow_drains() -> ManagerConfig {
    let mut manager = ManagerConfig::default();
    manager.drain_timeout = Some(Duration::from_secs(2));
    manager
}

async fn a_waiter_whose_connection_fails_its_check_takes_an_idle_one<
    B: Backend<Config: Default>,
>() {
    let sim = Sim::of(1).await;
    let pool = pool_of::<B>(
        &sim,
        "maxPoolSize=3&maxConnecting=1&connectTimeoutMS=60000",
        slow_drains(),
    );
    let (bad, good) = (get(&pool).await, get(&pool).await);
    let script = sim.set.server(0).script();
    script.add(Matcher::command("find").never_answer());
    script.add(handshake().never_answer());
    let waits = {
        let pool = pool.clone();
        tokio::spawn(async move { pool.get(Deadline::after(LIMIT)).await })
    };
    eventually("its attempt", || pool.status().pending == 1).await;
    return_owing(bad).await;
    sleep(Duration::from_secs(1)).await;
    drop(good);
    let served = timeout(Duration::from_secs(5), waits).await;
    let status = pool.status();
    let served = served.unwrap_or_else(|_| panic!("it waits beside an idle one: {status:?}"));
    drop(served.expect("no panic").expect("a connection"));
}

async fn a_waiter_whose_connection_fails_its_check_keeps_its_turn<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pool = pool_of::<B>(&sim, "maxPoolSize=5&maxConnecting=1", slow_drains());
    let bad = get(&pool).await;
    let script = sim.set.server(0).script();
    script.add(Matcher::command("find").never_answer());
    script.add(handshake().then(Action::Delay(Duration::from_secs(4))));
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for caller in 0..3 {
        let (own, order) = (pool.clone(), order.clone());
        tasks.push(tokio::spawn(async move {
            let got = own.get(Deadline::after(LIMIT)).await.expect("served");
            order.lock().expect("no panic").push(caller);
            got
        }));
        eventually("it waits", || pool.status().waiting == caller + 1).await;
    }
    return_owing(bad).await;
    let mut held = Vec::new();
    for task in tasks {
        held.push(task.await.expect("no panic"));
    }
    assert_eq!(*order.lock().expect("no panic"), [0, 1, 2]);
}

async fn tenants<B: Backend<Config: Default>>(
    count: usize,
    options: &str,
    config: PoolsConfig,
) -> (Tenants, Vec<Pools<B>>) {
    let tenants = Tenants::of(1, count).await;
    let pools = tenants
        .builder::<B>(options, config)
        .build()
        .expect("pools");
    let handles = (0..count).map(|tenant| of_tenant(&pools, tenant));
    (tenants, handles.collect())
}

async fn an_unpolled_waiter_keeps_no_idle_connection_from_other_tenants<
    B: Backend<Config: Default>,
>() {
    let config = PoolsConfig::default().with_max_connections_per_server(2);
    let (_server, pools) = tenants::<B>(2, "waitQueueTimeoutMS=5000", config).await;
    let held = pools[0].get().await.expect("a connection");
    let mut unpolled = Box::pin(pools[0].get());
    begin(unpolled.as_mut()).await;
    // Its connection is made, but it is not polled.
    two_made(|| status_of_tenant(&pools, 0)).await;
    drop(held);
    let served = timeout(Duration::from_secs(10), ping(&pools[1])).await;
    served
        .expect("in time")
        .expect("the idle one makes room for another tenant");
    drop(unpolled);
    pools[0].close().await;
}

async fn a_waiter_whose_connection_made_room_waits_for_another_one<B: Backend<Config: Default>>() {
    let config = PoolsConfig::default().with_max_connections_per_server(2);
    let (_server, pools) = tenants::<B>(2, "", config).await;
    let held = pools[0].get().await.expect("a connection");
    let other = pools[1].get().await.expect("the last one");
    let write = Criterion::write();
    // It selects a server once, so an error of its pool would be its own.
    let mut unpolled = Box::pin(pools[0].get_by(LIMIT, &write, &[]));
    begin(unpolled.as_mut()).await;
    // It is served with that one, but not polled.
    drop(held);
    eventually("it is served", || status_of_tenant(&pools, 0).idle == 1).await;
    let served = timeout(LIMIT, pools[1].get()).await.expect("in time");
    drop((other, served.expect("the idle one makes room")));
    drop(unpolled.await.expect("another one"));
    pools[0].close().await;
}

fn status_of_tenant<B: Backend>(pools: &[Pools<B>], tenant: usize) -> PoolStatus {
    let name = tenant_name(tenant);
    let mut status = pools[0].status().into_iter();
    let own = status.find(|pool| pool.user.as_deref() == Some(&name));
    own.expect("a pool of the tenant")
}

/// Waits until a pool has two connections that are made: one in use, and that of its waiter.
async fn two_made(status: impl Fn() -> PoolStatus) {
    let is_made = |own: PoolStatus| (own.size, own.pending) == (2, 0);
    eventually("its connection", || is_made(status())).await;
}

/// A caller of tenant 0 times out and leaves a hung attempt.
async fn leave_an_attempt<B: Backend>(server: &Tenants, pools: &[Pools<B>]) {
    ping(&pools[1]).await.expect("the server is known");
    let member = server.set.server(0);
    settled(member, 1).await;
    member.script().add(handshake().once().never_answer());
    let bound = Duration::from_millis(200);
    let late = pools[0].get_by(bound, &Criterion::write(), &[]).await;
    assert!(late.expect_err("no answer").is_timeout());
}

async fn an_abandoned_attempt_gives_its_permit_to_another_tenant<B: Backend<Config: Default>>() {
    let config = PoolsConfig::default().with_max_connecting_per_server(1);
    let (server, pools) = tenants::<B>(3, "", config).await;
    leave_an_attempt(&server, &pools).await;
    let begun = Instant::now();
    drop(pools[2].get().await.expect("served"));
    let waited = begun.elapsed();
    assert!(waited < Duration::from_secs(2), "{waited:?}");
    pools[0].close().await;
}

async fn an_abandoned_attempt_gives_its_slot_to_another_tenant<B: Backend<Config: Default>>() {
    let config = PoolsConfig::default().with_max_connections_per_server(2);
    let (server, pools) = tenants::<B>(3, "", config).await;
    let held = pools[1].get().await.expect("the server is known");
    leave_after(&server, &pools, held).await;
}

async fn leave_after<B: Backend>(server: &Tenants, pools: &[Pools<B>], held: PooledConnection<B>) {
    let member = server.set.server(0);
    settled(member, 1).await;
    member.script().add(handshake().once().never_answer());
    let bound = Duration::from_millis(200);
    let late = pools[0].get_by(bound, &Criterion::write(), &[]).await;
    assert!(late.expect_err("no answer").is_timeout());
    let begun = Instant::now();
    drop(pools[2].get().await.expect("served"));
    let waited = begun.elapsed();
    assert!(waited < Duration::from_secs(2), "{waited:?}");
    drop(held);
    pools[0].close().await;
}

async fn a_later_waiter_does_not_inherit_the_turn_of_one_that_left<B: Backend<Config: Default>>() {
    let config = PoolsConfig::default().with_max_connections_per_server(1);
    let (_server, pools) = tenants::<B>(3, "", config).await;
    let held = pools[2].get().await.expect("a connection");
    let first = get_in_task(&pools[0]);
    waits(&pools, 0, 1).await;
    let second = get_in_task(&pools[1]);
    waits(&pools, 1, 1).await;
    let third = get_in_task(&pools[0]);
    waits(&pools, 0, 2).await;
    first.abort();
    waits(&pools, 0, 1).await;
    drop(held);
    let second = timeout(Duration::from_secs(2), second).await;
    let was_overtaken = third.is_finished();
    let second = second.unwrap_or_else(|_| panic!("overtaken: {was_overtaken}"));
    drop(second.expect("no panic").expect("served"));
    drop(third.await.expect("no panic").expect("served"));
    pools[0].close().await;
}

/// Supplies the old secret until it is changed.
struct Changing(Mutex<bool>);

#[async_trait]
impl CredentialProvider for Changing {
    async fn credential(&self) -> Result<Arc<Credential>, Error> {
        let is_changed = *self.0.lock().expect("no panic");
        let old = Credential::new("one", "old").with_source("admin");
        Ok(Arc::new(if is_changed { one() } else { old }))
    }
}

async fn an_attempt_with_an_old_secret_fails_no_later_caller<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let provider = Arc::new(Changing(Mutex::new(false)));
    let pools: Pools<B> = sim
        .builder("maxConnecting=1")
        .credential_provider(provider.clone())
        .build()
        .expect("pools");
    let slow = Action::Delay(Duration::from_millis(500));
    sim.set
        .server(0)
        .script()
        .add(Matcher::command("saslContinue").once().then(slow));
    let bound = Duration::from_millis(200);
    let late = pools.get_by(bound, &Criterion::write(), &[]).await;
    let late = late.map(drop).expect_err("no answer");
    assert!(late.is_timeout(), "{late}");
    assert_eq!(status_of(&pools).pending, 1);
    *provider.0.lock().expect("no panic") = true;
    drop(pools.get().await.expect("the new secret is right"));
    pools.close().await;
}

/// The server does not answer the repeated attempts of tenant 0, but would answer tenant 1.
async fn callers_with_short_timeouts_do_not_starve_another_tenant<B: Backend<Config: Default>>() {
    let config = PoolsConfig::default().with_max_connections_per_server(2);
    let (server, pools) = tenants::<B>(2, "connectTimeoutMS=60000", config).await;
    let held = pools[1].get().await.expect("a connection");
    settled(server.set.server(0), 1).await;
    let hung = Matcher::command("saslStart").times(1000);
    let hung = hung
        .when(|start| {
            let payload = start.get_binary_generic("payload");
            payload.is_ok_and(|bytes| String::from_utf8_lossy(bytes).contains("tenant-0"))
        })
        .never_answer();
    server.set.server(0).script().add(hung);
    let impatient = pools[0].clone();
    let impatient = tokio::spawn(async move {
        loop {
            let bound = Duration::from_millis(200);
            let _ = impatient.get_by(bound, &Criterion::write(), &[]).await;
        }
    });
    sleep(Duration::from_secs(5)).await;
    // Otherwise tenant 1 would reuse its own connection.
    drop(held);
    let got = timeout(Duration::from_secs(20), pools[1].get()).await;
    drop(got.expect("in time").expect("its own"));
    impatient.abort();
    pools[0].close().await;
}

async fn an_attempt_with_an_old_secret_fails_no_attempt_with_a_new_one<
    B: Backend<Config: Default>,
>() {
    let sim = Sim::of(1).await;
    let provider = Arc::new(Changing(Mutex::new(false)));
    let pools: Pools<B> = sim
        .builder("maxConnecting=2")
        .credential_provider(provider.clone())
        .build()
        .expect("pools");
    let script = sim.set.server(0).script();
    let slow = |millis| Action::Delay(Duration::from_millis(millis));
    let old = script.add(Matcher::command("saslContinue").once().then(slow(500)));
    let first = get_in_task(&pools);
    eventually("its attempt", || script.applied(old) == 1).await;
    script.add(Matcher::command("saslContinue").once().then(slow(1000)));
    *provider.0.lock().expect("no panic") = true;
    let second = get_in_task(&pools);
    let first = first.await.expect("no panic").map(drop);
    first.expect_err("the old secret is wrong");
    let second = second.await.expect("no panic");
    drop(second.expect("the new secret is right"));
    pools.close().await;
}

async fn a_close_does_not_wait_for_an_unpolled_waiter<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("maxConnecting=1");
    let held = hold(&pools, 1).await;
    let mut unpolled = Box::pin(pools.get());
    begin(unpolled.as_mut()).await;
    two_made(|| status_of(&pools)).await;
    drop(held);
    let closed = timeout(Duration::from_secs(10), pools.close()).await;
    let open = sim.set.server(0).look(|seen| seen.open);
    assert!(closed.is_ok(), "{open} open");
    drop(unpolled);
}

async fn a_hung_attempt_blocks_no_tenant_without_a_connect_timeout<B: Backend<Config: Default>>() {
    let config = PoolsConfig::default().with_max_connections_per_server(2);
    let (server, pools) = tenants::<B>(3, "connectTimeoutMS=60000", config).await;
    let held = pools[1].get().await.expect("the server is known");
    leave_after(&server, &pools, held).await;
}

async fn a_later_waiter_does_not_inherit_the_turn_of_one_served_from_its_pool<
    B: Backend<Config: Default>,
>() {
    let config = PoolsConfig::default().with_max_connections_per_server(2);
    let (_server, pools) = tenants::<B>(3, "", config).await;
    let own = pools[0].get().await.expect("a connection");
    let held = pools[2].get().await.expect("a connection");
    let first = get_in_task(&pools[0]);
    waits(&pools, 0, 1).await;
    let second = get_in_task(&pools[1]);
    waits(&pools, 1, 1).await;
    let third = get_in_task(&pools[0]);
    waits(&pools, 0, 2).await;
    drop(own);
    waits(&pools, 0, 1).await;
    drop(held);
    let second = timeout(Duration::from_secs(2), second).await;
    let overtaken = (first.is_finished(), third.is_finished());
    let second = second.unwrap_or_else(|_| panic!("overtaken: {overtaken:?}"));
    drop(second.expect("no panic").expect("served"));
    drop(first.await.expect("no panic").expect("served"));
    drop(third.await.expect("no panic").expect("served"));
    pools[0].close().await;
}
