//! Servers without a valid certificate, and servers that break the TLS handshake. Each attack ends
//! with its own kind of error, in time. The server gets no byte of a credential.

use std::sync::OnceLock;
use std::time::Duration;

use mongo_core::ErrorKind;
use mongo_core::error::{CertificateProblem, TlsError, Wait};
use mongo_testkit::{Action, Authority, Matcher, Rule, ServerTls};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, date_time_ymd};
use rustls::version::TLS12;

/// The authority that the clients trust.
pub(crate) fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(Authority::new)
}

/// The options for that authority.
pub(crate) fn trusting() -> String {
    static OPTIONS: OnceLock<String> = OnceLock::new();
    let options = OPTIONS.get_or_init(|| {
        let file = authority().file();
        let file = file.to_str().expect("UTF-8").replace('/', "%2F");
        format!("&tls=true&tlsCAFile={file}")
    });
    options.clone()
}

pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) peer: Peer,
    /// The host in the client's connection string. `None`: a Unix socket, and thus `localhost`.
    pub(crate) host: Option<&'static str>,
    pub(crate) expected: &'static str,
    pub(crate) fits: fn(&ErrorKind) -> bool,
}

pub(crate) enum Peer {
    Tls(fn() -> ServerTls),
    /// A server without TLS that does this instead.
    Raw(Rule),
}

/// A pattern, as text and as predicate.
macro_rules! kind {
    ($($pattern:tt)+) => {
        (stringify!($($pattern)+), |kind| matches!(kind, $($pattern)+))
    };
}

type Expected = (&'static str, fn(&ErrorKind) -> bool);

pub(crate) fn all() -> Vec<Attack> {
    let mut attacks = certificates();
    attacks.extend(names());
    attacks.extend(peers());
    attacks.extend(silences());
    attacks
}

fn attack(name: &'static str, peer: Peer, expected: Expected) -> Attack {
    let (expected, fits) = expected;
    Attack {
        name,
        peer,
        host: None,
        expected,
        fits,
    }
}

fn issue(change: fn(&mut CertificateParams)) -> ServerTls {
    ServerTls::new(authority().issue(&["localhost"], change))
}

macro_rules! problem {
    ($problem:ident) => {
        kind!(ErrorKind::Tls(TlsError::Certificate(
            CertificateProblem::$problem
        )))
    };
}

fn certificates() -> Vec<Attack> {
    let tls = |name, server: fn() -> ServerTls, expected| attack(name, Peer::Tls(server), expected);
    vec![
        tls(
            "expired",
            || {
                issue(|params| {
                    params.not_before = date_time_ymd(2020, 1, 1);
                    params.not_after = date_time_ymd(2021, 1, 1);
                })
            },
            problem!(Expired),
        ),
        tls(
            "not valid yet",
            || issue(|params| params.not_before = date_time_ymd(2300, 1, 1)),
            problem!(NotYetValid),
        ),
        tls(
            "a client certificate used by the server",
            || {
                issue(|params| {
                    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
                })
            },
            problem!(WrongPurpose),
        ),
        tls(
            "self-signed",
            || ServerTls::new(authority().self_signed(&["localhost"])),
            problem!(UnknownIssuer),
        ),
        tls(
            "unknown authority",
            || ServerTls::new(Authority::new().server()),
            problem!(UnknownIssuer),
        ),
        tls(
            "unknown authority, with TLS 1.2",
            || ServerTls::new(Authority::new().server()).version(&TLS12),
            problem!(UnknownIssuer),
        ),
        tls(
            "issued by a leaf certificate",
            || ServerTls::new(authority().issue_by_leaf(&["localhost"])),
            kind!(ErrorKind::Tls(TlsError::Certificate(_))),
        ),
        tls(
            "the certificate of an authority",
            || {
                issue(|params| {
                    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
                })
            },
            kind!(ErrorKind::Tls(TlsError::Certificate(
                CertificateProblem::OfAuthority
            ))),
        ),
    ]
}

/// Certificates for other names.
fn names() -> Vec<Attack> {
    let wrong = |name, host, server: fn() -> ServerTls| Attack {
        host,
        ..attack(name, Peer::Tls(server), problem!(WrongHost))
    };
    fn server(name: &str) -> ServerTls {
        ServerTls::new(authority().issue(&[name], |_| ()))
    }
    vec![
        wrong("another host name", None, || server("other.example")),
        wrong("another host name, with TLS 1.2", None, || {
            server("other.example").version(&TLS12)
        }),
        wrong("a wildcard for a parent domain", None, || {
            server("*.localhost")
        }),
        wrong("no subject alternative name", None, || {
            ServerTls::new(authority().issue(&[], |params| {
                let name = rcgen::DnType::CommonName;
                params.distinguished_name.push(name, "localhost");
            }))
        }),
        wrong(
            "a host name, connected to by address",
            Some("127.0.0.1"),
            || server("localhost"),
        ),
        wrong(
            "an address, connected to by host name",
            Some("localhost"),
            || server("127.0.0.1"),
        ),
        wrong("another address", Some("127.0.0.1"), || server("127.0.0.2")),
    ]
}

/// Servers that answer without correct TLS.
fn peers() -> Vec<Attack> {
    let answers = |name, bytes: Vec<u8>, expected| {
        let rule = Matcher::before_read().then(Action::Raw(bytes));
        attack(name, Peer::Raw(rule.then(Action::Hang)), expected)
    };
    let broken: Expected = kind!(ErrorKind::Tls(TlsError::Protocol(_)));
    let refused: Expected = kind!(ErrorKind::Tls(TlsError::Refused(_)));
    let closed: Expected = kind!(ErrorKind::Network(_));
    let hello = |version, end: &[u8; 8]| record(22, &server_hello(version, end));
    let closes = |rule: Rule| Peer::Raw(rule.then(Action::Close));
    vec![
        answers("a plain reply", plain_reply(), broken),
        answers("HTTP", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), broken),
        answers(
            "random bytes",
            mongo_testkit::payload::random_bytes(7, 64),
            broken,
        ),
        answers("an alert", record(21, &[2, 40]), refused),
        answers("a version too old, by alert", record(21, &[2, 70]), refused),
        answers("a downgrade to TLS 1.1", hello([3, 2], b"whatever"), broken),
        answers("a downgrade to TLS 1.0", hello([3, 1], b"whatever"), broken),
        answers("a downgrade to SSL 3", hello([3, 0], b"whatever"), broken),
        answers(
            "a downgrade to TLS 1.2 with its marker",
            hello([3, 3], b"DOWNGRD\x01"),
            broken,
        ),
        answers(
            "a handshake of 16 MB",
            record(22, &[2, 255, 255, 255]),
            broken,
        ),
        answers("a record of 64 KB", vec![22, 3, 3, 255, 255, 2], broken),
        attack(
            "the connection closed",
            closes(Matcher::before_read().then(Action::NoReply)),
            closed,
        ),
        attack(
            "half a record, then closed",
            closes(Matcher::before_read().then(Action::Raw(vec![22, 3, 3, 1, 0, 2]))),
            closed,
        ),
        attack(
            "a client certificate is asked for",
            Peer::Tls(|| ServerTls::new(authority().server()).clients_of(authority())),
            refused,
        ),
    ]
}

