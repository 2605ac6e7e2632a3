//! MONGODB-OIDC: an OpenID Connect access token, in a one-step conversation.

use std::mem;

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::rawdoc;

use super::sasl::{self, Place, SaslReply};
use super::{AuthError, AuthMechanism, AuthNeed, AuthStep, Secret};

const MECHANISM: AuthMechanism = AuthMechanism::MongoDbOidc;

/// The server refuses the user or the token.
const AUTHENTICATION_FAILED: i32 = 18;

/// Sends at most two tokens: one from the cache and, if the server refuses that, another one.
pub(super) struct OidcConversation(State);

enum State {
    New,
    /// A token from the cache was sent with the hello.
    Speculating,
    /// A token was requested. `may_ask_again`: another one may be requested if this one is from the
    /// cache and refused.
    Wanted {
        may_ask_again: bool,
    },
    /// A token was sent.
    Sent {
        token: Secret,
        may_ask_again: bool,
    },
    Over,
}

impl OidcConversation {
    pub(super) fn new() -> Self {
        Self(State::New)
    }

    /// Requests a token.
    pub(super) fn begin(&mut self) -> Result<AuthStep, AuthError> {
        match mem::replace(&mut self.0, State::Over) {
            State::New => Ok(self.ask(None, true)),
            _ => Err(AuthError::OutOfOrder),
        }
    }

    /// The command for the hello.
    pub(super) fn speculate(&mut self, token: &Secret) -> RawDocumentBuf {
        self.0 = State::Speculating;
        command(token)
    }

    pub(super) fn handle_token(
        &mut self,
        token: Secret,
        is_cached: bool,
    ) -> Result<AuthStep, AuthError> {
        match mem::replace(&mut self.0, State::Over) {
            State::Wanted { may_ask_again } => {
                let command = command(&token);
                self.0 = State::Sent {
                    token,
                    may_ask_again: may_ask_again && is_cached,
                };
                Ok(AuthStep::Send(command))
            }
            _ => Err(AuthError::OutOfOrder),
        }
    }

    pub(super) fn handle(
        &mut self,
        reply: &RawDocument,
        place: Place,
    ) -> Result<AuthStep, AuthError> {
        let read = SaslReply::read(MECHANISM, reply, place, None);
        match (mem::replace(&mut self.0, State::Over), read) {
            (State::Speculating | State::Sent { .. }, Ok(reply)) if reply.done => {
                Ok(AuthStep::Done)
            }
            // A failed speculative authentication does not mean that the token is invalid.
            (State::Speculating, _) => Ok(self.ask(None, true)),
            (
                State::Sent {
                    token,
                    may_ask_again: true,
                },
                Err(AuthError::Refused {
                    code: AUTHENTICATION_FAILED,
                    ..
                }),
            ) => Ok(self.ask(Some(token), false)),
            (State::Sent { .. }, Ok(_)) => Err(AuthError::NotDone(MECHANISM)),
            (State::Sent { .. }, Err(error)) => Err(error),
            (State::New | State::Wanted { .. } | State::Over, _) => Err(AuthError::OutOfOrder),
        }
    }

    fn ask(&mut self, refused: Option<Secret>, may_ask_again: bool) -> AuthStep {
        self.0 = State::Wanted { may_ask_again };
        AuthStep::Need(AuthNeed::AccessToken { refused })
    }

    /// The conversation's current step, for `Debug`.
    pub(super) fn position(&self) -> &'static str {
        match self.0 {
            State::New => "new",
            State::Speculating => "speculative token",
            State::Wanted { .. } => "waiting for a token",
            State::Sent { .. } => "token",
            State::Over => "over",
        }
    }
}

fn command(token: &Secret) -> RawDocumentBuf {
    let payload = rawdoc! { "jwt": token.expose() };
    sasl::start(MECHANISM, payload.as_bytes())
}
