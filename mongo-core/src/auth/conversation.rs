//! One authentication conversation with a server, for any mechanism.

use std::sync::Arc;
use std::time::SystemTime;
use std::{fmt, mem};

use bson::raw::{RawDocument, RawDocumentBuf, cstr};

use super::aws::AwsConversation;
use super::oidc::OidcConversation;
use super::sasl::Place;
use super::scram_conversation::ScramConversation;
use super::{
    AuthError, AuthMechanism, AuthStep, AwsCredentials, Credential, Nonce, ScramKeys,
    ScramMechanism, Secret, plain, x509,
};

/// The evidence for an [`AuthNeed`](super::AuthNeed). `Debug` shows no secret.
#[derive(Debug)]
#[non_exhaustive]
pub enum Evidence {
    /// For [`AuthNeed::ScramKeys`](super::AuthNeed::ScramKeys).
    ScramKeys(ScramKeys),
    /// For [`AuthNeed::AccessToken`](super::AuthNeed::AccessToken).
    AccessToken {
        /// The token.
        token: Secret,
        /// Whether it is from a cache. If the server refuses a cached token, the conversation
        /// requests another one.
        is_cached: bool,
    },
    /// For [`AuthNeed::AwsCredentials`](super::AuthNeed::AwsCredentials).
    AwsCredentials {
        /// The credentials.
        credentials: AwsCredentials,
        /// The current time. AWS accepts only signatures of the last few minutes.
        now: SystemTime,
    },
}

/// One conversation with a server, as a state machine without I/O.
///
/// It has at most three exchanges. After an error, each further call fails with
/// [`AuthError::OutOfOrder`].
pub struct Conversation {
    mechanism: AuthMechanism,
    credential: Arc<Credential>,
    state: State,
}

enum State {
    Scram(ScramConversation),
    /// MONGODB-X509, before its only command.
    X509,
    /// MONGODB-X509, its only command sent.
    X509Sent,
    /// PLAIN, before its only command.
    Plain,
    /// PLAIN, its only command sent.
    PlainSent,
    Oidc(OidcConversation),
    Aws(AwsConversation),
    /// Ended, with or without success.
    Over,
}

impl Conversation {
    /// A conversation for a credential.
    ///
    /// # Errors
    /// [`AuthError::Credential`] if the credential is not complete,
    /// [`AuthError::UnsupportedMechanism`] for `GSSAPI`.
    pub fn new(
        mechanism: AuthMechanism,
        credential: Arc<Credential>,
        nonce: Nonce,
    ) -> Result<Self, AuthError> {
        if mechanism == AuthMechanism::Gssapi {
            return Err(AuthError::UnsupportedMechanism(mechanism));
        }
        credential.validate()?;
        let scram = |hash| {
            State::Scram(ScramConversation::new(
                hash,
                credential.clone(),
                nonce.clone(),
            ))
        };
        let state = match mechanism {
            AuthMechanism::ScramSha1 => scram(ScramMechanism::Sha1),
            AuthMechanism::ScramSha256 => scram(ScramMechanism::Sha256),
            AuthMechanism::MongoDbX509 => State::X509,
            AuthMechanism::Plain => State::Plain,
            AuthMechanism::MongoDbOidc => State::Oidc(OidcConversation::new()),
            AuthMechanism::MongoDbAws => State::Aws(AwsConversation::new(nonce)),
            AuthMechanism::Gssapi => return Err(AuthError::UnsupportedMechanism(mechanism)),
        };
        Ok(Self {
            mechanism,
            credential,
            state,
        })
    }

    /// The mechanism.
    pub fn mechanism(&self) -> AuthMechanism {
        self.mechanism
    }

