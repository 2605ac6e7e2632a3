use std::borrow::Cow;

use bson::{RawBsonRef, RawDocument, RawDocumentBuf};

use super::WireError;
use super::document::find_element;
#[cfg(feature = "net")]
use super::document::find_elements;
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

impl WriteConcernError {
    /// As the error that a command's failure would be: it tells as much about the server.
    pub(crate) fn into_error(self, reply: &RawDocument) -> Error {
        let error = Error::from(CommandError {
            code: self.code,
            code_name: self.code_name,
            message: self.message,
            reply: reply.to_owned(),
        });
        self.labels.into_iter().fold(error, Error::with_label)
    }
}

/// Says whether a reply has `ok: 1`, as an error where it has not.
///
/// # Errors
/// `ok: 0` is a [`CommandError`] with its labels; a reply without `ok` is a protocol error.
pub fn check_ok(reply: &RawDocument) -> Result<(), Error> {
    let bytes = reply.as_bytes();
    let ok = find_element(bytes, b"ok")?;
    judge(reply, ok.and_then(|(kind, at)| as_number(bytes, kind, at)))
}

/// What a pool wants to know of a reply, had in one pass.
#[cfg(feature = "net")]
#[derive(Debug)]
pub(crate) struct Glance<'a> {
    /// As [`check_ok`] says.
    pub(crate) verdict: Result<(), Error>,
    /// The value of `$clusterTime`.
    pub(crate) cluster_time: Option<&'a RawDocument>,
    /// Whether there is a `writeConcernError`.
    pub(crate) has_write_concern_error: bool,
}

/// Looks at what a reply says of its server.
#[cfg(feature = "net")]
pub(crate) fn glance(reply: &RawDocument) -> Glance<'_> {
    let bytes = reply.as_bytes();
    let (mut ok, mut cluster_time, mut has_write_concern_error) = (None, None, false);
    let found = find_elements(bytes, |name, kind, at| match name {
        b"ok" => ok = as_number(bytes, kind, at),
        b"$clusterTime" if kind == 0x03 => cluster_time = embedded(bytes, at),
        b"writeConcernError" => has_write_concern_error = true,
        _ => {}
    });
    Glance {
        verdict: found.map_err(Error::from).and_then(|()| judge(reply, ok)),
        cluster_time,
        has_write_concern_error,
    }
}

fn as_number(bytes: &[u8], kind: u8, at: usize) -> Option<f64> {
    let value = bytes.get(at..)?;
    Some(match kind {
        0x01 => f64::from_le_bytes(*value.first_chunk()?),
        0x08 => f64::from(*value.first()?),
        0x10 => f64::from(i32::from_le_bytes(*value.first_chunk()?)),
        0x12 => i64::from_le_bytes(*value.first_chunk()?) as f64,
        _ => return None,
    })
}

/// The document at a place that holds one.
#[cfg(feature = "net")]
fn embedded(bytes: &[u8], at: usize) -> Option<&RawDocument> {
    let value = bytes.get(at..)?;
    let length = usize::try_from(i32::from_le_bytes(*value.first_chunk()?)).ok()?;
    RawDocument::from_bytes(value.get(..length)?).ok()
}

fn judge(reply: &RawDocument, ok: Option<f64>) -> Result<(), Error> {
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

/// Says whether an insert, update or delete was done as it was asked, as an error where it was not.
///
/// # Errors
/// A [`CommandError`] of the first of the reply's `writeErrors`, or else of its
/// `writeConcernError`, with its labels.
pub fn check_write(reply: &RawDocument) -> Result<(), Error> {
    let first = match reply.get("writeErrors") {
        Ok(Some(RawBsonRef::Array(errors))) => errors.into_iter().next(),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    };
    let error = match first {
        Some(Ok(RawBsonRef::Document(error))) => Some(told(error, reply)),
        // It can't be read, and is an error all the same.
        Some(_) => Some(told(&RawDocumentBuf::new(), reply)),
        None => write_concern_error(reply),
    };
    match error {
        Some(error) => Err(error.into_error(reply)),
        None => Ok(()),
    }
}

/// The `writeConcernError` of a reply, where it has one.
pub fn write_concern_error(reply: &RawDocument) -> Option<WriteConcernError> {
    let error = reply.get_document("writeConcernError").ok()?;
    Some(told(error, reply))
}

/// What an error within a reply tells.
fn told(error: &RawDocument, reply: &RawDocument) -> WriteConcernError {
    let text = |key| error.get_str(key).unwrap_or_default().to_owned();
    WriteConcernError {
        code: code(error),
        code_name: text("codeName"),
        message: text("errmsg"),
        labels: labels(reply)
            .chain(labels(error))
            .map(str::to_owned)
            .collect(),
    }
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
