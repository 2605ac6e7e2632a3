//! MONGODB-AWS: the specification's sources of credentials, and their cache.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use mongo_core::auth::{AwsCredentials, Credential};
use mongo_core::net::{AwsCredentialProvider, AwsSources, Connector, Stream, Tls};
use mongo_core::pools::ConnectionFactory;
use mongo_core::uri::TlsOptions;
use mongo_core::{Error, ErrorKind, Result, ServerAddress};
use mongo_testkit::{Action, Authority, Matcher, ScriptedServer, ServerTls};
use tokio::io::copy_bidirectional;
use tokio_rustls::TlsAcceptor;

use crate::endpoint::{Endpoint, Everywhere, answer};
use crate::support::{MARK, establish, find, names_on, options, texts};

const ID: &str = "AKIDEXAMPLE";
const SECRET: &str = "m4rked/secret";
pub(crate) const TOKEN: &str = "m4rked/token";

const ROLES: &str = "/latest/meta-data/iam/security-credentials/";

pub(crate) async fn server() -> ScriptedServer {
    let builder = ScriptedServer::builder().aws_key(ID, SECRET, None);
    builder
        .aws_key("ASIATEMPORARY", SECRET, Some(TOKEN))
        .start()
        .await
}

pub(crate) fn factory(
    server: &ScriptedServer,
    provider: Arc<dyn AwsCredentialProvider>,
) -> ConnectionFactory {
    let builder = ConnectionFactory::builder(options(server, "authMechanism=MONGODB-AWS"));
    let built = builder.aws_credential_provider(provider).build();
    built.expect("a factory")
}

/// Environment variables of a test, by name.
#[derive(Clone, Default)]
pub(crate) struct Variables(Arc<Mutex<BTreeMap<String, String>>>);

impl Variables {
    pub(crate) fn of(variables: &[(&str, &str)]) -> Self {
        let own = Self::default();
        for (name, value) in variables {
            own.set(name, value);
        }
        own
    }

    fn set(&self, name: &str, value: &str) {
        let mut variables = self.0.lock().expect("not poisoned");
        variables.insert(name.to_owned(), value.to_owned());
    }

    fn clear(&self) {
        self.0.lock().expect("not poisoned").clear();
    }

    pub(crate) fn sources(&self, endpoint: &Arc<Endpoint>) -> AwsSources {
        let own = self.clone();
        AwsSources::new()
            .with_variables(move |name| own.0.lock().expect("not poisoned").get(name).cloned())
            .with_connector(Arc::new(Everywhere(endpoint.clone())))
    }
}

async fn nothing() -> Arc<Endpoint> {
    Endpoint::start(|_| answer(404, "")).await
}

pub(crate) fn in_an_hour() -> String {
    let time = SystemTime::now() + Duration::from_secs(3600);
    let time = bson::DateTime::from_system_time(time).try_to_rfc3339_string();
    time.expect("a time")
}

pub(crate) fn temporary(expiration: &str) -> String {
    format!(
        "{{ \"Code\": \"Success\", \"AccessKeyId\": \"ASIATEMPORARY\", \
         \"SecretAccessKey\": \"{SECRET}\", \"Token\": \"{TOKEN}\", \
         \"Expiration\": \"{expiration}\" }}"
    )
}

/// Regular credentials, AssumeRole and Lambda: with and without a session token.
#[tokio::test]
async fn credentials_from_the_environment() {
    let (server, endpoint) = (server().await, nothing().await);
    let variables = Variables::of(&[("AWS_ACCESS_KEY_ID", ID), ("AWS_SECRET_ACCESS_KEY", SECRET)]);
    let factory = factory(&server, Arc::new(variables.sources(&endpoint)));
    let mut connection = establish(&factory).await.expect("a connection");
    find(&mut connection).await.expect("authenticated");
    // There is no speculative authentication.
    let names = ["isMaster", "saslStart", "saslContinue", "find"];
    assert_eq!(names_on(&server, 1), names);
    // The variables are read again for each connection.
    variables.set("AWS_ACCESS_KEY_ID", "ASIATEMPORARY");
    let error = establish(&factory).await.expect_err("without the token");
    assert!(error.is_authentication(), "{error}");
    texts(&error);
    variables.set("AWS_SESSION_TOKEN", TOKEN);
    establish(&factory).await.expect("a connection");
    variables.set("AWS_SECRET_ACCESS_KEY", "");
    let error = establish(&factory).await.expect_err("half of it");
    assert!(matches!(error.kind(), ErrorKind::Credential(_)), "{error}");
    assert_eq!(endpoint.lines(), [""; 0]);
}

