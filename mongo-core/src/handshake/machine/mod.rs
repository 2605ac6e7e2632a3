//! The state machine that establishes one connection.

use std::sync::Arc;
use std::{fmt, mem};

use bson::oid::ObjectId;
use bson::raw::{RawDocument, RawDocumentBuf, cstr};

use crate::auth::reply::ServerError;
use crate::auth::{
    AuthError, AuthMechanism, AuthNeed, AuthStep, Conversation, Credential, Evidence, Nonce,
    Secret, command_name,
};
use crate::error::{Error, Result};

use super::context::HandshakeContext;
use super::description::{HelloFailure, HelloReply};
use super::{ConnectionDescription, HandshakeError, hello};

/// The message type of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RequestOp {
    /// OP_MSG.
    Msg,
    /// OP_QUERY, answered by OP_REPLY.
    Query,
}

/// A command to send.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Outgoing {
    /// The message type.
    pub op: RequestOp,
    /// The database that it runs on.
    pub database: Arc<str>,
    /// The command, without `$db`.
    pub command: RawDocumentBuf,
}

/// The next step of a handshake.
#[derive(Debug)]
pub enum Step {
    /// Send a command and pass the reply to [`Handshake::handle_reply`].
    Send(Outgoing),
    /// Obtain the evidence for authentication, and pass it to [`Handshake::handle_evidence`].
    Need(AuthNeed),
    /// The connection is established.
    Done(ConnectionDescription),
}

/// The establishment of one connection, from the first hello to the end of authentication, as a
/// state machine without I/O.
///
/// [`start`](Self::start) returns the first [`Step`]; each step names the method to call next. An
/// error ends the handshake: close the connection. Each further call fails with
/// [`HandshakeError::OutOfOrder`]. Errors are [`ErrorKind::Handshake`](crate::ErrorKind::Handshake)
/// or [`ErrorKind::Authentication`](crate::ErrorKind::Authentication), with the error labels from
/// the server. The caller adds the server and the user.
///
/// Specifications: handshake, authentication.
pub struct Handshake {
    context: HandshakeContext,
    state: State,
    service_id: Option<ObjectId>,
}

enum State {
    New,
    /// The reply to the hello is awaited. It may include the reply to the conversation that the
    /// hello began.
    Hello(Option<Conversation>),
    Authenticating(Conversation, ConnectionDescription),
    Over,
}

impl Handshake {
    /// A handshake that has not begun.
    pub fn new(context: HandshakeContext) -> Self {
        Self {
            context,
            state: State::New,
            service_id: None,
        }
    }

    /// The credential.
    pub fn credential(&self) -> Option<&Arc<Credential>> {
        self.context.credential.as_ref()
    }

    /// The service behind a load balancer, once the reply to the hello has named it. It is set even
    /// if the rest of that reply made the handshake fail.
    pub fn service_id(&self) -> Option<ObjectId> {
        self.service_id
    }

    /// The access token that was sent last, if the mechanism uses them. The specification calls it
    /// the connection's cache.
    pub fn access_token(&self) -> Option<&Secret> {
        self.context.access_token.as_ref()
    }

    /// Whether the hello is answered and authentication is under way.
    pub fn is_authenticating(&self) -> bool {
        matches!(self.state, State::Authenticating(..))
    }

    /// Returns the first step, which sends the hello.
    ///
    /// # Errors
    /// [`AuthError::Credential`] and [`AuthError::UnsupportedMechanism`] if the credential can't be
    /// used, before anything is sent.
    pub fn start(&mut self) -> Result<Step> {
        let State::New = mem::replace(&mut self.state, State::Over) else {
            return Err(HandshakeError::OutOfOrder.into());
        };
        let mut command = hello::command(&self.context);
        let conversation = match &self.context.credential {
            None => None,
            Some(credential) => {
                let mut conversation = self.speculate(credential)?;
                if credential.mechanism().is_none() {
                    let user = credential.username().map_or("", |name| name);
                    let user = format!("{}.{user}", credential.source_or_default());
                    command.append(cstr!("saslSupportedMechs"), user);
                }
                conversation
                    .begin_speculatively(self.access_token())?
                    .map(|first| {
                        command.append(cstr!("speculativeAuthenticate"), first);
                        conversation
                    })
            }
        };
        self.state = State::Hello(conversation);
        let op = match self.context.legacy_op_query && !hello::is_modern(&self.context) {
            true => RequestOp::Query,
            false => RequestOp::Msg,
        };
        Ok(self.send(op, "admin", command))
    }

