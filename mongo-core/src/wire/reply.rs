use bson::{RawBsonRef, RawDocument, RawDocumentBuf};

use super::WireError;
use super::document::find_element;
#[cfg(feature = "net")]
use super::document::find_elements;
use crate::auth::reply::{MAX_LABELS, ServerError, fields};
use crate::error::{CommandError, Error};

/// An error that came with an otherwise good answer to a write (`writeConcernError`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteConcernError {
    /// The server's error code; 0 where it sent none.
    pub code: i32,
    /// The code's name, of at most 128 bytes; empty where the server sent none.
    pub code_name: String,
    /// The server's message, of at most 1,024 bytes. What is not printable is escaped.
    pub message: String,
    /// The reply's labels and the error's: at most 16, each of at most 128 bytes.
    pub labels: Vec<String>,
}

impl WriteConcernError {
    /// As the error that a command's failure would be: it tells as much about the server.
    pub(crate) fn into_error(self, reply: &RawDocument) -> Error {
        let error = CommandError {
            code: self.code,
            code_name: self.code_name,
            message: self.message,
            reply: kept(reply),
        };
        with_labels(error, self.labels)
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

/// The most of a reply that an error keeps: in bytes, and in fields of a longer one.
const MAX_KEPT: usize = 64 * 1024;
const MAX_KEPT_FIELDS: usize = 256;

fn command_error(reply: &RawDocument) -> Error {
    let error = server_error(reply);
    let labels = error.labels.clone();
    with_labels(CommandError::new(error, reply), labels)
}

fn with_labels(error: CommandError, labels: Vec<String>) -> Error {
    labels
        .into_iter()
        .fold(Error::from(error), Error::with_label)
}

impl CommandError {
    fn new(error: ServerError, reply: &RawDocument) -> Self {
        Self {
            code: error.code,
            code_name: error.code_name,
            message: error.message,
            reply: kept(reply),
        }
    }
}

/// A reply, or what of it an error keeps.
fn kept(reply: &RawDocument) -> RawDocumentBuf {
    if reply.as_bytes().len() <= MAX_KEPT {
        return reply.to_owned();
    }
    let mut kept = RawDocumentBuf::new();
    let elements = reply.iter_elements().take(MAX_KEPT_FIELDS);
    for element in elements.map_while(Result::ok) {
        let room = MAX_KEPT.saturating_sub(kept.as_bytes().len());
        // A type, and the end of the name.
        if element.key().as_str().len() + element.size() + 2 <= room
            && let Ok(value) = element.value()
        {
            kept.append(element.key(), value);
        }
    }
    kept
}

/// What a document says of an error, in one pass and within bounds. What is malformed ends the pass.
fn server_error(document: &RawDocument) -> ServerError {
    let mut error = ServerError::default();
    let wanted = |key: &str| ServerError::wants(key) || key == "$err";
    for (key, value) in fields(document, wanted).map_while(|field| field) {
        match (key, value) {
            // Very old servers, and OP_REPLY's query failures.
            ("$err", value) if error.message.is_empty() => error.take("errmsg", value),
            _ => error.take(key, value),
        }
    }
    error
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
    let error = server_error(error);
    let mut labels = server_error(reply).labels;
    labels.extend(error.labels);
    labels.truncate(MAX_LABELS);
    WriteConcernError {
        code: error.code,
        code_name: error.code_name,
        message: error.message,
        labels,
    }
}
