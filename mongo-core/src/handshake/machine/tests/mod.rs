//! Handshakes with the scripted server: honest, old and unusual. See `hostile` for a lying one.

mod external;
mod hostile;
mod scripted;

use bson::rawdoc;

use super::super::{ServerApi, ServerApiVersion};
use super::*;
use crate::auth::{CredentialError, KeyDerivation, ScramError, ScramMechanism};
use crate::error::ErrorKind;
use scripted::{Outcome, Server, binary, context};

fn user(password: &str) -> Credential {
    Credential::new("user", password)
}

fn authenticating(credential: Credential) -> HandshakeContext {
    HandshakeContext {
        credential: Some(Arc::new(credential)),
        ..context()
    }
}

fn by(outcome: &Outcome) -> Option<AuthMechanism> {
    let description = outcome.result.as_ref().expect("established");
    description.authenticated
}

fn auth_error(outcome: Outcome) -> AuthError {
    match outcome.result.expect_err("refused").kind() {
        ErrorKind::Authentication(error) => error.clone(),
        other => panic!("{other:?}"),
    }
}

fn sha_256(error: ScramError) -> AuthError {
    AuthError::Scram {
        mechanism: ScramMechanism::Sha256,
        error,
    }
}

#[test]
fn without_a_credential_the_legacy_hello_is_all() {
    let outcome = Server::default().establish(context());
    assert_eq!(by(&outcome), None);
    assert_eq!(outcome.names(), ["isMaster"]);
    let expected = rawdoc! {
        "isMaster": 1, "helloOk": true, "backpressure": "2",
        "client": { "driver": { "name": "x" } }, "compression": [],
    };
    assert_eq!(outcome.sent[0].command, expected);
    assert_eq!(outcome.sent[0].op, RequestOp::Msg);
    assert_eq!(&*outcome.sent[0].database, "admin");
    assert!(!outcome.was_authenticating);
    assert!(outcome.result.expect("established").hello_ok);
}

#[test]
fn the_stable_api_and_a_load_balancer_need_hello() {
    let api = HandshakeContext {
        server_api: Some(ServerApi::new(ServerApiVersion::V1)),
        legacy_op_query: true,
        ..authenticating(user("pencil"))
    };
    let outcome = Server::default().establish(api);
    assert_eq!(outcome.names(), ["hello", "saslContinue"]);
    for sent in &outcome.sent {
        assert_eq!(sent.op, RequestOp::Msg);
        assert_eq!(sent.command.get_str("apiVersion").ok(), Some("1"));
    }
    let balanced = HandshakeContext {
        load_balanced: true,
        ..context()
    };
    let outcome = Server::default().establish(balanced);
    assert_eq!(
        outcome.sent[0].command.get_bool("loadBalanced").ok(),
        Some(true)
    );
    assert_eq!(outcome.names(), ["hello"]);
    let error = outcome.result.expect_err("no service");
    let kind = error.kind();
    assert!(matches!(
        kind,
        ErrorKind::Handshake(HandshakeError::NotLoadBalanced)
    ));
}

#[test]
fn an_old_server_can_be_asked_by_op_query() {
    let old = HandshakeContext {
        legacy_op_query: true,
        ..authenticating(user("pencil"))
    };
    let outcome = Server::default().establish(old);
    let ops: Vec<RequestOp> = outcome.sent.iter().map(|sent| sent.op).collect();
    assert_eq!(ops, [RequestOp::Query, RequestOp::Msg]);
}

/// Prose test 9 of the metadata updates.
#[test]
fn update_prose_9_every_handshake_has_backpressure_2() {
    let api = Some(ServerApi::new(ServerApiVersion::V1));
    for (server_api, load_balanced) in [(None, false), (api, false), (None, true)] {
        for credential in [None, Some(Arc::new(user("pencil")))] {
            let outcome = Server::default().establish(HandshakeContext {
                credential,
                server_api,
                load_balanced,
                ..context()
            });
            assert_eq!(
                outcome.sent[0].command.get_str("backpressure").ok(),
                Some("2")
            );
        }
    }
}

