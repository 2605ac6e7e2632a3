//! Callbacks of the application that panic. A panic fails only the call in which it happens.

use std::collections::BTreeSet;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use mongo_core::auth::Credential;
use mongo_core::bson::doc;
use mongo_core::error::ErrorKind;
use mongo_core::event::{EventHandlers, SdamEvent};
use mongo_core::net::{
    BlockingExecutor, Connector, CredentialProvider, KeyService, Stream, Topology,
};
use mongo_core::pools::CheckBudget;
use mongo_core::pools::{Backend, ConnectionFactory, Pools, PoolsBuilder};
use mongo_core::select::{Criterion, SelectionError, ServerSelector};
use mongo_core::{ClientOptions, Deadline, Error, ServerAddress};
use mongo_testkit::Deployment;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

use crate::support::{Kept, LIMIT, OverSim, Sim, eventually, one, ping, status_of};

const OPTIONS: &str = "maxPoolSize=1&heartbeatFrequencyMS=500&waitQueueTimeoutMS=5000";

on_both! {
    on a paused clock:
    a_pool_event_handler_that_panics_loses_only_its_own_events,
    a_topology_event_handler_that_panics_loses_only_its_own_events,
    a_command_event_handler_that_panics_loses_only_its_own_events,
    a_metrics_recorder_that_panics_is_ignored,
    a_connector_that_panics_fails_its_attempt,
    a_connector_that_panics_in_waits_for_still_connects,
    a_stream_that_panics_fails_its_command,
    a_selector_that_panics_fails_its_selection,
    a_credential_provider_that_panics_fails_its_attempt,
    an_executor_that_panics_fails_its_attempt,
}

/// Panics once each time it is armed.
#[derive(Clone, Default)]
struct Fuse(Arc<AtomicBool>);

impl Fuse {
    fn armed() -> Self {
        let fuse = Self::default();
        fuse.arm();
        fuse
    }

