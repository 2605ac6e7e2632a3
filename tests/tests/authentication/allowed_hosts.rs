//! The servers that may get a credential: over TLS, and in its list of allowed hosts.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mongo_core::auth::{AuthError, AuthMechanism, Credential};
use mongo_core::net::{
    AccessToken, Connector, CredentialProvider, OidcCallback, OidcRequest, OnDemandTopology,
    SocketConnector, Stream,
};
use mongo_core::pools::{ConnectionFactory, ConnectionFactoryBuilder};
use mongo_core::{ClientOptions, Error, ErrorKind, Result, ServerAddress};
use mongo_testkit::{Matcher, ScriptedServer};

use crate::oidc::{GOOD, Tokens, USER, server};
use crate::support::{MARK, as_if_over_tls, establish, find, names_on, options, texts};

fn oidc() -> Credential {
    Credential::from_mechanism(AuthMechanism::MongoDbOidc).with_username(USER)
}

fn without_tls(server: &ScriptedServer, credential: Credential) -> ClientOptions {
    let mut options = options(server, "");
    options.credential = Some(credential);
    options
}

/// Options that allow access tokens without TLS.
fn permitted(server: &ScriptedServer, credential: Credential) -> ClientOptions {
    let mut options = without_tls(server, credential);
    options.allow_plain_without_tls = true;
    options
}

fn is_not_allowed(error: &Error) -> bool {
    texts(error);
    matches!(
        error.kind(),
        ErrorKind::Authentication(AuthError::HostNotAllowed)
    )
}

#[tokio::test]
async fn an_access_token_goes_over_tls_unless_asked_otherwise() {
    let (server, tokens) = (server().await, Tokens::new(&[GOOD]));
    let options = without_tls(&server, oidc());
    let builder = ConnectionFactory::builder(options.clone()).oidc_callback(tokens.clone());
    let text = texts(&builder.build().map(drop).expect_err("refused"));
    assert!(
        text.contains("MONGODB-OIDC sends the access token in plain text"),
        "{text}"
    );
    assert!(text.contains("allow_plain_without_tls"), "{text}");
    let client = OnDemandTopology::builder(options.clone()).oidc_callback(tokens.clone());
    texts(&client.build_client().map(drop).expect_err("refused"));
    assert_eq!((server.look(|seen| seen.accepted), tokens.calls()), (0, 0));
    let secured = as_if_over_tls(options).oidc_callback(tokens.clone());
    let mut connection = establish(&secured.build().expect("built"))
        .await
        .expect("authenticated");
    find(&mut connection).await.expect("authenticated");
    let asked = ConnectionFactory::builder(permitted(&server, oidc())).oidc_callback(tokens);
    establish(&asked.build().expect("built"))
        .await
        .expect("authenticated");
}

#[tokio::test]
async fn an_oidc_environment_needs_tls_too() {
    let server = server().await;
    let environment = |name, resource: Option<&str>| {
        let credential = Credential::from_mechanism(AuthMechanism::MongoDbOidc)
            .with_mechanism_property("ENVIRONMENT", name);
        match resource {
            Some(resource) => credential.with_mechanism_property("TOKEN_RESOURCE", resource),
            None => credential,
        }
    };
    for credential in [
        environment("k8s", None),
        environment("azure", Some("r")),
        environment("gcp", Some("r")),
    ] {
        let options = without_tls(&server, credential);
        let built = ConnectionFactory::builder(options).build();
        let text = texts(&built.map(drop).expect_err("refused"));
        assert!(text.contains("needs `tls=true`"), "{text}");
    }
}

struct Given(Credential);

#[async_trait]
impl CredentialProvider for Given {
    async fn credential(&self) -> Result<Arc<Credential>> {
        Ok(Arc::new(self.0.clone()))
    }
}