    /// The first step.
    ///
    /// # Errors
    /// [`AuthError::OutOfOrder`] if the conversation has begun.
    pub fn begin(&mut self) -> Result<AuthStep, AuthError> {
        match &mut self.state {
            State::Oidc(oidc) => return oidc.begin(),
            State::Aws(aws) => return aws.begin(),
            _ => {}
        }
        let (command, state) = match mem::replace(&mut self.state, State::Over) {
            State::Scram(scram) => (scram.start()?, State::Scram(scram)),
            State::X509 => (x509::command(&self.credential), State::X509Sent),
            State::Plain => (plain::command(&self.credential), State::PlainSent),
            State::X509Sent | State::PlainSent | State::Oidc(_) | State::Aws(_) | State::Over => {
                return Err(AuthError::OutOfOrder);
            }
        };
        self.state = state;
        Ok(AuthStep::Send(command))
    }

    /// Begins the conversation inside the handshake. Returns the command for the hello's field
    /// `speculativeAuthenticate`, with the authentication database in it. `None` if the mechanism
    /// does not support this, or if it needs an access token and `token` is `None`.
    ///
    /// # Errors
    /// [`AuthError::OutOfOrder`] if the conversation has begun.
    pub fn begin_speculatively(
        &mut self,
        token: Option<&Secret>,
    ) -> Result<Option<RawDocumentBuf>, AuthError> {
        let step = match (&mut self.state, token) {
            (State::Scram(_) | State::X509, _) => self.begin()?,
            (State::Oidc(oidc), Some(token)) => AuthStep::Send(oidc.speculate(token)),
            (State::Oidc(_), None) | (State::Plain | State::Aws(_), _) => return Ok(None),
            (State::X509Sent | State::PlainSent | State::Over, _) => {
                return Err(AuthError::OutOfOrder);
            }
        };
        match step {
            AuthStep::Send(mut command) => {
                command.append(cstr!("db"), self.credential.source_or_default());
                Ok(Some(command))
            }
            AuthStep::Need(_) | AuthStep::Done => Ok(None),
        }
    }

    /// Takes the reply to the last command, `ok: 0` included.
    ///
    /// # Errors
    /// [`AuthError`] if the reply is invalid, or is a refusal.
    pub fn handle_reply(&mut self, reply: &RawDocument) -> Result<AuthStep, AuthError> {
        self.handle(reply, Place::Command)
    }

    /// Takes the `speculativeAuthenticate` field of the handshake's reply, which has no `ok`.
    ///
    /// # Errors
    /// [`AuthError`] if the reply is invalid, or is a refusal.
    pub fn handle_speculative_reply(&mut self, reply: &RawDocument) -> Result<AuthStep, AuthError> {
        self.handle(reply, Place::Hello)
    }

    /// Takes the evidence for an [`AuthStep::Need`].
    ///
    /// # Errors
    /// [`AuthError::OutOfOrder`] if no evidence, or other evidence, was needed.
    pub fn handle_evidence(&mut self, evidence: Evidence) -> Result<AuthStep, AuthError> {
        match (&mut self.state, evidence) {
            (State::Scram(scram), Evidence::ScramKeys(keys)) => scram.handle_keys(&keys),
            (State::Oidc(oidc), Evidence::AccessToken { token, is_cached }) => {
                oidc.handle_token(token, is_cached)
            }
            (State::Aws(aws), Evidence::AwsCredentials { credentials, now }) => {
                aws.handle_credentials(&credentials, now)
            }
            _ => {
                self.state = State::Over;
                Err(AuthError::OutOfOrder)
            }
        }
    }

    fn handle(&mut self, reply: &RawDocument, place: Place) -> Result<AuthStep, AuthError> {
        match &mut self.state {
            State::Scram(scram) => scram.handle(reply, place),
            State::Oidc(oidc) => oidc.handle(reply, place),
            State::Aws(aws) => aws.handle(reply, place),
            single => match mem::replace(single, State::Over) {
                State::X509Sent => x509::handle(reply, place),
                State::PlainSent => plain::handle(reply, place),
                _ => Err(AuthError::OutOfOrder),
            },
        }
    }
}

impl fmt::Debug for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Scram(scram) => scram.position(),
            State::Oidc(oidc) => oidc.position(),
            State::Aws(aws) => aws.position(),
            State::X509 | State::Plain => "new",
            State::X509Sent | State::PlainSent => "only message",
            State::Over => "over",
        };
        f.debug_struct("Conversation")
            .field("mechanism", &self.mechanism)
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