/// Prose test 2 of the handshake.
#[test]
fn prose_2_an_arbitrary_mechanism_is_no_error() {
    let mut server = Server {
        mechanisms: Some(vec!["SomethingNew", "SCRAM-SHA-256"]),
        ..Server::default()
    };
    let outcome = server.establish(authenticating(user("pencil")));
    assert_eq!(by(&outcome), Some(AuthMechanism::ScramSha256));
    server.mechanisms = Some(vec!["SomethingNew"]);
    let outcome = server.establish(authenticating(user("pencil")));
    assert_eq!(by(&outcome), Some(AuthMechanism::ScramSha1));
}

#[test]
fn speculation_saves_a_round_trip() {
    let outcome = Server::default().establish(authenticating(user("pencil")));
    assert_eq!(by(&outcome), Some(AuthMechanism::ScramSha256));
    assert_eq!(outcome.names(), ["isMaster", "saslContinue"]);
    assert_eq!(outcome.derived, 1);
    assert!(outcome.was_authenticating);
    let hello = &outcome.sent[0].command;
    assert_eq!(hello.get_str("saslSupportedMechs").ok(), Some("admin.user"));
    let expected = rawdoc! {
        "saslStart": 1, "mechanism": "SCRAM-SHA-256",
        "payload": binary("n,,n=user,r=speculative"),
        "options": { "skipEmptyExchange": true }, "db": "admin",
    };
    let speculative = hello.get_document("speculativeAuthenticate").expect("sent");
    assert_eq!(speculative, &*expected);
}

#[test]
fn an_ordinary_conversation_has_a_nonce_of_its_own() {
    let mut server = Server {
        speculates: false,
        ..Server::default()
    };
    let credential = user("pencil").with_source("accounts");
    let outcome = server.establish(authenticating(credential));
    assert_eq!(by(&outcome), Some(AuthMechanism::ScramSha256));
    assert_eq!(outcome.names(), ["isMaster", "saslStart", "saslContinue"]);
    let databases: Vec<&str> = outcome.sent.iter().map(|sent| &*sent.database).collect();
    assert_eq!(databases, ["admin", "accounts", "accounts"]);
    let expected = rawdoc! {
        "saslStart": 1, "mechanism": "SCRAM-SHA-256",
        "payload": binary("n,,n=user,r=ordinary"),
        "options": { "skipEmptyExchange": true },
    };
    assert_eq!(outcome.sent[1].command, expected);
    assert_eq!(
        outcome.sent[2].command.get_i32("saslContinue").ok(),
        Some(1)
    );
}

#[test]
fn the_default_mechanism_is_negotiated() {
    for (mechanisms, expected) in [
        (Some(vec![]), AuthMechanism::ScramSha1),
        (Some(vec!["SCRAM-SHA-1"]), AuthMechanism::ScramSha1),
        (Some(vec!["PLAIN"]), AuthMechanism::ScramSha1),
        (Some(vec!["SCRAM-SHA-256"]), AuthMechanism::ScramSha256),
    ] {
        // Even if the speculative authentication succeeded with another mechanism.
        for speculates in [true, false] {
            let mut server = Server {
                mechanisms: mechanisms.clone(),
                speculates,
                ..Server::default()
            };
            let outcome = server.establish(authenticating(user("pencil")));
            assert_eq!(by(&outcome), Some(expected), "{mechanisms:?}");
        }
    }
}

#[test]
fn an_answered_speculation_continues_without_a_list_of_mechanisms() {
    for list in [
        rawdoc! {},
        rawdoc! { "saslSupportedMechs": "SCRAM-SHA-1" },
        rawdoc! { "saslSupportedMechs": null },
    ] {
        for (speculates, expected, names) in [
            (
                true,
                AuthMechanism::ScramSha256,
                &["isMaster", "saslContinue"][..],
            ),
            (
                false,
                AuthMechanism::ScramSha1,
                &["isMaster", "saslStart", "saslContinue"],
            ),
        ] {
            let mut hello = rawdoc! { "helloOk": true, "minWireVersion": 0, "maxWireVersion": 25 };
            for pair in &list {
                let (key, value) = pair.expect("valid");
                hello.append(key, value);
            }
            let mut server = Server {
                mechanisms: None,
                hello,
                speculates,
                ..Server::default()
            };
            let outcome = server.establish(authenticating(user("pencil")));
            assert_eq!(by(&outcome), Some(expected), "{list:?}");
            assert_eq!(outcome.names(), names, "{list:?}");
        }
    }
}

