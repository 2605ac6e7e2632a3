//! The idle connections, which bb8 holds.

use std::iter::from_fn;
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
    pub(crate) bb8: bb8::Pool<MongoConnectionManager>,
    /// The number of idle connections. A decrement is a claim to one of them.
    count: AtomicUsize,
    /// Held while all of them are taken out to be inspected.
    looking: Mutex<()>,
    /// bb8 creates a timer for each check-out, even if it does not wait. Callers outside of this
    /// runtime enter it for that.
    runtime: Handle,
}

impl Idle {
    /// bb8 must close no idle connection by itself.
    pub(crate) fn new(bb8: bb8::Pool<MongoConnectionManager>, runtime: Handle) -> Self {
        Self {
            bb8,
            count: AtomicUsize::new(0),
            looking: Mutex::new(()),
            runtime,
        }
    }

    /// Puts back a connection that passed its check.
    #[inline]
    pub(crate) fn put(&self, taken: Taken) {
        drop(taken);
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    /// Adds a new connection, unless it is closed already.
    pub(crate) fn add(&self, connection: Connection) {
        if self.bb8.add(connection).is_ok() {
            self.count.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Closes a connection that can't be used, and makes room in bb8.
    pub(crate) fn discard(mut taken: Taken) {
        drop(taken.move_out());
    }

    /// Takes a connection, in the order of bb8's configuration.
    #[inline]
    pub(crate) fn take(&self) -> Option<Taken> {
        match self.claim() {
            true => self.poll_bb8(),
            false => self.take_after_look(),
        }
    }

    /// Another thread may be inspecting the connections.
    #[cold]
    fn take_after_look(&self) -> Option<Taken> {
        let _looking = self.looking();
        self.claim().then(|| self.poll_bb8())?
    }

    #[inline]
    fn claim(&self) -> bool {
        let one_less = |count: usize| count.checked_sub(1);
        let claimed = self
            .count
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
        claimed.is_ok()
    }

    /// Closes the connections that do not satisfy the predicate. No handler runs under a lock.
    pub(crate) fn retain(&self, keep: impl Fn(&Connection) -> bool) {
        let mut removed = Vec::new();
        let looking = self.looking();
        let mut all: Vec<_> = from_fn(|| self.claim().then(|| self.poll_bb8())?).collect();
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

    /// With a claim.
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
