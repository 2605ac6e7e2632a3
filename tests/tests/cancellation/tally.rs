//! What a sweep has come across, so that none can be vacuous.

use std::collections::BTreeMap;

/// Where a cancellation left a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// Nothing was sent, or all was answered: it goes on.
    Clean,
    /// A reply was owed: it was read away, and the connection goes on.
    Drained,
    /// It was closed.
    Closed,
    /// The operation had come to its end.
    Completed,
}

#[derive(Debug, Default)]
pub(crate) struct Tally(BTreeMap<Outcome, usize>);

impl Tally {
    pub(crate) fn add(&mut self, outcome: Outcome) {
        *self.0.entry(outcome).or_default() += 1;
    }

    /// The sweep came across these outcomes, and no others.
    pub(crate) fn assert(&self, expected: &[Outcome]) {
        let seen: Vec<_> = self.0.keys().copied().collect();
        assert_eq!(seen, expected, "{:?}", self.0);
    }
}