#[tokio::test]
async fn a_provided_credential_follows_the_same_rules() {
    let (server, tokens) = (server().await, Tokens::new(&[GOOD]));
    let with = |options: ClientOptions, credential| {
        let builder = ConnectionFactory::builder(options).oidc_callback(tokens.clone());
        let builder = builder.credential_provider(Arc::new(Given(credential)));
        builder.build().expect("built")
    };
    let mut permitted = options(&server, "");
    permitted.allow_plain_without_tls = true;
    let error = establish(&with(options(&server, ""), oidc()))
        .await
        .expect_err("no TLS");
    assert!(texts(&error).contains("needs `tls=true`"), "{error}");
    let elsewhere = oidc().with_allowed_hosts(["db.example"]);
    let error = establish(&with(permitted.clone(), elsewhere))
        .await
        .expect_err("not allowed");
    assert!(is_not_allowed(&error), "{error}");
    assert_eq!(error.user(), Some(USER));
    assert_eq!(tokens.calls(), 0);
    for connection in [1, 2] {
        assert_eq!(names_on(&server, connection), [""; 0]);
    }
    let here = oidc().with_allowed_hosts(["127.0.0.1", "localhost"]);
    establish(&with(permitted, here)).await.expect("allowed");
}

/// For every mechanism, nothing is sent, not even a hello: it could contain a cached token, or a
/// user's name and nonce.
#[tokio::test]
async fn a_host_that_is_not_allowed_gets_no_token() {
    let server = ScriptedServer::builder()
        .access_tokens(&[GOOD])
        .plain_user("app", MARK)
        .start()
        .await;
    let tokens = Tokens::new(&[GOOD]);
    let plain = Credential::new("app", MARK).with_mechanism(AuthMechanism::Plain);
    let scram = Credential::new("app", MARK);
    let nobody: [&str; 0] = [];
    let mut number = 0;
    for credential in [oidc(), plain, scram] {
        for allowed in [&["db.example", "*.localhost", "127.0.0.2"][..], &nobody] {
            let is_oidc = credential.mechanism() == Some(AuthMechanism::MongoDbOidc);
            let allowed = credential
                .clone()
                .with_allowed_hosts(allowed.iter().copied());
            let mut builder = ConnectionFactory::builder(permitted(&server, allowed));
            if is_oidc {
                builder = builder.oidc_callback(tokens.clone());
            }
            let factory = builder.build().expect("built");
            let error = establish(&factory).await.expect_err("not allowed");
            assert!(is_not_allowed(&error), "{error}");
            assert!(error.server().is_some());
            number += 1;
            assert_eq!(names_on(&server, number), [""; 0]);
        }
    }
    assert_eq!(tokens.calls(), 0);
}

#[tokio::test]
async fn a_single_client_keeps_to_the_allowed_hosts() {
    let (server, tokens) = (server().await, Tokens::new(&[GOOD]));
    for (allowed, is_allowed) in [("db.example", false), ("127.0.0.1", true)] {
        let credential = oidc().with_allowed_hosts([allowed]);
        let builder = OnDemandTopology::builder(permitted(&server, credential));
        let builder = builder.oidc_callback(tokens.clone());
        let mut client = builder.build_client().expect("a client");
        let find = bson::doc! { "find": "things" };
        let ran = client.run_command("shop", &find).await.map(drop);
        match (ran, is_allowed) {
            (Ok(()), true) => {}
            (Err(error), false) => assert!(is_not_allowed(&error), "{error}"),
            (ran, _) => panic!("{allowed}: {ran:?}"),
        }
        assert_eq!(tokens.calls(), usize::from(is_allowed));
    }
}

/// A human callback that returns at once.
struct Human(Arc<Tokens>);

#[async_trait]
impl OidcCallback for Human {
    async fn token(&self, request: OidcRequest<'_>) -> Result<AccessToken> {
        assert_eq!(request.timeout, Duration::from_secs(5 * 60));
        self.0
            .token(OidcRequest::new(request.username, Duration::from_secs(60)))
            .await
    }

    fn asks_human(&self) -> bool {
        true
    }
}

/// Connects every name to one server.
struct Renamed(ServerAddress);

#[async_trait]
impl Connector for Renamed {
    async fn connect(&self, _: &ServerAddress) -> Result<Stream> {
        SocketConnector::new().connect(&self.0).await
    }

    fn is_secure(&self) -> bool {
        true
    }
}

