//! Unpolled callers, warm-ups at a full cap, and hung attempts do not delay other callers.

use std::fmt::Debug;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mongo_core::Error;
use mongo_core::pools::{Backend, ManagerConfig, Pools, PoolsConfig, RecyclingMethod};
use mongo_testkit::{Action, Matcher};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    Elsewhere, Kept, Sim, Tenants, begin, builder, driven_runtime, eventually, get_in_task,
    handshake, hold, known_primary, of_tenant, on_a_runtime, ping, pools, settled, status_of,
};

on_both! {
    on a paused clock:
    a_connection_assigned_to_an_unpolled_waiter_makes_room,
    a_hung_check_keeps_no_other_connection_from_making_room,
    an_unpolled_check_keeps_no_other_connection_from_making_room,
    a_warm_up_of_a_pool_with_a_connection_makes_room,
    two_warm_ups_over_the_cap_do_not_make_connections_endlessly,
    a_waiter_abandons_every_adopted_attempt_after_its_grace_period,
    a_waiter_does_not_fail_with_an_adopted_attempt,
    a_waiter_abandons_an_attempt_adopted_while_it_waits,
    a_stream_that_panics_when_dropped_ends_no_other_connection,
    a_stream_that_panics_when_dropped_prevents_no_close,
}

on_both! {
    on runtimes of their own:
    a_check_out_that_makes_a_connection_starts_the_monitors_again,
    a_check_out_that_makes_a_connection_starts_the_maintenance_again,
}

fn a_check_out_that_makes_a_connection_starts_the_monitors_again<B: Backend<Config: Default>>() {
    let world = Elsewhere::of(2);
    let pools = pools::<B>(&world.set.uri());
    on_a_runtime(async {
        ping(&pools).await.expect("a ping");
        known_primary(&pools, &world.address(0)).await;
    });
    on_a_runtime(async {
        // The only connection was of the other runtime: a new one is made.
        drop(pools.get().await.expect("a connection"));
        world.set.elect(1);
        known_primary(&pools, &world.address(1)).await;
        pools.close().await;
    });
}

/// The monitors keep running.
fn a_check_out_that_makes_a_connection_starts_the_maintenance_again<B: Backend<Config: Default>>() {
    let world = Elsewhere::of(1);
    let uri = format!("{}&maxIdleTimeMS=300", world.set.uri());
    let topology = mongo_core::net::Topology::builder(
        mongo_core::ClientOptions::parse(&uri).expect("a connection string"),
    );
    let lasting = driven_runtime();
    let topology = topology.runtime(lasting.handle().clone());
    let topology = topology.build().expect("a topology");
    let config = PoolsConfig::default().with_maintenance_interval(Duration::from_millis(50));
    let pools: Pools<B> = builder(&uri)
        .config(config)
        .topology(topology)
        .build()
        .expect("pools");
    on_a_runtime(async { ping(&pools).await.expect("a ping") });
    on_a_runtime(async {
        drop(pools.get().await.expect("a connection"));
        eventually("expired connections are closed", || {
            status_of(&pools).size == 0
        })
        .await;
        pools.close().await;
    });
}

async fn tenants<B: Backend<Config: Default>>(
    count: usize,
    options: &str,
    cap: u32,
    manager: ManagerConfig,
) -> (Tenants, Vec<Pools<B>>, Kept) {
    let tenants = Tenants::of(1, count).await;
    let kept = Kept::default();
    let config = PoolsConfig::default().with_max_connections_per_server(cap);
    let pools = tenants
        .builder::<B>(options, config)
        .manager_config(manager)
        .event_handlers(kept.handlers())
        .build()
        .expect("pools");
    let handles = (0..count).map(|tenant| of_tenant(&pools, tenant));
    (tenants, handles.collect(), kept)
}

