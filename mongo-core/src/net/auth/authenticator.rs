use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use super::aws::{AwsCredentialProvider, AwsSources};
use super::keys::{Derived, KeyService};
#[cfg(feature = "cloud-credentials")]
use super::oidc::{AzureTokens, GcpTokens};
use super::oidc::{KubernetesTokens, OidcCallback, TestTokens, TokenCache};
use super::source::call_source;
use crate::ServerAddress;
use crate::auth::{
    AuthError, AuthMechanism, AuthNeed, Credential, DEFAULT_ALLOWED_HOSTS, Evidence, Secret, allows,
};
use crate::callback::guard;
use crate::error::{Error, Result};
use crate::uri::ClientOptions;

const AWS_PROVIDER: &str = "provider of AWS credentials";

/// Supplies a credential whose secret rotates: from a vault, a rotated file, or a service that
/// issues short-lived passwords.
///
/// It is called each time a connection authenticates, and the connection authenticates with the
/// result. A credential without a source of its own uses the database of the options' `authSource`.
/// Open connections stay authenticated as they are. The result is not cached, so an implementation
/// that is slow should cache it itself.
///
/// The caller bounds the call with `connectTimeoutMS` and then drops the future, which must leave
/// nothing behind. The time-out error names that wait
/// ([`Wait::Credential`](crate::error::Wait::Credential)). Several connections may call it
/// concurrently. A panic in it is caught and logged, and fails the call with
/// [`ErrorKind::Credential`](crate::ErrorKind::Credential).
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
///         // Not on the runtime's own threads: a file may be slow, too.
///         let read = || std::fs::read_to_string("/run/secrets/mongodb");
///         let read = tokio::task::spawn_blocking(read).await;
///         let password = read.map_err(Error::credential)?.map_err(Error::credential)?;
///         Ok(Arc::new(Credential::new("app", password.trim_end())))
///     }
/// }
/// ```
#[async_trait]
pub trait CredentialProvider: Send + Sync + 'static {
    /// The current credential.
    ///
    /// # Errors
    /// Preferably [`Error::credential`]. Any other error becomes the cause of one, and does not
    /// count as a failure of the MongoDB server. The caller adds the server. The error's text
    /// reaches logs, so it must not contain a secret.
    async fn credential(&self) -> Result<Arc<Credential>>;
}

/// Authenticates connections. Shared by all connections with the same credential.
#[derive(Clone)]
pub(crate) struct Authenticator {
    source: Source,
    /// The defaults for a credential that names no authentication database.
    defaults: SourceDefaults,
    keys: Arc<KeyService>,
    tokens: Option<Arc<TokenCache>>,
    aws: Arc<dyn AwsCredentialProvider>,
    uses_tls: bool,
    allows_plain_without_tls: bool,
}

#[derive(Clone)]
enum Source {
    Anonymous,
    Fixed(Arc<Credential>),
    Provider(Arc<dyn CredentialProvider>),
}

/// The authentication database of credentials that name none.
#[derive(Clone, Default, PartialEq)]
struct SourceDefaults {
    /// `authSource` from the connection string or a TXT record.
    auth_source: Option<String>,
    /// The connection string's database. Only for the connection string's own credential.
    database: Option<String>,
}

impl SourceDefaults {
    /// The credential with its authentication database; `None` if it needs none of these defaults.
    fn complete(&self, credential: &Credential) -> Option<Arc<Credential>> {
        let database = self.auth_source.as_deref().or(self.database.as_deref());
        let source = credential.default_source(database);
        let is_complete = credential.source().is_some() || Some(source) != database;
        (!is_complete).then(|| Arc::new(credential.clone().with_source(source)))
    }
}

/// The parts of an [`Authenticator`] besides the options.
#[derive(Clone, Default)]
pub(crate) struct AuthParts {
    pub(crate) keys: Option<Arc<KeyService>>,
    pub(crate) provider: Option<Arc<dyn CredentialProvider>>,
    pub(crate) oidc: Option<Arc<dyn OidcCallback>>,
    pub(crate) aws: Option<Arc<dyn AwsCredentialProvider>>,
}

