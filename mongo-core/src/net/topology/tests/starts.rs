//! The start of many monitors, openings, and selections that wait.

use std::collections::BTreeSet;
use std::pin::pin;
use std::task::{Context, Wake};

use bson::RawDocument;
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::*;
use crate::event::SdamEvent;

/// The servers of a [`crowd`].
const CROWD: usize = 200;

/// A topology of servers that nothing listens for.
fn crowd() -> Topology {
    let hosts: Vec<_> = (1..=CROWD)
        .map(|port| format!("127.0.0.1:{port}"))
        .collect();
    let uri = format!("mongodb://{}/?replicaSet=rs", hosts.join(","));
    Topology::new(ClientOptions::parse(&uri).expect("a connection string")).expect("a topology")
}

fn threads(number: usize) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    let runtime = builder.worker_threads(number).enable_all().build();
    runtime.expect("a runtime")
}

fn monitors(topology: &Topology) -> usize {
    topology.shared().lock().monitors.len()
}

/// Waits until all servers of a crowd have a monitor. At most one group is started at a time.
async fn all_started(topology: &Topology) {
    let mut before = monitors(topology);
    while before < CROWD {
        yield_now().await;
        let now = monitors(topology);
        assert!((before..=before + 64).contains(&now), "{before}, {now}");
        before = now;
    }
}

async fn closed(topology: &Topology) {
    let closed = timeout(LIMIT, topology.close()).await;
    closed.expect("all tasks have ended");
    assert_eq!(monitors(topology), 0);
}

/// The first monitored server replies. Nothing happens without one.
fn reply(topology: &Topology, hello: impl FnOnce(&ServerAddress) -> bson::RawDocumentBuf) {
    let first = {
        let state = topology.shared().lock();
        let first = state.monitors.first_key_value();
        first.map(|(server, monitor)| (server.clone(), monitor.id()))
    };
    let Some((server, id)) = first else {
        return;
    };
    let hello: &RawDocument = &hello(&server);
    let now = std::time::Instant::now();
    let found = ServerDescription::from_hello(server.clone(), hello, now);
    let input = Input::Check(Arc::new(found));
    topology.shared().report(&server, id, None, Some(input));
}

fn primary(hosts: impl IntoIterator<Item = String>) -> bson::RawDocumentBuf {
    let mut list = bson::RawArrayBuf::new();
    hosts.into_iter().for_each(|host| list.push(host));
    rawdoc! {
        "ok": 1, "setName": "rs", "isWritablePrimary": true, "maxWireVersion": 25, "hosts": list,
    }
}

#[tokio::test]
async fn other_tasks_run_between_the_starts_of_many_monitors() {
    let topology = crowd();
    topology.connect().expect("connected");
    assert_eq!(monitors(&topology), 64);
    all_started(&topology).await;
    closed(&topology).await;
}

#[tokio::test]
async fn closing_ends_the_start_of_many_monitors() {
    let topology = crowd();
    topology.connect().expect("connected");
    assert_eq!(monitors(&topology), 64);
    closed(&topology).await;
}

#[test]
fn the_end_of_a_runtime_leaves_no_server_without_a_monitor() {
    let topology = crowd();
    let first = connected_unwatched(&topology);
    assert_eq!(monitors(&topology), 64);
    drop(first);
    runtime().block_on(async {
        topology.connect().expect("connected again");
        all_started(&topology).await;
        closed(&topology).await;
    });
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
    all_started(&topology).await;
}

#[test]
fn monitors_are_restarted_in_groups() {
    let topology = crowd();
    runtime().block_on(async {
        topology.connect().expect("connected");
        all_started(&topology).await;
    });
    runtime().block_on(async {
        topology.connect().expect("connected again");
        let state = topology.shared().lock();
        let alive = state.monitors.values().filter(|own| !own.is_dead());
        assert_eq!(alive.count(), 64);
    });
}

#[test]
fn the_end_of_a_group_task_alone_is_noticed() {
    let topology = crowd();
    let first = connected_unwatched(&topology);
    let started: BTreeSet<_> = {
        let state = topology.shared().lock();
        state.monitors.keys().cloned().collect()
    };
    let description = topology.description();
    let all = description.servers().iter().map(|own| &own.address);
    let left = all.filter(|address| !started.contains(*address));
    // A primary that lists only servers whose monitors are left.
    reply(&topology, |_| primary(left.map(ToString::to_string)));
    assert_eq!(topology.description().servers().len(), CROWD - 64);
    assert_eq!(monitors(&topology), 0);
    drop(first);
    runtime().block_on(async {
        topology.connect().expect("connected again");
        let started = async {
            while monitors(&topology) < CROWD - 64 {
                yield_now().await;
            }
        };
        timeout(LIMIT, started).await.expect("they have monitors");
    });
}

