use std::sync::Arc;

use tokio::sync::SemaphorePermit;

use crate::idle::{Idle, Taken};
use crate::shared::Shared;

/// A connection checked out of a [`Pool`](crate::Pool): a guard that returns it when dropped.
///
/// Dereferences to [`mongo_core::Connection`].
///
/// # Cancellation
/// May be dropped at any time, and anywhere. A connection that was left in the middle of a request,
/// is closed, or is of an earlier generation than the pool's, does not go back: it is closed, and
/// its slot is free at once.
#[must_use]
pub struct PooledConnection {
    /// `None` while a check-out that has a slot looks for a connection, and while it is dropped.
    taken: Option<Taken>,
    /// One of its slots is this guard's.
    shared: Arc<Shared>,
}

mongo_core::adapter_guard!(PooledConnection, taken);

impl PooledConnection {
    #[inline]
    pub(crate) fn new(
        slot: SemaphorePermit<'_>,
        shared: &Arc<Shared>,
        taken: Option<Taken>,
    ) -> Self {
        slot.forget();
        Self {
            taken,
            shared: shared.clone(),
        }
    }

    /// Holds the next idle connection, if there is one.
    #[inline]
    pub(crate) fn take_idle(&mut self) -> Option<&mut Taken> {
        self.taken = self.shared.idle.take();
        self.taken.as_mut()
    }

    /// Closes its connection, and keeps the slot.
    pub(crate) fn discard(&mut self) {
        if let Some(taken) = self.taken.take() {
            Idle::discard(taken);
        }
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        if let Some(taken) = self.taken.take() {
            self.shared.put_back(taken);
        }
        // Last, so that the next caller finds the connection in the pool.
        self.shared.slots.add_permits(1);
    }
}
