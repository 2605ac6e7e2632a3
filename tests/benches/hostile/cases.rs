//! The attacks: those of the tests, and those that need a process of their own.

use std::time::Duration;

use flate2::{Compress, Compression, FlushCompress};
use mongo_core::ErrorKind;
use mongo_core::error::Wait;
use mongo_core::wire::WireError;
use mongo_testkit::{
    Action, Compressed, Compressor, Matcher, ScriptedServer, ServerTls, User, codec,
};
use rcgen::{CrlDistributionPoint, CustomExtension};

use crate::attacks::{self, Attack, Moment, PASSWORD, USER, attack, kind};
use crate::floods::{self, End, Flood};
use crate::long;
use crate::tls::{self, Peer, authority, trusting};
use crate::{BOUND, client};

/// The size of a long reply in bytes. The maximum of a message is 48,000,000.
const LENGTH: usize = 47_000_000;

/// One attack, in one way.
pub(crate) enum Case {
    OnTheWire {
        attack: Attack,
        over_tls: bool,
    },
    OnTls(tls::Attack),
    /// The longest possible reply in a handshake, plain or over TLS.
    LongHandshake {
        make: fn(usize) -> Attack,
        over_tls: bool,
    },
    /// The longest possible reply to a command, plain or over TLS.
    Flood {
        flood: Flood,
        over_tls: bool,
    },
    /// The reply to a cancelled command comes before that of the next one.
    LateReply,
    /// A certificate that requests a revocation check.
    LooksRevoked,
}

pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for over_tls in [false, true] {
        let wire = attacks::all().into_iter().chain([bomb_of_a_gigabyte()]);
        cases.extend(wire.map(|attack| Case::OnTheWire { attack, over_tls }));
        let long = long::LONG_HANDSHAKES.into_iter();
        cases.extend(long.map(|make| Case::LongHandshake { make, over_tls }));
        let floods = floods::all().into_iter();
        cases.extend(floods.map(|flood| Case::Flood { flood, over_tls }));
    }
    cases.push(Case::LateReply);
    cases.extend(tls::all().into_iter().map(Case::OnTls));
    cases.push(Case::LooksRevoked);
    cases
}

impl Case {
    pub(crate) fn name(&self) -> String {
        match self {
            Self::OnTheWire { attack, over_tls } => {
                let way = if *over_tls { "over tls" } else { "plain" };
                format!("{way}/{}/{}", attack.moment, attack.name)
            }
            Self::OnTls(attack) => format!("tls/{}", attack.name),
            Self::LongHandshake { make, over_tls } => Self::OnTheWire {
                attack: make(0),
                over_tls: *over_tls,
            }
            .name(),
            Self::Flood { flood, over_tls } => {
                let way = if *over_tls { "over tls" } else { "plain" };
                format!("{way}/command/flood: {}", flood.name)
            }
            Self::LateReply => "plain/command/a reply after the command was given up".to_owned(),
            Self::LooksRevoked => "tls/looks revoked".to_owned(),
        }
    }

    /// Whether the outcome of this workspace's client is as expected.
    pub(crate) fn fits(&self, outcome: Result<(), &ErrorKind>) -> bool {
        match (self, outcome) {
            (Self::OnTheWire { attack, .. }, Err(kind)) => (attack.fits)(kind),
            (Self::OnTls(attack), Err(kind)) => (attack.fits)(kind),
            (Self::OnTheWire { .. } | Self::OnTls(_), Ok(())) => false,
            (Self::LongHandshake { make, .. }, outcome) => {
                outcome.is_err_and(|kind| (make(0).fits)(kind))
            }
            (Self::Flood { flood, .. }, outcome) => match (flood.end, outcome) {
                (End::Accepted { .. }, outcome) => outcome.is_ok(),
                (End::Refused(code), Err(ErrorKind::Command(error))) => error.code == code,
                (End::Malformed(fits), Err(kind)) => fits(kind),
                (End::Refused(_) | End::Malformed(_), _) => false,
            },
            // The connection is closed if the owed reply does not arrive soon enough.
            (Self::LateReply, Err(kind)) => matches!(
                kind,
                ErrorKind::Timeout {
                    wait: Wait::Drain,
                    ..
                }
            ),
            (Self::LateReply | Self::LooksRevoked, outcome) => outcome.is_ok(),
        }
    }

