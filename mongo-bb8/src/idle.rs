//! The idle connections, which bb8 keeps.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bb8::QueueStrategy;
use mongo_core::Connection;
use tokio::runtime::Handle;

use crate::MongoConnectionManager;
use crate::connection::Taken;

/// bb8's pool, asked only for connections that are there: asked in vain, it would connect in a task
/// of its own.
#[derive(Debug)]
pub(crate) struct Idle {
    bb8: bb8::Pool<MongoConnectionManager>,
    /// How many are idle. To count one down is to have a claim to a connection.
    count: AtomicUsize,
    /// Whether bb8 closes idle connections by itself, uncounted: then a claim may be to nothing.
    is_reaped: bool,
    /// Held while several are taken out, to be looked through.
    looking: Mutex<()>,
    /// bb8 makes a timer for each check-out, even one that does not wait: here, unless it is called
    /// from here.
    runtime: Handle,
}

impl Idle {
    pub(crate) fn new(bb8: bb8::Pool<MongoConnectionManager>, runtime: Handle) -> Self {
        let config = bb8.config();
        Self {
            is_reaped: config.idle_timeout.is_some() || config.max_lifetime.is_some(),
            bb8,
            count: AtomicUsize::new(0),
            looking: Mutex::new(()),
            runtime,
        }
    }

    pub(crate) fn bb8(&self) -> &bb8::Pool<MongoConnectionManager> {
        &self.bb8
    }

    /// Puts one back that is sound.
    #[inline]
    pub(crate) fn put(&self, taken: Taken) {
        drop(taken);
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    /// Closes one that is not sound, and makes room in bb8.
    pub(crate) fn discard(mut taken: Taken) {
        drop(taken.move_out());
    }

    /// Takes one, in the order that bb8's configuration says.
    #[inline]
    pub(crate) fn take(&self) -> Option<Taken> {
        match self.claim() {
            true if !self.is_reaped => self.poll_bb8(),
            has_claim => self.take_after_look(has_claim),
        }
    }

    /// Another thread may hold them, looking through them. A claim stays good until then, unless bb8's
    /// reaper was first.
    #[cold]
    fn take_after_look(&self, has_claim: bool) -> Option<Taken> {
        let _looking = self.looking();
        (has_claim || self.claim()).then(|| self.poll_bb8())?
    }

    #[inline]
    fn claim(&self) -> bool {
        let one_less = |count: usize| count.checked_sub(1);
        let claimed = self
            .count
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
        claimed.is_ok()
    }

    /// Adds a new connection and takes it; where another caller was faster, another one. `None` where
    /// the new one is not sound any more.
    pub(crate) fn add_and_take(&self, connection: Connection) -> Option<Taken> {
        let id = connection.id();
        if connection.is_stale() {
            return None;
        }
        let looking = self.looking();
        if let Err(_refused) = self.bb8.add(connection) {
            // Closed without the lock: a handler may use the pool.
            drop(looking);
            return None;
        }
        self.count.fetch_add(1, Ordering::SeqCst);
        let (mut found, mut others, mut over) = (None, Vec::new(), Vec::new());
        while found.is_none() && self.claim() {
            match self.poll_bb8() {
                Some(taken) if taken.id() == id => found = Some(taken),
                Some(mut other) if other.is_closed() || other.is_stale() => {
                    over.push(other.move_out());
                }
                Some(other) => others.push(other),
                None => {}
            }
        }
        let found = found.or_else(|| others.pop());
        // In bb8's order.
        if matches!(self.bb8.config().queue_strategy, QueueStrategy::Lifo) {
            others.reverse();
        }
        others.into_iter().for_each(|other| self.put(other));
        drop(looking);
        drop(over);
        found
    }

    /// Closes the connections that do not satisfy the predicate. No handler runs under a lock.
    pub(crate) fn retain(&self, keep: impl Fn(&Connection) -> bool) {
        let mut removed = Vec::new();
        let looking = self.looking();
        let mut all: Vec<_> =
            std::iter::from_fn(|| self.claim().then(|| self.poll_bb8())?).collect();
        // So that putting them back in this order leaves bb8's order as it was.
        if matches!(self.bb8.config().queue_strategy, QueueStrategy::Lifo) {
            all.reverse();
        }
        for mut taken in all {
            match keep(&taken) {
                true => self.put(taken),
                false => removed.push(taken.move_out()),
            }
        }
        drop(looking);
        drop(removed);
    }

    /// With a claim; where bb8 reaps, also with the lock.
    #[inline]
    fn poll_bb8(&self) -> Option<Taken> {
        if self.is_reaped && self.bb8.state().idle_connections == 0 {
            return None;
        }
        let is_here = Handle::try_current().is_ok_and(|here| here.id() == self.runtime.id());
        let _entered = (!is_here).then(|| self.runtime.enter());
        let got = pin!(self.bb8.get_owned());
        match got.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(got) => got.ok(),
            Poll::Pending => None,
        }
    }

    fn looking(&self) -> MutexGuard<'_, ()> {
        self.looking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
