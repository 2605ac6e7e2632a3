//! The authentication specification's test plan for SCRAM, step by step.
//!
//! The real server supports only SCRAM-SHA-256. Tests of SCRAM-SHA-1 use the scripted one.

use std::collections::HashMap;
use std::sync::Arc;

use bson::doc;
use mongo_core::auth::{AuthError, AuthMechanism};
use mongo_core::net::{KeyService, SingleClient};
use mongo_core::pools::ConnectionFactory;
use mongo_core::{ClientOptions, Connection, Error, ErrorKind};
use mongo_testkit::{Action, Matcher, Mechanism, RealServer, ScramAttack, ScriptedServer, User};

use crate::support::establish;

/// The password forms of step 4 that must succeed, for each user.
const PREPARED: [(&str, &str, &str); 4] = [
    ("IX", "IX", "IX:IX"),
    ("IX", "IX", "IX:I%C2%ADX"),
    ("\u{2168}", "\u{2163}", "%E2%85%A8:IV"),
    ("\u{2168}", "\u{2163}", "%E2%85%A8:I%C2%ADV"),
];

/// `user:password` goes before the host of a server's connection string.
async fn log_in(uri: &str, user: &str, more: &str) -> Result<Connection, Error> {
    let uri = uri.replace("mongodb://", &format!("mongodb://{user}@"));
    let options = ClientOptions::parse(&format!("{uri}{more}")).expect("a connection string");
    let factory = ConnectionFactory::builder(options).build().expect("built");
    let mut connection = establish(&factory).await?;
    let stats = doc! { "dbStats": 1 };
    match connection.run_command("admin", &stats).await {
        Ok(_) => {}
        // The scripted server does not know the command, and says so only after authentication.
        Err(error) => assert_eq!(error.code(), Some(59), "{error}"),
    }
    Ok(connection)
}

async fn by(uri: &str, user: &str, more: &str) -> Option<AuthMechanism> {
    let connection = log_in(uri, user, more).await.expect("authenticated");
    connection.description().authenticated
}

/// The error's code and message, without the user's name.
async fn refusal(uri: &str, user: &str, more: &str) -> (i32, String) {
    let error = log_in(uri, user, more)
        .await
        .map(drop)
        .expect_err("refused");
    match error.kind() {
        ErrorKind::Authentication(AuthError::Refused { code, message, .. }) => {
            (*code, message.clone())
        }
        other => panic!("{other:?}"),
    }
}

fn sha_256(user: &str, password: &str) -> User {
    User::new(user, password).mechanisms(&[Mechanism::ScramSha256])
}

fn mechanism(name: &str) -> String {
    format!("&authMechanism={name}")
}

#[tokio::test]
async fn three_users_on_the_scripted_server() {
    let (sha1, sha256) = (Mechanism::ScramSha1, Mechanism::ScramSha256);
    let server = ScriptedServer::builder()
        .user(User::new("sha1", "sha1").mechanisms(&[sha1]))
        .user(User::new("sha256", "sha256").mechanisms(&[sha256]))
        .user(User::new("both", "both").mechanisms(&[sha1, sha256]))
        .start()
        .await;
    let uri = server.uri();
    let names = HashMap::from([
        (AuthMechanism::ScramSha1, "SCRAM-SHA-1"),
        (AuthMechanism::ScramSha256, "SCRAM-SHA-256"),
    ]);
    let (old, new) = (AuthMechanism::ScramSha1, AuthMechanism::ScramSha256);
    let unknown = refusal(&uri, "nobody:nobody", "").await;
    assert_eq!(unknown.0, 18);
    // Step 2: each mechanism of the user, and none; step 3: the other mechanism.
    for (user, negotiated, has) in [
        ("sha1:sha1", old, vec![old]),
        ("sha256:sha256", new, vec![new]),
        ("both:both", new, vec![old, new]),
    ] {
        assert_eq!(by(&uri, user, "").await, Some(negotiated), "{user}");
        for (one, name) in &names {
            let more = mechanism(name);
            match has.contains(one) {
                true => assert_eq!(by(&uri, user, &more).await, Some(*one), "{user} {name}"),
                false => assert_eq!(refusal(&uri, user, &more).await, unknown, "{user} {name}"),
            }
        }
    }
    // Step 3: an unknown user and a wrong password get the same error.
    assert_eq!(refusal(&uri, "both:wrong", "").await, unknown);
}

