//! Authentication: credentials, keys and tokens, and their sources.

pub(super) mod authenticator;
pub(super) mod aws;
#[cfg(feature = "cloud-credentials")]
pub(super) mod http;
pub(super) mod keys;
pub(super) mod oidc;
mod source;
