//! SCRAM inside `saslStart` and `saslContinue`.

use std::mem;
use std::sync::Arc;

use bson::raw::{RawDocument, RawDocumentBuf, cstr};
use bson::rawdoc;

use super::sasl::{self, ConversationId, Place, SaslReply};
use super::scram::{Challenge, ClientFirst, ExpectedProof};
use super::{
    AuthError, AuthNeed, AuthStep, Credential, Nonce, ScramError, ScramKeys, ScramMechanism,
};

/// A conversation of at most three exchanges: the first message, the final message, and the empty
/// one that servers before 4.4 need.
pub(in crate::auth) struct ScramConversation {
    mechanism: ScramMechanism,
    credential: Arc<Credential>,
    state: State,
}

enum State {
    /// The first message is being sent.
    First(ClientFirst),
    /// The keys for the server's challenge are needed.
    Keys(ConversationId, Challenge),
    /// The final message is being sent.
    Final(ConversationId, ExpectedProof),
    /// The server's signature is verified; only the empty exchange is left.
    Empty(ConversationId),
    /// Ended, with or without success.
    Over,
}

impl ScramConversation {
    pub(in crate::auth) fn new(
        mechanism: ScramMechanism,
        credential: Arc<Credential>,
        nonce: Nonce,
    ) -> Self {
        let username = credential.username().map_or("", |name| name);
        let first = ClientFirst::new(mechanism, username, nonce);
        Self {
            mechanism,
            credential,
            state: State::First(first),
        }
    }

    /// The `saslStart` command. Each call returns the same.
    pub(in crate::auth) fn start(&self) -> Result<RawDocumentBuf, AuthError> {
        let State::First(first) = &self.state else {
            return Err(AuthError::OutOfOrder);
        };
        let mut command = sasl::start(self.mechanism.into(), first.message().as_bytes());
        command.append(cstr!("options"), rawdoc! { "skipEmptyExchange": true });
        Ok(command)
    }

    pub(in crate::auth) fn handle_keys(&mut self, keys: &ScramKeys) -> Result<AuthStep, AuthError> {
        match mem::replace(&mut self.state, State::Over) {
            State::Keys(id, challenge) => {
                let (message, expected) =
                    challenge.answer(keys).map_err(|error| self.scram(error))?;
                self.state = State::Final(id, expected);
                Ok(AuthStep::Send(sasl::continuation(id, message.as_bytes())))
            }
            State::First(_) | State::Final(..) | State::Empty(_) | State::Over => {
                Err(AuthError::OutOfOrder)
            }
        }
    }

    pub(in crate::auth) fn handle(
        &mut self,
        reply: &RawDocument,
        place: Place,
    ) -> Result<AuthStep, AuthError> {
        let mechanism = self.mechanism.into();
        let read = |id| SaslReply::read(mechanism, reply, place, id);
        // Any failure from here on ends the conversation.
        match mem::replace(&mut self.state, State::Over) {
            State::First(first) => self.challenged(first, &read(None)?),
            State::Final(id, expected) => {
                let reply = read(Some(id))?;
                expected
                    .server_final(reply.payload)
                    .map_err(|error| self.scram(error))?;
                if reply.done {
                    return Ok(AuthStep::Done);
                }
                self.state = State::Empty(id);
                Ok(AuthStep::Send(sasl::continuation(id, b"")))
            }
            State::Empty(id) => match read(Some(id))?.done {
                true => Ok(AuthStep::Done),
                false => Err(self.scram(ScramError::NotDone)),
            },
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
        Ok(AuthStep::Need(AuthNeed::ScramKeys(derivation)))
    }

    fn scram(&self, error: ScramError) -> AuthError {
        AuthError::Scram {
            mechanism: self.mechanism,
            error,
        }
    }

    /// The conversation's current step, for `Debug`.
    pub(in crate::auth) fn position(&self) -> &'static str {
        match &self.state {
            State::First(_) => "first message",
            State::Keys(..) => "keys",
            State::Final(..) => "final message",
            State::Empty(_) => "empty exchange",
            State::Over => "over",
        }
    }
}