fn silences() -> Vec<Attack> {
    let waited_out: Expected = kind!(ErrorKind::Timeout {
        wait: Wait::Tls,
        ..
    });
    let half = || Matcher::before_read().then(Action::Raw(vec![22, 3, 3, 1, 0, 2]));
    let hello = record(22, &server_hello([3, 3], b"whatever"));
    let slow = Matcher::before_read().then(Action::Raw(hello));
    vec![
        attack(
            "a server without TLS that waits for a long message",
            Peer::Raw(Matcher::command("never").then(Action::Hang)),
            waited_out,
        ),
        attack(
            "no reply",
            Peer::Raw(Matcher::accept().then(Action::Hang)),
            waited_out,
        ),
        attack(
            "half a record, then no more",
            Peer::Raw(half().then(Action::Hang)),
            waited_out,
        ),
        attack(
            "one byte a second",
            Peer::Raw(
                slow.then(Action::Chunks(1, Duration::from_secs(1)))
                    .then(Action::Hang),
            ),
            waited_out,
        ),
    ]
}

fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("short").to_be_bytes();
    [&[kind, 3, 3][..], &length, content].concat()
}

/// A ServerHello of TLS 1.2 or older, whose random ends with `random_end`.
fn server_hello(version: [u8; 2], random_end: &[u8; 8]) -> Vec<u8> {
    // ECDHE-RSA-AES128-GCM-SHA256, no session, no compression, no extensions.
    let rest = [&[7; 24][..], random_end, &[0, 0xc0, 0x2f, 0, 0, 0]].concat();
    let length = u8::try_from(rest.len() + 2).expect("short");
    [&[2, 0, 0, length][..], &version, &rest].concat()
}

/// A successful reply to a MongoDB hello, from a server without TLS.
fn plain_reply() -> Vec<u8> {
    let body = bson::rawdoc! { "ok": 1, "isWritablePrimary": true, "maxWireVersion": 25 };
    let length = i32::try_from(21 + body.as_bytes().len()).expect("short");
    let header = [length, 1, 0, 2013, 0].map(i32::to_le_bytes).concat();
    [&header[..], &[0], body.as_bytes()].concat()
}
