//! What is known of one server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::DateTime;
use bson::oid::ObjectId;

use super::{SdamError, ServerType, TopologyVersion};
use crate::address::ServerAddress;
use crate::select::TagSet;

/// What is known of one server: the content of its last hello, or the error if there is none.
///
/// Two descriptions of one address are equal if the fields that the specification compares are
/// equal; those are marked (=). The others change with each check.
///
/// The limits and features of a connection come from its own hello, not from this description
/// ([`ConnectionDescription`](crate::handshake::ConnectionDescription)).
///
/// Specification: server discovery and monitoring, ServerDescription.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerDescription {
    /// Where the client reaches the server (=).
    pub address: ServerAddress,
    /// The server's type (=).
    pub server_type: ServerType,
    /// Why the server is unknown (=).
    pub error: Option<SdamError>,
    /// The average round trip time of its hellos; `None` while its type is unknown.
    pub round_trip_time: Option<Duration>,
    /// The minimum round trip time of its last ten hellos; zero while there are fewer than two,
    /// `None` while its type is unknown.
    pub min_round_trip_time: Option<Duration>,
    /// When it was last checked; `None` if never.
    pub last_update_time: Option<Instant>,
    /// The date of its last write (`lastWrite.lastWriteDate`).
    pub last_write_date: Option<DateTime>,
    /// The lowest wire version that it supports (=). Default 0.
    pub min_wire_version: i32,
    /// The highest wire version that it supports (=). Default 0.
    pub max_wire_version: i32,
    /// Its address in the replica set's configuration (=).
    pub me: Option<ServerAddress>,
    /// The members that it lists as able to become primary, sorted (=).
    pub hosts: Vec<ServerAddress>,
    /// The members that it lists as unable to become primary, sorted (=).
    pub passives: Vec<ServerAddress>,
    /// The arbiters, sorted (=).
    pub arbiters: Vec<ServerAddress>,
    /// The primary that it names (=).
    pub primary: Option<ServerAddress>,
    /// Whether it is a member that can't become primary.
    pub passive: bool,
    /// Whether it is hidden from applications.
    pub hidden: bool,
    /// Its tags (=).
    pub tags: TagSet,
    /// The replica set's name (=).
    pub set_name: Option<Arc<str>>,
    /// The version of the replica set's configuration (=).
    pub set_version: Option<i64>,
    /// The id of the election that made it primary (=).
    pub election_id: Option<ObjectId>,
    /// The session timeout, in minutes (=); `None` if it has no sessions.
    pub logical_session_timeout_minutes: Option<u32>,
    /// Its topology version (=).
    pub topology_version: Option<TopologyVersion>,
    /// Whether it is a `mongocryptd` (=).
    pub iscryptd: bool,
    /// The maximum size of a stored document, in bytes. Default 16 MiB.
    pub max_bson_object_size: usize,
    /// The maximum size of a message, in bytes. Default 48,000,000.
    pub max_message_size_bytes: usize,
    /// The maximum number of writes in one command. Default 100,000.
    pub max_write_batch_size: usize,
    /// The compressors of the client's list that it supports.
    pub compression: Vec<String>,
    /// Whether it supports the command `hello` (`helloOk`).
    pub hello_ok: bool,
    /// Whether it is read-only.
    pub read_only: bool,
    /// The service behind a load balancer.
    pub service_id: Option<ObjectId>,
}

impl ServerDescription {
    /// A server that was not checked yet: its type is unknown, all else is the default.
    pub fn unknown(address: ServerAddress) -> Self {
        Self {
            address,
            server_type: ServerType::Unknown,
            error: None,
            round_trip_time: None,
            min_round_trip_time: None,
            last_update_time: None,
            last_write_date: None,
            min_wire_version: 0,
            max_wire_version: 0,
            me: None,
            hosts: Vec::new(),
            passives: Vec::new(),
            arbiters: Vec::new(),
            primary: None,
            passive: false,
            hidden: false,
            tags: TagSet::new(),
            set_name: None,
            set_version: None,
            election_id: None,
            logical_session_timeout_minutes: None,
            topology_version: None,
            iscryptd: false,
            max_bson_object_size: 16 * 1024 * 1024,
            max_message_size_bytes: 48_000_000,
            max_write_batch_size: 100_000,
            compression: Vec::new(),
            hello_ok: false,
            read_only: false,
            service_id: None,
        }
    }

    /// The load balancer of a load-balanced topology, which is never checked.
    pub fn load_balancer(address: ServerAddress) -> Self {
        Self {
            server_type: ServerType::LoadBalancer,
            ..Self::unknown(address)
        }
    }

    /// The server's name in the deployment: `me`, or else the address.
    pub fn canonical_address(&self) -> &ServerAddress {
        self.me.as_ref().unwrap_or(&self.address)
    }

    /// All members that the server lists: hosts, passives and arbiters.
    pub fn members(&self) -> impl Iterator<Item = &ServerAddress> {
        self.hosts
            .iter()
            .chain(&self.passives)
            .chain(&self.arbiters)
    }
}

impl PartialEq for ServerDescription {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
            && self.server_type == other.server_type
            && self.error == other.error
            && self.min_wire_version == other.min_wire_version
            && self.max_wire_version == other.max_wire_version
            && self.me == other.me
            && self.hosts == other.hosts
            && self.passives == other.passives
            && self.arbiters == other.arbiters
            && self.tags == other.tags
            && self.set_name == other.set_name
            && self.set_version == other.set_version
            && self.election_id == other.election_id
            && self.primary == other.primary
            && self.logical_session_timeout_minutes == other.logical_session_timeout_minutes
            && self.topology_version == other.topology_version
            && self.iscryptd == other.iscryptd
    }
}

impl Eq for ServerDescription {}
