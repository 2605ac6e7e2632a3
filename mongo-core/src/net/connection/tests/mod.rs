use std::time::Duration;

use bson::rawdoc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::auth::Nonces;
use crate::event::EventHandlers;
use crate::handshake::{Handshake, HandshakeContext, Step};
use crate::net::{Generations, Stream};
use crate::wire::{MsgFlags, OpMsgBuilder};

mod runtimes;

const BOUND: Duration = Duration::from_secs(5);

fn description() -> ConnectionDescription {
    let nonces = Nonces::from_random([0; Nonces::RANDOM_BYTES]);
    let mut handshake = Handshake::new(HandshakeContext::new(rawdoc! {}, nonces));
    handshake.start().expect("a hello");
    let hello = rawdoc! { "ok": 1, "ismaster": true, "minWireVersion": 0, "maxWireVersion": 25 };
    match handshake.handle_reply(&hello).expect("a decent server") {
        Step::Done(description) => description,
        _ => panic!("nothing to authenticate"),
    }
}

/// A connection, and its server's end.
pub(super) fn connection() -> (Connection, DuplexStream) {
    let (ours, server) = duplex(64 * 1024);
    (over(Stream::custom(ours)), server)
}

/// A connection over a stream.
fn over(stream: Stream) -> Connection {
    let identity = Identity {
        id: 1,
        generation: Generations::default().begin(),
        server: ServerAddress::tcp("db.example", 27017),
        user: Some("app".into()),
        principal: Some("admin.app".into()),
        description: description(),
        server_api: None,
        command_timeout: None,
        drain_timeout: Duration::from_millis(100),
        retries_writes: true,
        times_idleness: true,
        created: Instant::now(),
        events: EventHandlers::new(),
    };
    Connection::new(Channel::new(stream), Limits::default(), identity, None)
}

/// A reply to the request with the given id.
pub(super) fn reply(response_to: i32, text: &str) -> Vec<u8> {
    let mut message = Vec::new();
    OpMsgBuilder::new(&mut message, 9, MsgFlags::NONE)
        .body(&rawdoc! { "ok": 1, "text": text })
        .finish(usize::MAX)
        .expect("small");
    message[8..12].copy_from_slice(&response_to.to_le_bytes());
    message
}

fn is_closed_for(error: &Error, expected: ClosedReason) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionClosed(reason) if *reason == expected)
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_is_over_sends_nothing() {
    let (mut connection, mut server) = connection();
    let ping = rawdoc! { "ping": 1 };
    let error = connection
        .run_command_by(Duration::ZERO, "admin", &ping)
        .await;
    let text = error.expect_err("over").to_string();
    assert!(
        text.contains("db.example") && text.contains("app"),
        "{text}"
    );
    assert_eq!(connection.readiness(), Readiness::Idle);
    drop(connection);
    let mut sent = Vec::new();
    server.read_to_end(&mut sent).await.expect("an end");
    assert_eq!(sent, b"");
}

#[tokio::test]
async fn a_command_that_can_not_be_sent_leaves_the_connection_usable() {
    let (mut connection, mut server) = connection();
    let long = rawdoc! { "ping": "x".repeat(48_000_000) };
    let error = connection.run_command("admin", &long).await;
    let error = error.expect_err("too long");
    assert!(matches!(error.kind(), ErrorKind::Protocol(_)), "{error}");
    let error = connection.run_command("admin", &rawdoc! {}).await;
    let error = error.expect_err("empty");
    assert!(
        matches!(error.kind(), ErrorKind::Serialization(_)),
        "{error}"
    );
    let error = connection.send(b"no message", BOUND).await;
    assert!(error.is_err());
    let error = connection.receive(BOUND).await;
    let error = error.expect_err("nothing was sent");
    assert!(
        matches!(error.kind(), ErrorKind::Configuration(_)),
        "{error}"
    );
    assert_eq!(connection.readiness(), Readiness::Idle);
    // Each of the three used a request id.
    server
        .write_all(&reply(4, "fourth"))
        .await
        .expect("written");
    let ping = rawdoc! { "ping": 1 };
    let answer = connection.run_command("admin", &ping).await;
    assert_eq!(
        answer.expect("own").get_str("text").expect("a text"),
        "fourth"
    );
}

