//! The fields of a hello's reply, each within bounds, with the same rules for monitor and pool
//! connections.
//!
//! `null` counts as an absent field. A field that determines the server's type, its members or the
//! limits of messages is an error if it can't be read. Any other field is informational: if it
//! can't be read, it counts as absent and does not make the server unknown.

use bson::oid::ObjectId;
use bson::raw::{RawBsonRef, RawDocument};

use crate::auth::reply::{fields, integer};
use crate::text::printable;

use super::HandshakeError;

/// A server process's version of its topology. Versions of different processes can't be compared.
///
/// Specification: server discovery and monitoring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TopologyVersion {
    /// The server process.
    pub process_id: ObjectId,
    /// The counter, incremented with each change.
    pub counter: i64,
}

/// The maximum length of a name, in bytes, and the maximum number of compressors.
const MAX_NAME_LENGTH: usize = 1024;
const MAX_COMPRESSORS: usize = 16;

/// A number that must be within bounds.
pub(crate) struct Bounds {
    field: &'static str,
    pub(crate) default: usize,
    minimum: usize,
    maximum: usize,
}

pub(crate) const OBJECT_SIZE: Bounds = Bounds {
    field: "maxBsonObjectSize",
    default: 16 * 1024 * 1024,
    minimum: 1024,
    maximum: 64 * 1024 * 1024,
};

pub(crate) const MESSAGE_SIZE: Bounds = Bounds {
    field: "maxMessageSizeBytes",
    default: 48_000_000,
    minimum: 4096,
    maximum: 48_000_000,
};

pub(crate) const BATCH_SIZE: Bounds = Bounds {
    field: "maxWriteBatchSize",
    default: 100_000,
    minimum: 1,
    maximum: 10_000_000,
};

/// The fields of a hello's reply that `wanted` selects. `None` ends the pass: the reply is
/// malformed.
pub(crate) fn hello_fields<'a>(
    reply: &'a RawDocument,
    wanted: impl Fn(&str) -> bool,
) -> impl Iterator<Item = Option<(&'a str, RawBsonRef<'a>)>> {
    fields(reply, wanted).filter(|field| !matches!(field, Some((_, RawBsonRef::Null))))
}

impl Bounds {
    /// A number that is too small is an error. A number that is too great is lowered to the
    /// maximum.
    pub(crate) fn read(&self, value: RawBsonRef<'_>) -> Result<usize, HandshakeError> {
        let value = whole(self.field, value)?;
        match usize::try_from(value) {
            Ok(size) if size >= self.minimum => Ok(size.min(self.maximum)),
            Err(_) if value > 0 => Ok(self.maximum),
            Ok(_) | Err(_) => Err(HandshakeError::TooSmall {
                field: self.field,
                value,
                minimum: self.minimum as i64,
            }),
        }
    }
}

pub(crate) const fn invalid(field: &'static str, expected: &'static str) -> HandshakeError {
    HandshakeError::Field { field, expected }
}

pub(crate) fn whole(field: &'static str, value: RawBsonRef<'_>) -> Result<i64, HandshakeError> {
    integer(value).ok_or(invalid(field, "a whole number"))
}

pub(crate) fn flag(field: &'static str, value: RawBsonRef<'_>) -> Result<bool, HandshakeError> {
    match value {
        RawBsonRef::Boolean(flag) => Ok(flag),
        other => match integer(other) {
            Some(number) => Ok(number != 0),
            None => Err(invalid(field, "true or false")),
        },
    }
}

pub(crate) fn name(field: &'static str, value: RawBsonRef<'_>) -> Result<String, HandshakeError> {
    match value.as_str() {
        Some(name) if name.len() <= MAX_NAME_LENGTH => Ok(name.to_owned()),
        Some(_) | None => Err(invalid(field, "a string of at most 1024 bytes")),
    }
}

pub(crate) fn wire_version(
    field: &'static str,
    value: RawBsonRef<'_>,
) -> Result<i32, HandshakeError> {
    let version = i32::try_from(whole(field, value)?).ok();
    version
        .filter(|version| *version >= 0)
        .ok_or(invalid(field, "a wire version"))
}

/// An informational flag.
pub(crate) fn hint(value: RawBsonRef<'_>) -> bool {
    flag("", value).unwrap_or(false)
}

pub(crate) fn session_timeout(value: RawBsonRef<'_>) -> Option<u32> {
    integer(value).and_then(|minutes| u32::try_from(minutes).ok())
}

pub(crate) fn service_id(value: RawBsonRef<'_>) -> Option<ObjectId> {
    value.as_object_id()
}

pub(crate) fn topology_version(value: RawBsonRef<'_>) -> Option<TopologyVersion> {
    let (mut process_id, mut counter) = (None, None);
    for field in fields(value.as_document()?, |key| {
        matches!(key, "processId" | "counter")
    }) {
        match field? {
            ("processId", value) => process_id = value.as_object_id(),
            (_, value) => counter = integer(value),
        }
    }
    Some(TopologyVersion {
        process_id: process_id?,
        counter: counter?,
    })
}

/// The names in a list; other elements are ignored.
pub(crate) fn compressors(value: RawBsonRef<'_>) -> Vec<String> {
    let Some(list) = value.as_array() else {
        return Vec::new();
    };
    list.into_iter()
        .take(MAX_COMPRESSORS)
        .map_while(Result::ok)
        .filter_map(RawBsonRef::as_str)
        .map(|name| printable(name, MAX_NAME_LENGTH))
        .collect()
}
