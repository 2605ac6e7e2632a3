//! The errors that replies to commands report.

use bson::{RawDocument, RawDocumentBuf};

use crate::error::{CommandError, Error};
use crate::text::MAX_LABELS;
use crate::wire::{ReplyFields, WireError, as_number, find_element};
#[cfg(feature = "net")]
use crate::wire::{embedded, find_elements};

/// The `writeConcernError` of an otherwise successful reply to a write.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteConcernError {
    /// The server's error code; 0 if it sent none.
    pub code: i32,
    /// The code's name, at most 128 bytes; empty if the server sent none.
    pub code_name: String,
    /// The server's message, at most 1,024 bytes. Characters that are not printable are escaped.
    pub message: String,
    /// The labels of the reply and of the error: at most 16, each at most 128 bytes.
    pub labels: Vec<String>,
}

impl WriteConcernError {
    /// Converts it to the same error as a command's failure, since it counts the same for the
    /// server's state.
    fn into_error(self, reply: &RawDocument, fields: &ReplyFields) -> Error {
        let error = Error::from(CommandError {
            code: self.code,
            code_name: self.code_name,
            message: self.message,
            reply: fields.kept(reply),
        });
        self.labels.into_iter().fold(error, Error::with_label)
    }
}

/// Checks that a reply has `ok: 1`.
///
/// # Errors
/// `ok: 0` is a [`CommandError`] with the reply's labels. A reply without `ok` is a protocol error.
pub fn check_ok(reply: &RawDocument) -> Result<(), Error> {
    let bytes = reply.as_bytes();
    let ok = find_element(bytes, b"ok")?;
    let ok = ok.and_then(|(kind, at)| as_number(bytes, kind, at));
    judge(reply, ok, None)
}

/// The fields of a reply that a pool needs, read in one pass.
#[cfg(feature = "net")]
#[derive(Debug)]
pub(crate) struct Glance<'a> {
    /// The result of [`check_ok`].
    pub(crate) verdict: Result<(), Error>,
    /// The value of `$clusterTime`.
    pub(crate) cluster_time: Option<&'a RawDocument>,
    /// Whether there is a `writeConcernError`.
    pub(crate) has_write_concern_error: bool,
}

/// Reads what a reply says about its server. `fields` are known for a long reply.
#[cfg(feature = "net")]
pub(crate) fn glance<'a>(reply: &'a RawDocument, fields: Option<&ReplyFields>) -> Glance<'a> {
    if let Some(fields) = fields {
        return Glance {
            verdict: judge(reply, fields.ok(reply), Some(fields)),
            cluster_time: fields.cluster_time(reply),
            has_write_concern_error: fields.has_write_concern_error(),
        };
    }
    let bytes = reply.as_bytes();
    let (mut ok, mut cluster_time, mut has_write_concern_error) = (None, None, false);
    let found = find_elements(bytes, |name, kind, at| match name {
        b"ok" => ok = as_number(bytes, kind, at),
        b"$clusterTime" if kind == 0x03 => cluster_time = embedded(bytes, at),
        b"writeConcernError" => has_write_concern_error = true,
        _ => {}
    });
    Glance {
        verdict: found
            .map_err(Error::from)
            .and_then(|()| judge(reply, ok, None)),
        cluster_time,
        has_write_concern_error,
    }
}

fn judge(reply: &RawDocument, ok: Option<f64>, fields: Option<&ReplyFields>) -> Result<(), Error> {
    match ok {
        Some(1.0) => Ok(()),
        Some(_) => Err(command_error(reply, &known(reply, fields).0)),
        None => Err(WireError::NoOk.into()),
    }
}

/// The known fields of a reply, or else those that are found; and whether the reply could be read
/// to its end.
fn known(reply: &RawDocument, fields: Option<&ReplyFields>) -> (ReplyFields, bool) {
    match fields {
        Some(fields) => (*fields, true),
        None => ReplyFields::of(reply),
    }
}

fn command_error(reply: &RawDocument, fields: &ReplyFields) -> Error {
    let error = told(reply, fields, fields.labels(reply));
    error.into_error(reply, fields)
}

/// Checks that an insert, update or delete succeeded completely.
///
/// # Errors
/// A [`CommandError`] for the first of the reply's `writeErrors`, or else for its
/// `writeConcernError`, with its labels.
pub fn check_write(reply: &RawDocument) -> Result<(), Error> {
    check_write_of(reply, None)
}

/// [`check_write`] of a reply whose `fields` may be known.
pub(crate) fn check_write_of(
    reply: &RawDocument,
    fields: Option<&ReplyFields>,
) -> Result<(), Error> {
    let (fields, is_whole) = known(reply, fields);
    let error = match fields.first_write_error(reply) {
        Some(Some(error)) => Some(inner(error, reply, &fields)),
        // The write error can't be read, but is an error nevertheless.
        Some(None) => Some(inner(&RawDocumentBuf::new(), reply, &fields)),
        None if !is_whole => Some(inner(&RawDocumentBuf::new(), reply, &fields)),
        None => told_of_write_concern(reply, &fields),
    };
    match error {
        Some(error) => Err(error.into_error(reply, &fields)),
        None => Ok(()),
    }
}

/// Whether [`check_write_of`] tells of a `writeConcernError`, and not of `writeErrors`.
#[cfg(feature = "net")]
pub(crate) fn lacks_write_errors(reply: &RawDocument, fields: Option<&ReplyFields>) -> bool {
    let (fields, is_whole) = known(reply, fields);
    is_whole && fields.first_write_error(reply).is_none()
}

/// The `writeConcernError` of a reply, where it has one.
pub fn write_concern_error(reply: &RawDocument) -> Option<WriteConcernError> {
    told_of_write_concern(reply, &known(reply, None).0)
}

/// [`write_concern_error`] of a reply whose `fields` may be known.
#[cfg(feature = "net")]
pub(crate) fn write_concern_error_of(
    reply: &RawDocument,
    fields: Option<&ReplyFields>,
) -> Option<WriteConcernError> {
    told_of_write_concern(reply, &known(reply, fields).0)
}

/// The `writeConcernError` of a reply, as the same error as a command's failure.
pub(crate) fn write_concern_failure(
    reply: &RawDocument,
    fields: Option<&ReplyFields>,
) -> Option<Error> {
    let (fields, _) = known(reply, fields);
    let error = told_of_write_concern(reply, &fields)?;
    Some(error.into_error(reply, &fields))
}

fn told_of_write_concern(reply: &RawDocument, fields: &ReplyFields) -> Option<WriteConcernError> {
    let error = fields.write_concern_error(reply)?;
    Some(inner(error, reply, fields))
}

/// The error within a reply, with the labels of both.
fn inner(error: &RawDocument, reply: &RawDocument, fields: &ReplyFields) -> WriteConcernError {
    let own = ReplyFields::of_beginning(error);
    let mut labels = fields.labels(reply);
    labels.extend(own.labels(error));
    labels.truncate(MAX_LABELS);
    told(error, &own, labels)
}

/// The error that a document describes.
fn told(error: &RawDocument, fields: &ReplyFields, labels: Vec<String>) -> WriteConcernError {
    WriteConcernError {
        code: fields.code(error),
        code_name: fields.code_name(error),
        message: fields.message(error),
        labels,
    }
}

#[cfg(test)]
mod tests;
