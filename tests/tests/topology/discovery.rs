//! Discovery of servers, and of their changes.

use std::time::Duration;

use mongo_core::error::ErrorKind;
use mongo_core::event::SdamEvent;
use mongo_core::sdam::{ServerType, TopologyType};
use mongo_core::select::Criterion;
use mongo_testkit::{Deployment, MemberKind, MemberSpec, SimNetwork};

use crate::eventually;
use crate::support::{Watched, secondary};

/// Waits until the members have no open client sockets.
async fn none_open(set: &Deployment) {
    for member in 0..set.len() {
        let server = set.server(member);
        server.wait_for("none open", |seen| seen.open == 0).await;
    }
}

#[tokio::test]
async fn a_replica_set_is_discovered_from_one_seed() {
    let set = Deployment::replica_set("rs")
        .members(3)
        .member(MemberSpec::new(MemberKind::Arbiter))
        .member(MemberSpec::new(MemberKind::Hidden))
        .start()
        .await;
    let uri = format!("mongodb://{}/?replicaSet=rs", set.address(2));
    let watched = Watched::connect(&uri);
    let primary = watched.writable().await.expect("a primary");
    assert_eq!(primary.address().to_string(), set.address(0));
    let reader = watched.topology.select(&secondary()).await;
    assert_ne!(reader.expect("a secondary").address(), primary.address());
    // No hello lists a hidden member.
    watched
        .wait_until("four members", |known| {
            known.servers().len() == 4
                && known
                    .servers()
                    .iter()
                    .all(|server| server.server_type != ServerType::Unknown)
        })
        .await;
    let known = watched.topology.description();
    assert_eq!(known.topology_type(), TopologyType::ReplicaSetWithPrimary);
    watched.topology.close().await;
    none_open(&set).await;
    set.shutdown().await;
}

#[tokio::test]
async fn an_election_is_seen_at_once() {
    let set = Deployment::replica_set("rs").members(3).start().await;
    // Polling at this rate would not notice it within the test's limit.
    let uri = format!("{}&heartbeatFrequencyMS=600000", set.uri());
    let watched = Watched::connect(&uri);
    let before = watched.writable().await.expect("a primary");
    assert_eq!(before.address().to_string(), set.address(0));
    for (down, up) in [(0, 1), (1, 2), (2, 0)] {
        let was = set.address(down);
        set.step_down(down);
        watched
            .wait_until("the old primary is none", |known| {
                known
                    .primary()
                    .is_none_or(|now| now.address.to_string() != was)
            })
            .await;
        set.elect(up);
        let primary = watched.writable().await.expect("a primary");
        assert_eq!(primary.address().to_string(), set.address(up));
    }
    watched.topology.close().await;
}

#[tokio::test]
async fn a_killed_primary_is_not_chosen_again() {
    let set = Deployment::replica_set("rs").members(3).start().await;
    let uri = format!("{}&heartbeatFrequencyMS=500", set.uri());
    let watched = Watched::connect(&uri);
    watched.writable().await.expect("a primary");
    set.kill(0).await;
    set.elect(1);
    let killed = set.address(0);
    watched
        .wait_until("the killed member is unknown", |known| {
            known.servers().iter().any(|server| {
                server.address.to_string() == killed && server.server_type == ServerType::Unknown
            })
        })
        .await;
    let primary = watched.writable().await.expect("a primary");
    assert_eq!(primary.address().to_string(), set.address(1));
    set.restart(0).await;
    watched
        .wait_until("it is back", |known| {
            known
                .servers()
                .iter()
                .all(|server| server.server_type.is_data_bearing())
        })
        .await;
    watched.topology.close().await;
}

#[tokio::test]
async fn one_usable_server_is_enough() {
    let set = Deployment::replica_set("rs").members(3).start().await;
    for frozen in [1, 2] {
        set.server(frozen)
            .script()
            .add(mongo_testkit::Matcher::any_command().never_answer());
    }
    let watched = Watched::connect(&set.uri());
    let primary = watched.writable().await.expect("a primary");
    assert_eq!(primary.address().to_string(), set.address(0));
    // Checks of frozen members are pending, and the close does not wait for them.
    watched.topology.close().await;
}

#[tokio::test]
async fn a_selection_error_names_the_failure_of_each_server() {
    let set = Deployment::replica_set("rs").members(2).start().await;
    set.kill(0).await;
    let watched = Watched::connect(&set.uri());
    let error = watched
        .topology
        .select_by(Duration::from_millis(300), &Criterion::write(), &[])
        .await
        .expect_err("no primary");
    assert!(matches!(error.kind(), ErrorKind::ServerSelection(_)));
    let text = error.to_string();
    assert!(text.contains("no primary"), "{text}");
    assert!(text.contains(&set.address(0)), "{text}");
    assert!(text.to_lowercase().contains("refused"), "{text}");
    watched.topology.close().await;
}

