//! The checks of idle connections, and their total cost for a check-out.

use std::task::{Context, Waker};
use std::time::Duration;

use mongo_core::bson::doc;
use mongo_core::error::ErrorKind;
use mongo_core::pools::{Backend, ManagerConfig, RecyclingMethod, ServerPool};
use mongo_core::{Deadline, Error};
use mongo_testkit::{Action, Matcher, ScriptedServer};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Kept, LIMIT, Sim, builder, eventually, handshake, pool_of};

on_both! {
    on a paused clock:
    after_a_timeout_dead_connections_share_one_short_bound,
    after_a_timeout_each_idle_connection_is_pinged_once,
    after_a_timeout_a_connection_used_since_is_not_pinged,
    dead_verified_connections_share_a_bound,
    all_dead_connections_share_one_second,
    late_replies_cost_a_check_out_one_drain_timeout,
    a_late_reply_that_has_arrived_is_read_after_the_bound,
    a_drain_that_takes_all_the_time_is_not_pool_exhaustion,
    a_wait_of_several_rounds_reports_its_total_time,
}

on_both! {
    a_check_out_sees_a_close_before_the_reactor,
    a_connection_closed_before_its_caller_polls_is_not_handed_out,
}

const SECOND: Duration = Duration::from_secs(1);

/// Makes `count` connections idle, and returns their numbers on the server.
async fn make_idle<B: Backend>(sim: &Sim, pool: &ServerPool<B>, count: usize) -> Vec<u64> {
    let mut held = Vec::new();
    for _ in 0..count {
        let deadline = Deadline::after(LIMIT);
        held.push(pool.get(deadline).await.expect("a connection"));
    }
    drop(held);
    let open = |seen: &mongo_testkit::Seen| {
        let open = seen.connections.iter().filter(|(_, own)| own.open);
        open.map(|(number, _)| *number).collect::<Vec<_>>()
    };
    let numbers = sim.set.server(0).look(open);
    assert_eq!(numbers.len(), count);
    numbers
}

/// Simulates a firewall that silently drops all packets of these connections.
fn forget(sim: &Sim, numbers: &[u64]) {
    for number in numbers {
        let all = Matcher::any_command().on_connection(*number);
        sim.set.server(0).script().add(all.never_answer());
    }
}

async fn ping_by<B: Backend>(pool: &ServerPool<B>, bound: Duration) -> Result<(), Error> {
    let mut connection = pool.get(Deadline::after(bound)).await?;
    let ran = connection.run_command("db", &doc! {"ping": 1}).await;
    ran.map(drop)
}

/// A `Fast` check does not notice. Without suspicion, each connection would cost a command its
/// timeout.
async fn after_a_timeout_dead_connections_share_one_short_bound<B: Backend<Config: Default>>() {
    for (options, bound) in [("", SECOND), ("connectTimeoutMS=300", 300 * SECOND / 1000)] {
        let sim = Sim::of(1).await;
        let pool = pool_of::<B>(&sim, options, ManagerConfig::default());
        let numbers = make_idle(&sim, &pool, 10).await;
        forget(&sim, &numbers);
        let begun = Instant::now();
        let error = ping_by(&pool, LIMIT).await.expect_err("forgotten");
        assert!(error.is_timeout(), "{error}");
        assert!(begun.elapsed() >= 60 * SECOND);
        let begun = Instant::now();
        ping_by(&pool, LIMIT).await.expect("on a new connection");
        let took = begun.elapsed();
        // One drain, one ping, and a new connection.
        assert!(took < bound + 300 * SECOND / 1000, "{took:?}");
        let status = pool.status();
        assert_eq!((status.size, status.idle), (1, 1), "{status:?}");
    }
}

async fn after_a_timeout_each_idle_connection_is_pinged_once<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pool = pool_of::<B>(&sim, "", ManagerConfig::default());
    make_idle(&sim, &pool, 4).await;
    let server = sim.set.server(0);
    let find = Matcher::command("find").once();
    server.script().add(find.never_answer());
    let mut slow = pool.get(Deadline::after(LIMIT)).await.expect("idle");
    let find = doc! {"find": "c"};
    let ran = slow.run_command_by(5 * SECOND, "db", &find).await;
    assert!(ran.expect_err("no answer").is_timeout());
    slow.close();
    drop(slow);
    for _ in 0..3 {
        make_idle(&sim, &pool, 3).await;
        assert_eq!(server.look(|seen| seen.count("ping")), 3);
    }
}

