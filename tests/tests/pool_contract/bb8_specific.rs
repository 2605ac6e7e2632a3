//! bb8's own settings and behavior, through the adapter.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bson::doc;
use mongo_bb8::bb8::{Builder, CustomizeConnection};
use mongo_bb8::{MongoConnectionManager, Pool, PoolConfig, Pools};
use mongo_core::error::Wait;
use mongo_core::{Connection, Error, ErrorKind};
use mongo_testkit::{Action, Matcher, ScriptedServer};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::eventually;

fn pool_of(server: &ScriptedServer, builder: Builder<MongoConnectionManager>) -> Pool {
    let manager = MongoConnectionManager::new(&server.uri()).expect("a manager");
    Pool::build(builder, manager).expect("a pool")
}

async fn idle(pool: &Pool, count: usize) {
    eventually("idle ones", || pool.status().available == count).await;
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn delay(millis: u64) -> Action {
    Action::Delay(Duration::from_millis(millis))
}

#[tokio::test]
async fn min_idle_is_refused_with_its_remedy() {
    let mut config = mongo_bb8::Config::from_url("mongodb://127.0.0.1:1");
    let mut settings = PoolConfig::new(8);
    settings.min_idle = Some(3);
    config.pool = Some(settings);
    let manager = MongoConnectionManager::new("mongodb://127.0.0.1:1").expect("a manager");
    let built = Pool::build(Pool::builder().min_idle(3), manager);
    let errors = [
        config.create_pool(None).map(drop).expect_err("a pool"),
        config.create_pools().map(drop).expect_err("pools"),
        built.map(drop).expect_err("by a builder"),
    ];
    for error in errors {
        let text = error.to_string();
        assert!(
            text.contains("min_idle") && text.contains("minPoolSize"),
            "{text}"
        );
    }
    config.builder().expect("a bare pool keeps it");
}

/// bb8 would count each look for an idle connection as a get, and one in vain as pending for ever.
#[tokio::test]
async fn bb8s_statistics_are_not_shown() {
    let server = ScriptedServer::start().await;
    let wait = Duration::from_millis(100);
    let pool = pool_of(
        &server,
        Pool::builder().max_size(1).connection_timeout(wait),
    );
    let held = pool.get().await.expect("a connection");
    let mut given_up = Box::pin(pool.get());
    assert!(poll_once(given_up.as_mut()).is_pending());
    assert_eq!(pool.status().waiting, 1);
    drop(given_up);
    pool.get().await.map(drop).expect_err("all are in use");
    let shown = |available| {
        let size = "max_size: 1, size: 1";
        format!("Status {{ {size}, available: {available}, waiting: 0 }}")
    };
    assert_eq!(format!("{:?}", pool.status()), shown(0));
    drop(held);
    // A sweep takes the idle one out, and puts it back.
    <Pool as mongo_core::pools::Backend>::reap(&pool);
    assert_eq!(format!("{:?}", pool.status()), shown(1));
    let debug = format!("{pool:?}");
    for word in ["statistics", "gets", "get_"] {
        assert!(!debug.contains(word), "{debug}");
    }
}

#[derive(Debug)]
struct Refusing;

impl CustomizeConnection<Connection, Error> for Refusing {
    fn on_acquire<'a>(
        &'a self,
        _: &'a mut Connection,
    ) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>> {
        Box::pin(async { Err(Error::configuration("not to my taste")) })
    }
}

#[tokio::test]
async fn a_connection_refused_by_a_customizer_is_an_error_at_once() {
    let server = ScriptedServer::start().await;
    let builder = Pool::builder().connection_customizer(Box::new(Refusing));
    let pool = pool_of(&server, builder);
    for _ in 0..2 {
        let got = tokio::time::timeout(Duration::from_secs(10), pool.get()).await;
        let error = got.expect("no wait").map(drop).expect_err("refused");
        assert!(error.to_string().contains("not to my taste"), "{error}");
    }
}

/// A failed check in a bare pool must not be reported to another pool's caller.
#[tokio::test]
async fn a_check_in_a_bare_pool_takes_no_failure_of_another_pool() {
    let server = ScriptedServer::start().await;
    let manager = MongoConnectionManager::new(&server.uri()).expect("a manager");
    let bare = Pool::builder().build_unchecked(manager.clone());
    drop(bare.get().await.expect("a connection"));
    manager.factory().clear(None);
    drop(bare.get().await.expect("another one"));
    let config = mongo_bb8::Config::from_url("mongodb://127.0.0.1:1");
    let pool = config.create_pool(None).expect("a pool");
    let got = tokio::time::timeout(Duration::from_secs(10), pool.get()).await;
    let error = got
        .expect("no wait")
        .map(drop)
        .expect_err("no server there");
    assert!(matches!(error.kind(), ErrorKind::Connect(_)), "{error}");
}

