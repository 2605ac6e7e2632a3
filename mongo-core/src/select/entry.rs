//! One server for selection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::address::ServerAddress;
use crate::sdam::ServerDescription;

/// A server of one view of the topology, with the number of operations that it runs now
/// (`operationCount`). All views that have the server share that number.
#[derive(Debug)]
pub struct ServerEntry {
    id: u64,
    description: Arc<ServerDescription>,
    operations: Arc<AtomicUsize>,
}

/// The id of the next server, over all topologies.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl ServerEntry {
    /// A server without operations.
    pub(super) fn new(description: Arc<ServerDescription>) -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            description,
            operations: Arc::default(),
        }
    }

    /// The same server with a new description.
    pub(super) fn described(&self, description: Arc<ServerDescription>) -> Self {
        Self {
            id: self.id,
            description,
            operations: self.operations.clone(),
        }
    }

    /// The server's id: the same in all views while the server is in its topology, and never
    /// reused.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The server's address.
    pub fn address(&self) -> &ServerAddress {
        &self.description.address
    }

    /// The server's description.
    pub fn description(&self) -> &Arc<ServerDescription> {
        &self.description
    }

    /// The number of operations that the server runs now.
    pub fn operation_count(&self) -> usize {
        self.operations.load(Ordering::Relaxed)
    }

    /// Adds one to the operation count until the result is dropped. Call it when the server is
    /// selected. Neither the call nor the drop wakes selections that wait for a server.
    pub fn begin_operation(&self) -> RunningOperation {
        self.operations.fetch_add(1, Ordering::Relaxed);
        RunningOperation(self.operations.clone())
    }
}

/// An operation that is in its server's operation count until this is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the operation"]
pub struct RunningOperation(Arc<AtomicUsize>);

impl Drop for RunningOperation {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
