//! The fields of a reply that this crate uses.

use bson::{RawBsonRef, RawDocument, RawDocumentBuf};

use super::document::{MIN_DOCUMENT, find_elements, find_first_elements};
use super::header::read_i32;
use crate::text::{MAX_LABELS, MAX_MESSAGE, MAX_NAME, printable};

/// The maximum number of elements that are read in a document within a reply.
const MAX_ELEMENTS: usize = 1024;
/// The maximum length of a reply that an error keeps whole, in bytes, and of a field of a longer
/// one.
const MAX_KEPT: usize = 1024 * 1024;
const MAX_KEPT_FIELD: usize = 4096;

/// The type of an element and the position of its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    kind: u8,
    at: usize,
}

/// The positions of the fields of a document that this crate uses. Of several fields with one name
/// the last counts.
///
/// They are collected in one pass, which [`Inspection`](super::Inspection) makes in steps. Reading
/// them later takes a time that does not depend on the reply's length or its number of elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReplyFields {
    ok: Option<Place>,
    code: Option<Place>,
    code_name: Option<Place>,
    message: Option<Place>,
    /// `$err`, from very old servers and query failures of OP_REPLY.
    old_message: Option<Place>,
    labels: Option<Place>,
    cluster_time: Option<Place>,
    write_errors: Option<Place>,
    write_concern_error: Option<Place>,
    topology_version: Option<Place>,
}

impl ReplyFields {
    /// The fields of a document, up to the point where it is malformed; and whether it is
    /// well-formed.
    pub(crate) fn of(document: &RawDocument) -> (Self, bool) {
        let mut fields = Self::default();
        let note = |name: &[u8], kind, at| fields.note(name, kind, at);
        let found = find_elements(document.as_bytes(), note);
        (fields, found.is_ok())
    }

    /// The fields among the first 1,024 elements of a document.
    pub(crate) fn of_beginning(document: &RawDocument) -> Self {
        let mut fields = Self::default();
        let note = |name: &[u8], kind, at| fields.note(name, kind, at);
        // Elements after a malformed one can't be found.
        let _ = find_first_elements(document.as_bytes(), MAX_ELEMENTS, note);
        fields
    }

    /// Takes an element of the document's top level.
    #[inline]
    pub(super) fn note(&mut self, name: &[u8], kind: u8, at: usize) {
        let field = match name {
            b"ok" => &mut self.ok,
            b"code" => &mut self.code,
            b"codeName" => &mut self.code_name,
            b"errmsg" => &mut self.message,
            b"$err" => &mut self.old_message,
            b"errorLabels" => &mut self.labels,
            b"$clusterTime" => &mut self.cluster_time,
            b"writeErrors" => &mut self.write_errors,
            b"writeConcernError" => &mut self.write_concern_error,
            b"topologyVersion" => &mut self.topology_version,
            _ => return,
        };
        *field = Some(Place { kind, at });
    }

    pub(crate) fn ok(&self, document: &RawDocument) -> Option<f64> {
        let place = self.ok?;
        as_number(document.as_bytes(), place.kind, place.at)
    }

    /// An error's code; 0 if there is none.
    pub(crate) fn code(&self, document: &RawDocument) -> i32 {
        let number = |place: Place| as_number(document.as_bytes(), place.kind, place.at);
        self.code.and_then(number).map_or(0, |code| code as i32)
    }

    pub(crate) fn code_name(&self, document: &RawDocument) -> String {
        printable(beginning(document, self.code_name, MAX_NAME), MAX_NAME)
    }

    pub(crate) fn message(&self, document: &RawDocument) -> String {
        match beginning(document, self.message, MAX_MESSAGE) {
            "" => printable(
                beginning(document, self.old_message, MAX_MESSAGE),
                MAX_MESSAGE,
            ),
            message => printable(message, MAX_MESSAGE),
        }
    }

    /// An error's labels: the strings among the list's first 16 elements.
    pub(crate) fn labels(&self, document: &RawDocument) -> Vec<String> {
        let mut labels = Vec::new();
        let Some(list) = container(document, self.labels, 0x04) else {
            return labels;
        };
        let take = |_: &[u8], kind, at| {
            let label = beginning(list, Some(Place { kind, at }), MAX_NAME);
            if !label.is_empty() {
                labels.push(printable(label, MAX_NAME));
            }
        };
        // Labels after a malformed one can't be read.
        let _ = find_first_elements(list.as_bytes(), MAX_LABELS, take);
        labels
    }

