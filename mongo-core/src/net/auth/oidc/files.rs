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

/// The path of a pod's service account token in Kubernetes.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// The maximum length of a token file. A longer file is not read.
const MAX_LENGTH: u64 = 64 * 1024;

/// A process's environment variables.
pub(crate) type Variables = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

pub(crate) fn of_process() -> Variables {
    // A value that is not UTF-8 counts as set: using it then fails, instead of treating it as
    // absent.
    Arc::new(|name| Some(std::env::var_os(name)?.to_string_lossy().into_owned()))
}

/// Reads the token of a pod's service account in Kubernetes: `ENVIRONMENT:k8s`.
///
/// The file is the one that the variable `AZURE_FEDERATED_TOKEN_FILE` names (AKS), else
/// `AWS_WEB_IDENTITY_TOKEN_FILE` (EKS), else `/var/run/secrets/kubernetes.io/serviceaccount/token`.
///
/// Specification: authentication, "Built-in OIDC Environment Integrations".
#[derive(Clone)]
pub struct KubernetesTokens(Variables);

impl KubernetesTokens {
    /// Uses this process's environment variables.
    pub fn new() -> Self {
        Self(of_process())
    }

    /// Uses the given variables instead of the process's.
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
        let variables = ["AZURE_FEDERATED_TOKEN_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"];
        let named = variables
            .into_iter()
            .find_map(|name| Some((name, (self.0)(name)?)));
        let (name, path) = named.unwrap_or((SERVICE_ACCOUNT, SERVICE_ACCOUNT.to_owned()));
        read(name, path.into()).await.map(AccessToken::new)
    }
}

/// `ENVIRONMENT:test`, for the tests of drivers: the file that `OIDC_TOKEN_FILE` names.
pub(crate) struct TestTokens;

#[async_trait]
impl OidcCallback for TestTokens {
    async fn token(&self, _: OidcRequest<'_>) -> Result<AccessToken> {
        let name = "OIDC_TOKEN_FILE";
        match (of_process())(name) {
            Some(path) => read(name, path.into()).await.map(AccessToken::new),
            None => Err(Error::credential("OIDC_TOKEN_FILE is not set")),
        }
    }
}

/// Reads a secret from a file, without trailing white space. `name` is the variable that names the
/// file. Errors show it instead of the path, because the value may by mistake be the secret itself.
pub(crate) async fn read(name: &str, path: PathBuf) -> Result<Secret> {
    let read = tokio::task::spawn_blocking(move || read_now(&path));
    let text = read
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)));
    text.map_err(|error| Error::credential(format!("{name}: {error}")))
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