#[tokio::test]
async fn an_end_or_an_unsolicited_byte_is_not_quiet() {
    let (mut connection, server) = connection();
    assert_eq!(connection.check_idle(), Ok(()));
    drop(server);
    assert_eq!(connection.check_idle(), Err(ClosedReason::Network));
    let (mut connection, mut server) = super::tests::connection();
    server.write_all(&[0]).await.expect("written");
    assert_eq!(connection.check_idle(), Err(ClosedReason::Network));
}

#[tokio::test]
async fn an_end_inside_a_reply_closes() {
    for length in [0, 3, 16, 40] {
        let (mut connection, mut server) = connection();
        let reply = reply(1, "a text that is cut off");
        server.write_all(&reply[..length]).await.expect("written");
        server.shutdown().await.expect("an end");
        let ping = rawdoc! { "ping": 1 };
        let error = connection.run_command("admin", &ping).await;
        let error = error.expect_err("cut off");
        assert!(matches!(error.kind(), ErrorKind::Network(_)), "{error}");
        let error = connection.run_command("admin", &ping).await;
        let error = error.expect_err("closed");
        assert!(is_closed_for(&error, ClosedReason::Network), "{error}");
        assert!(!connection.check_in());
    }
}

#[tokio::test(start_paused = true)]
async fn connections_that_may_go_back_to_their_pool() {
    let (mut connection, _server) = connection();
    tokio::time::advance(BOUND).await;
    assert!(connection.check_in());
    assert_eq!(connection.idle_since(), Instant::now());
    let generations = Generations::default();
    connection.inner.identity.generation = generations.begin();
    assert!(connection.check_in());
    generations.clear();
    assert!(connection.is_stale() && !connection.check_in());

    let (mut connection, _server) = super::tests::connection();
    connection.close();
    assert!(!connection.check_in());
    let error = connection.drain(Deadline::never()).await;
    let error = error.expect_err("closed");
    assert!(is_closed_for(&error, ClosedReason::Closed), "{error}");
}

/// If the application drops its commands' futures itself, no command times out.
#[tokio::test(start_paused = true)]
async fn a_drain_that_takes_all_its_time_raises_suspicion() {
    for (bound, is_suspect) in [(100, true), (99, false)] {
        let generations = Generations::default();
        let ((mut cut, _server), (mut other, _its_server)) = (connection(), connection());
        for own in [&mut cut, &mut other] {
            own.inner.identity.generation = generations.begin();
            assert!(own.check_in());
        }
        let ping = rawdoc! { "ping": 1 };
        let command = cut.run_command("admin", &ping);
        let dropped = tokio::time::timeout(BOUND, command).await;
        assert!(dropped.is_err(), "nothing answers");
        assert!(cut.check_in() && !other.is_suspect());
        let drained = cut.drain(Deadline::after(Duration::from_millis(bound)));
        drained.await.expect_err("nothing answers");
        assert_eq!(other.is_suspect(), is_suspect);
    }
}

/// A connection with an outstanding reply is returned, unless the reply is known to be too long to
/// drain.
#[tokio::test(start_paused = true)]
async fn a_connection_with_a_short_outstanding_reply_goes_back() {
    for (length, may_go_back) in [(1_000_000, true), (1_100_000, false)] {
        let (mut connection, mut server) = connection();
        let reply = reply(1, &"x".repeat(length));
        server.write_all(&reply[..1000]).await.expect("written");
        let ping = rawdoc! { "ping": 1 };
        let cut = connection
            .run_command_by(Duration::from_secs(1), "admin", &ping)
            .await;
        assert!(cut.expect_err("most is missing").is_timeout());
        assert_eq!(connection.readiness(), Readiness::Owed);
        assert_eq!(connection.check_in(), may_go_back);
        // Draining a reply that is too long fails at once.
        let drained = connection.drain(Deadline::never()).await;
        let error = drained.expect_err("the rest does not come");
        assert_eq!(error.is_timeout(), may_go_back, "{error}");
        assert!(connection.is_closed());
    }
}
