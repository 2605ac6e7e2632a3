use std::fmt;
use std::ops::{Deref, DerefMut};

use crate::MongoConnectionManager;
use crate::pool::Slot;

/// bb8's own guard.
pub(crate) type Taken = bb8::PooledConnection<'static, MongoConnectionManager>;

/// A connection checked out of a [`Pool`](crate::Pool): a guard that gives it back when dropped.
///
/// Dereferences to [`mongo_core::Connection`].
///
/// # Cancellation
/// May be dropped at any time. A connection that was left in the middle of a request, that is
/// closed, or of an earlier generation than the pool's, does not go back: it is closed, and its
/// slot is free at once.
#[must_use]
pub struct PooledConnection {
    /// `None` only while it is dropped.
    taken: Option<Taken>,
    // Dropped last: whoever gets it next finds the connection back in the pool.
    slot: Slot,
}

impl PooledConnection {
    pub(crate) fn new(taken: Taken, slot: Slot) -> Self {
        Self {
            taken: Some(taken),
            slot,
        }
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

impl Drop for PooledConnection {
    fn drop(&mut self) {
        let Some(mut taken) = self.taken.take() else {
            return;
        };
        let handover = self.slot.handover();
        // What must not come back bb8 finds to be broken.
        if handover.is_asked() && taken.check_in() {
            drop(handover.offer(taken));
        }
    }
}

impl fmt::Debug for PooledConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PooledConnection").field(&**self).finish()
    }
}
