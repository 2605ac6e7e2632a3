//! The outcomes of a sweep, to prove that it is not vacuous.

use std::collections::BTreeMap;

/// The state of a connection after a cancellation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// Nothing was sent, or everything was answered. It stays usable.
    Clean,
    /// An owed reply was drained. It stays usable.
    Drained,
    /// It was closed.
    Closed,
    /// The operation had completed.
    Completed,
}

#[derive(Debug, Default)]
pub(crate) struct Tally(BTreeMap<Outcome, usize>);

impl Tally {
    pub(crate) fn add(&mut self, outcome: Outcome) {
        *self.0.entry(outcome).or_default() += 1;
    }

    /// Checks that the sweep had these outcomes, and no others.
    pub(crate) fn assert(&self, expected: &[Outcome]) {
        let seen: Vec<_> = self.0.keys().copied().collect();
        assert_eq!(seen, expected, "{:?}", self.0);
    }
}
