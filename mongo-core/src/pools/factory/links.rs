//! The connections of a pool, wherever they are.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::net::Link;

/// The connections of a pool, those that are being made included: to interrupt them.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// By age, which is also the order in which they are interrupted.
    all: Mutex<BTreeMap<u64, Entry>>,
    emptied: Notify,
}

#[derive(Debug)]
struct Entry {
    link: Arc<Link>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Making,
    Made,
    /// Interrupted while it was made: its end has been told.
    GivenUp,
}

impl Links {
    /// One that is being made.
    pub(super) fn add(&self, id: u64, link: Arc<Link>) {
        let stage = Stage::Making;
        self.lock().insert(id, Entry { link, stage });
    }

    /// Says no if it was given up meanwhile.
    pub(super) fn made(&self, id: u64) -> bool {
        match self.lock().get_mut(&id) {
            Some(entry) if entry.stage == Stage::Making => {
                entry.stage = Stage::Made;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Says whether its end is still to be told.
    pub(super) fn remove(&self, id: u64) -> bool {
        let mut all = self.lock();
        let removed = all.remove(&id);
        if all.is_empty() {
            drop(all);
            self.emptied.notify_waiters();
        }
        removed.is_some_and(|entry| entry.stage != Stage::GivenUp)
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

    /// Interrupts all that are made.
    pub(super) fn interrupt_made(&self) {
        // Who is woken may come back here.
        let made: Vec<_> = {
            let all = self.lock();
            let made = all.values().filter(|entry| entry.stage == Stage::Made);
            made.map(|entry| entry.link.clone()).collect()
        };
        made.iter().for_each(|link| link.interrupt());
    }

    /// Interrupts those that are being made. `tell` is told of the end of each before: who waits
    /// for one may learn of it on another thread at once.
    pub(super) fn interrupt_pending(&self, tell: impl Fn(u64)) {
        let mut pending: Vec<_> = {
            let mut all = self.lock();
            let pending = all
                .iter_mut()
                .filter(|(_, entry)| entry.stage == Stage::Making);
            pending
                .map(|(id, entry)| {
                    entry.stage = Stage::GivenUp;
                    (*id, entry.link.clone())
                })
                .collect()
        };
        pending.sort_unstable_by_key(|(id, _)| *id);
        for (id, link) in pending {
            tell(id);
            link.interrupt();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
