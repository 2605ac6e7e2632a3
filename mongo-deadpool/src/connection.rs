use crate::{Manager, Object};

/// A connection checked out of a [`Pool`](crate::Pool): a guard that returns it when dropped.
///
/// Dereferences to [`mongo_core::Connection`].
///
/// # Cancellation
/// May be dropped at any time. A connection that was left in the middle of a request, is closed, or
/// is of an earlier generation than the pool's, does not go back: it is closed, and its slot is
/// free at once.
#[must_use]
pub struct Connection {
    /// `None` only while it is dropped.
    object: Option<Object>,
}

impl Connection {
    /// Takes the connection out of the pool for good; the pool may make another one in its place.
    pub fn take(mut this: Self) -> mongo_core::Connection {
        // Leaves a closed connection in the guard.
        this.detach()
    }

    /// deadpool's own guard, for its `id`, `metrics` and `pool`.
    pub fn object(this: &Self) -> &Object {
        this.object.as_ref().expect("only a dropped guard is empty")
    }
}

impl From<Object> for Connection {
    fn from(object: Object) -> Self {
        Self {
            object: Some(object),
        }
    }
}

mongo_core::adapter_guard!(Connection, object);

impl Drop for Connection {
    fn drop(&mut self) {
        let Some(mut object) = self.object.take() else {
            return;
        };
        if !object.check_in() {
            // deadpool has no hook at check-in: a connection that must not go back is taken out.
            drop(Object::take(object));
            return;
        }
        let Some(pool) = Object::pool(&object) else {
            drop(object);
            return;
        };
        let factory = pool.manager().factory();
        match factory.has_waiters() {
            // A caller that waits for a new connection is no longer in deadpool's queue: it gets
            // this one directly.
            true => factory.offer(Object::take(object)),
            false => drop(object),
        }
        // A caller may have begun to wait since the check.
        if factory.has_waiters()
            && let Some(connection) = take_idle(&pool)
        {
            factory.offer(connection);
        }
    }
}

/// Takes an idle connection out of the pool.
pub(crate) fn take_idle<W: From<Object>>(
    pool: &deadpool::managed::Pool<Manager, W>,
) -> Option<mongo_core::Connection> {
    let mut is_taken = false;
    let taken = pool.retain(|_, _| std::mem::replace(&mut is_taken, true));
    taken.removed.into_iter().next()
}
