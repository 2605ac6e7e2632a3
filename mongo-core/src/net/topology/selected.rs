use std::sync::Arc;

use crate::ServerAddress;
use crate::select::{RunningOperation, SelectionIndex, ServerEntry};

/// A selected server, with the operation that it was selected for. The server's operation count
/// includes that operation until this is dropped.
#[derive(Debug)]
pub struct SelectedServer {
    entry: Arc<ServerEntry>,
    operation: RunningOperation,
    /// The revision of the snapshot in which it was selected.
    pub(super) revision: u64,
}

impl SelectedServer {
    /// A server that was selected in a snapshot, for an operation that has begun.
    pub(crate) fn of(
        index: &SelectionIndex,
        entry: &Arc<ServerEntry>,
        operation: RunningOperation,
    ) -> Self {
        Self {
            entry: entry.clone(),
            operation,
            revision: index.revision(),
        }
    }

    /// The server's address.
    pub fn address(&self) -> &ServerAddress {
        self.entry.address()
    }

    pub(crate) fn into_operation(self) -> RunningOperation {
        self.operation
    }

    /// The server, as it was when selected.
    pub fn entry(&self) -> &Arc<ServerEntry> {
        &self.entry
    }
}