/// The time that a check-out takes, limited to 8 s.
async fn time_to_get<B: Backend<Config: Default>>(pools: &Pools<B>) -> Duration {
    let begun = Instant::now();
    let got = timeout(Duration::from_secs(8), pools.get()).await;
    drop(got.expect("in time").expect("a connection"));
    begun.elapsed()
}

const SOON: Duration = Duration::from_millis(2500);

async fn a_connection_assigned_to_an_unpolled_waiter_makes_room<B: Backend<Config: Default>>() {
    let (_server, pools, _) = tenants::<B>(2, "", 2, ManagerConfig::default()).await;
    let mut held = hold(&pools[0], 2).await;
    let mut waits = Box::pin(pools[0].get());
    begin(waits.as_mut()).await;
    // This one is assigned to the unpolled waiter.
    drop(held.remove(0));
    sleep(Duration::from_millis(50)).await;
    // This one becomes idle.
    drop(held.remove(0));
    sleep(Duration::from_millis(50)).await;
    let took = time_to_get(&pools[1]).await;
    assert!(took < SOON, "{took:?}");
    drop(
        timeout(SOON, waits)
            .await
            .expect("in time")
            .expect("a connection"),
    );
}

async fn a_hung_check_keeps_no_other_connection_from_making_room<B: Backend<Config: Default>>() {
    checks::<B>(true).await;
}

async fn an_unpolled_check_keeps_no_other_connection_from_making_room<
    B: Backend<Config: Default>,
>() {
    checks::<B>(false).await;
}

async fn checks<B: Backend<Config: Default>>(is_polled: bool) {
    let mut manager = ManagerConfig::default();
    manager.recycling_method = RecyclingMethod::Verified;
    let (server, pools, _) = tenants::<B>(3, "connectTimeoutMS=20000", 2, manager).await;
    drop(pools[0].get().await.expect("a connection"));
    sleep(Duration::from_millis(50)).await;
    drop(pools[2].get().await.expect("a connection"));
    sleep(Duration::from_millis(50)).await;
    let script = server.set.server(0).script();
    script.add(Matcher::command("ping").once().never_answer());
    let mut task = None;
    let mut checked = Box::pin(pools[0].get());
    match is_polled {
        true => task = Some(get_in_task(&pools[0])),
        false => begin(checked.as_mut()).await,
    }
    sleep(Duration::from_millis(50)).await;
    let took = time_to_get(&pools[1]).await;
    assert!(took < SOON, "{took:?}");
    drop((task, checked));
}

async fn a_warm_up_of_a_pool_with_a_connection_makes_room<B: Backend<Config: Default>>() {
    let options = "minPoolSize=2&waitQueueTimeoutMS=4000&serverSelectionTimeoutMS=4000";
    let (_server, pools, _) = tenants::<B>(2, options, 3, ManagerConfig::default()).await;
    drop(pools[1].get().await.expect("a connection"));
    drop(hold(&pools[0], 2).await);
    sleep(Duration::from_millis(50)).await;
    pools[1].warm_up().await.expect("room");
}

async fn two_warm_ups_over_the_cap_do_not_make_connections_endlessly<
    B: Backend<Config: Default>,
>() {
    let options = "minPoolSize=3&waitQueueTimeoutMS=4000&serverSelectionTimeoutMS=4000";
    let (_server, pools, kept) = tenants::<B>(2, options, 3, ManagerConfig::default()).await;
    let (one, two) = tokio::join!(pools[0].warm_up(), pools[1].warm_up());
    let created = kept.count("ConnectionCreated");
    assert!(created < 50, "{created}: {one:?} {two:?}");
}

async fn is_served_soon<T: Debug>(patient: JoinHandle<Result<T, Error>>, begun: Instant) {
    let served = timeout(Duration::from_secs(15), patient).await;
    let served = served.expect("in time").expect("no panic");
    let took = begun.elapsed();
    assert!(
        served.is_ok() && took < Duration::from_secs(3),
        "{took:?}: {served:?}"
    );
}

