//! A hello's reply as a description of the server.

use std::time::Instant;

use bson::RawDocument;
use bson::raw::RawBsonRef;

use super::{SdamError, ServerDescription, ServerType};
use crate::address::ServerAddress;
use crate::auth::reply::{ServerError, fields, is_ok};
use crate::error::Error;
use crate::handshake::HandshakeError;
use crate::handshake::field::{
    BATCH_SIZE, MESSAGE_SIZE, OBJECT_SIZE, compressors, flag, hello_fields, hint, invalid, name,
    service_id, session_timeout, topology_version, whole, wire_version,
};
use crate::select::TagSet;

/// The maximum number of members in one list, and of tags. A replica set has at most 50 members.
const MAX_MEMBERS: usize = 1000;
const MAX_TAGS: usize = 128;

/// The longest address, in bytes.
const MAX_ADDRESS_LENGTH: usize = 1024;

/// The size of a reply to hello from which its handling is costly, in bytes. The reply of a replica
/// set of 50 members is shorter.
const LONG_HELLO: usize = 4096;

/// Whether other tasks should run before the next such reply is handled. Many servers may name many
/// hosts each at the same time.
pub(crate) fn is_long_hello(reply: &RawDocument) -> bool {
    reply.as_bytes().len() > LONG_HELLO
}

impl ServerDescription {
    /// The description of a server from its reply to a hello, which may be a legacy one.
    ///
    /// Reads the reply once, and keeps no more than these bounds: 1000 addresses in each list, the
    /// first 128 tags, 1024 bytes in each name. A reply that is malformed, exceeds the bounds, or
    /// lacks `ok: 1` gives an unknown server with the error. So does a Unix domain socket in the
    /// lists of members: no server directs a client to one. An informational field, such as `me`,
    /// `tags` or `lastWrite`, counts as absent if it can't be read.
    ///
    /// The caller adds the round trip time.
    pub fn from_hello(address: ServerAddress, reply: &RawDocument, now: Instant) -> Self {
        Self::read_hello(&address, reply, now)
            .unwrap_or_else(|error| Self::failed(address, error, now))
    }

    /// Like [`from_hello`](Self::from_hello), but returns the error separately.
    pub(super) fn read_hello(
        address: &ServerAddress,
        reply: &RawDocument,
        now: Instant,
    ) -> Result<Self, Error> {
        let mut description = Reading::read(address, reply)?;
        description.last_update_time = Some(now);
        Ok(description)
    }

    /// An unknown server, because its check failed or because of an application's error.
    pub fn failed(address: ServerAddress, error: impl Into<SdamError>, now: Instant) -> Self {
        Self {
            error: Some(error.into()),
            last_update_time: Some(now),
            ..Self::unknown(address)
        }
    }
}

/// What one pass over the reply collects.
struct Reading {
    description: ServerDescription,
    ok: Option<bool>,
    error: ServerError,
    symptoms: Symptoms,
}

/// The fields that determine the server's type.
#[derive(Default)]
struct Symptoms {
    is_replica_set: bool,
    is_db_grid: bool,
    is_writable_primary: Option<bool>,
    is_master: Option<bool>,
    secondary: bool,
    arbiter_only: bool,
}

impl Reading {
    fn read(address: &ServerAddress, reply: &RawDocument) -> Result<ServerDescription, Error> {
        let named = |error: HandshakeError| Error::from(error).at(address);
        let mut reading = Self {
            description: ServerDescription::unknown(address.clone()),
            ok: None,
            error: ServerError::default(),
            symptoms: Symptoms::default(),
        };
        for field in hello_fields(reply, is_wanted) {
            let (key, value) = field.ok_or_else(|| named(HandshakeError::Malformed))?;
            reading.take(key, value).map_err(named)?;
        }
        match reading.ok {
            Some(true) => {}
            Some(false) => return Err(HandshakeError::refused(reading.error).at(address)),
            None => return Err(named(invalid("ok", "a number"))),
        }
        let mut description = reading.description;
        description.server_type = reading.symptoms.server_type(&description);
        Ok(description)
    }

    fn take(&mut self, key: &str, value: RawBsonRef<'_>) -> Result<(), HandshakeError> {
        let symptoms = &mut self.symptoms;
        match key {
            "ok" => self.ok = is_ok(value),
            "isreplicaset" => symptoms.is_replica_set = flag("isreplicaset", value)?,
            "msg" => symptoms.is_db_grid = value.as_str() == Some("isdbgrid"),
            "isWritablePrimary" => {
                symptoms.is_writable_primary = Some(flag("isWritablePrimary", value)?);
            }
            "ismaster" => symptoms.is_master = Some(flag("ismaster", value)?),
            "secondary" => symptoms.secondary = flag("secondary", value)?,
            "arbiterOnly" => symptoms.arbiter_only = flag("arbiterOnly", value)?,
            _ if ServerError::wants(key) => self.error.take(key, value),
            _ => {
                take_member(&mut self.description, key, value)?;
                take_ability(&mut self.description, key, value)?;
            }
        }
        Ok(())
    }
}

