//! The messages of a topology and of server selection.

use std::time::Duration;

use mongo_core::ClientOptions;
use mongo_core::net::Topology;
use mongo_core::select::Criterion;
use mongo_testkit::{Deployment, SimNetwork};
use tracing::{Level, subscriber};

use crate::support::{Watched, secondary};
use crate::{Capture, Line};

/// A topology without an event handler is discovered, partly lost and closed, all on this thread.
#[tokio::test(start_paused = true)]
async fn the_topology_logs_the_messages_of_the_specification() {
    let capture = Capture::default();
    let _guard = subscriber::set_default(capture.clone());
    let network = SimNetwork::new(4);
    let set = Deployment::replica_set("rs")
        .members(2)
        .network(&network)
        .start()
        .await;
    let watched = Watched::connect_over(&set.uri(), &network);
    watched.writable().await.expect("a primary");
    watched
        .topology
        .select(&secondary())
        .await
        .expect("another");
    set.kill(1).await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    watched.topology.close().await;

    let lines = capture.lines();
    let topology: Vec<_> = lines
        .iter()
        .filter(|line| line.target == "mongodb::topology")
        .collect();
    let server = ["topologyId", "serverHost", "serverPort"];
    let heartbeat = ["awaited", "driverConnectionId", "serverConnectionId"];
    let expected: [(&str, &[&str]); 8] = [
        ("Starting topology monitoring", &["topologyId"]),
        ("Stopped topology monitoring", &["topologyId"]),
        ("Starting server monitoring", &server),
        ("Stopped server monitoring", &server),
        (
            "Topology description changed",
            &["topologyId", "previousDescription", "newDescription"],
        ),
        ("Server heartbeat started", &["awaited"]),
        ("Server heartbeat succeeded", &["durationMS", "reply"]),
        ("Server heartbeat failed", &["durationMS", "failure"]),
    ];
    for (message, fields) in expected {
        let of: Vec<_> = topology
            .iter()
            .filter(|line| line.message() == message)
            .collect();
        assert!(!of.is_empty(), "{message}");
        for line in of {
            assert_eq!(line.level, Some(Level::DEBUG));
            line.has(fields);
            if message.starts_with("Server heartbeat") {
                line.has(&server);
                line.has(&["awaited"]);
            }
            if message.ends_with("succeeded") {
                line.has(&heartbeat);
            }
        }
    }
    let known = |line: &&&Line| expected.iter().any(|(text, _)| *text == line.message());
    assert_eq!(topology.iter().filter(known).count(), topology.len());
    assert_eq!(topology[0].message(), "Starting topology monitoring");
    assert_eq!(
        topology.last().map(|line| line.message()),
        Some("Stopped topology monitoring")
    );
    let reply = topology.iter().find_map(|line| line.fields.get("reply"));
    let reply = reply.expect("a reply");
    assert!(reply.starts_with('{') && reply.len() <= 1003, "{reply}");
    // One line for each event, in order, except changes of server descriptions.
    let changes = |event: &mongo_core::event::SdamEvent| {
        matches!(
            event,
            mongo_core::event::SdamEvent::ServerDescriptionChanged(_)
        )
    };
    let events = watched.events();
    let events = events.iter().filter(|event| !changes(event));
    assert_eq!(topology.len(), events.count());
}

#[tokio::test(start_paused = true)]
async fn the_steps_of_a_selection_are_logged() {
    let capture = Capture::default();
    let _guard = subscriber::set_default(capture.clone());
    let network = SimNetwork::new(5);
    let set = Deployment::replica_set("rs")
        .members(1)
        .network(&network)
        .start()
        .await;
    let watched = Watched::connect_over(&set.uri(), &network);
    watched.writable().await.expect("a primary");
    watched.writable().await.expect("at once");
    let waited = Duration::from_secs(3);
    let none = watched.topology.select_by(waited, &secondary(), &[]).await;
    none.expect_err("no secondary");
    watched.topology.close().await;
    let lines = capture.lines();
    let lines: Vec<_> = lines
        .iter()
        .filter(|line| line.target == "mongodb::server_selection")
        .collect();
    let told: Vec<_> = lines
        .iter()
        .map(|line| (line.message(), line.level.expect("a level")))
        .collect();
    let waiting = "Waiting for suitable server to become available";
    assert_eq!(
        told,
        [
            ("Server selection started", Level::DEBUG),
            (waiting, Level::INFO),
            ("Server selection succeeded", Level::DEBUG),
            ("Server selection started", Level::DEBUG),
            ("Server selection succeeded", Level::DEBUG),
            ("Server selection started", Level::DEBUG),
            (waiting, Level::INFO),
            ("Server selection failed", Level::DEBUG),
        ]
    );
    for line in &lines {
        line.has(&["selector", "topologyDescription"]);
    }
    assert_eq!(lines[1].fields["remainingTimeMS"], "20000");
    lines[2].has(&["serverHost", "serverPort"]);
    assert_eq!(lines[2].fields["serverHost"], "m0.test");
    assert_eq!(lines[2].fields["serverPort"], "27017");
    let failure = &lines[7].fields["failure"];
    assert!(failure.contains("secondary"), "{failure}");
    // The topology description has its own field.
    assert!(!failure.contains("m0.test"), "{failure}");
}

/// Without an event handler, events are created for the log alone.
#[tokio::test(start_paused = true)]
async fn logging_needs_no_event_handler() {
    let capture = Capture::default();
    let _guard = subscriber::set_default(capture.clone());
    let options = ClientOptions::parse("mongodb://h/?loadBalanced=true").expect("options");
    let topology = Topology::new(options).expect("a topology");
    topology.connect().expect("connected");
    topology.select(&Criterion::write()).await.expect("at once");
    topology.close().await;
    let lines = capture.lines();
    let texts: Vec<_> = lines.iter().map(Line::message).collect();
    assert_eq!(
        texts,
        [
            "Starting topology monitoring",
            "Topology description changed",
            "Starting server monitoring",
            "Topology description changed",
            "Server selection started",
            "Server selection succeeded",
            "Stopped server monitoring",
            "Topology description changed",
            "Stopped topology monitoring",
        ]
    );
}
