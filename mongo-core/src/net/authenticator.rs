use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::keys::KeyService;
use crate::auth::{AuthError, AuthMechanism, AuthNeed, Credential, Evidence};
use crate::error::{Error, Result};
use crate::uri::ClientOptions;

/// Where a credential comes from whose secret changes: a vault, a file that is rotated, a service
/// that gives passwords for an hour.
///
/// It is asked each time that a connection is made, and the connection authenticates with what it
/// gives then. Connections that are open stay authenticated as they are. What it gives is not kept,
/// so that an implementation whose answer takes long keeps it itself.
///
/// The caller bounds the call with `connectTimeoutMS` and drops the future when that is over: it
/// must leave nothing behind when dropped. The error names that wait
/// ([`Wait::Credential`](crate::error::Wait::Credential)). Several connections may ask at a time.
///
/// ```
/// use std::sync::Arc;
///
/// use mongo_core::auth::Credential;
/// use mongo_core::net::CredentialProvider;
/// use mongo_core::{Error, Result};
///
/// struct PasswordFile;
///
/// #[async_trait::async_trait]
/// impl CredentialProvider for PasswordFile {
///     async fn credential(&self) -> Result<Arc<Credential>> {
///         let password = std::fs::read_to_string("/run/secrets/mongodb").map_err(Error::credential)?;
///         Ok(Arc::new(Credential::new("app", password.trim_end())))
///     }
/// }
/// ```
#[async_trait]
pub trait CredentialProvider: Send + Sync + 'static {
    /// The current credential.
    ///
    /// # Errors
    /// Preferably [`Error::credential`]; the caller adds the server. Its text reaches logs: no
    /// secret belongs into it.
    async fn credential(&self) -> Result<Arc<Credential>>;
}

/// Who authenticates on connections, and with what: shared by all connections of one credential.
pub(crate) struct Authenticator {
    source: Source,
    keys: Arc<KeyService>,
    uses_tls: bool,
    allows_plain_without_tls: bool,
}

enum Source {
    Nobody,
    Fixed(Arc<Credential>),
    Provider(Arc<dyn CredentialProvider>),
}

/// What an [`Authenticator`] is made of besides the options.
#[derive(Default)]
pub(crate) struct AuthParts {
    pub(crate) keys: Option<Arc<KeyService>>,
    pub(crate) provider: Option<Arc<dyn CredentialProvider>>,
}

impl Authenticator {
    /// One for the options' credential.
    ///
    /// # Errors
    /// The credential can't be used, or there are two sources of it.
    pub(crate) fn new(options: &ClientOptions, parts: AuthParts) -> Result<Self> {
        let source = match (&options.credential, parts.provider) {
            (Some(_), Some(_)) => {
                return Err(Error::configuration(
                    "both a credential and a credential provider are given",
                ));
            }
            (None, Some(provider)) => Source::Provider(provider),
            (Some(credential), None) => Source::Fixed(Arc::new(credential.clone())),
            (None, None) => Source::Nobody,
        };
        let authenticator = Self {
            source,
            keys: parts.keys.unwrap_or_default(),
            uses_tls: options.uses_tls(),
            allows_plain_without_tls: options.allow_plain_without_tls,
        };
        if let Source::Fixed(credential) = &authenticator.source {
            authenticator.check(credential)?;
        }
        Ok(authenticator)
    }

    /// One that authenticates nobody.
    pub(crate) fn nobody() -> Self {
        Self {
            source: Source::Nobody,
            keys: Arc::default(),
            uses_tls: false,
            allows_plain_without_tls: false,
        }
    }

    /// The user, where that is known beforehand.
    pub(crate) fn user(&self) -> Option<&Arc<str>> {
        match &self.source {
            Source::Fixed(credential) => credential.username(),
            Source::Nobody | Source::Provider(_) => None,
        }
    }

    /// The credential for a connection that is being made.
    pub(super) async fn credential(&self) -> Result<Option<Arc<Credential>>> {
        match &self.source {
            Source::Nobody => Ok(None),
            Source::Fixed(credential) => Ok(Some(credential.clone())),
            Source::Provider(provider) => {
                let credential = provider.credential().await?;
                self.check(&credential)
                    .map_err(|error| error.for_user(credential.username()))?;
                Ok(Some(credential))
            }
        }
    }

    /// What a conversation needs from outside.
    pub(super) async fn provide(&self, need: AuthNeed) -> Result<Evidence> {
        match need {
            AuthNeed::ScramKeys(derivation) => {
                let keys = self.keys.derive(derivation).await?;
                Ok(Evidence::ScramKeys(keys))
            }
        }
    }

    /// Whether a credential can be used over this transport, as far as can be told beforehand.
    fn check(&self, credential: &Credential) -> Result<()> {
        let insecure = |text: &str| Err(Error::configuration(text));
        match credential.mechanism() {
            Some(AuthMechanism::Plain) if !self.uses_tls && !self.allows_plain_without_tls => {
                insecure(
                    "PLAIN sends the password as it is and needs `tls=true`; \
                     `allow_plain_without_tls` permits it elsewhere",
                )
            }
            Some(AuthMechanism::MongoDbX509) if !self.uses_tls => {
                insecure("MONGODB-X509 needs `tls=true` and a client certificate")
            }
            Some(
                mechanism @ (AuthMechanism::MongoDbOidc
                | AuthMechanism::MongoDbAws
                | AuthMechanism::Gssapi),
            ) => Err(AuthError::UnsupportedMechanism(mechanism).into()),
            Some(
                AuthMechanism::ScramSha1
                | AuthMechanism::ScramSha256
                | AuthMechanism::Plain
                | AuthMechanism::MongoDbX509,
            )
            | None => Ok(credential.validate().map_err(AuthError::from)?),
        }
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator")
            .field("user", &self.user())
            .finish_non_exhaustive()
    }
}
