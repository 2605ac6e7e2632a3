//! One suite for both databases. The feature flags of the package choose the pool, so that
//! `cargo test` and `cargo test --no-default-features --features bb8` run it on all four pairs.

mod mongo;
mod postgres;
mod program;

use std::time::{Duration, Instant};

use framework::visits::visit;
use framework::{Config, Database, Health, Row, connect};
use futures_util::{FutureExt, TryStreamExt};
use mongo::Mongo;
use postgres::Postgres;

/// The limit of a test.
const LIMIT: Duration = Duration::from_secs(60);
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// A server for one test, with the user `app`.
trait Server: Sized {
    async fn start() -> Self;

    fn url(&self, password: &str) -> String;

    fn config(&self) -> Config {
        Config::from_url(self.url("pencil"))
    }

    /// The connections of the framework that the server has.
    async fn connections(&self) -> usize;

    /// Ends all connections, as a restart does.
    async fn end_connections(&self);

    /// Takes the only connection of a pool. It is in use until the value is dropped.
    async fn occupy(&self, database: &dyn Database) -> Box<dyn Send>;
}

/// Runs tests on both databases, each within the limit.
macro_rules! on_both {
    ($($name:ident,)*) => {
        on_both!(in on_mongodb: Mongo, $($name,)*);
        on_both!(in on_postgres: Postgres, $($name,)*);
     };
    (in $module:ident: $server:ident, $($name:ident,)*) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    let test = async { super::$name(<super::$server as super::Server>::start().await).await };
                    tokio::time::timeout(super::LIMIT, test).await.expect("within the limit");
                }
            )*
        }
    };
}

on_both! {
    rows_come_in_order_and_as_a_stream,
    a_rollback_undoes_and_a_commit_keeps,
    a_dropped_session_rolls_back,
    a_dropped_operation_does_not_reach_the_next_session,
    no_visit_is_lost_between_sessions,
    a_wrong_password_is_an_error_at_once,
    an_exhausted_pool_is_an_error_after_the_wait,
    a_pool_has_at_most_its_size,
    lost_connections_are_replaced,
    close_refuses_sessions_and_ends_connections,
    close_waits_for_a_session,
    a_transaction_that_failed_does_not_commit,
}

async fn open(config: &Config) -> Box<dyn Database> {
    connect(config)
        .await
        .unwrap_or_else(|error| panic!("{error}"))
}

async fn rows(database: &dyn Database) -> Vec<Row> {
    let mut session = database.acquire().await.expect("a session");
    let rows = session.rows().await.expect("rows");
    rows.try_collect().await.expect("rows")
}

async fn rows_come_in_order_and_as_a_stream(server: impl Server) {
    let database = open(&server.config()).await;
    let mut session = database.acquire().await.expect("a session");
    session.begin().await.expect("a transaction");
    for number in (0..300).rev() {
        let key = format!("{number:04}");
        session.put(&key, "noted").await.expect("a write");
    }
    session.put("Ä", "noted").await.expect("a write");
    session.commit().await.expect("a commit");

    let rows: Vec<_> = rows(&*database)
        .await
        .into_iter()
        .map(|row| row.key)
        .collect();
    let mut sorted = rows.clone();
    sorted.sort();
    assert_eq!((rows.len(), &rows), (301, &sorted));

    // One that is dropped early leaves the session usable.
    let mut some = session.rows().await.expect("rows");
    let first = some.try_next().await.expect("a row");
    assert_eq!(first.expect("a row").key, "0000");
    drop(some);
    let value = session.get("0299").await.expect("a read");
    assert_eq!(value.as_deref(), Some("noted"));
    assert_eq!(session.get("none").await.expect("a read"), None);
}

async fn a_rollback_undoes_and_a_commit_keeps(server: impl Server) {
    let database = open(&server.config()).await;
    assert_eq!(visit(&*database).await.expect("a visit"), 1);
    let mut session = database.acquire().await.expect("a session");
    session.begin().await.expect("a transaction");
    session.put("visits", "0").await.expect("a write");
    let within = session.get("visits").await.expect("a read");
    session.rollback().await.expect("a rollback");
    let after = session.get("visits").await.expect("a read");
    assert_eq!(
        (within.as_deref(), after.as_deref()),
        (Some("0"), Some("1"))
    );
    // The session can begin another one, and without one there is nothing to end.
    assert!(session.commit().await.is_err() && session.rollback().await.is_err());
    session.begin().await.expect("a transaction");
    assert!(session.begin().await.is_err(), "a transaction within one");
    session.rollback().await.expect("a rollback");
}

async fn a_dropped_session_rolls_back(server: impl Server) {
    // MongoDB's transaction is aborted over a second connection, while the first may wait for it.
    let database = open(&server.config().max_size(2)).await;
    let mut session = database.acquire().await.expect("a session");
    session.begin().await.expect("a transaction");
    session.put("visits", "7").await.expect("a write");
    drop(session);
    let mut next = database.acquire().await.expect("a session");
    assert_eq!(next.get("visits").await.expect("a read"), None);
    next.put("visits", "1").await.expect("a write");
    drop(next);
    assert_eq!(visit(&*database).await.expect("a visit"), 2);
}

