//! Plain pools with callers that get a bad connection, are not polled, or leave.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bson::doc;
use mongo_bb8::bb8::CustomizeConnection;
use mongo_core::pools::ManagerConfig;
use mongo_core::{Connection, Error};
use mongo_testkit::{Action, Matcher, ScriptedServer};
use tokio::runtime::{Builder, Handle};

use crate::{Backend, Setup, eventually};

on_both!(
    a_waiter_whose_connection_fails_its_check_takes_an_idle_one,
    a_waiter_whose_connection_fails_its_check_keeps_its_turn,
    a_close_closes_the_connection_of_an_unpolled_waiter,
    a_pool_never_exceeds_its_size,
);

on_both! {
    on runtimes of their own:
    an_attempt_on_an_undriven_runtime_blocks_no_other_caller,
}

fn slow_drains() -> ManagerConfig {
    let mut manager = ManagerConfig::default();
    manager.drain_timeout = Some(Duration::from_millis(600));
    manager
}

async fn return_owing<B: Backend>(mut connection: B::Guard) {
    let find = doc! {"find": "c"};
    let cut = tokio::time::timeout(
        Duration::from_millis(50),
        connection.run_command("db", &find),
    );
    assert!(cut.await.is_err());
    drop(connection);
}

async fn a_waiter_whose_connection_fails_its_check_takes_an_idle_one<B: Backend>() {
    let server = ScriptedServer::start().await;
    let uri = format!("{}&maxConnecting=1", server.uri());
    let pool = B::build(Setup::new(uri).max_size(3).manager(slow_drains()));
    let bad = pool.get().await.expect("a connection");
    let good = pool.get().await.expect("a connection");
    server.script().add(Matcher::command("find").never_answer());
    server.script().add(Matcher::hello().never_answer());
    let waits = pool.clone();
    let waits = tokio::spawn(async move { waits.get().await.map(drop) });
    server.wait_for("its attempt", |seen| seen.open == 3).await;
    return_owing::<B>(bad).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(good);
    let served = tokio::time::timeout(Duration::from_secs(3), waits).await;
    let status = pool.status();
    let served = served.unwrap_or_else(|_| panic!("it waits beside an idle one: {status:?}"));
    served.expect("no panic").expect("a connection");
}

async fn a_waiter_whose_connection_fails_its_check_keeps_its_turn<B: Backend>() {
    let server = ScriptedServer::start().await;
    let uri = format!("{}&maxConnecting=1", server.uri());
    let pool = B::build(Setup::new(uri).max_size(5).manager(slow_drains()));
    let bad = pool.get().await.expect("a connection");
    server.script().add(Matcher::command("find").never_answer());
    let slow = Action::Delay(Duration::from_millis(1000));
    server.script().add(Matcher::hello().then(slow));
    let (order, mut tasks) = (Arc::new(std::sync::Mutex::new(Vec::new())), Vec::new());
    for caller in 0..3 {
        let (own, order) = (pool.clone(), order.clone());
        tasks.push(tokio::spawn(async move {
            let got = own.get().await.expect("served");
            order.lock().expect("no panic").push(caller);
            got
        }));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    return_owing::<B>(bad).await;
    let mut held = Vec::new();
    for task in tasks {
        held.push(task.await.expect("no panic"));
    }
    assert_eq!(*order.lock().expect("no panic"), [0, 1, 2]);
}

fn driven() -> tokio::runtime::Runtime {
    let mut builder = Builder::new_multi_thread();
    let builder = builder.worker_threads(1).enable_all();
    builder.build().expect("a runtime")
}

fn an_attempt_on_an_undriven_runtime_blocks_no_other_caller<B: Backend>() {
    let here = driven();
    let server = here.block_on(ScriptedServer::start());
    let pool = here.block_on(async { B::build(Setup::new(server.uri()).max_size(4)) });
    let slow = Action::Delay(Duration::from_millis(300));
    server.script().add(Matcher::hello().then(slow));
    let idle = Builder::new_current_thread().enable_all().build();
    let idle = idle.expect("a runtime");
    let haste = Duration::from_millis(100);
    let late = idle.block_on(pool.get_within(haste)).map(drop);
    assert!(late.expect_err("no answer").is_timeout());
    let begun = Instant::now();
    let got = here.block_on(pool.get_within(Duration::from_secs(5)));
    let got = got.map(drop);
    got.unwrap_or_else(|error| panic!("after {:?}: {error}", begun.elapsed()));
    drop(idle);
}

/// Counts how often each connection is customized.
#[derive(Debug, Default, Clone)]
struct Counting(Arc<AtomicUsize>);

impl CustomizeConnection<Connection, Error> for Counting {
    fn on_acquire<'a>(
        &'a self,
        _: &'a mut Connection,
    ) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Ok(()) })
    }
}

