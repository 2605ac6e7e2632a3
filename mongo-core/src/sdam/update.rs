//! Updates the topology for a server's new description: the specification's TopologyType table and
//! its actions, with the specification's names.

use std::sync::Arc;

use super::{
    ElectionTuple, SdamError, ServerDescription, ServerType, TopologyDescription, TopologySettings,
    TopologyType,
};
use crate::address::ServerAddress;

/// From this wire version on (MongoDB 6.0), `electionId` takes precedence over `setVersion`.
const ELECTION_ID_FIRST: i32 = 17;

/// The maximum number of servers that a topology grows to through server replies and DNS. A replica
/// set has at most 50 members.
pub(super) const MAX_SERVERS: usize = 1000;

/// A topology that is being changed.
pub(super) struct Update<'a> {
    settings: &'a TopologySettings,
    pub(super) next: TopologyDescription,
    /// The former primary, to be checked at once.
    pub(super) former_primary: Option<ServerAddress>,
}

impl<'a> Update<'a> {
    pub(super) fn new(settings: &'a TopologySettings, current: &TopologyDescription) -> Self {
        Self {
            settings,
            next: current.clone(),
            former_primary: None,
        }
    }

    /// Replaces the description of a server of the topology, and applies the table.
    pub(super) fn server(&mut self, description: &Arc<ServerDescription>) {
        use ServerType::{
            LoadBalancer, Mongos, RsArbiter, RsGhost, RsOther, RsPrimary, RsSecondary, Standalone,
        };
        use TopologyType::{
            LoadBalanced, ReplicaSetNoPrimary, ReplicaSetWithPrimary, Sharded, Single, Unknown,
        };
        self.replace(description.clone());
        if self.next.possible_primary.as_ref() == Some(&description.address) {
            self.next.possible_primary = None;
        }
        match (self.next.topology_type, description.server_type) {
            (Unknown, ServerType::Unknown | RsGhost) => {}
            (Unknown, Standalone) => self.update_unknown_with_standalone(description),
            (Unknown, Mongos) => self.next.topology_type = Sharded,
            (Unknown | ReplicaSetNoPrimary, RsPrimary) => {
                self.next.topology_type = ReplicaSetWithPrimary;
                self.update_rs_from_primary(description);
            }
            (Unknown, RsSecondary | RsArbiter | RsOther) => {
                self.next.topology_type = ReplicaSetNoPrimary;
                self.update_rs_without_primary(description);
            }

            (Sharded, ServerType::Unknown | Mongos) => {}
            (Sharded, Standalone | RsPrimary | RsSecondary | RsArbiter | RsOther | RsGhost) => {
                self.remove(&description.address);
            }

            (ReplicaSetNoPrimary, ServerType::Unknown | RsGhost) => {}
            (ReplicaSetNoPrimary, Standalone | Mongos) => self.remove(&description.address),
            (ReplicaSetNoPrimary, RsSecondary | RsArbiter | RsOther) => {
                self.update_rs_without_primary(description);
            }

            (ReplicaSetWithPrimary, ServerType::Unknown | RsGhost) => self.check_if_has_primary(),
            (ReplicaSetWithPrimary, Standalone | Mongos) => {
                self.remove(&description.address);
                self.check_if_has_primary();
            }
            (ReplicaSetWithPrimary, RsPrimary) => self.update_rs_from_primary(description),
            (ReplicaSetWithPrimary, RsSecondary | RsArbiter | RsOther) => {
                self.update_rs_with_primary_from_member(description);
            }

            (Single, _) => self.verify_set_name(description),
            // A load balancer is never checked, and no check finds one.
            (LoadBalanced, _) | (_, LoadBalancer) => {}
        }
    }

    /// Keeps the servers for which `keep` returns true.
    pub(super) fn retain(&mut self, keep: impl Fn(&ServerAddress) -> bool) {
        self.next.servers.retain(|server| keep(&server.address));
    }

    fn remove(&mut self, address: &ServerAddress) {
        if let Ok(index) = self.next.position(address) {
            self.next.servers.remove(index);
        }
    }

    pub(super) fn replace(&mut self, description: Arc<ServerDescription>) {
        if let Ok(index) = self.next.position(&description.address) {
            self.next.servers[index] = description;
        }
    }

    fn update_unknown_with_standalone(&mut self, description: &ServerDescription) {
        // An SRV record may have brought more servers than there were seeds.
        match (self.settings.seeds.len(), self.next.servers.len()) {
            (1, 1) => self.next.topology_type = TopologyType::Single,
            _ => self.remove(&description.address),
        }
    }

    /// Verifying setName with TopologyType Single.
    fn verify_set_name(&mut self, description: &ServerDescription) {
        if let (Some(expected), true) = (
            &self.settings.replica_set,
            description.server_type != ServerType::Unknown,
        ) && description.set_name.as_ref() != Some(expected)
        {
            let error = SdamError::SetName {
                expected: expected.clone(),
                found: description.set_name.clone(),
            };
            self.replace_with_unknown(description, error);
        }
    }

    fn update_rs_without_primary(&mut self, description: &ServerDescription) {
        if !self.takes_set_name(description) {
            return self.remove(&description.address);
        }
        self.add_all(&members(description), MAX_SERVERS);
        self.hint_at_primary(description);
        if is_known_by_another_name(description) {
            self.remove(&description.address);
        }
    }

