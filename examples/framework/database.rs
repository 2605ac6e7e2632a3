//! The framework's side: the trait of all databases.

use std::fmt::{self, Display};

use async_trait::async_trait;
use futures_util::stream::BoxStream;

/// A database that stores values by key.
#[async_trait]
pub(crate) trait Database: Display + Send + Sync {
    /// Starts a session. It ends when it is dropped, and rolls its transaction back.
    async fn acquire(&self) -> Result<Box<dyn Session>, DatabaseError>;

    /// The health that is known now, without a request.
    fn health(&self) -> Health;

    /// Returns when all connections are closed.
    async fn close(&self);
}

/// A session, whose operations see the earlier ones. Each is within a deadline of the configuration.
#[async_trait]
pub(crate) trait Session: Send {
    async fn get(&mut self, key: &str) -> Result<Option<String>, DatabaseError>;

    async fn put(&mut self, key: &str, value: &str) -> Result<(), DatabaseError>;

    /// All rows in the order of their keys, which are fetched as they are needed.
    async fn rows(&mut self) -> Result<Rows<'_>, DatabaseError>;

    /// Begins a transaction. After an error of one of its operations it must be rolled back, and can
    /// be run again if the error is transient.
    async fn begin(&mut self) -> Result<(), DatabaseError>;

    async fn commit(&mut self) -> Result<(), DatabaseError>;

    async fn rollback(&mut self) -> Result<(), DatabaseError>;
}

pub(crate) type Rows<'s> = BoxStream<'s, Result<Row, DatabaseError>>;

pub(crate) struct Row {
    pub(crate) key: String,
    pub(crate) value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// Reads and writes.
    Up,
    /// Reads at most.
    Degraded,
    Down,
}

/// The framework's own error.
#[derive(Debug)]
pub(crate) struct DatabaseError {
    text: String,
    /// Whether a retry may succeed.
    pub(crate) is_transient: bool,
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

impl std::error::Error for DatabaseError {}