#[tokio::test]
async fn bb8_customizes_connections_of_abandoned_attempts() {
    let server = ScriptedServer::start().await;
    let slow = Action::Delay(Duration::from_millis(200));
    server.script().add(Matcher::hello().then(slow));
    let manager = mongo_bb8::MongoConnectionManager::new(&server.uri()).expect("a manager");
    let count = Counting::default();
    let builder = mongo_bb8::Pool::builder().connection_customizer(Box::new(count.clone()));
    let pool = mongo_bb8::Pool::build(builder, manager).expect("a pool");
    let late = pool.get_within(Duration::from_millis(50)).await;
    drop(late.expect_err("no answer"));
    eventually("it is made", || pool.status().available == 1).await;
    let got = mongo_bb8::Pool::try_get(&pool).await;
    drop(got.expect("it is there"));
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_dropped_bb8_pool_leaves_no_task() {
    let server = ScriptedServer::start().await;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let config = mongo_bb8::Config::from_url(server.uri());
    let pool = config.create_pool(None).expect("a pool");
    drop(pool.get().await.expect("a connection"));
    pool.close();
    drop(pool);
    server.wait_for("none open", |seen| seen.open == 0).await;
    eventually("no task", || tasks() <= before).await;
}

async fn a_close_closes_the_connection_of_an_unpolled_waiter<B: Backend>() {
    use std::task::{Context, Waker};
    let server = ScriptedServer::start().await;
    let pool = B::build(Setup::new(server.uri()).max_size(2));
    let mut unpolled = Box::pin(pool.get());
    let polled = unpolled
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending());
    server.wait_for("it is made", |seen| seen.open == 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    pool.close();
    let closed = server.wait_for("none open", |seen| seen.open == 0);
    let closed = tokio::time::timeout(Duration::from_secs(3), closed).await;
    assert!(closed.is_ok(), "{:?}", pool.status());
    drop(unpolled);
}

/// Tracks the most open connections.
async fn a_pool_never_exceeds_its_size<B: Backend>() {
    let server = ScriptedServer::start().await;
    let slow = Action::Delay(Duration::from_millis(8));
    server.script().add(Matcher::hello().then(slow));
    let pool = B::build(Setup::new(server.uri()).max_size(8).manager(slow_drains()));
    let most = Arc::new(AtomicUsize::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..24_u64 {
        let (pool, most) = (pool.clone(), most.clone());
        tasks.spawn(async move {
            for round in 0..60_u64 {
                let bound = Duration::from_millis((task * 7 + round * 13) % 19 + 1);
                if let Ok(mut got) = pool.get_within(bound).await {
                    most.fetch_max(pool.status().size, Ordering::SeqCst);
                    if (task + round) % 5 == 0 {
                        got.close();
                    } else {
                        tokio::time::sleep(Duration::from_millis(round % 3)).await;
                    }
                }
            }
        });
    }
    tasks.join_all().await;
    assert!(most.load(Ordering::SeqCst) <= 8, "{most:?}");
    // No slot is lost.
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(pool.get().await.expect("a slot"));
    }
    assert_eq!(pool.status().size, 8);
    drop(held);
}
