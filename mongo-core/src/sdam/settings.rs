//! What a topology starts from.

use std::sync::Arc;

use bson::oid::ObjectId;

use super::{ServerDescription, TopologyDescription, TopologyType};
use crate::address::ServerAddress;
use crate::uri::ClientOptions;

/// What a topology starts from and keeps to, from its opening to its closing.
///
/// Specification: server discovery and monitoring, configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopologySettings {
    /// Names the topology in its events: unique, and another one for each opening.
    pub topology_id: ObjectId,
    /// The servers to begin with.
    pub seeds: Vec<ServerAddress>,
    /// The replica set that the servers must belong to (`replicaSet`).
    pub replica_set: Option<Arc<str>>,
    /// Whether to use the one seed, whatever it is (`directConnection`).
    pub direct_connection: bool,
    /// Whether the one seed is a load balancer (`loadBalanced`).
    pub load_balanced: bool,
    /// The most servers that SRV records may bring (`srvMaxHosts`). Zero is no limit.
    pub srv_max_hosts: usize,
}

impl TopologySettings {
    /// Settings for the given seeds, all else by default.
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

    /// What the options say. With `mongodb+srv`, [`seeds`](Self::seeds) are still to be set to what
    /// was looked up.
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

    /// What is known before any server was checked: the seeds, each of them unknown.
    pub fn initial_description(&self) -> TopologyDescription {
        TopologyDescription::new(
            self.initial_type(),
            self.replica_set.clone(),
            self.seeds.iter().cloned().map(ServerDescription::unknown),
        )
    }
}
