//! Compression with servers that support some compressors, or none: the specification's test plan,
//! with core and both pools.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bson::{Document, doc};
use mongo_core::net::{SingleClient, Topology};
use mongo_core::pools::{ConnectionFactory, ManagerConfig};
use mongo_core::select::Criterion;
use mongo_core::wire::{Limits, MsgFlags, OpMsg, OpMsgBuilder};
use mongo_core::{ClientOptions, Connection, Deadline};
use mongo_testkit::{Action, Compressor, Matcher, RealServer, ScriptedServer, User};

const ALL: &str = "zstd,snappy,zlib";

async fn connect(uri: &str) -> Connection {
    let options = ClientOptions::parse(uri).expect("a connection string");
    // Long enough to drain owed replies even on a busy machine.
    let mut config = ManagerConfig::default();
    config.drain_timeout = Some(Duration::from_secs(60));
    let factory = ConnectionFactory::builder(options).config(config).build();
    let factory = factory.expect("a factory");
    let established = factory.establish(Deadline::never()).await;
    established.expect("a connection")
}

async fn ping(connection: &mut Connection) {
    let ping = doc! { "ping": 1 };
    let reply = connection.run_command("admin", &ping).await;
    assert_eq!(reply.expect("a reply").get_f64("ok").ok(), Some(1.0));
}

async fn server(compressors: &[Compressor]) -> ScriptedServer {
    let builder = ScriptedServer::builder();
    builder
        .compressors(compressors.iter().copied())
        .start()
        .await
}

fn seen(server: &ScriptedServer, name: &str) -> Vec<Option<Compressor>> {
    server.look(|seen| seen.commands(name).map(|seen| seen.compressor).collect())
}

fn offered(server: &ScriptedServer) -> Vec<String> {
    server.look(|seen| {
        let hello = seen.log.front().expect("a hello");
        let names = hello.command.get_array("compression").expect("a list");
        names
            .iter()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect()
    })
}

/// The four connection strings of the test plan, with a server that supports only snappy.
#[tokio::test]
async fn test_plan() {
    let snappy = Some(Compressor::Snappy);
    let cases: [(&str, &[&str], _); 4] = [
        ("snappy", &["snappy"], snappy),
        ("snoopy", &[], None),
        ("snappy,zlib", &["snappy", "zlib"], snappy),
        ("zlib,snappy", &["zlib", "snappy"], snappy),
    ];
    for (compressors, expected, negotiated) in cases {
        let server = server(&[Compressor::Snappy]).await;
        let uri = format!("{}&compressors={compressors}", server.uri());
        let warnings = ClientOptions::parse(&uri).expect("valid").warnings().len();
        assert_eq!(warnings, usize::from(compressors == "snoopy"));
        let mut connection = connect(&uri).await;
        assert_eq!(offered(&server), expected);
        ping(&mut connection).await;
        assert_eq!(seen(&server, "ping"), [negotiated], "{compressors}");

        let deadpool = mongo_deadpool::Config::from_url(&*uri).create_pool(None);
        let deadpool = deadpool.expect("a pool");
        ping(&mut deadpool.get().await.expect("a connection")).await;
        let bb8 = mongo_bb8::Config::from_url(&*uri).create_pool(None);
        let bb8 = bb8.expect("a pool");
        ping(&mut bb8.get().await.expect("a connection")).await;
        assert_eq!(seen(&server, "ping"), [negotiated; 3], "{compressors}");
        assert!(server.look(|seen| seen.protocol_errors.is_empty()));
    }
}

#[tokio::test]
async fn the_first_compressor_of_the_client_that_the_server_supports_is_used() {
    use Compressor::{Snappy, Zlib, Zstd};
    for (own, has, expected) in [
        (ALL, &[Zlib, Snappy, Zstd][..], Some(Zstd)),
        (ALL, &[Zlib, Snappy], Some(Snappy)),
        (ALL, &[Zlib], Some(Zlib)),
        (ALL, &[], None),
        ("zlib,zstd", &[Snappy], None),
        ("zlib,zstd", &[Zstd, Zlib], Some(Zlib)),
    ] {
        let server = server(has).await;
        let mut connection = connect(&format!("{}&compressors={own}", server.uri())).await;
        ping(&mut connection).await;
        assert_eq!(seen(&server, "ping"), [expected], "{own} {has:?}");
        let chosen = connection.description().compressor.map(|own| own.as_str());
        assert_eq!(chosen, expected.map(Compressor::name));
    }
}

