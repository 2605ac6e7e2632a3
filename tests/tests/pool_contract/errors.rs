//! Errors are accurate and immediate on either backend.
//!
//! Tests of timeouts pause the clock, and use a server on a Unix socket: there the kernel delivers
//! at once, so that no bytes are in flight while the runtime is idle.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bson::doc;
use mongo_core::auth::AuthError;
use mongo_core::error::Wait;
use mongo_core::net::{Connector, Stream};
use mongo_core::pools::{ManagerConfig, RecyclingMethod};
use mongo_core::{Connection, Error, ErrorKind, ServerAddress};
use mongo_testkit::{Action, ErrorReply, Gate, Matcher, ScriptedServer, User};
use tokio::task::JoinSet;
use tokio::time::{Instant, pause, sleep, timeout};

use crate::{Backend, Setup};

const USER: &str = "mallory";
/// Must not appear anywhere, in any readable encoding.
const PASSWORD: &str = "m4rked";
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A timeout so long that a test would notice it.
pub(super) const LONG: Duration = Duration::from_secs(60);
/// The limit for an immediate result, by the paused clock.
pub(super) const AT_ONCE: Duration = Duration::from_millis(100);

pub(super) async fn server() -> ScriptedServer {
    let user = User::new(USER, PASSWORD);
    ScriptedServer::builder().user(user).unix().start().await
}

pub(super) fn setup(server: &ScriptedServer) -> Setup {
    Setup::new(server.uri_for(USER, PASSWORD)).wait(LONG)
}

pub(super) async fn ping(connection: &mut Connection) -> Result<(), Error> {
    let ping = doc! { "ping": 1 };
    connection.run_command("admin", &ping).await.map(drop)
}

/// All texts of an error and its causes.
fn all_texts(error: &Error) -> String {
    let mut texts = format!("{error} {error:?}");
    let mut source: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = source {
        texts += &format!(" {error} {error:?}");
        source = error.source();
    }
    texts
}

fn assert_named(error: &Error, address: &str) {
    assert_eq!(
        error.server().map(ToString::to_string).as_deref(),
        Some(address)
    );
    assert_eq!(error.user(), Some(USER));
    let text = error.to_string();
    assert!(text.contains(address) && text.contains(USER), "{text}");
    let texts = all_texts(error);
    assert!(!texts.contains(PASSWORD), "{texts}");
}

fn is_refused(error: &Error) -> bool {
    let ErrorKind::Authentication(error) = error.kind() else {
        return false;
    };
    matches!(error, AuthError::Refused { code: 18, .. })
}

fn waited_for(error: &Error) -> Option<Wait> {
    match error.kind() {
        ErrorKind::Timeout { wait, .. } => Some(*wait),
        _ => None,
    }
}

/// The error of a check-out that takes this long by the paused clock.
async fn fails_after<B: Backend>(pool: &B, expected: Duration) -> Error {
    let begin = Instant::now();
    let error = pool.get().await.map(drop).expect_err("no connection");
    let took = begin.elapsed();
    let bounds = expected..expected + AT_ONCE;
    assert!(bounds.contains(&took), "{error} after {took:?}");
    error
}

/// A network in which nothing ever arrives.
struct BlackHole;

#[async_trait]
impl Connector for BlackHole {
    async fn connect(&self, _: &ServerAddress) -> Result<Stream, Error> {
        std::future::pending().await
    }
}

async fn refused_connections_and_wrong_passwords_fail_at_once<B: Backend>() {
    pause();
    let server = server().await;
    let pool = B::build(Setup::new(server.uri_for(USER, "n0t-it")).wait(LONG));
    let wrong = fails_after(&pool, Duration::ZERO).await;
    assert!(is_refused(&wrong), "{wrong}");
    assert_named(&wrong, &server.address());
    assert!(!all_texts(&wrong).contains("n0t-it"));

    let pool = B::build(setup(&server));
    server.refuse_connections().await;
    let refused = fails_after(&pool, Duration::ZERO).await;
    assert!(matches!(refused.kind(), ErrorKind::Connect(_)), "{refused}");
    assert_named(&refused, &server.address());
}

