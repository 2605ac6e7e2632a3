//! Replies with excessively many or long elements.
//!
//! In a handshake they are refused by their number of elements, like other attacks. As replies to
//! commands they are valid: they are read in steps, and the fields are found without another walk.

use bson::{RawDocumentBuf, rawdoc};
use mongo_core::ErrorKind;
use mongo_core::wire::WireError;
use mongo_testkit::{Action, Matcher};

use crate::attacks::{Attack, Expected, Moment, attack, header, kind};

/// More elements than a handshake allows, which are 16,384.
const MANY: usize = 20_000;

/// Elements of a document.
pub(crate) fn elements(document: RawDocumentBuf) -> Vec<u8> {
    let bytes = document.as_bytes();
    bytes[4..bytes.len() - 1].to_vec()
}

/// This many nulls without a name, two bytes each.
pub(crate) fn nulls(number: usize) -> Vec<u8> {
    [0x0A, 0].repeat(number)
}

pub(crate) fn document(elements: &[Vec<u8>]) -> Vec<u8> {
    let elements = elements.concat();
    let mut bytes = (elements.len() as i32 + 5).to_le_bytes().to_vec();
    bytes.extend(elements);
    bytes.push(0);
    bytes
}

/// An element of this type, 3 for a document and 4 for an array, with these elements.
pub(crate) fn container(kind: u8, name: &str, elements: &[Vec<u8>]) -> Vec<u8> {
    [&[kind], name.as_bytes(), &[0], &document(elements)].concat()
}

/// A string element.
pub(crate) fn text(name: &str, text: &[u8]) -> Vec<u8> {
    let length = (text.len() as i32 + 1).to_le_bytes();
    [&[2], name.as_bytes(), &[0], &length, text, &[0]].concat()
}

/// Floods in replies to a hello and during authentication.
pub(crate) fn of_handshakes() -> Vec<Attack> {
    let too_many =
        || -> Expected { kind!(ErrorKind::Protocol(WireError::TooManyElements(16_384))) };
    let of_hello = |name, field: Vec<u8>| {
        let ok = elements(rawdoc! { "ok": 1, "maxWireVersion": 21, "setName": "rs" });
        let rule = Matcher::hello().then(Action::Body(document(&[ok, field])));
        attack(name, Moment::Hello, rule, too_many())
    };
    let list = |name, entry: &[u8]| container(4, name, &[entry.repeat(MANY)]);
    let host = text("", b"h:1");
    let mut attacks = vec![
        of_hello("too many nulls", nulls(MANY)),
        of_hello(
            "too many tags with one name",
            container(3, "tags", &[text("a", b"b").repeat(MANY)]),
        ),
        of_hello("too many hosts", list("hosts", &host)),
        of_hello("too many passives", list("passives", &host)),
        of_hello("too many arbiters", list("arbiters", &host)),
        of_hello("too many mechanisms", list("saslSupportedMechs", &host)),
        of_hello("too many compressors", list("compression", &host)),
        of_hello("nested arrays", list("hosts", &container(4, "", &[]))),
        of_hello(
            "a topology version of nulls",
            container(3, "topologyVersion", &[nulls(MANY)]),
        ),
        of_hello(
            "a speculative reply of nulls",
            container(3, "speculativeAuthenticate", &[nulls(MANY)]),
        ),
        of_hello(
            "last writes of nulls",
            container(3, "lastWrite", &[nulls(MANY)]),
        ),
        of_hello("too many labels", list("errorLabels", &host)),
    ];
    let mut sections = document(&[elements(rawdoc! { "ok": 1, "maxWireVersion": 21 })]);
    sections.extend([1, 5, 0, 0, 0, 0].repeat(MANY));
    let rule = Matcher::hello().then(Action::Body(sections));
    attacks.push(attack("too many sections", Moment::Hello, rule, too_many()));
    let too_long = || -> Expected {
        kind!(ErrorKind::Protocol(WireError::TooLong {
            max: 1_048_576,
            ..
        }))
    };
    let long = || Action::Raw(header(1024 * 1024 + 1, 2013));
    attacks.push(attack(
        "more than 1 MiB",
        Moment::Hello,
        Matcher::hello().then(long()).then(Action::Hang),
        too_long(),
    ));
    let proof = || Matcher::command("saslContinue");
    let ok = || elements(rawdoc! { "ok": 1, "conversationId": 1, "done": true });
    attacks.extend([
        attack(
            "nulls in reply to the proof",
            Moment::Authentication,
            proof().then(Action::Body(document(&[ok(), nulls(MANY)]))),
            too_many(),
        ),
        attack(
            "a payload of nulls in reply to the proof",
            Moment::Authentication,
            proof().then(Action::Body(document(&[
                ok(),
                container(3, "payload", &[nulls(MANY)]),
            ]))),
            too_many(),
        ),
        attack(
            "more than 1 MiB in reply to the proof",
            Moment::Authentication,
            proof().then(long()).then(Action::Hang),
            too_long(),
        ),
    ]);
    attacks.extend(of_plain(&ok(), too_many, too_long));
    attacks
}

