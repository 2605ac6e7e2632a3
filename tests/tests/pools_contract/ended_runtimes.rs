//! Connections of a runtime that has ended or is not driven.

use std::time::Duration;

use mongo_core::bson::doc;
use mongo_core::error::{ClosedReason, ErrorKind};
use mongo_core::pools::{Backend, PoolState, PooledConnection, ServerPool};
use mongo_core::{Deadline, Error};
use mongo_testkit::ScriptedServer;
use tokio::runtime::{Builder, Runtime};
use tokio::task::spawn_blocking;

use crate::support::{Kept, LIMIT, builder};

on_both! {
    idle_connections_of_an_ended_runtime_are_closed_at_their_check,
    a_command_on_an_ended_runtime_does_not_affect_the_server,
    a_timeout_on_an_undriven_runtime_names_the_cause,
}

fn runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

async fn pool<B: Backend<Config: Default>>() -> (ScriptedServer, ServerPool<B>, Kept) {
    let server = ScriptedServer::start().await;
    let kept = Kept::default();
    let pool = builder::<B>(&server.uri())
        .event_handlers(kept.handlers())
        .build_server_pool()
        .expect("a pool");
    pool.ready();
    (server, pool, kept)
}

/// Opens `count` connections on a runtime of their own. Returns both.
async fn hold_elsewhere<B: Backend>(
    pool: &ServerPool<B>,
    count: usize,
) -> (Vec<PooledConnection<B>>, Runtime) {
    let pool = pool.clone();
    let held = spawn_blocking(move || {
        let runtime = runtime();
        let held = runtime.block_on(async {
            let mut held = Vec::new();
            for _ in 0..count {
                let got = pool.get(Deadline::after(LIMIT)).await;
                held.push(got.expect("a connection"));
            }
            // Half of them were used.
            for connection in held.iter_mut().step_by(2) {
                ping(connection).await.expect("a reply");
            }
            held
        });
        (held, runtime)
    });
    held.await.expect("no panic")
}

async fn end(runtime: Runtime) {
    let ended = spawn_blocking(move || drop(runtime));
    ended.await.expect("no panic");
}

async fn ping<B: Backend>(connection: &mut PooledConnection<B>) -> Result<(), Error> {
    let ran = connection.run_command("db", &doc! {"ping": 1}).await;
    ran.map(drop)
}

async fn idle_connections_of_an_ended_runtime_are_closed_at_their_check<
    B: Backend<Config: Default>,
>() {
    let (server, pool, kept) = pool::<B>().await;
    let (held, runtime) = hold_elsewhere(&pool, 5).await;
    drop(held);
    end(runtime).await;
    assert_eq!(pool.status().idle, 5);
    for _ in 0..5 {
        let got = pool.get(Deadline::after(LIMIT)).await;
        ping(&mut got.expect("a new connection"))
            .await
            .expect("a reply");
    }
    assert_eq!(kept.count("PoolCleared"), 0);
    // The first check-out closes all connections of ended runtimes.
    let status = pool.status();
    assert_eq!((status.size, status.created), (1, 6), "{status:?}");
    drop(pool);
    server.shutdown().await;
}

async fn a_command_on_an_ended_runtime_does_not_affect_the_server<B: Backend<Config: Default>>() {
    let (server, pool, kept) = pool::<B>().await;
    let mut own = pool.get(Deadline::after(LIMIT)).await.expect("made here");
    let (held, runtime) = hold_elsewhere(&pool, 3).await;
    end(runtime).await;
    for mut connection in held {
        let error = ping(&mut connection).await.expect_err("no runtime");
        let text = error.to_string();
        assert!(
            matches!(
                error.kind(),
                ErrorKind::ConnectionClosed(ClosedReason::RuntimeEnded)
            ),
            "{text}"
        );
        assert!(text.contains("runtime"), "{text}");
    }
    assert_eq!(kept.count("PoolCleared"), 0);
    assert_eq!(pool.status().state, PoolState::Ready);
    ping(&mut own).await.expect("not stale");
    drop(own);
    drop(pool);
    server.shutdown().await;
}

async fn a_timeout_on_an_undriven_runtime_names_the_cause<B: Backend<Config: Default>>() {
    let (server, pool, _kept) = pool::<B>().await;
    let (mut held, runtime) = hold_elsewhere(&pool, 1).await;
    let bound = Duration::from_millis(200);
    let ping = doc! {"ping": 1};
    let ran = held[0].run_command_by(bound, "db", &ping).await;
    let error = ran.map(drop).expect_err("its reactor does not turn");
    assert!(error.is_timeout(), "{error}");
    assert!(error.to_string().contains("nothing drives"), "{error}");
    drop(held);
    end(runtime).await;
    drop(pool);
    server.shutdown().await;
}
