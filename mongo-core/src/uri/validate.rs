//! The rules between options.

use std::time::Duration;

use super::{ClientOptions, UriError};
use crate::auth::{AuthMechanism, Credential, CredentialError};

/// The longest application name, in bytes.
pub(super) const MAX_APP_NAME: usize = 128;

/// The shortest time between two checks of a server.
pub(super) const MIN_HEARTBEAT_FREQUENCY: Duration = Duration::from_millis(500);

impl ClientOptions {
    /// Checks each option's range and the rules between options. The pools call it before they use
    /// options. For `mongodb+srv`, call it again with the hosts and options that were looked up.
    ///
    /// # Errors
    /// The first violated rule.
    pub fn validate(&self) -> Result<(), UriError> {
        self.validate_ranges()?;
        self.validate_topology()?;
        self.tls.validate()?;
        self.write_concern.validate()?;
        self.read_preference.validate()?;
        match &self.credential {
            Some(credential) => Ok(credential.validate()?),
            None => Ok(()),
        }
    }

    /// These options, if they are valid except for a missing password, which may be added later.
    pub(super) fn checked(self) -> Result<Self, UriError> {
        // No connection string or table can name a callback.
        if self
            .credential
            .as_ref()
            .is_some_and(Credential::needs_callback)
        {
            let missing = CredentialError::Property {
                mechanism: AuthMechanism::MongoDbOidc,
                property: "ENVIRONMENT",
                problem: "is missing",
            };
            return Err(missing.into());
        }
        match self.validate() {
            Ok(()) | Err(UriError::Credential(CredentialError::PasswordMissing(_))) => Ok(self),
            Err(error) => Err(error),
        }
    }

    fn validate_ranges(&self) -> Result<(), UriError> {
        let rules = [
            (
                self.app_name
                    .as_ref()
                    .is_none_or(|name| name.len() <= MAX_APP_NAME),
                "appname",
                "at most 128 bytes long",
            ),
            (
                self.heartbeat_frequency >= MIN_HEARTBEAT_FREQUENCY,
                "heartbeatFrequencyMS",
                "at least 500 ms",
            ),
            (
                (-1..=9).contains(&self.zlib_compression_level),
                "zlibCompressionLevel",
                "a number from -1 to 9",
            ),
            (
                self.max_connecting > 0,
                "maxConnecting",
                "a number of at least 1",
            ),
            (
                self.max_pool_size == 0 || self.min_pool_size <= self.max_pool_size,
                "minPoolSize",
                "at most maxPoolSize",
            ),
            (
                self.replica_set.as_deref() != Some(""),
                "replicaSet",
                "a name",
            ),
        ];
        match rules.into_iter().find(|(holds, ..)| !holds) {
            None => Ok(()),
            Some((_, option, expected)) => Err(UriError::Option { option, expected }),
        }
    }

    fn validate_topology(&self) -> Result<(), UriError> {
        const DIRECT: &str = "directConnection=true";
        const BALANCED: &str = "loadBalanced=true";
        const SEVERAL: &str = "several hosts";
        const LIMITED: &str = "srvMaxHosts";
        const REPLICA_SET: &str = "replicaSet";
        if self.hosts.is_empty() && self.srv.is_none() {
            return Err(UriError::NoHost);
        }
        let direct = self.direct_connection == Some(true);
        let balanced = self.load_balanced == Some(true);
        let several = self.hosts.len() > 1;
        let limited = self.srv.as_ref().is_some_and(|srv| srv.max_hosts > 0);
        let replica_set = self.replica_set.is_some();
        let exclusions = [
            (direct && several, DIRECT, SEVERAL),
            (direct && self.srv.is_some(), DIRECT, "mongodb+srv"),
            (direct && balanced, DIRECT, BALANCED),
            (balanced && several, BALANCED, SEVERAL),
            (balanced && replica_set, BALANCED, REPLICA_SET),
            (balanced && limited, BALANCED, LIMITED),
            (limited && replica_set, LIMITED, REPLICA_SET),
        ];
        match exclusions.into_iter().find(|(both, ..)| *both) {
            None => Ok(()),
            Some((_, first, second)) => Err(UriError::Conflict { first, second }),
        }
    }
}
