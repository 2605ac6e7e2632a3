//! MONGODB-AWS: the client signs a request to AWS's token service, and the server sends it there.

mod signature;

use std::time::SystemTime;
use std::{fmt, mem};

use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf, cstr};
use bson::rawdoc;
use bson::spec::BinarySubtype;

use super::reply::fields;
use super::sasl::{self, ConversationId, Place, SaslReply};
use super::{AuthError, AuthMechanism, AuthNeed, AuthStep, Nonce, Secret};

const MECHANISM: AuthMechanism = AuthMechanism::MongoDbAws;

/// The length of each side's nonce. The server's follows the client's.
const NONCE_LENGTH: usize = 32;

/// No channel binding: the character `n`.
const NO_BINDING: i32 = 110;

/// The maximum length of a host name (RFC 1035).
const MAX_HOST_LENGTH: usize = 255;

/// The maximum length of a server's first message, in bytes. It has a nonce and a host name.
const MAX_PAYLOAD: usize = 4096;

/// AWS credentials. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AwsCredentials {
    /// The access key's id, which is not secret.
    pub access_key_id: String,
    /// The secret access key.
    pub secret_access_key: Secret,
    /// The session token of temporary credentials.
    pub session_token: Option<Secret>,
    /// When temporary credentials expire, if known.
    pub expiration: Option<SystemTime>,
}

impl AwsCredentials {
    /// Credentials that do not expire.
    pub fn new(access_key_id: impl Into<String>, secret_access_key: impl Into<Secret>) -> Self {
        Self {
            access_key_id: access_key_id.into(),
            secret_access_key: secret_access_key.into(),
            session_token: None,
            expiration: None,
        }
    }

    /// Adds the session token of temporary credentials.
    #[must_use]
    pub fn with_session_token(mut self, session_token: impl Into<Secret>) -> Self {
        self.session_token = Some(session_token.into());
        self
    }

    /// Sets when they expire.
    #[must_use]
    pub fn with_expiration(mut self, expiration: SystemTime) -> Self {
        self.expiration = Some(expiration);
        self
    }
}

impl fmt::Debug for AwsCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsCredentials")
            .field("access_key_id", &self.access_key_id)
            .field("expiration", &self.expiration)
            .finish_non_exhaustive()
    }
}

/// The content of the server's first message.
struct Challenge {
    nonce: [u8; 2 * NONCE_LENGTH],
    host: String,
}

/// A conversation of two exchanges: nonces, then the signed request.
pub(super) struct AwsConversation(State);

enum State {
    New(Nonce),
    NonceSent(Nonce),
    Challenged(ConversationId, Challenge),
    RequestSent(ConversationId),
    Over,
}

impl AwsConversation {
    pub(super) fn new(nonce: Nonce) -> Self {
        Self(State::New(nonce))
    }

    pub(super) fn begin(&mut self) -> Result<AuthStep, AuthError> {
        let State::New(nonce) = mem::replace(&mut self.0, State::Over) else {
            return Err(AuthError::OutOfOrder);
        };
        let first = rawdoc! {
            "r": sasl::binary(nonce.as_str().as_bytes()),
            "p": NO_BINDING,
        };
        self.0 = State::NonceSent(nonce);
        Ok(AuthStep::Send(sasl::start(MECHANISM, first.as_bytes())))
    }

    pub(super) fn handle(
        &mut self,
        reply: &RawDocument,
        place: Place,
    ) -> Result<AuthStep, AuthError> {
        let read = |id| SaslReply::read(MECHANISM, reply, place, id);
        match mem::replace(&mut self.0, State::Over) {
            State::NonceSent(nonce) => {
                let reply = read(None)?;
                if reply.done {
                    return Err(AuthError::DoneTooEarly(MECHANISM));
                }
                let challenge = Challenge::read(reply.payload, nonce.as_str().as_bytes())?;
                self.0 = State::Challenged(reply.id, challenge);
                Ok(AuthStep::Need(AuthNeed::AwsCredentials))
            }
            State::RequestSent(id) => match read(Some(id))?.done {
                true => Ok(AuthStep::Done),
                false => Err(AuthError::NotDone(MECHANISM)),
            },
            State::New(_) | State::Challenged(..) | State::Over => Err(AuthError::OutOfOrder),
        }
    }

