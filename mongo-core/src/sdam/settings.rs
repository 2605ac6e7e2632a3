//! The settings of a topology.

use std::sync::Arc;

use bson::oid::ObjectId;

use super::{ServerDescription, TopologyDescription, TopologyType};
use crate::address::ServerAddress;
use crate::uri::ClientOptions;

/// The settings of a topology, fixed from its opening to its closing.
///
/// Specification: server discovery and monitoring, configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopologySettings {
    /// Identifies the topology in its events. Unique: each opening has its own.
    pub topology_id: ObjectId,
    /// The initial servers.
    pub seeds: Vec<ServerAddress>,
    /// The name of the replica set that the servers must belong to (`replicaSet`).
    pub replica_set: Option<Arc<str>>,
    /// Whether to use only the one seed, whatever its type (`directConnection`).
    pub direct_connection: bool,
    /// Whether the one seed is a load balancer (`loadBalanced`).
    pub load_balanced: bool,
    /// The maximum number of servers from SRV records (`srvMaxHosts`). Zero is no limit.
    pub srv_max_hosts: usize,
}

impl TopologySettings {
    /// Settings for the given seeds, with defaults for all else.
    pub fn new(topology_id: ObjectId, seeds: impl IntoIterator<Item = ServerAddress>) -> Self {
        Self {
            topology_id,
            seeds: seeds.into_iter().collect(),
            replica_set: None,
            direct_connection: false,
            load_balanced: false,
            srv_max_hosts: 0,
        }
    }

    /// Settings from the options. With `mongodb+srv`, set [`seeds`](Self::seeds) to the hosts that
    /// were looked up.
    pub fn from_options(topology_id: ObjectId, options: &ClientOptions) -> Self {
        Self {
            replica_set: options.replica_set.as_deref().map(Arc::from),
            direct_connection: options.direct_connection.unwrap_or_default(),
            load_balanced: options.load_balanced.unwrap_or_default(),
            srv_max_hosts: options.srv.as_ref().map_or(0, |srv| srv.max_hosts as usize),
            ..Self::new(topology_id, options.hosts.iter().cloned())
        }
    }

    /// The type that the topology has before any server was checked.
    pub fn initial_type(&self) -> TopologyType {
        match (
            self.load_balanced,
            self.direct_connection,
            &self.replica_set,
        ) {
            (true, _, _) => TopologyType::LoadBalanced,
            (false, true, _) => TopologyType::Single,
            (false, false, Some(_)) => TopologyType::ReplicaSetNoPrimary,
            (false, false, None) => TopologyType::Unknown,
        }
    }

    /// The description before any server was checked: the seeds, each of them unknown.
    pub fn initial_description(&self) -> TopologyDescription {
        TopologyDescription::new(
            self.initial_type(),
            self.replica_set.clone(),
            self.seeds.iter().cloned().map(ServerDescription::unknown),
        )
    }
}
