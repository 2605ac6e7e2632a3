use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::AwsSources;
use super::endpoint::Endpoint;
use crate::auth::{AwsCredentials, Secret};
use crate::error::{Error, Result, Wait};
use crate::net::auth::http::Request;
use crate::net::auth::oidc::read;
use crate::net::deadline::{Deadline, Elapsed};
use crate::net::encoded;
use crate::net::transport::tls::Tls;
use crate::uri::TlsOptions;

const INSTANCE: &str = "169.254.169.254";
const INSTANCE_ROLES: &str = "/latest/meta-data/iam/security-credentials/";
const ENDPOINT_TIMEOUT: Duration = Duration::from_secs(10);
/// The lifetime of the instance's session token in seconds, longer than its use takes.
const INSTANCE_TOKEN_LIFE: &str = "30";
/// The maximum length of an AWS role name.
const MAX_ROLE_LENGTH: usize = 64;

const TOKEN_FILE: &str = "AWS_WEB_IDENTITY_TOKEN_FILE";
const ROLE: &str = "AWS_ROLE_ARN";
const AUTHORIZATION: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN";
const AUTHORIZATION_FILE: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";

/// The source that the variables configure.
enum Source {
    WebIdentity { file: String, role: String },
    Container(Endpoint),
    Instance,
}

impl AwsSources {
    /// Requests credentials from the endpoint that the variables configure.
    pub(crate) async fn fetch(&self) -> Result<AwsCredentials> {
        let deadline = Deadline::after(ENDPOINT_TIMEOUT);
        let fetched = async {
            match self.source()? {
                Source::WebIdentity { file, role } => self.web_identity(file, &role).await,
                Source::Container(endpoint) => self.container(&endpoint).await,
                Source::Instance => self.instance().await,
            }
        };
        deadline
            .bound(fetched)
            .await
            .unwrap_or_else(|Elapsed| Err(deadline.timed_out(Wait::Credential)))
    }

    /// A partial configuration is an error, because the next source would give another identity.
    fn source(&self) -> Result<Source> {
        let refused = |text: String| Err(Error::credential(text));
        match (self.variable(TOKEN_FILE), self.variable(ROLE)) {
            (Some(file), Some(role)) => return Ok(Source::WebIdentity { file, role }),
            (Some(_), None) | (None, Some(_)) => {
                return refused(format!(
                    "one of {TOKEN_FILE} and {ROLE} is set without the other"
                ));
            }
            (None, None) => {}
        }
        if let Some(endpoint) = Endpoint::of_container(|name| self.variable(name))? {
            return Ok(Source::Container(endpoint));
        }
        let of_others = [
            AUTHORIZATION,
            AUTHORIZATION_FILE,
            "AWS_PROFILE",
            "AWS_SHARED_CREDENTIALS_FILE",
        ];
        if let Some(name) = of_others.iter().find(|name| self.variable(name).is_some()) {
            return refused(format!(
                "{name} is set, but no source of credentials that uses it"
            ));
        }
        let disabled = self.variable("AWS_EC2_METADATA_DISABLED");
        if disabled.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return refused("no source of AWS credentials is configured".to_owned());
        }
        Ok(Source::Instance)
    }

    async fn container(&self, endpoint: &Endpoint) -> Result<AwsCredentials> {
        let token = match (
            self.variable(AUTHORIZATION_FILE),
            self.variable(AUTHORIZATION),
        ) {
            // Read again each time, because the file is replaced.
            (Some(file), _) => Some(read(AUTHORIZATION_FILE, file.into()).await?),
            (None, token) => token.map(Secret::from),
        };
        let header = token
            .as_ref()
            .map(|token| ("Authorization", token.expose()));
        let body = self.ask("GET", endpoint, &endpoint.target, header.as_slice());
        Answer::read(&body.await?)
    }

    async fn instance(&self) -> Result<AwsCredentials> {
        let endpoint = Endpoint::plain(INSTANCE, "/");
        let life = [("X-aws-ec2-metadata-token-ttl-seconds", INSTANCE_TOKEN_LIFE)];
        let token = self
            .ask("PUT", &endpoint, "/latest/api/token", &life)
            .await?;
        let session = [("X-aws-ec2-metadata-token", text(&token)?)];
        let roles = self.ask("GET", &endpoint, INSTANCE_ROLES, &session).await?;
        let role = text(&roles)?;
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte);
        if role.is_empty() || role.len() > MAX_ROLE_LENGTH || !role.bytes().all(is_allowed) {
            return Err(Error::credential("the instance has no role"));
        }
        let target = format!("{INSTANCE_ROLES}{role}");
        let body = self.ask("GET", &endpoint, &target, &session).await?;
        Answer::read(&body)
    }

    async fn web_identity(&self, file: String, role: &str) -> Result<AwsCredentials> {
        let endpoint = Endpoint::of_token_service(|name| self.variable(name))?;
        let token = read(TOKEN_FILE, file.into()).await?;
        let session = match self.variable("AWS_ROLE_SESSION_NAME") {
            Some(name) => name,
            None => format!("mongo-core-{}", std::process::id()),
        };
        let target = Zeroizing::new(format!(
            "{}?Action=AssumeRoleWithWebIdentity&RoleSessionName={}&RoleArn={}\
             &WebIdentityToken={}&Version=2011-06-15",
            endpoint.target,
            encoded(&session),
            encoded(role),
            encoded(token.expose())
        ));
        let json = [("Accept", "application/json")];
        let body = self.ask("POST", &endpoint, &target, &json).await?;
        Answer::read_nested(&body)
    }

    async fn ask(
        &self,
        method: &'static str,
        endpoint: &Endpoint,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Zeroizing<Vec<u8>>> {
        let mut stream = self.connector.connect(&endpoint.address).await?;
        if endpoint.is_secure && !self.connector.is_secure() {
            let own = self.tls.clone().map(Ok);
            let tls = own.unwrap_or_else(|| Tls::from_options(&TlsOptions::default()))?;
            stream = tls.secure(stream, &endpoint.address).await?;
        }
        let request = Request {
            method,
            host: &endpoint.host,
            target,
            headers,
        };
        request.send(stream).await
    }
}