/// A server may choose any compressor once compression was negotiated.
#[tokio::test]
async fn a_reply_comes_in_any_compressor() {
    for compressor in Compressor::ALL {
        for names in ["snappy", ALL] {
            let server = server(&[Compressor::Snappy]).await;
            server
                .script()
                .add(Matcher::any_command().then(Action::Compress(compressor)));
            let mut connection = connect(&format!("{}&compressors={names}", server.uri())).await;
            ping(&mut connection).await;
            let long = doc! { "echo": "x".repeat(3_000_000) };
            let reply = connection
                .run_command("admin", &long)
                .await
                .expect("a reply");
            assert_eq!(reply.get_str("echo").ok(), long.get_str("echo").ok());
        }
    }
}

#[tokio::test]
async fn authentication_is_not_compressed() {
    let server = ScriptedServer::builder()
        .user(User::new("app", "pencil"))
        .long_scram()
        .compressors(Compressor::ALL)
        .start()
        .await;
    let uri = format!("{}&compressors={ALL}", server.uri_for("app", "pencil"));
    let mut connection = connect(&uri).await;
    ping(&mut connection).await;
    let create = doc! { "createUser": "x", "pwd": "y", "roles": [] };
    let _ = connection.run_command("admin", &create).await;
    let _ = connection
        .run_command("admin", &doc! { "getnonce": 1 })
        .await;
    let _ = connection.run_command("admin", &doc! { "hello": 1 }).await;
    for never in [
        "isMaster",
        "saslContinue",
        "createUser",
        "getnonce",
        "hello",
    ] {
        let seen = seen(&server, never);
        assert!(
            !seen.is_empty() && seen.iter().all(Option::is_none),
            "{never}: {seen:?}"
        );
    }
    assert_eq!(seen(&server, "ping"), [Some(Compressor::Zstd)]);
    assert!(server.look(|seen| seen.protocol_errors.is_empty()));
}

#[tokio::test]
async fn messages_from_send_are_compressed() {
    let server = server(&[Compressor::Zlib]).await;
    let mut connection = connect(&format!("{}&compressors=zlib", server.uri())).await;
    let mut message = Vec::new();
    OpMsgBuilder::new(&mut message, 99, MsgFlags::NONE)
        .command("admin", &doc! { "echo": "own" })
        .expect("BSON")
        .finish(usize::MAX)
        .expect("small");
    let deadline = Deadline::never();
    connection.send(&message, deadline).await.expect("sent");
    let reply = connection.receive(deadline).await.expect("a reply");
    let reply = OpMsg::parse(reply, &Limits::default()).expect("an OP_MSG, unwrapped");
    assert_eq!(reply.header().response_to, 99);
    assert_eq!(reply.body().get_str("echo").ok(), Some("own"));
    assert_eq!(seen(&server, "echo"), [Some(Compressor::Zlib)]);
}

/// A cancelled command owes a compressed reply, which is drained.
#[tokio::test]
async fn a_compressed_reply_is_drained() {
    let server = server(&[Compressor::Snappy]).await;
    let mut connection = connect(&format!("{}&compressors=snappy", server.uri())).await;
    let slow = doc! { "echo": "late", "delayMS": 20 };
    let given_up = connection
        .run_command_by(Duration::from_millis(5), "admin", &slow)
        .await;
    assert!(given_up.map(drop).expect_err("too slow").is_timeout());
    let reply = connection
        .run_command("admin", &doc! { "echo": "own" })
        .await;
    assert_eq!(reply.expect("a reply").get_str("echo").ok(), Some("own"));
    assert_eq!(server.look(|seen| seen.accepted), 1);
}

/// The most bytes that are compressed or decompressed between two yields.
const STEP: usize = 256 * 1024;

/// Runs a future, and counts its yields.
async fn turns<T>(future: impl Future<Output = T>) -> (T, usize) {
    let mut turns = 0;
    let mut future = pin!(future);
    let outcome = poll_fn(|context| {
        let poll = future.as_mut().poll(context);
        turns += usize::from(poll.is_pending());
        poll
    });
    (outcome.await, turns)
}

/// A server that answers `large` with `bytes` bytes, which compress very well.
async fn server_of_long_replies(compressor: Compressor, bytes: usize) -> ScriptedServer {
    let server = server(&[compressor]).await;
    let reply = doc! { "ok": 1, "text": "x".repeat(bytes) };
    let rule = Matcher::command("large").then(Action::Reply(reply));
    server.script().add(rule.then(Action::Compress(compressor)));
    server
}

#[tokio::test]
async fn other_tasks_run_while_a_long_reply_is_decompressed() {
    const BYTES: usize = 24 * STEP;
    for compressor in Compressor::ALL {
        let server = server_of_long_replies(compressor, BYTES).await;
        let uri = format!("{}&compressors={}", server.uri(), compressor.name());
        let mut connection = connect(&uri).await;
        let large = doc! { "large": 1 };
        let (reply, turns) = turns(connection.run_command("app", &large)).await;
        let reply = reply.expect("a reply");
        assert_eq!(reply.get_str("text").map(str::len).ok(), Some(BYTES));
        assert!(turns >= 24, "{compressor:?}: {turns}");
    }
}

