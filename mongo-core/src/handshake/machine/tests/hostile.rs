//! A scripted server that lies, in the speculative conversation and in an ordinary one.

use bson::rawdoc;

use super::scripted::{Edit, EditReply, Outcome, Server, binary};
use super::*;

/// Runs the same lie in the speculative conversation and in an ordinary one.
fn both_ways(lie: impl Fn(&mut Server), check: impl Fn(Outcome)) {
    for speculates in [true, false] {
        let mut server = Server {
            speculates,
            ..Server::default()
        };
        lie(&mut server);
        check(server.establish(authenticating(user("pencil"))));
    }
}

#[test]
fn a_hostile_challenge_is_refused_before_anything_is_derived() {
    let message = "server-first-message";
    let cases: [(Edit, ScramError); 11] = [
        (|text| text.replace("%SERVER", ""), ScramError::Nonce),
        (|text| text.replacen("r=", "r=x", 1), ScramError::Nonce),
        (|_| "r=,s=AQI=,i=4096".to_owned(), ScramError::Nonce),
        (
            |text| text.replace("i=4096", "i=4294967295"),
            ScramError::TooManyIterations(4_294_967_295),
        ),
        (
            |text| text.replace("i=4096", "i=1"),
            ScramError::TooFewIterations(1),
        ),
        (|_| String::new(), ScramError::Empty { message }),
        (
            |text| text.replace("s=", &format!("s={}", "AAAA".repeat(200))),
            ScramError::SaltLength(616),
        ),
        (
            |text| text + &"x".repeat(100_000),
            ScramError::TooLong {
                message,
                length: 100_052,
            },
        ),
        (|text| format!("m=x,{text}"), ScramError::MandatoryExtension),
        (
            |_| "e=other-error".to_owned(),
            ScramError::Server("other-error".to_owned()),
        ),
        (
            |text| text.replace(",s=", ",x="),
            ScramError::Malformed {
                message,
                expected: "a salt (s=)",
            },
        ),
    ];
    for (edit, expected) in cases {
        both_ways(
            |server| server.server_first = edit,
            |outcome| {
                assert_eq!(outcome.derived, 0, "{expected:?}");
                match (auth_error(outcome), &expected) {
                    // The two nonces have different lengths.
                    (
                        AuthError::Scram {
                            error: ScramError::TooLong { .. },
                            ..
                        },
                        ScramError::TooLong { .. },
                    ) => {}
                    (error, expected) => assert_eq!(error, sha_256(expected.clone())),
                }
            },
        );
    }
}

#[test]
fn a_server_without_the_password_is_found_out() {
    let message = "server-final-message";
    let cases: [(Edit, ScramError); 5] = [
        (|_| "v=AAAA".to_owned(), ScramError::Signature),
        (|text| text.replace("v=", "x="), ScramError::NoSignature),
        (|_| String::new(), ScramError::Empty { message }),
        (
            |_| "e=invalid-proof".to_owned(),
            ScramError::Server("invalid-proof".to_owned()),
        ),
        (
            |text| text + "!",
            ScramError::Malformed {
                message,
                expected: "a signature in base64",
            },
        ),
    ];
    for (edit, expected) in cases {
        both_ways(
            |server| server.server_final = edit,
            |outcome| assert_eq!(auth_error(outcome), sha_256(expected.clone())),
        );
    }
}

/// A reply of SCRAM with `fields` replaced.
fn with(reply: &RawDocument, fields: &RawDocument) -> RawDocumentBuf {
    let mut changed = RawDocumentBuf::new();
    for pair in reply {
        let (key, value) = pair.expect("valid");
        match fields.get(key).expect("valid") {
            Some(value) => changed.append(key, value),
            None => changed.append(key, value),
        }
    }
    changed
}

#[test]
fn the_conversation_ends_when_it_must() {
    // Done before the challenge is answered.
    both_ways(
        |server| server.reply = |_, reply| with(&reply, &rawdoc! { "done": true }),
        |outcome| {
            assert_eq!(outcome.derived, 0);
            assert_eq!(auth_error(outcome), sha_256(ScramError::DoneTooEarly));
        },
    );
    // Done after the client's proof, without the server's.
    let lie = |index, reply: RawDocumentBuf| match index {
        0 => reply,
        _ => with(&reply, &rawdoc! { "payload": binary("") }),
    };
    both_ways(
        |server| server.reply = lie,
        |outcome| {
            let message = "server-final-message";
            assert_eq!(auth_error(outcome), sha_256(ScramError::Empty { message }));
        },
    );
    // Never done.
    both_ways(
        |server| {
            server.skips_empty_exchange = false;
            server.reply = |_, reply| with(&reply, &rawdoc! { "done": false });
        },
        |outcome| assert_eq!(auth_error(outcome), sha_256(ScramError::NotDone)),
    );
}

#[test]
fn replies_that_are_none_name_the_field() {
    let mechanism = AuthMechanism::ScramSha256;
    let cases: [(EditReply, AuthError); 6] = [
        (
            |_, reply| with(&reply, &rawdoc! { "payload": "text" }),
            AuthError::Reply {
                mechanism,
                field: "payload",
            },
        ),
        (
            |_, reply| with(&reply, &rawdoc! { "done": 1 }),
            AuthError::Reply {
                mechanism,
                field: "done",
            },
        ),
        (
            |_, reply| with(&reply, &rawdoc! { "conversationId": "1" }),
            AuthError::Reply {
                mechanism,
                field: "conversationId",
            },
        ),
        (
            |_, reply| with(&reply, &rawdoc! { "conversationId": 1.5 }),
            AuthError::Reply {
                mechanism,
                field: "conversationId",
            },
        ),
        (
            |index, reply| with(&reply, &rawdoc! { "conversationId": index as i32 + 1 }),
            AuthError::ConversationId(mechanism),
        ),
        (
            |index, reply| match index {
                0 => reply,
                _ => with(&reply, &rawdoc! { "ok": "x" }),
            },
            AuthError::Reply {
                mechanism,
                field: "ok",
            },
        ),
    ];
    for (lie, expected) in cases {
        both_ways(
            |server| server.reply = lie,
            |outcome| assert_eq!(auth_error(outcome), expected),
        );
    }
}

#[test]
fn the_conversation_id_goes_back_as_it_came() {
    let replies: [(EditReply, RawDocumentBuf); 2] = [
        (
            |_, reply| with(&reply, &rawdoc! { "conversationId": 5_000_000_000_i64 }),
            rawdoc! { "conversationId": 5_000_000_000_i64 },
        ),
        (
            |_, reply| with(&reply, &rawdoc! { "conversationId": 3.0 }),
            rawdoc! { "conversationId": 3.0 },
        ),
    ];
    for (edit, expected) in replies {
        both_ways(
            |server| server.reply = edit,
            |outcome| {
                assert_eq!(by(&outcome), Some(AuthMechanism::ScramSha256));
                let last = &outcome.sent.last().expect("sent").command;
                let id = last.get("conversationId").expect("valid");
                assert_eq!(id, expected.get("conversationId").expect("valid"));
            },
        );
    }
}
