use std::sync::Arc;
use std::time::Duration;

use mongo_core::pools::{CheckBudget, ConnectionFactory};
use mongo_core::{Connection, Deadline, Error, ErrorKind};
use tokio::sync::Semaphore;

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
    /// Callers that wait for a slot hold clones of this.
    pub(crate) waiting: Arc<()>,
    /// The bounds of a whole check-out, of making a connection, and of checking one.
    pub(crate) wait: Duration,
    pub(crate) create: Option<Duration>,
    pub(crate) recycle: Option<Duration>,
    pub(crate) upkeep: Upkeep,
}

impl Shared {
    pub(crate) fn factory(&self) -> &ConnectionFactory {
        self.manager.factory()
    }

    /// The result of checking an idle connection, if that needs no I/O.
    #[inline]
    pub(crate) fn check_now(&self, taken: &mut Taken) -> Option<Result<(), Error>> {
        match self.upkeep.is_over(taken) {
            true => Some(Err(ErrorKind::PoolCleared.into())),
            false => self.factory().recycle_now(taken),
        }
    }

    /// Checks an idle connection.
    pub(crate) async fn check(
        &self,
        taken: &mut Taken,
        deadline: Deadline,
        budget: &mut CheckBudget,
    ) -> Result<(), Error> {
        if let Some(checked) = self.check_now(taken) {
            return checked;
        }
        let deadline = deadline.within(self.recycle);
        // Boxed: rare, and would enlarge every check-out's future.
        Box::pin(self.factory().recycle(taken, deadline, budget)).await
    }

    /// Returns a connection that was in use to the pool.
    #[inline]
    pub(crate) fn put_back(&self, mut taken: Taken) {
        let factory = self.factory();
        if !taken.check_in() || self.upkeep.is_over(&taken) {
            return Idle::discard(taken);
        }
        if factory.has_waiters() {
            let connection = taken.move_out();
            // First, so that bb8 has room for it.
            drop(taken);
            return factory.offer(connection);
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
        Some(self.idle.take()?.move_out())
    }

    /// Closes the idle connections that are stale or over the bounds.
    pub(crate) fn reap(&self) {
        self.idle.retain(|connection| {
            self.factory().should_retain(connection) && !self.upkeep.is_over(connection)
        });
    }
}
