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
            let hello = rawdoc! { "ok": 1, "msg": "isdbgrid", "maxWireVersion": 25 };
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
        // Takes the lock.
        let _ = self.0.options();
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

#[tokio::test]
async fn waiting_selections_are_woken_in_order() {
    let topology = topology();
    topology.connect().expect("connected");
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
    let hello = rawdoc! { "ok": 1, "msg": "isdbgrid", "maxWireVersion": 25 };
    let now = std::time::Instant::now();
    let found = ServerDescription::from_hello(server(), &hello, now);
    let shared = topology.shared();
    shared.report(&server(), 1, None, Some(Input::Check(Arc::new(found))));
    for task in waiting {
        task.await.expect("no panic");
    }
    let order = order.lock().expect("no panic").clone();
    assert_eq!(order, (0..32).collect::<Vec<_>>());
}

/// A topology of 200 servers that nothing listens for.
fn crowd() -> Topology {
    let hosts: Vec<_> = (1..=200).map(|port| format!("127.0.0.1:{port}")).collect();
    let uri = format!("mongodb://{}/?replicaSet=rs", hosts.join(","));
    Topology::new(ClientOptions::parse(&uri).expect("a connection string")).expect("a topology")
}

fn monitors(topology: &Topology) -> usize {
    topology.shared().lock().monitors.len()
}

#[tokio::test]
async fn other_tasks_run_between_the_starts_of_many_monitors() {
    let topology = crowd();
    topology.connect().expect("connected");
    let mut started = vec![monitors(&topology)];
    while started.last() != Some(&200) {
        tokio::task::yield_now().await;
        let now = monitors(&topology);
        let before = *started.last().expect("not empty");
        assert!((before..=before + 64).contains(&now), "{before}, {now}");
        started.push(now);
    }
    assert_eq!(started.first(), Some(&64));
    topology.close().await;
    assert_eq!(monitors(&topology), 0);
}

#[tokio::test]
async fn closing_ends_the_start_of_many_monitors() {
    let topology = crowd();
    topology.connect().expect("connected");
    assert_eq!(monitors(&topology), 64);
    let closed = tokio::time::timeout(LIMIT, topology.close()).await;
    closed.expect("all tasks have ended");
    assert_eq!(monitors(&topology), 0);
}

#[test]
fn the_end_of_a_runtime_leaves_no_server_without_a_monitor() {
    let topology = crowd();
    let first = runtime();
    {
        let _entered = first.enter();
        topology.connect().expect("connected");
    }
    assert_eq!(monitors(&topology), 64);
    drop(first);
    runtime().block_on(async {
        topology.connect().expect("connected again");
        while monitors(&topology) < 200 {
            tokio::task::yield_now().await;
        }
        topology.close().await;
    });
}

/// Counts its wake-ups, and may panic.
struct Counting {
    panics: bool,
    woken: std::sync::atomic::AtomicUsize,
}

impl std::task::Wake for Counting {
    fn wake(self: Arc<Self>) {
        self.woken.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        assert!(!self.panics, "on purpose");
    }
}

/// A connected topology whose monitors never run, and their runtime.
fn unwatched() -> (Topology, Runtime) {
    let (topology, idle) = (topology(), runtime());
    {
        let _entered = idle.enter();
        topology.connect().expect("connected");
    }
    (topology, idle)
}

fn router(server: ServerAddress) -> Input {
    let hello = rawdoc! { "ok": 1, "msg": "isdbgrid", "maxWireVersion": 25 };
    let now = std::time::Instant::now();
    Input::Check(Arc::new(ServerDescription::from_hello(server, &hello, now)))
}

/// The first monitor of a topology: its server and number.
fn first_monitor(topology: &Topology) -> (ServerAddress, u64) {
    let state = topology.shared().lock();
    let (server, monitor) = state.monitors.first_key_value().expect("a monitor");
    (server.clone(), monitor.id())
}

