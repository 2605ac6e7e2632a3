//! Attacks during authentication.

use bson::doc;
use mongo_core::ErrorKind;
use mongo_core::auth::{AuthError, ScramError};
use mongo_core::error::Wait;
use mongo_core::wire::WireError;
use mongo_testkit::{Action, Matcher, ScramAttack, payload};

use crate::attacks::{Attack, Moment, attack, kind};

pub(crate) fn all() -> Vec<Attack> {
    let mut attacks = of_scram();
    attacks.extend(of_any_mechanism());
    attacks
}

/// A pattern for a SCRAM error.
macro_rules! scram {
    ($($pattern:tt)+) => {
        kind!(ErrorKind::Authentication(AuthError::Scram { error: $($pattern)+, .. }))
    };
}

fn of_scram() -> Vec<Attack> {
    let scram = |name, what, expected| {
        let rule = Matcher::scram().then(Action::Scram(what));
        attack(name, Moment::Authentication, rule, expected)
    };
    let first = |text: &str| ScramAttack::FirstMessage(text.to_owned());
    vec![
        scram(
            "short nonce",
            ScramAttack::ShortNonce,
            scram!(ScramError::Nonce),
        ),
        scram(
            "bare nonce",
            ScramAttack::BareNonce,
            scram!(ScramError::Nonce),
        ),
        scram(
            "another nonce",
            ScramAttack::ForeignNonce,
            scram!(ScramError::Nonce),
        ),
        scram(
            "4294967295 iterations",
            ScramAttack::Iterations(4_294_967_295),
            scram!(ScramError::TooManyIterations(4_294_967_295)),
        ),
        scram(
            "one iteration too many",
            ScramAttack::Iterations(2_000_001),
            scram!(ScramError::TooManyIterations(2_000_001)),
        ),
        scram(
            "1 iteration",
            ScramAttack::Iterations(1),
            scram!(ScramError::TooFewIterations(1)),
        ),
        scram(
            "one iteration too few",
            ScramAttack::Iterations(4095),
            scram!(ScramError::TooFewIterations(4095)),
        ),
        scram(
            "extension",
            first("m=x,r=a,s=YQ==,i=4096"),
            scram!(ScramError::MandatoryExtension),
        ),
        scram(
            "no first message",
            first(""),
            scram!(ScramError::Empty { .. }),
        ),
        scram(
            "first message of 64 KB",
            first(&"r".repeat(64 * 1024)),
            scram!(ScramError::TooLong { .. }),
        ),
        scram(
            "no signature",
            ScramAttack::NoSignature,
            scram!(ScramError::Empty { .. }),
        ),
        scram(
            "another attribute instead of the signature",
            ScramAttack::LastMessage("x=YQ==".to_owned()),
            scram!(ScramError::NoSignature),
        ),
        scram(
            "wrong signature",
            ScramAttack::WrongSignature,
            scram!(ScramError::Signature),
        ),
        scram(
            "done before the proof",
            ScramAttack::DoneTooEarly,
            scram!(ScramError::DoneTooEarly),
        ),
        scram(
            "never done",
            ScramAttack::NeverDone,
            scram!(ScramError::NotDone),
        ),
        scram(
            "SCRAM error attribute",
            ScramAttack::LastMessage("e=other-error".to_owned()),
            scram!(ScramError::Server(_)),
        ),
    ]
}

fn of_any_mechanism() -> Vec<Attack> {
    let moment = Moment::Authentication;
    let proof = || Matcher::command("saslContinue");
    vec![
        attack(
            "deep reply to the proof",
            moment,
            proof().then(Action::Body(payload::deep_document(20_000))),
            kind!(ErrorKind::Protocol(WireError::TooDeep(256))),
        ),
        attack(
            "no reply to the proof",
            moment,
            proof().never_answer(),
            kind!(ErrorKind::Timeout {
                wait: Wait::Authentication,
                ..
            }),
        ),
        attack(
            "closed instead of a reply to the proof",
            moment,
            proof().drop_connection(),
            kind!(ErrorKind::Network(_)),
        ),
        attack(
            "bare ok in reply to the proof",
            moment,
            proof().then(Action::Reply(doc! { "ok": 1 })),
            kind!(ErrorKind::Authentication(AuthError::Reply { .. })),
        ),
        attack(
            "another conversation",
            moment,
            proof().then(Action::Merge(doc! { "conversationId": 2 })),
            kind!(ErrorKind::Authentication(AuthError::ConversationId(_))),
        ),
        attack(
            "an arbiter",
            moment,
            Matcher::hello().then(Action::Merge(doc! { "arbiterOnly": true, "setName": "x" })),
            kind!(ErrorKind::Authentication(AuthError::Arbiter)),
        ),
    ]
}
