//! The idle connections, which bb8 holds.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bb8::QueueStrategy;
use mongo_core::Connection;
use tokio::runtime::Handle;

use crate::MongoConnectionManager;

/// bb8's own guard.
pub(crate) type Taken = bb8::PooledConnection<'static, MongoConnectionManager>;

/// bb8's pool. Connections are taken only if there is an idle one: otherwise bb8 would connect in
/// its own task.
#[derive(Debug)]
pub(crate) struct Idle {
    bb8: bb8::Pool<MongoConnectionManager>,
    /// The number of idle connections. A decrement is a claim to one of them.
    count: AtomicUsize,
    /// Whether bb8's reaper closes idle connections, without updating the count: a claim may then be
    /// void.
    is_reaped: bool,
    /// Held while several connections are taken out to be inspected.
    looking: Mutex<()>,
    /// bb8 creates a timer for each check-out, even if it does not wait. Callers outside of this
    /// runtime enter it for that.
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

    /// Puts back a connection that passed its check.
    #[inline]
    pub(crate) fn put(&self, taken: Taken) {
        drop(taken);
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    /// Closes a connection that can't be used, and makes room in bb8.
    pub(crate) fn discard(mut taken: Taken) {
        drop(taken.move_out());
    }

    /// Takes a connection, in the order of bb8's configuration.
    #[inline]
    pub(crate) fn take(&self) -> Option<Taken> {
        match self.claim() {
            true if !self.is_reaped => self.poll_bb8(),
            has_claim => self.take_after_look(has_claim),
        }
    }

    /// Another thread may be inspecting the connections. A claim stays valid until it has finished,
    /// unless bb8's reaper was faster.
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
        // Put back in bb8's order.
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
