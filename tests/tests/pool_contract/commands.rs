//! Running commands through a pool, on the scripted server and on the real one.

use bson::{Document, doc, rawdoc};
use mongo_core::wire::{Limits, MsgFlags, OpMsg, OpMsgBuilder};
use mongo_testkit::{RealServer, ScriptedServer, User};
use serde::{Deserialize, Serialize};

use crate::{Backend, Setup};

/// Inserts, finds with a cursor over several batches, updates and deletes: with raw BSON, documents
/// and the application's own types.
async fn reads_and_writes<B: Backend>(uri: String, database: &str) {
    #[derive(Serialize)]
    struct Find<'a> {
        find: &'a str,
        filter: Document,
        sort: Document,
        #[serde(rename = "batchSize")]
        batch_size: i32,
    }
    #[derive(Deserialize)]
    struct Cursor<'a> {
        id: i64,
        ns: &'a str,
        #[serde(alias = "firstBatch", alias = "nextBatch", borrow)]
        batch: Vec<Thing<'a>>,
    }
    #[derive(Deserialize)]
    struct Found<'a> {
        #[serde(borrow)]
        cursor: Cursor<'a>,
    }
    #[derive(Debug, PartialEq, Deserialize)]
    struct Thing<'a> {
        _id: i32,
        name: &'a str,
    }

    let pool = B::build(Setup::new(uri).max_size(2));
    let mut connection = pool.get().await.expect("a connection");
    let things: Vec<_> = (0..5)
        .map(|id| doc! { "_id": id, "name": "thing" })
        .collect();
    let inserted = connection
        .run_command(database, &doc! { "insert": "things", "documents": things })
        .await
        .expect("inserted");
    assert_eq!(inserted.get_i32("n").expect("a count"), 5);

    let find = Find {
        find: "things",
        filter: doc! {},
        sort: doc! { "_id": 1 },
        batch_size: 3,
    };
    let reply = connection
        .run_command(database, &find)
        .await
        .expect("found");
    let found: Found<'_> = reply.deserialize().expect("a cursor");
    assert_eq!(found.cursor.ns, format!("{database}.things"));
    assert_eq!(
        found.cursor.batch[2],
        Thing {
            _id: 2,
            name: "thing"
        }
    );
    let more = rawdoc! { "getMore": found.cursor.id, "collection": "things" };
    let reply = connection.run_command(database, &more).await.expect("more");
    let found: Found<'_> = reply.deserialize().expect("a cursor");
    assert_eq!((found.cursor.id, found.cursor.batch.len()), (0, 2));

    let updated = connection
        .run_command(
            database,
            &doc! { "update": "things", "updates": [{ "q": { "_id": 1 }, "u": { "$set": { "name": "other" } } }] },
        )
        .await
        .expect("updated")
        .to_document()
        .expect("a document");
    assert_eq!(updated.get_i32("nModified").expect("a count"), 1);
    let deleted = connection
        .run_command(
            database,
            &doc! { "delete": "things", "deletes": [{ "q": {}, "limit": 0 }] },
        )
        .await
        .expect("deleted")
        .into_owned();
    assert_eq!(deleted.get_i32("n").expect("a count"), 5);
}

async fn command_errors_are_returned<B: Backend>(uri: String, database: &str) {
    let pool = B::build(Setup::new(uri));
    let mut connection = pool.get().await.expect("a connection");
    let unknown = connection
        .run_command(database, &doc! { "noSuchCommand": 1 })
        .await
        .expect_err("unknown");
    let command = unknown.command().expect("the server's answer");
    assert_eq!(command.code, 59, "{unknown}");
    assert_eq!(command.code_name, "CommandNotFound");
    let message = command.message.to_lowercase();
    assert!(message.contains("nosuchcommand"), "{unknown}");
    assert!(command.reply.get_f64("ok").is_ok());
    assert_eq!(unknown.server(), Some(connection.server()));
    // The connection stays usable and in the pool.
    let id = connection.id();
    drop(connection);
    let mut connection = pool.get().await.expect("a connection");
    assert_eq!(connection.id(), id);
    let ping = connection.run_command("admin", &doc! { "ping": 1 }).await;
    assert!(ping.is_ok());
}

/// Runs each test above on each kind of server.
macro_rules! on_each_server {
    ($($body:ident: $scripted:ident, $scripted_auth:ident, $real:ident, $real_auth:ident;)+) => {
        $(
            async fn $scripted<B: Backend>() {
                let server = ScriptedServer::start().await;
                $body::<B>(server.uri(), "app").await;
            }

            async fn $scripted_auth<B: Backend>() {
                let server = ScriptedServer::builder().user(User::new("app", "pencil")).start().await;
                $body::<B>(server.uri_for("app", "pencil"), "app").await;
            }

            async fn $real<B: Backend>() {
                let server = RealServer::shared();
                let database = format!("{}_{}", stringify!($real), database_suffix::<B>());
                $body::<B>(server.uri(), &server.database(&database)).await;
            }

            async fn $real_auth<B: Backend>() {
                let server = RealServer::shared_with_auth();
                let database = format!("{}_{}", stringify!($real_auth), database_suffix::<B>());
                let uri = server.uri_for("app", "pencil");
                $body::<B>(uri, &server.database(&database)).await;
            }
        )+
    };
}

/// The backends share the real servers. Each test has its own database.
fn database_suffix<B: Backend>() -> &'static str {
    match std::any::type_name::<B>().contains("deadpool") {
        true => "deadpool",
        false => "bb8",
    }
}

on_each_server! {
    reads_and_writes: scripted, scripted_with_auth, real, real_with_auth;
    command_errors_are_returned: scripted_failures, scripted_failures_with_auth, real_failures, real_failures_with_auth;
}