    /// Takes the reply to the last command, `ok: 0` included.
    ///
    /// # Errors
    /// The reply is invalid, or is a refusal.
    pub fn handle_reply(&mut self, reply: &RawDocument) -> Result<Step> {
        match mem::replace(&mut self.state, State::Over) {
            State::Hello(speculative) => self.greeted(reply, speculative),
            State::Authenticating(mut conversation, description) => {
                let handled = conversation.handle_reply(reply);
                let step = handled.map_err(|error| self.labelled(error))?;
                Ok(self.follow(step, conversation, description))
            }
            State::New | State::Over => Err(HandshakeError::OutOfOrder.into()),
        }
    }

    /// Takes the evidence for a [`Step::Need`].
    ///
    /// # Errors
    /// [`AuthError::OutOfOrder`] if no evidence, or other evidence, was needed.
    pub fn handle_evidence(&mut self, evidence: Evidence) -> Result<Step> {
        if let Evidence::AccessToken { token, .. } = &evidence {
            self.context.access_token = Some(token.clone());
        }
        match mem::replace(&mut self.state, State::Over) {
            State::Authenticating(mut conversation, description) => {
                let step = conversation.handle_evidence(evidence)?;
                Ok(self.follow(step, conversation, description))
            }
            State::New | State::Hello(_) | State::Over => Err(HandshakeError::OutOfOrder.into()),
        }
    }

    /// Reauthenticates an established connection without another hello, and returns the first step.
    /// A server requires this when it answers a command with `ReauthenticationRequired` (code 391).
    /// The mechanism stays the same, and a used access token is not used again.
    ///
    /// # Errors
    /// [`HandshakeError::OutOfOrder`] if the connection was not authenticated,
    /// [`AuthError::OtherUser`] if it was for another user.
    pub fn reauthenticate(
        &mut self,
        description: ConnectionDescription,
        credential: Arc<Credential>,
        nonce: Nonce,
    ) -> Result<Step> {
        let (Some(mechanism), Some(before)) = (description.authenticated, &self.context.credential)
        else {
            return Err(HandshakeError::OutOfOrder.into());
        };
        let identity =
            |own: &Credential| (own.username().cloned(), own.source_or_default().to_owned());
        if identity(before) != identity(&credential) {
            return Err(AuthError::OtherUser.into());
        }
        let mut conversation = Conversation::new(mechanism, credential.clone(), nonce)?;
        let mut step = conversation.begin()?;
        if let AuthStep::Need(AuthNeed::AccessToken { refused }) = &mut step {
            *refused = self.context.access_token.take();
        }
        self.context.credential = Some(credential);
        Ok(self.follow(step, conversation, description))
    }

    /// The speculative conversation in the hello: with the credential's mechanism, else
    /// SCRAM-SHA-256.
    fn speculate(&self, credential: &Arc<Credential>) -> Result<Conversation, AuthError> {
        let mechanism = credential.mechanism();
        let mechanism = mechanism.unwrap_or(AuthMechanism::ScramSha256);
        let nonce = self.context.nonces.speculative.clone();
        Conversation::new(mechanism, credential.clone(), nonce)
    }

    fn greeted(&mut self, reply: &RawDocument, speculative: Option<Conversation>) -> Result<Step> {
        let mut read = HelloReply::read(reply, self.context.load_balanced)
            .map_err(|failure| self.refused(failure))?;
        self.service_id = read.description.service_id;
        let found = &read.description.set_name;
        if let Some(expected) = &self.context.replica_set
            && found.as_deref() != Some(&**expected)
        {
            return Err(HandshakeError::OtherReplicaSet {
                expected: expected.to_string(),
                found: found.clone(),
            }
            .into());
        }
        let offered = &read.description.compression;
        read.description.compressor = self
            .context
            .compressors
            .iter()
            .copied()
            .find(|own| own.is_built_in() && offered.iter().any(|name| name == own.as_str()));
        let (Some(credential), false) = (&self.context.credential, read.description.arbiter) else {
            return Ok(Step::Done(read.description));
        };
        let begun = speculative.filter(|_| read.speculative.is_some());
        let mechanism = match (credential.mechanism(), read.negotiated, &begun) {
            (Some(given), _, _) => given,
            (None, Some(negotiated), _) => negotiated.into(),
            // No list was sent, but the reply to the first message shows that the user has the
            // mechanism.
            (None, None, Some(begun)) => begun.mechanism(),
            (None, None, None) => AuthMechanism::ScramSha1,
        };
        let begun = begun.filter(|begun| begun.mechanism() == mechanism);
        let (step, conversation) = match (read.speculative, begun) {
            (Some(first), Some(mut begun)) => {
                let handled = begun.handle_speculative_reply(first);
                let step = handled.map_err(|error| self.labelled(error))?;
                (step, begun)
            }
            _ => {
                let nonce = self.context.nonces.ordinary.clone();
                let mut conversation = Conversation::new(mechanism, credential.clone(), nonce)?;
                (conversation.begin()?, conversation)
            }
        };
        Ok(self.follow(step, conversation, read.description))
    }

