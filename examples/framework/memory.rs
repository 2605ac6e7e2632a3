//! The other backend: a map.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::database::{Database, DatabaseError, Health, Session};

type Values = HashMap<String, String>;

/// `None` after it is closed.
#[derive(Clone)]
pub(crate) struct Memory(Arc<Mutex<Option<Values>>>);

impl Default for Memory {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Some(Values::new()))))
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
            Some(_) => Ok(Box::new(self.clone())),
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

#[async_trait]
impl Session for Memory {
    async fn get(&mut self, key: &str) -> Result<Option<String>, DatabaseError> {
        let values = self.values();
        let values = values.as_ref().ok_or_else(closed)?;
        Ok(values.get(key).cloned())
    }

    async fn put(&mut self, key: &str, value: &str) -> Result<(), DatabaseError> {
        let mut values = self.values();
        let values = values.as_mut().ok_or_else(closed)?;
        values.insert(key.to_owned(), value.to_owned());
        Ok(())
    }
}

fn closed() -> DatabaseError {
    DatabaseError::permanent("memory", "it was closed")
}
