//! deadpool's own settings and behavior, through the adapter.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use mongo_core::error::Wait;
use mongo_core::event::{CmapEvent, EventHandlers};
use mongo_core::pools::ConnectionFactory;
use mongo_core::{ClientOptions, ErrorKind};
use mongo_deadpool::{Connection, Hook, Manager, Pool, Pools, Status};
use mongo_testkit::{Action, Matcher, ScriptedServer};

use crate::eventually;

const LIMIT: Duration = Duration::from_secs(10);

/// A pool whose handler reads the pool's status whenever a connection is closed.
fn watched(server: &ScriptedServer, max_size: usize) -> (Pool, Arc<Mutex<Vec<Status>>>) {
    let seen = Arc::<Mutex<Vec<Status>>>::default();
    let noted = seen.clone();
    let pool = at_each_closed(server, max_size, move |pool| {
        let status = pool.status();
        noted.lock().expect("no panic").push(status);
    });
    (pool, seen)
}

/// A pool whose handler calls `run` whenever a connection is closed.
fn at_each_closed(
    server: &ScriptedServer,
    max_size: usize,
    run: impl Fn(&Pool) + Send + Sync + 'static,
) -> Pool {
    let slot = Arc::new(OnceLock::<Pool>::new());
    let pool = slot.clone();
    let handlers = EventHandlers::new().on_cmap(move |event| {
        if let (CmapEvent::ConnectionClosed(_), Some(pool)) = (event, pool.get()) {
            run(pool);
        }
    });
    let options = ClientOptions::parse(&server.uri()).expect("a connection string");
    let factory = ConnectionFactory::builder(options).event_handlers(handlers);
    let manager = Manager::from(factory.build().expect("a factory"));
    let built = Pool::builder(manager).max_size(max_size).build();
    let pool = Pool::from(built.expect("a pool"));
    slot.set(pool.clone()).expect("once");
    pool
}

/// A pool of four connections, two of them idle and two in use. Whenever a connection is closed,
/// the handler returns one in use and reads the status.
async fn giving_back(server: &ScriptedServer) -> (Pool, Arc<Mutex<Vec<Connection>>>) {
    let held = Arc::<Mutex<Vec<Connection>>>::default();
    let given_back = held.clone();
    let pool = at_each_closed(server, 4, move |pool| {
        let returned = given_back.lock().expect("no panic").pop();
        drop(returned);
        let _ = pool.status();
    });
    let mut all = Vec::new();
    for _ in 0..4 {
        all.push(pool.get().await.expect("a connection"));
    }
    held.lock().expect("no panic").extend(all.drain(2..));
    (pool, held)
}

/// Checks out `count` connections, and checks that no slot is left.
async fn fill(pool: &Pool, count: usize) -> Vec<Connection> {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(pool.get().await.expect("a connection"));
    }
    let tried = tokio::time::timeout(LIMIT, pool.try_get()).await;
    let tried = tried.expect("try_get waits for no slot").map(drop);
    let error = tried.expect_err("no slot");
    let is_queue = |wait: &Wait| *wait == Wait::WaitQueue;
    assert!(
        matches!(error.kind(), ErrorKind::Timeout { wait, .. } if is_queue(wait)),
        "{error}"
    );
    held
}

async fn idle(pool: &Pool, count: usize) {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(pool.get().await.expect("a connection"));
    }
}

/// Runs a closure on its own thread, which a deadlock leaves behind. The runtime would wait for a
/// thread of its own.
async fn soon(run: impl FnOnce() + Send + 'static) {
    let (done, ended) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    std::thread::spawn(move || {
        let _entered = runtime.enter();
        run();
        let _ = done.send(());
    });
    let ended = tokio::time::timeout(LIMIT, ended).await;
    ended.expect("no deadlock").expect("no panic");
}

#[tokio::test]
async fn handlers_may_read_the_status_while_a_pool_is_resized_and_closed() {
    let server = ScriptedServer::start().await;
    let (pool, seen) = watched(&server, 4);
    idle(&pool, 4).await;
    let resized = pool.clone();
    soon(move || resized.resize(2)).await;
    assert_eq!(seen.lock().expect("no panic").len(), 2);
    assert_eq!((pool.status().size, pool.status().max_size), (2, 2));
    let closed = pool.clone();
    soon(move || closed.close()).await;
    assert_eq!(seen.lock().expect("no panic").len(), 4);
    server.wait_for("none open", |seen| seen.open == 0).await;
}

#[tokio::test]
async fn a_handler_may_return_connections_while_a_pool_shrinks() {
    let server = ScriptedServer::start().await;
    let (pool, held) = giving_back(&server).await;
    let resized = pool.clone();
    soon(move || resized.resize(1)).await;
    assert_eq!(held.lock().expect("no panic").len(), 0);
    assert_eq!((pool.status().size, pool.status().max_size), (1, 1));
    drop(fill(&pool, 1).await);
    server.wait_for("one open", |seen| seen.open == 1).await;
}

