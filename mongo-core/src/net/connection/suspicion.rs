//! Tracks which idle connections of a pool may be dead although their sockets look healthy.

use std::sync::atomic::{AtomicU64, Ordering};

/// After a command has timed out on one connection of a pool, all connections that were idle since
/// before that command began must be verified: a firewall that has dropped one connection may have
/// dropped all.
///
/// Time is counted in check-ins of the pool, so that the clock is not read.
#[derive(Debug, Default)]
pub(crate) struct Suspicion {
    check_ins: AtomicU64,
    /// Connections whose check-in has a lower number are suspect.
    before: AtomicU64,
}

impl Suspicion {
    /// Counts a check-in and returns its number, starting at 1.
    #[inline]
    pub(crate) fn count_check_in(&self) -> u64 {
        self.check_ins.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The number of the last check-in.
    #[inline]
    pub(crate) fn last_check_in(&self) -> u64 {
        self.check_ins.load(Ordering::Relaxed)
    }

    /// A command timed out that began after the check-in with the given number.
    pub(crate) fn raise(&self, last_check_in: u64) {
        self.before.fetch_max(last_check_in + 1, Ordering::Relaxed);
    }

    /// Whether a connection is suspect that has been idle since the check-in with the given number.
    #[inline]
    pub(crate) fn covers(&self, check_in: u64) -> bool {
        check_in < self.before.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_used_since_the_command_began_are_not_suspect() {
        let suspicion = Suspicion::default();
        // Warmed up, and never checked in.
        let unused = suspicion.last_check_in();
        let [first, second] = [(); 2].map(|()| suspicion.count_check_in());
        assert!(
            ![unused, first, second]
                .map(|own| suspicion.covers(own))
                .contains(&true)
        );
        let begun = suspicion.last_check_in();
        let third = suspicion.count_check_in();
        suspicion.raise(begun);
        // A command that began earlier does not lower the mark.
        suspicion.raise(unused);
        let suspects = [unused, first, second, third].map(|own| suspicion.covers(own));
        assert_eq!(suspects, [true, true, true, false]);
    }
}
