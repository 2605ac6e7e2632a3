//! The counters of a pool.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::event::ConnectionClosedReason;

/// The upper bounds of the buckets of [`WaitTimes`].
pub const WAIT_TIME_BOUNDS: [Duration; 8] = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// A histogram of the duration of check-outs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WaitTimes {
    /// Check-outs that found a connection at once.
    pub at_once: u64,
    /// Check-outs that took no longer than the [`WAIT_TIME_BOUNDS`] of the same index, and longer
    /// than the one before; the last bucket is for longer ones. Failed check-outs are included.
    pub buckets: [u64; WAIT_TIME_BOUNDS.len() + 1],
}

/// The number of closed connections, by the specification's reasons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClosedConnections {
    /// The pool was cleared.
    pub stale: u64,
    /// They were idle or alive for too long, or made room for another credential's connection.
    pub idle: u64,
    /// They failed, were left in the middle of a request, or could not be made.
    pub error: u64,
    /// The pool was closed, or discarded them.
    pub pool_closed: u64,
}

/// Why a connection is kept from other users for more than one operation.
///
/// Specification: load balancers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PinReason {
    /// A cursor uses it.
    Cursor,
    /// A transaction uses it.
    Transaction,
}

/// The fields that each check-out writes come first: they share one cache line, and not with
/// read-only data.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Counters {
    /// The connections in use, including those that are being checked for a caller.
    pub(in crate::pools) in_use: AtomicUsize,
    /// The waiting callers.
    waiting: AtomicUsize,
    at_once: AtomicU64,
    buckets: [AtomicU64; WAIT_TIME_BOUNDS.len() + 1],
    pub(crate) created: AtomicU64,
    stale: AtomicU64,
    idle: AtomicU64,
    error: AtomicU64,
    pool_closed: AtomicU64,
    cursors: AtomicUsize,
    transactions: AtomicUsize,
}

/// Counts a waiting caller as long as it lives.
pub(in crate::pools) struct Waiting<'a> {
    counters: &'a Counters,
    begun: Instant,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.counters.waiting.fetch_sub(1, Ordering::Relaxed);
        self.counters.count_wait(self.begun.elapsed());
    }
}

/// Counts a connection as in use as long as it lives.
pub(crate) struct Taken<'a>(&'a Counters);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Counters {
    pub(crate) fn take(&self) -> Taken<'_> {
        self.in_use.fetch_add(1, Ordering::Relaxed);
        Taken(self)
    }

    pub(crate) fn created(&self) -> u64 {
        self.created.load(Ordering::Relaxed)
    }

    pub(crate) fn count_closed(&self, reason: ConnectionClosedReason) {
        let count = match reason {
            ConnectionClosedReason::Stale => &self.stale,
            ConnectionClosedReason::Idle => &self.idle,
            ConnectionClosedReason::Error => &self.error,
            ConnectionClosedReason::PoolClosed => &self.pool_closed,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn closed(&self) -> ClosedConnections {
        ClosedConnections {
            stale: self.stale.load(Ordering::Relaxed),
            idle: self.idle.load(Ordering::Relaxed),
            error: self.error.load(Ordering::Relaxed),
            pool_closed: self.pool_closed.load(Ordering::Relaxed),
        }
    }

    #[inline]
    pub(crate) fn count_at_once(&self) {
        self.at_once.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a wait and its duration, however it ends.
    pub(in crate::pools) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting {
            counters: self,
            begun: Instant::now(),
        }
    }

    pub(in crate::pools) fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed)
    }

    pub(in crate::pools) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn count_wait(&self, time: Duration) {
        let place = WAIT_TIME_BOUNDS.partition_point(|bound| *bound < time);
        self.buckets[place].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn wait_times(&self) -> WaitTimes {
        WaitTimes {
            at_once: self.at_once.load(Ordering::Relaxed),
            buckets: std::array::from_fn(|place| self.buckets[place].load(Ordering::Relaxed)),
        }
    }

    pub(crate) fn pinned(&self, reason: PinReason) -> &AtomicUsize {
        match reason {
            PinReason::Cursor => &self.cursors,
            PinReason::Transaction => &self.transactions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wait_is_in_its_bucket() {
        let counters = Counters::default();
        for millis in [0, 1, 2, 100, 101, 5_000, 5_001, 60_000] {
            counters.count_wait(Duration::from_millis(millis));
        }
        counters.count_at_once();
        let times = counters.wait_times();
        assert_eq!(times.buckets, [2, 1, 0, 0, 1, 1, 0, 1, 2]);
        assert_eq!(times.at_once, 1);
    }
}
