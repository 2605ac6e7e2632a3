//! Hosts with more than one address.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bson::rawdoc;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::ClientOptions;
use crate::error::ErrorKind;
use crate::net::TransportBuilder;
use crate::wire::{MsgFlags, OpMsgBuilder};

/// The behaviour of a server on each of its connections.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Manner {
    Answers,
    /// It closes the connection at once.
    HangsUp,
    /// It reads the hello, and resets the connection.
    Resets,
    /// It closes the connection after the first bytes of its answer.
    BreaksOff,
}

/// Starts a server and returns its address.
pub(crate) async fn server(manner: Manner) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, manner));
        }
    });
    address
}

async fn serve(mut stream: TcpStream, manner: Manner) -> io::Result<()> {
    if let Manner::HangsUp = manner {
        return Ok(());
    }
    let mut header = [0; 16];
    stream.read_exact(&mut header).await?;
    let number = |at: usize| {
        let bytes = header[at..at + 4].try_into().expect("four bytes");
        i32::from_le_bytes(bytes)
    };
    let mut body = vec![0; number(0) as usize - 16];
    stream.read_exact(&mut body).await?;
    let mut reply = Vec::new();
    let hello = rawdoc! { "ok": 1, "ismaster": true, "minWireVersion": 0, "maxWireVersion": 25 };
    OpMsgBuilder::new(&mut reply, 1, MsgFlags::NONE)
        .body(&hello)
        .finish(usize::MAX)
        .expect("small");
    reply[8..12].copy_from_slice(&header[4..8]);
    match manner {
        Manner::Resets => SockRef::from(&stream).set_linger(Some(Duration::ZERO)),
        Manner::BreaksOff => stream.write_all(&reply[..20]).await,
        _ => {
            stream.write_all(&reply).await?;
            // It stays open until the client closes it.
            stream.read_exact(&mut header).await.map(drop)
        }
    }
}

fn establisher(uri: &str) -> Establisher {
    let options = ClientOptions::parse(uri).expect("a connection string");
    Establisher {
        transport: TransportBuilder::default().build(&options).expect("TCP"),
        authenticator: Arc::new(Authenticator::anonymous()),
        server: ServerAddress::tcp("db.example", 27017),
        metadata: Metadata::of(&options).expect("short"),
        server_api: None,
        connect_timeout: None,
        command_timeout: None,
        drain_timeout: Duration::ZERO,
        retries_writes: true,
        times_idleness: Arc::default(),
        replica_set: None,
        load_balanced: false,
        compression: Compression::default(),
        events: EventHandlers::new(),
        on_connect: None,
        generations: Generations::default(),
        phase: Mutex::new(Wait::Connect),
    }
}

/// The result of the hello to a host whose addresses have servers that behave as given, and the
/// number of hellos sent.
async fn greeted(manners: &[Manner]) -> (Result<()>, usize) {
    let mut addresses = Vec::new();
    for manner in manners {
        addresses.push(server(*manner).await);
    }
    let establisher = establisher("mongodb://db.example");
    let mut hellos = 0;
    let mut enter = |wait| hellos += usize::from(wait == Wait::Handshake);
    let greeted = async {
        let untried = Untried::of(addresses);
        let mut opened = establisher.open(untried, &mut enter).await?;
        let handshake = establisher.greet(&mut opened, None, &mut enter).await?;
        opened.greeted(handshake).map(drop)
    };
    let greeted = tokio::time::timeout(Duration::from_secs(20), greeted);
    (greeted.await.expect("in time"), hellos)
}

#[tokio::test]
async fn an_address_that_ends_connections_before_an_answer_does_not_hide_a_good_one() {
    use Manner::{Answers, HangsUp, Resets};
    for (manners, tried) in [
        (&[HangsUp, Answers][..], 2),
        (&[Resets, Answers], 2),
        (&[HangsUp, Resets, Answers], 3),
        (&[Answers, HangsUp], 1),
    ] {
        let (greeted, hellos) = greeted(manners).await;
        greeted.unwrap_or_else(|error| panic!("{manners:?}: {error}"));
        assert_eq!(hellos, tried, "{manners:?}");
    }
}

#[tokio::test]
async fn a_server_that_has_begun_to_answer_is_not_left_for_another_address() {
    let (failed, hellos) = greeted(&[Manner::BreaksOff, Manner::Answers]).await;
    let failed = failed.expect_err("broken off");
    assert!(matches!(failed.kind(), ErrorKind::Network(_)), "{failed}");
    assert_eq!(hellos, 1);
}

#[tokio::test]
async fn the_last_address_gives_the_error() {
    let (failed, hellos) = greeted(&[Manner::HangsUp, Manner::HangsUp]).await;
    let failed = failed.expect_err("no server answers");
    assert!(matches!(failed.kind(), ErrorKind::Network(_)), "{failed}");
    assert_eq!(hellos, 2);
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn an_address_that_ends_connections_before_tls_does_not_hide_another() {
    let mut addresses = Vec::new();
    for _ in 0..3 {
        addresses.push(server(Manner::HangsUp).await);
    }
    let establisher = establisher("mongodb://db.example/?tls=true&tlsInsecure=true");
    let mut waits = Vec::new();
    let mut enter = |wait| waits.push(wait);
    let opened = establisher.open(Untried::of(addresses), &mut enter);
    let opened = tokio::time::timeout(Duration::from_secs(20), opened).await;
    let failed = opened.expect("in time").map(drop).expect_err("closed");
    assert!(matches!(failed.kind(), ErrorKind::Network(_)), "{failed}");
    waits.dedup();
    assert_eq!(waits, [Wait::Connect, Wait::Tls].repeat(3));
}
