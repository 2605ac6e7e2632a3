use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bb8::QueueStrategy;
use tokio::runtime::{EnterGuard, Handle};
use tokio::sync::{AcquireError, Semaphore, TryAcquireError};

use crate::MongoConnectionManager;
use crate::connection::Taken;
use crate::handover::Handover;
use crate::manager::sweeping;

/// What a pool and its guards have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) inner: bb8::Pool<MongoConnectionManager>,
    pub(crate) manager: MongoConnectionManager,
    /// As many permits as bb8 holds connections, so that who has one never waits for another's.
    pub(crate) front: Semaphore,
    /// Who has a permit, and waits for a connection to be made.
    pub(crate) handover: Handover<Taken>,
    pub(crate) wait: Duration,
    pub(crate) waiting: AtomicUsize,
    /// Where bb8 spawns what it connects, for what is done outside of any runtime.
    pub(crate) runtime: Handle,
}

impl Shared {
    /// bb8 asks for a runtime where it makes a connection in another one's place.
    fn enter_from_outside(&self) -> Option<EnterGuard<'_>> {
        let is_outside = Handle::try_current().is_err();
        is_outside.then(|| self.runtime.enter())
    }

    /// Takes back what was in use.
    #[inline]
    pub(crate) fn put_back(&self, taken: Taken) {
        let replaces = self.inner.config().min_idle.is_some();
        match self.handover.is_asked() || replaces {
            true => self.put_back_or_hand_over(taken),
            false => drop(taken),
        }
        // Closed meanwhile, the pool has been looked through perhaps before it was back.
        if self.front.is_closed() {
            self.sweep_idle();
        }
    }

    #[cold]
    fn put_back_or_hand_over(&self, mut taken: Taken) {
        let _entered = self.enter_from_outside();
        let max_lifetime = self.inner.config().max_lifetime;
        // What must not come back bb8 finds to be broken, and too old.
        if self.handover.is_asked() && !is_too_old(&taken, max_lifetime) && taken.check_in() {
            drop(self.handover.offer(taken));
        } else {
            drop(taken);
        }
    }

    /// Closes the idle connections that the factory does not keep: bb8 has no way to look through
    /// them but to take them out one by one. To be called from anywhere.
    pub(crate) fn sweep_idle(&self) {
        let _entered = self.runtime.enter();
        let mut context = Context::from_waker(Waker::noop());
        sweeping(|| {
            let mut taken = Vec::new();
            let mut left = self.inner.state().idle_connections;
            // Asked in vain, bb8 would wait, for which the runtime may be gone.
            while left > 0 && self.inner.state().idle_connections > 0 {
                match pin!(self.inner.get_owned()).poll(&mut context) {
                    Poll::Ready(Ok(connection)) => taken.push(connection),
                    Poll::Ready(Err(_)) | Poll::Pending => break,
                }
                left -= 1;
            }
            // In the order in which they were.
            if matches!(self.inner.config().queue_strategy, QueueStrategy::Lifo) {
                taken.reverse();
            }
            drop(taken);
        });
    }
}

fn is_too_old(connection: &mongo_core::Connection, max_lifetime: Option<Duration>) -> bool {
    max_lifetime.is_some_and(|max| connection.created().elapsed() >= max)
}

/// A permit of the front.
#[derive(Debug)]
pub(crate) struct Slot {
    pool: Arc<Shared>,
}

impl Slot {
    pub(crate) fn try_take(pool: &Arc<Shared>) -> Result<Self, TryAcquireError> {
        pool.front.try_acquire()?.forget();
        Ok(Self { pool: pool.clone() })
    }

    /// Waits for it, in turn.
    pub(crate) async fn take(pool: &Arc<Shared>) -> Result<Self, AcquireError> {
        pool.front.acquire().await?.forget();
        Ok(Self { pool: pool.clone() })
    }

    pub(crate) fn pool(&self) -> &Shared {
        &self.pool
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.pool.front.add_permits(1);
    }
}

/// A caller that may leave a connection behind that was made for it, and that nobody knows to be
/// idle.
pub(crate) struct Leaving<'a>(pub(crate) Option<&'a Shared>);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if let Some(pool) = self.0 {
            pool.sweep_idle();
        }
    }
}

/// Counts its own life.
pub(crate) struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    pub(crate) fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