#[tokio::test]
async fn sha_256_on_the_real_server() {
    let server = RealServer::shared_with_auth();
    server.create_user(&sha_256("sha256", "sha256"));
    let uri = server.uri_without_user();
    let new = Some(AuthMechanism::ScramSha256);
    let explicit = mechanism("SCRAM-SHA-256");
    for more in ["", &explicit] {
        assert_eq!(by(&uri, "sha256:sha256", more).await, new);
        let unknown = refusal(&uri, "nobody:nobody", more).await;
        assert_eq!(refusal(&uri, "sha256:wrong", more).await, unknown);
        assert_eq!(unknown.0, 18);
    }
    let other = mechanism("SCRAM-SHA-1");
    let error = log_in(&uri, "sha256:sha256", &other).await.map(drop);
    assert!(error.expect_err("another mechanism").is_authentication());
}

/// A single client negotiates by a second hello, on a connection that was already checked.
#[tokio::test]
async fn a_single_client_authenticates_after_its_hello() {
    let real = RealServer::shared_with_auth();
    real.create_user(&sha_256("single", "single"));
    let users = [&[Mechanism::ScramSha1][..], &[Mechanism::ScramSha256]];
    let mut uris = vec![real.uri_without_user()];
    let mut servers = Vec::new();
    for mechanisms in users {
        let user = User::new("single", "single").mechanisms(mechanisms);
        let server = ScriptedServer::builder().user(user).start().await;
        uris.push(server.uri());
        servers.push(server);
    }
    for uri in uris {
        for (password, is_good) in [("single", true), ("wrong", false)] {
            let uri = uri.replace("mongodb://", &format!("mongodb://single:{password}@"));
            let options = ClientOptions::parse(&uri).expect("a connection string");
            let mut client = SingleClient::new(options).expect("a client");
            let find = doc! { "find": "things" };
            match client.run_command("shop", &find).await.map(drop) {
                Ok(()) => assert!(is_good, "{uri}"),
                Err(error) => assert!(!is_good && error.is_authentication(), "{uri}: {error}"),
            }
        }
    }
}

/// Step 4, on the scripted server.
#[tokio::test]
async fn prepared_passwords_on_the_scripted_server() {
    for (user, password, login) in PREPARED {
        let user = User::new(user, password).mechanisms(&[Mechanism::ScramSha256]);
        let server = ScriptedServer::builder().user(user).start().await;
        let authenticated = by(&server.uri(), login, "").await;
        assert_eq!(authenticated, Some(AuthMechanism::ScramSha256), "{login}");
    }
}

/// Step 4, on the real server.
#[tokio::test]
async fn prepared_passwords_on_the_real_server() {
    let server = RealServer::shared_with_auth();
    for (user, password, _) in [PREPARED[0], PREPARED[2]] {
        server.create_user(&sha_256(user, password));
    }
    for (.., login) in PREPARED {
        let authenticated = by(&server.uri_without_user(), login, "").await;
        assert_eq!(authenticated, Some(AuthMechanism::ScramSha256), "{login}");
    }
}

/// A server that does not know the password does not fill the key service that pools share,
/// whatever salt it sends.
#[tokio::test]
async fn keys_are_not_cached_without_proof_from_the_server() {
    let keys = Arc::new(KeyService::default());
    let attempt = async |attack: Option<ScramAttack>| {
        let server = ScriptedServer::builder().user(User::new("app", "secret"));
        let server = match attack {
            Some(attack) => server.rule(Matcher::scram().then(Action::Scram(attack))),
            None => server,
        };
        let server = server.start().await;
        let options = ClientOptions::parse(&server.uri_for("app", "secret")).expect("a URI");
        let factory = ConnectionFactory::builder(options).keys(keys.clone());
        let factory = factory.build().expect("built");
        let first = establish(&factory).await.map(drop);
        let second = establish(&factory).await.map(drop);
        (first.and(second), format!("{keys:?}"))
    };
    for attack in [
        ScramAttack::WrongSignature,
        ScramAttack::NoSignature,
        ScramAttack::LastMessage("e=other-error".to_owned()),
        ScramAttack::DoneTooEarly,
    ] {
        let (outcome, shown) = attempt(Some(attack)).await;
        outcome.expect_err("not proved");
        assert!(shown.contains("cached: 0"), "{shown}");
    }
    let (outcome, shown) = attempt(None).await;
    outcome.expect("authenticated");
    assert!(shown.contains("cached: 1"), "{shown}");
    // The endless exchange starts after the signature.
    let (outcome, _) = attempt(Some(ScramAttack::NeverDone)).await;
    outcome.expect_err("not done");
}