#[tokio::test]
async fn a_handler_may_return_connections_while_a_pool_is_closed() {
    let server = ScriptedServer::start().await;
    let (pool, held) = giving_back(&server).await;
    let closed = pool.clone();
    soon(move || closed.close()).await;
    assert_eq!(held.lock().expect("no panic").len(), 0);
    server.wait_for("none open", |seen| seen.open == 0).await;
    assert_eq!(pool.status().size, 0);
}

#[tokio::test]
async fn connections_returned_while_a_pool_is_resized_close_without_its_lock() {
    let server = ScriptedServer::start().await;
    let (pool, _) = watched(&server, 4);
    for _ in 0..30 {
        let held = fill(&pool, 4).await;
        let resized = pool.clone();
        soon(move || {
            std::thread::scope(|scope| {
                for connection in held {
                    scope.spawn(move || drop(connection));
                }
                scope.spawn(move || resized.resize(1));
            });
        })
        .await;
        assert!(pool.status().size <= 1);
        pool.resize(4);
    }
}

#[tokio::test]
async fn a_shrunk_pool_has_fewer_slots() {
    let server = ScriptedServer::start().await;
    let pool = at_each_closed(&server, 8, |_| {});
    drop(fill(&pool, 8).await);
    pool.resize(2);
    drop(fill(&pool, 2).await);
    pool.resize(8);
    drop(fill(&pool, 8).await);
}

#[tokio::test]
async fn a_shrunk_pool_with_few_connections_has_fewer_slots() {
    let server = ScriptedServer::start().await;
    let pool = at_each_closed(&server, 8, |_| {});
    idle(&pool, 1).await;
    pool.resize(2);
    drop(fill(&pool, 2).await);
    pool.resize(4);
    drop(fill(&pool, 4).await);
}

#[tokio::test]
async fn a_pool_shrunk_while_its_connections_are_in_use_has_fewer_slots() {
    let server = ScriptedServer::start().await;
    let pool = at_each_closed(&server, 8, |_| {});
    let mut held = fill(&pool, 8).await;
    pool.resize(2);
    held.truncate(2);
    assert_eq!(pool.status().size, 2);
    pool.try_get().await.map(drop).expect_err("no slot");
    drop(held);
    drop(fill(&pool, 2).await);
}

/// Runs a `retain` whose predicate panics at connection number `at`.
fn retain_panics(pool: &Pool, at: usize) {
    let mut asked = 0;
    let retained = catch_unwind(AssertUnwindSafe(|| {
        let retained = pool.retain(|_, _| {
            asked += 1;
            assert!(asked <= at, "on purpose");
            false
        });
        drop(retained);
    }));
    let payload = retained.expect_err("the panic goes on");
    let text = payload.downcast_ref::<&str>().expect("its own text");
    assert_eq!(*text, "on purpose");
}

#[tokio::test]
async fn a_predicate_of_retain_that_panics_leaves_the_pool_usable() {
    let server = ScriptedServer::start().await;
    let (pool, _) = watched(&server, 2);
    idle(&pool, 2).await;
    retain_panics(&pool, 0);
    assert_eq!((pool.status().size, pool.status().available), (2, 2));
    drop(fill(&pool, 2).await);
    assert_eq!(server.look(|seen| seen.open), 2);
}

#[tokio::test]
async fn connections_removed_by_retain_before_its_predicate_panicked_are_closed() {
    let server = ScriptedServer::start().await;
    let (pool, seen) = watched(&server, 3);
    idle(&pool, 3).await;
    let own = pool.clone();
    soon(move || retain_panics(&own, 1)).await;
    assert_eq!(seen.lock().expect("no panic").len(), 1);
    server.wait_for("two open", |seen| seen.open == 2).await;
    assert_eq!((pool.status().size, pool.status().available), (2, 2));
    drop(fill(&pool, 3).await);
}

#[tokio::test]
async fn spare_connections_stay_if_the_predicate_of_retain_panics() {
    let server = ScriptedServer::start().await;
    let (pool, _) = watched(&server, 2);
    for connection in fill(&pool, 2).await {
        let connection = Connection::take(connection);
        pool.manager().factory().offer(connection);
    }
    assert_eq!(pool.manager().factory().available(), 2);
    retain_panics(&pool, 1);
    assert_eq!(pool.manager().factory().available(), 2);
    assert_eq!(server.look(|seen| seen.open), 2);
}

