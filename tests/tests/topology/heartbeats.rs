//! Heartbeats: each one ends, and no server causes a busy loop.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::doc;
use mongo_core::event::SdamEvent;
use mongo_testkit::{Action, Deployment, Matcher, Rule, SimNetwork};
use tokio::time::sleep;

use crate::support::Watched;

/// A set on a network in memory, and a client that awaits hellos.
async fn watched(members: usize) -> (Deployment, Watched) {
    let network = SimNetwork::new(23);
    let set = Deployment::replica_set("rs");
    let set = set.members(members).network(&network).start().await;
    let watched = Watched::connect_over(&set.uri(), &network);
    watched.writable().await.expect("a primary");
    sleep(Duration::from_secs(1)).await;
    (set, watched)
}

/// Checks that each started heartbeat ends before the next one starts and before its server is
/// closed, and that the last event is the close of the topology. Returns the number of heartbeats.
pub(crate) fn all_have_ended(events: &[SdamEvent]) -> usize {
    let mut under_way: BTreeMap<String, bool> = BTreeMap::new();
    let mut ended = 0;
    for event in events {
        let Some(address) = event.address().map(ToString::to_string) else {
            continue;
        };
        let under_way = under_way.entry(address).or_default();
        match event {
            SdamEvent::ServerHeartbeatStarted(_) => {
                assert!(!*under_way, "{event:?}");
                *under_way = true;
            }
            SdamEvent::ServerHeartbeatSucceeded(_) | SdamEvent::ServerHeartbeatFailed(_) => {
                assert!(*under_way, "{event:?}");
                *under_way = false;
                ended += 1;
            }
            SdamEvent::ServerClosed(_) => assert!(!*under_way, "{event:?}"),
            _ => {}
        }
    }
    let left: Vec<_> = under_way.iter().filter(|(_, is)| **is).collect();
    assert!(left.is_empty(), "{left:?}");
    ended
}

fn ends_with_the_topology(events: &[SdamEvent]) {
    let last = events.last().expect("events");
    assert!(matches!(last, SdamEvent::TopologyClosed(_)), "{last:?}");
}

