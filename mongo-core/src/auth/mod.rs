//! Credentials, and proving them to a server.
//!
//! Everything here is pure: no sockets, no clock, and the randomness is given by the caller. A
//! [`Conversation`] turns replies into commands; the handshake
//! ([`Handshake`](crate::handshake::Handshake)) drives one, and usually nobody else has to.
//!
//! SCRAM-SHA-256, SCRAM-SHA-1, MONGODB-X509, PLAIN and MONGODB-OIDC are there. Any other [`AuthMechanism`] gives
//! [`AuthError::UnsupportedMechanism`].
//!
//! Specification: authentication.

mod conversation;
mod credential;
mod error;
mod mechanism;
mod oidc;
mod plain;
pub(crate) mod reply;
mod sasl;
pub mod scram;
mod secret;
mod x509;

pub use conversation::{AuthNeed, AuthStep, Conversation, Evidence};
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
