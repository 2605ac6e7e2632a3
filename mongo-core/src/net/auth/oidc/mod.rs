//! Sources of access tokens for MONGODB-OIDC.

mod cache;
mod files;
#[cfg(feature = "cloud-credentials")]
mod metadata;

use std::time::Duration;

use async_trait::async_trait;

pub(crate) use cache::TokenCache;
pub use files::KubernetesTokens;
#[cfg(feature = "cloud-credentials")]
pub(crate) use files::read;
pub(crate) use files::{TestTokens, Variables, of_process};
#[cfg(feature = "cloud-credentials")]
pub use metadata::{AzureTokens, GcpTokens};

use crate::auth::Secret;
use crate::error::Result;

/// Supplies access tokens for `MONGODB-OIDC`: the specification's machine callback.
///
/// It is called when a connection is made and no token is cached, or when the server has rejected
/// the cached token. There is one call at a time, and the next call starts at least 100 ms after
/// the previous one started. The token is cached for all connections of the pool or client until
/// the server rejects it.
///
/// Each call runs in its own task on the current Tokio runtime. So it serves all connections that
/// wait for a token, even if the one that began it is dropped. It is bounded by one minute, or, if
/// `timeoutMS` is set, by that and `connectTimeoutMS`. The one minute does not count against
/// `connectTimeoutMS`. The future is dropped at the end of that time, or when its runtime shuts
/// down; it must leave nothing behind. A panic in it is caught and logged, and fails the call with
/// [`ErrorKind::Credential`](crate::ErrorKind::Credential).
///
/// ```
/// use mongo_core::net::{AccessToken, OidcCallback, OidcRequest};
/// use mongo_core::{Error, Result};
///
/// struct TokenFile;
///
/// #[async_trait::async_trait]
/// impl OidcCallback for TokenFile {
///     async fn token(&self, _: OidcRequest<'_>) -> Result<AccessToken> {
///         let token = std::fs::read_to_string("/run/secrets/token").map_err(Error::credential)?;
///         Ok(AccessToken::new(token.trim_end()))
///     }
/// }
/// ```
///
/// Specification: authentication, "OIDC Callback".
#[async_trait]
pub trait OidcCallback: Send + Sync + 'static {
    /// Returns a new access token.
    ///
    /// # Errors
    /// Preferably [`Error::credential`](crate::Error::credential). Any other error becomes the
    /// cause of one, and does not count as a failure of the MongoDB server. The caller adds the
    /// server and the user. The error's text reaches logs, so it must not contain a secret.
    async fn token(&self, request: OidcRequest<'_>) -> Result<AccessToken>;

    /// Whether the callback asks a human, for example in a browser. If so, the token is sent only
    /// to the credential's [allowed hosts](crate::auth::Credential::with_allowed_hosts), by default
    /// those of MongoDB's cloud and the local machine
    /// ([`DEFAULT_ALLOWED_HOSTS`](crate::auth::DEFAULT_ALLOWED_HOSTS)). A call is then bounded by
    /// five minutes, regardless of `timeoutMS`. This method is called once. Default: false.
    ///
    /// Specification: authentication, "OIDC Human Callback", of which only this is implemented.
    fn asks_human(&self) -> bool {
        false
    }
}

/// The input of an [`OidcCallback`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct OidcRequest<'a> {
    /// The credential's user name, if it has one. Its meaning depends on the provider.
    pub username: Option<&'a str>,
    /// The time-out of the call.
    pub timeout: Duration,
    /// The version of this interface: 1. A greater number means that something was added.
    pub version: u32,
}

impl<'a> OidcRequest<'a> {
    /// A request with this version of the interface, for calling a callback directly.
    pub fn new(username: Option<&'a str>, timeout: Duration) -> Self {
        Self {
            username,
            timeout,
            version: 1,
        }
    }
}

/// The result of an [`OidcCallback`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AccessToken {
    /// The token, which is not parsed. It must not be empty.
    pub access_token: Secret,
    /// How long the token is valid; `None` if unknown. Not used yet: as the specification requires,
    /// a token is cached until a server rejects it.
    pub expires_in: Option<Duration>,
}

impl AccessToken {
    /// A token whose expiry is unknown.
    pub fn new(access_token: impl Into<Secret>) -> Self {
        Self {
            access_token: access_token.into(),
            expires_in: None,
        }
    }
}
