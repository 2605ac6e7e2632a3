//! Where the access tokens of MONGODB-OIDC come from.

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

/// Gives access tokens for `MONGODB-OIDC`: the machine callback of the specification.
///
/// It is called when a connection is made and no token is kept, or the server has refused the one
/// that was; one call at a time, and the next one no sooner than 100 ms after the last began. What it
/// gives is kept, for all connections of the pool or client, until the server refuses it.
///
/// Each call runs in a task of its own on the current Tokio runtime, so that it serves all
/// connections that wait for a token, whatever becomes of the one that began it. It is bounded by one
/// minute, or, where `timeoutMS` is set, by that and `connectTimeoutMS`. That minute does not count as
/// time of `connectTimeoutMS`. The future is dropped then, and when its
/// runtime ends: it must leave nothing behind when dropped. A panic in it is caught and logged, and
/// fails the call as [`ErrorKind::Credential`](crate::ErrorKind::Credential).
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
    /// A new access token.
    ///
    /// # Errors
    /// Preferably [`Error::credential`](crate::Error::credential): any other error becomes the cause of one, and
    /// does not count as a failure of the MongoDB server. The caller adds the server and the user. The error's text
    /// reaches logs, so it must not contain a secret.
    async fn token(&self, request: OidcRequest<'_>) -> Result<AccessToken>;

    /// Whether a human is asked, in a browser for one. Then the token is sent to the credential's
    /// [allowed hosts](crate::auth::Credential::with_allowed_hosts) only, which by default are those
    /// of MongoDB's cloud and the machine itself
    /// ([`DEFAULT_ALLOWED_HOSTS`](crate::auth::DEFAULT_ALLOWED_HOSTS)), and a call is bounded by five
    /// minutes, whatever `timeoutMS` says. Asked once. Default false.
    ///
    /// Specification: authentication, "OIDC Human Callback", of which this is no more than that.
    fn asks_human(&self) -> bool {
        false
    }
}

/// What an [`OidcCallback`] is told.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct OidcRequest<'a> {
    /// The credential's user name, if it has one. What it means is the provider's business.
    pub username: Option<&'a str>,
    /// How long the answer may take.
    pub timeout: Duration,
    /// The version of this interface: 1. A greater number says that something was added.
    pub version: u32,
}

impl<'a> OidcRequest<'a> {
    /// A request of this version of the interface, for a callback that is called by hand.
    pub fn new(username: Option<&'a str>, timeout: Duration) -> Self {
        Self {
            username,
            timeout,
            version: 1,
        }
    }
}

/// What an [`OidcCallback`] gives.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AccessToken {
    /// The token, which is not looked into. It must not be empty.
    pub access_token: Secret,
    /// How long it is valid; `None` is not known. Not used yet: a token is kept until a server
    /// refuses it, as the specification has it.
    pub expires_in: Option<Duration>,
}

impl AccessToken {
    /// A token whose end is not known.
    pub fn new(access_token: impl Into<Secret>) -> Self {
        Self {
            access_token: access_token.into(),
            expires_in: None,
        }
    }
}