async fn a_wait_for_a_slot_times_out<B: Backend>() {
    pause();
    let server = server().await;
    let wait = Duration::from_secs(5);
    let pool = B::build(setup(&server).wait(wait));
    let held = pool.get().await.expect("a connection");
    let error = fails_after(&pool, wait).await;
    assert_eq!(waited_for(&error), Some(Wait::WaitQueue), "{error}");
    let cause = error.cause().map(ToString::to_string);
    let expected = "all 1 connections are in use (maxPoolSize=1)";
    assert_eq!(cause.as_deref(), Some(expected), "{error}");
    assert_named(&error, &server.address());
    drop(held);
    assert!(pool.get().await.is_ok());
}

/// A server never answers. The timeout names the phase, whichever limit expired.
async fn a_timeout_names_its_phase<B: Backend>() {
    pause();
    for wait in [LONG, Duration::from_secs(3)] {
        let bound = wait.min(CONNECT_TIMEOUT);
        let check = |error: Error, phase, server: &ScriptedServer| {
            assert_eq!(waited_for(&error), Some(phase), "{error}");
            assert_named(&error, &server.address());
        };

        let server = server().await;
        let pool = B::build(setup(&server).wait(wait).connector(Arc::new(BlackHole)));
        check(fails_after(&pool, bound).await, Wait::Connect, &server);

        let silences = [
            (Matcher::accept().then(Action::Hang), Wait::Handshake),
            (Matcher::hello().never_answer(), Wait::Handshake),
            (
                Matcher::command("saslContinue").never_answer(),
                Wait::Authentication,
            ),
        ];
        for (rule, phase) in silences {
            let pool = B::build(setup(&server).wait(wait));
            server.script().add(rule);
            check(fails_after(&pool, bound).await, phase, &server);
            server.script().clear();
            // bb8's attempt may outlive the caller's timeout.
            server
                .wait_for("the end of it", |seen| seen.open == 0)
                .await;
            let mut connection = pool.get().await.expect("a connection");
            ping(&mut connection).await.expect("a reply");
            drop((connection, pool));
            server
                .wait_for("no connection", |seen| seen.open == 0)
                .await;
        }
    }
}

async fn a_silent_command_times_out_by_the_command_timeout<B: Backend>() {
    pause();
    let server = server().await;
    let mut manager = ManagerConfig::default();
    manager.command_timeout = Some(Duration::from_secs(7));
    let pool = B::build(setup(&server).manager(manager));
    server.script().add(Matcher::command("ping").never_answer());
    let mut connection = pool.get().await.expect("a connection");
    let begin = Instant::now();
    let error = ping(&mut connection).await.expect_err("silence");
    assert_eq!(waited_for(&error), Some(Wait::Command), "{error}");
    assert_named(&error, &server.address());
    let took = begin.elapsed().as_secs();
    assert_eq!(took, 7);
}

/// One slot stays in use. The earlier callers fail in the other one, one second each.
async fn a_wait_queue_timeout_names_the_failure_of_an_earlier_caller<B: Backend>() {
    pause();
    let server = server().await;
    let pool = B::build(setup(&server).max_size(2));
    let held = pool.get().await.expect("a connection");
    let refusal = ErrorReply::new(18, "AuthenticationFailed", "Authentication failed.");
    server.script().add(
        Matcher::command("saslContinue")
            .then(Action::Delay(Duration::from_secs(1)))
            .then(Action::Error(refusal)),
    );
    let mut callers = JoinSet::new();
    for number in 0..4 {
        let pool = pool.clone();
        let wait = match number {
            3 => Duration::from_millis(2500),
            _ => LONG,
        };
        callers.spawn(async move {
            let begin = Instant::now();
            let error = pool.get_within(wait).await.map(drop).expect_err("failed");
            (number, begin.elapsed().as_millis() / 100, error)
        });
    }
    let mut ended = callers.join_all().await;
    ended.sort_by_key(|(number, ..)| *number);
    for (number, after, error) in ended {
        assert_named(&error, &server.address());
        if number < 3 {
            assert_eq!(after, 10 * (number + 1));
            assert!(is_refused(&error), "{error}");
        } else {
            assert_eq!(after, 25);
            assert_eq!(waited_for(&error), Some(Wait::WaitQueue), "{error}");
            assert!(error.cause().is_some_and(is_refused), "{error}");
        }
    }
    drop(held);
}

