//! Selection from a description alone.

use std::sync::Arc;

use super::{Criterion, ReadPreference, SelectionIndex, SelectionOptions};
use crate::sdam::TopologyDescription;

impl TopologyDescription {
    /// Whether a server is suitable for a read, leaving round trip times aside. False for an
    /// invalid read preference, and for a maximum staleness under its minimum.
    ///
    /// The staleness is estimated with the default of `heartbeatFrequencyMS`, 10 s. Meant for
    /// events; to select servers, use [`SelectionIndex`].
    ///
    /// Specification: server discovery and monitoring, logging and monitoring.
    pub fn has_readable_server(&self, read_preference: &ReadPreference) -> bool {
        Criterion::read(read_preference.clone()).is_ok_and(|criterion| self.suits(&criterion))
    }

    /// Whether a server is suitable for a write. See
    /// [`has_readable_server`](Self::has_readable_server).
    pub fn has_writable_server(&self) -> bool {
        self.suits(&Criterion::write())
    }

    fn suits(&self, criterion: &Criterion) -> bool {
        let index = SelectionIndex::new(Arc::new(self.clone()), SelectionOptions::default());
        index
            .suitable(criterion, &[])
            .is_ok_and(|servers| !servers.is_empty())
    }
}