async fn after_a_timeout_a_connection_used_since_is_not_pinged<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pool = pool_of::<B>(&sim, "", ManagerConfig::default());
    make_idle(&sim, &pool, 2).await;
    let server = sim.set.server(0);
    let find = Matcher::command("find");
    server.script().add(find.never_answer());
    let mut slow = pool.get(Deadline::after(LIMIT)).await.expect("idle");
    let other = pool.get(Deadline::after(LIMIT)).await.expect("idle");
    let waiting = tokio::spawn(async move {
        let find = doc! {"find": "c"};
        let ran = slow.run_command_by(5 * SECOND, "db", &find).await;
        assert!(ran.map(drop).expect_err("no answer").is_timeout());
        slow.close();
        slow
    });
    sleep(SECOND).await;
    drop(other);
    let slow = waiting.await.expect("no panic");
    for _ in 0..3 {
        let got = pool.get(Deadline::after(LIMIT)).await;
        drop(got.expect("used since the command began"));
    }
    assert_eq!(server.look(|seen| seen.count("ping")), 0);
    drop(slow);
}

async fn dead_verified_connections_share_a_bound<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let verified = ManagerConfig::new(RecyclingMethod::Verified);
    let pool = pool_of::<B>(&sim, "connectTimeoutMS=2000", verified);
    let numbers = make_idle(&sim, &pool, 10).await;
    forget(&sim, &numbers);
    let begun = Instant::now();
    ping_by(&pool, LIMIT).await.expect("on a new connection");
    let took = begun.elapsed();
    // The first ping has all of connectTimeoutMS, and the others share one second.
    assert!(took < 3300 * SECOND / 1000, "{took:?}");
}

/// Makes idle connections that owe a reply, which arrives after `late`.
async fn owe<B: Backend>(sim: &Sim, pool: &ServerPool<B>, count: usize, late: Duration) {
    let server = sim.set.server(0);
    let find = Matcher::command("find").then(Action::Delay(late));
    let rule = server.script().add(find);
    let mut held = Vec::new();
    for _ in 0..count {
        let got = pool.get(Deadline::after(LIMIT)).await;
        held.push(got.expect("a connection"));
    }
    for connection in &mut held {
        let find = doc! {"find": "c"};
        let cut = connection.run_command("db", &find);
        let cut = timeout(SECOND / 1000, cut).await;
        assert!(cut.is_err(), "it was cancelled");
    }
    server
        .wait_for("all commands", |seen| seen.count("find") == count as u64)
        .await;
    server.script().remove(rule);
}

async fn late_replies_cost_a_check_out_one_drain_timeout<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pool = pool_of::<B>(&sim, "maxPoolSize=60", ManagerConfig::default());
    owe(&sim, &pool, 60, 30 * SECOND).await;
    for _ in 0..3 {
        let begun = Instant::now();
        ping_by(&pool, SECOND).await.expect("a new connection");
        let took = begun.elapsed();
        assert!(took < 250 * SECOND / 1000, "{took:?}");
    }
}

/// Two connections owe a reply. The reply of the second one arrives before the bound of the first
/// one expires.
async fn a_late_reply_that_has_arrived_is_read_after_the_bound<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let manager = ManagerConfig::default();
    let pool = pool_of::<B>(&sim, "maxPoolSize=2", manager);
    let numbers = make_idle(&sim, &pool, 2).await;
    owe(&sim, &pool, 2, SECOND / 20).await;
    // Last in, first out: the connection that is checked first never gets its reply.
    let got = pool.get(Deadline::after(LIMIT)).await.expect("drained");
    let begun = sim.set.server(0).look(|seen| seen.accepted);
    assert_eq!(begun, numbers.len() as u64, "no connection is made");
    drop(got);
}

async fn a_drain_that_takes_all_the_time_is_not_pool_exhaustion<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let mut manager = ManagerConfig::default();
    manager.drain_timeout = Some(10 * SECOND);
    let pool = pool_of::<B>(&sim, "maxPoolSize=5", manager);
    owe(&sim, &pool, 5, 30 * SECOND).await;
    let error = ping_by(&pool, SECOND).await.expect_err("no time is left");
    assert!(error.is_timeout(), "{error}");
    let blamed = error.cause().map(Error::kind);
    assert!(
        !matches!(blamed, Some(ErrorKind::PoolExhausted(_))),
        "{error}"
    );
}