#[tokio::test]
async fn credentials_from_a_container() {
    let server = server().await;
    let endpoint = Endpoint::start(|_| answer(200, &temporary(&in_an_hour()))).await;
    let variables = Variables::of(&[(
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "/v2/credentials/x",
    )]);
    let factory = factory(&server, Arc::new(variables.sources(&endpoint)));
    let mut connection = establish(&factory).await.expect("a connection");
    find(&mut connection).await.expect("authenticated");
    assert_eq!(endpoint.lines(), ["169.254.170.2:80 GET /v2/credentials/x"]);
}

#[tokio::test]
async fn credentials_from_an_instance() {
    let server = server().await;
    let endpoint = Endpoint::start(|line| match line {
        "PUT /latest/api/token" => answer(200, "m4rked-session"),
        line if line.ends_with("/") => answer(200, "the-role"),
        _ => answer(200, &temporary(&in_an_hour())),
    })
    .await;
    let factory = factory(&server, Arc::new(Variables::default().sources(&endpoint)));
    establish(&factory).await.expect("a connection");
    let at = |rest: String| format!("169.254.169.254:80 {rest}");
    let lines = [
        at("PUT /latest/api/token".to_owned()),
        at(format!("GET {ROLES}")),
        at(format!("GET {ROLES}the-role")),
    ];
    assert_eq!(endpoint.lines(), lines);
    let life = "X-aws-ec2-metadata-token-ttl-seconds: 30\r\n";
    assert!(endpoint.head(0).contains(life));
    for index in [1, 2] {
        let session = "X-aws-ec2-metadata-token: m4rked-session\r\n";
        assert!(endpoint.head(index).contains(session));
    }
}

/// With and without a session name; with the response as AWS sends it, and as the specification
/// shows it.
#[tokio::test]
async fn credentials_from_a_web_identity() {
    let server = server().await;
    let file = std::env::temp_dir().join(format!("mongo-core-aws-{}", std::process::id()));
    std::fs::write(&file, "m4rked.jwt\n").expect("written");
    let file = file.display().to_string();
    let credentials = temporary("x").replace("\"Token\"", "\"SessionToken\"");
    let credentials = credentials.replace("\"x\"", "1e12");
    let simple = format!("{{ \"Credentials\": {credentials} }}");
    let result = format!("{{ \"AssumeRoleWithWebIdentityResult\": {simple} }}");
    let real = format!("{{ \"AssumeRoleWithWebIdentityResponse\": {result} }}");
    for (body, session) in [(simple, None), (real, Some("app 1"))] {
        let endpoint = Endpoint::start(move |_| answer(200, &body)).await;
        let role = "arn:aws:iam::1:role/r";
        let variables = Variables::of(&[
            ("AWS_WEB_IDENTITY_TOKEN_FILE", &file),
            ("AWS_ROLE_ARN", role),
        ]);
        if let Some(session) = session {
            variables.set("AWS_ROLE_SESSION_NAME", session);
        }
        let factory = factory(&server, Arc::new(variables.sources(&endpoint)));
        establish(&factory).await.expect("a connection");
        let lines = endpoint.lines();
        let line = &lines[0];
        let begin =
            "sts.amazonaws.com:443 POST /?Action=AssumeRoleWithWebIdentity&RoleSessionName=";
        assert!(line.starts_with(begin), "{line}");
        let name = session.map_or("mongo-core-", |_| "app%201&");
        assert!(line[begin.len()..].starts_with(name), "{line}");
        let rest = "&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fr&WebIdentityToken=m4rked.jwt&Version=2011-06-15";
        assert!(line.ends_with(rest), "{line}");
    }
    std::fs::remove_file(file).expect("removed");
}

/// The endpoint over TLS.
struct Secured {
    endpoint: Arc<Endpoint>,
    tls: TlsAcceptor,
}

