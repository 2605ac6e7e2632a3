//! Credentials.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};

use super::mechanism::{AuthMechanism, EXTERNAL};
use super::secret::Secret;
use crate::settings::{FromValue, SettingError, Settings, Value, shown_key};

mod error;

pub use error::CredentialError;

/// The credential of a user: the specification's `MongoCredential`.
///
/// Build it with [`Credential::new`] and the `with_*` methods, from a connection string, or with
/// serde from a table with `username`, `password`, `source`, `mechanism`, `mechanism_properties`
/// and `allowed_hosts`. Only [`validate`](Self::validate) checks it.
///
/// Cloning is cheap. Two credentials are equal if all their parts are. `Debug` never shows the
/// password or a mechanism property that may be a secret.
///
/// Specification: authentication.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Credential {
    username: Option<Arc<str>>,
    password: Option<Secret>,
    source: Option<String>,
    mechanism: Option<AuthMechanism>,
    mechanism_properties: BTreeMap<String, Secret>,
    allowed_hosts: Option<Vec<String>>,
}

/// The properties whose values are not secret. `Debug` hides every other value.
const PUBLIC_PROPERTIES: [&str; 6] = [
    "CANONICALIZE_HOST_NAME",
    "ENVIRONMENT",
    "SERVICE_HOST",
    "SERVICE_NAME",
    "SERVICE_REALM",
    "TOKEN_RESOURCE",
];

/// Whether the value of a mechanism property is not secret. The name is case-insensitive.
pub(crate) fn is_public_property(name: &str) -> bool {
    let mut properties = PUBLIC_PROPERTIES.iter();
    properties.any(|public| public.eq_ignore_ascii_case(name))
}

impl Credential {
    /// A user name and a password. The mechanism is negotiated with the server.
    pub fn new(username: impl Into<Arc<str>>, password: impl Into<Secret>) -> Self {
        Self::default()
            .with_username(username)
            .with_password(password)
    }

    /// A credential for a mechanism, without a user name or password.
    pub fn from_mechanism(mechanism: AuthMechanism) -> Self {
        Self::default().with_mechanism(mechanism)
    }

    /// Sets the user name. It is sent unchanged: no SASLprep, no normalization.
    #[must_use]
    pub fn with_username(mut self, username: impl Into<Arc<str>>) -> Self {
        self.username = Some(username.into());
        self
    }

