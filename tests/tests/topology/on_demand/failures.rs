//! Servers that are down, frozen, or restarted.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mongo_core::bson::doc;
use mongo_core::error::ErrorKind;
use mongo_core::event::SdamEvent;
use mongo_core::select::Criterion;
use mongo_testkit::{Deployment, Matcher, SimNetwork, User};
use tokio::time::{Instant, sleep};

use super::{accepted, client, hellos, over, ping, three};
use crate::support::secondary;

#[tokio::test(start_paused = true)]
async fn a_killed_server_is_not_checked_for_five_seconds() {
    let network = SimNetwork::new(6);
    let set = three(&network).await;
    let events = Arc::new(Mutex::new(Vec::new()));
    let kept = events.clone();
    let mut topology = over(&set.uri(), &network)
        .event_handler(move |event| kept.lock().expect("no panic").push(event.clone()))
        .build()
        .expect("a topology");
    let down = set.address(0);
    let attempts = || {
        let events = events.lock().expect("no panic");
        let of = |event: &&SdamEvent| match event {
            SdamEvent::ServerHeartbeatStarted(event) => event.address.to_string() == down,
            _ => false,
        };
        events.iter().filter(of).count()
    };
    set.kill(0).await;
    let begun = Instant::now();
    for scan in 0..6 {
        let error = topology.select(&Criterion::write()).await;
        let error = error.expect_err("no primary");
        assert!(matches!(error.kind(), ErrorKind::ServerSelection(_)));
        // The error names the failure of each server, checked or not.
        let text = error.to_string();
        assert!(text.contains(&down), "{text}");
        assert!(text.contains("refused"), "{text}");
        // One scan, at most 500 ms after the one before.
        assert!(begun.elapsed() < Duration::from_millis(600) * (scan + 1));
        assert_eq!(attempts(), 1);
        assert_eq!(hellos(&set, 1), u64::from(scan) + 1);
    }
    sleep(Duration::from_secs(5)).await;
    set.restart(0).await;
    set.elect(0);
    topology.select(&Criterion::write()).await.expect("back");
    assert_eq!(attempts(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_selection_retries_until_its_timeout() {
    let network = SimNetwork::new(7);
    let set = Deployment::replica_set("rs")
        .members(3)
        .without_primary()
        .elections(Duration::from_secs(4))
        .network(&network)
        .start()
        .await;
    let uri = format!("{}&serverSelectionTryOnce=false", set.uri());
    let begun = Instant::now();
    let mut client = client(&uri, &network);
    ping(&mut client)
        .await
        .expect("elected during the selection");
    assert!(begun.elapsed() < Duration::from_secs(6));
    let uri = format!("{uri}&serverSelectionTimeoutMS=1700");
    set.kill(1).await;
    set.kill(2).await;
    set.kill(0).await;
    let begun = Instant::now();
    let mut topology = over(&uri, &network).build().expect("a topology");
    let error = topology.select(&Criterion::write()).await;
    error.expect_err("no server there");
    let waited = begun.elapsed();
    assert!(waited > Duration::from_millis(1200), "{waited:?}");
    assert!(waited < Duration::from_millis(1800), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_frozen_server_costs_no_more_than_the_connect_timeout() {
    let network = SimNetwork::new(8);
    let set = three(&network).await;
    network.cut(&set.address(1));
    network.cut(&set.address(2));
    let uri = format!("{}&connectTimeoutMS=3000", set.uri());
    let mut client = client(&uri, &network);
    let begun = Instant::now();
    ping(&mut client).await.expect("a primary");
    let waited = begun.elapsed();
    // Both are checked concurrently.
    assert!(waited >= Duration::from_secs(3), "{waited:?}");
    assert!(waited < Duration::from_millis(3100), "{waited:?}");
    let begun = Instant::now();
    ping(&mut client).await.expect("a primary");
    assert!(begun.elapsed() < Duration::from_millis(100));
    // Within the cooldown, a scan for another server does not wait for them.
    sleep(Duration::from_millis(500)).await;
    let begun = Instant::now();
    let error = client
        .run_command_on(&secondary(), "admin", &doc! { "ping": 1 })
        .await
        .expect_err("no secondary");
    assert!(begun.elapsed() < Duration::from_millis(100), "{error}");
    assert!(error.to_string().contains("timed out"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_pinged() {
    let network = SimNetwork::new(9);
    let set = three(&network).await;
    let mut client = client(&set.uri(), &network);
    let count = doc! { "count": "c" };
    client.run_command("db", &count).await.expect("counted");
    sleep(Duration::from_secs(4)).await;
    client.run_command("db", &count).await.expect("counted");
    let pings = || set.server(0).look(|seen| seen.count("ping"));
    assert_eq!(pings(), 0);
    sleep(Duration::from_secs(5)).await;
    client.run_command("db", &count).await.expect("counted");
    assert_eq!(pings(), 1);
    // The server does not answer, becomes unknown, and another one is selected at once.
    sleep(Duration::from_secs(5)).await;
    network.cut(&set.address(0));
    set.elect(1);
    let begun = Instant::now();
    client.run_command("db", &count).await.expect("counted");
    assert_eq!(set.server(1).look(|seen| seen.count("count")), 1);
    // The time of the ping and of a scan.
    assert!(begun.elapsed() < Duration::from_secs(21));
}

#[tokio::test(start_paused = true)]
async fn a_restarted_server_is_connected_to_again() {
    let network = SimNetwork::new(10);
    let set = three(&network).await;
    let mut client = client(&set.uri(), &network);
    ping(&mut client).await.expect("a primary");
    set.kill(0).await;
    set.restart(0).await;
    set.elect(0);
    // Longer than any latency: the close is visible without I/O, and does not count against the
    // server.
    sleep(Duration::from_millis(10)).await;
    assert_eq!(ping(&mut client).await.expect("again"), set.address(0));
    assert_eq!(accepted(&set), [2, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_before_a_command_is_labelled() {
    for (options, expected) in [("", true), ("&retryWrites=false", false)] {
        let network = SimNetwork::new(71);
        let user = User::new("one", "first").iterations(4096);
        let set = Deployment::replica_set("rs").members(1).user(user);
        let set = set.network(&network).start().await;
        let cut = Matcher::command("saslContinue").drop_connection();
        set.server(0).script().add(cut);
        let uri = format!("{}{options}", set.uri_for("one", "first"));
        let error = ping(&mut client(&uri, &network)).await.expect_err("cut");
        assert!(matches!(error.kind(), ErrorKind::Network(_)), "{error}");
        assert_eq!(error.has_label("RetryableWriteError"), expected, "{error}");
    }
}
