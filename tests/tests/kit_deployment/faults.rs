//! Servers that are killed, frozen, slow, partitioned, or refuse connections.

use std::io::ErrorKind;
use std::time::Duration;

use bson::doc;
use mongo_testkit::Deployment;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::members::{Members, over_both};
use crate::wire::{BOUND, Wire, counter};

/// Long enough for anything on loopback to arrive.
const SILENCE: Duration = Duration::from_millis(100);

over_both! {
    a_killed_server_refuses_and_comes_back_at_its_address_as_another_process,
    a_refusing_server_keeps_serving_open_connections,
    a_frozen_server_accepts_connections_and_answers_once_it_thaws,
    a_server_that_thaws_reports_its_current_state,
    a_skewed_clock_shifts_the_dates_of_its_server,
    a_partitioned_server_neither_receives_nor_sends,
}

async fn set(members: Members) -> Deployment {
    members
        .start(Deployment::replica_set("rs").members(2))
        .await
}

async fn a_killed_server_refuses_and_comes_back_at_its_address_as_another_process(
    members: Members,
) {
    let set = set(members).await;
    let mut client = Wire::connect(&set, 0).await;
    let before = client.hello().await;
    set.kill(0).await;
    assert!(client.try_receive().await.is_none());
    let error = TcpStream::connect(set.address(0)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(set.server(0).look(|seen| seen.open), 0);
    set.restart(0).await;
    let after = Wire::connect(&set, 0).await.hello().await;
    assert_ne!(after.get("topologyVersion"), before.get("topologyVersion"));
    assert!(after.get_bool("secondary").unwrap());
    set.shutdown().await;
}

async fn a_refusing_server_keeps_serving_open_connections(members: Members) {
    let set = set(members).await;
    let mut client = Wire::connect(&set, 0).await;
    // The connection is accepted, not only queued.
    client.hello().await;
    set.server(0).refuse_connections().await;
    let error = TcpStream::connect(set.address(0)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    client.hello().await;
    set.server(0).accept_connections().await;
    Wire::connect(&set, 0).await.hello().await;
}

async fn a_frozen_server_accepts_connections_and_answers_once_it_thaws(members: Members) {
    let set = set(members).await;
    let mut old = Wire::connect(&set, 0).await;
    old.hello().await;
    set.server(0).freeze();
    let mut new = Wire::connect(&set, 0).await;
    let insert = doc! {"insert": "c", "documents": [{"_id": 1}]};
    new.send(insert, 0).await;
    old.send(doc! {"ping": 1}, 0).await;
    for client in [&mut old, &mut new] {
        assert!(timeout(SILENCE, client.try_receive()).await.is_err());
    }
    assert!(set.documents("test.c").is_empty());
    set.server(0).thaw();
    for client in [&mut old, &mut new] {
        client.receive().await;
    }
    assert_eq!(set.documents("test.c").len(), 1);
}

async fn a_server_that_thaws_reports_its_current_state(members: Members) {
    let set = set(members).await;
    let mut client = Wire::connect(&set, 1).await;
    let hello = client.hello().await;
    client.await_hello(&hello, BOUND, true).await;
    set.server(1)
        .wait_for("the hello", |seen| seen.hellos() == 2)
        .await;
    set.server(1).freeze();
    for new in [1, 0] {
        set.elect(new);
        assert!(timeout(SILENCE, client.try_receive()).await.is_err());
    }
    set.server(1).thaw();
    let reply = client.receive().await.body;
    assert_eq!(counter(&reply), counter(&hello) + 2);
}

async fn a_skewed_clock_shifts_the_dates_of_its_server(members: Members) {
    let set = set(members).await;
    set.skew_clock(0, -3_600_000);
    let mut client = Wire::connect(&set, 0).await;
    let insert = doc! {"insert": "c", "documents": [{"_id": 1}]};
    client.run(insert).await;
    let truth = Wire::connect(&set, 1).await.hello().await;
    let truth = truth.get_datetime("localTime").unwrap().timestamp_millis();
    let hello = client.hello().await;
    let local = hello.get_datetime("localTime").unwrap();
    let write = hello.get_document("lastWrite").unwrap();
    for date in [local, write.get_datetime("lastWriteDate").unwrap()] {
        let behind = truth - date.timestamp_millis();
        assert!((3_590_000..3_610_000).contains(&behind), "{behind}");
    }
}

#[tokio::test]
async fn a_frozen_server_ends_with_its_deployment() {
    let set = set(Members::Scripted).await;
    let mut client = Wire::connect(&set, 0).await;
    set.server(0).freeze();
    client.send(doc! {"ping": 1}, 0).await;
    timeout(BOUND, set.shutdown()).await.expect("an end");
    assert!(client.try_receive().await.is_none());
}

async fn a_partitioned_server_neither_receives_nor_sends(members: Members) {
    let set = set(members).await;
    let mut old = Wire::connect(&set, 0).await;
    let hello = old.hello().await;
    old.await_hello(&hello, BOUND, true).await;
    set.server(0)
        .wait_for("the hello", |seen| seen.hellos() == 2)
        .await;
    set.server(0).partition().await;
    let connect = tokio::spawn(TcpStream::connect(set.address(0)));
    set.step_down(0);
    assert!(timeout(SILENCE, old.try_receive()).await.is_err());
    assert!(!connect.is_finished());
    // Another member is not affected.
    Wire::connect(&set, 1).await.hello().await;

    set.server(0).heal().await;
    let reply = old.receive().await.body;
    assert!(reply.get_bool("secondary").unwrap());
    let stream = timeout(BOUND, connect).await.expect("in time").unwrap();
    Wire::over(stream.unwrap()).hello().await;
}

#[tokio::test]
async fn a_partition_outlasts_a_restart() {
    let set = set(Members::Scripted).await;
    set.server(0).partition().await;
    set.kill(0).await;
    set.restart(0).await;
    let connect = TcpStream::connect(set.address(0));
    assert!(timeout(SILENCE, connect).await.is_err());
    set.server(0).heal().await;
    Wire::connect(&set, 0).await.hello().await;
    let seen = set.server(0).look(|seen| seen.accepted);
    assert!(seen <= 2, "{seen}: the queue's filler is none of them");
}

#[tokio::test(start_paused = true)]
async fn a_slow_server_delays_its_replies() {
    let set = set(Members::Scripted).await;
    set.server(0).slow(Duration::from_secs(2));
    let mut client = Wire::connect(&set, 0).await;
    let start = Instant::now();
    client.hello().await;
    assert!(start.elapsed() >= Duration::from_secs(2));
    set.server(0).slow(Duration::ZERO);
    let start = Instant::now();
    client.hello().await;
    assert!(start.elapsed() < Duration::from_secs(1));
}