impl Authenticator {
    /// Creates an authenticator for the options' credential.
    ///
    /// # Errors
    /// The credential can't be used, or there are two sources for it.
    pub(crate) fn new(options: &ClientOptions, parts: AuthParts) -> Result<Self> {
        let source = match (&options.credential, parts.provider) {
            (Some(_), Some(_)) => {
                return Err(Error::configuration(
                    "both a credential and a credential provider are given",
                ));
            }
            (None, Some(provider)) => Source::Provider(provider),
            (Some(credential), None) => Source::Fixed(Arc::new(credential.clone())),
            (None, None) => Source::Anonymous,
        };
        let tokens = match (parts.oidc, &source) {
            (Some(_), Source::Fixed(credential)) if !credential.needs_callback() => {
                return Err(Error::configuration(
                    "an OIDC callback requires MONGODB-OIDC without an ENVIRONMENT",
                ));
            }
            (Some(callback), _) => Some(callback),
            (None, Source::Fixed(credential)) => built_in(credential)?,
            (None, Source::Anonymous | Source::Provider(_)) => None,
        };
        if let (Some(_), Source::Fixed(credential)) = (&parts.aws, &source)
            && credential.mechanism() != Some(AuthMechanism::MongoDbAws)
        {
            return Err(Error::configuration(
                "a provider of AWS credentials requires MONGODB-AWS",
            ));
        }
        let defaults = SourceDefaults {
            auth_source: options.auth_source.clone(),
            database: match &source {
                Source::Fixed(_) => options.default_database.clone(),
                Source::Anonymous | Source::Provider(_) => None,
            },
        };
        let authenticator = Self {
            source,
            defaults,
            tokens: tokens
                .map(|callback| Arc::new(TokenCache::new(callback, token_timeout(options)))),
            aws: parts.aws.unwrap_or_else(|| Arc::new(AwsSources::new())),
            keys: parts.keys.unwrap_or_default(),
            uses_tls: options.uses_tls(),
            allows_plain_without_tls: options.allow_plain_without_tls,
        };
        if let Source::Fixed(credential) = &authenticator.source {
            authenticator.check(credential)?;
        }
        Ok(authenticator)
    }

    /// This authenticator with resolved options: a TXT record may name the authentication database
    /// of credentials that name none.
    pub(crate) fn resolved(self: &Arc<Self>, options: &ClientOptions) -> Arc<Self> {
        match &options.auth_source {
            Some(_) if self.defaults.auth_source.is_none() => Arc::new(Self {
                defaults: SourceDefaults {
                    auth_source: options.auth_source.clone(),
                    ..self.defaults.clone()
                },
                ..Self::clone(self)
            }),
            Some(_) | None => self.clone(),
        }
    }

    /// An authenticator without a credential.
    pub(crate) fn anonymous() -> Self {
        Self {
            source: Source::Anonymous,
            defaults: SourceDefaults::default(),
            keys: Arc::default(),
            tokens: None,
            aws: Arc::new(AwsSources::new()),
            uses_tls: false,
            allows_plain_without_tls: false,
        }
    }

    /// Whether the credential never changes.
    pub(crate) fn is_fixed(&self) -> bool {
        match &self.source {
            Source::Anonymous | Source::Fixed(_) => true,
            Source::Provider(_) => false,
        }
    }

    /// The user, if it is known beforehand.
    pub(crate) fn user(&self) -> Option<&Arc<str>> {
        match &self.source {
            Source::Fixed(credential) => credential.username(),
            Source::Anonymous | Source::Provider(_) => None,
        }
    }

    /// Whether the fixed credentials of both are known to name one user. Names in two databases are
    /// two users, and without a name (OIDC, AWS, X.509) only the server knows.
    pub(crate) fn is_same_user(&self, other: &Self) -> bool {
        let user = |own: &Self| match &own.source {
            Source::Fixed(credential) => {
                let credential = own.complete(credential.clone());
                let source = credential.source_or_default().to_owned();
                Some((credential.username().cloned()?, source))
            }
            Source::Anonymous | Source::Provider(_) => None,
        };
        user(self).is_some_and(|own| user(other) == Some(own))
    }

