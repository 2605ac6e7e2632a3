//! The framework's side: the trait of all databases.

use std::error::Error;
use std::fmt::{self, Display};

use async_trait::async_trait;
use futures_util::stream::BoxStream;

/// A database that stores values by key.
#[async_trait]
pub trait Database: Display + Send + Sync {
    /// Starts a session. It ends when it is dropped, and rolls its transaction back.
    ///
    /// # Errors
    /// No connection was available within the pool's `timeouts.wait`, or the database is closed.
    async fn acquire(&self) -> Result<Box<dyn Session>, DatabaseError>;

    /// The health that is known now, without a request.
    fn health(&self) -> Health;

    /// Refuses new sessions, waits up to 10 s for those in use, and closes the connections.
    async fn close(&self);
}

/// A session, whose operations see the earlier ones.
///
/// Each operation has a time limit. If its future is dropped, an open transaction has failed.
#[async_trait]
pub trait Session: Send {
    /// The value of a key.
    async fn get(&mut self, key: &str) -> Result<Option<String>, DatabaseError>;

    /// Sets the value of a key.
    async fn put(&mut self, key: &str, value: &str) -> Result<(), DatabaseError>;

    /// All rows in the order of their keys, which are fetched as they are needed.
    async fn rows(&mut self) -> Result<Rows<'_>, DatabaseError>;

    /// Begins a transaction, which sees a snapshot of the data. After an error of one of its
    /// operations it must be rolled back, and can be run again if the error is transient.
    async fn begin(&mut self) -> Result<(), DatabaseError>;

    /// Commits the transaction, which then has ended, also with an error. The transaction can be
    /// run again if the error is transient.
    async fn commit(&mut self) -> Result<(), DatabaseError>;

    /// Rolls the transaction back.
    async fn rollback(&mut self) -> Result<(), DatabaseError>;
}

/// Rows in the order of their keys.
pub type Rows<'s> = BoxStream<'s, Result<Row, DatabaseError>>;

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
}

/// What a database can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Reads and writes.
    Up,
    /// Reads at most.
    Degraded,
    /// Nothing.
    Down,
}

/// The framework's own error.
#[derive(Debug)]
pub struct DatabaseError {
    text: String,
    /// Whether a retry may succeed.
    pub is_transient: bool,
}

impl DatabaseError {
    pub(crate) fn permanent(what: &str, cause: impl Display) -> Self {
        Self {
            text: format!("{what}: {cause}"),
            is_transient: false,
        }
    }

    pub(crate) fn transient(what: &str, cause: impl Display) -> Self {
        Self {
            is_transient: true,
            ..Self::permanent(what, cause)
        }
    }
}

impl Display for DatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        match self.is_transient {
            true => f.write_str(" (try again)"),
            false => Ok(()),
        }
    }
}

impl Error for DatabaseError {}
