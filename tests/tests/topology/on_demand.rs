//! Topologies without background tasks: a caller's selection scans, and the client uses it.

mod credentials;
mod failures;
mod legacy;
mod limits;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mongo_core::bson::doc;
use mongo_core::error::ErrorKind;
use mongo_core::event::SdamEvent;
use mongo_core::net::{OnDemandTopology, OnDemandTopologyBuilder, SingleClient};
use mongo_core::sdam::{ServerType, TopologyType};
use mongo_core::select::Criterion;
use mongo_core::{ClientOptions, Error};
use mongo_testkit::{
    Action, Deployment, ErrorReply, Matcher, MemberKind, MemberSpec, SimNetwork, User,
};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use crate::support::{OverSim, secondary};

fn over(uri: &str, network: &SimNetwork) -> OnDemandTopologyBuilder {
    let options = ClientOptions::parse(uri).expect("a URI");
    OnDemandTopology::builder(options).connector(Arc::new(OverSim(network.clone())))
}

fn client(uri: &str, network: &SimNetwork) -> SingleClient {
    over(uri, network).build_client().expect("a client")
}

/// Three members over a network in memory.
async fn three(network: &SimNetwork) -> Deployment {
    let set = Deployment::replica_set("rs").members(3).network(network);
    set.start().await
}

fn hellos(set: &Deployment, member: usize) -> u64 {
    set.server(member).look(|seen| seen.hellos())
}

fn accepted(set: &Deployment) -> Vec<u64> {
    let servers = 0..set.len();
    servers
        .map(|member| set.server(member).look(|seen| seen.accepted))
        .collect()
}

async fn ping(client: &mut SingleClient) -> Result<String, Error> {
    let ping = doc! { "ping": 1 };
    client.run_command("admin", &ping).await.map(drop)?;
    let primary = client.description().primary();
    Ok(primary.map_or_else(String::new, |server| server.address.to_string()))
}

