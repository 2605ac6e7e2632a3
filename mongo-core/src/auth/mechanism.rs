//! The authentication mechanisms.

use std::fmt;

use serde::{Deserialize, Deserializer};

use crate::settings::{FromValue, SettingError, Value};

/// The authentication database for users outside MongoDB: LDAP, Kerberos, certificates.
pub const EXTERNAL: &str = "$external";

/// The default authentication database of SCRAM users.
pub const ADMIN: &str = "admin";

/// An authentication mechanism, named as in the authentication specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum AuthMechanism {
    /// `SCRAM-SHA-1`: a user name and a password.
    ScramSha1,
    /// `SCRAM-SHA-256`: a user name and a password.
    ScramSha256,
    /// `MONGODB-X509`: the client certificate of the TLS connection.
    MongoDbX509,
    /// `PLAIN`: a user name and a password, checked by LDAP. They are sent in clear text: use TLS.
    Plain,
    /// `MONGODB-OIDC`: an OpenID Connect access token.
    MongoDbOidc,
    /// `MONGODB-AWS`: AWS credentials from the environment.
    MongoDbAws,
    /// `GSSAPI`: Kerberos.
    Gssapi,
}

impl AuthMechanism {
    pub(super) const ALL: [Self; 7] = [
        Self::ScramSha1,
        Self::ScramSha256,
        Self::MongoDbX509,
        Self::Plain,
        Self::MongoDbOidc,
        Self::MongoDbAws,
        Self::Gssapi,
    ];

    /// The name, on the wire and in a connection string.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ScramSha1 => "SCRAM-SHA-1",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::MongoDbX509 => "MONGODB-X509",
            Self::Plain => "PLAIN",
            Self::MongoDbOidc => "MONGODB-OIDC",
            Self::MongoDbAws => "MONGODB-AWS",
            Self::Gssapi => "GSSAPI",
        }
    }

    /// The authentication database if none is given. For `PLAIN` and SCRAM it is the connection
    /// string's database, else `$external` and `admin` respectively. For all other mechanisms it is
    /// `$external`.
    pub fn default_source(self, database: Option<&str>) -> &str {
        match self {
            Self::ScramSha1 | Self::ScramSha256 => database.unwrap_or(ADMIN),
            Self::Plain => database.unwrap_or(EXTERNAL),
            Self::MongoDbX509 | Self::MongoDbOidc | Self::MongoDbAws | Self::Gssapi => EXTERNAL,
        }
    }

    /// The mechanism properties that the mechanism allows.
    pub(super) fn properties(self) -> &'static [&'static str] {
        match self {
            Self::ScramSha1 | Self::ScramSha256 | Self::MongoDbX509 | Self::Plain => &[],
            // The specification removed explicit credentials in September 2025.
            Self::MongoDbAws => &[],
            Self::MongoDbOidc => &["ENVIRONMENT", "TOKEN_RESOURCE"],
            Self::Gssapi => &[
                "SERVICE_NAME",
                "CANONICALIZE_HOST_NAME",
                "SERVICE_REALM",
                "SERVICE_HOST",
            ],
        }
    }
}

impl fmt::Display for AuthMechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromValue for AuthMechanism {
    fn from_value(value: Value) -> Result<Self, SettingError> {
        match &value {
            Value::Text(name) => name.parse().map_err(SettingError::unusable),
            _ => Err(SettingError::expected("the name of a mechanism", &value)),
        }
    }
}

impl<'de> Deserialize<'de> for AuthMechanism {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::settings::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::CredentialError;

    #[test]
    fn mechanisms_parse_their_own_names() {
        for mechanism in AuthMechanism::ALL {
            assert_eq!(mechanism.as_str().parse(), Ok(mechanism));
        }
        let parse = str::parse::<AuthMechanism>;
        assert_eq!(parse("scram_sha_256"), Ok(AuthMechanism::ScramSha256));
        assert_eq!(parse("MONGODB-CR"), Err(CredentialError::RemovedMechanism));
        assert_eq!(parse("scram"), Err(CredentialError::UnknownMechanism));
    }

    #[test]
    fn default_sources() {
        let source = |mechanism: AuthMechanism, database| mechanism.default_source(database);
        assert_eq!(source(AuthMechanism::ScramSha1, None), "admin");
        assert_eq!(source(AuthMechanism::ScramSha256, Some("db")), "db");
        assert_eq!(source(AuthMechanism::Plain, None), "$external");
        assert_eq!(source(AuthMechanism::Plain, Some("db")), "db");
        assert_eq!(source(AuthMechanism::MongoDbX509, Some("db")), "$external");
    }
}
