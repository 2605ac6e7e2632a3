use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use super::AwsCredentialProvider;
use crate::auth::AwsCredentials;
use crate::error::{Error, Result};
use crate::net::auth::oidc::{Variables, of_process};
use crate::net::transport::connector::{Connector, SocketConnector};

/// Credentials that end sooner are not used any more.
const LEAST_VALIDITY: Duration = Duration::from_secs(5 * 60);

/// The sources of credentials that AWS gives a program, in the specification's order:
/// - the variables `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`, read anew
///   each time;
/// - a web identity, where `AWS_WEB_IDENTITY_TOKEN_FILE` and `AWS_ROLE_ARN` are set, from AWS's token
///   service (STS): that of the region of `AWS_REGION` or else `AWS_DEFAULT_REGION`, or the global
///   one where neither is set, or `AWS_STS_REGIONAL_ENDPOINTS` is `legacy` and the region is one that
///   uses it; or what `AWS_ENDPOINT_URL_STS` or else `AWS_ENDPOINT_URL` names;
/// - the container's endpoint: for ECS, where `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI` is set; for
///   EKS Pod Identity and others, where `AWS_CONTAINER_CREDENTIALS_FULL_URI` is set. The token in the
///   file of `AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE`, or else that of
///   `AWS_CONTAINER_AUTHORIZATION_TOKEN`, goes with the request. Without `https` the endpoint has to
///   be on the loopback, or AWS's own for containers;
/// - the instance's metadata service (EC2, version 2), unless `AWS_EC2_METADATA_DISABLED` is `true`.
///
/// The first source that any of its variables configures is used, and its failure is the error:
/// another source would give another identity. An empty variable counts as not set. Profiles
/// (`AWS_PROFILE`, `AWS_SHARED_CREDENTIALS_FILE`) are not read, and where they are named the
/// instance's service is not asked.
///
/// All but the first need the feature `cloud-credentials`, and `https` the feature `tls` besides. What
/// they give is kept until 5 minutes before it ends, or until authentication fails, and goes before
/// the variables then. A source has 10 s to answer.
pub struct AwsSources {
    pub(crate) variables: Variables,
    pub(crate) connector: Arc<dyn Connector>,
    #[cfg(feature = "cloud-credentials")]
    pub(crate) tls: Option<crate::net::transport::tls::Tls>,
    kept: Mutex<Option<AwsCredentials>>,
}

impl AwsSources {
    /// By this process's environment variables.
    pub fn new() -> Self {
        Self {
            variables: of_process(),
            connector: Arc::new(SocketConnector::new()),
            #[cfg(feature = "cloud-credentials")]
            tls: None,
            kept: Mutex::default(),
        }
    }

    /// By other variables than the process's.
    #[must_use]
    pub fn with_variables(
        mut self,
        variables: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.variables = Arc::new(variables);
        self
    }

    /// What opens the transports to the endpoints. Default [`SocketConnector`].
    #[must_use]
    pub fn with_connector(mut self, connector: Arc<dyn Connector>) -> Self {
        self.connector = connector;
        self
    }

    /// Whom the token service's endpoint has to prove itself to be by, as for a proxy with an authority
    /// of its own. Default: the system's roots, or Mozilla's where they are built in instead.
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
            "AWS_ACCESS_KEY_ID is not set, and the endpoints of AWS need the feature `cloud-credentials`",
        ))
    }

    fn kept(&self) -> MutexGuard<'_, Option<AwsCredentials>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
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
        // Nobody waits for another one's request, as the specification has it.
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
