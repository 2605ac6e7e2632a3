//! A server that accepts every mechanism, over TLS with client certificates, and its clients.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use mongo_core::auth::{AuthMechanism, AwsCredentials, Credential};
use mongo_core::event::EventHandlers;
use mongo_core::net::{AccessToken, AwsCredentialProvider, AwsSources, OidcCallback, OidcRequest};
use mongo_core::pools::{
    Backend, ConnectionFactory, ConnectionFactoryBuilder, Pools, PoolsBuilder,
};
use mongo_core::{ClientOptions, Error, Result};
use mongo_testkit::Action;
use mongo_testkit::{Authority, ErrorReply, Identity, Matcher, ScriptedServer, ServerTls, User};

use crate::capture::Capture;
use crate::secrets::{
    AWS_ID, AWS_SECRET, AWS_TOKEN, BAD_TOKEN, KEY_PASSWORD, NEW, OTHER_TOKEN, PASSWORD, SALT,
    TOKEN, USER, WRONG, encrypted,
};

const SUBJECT: &str = "CN=client";
/// The OIDC user whose tokens are refused.
const NOBODY: &str = "nobody";

/// Each mechanism, with a valid credential and one that is refused.
pub(crate) fn mechanisms() -> Vec<(Credential, Credential)> {
    let password = |mechanism: Option<AuthMechanism>, source: &str| {
        let of = |password: &str| {
            let credential = Credential::new(USER, password).with_source(source);
            match mechanism {
                Some(mechanism) => credential.with_mechanism(mechanism),
                None => credential,
            }
        };
        (of(PASSWORD), of(WRONG))
    };
    let of = Credential::from_mechanism;
    let aws = of(AuthMechanism::MongoDbAws);
    vec![
        password(None, "admin"),
        password(Some(AuthMechanism::ScramSha1), "admin"),
        password(Some(AuthMechanism::ScramSha256), "admin"),
        password(Some(AuthMechanism::Plain), "$external"),
        (
            of(AuthMechanism::MongoDbX509),
            of(AuthMechanism::MongoDbX509).with_username("CN=other"),
        ),
        (
            of(AuthMechanism::MongoDbOidc).with_username(USER),
            of(AuthMechanism::MongoDbOidc).with_username(NOBODY),
        ),
        // The provider decides which key is refused.
        (aws.clone(), aws),
    ]
}

/// Certificates for all servers and clients, and their files.
pub(crate) struct Certificates {
    authority: Authority,
    pub(crate) client: Identity,
    options: String,
}

impl Certificates {
    pub(crate) fn new() -> Self {
        let authority = Authority::new();
        let client = authority.client("client");
        let path = |file: PathBuf| file.display().to_string().replace('/', "%2F");
        let options = format!(
            "&tls=true&tlsCAFile={}&tlsCertificateKeyFile={}\
             &tlsCertificateKeyFilePassword={KEY_PASSWORD}",
            path(authority.file()),
            path(client.file_of(&encrypted(&client))),
        );
        Self {
            authority,
            client,
            options,
        }
    }
}

pub(crate) struct Setup {
    pub(crate) server: ScriptedServer,
    uri: String,
}

impl Setup {
    pub(crate) async fn start(certificates: &Certificates) -> Self {
        let authority = &certificates.authority;
        let tls = ServerTls::new(authority.server()).clients_of(authority);
        let refusal = ErrorReply::new(51003, "Location51003", &format!("no user with {NEW}"));
        let is_refused = |command: &bson::Document| command.contains_key("refused");
        let server = ScriptedServer::builder()
            .tls(tls)
            .user(User::new(USER, PASSWORD).salt(SALT))
            .plain_user(USER, PASSWORD)
            .certificate_subject(SUBJECT)
            .access_tokens(&[TOKEN, OTHER_TOKEN])
            .aws_key(AWS_ID, AWS_SECRET, Some(AWS_TOKEN))
            .rule(
                Matcher::command("createUser")
                    .when(is_refused)
                    .then(Action::Error(refusal)),
            )
            .start()
            .await;
        let uri = format!(
            "mongodb://localhost:{}/?directConnection=true{}",
            server.port().expect("a port"),
            certificates.options
        );
        Self { server, uri }
    }

    pub(crate) fn client(&self, credential: &Credential, is_good: bool) -> Client {
        let mut options = ClientOptions::parse(&self.uri).expect("a connection string");
        options.credential = Some(credential.clone());
        Client { options, is_good }
    }
}

/// The parts from which every way to a connection is built.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) options: ClientOptions,
    is_good: bool,
}

impl Client {
    pub(crate) fn factory(&self, handlers: EventHandlers) -> ConnectionFactoryBuilder {
        let builder = ConnectionFactory::builder(self.options.clone()).event_handlers(handlers);
        match self.mechanism() {
            Some(AuthMechanism::MongoDbOidc) => builder.oidc_callback(Arc::new(Tokens)),
            Some(AuthMechanism::MongoDbAws) => builder.aws_credential_provider(self.aws()),
            _ => builder,
        }
    }

    pub(crate) fn pools<B>(
        &self,
        handlers: EventHandlers,
        capture: &'static Capture,
    ) -> PoolsBuilder<B>
    where
        B: Backend<Config: Default>,
    {
        let builder = Pools::builder(self.options.clone())
            .event_handlers(handlers)
            .on_sdam(move |event| capture.see("an event of the topology", &format!("{event:?}")));
        match self.mechanism() {
            Some(AuthMechanism::MongoDbOidc) => builder.oidc_callback(Arc::new(Tokens)),
            Some(AuthMechanism::MongoDbAws) => builder.aws_credential_provider(self.aws()),
            _ => builder,
        }
    }

    fn mechanism(&self) -> Option<AuthMechanism> {
        self.options.credential.as_ref()?.mechanism()
    }

    fn aws(&self) -> Arc<dyn AwsCredentialProvider> {
        let secret = if self.is_good { AWS_SECRET } else { WRONG };
        let variables = HashMap::from([
            ("AWS_ACCESS_KEY_ID", AWS_ID),
            ("AWS_SECRET_ACCESS_KEY", secret),
            ("AWS_SESSION_TOKEN", AWS_TOKEN),
        ]);
        let sources = AwsSources::new()
            .with_variables(move |name| variables.get(name).map(|&value| value.to_owned()));
        Arc::new(Aws(sources))
    }
}

/// Sources of AWS credentials whose `Debug` shows the credentials, as far as these show themselves.
struct Aws(AwsSources);

#[async_trait]
impl AwsCredentialProvider for Aws {
    async fn credentials(&self) -> Result<AwsCredentials> {
        let credentials = self.0.credentials().await?;
        tracing::trace!(sources = ?self.0, ?credentials, "asked");
        Ok(credentials)
    }

    fn failed(&self) {
        self.0.failed();
    }
}

struct Tokens;

#[async_trait]
impl OidcCallback for Tokens {
    async fn token(&self, request: OidcRequest<'_>) -> Result<AccessToken> {
        let token = match request.username {
            Some(NOBODY) => BAD_TOKEN,
            Some(_) => TOKEN,
            None => return Err(Error::credential("for another host")),
        };
        let token = AccessToken::new(token);
        tracing::trace!(?request, ?token, "asked");
        Ok(token)
    }
}