#[test]
fn every_server_has_one_monitor_after_a_storm() {
    let runtime = threads(2);
    for round in 0..3 {
        runtime.block_on(storm(round));
    }
}

async fn storm(round: u16) {
    let topology = crowd();
    let worker = |worker: u16| {
        let topology = topology.clone();
        tokio::spawn(async move {
            for step in 0..12 {
                topology.connect().expect("connected");
                let first = 1 + (step * 37 + worker * 91 + round * 13) % 300;
                let others = (first..first + 150).map(|port| format!("127.0.0.1:{port}"));
                reply(&topology, |own| primary(others.chain([own.to_string()])));
                if step % 4 == worker {
                    let ended = timeout(LIMIT, topology.disconnect()).await;
                    ended.expect("disconnected");
                }
                yield_now().await;
            }
        })
    };
    let workers: Vec<_> = (0..3).map(worker).collect();
    for worker in workers {
        worker.await.expect("no panic");
    }
    topology.connect().expect("connected");
    let is_complete = || {
        let state = topology.shared().lock();
        let servers = state.description.servers().iter();
        servers.map(|own| &own.address).eq(state.monitors.keys())
    };
    let complete = async {
        while !is_complete() {
            yield_now().await;
        }
    };
    let complete = timeout(LIMIT, complete).await;
    complete.expect("every server has a monitor");
    closed(&topology).await;
    let tasks = &topology.shared().tasks;
    let newest = tasks.newest();
    let none = timeout(LIMIT, tasks.ended(u64::MAX)).await;
    none.expect("nothing is alive");
    assert_eq!(
        tasks.newest(),
        newest,
        "nothing was started after the close"
    );
}

#[tokio::test]
async fn an_error_before_the_first_check_does_not_cancel_it() {
    let (sender, mut failures) = mpsc::unbounded_channel();
    let uri = "mongodb://127.0.0.1:1/";
    let topology = Topology::builder(ClientOptions::parse(uri).expect("a connection string"))
        .event_handler(move |event| {
            if let SdamEvent::ServerHeartbeatFailed(failed) = event {
                sender.send(failed.failure.to_string()).expect("a test");
            }
        })
        .build()
        .expect("a topology");
    topology.connect().expect("connected");
    let mut error = network_error();
    error.server = "127.0.0.1:1".parse().expect("an address");
    topology.handle_error(error);
    let first = timeout(LIMIT, failures.recv()).await;
    let first = first.expect("in time").expect("a failure");
    assert!(first.contains("refused"), "{first}");
    topology.close().await;
}

/// Disconnects a topology when it is woken.
struct Disconnects(Topology);

impl Wake for Disconnects {
    fn wake(self: Arc<Self>) {
        self.0.shared().end(Ended::Disconnected);
    }
}

#[test]
fn a_selection_does_not_connect_a_topology_that_was_disconnected() {
    let (topology, idle) = unwatched();
    let _entered = idle.enter();
    let signal = {
        let state = topology.shared().lock();
        state.monitors[&server()].check_request()
    };
    let waker = Arc::new(Disconnects(topology.clone())).into();
    let mut requested = pin!(signal.notified());
    let waiting = requested.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(waiting.is_pending());
    // A waiting selection requests a check, and meanwhile the topology is disconnected.
    let mut patience = Patience::default();
    let requested = topology.shared().request_checks(&mut patience);
    requested.expect("not closed");
    assert!(!topology.shared().is_running());
    assert!(topology.shared().lock().monitors.is_empty());
}

#[test]
fn no_selection_misses_a_change() {
    let runtime = threads(3);
    for round in 0..40 {
        // The monitors never run.
        let (topology, _idle) = unwatched();
        runtime.block_on(select_while_it_changes(&topology, round));
    }
}

async fn select_while_it_changes(topology: &Topology, round: u64) {
    let select = |number: u64| {
        let topology = topology.clone();
        tokio::spawn(async move {
            let write = Criterion::write();
            if number.is_multiple_of(3) {
                let brief = Duration::from_micros(number * 5 + round % 7);
                let _ = timeout(brief, topology.select(&write)).await;
            }
            match topology.select(&write).await {
                Ok(_) => true,
                Err(error) => matches!(error.kind(), ErrorKind::TopologyClosed),
            }
        })
    };
    let waiting: Vec<_> = (0..60).map(select).collect();
    let publisher = topology.clone();
    let publish = thread::spawn(move || {
        let found = || reply(&publisher, |_| router());
        for _ in 0..round % 5 {
            found();
            publisher.handle_error(network_error());
            thread::yield_now();
        }
        match round % 2 {
            0 => drop(publisher.shared().end(Ended::Closed)),
            _ => found(),
        }
    });
    for task in waiting {
        let ended = timeout(LIMIT, task).await;
        let is_right = ended.expect("no selection sleeps").expect("no panic");
        assert!(is_right, "{round}");
    }
    publish.join().expect("no panic");
}
