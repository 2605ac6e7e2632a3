//! The messages of connections and commands, and the spans of commands.

use bson::doc;
use mongo_core::pools::{ConnectionFactory, ManagerConfig};
use mongo_core::{ClientOptions, Connection, Deadline};
use mongo_testkit::{Action, ErrorReply, Matcher, ScriptedServer, User};
use tracing::{Level, subscriber};

use crate::{Capture, Line};

/// A factory without an event handler: only the log receives events.
fn factory(uri: &str) -> ConnectionFactory {
    let options = ClientOptions::parse(uri).expect("a connection string");
    let builder = ConnectionFactory::builder(options).config(ManagerConfig::default());
    builder.build().expect("a factory")
}

pub(crate) async fn establish(uri: &str) -> Connection {
    let connection = factory(uri).establish(Deadline::never()).await;
    connection.expect("a connection")
}

async fn server() -> ScriptedServer {
    let refusal = ErrorReply::new(13, "Unauthorized", "not for s3cret");
    ScriptedServer::builder()
        .user(User::new("app", "pencil"))
        .rule(Matcher::command("drop").then(Action::Error(refusal.clone())))
        .rule(Matcher::command("createUser").then(Action::Error(refusal)))
        .start()
        .await
}

fn messages(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(Line::message).collect()
}

#[tokio::test]
async fn the_lifecycle_of_a_connection_is_logged() {
    let capture = Capture::default();
    let _guard = subscriber::set_default(capture.clone());
    let server = server().await;
    let connection = establish(&server.uri_for("app", "pencil")).await;
    drop(connection);
    let refused = factory(&server.uri_for("app", "n0t-it"));
    let refused = refused.establish(Deadline::never()).await;
    refused.expect_err("refused");
    let lines = capture.of("mongodb::connection");
    assert_eq!(
        messages(&lines),
        [
            "Connection created",
            "Connection ready",
            "Connection closed",
            "Connection created",
            "Connection closed",
        ]
    );
    for line in &lines {
        assert_eq!(line.level, Some(Level::DEBUG));
        line.has(&["serverHost", "serverPort", "driverConnectionId"]);
        assert_eq!(line.fields["user"], "app");
        assert_eq!(line.fields["serverHost"], "127.0.0.1");
    }
    lines[1].has(&["durationMS"]);
    assert_eq!(lines[2].fields["reason"], "Connection pool was closed");
    assert!(!lines[2].fields.contains_key("error"));
    let reason = "An error occurred while using the connection";
    assert_eq!(lines[4].fields["reason"], reason);
    let error = &lines[4].fields["error"];
    assert!(
        error.contains("authentication") && !error.contains("n0t-it"),
        "{error}"
    );
}

