//! Server selection.
//!
//! A [`SelectionIndex`] is built once for each
//! [`TopologyDescription`](crate::sdam::TopologyDescription) when it is published. It has, for each
//! mode of a [`ReadPreference`], the servers within the latency window. [`SelectionIndex::select`]
//! chooses from such a window, without waiting, allocating or inspecting the other servers. The
//! code is pure: randomness and the duration of the wait are arguments.
//!
//! Specifications: server selection, max staleness.

mod choice;
mod criterion;
mod description;
mod entry;
mod error;
mod index;
mod obstacle;
mod options;
mod rules;
mod selector;
mod staleness;

pub use crate::read_preference::{ReadPreference, ReadPreferenceError, ReadPreferenceMode, TagSet};
pub use criterion::Criterion;
pub use entry::{RunningOperation, ServerEntry};
pub use error::{NoSuitableServer, Obstacle, SelectionError};
pub use index::SelectionIndex;
pub use options::SelectionOptions;
pub use selector::ServerSelector;

#[cfg(test)]
mod tests;