/// The handshakes of two callers hang, and the callers are cancelled. A patient caller between them
/// waits.
async fn a_waiter_abandons_every_adopted_attempt_after_its_grace_period<
    B: Backend<Config: Default>,
>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("maxConnecting=2");
    drop(pools.get().await.expect("a connection"));
    let held = pools.get().await.expect("a connection");
    let server = sim.set.server(0);
    settled(server, 1).await;
    server.script().add(handshake().times(2).never_answer());
    let impatient = get_in_task(&pools);
    sleep(Duration::from_millis(100)).await;
    impatient.abort();
    sleep(Duration::from_millis(100)).await;
    // The patient caller adopts the first attempt.
    let begun = Instant::now();
    let patient = get_in_task(&pools);
    sleep(Duration::from_millis(300)).await;
    // The second attempt hangs.
    let impatient = get_in_task(&pools);
    sleep(Duration::from_millis(100)).await;
    impatient.abort();
    is_served_soon(patient, begun).await;
    drop(held);
    pools.close().await;
}

/// As above, but the second attempt fails.
async fn a_waiter_does_not_fail_with_an_adopted_attempt<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let manager = ManagerConfig::default();
    let pool = crate::support::pool_of::<B>(&sim, "maxConnecting=2", manager);
    let deadline = || mongo_core::Deadline::after(Duration::from_secs(9));
    let held = pool.get(deadline()).await.expect("a connection");
    let server = sim.set.server(0);
    server.script().add(handshake().times(1).never_answer());
    let failing = mongo_testkit::ErrorReply::new(8000, "AtlasError", "on purpose");
    let answer = Action::Delay(Duration::from_millis(1700));
    server
        .script()
        .add(handshake().once().then(answer).then(Action::Error(failing)));
    let spawn = || {
        let pool = pool.clone();
        tokio::spawn(async move { pool.get(deadline()).await })
    };
    let impatient = spawn();
    sleep(Duration::from_millis(100)).await;
    impatient.abort();
    sleep(Duration::from_millis(100)).await;
    let patient = spawn();
    sleep(Duration::from_millis(300)).await;
    let impatient = spawn();
    sleep(Duration::from_millis(100)).await;
    impatient.abort();
    let served = timeout(Duration::from_secs(15), patient).await;
    let served = served.expect("in time").expect("no panic");
    assert!(served.is_ok(), "{served:?}");
    drop(held);
}

/// A stream that panics when it is dropped, once it is armed.
struct Bomb {
    stream: Box<dyn mongo_core::net::AsyncStream>,
    is_armed: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.is_armed.load(Ordering::SeqCst) && !std::thread::panicking() {
            panic!("on purpose");
        }
    }
}

impl tokio::io::AsyncRead for Bomb {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut *self.stream).poll_read(context, buf)
    }
}

impl tokio::io::AsyncWrite for Bomb {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut *self.stream).poll_write(context, buf)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut *self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut *self.stream).poll_shutdown(context)
    }
}

struct Bombs(
    crate::support::OverSim,
    std::sync::Arc<std::sync::atomic::AtomicBool>,
);

#[async_trait::async_trait]
impl mongo_core::net::Connector for Bombs {
    async fn connect(
        &self,
        address: &mongo_core::ServerAddress,
    ) -> Result<mongo_core::net::Stream, mongo_core::Error> {
        let mongo_core::net::Stream::Custom(stream) = self.0.connect(address).await? else {
            panic!("custom");
        };
        let is_armed = self.1.clone();
        Ok(mongo_core::net::Stream::custom(Bomb { stream, is_armed }))
    }
}

