//! Which servers an operation may use.
//!
//! A [`SelectionIndex`] is made of each [`TopologyDescription`](crate::sdam::TopologyDescription)
//! once, when it is published: it holds for each mode of a [`ReadPreference`] the servers within the
//! latency window. [`SelectionIndex::select`] then draws from such a window, without waiting,
//! allocating or looking at the other servers. All is pure: randomness and the time that was waited
//! are arguments.
//!
//! Specifications: server selection, max staleness.

mod choice;
mod criterion;
mod entry;
mod error;
mod index;
mod options;
mod read_preference;
mod rules;
mod staleness;

pub use criterion::{Criterion, ServerSelector};
pub use entry::{RunningOperation, ServerEntry};
pub use error::{NoSuitableServer, Obstacle, SelectionError};
pub use index::SelectionIndex;
pub use options::SelectionOptions;
pub use read_preference::{ReadPreference, ReadPreferenceError, ReadPreferenceMode, TagSet};

#[cfg(test)]
mod tests;