async fn a_caller_may_send_raw_messages<B: Backend>() {
    let server = ScriptedServer::start().await;
    let pool = B::build(Setup::new(server.uri()));
    let mut connection = pool.get().await.expect("a connection");
    let second = std::time::Duration::from_secs(5);
    let mut message = Vec::new();
    OpMsgBuilder::new(&mut message, 77, MsgFlags::CHECKSUM_PRESENT)
        .command("app", &doc! { "insert": "things" })
        .expect("BSON")
        .sequence(
            "documents",
            [&*rawdoc! { "_id": 1 }, &*rawdoc! { "_id": 2 }],
        )
        .finish(48_000_000)
        .expect("small");
    connection.send(&message, second).await.expect("sent");
    let reply = connection.receive(second).await.expect("answered");
    let reply = OpMsg::parse(reply, &Limits::default()).expect("a message");
    assert_eq!(reply.header().response_to, 77);
    assert_eq!(reply.body().get_i32("n").expect("a count"), 2);
    assert_eq!(server.documents("app.things").len(), 2);
    // No reply is owed.
    let error = connection
        .receive(second)
        .await
        .expect_err("nothing to receive");
    assert!(error.to_string().contains("no sent message"), "{error}");
    assert!(
        connection
            .run_command("admin", &doc! { "ping": 1 })
            .await
            .is_ok()
    );
}

async fn a_write_concern_error_is_visible_and_no_error<B: Backend>() {
    let server = ScriptedServer::builder()
        .rule(mongo_testkit::Matcher::command("insert").then(
            mongo_testkit::Action::write_concern_error(64, "WriteConcernTimeout", "waiting"),
        ))
        .start()
        .await;
    let pool = B::build(Setup::new(server.uri()));
    let mut connection = pool.get().await.expect("a connection");
    let reply = connection
        .run_command(
            "app",
            &doc! { "insert": "things", "documents": [{ "_id": 1 }] },
        )
        .await
        .expect("ok: 1");
    let error = reply.write_concern_error().expect("an error");
    assert_eq!((error.code, &*error.code_name), (64, "WriteConcernTimeout"));
}

async fn write_errors_are_reported<B: Backend>() {
    let server = ScriptedServer::start().await;
    let pool = B::build(Setup::new(server.uri()));
    let mut connection = pool.get().await.expect("a connection");
    let insert = doc! { "insert": "things", "documents": [{ "_id": 1 }] };
    let reply = connection.run_command("app", &insert).await.expect("ok: 1");
    reply.check_write().expect("it is new");
    let reply = connection.run_command("app", &insert).await.expect("ok: 1");
    let error = reply.check_write().expect_err("it is there already");
    assert_eq!(error.code(), Some(11000), "{error}");
    assert_eq!(
        error.server().map(ToString::to_string),
        Some(server.address().to_string())
    );
}

/// Values of bson 2 pass by serde, and documents as bytes.
async fn commands_and_replies_of_bson_2<B: Backend>() {
    let server = RealServer::shared();
    let database = server.database(&format!("bson_2_{}", database_suffix::<B>()));
    let pool = B::build(Setup::new(server.uri()));
    let mut connection = pool.get().await.expect("a connection");
    let id = bson2::oid::ObjectId::new();
    let thing = bson2::doc! {
        "_id": id,
        "integers": [1, 2_i64],
        "float": 0.5,
        "at": bson2::DateTime::from_millis(-1),
        "timestamp": bson2::Timestamp { time: 7, increment: 8 },
        "binary": bson2::Binary { subtype: bson2::spec::BinarySubtype::Uuid, bytes: vec![9; 16] },
        "decimal": bson2::Decimal128::from_bytes([3; 16]),
        "pattern": bson2::Regex { pattern: "a.b".to_owned(), options: "i".to_owned() },
        "code": bson2::Bson::JavaScriptCode("f()".to_owned()),
        "smallest": bson2::Bson::MinKey,
        "nothing": bson2::Bson::Null,
    };
    let insert = bson2::doc! { "insert": "things", "documents": [thing.clone()] };
    let reply = connection.run_command(&database, &insert).await;
    reply
        .and_then(|reply| reply.check_write())
        .expect("inserted");

    let find = bson2::doc! { "find": "things", "filter": { "_id": id } };
    let reply = connection.run_command(&database, &find).await;
    let reply = reply.expect("found");
    let by_serde: bson2::Document = reply.deserialize().expect("a document");
    let as_bytes: bson2::Document = bson2::from_slice(reply.raw().as_bytes()).expect("a document");
    for found in [by_serde, as_bytes] {
        let cursor = found.get_document("cursor").expect("a cursor");
        let batch = cursor.get_array("firstBatch").expect("a batch");
        assert_eq!(batch[..], [thing.clone().into()]);
    }
}

async fn a_unix_socket_serves_as_well<B: Backend>() {
    let server = ScriptedServer::builder().unix().start().await;
    let pool = B::build(Setup::new(server.uri()));
    let mut connection = pool.get().await.expect("a connection");
    let ping = connection.run_command("admin", &doc! { "ping": 1 }).await;
    assert!(ping.is_ok());
    assert!(connection.server().to_string().ends_with(".sock"));
}

on_both!(
    scripted,
    scripted_with_auth,
    real,
    real_with_auth,
    scripted_failures,
    scripted_failures_with_auth,
    real_failures,
    real_failures_with_auth,
    a_caller_may_send_raw_messages,
    a_write_concern_error_is_visible_and_no_error,
    write_errors_are_reported,
    commands_and_replies_of_bson_2,
    a_unix_socket_serves_as_well,
);
