//! PostgreSQL behind the framework's trait.

use std::error::Error as _;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{OwnedRwLockReadGuard, RwLock};
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use crate::config::Config;
use crate::database::{Database, DatabaseError, Health, Row, Rows, Session};
use crate::pool::{PostgresConnection, PostgresPool};

/// What errors begin with.
pub(crate) const POSTGRES: &str = "PostgreSQL";

/// The server's time limit for a statement, unless the URL has `options`.
const STATEMENT: &str = "-c statement_timeout=60s";
const CLOSE: Duration = Duration::from_secs(10);

/// In one transaction, with a lock: two of `IF NOT EXISTS` at once may fail.
const CREATE_TABLE: &str = "\
    BEGIN;
    SELECT pg_advisory_xact_lock(4242);
    CREATE TABLE IF NOT EXISTS framework_values
        (key text COLLATE \"C\" PRIMARY KEY, value text NOT NULL);
    COMMIT";
const GET: &str = "SELECT value FROM framework_values WHERE key = $1";
const PUT: &str = "INSERT INTO framework_values (key, value) VALUES ($1, $2)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value";
const ROWS: &str = "SELECT key, value FROM framework_values ORDER BY key";

pub(crate) struct Postgres {
    /// `None` after it is closed.
    pool: Mutex<Option<PostgresPool>>,
    /// Each session holds a read lock.
    sessions: Arc<RwLock<()>>,
    /// Whether the last check-out succeeded.
    is_reachable: AtomicBool,
}

impl Postgres {
    pub(crate) async fn connect(config: &Config) -> Result<Self, DatabaseError> {
        let mut postgres: tokio_postgres::Config = config.url.parse().map_err(failed)?;
        if postgres.get_options().is_none() {
            postgres.options(STATEMENT);
        }
        if postgres.get_application_name().is_none() {
            postgres.application_name("example-framework");
        }
        let pool = PostgresPool::new(postgres, &config.pool)?;
        pool.verify().await?;
        let connection = pool.get().await?;
        connection
            .batch_execute(CREATE_TABLE)
            .await
            .map_err(failed)?;
        Ok(Self {
            pool: Mutex::new(Some(pool)),
            sessions: Arc::default(),
            is_reachable: AtomicBool::new(true),
        })
    }

    fn pool(&self) -> Option<PostgresPool> {
        let pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        pool.clone()
    }
}

impl fmt::Display for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(POSTGRES)
    }
}

#[async_trait]
impl Database for Postgres {
    async fn acquire(&self) -> Result<Box<dyn Session>, DatabaseError> {
        // Fails while `close` waits.
        let in_use = self.sessions.clone().try_read_owned().ok();
        let (Some(in_use), Some(pool)) = (in_use, self.pool()) else {
            return Err(DatabaseError::permanent(POSTGRES, "it was closed"));
        };
        let connection = pool.get().await;
        self.is_reachable
            .store(connection.is_ok(), Ordering::Relaxed);
        Ok(Box::new(PostgresSession {
            connection: connection?,
            transaction: Transaction::None,
            _in_use: in_use,
        }))
    }

    /// A pool of PostgreSQL has no monitor: a server that went away is seen by the next check-out.
    fn health(&self) -> Health {
        match self.pool().is_some() && self.is_reachable.load(Ordering::Relaxed) {
            true => Health::Up,
            false => Health::Down,
        }
    }

