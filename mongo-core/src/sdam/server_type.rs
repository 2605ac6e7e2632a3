//! The types of servers and topologies.

use std::fmt;

/// A server's type, from its last hello.
///
/// The specification's `PossiblePrimary` is left out. It differs from `Unknown` only in the order
/// of a single-threaded client's scans, and the topology keeps it for that
/// ([`TopologyDescription::possible_primary`](super::TopologyDescription::possible_primary)).
///
/// Specification: server discovery and monitoring, ServerType.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServerType {
    /// Not checked yet, or the last check failed. This is the default.
    #[default]
    Unknown,
    /// A `mongod` that belongs to no replica set.
    Standalone,
    /// A router of a sharded cluster.
    Mongos,
    /// A replica set's primary.
    RsPrimary,
    /// A replica set's secondary.
    RsSecondary,
    /// A replica set's arbiter, which has no data.
    RsArbiter,
    /// A member that is hidden, starting up or recovering.
    RsOther,
    /// A member without a configuration: not initiated yet, or removed from its replica set.
    RsGhost,
    /// A load balancer, which is never checked.
    LoadBalancer,
}

impl ServerType {
    /// All types, in the order of their declaration.
    pub const ALL: [Self; 9] = [
        Self::Unknown,
        Self::Standalone,
        Self::Mongos,
        Self::RsPrimary,
        Self::RsSecondary,
        Self::RsArbiter,
        Self::RsOther,
        Self::RsGhost,
        Self::LoadBalancer,
    ];

    /// The name in the specification, such as `RSPrimary`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "Unknown",
            Self::Standalone => "Standalone",
            Self::Mongos => "Mongos",
            Self::RsPrimary => "RSPrimary",
            Self::RsSecondary => "RSSecondary",
            Self::RsArbiter => "RSArbiter",
            Self::RsOther => "RSOther",
            Self::RsGhost => "RSGhost",
            Self::LoadBalancer => "LoadBalancer",
        }
    }

    /// Whether a server of this type is data-bearing.
    pub const fn is_data_bearing(self) -> bool {
        match self {
            Self::Standalone
            | Self::Mongos
            | Self::RsPrimary
            | Self::RsSecondary
            | Self::LoadBalancer => true,
            Self::Unknown | Self::RsArbiter | Self::RsOther | Self::RsGhost => false,
        }
    }
}

impl fmt::Display for ServerType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A deployment's type, as far as it is known.
///
/// Specification: server discovery and monitoring, TopologyType.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TopologyType {
    /// Nothing is known yet. This is the default.
    #[default]
    Unknown,
    /// A single server of any type: set by `directConnection=true`, or the only seed is a
    /// standalone.
    Single,
    /// A replica set of which no primary is known.
    ReplicaSetNoPrimary,
    /// A replica set whose primary is known.
    ReplicaSetWithPrimary,
    /// One or more routers of a sharded cluster.
    Sharded,
    /// A load balancer (`loadBalanced=true`).
    LoadBalanced,
}

impl TopologyType {
    /// All types, in the order of their declaration.
    pub const ALL: [Self; 6] = [
        Self::Unknown,
        Self::Single,
        Self::ReplicaSetNoPrimary,
        Self::ReplicaSetWithPrimary,
        Self::Sharded,
        Self::LoadBalanced,
    ];

    /// The name in the specification, such as `ReplicaSetWithPrimary`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "Unknown",
            Self::Single => "Single",
            Self::ReplicaSetNoPrimary => "ReplicaSetNoPrimary",
            Self::ReplicaSetWithPrimary => "ReplicaSetWithPrimary",
            Self::Sharded => "Sharded",
            Self::LoadBalanced => "LoadBalanced",
        }
    }
}

impl fmt::Display for TopologyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