/// The used fields of an endpoint's answer.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    access_key_id: String,
    secret_access_key: Secret,
    #[serde(alias = "SessionToken")]
    token: Option<Secret>,
    expiration: Option<Value>,
}

/// The used fields of the token service's answer.
#[derive(Deserialize)]
struct Nested {
    #[serde(rename = "AssumeRoleWithWebIdentityResponse")]
    response: Option<TokenResponse>,
    #[serde(rename = "Credentials")]
    credentials: Option<Answer>,
}

#[derive(Deserialize)]
struct TokenResponse {
    #[serde(rename = "AssumeRoleWithWebIdentityResult")]
    result: TokenResult,
}

#[derive(Deserialize)]
struct TokenResult {
    #[serde(rename = "Credentials")]
    credentials: Answer,
}

impl Answer {
    fn read(body: &[u8]) -> Result<AwsCredentials> {
        let answer = serde_json::from_slice::<Self>(body).map_err(|_| unreadable())?;
        answer.into_credentials()
    }

    /// Reads the token service's answer, in AWS's format or in the specification's.
    fn read_nested(body: &[u8]) -> Result<AwsCredentials> {
        let answer: Nested = serde_json::from_slice(body).map_err(|_| unreadable())?;
        let of_aws = answer.response.map(|response| response.result.credentials);
        let found = of_aws.or(answer.credentials).ok_or_else(unreadable)?;
        found.into_credentials()
    }

    fn into_credentials(self) -> Result<AwsCredentials> {
        if self.access_key_id.is_empty() || self.secret_access_key.is_empty() {
            return Err(unreadable());
        }
        let mut credentials = AwsCredentials::new(self.access_key_id, self.secret_access_key);
        credentials.session_token = self.token;
        credentials.expiration = self.expiration.as_ref().and_then(time);
        Ok(credentials)
    }
}

/// A time as text, or as seconds since 1970.
fn time(value: &Value) -> Option<SystemTime> {
    match value {
        Value::String(text) => {
            let time = bson::DateTime::parse_rfc3339_str(text).ok()?;
            Some(time.to_system_time())
        }
        value => {
            let seconds = Duration::try_from_secs_f64(value.as_f64()?).ok()?;
            SystemTime::UNIX_EPOCH.checked_add(seconds)
        }
    }
}

/// The error shows no details, because they may contain a secret.
fn unreadable() -> Error {
    Error::credential("the answer of the AWS endpoint has no readable credentials")
}

fn text(body: &[u8]) -> Result<&str> {
    let text = std::str::from_utf8(body).map_err(|_| unreadable())?;
    Ok(text.trim())
}