#[tokio::test]
async fn a_topology_can_be_disconnected_and_connected_again() {
    let set = Deployment::replica_set("rs").members(3).start().await;
    let watched = Watched::connect(&set.uri());
    watched.writable().await.expect("a primary");
    watched.topology.disconnect().await;
    none_open(&set).await;
    assert!(watched.topology.description().servers().is_empty());
    watched.topology.connect().expect("connected again");
    watched.writable().await.expect("a primary");
    watched.topology.close().await;
    let events = watched.events();
    let mut ids: Vec<_> = events.iter().map(SdamEvent::topology_id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 2, "one topology after the other");
    assert!(matches!(
        events.first(),
        Some(SdamEvent::TopologyOpening(_))
    ));
    assert!(matches!(events.last(), Some(SdamEvent::TopologyClosed(_))));
}

#[tokio::test]
async fn a_close_fails_waiting_selections() {
    let set = Deployment::replica_set("rs")
        .members(1)
        .without_primary()
        .start()
        .await;
    let watched = Watched::connect(&set.uri());
    let waiting = watched.topology.clone();
    let task = tokio::spawn(async move { waiting.select(&Criterion::write()).await });
    watched
        .wait_until("the member is known", |known| {
            known
                .servers()
                .iter()
                .any(|server| server.server_type == ServerType::RsSecondary)
        })
        .await;
    watched.topology.close().await;
    let error = task.await.expect("no panic").expect_err("closed");
    assert!(matches!(error.kind(), ErrorKind::TopologyClosed), "{error}");
    let error = watched.topology.connect().expect_err("for good");
    assert!(matches!(error.kind(), ErrorKind::TopologyClosed), "{error}");
}

#[tokio::test]
async fn dropping_the_last_handle_closes_all_connections() {
    let set = Deployment::replica_set("rs").members(3).start().await;
    let watched = Watched::connect(&set.uri());
    watched.writable().await.expect("a primary");
    let clone = watched.topology.clone();
    drop(watched);
    let still = clone.select(&Criterion::write()).await;
    assert!(still.is_ok());
    drop(still);
    drop(clone);
    none_open(&set).await;
}

#[tokio::test]
async fn a_handler_may_select_servers() {
    use std::sync::{Arc, OnceLock};

    use mongo_core::ClientOptions;
    use mongo_core::net::Topology;

    let set = Deployment::replica_set("rs").members(1).start().await;
    let own: Arc<OnceLock<Topology>> = Arc::default();
    let (told, mut tells) = tokio::sync::mpsc::channel(8);
    let handle = own.clone();
    let topology = Topology::builder(ClientOptions::parse(&set.uri()).expect("a URI"))
        .event_handler(move |event| {
            if let (SdamEvent::ServerDescriptionChanged(_), Some(topology)) = (event, handle.get())
            {
                let primary = topology.snapshot().topology().primary().is_some();
                let _ = told.try_send(primary);
            }
        })
        .build()
        .expect("a topology");
    own.set(topology.clone()).expect("set once");
    topology.connect().expect("connected");
    let selected = tokio::time::timeout(crate::support::LIMIT, tells.recv()).await;
    assert_eq!(selected.expect("an event"), Some(true));
    topology.close().await;
}

#[tokio::test(start_paused = true)]
async fn hours_over_a_network_in_memory_take_no_time() {
    let network = SimNetwork::new(7);
    let set = Deployment::replica_set("rs")
        .members(3)
        .elections(Duration::from_secs(5))
        .network(&network)
        .start()
        .await;
    let watched = Watched::connect_over(&set.uri(), &network);
    for _ in 0..200 {
        let primary = watched.writable().await.expect("a primary");
        let address = primary.address().to_string();
        let member = (0..3).find(|member| set.address(*member) == address);
        set.step_down(member.expect("a member"));
        watched
            .wait_until("it is none", |known| {
                known
                    .primary()
                    .is_none_or(|now| now.address.to_string() != address)
            })
            .await;
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
    watched.topology.close().await;
}

#[tokio::test(start_paused = true)]
async fn waiting_selections_are_counted() {
    let network = SimNetwork::new(1);
    let set = Deployment::replica_set("rs").members(2).network(&network);
    let set = set.start().await;
    set.step_down(0);
    let watched = Watched::connect_over(&set.uri(), &network);
    let waiting = || watched.topology.waiting_selections();
    assert_eq!(waiting(), 0);
    let select = || {
        let topology = watched.topology.clone();
        tokio::spawn(async move { topology.select(&Criterion::write()).await.map(drop) })
    };
    let (first, second) = (select(), select());
    eventually("both wait", || waiting() == 2).await;
    first.abort();
    first.await.expect_err("it was aborted");
    assert_eq!(waiting(), 1);
    set.elect(1);
    second.await.expect("no panic").expect("a primary");
    assert_eq!(waiting(), 0);
    watched.topology.close().await;
}