    /// A refusal of the user in the hello's reply is a refusal of the credential, not of the hello.
    fn refused(&self, failure: HelloFailure) -> Error {
        match (failure, &self.context.credential) {
            (HelloFailure::Invalid(error), _) => error.into(),
            (HelloFailure::Refused(error), Some(credential))
                if AuthError::is_about_user(error.code) =>
            {
                let mechanism = credential.mechanism();
                self.labelled(AuthError::refused(
                    mechanism.unwrap_or(AuthMechanism::ScramSha256),
                    error,
                ))
            }
            (HelloFailure::Refused(mut error), _) => {
                let ServerError {
                    code_name,
                    message,
                    labels,
                    ..
                } = &mut error;
                self.withhold([code_name, message].into_iter().chain(labels));
                HandshakeError::refused(error)
            }
        }
    }

    /// An authentication error from the server, with the server's labels.
    fn labelled(&self, mut error: AuthError) -> Error {
        let AuthError::Refused {
            code_name,
            message,
            labels,
            ..
        } = &mut error
        else {
            return error.into();
        };
        self.withhold([code_name, message].into_iter().chain(labels.iter_mut()));
        let labels = labels.clone();
        labels
            .into_iter()
            .fold(Error::from(error), Error::with_label)
    }

    /// A server may repeat what it was sent. Texts that contain the beginning of a password or of
    /// an access token are withheld.
    fn withhold<'a>(&self, texts: impl Iterator<Item = &'a mut String>) {
        /// A shorter secret may occur in any text by chance.
        const SHORTEST: usize = 4;
        let credential = self.context.credential.as_ref();
        let password = credential.and_then(|own| own.password());
        let secrets = [password, self.context.access_token.as_ref()];
        let beginnings: Vec<_> = secrets
            .into_iter()
            .flatten()
            .map(|secret| secret.expose())
            .filter(|secret| secret.len() >= SHORTEST)
            .map(beginning)
            .collect();
        for text in texts {
            if beginnings.iter().any(|beginning| text.contains(beginning)) {
                "(withheld: it contains a secret)".clone_into(text);
            }
        }
    }

    fn follow(
        &mut self,
        step: AuthStep,
        conversation: Conversation,
        mut description: ConnectionDescription,
    ) -> Step {
        match step {
            AuthStep::Done => {
                description.authenticated = Some(conversation.mechanism());
                Step::Done(description)
            }
            AuthStep::Need(need) => {
                self.state = State::Authenticating(conversation, description);
                Step::Need(need)
            }
            AuthStep::Send(command) => {
                let credential = self.context.credential.clone();
                self.state = State::Authenticating(conversation, description);
                let source = credential
                    .as_ref()
                    .map_or("", |own| own.source_or_default());
                self.send(RequestOp::Msg, source, command)
            }
        }
    }

    fn send(&self, op: RequestOp, database: &str, mut command: RawDocumentBuf) -> Step {
        if let Some(api) = &self.context.server_api {
            api.append_to(&mut command);
        }
        Step::Send(Outgoing {
            op,
            database: database.into(),
            command,
        })
    }
}

/// The first characters of a secret.
fn beginning(secret: &str) -> &str {
    const CHARACTERS: usize = 8;
    let end = secret.char_indices().nth(CHARACTERS);
    end.map_or(secret, |(end, _)| &secret[..end])
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::New => "new",
            State::Hello(_) => "hello",
            State::Authenticating(..) => "authenticating",
            State::Over => "over",
        };
        f.debug_struct("Handshake")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}

/// Shows the command's name, not its content.
impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("op", &self.op)
            .field("database", &self.database)
            .field("command", &command_name(&self.command))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
