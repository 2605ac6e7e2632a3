//! The server's reply to the hello.

use bson::oid::ObjectId;
use bson::raw::{RawBsonRef, RawDocument};

use crate::auth::reply::{ServerError, integer, is_ok};
use crate::auth::{AuthMechanism, ScramMechanism};
use crate::wire::Compressor;

use super::field::{
    BATCH_SIZE, MESSAGE_SIZE, OBJECT_SIZE, compressors, flag, hello_fields, hint, invalid, name,
    service_id, session_timeout, topology_version, wire_version,
};
use super::{HandshakeError, MAX_WIRE_VERSION, MIN_WIRE_VERSION, TopologyVersion};

/// The server's description on one connection, from its reply to the hello, within bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionDescription {
    /// The lowest wire version that the server supports.
    pub min_wire_version: i32,
    /// The highest wire version that the server supports.
    pub max_wire_version: i32,
    /// The maximum size of a stored document, in bytes. Default 16 MiB. A value below 1 KiB is an
    /// error; a value above 64 MiB is lowered to it.
    pub max_bson_object_size: usize,
    /// The maximum size of a message, in bytes. Default 48,000,000. A value below 4 KiB is an
    /// error. A value above 48,000,000 is lowered to it: no server sends more, and a hostile one
    /// must not make the client allocate more.
    pub max_message_size_bytes: usize,
    /// The maximum number of writes in one command. Default 100,000. A value below 1 is an error; a
    /// value above 10,000,000 is lowered to it.
    pub max_write_batch_size: usize,
    /// The session timeout, in minutes; `None` if the server has no sessions.
    pub logical_session_timeout_minutes: Option<u32>,
    /// Whether later hellos can use the command `hello`: the server supports it (`helloOk`).
    pub hello_ok: bool,
    /// Whether the server is writable (`isWritablePrimary`).
    pub is_writable_primary: bool,
    /// Whether the server is a secondary of a replica set.
    pub secondary: bool,
    /// Whether the server is a replica set's arbiter, which does not support authentication.
    pub arbiter: bool,
    /// Whether the server is a `mongos`.
    pub mongos: bool,
    /// The replica set's name.
    pub set_name: Option<String>,
    /// Whether the server is read-only.
    pub read_only: bool,
    /// The server's id for this connection, as in its log.
    pub connection_id: Option<i64>,
    /// The service behind a load balancer; always set with `loadBalanced=true`.
    pub service_id: Option<ObjectId>,
    /// The server's topology version.
    pub topology_version: Option<TopologyVersion>,
    /// The compressors of the client's list that the server supports.
    pub compression: Vec<String>,
    /// The compressor for requests: the first of the client's list that the server supports.
    pub compressor: Option<Compressor>,
    /// How the connection was authenticated; `None` if it was not: without a credential, or on an
    /// arbiter.
    pub authenticated: Option<AuthMechanism>,
}

/// The content of the reply, read in one pass: the description, and the fields for authentication.
#[derive(Debug)]
pub(super) struct HelloReply<'a> {
    pub(super) description: ConnectionDescription,
    /// The mechanism negotiated from the server's list; `None` if it sent no list.
    pub(super) negotiated: Option<ScramMechanism>,
    pub(super) speculative: Option<&'a RawDocument>,
}

/// A reply that makes the handshake fail.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HelloFailure {
    /// `ok: 0`.
    Refused(ServerError),
    Invalid(HandshakeError),
}

impl From<HandshakeError> for HelloFailure {
    fn from(error: HandshakeError) -> Self {
        Self::Invalid(error)
    }
}

/// The fields that the pass collects and its end evaluates.
#[derive(Default)]
struct Collected {
    ok: Option<bool>,
    error: ServerError,
    arbiter_only: bool,
    is_writable_primary: Option<bool>,
    is_master: Option<bool>,
}

impl<'a> HelloReply<'a> {
    /// Reads a reply.
    pub(super) fn read(reply: &'a RawDocument, load_balanced: bool) -> Result<Self, HelloFailure> {
        let mut read = Self {
            description: ConnectionDescription::unknown(),
            negotiated: None,
            speculative: None,
        };
        let mut collected = Collected::default();
        for field in hello_fields(reply, is_wanted) {
            let (key, value) = field.ok_or(HandshakeError::Malformed)?;
            read.take(key, value, &mut collected)?;
        }
        match collected.ok {
            Some(true) => {}
            Some(false) => return Err(HelloFailure::Refused(collected.error)),
            None => return Err(invalid("ok", "a number").into()),
        }
        read.description.arbiter = collected.arbiter_only && read.description.set_name.is_some();
        // As for a monitor, the modern field counts where there are both.
        let is_writable = collected.is_writable_primary.or(collected.is_master);
        read.description.is_writable_primary = is_writable == Some(true);
        read.description.check(load_balanced)?;
        Ok(read)
    }

