//! Timeouts of selections, and their effect on the servers.

use std::time::Duration;

use mongo_core::Error;
use mongo_core::bson::doc;
use mongo_core::error::ErrorKind;
use mongo_core::sdam::ServerType;
use mongo_core::select::Criterion;
use mongo_testkit::{Deployment, SimNetwork};
use tokio::time::{Instant, sleep, timeout};

use super::{accepted, client, over, ping, three};
use crate::support::{CROWD, LIMIT, Turns, crowd, secondary};

fn cut_all(network: &SimNetwork, set: &Deployment) {
    for member in 0..set.len() {
        network.cut(&set.address(member));
    }
}

/// The error of a call, and its milliseconds.
async fn failed<T>(call: impl Future<Output = Result<T, Error>>) -> (Error, u128) {
    let begun = Instant::now();
    let outcome = timeout(LIMIT, call).await.expect("within the limit");
    let error = outcome.map(drop).expect_err("a failure");
    (error, begun.elapsed().as_millis())
}

#[tokio::test(start_paused = true)]
async fn timeout_ms_bounds_a_scan_of_hung_servers() {
    let network = SimNetwork::new(21);
    let set = three(&network).await;
    cut_all(&network, &set);
    let uri = format!("{}&timeoutMS=500", set.uri());
    let mut client = client(&uri, &network);
    let (error, took) = failed(ping(&mut client)).await;
    assert!(
        matches!(error.kind(), ErrorKind::ServerSelection(_)),
        "{error}"
    );
    assert!(error.to_string().contains("timed out"), "{error}");
    assert_eq!(took, 500);
    let mut topology = over(&uri, &network).build().expect("a topology");
    let (_, took) = failed(topology.select(&Criterion::write())).await;
    assert_eq!(took, 500);
    // The caller's deadline takes precedence over the option.
    let bound = Duration::from_millis(700);
    let (_, took) = failed(topology.select_by(bound, &Criterion::write(), &[])).await;
    assert!((700..710).contains(&took), "{took}");
    // They had too little time to count as unreachable: the next scan checks them.
    for member in 0..3 {
        network.heal(&set.address(member));
    }
    sleep(Duration::from_millis(500)).await;
    assert_eq!(ping(&mut client).await.expect("a primary"), set.address(0));
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_scan_finds_the_servers_that_answer() {
    let network = SimNetwork::new(22);
    let set = three(&network).await;
    network.cut(&set.address(1));
    network.cut(&set.address(2));
    let uri = format!("{}&timeoutMS=500", set.uri());
    let mut client = client(&uri, &network);
    let (_, took) = failed(ping(&mut client)).await;
    assert!((500..510).contains(&took), "{took}");
    let begun = Instant::now();
    assert_eq!(ping(&mut client).await.expect("known"), set.address(0));
    assert!(begun.elapsed() < Duration::from_millis(50));
}

#[tokio::test(start_paused = true)]
async fn a_known_primary_that_hangs_is_replaced_within_two_commands() {
    let network = SimNetwork::new(23);
    let set = three(&network).await;
    let mut client = client(&format!("{}&timeoutMS=500", set.uri()), &network);
    ping(&mut client).await.expect("a primary");
    sleep(Duration::from_secs(61)).await;
    network.cut(&set.address(0));
    set.elect(1);
    let (_, took) = failed(ping(&mut client)).await;
    assert!((500..510).contains(&took), "{took}");
    assert_eq!(
        ping(&mut client).await.expect("the new one"),
        set.address(1)
    );
}

#[tokio::test(start_paused = true)]
async fn timeout_ms_bounds_authentication_and_the_command_too() {
    let network = SimNetwork::new(24);
    let set = three(&network).await;
    let mut client = client(&format!("{}&timeoutMS=500", set.uri()), &network);
    ping(&mut client).await.expect("a primary");
    for name in ["count", "find"] {
        let silent = mongo_testkit::Matcher::command(name).never_answer();
        set.server(0).script().add(silent);
        let command = doc! { name: "c" };
        let (error, took) = failed(client.run_command("db", &command)).await;
        assert!(error.is_timeout(), "{error}");
        assert_eq!(took, 500);
    }
    let known = client.description().primary();
    assert!(known.is_some(), "a slow command is no news of the server");
}

#[tokio::test(start_paused = true)]
async fn without_connect_timeout_ms_the_selection_timeout_bounds_all() {
    for try_once in ["true", "false"] {
        let network = SimNetwork::new(25);
        let set = three(&network).await;
        let uri = format!(
            "{}&connectTimeoutMS=0&serverSelectionTimeoutMS=1000&serverSelectionTryOnce={try_once}",
            set.uri()
        );
        let mut known = client(&uri, &network);
        ping(&mut known).await.expect("a primary");
        cut_all(&network, &set);
        let mut topology = over(&uri, &network).build().expect("a topology");
        let (error, took) = failed(topology.select(&Criterion::write())).await;
        assert!(
            matches!(error.kind(), ErrorKind::ServerSelection(_)),
            "{error}"
        );
        assert_eq!(took, 1000, "tryOnce={try_once}");
        // After a long idle time, the ping of a connection is bounded too; so is a scan of known
        // servers.
        for idle in [6, 61] {
            sleep(Duration::from_secs(idle)).await;
            let (_, took) = failed(ping(&mut known)).await;
            assert!(took <= 1000, "tryOnce={try_once}: {took}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_with_a_short_timeout_marks_no_server_unknown_for_long() {
    let network = SimNetwork::new(26);
    let set = three(&network).await;
    network.set_latency(Duration::from_millis(20), Duration::from_millis(20));
    let mut topology = over(&set.uri(), &network).build().expect("a topology");
    let bound = Duration::from_millis(30);
    let (_, took) = failed(topology.select_by(bound, &Criterion::write(), &[])).await;
    assert!(took <= 31, "{took}");
    topology.select(&secondary()).await.expect("with more time");
    let known = topology.description().servers().iter();
    assert!(
        known
            .clone()
            .all(|server| server.server_type != ServerType::Unknown)
    );
    assert_eq!(accepted(&set), [2, 2, 2]);
}

#[tokio::test(start_paused = true)]
async fn other_tasks_run_between_two_long_replies_of_a_scan() {
    let network = SimNetwork::new(31);
    let set = crowd(&network).await;
    let turns = Turns::default();
    let builder = over(&set.uri(), &network).event_handler(turns.handler());
    let mut topology = builder.build().expect("a topology");
    let selected = topology.select(&Criterion::write()).await;
    selected.expect("a primary");
    assert!(turns.replies() >= CROWD, "{}", turns.replies());
    turns.assert_one_reply_in_each();
}