fn of_plain(ok: &[u8], too_many: fn() -> Expected, too_long: fn() -> Expected) -> Vec<Attack> {
    let plain = |name, rule, expected| Attack {
        option: "&authMechanism=PLAIN&authSource=$external",
        ..attack(name, Moment::Authentication, rule, expected)
    };
    let only = || Matcher::command("saslStart");
    vec![
        plain(
            "nulls in reply to PLAIN",
            only().then(Action::Body(document(&[ok.to_vec(), nulls(MANY)]))),
            too_many(),
        ),
        plain(
            "more than 1 MiB in reply to PLAIN",
            only()
                .then(Action::Raw(header(1024 * 1024 + 1, 2013)))
                .then(Action::Hang),
            too_long(),
        ),
        plain(
            "PLAIN refused with too many labels",
            only().then(Action::Body(document(&[
                elements(rawdoc! { "ok": 0 }),
                container(4, "errorLabels", &[nulls(MANY)]),
            ]))),
            too_many(),
        ),
    ]
}

/// The outcome of a command with this reply.
#[derive(Clone, Copy)]
pub(crate) enum End {
    /// The connection stays usable. A write fails with this code.
    Accepted { write: Option<i32> },
    /// The command fails with this code. The connection stays usable.
    Refused(i32),
    /// The reply violates the protocol.
    Malformed(fn(&ErrorKind) -> bool),
}

/// A reply to a command.
pub(crate) struct Flood {
    pub(crate) name: &'static str,
    /// The body and further sections, of about this many bytes.
    pub(crate) reply: fn(usize) -> Vec<u8>,
    pub(crate) end: End,
    /// Whether it has many elements, instead of one long one.
    #[allow(dead_code, reason = "only the tests need it")]
    pub(crate) has_many_elements: bool,
}

fn flood(name: &'static str, end: End, reply: fn(usize) -> Vec<u8>) -> Flood {
    Flood {
        name,
        reply,
        end,
        has_many_elements: true,
    }
}

/// A flood with one long element.
fn long(name: &'static str, end: End, reply: fn(usize) -> Vec<u8>) -> Flood {
    Flood {
        has_many_elements: false,
        ..flood(name, end, reply)
    }
}

/// A refusal with more elements between `ok` and the rest.
fn refusal(code: i32, more: Vec<u8>) -> Vec<u8> {
    let rest = elements(rawdoc! { "errmsg": "no", "code": code, "codeName": "No" });
    document(&[elements(rawdoc! { "ok": 0 }), more, rest])
}

/// A successful reply with more elements.
fn good(more: Vec<u8>) -> Vec<u8> {
    document(&[
        elements(rawdoc! { "n": 1 }),
        more,
        elements(rawdoc! { "ok": 1 }),
    ])
}

/// A list of `number` different labels.
fn labels(number: usize) -> Vec<u8> {
    let labels = (0..number).map(|number| text("", format!("l{number}").as_bytes()));
    container(4, "errorLabels", &labels.collect::<Vec<_>>())
}

