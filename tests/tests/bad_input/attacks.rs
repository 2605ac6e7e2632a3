//! Attacks of a hostile or broken server on a client, and their expected outcomes.

use std::fmt;
use std::time::Duration;

use bson::doc;
use mongo_core::ErrorKind;
use mongo_core::error::Wait;
use mongo_core::handshake::HandshakeError;
use mongo_core::wire::WireError;
use mongo_testkit::{Action, Checksum, Cut, Matcher, Rule, payload};

use crate::{authentication, compressed, floods, plain};

/// A user whose password must not appear anywhere.
pub(crate) const USER: &str = "mallory";
pub(crate) const PASSWORD: &str = "s3cr3t/marked";

/// The default of `connectTimeoutMS`.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const COMMAND_TIMEOUT: Duration = Duration::from_secs(3);

/// The phase of the attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// In the reply to the first hello.
    Hello,
    /// During authentication.
    Authentication,
    /// In the reply to a command, on a connection in use.
    Command,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hello => "hello",
            Self::Authentication => "authentication",
            Self::Command => "command",
        })
    }
}

/// One attack.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) moment: Moment,
    pub(crate) rule: Rule,
    pub(crate) expected: &'static str,
    pub(crate) fits: fn(&ErrorKind) -> bool,
    /// Additional options of the client's connection string.
    pub(crate) option: &'static str,
}

impl Attack {
    /// Whether only a deadline ends the attack.
    pub(crate) fn is_waited_out(&self) -> bool {
        self.expected.contains("Timeout")
    }

    /// The time of that deadline.
    pub(crate) fn bound(&self) -> Duration {
        match self.moment {
            Moment::Hello | Moment::Authentication => CONNECT_TIMEOUT,
            Moment::Command => COMMAND_TIMEOUT,
        }
    }

    /// Whether the client authenticates. It does not if the attack comes before authentication, so
    /// that nothing else can stop the attack.
    pub(crate) fn with_user(&self) -> bool {
        self.moment == Moment::Authentication
    }
}

/// A pattern, as text and as predicate.
macro_rules! kind {
    ($($pattern:tt)+) => {
        (stringify!($($pattern)+), |kind| matches!(kind, $($pattern)+))
    };
}
pub(crate) use kind;

