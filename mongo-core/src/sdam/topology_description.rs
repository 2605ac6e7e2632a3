//! What is known of a deployment.

use std::sync::Arc;

use super::{CompatibilityError, ElectionTuple, ServerDescription, ServerType, TopologyType};
use crate::address::ServerAddress;
use crate::handshake::{MAX_WIRE_VERSION, MIN_WIRE_VERSION};

/// What is known of a deployment: an immutable snapshot, which the next one replaces.
///
/// Two descriptions are equal if their types, set names, elections and servers are equal; see
/// [`ServerDescription`] for how servers compare.
///
/// Specification: server discovery and monitoring, TopologyDescription.
#[derive(Clone, Debug, Default)]
pub struct TopologyDescription {
    pub(super) topology_type: TopologyType,
    pub(super) set_name: Option<Arc<str>>,
    pub(super) max_election: ElectionTuple,
    /// Sorted by address, each once.
    pub(super) servers: Vec<Arc<ServerDescription>>,
    pub(super) compatibility_error: Option<CompatibilityError>,
    pub(super) logical_session_timeout_minutes: Option<u32>,
    /// The server that a member of the replica set last named as primary, until that server was
    /// checked.
    pub(super) possible_primary: Option<ServerAddress>,
}

impl TopologyDescription {
    /// A topology of this type with the given servers. Of several descriptions of one address the
    /// first counts.
    pub fn new(
        topology_type: TopologyType,
        set_name: Option<Arc<str>>,
        servers: impl IntoIterator<Item = ServerDescription>,
    ) -> Self {
        let mut servers: Vec<_> = servers.into_iter().map(Arc::new).collect();
        servers.sort_by(|a, b| a.address.cmp(&b.address));
        servers.dedup_by(|b, a| a.address == b.address);
        let mut topology = Self {
            topology_type,
            set_name,
            servers,
            ..Self::default()
        };
        topology.summarize();
        topology
    }

    /// The deployment's type.
    pub fn topology_type(&self) -> TopologyType {
        self.topology_type
    }

    /// The replica set's name: the one in the settings, else the one that its first member
    /// reported.
    pub fn set_name(&self) -> Option<&Arc<str>> {
        self.set_name.as_ref()
    }

    /// The greatest `electionId` and `setVersion` that any primary reported.
    pub fn max_election(&self) -> ElectionTuple {
        self.max_election
    }

    /// The servers, sorted by address, each once.
    pub fn servers(&self) -> &[Arc<ServerDescription>] {
        &self.servers
    }

    /// The server of an address.
    pub fn server(&self, address: &ServerAddress) -> Option<&Arc<ServerDescription>> {
        self.position(address)
            .ok()
            .map(|index| &self.servers[index])
    }

    /// The replica set's primary.
    pub fn primary(&self) -> Option<&Arc<ServerDescription>> {
        self.servers
            .iter()
            .find(|server| server.server_type == ServerType::RsPrimary)
    }

    /// The server that a member of the replica set named as primary while none was known, and that
    /// was not checked since. It is checked first. The specification's `PossiblePrimary`.
    pub fn possible_primary(&self) -> Option<&Arc<ServerDescription>> {
        self.server(self.possible_primary.as_ref()?)
            .filter(|server| server.server_type == ServerType::Unknown)
    }

    /// Why no operation can run, if a server's wire versions don't overlap with this crate's.
    pub fn compatibility_error(&self) -> Option<&CompatibilityError> {
        self.compatibility_error.as_ref()
    }

    /// The lowest session timeout of all data-bearing servers, in minutes; `None` if one of them
    /// has no sessions.
    pub fn logical_session_timeout_minutes(&self) -> Option<u32> {
        self.logical_session_timeout_minutes
    }

    /// The index of an address in the servers, or the index to insert it at.
    pub(super) fn position(&self, address: &ServerAddress) -> Result<usize, usize> {
        self.servers
            .binary_search_by(|server| server.address.cmp(address))
    }

    /// Computes the fields that depend on all servers.
    pub(super) fn summarize(&mut self) {
        self.compatibility_error = self.servers.iter().find_map(|server| incompatible(server));
        // `None` is less than any number: the result is `None` if any server has it.
        self.logical_session_timeout_minutes = self
            .servers
            .iter()
            .filter(|server| server.server_type.is_data_bearing())
            .map(|server| server.logical_session_timeout_minutes)
            .min()
            .flatten();
    }
}

impl PartialEq for TopologyDescription {
    fn eq(&self, other: &Self) -> bool {
        self.topology_type == other.topology_type
            && self.set_name == other.set_name
            && self.max_election == other.max_election
            && self.servers == other.servers
    }
}

impl Eq for TopologyDescription {}

fn incompatible(server: &ServerDescription) -> Option<CompatibilityError> {
    match server.server_type {
        // Neither was checked.
        ServerType::Unknown | ServerType::LoadBalancer => None,
        _ if server.min_wire_version > MAX_WIRE_VERSION => Some(CompatibilityError::TooNew {
            server: server.address.clone(),
            required: server.min_wire_version,
        }),
        _ if server.max_wire_version < MIN_WIRE_VERSION => Some(CompatibilityError::TooOld {
            server: server.address.clone(),
            reported: server.max_wire_version,
        }),
        _ => None,
    }
}
