//! The set of a pool's connections.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::net::ConnectionState;
use crate::sync::lock;

/// All connections of a pool, including pending ones, to interrupt them.
#[derive(Debug, Default)]
pub(crate) struct ConnectionSet {
    /// By number, so by age, which is also the order in which they are interrupted.
    all: Mutex<BTreeMap<u64, Entry>>,
}

#[derive(Debug)]
struct Entry {
    link: Arc<ConnectionState>,
    /// The pool's generation when the attempt began.
    generation: u64,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Making,
    Made,
    /// It could not be made: its end is about to be reported.
    Failed,
    /// Interrupted while it was made: its end has been reported.
    GivenUp,
}

impl ConnectionSet {
    /// Adds a pending connection.
    pub(crate) fn add(&self, id: u64, link: Arc<ConnectionState>, generation: u64) {
        let entry = Entry {
            link,
            generation,
            stage: Stage::Making,
        };
        self.lock().insert(id, entry);
    }

    /// Marks it as made. Returns false if it was interrupted before that.
    pub(crate) fn made(&self, id: u64) -> bool {
        self.turn(id, Stage::Made)
    }

    /// Marks it as failed. Returns false if it was interrupted before that.
    pub(crate) fn failed(&self, id: u64) -> bool {
        self.turn(id, Stage::Failed)
    }

    fn turn(&self, id: u64, stage: Stage) -> bool {
        match self.lock().get_mut(&id) {
            Some(entry) if entry.stage == Stage::Making => {
                entry.stage = stage;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Removes it. Returns whether its end has yet to be reported.
    pub(crate) fn remove(&self, id: u64) -> bool {
        let removed = self.lock().remove(&id);
        removed.is_some_and(|entry| entry.stage != Stage::GivenUp)
    }

    /// Interrupts the connections that are made, of generations up to the given one.
    pub(crate) fn interrupt_made(&self, generation: u64) {
        // Without the lock: a woken task may call back here.
        let made: Vec<_> = {
            let all = self.lock();
            let made = all
                .values()
                .filter(|own| own.stage == Stage::Made && own.generation <= generation);
            made.map(|entry| entry.link.clone()).collect()
        };
        made.iter().for_each(|link| link.interrupt());
    }

    /// Interrupts pending connections, of generations up to the given one. `tell` is called for
    /// each before its interruption, because its waiter may see that at once on another thread.
    pub(crate) fn interrupt_pending(&self, generation: u64, tell: impl Fn(u64)) {
        self.interrupt_making(|own| own.generation <= generation, tell);
    }

    /// Interrupts one pending connection.
    pub(crate) fn interrupt_attempt(&self, link: &Arc<ConnectionState>, tell: impl Fn(u64)) {
        self.interrupt_making(|own| Arc::ptr_eq(&own.link, link), tell);
    }

    fn interrupt_making(&self, is_chosen: impl Fn(&Entry) -> bool, tell: impl Fn(u64)) {
        let chosen: Vec<_> = {
            let mut all = self.lock();
            let making = all.iter_mut().filter(|(_, own)| own.stage == Stage::Making);
            let chosen = making.filter(|(_, own)| is_chosen(own));
            chosen
                .map(|(id, entry)| {
                    entry.stage = Stage::GivenUp;
                    (*id, entry.link.clone())
                })
                .collect()
        };
        for (id, link) in chosen {
            tell(id);
            link.interrupt();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        lock(&self.all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_newer_than_the_clear_are_not_interrupted() {
        let links = ConnectionSet::default();
        let all: Vec<Arc<ConnectionState>> = (0..4).map(|_| Arc::default()).collect();
        for (id, link) in (0..).zip(&all) {
            // Two of generation 3, then two of generation 4.
            links.add(id, link.clone(), 3 + id / 2);
        }
        assert!(links.made(0) && links.made(2));
        let told = Mutex::new(Vec::new());
        links.interrupt_pending(3, |id| told.lock().expect("no panic").push(id));
        links.interrupt_made(3);
        let interrupted: Vec<_> = all.iter().map(|link| link.is_interrupted()).collect();
        assert_eq!(interrupted, [true, true, false, false]);
        assert_eq!(*told.lock().expect("no panic"), [1]);
        assert!(!links.made(1) && !links.failed(1) && links.made(3));
        assert!(!links.remove(1), "its end was told");
    }

    #[test]
    fn a_failed_connection_reports_its_own_end() {
        let links = ConnectionSet::default();
        links.add(1, Arc::default(), 0);
        assert!(links.failed(1));
        links.interrupt_pending(u64::MAX, |id| panic!("{id} has failed already"));
        assert!(links.remove(1));
    }
}
