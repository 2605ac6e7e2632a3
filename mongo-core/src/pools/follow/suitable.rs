//! Whether the servers of connections in use are still suitable.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::ServerAddress;
use crate::net::Removal;
use crate::sdam::{ApplicationError, SdamError, ServerType, TopologyType};
use crate::select::{SelectionIndex, ServerEntry};
use crate::sync::lock;

/// Whether each server is suitable now, for its connections. These outlive its pools: a server that
/// is found again after its topology was disconnected counts as the same server.
#[derive(Default)]
pub(crate) struct Suitable(Mutex<BTreeMap<ServerAddress, Arc<AtomicBool>>>);

impl Suitable {
    /// The flag that says whether a server is suitable. It is true until [`note`](Self::note)
    /// changes it.
    pub(crate) fn of(&self, server: &ServerAddress) -> Arc<AtomicBool> {
        let mut servers = self.lock();
        let suits = servers.entry(server.clone());
        suits
            .or_insert_with(|| Arc::new(AtomicBool::new(true)))
            .clone()
    }

    /// Whether a server to which there are connections is suitable now.
    pub(crate) fn is_suitable(&self, server: &ServerAddress) -> bool {
        let servers = self.lock();
        servers
            .get(server)
            .is_some_and(|suits| suits.load(Ordering::Acquire))
    }

    /// Updates which servers are suitable. There is one writer: the publisher of the topology.
    ///
    /// A server that could not be reached stays suitable if it was: checked-out connections may
    /// still work, and a transaction must not fail because another connection did.
    pub(crate) fn note(&self, index: &SelectionIndex, suitable: &[&Arc<ServerEntry>]) {
        let mut servers = self.lock();
        // Without a connection, the next pool gets a new flag.
        servers.retain(|_, suits| Arc::strong_count(suits) > 1);
        for (address, suits) in &*servers {
            let is_suitable = suitable.iter().any(|entry| entry.address() == address);
            let keeps =
                is_suitable || suits.load(Ordering::Acquire) && is_out_of_reach(index, address);
            suits.store(keeps, Ordering::Release);
        }
    }

    /// A server is no longer part of the topology. If it left and comes back, it counts as another
    /// server for existing connections.
    pub(crate) fn removed(&self, server: &ServerAddress, removal: Removal) {
        match removal {
            Removal::Left => {
                if let Some(suits) = self.lock().remove(server) {
                    suits.store(false, Ordering::Release);
                }
            }
            // As far as is known, it has not changed.
            Removal::Unlisted | Removal::Disconnected => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ServerAddress, Arc<AtomicBool>>> {
        lock(&self.0)
    }
}

/// Whether a server is unknown and nothing contradicts its last known state: it did not report a
/// change itself, and no other server took its place.
fn is_out_of_reach(index: &SelectionIndex, address: &ServerAddress) -> bool {
    let topology_type = index.topology().topology_type();
    let Some(entry) = index.server(address) else {
        // The topology was disconnected and has not found it again, or its SRV records no longer
        // list it. A server that left in another way has no entry here.
        return topology_type != TopologyType::ReplicaSetWithPrimary;
    };
    let description = entry.description();
    let has_changed = match &description.error {
        None => false,
        Some(SdamError::Failed(error)) => ApplicationError::is_state_change(error),
        Some(_) => true,
    };
    description.server_type == ServerType::Unknown
        && !has_changed
        && topology_type != TopologyType::ReplicaSetWithPrimary
}
