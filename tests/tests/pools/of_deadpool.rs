//! deadpool's own settings and ways, kept behind the front.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use mongo_core::error::Wait;
use mongo_core::event::{CmapEvent, EventHandlers};
use mongo_core::pools::ConnectionFactory;
use mongo_core::{ClientOptions, ErrorKind};
use mongo_deadpool::{Hook, Manager, Pool, Status};
use mongo_testkit::{Action, Matcher, ScriptedServer};

const LIMIT: Duration = Duration::from_secs(10);

/// A pool whose handler reads its status at each connection that is closed.
fn watched(server: &ScriptedServer, max_size: usize) -> (Pool, Arc<Mutex<Vec<Status>>>) {
    let (slot, seen) = (Arc::new(OnceLock::<Pool>::new()), Arc::default());
    let (pool, noted): (_, Arc<Mutex<Vec<Status>>>) = (slot.clone(), Arc::clone(&seen));
    let handlers = EventHandlers::new().on_cmap(move |event| {
        if let (CmapEvent::ConnectionClosed(_), Some(pool)) = (event, pool.get()) {
            let status = pool.status();
            noted.lock().expect("no panic").push(status);
        }
    });
    let options = ClientOptions::parse(&server.uri()).expect("a connection string");
    let factory = ConnectionFactory::builder(options).event_handlers(handlers);
    let manager = Manager::from(factory.build().expect("a factory"));
    let built = Pool::builder(manager).max_size(max_size).build();
    let pool = Pool::from(built.expect("a pool"));
    slot.set(pool.clone()).expect("once");
    (pool, seen)
}

async fn idle(pool: &Pool, count: usize) {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(pool.get().await.expect("a connection"));
    }
}

/// On a thread of its own: a deadlock would hang the runtime.
async fn soon(run: impl FnOnce() + Send + 'static) {
    let ended = tokio::task::spawn_blocking(run);
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
async fn a_pool_that_grows_makes_more_connections() {
    let server = ScriptedServer::start().await;
    let (pool, _) = watched(&server, 1);
    let held = pool.get().await.expect("a connection");
    pool.resize(2);
    let another = tokio::time::timeout(LIMIT, pool.get()).await;
    drop((held, another.expect("in time").expect("a connection")));
    assert_eq!(pool.status().size, 2);
}

#[tokio::test]
async fn retain_sees_connections_made_for_callers_that_left() {
    let server = ScriptedServer::builder()
        .rule(Matcher::hello().then(Action::Delay(Duration::from_millis(100))))
        .start()
        .await;
    let (pool, _) = watched(&server, 4);
    let hasty = mongo_deadpool::Timeouts::wait_millis(20);
    pool.timeout_get(&hasty).await.expect_err("no answer");
    let made = async {
        while pool.status().available == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LIMIT, made).await.expect("made");
    let kept = pool.retain(|connection, _| connection.is_new());
    assert_eq!((kept.retained, kept.removed.len()), (1, 0));
    let removed = pool.retain(|_, _| false);
    assert_eq!((removed.retained, removed.removed.len()), (0, 1));
    assert_eq!(pool.status().size, 0);
    drop(removed);
    server.wait_for("none open", |seen| seen.open == 0).await;
}

#[tokio::test]
async fn a_connection_that_is_taken_leaves_its_place() {
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
async fn hooks_are_within_the_bound_of_the_check_out() {
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
