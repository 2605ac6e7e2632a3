//! The length of logged documents, and of the text of queries in spans. It holds for the whole
//! process: each test of it is a process of its own.

use std::process::Stdio;
use std::time::Duration;

use bson::doc;
use mongo_core::Connection;
use mongo_core::event::set_max_logged_length;
use mongo_testkit::ScriptedServer;
use tokio::process::Command;
use tokio::time::timeout;
use tracing::subscriber;

use crate::Capture;
use crate::connections::establish;
use crate::support::LIMIT;

/// Tells [`child`] and [`query_text`] the length that the environment asks for.
const CHILD: &str = "MONGO_LOGS_LENGTH_CHILD";

const QUERY_TEXT: &str = "OTEL_RUST_INSTRUMENTATION_MONGODB_QUERY_TEXT_MAX_LENGTH";
const VARIABLE: &str = "MONGODB_LOG_MAX_DOCUMENT_LENGTH";

#[tokio::test]
async fn the_environment_and_the_setter_bound_logged_documents() {
    for (variable, length) in [
        (None, 1000),
        (Some("20"), 20),
        (Some("0"), 0),
        (Some("2500"), 2500),
        (Some("-1"), 1000),
        (Some("many"), 1000),
    ] {
        run("length::child", (VARIABLE, variable), length).await;
    }
}

/// Runs one test of this program in a process of its own, with or without a variable.
async fn run(test: &str, (name, variable): (&str, Option<&str>), expected: usize) {
    let mut child = Command::new(std::env::current_exe().expect("a path"));
    child
        .args([test, "--exact", "--nocapture"])
        .env(CHILD, expected.to_string())
        .env_remove(name)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if let Some(variable) = variable {
        child.env(name, variable);
    }
    let output = timeout(LIMIT + Duration::from_secs(10), child.output()).await;
    let output = output.expect("in time").expect("a child");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{variable:?}: {told}");
    let ran = String::from_utf8_lossy(&output.stdout);
    assert!(ran.contains("1 passed"), "{variable:?}: {ran}");
}

#[tokio::test]
async fn open_telemetry_2_the_environment_sets_the_text_of_queries() {
    for (variable, length) in [
        (None, 0),
        (Some("1024"), 1024),
        (Some("9"), 9),
        (Some("0"), 0),
    ] {
        run("length::query_text", (QUERY_TEXT, variable), length).await;
    }
}

/// Does nothing unless it is run by the test above.
#[tokio::test]
async fn query_text() {
    let Ok(length) = std::env::var(CHILD) else {
        return;
    };
    let length: usize = length.parse().expect("a length");
    let capture = Capture::default();
    let _guard = subscriber::set_default(capture.clone());
    let server = ScriptedServer::start().await;
    let pools = mongo_core::pools::Pools::<mongo_deadpool::Pool>::new(&server.uri());
    let pools = pools.expect("pools");
    let find = pools.command("db", &doc! { "find": "orders" }).await;
    find.map(drop).expect("a reply");
    let spans = capture.of("mongodb::span");
    let command = spans
        .iter()
        .find(|span| span.message() == "mongodb.command");
    let text = command.expect("a span").fields.get("db.query.text");
    let shown = r#"{"find":"orders""#.get(..length.min(16)).unwrap_or_default();
    assert_eq!(text.is_some(), length > 0, "{text:?}");
    assert!(text.is_none_or(|text| text.starts_with(shown)), "{text:?}");
    assert!(text.is_none_or(|text| text.len() <= length + 3), "{text:?}");
}

/// Does nothing unless it is run by the test above.
#[tokio::test]
async fn child() {
    let Ok(length) = std::env::var(CHILD) else {
        return;
    };
    let capture = Capture::default();
    let _guard = subscriber::set_default(capture.clone());
    let server = ScriptedServer::start().await;
    let mut connection = establish(&server.uri()).await;
    let length = length.parse().expect("a length");
    assert_eq!(logged(&capture, &mut connection).await, [Some(length); 2]);
    for length in [5, 0, 1000, 3000] {
        set_max_logged_length(length);
        let logged = logged(&capture, &mut connection).await;
        assert_eq!(logged, [Some(length); 2]);
    }
    for unbounded in [100_000, usize::MAX] {
        set_max_logged_length(unbounded);
        assert_eq!(logged(&capture, &mut connection).await, [None; 2]);
    }
}

/// After how many characters a command and its reply of 5000 are cut off in the log, if they are.
async fn logged(capture: &Capture, connection: &mut Connection) -> [Option<usize>; 2] {
    let echo = doc! { "echo": "é".repeat(5000) };
    let ran = timeout(LIMIT, connection.run_command("app", &echo)).await;
    ran.expect("in time").expect("an echo");
    let lines = capture.of("mongodb::command");
    ["command", "reply"].map(|field| {
        let documents = lines.iter().rev().find_map(|line| line.fields.get(field));
        let document = documents.expect("logged");
        let cut = document.strip_suffix("...");
        cut.map(|shown| shown.chars().count())
    })
}
