//! Credentials and authentication.
//!
//! Everything here is pure: no sockets, no clock, and the caller supplies the randomness. A
//! [`Conversation`] turns replies into commands. The handshake
//! ([`Handshake`](crate::handshake::Handshake)) drives it, so most code does not use it directly.
//!
//! All mechanisms of [`AuthMechanism`] are supported except `GSSAPI`, which fails with
//! [`AuthError::UnsupportedMechanism`].
//!
//! Specification: authentication.

mod allowed_hosts;
mod aws;
mod conversation;
mod credential;
mod error;
mod mechanism;
mod oidc;
mod plain;
pub(crate) mod reply;
mod sasl;
pub mod scram;
mod scram_conversation;
mod secret;
mod step;
mod x509;

pub use allowed_hosts::DEFAULT_ALLOWED_HOSTS;
#[cfg(feature = "net")]
pub(crate) use allowed_hosts::allows;
pub use aws::AwsCredentials;
pub use conversation::{Conversation, Evidence};
pub(crate) use credential::is_public_property;
pub use credential::{Credential, CredentialError};
pub use error::AuthError;
pub use mechanism::{ADMIN, AuthMechanism, EXTERNAL};
pub use scram::{
    CacheKey, KeyCache, KeyDerivation, Nonce, Nonces, ScramError, ScramKeys, ScramMechanism,
};
pub use secret::Secret;
pub(crate) use step::command_name;
pub use step::{AuthNeed, AuthStep};

impl From<ScramMechanism> for AuthMechanism {
    fn from(mechanism: ScramMechanism) -> Self {
        match mechanism {
            ScramMechanism::Sha1 => Self::ScramSha1,
            ScramMechanism::Sha256 => Self::ScramSha256,
        }
    }
}
