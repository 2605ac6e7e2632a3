//! Why a credential can't be used.

use std::fmt;
use std::str::FromStr;

use crate::auth::mechanism::AuthMechanism;
use crate::settings::is_named;

/// A credential that can't be used. No message shows a value, only names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The mechanism's name is not one of [`AuthMechanism`].
    #[error(
        "the authentication mechanism must be one of SCRAM-SHA-256, SCRAM-SHA-1, MONGODB-X509, \
         PLAIN, MONGODB-OIDC, MONGODB-AWS and GSSAPI"
    )]
    UnknownMechanism,
    /// `MONGODB-CR`, which servers do not support since 4.0.
    #[error("the authentication mechanism MONGODB-CR was removed; use SCRAM-SHA-256")]
    RemovedMechanism,
    /// The mechanism needs a user name.
    #[error("{} needs a user name", Named(.0))]
    UsernameMissing(Option<AuthMechanism>),
    /// A user name was given and is empty.
    #[error("the user name is empty")]
    UsernameEmpty,
    /// The mechanism, or its `ENVIRONMENT`, does not allow a user name.
    #[error("{0} takes no user name here")]
    UsernameNotAllowed(AuthMechanism),
    /// The mechanism needs a password.
    #[error("{} needs a password", Named(.0))]
    PasswordMissing(Option<AuthMechanism>),
    /// The user name or the password contains a NUL, which separates the two in `PLAIN`.
    #[error("{0} takes no user name or password with a NUL")]
    Nul(AuthMechanism),
    /// The mechanism does not allow a password.
    #[error("{0} takes no password")]
    PasswordNotAllowed(AuthMechanism),
    /// The mechanism works with one authentication database only.
    #[error("{mechanism} needs the authentication database {needed:?}")]
    Source {
        /// The mechanism.
        mechanism: AuthMechanism,
        /// The only database that it works with.
        needed: &'static str,
    },
    /// The authentication database is empty.
    #[error("the authentication database is empty")]
    SourceEmpty,
    /// The mechanism doesn't have this property.
    #[error("{} has no property {}", Named(.mechanism), property.as_deref().unwrap_or("of this name"))]
    UnknownProperty {
        /// The mechanism.
        mechanism: Option<AuthMechanism>,
        /// The property's name; `None` if it does not look like a name, since it may be a misplaced
        /// secret.
        property: Option<String>,
    },
    /// A property is missing or has an invalid value.
    #[error("{mechanism}: the property {property} {problem}")]
    Property {
        /// The mechanism.
        mechanism: AuthMechanism,
        /// The property.
        property: &'static str,
        /// The problem with it.
        problem: &'static str,
    },
}

/// A mechanism's name, or "the default mechanism" if it is to be negotiated.
struct Named<'a>(&'a Option<AuthMechanism>);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            self.0
                .map_or("the default mechanism", AuthMechanism::as_str),
        )
    }
}

/// Ignores case, `_` and `-`.
impl FromStr for AuthMechanism {
    type Err = CredentialError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|mechanism| is_named(name, mechanism.as_str()))
            .ok_or_else(|| match is_named(name, "MONGODB-CR") {
                true => CredentialError::RemovedMechanism,
                false => CredentialError::UnknownMechanism,
            })
    }
}