async fn under_load_each_caller_gets_the_authentication_error<B: Backend>() {
    let server = ScriptedServer::builder().user(User::new(USER, PASSWORD));
    let server = server.start().await;
    let wrong = Setup::new(server.uri_for(USER, "n0t-it"));
    let pool = B::build(wrong.max_size(5).wait(LONG));
    let mut callers = JoinSet::new();
    for _ in 0..50 {
        let pool = pool.clone();
        callers.spawn(async move {
            for _ in 0..4 {
                let error = pool.get().await.map(drop).expect_err("a wrong password");
                assert!(is_refused(&error), "{error}");
            }
        });
    }
    // Long before the timeout.
    let ended = timeout(Duration::from_secs(30), callers.join_all()).await;
    assert!(ended.is_ok(), "some callers waited in vain");
    assert_eq!(pool.status().size, 0);
}

async fn failed_attempts_leave_good_connections_usable<B: Backend>() {
    pause();
    let server = server().await;
    let pool = B::build(setup(&server).max_size(4));
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(pool.get().await.expect("a connection"));
    }
    server.refuse_connections().await;
    for _ in 0..10 {
        let error = fails_after(&pool, Duration::ZERO).await;
        assert!(matches!(error.kind(), ErrorKind::Connect(_)), "{error}");
        for connection in &mut held {
            ping(connection).await.expect("a reply");
        }
    }
    // An idle connection needs no attempt.
    held.pop();
    held.push(pool.get().await.expect("the idle one"));
    fails_after(&pool, Duration::ZERO).await;

    server.accept_connections().await;
    for _ in 0..2 {
        held.push(pool.get().await.expect("a new connection"));
    }
    assert_eq!(pool.status().size, 4);
}

/// A failing attempt of a cancelled check-out does not fail the next one.
async fn a_cancelled_check_out_leaves_no_failure_behind<B: Backend>() {
    pause();
    let server = server().await;
    let pool = B::build(setup(&server));
    for _ in 0..3 {
        let gate = Gate::new();
        let hello = Matcher::hello().drop_connection();
        server
            .script()
            .add(hello.then(Action::WaitFor(gate.clone())));
        let hellos = server.look(|seen| seen.hellos());
        {
            let mut get = std::pin::pin!(pool.get());
            tokio::select! {
                outcome = &mut get => panic!("{:?}", outcome.map(drop)),
                () = server.wait_for("a hello", |seen| seen.hellos() > hellos) => {}
            }
        }
        gate.open();
        server
            .wait_for("the end of it", |seen| seen.open == 0)
            .await;
        server.script().clear();
        let mut connection = pool.get().await.expect("a connection");
        ping(&mut connection).await.expect("a reply");
        // Start again without a connection.
        connection.close();
        drop(connection);
        server
            .wait_for("no connection", |seen| seen.open == 0)
            .await;
    }
}

/// One caller checks an idle connection, while the attempt of another fails. Each gets its own
/// result.
async fn a_failed_attempt_does_not_affect_the_check_of_another_caller<B: Backend>() {
    pause();
    let server = server().await;
    let verified = ManagerConfig::new(RecyclingMethod::Verified);
    let pool = B::build(setup(&server).max_size(2).manager(verified));
    let idle = pool.get().await.expect("a connection");
    let id = idle.id();
    drop(idle);

    let gate = Gate::new();
    let held_back = Matcher::command("ping").then(Action::WaitFor(gate.clone()));
    server.script().add(held_back);
    server.refuse_connections().await;
    let pings = server.look(|seen| seen.count("ping"));
    let checking = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().await }
    });
    server
        .wait_for("the check", |seen| seen.count("ping") > pings)
        .await;
    let error = fails_after(&pool, Duration::ZERO).await;
    assert!(matches!(error.kind(), ErrorKind::Connect(_)), "{error}");
    gate.open();
    let connection = checking.await.expect("no panic").expect("the idle one");
    assert_eq!(connection.id(), id);
}

