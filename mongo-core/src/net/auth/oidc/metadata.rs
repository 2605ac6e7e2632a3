use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{AccessToken, OidcCallback, OidcRequest};
use crate::ServerAddress;
use crate::auth::Secret;
use crate::error::{Error, Result};
use crate::net::auth::http::Request;
use crate::net::encoded;
use crate::net::transport::connector::{Connector, SocketConnector};

/// Requests tokens of a virtual machine's identity in Azure: `ENVIRONMENT:azure`.
///
/// They come from the instance metadata service, `169.254.169.254`. The credential's user name, if
/// it has one, is the identity's client id.
///
/// Specification: authentication, "Built-in OIDC Environment Integrations".
#[derive(Debug)]
pub struct AzureTokens(MetadataService);

impl AzureTokens {
    /// Requests tokens for a resource (`TOKEN_RESOURCE`), which may be any text, commas included.
    pub fn new(resource: impl Into<String>) -> Self {
        Self(MetadataService::new(resource.into()))
    }

    /// Sets the connector that opens the transport to the metadata service. Default:
    /// [`SocketConnector`].
    #[must_use]
    pub fn with_connector(mut self, connector: Arc<dyn Connector>) -> Self {
        self.0.connector = connector;
        self
    }
}

/// Requests tokens of a virtual machine's service account in Google Cloud: `ENVIRONMENT:gcp`.
///
/// They come from the metadata server, whose host name is `metadata`.
///
/// Specification: authentication, "Built-in OIDC Environment Integrations".
#[derive(Debug)]
pub struct GcpTokens(MetadataService);

impl GcpTokens {
    /// Requests tokens for an audience (`TOKEN_RESOURCE`), which may be any text, commas included.
    pub fn new(resource: impl Into<String>) -> Self {
        Self(MetadataService::new(resource.into()))
    }

    /// Sets the connector that opens the transport to the metadata server. Default:
    /// [`SocketConnector`].
    #[must_use]
    pub fn with_connector(mut self, connector: Arc<dyn Connector>) -> Self {
        self.0.connector = connector;
        self
    }
}

/// The metadata service of a virtual machine.
struct MetadataService {
    resource: String,
    connector: Arc<dyn Connector>,
}

impl MetadataService {
    fn new(resource: String) -> Self {
        Self {
            resource,
            connector: Arc::new(SocketConnector::new()),
        }
    }

    /// The body of the answer to a request.
    async fn get(
        &self,
        host: &str,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Zeroizing<Vec<u8>>> {
        let request = Request {
            method: "GET",
            host,
            target,
            headers,
        };
        let address = ServerAddress::tcp(host, 80);
        let stream = self.connector.connect(&address).await?;
        request.send(stream).await
    }
}

impl fmt::Debug for MetadataService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetadataService")
            .field("resource", &self.resource)
            .finish_non_exhaustive()
    }
}

/// The used field of Azure's answer.
#[derive(Deserialize)]
struct AzureAnswer {
    access_token: Secret,
}

#[async_trait]
impl OidcCallback for AzureTokens {
    async fn token(&self, request: OidcRequest<'_>) -> Result<AccessToken> {
        let mut target = format!(
            "/metadata/identity/oauth2/token?api-version=2018-02-01&resource={}",
            encoded(&self.0.resource)
        );
        if let Some(client_id) = request.username {
            target += &format!("&client_id={}", encoded(client_id));
        }
        let headers = [("Accept", "application/json"), ("Metadata", "true")];
        let body = self.0.get("169.254.169.254", &target, &headers).await?;
        // The error shows no details, because they may contain the token.
        let answer: AzureAnswer = serde_json::from_slice(&body)
            .map_err(|_| Error::credential("Azure's answer has no access token"))?;
        Ok(AccessToken::new(answer.access_token))
    }
}

#[async_trait]
impl OidcCallback for GcpTokens {
    async fn token(&self, _: OidcRequest<'_>) -> Result<AccessToken> {
        let target = format!(
            "/computeMetadata/v1/instance/service-accounts/default/identity?audience={}",
            encoded(&self.0.resource)
        );
        let headers = [("Metadata-Flavor", "Google")];
        let body = self.0.get("metadata", &target, &headers).await?;
        let token = std::str::from_utf8(&body)
            .map_err(|_| Error::credential("Google's answer is not a token"))?;
        Ok(AccessToken::new(token.trim()))
    }
}
