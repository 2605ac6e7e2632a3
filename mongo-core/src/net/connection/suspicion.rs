//! Which idle connections of a pool may be dead although their sockets look sound.

use std::sync::atomic::{AtomicU64, Ordering};

/// After a command has timed out on a connection of a pool, those that were idle since before that
/// command began have to prove that their server answers: a firewall that has forgotten one
/// connection may have forgotten all.
///
/// Time is counted in check-ins of the pool, which costs no look at the clock.
#[derive(Debug, Default)]
pub(crate) struct Suspicion {
    check_ins: AtomicU64,
    /// Connections whose check-in has a lower number are suspect.
    before: AtomicU64,
}

impl Suspicion {
    /// Counts a check-in, and gives its number: from 1.
    #[inline]
    pub(crate) fn count_check_in(&self) -> u64 {
        self.check_ins.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The number of the last check-in.
    #[inline]
    pub(crate) fn last_check_in(&self) -> u64 {
        self.check_ins.load(Ordering::Relaxed)
    }

    /// A command timed out that began after the check-in of a number.
    pub(crate) fn raise(&self, last_check_in: u64) {
        self.before.fetch_max(last_check_in + 1, Ordering::Relaxed);
    }

    /// Whether a connection is suspect that is idle since the check-in of a number.
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
        // Made in advance, and never checked in.
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
        // One that began earlier takes nothing back.
        suspicion.raise(unused);
        let suspects = [unused, first, second, third].map(|own| suspicion.covers(own));
        assert_eq!(suspects, [true, true, true, false]);
    }
}
