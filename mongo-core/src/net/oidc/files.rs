use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use zeroize::Zeroizing;

use super::{AccessToken, OidcCallback, OidcRequest};
use crate::auth::Secret;
use crate::error::{Error, Result};

/// Where Kubernetes puts the token of a pod's service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// No token is as long; what is longer is not read.
const MAX_LENGTH: u64 = 64 * 1024;

/// A process's environment variables.
pub(in crate::net) type Variables = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

pub(in crate::net) fn of_process() -> Variables {
    Arc::new(|name| std::env::var(name).ok())
}

/// The token of a pod's service account in Kubernetes: `ENVIRONMENT:k8s`.
///
/// Read from the file that the variable `AZURE_FEDERATED_TOKEN_FILE` names (AKS), else
/// `AWS_WEB_IDENTITY_TOKEN_FILE` (EKS), else `/var/run/secrets/kubernetes.io/serviceaccount/token`.
///
/// Specification: authentication, "Built-in OIDC Environment Integrations".
#[derive(Clone)]
pub struct KubernetesTokens(Variables);

impl KubernetesTokens {
    /// By this process's environment variables.
    pub fn new() -> Self {
        Self(of_process())
    }

    /// By other variables than the process's.
    pub fn with_variables(
        variables: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(variables))
    }
}

impl Default for KubernetesTokens {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for KubernetesTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubernetesTokens").finish_non_exhaustive()
    }
}

#[async_trait]
impl OidcCallback for KubernetesTokens {
    async fn token(&self, _: OidcRequest<'_>) -> Result<AccessToken> {
        let named = (self.0)("AZURE_FEDERATED_TOKEN_FILE")
            .or_else(|| (self.0)("AWS_WEB_IDENTITY_TOKEN_FILE"));
        let path = named.unwrap_or_else(|| SERVICE_ACCOUNT.to_owned());
        read(path.into()).await.map(AccessToken::new)
    }
}

/// `ENVIRONMENT:test`, which is there for the tests of drivers: the file that `OIDC_TOKEN_FILE`
/// names.
pub(in crate::net) struct TestTokens;

#[async_trait]
impl OidcCallback for TestTokens {
    async fn token(&self, _: OidcRequest<'_>) -> Result<AccessToken> {
        match (of_process())("OIDC_TOKEN_FILE") {
            Some(path) => read(path.into()).await.map(AccessToken::new),
            None => Err(Error::credential("OIDC_TOKEN_FILE is not set")),
        }
    }
}

/// A secret that is all there is in a file, but for white space at its end.
pub(in crate::net) async fn read(path: PathBuf) -> Result<Secret> {
    let shown = path.display().to_string();
    let read = tokio::task::spawn_blocking(move || read_now(&path));
    let text = read
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)));
    text.map_err(|error| Error::credential(format!("{shown}: {error}")))
}

fn read_now(path: &std::path::Path) -> io::Result<Secret> {
    let mut text = Zeroizing::new(String::new());
    File::open(path)?
        .take(MAX_LENGTH + 1)
        .read_to_string(&mut text)?;
    match text.len() as u64 {
        0..=MAX_LENGTH => Ok(Secret::from(text.trim_end())),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the file is too long for a secret",
        )),
    }
}