#[tokio::test]
async fn the_start_and_outcome_of_a_command_are_logged() {
    let capture = Capture::default();
    let _guard = subscriber::set_default(capture.clone());
    let server = server().await;
    let mut connection = establish(&server.uri_for("app", "pencil")).await;
    // The handshake is not logged.
    assert!(capture.of("mongodb::command").is_empty());
    let long = "é".repeat(5000);
    let echo = connection.run_command("app", &doc! { "echo": &long }).await;
    echo.expect("an echo");
    let drop = connection
        .run_command("app", &doc! { "drop": "things" })
        .await;
    drop.expect_err("refused");
    let lines = capture.of("mongodb::command");
    assert_eq!(
        messages(&lines),
        [
            "Command started",
            "Command succeeded",
            "Command started",
            "Command failed"
        ]
    );
    for (place, line) in lines.iter().enumerate() {
        assert_eq!(line.level, Some(Level::DEBUG));
        line.has(&["requestId", "driverConnectionId", "serverConnectionId"]);
        line.has(&["serverHost", "serverPort"]);
        assert!(!line.fields.contains_key("serviceId"));
        assert_eq!(line.fields["databaseName"], "app");
        let name = if place < 2 { "echo" } else { "drop" };
        assert_eq!(line.fields["commandName"], name);
        if place % 2 == 1 {
            line.has(&["durationMS"]);
            assert_eq!(
                line.fields["requestId"],
                lines[place - 1].fields["requestId"]
            );
        }
    }
    let command = &lines[0].fields["command"];
    assert!(
        command.starts_with(r#"{"echo":"éé"#) && command.ends_with("é..."),
        "{command}"
    );
    assert_eq!(command.chars().count(), 1003);
    assert_eq!(lines[1].fields["reply"].chars().count(), 1003);
    assert_eq!(
        lines[2].fields["command"],
        r#"{"drop":"things","$db":"app"}"#
    );
    let failure = &lines[3].fields["failure"];
    assert!(
        failure.contains("s3cret") && failure.contains("13"),
        "{failure}"
    );
}

#[tokio::test]
async fn a_sensitive_command_is_redacted() {
    let capture = Capture::default();
    let _guard = subscriber::set_default(capture.clone());
    let server = server().await;
    let mut connection = establish(&server.uri_for("app", "pencil")).await;
    let create = doc! { "createUser": "other", "pwd": "s3cret", "roles": [] };
    connection
        .run_command("app", &create)
        .await
        .expect_err("refused");
    let lines = capture.of("mongodb::command");
    assert_eq!(messages(&lines), ["Command started", "Command failed"]);
    assert_eq!(lines[0].fields["command"], "{}");
    let shown = format!("{:?}", capture.lines());
    for secret in ["s3cret", "pencil"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    // It has no span either.
    assert!(capture.of("mongodb::span").is_empty());
}

#[tokio::test]
async fn a_command_has_a_span_with_the_attributes_of_open_telemetry() {
    let capture = Capture::default();
    let _guard = subscriber::set_default(capture.clone());
    let server = server().await;
    let mut connection = establish(&server.uri_for("app", "pencil")).await;
    let find = doc! { "find": "things", "filter": { "a": "s3cret" } };
    connection
        .run_command("app", &find)
        .await
        .expect("a cursor");
    connection
        .run_command("admin", &doc! { "ping": 1 })
        .await
        .expect("an answer");
    let drop = connection
        .run_command("app", &doc! { "drop": "things" })
        .await;
    drop.expect_err("refused");
    let lines = capture.of("mongodb::span");
    assert_eq!(messages(&lines), ["mongodb.command"; 3]);
    let expected = [
        ("find", "app", Some("things"), "find app.things"),
        ("ping", "admin", None, "ping admin"),
        ("drop", "app", Some("things"), "drop app.things"),
    ];
    for (line, (name, database, collection, summary)) in lines.iter().zip(expected) {
        assert_eq!(line.level, Some(Level::DEBUG));
        let field = |name: &str| line.fields.get(name).map(|text| &**text);
        for key in ["otel.name", "db.operation.name", "db.command.name"] {
            assert_eq!(field(key), Some(name), "{key}");
        }
        assert_eq!(field("otel.kind"), Some("client"));
        assert_eq!(field("db.system.name"), Some("mongodb"));
        assert_eq!(field("db.namespace"), Some(database));
        assert_eq!(field("db.collection.name"), collection);
        assert_eq!(field("db.query.summary"), Some(summary));
        assert_eq!(field("server.address"), Some("127.0.0.1"));
        assert_eq!(
            field("server.port"),
            server.port().map(|port| port.to_string()).as_deref()
        );
        assert_eq!(field("network.transport"), Some("tcp"));
        line.has(&[
            "db.mongodb.driver_connection_id",
            "db.mongodb.server_connection_id",
        ]);
        let failed = name == "drop";
        assert_eq!(field("otel.status_code"), failed.then_some("ERROR"));
        assert_eq!(field("db.response.status_code"), failed.then_some("13"));
        assert_eq!(field("exception.message").is_some(), failed);
    }
    // They do not contain the filter.
    assert!(!format!("{:?}", &lines[..2]).contains("s3cret"));
}

/// A plain pool has one host.
#[test]
fn unused_hosts_are_logged() {
    let capture = Capture::default();
    let _guard = subscriber::set_default(capture.clone());
    for (uri, unused) in [
        ("mongodb://a.test", None),
        ("mongodb://a.test,b.test:5", Some("1 more")),
        (
            "mongodb://a.test,b.test,c.test/?replicaSet=rs",
            Some("2 more"),
        ),
    ] {
        factory(uri);
        let told = capture.of("mongodb::connection");
        let told = told.iter().find(|line| line.message().contains("not used"));
        match unused {
            None => assert!(told.is_none(), "{told:?}"),
            Some(unused) => {
                let lines = capture.of("mongodb::connection");
                let line = lines.last().expect("a warning");
                assert_eq!(line.level, Some(Level::WARN));
                let text = line.message();
                assert!(
                    text.contains("a.test:27017") && text.contains(unused),
                    "{text}"
                );
            }
        }
    }
}
