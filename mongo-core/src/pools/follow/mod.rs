//! Sets of servers that follow a topology.

use std::time::Duration;

use tokio::time::Instant;

use crate::net::{Deadline, sleep_until};
use crate::sdam::TopologyType;
use crate::select::ServerEntry;

mod floating;
mod servers;
mod suitable;

pub(super) use floating::Floating;
pub(super) use servers::{Follower, Servers};
pub(super) use suitable::Suitable;

/// The pause after the second fruitless round of a check-out; it doubles after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// Pauses after repeated fruitless rounds, so that a check-out does not keep the processor busy.
pub(super) async fn pause(rounds: u32, deadline: Deadline) {
    if let Some(doublings) = rounds.checked_sub(2) {
        let pause = FIRST_PAUSE.saturating_mul(1 << doublings.min(6));
        let _ = deadline.bound(sleep_until(Instant::now() + pause)).await;
    }
}

/// Whether a server takes operations, by its description.
pub(super) fn takes_operations(entry: &ServerEntry, topology_type: TopologyType) -> bool {
    let server_type = entry.description().server_type;
    match topology_type {
        TopologyType::Single => server_type != crate::sdam::ServerType::Unknown,
        TopologyType::LoadBalanced => true,
        TopologyType::Unknown
        | TopologyType::Sharded
        | TopologyType::ReplicaSetNoPrimary
        | TopologyType::ReplicaSetWithPrimary => server_type.is_data_bearing(),
    }
}
