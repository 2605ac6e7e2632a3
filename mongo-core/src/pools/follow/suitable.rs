//! Whether connections in somebody's hands are still to servers that suit.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ServerAddress;
use crate::net::Removal;
use crate::sdam::{ApplicationError, SdamError, ServerType, TopologyType};
use crate::select::{SelectionIndex, ServerEntry};

/// Whether each server is suitable now, for the connections to it. Those outlive its pools: a server
/// that is back after its topology was disconnected is the one that it was before.
#[derive(Default)]
pub(crate) struct Suitable(Mutex<BTreeMap<ServerAddress, Arc<AtomicBool>>>);

impl Suitable {
    /// What says whether a server is suitable: until something else is [noted](Self::note), it is.
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

    /// Notes which servers are suitable. There is one writer: whoever publishes.
    ///
    /// A server that could not be reached stays suitable if it was: connections that are checked out
    /// may work, and a transaction must not fail because another connection did.
    pub(crate) fn note(&self, index: &SelectionIndex, suitable: &[&Arc<ServerEntry>]) {
        let mut servers = self.lock();
        // Without a connection, the next pool begins anew.
        servers.retain(|_, suits| Arc::strong_count(suits) > 1);
        for (address, suits) in &*servers {
            let is_suitable = suitable.iter().any(|entry| entry.address() == address);
            let keeps =
                is_suitable || suits.load(Ordering::Acquire) && is_out_of_reach(index, address);
            suits.store(keeps, Ordering::Release);
        }
    }

    /// A server is no longer part of the topology. Should it come back after it has left, that is
    /// another one to those who hold a connection to it.
    pub(crate) fn removed(&self, server: &ServerAddress, removal: Removal) {
        match removal {
            Removal::Left => {
                if let Some(suits) = self.lock().remove(server) {
                    suits.store(false, Ordering::Release);
                }
            }
            // It is what it was, as far as is known.
            Removal::Unlisted | Removal::Disconnected => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ServerAddress, Arc<AtomicBool>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nothing is known of a server, and nothing speaks against what it was before: it did not
/// say itself that it changed, and no other one took its place.
fn is_out_of_reach(index: &SelectionIndex, address: &ServerAddress) -> bool {
    let topology_type = index.topology().topology_type();
    let Some(entry) = index.server(address) else {
        // The topology was disconnected, has not found it again, or its SRV records name the server
        // no more. One that left in another way has left its entry here, too.
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