/// The results of the first poll of a check-out that a handler begins, while another check-out,
/// which does not wait, closes an expired connection.
async fn begun_in_a_handler<F: Future<Output: Debug>>(
    server: &ScriptedServer,
    begin: impl Fn(&Pools) -> F + Send + Sync + 'static,
) -> Vec<String> {
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let slot = Arc::<OnceLock<Pools>>::default();
    let (noted, own) = (seen.clone(), slot.clone());
    let handlers = EventHandlers::new().on_cmap(move |event| {
        if let (CmapEvent::ConnectionClosed(_), Some(pools)) = (event, own.get()) {
            let mut begun = Box::pin(begin(pools));
            let mut context = Context::from_waker(Waker::noop());
            let polled = begun.as_mut().poll(&mut context);
            noted.lock().expect("no panic").push(format!("{polled:?}"));
        }
    });
    let uri = server.uri();
    let uri = uri.trim_end_matches('/');
    let uri = format!("{uri}/?directConnection=true&maxIdleTimeMS=1");
    let options = ClientOptions::parse(&uri).expect("a connection string");
    let pools = Pools::builder(options).event_handlers(handlers).build();
    let pools = pools.expect("pools");
    assert!(slot.set(pools.clone()).is_ok());
    let seen = || seen.lock().expect("no panic").clone();
    let closed = async {
        while seen().is_empty() {
            drop(pools.get().await.expect("a connection"));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let closed = tokio::time::timeout(LIMIT, closed).await;
    closed.expect("an expired connection");
    let seen = seen();
    pools.close().await;
    seen
}

#[tokio::test]
async fn a_handler_may_begin_a_check_out_of_another_pool() {
    let server = ScriptedServer::start().await;
    let (other, _) = watched(&server, 1);
    let polled = move |_: &Pools| {
        let other = other.clone();
        async move { other.get().await }
    };
    let seen = begun_in_a_handler(&server, polled).await;
    assert!(seen.iter().all(|polled| polled == "Pending"), "{seen:?}");
}

#[tokio::test]
async fn a_handler_may_begin_a_check_out_of_another_bare_pool() {
    let server = ScriptedServer::start().await;
    let (other, _) = watched(&server, 1);
    let polled = move |_: &Pools| {
        let other = (*other).clone();
        async move { other.get().await }
    };
    let seen = begun_in_a_handler(&server, polled).await;
    assert!(seen.iter().all(|polled| polled == "Pending"), "{seen:?}");
}

#[tokio::test]
async fn a_handler_may_begin_a_check_out_of_its_own_pool() {
    let server = ScriptedServer::start().await;
    let polled = |pools: &Pools| {
        let pools = pools.clone();
        async move { pools.get().await }
    };
    let seen = begun_in_a_handler(&server, polled).await;
    assert!(seen.iter().all(|polled| polled == "Pending"), "{seen:?}");
}

#[tokio::test]
async fn a_grown_pool_makes_more_connections() {
    let server = ScriptedServer::start().await;
    let (pool, _) = watched(&server, 1);
    let held = pool.get().await.expect("a connection");
    pool.resize(2);
    let another = tokio::time::timeout(LIMIT, pool.get()).await;
    drop((held, another.expect("in time").expect("a connection")));
    assert_eq!(pool.status().size, 2);
}

#[tokio::test]
async fn retain_sees_spare_connections() {
    let server = ScriptedServer::builder()
        .rule(Matcher::hello().then(Action::Delay(Duration::from_millis(100))))
        .start()
        .await;
    let (pool, _) = watched(&server, 4);
    let hasty = mongo_deadpool::Timeouts::wait_millis(20);
    pool.timeout_get(&hasty).await.expect_err("no answer");
    eventually("an idle one", || pool.status().available == 1).await;
    let kept = pool.retain(|connection, _| connection.is_new());
    assert_eq!((kept.retained, kept.removed.len()), (1, 0));
    let removed = pool.retain(|_, _| false);
    assert_eq!((removed.retained, removed.removed.len()), (0, 1));
    assert_eq!(pool.status().size, 0);
    drop(removed);
    server.wait_for("none open", |seen| seen.open == 0).await;
}

#[tokio::test]
async fn a_taken_connection_frees_its_slot() {
    let server = ScriptedServer::start().await;
    let (pool, _) = watched(&server, 1);
    let taken = mongo_deadpool::Connection::take(pool.get().await.expect("a connection"));
    let another = tokio::time::timeout(LIMIT, pool.get()).await;
    drop(another.expect("in time").expect("a connection"));
    assert_eq!(server.look(|seen| seen.open), 2);
    drop(taken);
    server.wait_for("one open", |seen| seen.open == 1).await;
}

#[tokio::test]
async fn a_slow_hook_ends_at_the_timeout_of_the_check_out() {
    let server = ScriptedServer::start().await;
    let manager = Manager::new(&server.uri()).expect("a manager");
    let slow = Hook::async_fn(|_, _| {
        Box::pin(async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Ok(())
        })
    });
    let built = Pool::builder(manager).max_size(1).post_create(slow).build();
    let pool = Pool::from(built.expect("a pool"));
    for _ in 0..2 {
        let begun = Instant::now();
        let bounded = mongo_deadpool::Timeouts::wait_millis(200);
        let late = pool.timeout_get(&bounded).await.expect_err("a slow hook");
        assert!(begun.elapsed() < Duration::from_secs(5));
        let is_hook = |wait: &Wait| *wait == Wait::Hook;
        assert!(
            matches!(late.kind(), ErrorKind::Timeout { wait, .. } if is_hook(wait)),
            "{late}"
        );
    }
    assert_eq!(pool.status().size, 0);
}
