//! Whether connections in somebody's hands are still to servers that suit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::ServerAddress;
use crate::sdam::{ApplicationError, SdamError, ServerType, TopologyType};
use crate::select::{SelectionIndex, ServerEntry};

/// Notes for each server whether it is suitable now, for those who hold a connection to it.
///
/// One that is unknown because it could not be reached keeps what it was: what is in somebody's
/// hands may be as good as ever, and a transaction is not to fail because another connection did.
pub(super) fn note_suitable<'a>(
    index: &SelectionIndex,
    suitable: &[&Arc<ServerEntry>],
    servers: impl IntoIterator<Item = (&'a ServerAddress, &'a AtomicBool)>,
) {
    for (address, suits) in servers {
        let is_suitable = suitable.iter().any(|entry| entry.address() == address);
        let is_out_of_reach = || {
            index
                .server(address)
                .is_some_and(|entry| is_out_of_reach(entry, index.topology().topology_type()))
        };
        // There is one writer: whoever publishes.
        let keeps = is_suitable || suits.load(Ordering::Acquire) && is_out_of_reach();
        suits.store(keeps, Ordering::Release);
    }
}

/// Whether nothing is known of a server, and nothing speaks against what it was before: it did not
/// say itself that it changed, and no other one took its place.
fn is_out_of_reach(entry: &ServerEntry, topology_type: TopologyType) -> bool {
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