    fn arm(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn is_armed(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    fn burn(&self) {
        if self.0.swap(false, Ordering::SeqCst) {
            panic!("on purpose");
        }
    }
}

/// The kinds of events at which a handler has panicked, once each.
#[derive(Clone, Default)]
struct Panicked(Arc<Mutex<BTreeSet<String>>>);

impl Panicked {
    fn panic_at_first(&self, event: &impl std::fmt::Debug) {
        let shown = format!("{event:?}");
        let name = shown.split('(').next().unwrap_or_default().to_owned();
        let is_first = self.0.lock().expect("no panic").insert(name);
        if is_first {
            panic!("on purpose");
        }
    }

    fn names(&self) -> Vec<String> {
        self.0.lock().expect("no panic").iter().cloned().collect()
    }
}

/// Counts succeeded heartbeats.
#[derive(Clone, Default)]
struct Heartbeats(Arc<Mutex<usize>>);

impl Heartbeats {
    fn watch<B: Backend>(&self, builder: PoolsBuilder<B>) -> PoolsBuilder<B> {
        let own = self.clone();
        builder.on_sdam(move |event| {
            if let SdamEvent::ServerHeartbeatSucceeded(_) = event {
                *own.0.lock().expect("no panic") += 1;
            }
        })
    }

    fn count(&self) -> usize {
        *self.0.lock().expect("no panic")
    }
}

/// Triggers every event of pools, and checks that everything works.
async fn exercise<B: Backend>(pools: Pools<B>, sim: &Sim, heartbeats: &Heartbeats) {
    ping(&pools).await.expect("a ping");
    let held = pools.get().await.expect("a connection");
    let short = Duration::from_millis(100);
    let full = pools.get_by(short, &Criterion::write(), &[]).await;
    assert!(full.expect_err("one is the maximum").is_timeout());
    drop(held);
    let mut closed = pools.get().await.expect("a connection");
    let unknown = closed.run_command("db", &doc! {"noSuchCommand": 1}).await;
    assert!(unknown.expect_err("an error reply").command().is_some());
    closed.close();
    drop(closed);
    assert_eq!(status_of(&pools).size, 0);
    ping(&pools).await.expect("another connection");
    let before = heartbeats.count();
    sleep(Duration::from_secs(5)).await;
    assert!(heartbeats.count() >= before + 5, "heartbeats go on");

    sim.set.kill(0).await;
    sleep(Duration::from_secs(2)).await;
    sim.set.restart(0).await;
    sim.set.elect(0);
    ping(&pools).await.expect("the restarted server is found");
    let status = status_of(&pools);
    let busy = (status.in_use, status.pending, status.waiting);
    assert_eq!(
        (busy, status.size, status.idle),
        ((0, 0, 0), 1, 1),
        "{status:?}"
    );
    pools.close().await;
    let address = sim.set.address(0);
    eventually("all sockets are closed", || {
        sim.network.open_streams(&address) == 0
    })
    .await;
}

/// Builds pools over a new set, and exercises them.
async fn exercised<B: Backend<Config: Default>>(
    further: impl FnOnce(PoolsBuilder<B>) -> PoolsBuilder<B>,
) {
    let (sim, heartbeats) = (Sim::of(1).await, Heartbeats::default());
    let builder = heartbeats.watch(further(sim.builder::<B>(OPTIONS)));
    exercise(builder.build().expect("pools"), &sim, &heartbeats).await;
}

async fn a_pool_event_handler_that_panics_loses_only_its_own_events<B: Backend<Config: Default>>() {
    let (panicked, kept) = (Panicked::default(), Kept::default());
    let (first, second) = (panicked.clone(), kept.clone());
    exercised::<B>(|builder| {
        let handlers = EventHandlers::new().on_cmap(move |event| first.panic_at_first(event));
        builder.event_handlers(handlers.on_cmap(move |event| second.keep(event)))
    })
    .await;
    let all = [
        "ConnectionCheckOutFailed",
        "ConnectionCheckOutStarted",
        "ConnectionCheckedIn",
        "ConnectionCheckedOut",
        "ConnectionClosed",
        "ConnectionCreated",
        "ConnectionReady",
        "PoolCleared",
        "PoolClosed",
        "PoolCreated",
        "PoolReady",
    ];
    assert_eq!(panicked.names(), all);
    assert_eq!(all.map(|name| kept.count(name) > 0), [true; 11]);
    let counts = |pair: [&str; 2]| pair.map(|name| kept.count(name));
    let [created, closed] = counts(["ConnectionCreated", "ConnectionClosed"]);
    assert_eq!(created, closed);
    let [out, back] = counts(["ConnectionCheckedOut", "ConnectionCheckedIn"]);
    assert_eq!(out, back);
}

async fn a_topology_event_handler_that_panics_loses_only_its_own_events<
    B: Backend<Config: Default>,
>() {
    let (panicked, names) = (Panicked::default(), Panicked::default());
    let (first, second) = (panicked.clone(), names.clone());
    exercised::<B>(|builder| {
        let builder = builder.on_sdam(move |event| first.panic_at_first(event));
        builder.on_sdam(move |event| {
            let shown = format!("{event:?}");
            let name = shown.split('(').next().unwrap_or_default().to_owned();
            second.0.lock().expect("no panic").insert(name);
        })
    })
    .await;
    assert_eq!(panicked.names(), names.names());
    assert_eq!(panicked.names().len(), 9, "{:?}", panicked.names());
}

async fn a_command_event_handler_that_panics_loses_only_its_own_events<
    B: Backend<Config: Default>,
>() {
    let (panicked, names) = (Panicked::default(), Arc::new(Mutex::new(0)));
    let (first, second) = (panicked.clone(), names.clone());
    exercised::<B>(|builder| {
        let handlers = EventHandlers::new().on_command(move |event| first.panic_at_first(event));
        let count = move |_: &_| *second.lock().expect("no panic") += 1;
        builder.event_handlers(handlers.on_command(count))
    })
    .await;
    assert_eq!(panicked.names(), ["Failed", "Started", "Succeeded"]);
    // Three pings and an unknown command.
    assert_eq!(*names.lock().expect("no panic"), 8);
}

struct PanickingRecorder;

impl Recorder for PanickingRecorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        panic!("on purpose");
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        panic!("on purpose");
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        panic!("on purpose");
    }
}

async fn a_metrics_recorder_that_panics_is_ignored<B: Backend<Config: Default>>() {
    // This thread runs the whole runtime.
    let _recorder = metrics::set_default_local_recorder(&PanickingRecorder);
    exercised::<B>(|builder| builder.event_handlers(EventHandlers::new().with_metrics())).await;
}

/// A connector with a fuse in each callback.
struct Fused {
    sim: OverSim,
    connect: Fuse,
    waits_for: Fuse,
    read: Fuse,
}

impl Fused {
    fn over(sim: &Sim) -> Self {
        Self {
            sim: OverSim(sim.network.clone()),
            connect: Fuse::default(),
            waits_for: Fuse::default(),
            read: Fuse::default(),
        }
    }
}

