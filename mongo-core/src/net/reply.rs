use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bson::{Document, RawDocument, RawDocumentBuf};
use serde::Deserialize;

use super::connection::Identity;
use crate::error::{Error, ErrorKind, Result};
use crate::wire::{self, WriteConcernError};

/// The answer to a command, borrowed from the connection's buffer until the next command.
///
/// Dereferences to the raw document.
#[derive(Clone, Copy)]
pub struct Reply<'a> {
    body: &'a RawDocument,
    identity: &'a Identity,
}

impl<'a> Reply<'a> {
    pub(super) fn new(body: &'a RawDocument, identity: &'a Identity) -> Self {
        Self { body, identity }
    }

    /// The raw document, borrowed.
    pub fn raw(&self) -> &'a RawDocument {
        self.body
    }

    /// The raw document, owned.
    pub fn into_owned(self) -> RawDocumentBuf {
        self.body.to_owned()
    }

    /// The whole reply as a [`Document`].
    ///
    /// # Errors
    /// [`ErrorKind::Deserialization`] where the server sent malformed BSON.
    pub fn to_document(&self) -> Result<Document> {
        Document::try_from(self.body).map_err(|error| self.unreadable(error))
    }

    /// The reply as any type that serde can read; strings and bytes may be borrowed.
    ///
    /// # Errors
    /// [`ErrorKind::Deserialization`] where the reply is not of that type. The connection stays
    /// usable.
    pub fn deserialize<T: Deserialize<'a>>(&self) -> Result<T> {
        bson::deserialize_from_slice(self.body.as_bytes()).map_err(|error| self.unreadable(error))
    }

    /// Whether an insert, update or delete was done as it was asked: the server says `ok: 1` to one
    /// that changed nothing, too, because a key was there already or a document was refused.
    ///
    /// # Errors
    /// [`ErrorKind::Command`], with the code and the message of the first of the reply's
    /// `writeErrors`, or else of its `writeConcernError`. The whole reply is in it; what else it says
    /// was done.
    pub fn check_write(&self) -> Result<()> {
        wire::check_write(self.body)
            .map_err(|error| self.identity.label_write_error(self.identity.name(error)))
    }

    /// The error of a write that was done but not acknowledged as its write concern asks.
    pub fn write_concern_error(&self) -> Option<WriteConcernError> {
        wire::write_concern_error(self.body)
    }

    fn unreadable(&self, error: bson::error::Error) -> Error {
        self.identity
            .name(ErrorKind::Deserialization(Arc::new(error)))
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