    async fn close(&self) {
        let pool = self
            .pool
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let _ = tokio::time::timeout(CLOSE, self.sessions.write()).await;
        drop(pool);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transaction {
    None,
    Open,
    /// A statement has failed or was dropped. The server would answer `COMMIT` with a success, and
    /// roll back.
    Failed,
}

/// Has a connection for itself. Neither pool knows of transactions.
struct PostgresSession {
    connection: PostgresConnection,
    transaction: Transaction,
    _in_use: OwnedRwLockReadGuard<()>,
}

impl PostgresSession {
    /// Begins a statement, and returns the state to set when it has succeeded. If its future is
    /// dropped before, the transaction stays failed.
    fn statement(&mut self) -> Transaction {
        let state = self.transaction;
        if state == Transaction::Open {
            self.transaction = Transaction::Failed;
        }
        state
    }
}

impl Drop for PostgresSession {
    fn drop(&mut self) {
        if self.transaction != Transaction::None {
            // The first poll sends it, behind what was sent before. The next session's statements
            // come after it.
            let _ = self.connection.batch_execute("ROLLBACK").now_or_never();
        }
    }
}

#[async_trait]
impl Session for PostgresSession {
    async fn get(&mut self, key: &str) -> Result<Option<String>, DatabaseError> {
        let state = self.statement();
        let row = self.connection.query_opt(GET, &[&key]).await;
        let row = row.map_err(failed)?;
        self.transaction = state;
        row.map(|row| row.try_get(0)).transpose().map_err(failed)
    }

    async fn put(&mut self, key: &str, value: &str) -> Result<(), DatabaseError> {
        let state = self.statement();
        let count = self.connection.execute(PUT, &[&key, &value]).await;
        count.map_err(failed)?;
        self.transaction = state;
        Ok(())
    }

    async fn rows(&mut self) -> Result<Rows<'_>, DatabaseError> {
        let state = self.statement();
        let none = std::iter::empty::<&str>();
        let rows = self.connection.query_raw(ROWS, none).await;
        let rows = rows.map_err(failed)?;
        self.transaction = state;
        let transaction = &mut self.transaction;
        // The connection reads no further than its consumer.
        let rows = rows.map(move |row| {
            let row = row.and_then(|row| {
                Ok(Row {
                    key: row.try_get(0)?,
                    value: row.try_get(1)?,
                })
            });
            row.map_err(|error| {
                if *transaction == Transaction::Open {
                    *transaction = Transaction::Failed;
                }
                failed(error)
            })
        });
        Ok(rows.boxed())
    }

    async fn begin(&mut self) -> Result<(), DatabaseError> {
        if self.transaction != Transaction::None {
            let cause = "the session has a transaction already";
            return Err(DatabaseError::permanent(POSTGRES, cause));
        }
        self.transaction = Transaction::Failed;
        // As MongoDB's: a concurrent change of the same row is an error, and no update is lost.
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ";
        self.connection.batch_execute(begin).await.map_err(failed)?;
        self.transaction = Transaction::Open;
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), DatabaseError> {
        match self.statement() {
            Transaction::None => return Err(no_transaction()),
            Transaction::Failed => {
                let cause = "the transaction has failed, and must be rolled back";
                return Err(DatabaseError::permanent(POSTGRES, cause));
            }
            Transaction::Open => {}
        }
        let outcome = self.connection.batch_execute("COMMIT").await;
        self.transaction = Transaction::None;
        outcome.map_err(|error| match error.code() {
            Some(code) if is_conflict(code) => failed(error),
            // If it has committed, another run would repeat it.
            _ => DatabaseError::permanent("PostgreSQL, commit", with_sources(&error)),
        })
    }

    async fn rollback(&mut self) -> Result<(), DatabaseError> {
        if self.transaction == Transaction::None {
            return Err(no_transaction());
        }
        let rollback = self.connection.batch_execute("ROLLBACK").await;
        rollback.map_err(failed)?;
        self.transaction = Transaction::None;
        Ok(())
    }
}

fn no_transaction() -> DatabaseError {
    DatabaseError::permanent(POSTGRES, "there is no transaction")
}

/// Whether the transaction was rolled back for the sake of another one.
fn is_conflict(code: &SqlState) -> bool {
    *code == SqlState::T_R_SERIALIZATION_FAILURE || *code == SqlState::T_R_DEADLOCK_DETECTED
}

/// Converts errors.
pub(crate) fn failed(error: Error) -> DatabaseError {
    let text = with_sources(&error);
    let is_transient = match error.code() {
        Some(code) => {
            is_conflict(code)
                || [
                    SqlState::ADMIN_SHUTDOWN,
                    SqlState::CRASH_SHUTDOWN,
                    SqlState::CANNOT_CONNECT_NOW,
                    SqlState::TOO_MANY_CONNECTIONS,
                    // The database accepts no connections.
                    SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                ]
                .contains(code)
        }
        // The connection was lost, or could not be made.
        None => {
            error.is_closed()
                || error
                    .source()
                    .is_some_and(|source| source.is::<std::io::Error>())
        }
    };
    match is_transient {
        true => DatabaseError::transient(POSTGRES, text),
        false => DatabaseError::permanent(POSTGRES, text),
    }
}

/// The text with that of its causes, without which it may be `db error`.
pub(crate) fn with_sources(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
