//! SCRAM inside MongoDB's `saslStart` and `saslContinue`.

use std::fmt;
use std::mem;
use std::sync::Arc;

use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf, cstr};
use bson::spec::BinarySubtype;
use bson::{RawBinaryRef, rawdoc};

use super::reply::{ServerError, fields, integer, is_ok};
use super::scram::{Challenge, ClientFirst, ExpectedProof};
use super::{
    AuthError, AuthMechanism, Credential, KeyDerivation, Nonce, ScramError, ScramKeys,
    ScramMechanism,
};

/// What a conversation asks for next.
#[derive(Debug)]
pub enum AuthStep {
    /// Send a command to the authentication database, and give the reply to
    /// [`Conversation::handle_reply`]. The command has no `$db` yet.
    Send(RawDocumentBuf),
    /// Derive the keys, or take them from a cache, and give them to
    /// [`Conversation::handle_keys`].
    Derive(KeyDerivation),
    /// The server knows the user, and proved that it does.
    Done,
}

/// One SCRAM conversation with a server, as a state machine without I/O.
///
/// It has at most three exchanges: the first message, the final one, and the empty one that
/// servers before 4.4 need. After an error, each further call fails with
/// [`AuthError::OutOfOrder`].
pub struct Conversation {
    mechanism: ScramMechanism,
    credential: Arc<Credential>,
    state: State,
}

enum State {
    /// The first message is being sent.
    First(ClientFirst),
    /// The server's challenge waits for the keys.
    Keys(ConversationId, Challenge),
    /// The final message is being sent.
    Final(ConversationId, ExpectedProof),
    /// The server has proved itself; only the empty exchange is left.
    Empty(ConversationId),
    /// Over, well or badly.
    Over,
}

/// The number by which the server knows the conversation, sent back as the type that it came in.
#[derive(Clone, Copy, PartialEq)]
enum ConversationId {
    Int32(i32),
    Int64(i64),
    Double(f64),
}

struct SaslReply<'a> {
    id: ConversationId,
    done: bool,
    payload: &'a [u8],
}

impl Conversation {
    /// A conversation about a credential that was found valid.
    ///
    /// # Errors
    /// [`AuthError::Credential`] if the credential is not complete.
    pub fn new(
        mechanism: ScramMechanism,
        credential: Arc<Credential>,
        nonce: Nonce,
    ) -> Result<Self, AuthError> {
        credential.validate()?;
        let username = credential.username().map_or("", |name| name);
        let first = ClientFirst::new(mechanism, username, nonce);
        Ok(Self {
            mechanism,
            credential,
            state: State::First(first),
        })
    }

    /// The mechanism.
    pub fn mechanism(&self) -> ScramMechanism {
        self.mechanism
    }

    /// The `saslStart` command. Any number of calls give the same.
    ///
    /// # Errors
    /// [`AuthError::OutOfOrder`] after the server's first reply.
    pub fn start(&self) -> Result<RawDocumentBuf, AuthError> {
        let State::First(first) = &self.state else {
            return Err(AuthError::OutOfOrder);
        };
        Ok(rawdoc! {
            "saslStart": 1,
            "mechanism": self.mechanism.name(),
            "payload": binary(first.message()),
            "options": { "skipEmptyExchange": true },
        })
    }

    /// The `saslStart` command as `speculativeAuthenticate` of the handshake takes it: with the
    /// authentication database in it.
    ///
    /// # Errors
    /// [`AuthError::OutOfOrder`] after the server's first reply.
    pub fn speculative_start(&self) -> Result<RawDocumentBuf, AuthError> {
        let mut command = self.start()?;
        command.append(cstr!("db"), self.credential.source_or_default());
        Ok(command)
    }

    /// Takes the reply to the last command, `ok: 0` included.
    ///
    /// # Errors
    /// [`AuthError`] says what is wrong with it.
    pub fn handle_reply(&mut self, reply: &RawDocument) -> Result<AuthStep, AuthError> {
        self.handle(reply, true)
    }

    /// Takes the `speculativeAuthenticate` field of the handshake's reply, which has no `ok`.
    ///
    /// # Errors
    /// [`AuthError`] says what is wrong with it.
    pub fn handle_speculative_reply(&mut self, reply: &RawDocument) -> Result<AuthStep, AuthError> {
        self.handle(reply, false)
    }

    /// Takes the keys that an [`AuthStep::Derive`] asked for.
    ///
    /// # Errors
    /// [`AuthError::OutOfOrder`] if none did, [`ScramError::Keys`] if they are another
    /// mechanism's.
    pub fn handle_keys(&mut self, keys: &ScramKeys) -> Result<AuthStep, AuthError> {
        match mem::replace(&mut self.state, State::Over) {
            State::Keys(id, challenge) => {
                let (message, expected) =
                    challenge.answer(keys).map_err(|error| self.scram(error))?;
                self.state = State::Final(id, expected);
                Ok(AuthStep::Send(continuation(id, &message)))
            }
            State::First(_) | State::Final(..) | State::Empty(_) | State::Over => {
                Err(AuthError::OutOfOrder)
            }
        }
    }