    fn update_rs_with_primary_from_member(&mut self, description: &ServerDescription) {
        if !self.takes_set_name(description) || is_known_by_another_name(description) {
            self.remove(&description.address);
            return self.check_if_has_primary();
        }
        // Had this member been the primary?
        if self.next.primary().is_none() {
            self.next.topology_type = TopologyType::ReplicaSetNoPrimary;
            self.hint_at_primary(description);
        }
    }

    fn update_rs_from_primary(&mut self, description: &ServerDescription) {
        if !self.takes_set_name(description) {
            self.remove(&description.address);
            return self.check_if_has_primary();
        }
        let reported = ElectionTuple {
            election_id: description.election_id,
            set_version: description.set_version,
        };
        let max = self.next.max_election;
        match newer_election(reported, max, description.max_wire_version) {
            Some(newer) => self.next.max_election = newer,
            None => {
                let stale = SdamError::StalePrimary {
                    stale: reported,
                    max,
                };
                self.replace_with_unknown(description, stale);
                return self.check_if_has_primary();
            }
        }
        self.invalidate_former_primary(&description.address);
        let members = members(description);
        // First, so that servers that are not members don't take a member's place.
        self.retain(|address| members.binary_search(&address).is_ok());
        self.add_all(&members, MAX_SERVERS);
        self.check_if_has_primary();
    }

    /// Whether the set name agrees with the topology's. The first set name that is reported becomes
    /// the topology's.
    fn takes_set_name(&mut self, description: &ServerDescription) -> bool {
        match &self.next.set_name {
            None => {
                self.next.set_name.clone_from(&description.set_name);
                true
            }
            known => *known == description.set_name,
        }
    }

    /// Makes the former primary unknown; there is at most one. Its pool is not cleared.
    fn invalidate_former_primary(&mut self, newer: &ServerAddress) {
        for server in &mut self.next.servers {
            if server.server_type == ServerType::RsPrimary && server.address != *newer {
                *server = Arc::new(ServerDescription {
                    error: Some(SdamError::NewerPrimary),
                    ..ServerDescription::unknown(server.address.clone())
                });
                self.former_primary = Some(server.address.clone());
            }
        }
    }

    /// Records the primary that a member names, while none is known.
    fn hint_at_primary(&mut self, description: &ServerDescription) {
        if let Some(primary) = &description.primary
            && let Some(server) = self.next.server(primary)
            && server.server_type == ServerType::Unknown
        {
            self.next.possible_primary = Some(primary.clone());
        }
    }

    fn check_if_has_primary(&mut self) {
        self.next.topology_type = match self.next.primary() {
            Some(_) => TopologyType::ReplicaSetWithPrimary,
            None => TopologyType::ReplicaSetNoPrimary,
        };
    }

    /// Adds the servers that the topology doesn't have yet, up to `limit` servers in all. Logs a
    /// warning if there are more. `addresses` has no duplicates.
    pub(super) fn add_all(&mut self, addresses: &[&ServerAddress], limit: usize) {
        let room = limit.saturating_sub(self.next.servers.len());
        let mut new: Vec<_> = addresses
            .iter()
            .filter(|address| self.next.position(address).is_err())
            .map(|address| Arc::new(ServerDescription::unknown((*address).clone())))
            .collect();
        if new.len() > room && limit == MAX_SERVERS {
            let surplus = new.len() - room;
            tracing::warn!("ignored {surplus} servers: a topology has at most {MAX_SERVERS}");
        }
        new.truncate(room);
        if !new.is_empty() {
            self.next.servers.extend(new);
            self.next.servers.sort_by(|a, b| a.address.cmp(&b.address));
        }
    }

    /// Makes a server unknown, but keeps the time of its last check, so that one scan checks it
    /// once.
    fn replace_with_unknown(&mut self, description: &ServerDescription, error: SdamError) {
        self.replace(Arc::new(ServerDescription {
            error: Some(error),
            last_update_time: description.last_update_time,
            ..ServerDescription::unknown(description.address.clone())
        }));
    }
}

/// All members that a server lists, sorted.
fn members(description: &ServerDescription) -> Vec<&ServerAddress> {
    let mut members: Vec<_> = description.members().collect();
    members.sort_unstable();
    members.dedup();
    members
}

fn is_known_by_another_name(description: &ServerDescription) -> bool {
    description
        .me
        .as_ref()
        .is_some_and(|me| *me != description.address)
}

/// The new greatest election; `None` if the primary reported an older one than the known one.
///
/// Specification: using electionId and setVersion to detect stale primaries.
fn newer_election(
    reported: ElectionTuple,
    max: ElectionTuple,
    max_wire_version: i32,
) -> Option<ElectionTuple> {
    if max_wire_version >= ELECTION_ID_FIRST {
        return (reported >= max).then_some(reported);
    }
    let mut newer = max;
    if let (Some(set_version), Some(election_id)) = (reported.set_version, reported.election_id) {
        if let (Some(max_version), Some(max_id)) = (max.set_version, max.election_id)
            && (max_version, max_id) > (set_version, election_id)
        {
            return None;
        }
        newer.election_id = reported.election_id;
    }
    newer.set_version = max.set_version.max(reported.set_version);
    Some(newer)
}
