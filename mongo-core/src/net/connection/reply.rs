use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bson::{Document, RawDocument, RawDocumentBuf};
use serde::Deserialize;

use super::Identity;
use crate::ServerAddress;
use crate::error::{Error, ErrorKind, Result};
use crate::reply::{self, WriteConcernError};
use crate::text::printable;
use crate::wire::ReplyFields;

/// The reply to a command, borrowed from the connection's buffer until the next command.
///
/// Dereferences to the raw document.
#[derive(Clone, Copy)]
pub struct Reply<'a> {
    body: &'a RawDocument,
    /// For a long reply: the positions of the fields that hold the command's outcome.
    fields: Option<&'a ReplyFields>,
    identity: &'a Identity,
}

impl<'a> Reply<'a> {
    pub(crate) fn new(
        body: &'a RawDocument,
        fields: Option<&'a ReplyFields>,
        identity: &'a Identity,
    ) -> Self {
        Self {
            body,
            fields,
            identity,
        }
    }

    /// The raw document, borrowed.
    pub fn raw(&self) -> &'a RawDocument {
        self.body
    }

    /// The reply, owned.
    pub fn into_owned(self) -> OwnedReply {
        OwnedReply {
            body: self.body.to_owned(),
            server: self.identity.server.clone(),
            user: self.identity.user.clone(),
            labels_write_concern_errors: self.identity.labels_write_concern_errors(),
        }
    }

    /// The whole reply as a [`Document`].
    ///
    /// # Errors
    /// [`ErrorKind::Deserialization`] if the server sent malformed BSON.
    pub fn to_document(&self) -> Result<Document> {
        Document::try_from(self.body).map_err(|error| self.unreadable(error))
    }

    /// The reply as any type that serde can deserialise. Strings and bytes may be borrowed.
    ///
    /// # Errors
    /// [`ErrorKind::Deserialization`] if the reply does not match that type. The connection stays
    /// usable.
    pub fn deserialize<T: Deserialize<'a>>(&self) -> Result<T> {
        bson::deserialize_from_slice(self.body.as_bytes()).map_err(|error| self.unreadable(error))
    }

    /// Checks that an insert, update or delete succeeded. The server replies `ok: 1` even if the
    /// write failed because of a duplicate key or a rejected document.
    ///
    /// # Errors
    /// [`ErrorKind::Command`], with the code and the message of the first of the reply's
    /// `writeErrors`, or else of its `writeConcernError`. The error contains the reply (see
    /// [`CommandError::reply`](crate::error::CommandError::reply)), which also lists the writes
    /// that succeeded.
    pub fn check_write(&self) -> Result<()> {
        let is_labelled = self.identity.labels_write_concern_errors();
        check_write(self.body, self.fields, is_labelled).map_err(|error| self.identity.name(error))
    }

    /// The error of a write that was done, but not acknowledged as its write concern requires.
    pub fn write_concern_error(&self) -> Option<WriteConcernError> {
        reply::write_concern_error_of(self.body, self.fields)
    }

    /// The write concern error as an [`Error`], for what it says about the server.
    pub(crate) fn write_concern_failure(&self) -> Option<Error> {
        let error = reply::write_concern_failure(self.body, self.fields)?;
        Some(self.identity.name(error))
    }

    fn unreadable(&self, error: bson::error::Error) -> Error {
        self.identity.name(unreadable(error))
    }
}

/// [`reply::check_write`], with the label of a `writeConcernError` where the client adds it.
///
/// Specification: retryable writes, "RetryableWriteError Labels".
fn check_write(reply: &RawDocument, fields: Option<&ReplyFields>, is_labelled: bool) -> Result<()> {
    reply::check_write_of(reply, fields).map_err(|error| {
        match is_labelled && reply::lacks_write_errors(reply, fields) {
            true => error.of_write_concern(),
            false => error,
        }
    })
}

/// The longest text of an error about a reply's type, in bytes: it may quote a value of the reply.
const MAX_QUOTED: usize = 1024;

fn unreadable(error: bson::error::Error) -> ErrorKind {
    let text = error.to_string();
    let error = match text.len() > MAX_QUOTED {
        true => serde::de::Error::custom(printable(&text, MAX_QUOTED)),
        false => error,
    };
    ErrorKind::Deserialization(Arc::new(error))
}

/// The owned reply to a command. Like those of [`Reply`], its errors name the server and the user.
///
/// Dereferences to the raw document.
#[must_use = "a write that failed has a reply too: call `check_write`"]
#[derive(Clone)]
pub struct OwnedReply {
    body: RawDocumentBuf,
    server: ServerAddress,
    user: Option<Arc<str>>,
    labels_write_concern_errors: bool,
}

impl OwnedReply {
    /// The raw document.
    pub fn into_raw(self) -> RawDocumentBuf {
        self.body
    }

    /// See [`Reply::to_document`].
    ///
    /// # Errors
    /// As there.
    pub fn to_document(&self) -> Result<Document> {
        Document::try_from(&*self.body).map_err(|error| self.name(unreadable(error)))
    }

    /// See [`Reply::deserialize`].
    ///
    /// # Errors
    /// As there.
    pub fn deserialize<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        bson::deserialize_from_slice(self.body.as_bytes())
            .map_err(|error| self.name(unreadable(error)))
    }

    /// See [`Reply::check_write`].
    ///
    /// # Errors
    /// As there.
    pub fn check_write(&self) -> Result<()> {
        let is_labelled = self.labels_write_concern_errors;
        check_write(&self.body, None, is_labelled).map_err(|error| self.name(error))
    }

    /// See [`Reply::write_concern_error`].
    pub fn write_concern_error(&self) -> Option<WriteConcernError> {
        reply::write_concern_error(&self.body)
    }

    fn name(&self, error: impl Into<Error>) -> Error {
        error.into().at(&self.server).for_user(self.user.as_ref())
    }
}

impl Deref for OwnedReply {
    type Target = RawDocumentBuf;

    fn deref(&self) -> &RawDocumentBuf {
        &self.body
    }
}

impl From<OwnedReply> for RawDocumentBuf {
    fn from(reply: OwnedReply) -> Self {
        reply.body
    }
}

impl PartialEq<RawDocumentBuf> for OwnedReply {
    fn eq(&self, other: &RawDocumentBuf) -> bool {
        self.body == *other
    }
}

impl PartialEq<OwnedReply> for RawDocumentBuf {
    fn eq(&self, other: &OwnedReply) -> bool {
        *self == other.body
    }
}

impl fmt::Debug for OwnedReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.body, f)
    }
}

impl Deref for Reply<'_> {
    type Target = RawDocument;

    fn deref(&self) -> &RawDocument {
        self.body
    }
}

impl fmt::Debug for Reply<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.body, f)
    }
}
