use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::idle::Taken;
use crate::shared::{Shared, Slot};

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
    /// `None` only while it is dropped.
    taken: Option<Taken>,
    // Dropped last, so that the next caller finds the connection in the pool.
    slot: Slot,
}

impl PooledConnection {
    pub(crate) fn new(taken: Taken, slot: Slot) -> Self {
        Self {
            taken: Some(taken),
            slot,
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        self.slot.shared()
    }
}

impl Deref for PooledConnection {
    type Target = mongo_core::Connection;

    fn deref(&self) -> &Self::Target {
        self.taken.as_ref().expect("only a dropped guard is empty")
    }
}

impl DerefMut for PooledConnection {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.taken.as_mut().expect("only a dropped guard is empty")
    }
}

impl AsRef<mongo_core::Connection> for PooledConnection {
    fn as_ref(&self) -> &mongo_core::Connection {
        self
    }
}

impl AsMut<mongo_core::Connection> for PooledConnection {
    fn as_mut(&mut self) -> &mut mongo_core::Connection {
        self
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        if let Some(taken) = self.taken.take() {
            self.shared().put_back(taken);
        }
    }
}

impl fmt::Debug for PooledConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PooledConnection").field(&**self).finish()
    }
}
