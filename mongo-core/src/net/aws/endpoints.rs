use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::AwsSources;
use crate::ServerAddress;
use crate::auth::{AwsCredentials, Secret};
use crate::error::{Error, Result, Wait};
use crate::net::deadline::{Deadline, Elapsed};
use crate::net::encoded;
use crate::net::http::Request;
use crate::net::oidc::read;
use crate::net::tls::Tls;
use crate::uri::TlsOptions;

const CONTAINER: &str = "169.254.170.2";
const INSTANCE: &str = "169.254.169.254";
const INSTANCE_ROLES: &str = "/latest/meta-data/iam/security-credentials/";
const TOKEN_SERVICE: &str = "sts.amazonaws.com";
const ENDPOINT_TIMEOUT: Duration = Duration::from_secs(10);
/// What the instance's token is for takes no longer: seconds.
const INSTANCE_TOKEN_LIFE: &str = "30";
/// The longest role name that AWS has.
const MAX_ROLE_LENGTH: usize = 64;

impl AwsSources {
    /// Asks whichever endpoint the variables say.
    pub(super) async fn fetch(&self) -> Result<AwsCredentials> {
        let deadline = Deadline::after(ENDPOINT_TIMEOUT);
        let web = (
            self.variable("AWS_WEB_IDENTITY_TOKEN_FILE"),
            self.variable("AWS_ROLE_ARN"),
        );
        let fetched = async {
            match (web, self.variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")) {
                ((Some(file), Some(role)), _) => self.web_identity(file, &role).await,
                (_, Some(path)) => self.container(&path).await,
                (_, None) => self.instance().await,
            }
        };
        deadline
            .bound(fetched)
            .await
            .unwrap_or_else(|Elapsed| Err(deadline.timed_out(Wait::Credential)))
    }

    async fn container(&self, path: &str) -> Result<AwsCredentials> {
        let target = format!("/{}", path.trim_start_matches('/'));
        let body = self.ask("GET", CONTAINER, &target, &[]).await?;
        Answer::read(&body)
    }

    async fn instance(&self) -> Result<AwsCredentials> {
        let life = [("X-aws-ec2-metadata-token-ttl-seconds", INSTANCE_TOKEN_LIFE)];
        let token = self
            .ask("PUT", INSTANCE, "/latest/api/token", &life)
            .await?;
        let session = [("X-aws-ec2-metadata-token", text(&token)?)];
        let roles = self.ask("GET", INSTANCE, INSTANCE_ROLES, &session).await?;
        let role = text(&roles)?;
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte);
        if role.is_empty() || role.len() > MAX_ROLE_LENGTH || !role.bytes().all(is_allowed) {
            return Err(Error::credential("the instance has no role"));
        }
        let target = format!("{INSTANCE_ROLES}{role}");
        let body = self.ask("GET", INSTANCE, &target, &session).await?;
        Answer::read(&body)
    }

    async fn web_identity(&self, file: String, role: &str) -> Result<AwsCredentials> {
        let token = read(file.into()).await?;
        let session = match self.variable("AWS_ROLE_SESSION_NAME") {
            Some(name) => name,
            None => format!("mongo-core-{}", std::process::id()),
        };
        let target = Zeroizing::new(format!(
            "/?Action=AssumeRoleWithWebIdentity&RoleSessionName={}&RoleArn={}\
             &WebIdentityToken={}&Version=2011-06-15",
            encoded(&session),
            encoded(role),
            encoded(token.expose())
        ));
        let json = [("Accept", "application/json")];
        let body = self.ask("POST", TOKEN_SERVICE, &target, &json).await?;
        Answer::read_nested(&body)
    }

    async fn ask(
        &self,
        method: &'static str,
        host: &str,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Zeroizing<Vec<u8>>> {
        let is_public = host == TOKEN_SERVICE;
        let address = ServerAddress::tcp(host, if is_public { 443 } else { 80 });
        let mut stream = self.connector.connect(&address).await?;
        if is_public && !self.connector.is_secure() {
            let own = self.tls.clone().map(Ok);
            let tls = own.unwrap_or_else(|| Tls::from_options(&TlsOptions::default()))?;
            stream = tls.secure(stream, &address).await?;
        }
        let request = Request {
            method,
            host,
            target,
            headers,
        };
        request.send(stream).await
    }
}

/// What an endpoint answers, as far as it matters.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    access_key_id: String,
    secret_access_key: Secret,
    #[serde(alias = "SessionToken")]
    token: Option<Secret>,
    expiration: Option<Value>,
}

impl Answer {
    fn read(body: &[u8]) -> Result<AwsCredentials> {
        let answer = serde_json::from_slice::<Self>(body).map_err(|_| unreadable())?;
        answer.into_credentials()
    }

    /// The token service's answer: as AWS gives it, or as the specification shows it.
    fn read_nested(body: &[u8]) -> Result<AwsCredentials> {
        const PATH: &str =
            "/AssumeRoleWithWebIdentityResponse/AssumeRoleWithWebIdentityResult/Credentials";
        let answer: Value = serde_json::from_slice(body).map_err(|_| unreadable())?;
        let found = answer.pointer(PATH).or(answer.get("Credentials"));
        let answer = Self::deserialize(found.ok_or_else(unreadable)?).map_err(|_| unreadable())?;
        answer.into_credentials()
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

/// What is wrong is not told: there may be a secret in it.
fn unreadable() -> Error {
    Error::credential("the answer of AWS's endpoint has no credentials that can be read")
}

fn text(body: &[u8]) -> Result<&str> {
    let text = std::str::from_utf8(body).map_err(|_| unreadable())?;
    Ok(text.trim())
}
