//! The state of the lookup of `mongodb+srv`, as the topology keeps it.

use std::sync::Arc;

use super::clock::Signal;
use crate::error::Error;
use crate::net::transport::dns::Lookup;

/// The topology's handle to the task.
pub(super) struct Srv {
    pub(super) number: u64,
    pub(super) stop: Signal,
    /// Whether it ended without being stopped.
    pub(super) is_dead: bool,
}

/// The progress of the first lookup of an opening.
#[derive(Default)]
pub(super) struct FirstLookup {
    pub(super) request: Signal,
    pub(super) lookup: Arc<Lookup>,
    /// Attempts that failed.
    pub(super) failures: u64,
    /// The last failure.
    pub(super) failure: Option<Error>,
}

impl FirstLookup {
    /// The state for a task that continues it.
    pub(super) fn again(&self) -> Self {
        Self {
            request: self.request.clone(),
            lookup: self.lookup.clone(),
            ..Self::default()
        }
    }
}