#[test]
fn a_given_mechanism_is_not_negotiated() {
    for mechanism in [AuthMechanism::ScramSha1, AuthMechanism::ScramSha256] {
        let mut server = Server {
            mechanisms: Some(vec![]),
            ..Server::default()
        };
        let credential = user("pencil").with_mechanism(mechanism);
        let outcome = server.establish(authenticating(credential));
        assert_eq!(by(&outcome), Some(mechanism));
        assert_eq!(outcome.names(), ["isMaster", "saslContinue"]);
        let hello = &outcome.sent[0].command;
        assert!(hello.get("saslSupportedMechs").expect("valid").is_none());
        // A user with only the other one is refused.
        let mut server = Server {
            scram: vec!["none"],
            ..server
        };
        let credential = user("pencil").with_mechanism(mechanism);
        let refused = auth_error(server.establish(authenticating(credential)));
        assert!(matches!(refused, AuthError::Refused { code: 18, .. }));
    }
}

#[test]
fn servers_before_4_4_need_one_exchange_more() {
    for speculates in [true, false] {
        let mut server = Server {
            speculates,
            skips_empty_exchange: false,
            ..Server::default()
        };
        let outcome = server.establish(authenticating(user("pencil")));
        assert_eq!(by(&outcome), Some(AuthMechanism::ScramSha256));
        let last = &outcome.sent.last().expect("sent").command;
        let expected = rawdoc! {
            "saslContinue": 1, "conversationId": 1, "payload": binary("")
        };
        assert_eq!(*last, expected);
    }
}

#[test]
fn names_are_escaped_for_scram_and_raw_for_the_negotiation() {
    let mut server = Server {
        user: "a=2Cb=3Dc\u{2168}",
        ..Server::default()
    };
    let credential = Credential::new("a,b=c\u{2168}", "pencil");
    let credential = credential.with_mechanism(AuthMechanism::ScramSha256);
    let outcome = server.establish(authenticating(credential));
    assert_eq!(by(&outcome), Some(AuthMechanism::ScramSha256));
    let credential = Credential::new("a,b=c\u{2168}", "pencil");
    let outcome = server.establish(authenticating(credential));
    let hello = &outcome.sent[0].command;
    assert_eq!(
        hello.get_str("saslSupportedMechs").ok(),
        Some("admin.a,b=c\u{2168}")
    );
}

/// Step 4 of the authentication specification's plan: SASLprep is for passwords only.
#[test]
fn passwords_are_prepared() {
    for (name, stored, given) in [
        ("IX", "IX", ["IX", "I\u{ad}X"]),
        ("\u{2168}", "IV", ["IV", "I\u{ad}V"]),
    ] {
        for password in given {
            let mut server = Server {
                user: name,
                password: stored,
                mechanisms: Some(vec!["SCRAM-SHA-256"]),
                ..Server::default()
            };
            let outcome = server.establish(authenticating(Credential::new(name, password)));
            assert_eq!(by(&outcome), Some(AuthMechanism::ScramSha256));
        }
    }
    // A password that SASLprep forbids is valid without SCRAM-SHA-256.
    let mut server = Server {
        password: "a\u{7}",
        ..Server::default()
    };
    let refused = auth_error(server.establish(authenticating(user("a\u{7}"))));
    assert_eq!(refused, sha_256(ScramError::Password));
    server.mechanisms = Some(vec!["SCRAM-SHA-1"]);
    server.scram = vec!["SCRAM-SHA-1"];
    let outcome = server.establish(authenticating(user("a\u{7}")));
    assert_eq!(by(&outcome), Some(AuthMechanism::ScramSha1));
}

#[test]
fn a_refusal_keeps_the_servers_code_text_and_labels() {
    for speculates in [true, false] {
        let mut server = Server {
            speculates,
            ..Server::default()
        };
        let outcome = server.establish(authenticating(user("MARKED")));
        let error = outcome.result.as_ref().expect_err("refused").clone();
        assert!(error.is_authentication() && error.has_label("HandshakeError"));
        let text = format!("{error} {error:?}");
        assert!(
            !text.contains("MARKED") && text.contains("SCRAM-SHA-256"),
            "{text}"
        );
        let expected = AuthError::Refused {
            mechanism: AuthMechanism::ScramSha256,
            code: 18,
            code_name: "AuthenticationFailed".to_owned(),
            message: "Authentication failed.".to_owned(),
            labels: vec!["HandshakeError".to_owned()],
        };
        assert_eq!(auth_error(outcome), expected);
    }
}

