//! MONGODB-OIDC: the specification's prose tests of the machine flow, by their numbers, and more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mongo_core::auth::{AuthMechanism, Credential};
use mongo_core::net::{AccessToken, KubernetesTokens, OidcCallback, OidcRequest};
use mongo_core::pools::{ConnectionFactory, ConnectionFactoryBuilder};
use mongo_core::{Error, ErrorKind, Result};
use mongo_testkit::{Action, ErrorReply, Matcher, ScriptedServer};

use crate::support::{MARK, establish, find, names_on, options, texts};

pub(crate) const USER: &str = "workload";

/// Returns the tokens of a list in order, and then always the last one.
pub(crate) struct Tokens {
    tokens: Vec<String>,
    calls: AtomicUsize,
}

impl Tokens {
    pub(crate) fn new(tokens: &[&str]) -> Arc<Self> {
        Arc::new(Self {
            tokens: tokens.iter().map(|&token| token.to_owned()).collect(),
            calls: AtomicUsize::new(0),
        })
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

#[async_trait::async_trait]
impl OidcCallback for Tokens {
    async fn token(&self, request: OidcRequest<'_>) -> Result<AccessToken> {
        assert_eq!((request.version, request.username), (1, Some(USER)));
        assert_eq!(request.timeout, Duration::from_secs(60));
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let token = self.tokens.get(call).or(self.tokens.last());
        token
            .map(|token| AccessToken::new(&**token))
            .ok_or_else(|| Error::credential("the provider is closed"))
    }
}

pub(crate) const GOOD: &str = "m4rked.good";
pub(crate) const OTHER: &str = "m4rked.other";
pub(crate) const BAD: &str = "m4rked.bad";

pub(crate) async fn server() -> ScriptedServer {
    let builder = ScriptedServer::builder().access_tokens(&[GOOD, OTHER]);
    builder.start().await
}

fn builder(server: &ScriptedServer) -> ConnectionFactoryBuilder {
    let mut options = options(server, "");
    let credential = Credential::from_mechanism(AuthMechanism::MongoDbOidc);
    options.credential = Some(credential.with_username(USER));
    options.allow_plain_without_tls = true;
    ConnectionFactory::builder(options)
}

pub(crate) fn factory(
    server: &ScriptedServer,
    callback: Arc<dyn OidcCallback>,
) -> ConnectionFactory {
    let built = builder(server).oidc_callback(callback).build();
    built.expect("a factory")
}

/// 1.1 and 2.1.
#[tokio::test]
async fn the_callback_is_called_during_the_handshake() {
    let (server, tokens) = (server().await, Tokens::new(&[GOOD]));
    let factory = factory(&server, tokens.clone());
    let mut connection = establish(&factory).await.expect("a connection");
    find(&mut connection).await.expect("authenticated");
    assert_eq!(tokens.calls(), 1);
    assert_eq!(connection.user(), Some(USER));
    // Without a token there is no speculative authentication.
    assert_eq!(names_on(&server, 1), ["isMaster", "saslStart", "find"]);
    let hello = server.look(|seen| seen.log[0].command.clone());
    assert!(!hello.contains_key("speculativeAuthenticate"));
}

/// 1.2; and a cached token is sent with the hello.
#[tokio::test]
async fn one_call_serves_many_connections() {
    let (server, tokens) = (server().await, Tokens::new(&[GOOD]));
    let factory = factory(&server, tokens.clone());
    let all = futures_util::future::join_all((0..10).map(|_| establish(&factory))).await;
    for connection in all {
        find(&mut connection.expect("a connection"))
            .await
            .expect("authenticated");
    }
    assert_eq!(tokens.calls(), 1);
    establish(&factory).await.expect("a connection");
    assert_eq!(names_on(&server, 11), ["isMaster"]);
    assert_eq!(tokens.calls(), 1);
}

/// 2.2 and 2.3: a Rust callback returns no token only by an error, or returns an empty one.
#[tokio::test]
async fn a_callback_without_a_token_is_an_error() {
    let server = server().await;
    for (tokens, expected) in [(&[][..], "the provider is closed"), (&[""], "is empty")] {
        let tokens = Tokens::new(tokens);
        let factory = factory(&server, tokens.clone());
        let error = establish(&factory).await.expect_err("no token");
        assert!(matches!(error.kind(), ErrorKind::Credential(_)), "{error}");
        assert!(texts(&error).contains(expected), "{error}");
        assert_eq!((error.user(), tokens.calls()), (Some(USER), 1));
    }
    assert_eq!(server.look(|seen| seen.count("saslStart")), 0);
}

/// 2.4 and 2.5, and other contradictory options.
#[tokio::test]
async fn contradictory_options_are_refused_at_build() {
    let server = server().await;
    let oidc = || Credential::from_mechanism(AuthMechanism::MongoDbOidc);
    let in_kubernetes = oidc().with_mechanism_property("ENVIRONMENT", "k8s");
    let hosts = oidc()
        .with_mechanism_property("ENVIRONMENT", "azure")
        .with_mechanism_property("TOKEN_RESOURCE", "r")
        .with_mechanism_property("ALLOWED_HOSTS", "");
    for (credential, has_callback, expected) in [
        (in_kubernetes, true, "without an ENVIRONMENT"),
        (hosts, false, "ALLOWED_HOSTS"),
        (oidc(), false, "needs an ENVIRONMENT or an OIDC callback"),
        (Credential::new("u", MARK), true, "without an ENVIRONMENT"),
    ] {
        let mut options = options(&server, "");
        options.credential = Some(credential);
        let mut builder = ConnectionFactory::builder(options);
        if has_callback {
            builder = builder.oidc_callback(Tokens::new(&[GOOD]));
        }
        let error = builder.build().map(drop).expect_err("refused");
        assert!(texts(&error).contains(expected), "{error}");
    }
}

/// 3.1: a cached token that the server refuses is dropped, and another one is requested.
#[tokio::test]
async fn a_refused_cached_token_is_replaced() {
    let (server, tokens) = (server().await, Tokens::new(&[GOOD, OTHER]));
    let factory = factory(&server, tokens.clone());
    establish(&factory).await.expect("a connection");
    server.accept_tokens(&[OTHER]);
    let mut connection = establish(&factory).await.expect("a connection");
    find(&mut connection).await.expect("authenticated");
    assert_eq!(tokens.calls(), 2);
    // The failed speculation, the cached token, the new token.
    let names = ["isMaster", "saslStart", "saslStart", "find"];
    assert_eq!(names_on(&server, 2), names);
    establish(&factory).await.expect("a connection");
    assert_eq!(names_on(&server, 3), ["isMaster"]);
}

/// 3.2.
#[tokio::test]
async fn a_refused_new_token_is_an_error() {
    let (server, tokens) = (server().await, Tokens::new(&[BAD]));
    let factory = factory(&server, tokens.clone());
    let error = establish(&factory).await.expect_err("a bad token");
    assert!(error.is_authentication(), "{error}");
    texts(&error);
    assert_eq!(tokens.calls(), 1);
}

/// 3.3.
#[tokio::test]
async fn other_errors_keep_the_cached_token() {
    let (server, tokens) = (server().await, Tokens::new(&[GOOD, OTHER]));
    let illegal = ErrorReply::new(20, "IllegalOperation", "no");
    let rule = Matcher::command("saslStart").once();
    server.script().add(rule.then(Action::Error(illegal)));
    let factory = factory(&server, tokens.clone());
    let error = establish(&factory).await.expect_err("refused");
    assert!(error.is_authentication(), "{error}");
    assert_eq!(tokens.calls(), 1);
    establish(&factory).await.expect("a connection");
    assert_eq!(tokens.calls(), 1);
}

/// A failed speculation does not invalidate the token.
#[tokio::test]
async fn the_cached_token_is_used_without_speculation() {
    let (server, tokens) = (server().await, Tokens::new(&[GOOD, OTHER]));
    let factory = factory(&server, tokens.clone());
    establish(&factory).await.expect("a connection");
    let rule = Matcher::hello().then(Action::Remove("speculativeAuthenticate".to_owned()));
    server.script().add(rule);
    establish(&factory).await.expect("a connection");
    assert_eq!(names_on(&server, 2), ["isMaster", "saslStart"]);
    assert_eq!(tokens.calls(), 1);
}

#[tokio::test]
async fn kubernetes_provides_the_token_in_a_file() {
    let server = server().await;
    let directory = std::env::temp_dir().join(format!("mongo-core-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let (aks, eks) = (directory.join("aks"), directory.join("eks"));
    std::fs::write(&aks, format!("{GOOD}\n")).expect("written");
    std::fs::write(&eks, BAD).expect("written");
    let variables = |named: Vec<(&'static str, std::path::PathBuf)>| {
        KubernetesTokens::with_variables(move |name| {
            let found = named.iter().find(|(known, _)| *known == name);
            found.map(|(_, path)| path.display().to_string())
        })
    };
    let (first, second) = ("AZURE_FEDERATED_TOKEN_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE");
    let both = variables(vec![(first, aks.clone()), (second, eks.clone())]);
    establish(&factory(&server, Arc::new(both)))
        .await
        .expect("a connection");
    let one = factory(&server, Arc::new(variables(vec![(second, eks)])));
    let error = establish(&one).await.expect_err("a bad token");
    assert!(error.is_authentication(), "{error}");
    // A file that is too long for a token is not read whole.
    std::fs::write(&aks, "x".repeat(64 * 1024 + 1)).expect("written");
    let long = factory(&server, Arc::new(variables(vec![(first, aks)])));
    let error = establish(&long).await.expect_err("too long");
    assert!(texts(&error).contains("too long"), "{error}");
    let missing = directory.join("missing");
    let none = factory(&server, Arc::new(variables(vec![(first, missing)])));
    let error = establish(&none).await.expect_err("no file");
    assert!(matches!(error.kind(), ErrorKind::Credential(_)), "{error}");
    std::fs::remove_dir_all(&directory).expect("removed");
}