#[tokio::test]
async fn other_tasks_run_while_a_long_command_is_compressed() {
    for compressor in Compressor::ALL {
        let server = server(&[compressor]).await;
        let swallow = Matcher::command("swallow").then(Action::Reply(doc! { "ok": 1 }));
        server.script().add(swallow);
        let uri = format!("{}&compressors={}", server.uri(), compressor.name());
        let mut connection = connect(&uri).await;
        let text = "x".repeat(24 * STEP);
        let command = doc! { "swallow": text };
        let (reply, turns) = turns(connection.run_command("app", &command)).await;
        assert_eq!(reply.expect("a reply").get_i32("ok").ok(), Some(1));
        assert!(turns >= 24, "{compressor:?}: {turns}");
        let seen = server.look(|seen| {
            let seen = seen.commands("swallow").next().expect("one");
            (seen.compressor, seen.command.clone())
        });
        assert_eq!(seen.0, Some(compressor));
        assert_eq!(
            seen.1.get_str("swallow").ok(),
            command.get_str("swallow").ok()
        );
    }
}

/// A command is cancelled at each point, also during decompression. The next command gets its own
/// reply.
#[tokio::test]
async fn a_long_decompression_can_be_cancelled_at_each_yield() {
    for compressor in Compressor::ALL {
        let server = server_of_long_replies(compressor, 3 * STEP).await;
        let uri = format!("{}&compressors={}", server.uri(), compressor.name());
        let large = doc! { "large": 1 };
        for last in 1.. {
            let mut connection = connect(&uri).await;
            let mut left = last;
            let given_up = {
                let mut future = pin!(connection.run_command("app", &large));
                let outcome = poll_fn(|context| {
                    left -= 1;
                    match future.as_mut().poll(context) {
                        Poll::Pending if left == 0 => Poll::Ready(None),
                        poll => poll.map(Some),
                    }
                });
                outcome.await.map(drop).is_none()
            };
            let own = doc! { "echo": "own" };
            let reply = connection.run_command("app", &own).await;
            assert_eq!(reply.expect("a reply").get_str("echo").ok(), Some("own"));
            if !given_up {
                assert!(last > 3, "{compressor:?}: {last}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn clients_without_a_pool_negotiate_and_monitors_do_not() {
    let server = server(&Compressor::ALL).await;
    let uri = format!("{}&compressors={ALL}", server.uri());
    let options = ClientOptions::parse(&uri).expect("valid");
    let mut client = SingleClient::new(options.clone()).expect("a client");
    client
        .run_command("admin", &doc! { "ping": 1 })
        .await
        .expect("a reply");
    assert_eq!(seen(&server, "ping"), [Some(Compressor::Zstd)]);

    let topology = Topology::builder(options).build().expect("a topology");
    topology.connect().expect("connecting");
    topology
        .select(&Criterion::write())
        .await
        .expect("a server");
    topology.close().await;
    let of_monitor = server.look(|seen| {
        let hello = seen
            .log
            .iter()
            .rfind(|seen| seen.command.contains_key("client"));
        hello
            .expect("a hello")
            .command
            .get_array("compression")
            .ok()
            .cloned()
    });
    assert_eq!(of_monitor, Some(Vec::new()));
}

#[tokio::test]
async fn a_real_server_supports_each_compressor() {
    let real = RealServer::shared();
    let packed = real.database("packed");
    for compressors in ["snappy", "zlib", "zlib&zlibCompressionLevel=9", "zstd", ALL] {
        let uri = format!("{}&compressors={compressors}", real.uri());
        let mut connection = connect(&uri).await;
        let negotiated = connection.description().compressor;
        let first = compressors.split([',', '&']).next();
        assert_eq!(negotiated.map(|own| own.as_str()), first);
        let text = "compressible ".repeat(10_000);
        let documents: Vec<Document> = (0..10).map(|id| doc! { "n": id, "text": &text }).collect();
        let insert = doc! { "insert": "things", "documents": documents };
        let reply = connection
            .run_command(&packed, &insert)
            .await
            .expect("inserted");
        assert_eq!(reply.get_i32("n").ok(), Some(10));
        let find = doc! { "find": "things", "filter": { "n": 7 }, "singleBatch": true };
        let reply = connection.run_command(&packed, &find).await.expect("found");
        assert!(reply.raw().as_bytes().len() > text.len());
    }
}
