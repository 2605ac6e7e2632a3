//! Proving who a client is: credentials, keys and tokens, and where they come from.

pub(super) mod authenticator;
pub(super) mod aws;
pub(super) mod exchange;
#[cfg(feature = "cloud-credentials")]
pub(super) mod http;
pub(super) mod keys;
pub(super) mod oidc;
