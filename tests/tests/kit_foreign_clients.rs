//! The kit's servers with independent clients: the official `mongodb` crate and PyMongo handshake,
//! authenticate, read and write. Nothing is skipped: if a server or PyMongo is missing, the test
//! fails with instructions.

use std::time::Duration;

use futures_util::TryStreamExt;
use mongo_testkit::{
    Action, Matcher, Mechanism, RealServer, Rule, ScriptedServer, ScriptedServerBuilder, User,
    tools,
};
use mongodb::bson::{Document, doc};
use mongodb::error::ErrorKind;
use mongodb::options::ClientOptions;
use mongodb::{Client, Collection};
use tokio::process::Command;
use tokio::time::timeout;

/// The time limit for a client.
const BOUND: Duration = Duration::from_secs(60);
/// The URI options that choose each mechanism. The first one negotiates.
const MECHANISMS: [&str; 3] = [
    "",
    "&authMechanism=SCRAM-SHA-1",
    "&authMechanism=SCRAM-SHA-256",
];

// The expected outcomes of a URI.
const WORKS: &str = "works";
const WRONG_PASSWORD: &str = "wrong-password";

/// A URI, and its expected outcome.
type Case = (String, &'static str);

// The databases of the two clients, which share the real servers.
const OFFICIAL: &str = "kit_official";
const PYMONGO: &str = "kit_pymongo";

/// Runs `tests/pymongo/roundtrip.py` in a database.
async fn pymongo(database: &str, cases: &[Case]) {
    let python = tools::pymongo_python().unwrap_or_else(|error| panic!("{error}"));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/pymongo/roundtrip.py");
    let mut command = Command::new(python);
    command.args(["-B", script, database]).kill_on_drop(true);
    let lines = cases.iter();
    let lines = lines.map(|(uri, expectation)| format!("{uri} {expectation}\n"));
    command.env("CASES", lines.collect::<String>());
    let output = timeout(BOUND, command.output())
        .await
        .unwrap_or_else(|_| panic!("PyMongo took over {BOUND:?} with {} URIs", cases.len()))
        .expect("start Python");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "PyMongo:\n{text}");
}

/// The same with the official crate.
async fn official(database: &str, cases: &[Case]) {
    for (uri, expectation) in cases {
        let hosts = uri.rsplit('@').next().unwrap_or_default();
        let run = async {
            let mut options = ClientOptions::parse(uri).await.expect("a valid URI");
            options.app_name = Some("kit-official".to_owned());
            options.server_selection_timeout = Some(Duration::from_secs(10));
            let client = Client::with_options(options).expect("a client");
            match *expectation {
                WORKS => reads_and_writes(&client, database)
                    .await
                    .unwrap_or_else(|e| panic!("{hosts}: {e}")),
                _ => is_refused(&client, database).await,
            }
            client.shutdown().await;
        };
        let outcome = timeout(BOUND, run).await;
        assert!(outcome.is_ok(), "mongodb took over {BOUND:?} with {hosts}");
    }
}

async fn reads_and_writes(client: &Client, database: &str) -> mongodb::error::Result<()> {
    let database = client.database(database);
    database.run_command(doc! {"ping": 1}).await?;
    let collection: Collection<Document> = database.collection("numbers");
    collection.drop().await?;

    let documents = (0..250).map(|n| doc! {"_id": n, "even": n % 2 == 0});
    let inserted = collection.insert_many(documents).await?;
    assert_eq!(inserted.inserted_ids.len(), 250);
    let all: Vec<Document> = collection
        .find(doc! {})
        .batch_size(60)
        .await?
        .try_collect()
        .await?;
    assert!(
        all.iter()
            .map(|one| one.get_i32("_id").ok())
            .eq((0..250).map(Some))
    );
    let one = collection.find_one(doc! {"_id": 77}).await?;
    assert_eq!(one, Some(doc! {"_id": 77, "even": false}));
    assert_eq!(
        collection
            .count_documents(doc! {"_id": {"$in": [1, 2, 999]}})
            .await?,
        2
    );

    let error = collection
        .insert_one(doc! {"_id": 1})
        .await
        .expect_err("a duplicate");
    assert!(error.to_string().contains("E11000"), "{error}");

    let update = collection
        .update_many(doc! {"even": true}, doc! {"$inc": {"n": 2}})
        .await?;
    assert_eq!(update.modified_count, 125);
    let update = collection
        .update_one(doc! {"_id": 1000}, doc! {"$set": {"x": 1}})
        .upsert(true);
    assert!(update.await?.upserted_id.is_some());
    assert_eq!(
        collection
            .delete_many(doc! {"even": true})
            .await?
            .deleted_count,
        125
    );
    assert_eq!(collection.estimated_document_count().await?, 126);
    assert_eq!(database.list_collection_names().await?, ["numbers"]);
    collection.drop().await
}

async fn is_refused(client: &Client, database: &str) {
    let collection: Collection<Document> = client.database(database).collection("numbers");
    let error = collection
        .insert_one(doc! {})
        .await
        .expect_err("a wrong password");
    assert!(
        matches!(*error.kind, ErrorKind::Authentication { .. }),
        "{error}"
    );
}

fn with_users() -> ScriptedServerBuilder {
    ScriptedServer::builder()
        .user(User::new("app", "pencil"))
        .user(User::new("old", "pencil").mechanisms(&[Mechanism::ScramSha1]))
        .user(User::new("c:@/%", "p:@/%").database("other"))
        .user(User::new("a,b=c", "pencil"))
}

