use std::time::Duration;

use mongo_core::auth::Credential;
use mongo_core::event::EventHandlers;
use mongo_core::sdam::ServerType;
use mongo_core::{ClientOptions, Connection, ServerAddress};
use mongo_testkit::{Action, Deployment, ErrorReply, Matcher, User};
use serde_json::Value;

use super::events::{MAX_TEXT, bounded};
use super::report::{MAX_POOLS, MAX_SERVERS};
use super::{Level, RecentEvent, RecentEvents, StatusPage};
use crate::backend::Pools;

const LIMIT: Duration = Duration::from_secs(20);

fn event(time: u64, level: Level, text: &str) -> RecentEvent {
    RecentEvent {
        time,
        first_time: time,
        count: 1,
        level,
        kind: "check-out failed",
        server: Some("a:1".to_owned()),
        user: None,
        text: text.to_owned(),
    }
}

/// The pools of a connection string, and their page.
fn page(uri: &str) -> (Pools, StatusPage) {
    let events = RecentEvents::default();
    let options: ClientOptions = uri.parse().expect("a connection string");
    let pools = Pools::builder(options)
        .event_handlers(events.handlers(EventHandlers::new()))
        .on_sdam(events.sdam_handler())
        .build()
        .expect("pools");
    let page = StatusPage::new(&pools, &events);
    (pools, page)
}

fn report(page: &StatusPage) -> Value {
    let resource = page.respond("GET", Some("json"));
    assert_eq!(resource.status, 200);
    serde_json::from_str(&resource.body).expect("JSON")
}

fn length(list: &Value) -> usize {
    list.as_array().map(Vec::len).unwrap_or_default()
}

#[test]
fn the_newest_events_are_kept() {
    let events = RecentEvents::new(3);
    for time in 0..10 {
        events.add(event(time, Level::Info, "changed"));
    }
    let times: Vec<_> = events
        .newest_first()
        .iter()
        .map(|event| event.time)
        .collect();
    assert_eq!(times, [9, 8, 7]);
}

#[test]
fn like_failures_of_a_minute_are_counted_together() {
    let events = RecentEvents::default();
    for (time, text) in [
        (1, "timed out after 2.0 s"),
        (2, "refused"),
        (60_001, "timed out after 13 s"),
        (120_002, "timed out after 1 s"),
    ] {
        events.add(event(time, Level::Warning, text));
    }
    let kept = events.newest_first();
    let kept: Vec<_> = kept
        .iter()
        .map(|event| {
            (
                event.first_time,
                event.time,
                event.count,
                event.text.as_str(),
            )
        })
        .collect();
    assert_eq!(
        kept,
        [
            (120_002, 120_002, 1, "timed out after 1 s"),
            (1, 60_001, 2, "timed out after 13 s"),
            (2, 2, 1, "refused"),
        ]
    );
}

#[test]
fn text_is_bounded_and_can_not_change_the_direction_of_other_text() {
    assert_eq!(bounded("<script>\u{e4}"), "<script>\u{e4}");
    assert_eq!(bounded("a\nb\u{202e}c"), "a\u{fffd}b\u{fffd}c");
    assert_eq!(bounded("\u{61c}\u{2028}"), "\u{fffd}\u{fffd}");
    let long = bounded("x".repeat(10 * MAX_TEXT));
    assert_eq!(long.chars().count(), MAX_TEXT + 1);
    assert!(long.ends_with('\u{2026}'));
}

#[tokio::test]
async fn the_policy_allows_the_page_s_own_script_only() {
    let (pools, page) = page("mongodb://127.0.0.1:1/");
    let html = page.respond("GET", None);
    assert_eq!(html.status, 200);
    assert!(html.body.contains("<style>\n") && html.body.contains("<script>\n"));
    for external in [" src=", "@import", "url(", "import("] {
        assert!(!html.body.contains(external), "{external}");
    }
    let policy = html
        .headers
        .iter()
        .find(|(name, _)| *name == "content-security-policy");
    let (_, policy) = policy.expect("a policy");
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(page.respond("HEAD", None).status, 200);
    assert_eq!(page.respond("POST", Some("json")).status, 405);
    pools.close().await;
}