    /// Sets the password.
    #[must_use]
    pub fn with_password(mut self, password: impl Into<Secret>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// Sets the authentication database (`authSource`).
    #[must_use]
    pub fn with_source(mut self, source: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Sets the mechanism (`authMechanism`). If unset, it is negotiated: the server reports whether
    /// the user has SCRAM-SHA-256 or SCRAM-SHA-1.
    #[must_use]
    pub fn with_mechanism(mut self, mechanism: AuthMechanism) -> Self {
        self.mechanism = Some(mechanism);
        self
    }

    /// Sets one mechanism property (`authMechanismProperties`). The name is case-insensitive.
    #[must_use]
    pub fn with_mechanism_property(mut self, name: &str, value: impl Into<Secret>) -> Self {
        self.mechanism_properties
            .insert(name.to_ascii_uppercase(), value.into());
        self
    }

    /// Restricts the hosts that the credential may be sent to. Without this, a server that is
    /// discovered through another one gets the password or the access token too. A leading `*.`
    /// matches any name under a domain (`*.example.net`). Ports are ignored. An empty list allows
    /// no host. A connection to another host fails with
    /// [`AuthError::HostNotAllowed`](super::AuthError::HostNotAllowed) before its first hello.
    ///
    /// Specification: authentication, `ALLOWED_HOSTS`, which this crate supports for every
    /// mechanism. A connection string can't set them.
    #[must_use]
    pub fn with_allowed_hosts<S: Into<String>>(
        mut self,
        hosts: impl IntoIterator<Item = S>,
    ) -> Self {
        self.allowed_hosts = Some(hosts.into_iter().map(Into::into).collect());
        self
    }

    /// The hosts that the credential may be sent to. `None` allows any host, except with a human
    /// flow for access tokens, which then allows only
    /// [`DEFAULT_ALLOWED_HOSTS`](super::DEFAULT_ALLOWED_HOSTS).
    pub fn allowed_hosts(&self) -> Option<&[String]> {
        self.allowed_hosts.as_deref()
    }

    /// The user name.
    pub fn username(&self) -> Option<&Arc<str>> {
        self.username.as_ref()
    }

    /// The password.
    pub fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }

    /// The authentication database, if one was given or taken from the connection string.
    pub fn source(&self) -> Option<&str> {
        self.source.as_deref()
    }

    /// The authentication database that is used: the given one, else the mechanism's default
    /// (`admin` while the mechanism is still to be negotiated).
    pub fn source_or_default(&self) -> &str {
        self.source().unwrap_or(self.default_source(None))
    }

    /// The authentication database for this mechanism if none is given. `database` is the
    /// connection string's. See [`AuthMechanism::default_source`]; without a mechanism, the rule
    /// for SCRAM applies.
    pub fn default_source<'a>(&self, database: Option<&'a str>) -> &'a str {
        self.mechanism
            .unwrap_or(AuthMechanism::ScramSha256)
            .default_source(database)
    }

    /// The mechanism; `None` if it is to be negotiated.
    pub fn mechanism(&self) -> Option<AuthMechanism> {
        self.mechanism
    }

    /// Whether a callback must supply the tokens: `MONGODB-OIDC` without an `ENVIRONMENT`.
    pub(crate) fn needs_callback(&self) -> bool {
        self.mechanism == Some(AuthMechanism::MongoDbOidc)
            && self.mechanism_property("ENVIRONMENT").is_none()
    }

    /// A mechanism property by its case-insensitive name, or its default: `SERVICE_NAME` of
    /// `GSSAPI` defaults to `mongodb`.
    pub fn mechanism_property(&self, name: &str) -> Option<&str> {
        let name = name.to_ascii_uppercase();
        match (self.mechanism_properties.get(&name), self.mechanism) {
            (Some(value), _) => Some(value.expose()),
            (None, Some(AuthMechanism::Gssapi)) if name == "SERVICE_NAME" => Some("mongodb"),
            (None, _) => None,
        }
    }

    /// The mechanism properties that were set, with their names in upper case.
    pub fn mechanism_properties(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.mechanism_properties
            .iter()
            .map(|(name, value)| (&**name, value))
    }

    /// The mechanism properties that are not secret.
    pub(crate) fn public_properties(&self) -> impl Iterator<Item = (&str, &str)> {
        let properties = self.mechanism_properties();
        properties
            .filter(|(name, _)| is_public_property(name))
            .map(|(name, value)| (name, value.expose()))
    }

    /// Checks that the mechanism has all that it needs and nothing that it does not allow. It does
    /// not check that `MONGODB-OIDC` without an `ENVIRONMENT` has a callback.
    ///
    /// # Errors
    /// The first violation of the authentication specification.
    pub fn validate(&self) -> Result<(), CredentialError> {
        if self.username.as_deref() == Some("") {
            return Err(CredentialError::UsernameEmpty);
        }
        if self.source() == Some("") {
            return Err(CredentialError::SourceEmpty);
        }
        self.validate_properties()?;
        let Some(mechanism) = self.mechanism else {
            return self.needs_username_and_password();
        };
        match mechanism {
            AuthMechanism::ScramSha1 | AuthMechanism::ScramSha256 => {
                self.needs_username_and_password()
            }
            AuthMechanism::Plain => {
                self.needs_username_and_password()?;
                self.takes_no_nul(mechanism)
            }
            AuthMechanism::MongoDbX509 => {
                self.needs_external(mechanism)?;
                self.takes_no_password(mechanism)
            }
            AuthMechanism::MongoDbAws => {
                self.needs_external(mechanism)?;
                self.takes_no_username(mechanism)?;
                self.takes_no_password(mechanism)
            }
            AuthMechanism::Gssapi => {
                self.needs_external(mechanism)?;
                self.needs_username()?;
                self.validate_canonicalization(mechanism)
            }
            AuthMechanism::MongoDbOidc => {
                self.needs_external(mechanism)?;
                self.takes_no_password(mechanism)?;
                self.validate_oidc_environment(mechanism)
            }
        }
    }

    fn validate_properties(&self) -> Result<(), CredentialError> {
        let known = self.mechanism.map_or(&[][..], AuthMechanism::properties);
        match self
            .mechanism_properties
            .keys()
            .find(|name| !known.contains(&name.as_str()))
        {
            None => Ok(()),
            Some(name) => Err(CredentialError::UnknownProperty {
                mechanism: self.mechanism,
                property: shown_key(name).map(str::to_owned),
            }),
        }
    }

    fn validate_canonicalization(&self, mechanism: AuthMechanism) -> Result<(), CredentialError> {
        match self.mechanism_property("CANONICALIZE_HOST_NAME") {
            None | Some("none" | "forward" | "forwardAndReverse" | "true" | "false") => Ok(()),
            Some(_) => Err(CredentialError::Property {
                mechanism,
                property: "CANONICALIZE_HOST_NAME",
                problem: "must be none, forward, forwardAndReverse, true or false",
            }),
        }
    }

    fn validate_oidc_environment(&self, mechanism: AuthMechanism) -> Result<(), CredentialError> {
        let wrong = |property, problem| {
            Err(CredentialError::Property {
                mechanism,
                property,
                problem,
            })
        };
        let environment = self.mechanism_property("ENVIRONMENT");
        let resource = self.mechanism_property("TOKEN_RESOURCE");
        match (environment, resource) {
            (None, Some(_)) => wrong("TOKEN_RESOURCE", "is only for azure and gcp"),
            // This needs a callback, which is not part of a credential.
            (None, None) => Ok(()),
            (Some("azure" | "gcp"), None) => {
                wrong("TOKEN_RESOURCE", "is missing; azure and gcp need it")
            }
            (Some("test" | "k8s"), Some(_)) => wrong("TOKEN_RESOURCE", "is only for azure and gcp"),
            (Some("azure"), Some(_)) => Ok(()),
            (Some("gcp"), Some(_)) | (Some("test" | "k8s"), None) => {
                self.takes_no_username(mechanism)
            }
            (Some(_), _) => wrong("ENVIRONMENT", "must be test, azure, gcp or k8s"),
        }
    }

    fn needs_username(&self) -> Result<(), CredentialError> {
        match self.username {
            Some(_) => Ok(()),
            None => Err(CredentialError::UsernameMissing(self.mechanism)),
        }
    }

    fn needs_username_and_password(&self) -> Result<(), CredentialError> {
        self.needs_username()?;
        match self.password {
            Some(_) => Ok(()),
            None => Err(CredentialError::PasswordMissing(self.mechanism)),
        }
    }

    fn needs_external(&self, mechanism: AuthMechanism) -> Result<(), CredentialError> {
        match self.source() {
            None | Some(EXTERNAL) => Ok(()),
            Some(_) => Err(CredentialError::Source {
                mechanism,
                needed: EXTERNAL,
            }),
        }
    }

    fn takes_no_username(&self, mechanism: AuthMechanism) -> Result<(), CredentialError> {
        match self.username {
            None => Ok(()),
            Some(_) => Err(CredentialError::UsernameNotAllowed(mechanism)),
        }
    }

    fn takes_no_nul(&self, mechanism: AuthMechanism) -> Result<(), CredentialError> {
        let parts = [
            self.username.as_deref(),
            self.password.as_ref().map(Secret::expose),
        ];
        match parts.into_iter().flatten().any(|part| part.contains('\0')) {
            true => Err(CredentialError::Nul(mechanism)),
            false => Ok(()),
        }
    }

    fn takes_no_password(&self, mechanism: AuthMechanism) -> Result<(), CredentialError> {
        match self.password {
            None => Ok(()),
            Some(_) => Err(CredentialError::PasswordNotAllowed(mechanism)),
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let properties: BTreeMap<_, _> = self
            .mechanism_properties()
            .map(|(name, value)| match is_public_property(name) {
                true => (name, value.expose()),
                false => (name, ".."),
            })
            .collect();
        f.debug_struct("Credential")
            .field("username", &self.username)
            .field("password", &self.password)
            .field("source", &self.source)
            .field("mechanism", &self.mechanism)
            .field("mechanism_properties", &properties)
            .field("allowed_hosts", &self.allowed_hosts)
            .finish()
    }
}

