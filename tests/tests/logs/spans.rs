//! Spans of check-outs, and their contents.

use mongo_core::ClientOptions;
use mongo_core::bson::doc;
use mongo_core::event::EventHandlers;
use mongo_core::operation::{OperationKind, SessionOptions, TransactionOptions};
use mongo_core::pools::Backend;
use mongo_core::pools::Pools;
use mongo_testkit::{Action, Deployment, Matcher, User};
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

/// The names and the parents of all spans.
fn tree(capture: &Capture) -> Vec<(String, String)> {
    let spans = capture.of("mongodb::span");
    let named = spans.iter().map(|span| {
        let parent = capture
            .parent_of(span)
            .map(|parent| parent.message().to_owned());
        (span.message().to_owned(), parent.unwrap_or_default())
    });
    named.collect()
}

async fn an_operation_has_a_span_over_its_attempts<B: Backend<Config: Default>>() {
    let capture = Capture::default();
    let _guard = subscriber::set_default(capture.clone());
    let set = Deployment::replica_set("rs").members(1).start().await;
    let handlers = EventHandlers::new().with_query_text(1000);
    let pools = Pools::<B>::builder(ClientOptions::parse(&set.uri()).expect("a URI"));
    let pools = pools.event_handlers(handlers).build().expect("pools");
    let data = doc! { "failCommands": ["find"], "errorCode": 262 };
    set.fail_commands(0, doc! { "times": 1 }, data);
    let find = pools.command("shop", &doc! { "find": "orders", "filter": { "a": 1 } });
    let find = find.kind(OperationKind::Read).await;
    find.map(drop).expect("the second attempt");
    let operation = "mongodb.operation".to_owned();
    let attempts = tree(&capture);
    assert_eq!(attempts[0], (operation.clone(), String::new()));
    let nested = attempts[1..].iter().map(|(name, parent)| {
        assert_eq!(*parent, operation);
        &**name
    });
    let attempt = ["mongodb.check_out", "mongodb.command"];
    assert_eq!(Vec::from_iter(nested), [attempt, attempt].concat());
    let spans = capture.of("mongodb::span");
    for (name, expected) in [
        ("otel.name", "find shop.orders"),
        ("otel.kind", "client"),
        ("db.system.name", "mongodb"),
        ("db.namespace", "shop"),
        ("db.collection.name", "orders"),
        ("db.operation.name", "find"),
        ("db.operation.summary", "find shop.orders"),
    ] {
        assert_eq!(field(&spans[0], name), Some(expected));
    }
    assert_eq!(field(&spans[0], "otel.status_code"), None, "it succeeded");
    let text = field(&spans[2], "db.query.text").expect("the text");
    assert!(
        text.contains(r#""filter":{"a":1}"#) && !text.contains("lsid"),
        "{text}"
    );
    let lsid = field(&spans[2], "db.mongodb.lsid").expect("the session");
    assert_eq!(
        lsid.split('-').map(str::len).collect::<Vec<_>>(),
        [8, 4, 4, 4, 12]
    );
    pools.close().await;
    set.shutdown().await;
}

async fn operations_of_a_transaction_are_in_its_span<B: Backend<Config: Default>>() {
    let capture = Capture::default();
    let _guard = subscriber::set_default(capture.clone());
    let set = Deployment::replica_set("rs").members(1).start().await;
    let done = Action::Reply(doc! { "ok": 1 });
    set.server(0)
        .script()
        .add(Matcher::command("commitTransaction").then(done));
    let pools = Pools::<B>::new(&set.uri()).expect("pools");
    let mut session = pools
        .start_session(SessionOptions::default())
        .expect("a session");
    session
        .start_transaction(TransactionOptions::default())
        .expect("a transaction");
    let insert = doc! { "insert": "orders", "documents": [{ "a": 1 }] };
    let write = pools.command("shop", &insert).kind(OperationKind::Write);
    write
        .session(&mut session)
        .await
        .map(drop)
        .expect("a reply");
    session.commit_transaction().await.expect("a commit");
    let ping = pools.command("admin", &doc! { "ping": 1 });
    ping.session(&mut session).await.map(drop).expect("a reply");
    let spans = capture.of("mongodb::span");
    let operations = spans
        .iter()
        .filter(|span| span.message() == "mongodb.operation");
    let operations: Vec<_> = operations
        .map(|span| {
            let parent = capture.parent_of(span);
            let parent = parent.map_or(String::new(), |parent| parent.message().to_owned());
            (
                field(span, "otel.name").unwrap_or_default().to_owned(),
                parent,
            )
        })
        .collect();
    let transaction = || "mongodb.transaction".to_owned();
    assert_eq!(
        operations,
        [
            ("insert shop.orders".to_owned(), transaction()),
            ("commitTransaction admin".to_owned(), transaction()),
            ("ping admin".to_owned(), String::new()),
        ]
    );
    drop(session);
    pools.close().await;
    set.shutdown().await;
}

#[tokio::test]
async fn an_operation_has_a_span_on_deadpool() {
    an_operation_has_a_span_over_its_attempts::<mongo_deadpool::Pool>().await;
}

#[tokio::test]
async fn an_operation_has_a_span_on_bb8() {
    an_operation_has_a_span_over_its_attempts::<mongo_bb8::Pool>().await;
}

#[tokio::test]
async fn a_transaction_has_a_span_on_deadpool() {
    operations_of_a_transaction_are_in_its_span::<mongo_deadpool::Pool>().await;
}

#[tokio::test]
async fn a_transaction_has_a_span_on_bb8() {
    operations_of_a_transaction_are_in_its_span::<mongo_bb8::Pool>().await;
}