    pub(super) fn handle_credentials(
        &mut self,
        credentials: &AwsCredentials,
        now: SystemTime,
    ) -> Result<AuthStep, AuthError> {
        let State::Challenged(id, challenge) = mem::replace(&mut self.0, State::Over) else {
            return Err(AuthError::OutOfOrder);
        };
        let signed = signature::sign(&challenge.host, &challenge.nonce, credentials, now)
            .ok_or(invalid("host"))?;
        let mut second = RawDocumentBuf::new();
        second.append(cstr!("a"), signed.authorization);
        second.append(cstr!("d"), signed.date);
        if let Some(token) = &credentials.session_token {
            second.append(cstr!("t"), token.expose());
        }
        self.0 = State::RequestSent(id);
        Ok(AuthStep::Send(sasl::continuation(id, second.as_bytes())))
    }

    /// The conversation's current step, for `Debug`.
    pub(super) fn position(&self) -> &'static str {
        match self.0 {
            State::New(_) => "new",
            State::NonceSent(_) => "nonce",
            State::Challenged(..) => "waiting for credentials",
            State::RequestSent(_) => "request",
            State::Over => "over",
        }
    }
}

impl Challenge {
    fn read(payload: &[u8], own_nonce: &[u8]) -> Result<Self, AuthError> {
        if payload.len() > MAX_PAYLOAD {
            return Err(invalid("payload"));
        }
        let message = RawDocument::from_bytes(payload).map_err(|_| invalid("payload"))?;
        let (mut nonce, mut host) = (None, None);
        for field in fields(message, |key| matches!(key, "s" | "h")) {
            match field.ok_or(invalid("payload"))? {
                ("s", RawBsonRef::Binary(binary)) if binary.subtype == BinarySubtype::Generic => {
                    nonce = Some(binary.bytes);
                }
                ("h", RawBsonRef::String(name)) => host = Some(name),
                _ => {}
            }
        }
        let nonce = nonce.and_then(|nonce| <[u8; 2 * NONCE_LENGTH]>::try_from(nonce).ok());
        let nonce = nonce
            .filter(|nonce| nonce.starts_with(own_nonce) && own_nonce.len() == NONCE_LENGTH)
            .ok_or(invalid("nonce"))?;
        let host = host.filter(|host| is_host(host)).ok_or(invalid("host"))?;
        Ok(Self {
            nonce,
            host: host.to_owned(),
        })
    }
}

/// Non-empty labels without line breaks, because the name becomes part of the signed text.
fn is_host(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    name.len() <= MAX_HOST_LENGTH
        && name
            .split('.')
            .all(|label| !label.is_empty() && label.bytes().all(is_allowed))
}

fn invalid(field: &'static str) -> AuthError {
    AuthError::Reply {
        mechanism: MECHANISM,
        field,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_labels_and_nothing_that_could_forge_a_line() {
        for good in ["sts.amazonaws.com", "localhost", "a-b.c_d.e"] {
            assert!(is_host(good), "{good}");
        }
        let long = format!("{}.com", "a".repeat(252));
        for bad in [
            "",
            ".a",
            "a.",
            "a..b",
            "a\nb",
            "a b",
            "a:1",
            "\u{e4}.com",
            &long,
        ] {
            assert!(!is_host(bad), "{bad}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let credentials = AwsCredentials::new("AKID", "MARKED").with_session_token("MARKED");
        let debug = format!("{credentials:?}");
        assert!(
            !debug.contains("MARKED") && debug.contains("AKID"),
            "{debug}"
        );
    }
}
