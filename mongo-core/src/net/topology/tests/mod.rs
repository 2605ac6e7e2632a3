use std::sync::{Arc, Mutex, Weak, mpsc};
use std::thread;
use std::time::Duration;

use bson::rawdoc;
use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::error::ErrorKind;
use crate::sdam::{ErrorPhase, Input, ServerDescription};

/// The time limit of each test.
const LIMIT: Duration = Duration::from_secs(20);

/// The notification during which the owner of a listener is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Ready,
    Published,
    Cleared,
}

/// A listener that holds the topology, like a pool, and whose owner is dropped during a
/// notification.
struct Leaving {
    _topology: Topology,
    owner: Arc<Mutex<Option<Arc<Leaving>>>>,
    when: When,
}

impl Leaving {
    fn called(&self, when: When) {
        if when == self.when {
            let owner = self.owner.lock().expect("no panic").take();
            drop(owner);
        }
    }
}

impl TopologyListener for Leaving {
    fn ready(&self, _: &ServerAddress) {
        self.called(When::Ready);
    }

    fn clear(&self, _: &Clear<'_>) {
        self.called(When::Cleared);
    }

    fn remove(&self, _: &ServerAddress, _: Removal) {}

    fn published(&self, _: &SelectionIndex) {
        self.called(When::Published);
    }

    fn settle(&self) {}
}

fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime")
}

/// Runs a closure that must not deadlock.
fn in_time<R: Send + 'static>(run: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, result) = mpsc::channel();
    thread::spawn(move || done.send(run()));
    result.recv_timeout(LIMIT).expect("no deadlock")
}

fn topology() -> Topology {
    let options = ClientOptions::parse("mongodb://a.test,b.test/").expect("a connection string");
    Topology::new(options).expect("a topology")
}

fn server() -> ServerAddress {
    "a.test:27017".parse().expect("an address")
}

fn network_error() -> ApplicationError {
    let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    let error = ErrorKind::Network(Arc::new(broken)).into();
    ApplicationError::new(server(), error, ErrorPhase::Completed)
}

#[test]
fn the_last_owner_of_a_listener_may_go_while_it_is_called() {
    for when in [When::Ready, When::Published, When::Cleared] {
        let gone = in_time(move || {
            let runtime = runtime();
            let _entered = runtime.enter();
            let topology = topology();
            topology.connect().expect("connected");
            let shared = topology.shared().clone();
            let owner = Arc::default();
            let listener = Arc::new(Leaving {
                _topology: topology,
                owner: Arc::clone(&owner),
                when,
            });
            let weak: Weak<Leaving> = Arc::downgrade(&listener);
            listener._topology.listen(weak.clone());
            *owner.lock().expect("no panic") = Some(listener);
            let hello = router();
            let now = std::time::Instant::now();
            let found = ServerDescription::from_hello(server(), &hello, now);
            // Number 1 is the first monitor.
            shared.report(&server(), 1, None, Some(Input::Check(Arc::new(found))));
            shared.handle_error(network_error());
            // Dropping the last owner has closed the topology.
            weak.upgrade().is_none() && shared.index().topology().servers().is_empty()
        });
        assert!(gone, "{when:?}");
    }
}

/// An error of an application's connector, which uses the topology when it is dropped.
#[derive(Debug)]
struct Looking(Topology);

impl std::fmt::Display for Looking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("on purpose")
    }
}

impl std::error::Error for Looking {}

impl Drop for Looking {
    fn drop(&mut self) {
        drop(self.0.shared().lock());
    }
}

#[test]
fn an_error_may_use_the_topology_when_it_is_dropped() {
    in_time(|| {
        let runtime = runtime();
        let _entered = runtime.enter();
        let topology = topology();
        topology.connect().expect("connected");
        let error = || {
            let error = std::io::Error::other(Looking(topology.clone()));
            let error = ErrorKind::Network(Arc::new(error)).into();
            ApplicationError::new(server(), error, ErrorPhase::Completed)
        };
        // The second error replaces the first; the third is for an unknown server.
        topology.handle_error(error());
        topology.handle_error(error());
        let mut elsewhere = error();
        elsewhere.server = "c.test:27017".parse().expect("an address");
        topology.handle_error(elsewhere);
        let shared = topology.shared();
        shared.end(Ended::Disconnected);
    });
}

#[test]
fn tasks_may_be_started_on_a_runtime_that_has_ended() {
    in_time(|| {
        let (first, second) = (runtime(), runtime());
        let topology = topology();
        {
            let _entered = first.enter();
            topology.connect().expect("connected");
        }
        drop(first);
        assert!(!topology.shared().is_running());
        // The monitor of a discovered server is started on the runtime of the others.
        let shared = topology.shared().clone();
        {
            let _entered = second.enter();
            topology.connect().expect("connected");
        }
        drop(second);
        let hello = rawdoc! {
            "ok": 1, "setName": "rs", "isWritablePrimary": true, "maxWireVersion": 25,
            "hosts": ["a.test:27017", "b.test:27017", "c.test:27017"],
        };
        let now = std::time::Instant::now();
        let found = Arc::new(ServerDescription::from_hello(server(), &hello, now));
        // Number 3 is the first monitor of the second opening.
        shared.report(&server(), 3, None, Some(Input::Check(found)));
        assert_eq!(topology.description().servers().len(), 3);
        assert!(!shared.is_running());
    });
}

/// Connects a topology on a runtime that nothing drives: its monitors never run.
fn connected_unwatched(topology: &Topology) -> Runtime {
    let idle = runtime();
    {
        let _entered = idle.enter();
        topology.connect().expect("connected");
    }
    idle
}

fn unwatched() -> (Topology, Runtime) {
    let topology = topology();
    let idle = connected_unwatched(&topology);
    (topology, idle)
}

fn router() -> bson::RawDocumentBuf {
    rawdoc! { "ok": 1, "msg": "isdbgrid", "maxWireVersion": 25 }
}

#[tokio::test]
async fn waiting_selections_are_woken_in_order() {
    // A failed check would interfere.
    let (topology, idle) = unwatched();
    let order = Arc::<Mutex<Vec<_>>>::default();
    let waiting: Vec<_> = (0..32)
        .map(|number| {
            let (topology, order) = (topology.clone(), order.clone());
            tokio::spawn(async move {
                let selected = topology.select(&Criterion::write()).await;
                selected.expect("a router");
                order.lock().expect("no panic").push(number);
            })
        })
        .collect();
    tokio::task::yield_now().await;
    let hello = router();
    let now = std::time::Instant::now();
    let found = ServerDescription::from_hello(server(), &hello, now);
    let shared = topology.shared();
    shared.report(&server(), 1, None, Some(Input::Check(Arc::new(found))));
    for task in waiting {
        task.await.expect("no panic");
    }
    let order = order.lock().expect("no panic").clone();
    assert_eq!(order, (0..32).collect::<Vec<_>>());
    idle.shutdown_background();
}

mod starts;