/// Every mechanism, with the right and the wrong password.
fn mechanisms(uri_for: impl Fn(&str, &str) -> String) -> Vec<Case> {
    let cases = MECHANISMS.into_iter().flat_map(|mechanism| {
        let right = format!("{}{mechanism}", uri_for("app", "pencil"));
        let wrong = format!("{}{mechanism}", uri_for("app", "pen"));
        [(right, WORKS), (wrong, WRONG_PASSWORD)]
    });
    cases.collect()
}

/// The same, and a user for whom SCRAM-SHA-1 is negotiated, and one of another database.
fn mechanisms_and_users(server: &ScriptedServer) -> Vec<Case> {
    let mut cases = mechanisms(|name, password| server.uri_for(name, password));
    cases.push((server.uri_for("old", "pencil"), WORKS));
    cases.push((
        format!("{}&authSource=other", server.uri_for("c:@/%", "p:@/%")),
        WORKS,
    ));
    cases
}

/// A rule that ignores the client's speculative authentication.
fn without_speculation() -> Rule {
    Matcher::hello().then(Action::Remove("speculativeAuthenticate".to_owned()))
}

/// Checks a scripted server's records of a client.
fn looks_right(server: &ScriptedServer, driver: &str, app_name: &str) {
    server.look(|seen| {
        assert_eq!(seen.protocol_errors, [""; 0]);
        assert!(seen.count("getMore") >= 2, "{:?}", seen.counts);
        let clients: Vec<_> = seen
            .connections
            .values()
            .filter_map(|one| one.client.as_ref())
            .collect();
        assert!(!clients.is_empty());
        for client in clients {
            let name = client
                .get_document("driver")
                .and_then(|driver| driver.get_str("name"));
            assert!(name.is_ok_and(|name| name.contains(driver)), "{client}");
            let app = client
                .get_document("application")
                .and_then(|app| app.get_str("name"));
            assert!(app.is_ok_and(|name| name == app_name), "{client}");
        }
    });
    assert_eq!(server.open_cursors(), 0);
}

#[tokio::test]
async fn official_crate_reads_and_writes_through_the_scripted_server() {
    let server = ScriptedServer::start().await;
    official(OFFICIAL, &[(server.uri(), WORKS)]).await;
    looks_right(&server, "mongo-rust-driver", "kit-official");
    server
        .wait_for("the end of all connections", |seen| seen.open == 0)
        .await;
}

#[tokio::test]
async fn official_crate_discovers_the_scripted_server() {
    // Without directConnection the client has to discover the server type.
    let server = ScriptedServer::start().await;
    official(
        OFFICIAL,
        &[(format!("mongodb://{}/", server.address()), WORKS)],
    )
    .await;
}

#[tokio::test]
async fn official_crate_authenticates_at_the_scripted_server() {
    let server = with_users().start().await;
    official(OFFICIAL, &mechanisms_and_users(&server)).await;
    assert!(server.look(|seen| seen.connections.values().any(|one| one.user.is_some())));
}

#[tokio::test]
async fn official_crate_authenticates_without_speculation() {
    // The crate does not support the long conversation, which ends with an empty exchange.
    let server = with_users().rule(without_speculation()).start().await;
    official(OFFICIAL, &mechanisms_and_users(&server)).await;
    assert!(server.look(|seen| seen.count("saslStart") > 0));
}

#[tokio::test]
async fn official_crate_uses_a_unix_socket() {
    let server = with_users().unix().start().await;
    official(OFFICIAL, &[(server.uri_for("app", "pencil"), WORKS)]).await;
}

#[tokio::test]
async fn pymongo_reads_and_writes_through_the_scripted_server() {
    let server = ScriptedServer::start().await;
    pymongo(PYMONGO, &[(server.uri(), WORKS)]).await;
    looks_right(&server, "PyMongo", "kit-pymongo");
    server
        .wait_for("the end of all connections", |seen| seen.open == 0)
        .await;
}

#[tokio::test]
async fn pymongo_discovers_the_scripted_server() {
    let server = ScriptedServer::start().await;
    pymongo(
        PYMONGO,
        &[(format!("mongodb://{}/", server.address()), WORKS)],
    )
    .await;
}

#[tokio::test]
async fn pymongo_authenticates_at_the_scripted_server() {
    let server = with_users().start().await;
    pymongo(PYMONGO, &mechanisms_and_users(&server)).await;
}

#[tokio::test]
async fn pymongo_authenticates_with_the_long_conversation() {
    let server = with_users()
        .long_scram()
        .rule(without_speculation())
        .start()
        .await;
    let mut cases = mechanisms_and_users(&server);
    // The official crate does not escape the name.
    cases.push((server.uri_for("a,b=c", "pencil"), WORKS));
    pymongo(PYMONGO, &cases).await;
}

#[tokio::test]
async fn pymongo_uses_a_unix_socket() {
    let server = with_users().unix().start().await;
    pymongo(PYMONGO, &[(server.uri_for("app", "pencil"), WORKS)]).await;
}

#[tokio::test]
async fn official_crate_reads_and_writes_through_the_real_server() {
    let server = RealServer::shared();
    official(&server.database(OFFICIAL), &[(server.uri(), WORKS)]).await;
}

#[tokio::test]
async fn official_crate_authenticates_at_the_real_server() {
    let server = RealServer::shared_with_auth();
    let cases = mechanisms(|name, password| server.uri_for(name, password));
    official(&server.database(OFFICIAL), &cases).await;
}

#[tokio::test]
async fn pymongo_reads_and_writes_through_the_real_server() {
    let server = RealServer::shared();
    pymongo(&server.database(PYMONGO), &[(server.uri(), WORKS)]).await;
}

#[tokio::test]
async fn pymongo_authenticates_at_the_real_server() {
    let server = RealServer::shared_with_auth();
    let cases = mechanisms(|name, password| server.uri_for(name, password));
    pymongo(&server.database(PYMONGO), &cases).await;
}
