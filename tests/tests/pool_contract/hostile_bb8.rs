//! Idle connections of a plain bb8 pool under hostile orders of events.

use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use mongo_bb8::bb8::{Builder, CustomizeConnection, QueueStrategy};
use mongo_bb8::{BackendConfig, MongoConnectionManager, Pool, Pools, QueueMode};
use mongo_core::event::{CmapEvent, EventHandlers};
use mongo_core::pools::{ConnectionFactory, ManagerConfig};
use mongo_core::uri::ClientOptions;
use mongo_core::{Connection, Error};
use mongo_testkit::ScriptedServer;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::bb8_specific::churn;
use crate::eventually;

/// No test waits for longer, whatever goes wrong.
const LIMIT: Duration = Duration::from_secs(10);

fn pool_of(uri: &str, builder: Builder<MongoConnectionManager>) -> Pool {
    let manager = MongoConnectionManager::new(uri).expect("a manager");
    Pool::build(builder, manager).expect("a pool")
}

fn current_thread() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

/// A pool of one connection, which bb8's reaper has closed.
fn reaped(server: &ScriptedServer, first: &Runtime) -> Pool {
    let builder = Pool::builder()
        .max_size(1)
        .max_lifetime(None)
        .idle_timeout(Duration::from_millis(50))
        .reaper_rate(Duration::from_millis(20))
        .connection_timeout(Duration::from_secs(3));
    first.block_on(async {
        let pool = pool_of(&server.uri(), builder);
        drop(pool.get().await.expect("a connection"));
        eventually("reaped", || pool.status().size == 0).await;
        pool
    })
}

#[test]
fn reaped_connections_free_their_slots_after_the_end_of_their_runtime() {
    let world = Runtime::new().expect("a runtime");
    let server = world.block_on(ScriptedServer::start());
    let first = current_thread();
    let pool = reaped(&server, &first);
    drop(first);
    let second = current_thread();
    for _ in 0..3 {
        drop(second.block_on(pool.get()).expect("a connection"));
    }
    assert_eq!(pool.status().size, 1);
}

#[test]
fn reaped_connections_free_their_slots_while_their_runtime_is_not_driven() {
    let world = Runtime::new().expect("a runtime");
    let server = world.block_on(ScriptedServer::start());
    let first = current_thread();
    let pool = reaped(&server, &first);
    let before = server.look(|seen| seen.accepted);
    let second = current_thread();
    let got = second.block_on(pool.get());
    let made = server.look(|seen| seen.accepted) - before;
    assert!(got.is_ok() && made == 1, "{made} connections: {got:?}");
}

/// Callers add and take connections of a pool whose first runtime has ended.
#[test]
fn additions_on_a_second_runtime_hide_no_idle_ones() {
    const SIZE: u32 = 6;
    let world = Runtime::new().expect("a runtime");
    let server = world.block_on(ScriptedServer::start());
    let first = current_thread();
    let builder = Pool::builder()
        .max_size(SIZE)
        .max_lifetime(None)
        .idle_timeout(None)
        .queue_strategy(QueueStrategy::Fifo)
        .connection_timeout(Duration::from_secs(5));
    let pool = first.block_on(async { pool_of(&server.uri(), builder) });
    drop(first);
    let mut second = tokio::runtime::Builder::new_multi_thread();
    let second = second.worker_threads(4).enable_all().build();
    let second = second.expect("a runtime");
    second.block_on(async {
        churn(&pool, SIZE, 400).await;
        let mut held = Vec::new();
        for _ in 0..SIZE {
            held.push(pool.get().await.expect("a connection"));
        }
    });
}

/// Clears its pool while the first connection is customized.
#[derive(Clone, Debug, Default)]
struct Clearing(Arc<Mutex<Option<ConnectionFactory>>>);

impl CustomizeConnection<Connection, Error> for Clearing {
    fn on_acquire<'a>(
        &'a self,
        _: &'a mut Connection,
    ) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>> {
        if let Some(factory) = self.0.lock().expect("no panic").take() {
            factory.clear(None);
        }
        Box::pin(async { Ok(()) })
    }
}

/// A handler may use the pool.
#[test]
fn a_handler_uses_the_pool_while_a_connection_is_closed_that_is_stale_before_it_is_added() {
    let (done, is_done) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = current_thread();
        runtime.block_on(async {
            let server = ScriptedServer::start().await;
            let own: Arc<Mutex<Option<Pool>>> = Arc::default();
            let of_handler = own.clone();
            let handlers = EventHandlers::new().on_cmap(move |event| {
                if let CmapEvent::ConnectionClosed(_) = event {
                    let pool = of_handler.lock().expect("no panic").clone();
                    if let Some(pool) = pool {
                        pool.close();
                    }
                }
            });
            let options = ClientOptions::parse(&server.uri()).expect("a connection string");
            let factory = ConnectionFactory::builder(options)
                .config(ManagerConfig::default())
                .event_handlers(handlers)
                .build()
                .expect("a factory");
            let clearing = Clearing(Arc::new(Mutex::new(Some(factory.clone()))));
            let builder = Pool::builder()
                .max_size(2)
                .max_lifetime(None)
                .idle_timeout(None)
                .connection_customizer(Box::new(clearing));
            let pool = Pool::build(builder, MongoConnectionManager::from(factory));
            let pool = pool.expect("a pool");
            *own.lock().expect("no panic") = Some(pool.clone());
            let got = pool.get().await;
            assert!(got.is_err(), "closed by the handler");
            own.lock().expect("no panic").take();
        });
        done.send(()).expect("it is waited for");
    });
    is_done.recv_timeout(LIMIT).expect("no deadlock");
}