    /// The current credential for a connection to `server`.
    ///
    /// # Errors
    /// The credential can't be obtained, can't be used, or must not be sent to the server.
    pub(crate) async fn credential(
        &self,
        server: &ServerAddress,
    ) -> Result<Option<Arc<Credential>>> {
        let credential = self.current().await?;
        match &credential {
            Some(credential) if !self.allows(credential, server) => {
                let error = Error::from(AuthError::HostNotAllowed);
                Err(error.for_user(credential.username()))
            }
            Some(_) | None => Ok(credential),
        }
    }

    /// Whether a credential may be sent to a server.
    fn allows(&self, credential: &Credential, server: &ServerAddress) -> bool {
        let of_human = credential.mechanism() == Some(AuthMechanism::MongoDbOidc)
            && self
                .tokens
                .as_ref()
                .is_some_and(|tokens| tokens.asks_human());
        match credential.allowed_hosts() {
            Some(allowed) => allows(allowed.iter().map(String::as_str), server),
            None if of_human => allows(DEFAULT_ALLOWED_HOSTS, server),
            None => true,
        }
    }

    async fn current(&self) -> Result<Option<Arc<Credential>>> {
        match &self.source {
            Source::Anonymous => Ok(None),
            Source::Fixed(credential) => Ok(Some(self.complete(credential.clone()))),
            Source::Provider(provider) => {
                let given = call_source("credential provider", || provider.credential());
                let credential = given.await?;
                self.check(&credential)
                    .map_err(|error| error.for_user(credential.username()))?;
                Ok(Some(self.complete(credential)))
            }
        }
    }

    /// Adds the authentication database, if the credential names none.
    fn complete(&self, credential: Arc<Credential>) -> Arc<Credential> {
        self.defaults.complete(&credential).unwrap_or(credential)
    }

    /// The cached access token, for a hello.
    pub(crate) fn kept_token(&self) -> Option<Secret> {
        self.tokens.as_ref()?.kept()
    }

    /// Whether `connectTimeoutMS` does not bound the wait for an access token.
    pub(crate) fn token_has_own_time(&self) -> bool {
        let tokens = self.tokens.as_ref();
        tokens.is_some_and(|tokens| tokens.has_own_time())
    }

    /// Provides the external input of an authentication conversation. The caller must mark SCRAM
    /// keys as [proved](Derived::proved).
    pub(crate) async fn provide(
        &self,
        need: AuthNeed,
        credential: Option<&Credential>,
    ) -> Result<(Evidence, Option<Derived>)> {
        let evidence = match need {
            AuthNeed::AwsCredentials => Evidence::AwsCredentials {
                credentials: call_source(AWS_PROVIDER, || self.aws.credentials()).await?,
                now: SystemTime::now(),
            },
            AuthNeed::AccessToken { refused } => {
                let Some(tokens) = &self.tokens else {
                    return Err(AuthError::OutOfOrder.into());
                };
                if let Some(refused) = refused {
                    tokens.forget(&refused);
                }
                let username = credential
                    .and_then(Credential::username)
                    .map(|name| &**name);
                let (token, is_cached) = tokens.token(username).await?;
                Evidence::AccessToken { token, is_cached }
            }
            AuthNeed::ScramKeys(derivation) => {
                let derived = self.keys.derive(derivation).await?;
                let keys = derived.keys().clone();
                return Ok((Evidence::ScramKeys(keys), Some(derived)));
            }
        };
        Ok((evidence, None))
    }

    /// Called when authentication with a mechanism has failed.
    pub(crate) fn failed(&self, mechanism: Option<AuthMechanism>) {
        if mechanism == Some(AuthMechanism::MongoDbAws) {
            let _ = guard(AWS_PROVIDER, || self.aws.failed());
        }
    }