pub(crate) type Expected = (&'static str, fn(&ErrorKind) -> bool);

/// All attacks. Attacks on the wire protocol come twice: in the reply to the hello, and in the
/// reply to a command.
pub(crate) fn all() -> Vec<Attack> {
    let hello = wire(Moment::Hello, Matcher::hello);
    let command = wire(Moment::Command, || Matcher::command("ping"));
    hello
        .into_iter()
        .chain(of_hello())
        .chain(floods::of_handshakes())
        .chain(authentication::all())
        .chain(plain::all())
        .chain(command)
        .collect()
}

pub(crate) fn attack(name: &'static str, moment: Moment, rule: Rule, expected: Expected) -> Attack {
    let (expected, fits) = expected;
    Attack {
        name,
        moment,
        rule,
        expected,
        fits,
        option: "",
    }
}

fn wire(moment: Moment, matcher: fn() -> Matcher) -> Vec<Attack> {
    let mut attacks = lengths(moment, matcher);
    attacks.extend(contents(moment, matcher));
    attacks.extend(silences(moment, matcher));
    attacks.extend(compressed::all(moment, matcher));
    attacks
}

/// Wrong lengths.
fn lengths(moment: Moment, matcher: fn() -> Matcher) -> Vec<Attack> {
    let with = |action| matcher().then(action);
    // The header of a message that never arrives.
    let header = |length| header(length, 2013);
    let claimed = |length| with(Action::Raw(header(length))).then(Action::Hang);
    vec![
        attack(
            "length of 2 GB",
            moment,
            claimed(i32::MAX),
            kind!(ErrorKind::Protocol(WireError::TooLong { .. })),
        ),
        attack(
            "length over the limit by one",
            moment,
            claimed(48_000_001),
            kind!(ErrorKind::Protocol(WireError::TooLong { .. })),
        ),
        attack(
            "negative length",
            moment,
            with(Action::Length(-1)),
            kind!(ErrorKind::Protocol(WireError::TooShort(-1))),
        ),
        attack(
            "length of 15",
            moment,
            with(Action::Length(15)),
            kind!(ErrorKind::Protocol(WireError::TooShort(15))),
        ),
        attack(
            "length of a header alone",
            moment,
            claimed(16),
            kind!(ErrorKind::Protocol(WireError::Truncated { .. })),
        ),
        attack(
            "document longer than its message",
            moment,
            with(Action::Body(1000_i32.to_le_bytes().to_vec())),
            kind!(ErrorKind::Protocol(WireError::Truncated { .. })),
        ),
        attack(
            "document with a negative length",
            moment,
            with(Action::Body(vec![0xFF; 8])),
            kind!(ErrorKind::Protocol(WireError::Document(0))),
        ),
    ]
}

/// Complete messages with invalid contents.
fn contents(moment: Moment, matcher: fn() -> Matcher) -> Vec<Attack> {
    let with = |action| matcher().then(action);
    let empty = bson::rawdoc! {}.into_bytes();
    let mut two_bodies = bson::rawdoc! { "ok": 1 }.into_bytes();
    two_bodies.push(0);
    two_bodies.extend(bson::rawdoc! { "ok": 1 }.into_bytes());
    let no_ok: Expected = match moment {
        Moment::Hello => kind!(ErrorKind::Handshake(HandshakeError::Field {
            field: "ok",
            ..
        })),
        Moment::Authentication | Moment::Command => kind!(ErrorKind::Protocol(WireError::NoOk)),
    };
    vec![
        attack(
            "20,000-deep document",
            moment,
            with(Action::Body(payload::deep_document(20_000))),
            kind!(ErrorKind::Protocol(WireError::TooDeep(256))),
        ),
        attack(
            "random bytes",
            moment,
            with(Action::Raw(payload::random_bytes(7, 64 * 1024))),
            kind!(ErrorKind::Protocol(_)),
        ),
        attack(
            "random bytes for a document",
            moment,
            with(Action::Body(payload::random_bytes(8, 4096))),
            kind!(ErrorKind::Protocol(_)),
        ),
        attack(
            "wrong responseTo",
            moment,
            with(Action::ResponseTo(77_777)),
            kind!(ErrorKind::Protocol(WireError::ResponseTo {
                got: 77_777,
                ..
            })),
        ),
        attack(
            "two replies",
            moment,
            with(Action::Copies(2)),
            kind!(ErrorKind::Protocol(WireError::Unsolicited(_))),
        ),
        attack(
            "wrong checksum",
            moment,
            with(Action::Checksum(Checksum::Wrong)),
            kind!(ErrorKind::Protocol(WireError::Checksum { .. })),
        ),
        attack(
            "unknown required flag",
            moment,
            with(Action::Flags(1 << 5)),
            kind!(ErrorKind::Protocol(WireError::RequiredFlags(0x20))),
        ),
        attack(
            "unknown operation",
            moment,
            with(Action::Raw(header(16, 9999))).then(Action::Hang),
            kind!(ErrorKind::Protocol(WireError::UnknownOpCode(9999))),
        ),
        attack(
            "compressed without negotiation",
            moment,
            with(Action::Raw(header(16, 2012))).then(Action::Hang),
            kind!(ErrorKind::Protocol(WireError::UnexpectedOpCode(_))),
        ),
        attack(
            "no body section",
            moment,
            with(Action::Raw([header(20, 2013), vec![0; 4]].concat())).then(Action::Hang),
            kind!(ErrorKind::Protocol(WireError::NoBody)),
        ),
        attack(
            "two body sections",
            moment,
            with(Action::Body(two_bodies)),
            kind!(ErrorKind::Protocol(WireError::SeveralBodies)),
        ),
        attack(
            "endless stream of replies",
            moment,
            with(Action::Flags(2)).then(Action::Copies(usize::MAX)),
            kind!(ErrorKind::Protocol(WireError::MoreToCome)),
        ),
        attack("empty document", moment, with(Action::Body(empty)), no_ok),
        attack(
            "reply without ok",
            moment,
            with(Action::Remove("ok".to_owned())),
            no_ok,
        ),
        attack(
            "ok as a string",
            moment,
            with(Action::Merge(doc! { "ok": "yes" })),
            no_ok,
        ),
    ]
}

/// Incomplete, slow and missing replies.
fn silences(moment: Moment, matcher: fn() -> Matcher) -> Vec<Attack> {
    let closed: Expected = kind!(ErrorKind::Network(_));
    let waited_out: Expected = match moment {
        Moment::Hello | Moment::Authentication => kind!(ErrorKind::Timeout {
            wait: Wait::Handshake,
            ..
        }),
        Moment::Command => kind!(ErrorKind::Timeout {
            wait: Wait::Command,
            ..
        }),
    };
    // Almost the longest allowed message.
    let announced = match moment {
        Moment::Hello | Moment::Authentication => ("1 MB announced, 4 KB sent", 1_000_000),
        Moment::Command => ("47 MB announced, 4 KB sent", 47_000_000),
    };
    let half = || matcher().then(Action::Keep(Cut::Half));
    vec![
        attack(
            "half a message, then closed",
            moment,
            half().then(Action::Close),
            closed,
        ),
        attack(
            "half a message, then a reset",
            moment,
            half().then(Action::Reset),
            closed,
        ),
        attack("the end", moment, matcher().drop_connection(), closed),
        attack(
            "half a message, then no more",
            moment,
            half().then(Action::Hang),
            waited_out,
        ),
        attack(
            announced.0,
            moment,
            matcher()
                .then(Action::Raw(
                    [header(announced.1, 2013), vec![0; 4096]].concat(),
                ))
                .then(Action::Hang),
            waited_out,
        ),
        attack(
            "one byte a second",
            moment,
            matcher().then(Action::byte_per_second()),
            waited_out,
        ),
        attack("no reply", moment, matcher().never_answer(), waited_out),
    ]
}

fn of_hello() -> Vec<Attack> {
    let hello = |name, fields, expected| {
        let rule = Matcher::hello().then(Action::Merge(fields));
        attack(name, Moment::Hello, rule, expected)
    };
    vec![
        hello(
            "messages of one byte",
            doc! { "maxMessageSizeBytes": 1 },
            kind!(ErrorKind::Handshake(HandshakeError::TooSmall {
                field: "maxMessageSizeBytes",
                ..
            })),
        ),
        hello(
            "a server that is too old",
            doc! { "maxWireVersion": 2 },
            kind!(ErrorKind::Handshake(HandshakeError::ServerTooOld {
                reported: 2
            })),
        ),
        hello(
            "a server that is too new",
            doc! { "minWireVersion": 1000, "maxWireVersion": 1001 },
            kind!(ErrorKind::Handshake(HandshakeError::ServerTooNew {
                required: 1000
            })),
        ),
        hello(
            "a refused hello",
            doc! { "ok": 0, "errmsg": "go away", "code": 17 },
            kind!(ErrorKind::Handshake(HandshakeError::Refused {
                code: 17,
                ..
            })),
        ),
        attack(
            "no reply after accepting",
            Moment::Hello,
            Matcher::accept().then(Action::Hang),
            kind!(ErrorKind::Timeout {
                wait: Wait::Handshake,
                ..
            }),
        ),
        attack(
            "closed after accepting",
            Moment::Hello,
            Matcher::accept().then(Action::Close),
            kind!(ErrorKind::Network(_)),
        ),
    ]
}

/// A message header.
pub(crate) fn header(length: i32, op_code: i32) -> Vec<u8> {
    [length, 1, 1, op_code]
        .into_iter()
        .flat_map(i32::to_le_bytes)
        .collect()
}
