//! The start of many monitors, openings, and selections that wait.

use super::*;

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
    for round in 0..3_u16 {
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
    for round in 0..40_u64 {
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