async fn a_closed_pool_wakes_all_waiters<B: Backend>() {
    pause();
    let server = server().await;
    let pool = B::build(setup(&server));
    let mut held = pool.get().await.expect("a connection");
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.get().await.map(drop) })
        })
        .collect();
    while pool.status().waiting < 3 {
        tokio::task::yield_now().await;
    }
    let begin = Instant::now();
    pool.close();
    for waiting in waiting {
        let error = waiting.await.expect("no panic").expect_err("closed");
        assert!(matches!(error.kind(), ErrorKind::PoolClosed), "{error}");
        assert_named(&error, &server.address());
    }
    for outcome in [pool.get().await, pool.try_get().await] {
        let error = outcome.expect_err("closed");
        assert!(matches!(error.kind(), ErrorKind::PoolClosed), "{error}");
    }
    assert!(begin.elapsed() < AT_ONCE);
    // A connection in use stays usable.
    ping(&mut held).await.expect("a reply");
    drop(held);
    server
        .wait_for("no connection", |seen| seen.open == 0)
        .await;
}

async fn try_get_does_not_wait_for_a_slot<B: Backend>() {
    pause();
    let server = server().await;
    let pool = B::build(setup(&server));
    let held = pool.try_get().await.expect("a new connection");
    let begin = Instant::now();
    let error = pool.try_get().await.expect_err("all are in use");
    assert_eq!(waited_for(&error), Some(Wait::WaitQueue), "{error}");
    assert_named(&error, &server.address());
    assert!(begin.elapsed() < AT_ONCE);
    drop(held);
    assert!(pool.try_get().await.is_ok());
    // It does wait for a connection attempt.
    server.refuse_connections().await;
    pool.factory().clear(None);
    let error = pool.try_get().await.expect_err("refused");
    assert!(matches!(error.kind(), ErrorKind::Connect(_)), "{error}");
}

on_both!(
    refused_connections_and_wrong_passwords_fail_at_once,
    a_wait_for_a_slot_times_out,
    a_timeout_names_its_phase,
    a_silent_command_times_out_by_the_command_timeout,
    a_wait_queue_timeout_names_the_failure_of_an_earlier_caller,
    under_load_each_caller_gets_the_authentication_error,
    failed_attempts_leave_good_connections_usable,
    a_cancelled_check_out_leaves_no_failure_behind,
    a_failed_attempt_does_not_affect_the_check_of_another_caller,
    a_closed_pool_wakes_all_waiters,
    try_get_does_not_wait_for_a_slot,
);

/// On several threads: bb8 connects on another thread than the caller's.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_load_on_threads_each_caller_gets_the_error_deadpool() {
    under_load_each_caller_gets_the_authentication_error::<mongo_deadpool::Pool>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_load_on_threads_each_caller_gets_the_error_bb8() {
    under_load_each_caller_gets_the_authentication_error::<mongo_bb8::Pool>().await;
}

/// Only bb8 can do this: deadpool's callers connect themselves, and deadpool does not interrupt
/// them.
#[tokio::test(start_paused = true)]
async fn a_closed_bb8_pool_wakes_a_caller_that_waits_for_an_attempt() {
    let server = server().await;
    let pool = <mongo_bb8::Pool as Backend>::build(setup(&server).connector(Arc::new(BlackHole)));
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().await.map(drop) }
    });
    sleep(Duration::from_secs(1)).await;
    let begin = Instant::now();
    pool.close();
    let error = waiting.await.expect("no panic").expect_err("closed");
    assert!(matches!(error.kind(), ErrorKind::PoolClosed), "{error}");
    assert!(begin.elapsed() < AT_ONCE);
}
