//! The monitoring specification's prose tests.

use std::time::Duration;

use mongo_core::event::SdamEvent;
use mongo_testkit::{Deployment, ErrorReply, Matcher, ScriptedServer, SimNetwork};
use tokio::time::Instant;

use crate::support::Watched;

fn succeeded(events: &[SdamEvent]) -> usize {
    let is = |event: &&SdamEvent| matches!(event, SdamEvent::ServerHeartbeatSucceeded(_));
    events.iter().filter(is).count()
}

/// Server monitoring, streaming protocol tests: "Configure the client with heartbeatFrequencyMS set
/// to 500, then assert that the client processes hello replies more frequently than every 10
/// seconds", by a paused clock.
#[tokio::test(start_paused = true)]
async fn streaming_1_replies_come_at_the_heartbeat_frequency() {
    let network = SimNetwork::new(1);
    let set = Deployment::replica_set("rs")
        .members(1)
        .network(&network)
        .start()
        .await;
    let uri = format!("{}&heartbeatFrequencyMS=500", set.uri());
    let watched = Watched::connect_over(&uri, &network);
    watched.writable().await.expect("a primary");
    let before = succeeded(&watched.events());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let replies = succeeded(&watched.events()) - before;
    assert!((15..=21).contains(&replies), "{replies} in 10 s");
    watched.topology.close().await;
}

/// Server monitoring, RTT tests 1: the average changes while hellos are awaited.
#[tokio::test(start_paused = true)]
async fn rtt_1_is_measured_while_streaming() {
    let network = SimNetwork::new(2);
    let set = Deployment::replica_set("rs")
        .members(1)
        .network(&network)
        .start()
        .await;
    let uri = format!("{}&heartbeatFrequencyMS=500", set.uri());
    let watched = Watched::connect_over(&uri, &network);
    watched.writable().await.expect("a primary");
    network.set_latency(Duration::from_millis(250), Duration::from_millis(250));
    watched
        .wait_until("the average shows it", |known| {
            let average = known
                .servers()
                .first()
                .and_then(|server| server.round_trip_time);
            average.is_some_and(|average| average > Duration::from_millis(250))
        })
        .await;
    // Without an event: the probe is no heartbeat.
    let awaited = watched.events().iter().all(|event| match event {
        SdamEvent::ServerHeartbeatSucceeded(event) => {
            event.awaited || event.duration < Duration::from_millis(100)
        }
        _ => true,
    });
    assert!(awaited);
    watched.topology.close().await;
}

/// Server monitoring, heartbeat tests 1: the started event comes before the socket is opened.
#[tokio::test]
async fn heartbeat_1_is_reported_before_the_socket_opens() {
    let server = ScriptedServer::builder()
        .rule(Matcher::hello().drop_connection())
        .start()
        .await;
    let uri = server.uri();
    let order = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let (kept, seen) = (order.clone(), std::sync::Arc::new(server));
    let looked = seen.clone();
    let topology =
        mongo_core::net::Topology::builder(mongo_core::ClientOptions::parse(&uri).expect("a URI"))
            .event_handler(move |event| {
                let accepted = looked.look(|seen| seen.accepted);
                match event {
                    SdamEvent::ServerHeartbeatStarted(_) => {
                        kept.lock().expect("no panic").push(("started", accepted));
                    }
                    SdamEvent::ServerHeartbeatFailed(_) => {
                        kept.lock().expect("no panic").push(("failed", accepted));
                    }
                    _ => {}
                }
            })
            .build()
            .expect("a topology");
    topology.connect().expect("connected");
    seen.wait_for("one connection", |seen| seen.hellos() == 1)
        .await;
    let failed = async {
        while order.lock().expect("no panic").len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::support::LIMIT, failed)
        .await
        .expect("a failure");
    topology.close().await;
    let order = order.lock().expect("no panic");
    assert_eq!(order[..2], [("started", 0), ("failed", 1)]);
}

/// Server discovery and monitoring, "Monitors sleep at least minHeartbeatFrequencyMS between
/// checks": five failing hellos keep a selection waiting for 2 to 3.5 seconds.
#[tokio::test(start_paused = true)]
async fn monitors_sleep_between_checks() {
    let network = SimNetwork::new(3);
    let set = Deployment::replica_set("rs")
        .members(1)
        .network(&network)
        .start()
        .await;
    let busy = ErrorReply::new(1234, "Busy", "not now");
    set.server(0).script().add(
        Matcher::hello()
            .times(5)
            .then(mongo_testkit::Action::Error(busy)),
    );
    let begun = Instant::now();
    let watched = Watched::connect_over(&set.uri(), &network);
    watched.writable().await.expect("a primary");
    let waited = begun.elapsed();
    assert!(
        (Duration::from_secs(2)..=Duration::from_millis(3500)).contains(&waited),
        "{waited:?}"
    );
    watched.topology.close().await;
}
