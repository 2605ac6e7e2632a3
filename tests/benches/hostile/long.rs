//! Replies in a handshake of about this many bytes, up to the maximum of a message. They are not
//! read.

use bson::rawdoc;
use mongo_core::ErrorKind;
use mongo_core::wire::WireError;
use mongo_testkit::{Action, Matcher};

use crate::attacks::{Attack, Expected, Moment, attack, kind};
use crate::floods::{container, document, elements, nulls, text};

/// Each attack is created when it is needed.
pub(crate) const LONG_HANDSHAKES: [fn(usize) -> Attack; 4] = [
    |length| long_hello("47 MB of nulls", nulls(length / 2)),
    |length| {
        let tags = text("a", b"b").repeat(length / 9);
        long_hello("47 MB of one tag", container(3, "tags", &[tags]))
    },
    |length| {
        let host = text("", b"h:1");
        let hosts = host.repeat(length / host.len());
        long_hello("47 MB of hosts", container(4, "hosts", &[hosts]))
    },
    |length| {
        let done = elements(rawdoc! { "ok": 1, "conversationId": 1, "done": true });
        let reply = Action::Body(document(&[done, nulls(length / 2)]));
        attack(
            "47 MB for the proof",
            Moment::Authentication,
            Matcher::command("saslContinue").then(reply),
            kind!(ErrorKind::Protocol(WireError::TooLong { .. })),
        )
    },
];

fn long_hello(name: &'static str, field: Vec<u8>) -> Attack {
    let ok = elements(rawdoc! { "ok": 1, "maxWireVersion": 21, "setName": "rs" });
    let rule = Matcher::hello().then(Action::Body(document(&[ok, field])));
    let too_long: Expected = kind!(ErrorKind::Protocol(WireError::TooLong { .. }));
    attack(name, Moment::Hello, rule, too_long)
}
