use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;

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
pub struct AzureTokens {
    resource: String,
    connector: Arc<dyn Connector>,
}

impl AzureTokens {
    /// Requests tokens for a resource (`TOKEN_RESOURCE`), which may be any text, commas included.
    pub fn new(resource: impl Into<String>) -> Self {
        Self {
            resource: resource.into(),
            connector: Arc::new(SocketConnector::new()),
        }
    }

    /// Sets the connector that opens the transport to the metadata service. Default:
    /// [`SocketConnector`].
    #[must_use]
    pub fn with_connector(mut self, connector: Arc<dyn Connector>) -> Self {
        self.connector = connector;
        self
    }
}

/// Requests tokens of a virtual machine's service account in Google Cloud: `ENVIRONMENT:gcp`.
///
/// They come from the metadata server, whose host name is `metadata`.
///
/// Specification: authentication, "Built-in OIDC Environment Integrations".
pub struct GcpTokens {
    resource: String,
    connector: Arc<dyn Connector>,
}

impl GcpTokens {
    /// Requests tokens for an audience (`TOKEN_RESOURCE`), which may be any text, commas included.
    pub fn new(resource: impl Into<String>) -> Self {
        Self {
            resource: resource.into(),
            connector: Arc::new(SocketConnector::new()),
        }
    }

    /// Sets the connector that opens the transport to the metadata server. Default:
    /// [`SocketConnector`].
    #[must_use]
    pub fn with_connector(mut self, connector: Arc<dyn Connector>) -> Self {
        self.connector = connector;
        self
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
        const HOST: &str = "169.254.169.254";
        let mut target = format!(
            "/metadata/identity/oauth2/token?api-version=2018-02-01&resource={}",
            encoded(&self.resource)
        );
        if let Some(client_id) = request.username {
            target += &format!("&client_id={}", encoded(client_id));
        }
        let request = Request {
            method: "GET",
            host: HOST,
            target: &target,
            headers: &[("Accept", "application/json"), ("Metadata", "true")],
        };
        let stream = self
            .connector
            .connect(&ServerAddress::tcp(HOST, 80))
            .await?;
        let body = request.send(stream).await?;
        // The error shows no details, because they may contain the token.
        let answer: AzureAnswer = serde_json::from_slice(&body)
            .map_err(|_| Error::credential("Azure's answer has no access token"))?;
        Ok(AccessToken::new(answer.access_token))
    }
}

#[async_trait]
impl OidcCallback for GcpTokens {
    async fn token(&self, _: OidcRequest<'_>) -> Result<AccessToken> {
        const HOST: &str = "metadata";
        let target = format!(
            "/computeMetadata/v1/instance/service-accounts/default/identity?audience={}",
            encoded(&self.resource)
        );
        let request = Request {
            method: "GET",
            host: HOST,
            target: &target,
            headers: &[("Metadata-Flavor", "Google")],
        };
        let stream = self
            .connector
            .connect(&ServerAddress::tcp(HOST, 80))
            .await?;
        let body = request.send(stream).await?;
        let token = std::str::from_utf8(&body)
            .map_err(|_| Error::credential("Google's answer is not a token"))?;
        Ok(AccessToken::new(token.trim()))
    }
}

impl fmt::Debug for AzureTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("AzureTokens");
        shown
            .field("resource", &self.resource)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for GcpTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("GcpTokens");
        shown
            .field("resource", &self.resource)
            .finish_non_exhaustive()
    }
}