#[tokio::test]
async fn a_waker_that_panics_leaves_no_selection_asleep() {
    use std::sync::atomic::Ordering;
    let (topology, idle) = unwatched();
    let write = Criterion::write();
    let wakers: Vec<_> = (0..40)
        .map(|number| {
            Arc::new(Counting {
                panics: number == 3,
                woken: 0.into(),
            })
        })
        .collect();
    let mut selections: Vec<_> = wakers
        .iter()
        .map(|_| Box::pin(topology.select(&write)))
        .collect();
    for (selection, waker) in selections.iter_mut().zip(&wakers) {
        let waker = waker.clone().into();
        let mut context = std::task::Context::from_waker(&waker);
        assert!(selection.as_mut().poll(&mut context).is_pending());
    }
    let input = router(server());
    topology.shared().report(&server(), 1, None, Some(input));
    // Nor do later changes wake them.
    topology.handle_error(network_error());
    topology.shared().end(Ended::Closed);
    let asleep: Vec<_> = (0..40)
        .filter(|number| wakers[*number].woken.load(Ordering::SeqCst) == 0)
        .collect();
    assert_eq!(asleep, Vec::<usize>::new());
    idle.shutdown_background();
}

#[test]
fn a_waker_that_panics_leaves_no_closing_task_asleep() {
    use std::sync::atomic::Ordering;
    let runtime = runtime();
    let topology = topology();
    runtime.block_on(async {
        topology.connect().expect("connected");
        let wakers: Vec<_> = (0..64)
            .map(|number| {
                Arc::new(Counting {
                    panics: number < 16,
                    woken: 0.into(),
                })
            })
            .collect();
        let mut closings: Vec<_> = wakers.iter().map(|_| Box::pin(topology.close())).collect();
        for (closing, waker) in closings.iter_mut().zip(&wakers) {
            let waker = waker.clone().into();
            let mut context = std::task::Context::from_waker(&waker);
            assert!(closing.as_mut().poll(&mut context).is_pending());
        }
        let ended = tokio::time::timeout(LIMIT, topology.shared().tasks.ended(u64::MAX - 1));
        let _ = ended.await;
        let asleep: Vec<_> = (0..64)
            .filter(|number| wakers[*number].woken.load(Ordering::SeqCst) == 0)
            .collect();
        assert_eq!(asleep, Vec::<usize>::new());
    });
}

#[tokio::test]
async fn an_error_before_the_first_check_does_not_cancel_it() {
    let uri = "mongodb://127.0.0.1:1/";
    let failures = Arc::<Mutex<Vec<String>>>::default();
    let seen = failures.clone();
    let topology = Topology::builder(ClientOptions::parse(uri).expect("a connection string"))
        .event_handler(move |event| {
            if let crate::event::SdamEvent::ServerHeartbeatFailed(failed) = event {
                seen.lock()
                    .expect("no panic")
                    .push(failed.failure.to_string());
            }
        })
        .build()
        .expect("a topology");
    topology.connect().expect("connected");
    let mut error = network_error();
    error.server = "127.0.0.1:1".parse().expect("an address");
    topology.handle_error(error);
    let failed = async {
        while failures.lock().expect("no panic").is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LIMIT, failed)
        .await
        .expect("a failure");
    let first = failures.lock().expect("no panic")[0].clone();
    assert!(first.contains("refused"), "{first}");
}

#[tokio::test]
async fn a_new_opening_starts_its_monitors_in_groups() {
    let topology = crowd();
    for _ in 0..3 {
        topology.connect().expect("connected");
        assert_eq!(monitors(&topology), 64);
        topology.shared().end(Ended::Disconnected);
    }
    topology.connect().expect("connected");
    let mut before = monitors(&topology);
    while before < 200 {
        tokio::task::yield_now().await;
        let now = monitors(&topology);
        assert!(now <= before + 64, "{before}, {now}");
        before = now;
    }
}

#[test]
fn a_selection_does_not_connect_a_topology_that_was_disconnected() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let (topology, idle) = (crowd(), runtime());
    let over = AtomicBool::new(false);
    let mut reopened = 0;
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let _entered = idle.enter();
                while !over.load(Ordering::SeqCst) {
                    // As a waiting selection does after each change.
                    let _ = topology.shared().request_checks(&mut Patience::default());
                }
            });
        }
        let _entered = idle.enter();
        for round in 0..2000_u32 {
            topology.connect().expect("connected");
            thread::sleep(Duration::from_micros(u64::from(round % 50)));
            topology.shared().end(Ended::Disconnected);
            thread::sleep(Duration::from_micros(200));
            reopened += usize::from(topology.shared().is_running());
        }
        over.store(true, Ordering::SeqCst);
    });
    assert_eq!(reopened, 0, "of 2000");
}