impl Symptoms {
    /// The specification's table of types; the first row that fits counts.
    fn server_type(&self, description: &ServerDescription) -> ServerType {
        let writable = self.is_writable_primary.or(self.is_master) == Some(true);
        match description.set_name {
            _ if self.is_replica_set => ServerType::RsGhost,
            _ if self.is_db_grid => ServerType::Mongos,
            None => ServerType::Standalone,
            Some(_) if description.hidden => ServerType::RsOther,
            Some(_) if writable => ServerType::RsPrimary,
            Some(_) if self.secondary => ServerType::RsSecondary,
            Some(_) if self.arbiter_only => ServerType::RsArbiter,
            Some(_) => ServerType::RsOther,
        }
    }
}

/// Takes a field about the server's place in the deployment.
fn take_member(
    description: &mut ServerDescription,
    key: &str,
    value: RawBsonRef<'_>,
) -> Result<(), HandshakeError> {
    match key {
        "me" => description.me = address("me", value).ok(),
        "hosts" => description.hosts = addresses("hosts", value)?,
        "passives" => description.passives = addresses("passives", value)?,
        "arbiters" => description.arbiters = addresses("arbiters", value)?,
        "primary" => description.primary = address("primary", value).ok(),
        "passive" => description.passive = hint(value),
        "hidden" => description.hidden = flag("hidden", value)?,
        "tags" => description.tags = tags(value),
        "setName" => description.set_name = Some(name("setName", value)?.into()),
        "setVersion" => description.set_version = Some(whole("setVersion", value)?),
        "electionId" => {
            let id = value.as_object_id();
            description.election_id = Some(id.ok_or(invalid("electionId", "an object id"))?);
        }
        "lastWrite" => description.last_write_date = last_write_date(value),
        "topologyVersion" => description.topology_version = topology_version(value),
        _ => {}
    }
    Ok(())
}

/// Takes a field about the server's capabilities.
fn take_ability(
    description: &mut ServerDescription,
    key: &str,
    value: RawBsonRef<'_>,
) -> Result<(), HandshakeError> {
    match key {
        "minWireVersion" => description.min_wire_version = wire_version("minWireVersion", value)?,
        "maxWireVersion" => description.max_wire_version = wire_version("maxWireVersion", value)?,
        "logicalSessionTimeoutMinutes" => {
            description.logical_session_timeout_minutes = session_timeout(value);
        }
        "maxBsonObjectSize" => description.max_bson_object_size = OBJECT_SIZE.read(value)?,
        "maxMessageSizeBytes" => description.max_message_size_bytes = MESSAGE_SIZE.read(value)?,
        "maxWriteBatchSize" => description.max_write_batch_size = BATCH_SIZE.read(value)?,
        "compression" => description.compression = compressors(value),
        "helloOk" => description.hello_ok = hint(value),
        "readOnly" => description.read_only = hint(value),
        "iscryptd" => description.iscryptd = hint(value),
        "serviceId" => description.service_id = service_id(value),
        _ => {}
    }
    Ok(())
}

fn is_wanted(key: &str) -> bool {
    matches!(
        key,
        "ok" | "isreplicaset"
            | "msg"
            | "isWritablePrimary"
            | "ismaster"
            | "secondary"
            | "arbiterOnly"
            | "me"
            | "hosts"
            | "passives"
            | "arbiters"
            | "primary"
            | "passive"
            | "hidden"
            | "tags"
            | "setName"
            | "setVersion"
            | "electionId"
            | "lastWrite"
            | "topologyVersion"
            | "minWireVersion"
            | "maxWireVersion"
            | "logicalSessionTimeoutMinutes"
            | "maxBsonObjectSize"
            | "maxMessageSizeBytes"
            | "maxWriteBatchSize"
            | "compression"
            | "helloOk"
            | "readOnly"
            | "iscryptd"
            | "serviceId"
    ) || ServerError::wants(key)
}

fn address(field: &'static str, value: RawBsonRef<'_>) -> Result<ServerAddress, HandshakeError> {
    let text = value
        .as_str()
        .filter(|text| text.len() <= MAX_ADDRESS_LENGTH);
    match text.map(str::parse) {
        Some(Ok(address @ ServerAddress::Tcp { .. })) => Ok(address),
        Some(Ok(ServerAddress::Unix { .. }) | Err(_)) | None => {
            Err(invalid(field, "a host and port"))
        }
    }
}

/// A list of addresses, sorted, without duplicates.
fn addresses(
    field: &'static str,
    value: RawBsonRef<'_>,
) -> Result<Vec<ServerAddress>, HandshakeError> {
    let wrong = invalid(field, "a list of at most 1000 hosts and ports");
    let list = value.as_array().ok_or(wrong.clone())?;
    let mut addresses = Vec::new();
    for element in list {
        let element = element.map_err(|_| HandshakeError::Malformed)?;
        if addresses.len() == MAX_MEMBERS {
            return Err(wrong);
        }
        addresses.push(address(field, element)?);
    }
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

fn tags(value: RawBsonRef<'_>) -> TagSet {
    let Some(document) = value.as_document() else {
        return TagSet::new();
    };
    fields(document, |_| true)
        .take(MAX_TAGS)
        .map_while(|field| field)
        .filter_map(|(key, value)| {
            let key = name("tags", RawBsonRef::String(key)).ok()?;
            Some((key, name("tags", value).ok()?))
        })
        .collect()
}

fn last_write_date(value: RawBsonRef<'_>) -> Option<bson::DateTime> {
    fields(value.as_document()?, |key| key == "lastWriteDate")
        .map_while(|field| field)
        .find_map(|(_, value)| value.as_datetime())
}