/// The specification's default list of hosts for human callbacks.
#[tokio::test]
async fn a_token_of_a_human_callback_goes_to_known_hosts_only() {
    let server = server().await;
    let address: ServerAddress = server.address().parse().expect("an address");
    for (host, allowed, is_allowed) in [
        ("cluster0-shard-00-00.abcde.mongodb.net", None, true),
        ("localhost", None, true),
        ("db.example", None, false),
        ("mongodb.net.example", None, false),
        ("db.example", Some("*.example"), true),
        ("localhost", Some("*.example"), false),
    ] {
        let tokens = Tokens::new(&[GOOD]);
        let mut options = ClientOptions::new([ServerAddress::tcp(host, 27017)]);
        options.tls.enabled = Some(true);
        options.credential = Some(match allowed {
            Some(allowed) => oidc().with_allowed_hosts([allowed]),
            None => oidc(),
        });
        let builder: ConnectionFactoryBuilder = ConnectionFactory::builder(options)
            .connector(Arc::new(Renamed(address.clone())))
            .oidc_callback(Arc::new(Human(tokens.clone())));
        let outcome = establish(&builder.build().expect("built")).await;
        match is_allowed {
            true => drop(outcome.expect(host)),
            false => assert!(is_not_allowed(&outcome.expect_err(host)), "{host}"),
        }
        assert_eq!(tokens.calls(), usize::from(is_allowed), "{host}");
    }
}

/// Only the set in the options is accepted: no other set, and no server without a set.
#[tokio::test]
async fn a_server_of_another_replica_set_is_refused_before_authentication() {
    let named = |name: &'static str| {
        let name = bson::doc! { "setName": name, "hosts": ["a:1"] };
        Matcher::hello().then(mongo_testkit::Action::Merge(name))
    };
    for (rule, found) in [
        (Some(named("rs0")), "the replica set \"rs0\""),
        (None, "no replica set"),
        (Some(named("other ")), "the replica set \"other \""),
        (Some(named("Other")), "the replica set \"Other\""),
    ] {
        let server = ScriptedServer::start().await;
        if let Some(rule) = rule {
            server.script().add(rule);
        }
        let mut options = options(&server, "replicaSet=other");
        options.credential = Some(Credential::new("app", MARK));
        let factory = ConnectionFactory::builder(options).build().expect("built");
        let error = establish(&factory).await.expect_err("another set");
        assert!(matches!(error.kind(), ErrorKind::Handshake(_)), "{error}");
        let expected = format!("belongs to {found}, not to the replica set \"other\"");
        assert!(texts(&error).contains(&expected), "{error}");
        assert_eq!(names_on(&server, 1), ["isMaster"]);
        server.script().clear();
        server.script().add(named("other"));
        let error = establish(&factory).await.expect_err("no such user");
        assert!(error.is_authentication(), "{error}");
    }
}

/// A server's error may repeat a credential: in its message, its code name or a label.
#[tokio::test]
async fn a_server_that_repeats_a_secret_is_not_quoted() {
    const JWT: &str = "m4rked.token-of-some-length";
    let tokens = Tokens::new(&[JWT]);
    let plain = Credential::new("app", "m4rked-password").with_mechanism(AuthMechanism::Plain);
    for (credential, secret) in [(oidc(), JWT), (plain, "m4rked-password")] {
        for command in ["saslStart", "isMaster"] {
            for (code, name) in [(18, "AuthenticationFailed"), (20, secret)] {
                let server = ScriptedServer::start().await;
                let echo = mongo_testkit::ErrorReply::new(code, name, &format!("no \"{secret}\""));
                let rule = Matcher::command(command).then(mongo_testkit::Action::Error(echo));
                server.script().add(rule);
                let is_oidc = secret == JWT;
                let mut builder =
                    ConnectionFactory::builder(permitted(&server, credential.clone()));
                if is_oidc {
                    builder = builder.oidc_callback(tokens.clone());
                }
                let factory = builder.build().expect("built");
                if is_oidc {
                    // From here on a token is cached.
                    establish(&factory).await.expect_err("refused");
                }
                let error = establish(&factory).await.expect_err("refused");
                // A hello without a secret contains nothing to repeat.
                if command == "saslStart" || !is_oidc {
                    assert!(texts(&error).contains("withheld"), "{error}");
                    assert_eq!(
                        error.labels().filter(|label| label.contains(MARK)).count(),
                        0
                    );
                }
            }
        }
    }
}
