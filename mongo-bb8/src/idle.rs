//! The idle connections, which bb8 holds.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bb8::QueueStrategy;
use mongo_core::Connection;
use tokio::runtime::Handle;

use crate::MongoConnectionManager;
use crate::connection::Taken;

/// bb8's pool. Connections are taken only if there is an idle one: otherwise bb8 would connect in
/// its own task.
#[derive(Debug)]
pub(crate) struct Idle {
    bb8: bb8::Pool<MongoConnectionManager>,
    /// The number of idle connections. A decrement is a claim to one of them. bb8's reaper, if a
    /// pool has one, does not update it.
    count: AtomicUsize,
    /// Held while several connections are taken out to be inspected.
    looking: Mutex<()>,
    /// bb8 creates a timer for each check-out, even if it does not wait. Callers outside of this
    /// runtime enter it for that.
    runtime: Handle,
}

impl Idle {
    pub(crate) fn new(bb8: bb8::Pool<MongoConnectionManager>, runtime: Handle) -> Self {
        Self {
            bb8,
            count: AtomicUsize::new(0),
            looking: Mutex::new(()),
            runtime,
        }
    }

    pub(crate) fn bb8(&self) -> &bb8::Pool<MongoConnectionManager> {
        &self.bb8
    }

    /// Puts back a connection that passed its check.
    #[inline]
    pub(crate) fn put(&self, taken: Taken) {
        drop(taken);
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes a connection, in the order of bb8's configuration.
    #[inline]
    pub(crate) fn take(&self) -> Option<Taken> {
        let has_claim = self.claim();
        match has_claim.then(|| self.poll_bb8()).flatten() {
            Some(taken) => Some(taken),
            None => self.take_after_look(has_claim),
        }
    }

    /// Another thread may be inspecting the connections. A claim stays valid until it has finished.
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

    /// Adds a new connection and takes it, or another one if another caller was faster. `None` if
    /// the new one can no longer be used.
    pub(crate) fn add_and_take(&self, connection: Connection) -> Option<Taken> {
        let id = connection.id();
        let _looking = self.looking();
        self.bb8.add(connection).ok()?;
        let (mut found, mut others) = (None, Vec::new());
        while found.is_none() && self.bb8.state().idle_connections > 0 {
            match self.poll_bb8() {
                Some(taken) if taken.id() == id => found = Some(taken),
                Some(other) => others.push(other),
                None => break,
            }
        }
        let found = found.or_else(|| others.pop());
        // They are already counted. Put back in bb8's order.
        if matches!(self.bb8.config().queue_strategy, QueueStrategy::Lifo) {
            others.reverse();
        }
        drop(others);
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

    #[inline]
    fn poll_bb8(&self) -> Option<Taken> {
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
