//! Authentication.

mod credential;
mod secret;

pub use credential::{ADMIN, AuthMechanism, Credential, CredentialError, EXTERNAL};
pub use secret::Secret;

/// Why authentication failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {}
