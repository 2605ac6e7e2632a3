//! The SASL commands `saslStart` and `saslContinue`, and their replies.

use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf, cstr};
use bson::spec::BinarySubtype;
use bson::{RawBinaryRef, rawdoc};

use super::reply::{ServerError, fields, integer, is_ok};
use super::{AuthError, AuthMechanism};

/// The server's conversation id, sent back with the BSON type that it came with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum ConversationId {
    Int32(i32),
    Int64(i64),
    Double(f64),
}

/// Where a reply comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A command's own reply, which has an `ok`.
    Command,
    /// The field `speculativeAuthenticate` of the hello's reply, which has no `ok`.
    Hello,
}

/// A reply with `ok: 1`.
pub(super) struct SaslReply<'a> {
    pub(super) id: ConversationId,
    pub(super) done: bool,
    pub(super) payload: &'a [u8],
}

impl<'a> SaslReply<'a> {
    /// Reads a reply. `expected` is the id of a conversation that continues.
    pub(super) fn read(
        mechanism: AuthMechanism,
        reply: &'a RawDocument,
        place: Place,
        expected: Option<ConversationId>,
    ) -> Result<Self, AuthError> {
        let invalid = |field| AuthError::Reply { mechanism, field };
        let (mut id, mut done, mut payload) = (None, None, None);
        check(mechanism, reply, place, |key, value| match key {
            "conversationId" => id = ConversationId::from_bson(value),
            "done" => done = value.as_bool(),
            "payload" => payload = value.as_binary().and_then(generic),
            _ => {}
        })?;
        let id = id.ok_or(invalid("conversationId"))?;
        if expected.is_some_and(|expected| expected != id) {
            return Err(AuthError::ConversationId(mechanism));
        }
        Ok(Self {
            id,
            done: done.ok_or(invalid("done"))?,
            payload: payload.ok_or(invalid("payload"))?,
        })
    }
}

/// Checks that the command succeeded. `take` gets the fields of SASL.
pub(super) fn check<'a>(
    mechanism: AuthMechanism,
    reply: &'a RawDocument,
    place: Place,
    mut take: impl FnMut(&str, RawBsonRef<'a>),
) -> Result<(), AuthError> {
    let invalid = |field| AuthError::Reply { mechanism, field };
    let wanted = |key: &str| {
        matches!(key, "ok" | "conversationId" | "done" | "payload") || ServerError::wants(key)
    };
    let mut ok = None;
    let mut error = ServerError::default();
    for field in fields(reply, wanted) {
        let (key, value) = field.ok_or(invalid("BSON"))?;
        match key {
            "ok" => ok = is_ok(value),
            "conversationId" | "done" | "payload" => take(key, value),
            _ => error.take(key, value),
        }
    }
    match (ok, place) {
        (Some(true), _) | (None, Place::Hello) => Ok(()),
        (Some(false), _) => Err(AuthError::refused(mechanism, error)),
        (None, Place::Command) => Err(invalid("ok")),
    }
}

/// The first command, for the authentication database.
pub(super) fn start(mechanism: AuthMechanism, payload: &[u8]) -> RawDocumentBuf {
    rawdoc! {
        "saslStart": 1,
        "mechanism": mechanism.as_str(),
        "payload": binary(payload),
    }
}

/// Each later command.
pub(super) fn continuation(id: ConversationId, payload: &[u8]) -> RawDocumentBuf {
    let mut command = RawDocumentBuf::new();
    command.append(cstr!("saslContinue"), 1);
    command.append(cstr!("conversationId"), id);
    command.append(cstr!("payload"), binary(payload));
    command
}

pub(super) fn binary(bytes: &[u8]) -> RawBsonRef<'_> {
    RawBsonRef::Binary(RawBinaryRef {
        subtype: BinarySubtype::Generic,
        bytes,
    })
}

fn generic(binary: RawBinaryRef<'_>) -> Option<&[u8]> {
    (binary.subtype == BinarySubtype::Generic).then_some(binary.bytes)
}

impl AuthError {
    pub(crate) fn refused(mechanism: AuthMechanism, error: ServerError) -> Self {
        Self::Refused {
            mechanism,
            code: error.code,
            code_name: error.code_name,
            message: error.message,
            labels: error.labels,
        }
    }
}

impl ConversationId {
    fn from_bson(value: RawBsonRef<'_>) -> Option<Self> {
        match value {
            RawBsonRef::Int32(id) => Some(Self::Int32(id)),
            RawBsonRef::Int64(id) => Some(Self::Int64(id)),
            RawBsonRef::Double(id) if integer(value).is_some() => Some(Self::Double(id)),
            _ => None,
        }
    }
}

impl From<ConversationId> for RawBsonRef<'_> {
    fn from(id: ConversationId) -> Self {
        match id {
            ConversationId::Int32(id) => Self::Int32(id),
            ConversationId::Int64(id) => Self::Int64(id),
            ConversationId::Double(id) => Self::Double(id),
        }
    }
}
