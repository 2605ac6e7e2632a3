//! Deployments on a network in memory.

use std::io::ErrorKind;
use std::time::Duration;

use bson::doc;
use mongo_testkit::{Deployment, ScriptedServer, SimNetwork, SimStream};
use tokio::time::{Instant, sleep, timeout};

use crate::wire::{Wire, is_primary};

const HOUR: Duration = Duration::from_secs(3600);

async fn set(network: &SimNetwork) -> Deployment {
    let set = Deployment::replica_set("rs").members(3);
    set.network(network).start().await
}

async fn connect(network: &SimNetwork, set: &Deployment, server: usize) -> Wire<SimStream> {
    let stream = network.connect(&set.address(server)).await;
    Wire::over(stream.expect("the server listens"))
}

/// A client's view of some events, with their times.
async fn story(seed: u64) -> Vec<String> {
    let network = SimNetwork::new(seed);
    let set = set(&network).await;
    let start = Instant::now();
    let mut story = vec![set.uri()];
    for step in 0..20 {
        let server = usize::try_from(network.draw(3)).expect("a small number");
        if step % 4 == 0 {
            set.elect(server);
        }
        let hello = connect(&network, &set, server).await.hello().await;
        story.push(format!("{:?} {hello}", start.elapsed()));
        sleep(Duration::from_millis(network.draw(1000))).await;
    }
    story
}

#[tokio::test(start_paused = true)]
async fn a_seed_replays_exactly() {
    let first = story(7).await;
    assert_eq!(first, story(7).await);
    assert_ne!(first, story(8).await);
}

#[tokio::test(start_paused = true)]
async fn simulated_hours_take_no_time() {
    let real = std::time::Instant::now();
    let network = SimNetwork::new(1);
    let set = set(&network).await;
    let mut client = connect(&network, &set, 1).await;
    let hello = client.hello().await;
    client.await_hello(&hello, HOUR, true).await;
    for _ in 0..24 {
        let reply = timeout(2 * HOUR, client.try_receive()).await;
        assert!(!is_primary(&reply.expect("in time").expect("a reply").body));
    }
    let start = Instant::now();
    set.elect(1);
    assert!(is_primary(&client.receive().await.body));
    assert!(start.elapsed() <= Duration::from_millis(3));
    assert!(real.elapsed() < Duration::from_secs(5));
}

/// A stream keeps its order whatever the latencies, and nothing takes longer than the maximum.
#[tokio::test(start_paused = true)]
async fn bytes_arrive_in_order_within_the_latency() {
    let network = SimNetwork::new(5);
    let (least, most) = (Duration::from_millis(10), Duration::from_millis(500));
    network.set_latency(least, most);
    let set = set(&network).await;
    // A timer may be late by its granularity.
    let tick = Duration::from_millis(1);
    let start = Instant::now();
    let mut client = connect(&network, &set, 0).await;
    let took = start.elapsed();
    assert!((2 * least..=2 * (most + tick)).contains(&took), "{took:?}");
    let start = Instant::now();
    let mut sent = Vec::new();
    for n in 0..50 {
        sent.push(client.send(doc! {"echo": n}, 0).await);
    }
    for (n, id) in (0..50).zip(sent) {
        let reply = client.receive().await;
        assert_eq!(reply.response_to, id);
        assert_eq!(reply.body.get_i32("echo").unwrap(), n);
    }
    let took = start.elapsed();
    assert!((2 * least..=2 * (most + tick)).contains(&took), "{took:?}");
}

/// The stream type that the library's connector needs.
#[tokio::test(start_paused = true)]
async fn a_simulated_stream_works_with_the_librarys_connector() {
    let network = SimNetwork::new(6);
    let set = set(&network).await;
    let stream = network.connect(&set.address(0)).await;
    let mut client = Wire::over(mongo_core::net::Stream::custom(stream.unwrap()));
    assert!(is_primary(&client.hello().await));
}

#[tokio::test(start_paused = true)]
async fn a_cut_link_keeps_bytes_in_flight() {
    let network = SimNetwork::new(2);
    let set = set(&network).await;
    let mut client = connect(&network, &set, 0).await;
    set.server(0).partition().await;
    client.send(doc! {"ping": 1}, 0).await;
    let address = set.address(0);
    let blocked = timeout(HOUR, network.connect(&address));
    assert!(blocked.await.is_err());
    assert!(timeout(HOUR, client.try_receive()).await.is_err());
    connect(&network, &set, 1).await.hello().await;
    set.server(0).heal().await;
    client.receive().await;
    connect(&network, &set, 0).await.hello().await;
}

#[tokio::test(start_paused = true)]
async fn killed_servers_refuse_connections_and_end_their_streams() {
    let network = SimNetwork::new(3);
    let set = set(&network).await;
    let mut client = connect(&network, &set, 0).await;
    client.hello().await;
    set.kill(0).await;
    assert!(client.try_receive().await.is_none());
    let error = network.connect(&set.address(0)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    set.restart(0).await;
    connect(&network, &set, 0).await.hello().await;
    drop(client);
    let address = set.address(0);
    set.shutdown().await;
    assert_eq!(network.open_streams(&address), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_notices_when_a_client_leaves() {
    let network = SimNetwork::new(4);
    let set = set(&network).await;
    let mut client = connect(&network, &set, 0).await;
    let hello = client.hello().await;
    client.await_hello(&hello, HOUR, true).await;
    drop(client);
    set.server(0)
        .wait_for("the client's leave", |seen| seen.open == 0)
        .await;
}

#[tokio::test]
async fn a_server_serves_any_stream() {
    let server = ScriptedServer::builder().without_listener().start().await;
    let (near, far) = tokio::io::duplex(1000);
    server.serve(far).await;
    let mut client = Wire::over(near);
    assert!(is_primary(&client.hello().await));
    drop(client);
    server.wait_for("the end", |seen| seen.open == 0).await;
}
