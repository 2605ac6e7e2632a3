//! MONGODB-X509 and PLAIN, and how many round trips each mechanism takes.

use mongo_core::auth::{AuthError, AuthMechanism, Credential};
use mongo_core::pools::ConnectionFactory;
use mongo_core::{ClientOptions, Error, ErrorKind};
use mongo_testkit::{Action, Matcher, ScriptedServer, User};

use crate::support::{MARK, as_if_over_tls, establish, find, names_on, options, texts};

const SUBJECT: &str = "CN=client,OU=drivers";

fn refused_with_18(error: &Error) -> bool {
    texts(error);
    matches!(
        error.kind(),
        ErrorKind::Authentication(AuthError::Refused { code: 18, .. })
    )
}

#[tokio::test]
async fn scram_takes_two_round_trips() {
    let user = User::new("app", MARK);
    let server = ScriptedServer::builder().user(user).start().await;
    let options = ClientOptions::parse(&server.uri_for("app", MARK)).expect("a connection string");
    let factory = ConnectionFactory::builder(options).build().expect("built");
    let mut connection = establish(&factory).await.expect("a connection");
    assert_eq!(names_on(&server, 1), ["isMaster", "saslContinue"]);
    find(&mut connection).await.expect("authenticated");
}

#[tokio::test]
async fn x509_takes_one_round_trip() {
    let server = ScriptedServer::builder()
        .certificate_subject(SUBJECT)
        .start()
        .await;
    let options = options(&server, "authMechanism=MONGODB-X509");
    let factory = as_if_over_tls(options).build().expect("built");
    let mut connection = establish(&factory).await.expect("a connection");
    assert_eq!(names_on(&server, 1), ["isMaster"]);
    let mechanism = connection.description().authenticated;
    assert_eq!(mechanism, Some(AuthMechanism::MongoDbX509));
    find(&mut connection).await.expect("authenticated");
}

/// A configured user name is sent, and must match the certificate.
#[tokio::test]
async fn x509_sends_the_given_user_name() {
    let server = ScriptedServer::builder()
        .certificate_subject(SUBJECT)
        .start()
        .await;
    for (name, fits) in [(SUBJECT, true), ("CN=other", false)] {
        let mut options = options(&server, "");
        let credential = Credential::from_mechanism(AuthMechanism::MongoDbX509);
        options.credential = Some(credential.with_username(name));
        let factory = as_if_over_tls(options).build().expect("built");
        match establish(&factory).await {
            Ok(connection) => assert_eq!(connection.user(), Some(name).filter(|_| fits)),
            Err(error) => assert!(!fits && refused_with_18(&error), "{error}"),
        }
    }
    assert_eq!(names_on(&server, 1), ["isMaster"]);
    // After a failed speculation, the command is sent again to get the error.
    assert_eq!(names_on(&server, 2), ["isMaster", "authenticate"]);
}

#[tokio::test]
async fn x509_without_speculation() {
    let server = ScriptedServer::builder()
        .certificate_subject(SUBJECT)
        .rule(Matcher::hello().then(Action::Remove("speculativeAuthenticate".to_owned())))
        .start()
        .await;
    let options = options(&server, "authMechanism=MONGODB-X509");
    let factory = as_if_over_tls(options).build().expect("built");
    establish(&factory).await.expect("a connection");
    assert_eq!(names_on(&server, 1), ["isMaster", "authenticate"]);
    let databases = server.look(|seen| seen.commands("authenticate").next().cloned());
    assert_eq!(databases.expect("one").database, "$external");
}

fn plain(server: &ScriptedServer, password: &str) -> ClientOptions {
    let mut options = options(server, "");
    let credential = Credential::new("app", password).with_mechanism(AuthMechanism::Plain);
    options.credential = Some(credential);
    options
}

#[tokio::test]
async fn plain_is_not_speculative() {
    let server = ScriptedServer::builder()
        .plain_user("app", MARK)
        .start()
        .await;
    let factory = as_if_over_tls(plain(&server, MARK)).build().expect("built");
    let mut connection = establish(&factory).await.expect("a connection");
    assert_eq!(names_on(&server, 1), ["isMaster", "saslStart"]);
    find(&mut connection).await.expect("authenticated");
    let factory = as_if_over_tls(plain(&server, "other")).build();
    let error = establish(&factory.expect("built"))
        .await
        .expect_err("wrong");
    assert!(refused_with_18(&error), "{error}");
    assert_eq!(error.user(), Some("app"));
}

#[tokio::test]
async fn plain_without_tls_must_be_allowed() {
    let server = ScriptedServer::builder()
        .plain_user("app", MARK)
        .record_bytes()
        .start()
        .await;
    let mut options = plain(&server, MARK);
    let built = ConnectionFactory::builder(options.clone()).build();
    let text = texts(&built.map(drop).expect_err("refused"));
    assert!(text.contains("allow_plain_without_tls"), "{text}");
    assert_eq!(server.look(|seen| seen.accepted), 0);
    options.allow_plain_without_tls = true;
    let factory = ConnectionFactory::builder(options).build().expect("built");
    let mut connection = establish(&factory).await.expect("a connection");
    find(&mut connection).await.expect("authenticated");
}

#[tokio::test]
async fn missing_tls_and_unsupported_mechanisms_are_refused_by_name() {
    let server = ScriptedServer::start().await;
    let built = ConnectionFactory::builder(options(&server, "authMechanism=MONGODB-X509")).build();
    let text = texts(&built.map(drop).expect_err("refused"));
    assert!(text.contains("MONGODB-X509 needs `tls=true`"), "{text}");
    let mut options = options(&server, "");
    let credential = Credential::new("app", MARK).with_mechanism(AuthMechanism::Gssapi);
    options.credential = Some(credential);
    let built = ConnectionFactory::builder(options).build();
    let text = texts(&built.map(drop).expect_err("refused"));
    assert!(text.contains("GSSAPI is not supported"), "{text}");
}