#[test]
fn a_hello_that_is_refused_over_the_user_is_an_authentication_error() {
    let refused = |code: i32, credential: Option<Credential>| {
        let mut server = Server {
            hello: rawdoc! { "ok": 0, "code": code, "errmsg": "no" },
            ..Server::default()
        };
        let credential = credential.map(Arc::new);
        let outcome = server.establish(HandshakeContext {
            credential,
            ..context()
        });
        outcome.result.expect_err("refused")
    };
    assert!(refused(18, Some(user("pencil"))).is_authentication());
    assert!(refused(11, Some(user("pencil"))).is_authentication());
    for error in [refused(18, None), refused(91, Some(user("pencil")))] {
        let kind = error.kind();
        assert!(matches!(
            kind,
            ErrorKind::Handshake(HandshakeError::Refused { .. })
        ));
    }
}

#[test]
fn an_arbiter_gets_no_authentication() {
    let mut server = Server {
        hello: rawdoc! { "setName": "rs0", "arbiterOnly": true, "maxWireVersion": 25 },
        ..Server::default()
    };
    let outcome = server.establish(authenticating(user("pencil")));
    assert_eq!(by(&outcome), None);
    assert_eq!((outcome.names().len(), outcome.derived), (1, 0));
}

#[test]
fn a_credential_that_can_not_be_used_sends_nothing() {
    let outcome = Server::default().establish(authenticating(Credential::default()));
    assert!(outcome.sent.is_empty());
    let expected = AuthError::Credential(CredentialError::UsernameMissing(None));
    assert_eq!(auth_error(outcome), expected);
    let kerberos = Credential::from_mechanism(AuthMechanism::Gssapi);
    let outcome = Server::default().establish(authenticating(kerberos));
    assert!(outcome.sent.is_empty());
    let expected = AuthError::UnsupportedMechanism(AuthMechanism::Gssapi);
    assert_eq!(auth_error(outcome), expected);
}

#[test]
fn steps_out_of_order_are_errors() {
    let mut server = Handshake::new(context());
    assert!(server.handle_reply(&rawdoc! { "ok": 1 }).is_err());
    assert!(server.start().is_err(), "an error is the end");
    // Keys that were not requested.
    let keys = derivation().run();
    let mut handshake = Handshake::new(authenticating(user("pencil")));
    handshake.start().expect("begun");
    let error = handshake
        .handle_evidence(Evidence::ScramKeys(keys))
        .expect_err("none asked for");
    let kind = error.kind();
    assert!(matches!(
        kind,
        ErrorKind::Handshake(HandshakeError::OutOfOrder)
    ));
}

/// A derivation from a server's challenge.
fn derivation() -> KeyDerivation {
    let mut handshake = Handshake::new(authenticating(user("pencil")));
    handshake.start().expect("begun");
    let reply = rawdoc! {
        "ok": 1, "maxWireVersion": 25, "saslSupportedMechs": ["SCRAM-SHA-256"],
        "speculativeAuthenticate": {
            "conversationId": 1, "done": false,
            "payload": binary("r=speculativeX,s=AQI=,i=4096"),
        },
    };
    match handshake.handle_reply(&reply) {
        Ok(Step::Need(AuthNeed::ScramKeys(derivation))) => derivation,
        other => panic!("{other:?}"),
    }
}

#[test]
fn cached_keys_serve_the_next_connection() {
    let cache = crate::auth::KeyCache::default();
    let first = derivation();
    assert!(cache.get(&first.key()).is_none());
    cache.insert(first.key(), first.run());
    assert!(cache.get(&derivation().key()).is_some());
}

#[test]
fn debug_of_keys_shows_no_secret() {
    let context = authenticating(user("MARKED"));
    let mut handshake = Handshake::new(context.clone());
    let step = handshake.start().expect("begun");
    let conversation = handshake.speculate(&Arc::new(user("MARKED"))).expect("one");
    let text = format!("{context:?} {handshake:?} {step:?} {conversation:?}");
    for secret in ["MARKED", "speculative\"", "payload", "r=speculative"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}