#[async_trait]
impl Connector for Fused {
    async fn connect(&self, address: &ServerAddress) -> Result<Stream, Error> {
        self.connect.burn();
        let Stream::Custom(stream) = self.sim.connect(address).await? else {
            panic!("the network in memory has streams of its own");
        };
        let read = self.read.clone();
        Ok(Stream::custom(FusedStream { stream, read }))
    }

    fn waits_for(&self) -> mongo_core::error::Wait {
        self.waits_for.burn();
        mongo_core::error::Wait::Connect
    }
}

struct FusedStream {
    stream: Box<dyn mongo_core::net::AsyncStream>,
    read: Fuse,
}

impl AsyncRead for FusedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.read.burn();
        Pin::new(&mut *self.stream).poll_read(context, buf)
    }
}

impl AsyncWrite for FusedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(context, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(context)
    }
}

/// Checks that an error names the callback that panicked, and its message.
fn names(error: &Error, callback: &str) {
    let text = error.to_string();
    let wanted = format!("the application's {callback} panicked: on purpose");
    assert!(text.contains(&wanted), "{text}");
}

async fn a_connector_that_panics_fails_its_attempt<B: Backend<Config: Default>>() {
    let (sim, heartbeats) = (Sim::of(1).await, Heartbeats::default());
    let fused = Fused::over(&sim);
    let connect = fused.connect.clone();
    // The monitor connects first.
    connect.arm();
    let builder = sim.builder::<B>(OPTIONS).connector(Arc::new(fused));
    let pools = heartbeats.watch(builder).build().expect("pools");
    pools.connect().expect("within a runtime");
    eventually("a monitor goes on after it", || heartbeats.count() > 3).await;
    // Now the monitor and its probe are connected.
    connect.arm();
    let error = pools.get().await.expect_err("a panic");
    assert!(matches!(error.kind(), ErrorKind::Connect(_)), "{error}");
    names(&error, "connector");
    exercise(pools, &sim, &heartbeats).await;
}

async fn a_connector_that_panics_in_waits_for_still_connects<B: Backend<Config: Default>>() {
    let (sim, heartbeats) = (Sim::of(1).await, Heartbeats::default());
    let fused = Fused::over(&sim);
    let waits_for = fused.waits_for.clone();
    waits_for.arm();
    let builder = sim.builder::<B>(OPTIONS).connector(Arc::new(fused));
    let pools = heartbeats.watch(builder).build().expect("pools");
    exercise(pools, &sim, &heartbeats).await;
    assert!(!waits_for.is_armed());
}

async fn a_stream_that_panics_fails_its_command<B: Backend<Config: Default>>() {
    let (sim, heartbeats) = (Sim::of(1).await, Heartbeats::default());
    let fused = Fused::over(&sim);
    let read = fused.read.clone();
    let builder = sim.builder::<B>(OPTIONS).connector(Arc::new(fused));
    let pools = heartbeats.watch(builder).build().expect("pools");
    let mut connection = pools.get().await.expect("a connection");
    read.arm();
    let failed = connection.run_command("db", &doc! {"ping": 1}).await;
    let error = failed.expect_err("a panic");
    assert!(matches!(error.kind(), ErrorKind::Network(_)), "{error}");
    names(&error, "transport stream");
    drop(connection);
    // The monitor reads next.
    read.arm();
    eventually("a monitor has read", || !read.is_armed()).await;
    exercise(pools, &sim, &heartbeats).await;
}

async fn a_selector_that_panics_fails_its_selection<B: Backend<Config: Default>>() {
    let (sim, heartbeats) = (Sim::of(1).await, Heartbeats::default());
    let fuse = Fuse::armed();
    let burnt = fuse.clone();
    let builder = sim.builder::<B>(OPTIONS);
    let builder = builder.server_selector(ServerSelector::new(move |servers| {
        burnt.burn();
        servers.to_vec()
    }));
    let pools = heartbeats.watch(builder).build().expect("pools");
    let error = pools.get().await.expect_err("a panic");
    let reason = SelectionError::of(&error);
    assert!(
        matches!(reason, Some(SelectionError::Selector(_))),
        "{error}"
    );
    names(&error, "server selector");
    drop(pools.get().await.expect("the selector answers"));
    fuse.arm();
    // If an idle connection is available, the selector is called once more.
    drop(pools.get().await.expect("the selector answers"));
    assert!(!fuse.is_armed());
    exercise(pools, &sim, &heartbeats).await;
}

struct Provider(Fuse);

#[async_trait]
impl CredentialProvider for Provider {
    async fn credential(&self) -> Result<Arc<Credential>, Error> {
        self.0.burn();
        Ok(Arc::new(one()))
    }
}

