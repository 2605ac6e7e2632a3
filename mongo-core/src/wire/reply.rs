use std::borrow::Cow;

use bson::{RawBsonRef, RawDocument};

use super::WireError;
use super::document::find_element;
use crate::error::{CommandError, Error};

/// An error that came with an otherwise good answer to a write (`writeConcernError`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteConcernError {
    /// The server's error code; 0 where it sent none.
    pub code: i32,
    /// The code's name; empty where the server sent none.
    pub code_name: String,
    /// The server's message.
    pub message: String,
    /// The error's labels and the reply's.
    pub labels: Vec<String>,
}

/// Says whether a reply has `ok: 1`, as an error where it has not.
///
/// # Errors
/// `ok: 0` is a [`CommandError`] with its labels; a reply without `ok` is a protocol error.
pub fn check_ok(reply: &RawDocument) -> Result<(), Error> {
    let bytes = reply.as_bytes();
    let ok = find_element(bytes, b"ok")?.and_then(|(kind, at)| {
        let value = bytes.get(at..)?;
        Some(match kind {
            0x01 => f64::from_le_bytes(*value.first_chunk()?),
            0x08 => f64::from(*value.first()?),
            0x10 => f64::from(i32::from_le_bytes(*value.first_chunk()?)),
            0x12 => i64::from_le_bytes(*value.first_chunk()?) as f64,
            _ => return None,
        })
    });
    match ok {
        Some(1.0) => Ok(()),
        Some(_) => Err(command_error(reply)),
        None => Err(WireError::NoOk.into()),
    }
}

fn command_error(reply: &RawDocument) -> Error {
    let text = |key| reply.get_str(key).unwrap_or_default().to_owned();
    let message = match text("errmsg") {
        // Very old servers, and OP_REPLY's query failures.
        empty if empty.is_empty() => text("$err"),
        message => message,
    };
    let error = Error::from(CommandError {
        code: code(reply),
        code_name: text("codeName"),
        message,
        reply: reply.to_owned(),
    });
    labels(reply).fold(error, |error, label| {
        error.with_label(Cow::Owned(label.to_owned()))
    })
}

/// The `writeConcernError` of a reply, where it has one.
pub fn write_concern_error(reply: &RawDocument) -> Option<WriteConcernError> {
    let error = reply.get_document("writeConcernError").ok()?;
    let text = |key| error.get_str(key).unwrap_or_default().to_owned();
    Some(WriteConcernError {
        code: code(error),
        code_name: text("codeName"),
        message: text("errmsg"),
        labels: labels(reply)
            .chain(labels(error))
            .map(str::to_owned)
            .collect(),
    })
}

fn code(document: &RawDocument) -> i32 {
    document
        .get("code")
        .ok()
        .flatten()
        .and_then(number)
        .map_or(0, |code| code as i32)
}

fn labels(document: &RawDocument) -> impl Iterator<Item = &str> {
    document
        .get_array("errorLabels")
        .ok()
        .into_iter()
        .flatten()
        .filter_map(|label| label.ok()?.as_str())
}

fn number(value: RawBsonRef<'_>) -> Option<f64> {
    match value {
        RawBsonRef::Double(number) => Some(number),
        RawBsonRef::Int32(number) => Some(number.into()),
        RawBsonRef::Int64(number) => Some(number as f64),
        RawBsonRef::Boolean(flag) => Some(f64::from(u8::from(flag))),
        _ => None,
    }
}
