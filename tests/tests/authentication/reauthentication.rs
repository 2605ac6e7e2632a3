//! Reauthentication (code 391): it happens at once, on the same connection, without another hello.
//! The command is run again, once.

use std::time::Duration;

use bson::doc;
use mongo_core::auth::{AuthError, Credential};
use mongo_core::error::ClosedReason;
use mongo_core::pools::ConnectionFactory;
use mongo_core::wire::Readiness;
use mongo_core::{ClientOptions, Error, ErrorKind};
use mongo_testkit::{Action, ErrorReply, Matcher, ScriptedServer, User};

use crate::oidc::{BAD, GOOD, OTHER, Tokens, factory, server};
use crate::support::{MARK, establish, find, names_on, texts};

fn expire(server: &ScriptedServer, matcher: Matcher) {
    let required = ErrorReply::new(391, "ReauthenticationRequired", "expired");
    server.script().add(matcher.then(Action::Error(required)));
}

fn is_closed_for_good(error: &Error) -> bool {
    let kind = error.kind();
    matches!(
        kind,
        ErrorKind::ConnectionClosed(ClosedReason::Unauthenticated)
    )
}

/// 4.1.
#[tokio::test]
async fn the_command_is_run_again_with_another_token() {
    let (server, tokens) = (server().await, Tokens::new(&[GOOD, OTHER]));
    let factory = factory(&server, tokens.clone());
    let mut connection = establish(&factory).await.expect("a connection");
    expire(&server, Matcher::command("find").once());
    find(&mut connection).await.expect("run again");
    assert_eq!(tokens.calls(), 2);
    let names = ["isMaster", "saslStart", "find", "saslStart", "find"];
    assert_eq!(names_on(&server, 1), names);
}

/// 4.2 and 4.3.
#[tokio::test]
async fn a_refused_token_fails_the_command_and_closes_the_connection() {
    let server = server().await;
    for name in ["find", "insert"] {
        let tokens = Tokens::new(&[GOOD, BAD]);
        let factory = factory(&server, tokens.clone());
        let mut connection = establish(&factory).await.expect("a connection");
        expire(&server, Matcher::command(name).once());
        let command = doc! { name: "things", "documents": [{ "_id": 1 }] };
        let failed = connection.run_command("shop", &command).await.map(drop);
        let error = failed.expect_err("refused");
        assert!(error.is_authentication(), "{error}");
        texts(&error);
        assert_eq!(tokens.calls(), 2);
        let error = find(&mut connection).await.expect_err("closed");
        assert!(is_closed_for_good(&error), "{error}");
    }
}

/// 4.4.
#[tokio::test]
async fn reauthentication_ignores_speculation() {
    let (server, tokens) = (server().await, Tokens::new(&[GOOD, OTHER]));
    let factory = factory(&server, tokens.clone());
    establish(&factory).await.expect("a connection");
    let mut connection = establish(&factory).await.expect("a connection");
    assert_eq!(names_on(&server, 2), ["isMaster"]);
    expire(&server, Matcher::command("find").once());
    find(&mut connection).await.expect("run again");
    assert_eq!(tokens.calls(), 2);
    assert_eq!(
        names_on(&server, 2),
        ["isMaster", "find", "saslStart", "find"]
    );
}

/// A newer token that another connection has obtained is used.
#[tokio::test]
async fn a_newer_token_is_used() {
    let (server, tokens) = (server().await, Tokens::new(&[GOOD, OTHER, BAD]));
    let factory = factory(&server, tokens.clone());
    let mut first = establish(&factory).await.expect("a connection");
    let mut second = establish(&factory).await.expect("a connection");
    expire(&server, Matcher::command("find").once());
    find(&mut first).await.expect("run again");
    expire(&server, Matcher::command("find").once());
    find(&mut second).await.expect("run again");
    assert_eq!(tokens.calls(), 2);
}

#[tokio::test]
async fn a_command_is_run_again_only_once() {
    let (server, tokens) = (server().await, Tokens::new(&[GOOD]));
    let factory = factory(&server, tokens);
    let mut connection = establish(&factory).await.expect("a connection");
    expire(&server, Matcher::command("find"));
    let error = find(&mut connection).await.expect_err("expired again");
    assert_eq!(error.code(), Some(391));
    assert_eq!(server.look(|seen| seen.count("find")), 2);
    assert_eq!(connection.readiness(), Readiness::Idle);
}

/// SCRAM reauthenticates with the negotiated mechanism.
#[tokio::test]
async fn scram_reauthenticates() {
    let server = ScriptedServer::builder()
        .user(User::new("app", MARK))
        .start()
        .await;
    let options = ClientOptions::parse(&server.uri_for("app", MARK)).expect("a connection string");
    let factory = ConnectionFactory::builder(options).build().expect("built");
    let mut connection = establish(&factory).await.expect("a connection");
    expire(&server, Matcher::command("find").once());
    find(&mut connection).await.expect("run again");
    let scram = [
        "isMaster",
        "saslContinue",
        "find",
        "saslStart",
        "saslContinue",
        "find",
    ];
    assert_eq!(names_on(&server, 1), scram);
}

#[tokio::test]
async fn an_unauthenticated_connection_gets_the_error_of_the_server() {
    let server = ScriptedServer::start().await;
    let options = ClientOptions::parse(&server.uri()).expect("a connection string");
    let factory = ConnectionFactory::builder(options).build().expect("built");
    let mut connection = establish(&factory).await.expect("a connection");
    expire(&server, Matcher::command("find"));
    let error = find(&mut connection).await.expect_err("expired");
    assert_eq!(error.code(), Some(391));
    assert_eq!(names_on(&server, 1), ["isMaster", "find"]);
    let error = connection.reauthenticate(Duration::from_secs(5)).await;
    let error = error.expect_err("without a credential");
    assert!(
        matches!(error.kind(), ErrorKind::Configuration(_)),
        "{error}"
    );
    find(&mut connection).await.expect_err("expired");
}

/// A connection belongs to one user.
#[tokio::test]
async fn another_user_gets_no_connection_of_the_first() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use mongo_core::net::CredentialProvider;

    #[derive(Default)]
    struct Changing(AtomicBool);

    #[async_trait::async_trait]
    impl CredentialProvider for Changing {
        async fn credential(&self) -> mongo_core::Result<Arc<Credential>> {
            let name = match self.0.swap(true, Ordering::SeqCst) {
                false => "app",
                true => "other",
            };
            Ok(Arc::new(Credential::new(name, MARK)))
        }
    }

    let server = ScriptedServer::builder()
        .user(User::new("app", MARK))
        .user(User::new("other", MARK))
        .start()
        .await;
    let options = ClientOptions::parse(&server.uri()).expect("a connection string");
    let provider = Arc::new(Changing::default());
    let builder = ConnectionFactory::builder(options).credential_provider(provider);
    let factory = builder.build().expect("built");
    let mut connection = establish(&factory).await.expect("a connection");
    expire(&server, Matcher::command("find"));
    let error = find(&mut connection).await.expect_err("another user");
    let other = matches!(
        error.kind(),
        ErrorKind::Authentication(AuthError::OtherUser)
    );
    assert!(other, "{error}");
    let error = find(&mut connection).await.expect_err("closed");
    assert!(is_closed_for_good(&error), "{error}");
    assert_eq!(server.look(|seen| seen.count("saslStart")), 0);
}
