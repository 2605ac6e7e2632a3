//! The fields of a hello's reply, each within bounds.

use bson::raw::RawBsonRef;

use crate::auth::reply::{fields, integer};
use crate::text::printable;

use super::{HandshakeError, TopologyVersion};

/// The longest name that is kept, in bytes, and the most compressors.
const MAX_NAME_LENGTH: usize = 1024;
const MAX_COMPRESSORS: usize = 16;

/// A number that has to lie within bounds.
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

impl Bounds {
    /// Too small can't be worked with. Too great only means that less is used than could be.
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

pub(crate) fn session_timeout(value: RawBsonRef<'_>) -> Result<Option<u32>, HandshakeError> {
    const FIELD: &str = "logicalSessionTimeoutMinutes";
    match value {
        RawBsonRef::Null => Ok(None),
        value => u32::try_from(whole(FIELD, value)?)
            .map(Some)
            .map_err(|_| invalid(FIELD, "a number of minutes")),
    }
}

pub(crate) fn topology_version(value: RawBsonRef<'_>) -> Result<TopologyVersion, HandshakeError> {
    let wrong = invalid("topologyVersion", "processId and counter");
    let document = value.as_document().ok_or(wrong.clone())?;
    let (mut process_id, mut counter) = (None, None);
    for field in fields(document, |key| matches!(key, "processId" | "counter")) {
        match field.ok_or(HandshakeError::Malformed)? {
            ("processId", value) => process_id = value.as_object_id(),
            (_, value) => counter = integer(value),
        }
    }
    match (process_id, counter) {
        (Some(process_id), Some(counter)) => Ok(TopologyVersion {
            process_id,
            counter,
        }),
        _ => Err(wrong),
    }
}

pub(crate) fn compressors(value: RawBsonRef<'_>) -> Result<Vec<String>, HandshakeError> {
    let list = value
        .as_array()
        .ok_or(invalid("compression", "a list of names"))?;
    list.into_iter()
        .take(MAX_COMPRESSORS)
        .map(|name| match name {
            Ok(RawBsonRef::String(name)) => Ok(printable(name, MAX_NAME_LENGTH)),
            _ => Err(invalid("compression", "a list of names")),
        })
        .collect()
}