/// Callers take, return and close connections of pools whose first runtime has ended, or is not
/// driven any more.
fn pools_go_on(queue_mode: QueueMode, ends: bool) {
    const SIZE: u32 = 6;
    let world = Runtime::new().expect("a runtime");
    let server = world.block_on(ScriptedServer::start());
    let first = current_thread();
    let options = ClientOptions::parse(&server.uri()).expect("a connection string");
    let mut second = tokio::runtime::Builder::new_multi_thread();
    let second = second.worker_threads(4).enable_all().build();
    let second = second.expect("a runtime");
    let pools = Pools::builder(options)
        .pool_config(BackendConfig::new(SIZE).with_queue_mode(queue_mode))
        .build()
        .expect("pools");
    drop(first.block_on(pools.get()).expect("a connection"));
    let first = (!ends).then_some(first);
    let before = server.look(|seen| seen.accepted);
    let mut closed = 0;
    second.block_on(async {
        for round in 0..150 {
            let mut tasks = JoinSet::new();
            for task in 0..SIZE {
                let pools = pools.clone();
                tasks.spawn(async move {
                    let mut closed = 0;
                    for turn in 0..10 {
                        let deadline = Duration::from_secs(5);
                        let got = timeout(deadline, pools.get()).await.expect("in time");
                        let mut got = got.expect("a connection");
                        if (turn + task) % 3 == 0 {
                            closed += 1;
                            got.close();
                        }
                        drop(got);
                        if turn % 2 == 0 {
                            tokio::task::yield_now().await;
                        }
                    }
                    closed
                });
            }
            while let Some(done) = tasks.join_next().await {
                closed += done
                    .unwrap_or_else(|error| panic!("round {round}: {error}: {:?}", pools.status()));
            }
        }
    });
    let made = server.look(|seen| seen.accepted) - before;
    assert!(
        made <= closed + 2 * u64::from(SIZE),
        "{made} made, {closed} closed"
    );
    drop(first);
}

#[test]
fn pools_survive_the_end_of_their_first_runtime_fifo() {
    pools_go_on(QueueMode::Fifo, true);
}

#[test]
fn pools_survive_the_end_of_their_first_runtime_lifo() {
    pools_go_on(QueueMode::Lifo, true);
}

#[test]
fn pools_work_while_their_first_runtime_is_not_driven_fifo() {
    pools_go_on(QueueMode::Fifo, false);
}

#[test]
fn pools_work_while_their_first_runtime_is_not_driven_lifo() {
    pools_go_on(QueueMode::Lifo, false);
}

/// The upkeep of a second runtime knows how long the connections of the first one were idle.
#[test]
fn a_connection_in_use_on_the_first_runtime_is_kept_by_the_second_ones_upkeep() {
    let world = Runtime::new().expect("a runtime");
    let server = world.block_on(ScriptedServer::start());
    let (first, second) = (Runtime::new(), Runtime::new());
    let (first, second) = (first.expect("a runtime"), second.expect("a runtime"));
    let builder = Pool::builder()
        .max_size(2)
        .max_lifetime(None)
        .idle_timeout(Duration::from_secs(1))
        .reaper_rate(Duration::from_millis(50));
    let pool = first.block_on(async { pool_of(&server.uri(), builder) });
    let held = first.block_on(pool.get()).expect("a connection");
    let id = held.id();
    // The second runtime has a connection of its own, and a task.
    let other = second.block_on(pool.get()).expect("a connection");
    drop(held);
    for turn in 0..20 {
        std::thread::sleep(Duration::from_millis(100));
        let got = first.block_on(pool.get()).expect("a connection");
        assert_eq!(got.id(), id, "after {turn} uses");
        drop(got);
    }
    drop(other);
}

/// A pool whose first runtime has ended is cleared while connections are given back.
#[test]
fn a_clear_during_a_check_in_costs_nothing_after_the_end_of_the_first_runtime() {
    const SIZE: u32 = 4;
    let world = Runtime::new().expect("a runtime");
    let server = world.block_on(ScriptedServer::start());
    let first = current_thread();
    let builder = Pool::builder()
        .max_size(SIZE)
        .max_lifetime(None)
        .idle_timeout(None)
        .connection_timeout(Duration::from_secs(5));
    let pool = first.block_on(async { pool_of(&server.uri(), builder) });
    drop(first);
    let mut second = tokio::runtime::Builder::new_multi_thread();
    let second = second.worker_threads(4).enable_all().build();
    let second = second.expect("a runtime");
    let is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clearing = {
        let (factory, is_over) = (pool.manager().factory().clone(), is_over.clone());
        std::thread::spawn(move || {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                factory.clear(None);
                std::thread::sleep(Duration::from_micros(300));
            }
        })
    };
    let outcome = second.block_on(async {
        let mut tasks = JoinSet::new();
        for _ in 0..SIZE {
            let pool = pool.clone();
            tasks.spawn(async move {
                for _ in 0..3000 {
                    if let Ok(got) = pool.get().await {
                        drop(got);
                    }
                    tokio::task::yield_now().await;
                }
            });
        }
        let mut outcome = Ok(());
        while let Some(done) = tasks.join_next().await {
            outcome = outcome.and(done);
        }
        outcome
    });
    is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    clearing.join().expect("no panic");
    outcome.unwrap_or_else(|error| panic!("{error}: {:?}", pool.status()));
}
