//! The connections of a pool, wherever they are.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::net::Link;

/// The connections of a pool, those that are being made included: to interrupt them.
#[derive(Debug, Default)]
pub(super) struct Links {
    all: Mutex<HashMap<u64, Entry>>,
    emptied: Notify,
}

#[derive(Debug)]
struct Entry {
    link: Arc<Link>,
    is_made: bool,
}

impl Links {
    /// One that is being made.
    pub(super) fn add(&self, id: u64, link: Arc<Link>) {
        let is_made = false;
        self.lock().insert(id, Entry { link, is_made });
    }

    pub(super) fn made(&self, id: u64) {
        if let Some(entry) = self.lock().get_mut(&id) {
            entry.is_made = true;
        }
    }

    pub(super) fn remove(&self, id: u64) {
        let mut all = self.lock();
        all.remove(&id);
        if all.is_empty() {
            drop(all);
            self.emptied.notify_waiters();
        }
    }

    /// Ends once there is none.
    pub(super) async fn drained(&self) {
        loop {
            let mut emptied = pin!(self.emptied.notified());
            emptied.as_mut().enable();
            if self.lock().is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Interrupts all that are there now.
    pub(super) fn interrupt(&self) {
        self.interrupt_those(|_| true);
    }

    /// Interrupts those that are being made.
    pub(super) fn interrupt_pending(&self) {
        self.interrupt_those(|entry| !entry.is_made);
    }

    fn interrupt_those(&self, which: impl Fn(&Entry) -> bool) {
        // Who is woken may come back here.
        let links: Vec<_> = {
            let all = self.lock();
            let chosen = all.values().filter(|entry| which(entry));
            chosen.map(|entry| entry.link.clone()).collect()
        };
        links.iter().for_each(|link| link.interrupt());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
