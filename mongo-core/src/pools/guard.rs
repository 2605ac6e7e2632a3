//! A connection in use.

use std::ops::DerefMut;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Backend;
use super::pool::{PinReason, PoolInner};
use crate::event::logs::CheckOutSpan;
use crate::net::Connection;
use crate::select::RunningOperation;

/// Makes a guard, whose field is `None` only while it is dropped, a pointer to its connection.
#[doc(hidden)]
#[macro_export]
macro_rules! adapter_guard {
    ($guard:ty, $field:ident $(, $parameter:ident: $bound:ident)?) => {
        impl $(<$parameter: $bound>)? std::ops::Deref for $guard {
            type Target = $crate::Connection;

            #[inline]
            fn deref(&self) -> &$crate::Connection {
                self.$field.as_ref().expect("only a dropped guard is empty")
            }
        }

        impl $(<$parameter: $bound>)? std::ops::DerefMut for $guard {
            #[inline]
            fn deref_mut(&mut self) -> &mut $crate::Connection {
                self.$field.as_mut().expect("only a dropped guard is empty")
            }
        }

        impl $(<$parameter: $bound>)? AsRef<$crate::Connection> for $guard {
            fn as_ref(&self) -> &$crate::Connection {
                self
            }
        }

        impl $(<$parameter: $bound>)? AsMut<$crate::Connection> for $guard {
            fn as_mut(&mut self) -> &mut $crate::Connection {
                self
            }
        }

        impl $(<$parameter: $bound>)? std::fmt::Debug for $guard {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(&**self, f)
            }
        }
    };
}

/// A connection checked out of [`Pools`](super::Pools): a guard that returns it when dropped.
///
/// Dereferences to [`Connection`]. It stays with one server and one socket as long as it lives:
/// keep the guard for a series of commands, a cursor or a transaction. If it was checked out for
/// writes, every command fails with [`ErrorKind::NotWritable`](crate::ErrorKind::NotWritable), and
/// is not sent, once its server is known to be no longer writable. The failure of another
/// connection or of a server check has no such effect: this connection may still work. Nor has the
/// removal of the server from the SRV records.
///
/// # Cancellation
/// May be dropped at any time. A connection that was left in the middle of a request, is closed, or
/// is of an earlier generation than the pool's, does not go back: it is closed, and its slot is
/// free at once.
#[must_use]
pub struct PooledConnection<B: Backend> {
    /// `None` only while it is dropped.
    guard: Option<B::Guard>,
    pool: Arc<PoolInner>,
    pinned: Option<PinReason>,
    _operation: Option<RunningOperation>,
}

/// A connection that a session or a cursor keeps behind a load balancer.
pub(super) type Pinned<B> = Option<PooledConnection<B>>;

impl<B: Backend> PooledConnection<B> {
    pub(super) fn new(guard: B::Guard, pool: &Arc<PoolInner>) -> Self {
        pool.counters.in_use.fetch_add(1, Ordering::Relaxed);
        Self {
            guard: Some(guard),
            pool: pool.clone(),
            pinned: None,
            _operation: None,
        }
    }

    /// Counts it among the server's operations as long as it lives.
    #[inline]
    pub(super) fn count(&mut self, operation: RunningOperation, for_writes: bool) {
        self._operation = Some(operation);
        if let Some(pool_handle) = self.deref_mut().pool_handle_mut() {
            pool_handle.for_writes = for_writes;
        }
    }

    /// Nests its commands in the check-out's span, which ends when the connection is returned.
    pub(super) fn within(mut self, span: CheckOutSpan) -> Self {
        if let Some(pool_handle) = self.deref_mut().pool_handle_mut() {
            pool_handle.span = Some(span);
        }
        self
    }

    /// Ends the check-out's span now: an operation has a span of its own.
    pub(super) fn end_span(&mut self) {
        if let Some(pool_handle) = self.deref_mut().pool_handle_mut() {
            pool_handle.span = None;
        }
    }

    /// Marks the connection as pinned, for a reason that is counted in the error of a check-out
    /// that finds no free connection.
    ///
    /// Specification: load balancers.
    pub fn pin(&mut self, reason: PinReason) {
        self.unpin();
        self.pinned = Some(reason);
        self.pool
            .counters
            .pinned(reason)
            .fetch_add(1, Ordering::Relaxed);
    }

    /// Removes the mark of [`pin`](Self::pin).
    pub fn unpin(&mut self) {
        if let Some(reason) = self.pinned.take() {
            self.pool
                .counters
                .pinned(reason)
                .fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Takes the connection out of its pool for good; the pool may make another one in its place.
    /// It counts towards `max_connections_per_server` until it is dropped.
    pub fn detach(mut this: Self) -> Connection {
        // For events and metrics it is no longer in use.
        this.pool.check_in(&this);
        this.deref_mut().detach()
    }
}

adapter_guard!(PooledConnection<B>, guard, B: Backend);

impl<B: Backend> Drop for PooledConnection<B> {
    fn drop(&mut self) {
        self.unpin();
        let Some(mut guard) = self.guard.take() else {
            return;
        };
        if let Some(pool_handle) = guard.pool_handle_mut() {
            pool_handle.for_writes = false;
            pool_handle.span = None;
            self.pool.check_in(&guard);
        }
        self.pool.counters.in_use.fetch_sub(1, Ordering::Relaxed);
        let on_its_way = self.pool.on_its_way(&guard);
        drop(guard);
        self.pool.after_check_in(on_its_way);
    }
}