async fn a_dropped_operation_does_not_reach_the_next_session(server: impl Server) {
    let database = open(&server.config().max_size(1)).await;
    let mut session = database.acquire().await.expect("a session");
    session.put("a", "1").await.expect("a write");
    session.begin().await.expect("a transaction");
    session.put("b", "2").await.expect("a write");
    // Sent at the first poll, at the latest after a few.
    let dropped = tokio::time::timeout(Duration::from_micros(50), session.get("b")).await;
    drop(dropped);
    drop(session);
    let mut next = database.acquire().await.expect("a session");
    assert_eq!(next.get("a").await.expect("a read").as_deref(), Some("1"));
    assert_eq!(next.get("b").await.expect("a read"), None);
}

async fn no_visit_is_lost_between_sessions(server: impl Server) {
    const TASKS: u64 = 4;
    const VISITS: u64 = 5;
    let database = open(&server.config()).await;
    visit(&*database).await.expect("a visit");
    let visits = (0..TASKS).map(|_| async {
        for _ in 0..VISITS {
            // Conflicts are errors that may pass.
            while let Err(error) = visit(&*database).await {
                assert!(error.is_transient, "{error}");
            }
        }
    });
    futures_util::future::join_all(visits).await;
    let mut session = database.acquire().await.expect("a session");
    let visits = session.get("visits").await.expect("a read");
    assert_eq!(visits, Some((1 + TASKS * VISITS).to_string()));
}

async fn a_wrong_password_is_an_error_at_once(server: impl Server) {
    let begin = Instant::now();
    let config = Config::from_url(server.url("wr0ng"));
    let error = connect(&config).await.err().expect("an error");
    assert!(
        begin.elapsed() < Duration::from_secs(10),
        "{:?}",
        begin.elapsed()
    );
    let text = error.to_string().to_lowercase();
    assert!(text.contains("auth") && text.contains("app"), "{text}");
    assert!(!text.contains("wr0ng") && !error.is_transient, "{text}");
}

async fn an_exhausted_pool_is_an_error_after_the_wait(server: impl Server) {
    let wait = Duration::from_millis(200);
    let database = open(&server.config().max_size(1).wait(wait)).await;
    let occupied = server.occupy(&*database).await;
    let begin = Instant::now();
    let outcome = match database.acquire().await {
        Ok(mut session) => session.get("visits").await.map(drop),
        Err(error) => Err(error),
    };
    let error = outcome.expect_err("no connection");
    assert!(error.is_transient, "{error}");
    let waited = begin.elapsed();
    assert!(
        waited >= wait && waited < wait + Duration::from_secs(5),
        "{waited:?}"
    );
    drop(occupied);
    let mut session = database.acquire().await.expect("a session");
    session.get("visits").await.expect("a read");
}

async fn a_pool_has_at_most_its_size(server: impl Server) {
    let database = open(&server.config().max_size(2)).await;
    let reads = (0..8).map(|_| async {
        let mut session = database.acquire().await.expect("a session");
        session.get("visits").await.expect("a read");
    });
    futures_util::future::join_all(reads).await;
    let connections = server.connections().await;
    assert!((1..=2).contains(&connections), "{connections}");
}

async fn lost_connections_are_replaced(server: impl Server) {
    let database = open(&server.config()).await;
    visit(&*database).await.expect("a visit");
    server.end_connections().await;
    let visits = visit(&*database).await.expect("a visit after a few runs");
    assert_eq!((visits, database.health()), (2, Health::Up));
}

async fn close_refuses_sessions_and_ends_connections(server: impl Server) {
    let database = open(&server.config()).await;
    visit(&*database).await.expect("a visit");
    assert!(server.connections().await > 0);
    database.close().await;
    let error = database.acquire().await.err();
    let error = match error {
        None => visit(&*database).await.expect_err("closed"),
        Some(error) => error,
    };
    assert!(
        error.to_string().contains("closed") && !error.is_transient,
        "{error}"
    );
    while server.connections().await > 0 {
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

async fn close_waits_for_a_session(server: impl Server) {
    let database = open(&server.config().max_size(1)).await;
    let occupied = server.occupy(&*database).await;
    let mut close = database.close();
    let is_closed = (&mut close).now_or_never().is_some();
    assert!(!is_closed && server.connections().await == 1);
    drop(occupied);
    close.await;
}

async fn a_transaction_that_failed_does_not_commit(server: impl Server) {
    let database = open(&server.config()).await;
    visit(&*database).await.expect("a visit");
    let (mut first, mut second) = (
        database.acquire().await.expect("a session"),
        database.acquire().await.expect("a session"),
    );
    for session in [&mut first, &mut second] {
        session.begin().await.expect("a transaction");
        session.get("visits").await.expect("a read");
    }
    first.put("visits", "first").await.expect("a write");
    first.commit().await.expect("a commit");
    let error = second
        .put("visits", "second")
        .await
        .expect_err("a conflict");
    assert!(error.is_transient, "{error}");
    second.commit().await.expect_err("it has failed");
    let value = first.get("visits").await.expect("a read");
    assert_eq!(value.as_deref(), Some("first"));
}