#[tokio::test]
async fn a_close_closes_idle_connections_without_test_on_check_out() {
    let server = ScriptedServer::start().await;
    let pool = pool_of(&server, Pool::builder().test_on_check_out(false));
    let held = [pool.get().await, pool.get().await, pool.get().await];
    drop(held.map(|held| held.expect("a connection")));
    idle(&pool, 3).await;
    pool.close();
    assert_eq!(pool.status().size, 0);
    server.wait_for("none open", |seen| seen.open == 0).await;
}

#[tokio::test]
async fn a_caller_timeout_may_exceed_the_connection_timeout_of_bb8() {
    let server = ScriptedServer::builder()
        .rule(Matcher::hello().then(delay(300)))
        .start()
        .await;
    let builder = Pool::builder().connection_timeout(Duration::from_millis(100));
    let pool = pool_of(&server, builder);
    let got = pool.get_within(Duration::from_secs(10)).await;
    drop(got.expect("a connection"));
    let server = ScriptedServer::builder()
        .rule(Matcher::hello().then(delay(3000)))
        .start()
        .await;
    let builder = Pool::builder().connection_timeout(Duration::from_millis(100));
    let error = pool_of(&server, builder).get().await.map(drop);
    let error = error.expect_err("the pool's own bound");
    assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "{error}");
}

/// A server that answers only the first hello, after `millis`.
async fn answers_once(millis: u64) -> ScriptedServer {
    ScriptedServer::builder()
        .rule(Matcher::hello().once().then(delay(millis)))
        .rule(Matcher::hello().then(delay(60_000)))
        .start()
        .await
}

#[tokio::test]
async fn a_returned_connection_goes_straight_to_the_waiter() {
    let server = answers_once(0).await;
    let pool = pool_of(&server, Pool::builder().max_size(2));
    let held = pool.get().await.expect("a connection");
    let mut waits = pin!(pool.get());
    assert!(poll_once(waits.as_mut()).is_pending());
    drop(held);
    assert_eq!(pool.status().available, 0, "it is not available to others");
    assert!(poll_once(waits.as_mut()).is_ready());
}

/// A waker that records its wake.
#[derive(Default)]
struct Woken(Notify);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

#[tokio::test]
async fn a_late_caller_does_not_take_a_connection_made_for_an_earlier_one() {
    let server = answers_once(30).await;
    let pool = pool_of(&server, Pool::builder().max_size(2));
    let mut first = pin!(pool.get());
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let polled = first.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
    woken.0.notified().await;
    let mut late = pin!(pool.get());
    assert!(poll_once(late.as_mut()).is_pending(), "it comes after");
    let Poll::Ready(got) = poll_once(first.as_mut()) else {
        panic!("it was made for this one");
    };
    let got = got.expect("a connection");
    assert!(poll_once(late.as_mut()).is_pending());
    drop(got);
    assert!(poll_once(late.as_mut()).is_ready());
}

/// Counts how often it runs for a connection.
#[derive(Clone, Debug, Default)]
struct Counting(Arc<Mutex<HashMap<u64, u32>>>);

impl CustomizeConnection<Connection, Error> for Counting {
    fn on_acquire<'a>(
        &'a self,
        connection: &'a mut Connection,
    ) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>> {
        let id = connection.id();
        *self.0.lock().expect("no panic").entry(id).or_default() += 1;
        Box::pin(async { Ok(()) })
    }
}

#[tokio::test]
async fn a_customizer_runs_once_for_each_connection() {
    let server = ScriptedServer::builder()
        .rule(Matcher::hello().then(delay(5)))
        .start()
        .await;
    let counting = Counting::default();
    let builder = Pool::builder().max_size(4);
    let pool = pool_of(
        &server,
        builder.connection_customizer(Box::new(counting.clone())),
    );
    let mut callers = JoinSet::new();
    for _ in 0..16 {
        let pool = pool.clone();
        callers.spawn(async move {
            for _ in 0..50 {
                let mut connection = pool.get().await.expect("a connection");
                let pong = connection.run_command("admin", &doc! { "ping": 1 }).await;
                pong.expect("a pong");
            }
        });
    }
    callers.join_all().await;
    let counts = counting.0.lock().expect("no panic").clone();
    assert!(
        counts.len() <= 4 && counts.values().all(|count| *count == 1),
        "{counts:?}"
    );
}