    /// Checks, as far as possible beforehand, that a credential can be used over this transport.
    fn check(&self, credential: &Credential) -> Result<()> {
        let unusable = |text: &str| Err(Error::configuration(text));
        match credential.mechanism() {
            Some(AuthMechanism::Plain) if !self.uses_tls && !self.allows_plain_without_tls => {
                unusable(
                    "PLAIN sends the password in plain text and needs `tls=true`; \
                     `allow_plain_without_tls` permits it without TLS",
                )
            }
            Some(AuthMechanism::MongoDbX509) if !self.uses_tls => {
                unusable("MONGODB-X509 needs `tls=true` and a client certificate")
            }
            Some(AuthMechanism::MongoDbOidc) if self.tokens.is_none() => {
                unusable("MONGODB-OIDC needs an ENVIRONMENT or an OIDC callback")
            }
            Some(AuthMechanism::MongoDbOidc)
                if !self.uses_tls && !self.allows_plain_without_tls =>
            {
                unusable(
                    "MONGODB-OIDC sends the access token in plain text and needs `tls=true`; \
                     `allow_plain_without_tls` permits it without TLS",
                )
            }
            Some(mechanism @ AuthMechanism::Gssapi) => {
                Err(AuthError::UnsupportedMechanism(mechanism).into())
            }
            Some(
                AuthMechanism::ScramSha1
                | AuthMechanism::ScramSha256
                | AuthMechanism::Plain
                | AuthMechanism::MongoDbX509
                | AuthMechanism::MongoDbOidc
                | AuthMechanism::MongoDbAws,
            )
            | None => Ok(credential.validate().map_err(AuthError::from)?),
        }
    }
}

/// The time-out for a call for an access token. Without `timeoutMS` it is `None`: the callback has
/// its own time-out, as the specification requires.
fn token_timeout(options: &ClientOptions) -> Option<Duration> {
    let timeout = options.timeout?;
    let timeout = Some(timeout).filter(|timeout| !timeout.is_zero());
    timeout.into_iter().chain(options.connect_timeout).min()
}

/// The built-in callback for a credential with an `ENVIRONMENT`.
fn built_in(credential: &Credential) -> Result<Option<Arc<dyn OidcCallback>>> {
    if credential.mechanism() != Some(AuthMechanism::MongoDbOidc) {
        return Ok(None);
    }
    match credential.mechanism_property("ENVIRONMENT") {
        None => Ok(None),
        Some("k8s") => Ok(Some(Arc::new(KubernetesTokens::new()))),
        Some("test") => Ok(Some(Arc::new(TestTokens))),
        #[cfg(feature = "cloud-credentials")]
        Some(name @ ("azure" | "gcp")) => {
            let resource = credential.mechanism_property("TOKEN_RESOURCE");
            let resource = resource.unwrap_or_default();
            Ok(Some(match name {
                "azure" => Arc::new(AzureTokens::new(resource)),
                _ => Arc::new(GcpTokens::new(resource)),
            }))
        }
        Some(name) => Err(Error::configuration(format!(
            "ENVIRONMENT:{name} needs the feature `cloud-credentials`"
        ))),
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator")
            .field("user", &self.user())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::AuthMechanism;

    #[test]
    fn only_a_name_in_a_database_tells_that_two_credentials_are_of_one_user() {
        let of = |credential: Credential| {
            let mut options = ClientOptions::default();
            options.tls.enabled = Some(true);
            options.credential = Some(credential);
            Authenticator::new(&options, AuthParts::default()).expect("an authenticator")
        };
        let named =
            |source: &str, password: &str| of(Credential::new("app", password).with_source(source));
        let one = named("one", "old");
        assert!(one.is_same_user(&named("one", "new")));
        assert!(!one.is_same_user(&named("two", "old")));
        let nameless = of(Credential::from_mechanism(AuthMechanism::MongoDbX509));
        assert!(!nameless.is_same_user(&nameless));
        let options = ClientOptions::default();
        let anonymous = Authenticator::new(&options, AuthParts::default()).expect("none");
        assert!(!anonymous.is_same_user(&one));
    }
}
