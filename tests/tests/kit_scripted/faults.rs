//! Each fault of a scripted server.

use std::time::Duration;

use crate::client::BareClient;
use bson::doc;
use mongo_testkit::codec::{self, CodecError, MORE_TO_COME, Reply};
use mongo_testkit::{
    Action, Checksum, Cut, ErrorReply, Gate, Matcher, Rule, ScriptedServer, payload,
};
use tokio::time::Instant;

fn ping() -> bson::Document {
    doc! {"ping": 1}
}

/// A server with one rule, and its client.
async fn with_rule(rule: Rule) -> (ScriptedServer, BareClient) {
    let server = ScriptedServer::builder().rule(rule).start().await;
    let client = BareClient::connect(&server.address()).await;
    (server, client)
}

#[tokio::test(start_paused = true)]
async fn delays_and_slow_bytes_take_their_time() {
    let delay = Action::Delay(Duration::from_secs(3600));
    let (server, mut client) = with_rule(Matcher::command("ping").once().then(delay)).await;
    let start = Instant::now();
    let id = client.send(ping()).await;
    // The client's own timeout uses the same paused clock.
    tokio::time::sleep(Duration::from_secs(3599)).await;
    assert_eq!(client.receive().await.response_to, id);
    assert!(start.elapsed() >= Duration::from_secs(3600));

    server
        .script()
        .add(Matcher::command("ping").then(Action::byte_per_second()));
    let start = Instant::now();
    client.run(ping()).await;
    assert!(
        start.elapsed() >= Duration::from_secs(30),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn a_gate_holds_a_reply_back() {
    let gate = Gate::new();
    let (server, mut client) =
        with_rule(Matcher::command("ping").then(Action::WaitFor(gate.clone()))).await;
    let id = client.send(ping()).await;
    server
        .wait_for("the ping", |seen| seen.count("ping") == 1)
        .await;
    let mut other = BareClient::connect(&server.address()).await;
    other.run(doc! {"echo": 1}).await;
    gate.open();
    assert_eq!(client.receive().await.response_to, id);
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_in_any_wait() {
    let server = ScriptedServer::start().await;
    let rules = [
        Matcher::command("ping")
            .once()
            .then(Action::Delay(Duration::from_secs(3600))),
        Matcher::command("ping")
            .once()
            .then(Action::WaitFor(Gate::new())),
        Matcher::command("ping").once().never_answer(),
        Matcher::command("ping")
            .once()
            .then(Action::Chunks(1, Duration::from_secs(3600))),
        Matcher::command("ping").once().then(Action::Stream(
            vec![doc! {"ok": 1}, doc! {"ok": 1}],
            Duration::from_secs(3600),
        )),
    ];
    for (index, rule) in (1..).zip(rules) {
        server.script().clear();
        server.script().add(rule);
        let mut client = BareClient::connect(&server.address()).await;
        client.send(ping()).await;
        server
            .wait_for("the ping", |seen| seen.count("ping") == index)
            .await;
        drop(client);
        server
            .wait_for("the client's leave", |seen| seen.open == 0)
            .await;
    }
}

#[tokio::test]
async fn connections_are_dropped_where_the_script_says() {
    // Before it reads, after it has read, and in the middle of the reply.
    let (server, mut client) = with_rule(Matcher::before_read().then(Action::Close)).await;
    client.send(ping()).await;
    assert!(client.rest().await.0.is_empty());
    assert_eq!(server.look(|seen| seen.count("ping")), 0);

    let (server, mut client) = with_rule(Matcher::command("ping").drop_connection()).await;
    client.send(ping()).await;
    let (bytes, end) = client.rest().await;
    assert!(bytes.is_empty() && end.is_ok());
    assert_eq!(server.look(|seen| seen.count("ping")), 1);

    let half = Matcher::command("ping")
        .then(Action::Keep(Cut::Half))
        .then(Action::Close);
    let (_server, mut client) = with_rule(half).await;
    client.send(ping()).await;
    let (bytes, end) = client.rest().await;
    let announced = codec::message_length(&bytes).unwrap().unwrap();
    assert!(end.is_ok() && bytes.len() == announced / 2);

    let (_server, mut client) = with_rule(Matcher::command("ping").then(Action::Reset)).await;
    client.send(ping()).await;
    client.rest().await.1.unwrap_err();

    let (_server, mut client) = with_rule(Matcher::accept().then(Action::Close)).await;
    assert!(client.rest().await.0.is_empty());
}

#[tokio::test]
async fn the_listener_closes_and_opens_again() {
    let server = ScriptedServer::start().await;
    let mut client = BareClient::connect(&server.address()).await;
    client.run(ping()).await;
    server.refuse_connections().await;
    let error = tokio::net::TcpStream::connect(server.address())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    client.run(ping()).await;
    server.close_connections().await;
    assert!(client.rest().await.0.is_empty());
    server.accept_connections().await;
    BareClient::connect(&server.address())
        .await
        .run(ping())
        .await;
    assert_eq!(
        server.look(|seen| (seen.accepted, seen.open, seen.most_open)),
        (2, 1, 1)
    );
}

#[tokio::test]
async fn replies_can_be_errors_and_edited() {
    let error = ErrorReply::new(10107, "NotWritablePrimary", "not primary")
        .label("RetryableWriteError")
        .label("X")
        .field("topologyVersion", doc! {"counter": 1_i64});
    let (server, mut client) =
        with_rule(Matcher::command("ping").once().then(Action::Error(error))).await;
    let reply = client.run(ping()).await;
    assert_eq!(reply.get_i32("code").unwrap(), 10107);
    assert_eq!(reply.get_array("errorLabels").unwrap().len(), 2);

    let write_concern = Action::write_concern_error(64, "WriteConcernFailed", "waiting timed out");
    server
        .script()
        .add(Matcher::command("insert").then(write_concern));
    let reply = client.run(doc! {"insert": "c", "documents": [{}]}).await;
    assert_eq!(reply.get_i32("n").unwrap(), 1);
    assert_eq!(
        reply
            .get_document("writeConcernError")
            .unwrap()
            .get_i32("code")
            .unwrap(),
        64
    );

    let fields = doc! {"maxWireVersion": 6, "setName": "rs"};
    let edit = Action::Remove("minWireVersion".to_owned());
    server
        .script()
        .add(Matcher::hello().then(Action::Merge(fields)).then(edit));
    let reply = client.hello().await;
    assert_eq!(reply.get_i32("maxWireVersion").unwrap(), 6);
    assert!(reply.contains_key("setName") && !reply.contains_key("minWireVersion"));
}

#[tokio::test]
async fn frames_can_be_wrong() {
    let server = ScriptedServer::start().await;
    let mut client = BareClient::connect(&server.address()).await;
    let once = |action| Matcher::command("ping").once().then(action);

    server.script().add(once(Action::ResponseTo(4711)));
    client.send(ping()).await;
    assert_eq!(client.receive().await.response_to, 4711);

    server.script().add(once(Action::Checksum(Checksum::Right)));
    client.run(ping()).await;
    server.script().add(once(Action::Checksum(Checksum::Wrong)));
    client.send(ping()).await;
    let message = client.message().await.unwrap().unwrap();
    assert!(matches!(
        Reply::decode(&message),
        Err(CodecError::Checksum { .. })
    ));

    server.script().add(once(Action::Copies(2)));
    let id = client.send(ping()).await;
    for _ in 0..2 {
        assert_eq!(client.receive().await.response_to, id);
    }

    server.script().add(once(Action::Flags(1 << 7)));
    client.send(ping()).await;
    let message = client.message().await.unwrap().unwrap();
    assert!(matches!(
        Reply::decode(&message),
        Err(CodecError::Flags(0x80))
    ));

    server.script().add(once(Action::NoReply));
    client.send(ping()).await;
    client.run(doc! {"echo": 1}).await;

    for length in [-1, i32::MAX] {
        server
            .script()
            .add(once(Action::Length(length)).then(Action::Close));
        let mut client = BareClient::connect(&server.address()).await;
        client.send(ping()).await;
        assert_eq!(client.rest().await.0[..4], length.to_le_bytes());
    }
}

#[tokio::test]
async fn bytes_can_be_anything() {
    let noise = payload::random_bytes(1, 100);
    let raw = Matcher::command("ping")
        .then(Action::Raw(noise.clone()))
        .then(Action::Close);
    let (server, mut client) = with_rule(raw).await;
    client.send(ping()).await;
    assert_eq!(client.rest().await.0, noise);

    server.script().clear();
    let deep = payload::deep_document(20_000);
    server
        .script()
        .add(Matcher::command("ping").then(Action::Body(deep.clone())));
    let mut client = BareClient::connect(&server.address()).await;
    client.send(ping()).await;
    let message = client.message().await.unwrap().unwrap();
    assert_eq!(message[21..], deep);
    assert!(matches!(
        Reply::decode(&message),
        Err(CodecError::Document(_))
    ));
}

#[tokio::test]
async fn a_stream_sends_its_own_replies() {
    let replies = vec![
        doc! {"ok": 1, "n": 0},
        doc! {"ok": 1, "n": 1},
        doc! {"ok": 1, "n": 2},
    ];
    let rule = Matcher::hello().then(Action::Stream(replies, Duration::ZERO));
    let (_server, mut client) = with_rule(rule).await;
    let mut answered = client.send(doc! {"hello": 1}).await;
    for n in 0..3 {
        let reply = client.receive().await;
        assert_eq!(
            (reply.response_to, reply.body.get_i32("n").unwrap()),
            (answered, n)
        );
        assert_eq!(reply.flags & MORE_TO_COME != 0, n < 2);
        answered = reply.request_id;
    }
}

#[tokio::test]
async fn before_read_counts_messages() {
    let rule = Matcher::before_read()
        .on_connection(1)
        .after(2)
        .then(Action::Close);
    let (server, mut client) = with_rule(rule).await;
    // As long as one read of the server, so that its socket looks readable afterwards.
    let padding = 8192 - codec::encode_command(1, 0, &doc! {"echo": "", "$db": "test"}).len();
    client.run(doc! {"echo": "x".repeat(padding)}).await;
    client.run(ping()).await;
    BareClient::connect(&server.address())
        .await
        .run(ping())
        .await;
    assert!(server.look(|seen| seen.connections[&1].open));
    client.send(ping()).await;
    assert!(client.rest().await.0.is_empty());
    assert_eq!(server.look(|seen| seen.connections[&1].commands), 2);
}
