//! A topology that outlives the runtimes that use it.

use std::future::pending;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Waker};
use std::time::Duration;

use async_trait::async_trait;
use mongo_core::event::SdamEvent;
use mongo_core::net::{DnsResolver, Topology, TopologyBuilder};
use mongo_core::sdam::ServerType;
use mongo_core::select::Criterion;
use mongo_core::uri::{SrvRecord, TxtRecord};
use mongo_core::{ClientOptions, Error, ErrorKind};
use mongo_testkit::{Deployment, SimNetwork};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::{sleep, timeout};

use crate::heartbeats::all_have_ended;
use crate::support::{LIMIT, OverSim};

/// A set on its own runtime.
struct Elsewhere {
    set: Deployment,
    _runtime: Runtime,
}

impl Elsewhere {
    fn of(members: usize) -> Self {
        let runtime = driven_runtime();
        let set = Deployment::replica_set("rs").members(members).start();
        Self {
            set: runtime.block_on(set),
            _runtime: runtime,
        }
    }

    fn builder(&self) -> TopologyBuilder {
        let options = ClientOptions::parse(&self.set.uri()).expect("a connection string");
        Topology::builder(options)
    }

    fn topology(&self) -> Topology {
        self.builder().build().expect("a topology")
    }
}

fn driven_runtime() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build();
    runtime.expect("a runtime")
}

/// Runs a future on a new runtime, which ends with it.
fn on_a_runtime<R>(run: impl Future<Output = R>) -> R {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let ran = runtime.block_on(async { timeout(LIMIT, run).await });
    ran.expect("in time")
}

async fn primary(topology: &Topology) -> String {
    let selected = topology.select_by(LIMIT, &Criterion::write(), &[]).await;
    selected.expect("a primary").address().to_string()
}

/// Waits until a server is known as the primary, without selecting one.
async fn known_primary(topology: &Topology, address: &str) {
    let mut changes = topology.subscribe();
    let is_known = changes.wait_for(|known| {
        let primary = known.primary();
        primary.is_some_and(|primary| primary.address.to_string() == address)
    });
    drop(is_known.await.expect("a topology"));
}

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

#[test]
fn a_selection_that_waits_restarts_the_monitors() {
    let world = Elsewhere::of(2);
    let topology = world.topology();
    on_a_runtime(async {
        topology.connect().expect("connected");
        known_primary(&topology, &world.set.address(0)).await;
        world.set.step_down(0);
        let mut changes = topology.subscribe();
        let none = changes.wait_for(|known| known.primary().is_none());
        drop(none.await.expect("a topology"));
    });
    for elected in [1, 0] {
        world.set.elect(elected);
        on_a_runtime(async {
            assert_eq!(primary(&topology).await, world.set.address(elected));
            world.set.step_down(elected);
            let mut changes = topology.subscribe();
            let none = changes.wait_for(|known| known.primary().is_none());
            drop(none.await.expect("a topology"));
        });
    }
    on_a_runtime(topology.close());
}

#[test]
fn connect_restarts_the_monitors() {
    let world = Elsewhere::of(2);
    let topology = world.topology();
    for elected in [0, 1, 0] {
        world.set.elect(elected);
        on_a_runtime(async {
            for _ in 0..3 {
                topology.connect().expect("connected");
            }
            known_primary(&topology, &world.set.address(elected)).await;
            assert_eq!(tasks(), 2, "one monitor for each server");
        });
    }
    on_a_runtime(topology.close());
}

#[test]
fn a_selection_outlives_the_runtime_of_the_monitors() {
    let world = Elsewhere::of(2);
    let topology = world.topology();
    let first = driven_runtime();
    {
        let _entered = first.enter();
        topology.connect().expect("connected");
    }
    on_a_runtime(async {
        known_primary(&topology, &world.set.address(0)).await;
        world.set.step_down(0);
        let mut changes = topology.subscribe();
        let none = changes.wait_for(|known| known.primary().is_none());
        drop(none.await.expect("a topology"));
        let waits = async { assert_eq!(primary(&topology).await, world.set.address(1)) };
        let ends = async {
            // The selection is waiting by now.
            sleep(Duration::from_millis(20)).await;
            first.shutdown_background();
            world.set.elect(1);
        };
        tokio::join!(biased; waits, ends);
        topology.close().await;
    });
}