#[tokio::test]
async fn a_hung_customizer_ends_at_the_callers_timeout() {
    #[derive(Debug)]
    struct Hanging;

    impl CustomizeConnection<Connection, Error> for Hanging {
        fn on_acquire<'a>(
            &'a self,
            _: &'a mut Connection,
        ) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>> {
            Box::pin(std::future::pending())
        }
    }

    let server = ScriptedServer::start().await;
    let builder = Pool::builder().connection_customizer(Box::new(Hanging));
    let pool = pool_of(&server, builder);
    let bounded = pool.get_within(Duration::from_millis(300));
    let got = tokio::time::timeout(Duration::from_secs(10), bounded).await;
    let error = got.expect("bounded").map(drop).expect_err("it hangs");
    let is_hook = |wait: &Wait| *wait == Wait::Hook;
    assert!(
        matches!(error.kind(), ErrorKind::Timeout { wait, .. } if is_hook(wait)),
        "{error}"
    );
    server.wait_for("none open", |seen| seen.open == 0).await;
}

/// An application's fields may be dropped in any order.
#[test]
fn pools_outlive_their_runtime() {
    let runtime = Runtime::new().expect("a runtime");
    let (server, pool, pools, floating) = runtime.block_on(async {
        let server = ScriptedServer::start().await;
        let pool = pool_of(&server, Pool::builder());
        let pools = Pools::new(&server.uri()).expect("pools");
        drop((pool.get().await, pools.get().await, pools.get().await));
        let other = Pools::new(&server.uri()).expect("pools");
        (
            server,
            pool,
            pools,
            other.get().await.expect("a connection"),
        )
    });
    drop(server);
    drop(runtime);
    assert!(pool.status().available > 0);
    if catch_unwind(AssertUnwindSafe(|| pool.close())).is_err() {
        // Dropping them while this thread unwinds would abort the process.
        std::mem::forget((pool, pools, floating));
        panic!("a close needs no runtime");
    }
    drop(pools);
    drop((pool, floating));
}

#[test]
fn a_guard_may_be_dropped_outside_of_any_runtime() {
    let runtime = Runtime::new().expect("a runtime");
    let (server, pool, held) = runtime.block_on(async {
        let server = ScriptedServer::start().await;
        let pool = pool_of(&server, Pool::builder().max_size(2));
        let held = [pool.get().await, pool.get().await];
        (server, pool, held.map(|held| held.expect("a connection")))
    });
    // The cleared connections must not be returned.
    pool.manager().factory().clear(None);
    drop(held);
    runtime.block_on(async {
        drop(pool.get().await.expect("a connection"));
    });
    drop(server);
}

/// Checks connections out and in, and closes some of them, on as many tasks as the pool has slots.
pub(crate) async fn churn(pool: &mongo_bb8::Pool, slots: u32, rounds: u32) {
    for round in 0..rounds {
        let mut tasks = JoinSet::new();
        for task in 0..slots {
            let pool = pool.clone();
            tasks.spawn(async move {
                for turn in 0..10 {
                    let mut got = pool.get().await.expect("a connection");
                    if (turn + task) % 3 == 0 {
                        got.close();
                    }
                    drop(got);
                    if turn % 2 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap_or_else(|error| panic!("round {round}: {error}: {:?}", pool.status()));
        }
    }
}

/// Callers take connections while another caller searches all of them for the one that it has
/// added.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn added_connections_hide_no_idle_ones() {
    use mongo_bb8::bb8::QueueStrategy;
    const SIZE: u32 = 6;
    let server = ScriptedServer::start().await;
    let builder = Pool::builder()
        .max_size(SIZE)
        .queue_strategy(QueueStrategy::Fifo)
        .connection_timeout(Duration::from_secs(5));
    let pool = pool_of(&server, builder);
    churn(&pool, SIZE, 400).await;
    let held = async {
        let mut held = Vec::new();
        for _ in 0..SIZE {
            held.push(pool.get().await.expect("a connection"));
        }
        held
    };
    let held = tokio::time::timeout(Duration::from_secs(10), held).await;
    assert!(held.is_ok(), "{:?}", pool.status());
}