#[async_trait::async_trait]
impl Connector for Secured {
    async fn connect(&self, address: &ServerAddress) -> Result<Stream> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let mut back = Everywhere(self.endpoint.clone()).connect(address).await?;
        let accepting = self.tls.accept(far);
        tokio::spawn(async move {
            // A client that does not trust the certificate closes the connection.
            if let Ok(mut front) = accepting.await {
                let _ = copy_bidirectional(&mut front, &mut back).await;
            }
        });
        Ok(Stream::custom(near))
    }
}

#[tokio::test]
async fn credentials_from_a_web_identity_over_tls() {
    let server = server().await;
    let token = std::env::temp_dir().join(format!("mongo-core-sts-{}", std::process::id()));
    std::fs::write(&token, "m4rked.jwt").expect("written");
    let credentials = temporary(&in_an_hour()).replace("\"Token\"", "\"SessionToken\"");
    let body = format!("{{ \"Credentials\": {credentials} }}");
    let (authority, other) = (Authority::new(), Authority::new());
    let mut trusting = TlsOptions::default();
    trusting.ca_file = Some(authority.file());
    let trusted = [
        (&authority, "sts.amazonaws.com", true),
        (&authority, "sts.amazonaws.example", false),
        (&other, "sts.amazonaws.com", false),
    ];
    for (issuer, name, is_trusted) in trusted {
        let body = body.clone();
        let endpoint = Endpoint::start(move |_| answer(200, &body)).await;
        let identity = issuer.issue(&[name], |_| ());
        let connector = Secured {
            endpoint: endpoint.clone(),
            tls: ServerTls::new(identity).config().into(),
        };
        let variables = Variables::of(&[
            (
                "AWS_WEB_IDENTITY_TOKEN_FILE",
                token.to_str().expect("UTF-8"),
            ),
            ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r"),
        ]);
        let sources = variables
            .sources(&endpoint)
            .with_connector(Arc::new(connector))
            .with_tls(Tls::from_options(&trusting).expect("an authority"));
        let outcome = establish(&factory(&server, Arc::new(sources))).await;
        match is_trusted {
            true => drop(outcome.expect("a connection")),
            false => {
                let error = outcome.expect_err("another authority");
                let ErrorKind::Credential(cause) = error.kind() else {
                    panic!("{error:?}");
                };
                let kind = cause.downcast_ref::<Error>().map(Error::kind);
                assert!(matches!(kind, Some(ErrorKind::Tls(_))), "{error:?}");
                texts(&error);
            }
        }
        // No other server gets the token.
        assert_eq!(endpoint.heads(), usize::from(is_trusted));
    }
    std::fs::remove_file(token).expect("removed");
}

/// The specification's cache tests, the second one with environment variables.
#[tokio::test]
async fn credentials_from_endpoints_are_cached() {
    let server = server().await;
    let expiration = Arc::new(Mutex::new(in_an_hour()));
    let current = expiration.clone();
    let endpoint =
        Endpoint::start(move |_| answer(200, &temporary(&current.lock().expect("not poisoned"))))
            .await;
    let container = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/x");
    let variables = Variables::of(&[container]);
    let factory = factory(&server, Arc::new(variables.sources(&endpoint)));
    for _ in 0..3 {
        establish(&factory).await.expect("a connection");
    }
    assert_eq!(endpoint.lines().len(), 1);
    // The cache takes precedence over variables that are set later.
    variables.set("AWS_ACCESS_KEY_ID", "wrong");
    variables.set("AWS_SECRET_ACCESS_KEY", "wrong");
    establish(&factory).await.expect("a connection");
    // Any failure clears the cache.
    let refused = mongo_testkit::ErrorReply::new(20, "IllegalOperation", "no");
    let rule = Matcher::command("saslContinue").once();
    server.script().add(rule.then(Action::Error(refused)));
    establish(&factory).await.expect_err("refused");
    let error = establish(&factory).await.expect_err("the wrong variables");
    assert!(error.is_authentication(), "{error}");
    variables.clear();
    variables.set(container.0, container.1);
    // Credentials that expire within five minutes are requested again.
    let soon = SystemTime::now() + Duration::from_secs(290);
    let soon = bson::DateTime::from_system_time(soon).try_to_rfc3339_string();
    *expiration.lock().expect("not poisoned") = soon.expect("a time");
    for count in [2, 3] {
        establish(&factory).await.expect("a connection");
        assert_eq!(endpoint.lines().len(), count);
    }
}

