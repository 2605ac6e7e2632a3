//! SCRAM: the server's refusals, and each attack on the wire.

use std::time::Duration;

use crate::client::BareClient;
use bson::spec::BinarySubtype;
use bson::{Binary, Document, doc};
use mongo_testkit::{Action, Matcher, Mechanism, ScramAttack, ScriptedServer, User};
use mongodb::error::ErrorKind;
use tokio::time::timeout;

async fn server() -> ScriptedServer {
    let old = User::new("old", "pencil").mechanisms(&[Mechanism::ScramSha1]);
    ScriptedServer::builder()
        .user(User::new("app", "pencil"))
        .user(old)
        .start()
        .await
}

fn binary(text: &str) -> Binary {
    Binary {
        subtype: BinarySubtype::Generic,
        bytes: text.as_bytes().to_vec(),
    }
}

fn start(mechanism: &str, payload: &str) -> Document {
    doc! {"saslStart": 1, "mechanism": mechanism, "payload": binary(payload), "$db": "admin"}
}

fn proceed(id: i32, payload: &str) -> Document {
    doc! {"saslContinue": 1, "conversationId": id, "payload": binary(payload), "$db": "admin"}
}

fn text(reply: &Document) -> String {
    let payload = reply.get_binary_generic("payload").expect("a payload");
    String::from_utf8(payload.clone()).expect("text")
}

fn code(reply: &Document) -> i32 {
    reply.get_i32("code").unwrap_or_default()
}

#[tokio::test]
async fn a_first_message_is_answered_as_specified() {
    let server = server().await;
    let mut client = BareClient::connect(&server.address()).await;
    let reply = client.run(start("SCRAM-SHA-256", "n,,n=app,r=abc")).await;
    assert!(!reply.get_bool("done").unwrap());
    let first = text(&reply);
    assert!(first.starts_with("r=abc") && first.contains(",s=") && first.ends_with(",i=4096"));
}

#[tokio::test]
async fn unexpected_messages_are_refused() {
    let server = server().await;
    let mut client = BareClient::connect(&server.address()).await;
    for (mechanism, payload, expected) in [
        ("PLAIN", "n,,n=app,r=abc", 334),
        ("SCRAM-SHA-256", "n,,n=nobody,r=abc", 18),
        ("SCRAM-SHA-256", "n,,n=old,r=abc", 18),
        ("SCRAM-SHA-256", "p=tls,,n=app,r=abc", 2),
        ("SCRAM-SHA-256", "n,,n=app", 2),
        ("SCRAM-SHA-256", "n,,n=a=p,r=abc", 2),
    ] {
        let reply = client.run(start(mechanism, payload)).await;
        assert_eq!(code(&reply), expected, "{mechanism} {payload}");
    }
    assert_eq!(code(&client.run(proceed(1, "")).await), 17);
    client.run(start("SCRAM-SHA-1", "n,,n=old,r=abc")).await;
    assert_eq!(code(&client.run(proceed(2, "")).await), 17);
    let first = text(&client.run(start("SCRAM-SHA-1", "n,,n=old,r=abc")).await);
    let nonce = first.split(',').next().expect("a nonce");
    // An invalid proof of the right length.
    let last = format!("c=biws,{nonce},p=AAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    assert_eq!(code(&client.run(proceed(1, &last)).await), 18);
    assert_eq!(code(&client.run(doc! {"find": "c"}).await), 13);
}

#[tokio::test]
async fn a_hello_lists_the_mechanisms_of_a_user() {
    let server = server().await;
    let mut client = BareClient::connect(&server.address()).await;
    let hello = |user: &str| doc! {"hello": 1, "saslSupportedMechs": user, "$db": "admin"};
    let reply = client.run(hello("admin.old")).await;
    let mechanisms = reply.get_array("saslSupportedMechs").unwrap();
    assert_eq!(mechanisms, &vec![bson::Bson::from("SCRAM-SHA-1")]);
    assert!(
        !client
            .run(hello("admin.nobody"))
            .await
            .contains_key("saslSupportedMechs")
    );
}

/// The server's first message under an attack, and whether it has `done: true`.
async fn first_message(server: &ScriptedServer, attack: ScramAttack) -> (String, bool) {
    server.script().clear();
    server
        .script()
        .add(Matcher::scram().then(Action::Scram(attack)));
    let mut client = BareClient::connect(&server.address()).await;
    let mut speculation = start("SCRAM-SHA-256", "n,,n=app,r=abcdefgh");
    speculation.insert("db", "admin");
    speculation.remove("$db");
    let hello = doc! {"hello": 1, "speculativeAuthenticate": speculation, "$db": "admin"};
    let reply = client.run(hello).await;
    let first = reply
        .get_document("speculativeAuthenticate")
        .expect("a speculation");
    (text(first), first.get_bool("done").expect("done"))
}

#[tokio::test]
async fn attacks_in_the_first_message() {
    let server = server().await;
    let (first, _) = first_message(&server, ScramAttack::ShortNonce).await;
    assert!(first.starts_with("r=abcd,"), "{first}");
    let (first, _) = first_message(&server, ScramAttack::BareNonce).await;
    assert!(first.starts_with("r=abcdefgh,"), "{first}");
    let (first, _) = first_message(&server, ScramAttack::ForeignNonce).await;
    assert!(!first.starts_with("r=abcd"), "{first}");
    let (first, _) = first_message(&server, ScramAttack::Iterations(4_294_967_295)).await;
    assert!(first.ends_with(",i=4294967295"), "{first}");
    let (first, _) = first_message(&server, ScramAttack::FirstMessage("e=x".to_owned())).await;
    assert_eq!(first, "e=x");
    let (_, done) = first_message(&server, ScramAttack::DoneTooEarly).await;
    assert!(done);
}

/// An independent client detects the attacks, which proves that they are attacks. Two are left out:
/// billions of iterations, which would keep it busy for hours, and the short nonce, at which
/// version 3.9.1 panics.
#[tokio::test]
async fn the_official_crate_detects_the_attacks() {
    let server = server().await;
    for attack in [
        ScramAttack::ForeignNonce,
        ScramAttack::Iterations(1),
        ScramAttack::FirstMessage("r=".to_owned()),
        ScramAttack::NoSignature,
        ScramAttack::WrongSignature,
        ScramAttack::LastMessage("e=other-error".to_owned()),
        ScramAttack::NeverDone,
    ] {
        server.script().clear();
        server
            .script()
            .add(Matcher::scram().then(Action::Scram(attack.clone())));
        let run = async {
            let uri = server.uri_for("app", "pencil");
            let client = mongodb::Client::with_uri_str(uri).await.expect("a client");
            let ping = mongodb::bson::doc! {"ping": 1};
            let error = client
                .database("admin")
                .run_command(ping)
                .await
                .expect_err("an attack");
            assert!(
                matches!(*error.kind, ErrorKind::Authentication { .. }),
                "{attack:?}: {error}"
            );
            client.shutdown().await;
        };
        let outcome = timeout(Duration::from_secs(60), run).await;
        assert!(outcome.is_ok(), "{attack:?} keeps the client busy");
    }
}
