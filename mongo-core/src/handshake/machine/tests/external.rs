//! The mechanisms of `$external`, by recorded transcripts.

use bson::{Document, RawDocumentBuf, rawdoc};

use super::*;

/// What an establishment came to with a server that gives these replies, whatever it is asked.
struct Recorded {
    result: Result<ConnectionDescription>,
    /// The databases and the commands, without the fields of the hello that are the same always.
    sent: Vec<(String, Document)>,
}

fn replay(credential: Credential, replies: &[RawDocumentBuf]) -> Recorded {
    let mut handshake = Handshake::new(authenticating(credential));
    let (mut sent, mut replies) = (Vec::new(), replies.iter());
    let mut step = handshake.start();
    let result = loop {
        step = match step {
            Err(error) => break Err(error),
            Ok(Step::Done(description)) => break Ok(description),
            Ok(Step::Need(need)) => panic!("{need:?}"),
            Ok(Step::Send(outgoing)) => {
                let mut command = Document::try_from(outgoing.command).expect("valid");
                for field in ["helloOk", "backpressure", "client", "compression"] {
                    command.remove(field);
                }
                sent.push((outgoing.database.to_string(), command));
                handshake.handle_reply(replies.next().expect("no reply is left"))
            }
        };
    };
    assert!(replies.next().is_none(), "a reply is left");
    assert!(handshake.handle_reply(&rawdoc! { "ok": 1 }).is_err());
    Recorded { result, sent }
}

fn hello() -> RawDocumentBuf {
    rawdoc! { "ok": 1, "maxWireVersion": 25 }
}

fn speculated(first: RawDocumentBuf) -> RawDocumentBuf {
    rawdoc! { "ok": 1, "maxWireVersion": 25, "speculativeAuthenticate": first }
}

fn refusal() -> RawDocumentBuf {
    rawdoc! { "ok": 0, "code": 18, "errmsg": "no" }
}

fn done() -> RawDocumentBuf {
    rawdoc! { "ok": 1, "conversationId": 1, "done": true, "payload": binary("") }
}

fn error(recorded: Recorded) -> AuthError {
    match recorded.result.expect_err("refused").kind() {
        ErrorKind::Authentication(error) => error.clone(),
        other => panic!("{other:?}"),
    }
}

fn assert_sent(recorded: &Recorded, expected: &[(&str, RawDocumentBuf)]) {
    let sent = recorded.sent.iter();
    let expected = expected.iter().map(|(database, command)| {
        let command = Document::try_from(command.clone()).expect("valid");
        ((*database).to_owned(), command)
    });
    assert!(sent.cloned().eq(expected), "{:?}", recorded.sent);
}

fn x509() -> Credential {
    Credential::from_mechanism(AuthMechanism::MongoDbX509)
}

#[test]
fn x509_is_over_with_the_hello() {
    let agreed = rawdoc! { "dbname": "$external", "user": "CN=client" };
    let recorded = replay(x509(), &[speculated(agreed)]);
    let speculative = rawdoc! {
        "authenticate": 1, "mechanism": "MONGODB-X509", "db": "$external",
    };
    let hello = rawdoc! { "isMaster": 1, "speculativeAuthenticate": speculative };
    assert_sent(&recorded, &[("admin", hello)]);
    let description = recorded.result.expect("established");
    let mechanism = Some(AuthMechanism::MongoDbX509);
    assert_eq!(description.authenticated, mechanism);
}

#[test]
fn x509_is_asked_again_where_speculation_came_to_nothing() {
    let credential = x509().with_username("CN=client");
    let agreed = rawdoc! { "ok": 1, "dbname": "$external", "user": "CN=client" };
    let recorded = replay(credential.clone(), &[hello(), agreed]);
    let command = rawdoc! { "authenticate": 1, "mechanism": "MONGODB-X509", "user": "CN=client" };
    assert_eq!(recorded.sent[1].0, "$external");
    assert_eq!(
        recorded.sent[1].1,
        Document::try_from(command).expect("valid")
    );
    assert!(recorded.result.is_ok());
    let refused = error(replay(credential, &[hello(), refusal()]));
    assert!(matches!(refused, AuthError::Refused { code: 18, .. }));
    let bare = error(replay(x509(), &[hello(), rawdoc! { "user": "CN=client" }]));
    assert!(matches!(bare, AuthError::Reply { field: "ok", .. }));
}

fn plain() -> Credential {
    Credential::new("user", "pencil").with_mechanism(AuthMechanism::Plain)
}

/// The specification's example.
#[test]
fn plain_has_one_message_of_its_own() {
    let recorded = replay(plain(), &[hello(), done()]);
    let start = rawdoc! {
        "saslStart": 1, "mechanism": "PLAIN", "payload": binary("\0user\0pencil"),
    };
    let expected = [("admin", rawdoc! { "isMaster": 1 }), ("$external", start)];
    assert_sent(&recorded, &expected);
    assert!(recorded.result.is_ok());
}

/// The password is not for a server that asks for it out of turn, or never has enough.
#[test]
fn plain_ends_with_its_only_message() {
    let again = || rawdoc! { "ok": 1, "conversationId": 1, "done": false, "payload": binary("") };
    let endless = error(replay(plain(), &[hello(), again()]));
    assert_eq!(endless, AuthError::NotDone(AuthMechanism::Plain));
    let recorded = replay(plain(), &[speculated(again()), done()]);
    assert_eq!(recorded.sent.len(), 2);
    let refused = error(replay(plain(), &[hello(), refusal()]));
    assert!(matches!(refused, AuthError::Refused { code: 18, .. }));
}