#[test]
fn monitors_live_on_the_named_runtime_as_long_as_it_runs() {
    let world = Elsewhere::of(2);
    let named = driven_runtime();
    let builder = world.builder().runtime(named.handle().clone());
    let topology = builder.build().expect("a topology");
    // Outside any runtime.
    topology.connect().expect("connected");
    on_a_runtime(async {
        known_primary(&topology, &world.set.address(0)).await;
        assert_eq!((named.metrics().num_alive_tasks(), tasks()), (2, 0));
    });
    world.set.elect(1);
    on_a_runtime(known_primary(&topology, &world.set.address(1)));
    drop(named);
    let refused = topology.connect().expect_err("no runtime is left");
    assert!(
        matches!(refused.kind(), ErrorKind::Configuration(_)),
        "{refused}"
    );
    world.set.elect(0);
    on_a_runtime(async {
        topology.connect().expect("connected");
        known_primary(&topology, &world.set.address(0)).await;
        topology.close().await;
    });
}

#[test]
fn checks_that_end_with_their_runtime_have_failed() {
    let world = Elsewhere::of(2);
    let events = Arc::new(Mutex::new(Vec::new()));
    let kept = events.clone();
    let keep = move |event: &SdamEvent| kept.lock().expect("no panic").push(event.clone());
    let topology = world.builder().event_handler(keep).build();
    let topology = topology.expect("a topology");
    let so_far = || events.lock().expect("no panic").clone();
    for _ in 0..3 {
        on_a_runtime(async {
            topology.connect().expect("connected");
            primary(&topology).await;
        });
        all_have_ended(&so_far());
    }
    on_a_runtime(topology.close());
    let ended = all_have_ended(&so_far());
    assert!(ended >= 3, "{ended}");
}

#[test]
fn every_disconnect_waits_for_all_tasks() {
    let world = Elsewhere::of(3);
    let topology = world.topology();
    on_a_runtime(async {
        for _ in 0..3 {
            topology.connect().expect("connected");
            primary(&topology).await;
            assert_eq!(tasks(), 3);
            let disconnect = async || {
                topology.disconnect().await;
                tasks()
            };
            let both = tokio::join!(disconnect(), disconnect());
            assert_eq!(both, (0, 0));
            topology.connect().expect("connected");
            primary(&topology).await;
            {
                let mut ends = pin!(topology.disconnect());
                let mut context = Context::from_waker(Waker::noop());
                assert!(ends.as_mut().poll(&mut context).is_pending());
            }
            assert_eq!(tasks(), 3, "nothing has run since");
            assert_eq!(disconnect().await, 0);
        }
        topology.connect().expect("connected");
        {
            let mut ends = pin!(topology.close());
            let mut context = Context::from_waker(Waker::noop());
            assert!(ends.as_mut().poll(&mut context).is_pending());
        }
        topology.close().await;
        assert_eq!(tasks(), 0);
        for member in 0..3 {
            let server = world.set.server(member);
            server.wait_for("no socket", |seen| seen.open == 0).await;
        }
    });
}

/// A resolver that answers from its second lookup on.
struct SlowDns {
    port: u16,
    asked: AtomicUsize,
}

#[async_trait]
impl DnsResolver for SlowDns {
    async fn srv_lookup(&self, _: &str) -> io::Result<Vec<SrvRecord>> {
        if self.asked.fetch_add(1, Ordering::SeqCst) == 0 {
            pending::<()>().await;
        }
        Ok(vec![SrvRecord::new(
            "localhost.test.example.com.",
            self.port,
            Duration::from_secs(60),
        )])
    }