impl Settings for Credential {
    const KEYS: &'static [&'static str] = &[
        "username",
        "password",
        "source",
        "mechanism",
        "mechanism_properties",
        "allowed_hosts",
        "authSource",
        "auth_source",
        "authMechanism",
        "auth_mechanism",
        "authMechanismProperties",
        "auth_mechanism_properties",
    ];

    fn set(&mut self, key: &'static str, value: Value) -> Result<(), SettingError> {
        match key {
            "username" => self.username = Some(value.read::<String>()?.into()),
            "password" => self.password = Some(value.read()?),
            "source" | "authSource" | "auth_source" => self.source = Some(value.read()?),
            "mechanism" | "authMechanism" | "auth_mechanism" => {
                self.mechanism = Some(value.read()?)
            }
            "allowed_hosts" => self.allowed_hosts = value.read()?,
            _ => {
                let Value::Table(fields) = value else {
                    return Err(SettingError::expected("a table of texts", &value));
                };
                for (name, value) in fields {
                    // A name may be a misplaced secret.
                    let named = |error: SettingError| match shown_key(&name) {
                        Some(name) => error.within(name),
                        None => error,
                    };
                    let value: Secret = value.read().map_err(named)?;
                    self.mechanism_properties
                        .insert(name.to_ascii_uppercase(), value);
                }
            }
        }
        Ok(())
    }
}

impl FromValue for Credential {
    fn from_value(value: Value) -> Result<Self, SettingError> {
        match value {
            Value::Table(_) => value.read_table(),
            _ => Err(SettingError::expected("a table", &value)),
        }
    }
}

impl<'de> Deserialize<'de> for Credential {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::settings::deserialize_table(deserializer)
    }
}

#[cfg(test)]
mod tests;
