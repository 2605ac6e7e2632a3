//! The connections of a pool, wherever they are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::net::Link;

/// The connections of a pool, those that are being made included: to interrupt them.
#[derive(Debug, Default)]
pub(super) struct Links(Mutex<HashMap<u64, Arc<Link>>>);

impl Links {
    pub(super) fn add(&self, id: u64, link: Arc<Link>) {
        self.lock().insert(id, link);
    }

    pub(super) fn remove(&self, id: u64) {
        self.lock().remove(&id);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Interrupts all that are there now.
    pub(super) fn interrupt(&self) {
        // Who is woken may come back here.
        let links: Vec<_> = self.lock().values().cloned().collect();
        links.iter().for_each(|link| link.interrupt());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Link>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