    async fn txt_lookup(&self, _: &str) -> io::Result<Vec<TxtRecord>> {
        Ok(Vec::new())
    }
}

#[test]
fn a_lookup_that_ends_with_its_runtime_is_repeated() {
    let uri = "mongodb+srv://db.test.example.com/?tls=false&serverSelectionTimeoutMS=100";
    let options = ClientOptions::parse(uri).expect("a connection string");
    let dns = Arc::new(SlowDns {
        port: 27017,
        asked: AtomicUsize::new(0),
    });
    let topology = Topology::builder(options).resolver(dns.clone()).build();
    let topology = topology.expect("a topology");
    on_a_runtime(async {
        topology.connect().expect("connected");
        let refused = topology.select(&Criterion::write()).await;
        is_of_dns(&refused.map(drop).expect_err("no host yet"));
    });
    assert_eq!(dns.asked.load(Ordering::SeqCst), 1);
    on_a_runtime(async {
        let mut changes = topology.subscribe();
        let write = Criterion::write();
        let selects = topology.select(&write);
        let found = async {
            let found = changes.wait_for(|known| known.servers().len() == 1);
            drop(found.await.expect("a topology"));
        };
        let (refused, ()) = tokio::join!(selects, found);
        drop(refused);
        topology.close().await;
        assert_eq!(tasks(), 0);
    });
}

fn is_of_dns(error: &Error) {
    assert!(
        error.to_string().contains("DNS") || error.is_timeout(),
        "{error}"
    );
}

/// A topology whose handler calls `again` once, when the topology is disconnected.
async fn connected_again_by(again: impl Fn(&Topology) + Send + Sync + 'static, named: bool) {
    let network = SimNetwork::new(6);
    let set = Deployment::replica_set("rs").members(3).network(&network);
    let set = set.start().await;
    let (slot, calls) = (Arc::<OnceLock<Topology>>::default(), AtomicUsize::new(0));
    let own = slot.clone();
    let uri = format!("mongodb://{}/?replicaSet=rs", set.address(0));
    let mut builder = Topology::builder(ClientOptions::parse(&uri).expect("a connection string"))
        .connector(Arc::new(OverSim(network.clone())))
        .event_handler(move |event| {
            let is_end = matches!(event, SdamEvent::TopologyClosed(_));
            if is_end && calls.fetch_add(1, Ordering::SeqCst) == 0 {
                again(own.get().expect("built"));
            }
        });
    if named {
        builder = builder.runtime(Handle::current());
    }
    let topology = builder.build().expect("a topology");
    assert!(slot.set(topology.clone()).is_ok(), "once");
    topology.connect().expect("connected");
    sleep(Duration::from_secs(2)).await;
    topology.disconnect().await;
    sleep(Duration::from_secs(5)).await;
    let known = topology.description();
    let servers = known.servers().iter();
    let unknown = servers.filter(|server| server.server_type == ServerType::Unknown);
    let counts = (known.servers().len(), unknown.count());
    topology.close().await;
    assert_eq!(counts, (3, 0), "{known:?}");
}

#[tokio::test(start_paused = true)]
async fn a_handler_may_connect_a_topology_that_is_being_disconnected() {
    for named in [false, true] {
        connected_again_by(|topology| topology.connect().expect("connected"), named).await;
    }
}

/// The other thread connects between the end of the topology and the return of `disconnect`.
#[tokio::test(start_paused = true)]
async fn another_thread_may_connect_a_topology_that_is_being_disconnected() {
    let runtime = Handle::current();
    let again = move |topology: &Topology| {
        let (topology, runtime) = (topology.clone(), runtime.clone());
        let connected = std::thread::spawn(move || {
            let _entered = runtime.enter();
            topology.connect()
        });
        connected.join().expect("no panic").expect("connected");
    };
    connected_again_by(again, false).await;
}
