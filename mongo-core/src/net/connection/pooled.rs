//! Operations of a pool on its connections.

use std::cell::RefCell;

use tokio::time::Instant;

use super::drain::DRAIN_BYTES;
use super::{Connection, Identity, Inner};
use crate::error::ClosedReason;
use crate::net::connection::channel::Channel;
use crate::net::connection::pool_handle::PoolHandle;
use crate::wire::Limits;

thread_local! {
    /// The pooled connections that the thread has dropped, while [`Connection::dropped_by`] runs.
    static DROPPED: RefCell<Option<Vec<Connection>>> = const { RefCell::new(None) };
}

impl Connection {
    /// Checks the idle connection without waiting: its socket must be open, with nothing to read,
    /// and its runtime must be alive. The error is the reason why it can't be used.
    pub(crate) fn check_idle(&mut self) -> Result<(), ClosedReason> {
        let Inner { channel, alarm, .. } = &mut *self.inner;
        let runs = alarm.runs_on(channel.home());
        channel.check_idle(runs)
    }

    /// Whether the pool, or the part of it for the connection's service, has been cleared since the
    /// connection was made, or the pool has marked the connection as perished.
    pub fn is_stale(&self) -> bool {
        let pool_handle = self.inner.pool_handle.as_ref();
        self.inner.identity.generation.is_stale()
            || pool_handle.is_some_and(|pool_handle| pool_handle.link.is_doomed())
    }

    /// Prepares the connection for its return to the pool. Returns false if it must not be
    /// returned: it is closed, was left in the middle of a request, has an outstanding reply that
    /// is too long to be drained, or is stale. Its idle clock starts, and a large buffer is freed.
    ///
    /// For the check-in of a generic pool.
    #[must_use]
    pub fn check_in(&mut self) -> bool {
        self.inner.watch = None;
        if self.inner.channel.exchange.owes_more_than(DRAIN_BYTES) {
            self.close_for(ClosedReason::LongReply);
        }
        if self.is_closed() || self.is_stale() {
            return false;
        }
        if let Some(pool_handle) = &self.inner.pool_handle
            && !pool_handle
                .owner
                .enter_idle(&self.inner.identity, &pool_handle.link)
        {
            self.close_for(ClosedReason::Evicted);
            return false;
        }
        self.inner.channel.exchange.release();
        self.inner.checked_in = self.inner.identity.generation.suspicion().count_check_in();
        if self.inner.identity.times_idleness {
            self.inner.idle_since = Instant::now();
        }
        self.inner.is_new = false;
        true
    }

    /// Takes the connection out and leaves a closed one in its place, for a generic pool that does
    /// not release its connections. The pool still counts it as its own.
    #[must_use]
    pub fn move_out(&mut self) -> Self {
        let left = Self::new(
            Channel::closed(),
            Limits::default(),
            self.inner.identity.clone(),
            None,
        );
        std::mem::replace(self, left)
    }

    /// Like [`move_out`](Self::move_out), but the connection also leaves the pool, which may make
    /// another one. For a generic pool whose guard releases a connection permanently.
    #[must_use]
    pub fn detach(&mut self) -> Self {
        let detached = self.move_out();
        if let Some(pool_handle) = &detached.inner.pool_handle {
            pool_handle
                .owner
                .detached(&detached.inner.identity, &pool_handle.link);
        }
        detached
    }

    /// Runs a closure that may drop pooled connections under a lock, and returns the connections
    /// that this thread dropped. They are closed, and their events emitted, when the result is
    /// dropped. For a generic pool that closes idle connections under its lock. If the closure
    /// panics, they are closed.
    #[must_use = "what is not kept is closed at once"]
    pub fn dropped_by(run: impl FnOnce()) -> Vec<Self> {
        struct Restore(Option<Vec<Connection>>);
        impl Drop for Restore {
            fn drop(&mut self) {
                drop(DROPPED.replace(self.0.take()));
            }
        }
        let _restore = Restore(DROPPED.replace(Some(Vec::new())));
        run();
        DROPPED.take().unwrap_or_default()
    }

    /// Hands the connection, which is being dropped, to [`dropped_by`](Self::dropped_by), if that
    /// is running on this thread. Returns whether it did.
    pub(super) fn is_put_off(&mut self) -> bool {
        if self.inner.pool_handle.is_none() {
            return false;
        }
        let put_off = DROPPED.try_with(|dropped| match &mut *dropped.borrow_mut() {
            Some(dropped) => {
                dropped.push(self.move_out());
                true
            }
            None => false,
        });
        put_off.unwrap_or(false)
    }

    /// The connection's age and idle time begin now.
    pub(super) fn restart_age(&mut self, now: Instant) {
        self.inner.identity.created = now;
        self.inner.idle_since = now;
    }

    pub(crate) fn set_pool_handle(&mut self, pool_handle: PoolHandle) {
        self.inner.pool_handle = Some(pool_handle);
    }

    pub(crate) fn pool_handle(&self) -> Option<&PoolHandle> {
        self.inner.pool_handle.as_ref()
    }

    pub(crate) fn pool_handle_mut(&mut self) -> Option<&mut PoolHandle> {
        self.inner.pool_handle.as_mut()
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.inner.identity
    }
}
