//! A pool from its first check-out to its end.

use std::time::Duration;

use bson::doc;
use mongo_core::ErrorKind;
use mongo_testkit::ScriptedServer;

use crate::{Backend, Setup};

async fn many_tasks_share_a_few_connections<B: Backend>() {
    let server = ScriptedServer::start().await;
    let pool = B::build(Setup::new(server.uri()).max_size(4));
    let tasks: Vec<_> = (0..32)
        .map(|task| {
            let pool = pool.clone();
            tokio::spawn(async move {
                for turn in 0..10 {
                    let mut connection = pool.get().await.expect("a connection");
                    let payload = format!("{task}/{turn}");
                    let reply = connection
                        .run_command("app", &doc! { "echo": &payload })
                        .await
                        .expect("an echo");
                    assert_eq!(reply.get_str("echo").expect("a text"), payload);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    let accepted = server.look(|seen| seen.accepted);
    assert!((1..=4).contains(&accepted), "{accepted} connections");
    let status = pool.status();
    assert_eq!((status.available, status.waiting), (status.size, 0));
    assert_eq!(status.size as u64, accepted);
}

async fn waiters_are_served_first_in_first_out<B: Backend>() {
    let server = ScriptedServer::start().await;
    let pool = B::build(Setup::new(server.uri()));
    let held = pool.get().await.expect("a connection");
    let order = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for number in 0..8 {
        let (waiting, order) = (pool.clone(), order.clone());
        tasks.push(tokio::spawn(async move {
            let _connection = waiting.get().await.expect("a connection");
            order.lock().expect("no panic").push(number);
        }));
        // Wait until it is in the queue.
        while pool.status().waiting <= number {
            tokio::task::yield_now().await;
        }
    }
    drop(held);
    for task in tasks {
        task.await.expect("no panic");
    }
    assert_eq!(*order.lock().expect("no panic"), (0..8).collect::<Vec<_>>());
}

async fn check_outs_are_last_in_first_out<B: Backend>() {
    let server = ScriptedServer::start().await;
    let pool = B::build(Setup::new(server.uri()).max_size(3));
    let first = pool.get().await.expect("a connection");
    let second = pool.get().await.expect("a connection");
    let (first_id, second_id) = (first.id(), second.id());
    drop(second);
    drop(first);
    assert_eq!(pool.get().await.expect("a connection").id(), first_id);
    assert_ne!(first_id, second_id);
}

async fn a_closed_pool_closes_all_connections<B: Backend>() {
    let server = ScriptedServer::start().await;
    let pool = B::build(Setup::new(server.uri()).max_size(3));
    let held = pool.get().await.expect("a connection");
    drop(pool.get().await.expect("a connection"));
    server
        .wait_for("two connections", |seen| seen.open == 2)
        .await;
    // From a thread without a runtime.
    let closing = pool.clone();
    std::thread::spawn(move || closing.close())
        .join()
        .expect("no panic");
    server
        .wait_for("the idle one closed", |seen| seen.open == 1)
        .await;
    let error = pool.get().await.expect_err("closed");
    assert!(matches!(error.kind(), ErrorKind::PoolClosed), "{error}");
    assert_eq!(error.server(), Some(held.server()));
    drop(held);
    server
        .wait_for("the other closed", |seen| seen.open == 0)
        .await;
    assert_eq!(server.look(|seen| seen.accepted), 2);
}

async fn a_dropped_pool_closes_its_connections<B: Backend>() {
    let server = ScriptedServer::start().await;
    let pool = B::build(Setup::new(server.uri()).max_size(3));
    let held = pool.get().await.expect("a connection");
    drop(pool.get().await.expect("a connection"));
    drop(pool);
    drop(held);
    server.wait_for("none open", |seen| seen.open == 0).await;
}

async fn connections_past_max_idle_time_are_replaced<B: Backend>() {
    let server = ScriptedServer::start().await;
    let uri = format!("{}&maxIdleTimeMS=40", server.uri());
    let pool = B::build(Setup::new(uri));
    let id = pool.get().await.expect("a connection").id();
    tokio::time::pause();
    tokio::time::advance(Duration::from_millis(39)).await;
    assert_eq!(pool.get().await.expect("a connection").id(), id);
    tokio::time::advance(Duration::from_millis(41)).await;
    tokio::time::resume();
    assert_ne!(pool.get().await.expect("a connection").id(), id);
}

on_both!(
    many_tasks_share_a_few_connections,
    waiters_are_served_first_in_first_out,
    check_outs_are_last_in_first_out,
    a_closed_pool_closes_all_connections,
    a_dropped_pool_closes_its_connections,
    connections_past_max_idle_time_are_replaced,
);

#[tokio::test]
async fn the_handshake_names_the_adapter() {
    let server = ScriptedServer::start().await;
    let deadpool = mongo_deadpool::Config::from_url(server.uri())
        .create_pool(None)
        .expect("a pool");
    let bb8 = mongo_bb8::Config::from_url(server.uri())
        .create_pool(None)
        .expect("a pool");
    let _deadpool = deadpool.get().await.expect("a connection");
    let _bb8 = bb8.get().await.expect("a connection");
    let names: Vec<_> = server.look(|seen| {
        let clients = seen
            .connections
            .values()
            .filter_map(|seen| seen.client.clone());
        clients
            .map(|client| {
                let driver = client.get_document("driver").expect("a driver");
                driver.get_str("name").expect("a name").to_owned()
            })
            .collect()
    });
    assert_eq!(names, ["mongo-core|mongo-deadpool", "mongo-core|mongo-bb8"]);
}