#[tokio::test]
async fn hostile_endpoints_are_refused() {
    let server = server().await;
    let foul = |body: &'static str| Endpoint::start(move |_| answer(200, body));
    for (endpoint, in_container, expected) in [
        (foul("m4rked").await, true, "no readable credentials"),
        (
            foul("{\"AccessKeyId\": \"m4rked\"}").await,
            true,
            "no readable credentials",
        ),
        (foul("../m4rked").await, false, "no role"),
        (
            foul("a\r\nm4rked: x").await,
            false,
            "the request can't be written",
        ),
        (nothing().await, false, "answered 404"),
    ] {
        let variables = match in_container {
            true => Variables::of(&[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/x")]),
            false => Variables::default(),
        };
        let factory = factory(&server, Arc::new(variables.sources(&endpoint)));
        let error = establish(&factory).await.expect_err(expected);
        assert!(matches!(error.kind(), ErrorKind::Credential(_)), "{error}");
        assert!(texts(&error).contains(expected), "{expected}: {error}");
    }
}

/// The specification's custom credential provider.
#[tokio::test]
async fn credentials_from_a_custom_provider() {
    struct Own(Mutex<u32>);

    #[async_trait::async_trait]
    impl AwsCredentialProvider for Own {
        async fn credentials(&self) -> Result<AwsCredentials> {
            *self.0.lock().expect("not poisoned") += 1;
            Ok(AwsCredentials::new(ID, SECRET))
        }
    }

    let (server, provider) = (server().await, Arc::new(Own(Mutex::new(0))));
    let own = factory(&server, provider.clone());
    establish(&own).await.expect("a connection");
    assert_eq!(*provider.0.lock().expect("not poisoned"), 1);
    let mut options = options(&server, "");
    options.credential = Some(Credential::new("u", MARK));
    let builder = ConnectionFactory::builder(options).aws_credential_provider(provider);
    let error = builder.build().map(drop).expect_err("for nothing");
    assert!(texts(&error).contains("requires MONGODB-AWS"), "{error}");
}

/// A server that violates the protocol gets no signature, or no connection.
#[tokio::test]
async fn hostile_servers_are_refused() {
    let binary = |bytes: Vec<u8>| bson::Binary {
        subtype: bson::spec::BinarySubtype::Generic,
        bytes,
    };
    let challenge = |document: bson::Document| {
        let bytes = document.to_vec().expect("BSON");
        bson::doc! { "payload": binary(bytes) }
    };
    let foreign = challenge(bson::doc! { "s": binary(vec![0; 64]), "h": "sts.amazonaws.com" });
    let (start, proof) = ("saslStart", "saslContinue");
    for (command, change, field) in [
        (start, foreign, "nonce"),
        (
            start,
            bson::doc! { "payload": binary(vec![1, 2, 3]) },
            "payload",
        ),
        (
            start,
            bson::doc! { "payload": binary(Vec::new()) },
            "payload",
        ),
        (start, bson::doc! { "done": true }, "too early"),
        (proof, bson::doc! { "done": false }, "did not end"),
        (
            proof,
            bson::doc! { "conversationId": 2 },
            "another conversation",
        ),
    ] {
        let (server, endpoint) = (server().await, nothing().await);
        server
            .script()
            .add(Matcher::command(command).then(Action::Merge(change)));
        let variables =
            Variables::of(&[("AWS_ACCESS_KEY_ID", ID), ("AWS_SECRET_ACCESS_KEY", SECRET)]);
        let factory = factory(&server, Arc::new(variables.sources(&endpoint)));
        let error = establish(&factory).await.expect_err(field);
        assert!(
            matches!(error.kind(), ErrorKind::Authentication(_)),
            "{error}"
        );
        assert!(texts(&error).contains(field), "{field}: {error}");
        let sent = server.look(|seen| seen.count(proof));
        assert_eq!(sent, u64::from(command == proof), "{field}");
    }
}
