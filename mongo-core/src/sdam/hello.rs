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
    BATCH_SIZE, MESSAGE_SIZE, OBJECT_SIZE, compressors, flag, invalid, name, session_timeout,
    topology_version, whole, wire_version,
};
use crate::select::TagSet;

/// The most members that one list may name, and the most tags. A replica set has 50 members.
const MAX_MEMBERS: usize = 1000;
const MAX_TAGS: usize = 128;

/// The longest address, in bytes.
const MAX_ADDRESS_LENGTH: usize = 1024;

impl ServerDescription {
    /// What a server says of itself in the reply to a hello, which may be a legacy one.
    ///
    /// Reads the reply once, and keeps no more of it than is within bounds: 1000 addresses in each
    /// list, 128 tags, 1024 bytes in each name. A reply that is malformed, beyond those, or has not
    /// `ok: 1` gives an unknown server with the error. So do addresses that are Unix domain
    /// sockets: no server sends a client to those.
    ///
    /// The round trip time is the caller's to add.
    pub fn from_hello(address: ServerAddress, reply: &RawDocument, now: Instant) -> Self {
        Self::read_hello(&address, reply, now)
            .unwrap_or_else(|error| Self::failed(address, error, now))
    }

    /// As [`from_hello`](Self::from_hello), with the error apart.
    pub(super) fn read_hello(
        address: &ServerAddress,
        reply: &RawDocument,
        now: Instant,
    ) -> Result<Self, Error> {
        let mut description = Reading::read(address, reply)?;
        description.last_update_time = Some(now);
        Ok(description)
    }

    /// A server whose check failed, or that an application's error made unknown.
    pub fn failed(address: ServerAddress, error: impl Into<SdamError>, now: Instant) -> Self {
        Self {
            error: Some(error.into()),
            last_update_time: Some(now),
            ..Self::unknown(address)
        }
    }
}

/// What the pass collects.
struct Reading {
    description: ServerDescription,
    ok: Option<bool>,
    error: ServerError,
    symptoms: Symptoms,
}

/// The fields from which the type follows.
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
        for field in fields(reply, is_wanted) {
            let (key, value) = field.ok_or_else(|| named(HandshakeError::Malformed))?;
            // Null says the same as nothing.
            if value != RawBsonRef::Null {
                reading.take(key, value).map_err(named)?;
            }
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

/// Takes what a server says of its place in a deployment.
fn take_member(
    description: &mut ServerDescription,
    key: &str,
    value: RawBsonRef<'_>,
) -> Result<(), HandshakeError> {
    match key {
        "me" => description.me = Some(address("me", value)?),
        "hosts" => description.hosts = addresses("hosts", value)?,
        "passives" => description.passives = addresses("passives", value)?,
        "arbiters" => description.arbiters = addresses("arbiters", value)?,
        "primary" => description.primary = Some(address("primary", value)?),
        "passive" => description.passive = flag("passive", value)?,
        "hidden" => description.hidden = flag("hidden", value)?,
        "tags" => description.tags = tags(value)?,
        "setName" => description.set_name = Some(name("setName", value)?.into()),
        "setVersion" => description.set_version = Some(whole("setVersion", value)?),
        "electionId" => {
            let id = value.as_object_id();
            description.election_id = Some(id.ok_or(invalid("electionId", "an object id"))?);
        }
        "lastWrite" => description.last_write_date = last_write_date(value)?,
        "topologyVersion" => description.topology_version = Some(topology_version(value)?),
        _ => {}
    }
    Ok(())
}

/// Takes what a server says that it can do.
fn take_ability(
    description: &mut ServerDescription,
    key: &str,
    value: RawBsonRef<'_>,
) -> Result<(), HandshakeError> {
    match key {
        "minWireVersion" => description.min_wire_version = wire_version("minWireVersion", value)?,
        "maxWireVersion" => description.max_wire_version = wire_version("maxWireVersion", value)?,
        "logicalSessionTimeoutMinutes" => {
            description.logical_session_timeout_minutes = session_timeout(value)?;
        }
        "maxBsonObjectSize" => description.max_bson_object_size = OBJECT_SIZE.read(value)?,
        "maxMessageSizeBytes" => description.max_message_size_bytes = MESSAGE_SIZE.read(value)?,
        "maxWriteBatchSize" => description.max_write_batch_size = BATCH_SIZE.read(value)?,
        "compression" => description.compression = compressors(value)?,
        "helloOk" => description.hello_ok = flag("helloOk", value)?,
        "readOnly" => description.read_only = flag("readOnly", value)?,
        "iscryptd" => description.iscryptd = flag("iscryptd", value)?,
        "serviceId" => {
            let id = value.as_object_id();
            description.service_id = Some(id.ok_or(invalid("serviceId", "an object id"))?);
        }
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

/// A list of addresses, sorted, each once.
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

fn tags(value: RawBsonRef<'_>) -> Result<TagSet, HandshakeError> {
    let wrong = invalid("tags", "at most 128 names and values");
    let document = value.as_document().ok_or(wrong.clone())?;
    let mut tags = TagSet::new();
    for (place, field) in fields(document, |_| true).enumerate() {
        // Also of one tag many times over.
        if place == MAX_TAGS {
            return Err(wrong);
        }
        let (key, value) = field.ok_or(HandshakeError::Malformed)?;
        let key = name("tags", RawBsonRef::String(key))?;
        tags.insert(key, name("tags", value)?);
    }
    Ok(tags)
}

fn last_write_date(value: RawBsonRef<'_>) -> Result<Option<bson::DateTime>, HandshakeError> {
    let wrong = invalid("lastWrite", "a document with a date");
    let document = value.as_document().ok_or(wrong.clone())?;
    let mut date = None;
    for field in fields(document, |key| key == "lastWriteDate") {
        match field.ok_or(HandshakeError::Malformed)? {
            (_, RawBsonRef::DateTime(at)) => date = Some(at),
            _ => return Err(wrong),
        }
    }
    Ok(date)
}
