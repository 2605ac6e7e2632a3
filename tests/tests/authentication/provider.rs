//! Credentials from a provider, which is called for each connection, so that secrets can rotate.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mongo_core::auth::{AuthMechanism, AwsCredentials, Credential};
use mongo_core::error::Wait;
use mongo_core::net::{
    AccessToken, AwsCredentialProvider, CredentialProvider, OidcCallback, OidcRequest,
    OnDemandTopology, OnDemandTopologyBuilder,
};
use mongo_core::pools::ConnectionFactory;
use mongo_core::sdam::ServerType;
use mongo_core::{Deadline, Error, ErrorKind, Result};
use mongo_testkit::{ScriptedServer, User};

use crate::support::{MARK, establish, find, names_on, options, texts};

/// Supplies the credential that was set last.
struct Told {
    credential: Mutex<Credential>,
    asked: AtomicUsize,
}

impl Told {
    fn new(credential: Credential) -> Arc<Self> {
        Arc::new(Self {
            credential: Mutex::new(credential),
            asked: AtomicUsize::new(0),
        })
    }

    fn tell(&self, credential: Credential) {
        *self.credential.lock().expect("not poisoned") = credential;
    }
}

#[async_trait::async_trait]
impl CredentialProvider for Told {
    async fn credential(&self) -> Result<Arc<Credential>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let credential = self.credential.lock().expect("not poisoned").clone();
        match credential.username() {
            Some(_) => Ok(Arc::new(credential)),
            None => Err(Error::credential("the vault is sealed")),
        }
    }
}

fn factory(server: &ScriptedServer, provider: Arc<dyn CredentialProvider>) -> ConnectionFactory {
    let builder = ConnectionFactory::builder(options(server, ""));
    let built = builder.credential_provider(provider).build();
    built.expect("a factory")
}

#[tokio::test]
async fn a_rotated_secret_is_used_from_the_next_connection_on() {
    let (old, new) = (format!("{MARK}-1"), format!("{MARK}-2"));
    let server = ScriptedServer::builder()
        .user(User::new("app", &old))
        .user(User::new("other", &new))
        .start()
        .await;
    let provider = Told::new(Credential::new("app", &*old));
    let factory = factory(&server, provider.clone());
    let mut first = establish(&factory).await.expect("a connection");
    assert_eq!(first.user(), Some("app"));
    provider.tell(Credential::new("other", &*new));
    let mut second = establish(&factory).await.expect("a connection");
    assert_eq!(second.user(), Some("other"));
    // The open connection keeps its user.
    for connection in [&mut first, &mut second] {
        find(connection).await.expect("authenticated");
    }
    assert_eq!(provider.asked.load(Ordering::SeqCst), 2);
    provider.tell(Credential::new("other", &*old));
    let error = establish(&factory).await.expect_err("an old password");
    assert!(error.is_authentication(), "{error}");
    assert_eq!(error.user(), Some("other"));
    texts(&error);
}

#[tokio::test]
async fn provided_credentials_are_checked_before_use() {
    let server = ScriptedServer::builder()
        .plain_user("app", MARK)
        .start()
        .await;
    let plain = Credential::new("app", MARK).with_mechanism(AuthMechanism::Plain);
    let provider = Told::new(plain);
    let factory = factory(&server, provider.clone());
    let error = establish(&factory).await.expect_err("no TLS");
    assert!(texts(&error).contains("allow_plain_without_tls"), "{error}");
    provider.tell(Credential::default().with_username("app"));
    let error = establish(&factory).await.expect_err("no password");
    assert!(error.is_authentication(), "{error}");
    assert_eq!(error.user(), Some("app"));
    assert_eq!(names_on(&server, 1), [""; 0]);
    assert_eq!(names_on(&server, 2), [""; 0]);
}

#[tokio::test]
async fn a_provider_failure_is_a_credential_error() {
    let server = ScriptedServer::start().await;
    let factory = factory(&server, Told::new(Credential::default()));
    let error = establish(&factory).await.expect_err("sealed");
    assert!(matches!(error.kind(), ErrorKind::Credential(_)), "{error}");
    assert!(texts(&error).contains("the vault is sealed"), "{error}");
    assert!(error.server().is_some());
}

struct Silent;

