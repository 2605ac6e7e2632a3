//! The length of logged documents. It holds for the whole process: each test of it is a process of
//! its own.

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

/// Tells [`child`] the length that the environment asks for.
const CHILD: &str = "MONGO_LOGS_LENGTH_CHILD";

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
        let mut child = Command::new(std::env::current_exe().expect("a path"));
        child
            .args(["length::child", "--exact", "--nocapture"])
            .env(CHILD, length.to_string())
            .env_remove(VARIABLE)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if let Some(variable) = variable {
            child.env(VARIABLE, variable);
        }
        let output = timeout(LIMIT + Duration::from_secs(10), child.output()).await;
        let output = output.expect("in time").expect("a child");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{variable:?}: {told}");
        let ran = String::from_utf8_lossy(&output.stdout);
        assert!(ran.contains("1 passed"), "{variable:?}: {ran}");
    }
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