    /// The attacking server, and its connection string.
    pub(crate) async fn server(&self, who: &str) -> (ScriptedServer, String) {
        let mut server = ScriptedServer::builder();
        let (mut options, mut host) = (String::new(), None);
        let mut with_user = false;
        match self {
            Self::OnTheWire { over_tls, .. } | Self::LongHandshake { over_tls, .. } => {
                let made;
                let attack = match self {
                    Self::OnTheWire { attack, .. } => attack,
                    Self::LongHandshake { make, .. } => {
                        made = make(LENGTH);
                        &made
                    }
                    _ => unreachable!("one of the two"),
                };
                server = server.rule(attack.rule.clone());
                with_user = attack.with_user();
                options += attack.option;
                if *over_tls {
                    server = server.tls(ServerTls::new(authority().server()));
                    options += &trusting();
                }
            }
            Self::OnTls(attack) => {
                options += &trusting();
                with_user = true;
                host = Some(attack.host.unwrap_or("localhost"));
                server = match &attack.peer {
                    Peer::Tls(tls) => server.tls(tls()),
                    Peer::Raw(rule) => server.rule(rule.clone()),
                };
            }
            Self::Flood { flood, over_tls } => {
                let reply = Action::Body((flood.reply)(LENGTH));
                server = server.rule(Matcher::command("ping").then(reply));
                if *over_tls {
                    server = server.tls(ServerTls::new(authority().server()));
                    options += &trusting();
                }
            }
            Self::LateReply => {
                let late = Action::Delay(client::PATIENCE * 3);
                server = server.rule(Matcher::command("echo").once().then(late));
            }
            Self::LooksRevoked => {
                options += &trusting();
                server = server.tls(looks_revoked());
            }
        }
        let server = match with_user {
            true => server
                .user(User::new(USER, PASSWORD))
                .plain_user(USER, PASSWORD),
            false => server,
        };
        let server = server.start().await;
        let mut uri = match with_user {
            true => server.uri_for(USER, PASSWORD),
            false => server.uri(),
        };
        if let Some(host) = host {
            uri = uri.replace("127.0.0.1", host);
        }
        if who == "official" {
            // The compressor with which it is built here.
            options = options.replace("zstd,snappy,zlib", "zlib");
        }
        let bound = BOUND.as_millis();
        uri += &format!("{options}&connectTimeoutMS={bound}&serverSelectionTimeoutMS={bound}");
        (server, uri)
    }
}

/// A certificate that names a revocation list and requires a stapled OCSP response. Neither is
/// available.
fn looks_revoked() -> ServerTls {
    ServerTls::new(authority().issue(&["127.0.0.1"], |params| {
        params.crl_distribution_points = vec![CrlDistributionPoint {
            uris: vec!["http://127.0.0.1:1/revoked.crl".to_owned()],
        }];
        let must_staple = vec![0x30, 0x03, 0x02, 0x01, 0x05];
        let id = [1, 3, 6, 1, 5, 5, 7, 1, 24];
        params.custom_extensions = vec![CustomExtension::from_oid_content(&id, must_staple)];
    }))
}

/// A million compressed zeros, a thousand times.
fn bomb_of_a_gigabyte() -> Attack {
    const TIMES: usize = 1024;
    let zeros = vec![0; 1024 * 1024];
    let mut block = Vec::with_capacity(64 * 1024);
    let mut deflate = Compress::new(Compression::best(), false);
    let done = deflate.compress_vec(&zeros, &mut block, FlushCompress::Full);
    done.expect("compressed");
    let mut content = vec![0x78, 0xDA];
    content.extend(block.repeat(TIMES));
    // The last block, which is empty, and the Adler-32 checksum of zeros.
    content.extend([3, 0]);
    let sum = (zeros.len() * TIMES % 65521) as u16;
    content.extend([sum.to_be_bytes(), [0, 1]].concat());
    let message = Compressed {
        request_id: 1,
        response_to: 1,
        original: codec::OP_MSG,
        size: 100,
        compressor: Compressor::Zlib.id(),
        content,
    };
    let rule = Matcher::command("ping").then(Action::Raw(message.encode()));
    Attack {
        option: "&compressors=zlib",
        ..attack(
            "1 GiB compressed, declared as 100 bytes",
            Moment::Command,
            rule.then(Action::Hang),
            kind!(ErrorKind::Protocol(WireError::UncompressedSize(100))),
        )
    }
}

/// Longer than any timeout of the bench.
pub(crate) const STALLED: Duration = Duration::from_secs(5);