#[async_trait::async_trait]
impl CredentialProvider for Silent {
    async fn credential(&self) -> Result<Arc<Credential>> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_silent_provider_times_out_at_the_deadline() {
    let server = ScriptedServer::start().await;
    let factory = factory(&server, Arc::new(Silent));
    let deadline = Deadline::after(Duration::from_millis(20));
    let error = factory.establish(deadline).await.expect_err("silent");
    let waited = matches!(
        error.kind(),
        ErrorKind::Timeout {
            wait: Wait::Credential,
            ..
        }
    );
    assert!(waited, "{error}");
}

#[tokio::test]
async fn two_credential_sources_are_refused() {
    let server = ScriptedServer::start().await;
    let mut options = options(&server, "");
    options.credential = Some(Credential::new("app", MARK));
    let provider = Told::new(Credential::new("app", MARK));
    let builder = ConnectionFactory::builder(options).credential_provider(provider);
    let error = builder.build().map(drop).expect_err("two");
    assert!(
        matches!(error.kind(), ErrorKind::Configuration(_)),
        "{error}"
    );
    texts(&error);
}

/// Fails with an error of its own network or server, or never returns.
#[derive(Clone, Copy)]
struct Failing(Option<fn() -> Error>);

impl Failing {
    async fn fail<T>(self) -> Result<T> {
        match self.0 {
            Some(error) => Err(error()),
            None => std::future::pending().await,
        }
    }
}

#[async_trait::async_trait]
impl CredentialProvider for Failing {
    async fn credential(&self) -> Result<Arc<Credential>> {
        self.fail().await
    }
}

#[async_trait::async_trait]
impl AwsCredentialProvider for Failing {
    async fn credentials(&self) -> Result<AwsCredentials> {
        self.fail().await
    }
}

#[async_trait::async_trait]
impl OidcCallback for Failing {
    async fn token(&self, _: OidcRequest<'_>) -> Result<AccessToken> {
        self.fail().await
    }
}

/// A server that supports the mechanisms of all sources.
async fn server_for_all() -> ScriptedServer {
    let builder = ScriptedServer::builder().access_tokens(&["good"]);
    builder.aws_key("AKIDEXAMPLE", "secret", None).start().await
}

fn io_error() -> Arc<std::io::Error> {
    Arc::new(std::io::ErrorKind::ConnectionReset.into())
}

const FAILURES: [fn() -> Error; 5] = [
    || ErrorKind::Connect(io_error()).into(),
    || ErrorKind::Network(io_error()).into(),
    || ErrorKind::Dns(io_error()).into(),
    || Error::timeout(Wait::Command, Duration::from_secs(1)),
    || ErrorKind::TopologyClosed.into(),
];

/// Single clients, one for each source of credentials.
fn clients(server: &ScriptedServer, source: Failing) -> [OnDemandTopologyBuilder; 3] {
    let with = |mechanism| {
        let more = "connectTimeoutMS=300&timeoutMS=5000&directConnection=true";
        let mut options = options(server, more);
        options.credential = mechanism;
        options.allow_plain_without_tls = true;
        OnDemandTopology::builder(options)
    };
    let (aws, oidc) = (AuthMechanism::MongoDbAws, AuthMechanism::MongoDbOidc);
    let [aws, oidc] = [aws, oidc].map(|own| with(Some(Credential::from_mechanism(own))));
    let source = Arc::new(source);
    [
        with(None).credential_provider(source.clone()),
        aws.aws_credential_provider(source.clone()),
        oidc.oidc_callback(source),
    ]
}

/// Runs a command on a client whose credential fails.
async fn fails(builder: OnDemandTopologyBuilder) -> Error {
    let mut client = builder.build_client().expect("a client");
    let command = bson::doc! { "find": "things" };
    let ran = client.run_command("shop", &command).await;
    let error = ran.map(drop).expect_err("no credential");
    let known = client.description();
    let server_type = known.servers().first().map(|server| server.server_type);
    assert_ne!(server_type, Some(ServerType::Unknown), "{error}: {known:?}");
    error
}

#[tokio::test]
async fn any_provider_failure_is_the_cause_of_a_credential_error() {
    let server = server_for_all().await;
    for failure in FAILURES {
        for client in clients(&server, Failing(Some(failure))) {
            let error = fails(client).await;
            let ErrorKind::Credential(cause) = error.kind() else {
                panic!("{error}");
            };
            let cause = cause.downcast_ref::<Error>();
            let cause = cause.map(|cause| format!("{:?}", cause.kind()));
            assert_eq!(cause, Some(format!("{:?}", failure().kind())));
        }
    }
}

#[tokio::test]
async fn a_source_that_does_not_answer_does_not_mark_the_server_unknown() {
    let server = server_for_all().await;
    for client in clients(&server, Failing(None)) {
        let error = fails(client).await;
        let is_named = matches!(
            error.kind(),
            ErrorKind::Timeout {
                wait: Wait::Credential,
                ..
            }
        );
        assert!(is_named, "{error}");
    }
}
