//! The reason why no server is suitable.

use std::time::Duration;

use super::rules::{Candidates, is_replica_set};
use super::{
    Criterion, NoSuitableServer, Obstacle, ReadPreferenceMode, SelectionError, SelectionIndex,
};
use crate::sdam::{ServerDescription, ServerType};

impl SelectionIndex {
    /// The error for a selection that found no suitable server in time.
    pub fn no_suitable_server(&self, criterion: &Criterion, after: Duration) -> SelectionError {
        SelectionError::NoSuitableServer(Box::new(NoSuitableServer {
            criterion: criterion.clone(),
            obstacle: obstacle(self, criterion),
            after,
            topology: self.topology().clone(),
        }))
    }
}

fn obstacle(index: &SelectionIndex, criterion: &Criterion) -> Obstacle {
    let topology = index.topology();
    let servers = topology.servers();
    if servers.is_empty() {
        return Obstacle::NoServers;
    }
    let silent = |server: &ServerDescription| server.server_type == ServerType::Unknown;
    if servers.iter().all(|server| silent(server)) {
        return match servers.iter().any(|server| server.error.is_some()) {
            true => Obstacle::Unreachable,
            false => Obstacle::NotChecked,
        };
    }
    if !index.unfiltered(criterion, &[]).is_empty() {
        return Obstacle::Selector;
    }
    if !is_replica_set(topology.topology_type()) {
        return Obstacle::NoData;
    }
    let candidates = Candidates::of(topology.topology_type(), criterion.mode());
    let mut some = servers.iter().filter(|server| {
        let server_type = server.server_type;
        candidates.iter().any(|some| some.include(server_type))
    });
    let (any, fresh) = match index.staleness_limit(criterion) {
        None => (some.next().is_some(), true),
        Some(limit) => (
            some.clone().next().is_some(),
            some.any(|server| limit.admits(server)),
        ),
    };
    match (any, fresh, criterion.mode()) {
        (true, false, _) => Obstacle::TooStale,
        (true, true, _) => Obstacle::Tags,
        (false, _, ReadPreferenceMode::Primary) => Obstacle::NoPrimary,
        (false, _, ReadPreferenceMode::Secondary) => Obstacle::NoSecondary,
        (
            false,
            _,
            ReadPreferenceMode::PrimaryPreferred
            | ReadPreferenceMode::SecondaryPreferred
            | ReadPreferenceMode::Nearest,
        ) => Obstacle::NoData,
    }
}