#[test]
fn the_end_of_a_group_task_alone_is_noticed() {
    let topology = crowd();
    let first = runtime();
    {
        let _entered = first.enter();
        topology.connect().expect("connected");
    }
    let (server, id) = first_monitor(&topology);
    let known: Vec<_> = topology.shared().lock().monitors.keys().cloned().collect();
    // A primary that lists only servers whose monitors are left.
    let mut hosts = bson::RawArrayBuf::new();
    for own in topology.description().servers() {
        if !known.contains(&own.address) {
            hosts.push(own.address.to_string());
        }
    }
    let hello = rawdoc! {
        "ok": 1, "setName": "rs", "isWritablePrimary": true, "maxWireVersion": 25, "hosts": hosts,
    };
    let now = std::time::Instant::now();
    let found = Arc::new(ServerDescription::from_hello(server.clone(), &hello, now));
    topology
        .shared()
        .report(&server, id, None, Some(Input::Check(found)));
    assert_eq!(topology.description().servers().len(), 136);
    assert_eq!(monitors(&topology), 0);
    drop(first);
    runtime().block_on(async {
        topology.connect().expect("connected again");
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        assert_eq!(monitors(&topology), 136);
    });
}

#[test]
fn monitors_are_restarted_in_groups() {
    let topology = crowd();
    let first = runtime();
    first.block_on(async {
        topology.connect().expect("connected");
        while monitors(&topology) < 200 {
            tokio::task::yield_now().await;
        }
    });
    drop(first);
    runtime().block_on(async {
        topology.connect().expect("connected again");
        let state = topology.shared().lock();
        let alive = state.monitors.values().filter(|own| !own.is_dead());
        let alive = alive.count();
        drop(state);
        assert!(alive <= 64, "{alive} at once");
    });
}

#[tokio::test]
async fn the_order_of_selections_outlives_an_update() {
    let (topology, idle) = unwatched();
    let order = Arc::<Mutex<Vec<_>>>::default();
    let start = |number| {
        let (topology, order) = (topology.clone(), order.clone());
        tokio::spawn(async move {
            let selected = topology.select(&Criterion::write()).await;
            selected.expect("a router");
            order.lock().expect("no panic").push(number);
        })
    };
    let mut waiting: Vec<_> = (0..3).map(start).collect();
    tokio::task::yield_now().await;
    // It is about to run when an update wakes the others.
    waiting.push(start(3));
    topology.handle_error(network_error());
    tokio::task::yield_now().await;
    let input = router(server());
    topology.shared().report(&server(), 1, None, Some(input));
    for task in waiting {
        task.await.expect("no panic");
    }
    assert_eq!(*order.lock().expect("no panic"), [0, 1, 2, 3]);
    idle.shutdown_background();
}

#[test]
fn selections_run_in_order_on_a_runtime_with_workers() {
    let mut builder = Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build();
    let (topology, _idle) = unwatched();
    runtime.expect("a runtime").block_on(async {
        let order = Arc::<Mutex<Vec<_>>>::default();
        let mut waiting = Vec::new();
        for number in 0..8 {
            let (topology, order) = (topology.clone(), order.clone());
            waiting.push(tokio::spawn(async move {
                let selected = topology.select(&Criterion::write()).await;
                selected.expect("a router");
                order.lock().expect("no panic").push(number);
            }));
        }
        let reporter = topology.clone();
        let report = tokio::spawn(async move {
            let input = router(server());
            reporter.shared().report(&server(), 1, None, Some(input));
        });
        report.await.expect("no panic");
        for task in waiting {
            task.await.expect("no panic");
        }
        assert_eq!(*order.lock().expect("no panic"), (0..8).collect::<Vec<_>>());
    });
}

/// A reply of the first monitored server, which names these hosts.
fn name_hosts(topology: &Topology, ports: std::ops::Range<u16>) {
    let (server, id) = {
        let state = topology.shared().lock();
        let Some((server, monitor)) = state.monitors.first_key_value() else {
            return;
        };
        (server.clone(), monitor.id())
    };
    let mut hosts = bson::RawArrayBuf::new();
    hosts.push(server.to_string());
    ports.for_each(|port| hosts.push(format!("127.0.0.1:{port}")));
    let hello = rawdoc! {
        "ok": 1, "setName": "rs", "isWritablePrimary": true, "maxWireVersion": 25, "hosts": hosts,
    };
    let now = std::time::Instant::now();
    let found = Arc::new(ServerDescription::from_hello(server.clone(), &hello, now));
    topology
        .shared()
        .report(&server, id, None, Some(Input::Check(found)));
}