    fn handle(&mut self, reply: &RawDocument, with_ok: bool) -> Result<AuthStep, AuthError> {
        // Whatever fails from here on leaves the conversation over.
        match mem::replace(&mut self.state, State::Over) {
            State::First(first) => {
                let reply = self.read(reply, with_ok, None)?;
                self.challenged(first, &reply)
            }
            State::Final(id, expected) => {
                let reply = self.read(reply, with_ok, Some(id))?;
                expected
                    .server_final(reply.payload)
                    .map_err(|error| self.scram(error))?;
                if reply.done {
                    return Ok(AuthStep::Done);
                }
                self.state = State::Empty(id);
                Ok(AuthStep::Send(continuation(id, "")))
            }
            State::Empty(id) => {
                let reply = self.read(reply, with_ok, Some(id))?;
                match reply.done {
                    true => Ok(AuthStep::Done),
                    false => Err(self.scram(ScramError::NotDone)),
                }
            }
            State::Keys(..) | State::Over => Err(AuthError::OutOfOrder),
        }
    }

    fn challenged(
        &mut self,
        first: ClientFirst,
        reply: &SaslReply<'_>,
    ) -> Result<AuthStep, AuthError> {
        if reply.done {
            return Err(self.scram(ScramError::DoneTooEarly));
        }
        let username = self.credential.username().map_or("", |name| name);
        let password = self
            .credential
            .password()
            .map_or("", |secret| secret.expose());
        let (challenge, derivation) = first
            .server_first(reply.payload, username, password)
            .map_err(|error| self.scram(error))?;
        self.state = State::Keys(reply.id, challenge);
        Ok(AuthStep::Derive(derivation))
    }

    fn read<'a>(
        &self,
        reply: &'a RawDocument,
        with_ok: bool,
        expected: Option<ConversationId>,
    ) -> Result<SaslReply<'a>, AuthError> {
        let mechanism = self.mechanism.into();
        let invalid = |field| AuthError::Reply { mechanism, field };
        let wanted = |key: &str| {
            matches!(key, "ok" | "conversationId" | "done" | "payload") || ServerError::wants(key)
        };
        let (mut ok, mut id, mut done, mut payload) = (None, None, None, None);
        let mut error = ServerError::default();
        for field in fields(reply, wanted) {
            let (key, value) = field.ok_or(invalid("BSON"))?;
            match key {
                "ok" => ok = is_ok(value),
                "conversationId" => id = ConversationId::from_bson(value),
                "done" => done = value.as_bool(),
                "payload" => payload = value.as_binary().and_then(generic),
                _ => error.take(key, value),
            }
        }
        match ok {
            Some(true) => {}
            None if !with_ok => {}
            Some(false) => return Err(AuthError::refused(mechanism, error)),
            None => return Err(invalid("ok")),
        }
        let id = id.ok_or(invalid("conversationId"))?;
        if expected.is_some_and(|expected| expected != id) {
            return Err(AuthError::ConversationId(mechanism));
        }
        Ok(SaslReply {
            id,
            done: done.ok_or(invalid("done"))?,
            payload: payload.ok_or(invalid("payload"))?,
        })
    }

    fn scram(&self, error: ScramError) -> AuthError {
        AuthError::Scram {
            mechanism: self.mechanism,
            error,
        }
    }
}

impl fmt::Debug for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::First(_) => "first message",
            State::Keys(..) => "keys",
            State::Final(..) => "final message",
            State::Empty(_) => "empty exchange",
            State::Over => "over",
        };
        f.debug_struct("Conversation")
            .field("mechanism", &self.mechanism)
            .field("state", &state)
            .finish_non_exhaustive()
    }
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

fn continuation(id: ConversationId, message: &str) -> RawDocumentBuf {
    let mut command = RawDocumentBuf::new();
    command.append(cstr!("saslContinue"), 1);
    command.append(cstr!("conversationId"), id);
    command.append(cstr!("payload"), binary(message));
    command
}

fn binary(message: &str) -> RawBsonRef<'_> {
    RawBsonRef::Binary(RawBinaryRef {
        subtype: BinarySubtype::Generic,
        bytes: message.as_bytes(),
    })
}

fn generic(binary: RawBinaryRef<'_>) -> Option<&[u8]> {
    (binary.subtype == BinarySubtype::Generic).then_some(binary.bytes)
}
