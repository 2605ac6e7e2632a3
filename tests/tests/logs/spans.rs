//! Spans of check-outs, and their contents.

use mongo_core::bson::doc;
use mongo_core::pools::Backend;
use mongo_core::pools::Pools;
use mongo_testkit::{Deployment, User};
use tracing::{Instrument, Level, debug_span, subscriber};

use crate::{Capture, Line};

fn field<'a>(line: &'a Line, name: &str) -> Option<&'a str> {
    line.fields.get(name).map(|text| &**text)
}

async fn commands_are_in_the_span_of_their_check_out<B: Backend<Config: Default>>() {
    let capture = Capture::default();
    let _guard = subscriber::set_default(capture.clone());
    let set = Deployment::replica_set("rs").members(1).start().await;
    let pools = Pools::<B>::new(&set.uri()).expect("pools");
    let ping = doc! { "ping": 1 };
    async {
        // A new connection, then an idle one.
        for _ in 0..2 {
            let mut connection = pools.get().await.expect("a connection");
            connection
                .run_command("admin", &ping)
                .await
                .expect("a pong");
            connection
                .run_command("admin", &ping)
                .instrument(debug_span!(target: "application", "inner"))
                .await
                .expect("a pong");
        }
    }
    .instrument(debug_span!(target: "application", "request"))
    .await;
    pools.close().await;

    let spans = capture.of("mongodb::span");
    let names: Vec<_> = spans.iter().map(Line::message).collect();
    let use_of_one = ["mongodb.check_out", "mongodb.command", "mongodb.command"];
    assert_eq!(names, [use_of_one, use_of_one].concat());
    let parents: Vec<_> = spans.iter().map(|span| capture.parent_of(span)).collect();
    let parents: Vec<_> = parents.iter().flatten().map(Line::message).collect();
    let within = ["request", "mongodb.check_out", "inner"];
    assert_eq!(parents, [within, within].concat());
    for span in spans.iter().filter(|span| span.message() == use_of_one[0]) {
        assert_eq!(span.level, Some(Level::DEBUG));
        assert_eq!(field(span, "db.system.name"), Some("mongodb"));
        assert_eq!(field(span, "server.address"), Some("127.0.0.1"));
        span.has(&["server.port", "db.client.connection.wait_time"]);
        let ids = [
            "db.mongodb.driver_connection_id",
            "db.mongodb.server_connection_id",
        ];
        span.has(&ids);
        let of_command = spans.iter().find(|command| {
            command.message() == use_of_one[1] && field(command, ids[0]) == field(span, ids[0])
        });
        assert!(of_command.is_some(), "{spans:?}");
        assert_eq!(field(span, "otel.status_code"), None);
    }
    set.shutdown().await;
}

async fn a_check_out_that_fails_says_why<B: Backend<Config: Default>>() {
    let capture = Capture::default();
    let _guard = subscriber::set_default(capture.clone());
    let user = User::new("app", "pencil");
    let set = Deployment::replica_set("rs").members(1).user(user).start();
    let set = set.await;
    let pools = Pools::<B>::new(&set.uri_for("app", "n0t-it")).expect("pools");
    pools.get().await.expect_err("refused");
    pools.close().await;
    let [span] = &capture.of("mongodb::span")[..] else {
        panic!("{:?}", capture.lines());
    };
    assert_eq!(field(span, "otel.status_code"), Some("ERROR"));
    let message = field(span, "exception.message").expect("a message");
    assert!(message.contains("authentication"), "{message}");
    assert!(!message.contains("n0t-it"), "{message}");
    set.shutdown().await;
}

#[tokio::test]
async fn commands_are_in_the_span_of_their_check_out_on_deadpool() {
    commands_are_in_the_span_of_their_check_out::<mongo_deadpool::Pool>().await;
}

#[tokio::test]
async fn commands_are_in_the_span_of_their_check_out_on_bb8() {
    commands_are_in_the_span_of_their_check_out::<mongo_bb8::Pool>().await;
}

#[tokio::test]
async fn a_failed_check_out_records_its_error_on_deadpool() {
    a_check_out_that_fails_says_why::<mongo_deadpool::Pool>().await;
}

#[tokio::test]
async fn a_failed_check_out_records_its_error_on_bb8() {
    a_check_out_that_fails_says_why::<mongo_bb8::Pool>().await;
}