#[test]
fn every_server_has_one_monitor_after_a_storm() {
    let mut builder = Builder::new_multi_thread();
    let runtime = builder
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    for round in 0..30_u16 {
        let topology = crowd();
        let inner = topology.clone();
        runtime.block_on(async move {
            let topology = inner;
            let mut tasks = Vec::new();
            for worker in 0..3_u16 {
                let topology = topology.clone();
                tasks.push(tokio::spawn(async move {
                    for step in 0..12_u16 {
                        topology.connect().expect("connected");
                        let first = 1 + (step * 37 + worker * 91 + round * 13) % 300;
                        name_hosts(&topology, first..first + 150);
                        if step % 4 == worker {
                            let ended = tokio::time::timeout(LIMIT, topology.disconnect()).await;
                            ended.expect("disconnected");
                        }
                        tokio::task::yield_now().await;
                    }
                }));
            }
            for task in tasks {
                task.await.expect("no panic");
            }
            topology.connect().expect("connected");
            let is_complete = || {
                let state = topology.shared().lock();
                let servers: std::collections::BTreeSet<_> = state
                    .description
                    .servers()
                    .iter()
                    .map(|own| own.address.clone())
                    .collect();
                servers == state.monitors.keys().cloned().collect()
            };
            let complete = async {
                while !is_complete() {
                    tokio::task::yield_now().await;
                }
            };
            let complete = tokio::time::timeout(LIMIT, complete).await;
            complete.expect("every server has a monitor");
            let closed = tokio::time::timeout(LIMIT, topology.close()).await;
            closed.expect("closed");
            let newest = topology.shared().tasks.newest();
            tokio::time::sleep(Duration::from_millis(5)).await;
            assert_eq!(topology.shared().tasks.newest(), newest);
            assert_eq!(monitors(&topology), 0);
            let none = tokio::time::timeout(LIMIT, topology.shared().tasks.ended(u64::MAX - 1));
            none.await.expect("nothing is alive");
        });
    }
}

#[test]
fn no_selection_misses_a_change() {
    let mut builder = Builder::new_multi_thread();
    let runtime = builder
        .worker_threads(3)
        .enable_all()
        .build()
        .expect("a runtime");
    // The monitors never run.
    let idle = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    for round in 0..300_u64 {
        let topology = topology();
        {
            let _entered = idle.enter();
            topology.connect().expect("connected");
        }
        let topology = &topology;
        runtime.block_on(async move {
            let mut waiting = Vec::new();
            for number in 0..60_u64 {
                let topology = topology.clone();
                waiting.push(tokio::spawn(async move {
                    let write = Criterion::write();
                    if number % 3 == 0 {
                        let brief = Duration::from_micros(number * 5 + round % 7);
                        let _ = tokio::time::timeout(brief, topology.select(&write)).await;
                    }
                    match topology.select(&write).await {
                        Ok(_) => true,
                        Err(error) => matches!(error.kind(), ErrorKind::TopologyClosed),
                    }
                }));
            }
            let publisher = topology.clone();
            let publish = thread::spawn(move || {
                for _ in 0..round % 5 {
                    let id = first_monitor(&publisher).1;
                    publisher
                        .shared()
                        .report(&server(), id, None, Some(router(server())));
                    publisher.handle_error(network_error());
                    thread::yield_now();
                }
                match round % 2 {
                    0 => {
                        publisher.shared().end(Ended::Closed);
                    }
                    _ => {
                        let id = first_monitor(&publisher).1;
                        publisher
                            .shared()
                            .report(&server(), id, None, Some(router(server())));
                    }
                }
            });
            for task in waiting {
                let ended = tokio::time::timeout(Duration::from_secs(10), task).await;
                assert!(
                    ended.expect("no selection sleeps").expect("no panic"),
                    "{round}"
                );
            }
            publish.join().expect("no panic");
        });
    }
}
