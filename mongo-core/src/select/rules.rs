//! The specification's tables: the suitable types of servers, in order.

use super::staleness::StalenessLimit;
use super::{ReadPreferenceMode, TagSet};
use crate::address::ServerAddress;
use crate::sdam::{ServerDescription, ServerType, TopologyType};

/// A group of eligible servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Candidates {
    /// Any server that is not unknown.
    Available,
    /// The routers of a sharded cluster.
    Routers,
    /// The load balancer.
    LoadBalancer,
    /// The primary.
    Primary,
    /// The secondaries.
    Secondaries,
    /// The primary and the secondaries.
    Members,
}

impl Candidates {
    /// The eligible groups, in the order in which they are tried. A write counts as a read with the
    /// mode primary.
    pub(super) fn of(topology: TopologyType, mode: ReadPreferenceMode) -> &'static [Self] {
        match topology {
            TopologyType::Unknown => &[],
            TopologyType::Single => &[Self::Available],
            TopologyType::Sharded => &[Self::Routers],
            TopologyType::LoadBalanced => &[Self::LoadBalancer],
            TopologyType::ReplicaSetNoPrimary | TopologyType::ReplicaSetWithPrimary => match mode {
                ReadPreferenceMode::Primary => &[Self::Primary],
                ReadPreferenceMode::PrimaryPreferred => &[Self::Primary, Self::Secondaries],
                ReadPreferenceMode::Secondary => &[Self::Secondaries],
                ReadPreferenceMode::SecondaryPreferred => &[Self::Secondaries, Self::Primary],
                ReadPreferenceMode::Nearest => &[Self::Members],
            },
        }
    }

    /// Whether the group includes servers of this type.
    pub(super) fn include(self, server: ServerType) -> bool {
        match server {
            ServerType::Unknown => false,
            ServerType::RsPrimary => {
                matches!(self, Self::Available | Self::Primary | Self::Members)
            }
            ServerType::RsSecondary => {
                matches!(self, Self::Available | Self::Secondaries | Self::Members)
            }
            ServerType::Mongos => matches!(self, Self::Available | Self::Routers),
            ServerType::LoadBalancer => matches!(self, Self::Available | Self::LoadBalancer),
            ServerType::Standalone
            | ServerType::RsArbiter
            | ServerType::RsOther
            | ServerType::RsGhost => self == Self::Available,
        }
    }

    /// Whether tag sets and the maximum staleness apply to the group.
    pub(super) fn are_restricted(self) -> bool {
        match self {
            Self::Secondaries | Self::Members => true,
            Self::Available | Self::Routers | Self::LoadBalancer | Self::Primary => false,
        }
    }
}

/// Whether read preferences apply to the servers of such a topology.
pub(super) fn is_replica_set(topology: TopologyType) -> bool {
    match topology {
        TopologyType::ReplicaSetNoPrimary | TopologyType::ReplicaSetWithPrimary => true,
        TopologyType::Unknown
        | TopologyType::Single
        | TopologyType::Sharded
        | TopologyType::LoadBalanced => false,
    }
}

/// One attempt to find suitable servers. If it admits none, the next one is tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass<'a> {
    pub(super) candidates: Candidates,
    /// The required tags; `None` matches any.
    pub(super) tags: Option<&'a TagSet>,
    /// `None` admits any staleness.
    pub(super) staleness: Option<StalenessLimit>,
    /// The excluded servers.
    pub(super) deprioritized: &'a [ServerAddress],
}

impl Pass<'_> {
    /// Whether a server is suitable.
    pub(super) fn admits(&self, server: &ServerDescription) -> bool {
        self.candidates.include(server.server_type)
            && self.staleness.is_none_or(|limit| limit.admits(server))
            && self.tags.is_none_or(|tags| matches(tags, &server.tags))
            && !self.deprioritized.contains(&server.address)
    }
}

/// Whether a server has all wanted tags.
fn matches(wanted: &TagSet, server: &TagSet) -> bool {
    wanted
        .iter()
        .all(|(name, value)| server.get(name) == Some(value))
}
