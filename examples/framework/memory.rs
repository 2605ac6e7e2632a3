//! The other backend: a map.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};

use crate::database::{Database, DatabaseError, Health, Row, Rows, Session};

#[derive(Clone, Default)]
struct Values {
    by_key: BTreeMap<String, String>,
    /// The number of writes so far.
    version: u64,
}

/// `None` after it is closed.
#[derive(Clone)]
pub(crate) struct Memory(Arc<Mutex<Option<Values>>>);

impl Default for Memory {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Some(Values::default()))))
    }
}

impl Memory {
    fn values(&self) -> MutexGuard<'_, Option<Values>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

#[async_trait]
impl Database for Memory {
    async fn acquire(&self) -> Result<Box<dyn Session>, DatabaseError> {
        match *self.values() {
            Some(_) => Ok(Box::new(MemorySession {
                memory: self.clone(),
                own: None,
                begun: 0,
            })),
            None => Err(closed()),
        }
    }

    fn health(&self) -> Health {
        match *self.values() {
            Some(_) => Health::Up,
            None => Health::Down,
        }
    }

    async fn close(&self) {
        self.values().take();
    }
}

struct MemorySession {
    memory: Memory,
    /// The values as its transaction sees them.
    own: Option<Values>,
    /// The version at which the transaction began.
    begun: u64,
}

impl MemorySession {
    /// Calls a function with the values that the session sees.
    fn with<T>(&mut self, function: impl FnOnce(&mut Values) -> T) -> Result<T, DatabaseError> {
        match &mut self.own {
            Some(own) => Ok(function(own)),
            None => self
                .memory
                .values()
                .as_mut()
                .map(function)
                .ok_or_else(closed),
        }
    }
}

#[async_trait]
impl Session for MemorySession {
    async fn get(&mut self, key: &str) -> Result<Option<String>, DatabaseError> {
        self.with(|values| values.by_key.get(key).cloned())
    }

    async fn put(&mut self, key: &str, value: &str) -> Result<(), DatabaseError> {
        self.with(|values| {
            values.version += 1;
            values.by_key.insert(key.to_owned(), value.to_owned());
        })
    }

    async fn rows(&mut self) -> Result<Rows<'_>, DatabaseError> {
        let rows = self.with(|values| values.by_key.clone())?;
        let rows = rows.into_iter().map(|(key, value)| Ok(Row { key, value }));
        Ok(stream::iter(rows).boxed())
    }

    async fn begin(&mut self) -> Result<(), DatabaseError> {
        let own = self.memory.values().clone().ok_or_else(closed)?;
        self.begun = own.version;
        self.own = Some(own);
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), DatabaseError> {
        let own = self.own.take().ok_or_else(no_transaction)?;
        let mut values = self.memory.values();
        let values = values.as_mut().ok_or_else(closed)?;
        if values.version != self.begun {
            let text = "another session has written since the transaction began";
            return Err(DatabaseError::transient("memory", text));
        }
        *values = own;
        Ok(())
    }

    async fn rollback(&mut self) -> Result<(), DatabaseError> {
        self.own.take().map(drop).ok_or_else(no_transaction)
    }
}

fn closed() -> DatabaseError {
    DatabaseError::permanent("memory", "it was closed")
}

fn no_transaction() -> DatabaseError {
    DatabaseError::permanent("memory", "there is no transaction")
}
