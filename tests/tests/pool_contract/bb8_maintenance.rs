//! Idle connections of a plain bb8 pool that several runtimes use.

use std::time::Duration;

use mongo_testkit::ScriptedServer;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{advance, pause, resume, timeout};

/// The limit for waits in tests.
const LIMIT: Duration = Duration::from_secs(20);

fn runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

/// A server on its own runtime.
struct World {
    server: ScriptedServer,
    runtime: Runtime,
}

impl World {
    fn new() -> Self {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let server = runtime.block_on(ScriptedServer::start());
        Self { server, runtime }
    }

    fn builder(&self) -> mongo_bb8::bb8::Builder<mongo_bb8::MongoConnectionManager> {
        let builder = mongo_bb8::Pool::builder().max_size(3);
        builder.idle_timeout(None).max_lifetime(None)
    }

    fn build(
        &self,
        builder: mongo_bb8::bb8::Builder<mongo_bb8::MongoConnectionManager>,
    ) -> mongo_bb8::Pool {
        let manager = mongo_bb8::MongoConnectionManager::new(&self.server.uri());
        mongo_bb8::Pool::build(builder, manager.expect("a manager")).expect("a pool")
    }

    /// Waits until `count` connections are open.
    fn expect_open(&self, what: &str, count: u64) {
        let is_so = self.server.wait_for(what, |seen| seen.open == count);
        let waited = self.runtime.block_on(async { timeout(LIMIT, is_so).await });
        assert!(waited.is_ok(), "{what}");
    }
}

/// Advances the clock of the current runtime, and runs all tasks that become due.
async fn pass(time: Duration) {
    turn().await;
    pause();
    advance(time).await;
    turn().await;
    resume();
}

/// Runs all ready tasks of the current runtime.
async fn turn() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

/// Uses a pool that was built on an ended runtime, and leaves a connection idle for longer than its
/// timeout.
fn closes_on_its_second_runtime(world: &World, first: Runtime, pool: &mongo_bb8::Pool) {
    drop(first.block_on(pool.get()).expect("a connection"));
    drop(first);
    for what in ["the second runtime", "the third runtime"] {
        let next = runtime();
        next.block_on(async {
            drop(pool.get().await.expect("a connection"));
            pass(Duration::from_secs(31)).await;
        });
        world.expect_open(what, 0);
        assert_eq!(pool.status().size, 0, "{what}");
    }
}

#[test]
fn a_plain_bb8_pool_closes_idle_connections_on_its_second_runtime() {
    let world = World::new();
    let first = runtime();
    let uri = format!("{}&maxIdleTimeMS=1000", world.server.uri());
    let config = mongo_bb8::Config::from_url(uri);
    let pool = first.block_on(async { config.create_pool(None) });
    closes_on_its_second_runtime(&world, first, &pool.expect("a pool"));
}

#[test]
fn a_plain_bb8_pool_keeps_bb8s_idle_timeout_on_its_second_runtime() {
    let world = World::new();
    let first = runtime();
    let builder = world.builder().idle_timeout(Duration::from_secs(20));
    let pool = first.block_on(async { world.build(builder) });
    closes_on_its_second_runtime(&world, first, &pool);
}

#[test]
fn a_plain_bb8_pool_keeps_bb8s_max_lifetime_on_its_second_runtime() {
    let world = World::new();
    let first = runtime();
    let builder = world.builder().max_lifetime(Duration::from_secs(20));
    let pool = first.block_on(async { world.build(builder) });
    closes_on_its_second_runtime(&world, first, &pool);
}

#[test]
fn a_used_connection_restarts_its_idle_time_on_the_second_runtime() {
    let world = World::new();
    let first = runtime();
    let builder = world.builder().idle_timeout(Duration::from_secs(40));
    let pool = first.block_on(async { world.build(builder) });
    drop(first);
    let second = runtime();
    for _ in 0..4 {
        second.block_on(async {
            drop(pool.get().await.expect("a connection"));
            pass(Duration::from_secs(31)).await;
        });
        assert_eq!(pool.status().size, 1);
    }
    second.block_on(pass(Duration::from_secs(31)));
    world.expect_open("it is idle", 0);
}

#[test]
fn a_dropped_plain_bb8_pool_leaves_no_task_on_its_second_runtime() {
    let world = World::new();
    for is_closed in [true, false] {
        let first = runtime();
        let builder = world.builder().idle_timeout(Duration::from_secs(20));
        let pool = first.block_on(async { world.build(builder) });
        drop(first);
        let second = runtime();
        drop(second.block_on(pool.get()).expect("a connection"));
        let tasks = || second.metrics().num_alive_tasks();
        assert_eq!(tasks(), 1);
        if is_closed {
            pool.close();
        }
        drop(pool);
        second.block_on(turn());
        assert_eq!(tasks(), 0);
    }
}