async fn a_credential_provider_that_panics_fails_its_attempt<B: Backend<Config: Default>>() {
    let (sim, heartbeats) = (Sim::of(1).await, Heartbeats::default());
    let builder = sim.builder::<B>(OPTIONS);
    let builder = builder.credential_provider(Arc::new(Provider(Fuse::armed())));
    let pools = heartbeats.watch(builder).build().expect("pools");
    let error = pools.get().await.expect_err("a panic");
    assert!(matches!(error.kind(), ErrorKind::Credential(_)), "{error}");
    names(&error, "credential provider");
    exercise(pools, &sim, &heartbeats).await;
}

struct Executor(Fuse);

impl BlockingExecutor for Executor {
    fn execute(&self, work: Box<dyn FnOnce() + Send>) {
        self.0.burn();
        drop(tokio::task::spawn_blocking(work));
    }
}

async fn an_executor_that_panics_fails_its_attempt<B: Backend<Config: Default>>() {
    let (sim, heartbeats) = (Sim::of(1).await, Heartbeats::default());
    let builder = sim.builder::<B>(OPTIONS);
    let builder = builder.credential_provider(Arc::new(Provider(Fuse::default())));
    let executor = Arc::new(Executor(Fuse::armed()));
    let builder = builder.keys(Arc::new(KeyService::new(executor)));
    let pools = heartbeats.watch(builder).build().expect("pools");
    let error = pools.get().await.expect_err("a panic");
    assert!(
        matches!(error.kind(), ErrorKind::Configuration(_)),
        "{error}"
    );
    names(&error, "blocking executor");
    exercise(pools, &sim, &heartbeats).await;
}

/// Runs a test on its own thread: a deadlock would block the clock of its runtime.
fn within_limit(test: impl Future<Output = ()> + Send + 'static) {
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().expect("a runtime");
        runtime.block_on(test);
        let _ = ended.send(());
    });
    end.recv_timeout(LIMIT).expect("in time, without a panic");
}

/// A floating factory calls the selector at each change of the topology.
#[test]
fn a_selector_of_a_floating_factory_may_use_the_topology_and_panic() {
    within_limit(async {
        let set = Deployment::replica_set("rs").members(3).start().await;
        let uri = format!("{}&heartbeatFrequencyMS=500", set.uri());
        let options = ClientOptions::parse(&uri).expect("a connection string");
        let heartbeats = Arc::new(Mutex::new(Vec::new()));
        let counted = heartbeats.clone();
        let topology = Topology::builder(options.clone()).event_handler(move |event| {
            if let SdamEvent::ServerHeartbeatSucceeded(event) = event {
                counted
                    .lock()
                    .expect("no panic")
                    .push(event.address.clone());
            }
        });
        let topology = topology.build().expect("a topology");
        let (fuse, asks) = (Fuse::default(), Arc::new(OnceLock::<Topology>::new()));
        let (burnt, asked) = (fuse.clone(), asks.clone());
        let criterion = Criterion::write().with_selector(ServerSelector::new(move |servers| {
            burnt.burn();
            if let Some(topology) = asked.get() {
                // The selector must not need a lock that is held while the topology changes.
                topology.connect().expect("connected");
            }
            servers.to_vec()
        }));
        asks.set(topology.clone()).expect("once");
        let factory = ConnectionFactory::builder(options)
            .floating(topology.clone(), criterion)
            .build()
            .expect("a factory");
        let deadline = || Deadline::after(LIMIT);
        let mut first = factory.establish(deadline()).await.expect("a connection");
        fuse.arm();
        set.elect(1);
        eventually("the selector panics", || !fuse.is_armed()).await;
        heartbeats.lock().expect("no panic").clear();
        eventually("all monitors go on", || {
            let heartbeats = heartbeats.lock().expect("no panic");
            heartbeats.iter().collect::<BTreeSet<_>>().len() == 3
        })
        .await;
        let second = factory.establish(deadline()).await.expect("a connection");
        assert_eq!(second.server().to_string(), set.address(1));
        set.elect(2);
        let is_stale = async {
            while factory
                .recycle(&mut first, deadline(), &mut CheckBudget::default())
                .await
                .is_ok()
            {
                sleep(Duration::from_millis(5)).await;
            }
        };
        is_stale.await;
        let third = factory.establish(deadline()).await.expect("a connection");
        assert_eq!(third.server().to_string(), set.address(2));
        // Breaks the reference cycle: selectors and connections would keep the topology.
        topology.close().await;
    });
}