pub(crate) fn all() -> Vec<Flood> {
    let mut floods = errors();
    floods.extend(parts());
    floods
}

/// Floods in errors.
fn errors() -> Vec<Flood> {
    let done = End::Accepted { write: None };
    vec![
        flood("ok: 0 among nulls", End::Refused(59), |size| {
            refusal(59, nulls(size / 2))
        }),
        flood("ok: 1 among nulls", done, |size| good(nulls(size / 2))),
        flood("an error of 100,000 labels", End::Refused(59), |_| {
            refusal(59, labels(100_000))
        }),
        flood("a write concern error of 100,000 labels", wrote(64), |_| {
            let error = elements(rawdoc! { "code": 64, "errmsg": "no" });
            let error = container(3, "writeConcernError", &[error, labels(100_000)]);
            good([labels(100_000), error].concat())
        }),
        flood("nulls as labels", End::Refused(59), |size| {
            refusal(59, container(4, "errorLabels", &[nulls(size / 2)]))
        }),
        long("a long message", End::Refused(0), |size| {
            let message = text("errmsg", &vec![b'x'; size]);
            document(&[elements(rawdoc! { "ok": 0 }), message])
        }),
        long(
            "a long message that is not ASCII",
            End::Refused(0),
            |size| {
                let message = text("errmsg", "\u{e4}".repeat(size / 2).as_bytes());
                document(&[elements(rawdoc! { "ok": 0 }), message])
            },
        ),
        long("a long code name", End::Refused(59), |size| {
            refusal(59, text("codeName", &vec![b'x'; size]))
        }),
        flood("too many messages", End::Refused(59), |size| {
            refusal(59, text("errmsg", b"no").repeat(size / 16))
        }),
        flood("a topology version of nulls", End::Refused(10107), |size| {
            refusal(10107, container(3, "topologyVersion", &[nulls(size / 2)]))
        }),
        flood("a write concern error of nulls", wrote(64), |size| {
            let error = elements(rawdoc! { "code": 64, "errmsg": "no" });
            good(container(3, "writeConcernError", &[error, nulls(size / 2)]))
        }),
        flood("a write error of nulls", wrote(11000), |size| {
            let error = elements(rawdoc! { "code": 11000, "errmsg": "no" });
            let error = container(3, "0", &[error, nulls(size / 2)]);
            good(container(4, "writeErrors", &[error]))
        }),
    ]
}

/// Floods in successful replies.
fn parts() -> Vec<Flood> {
    let done = End::Accepted { write: None };
    vec![
        flood("a cluster time of nulls", done, |size| {
            good(container(3, "$clusterTime", &[nulls(size / 2)]))
        }),
        flood("too many ok", done, |size| {
            document(&[elements(rawdoc! { "ok": 1 }).repeat(size / 8)])
        }),
        flood("nested arrays", done, |size| {
            let inner = container(4, "", &[]);
            good(container(4, "a", &[inner.repeat(size / 7)]))
        }),
        long("one long name", done, |size| {
            good([vec![0x0A], vec![b'x'; size], vec![0]].concat())
        }),
        flood("empty sections without number", done, |size| {
            let mut reply = good(Vec::new());
            reply.extend([1, 5, 0, 0, 0, 0].repeat(size / 6));
            reply
        }),
        flood("documents in a section without number", done, |size| {
            let mut reply = good(Vec::new());
            let documents = document(&[]).repeat(size / 5);
            reply.push(1);
            reply.extend((documents.len() as i32 + 6).to_le_bytes());
            reply.extend(b"a\0");
            reply.extend(documents);
            reply
        }),
        long(
            "a section with an endless name",
            End::Malformed(|kind| matches!(kind, ErrorKind::Protocol(WireError::Sequence))),
            |size| {
                let mut reply = good(Vec::new());
                reply.push(1);
                reply.extend((size as i32 + 4).to_le_bytes());
                reply.extend(vec![b'x'; size]);
                reply
            },
        ),
    ]
}

fn wrote(code: i32) -> End {
    End::Accepted { write: Some(code) }
}
