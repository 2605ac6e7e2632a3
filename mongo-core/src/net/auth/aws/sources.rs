use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use super::AwsCredentialProvider;
use crate::auth::AwsCredentials;
use crate::error::{Error, Result};
use crate::net::auth::oidc::{Variables, of_process};
use crate::net::transport::connector::{Connector, SocketConnector};
use crate::sync::lock;

/// Credentials that expire sooner are not used.
const LEAST_VALIDITY: Duration = Duration::from_secs(5 * 60);

/// The standard sources of AWS credentials, in the specification's order:
/// - the variables `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`, read again
///   each time;
/// - a web identity, if `AWS_WEB_IDENTITY_TOKEN_FILE` and `AWS_ROLE_ARN` are set, from AWS's token
///   service (STS). Its endpoint is set by `AWS_ENDPOINT_URL_STS` or else `AWS_ENDPOINT_URL`.
///   Otherwise it is that of the region in `AWS_REGION` or else `AWS_DEFAULT_REGION`; or the global
///   one if neither is set, or if `AWS_STS_REGIONAL_ENDPOINTS` is `legacy` and the region uses the
///   global one in that case;
/// - the container endpoint: for ECS, if `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI` is set; for EKS
///   Pod Identity and others, if `AWS_CONTAINER_CREDENTIALS_FULL_URI` is set. The request carries
///   the token in the file that `AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE` names, or else the token
///   in `AWS_CONTAINER_AUTHORIZATION_TOKEN`. Without `https`, the endpoint must be a loopback
///   address or AWS's own container endpoint;
/// - the instance's metadata service (EC2, version 2), unless `AWS_EC2_METADATA_DISABLED` is
///   `true`.
///
/// The first source with any of its variables set is used, and its failure is the error, because
/// another source would give another identity. An empty variable counts as not set. Profiles
/// (`AWS_PROFILE`, `AWS_SHARED_CREDENTIALS_FILE`) are not read; if one is named, the instance's
/// service is not asked.
///
/// All but the first source need the feature `cloud-credentials`; `https` also needs the feature
/// `tls`. Their credentials are cached until 5 minutes before they expire, or until authentication
/// fails. Cached credentials take precedence over the variables. A source has 10 s to answer.
pub struct AwsSources {
    pub(crate) variables: Variables,
    pub(crate) connector: Arc<dyn Connector>,
    #[cfg(feature = "cloud-credentials")]
    pub(crate) tls: Option<crate::net::transport::tls::Tls>,
    kept: Mutex<Option<AwsCredentials>>,
}

impl AwsSources {
    /// Uses this process's environment variables.
    pub fn new() -> Self {
        Self {
            variables: of_process(),
            connector: Arc::new(SocketConnector::new()),
            #[cfg(feature = "cloud-credentials")]
            tls: None,
            kept: Mutex::default(),
        }
    }

    /// Uses the given variables instead of the process's.
    #[must_use]
    pub fn with_variables(
        mut self,
        variables: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.variables = Arc::new(variables);
        self
    }

    /// Sets the connector that opens the transports to the endpoints. Default: [`SocketConnector`].
    #[must_use]
    pub fn with_connector(mut self, connector: Arc<dyn Connector>) -> Self {
        self.connector = connector;
        self
    }

    /// Sets the TLS configuration that verifies the token service's endpoint, for example for a
    /// proxy with its own CA. Default: the system's roots, or Mozilla's if they are built in
    /// instead.
    #[cfg(all(feature = "cloud-credentials", feature = "tls-rustls"))]
    #[must_use]
    pub fn with_tls(mut self, tls: impl Into<crate::net::Tls>) -> Self {
        self.tls = Some(tls.into());
        self
    }

    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        (self.variables)(name).filter(|value| !value.is_empty())
    }

    fn in_variables(&self) -> Result<Option<AwsCredentials>> {
        let (id, key) = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY");
        let token = self.variable("AWS_SESSION_TOKEN");
        match (self.variable(id), self.variable(key)) {
            (None, None) if token.is_some() => Err(Error::credential(format!(
                "AWS_SESSION_TOKEN is set without {id} and {key}"
            ))),
            (None, None) => Ok(None),
            (Some(_), None) | (None, Some(_)) => Err(Error::credential(format!(
                "one of {id} and {key} is set without the other"
            ))),
            (Some(id), Some(key)) => {
                let credentials = AwsCredentials::new(id, key);
                Ok(Some(match token {
                    Some(token) => credentials.with_session_token(token),
                    None => credentials,
                }))
            }
        }
    }

    #[cfg(not(feature = "cloud-credentials"))]
    async fn fetch(&self) -> Result<AwsCredentials> {
        Err(Error::credential(
            "AWS_ACCESS_KEY_ID is not set, and the AWS endpoints need the feature `cloud-credentials`",
        ))
    }

    fn kept(&self) -> MutexGuard<'_, Option<AwsCredentials>> {
        lock(&self.kept)
    }
}

impl Default for AwsSources {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl AwsCredentialProvider for AwsSources {
    async fn credentials(&self) -> Result<AwsCredentials> {
        let kept = self.kept().clone();
        if let Some(kept) = kept.filter(is_valid) {
            return Ok(kept);
        }
        if let Some(credentials) = self.in_variables()? {
            return Ok(credentials);
        }
        // No caller waits for another caller's request, as the specification requires.
        let fetched = self.fetch().await?;
        *self.kept() = Some(fetched.clone()).filter(|fetched| fetched.expiration.is_some());
        Ok(fetched)
    }

    fn failed(&self) {
        *self.kept() = None;
    }
}

fn is_valid(credentials: &AwsCredentials) -> bool {
    let least = SystemTime::now().checked_add(LEAST_VALIDITY);
    match (credentials.expiration, least) {
        (Some(expiration), Some(least)) => expiration > least,
        _ => false,
    }
}

impl fmt::Debug for AwsSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsSources").finish_non_exhaustive()
    }
}
