use std::fmt;
use std::ops::{Deref, DerefMut};

use tokio::sync::OwnedSemaphorePermit;

use crate::MongoConnectionManager;

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
    // Before the permit: whoever gets that next finds the connection back in the pool.
    inner: bb8::PooledConnection<'static, MongoConnectionManager>,
    _permit: OwnedSemaphorePermit,
}

impl PooledConnection {
    pub(crate) fn new(
        inner: bb8::PooledConnection<'static, MongoConnectionManager>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            inner,
            _permit: permit,
        }
    }
}

impl Deref for PooledConnection {
    type Target = mongo_core::Connection;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl DerefMut for PooledConnection {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.inner
    }
}

impl fmt::Debug for PooledConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PooledConnection").field(&**self).finish()
    }
}
