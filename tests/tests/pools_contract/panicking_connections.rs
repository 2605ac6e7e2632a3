//! Panics in callbacks of the application that make connections and select servers.

use std::collections::BTreeSet;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use mongo_core::auth::Credential;
use mongo_core::bson::doc;
use mongo_core::error::ErrorKind;
use mongo_core::event::SdamEvent;
use mongo_core::net::{
    BlockingExecutor, Connector, CredentialProvider, KeyService, Stream, Topology,
};
use mongo_core::pools::{Backend, CheckBudget, ConnectionFactory};
use mongo_core::sdam::{ApplicationError, ErrorPhase};
use mongo_core::select::{Criterion, SelectionError, ServerSelector};
use mongo_core::{ClientOptions, Deadline, Error, ServerAddress};
use mongo_testkit::Deployment;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

use crate::panics::{Fuse, Heartbeats, OPTIONS, exercise};
use crate::support::{LIMIT, OverSim, Sim, eventually, one};

on_both! {
    on a paused clock:
    a_connector_that_panics_fails_its_attempt,
    a_connector_that_panics_in_waits_for_still_connects,
    a_stream_that_panics_fails_its_command,
    a_selector_that_panics_fails_its_selection,
    a_credential_provider_that_panics_fails_its_attempt,
    an_executor_that_panics_fails_its_attempt,
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
                // It needs the lock that is held while the topology changes.
                let elsewhere = "elsewhere.test:1".parse().expect("an address");
                let error = ErrorKind::NotWritable.into();
                topology.handle_error(ApplicationError::new(
                    elsewhere,
                    error,
                    ErrorPhase::Completed,
                ));
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