    #[cfg(feature = "net")]
    pub(crate) fn cluster_time<'a>(&self, document: &'a RawDocument) -> Option<&'a RawDocument> {
        container(document, self.cluster_time, 0x03)
    }

    #[cfg(feature = "net")]
    pub(crate) fn has_write_concern_error(&self) -> bool {
        self.write_concern_error.is_some()
    }

    pub(crate) fn write_concern_error<'a>(
        &self,
        document: &'a RawDocument,
    ) -> Option<&'a RawDocument> {
        container(document, self.write_concern_error, 0x03)
    }

    /// The first of `writeErrors`; `Some(None)` if it is not a document.
    pub(crate) fn first_write_error<'a>(
        &self,
        document: &'a RawDocument,
    ) -> Option<Option<&'a RawDocument>> {
        let list = container(document, self.write_errors, 0x04)?;
        let mut first = None;
        let note = |_: &[u8], kind, at| first = Some(Place { kind, at });
        match find_first_elements(list.as_bytes(), 1, note) {
            Ok(()) if first.is_none() => None,
            Ok(()) => Some(container(list, first, 0x03)),
            Err(_) => Some(None),
        }
    }

    /// The value of `topologyVersion`, unless it is too long to be valid.
    pub(crate) fn topology_version<'a>(
        &self,
        document: &'a RawDocument,
    ) -> Option<&'a RawDocument> {
        container(document, self.topology_version, 0x03)
            .filter(|version| version.as_bytes().len() <= MAX_KEPT_FIELD)
    }

    /// The reply that an error keeps: the whole reply, or only the error's fields if it is longer
    /// than 1 MiB.
    pub(crate) fn kept(&self, document: &RawDocument) -> RawDocumentBuf {
        if document.as_bytes().len() <= MAX_KEPT {
            return document.to_owned();
        }
        let mut kept = RawDocumentBuf::new();
        if let Some(ok) = self.ok(document) {
            kept.append(bson::raw::cstr!("ok"), ok);
        }
        kept.append(bson::raw::cstr!("errmsg"), self.message(document));
        kept.append(bson::raw::cstr!("code"), self.code(document));
        kept.append(bson::raw::cstr!("codeName"), self.code_name(document));
        let labels: bson::raw::RawArrayBuf = self.labels(document).into_iter().collect();
        kept.append(bson::raw::cstr!("errorLabels"), labels);
        if let Some(version) = self.topology_version(document) {
            kept.append(
                bson::raw::cstr!("topologyVersion"),
                RawBsonRef::Document(version),
            );
        }
        kept
    }
}

/// A number of any numeric type, or a boolean.
pub(crate) fn as_number(bytes: &[u8], kind: u8, at: usize) -> Option<f64> {
    let value = bytes.get(at..)?;
    Some(match kind {
        0x01 => f64::from_le_bytes(*value.first_chunk()?),
        0x08 => f64::from(*value.first()?),
        0x10 => f64::from(i32::from_le_bytes(*value.first_chunk()?)),
        0x12 => i64::from_le_bytes(*value.first_chunk()?) as f64,
        _ => return None,
    })
}

/// An integer.
pub(crate) fn as_integer(bytes: &[u8], kind: u8, at: usize) -> Option<i64> {
    let value = bytes.get(at..)?;
    Some(match kind {
        0x10 => i64::from(i32::from_le_bytes(*value.first_chunk()?)),
        0x12 => i64::from_le_bytes(*value.first_chunk()?),
        _ => return None,
    })
}

/// A string.
pub(crate) fn as_text(bytes: &[u8], kind: u8, at: usize) -> Option<&str> {
    let value = bytes.get(at..).filter(|_| kind == 0x02)?;
    // The length counts the NUL at the end.
    let length = usize::try_from(read_i32(value, 0).ok()?).ok()?;
    let text = value.get(4..4 + length.checked_sub(1)?)?;
    std::str::from_utf8(text).ok()
}

/// The document or array at this position.
pub(crate) fn embedded(bytes: &[u8], at: usize) -> Option<&RawDocument> {
    let value = bytes.get(at..)?;
    let length = usize::try_from(read_i32(value, 0).ok()?).ok()?;
    let value = value.get(..length.max(MIN_DOCUMENT))?;
    RawDocument::from_bytes(value).ok()
}

fn container(document: &RawDocument, place: Option<Place>, kind: u8) -> Option<&RawDocument> {
    let place = place.filter(|place| place.kind == kind)?;
    embedded(document.as_bytes(), place.at)
}

/// The valid UTF-8 at the beginning of a string, at most `max` bytes; empty if it is not a string.
fn beginning(document: &RawDocument, place: Option<Place>, max: usize) -> &str {
    let text = || {
        let place = place.filter(|place| place.kind == 0x02)?;
        let value = document.as_bytes().get(place.at..)?;
        // The length counts the NUL at the end.
        let length = usize::try_from(read_i32(value, 0).ok()?).ok()?;
        let text = value.get(4..4 + length.checked_sub(1)?.min(max))?;
        let valid = text.utf8_chunks().next()?.valid();
        Some(valid)
    };
    text().unwrap_or_default()
}
