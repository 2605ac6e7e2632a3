//! The web services, run as programs, from the view of users and operators.

mod browser;
mod service;
mod status;
#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use bson::{Document, doc};
use mongo_testkit::{Action, Deployment, Matcher, User};
use service::Service;
use status::{shows_a_failover, shows_hostile_texts_as_text};

/// Longer than the examples' time limit of a check-out, and shorter than the pools' default.
const LONG: Duration = Duration::from_secs(15);

async fn serves_and_ends(example: &str) {
    let service = Service::start(example, None);
    assert_eq!(service.get("/livez").status, 200);
    service.wait_for("/readyz", 200);
    // The request is idempotent.
    for _ in 0..2 {
        let put = service.ask("PUT", "/notes/1", r#"{ "text": "<first>" }"#);
        assert_eq!(put.status, 204, "{}", put.body);
    }
    let notes = service.get("/notes");
    assert_eq!(
        (notes.status, notes.body.as_str()),
        (200, r#"[{"text":"<first>"}]"#)
    );
    let metrics = service.get("/metrics").body;
    for metric in [
        "mongodb_client_connection_created{",
        "db_client_operation_duration_count{",
        "db_client_connection_wait_time_bucket{",
        "mongodb_client_topology_writable 1",
    ] {
        assert!(metrics.contains(metric), "{metric} in:\n{metrics}");
    }
    for path in ["/status", "/metrics", "/readyz", "/livez"] {
        let public = Service::ask_at(&service.address, "GET", path, "");
        assert_eq!(public.status, 404, "{path} is for operators");
    }

    service.terminate();
    // While it drains, it is not ready, but still serves requests.
    assert_eq!(service.wait_for("/readyz", 503).body, "draining");
    assert_eq!(service.get("/notes").status, 200);
    let log = service.ended();
    let nested = log.lines().find(|line| {
        let spans = ["request{", "mongodb.check_out{", "mongodb.command{"];
        let places = spans.map(|span| line.find(span));
        places.is_sorted() && places[0].is_some()
    });
    assert!(nested.is_some(), "no nested spans in:\n{log}");
}

async fn says_when_to_come_back(example: &str) {
    let set = Deployment::replica_set("rs").members(2).start().await;
    let service = Service::start(example, Some(&set.uri()));
    service.wait_for("/readyz", 200);
    set.step_down(0);
    assert_eq!(
        service.wait_for("/readyz", 503).body,
        "no server is writable"
    );
    assert_eq!(service.get("/livez").status, 200, "no reason to restart it");
    let begun = Instant::now();
    let refused = service.get("/notes");
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert!(begun.elapsed() < LONG, "{:?}", begun.elapsed());
    assert!(
        refused.headers.contains("retry-after: 1"),
        "{}",
        refused.headers
    );
    assert_eq!(refused.body, "the database is not available\n");
    set.elect(1);
    service.wait_for("/readyz", 200);
    assert_eq!(service.get("/notes").status, 200);
    service.terminate();
    let log = service.ended();
    assert!(log.contains("the database failed a request"), "{log}");
}

async fn tells_of_a_refused_write(example: &str) {
    let set = Deployment::replica_set("rs").members(1).start().await;
    let service = Service::start(example, Some(&set.uri()));
    service.wait_for("/readyz", 200);
    let put = || service.ask("PUT", "/notes/1", r#"{ "text": "first" }"#);
    let answer_once = |reply: Document| {
        let update = Matcher::command("update").once();
        set.server(0)
            .script()
            .add(update.then(Action::Reply(reply)));
    };
    let invalid = doc! { "index": 0, "code": 121, "errmsg": "Document failed validation" };
    answer_once(doc! { "ok": 1, "n": 0, "writeErrors": [invalid] });
    let refused = put();
    assert_eq!(
        (refused.status, refused.body.as_str()),
        (500, "the request failed\n")
    );
    assert!(
        !refused.headers.contains("retry-after"),
        "{}",
        refused.headers
    );
    let unsure = doc! { "code": 262, "errmsg": "operation exceeded time limit" };
    answer_once(doc! { "ok": 1, "n": 1, "writeConcernError": unsure });
    let unsure = put();
    assert_eq!(unsure.status, 503, "{}", unsure.body);
    assert!(
        unsure.headers.contains("retry-after: 1"),
        "{}",
        unsure.headers
    );
    assert_eq!(put().status, 204);
    assert_eq!(
        set.documents("service.notes"),
        [doc! { "_id": "1", "text": "first" }]
    );
    service.terminate();
    let log = service.ended();
    assert!(log.contains("Document failed validation"), "{log}");
}

async fn does_not_start_with_a_wrong_password(example: &str) {
    let set = Deployment::replica_set("rs").members(1);
    let set = set.user(User::new("app", "secret")).start().await;
    let log = Service::fails(example, &set.uri_for("app", "wr0ng"));
    let error = log.lines().last().unwrap_or_default();
    assert!(error.starts_with("Error: authentication: "), "{log}");
    assert!(!log.contains("wr0ng"), "{log}");
    let service = Service::start(example, Some(&set.uri_for("app", "secret")));
    service.wait_for("/readyz", 200);
}

async fn starts_before_its_database(example: &str) {
    let set = Deployment::replica_set("rs").members(1).start().await;
    set.kill(0).await;
    let uri = format!("{}&heartbeatFrequencyMS=500", set.uri());
    let service = Service::start(example, Some(&uri));
    assert_eq!(service.get("/readyz").status, 503);
    set.restart(0).await;
    set.elect(0);
    service.wait_for("/readyz", 200);
    assert_eq!(service.get("/notes").status, 200);
    service.terminate();
    let log = service.ended();
    assert!(log.contains("the credential is not verified"), "{log}");
}

async fn cuts_off_who_stalls(example: &str) {
    let settings = [("DRAIN", "0s"), ("GRACE", "1s")];
    let service = Service::start_with(example, None, &settings);
    let stalled = service.stall("/notes/1");
    service.terminate();
    let log = service.ended();
    assert!(log.contains("requests are cut off"), "{log}");
    drop(stalled);
}

async fn ends_at_once_when_asked_twice(example: &str) {
    let mut service = Service::start_with(example, None, &[("DRAIN", "10min")]);
    service.wait_for("/readyz", 200);
    service.terminate();
    service.wait_for("/readyz", 503);
    service.terminate();
    assert_eq!(service.end().code(), Some(1));
}

macro_rules! each_service {
    ($($service:ident),* : $tests:tt) => { $(
        mod $service {
            const EXAMPLE: &str = stringify!($service);

            each_test! $tests
        }
    )* };
}

macro_rules! each_test {
    ($($test:ident),*) => { $(
        #[tokio::test(flavor = "multi_thread")]
        async fn $test() {
            super::$test(EXAMPLE).await;
        }
    )* };
}

each_service!(actix, axum: {
    serves_and_ends,
    says_when_to_come_back,
    tells_of_a_refused_write,
    does_not_start_with_a_wrong_password,
    starts_before_its_database,
    cuts_off_who_stalls,
    ends_at_once_when_asked_twice,
    shows_a_failover,
    shows_hostile_texts_as_text
});
