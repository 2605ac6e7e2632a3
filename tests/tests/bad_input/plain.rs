//! Attacks on PLAIN, as an example of mechanisms with one message.

use bson::doc;
use mongo_core::ErrorKind;
use mongo_core::auth::AuthError;
use mongo_core::error::Wait;
use mongo_core::wire::WireError;
use mongo_testkit::{Action, ErrorReply, Matcher, Rule, payload};

use crate::attacks::{Attack, Expected, Moment, attack, kind};

const OPTION: &str = "&authMechanism=PLAIN&authSource=$external";

fn plain(name: &'static str, rule: Rule, expected: Expected) -> Attack {
    Attack {
        option: OPTION,
        ..attack(name, Moment::Authentication, rule, expected)
    }
}

pub(crate) fn all() -> Vec<Attack> {
    let only = || Matcher::command("saslStart");
    let with = |action| only().then(action);
    let reply = || -> Expected { kind!(ErrorKind::Authentication(AuthError::Reply { .. })) };
    let long = ErrorReply::new(18, "AuthenticationFailed", &"no ".repeat(40_000));
    vec![
        plain(
            "PLAIN that is never done",
            with(Action::Merge(doc! { "done": false })),
            kind!(ErrorKind::Authentication(AuthError::NotDone(_))),
        ),
        plain(
            "bare ok in reply to PLAIN",
            with(Action::Reply(doc! { "ok": 1 })),
            reply(),
        ),
        plain(
            "an empty reply to PLAIN",
            with(Action::Reply(doc! {})),
            reply(),
        ),
        plain(
            "PLAIN without a payload",
            with(Action::Remove("payload".to_owned())),
            reply(),
        ),
        plain(
            "PLAIN refused with a long message",
            with(Action::Error(long)),
            kind!(ErrorKind::Authentication(AuthError::Refused { message, .. }) if message.len() <= 1024),
        ),
        plain(
            "deep reply to PLAIN",
            with(Action::Body(payload::deep_document(20_000))),
            kind!(ErrorKind::Protocol(WireError::TooDeep(256))),
        ),
        plain(
            "no reply to PLAIN",
            only().never_answer(),
            kind!(ErrorKind::Timeout {
                wait: Wait::Authentication,
                ..
            }),
        ),
    ]
}