async fn bombs<B: Backend<Config: Default>>()
-> (Sim, Pools<B>, std::sync::Arc<std::sync::atomic::AtomicBool>) {
    let sim = Sim::of(3).await;
    let is_armed = std::sync::Arc::<std::sync::atomic::AtomicBool>::default();
    let pools = sim
        .builder::<B>("heartbeatFrequencyMS=500&minPoolSize=1")
        .connector(std::sync::Arc::new(Bombs(
            crate::support::OverSim(sim.network.clone()),
            is_armed.clone(),
        )))
        .build()
        .expect("pools");
    drop(hold(&pools, 3).await);
    eventually("three pools", || {
        pools.status().iter().filter(|own| own.idle > 0).count() == 3
    })
    .await;
    (sim, pools, is_armed)
}

async fn a_stream_that_panics_when_dropped_ends_no_other_connection<B: Backend<Config: Default>>() {
    let (sim, pools, is_armed) = bombs::<B>().await;
    let address: mongo_core::ServerAddress = sim.set.address(0).parse().expect("an address");
    is_armed.store(true, Ordering::SeqCst);
    // Monitors and pools lose their connections.
    sim.set.kill(0).await;
    sleep(Duration::from_secs(3)).await;
    is_armed.store(false, Ordering::SeqCst);
    sim.set.restart(0).await;
    sim.set.elect(0);
    known_primary(&pools, &address).await;
    drop(hold(&pools, 3).await);
    let status = pools.status();
    assert!(
        status.iter().all(|own| own.in_use == 0 && own.pending == 0),
        "{status:?}"
    );
    pools.close().await;
}

async fn a_stream_that_panics_when_dropped_prevents_no_close<B: Backend<Config: Default>>() {
    let (sim, pools, is_armed) = bombs::<B>().await;
    is_armed.store(true, Ordering::SeqCst);
    let closing = tokio::spawn(async move { pools.close().await });
    let closed = timeout(Duration::from_secs(15), closed_by(closing)).await;
    // The inner streams are dropped during the panic: the network sees that a little later.
    eventually("all sockets are closed", || {
        (0..3).all(|own| sim.network.open_streams(&sim.set.address(own)) == 0)
    })
    .await;
    assert!(matches!(closed, Ok(true)), "{closed:?}");
}

async fn closed_by(task: tokio::task::JoinHandle<()>) -> bool {
    task.await.is_ok()
}

/// Two callers whose handshakes hang are cancelled after a patient one has begun to wait.
async fn a_waiter_abandons_an_attempt_adopted_while_it_waits<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("");
    let held = pools.get().await.expect("a connection");
    let server = sim.set.server(0);
    settled(server, 1).await;
    server.script().add(handshake().times(2).never_answer());
    let impatient = [get_in_task(&pools), get_in_task(&pools)];
    sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    let patient = get_in_task(&pools);
    sleep(Duration::from_millis(100)).await;
    impatient.iter().for_each(|own| own.abort());
    is_served_soon(patient, begun).await;
    drop(held);
    pools.close().await;
}

on_both! {
    a_connection_assigned_to_an_unpolled_waiter_is_cleared_with_its_service,
}

async fn a_connection_assigned_to_an_unpolled_waiter_is_cleared_with_its_service<
    B: Backend<Config: Default>,
>() {
    let mongoses = mongo_testkit::Deployment::load_balanced(1).start().await;
    let pools = builder::<B>(&mongoses.uri()).build().expect("pools");
    let mut held = hold(&pools, 2).await;
    let script = mongoses.server(0).script();
    let gate = mongo_testkit::Gate::new();
    script.add(handshake().then(Action::WaitFor(gate.clone())));
    script.add(Matcher::command("find").once().drop_connection());
    let mut waits = Box::pin(pools.get());
    begin(waits.as_mut()).await;
    drop(held.remove(0));
    let find = mongo_core::bson::doc! {"find": "c"};
    let ran = held[0].run_command("db", &find).await;
    ran.map(drop).expect_err("hung up");
    drop(held);
    eventually("its connections are closed", || {
        let status = status_of(&pools);
        status.size == status.pending
    })
    .await;
    drop(waits);
    gate.open();
    pools.close().await;
}
