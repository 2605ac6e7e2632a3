//! The service, on the test kit's servers and on a real one.

#[path = "../../tests/support/process.rs"]
mod process;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use bson::doc;
use mongo_testkit::{Action, Deployment, Matcher, RealServer, ScriptedServer, User};
use process::Process;
use rocket::figment::Figment;
use rocket::http::Status;
use rocket::local::asynchronous::Client;

fn figment(url: &str) -> Figment {
    rocket::Config::figment()
        .merge(("log_level", "off"))
        .merge(("databases.notes.url", url))
}

async fn client(figment: Figment) -> Client {
    let client = Client::untracked(mongo_example_rocket::service(figment)).await;
    client.expect("it ignites")
}

/// The program, configured by the environment.
fn program(databases: &str) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_mongo-example-rocket"));
    program
        .env("ROCKET_DATABASES", databases)
        .env("ROCKET_PORT", "0")
        .env("ROCKET_CLI_COLORS", "false");
    program
}

async fn stores_notes(url: &str) {
    let client = client(figment(url)).await;
    let put = |id: &str, text: &str| {
        let put = client.put(format!("/notes/{id}"));
        put.body(format!(r#"{{ "text": "{text}" }}"#))
    };
    assert_eq!(
        put("2", "second").dispatch().await.status(),
        Status::NoContent
    );
    for text in ["before", "first"] {
        assert_eq!(put("1", text).dispatch().await.status(), Status::NoContent);
    }
    let notes = client.get("/notes").dispatch().await.into_string().await;
    let wanted = r#"[{"text":"first"},{"text":"second"}]"#;
    assert_eq!(notes.as_deref(), Some(wanted));
    client.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn notes_are_stored() {
    let set = Deployment::replica_set("rs").members(1).start().await;
    stores_notes(&set.uri()).await;
    assert_eq!(set.documents("rocket.notes").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn notes_are_stored_on_a_real_server() {
    // The program names its database.
    let server = RealServer::builder().sole_use().start();
    stores_notes(&server.uri()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_fails_at_ignition() {
    let server = ScriptedServer::builder().user(User::new("app", "secret"));
    let server = server.start().await;
    let real = RealServer::shared_with_auth();
    for url in [server.uri_for("app", "wr0ng"), real.uri_for("app", "wr0ng")] {
        let ignited = Client::untracked(mongo_example_rocket::service(figment(&url))).await;
        let error = ignited.expect_err("a wrong password");
        let kind = format!("{:?}", error.kind());
        assert!(kind.contains("FailedFairings"), "{kind}");

        let begun = Instant::now();
        let program = Process::start(&mut program(&format!(r#"{{notes={{url="{url}"}}}}"#)));
        let (status, output) = program.end();
        assert!(!status.success(), "{status}");
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{:?}",
            begun.elapsed()
        );
        let wanted = "failed to initialize database: authentication: ";
        assert!(output.contains(wanted), "{output}");
        assert!(!output.contains("wr0ng"), "{output}");
    }
}

#[test]
fn an_unknown_key_is_named() {
    let url = "mongodb://app:s3cret@localhost/";
    let databases = format!(r#"{{notes={{url="{url}",max_conections=4}}}}"#);
    let (status, output) = Process::start(&mut program(&databases)).end();
    assert!(!status.success(), "{status}");
    assert!(output.contains("max_conections"), "{output}");
    assert!(!output.contains("s3cret"), "{output}");
}

/// Two requests for one connection, with a command that takes longer than the time-out.
#[tokio::test(flavor = "multi_thread")]
async fn an_exhausted_pool_is_a_503_after_the_timeout() {
    let server = ScriptedServer::start().await;
    let figment = figment(&server.uri())
        .merge(("databases.notes.max_connections", 1))
        .merge(("databases.notes.connect_timeout", 1));
    let client = client(figment).await;
    let slow = Matcher::command("find").once();
    let delay = Action::Delay(Duration::from_secs(3));
    server.script().add(slow.then(delay));
    let second = async {
        server
            .wait_for("a find", |seen| seen.count("find") > 0)
            .await;
        let begun = Instant::now();
        let answer = client.get("/notes").dispatch().await;
        (answer.status(), begun.elapsed())
    };
    let (first, (status, waited)) = tokio::join!(client.get("/notes").dispatch(), second);
    assert_eq!(first.status(), Status::Ok);
    assert_eq!(status, Status::ServiceUnavailable);
    let wanted = Duration::from_secs(1)..Duration::from_secs(3);
    assert!(wanted.contains(&waited), "{waited:?}");
    // The connection is free again.
    assert_eq!(client.get("/notes").dispatch().await.status(), Status::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_waits_for_a_request_in_flight() {
    let server = ScriptedServer::start().await;
    let url = format!(r#"{{notes={{url="{}"}}}}"#, server.uri());
    let mut process = Process::start(&mut program(&url));
    let address = process.after("Rocket has launched from http://");
    let slow = Matcher::command("find").once();
    let delay = Action::Delay(Duration::from_secs(1));
    server.script().add(slow.then(delay));
    let request = tokio::task::spawn_blocking(move || get(&address, "/notes"));
    server
        .wait_for("a find", |seen| seen.count("find") > 0)
        .await;
    process.signal("TERM");
    let answer = request.await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let ended = tokio::task::spawn_blocking(|| process.end()).await;
    let (status, output) = ended.expect("an end");
    assert!(status.success(), "{status}\n{output}");
    server
        .wait_for("no connection", |seen| seen.open == 0)
        .await;
}

fn get(address: &str, path: &str) -> String {
    let mut socket = TcpStream::connect(address).expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    answer
}

/// A database that is down fails a request with 503, and a write that it refuses with 500.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_says_whether_to_try_again() {
    let set = Deployment::replica_set("rs").members(1).start().await;
    let figment = figment(&set.uri()).merge(("databases.notes.connect_timeout", 1));
    let client = client(figment).await;
    let refused = doc! { "index": 0, "code": 121, "errmsg": "Document failed validation" };
    let reply = doc! { "ok": 1, "n": 0, "writeErrors": [refused] };
    let update = Matcher::command("update").once();
    set.server(0)
        .script()
        .add(update.then(Action::Reply(reply)));
    let put = || {
        client
            .put("/notes/1")
            .body(r#"{ "text": "first" }"#)
            .dispatch()
    };
    assert_eq!(put().await.status(), Status::InternalServerError);
    set.kill(0).await;
    assert_eq!(put().await.status(), Status::ServiceUnavailable);
    let get = client.get("/notes").dispatch().await;
    assert_eq!(get.status(), Status::ServiceUnavailable);
}