    fn take(
        &mut self,
        key: &str,
        value: RawBsonRef<'a>,
        collected: &mut Collected,
    ) -> Result<(), HandshakeError> {
        let description = &mut self.description;
        match key {
            "ok" => collected.ok = is_ok(value),
            "saslSupportedMechs" => self.negotiated = negotiated(value),
            "speculativeAuthenticate" => self.speculative = value.as_document(),
            "minWireVersion" => {
                description.min_wire_version = wire_version("minWireVersion", value)?;
            }
            "maxWireVersion" => {
                description.max_wire_version = wire_version("maxWireVersion", value)?;
            }
            "maxBsonObjectSize" => description.max_bson_object_size = OBJECT_SIZE.read(value)?,
            "maxMessageSizeBytes" => {
                description.max_message_size_bytes = MESSAGE_SIZE.read(value)?;
            }
            "maxWriteBatchSize" => description.max_write_batch_size = BATCH_SIZE.read(value)?,
            "logicalSessionTimeoutMinutes" => {
                description.logical_session_timeout_minutes = session_timeout(value);
            }
            "helloOk" => description.hello_ok = hint(value),
            "isWritablePrimary" => {
                collected.is_writable_primary = Some(flag("isWritablePrimary", value)?);
            }
            "ismaster" => collected.is_master = Some(flag("ismaster", value)?),
            "secondary" => description.secondary = flag("secondary", value)?,
            "arbiterOnly" => collected.arbiter_only = flag("arbiterOnly", value)?,
            "readOnly" => description.read_only = hint(value),
            "msg" => description.mongos = value.as_str() == Some("isdbgrid"),
            "setName" => description.set_name = Some(name("setName", value)?),
            "connectionId" => description.connection_id = integer(value),
            "serviceId" => description.service_id = service_id(value),
            "topologyVersion" => description.topology_version = topology_version(value),
            "compression" => description.compression = compressors(value),
            _ => collected.error.take(key, value),
        }
        Ok(())
    }
}

impl ConnectionDescription {
    /// The defaults for fields that a server does not send.
    fn unknown() -> Self {
        Self {
            min_wire_version: 0,
            max_wire_version: 0,
            max_bson_object_size: OBJECT_SIZE.default,
            max_message_size_bytes: MESSAGE_SIZE.default,
            max_write_batch_size: BATCH_SIZE.default,
            logical_session_timeout_minutes: None,
            hello_ok: false,
            is_writable_primary: false,
            secondary: false,
            arbiter: false,
            mongos: false,
            set_name: None,
            read_only: false,
            connection_id: None,
            service_id: None,
            topology_version: None,
            compression: Vec::new(),
            compressor: None,
            authenticated: None,
        }
    }

    fn check(&self, load_balanced: bool) -> Result<(), HandshakeError> {
        if self.max_wire_version < MIN_WIRE_VERSION {
            return Err(HandshakeError::ServerTooOld {
                reported: self.max_wire_version,
            });
        }
        if self.min_wire_version > MAX_WIRE_VERSION {
            return Err(HandshakeError::ServerTooNew {
                required: self.min_wire_version,
            });
        }
        match self.service_id {
            None if load_balanced => Err(HandshakeError::NotLoadBalanced),
            None | Some(_) => Ok(()),
        }
    }
}

fn is_wanted(key: &str) -> bool {
    matches!(
        key,
        "ok" | "saslSupportedMechs"
            | "speculativeAuthenticate"
            | "minWireVersion"
            | "maxWireVersion"
            | "maxBsonObjectSize"
            | "maxMessageSizeBytes"
            | "maxWriteBatchSize"
            | "logicalSessionTimeoutMinutes"
            | "helloOk"
            | "isWritablePrimary"
            | "ismaster"
            | "secondary"
            | "arbiterOnly"
            | "readOnly"
            | "msg"
            | "setName"
            | "connectionId"
            | "serviceId"
            | "topologyVersion"
            | "compression"
    ) || ServerError::wants(key)
}

/// The maximum number of a server's mechanisms that are read; seven exist.
const MAX_MECHANISMS: usize = 128;

/// The list is not validated, as the specification requires: only the name of SCRAM-SHA-256
/// matters.
fn negotiated(value: RawBsonRef<'_>) -> Option<ScramMechanism> {
    let has_sha_256 = value
        .as_array()?
        .into_iter()
        .take(MAX_MECHANISMS)
        .map_while(Result::ok)
        .any(|name| name.as_str() == Some(ScramMechanism::Sha256.name()));
    Some(match has_sha_256 {
        true => ScramMechanism::Sha256,
        false => ScramMechanism::Sha1,
    })
}

#[cfg(test)]
mod tests;
