use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mongo_core::pools::CheckBudget;
use mongo_core::{Connection, Deadline, Error, ErrorKind};
use tokio::sync::{Semaphore, TryAcquireError};
use tokio::time::Instant;

use crate::MongoConnectionManager;
use crate::idle::{Idle, Taken};
use crate::upkeep::Upkeep;

/// The state that a pool and its guards share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) manager: MongoConnectionManager,
    pub(crate) idle: Idle,
    /// One permit for each connection that the pool may hold: a caller with a permit never waits
    /// for another caller's connection.
    pub(crate) slots: Semaphore,
    /// Callers that wait for a slot.
    pub(crate) waiting: AtomicUsize,
    pub(crate) wait: Duration,
    pub(crate) max_lifetime: Option<Duration>,
    pub(crate) test_on_check_out: bool,
    pub(crate) upkeep: Upkeep,
}

impl Shared {
    /// The result of checking an idle connection, if that needs no I/O.
    #[inline]
    pub(crate) fn check_now(&self, taken: &mut Taken) -> Option<Result<(), Error>> {
        if self.is_too_old(taken) {
            return Some(Err(ErrorKind::PoolCleared.into()));
        }
        if self.test_on_check_out {
            return self.manager.factory().recycle_now(taken);
        }
        Some(match taken.is_stale() {
            true => Err(ErrorKind::PoolCleared.into()),
            false => Ok(()),
        })
    }

    /// Checks an idle connection. If this is dropped, the connection goes back.
    pub(crate) async fn check(
        &self,
        mut taken: Taken,
        deadline: Deadline,
        budget: &mut CheckBudget,
    ) -> Option<Taken> {
        if let Some(checked) = self.check_now(&mut taken) {
            if checked.is_ok() {
                return Some(taken);
            }
            Idle::discard(taken);
            return None;
        }
        let mut returned = Returned {
            shared: self,
            taken: Some(taken),
        };
        let connection = returned.taken.as_mut()?;
        let checked = self.manager.check(connection, deadline, budget).await;
        let taken = returned.taken.take()?;
        if checked.is_ok() {
            return Some(taken);
        }
        Idle::discard(taken);
        None
    }

    /// Whether a connection has outlived bb8's `max_lifetime`.
    #[inline]
    fn is_too_old(&self, connection: &Connection) -> bool {
        self.max_lifetime
            .is_some_and(|max| connection.created().elapsed() >= max)
    }

    /// Returns a connection that was in use to the pool.
    #[inline]
    pub(crate) fn put_back(&self, mut taken: Taken) {
        let factory = self.manager.factory();
        if !taken.check_in() {
            return Idle::discard(taken);
        }
        if self.is_too_old(&taken) {
            taken.close();
            return Idle::discard(taken);
        }
        if factory.has_waiters() {
            self.offer(taken);
            return;
        }
        self.idle.put(taken);
        // A caller may have begun to wait, or the pool may have been closed, since the check.
        if factory.has_waiters()
            && let Some(connection) = self.take_idle()
        {
            factory.offer(connection);
        }
        if self.slots.is_closed() {
            self.idle.retain(|_| false);
        }
    }

    /// Takes an idle connection out of bb8.
    pub(crate) fn take_idle(&self) -> Option<Connection> {
        let mut taken = self.idle.take()?;
        Some(taken.move_out())
    }

    /// Closes the idle connections that are stale or out of bb8's bounds. For a task that ends when
    /// this returns false.
    pub(crate) fn reap(&self) -> bool {
        let (factory, now) = (self.manager.factory(), Instant::now());
        self.idle.retain(|connection| {
            factory.should_retain(connection) && self.upkeep.should_retain(connection, now)
        });
        true
    }

    fn offer(&self, mut taken: Taken) {
        let connection = taken.move_out();
        // First, so that bb8 has room for it.
        drop(taken);
        self.manager.factory().offer(connection);
    }
}

/// A connection that goes back to the pool unless it is taken.
struct Returned<'a> {
    shared: &'a Shared,
    taken: Option<Taken>,
}

impl Drop for Returned<'_> {
    fn drop(&mut self) {
        if let Some(taken) = self.taken.take() {
            self.shared.put_back(taken);
        }
    }
}

/// A permit for one of the pool's slots.
#[derive(Debug)]
pub(crate) struct Slot {
    shared: Arc<Shared>,
}

impl Slot {
    pub(crate) fn try_take(shared: &Arc<Shared>) -> Result<Self, TryAcquireError> {
        shared.slots.try_acquire()?.forget();
        Ok(Self {
            shared: shared.clone(),
        })
    }

    /// Waits for a slot, first in, first out; `None` if the pool is closed.
    pub(crate) async fn take(shared: &Arc<Shared>) -> Option<Self> {
        shared.slots.acquire().await.ok()?.forget();
        Some(Self {
            shared: shared.clone(),
        })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.slots.add_permits(1);
    }
}

/// Counts up as long as it lives.
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
