//! bb8's own settings and ways, kept behind the front.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bson::doc;
use mongo_bb8::bb8::{Builder, CustomizeConnection};
use mongo_bb8::{MongoConnectionManager, Pool, PoolConfig, Pools};
use mongo_core::select::Criterion;
use mongo_core::{Connection, Error, ErrorKind};
use mongo_testkit::{Action, Matcher, ScriptedServer};
use tokio::runtime::Runtime;

fn pool_of(server: &ScriptedServer, builder: Builder<MongoConnectionManager>) -> Pool {
    let manager = MongoConnectionManager::new(&server.uri()).expect("a manager");
    Pool::build(builder, manager).expect("a pool")
}

async fn idle(pool: &Pool, count: usize) {
    let idle = async {
        while pool.status().available != count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), idle).await;
    assert!(waited.is_ok(), "{:?}", pool.status());
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn delay(millis: u64) -> Action {
    Action::Delay(Duration::from_millis(millis))
}

#[tokio::test]
async fn as_many_as_are_to_be_idle_are_made_in_advance() {
    let server = ScriptedServer::start().await;
    let mut config = mongo_bb8::Config::from_url(server.uri());
    let mut settings = PoolConfig::new(8);
    settings.min_idle = Some(3);
    config.pool = Some(settings);
    let pool = config.create_pool(None).expect("a pool");
    idle(&pool, 3).await;
    let held = pool.get().await.expect("a connection");
    drop(held);
    pool.close();
    server.wait_for("none open", |seen| seen.open == 0).await;
}

#[tokio::test]
async fn a_dedicated_connection_is_nobody_elses() {
    let server = ScriptedServer::start().await;
    let pool = pool_of(&server, Pool::builder());
    let dedicated = pool.inner().dedicated_connection().await;
    let mut dedicated = dedicated.expect("a connection");
    let pong = dedicated.run_command("admin", &doc! { "ping": 1 }).await;
    pong.expect("a pong");
    assert_eq!(pool.status().size, 0);
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
async fn what_a_customizer_refuses_is_told_at_once() {
    let server = ScriptedServer::start().await;
    let builder = Pool::builder().connection_customizer(Box::new(Refusing));
    let pool = pool_of(&server, builder);
    for _ in 0..2 {
        let got = tokio::time::timeout(Duration::from_secs(10), pool.get()).await;
        let error = got.expect("no wait").map(drop).expect_err("refused");
        assert!(error.to_string().contains("not to my taste"), "{error}");
    }
}

/// A bare pool asks nobody whose failure its sink is told of.
#[tokio::test]
async fn a_check_in_a_bare_pool_costs_no_other_its_failure() {
    let server = ScriptedServer::start().await;
    let manager = MongoConnectionManager::new(&server.uri()).expect("a manager");
    let bare = Pool::builder().build_unchecked(manager.clone());
    drop(bare.get().await.expect("a connection"));
    manager.factory().clear();
    drop(bare.get().await.expect("another one"));
    let config = mongo_bb8::Config::from_url("mongodb://127.0.0.1:1");
    let pool = config.create_pool(None).expect("a pool");
    let got = tokio::time::timeout(Duration::from_secs(10), pool.get()).await;
    let error = got.expect("no wait").map(drop).expect_err("nobody there");
    assert!(matches!(error.kind(), ErrorKind::Connect(_)), "{error}");
}

#[tokio::test]
async fn a_close_closes_what_bb8_would_not_check() {
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
async fn a_bound_of_the_callers_may_be_longer_than_bb8s() {
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

/// A server that answers the first hello after so many milliseconds, and no other.
async fn answers_once(millis: u64) -> ScriptedServer {
    ScriptedServer::builder()
        .rule(Matcher::hello().once().then(delay(millis)))
        .rule(Matcher::hello().then(delay(60_000)))
        .start()
        .await
}

#[tokio::test]
async fn what_comes_back_goes_straight_to_who_waits() {
    let server = answers_once(0).await;
    let pool = pool_of(&server, Pool::builder().max_size(2));
    let held = pool.get().await.expect("a connection");
    let mut waits = pin!(pool.get());
    assert!(poll_once(waits.as_mut()).is_pending());
    drop(held);
    assert_eq!(pool.status().available, 0, "nobody else is to see it");
    assert!(poll_once(waits.as_mut()).is_ready());
}

/// bb8 hands what it has made to whoever asks next.
#[tokio::test]
async fn a_late_caller_does_not_take_what_was_made_for_one_before() {
    let server = answers_once(30).await;
    let pool = pool_of(&server, Pool::builder().max_size(2));
    let mut first = pin!(pool.get());
    assert!(poll_once(first.as_mut()).is_pending());
    idle(&pool, 1).await;
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

/// An application's fields may be dropped in any order.
#[test]
fn pools_outlive_their_runtime() {
    let runtime = Runtime::new().expect("a runtime");
    let (server, pool, pools, floating) = runtime.block_on(async {
        let server = ScriptedServer::start().await;
        let pool = pool_of(&server, Pool::builder().min_idle(1));
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
        // Dropped while this unwinds, they would abort the process.
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
        let pool = pool_of(&server, Pool::builder().min_idle(1).max_size(2));
        let held = [pool.get().await, pool.get().await];
        (server, pool, held.map(|held| held.expect("a connection")))
    });
    // It must not come back, and bb8 makes another one in its place.
    pool.manager().factory().clear();
    drop(held);
    runtime.block_on(async {
        idle(&pool, 1).await;
        drop(pool.get().await.expect("a connection"));
    });
    drop(server);
}

#[test]
fn what_is_there_can_be_had_outside_of_any_runtime() {
    let runtime = Runtime::new().expect("a runtime");
    let (server, pools) = runtime.block_on(async {
        let server = ScriptedServer::start().await;
        let pools = Pools::new(&server.uri()).expect("pools");
        drop(pools.get().await.expect("a connection"));
        (server, pools)
    });
    let got = pools.try_get_with(&Criterion::write());
    assert!(got.is_some());
    drop(got);
    runtime.block_on(pools.close());
    drop(server);
}
