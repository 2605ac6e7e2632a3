//! The mechanisms of `$external`, with recorded transcripts.

use bson::{Document, RawDocumentBuf, rawdoc};

use super::*;

/// The outcome of an establishment with a server that sends these replies to any commands.
struct Recorded {
    result: Result<ConnectionDescription>,
    /// The databases and the commands, without the constant fields of the hello.
    sent: Vec<(String, Document)>,
    /// The refused token in each request for a token.
    needs: Vec<Option<String>>,
}

fn replay(credential: Credential, replies: &[RawDocumentBuf]) -> Recorded {
    replay_with(
        &mut Handshake::new(authenticating(credential)),
        replies,
        &mut Vec::new(),
    )
}

/// The same, with the evidence for the conversations in reverse order.
fn replay_with(
    handshake: &mut Handshake,
    replies: &[RawDocumentBuf],
    evidence: &mut Vec<Evidence>,
) -> Recorded {
    let step = handshake.start();
    go_on(handshake, step, replies, evidence)
}

fn go_on(
    handshake: &mut Handshake,
    mut step: Result<Step>,
    replies: &[RawDocumentBuf],
    evidence: &mut Vec<Evidence>,
) -> Recorded {
    let (mut sent, mut needs, mut replies) = (Vec::new(), Vec::new(), replies.iter());
    let result = loop {
        step = match step {
            Err(error) => break Err(error),
            Ok(Step::Done(description)) => break Ok(description),
            Ok(Step::Need(need)) => {
                if let AuthNeed::AccessToken { refused } = &need {
                    needs.push(refused.as_ref().map(|token| token.expose().to_owned()));
                }
                handshake.handle_evidence(evidence.pop().expect("no evidence is left"))
            }
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
    assert!(evidence.is_empty(), "evidence is left");
    assert!(handshake.handle_reply(&rawdoc! { "ok": 1 }).is_err());
    Recorded {
        result,
        sent,
        needs,
    }
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
fn x509_is_sent_again_after_an_unanswered_speculation() {
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

/// A server that replies out of turn, or never finishes, does not get the password again.
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

fn oidc(cached: Option<&str>) -> Handshake {
    let credential = Credential::from_mechanism(AuthMechanism::MongoDbOidc);
    Handshake::new(HandshakeContext {
        access_token: cached.map(Secret::from),
        ..authenticating(credential)
    })
}

fn token(token: &str, is_cached: bool) -> Evidence {
    Evidence::AccessToken {
        token: token.into(),
        is_cached,
    }
}

fn jwt(token: &str) -> RawDocumentBuf {
    let payload = rawdoc! { "jwt": token };
    let payload = bson::Binary {
        subtype: bson::spec::BinarySubtype::Generic,
        bytes: payload.as_bytes().to_vec(),
    };
    rawdoc! { "saslStart": 1, "mechanism": "MONGODB-OIDC", "payload": payload }
}

/// The specification's example: its token, and its bytes.
#[test]
fn oidc_has_one_step() {
    use base64::Engine as _;

    let recorded = replay_with(
        &mut oidc(None),
        &[hello(), done()],
        &mut vec![token("abcd1234", false)],
    );
    let expected = [
        ("admin", rawdoc! { "isMaster": 1 }),
        ("$external", jwt("abcd1234")),
    ];
    assert_sent(&recorded, &expected);
    let payload = recorded.sent[1]
        .1
        .get_binary_generic("payload")
        .expect("bytes");
    let payload = base64::engine::general_purpose::STANDARD.encode(payload);
    assert_eq!(payload, "FwAAAAJqd3QACQAAAGFiY2QxMjM0AAA=");
    assert_eq!(recorded.needs, [None]);
    assert!(recorded.result.is_ok());
}

#[test]
fn oidc_speculates_with_a_token_that_is_kept() {
    let first = rawdoc! { "conversationId": 1, "done": true, "payload": binary("") };
    let mut handshake = oidc(Some("kept"));
    let recorded = replay_with(&mut handshake, &[speculated(first)], &mut Vec::new());
    let mut speculative = jwt("kept");
    speculative.append(cstr!("db"), "$external");
    let hello = rawdoc! { "isMaster": 1, "speculativeAuthenticate": speculative };
    assert_sent(&recorded, &[("admin", hello)]);
    assert!(recorded.result.is_ok());
    assert_eq!(handshake.access_token(), Some(&Secret::from("kept")));
}

/// The failure does not concern the token: it is sent again.
#[test]
fn oidc_continues_after_an_unanswered_speculation() {
    let unfinished = rawdoc! { "conversationId": 1, "done": false, "payload": binary("") };
    for first in [unfinished, rawdoc! {}, refusal(), rawdoc! { "done": "yes" }] {
        let evidence = &mut vec![token("kept", true)];
        let recorded = replay_with(
            &mut oidc(Some("kept")),
            &[speculated(first), done()],
            evidence,
        );
        assert_eq!(recorded.needs, [None]);
        assert_eq!(recorded.sent.len(), 2);
        assert!(recorded.result.is_ok());
    }
}

#[test]
fn oidc_asks_for_another_token_once() {
    let evidence = || vec![token("new", true), token("kept", true)];
    let replies = [hello(), refusal(), done()];
    let recorded = replay_with(&mut oidc(None), &replies, &mut evidence());
    assert_eq!(recorded.needs, [None, Some("kept".to_owned())]);
    assert!(recorded.result.is_ok());
    let replies = [hello(), refusal(), refusal()];
    let refused = error(replay_with(&mut oidc(None), &replies, &mut evidence()));
    assert!(matches!(refused, AuthError::Refused { code: 18, .. }));
    // Not with a new token, and not after another error.
    let replies = [hello(), refusal()];
    let refused = error(replay_with(
        &mut oidc(None),
        &replies,
        &mut vec![token("new", false)],
    ));
    assert!(matches!(refused, AuthError::Refused { code: 18, .. }));
    let replies = [hello(), rawdoc! { "ok": 0, "code": 20 }];
    let refused = error(replay_with(
        &mut oidc(None),
        &replies,
        &mut vec![token("kept", true)],
    ));
    assert!(matches!(refused, AuthError::Refused { code: 20, .. }));
}

#[test]
fn oidc_ends_with_its_only_step() {
    let again = rawdoc! { "ok": 1, "conversationId": 1, "done": false, "payload": binary("") };
    let endless = error(replay_with(
        &mut oidc(None),
        &[hello(), again],
        &mut vec![token("t", true)],
    ));
    assert_eq!(endless, AuthError::NotDone(AuthMechanism::MongoDbOidc));
}

#[test]
fn authenticating_again_needs_no_hello_and_another_token() {
    let mut handshake = oidc(None);
    let recorded = replay_with(
        &mut handshake,
        &[hello(), done()],
        &mut vec![token("old", false)],
    );
    let description = recorded.result.expect("established");
    let credential = handshake.credential().expect("one").clone();
    let nonce = context().nonces.ordinary;
    let step = handshake.reauthenticate(description.clone(), credential, nonce.clone());
    let recorded = go_on(
        &mut handshake,
        step,
        &[done()],
        &mut vec![token("new", false)],
    );
    assert_eq!(recorded.needs, [Some("old".to_owned())]);
    assert_sent(&recorded, &[("$external", jwt("new"))]);
    assert_eq!(handshake.access_token(), Some(&Secret::from("new")));
    let stranger = Credential::from_mechanism(AuthMechanism::MongoDbOidc).with_username("x");
    let step = handshake.reauthenticate(description, Arc::new(stranger), nonce);
    let kind = step.expect_err("another user");
    assert!(matches!(
        kind.kind(),
        ErrorKind::Authentication(AuthError::OtherUser)
    ));
}

#[test]
fn no_token_and_no_key_is_shown() {
    let credential = Credential::from_mechanism(AuthMechanism::MongoDbOidc);
    let context = HandshakeContext {
        access_token: Some("MARKED".into()),
        ..authenticating(credential)
    };
    let mut handshake = Handshake::new(context.clone());
    let step = handshake.start().expect("begun");
    let need = AuthNeed::AccessToken {
        refused: Some("MARKED".into()),
    };
    let keys = crate::auth::AwsCredentials::new("AKID", "MARKED").with_session_token("MARKED");
    let evidence = Evidence::AwsCredentials {
        credentials: keys,
        now: std::time::SystemTime::UNIX_EPOCH,
    };
    let evidence = [evidence, token("MARKED", true)];
    let text = format!("{context:?} {handshake:?} {step:?} {need:?} {evidence:?}");
    assert!(text.contains("AKID") && !text.contains("MARKED"), "{text}");
}
