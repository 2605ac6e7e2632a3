//! Credentials, and proving them to a server.
//!
//! Everything here is pure: no sockets, no clock, and the randomness is given by the caller. A
//! [`Conversation`] turns replies into commands; the handshake
//! ([`Handshake`](crate::handshake::Handshake)) drives one, and usually nobody else has to.
//!
//! This build speaks SCRAM-SHA-256 and SCRAM-SHA-1. Every other [`AuthMechanism`] gives
//! [`AuthError::UnsupportedMechanism`].
//!
//! Specification: authentication.

mod conversation;
mod credential;
mod error;
mod mechanism;
pub(crate) mod reply;
pub mod scram;
mod secret;

pub use conversation::{AuthStep, Conversation};
pub use credential::{Credential, CredentialError};
pub use error::AuthError;
pub use mechanism::{ADMIN, AuthMechanism, EXTERNAL};
pub use scram::{
    CacheKey, KeyCache, KeyDerivation, Nonce, Nonces, ScramError, ScramKeys, ScramMechanism,
};
pub use secret::Secret;

impl From<ScramMechanism> for AuthMechanism {
    fn from(mechanism: ScramMechanism) -> Self {
        match mechanism {
            ScramMechanism::Sha1 => Self::ScramSha1,
            ScramMechanism::Sha256 => Self::ScramSha256,
        }
    }
}

/// The mechanisms that are not SCRAM come with a later version.
impl TryFrom<AuthMechanism> for ScramMechanism {
    type Error = AuthError;

    fn try_from(mechanism: AuthMechanism) -> Result<Self, AuthError> {
        match mechanism {
            AuthMechanism::ScramSha1 => Ok(Self::Sha1),
            AuthMechanism::ScramSha256 => Ok(Self::Sha256),
            AuthMechanism::MongoDbX509
            | AuthMechanism::Plain
            | AuthMechanism::MongoDbOidc
            | AuthMechanism::MongoDbAws
            | AuthMechanism::Gssapi => Err(AuthError::UnsupportedMechanism(mechanism)),
        }
    }
}