/// A check-out waits for a connection, its pool is cleared, and no server is found in the remaining
/// time.
async fn a_wait_of_several_rounds_reports_its_total_time<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("maxPoolSize=1&waitQueueTimeoutMS=2000");
    let held = pools.get().await.expect("a connection");
    let never = handshake().never_answer();
    sim.set.server(0).script().add(never);
    let waiting = tokio::spawn({
        let pools = pools.clone();
        async move { pools.get().await.map(drop) }
    });
    sleep(1500 * SECOND / 1000).await;
    sim.set.kill(0).await;
    let error = waiting.await.expect("no panic").expect_err("no server");
    let text = error.to_string();
    assert!(
        matches!(error.kind(), ErrorKind::ServerSelection(_)),
        "{text}"
    );
    assert!(text.contains("within 2.0 s"), "{text}");
    drop(held);
    pools.close().await;
}

/// The pool's runtime does not run between the server's close and the check-out.
async fn a_check_out_sees_a_close_before_the_reactor<B: Backend<Config: Default>>() {
    let (started, uri) = tokio::sync::oneshot::channel();
    let (order, mut orders) = tokio::sync::mpsc::channel::<std::sync::mpsc::Sender<()>>(1);
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let server = ScriptedServer::start().await;
            started.send(server.uri()).expect("waited for");
            while let Some(done) = orders.recv().await {
                server.close_connections().await;
                server.wait_for("all closed", |seen| seen.open == 0).await;
                done.send(()).expect("waited for");
            }
        });
    });
    let kept = Kept::default();
    let pool = builder::<B>(&uri.await.expect("started"))
        .event_handlers(kept.handlers())
        .build_server_pool()
        .expect("a pool");
    pool.ready();
    for round in 0..5 {
        ping_by(&pool, LIMIT).await.expect("a reply");
        let (done, is_done) = std::sync::mpsc::channel();
        order.try_send(done).expect("idle");
        is_done.recv_timeout(LIMIT).expect("closed");
        let got = pool.get(Deadline::after(LIMIT)).await;
        let mut connection = got.expect("a new connection");
        let ran = connection.run_command("db", &doc! {"ping": 1}).await;
        ran.unwrap_or_else(|error| panic!("round {round}: {error}"));
    }
    assert_eq!(kept.count("PoolCleared"), 0);
    drop((pool, order));
    server.join().expect("no panic");
}

/// Some are in the generic pool, and some are spare connections.
async fn all_dead_connections_share_one_second<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pool = pool_of::<B>(&sim, "minPoolSize=6", ManagerConfig::default());
    pool.maintain().await;
    assert_eq!(pool.status().size, 6, "{:?}", pool.status());
    let mut first = pool.get(Deadline::after(LIMIT)).await.expect("one");
    let mut second = pool.get(Deadline::after(LIMIT)).await.expect("one");
    for connection in [&mut first, &mut second] {
        let ran = connection.run_command("db", &doc! {"ping": 1}).await;
        ran.map(drop).expect("a reply");
    }
    drop((first, second));
    assert_eq!(pool.status().size, 6, "{:?}", pool.status());
    for number in 1..=6 {
        let all = Matcher::any_command().on_connection(number);
        sim.set.server(0).script().add(all.never_answer());
    }
    let mut got = pool.get(Deadline::after(LIMIT)).await.expect("one");
    let ran = got.run_command("db", &doc! {"ping": 1}).await;
    assert!(ran.map(drop).expect_err("forgotten").is_timeout());
    drop(got);
    let begun = Instant::now();
    let mut got = pool.get(Deadline::after(LIMIT)).await.expect("a new one");
    let took = begun.elapsed();
    let ran = got.run_command("db", &doc! {"ping": 1}).await;
    ran.map(drop).expect("a reply");
    assert!(took < 1300 * SECOND / 1000, "{took:?}");
}

/// The caller is in a `select!` or a buffered stream, and not polled for a while.
async fn a_connection_closed_before_its_caller_polls_is_not_handed_out<
    B: Backend<Config: Default>,
>() {
    let server = ScriptedServer::start().await;
    let kept = Kept::default();
    let pool = builder::<B>(&server.uri())
        .event_handlers(kept.handlers())
        .build_server_pool()
        .expect("a pool");
    pool.ready();
    let mut getting = Box::pin(pool.get(Deadline::after(LIMIT)));
    let polled = getting
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending());
    eventually("made", || kept.count("ConnectionReady") == 1).await;
    server.close_connections().await;
    server.wait_for("it is closed", |seen| seen.open == 0).await;
    let mut got = getting.await.expect("a connection");
    let ran = got.run_command("db", &doc! {"ping": 1}).await;
    ran.map(drop).expect("on a sound connection");
}