#[tokio::test(start_paused = true)]
async fn a_set_is_discovered_from_one_seed_by_one_scan() {
    let network = SimNetwork::new(1);
    let set = Deployment::replica_set("rs")
        .members(3)
        .member(MemberSpec::new(MemberKind::Arbiter))
        .network(&network)
        .start()
        .await;
    let uri = format!("mongodb://{}/?replicaSet=rs", set.address(2));
    let mut topology = over(&uri, &network).build().expect("a topology");
    let entry = topology.select(&Criterion::write()).await.expect("one");
    assert_eq!(entry.address().to_string(), set.address(0));
    let known = topology.description();
    assert_eq!(known.topology_type(), TopologyType::ReplicaSetWithPrimary);
    assert_eq!(known.servers().len(), 4);
    let unknown = |server: &ServerType| *server == ServerType::Unknown;
    assert!(!known.servers().iter().any(|own| unknown(&own.server_type)));
    // The next selection uses the known servers.
    let reader = topology.select(&secondary()).await.expect("a secondary");
    assert_ne!(reader.address(), entry.address());
    assert_eq!((0..4).map(|member| hellos(&set, member)).sum::<u64>(), 4);
    assert_eq!(accepted(&set), [1, 1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn no_task_is_spawned() {
    let network = SimNetwork::new(2);
    let set = three(&network).await;
    // The kit's servers begin a task for each connection: after this there are no new ones.
    let mut client = client(&set.uri(), &network);
    ping(&mut client).await.expect("a primary");
    let before = Handle::current().metrics().num_alive_tasks();
    for _ in 0..5 {
        sleep(Duration::from_secs(61)).await;
        let rescanned = hellos(&set, 1);
        ping(&mut client).await.expect("a primary");
        assert_eq!(hellos(&set, 1), rescanned + 1);
        assert_eq!(Handle::current().metrics().num_alive_tasks(), before);
    }
    assert_eq!(accepted(&set), [1, 1, 1]);
    // Nothing happens between commands.
    let quiet = (0..3).map(|member| hellos(&set, member)).sum::<u64>();
    sleep(Duration::from_secs(3600)).await;
    assert_eq!((0..3).map(|m| hellos(&set, m)).sum::<u64>(), quiet);
}

#[tokio::test(start_paused = true)]
async fn a_scan_is_valid_for_sixty_seconds() {
    let network = SimNetwork::new(3);
    let set = three(&network).await;
    let mut topology = over(&set.uri(), &network).build().expect("a topology");
    topology.select(&Criterion::write()).await.expect("one");
    sleep(Duration::from_secs(59)).await;
    topology.select(&Criterion::write()).await.expect("one");
    assert_eq!(hellos(&set, 1), 1);
    sleep(Duration::from_secs(2)).await;
    topology.select(&Criterion::write()).await.expect("one");
    assert_eq!(hellos(&set, 1), 2);
}

#[tokio::test(start_paused = true)]
async fn a_step_down_is_followed() {
    let network = SimNetwork::new(4);
    let set = three(&network).await;
    let mut client = client(&set.uri(), &network);
    let insert = doc! { "insert": "c", "documents": [{ "a": 1 }] };
    client.run_command("db", &insert).await.expect("written");
    set.elect(1);
    let error = client.run_command("db", &insert).await.expect_err("gone");
    assert_eq!(error.code(), Some(10107), "{error}");
    client.run_command("db", &insert).await.expect("written");
    let primary = client.description().primary().expect("a primary");
    assert_eq!(primary.address.to_string(), set.address(1));
    // The connections of a server that only stepped down are kept.
    assert_eq!(accepted(&set), [1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_recovering_server_triggers_no_scan() {
    let network = SimNetwork::new(5);
    let set = three(&network).await;
    let mut client = client(&set.uri(), &network);
    ping(&mut client).await.expect("a primary");
    let recovering = ErrorReply::new(13436, "NotPrimaryOrSecondary", "recovering");
    let busy = Matcher::command("count").once();
    set.server(1)
        .script()
        .add(busy.then(Action::Error(recovering)));
    let nobody = doc! { "count": "c", "$readPreference": { "mode": "secondary" } };
    while set.server(1).look(|seen| seen.count("count")) == 0 {
        let _ = client.run_command_on(&secondary(), "db", &nobody).await;
    }
    let before = hellos(&set, 0);
    let answered = client.run_command_on(&secondary(), "db", &nobody).await;
    answered.expect("the other secondary");
    assert_eq!(hellos(&set, 0), before);
}

#[tokio::test(start_paused = true)]
async fn each_connection_authenticates_once_at_its_first_use() {
    let network = SimNetwork::new(11);
    let set = Deployment::replica_set("rs")
        .members(2)
        .member(MemberSpec::new(MemberKind::Arbiter))
        .user(User::new("app", "secret"))
        .network(&network)
        .start()
        .await;
    let uri = set.uri().replace("mongodb://", "mongodb://app:secret@");
    let mut client = client(&uri, &network);
    let count = doc! { "count": "c" };
    for _ in 0..3 {
        client.run_command("db", &count).await.expect("counted");
        sleep(Duration::from_secs(61)).await;
    }
    let proofs = |member: usize| set.server(member).look(|seen| seen.count("saslContinue"));
    assert_eq!([proofs(0), proofs(1), proofs(2)], [1, 0, 0]);
    assert_eq!(accepted(&set), [1, 1, 1]);
    let read = doc! { "count": "c", "$readPreference": { "mode": "secondary" } };
    let answered = client.run_command_on(&secondary(), "db", &read).await;
    answered.expect("counted");
    assert_eq!([proofs(0), proofs(1), proofs(2)], [1, 1, 0]);
    let wrong = uri.replace("secret", "wrong");
    let error = ping(&mut crate::on_demand::client(&wrong, &network)).await;
    assert!(error.expect_err("refused").is_authentication());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_command_leaves_no_reply_for_the_next() {
    let network = SimNetwork::new(12);
    let set = three(&network).await;
    let mut client = client(&set.uri(), &network);
    set.insert("db.c", [doc! { "_id": 1 }]);
    for delay in [20, 30_000] {
        let slow = Matcher::command("find").once();
        let delay = Action::Delay(Duration::from_millis(delay));
        set.server(0).script().add(slow.then(delay));
        let find = doc! { "find": "c" };
        let cut = timeout(Duration::from_millis(10), client.run_command("db", &find));
        assert!(cut.await.is_err());
        let count = doc! { "count": "c" };
        let reply = client.run_command("db", &count).await.expect("counted");
        assert!(reply.get("n").expect("a document").is_some(), "{reply:?}");
    }
    // The first reply came in time; the second closed the connection.
    assert_eq!(accepted(&set), [2, 1, 1]);
    assert_eq!(network.open_streams(&set.address(0)), 1);
}

#[tokio::test(start_paused = true)]
async fn a_selection_dropped_in_a_scan_leaves_no_socket() {
    let network = SimNetwork::new(13);
    let set = three(&network).await;
    for member in 0..3 {
        let silent = Matcher::hello().once().never_answer();
        set.server(member).script().add(silent);
    }
    let mut topology = over(&set.uri(), &network).build().expect("a topology");
    let write = Criterion::write();
    let cut = timeout(Duration::from_secs(1), topology.select(&write));
    assert!(cut.await.is_err());
    for member in 0..3 {
        let server = set.server(member);
        server.wait_for("none open", |seen| seen.open == 0).await;
    }
    topology.select(&Criterion::write()).await.expect("anew");
    topology.close();
    let error = topology.select(&Criterion::write()).await;
    let error = error.expect_err("for good");
    assert!(matches!(error.kind(), ErrorKind::TopologyClosed), "{error}");
    for member in 0..3 {
        let server = set.server(member);
        server.wait_for("none open", |seen| seen.open == 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_refused_for_overload_changes_nothing() {
    let network = SimNetwork::new(15);
    let set = three(&network).await;
    let mut client = client(&set.uri(), &network);
    ping(&mut client).await.expect("a primary");
    let busy = ErrorReply::new(462, "IngressRequestRateLimitExceeded", "too much");
    let busy = busy.label("SystemOverloadedError");
    let rule = Matcher::hello().once().then(Action::Error(busy));
    set.server(0).script().add(rule);
    sleep(Duration::from_secs(61)).await;
    assert_eq!(ping(&mut client).await.expect("as before"), set.address(0));
    assert_eq!(hellos(&set, 0), 2);
    assert_eq!(accepted(&set), [1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_write_concern_error_updates_the_topology_and_returns_the_reply() {
    let network = SimNetwork::new(16);
    let set = three(&network).await;
    let mut client = client(&set.uri(), &network);
    let shutdown = Action::write_concern_error(91, "ShutdownInProgress", "down");
    let rule = Matcher::command("insert").once().then(shutdown);
    set.server(0).script().add(rule);
    let insert = doc! { "insert": "c", "documents": [{ "a": 1 }] };
    let reply = client.run_command("db", &insert).await.expect("written");
    assert_eq!(
        reply.write_concern_error().map(|error| error.code),
        Some(91)
    );
    assert!(client.description().primary().is_none());
    // The pool is cleared, so that the next command has a new connection.
    client.run_command("db", &insert).await.expect("written");
    assert_eq!(accepted(&set), [2, 1, 1]);
    assert_eq!(network.open_streams(&set.address(0)), 1);
}

#[test]
fn over_tcp_no_task_lives_in_the_runtime_of_the_client() {
    let (ready, uri) = std::sync::mpsc::channel();
    let (done, end) = tokio::sync::oneshot::channel::<()>();
    let servers = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(async {
            let set = Deployment::replica_set("rs").members(3).start().await;
            ready.send(set.uri()).expect("the test waits");
            let _ = end.await;
            set.shutdown().await;
        });
    });
    let uri = uri.recv().expect("a deployment");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let options = ClientOptions::parse(&uri).expect("a URI");
        let mut client = SingleClient::new(options).expect("a client");
        let mut pinged = std::pin::pin!(ping(&mut client));
        let pinged = std::future::poll_fn(|context| {
            let polled = pinged.as_mut().poll(context);
            assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
            polled
        });
        pinged.await.expect("a primary");
    });
    done.send(()).expect("the servers run");
    servers.join().expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn events_come_in_order() {
    let network = SimNetwork::new(14);
    let set = three(&network).await;
    let events = Arc::new(Mutex::new(Vec::new()));
    let kept = events.clone();
    let uri = format!("mongodb://{}/?replicaSet=rs", set.address(0));
    let mut topology = over(&uri, &network)
        .event_handler(move |event| kept.lock().expect("no panic").push(event.clone()))
        .build()
        .expect("a topology");
    topology.select(&Criterion::write()).await.expect("one");
    drop(topology);
    let events = events.lock().expect("no panic");
    let names: Vec<_> = events
        .iter()
        .map(|event| match event {
            SdamEvent::TopologyOpening(_) => "opening",
            SdamEvent::TopologyDescriptionChanged(_) => "changed",
            SdamEvent::TopologyClosed(_) => "closed",
            SdamEvent::ServerOpening(_) => "server opening",
            SdamEvent::ServerDescriptionChanged(_) => "server changed",
            SdamEvent::ServerClosed(_) => "server closed",
            SdamEvent::ServerHeartbeatStarted(_) => "started",
            SdamEvent::ServerHeartbeatSucceeded(_) => "succeeded",
            _ => "other",
        })
        .collect();
    let first = [
        "opening",
        "changed",
        "server opening",
        "started",
        "succeeded",
    ];
    assert_eq!(names[..5], first);
    let grown = [
        "server changed",
        "server opening",
        "server opening",
        "changed",
    ];
    assert_eq!(names[5..9], grown);
    assert_eq!(names[9..11], ["started", "started"]);
    let last = [
        "server closed",
        "server closed",
        "server closed",
        "changed",
        "closed",
    ];
    assert_eq!(names[names.len() - 5..], last);
}