#[tokio::test]
async fn servers_and_pools_are_bounded_in_number() {
    let hosts: Vec<_> = (1..=MAX_SERVERS + 5)
        .map(|port| format!("127.0.0.1:{port}"))
        .collect();
    let (pools, page) = page(&format!("mongodb://{}/?replicaSet=rs", hosts.join(",")));
    pools.connect().expect("a runtime");
    let server = ServerAddress::tcp("127.0.0.1", 1);
    for user in 0..MAX_POOLS + 7 {
        let credential = Credential::new(format!("user {user}"), "s3cret");
        let own = pools.with_credential(credential).expect("a user");
        own.for_server(&server).expect("a pool");
    }
    let report = report(&page);
    assert_eq!(length(&report["topology"]["servers"]), MAX_SERVERS);
    assert_eq!(report["topology"]["servers_omitted"], 5);
    assert_eq!(length(&report["pools"]), MAX_POOLS);
    assert_eq!(report["pools_omitted"], 7);
    assert!(
        report.to_string().len() < 512 * 1024,
        "{}",
        report.to_string().len()
    );
    pools.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn viewers_do_not_disturb_the_pools() {
    let set = Deployment::replica_set("rs").members(1).start().await;
    let (pools, page) = page(&set.uri());
    let connection = pools.get().await.expect("a connection");
    let before = pools.status();
    let viewers: Vec<_> = (0..2)
        .map(|_| {
            let page = page.clone();
            tokio::spawn(async move {
                for _ in 0..100 {
                    let report = report(&page);
                    assert_eq!(report["totals"]["in_use"], 1);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for viewer in viewers {
        viewer.await.expect("no panic");
    }
    assert_eq!(pools.status(), before);
    drop(connection);
    pools.close().await;
}

#[tokio::test]
async fn no_secret_and_no_document_is_shown() {
    let set = Deployment::replica_set("rs")
        .members(1)
        .user(User::new("app", "s3cret-1"));
    let set = set.start().await;
    let (pools, page) = page(&set.uri_for("app", "s3cret-1"));
    let refused = "E11000 duplicate key: { card: \"s3cret-2\" }";
    let error = ErrorReply::new(11000, "DuplicateKey", refused);
    let insert = Matcher::command("insert").then(Action::Error(error));
    set.server(0).script().add(insert);
    let wrong = Credential::new("app", "s3cret-3");
    let wrong = pools.with_credential(wrong).expect("pools");
    wrong.get().await.expect_err("a wrong password");
    let mut connection = pools.get().await.expect("a connection");
    let insert = bson::doc! { "insert": "cards", "documents": [{ "card": "s3cret-2" }] };
    connection
        .run_command("shop", &insert)
        .await
        .expect_err("a duplicate key");
    drop(connection);
    let report = report(&page).to_string();
    for shown in [
        "insert: DuplicateKey (code 11000)",
        "check-out failed",
        "\"user\":\"app\"",
    ] {
        assert!(report.contains(shown), "{shown} in {report}");
    }
    assert!(
        !report.contains("s3cret") && !report.contains("mongodb://"),
        "{report}"
    );
    pools.close().await;
}

/// A message of the server that quotes a document.
fn quoting(code: i32, name: &str) -> Action {
    let message = "E11000 duplicate key: { card: \"s3cret\" }";
    Action::Error(ErrorReply::new(code, name, message))
}

#[tokio::test]
async fn a_message_that_changes_what_is_known_of_a_server_is_not_shown() {
    for (code, name) in [(10107, "NotWritablePrimary"), (91, "ShutdownInProgress")] {
        let set = Deployment::replica_set("rs").members(1).start().await;
        let insert = Matcher::command("insert").then(quoting(code, name));
        set.server(0).script().add(insert);
        let (pools, page) = page(&set.uri());
        let mut connection = pools.get().await.expect("a connection");
        let insert = bson::doc! { "insert": "cards", "documents": [{ "card": "s3cret" }] };
        let refused = connection.run_command("shop", &insert).await;
        refused.expect_err("a state change");
        drop(connection);
        let report = report(&page);
        let unknown = format!("{name} (code {code})");
        assert_eq!(report["topology"]["servers"][0]["error"], unknown);
        assert!(!report.to_string().contains("s3cret"), "{report}");
        pools.close().await;
    }
}

#[tokio::test]
async fn a_message_to_a_hook_is_not_shown() {
    let set = Deployment::replica_set("rs").members(1).start().await;
    let insert = Matcher::command("insert").then(quoting(11000, "DuplicateKey"));
    set.server(0).script().add(insert);
    let events = RecentEvents::default();
    let options: ClientOptions = set.uri().parse().expect("a connection string");
    let pools = Pools::builder(options)
        .event_handlers(events.handlers(EventHandlers::new()))
        .on_connect(async |connection: &mut Connection| {
            let insert = bson::doc! { "insert": "cards", "documents": [{ "card": "s3cret" }] };
            connection.run_command("shop", &insert).await.map(drop)
        })
        .build()
        .expect("pools");
    pools.get().await.expect_err("a duplicate key");
    let report = report(&StatusPage::new(&pools, &events)).to_string();
    let shown = "\"on_connect: DuplicateKey (code 11000)\"";
    assert!(report.contains(shown), "{report}");
    assert!(!report.contains("s3cret"), "{report}");
    pools.close().await;
}

#[tokio::test]
async fn an_unknown_server_is_shown_among_many() {
    let cluster = Deployment::sharded(MAX_SERVERS + 1).start().await;
    let (pools, page) = page(&cluster.uri());
    pools.connect().expect("a runtime");
    let mut known = pools.topology().subscribe();
    let found = known.wait_for(|known| {
        let mut servers = known.servers().iter();
        servers.all(|server| server.server_type == ServerType::Mongos)
    });
    drop(tokio::time::timeout(LIMIT, found).await.expect("in time"));
    let last = pools.topology().description().servers()[MAX_SERVERS].clone();
    let is_last = |server: &usize| cluster.address(*server) == last.address.to_string();
    let killed = (0..=MAX_SERVERS).find(is_last).expect("a server");
    cluster.kill(killed).await;
    let lost = known.wait_for(|known| {
        let mut servers = known.servers().iter();
        servers.any(|server| server.server_type == ServerType::Unknown)
    });
    drop(tokio::time::timeout(LIMIT, lost).await.expect("in time"));
    let report = report(&page);
    assert_eq!(report["topology"]["servers_omitted"], 1);
    assert_eq!(report["topology"]["servers"][0]["type"], "Unknown");
    pools.close().await;
}

#[tokio::test]
async fn a_failover_is_reported() {
    let set = Deployment::replica_set("rs").members(2).start().await;
    let (pools, page) = page(&format!("{}&heartbeatFrequencyMS=500", set.uri()));
    drop(pools.get().await.expect("a connection"));
    assert_eq!(report(&page)["topology"]["is_writable"], true);
    let mut known = pools.topology().subscribe();
    set.kill(0).await;
    let lost = known.wait_for(|known| known.primary().is_none());
    drop(tokio::time::timeout(LIMIT, lost).await.expect("in time"));
    let waiting = tokio::spawn({
        let pools = pools.clone();
        async move { pools.get().await.map(drop) }
    });
    let waits = async {
        while report(&page)["topology"]["waiting"] != 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, waits)
        .await
        .expect("a caller that waits");
    let lost = report(&page);
    assert_eq!(lost["topology"]["is_writable"], false);
    assert_eq!(lost["topology"]["type"], "ReplicaSetNoPrimary");
    assert!(
        lost["topology"]["servers"]
            .to_string()
            .contains("\"error\":\""),
        "{lost}"
    );

    set.elect(1);
    waiting.await.expect("no panic").expect("the new primary");
    let found = report(&page);
    assert_eq!(
        (
            &found["topology"]["waiting"],
            &found["topology"]["is_writable"]
        ),
        (&0.into(), &true.into())
    );
    let events = found["events"].as_array().expect("events");
    for (level, text) in [
        ("bad", format!("primary: {} \u{2192} none", set.address(0))),
        ("good", format!("primary: none \u{2192} {}", set.address(1))),
        ("bad", "RSPrimary \u{2192} Unknown: ".to_owned()),
    ] {
        let is_it = |event: &&Value| {
            event["level"] == level
                && event["text"]
                    .as_str()
                    .is_some_and(|own| own.contains(&text))
        };
        assert!(
            events.iter().any(|event| is_it(&event)),
            "{text} in {found}"
        );
    }
    pools.close().await;
}
