//! What attacks there are: those of the tests, and those that only make sense in a process of its own.

use std::any::Any;
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
use crate::crowd::{self, Crowd, Servers};
use crate::floods::{self, End, Flood};
use crate::long::{self, PACKED, Packed};
use crate::tls::{self, Peer, authority, trusting};
use crate::{BOUND, client};

/// Bytes of a long reply, of which a message has 48,000,000.
const LENGTH: usize = 47_000_000;

/// One attack, in one way.
pub(crate) enum Case {
    OnTheWire {
        attack: Attack,
        over_tls: bool,
    },
    OnTls(tls::Attack),
    /// A reply in a handshake as long as there may be, plain or over TLS.
    LongHandshake {
        make: fn(usize) -> Attack,
        over_tls: bool,
    },
    /// A reply of a command as long as there may be, plain or over TLS.
    Flood {
        flood: Flood,
        over_tls: bool,
    },
    /// A reply of a command that came compressed.
    Packed(Packed),
    /// Servers without number, none of which any connection is authenticated to.
    Crowd(Crowd),
    /// The reply to a command that was given up comes before that of the next one.
    LateReply,
    /// A certificate that asks for revocation to be checked.
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
    cases.extend(PACKED.map(Case::Packed));
    cases.push(Case::LateReply);
    cases.extend(tls::all().into_iter().map(Case::OnTls));
    cases.push(Case::LooksRevoked);
    cases.push(Case::Crowd(Crowd::LongReplies));
    cases.extend(["secondary", "primary"].map(|role| Case::Crowd(Crowd::NewHosts { role })));
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
            Self::Packed(packed) => format!("plain/command/{}", packed.name),
            Self::Crowd(crowd) => crowd.name(),
            Self::LateReply => "plain/command/a reply after the command was given up".to_owned(),
            Self::LooksRevoked => "tls/looks revoked".to_owned(),
        }
    }

    /// Whether what became of ours is as it should be.
    pub(crate) fn fits(&self, outcome: Result<(), &ErrorKind>) -> bool {
        match (self, outcome) {
            (Self::OnTheWire { attack, .. }, Err(kind)) => (attack.fits)(kind),
            (Self::OnTls(attack), Err(kind)) => (attack.fits)(kind),
            (Self::OnTheWire { .. } | Self::OnTls(_), Ok(())) => false,
            (Self::Packed(packed), Err(ErrorKind::Protocol(WireError::TooLong { .. }))) => {
                !packed.fits
            }
            (Self::Packed(packed), outcome) => packed.fits && outcome.is_ok(),
            (Self::LongHandshake { make, .. }, outcome) => {
                outcome.is_err_and(|kind| (make(0).fits)(kind))
            }
            (Self::Flood { flood, .. }, outcome) => match (flood.end, outcome) {
                (End::Accepted { .. }, outcome) => outcome.is_ok(),
                (End::Refused(code), Err(ErrorKind::Command(error))) => error.code == code,
                (End::Malformed(fits), Err(kind)) => fits(kind),
                (End::Refused(_) | End::Malformed(_), _) => false,
            },
            // The connection is given up, where the reply that is owed does not come soon enough.
            (Self::LateReply, Err(kind)) => matches!(
                kind,
                ErrorKind::Timeout {
                    wait: Wait::Drain,
                    ..
                }
            ),
            (Self::LateReply | Self::LooksRevoked | Self::Crowd(_), outcome) => outcome.is_ok(),
        }
    }

    /// The limit of the process's growth, in bytes: a message for each connection whose handshake is
    /// complete, and 1 MiB for each other connection.
    pub(crate) fn memory(&self) -> u64 {
        let is_authenticated = match self {
            Self::OnTheWire { attack, .. } => matches!(attack.moment, Moment::Command),
            Self::LongHandshake { .. } | Self::OnTls(_) | Self::Crowd(_) => false,
            Self::Flood { .. } | Self::Packed(_) | Self::LateReply | Self::LooksRevoked => true,
        };
        let connections = match self {
            Self::Crowd(crowd) => crowd.connections(),
            _ => 1,
        };
        u64::from(is_authenticated) * 48_000_000 + connections * 1024 * 1024
    }

    /// When it is over.
    pub(crate) fn bound(&self) -> Duration {
        match self {
            Self::Crowd(_) => crowd::TIME,
            _ => BOUND,
        }
    }

    /// The server that makes the attack, and the connection string for it.
    pub(crate) async fn server(&self, who: &str) -> (Box<dyn Any>, String) {
        if let Self::Crowd(crowd) = self {
            let servers = Servers::start(*crowd).await;
            let uri = servers.uri.clone();
            return (Box::new(servers), uri);
        }
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
            Self::Packed(packed) => {
                server = server.rule(Matcher::command("ping").then(packed.reply()));
                options += "&compressors=zlib";
            }
            Self::Crowd(_) => unreachable!("it has servers of its own"),
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
            // What it is built with here.
            options = options.replace("zstd,snappy,zlib", "zlib");
        }
        let bound = BOUND.as_millis();
        uri += &format!("{options}&connectTimeoutMS={bound}&serverSelectionTimeoutMS={bound}");
        (Box::new(server), uri)
    }
}

/// It has a list of what is revoked and wants an answer to be stapled, and gets neither.
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

/// A million zeros, compressed, a thousand times over.
fn bomb_of_a_gigabyte() -> Attack {
    const TIMES: usize = 1024;
    let zeros = vec![0; 1024 * 1024];
    let mut block = Vec::with_capacity(64 * 1024);
    let mut deflate = Compress::new(Compression::best(), false);
    let done = deflate.compress_vec(&zeros, &mut block, FlushCompress::Full);
    done.expect("compressed");
    let mut content = vec![0x78, 0xDA];
    content.extend(block.repeat(TIMES));
    // The last block, which is empty, and Adler's sum of zeros.
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

/// How much longer than to its bound is waited.
pub(crate) const STALLED: Duration = Duration::from_secs(3);
