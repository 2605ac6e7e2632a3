//! What is known of one server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::DateTime;
use bson::oid::ObjectId;

use super::{SdamError, ServerType, TopologyVersion};
use crate::address::ServerAddress;
use crate::select::TagSet;

/// What is known of one server: what its last hello said, or why there is none.
///
/// Equal are two descriptions of one address whose fields are equal that the specification
/// compares; those are marked (=). The others change with each check.
///
/// How to talk to a server is each connection's own hello to tell, not this one
/// ([`ConnectionDescription`](crate::handshake::ConnectionDescription)).
///
/// Specification: server discovery and monitoring, ServerDescription.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerDescription {
    /// Where the client reaches the server (=).
    pub address: ServerAddress,
    /// What the server is (=).
    pub server_type: ServerType,
    /// Why the server is unknown (=).
    pub error: Option<SdamError>,
    /// The average round trip time of its hellos; `None` while its type is unknown.
    pub round_trip_time: Option<Duration>,
    /// The least round trip time of its last ten hellos; zero while there are fewer than two,
    /// `None` while its type is unknown.
    pub min_round_trip_time: Option<Duration>,
    /// When it was last checked; `None` for never.
    pub last_update_time: Option<Instant>,
    /// The date of the last write that it has (`lastWrite.lastWriteDate`).
    pub last_write_date: Option<DateTime>,
    /// The lowest wire version that it speaks (=). Default 0.
    pub min_wire_version: i32,
    /// The highest wire version that it speaks (=). Default 0.
    pub max_wire_version: i32,
    /// The address that the replica set's configuration has for it (=).
    pub me: Option<ServerAddress>,
    /// The members that can become primary, as it knows them, sorted (=).
    pub hosts: Vec<ServerAddress>,
    /// The members that can't, sorted (=).
    pub passives: Vec<ServerAddress>,
    /// The arbiters, sorted (=).
    pub arbiters: Vec<ServerAddress>,
    /// The primary, as it knows it (=).
    pub primary: Option<ServerAddress>,
    /// Whether it is one of the members that can't become primary.
    pub passive: bool,
    /// Whether it is hidden from applications.
    pub hidden: bool,
    /// Its tags (=).
    pub tags: TagSet,
    /// The replica set's name (=).
    pub set_name: Option<Arc<str>>,
    /// The version of the replica set's configuration (=).
    pub set_version: Option<i64>,
    /// The election that made it primary (=).
    pub election_id: Option<ObjectId>,
    /// How long a session lives, in minutes (=); `None` if it has no sessions.
    pub logical_session_timeout_minutes: Option<u32>,
    /// Its version of its own state (=).
    pub topology_version: Option<TopologyVersion>,
    /// Whether it is a `mongocryptd` (=).
    pub iscryptd: bool,
    /// The largest document that can be stored, in bytes. Default 16 MiB.
    pub max_bson_object_size: usize,
    /// The largest message, in bytes. Default 48,000,000.
    pub max_message_size_bytes: usize,
    /// The most writes in one command. Default 100,000.
    pub max_write_batch_size: usize,
    /// The compressors of the client's list that it has too.
    pub compression: Vec<String>,
    /// Whether it has the command `hello` (`helloOk`).
    pub hello_ok: bool,
    /// Whether it only reads.
    pub read_only: bool,
    /// The service behind a load balancer.
    pub service_id: Option<ObjectId>,
}

impl ServerDescription {
    /// A server that was not checked yet: of type unknown, all else by default.
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

    /// The load balancer of a topology of that type, which is never checked.
    pub fn load_balancer(address: ServerAddress) -> Self {
        Self {
            server_type: ServerType::LoadBalancer,
            ..Self::unknown(address)
        }
    }

    /// The name that the deployment has for the server: `me`, or else the address.
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
