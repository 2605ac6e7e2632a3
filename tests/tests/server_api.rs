//! The stable API: if declared, its fields are in every command, else in none.
//!
//! Specification: stable API.

use bson::{Document, doc};
use mongo_core::ClientOptions;
use mongo_core::handshake::{ServerApi, ServerApiVersion};
use mongo_core::net::{SingleClient, Topology};
use mongo_core::select::Criterion;
use mongo_testkit::{Mechanism, RealServer, ScriptedServer, User};

const FIELDS: [&str; 3] = ["apiVersion", "apiStrict", "apiDeprecationErrors"];

fn strict() -> ServerApi {
    let mut api = ServerApi::new(ServerApiVersion::V1);
    api.strict = Some(true);
    api
}

/// The API fields of every command that a server has received.
fn declared(server: &ScriptedServer) -> Vec<(String, Document)> {
    server.look(|seen| {
        let log = seen.log.iter();
        log.map(|seen| {
            assert!(!seen.legacy, "{} came as OP_QUERY", seen.name);
            let fields = seen.command.iter();
            let fields = fields.filter(|(name, _)| FIELDS.contains(&name.as_str()));
            let fields = fields.map(|(name, value)| (name.clone(), value.clone()));
            (seen.name.clone(), fields.collect())
        })
        .collect()
    })
}

/// Checks that each command declares exactly this, and that each hello is not a legacy one.
fn assert_declared(server: &ScriptedServer, wanted: &Document) {
    for (name, fields) in declared(server) {
        assert_eq!(fields, *wanted, "{name}");
        assert_ne!(name.to_lowercase(), "ismaster");
    }
    // A parsed document hides a duplicate field.
    let (times, commands) = server.look(|seen| {
        let received = seen.connections.values().map(|own| &own.received);
        let names = received.flat_map(|bytes| bytes.windows(b"\x02apiVersion\0".len()));
        let times = names.filter(|name| *name == b"\x02apiVersion\0").count();
        (times, seen.log.len())
    });
    assert_eq!(times, commands);
}

async fn server() -> ScriptedServer {
    let user = User::new("app", "pencil").mechanisms(&[Mechanism::ScramSha1]);
    ScriptedServer::builder()
        .user(user)
        .record_bytes()
        .start()
        .await
}

macro_rules! on_backend {
    ($name:ident, $backend:ident) => {
        mod $name {
            use super::*;

            fn pool(uri: &str, api: Option<ServerApi>) -> $backend::Pool {
                let mut config = $backend::Config::from_url(uri);
                config.server_api = api;
                let pool = config.create_pool(Some($backend::Runtime::Tokio1));
                pool.expect("a pool")
            }

            #[tokio::test]
            async fn every_command_declares_the_server_api() {
                let mut all = strict();
                all.deprecation_errors = Some(false);
                for (api, wanted) in [
                    (
                        ServerApi::new(ServerApiVersion::V1),
                        doc! { "apiVersion": "1" },
                    ),
                    (strict(), doc! { "apiVersion": "1", "apiStrict": true }),
                    (
                        all,
                        doc! {
                            "apiVersion": "1", "apiStrict": true, "apiDeprecationErrors": false,
                        },
                    ),
                ] {
                    let server = server().await;
                    let pool = pool(&server.uri_for("app", "pencil"), Some(api));
                    let mut connection = pool.get().await.expect("a connection");
                    let documents: Vec<_> = (0..3).map(|n| doc! { "_id": n }).collect();
                    for command in [
                        doc! { "insert": "c", "documents": documents },
                        doc! { "find": "c", "batchSize": 1 },
                    ] {
                        let reply = connection.run_command("shop", &command).await;
                        let reply = reply.expect("a reply").to_document().expect("a document");
                        if let Ok(cursor) = reply.get_document("cursor") {
                            let id = cursor.get_i64("id").expect("an open cursor");
                            let more = doc! { "getMore": id, "collection": "c" };
                            connection.run_command("shop", &more).await.expect("more");
                        }
                    }
                    let names: Vec<_> = declared(&server)
                        .into_iter()
                        .map(|(name, _)| name)
                        .collect();
                    let expected = [
                        "hello",
                        "saslStart",
                        "saslContinue",
                        "insert",
                        "find",
                        "getMore",
                    ];
                    assert_eq!(names, expected);
                    assert_declared(&server, &wanted);
                }
            }

            #[tokio::test]
            async fn commands_are_unchanged_without_a_server_api() {
                let server = ScriptedServer::start().await;
                let pool = pool(&server.uri(), None);
                let mut connection = pool.get().await.expect("a connection");
                let own = doc! { "ping": 1, "apiVersion": "1" };
                connection
                    .run_command("admin", &own)
                    .await
                    .expect("a reply");
                let expected = [
                    ("isMaster".to_owned(), doc! {}),
                    ("ping".to_owned(), doc! { "apiVersion": "1" }),
                ];
                assert_eq!(declared(&server), expected);
            }

            #[tokio::test]
            async fn a_real_server_accepts_the_server_api() {
                let pool = pool(&RealServer::shared().uri(), Some(strict()));
                let mut connection = pool.get().await.expect("a connection");
                let ping = doc! { "ping": 1 };
                connection
                    .run_command("admin", &ping)
                    .await
                    .expect("a reply");
            }
        }
    };
}

on_backend!(deadpool, mongo_deadpool);
on_backend!(bb8, mongo_bb8);

fn options(server: &ScriptedServer) -> ClientOptions {
    let mut options = ClientOptions::parse(&server.uri_for("app", "pencil")).expect("options");
    options.server_api = Some(strict());
    options
}

#[tokio::test(start_paused = true)]
async fn monitors_declare_the_server_api() {
    let server = server().await;
    let topology = Topology::new(options(&server)).expect("a topology");
    topology.connect().expect("connected");
    topology
        .select(&Criterion::write())
        .await
        .expect("a server");
    server
        .wait_for("another hello", |seen| seen.hellos() > 1)
        .await;
    topology.close().await;
    assert_declared(&server, &doc! { "apiVersion": "1", "apiStrict": true });
}

/// One connection is checked before and after it has authenticated.
#[tokio::test(start_paused = true)]
async fn a_client_without_monitors_declares_the_server_api_once() {
    let server = server().await;
    let mut client = SingleClient::new(options(&server)).expect("a client");
    let ping = doc! { "ping": 1 };
    for _ in 0..3 {
        client.run_command("admin", &ping).await.expect("a reply");
        tokio::time::sleep(std::time::Duration::from_secs(100)).await;
    }
    assert!(server.look(|seen| seen.hellos()) > 1);
    assert_declared(&server, &doc! { "apiVersion": "1", "apiStrict": true });
}

#[test]
fn a_connection_string_cannot_declare_the_server_api() {
    for name in FIELDS.into_iter().chain(["serverApi"]) {
        let options = ClientOptions::parse(&format!("mongodb://h/?{name}=1")).expect("options");
        assert_eq!(options.server_api, None);
        assert_eq!(options.warnings().len(), 1);
    }
}