#[tokio::test(start_paused = true)]
async fn a_check_interrupted_by_a_close_fails() {
    let (_set, watched) = watched(3).await;
    watched.topology.close().await;
    all_have_ended(&watched.events());
    ends_with_the_topology(&watched.events());
    let failed = |event: &&SdamEvent| match event {
        SdamEvent::ServerHeartbeatFailed(event) => event.awaited,
        _ => false,
    };
    assert_eq!(watched.events().iter().filter(failed).count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_check_interrupted_by_a_disconnect_fails() {
    let (_set, watched) = watched(2).await;
    for _ in 0..3 {
        watched.topology.disconnect().await;
        all_have_ended(&watched.events());
        ends_with_the_topology(&watched.events());
        watched.topology.connect().expect("connected");
        watched.writable().await.expect("a primary");
    }
    // During the first check.
    watched.topology.disconnect().await;
    watched.topology.connect().expect("connected");
    tokio::task::yield_now().await;
    watched.topology.disconnect().await;
    all_have_ended(&watched.events());
}

#[tokio::test(start_paused = true)]
async fn a_check_interrupted_by_the_removal_of_its_server_fails() {
    let (set, watched) = watched(3).await;
    set.remove(2);
    watched
        .wait_until("two are left", |known| known.servers().len() == 2)
        .await;
    let of_it = |event: &SdamEvent| {
        let address = event.address().map(ToString::to_string);
        address.is_some_and(|address| address == set.address(2))
    };
    let events: Vec<_> = watched.events().into_iter().filter(of_it).collect();
    all_have_ended(&events);
    let last = events.last().expect("events");
    assert!(matches!(last, SdamEvent::ServerClosed(_)), "{last:?}");
    watched.topology.close().await;
    all_have_ended(&watched.events());
}

/// The number of heartbeats that start in ten seconds if a rule answers awaitable hellos.
async fn started_with(rule: impl FnOnce(Matcher) -> Rule) -> usize {
    let (set, watched) = watched(1).await;
    let awaitable = Matcher::hello().when(|hello| hello.contains_key("topologyVersion"));
    set.server(0).script().add(rule(awaitable));
    // End the hellos that are pending without the rule.
    set.server(0).close_connections().await;
    sleep(Duration::from_secs(1)).await;
    let started = || {
        let events = watched.events();
        let is = |event: &&SdamEvent| matches!(event, SdamEvent::ServerHeartbeatStarted(_));
        events.iter().filter(is).count()
    };
    let before = started();
    sleep(Duration::from_secs(10)).await;
    let within = started() - before;
    watched.topology.close().await;
    all_have_ended(&watched.events());
    within
}

#[tokio::test(start_paused = true)]
async fn checks_of_a_server_that_answers_awaitable_hellos_at_once_are_paced() {
    let network = SimNetwork::new(24);
    let set = Deployment::replica_set("rs").members(1).network(&network);
    let mut hello = set.start().await.hello(0);
    assert!(hello.contains_key("topologyVersion"));
    hello.insert("ok", 1);
    let started = started_with(|awaitable| awaitable.then(Action::Reply(hello))).await;
    assert!((15..=21).contains(&started), "{started} in 10 s");
}

#[tokio::test(start_paused = true)]
async fn connections_to_a_server_that_closes_after_its_hello_are_paced() {
    // Each connection has two heartbeats: its first hello, and the one that fails.
    let started = started_with(Matcher::drop_connection).await;
    assert!((30..=44).contains(&started), "{started} in 10 s");
    let mut reply = doc! { "ok": 1, "isWritablePrimary": true, "setName": "rs" };
    reply.insert("maxWireVersion", 25);
    let started = started_with(|awaitable| awaitable.then(Action::Reply(reply))).await;
    assert!(
        (1..=2).contains(&started),
        "{started} in 10 s: it is polled"
    );
}

/// Each server reports that the set consists only of the next one: each hello removes its own
/// server and adds another.
async fn hellos_of_a_ring(members: usize) -> Vec<u64> {
    let network = SimNetwork::new(25);
    let set = Deployment::replica_set("rs").members(members);
    let set = set.network(&network).start().await;
    for own in 0..members {
        let mut hello = set.hello(own);
        for field in ["electionId", "setVersion", "me", "primary", "secondary"] {
            hello.remove(field);
        }
        hello.insert("isWritablePrimary", true);
        hello.insert("hosts", vec![set.address((own + 1) % members)]);
        hello.insert("ok", 1);
        let script = set.server(own).script();
        script.add(Matcher::hello().then(Action::Reply(hello)));
    }
    let watched = Watched::connect_over(&set.uri(), &network);
    sleep(Duration::from_secs(10)).await;
    let hellos = (0..members).map(|own| set.server(own).look(|seen| seen.hellos()));
    let hellos = hellos.collect();
    watched.topology.close().await;
    all_have_ended(&watched.events());
    hellos
}

#[tokio::test(start_paused = true)]
async fn checks_of_servers_that_remove_and_add_each_other_are_paced() {
    for members in [2, 3] {
        let hellos = hellos_of_a_ring(members).await;
        let at_a_pace = |hellos: &u64| (1..=22).contains(hellos);
        assert!(hellos.iter().all(at_a_pace), "{hellos:?} in 10 s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_disconnect_does_not_delay_the_next_connect() {
    let (_set, watched) = watched(3).await;
    for _ in 0..3 {
        watched.topology.disconnect().await;
        watched.topology.connect().expect("connected");
        let begun = tokio::time::Instant::now();
        watched.writable().await.expect("a primary");
        assert!(begun.elapsed() < Duration::from_millis(100));
    }
    watched.topology.close().await;
}
