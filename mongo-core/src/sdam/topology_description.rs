//! What is known of a deployment.

use std::sync::Arc;

use super::{CompatibilityError, ElectionTuple, ServerDescription, ServerType, TopologyType};
use crate::address::ServerAddress;
use crate::handshake::{MAX_WIRE_VERSION, MIN_WIRE_VERSION};
use crate::select::{Criterion, ReadPreference, SelectionIndex, SelectionOptions};

/// What is known of a deployment: an immutable snapshot, which the next one replaces.
///
/// Equal are two with the same type, set name, election, and equal servers as
/// [`ServerDescription`] compares them.
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
    /// Who a member of the replica set last said is primary, until that one was checked.
    pub(super) possible_primary: Option<ServerAddress>,
}

impl TopologyDescription {
    /// A topology of a type with the given servers. Of several descriptions of one address the
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

    /// What the deployment is.
    pub fn topology_type(&self) -> TopologyType {
        self.topology_type
    }

    /// The replica set's name: as asked for, else as its first member told.
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

    /// The server that a member of the replica set took for its primary when none was known, and
    /// that was not checked since: the one to check first. The specification's `PossiblePrimary`.
    pub fn possible_primary(&self) -> Option<&Arc<ServerDescription>> {
        self.server(self.possible_primary.as_ref()?)
            .filter(|server| server.server_type == ServerType::Unknown)
    }

    /// Why no operation can run, if a server's wire versions don't overlap with this crate's.
    pub fn compatibility_error(&self) -> Option<&CompatibilityError> {
        self.compatibility_error.as_ref()
    }

    /// How long a session lives on any server with data, in minutes; `None` if one has no sessions.
    pub fn logical_session_timeout_minutes(&self) -> Option<u32> {
        self.logical_session_timeout_minutes
    }

    /// Whether there is a server for a read, round trip times aside. An invalid read preference, and
    /// a maximum staleness under its minimum, suit none.
    ///
    /// The staleness is estimated with the default of `heartbeatFrequencyMS`, 10 s. Meant for
    /// events: to select servers there is [`SelectionIndex`].
    ///
    /// Specification: server discovery and monitoring, logging and monitoring.
    pub fn has_readable_server(&self, read_preference: &ReadPreference) -> bool {
        Criterion::read(read_preference.clone()).is_ok_and(|criterion| self.suits(&criterion))
    }

    /// Whether there is a server for a write. See
    /// [`has_readable_server`](Self::has_readable_server).
    pub fn has_writable_server(&self) -> bool {
        self.suits(&Criterion::write())
    }

    fn suits(&self, criterion: &Criterion) -> bool {
        let index = SelectionIndex::new(Arc::new(self.clone()), SelectionOptions::default());
        index
            .suitable(criterion, &[])
            .is_ok_and(|servers| !servers.is_empty())
    }

    /// Where an address is among the servers, or belongs.
    pub(super) fn position(&self, address: &ServerAddress) -> Result<usize, usize> {
        self.servers
            .binary_search_by(|server| server.address.cmp(address))
    }

    /// Works out what follows from all servers together.
    pub(super) fn summarize(&mut self) {
        self.compatibility_error = self.servers.iter().find_map(|server| incompatible(server));
        // `None` is the least, and so stays where any server has it.
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
        // Neither was asked.
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
