//! Hello replies that are refused, unusual or incomplete, and client metadata.

use std::time::Duration;

use mongo_core::auth::AuthMechanism;
use mongo_core::bson::{Bson, Document, doc};
use mongo_core::handshake::DriverInfo;
use mongo_core::pools::Backend;
use mongo_testkit::{Action, ErrorReply, Matcher, ScriptedServer};
use tokio::time::sleep;

use crate::support::{Sim, eventually, hold, observed, one, ping};

on_both! {
    on a paused clock:
    speculation_continues_without_a_list_of_mechanisms,
    invalid_informative_fields_do_not_fail_the_server,
    a_server_that_refuses_hello_gets_the_legacy_one,
    metadata_can_be_appended_at_any_time,
}

async fn speculation_continues_without_a_list_of_mechanisms<B: Backend<Config: Default>>() {
    for action in [
        Action::Remove("saslSupportedMechs".to_owned()),
        Action::Merge(doc! {"saslSupportedMechs": "SCRAM-SHA-256"}),
        Action::Merge(doc! {"saslSupportedMechs": Bson::Null}),
    ] {
        let sim = Sim::of(1).await;
        let server = sim.set.server(0);
        server.script().add(Matcher::hello().then(action));
        let pools = sim.pools::<B>("").with_credential(one());
        let pools = pools.expect("a handle");
        let connection = pools.get().await.expect("a connection");
        let mechanism = connection.description().authenticated;
        assert_eq!(mechanism, Some(AuthMechanism::ScramSha256));
        assert_eq!(server.look(|seen| seen.count("saslStart")), 0);
        drop(connection);
        pools.close().await;
    }
}

async fn invalid_informative_fields_do_not_fail_the_server<B: Backend<Config: Default>>() {
    let null = |names: &[&str]| {
        let fields = names.iter().map(|name| ((*name).to_owned(), Bson::Null));
        fields.collect::<Document>()
    };
    for odd in [
        null(&[
            "connectionId",
            "compression",
            "topologyVersion",
            "serviceId",
            "readOnly",
        ]),
        null(&[
            "logicalSessionTimeoutMinutes",
            "tags",
            "lastWrite",
            "arbiterOnly",
        ]),
        doc! {"lastWrite": {"lastWriteDate": 1_700_000_000_000_i64}, "primary": "", "tags": {"a": 1}},
        doc! {"me": "", "connectionId": "seven", "topologyVersion": 1, "compression": [1]},
    ] {
        let sim = Sim::of(1).await;
        let rule = Matcher::hello().then(Action::Merge(odd.clone()));
        sim.set.server(0).script().add(rule);
        let pools = sim.pools::<B>("serverSelectionTimeoutMS=2000");
        let pinged = ping(&pools).await;
        pinged.unwrap_or_else(|error| panic!("{odd}: {error}"));
        pools.close().await;
    }
}

async fn a_server_that_refuses_hello_gets_the_legacy_one<B: Backend<Config: Default>>() {
    for (code, name) in [(59, "CommandNotFound"), (115, "CommandNotSupported")] {
        for mode in ["stream", "poll"] {
            let sim = Sim::of(1).await;
            let server = sim.set.server(0);
            let refused = ErrorReply::new(code, name, "no such command: 'hello'");
            let refused = Matcher::command("hello").then(Action::Error(refused));
            let refused = server.script().add(refused);
            let options = format!("heartbeatFrequencyMS=500&serverMonitoringMode={mode}");
            let (pools, kept) = observed(sim.builder::<B>(&options));
            ping(&pools).await.expect("a ping");
            let checks = server.look(|seen| seen.hellos());
            sleep(Duration::from_secs(10)).await;
            assert!(server.look(|seen| seen.hellos()) > checks + 5, "{mode}");
            let known = pools.topology().description();
            assert!(known.primary().is_some(), "{code}: {known:?}");
            assert_eq!(kept.count("PoolCleared"), 0, "{code}");
            // Once by the monitor, and once by the round trip time probe.
            let times = server.script().applied(refused);
            assert!((1..=2).contains(&times), "{code} {mode}: {times}");
            pools.close().await;
        }
    }
}

/// The names of the drivers on all connections, in order.
fn names(server: &ScriptedServer) -> Vec<String> {
    server.look(|seen| {
        let clients = seen
            .connections
            .values()
            .filter_map(|own| own.client.clone());
        let name = |client: Document| {
            let driver = client.get_document("driver").expect("a driver");
            driver.get_str("name").expect("a name").to_owned()
        };
        clients.map(name).collect()
    })
}

async fn metadata_can_be_appended_at_any_time<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let server = sim.set.server(0);
    let pools = sim
        .builder::<B>("heartbeatFrequencyMS=500&serverMonitoringMode=poll")
        .driver_info(DriverInfo::new("framework"))
        .build()
        .expect("pools");
    let held = hold(&pools, 1).await;
    let first = names(server);
    assert_eq!(
        first, ["mongo-core|framework"; 2],
        "the monitor's, and the pool's"
    );

    let plugin = || DriverInfo::new("plugin").with_version("1");
    assert_eq!(pools.append_metadata(plugin()).ok(), Some(true));
    assert_eq!(pools.append_metadata(plugin()).ok(), Some(false));
    pools
        .append_metadata(DriverInfo::new("a|b"))
        .expect_err("a delimiter");
    sleep(Duration::from_secs(2)).await;
    assert_eq!(names(server), first, "connections stay as they are");

    let more = hold(&pools, 1).await;
    assert_eq!(names(server)[2], "mongo-core|framework|plugin");
    let cut = Matcher::hello().when(|hello| !hello.contains_key("client"));
    server.script().add(cut.once().drop_connection());
    eventually("the monitor connects again", || names(server).len() >= 4).await;
    assert_eq!(names(server)[3], "mongo-core|framework|plugin");
    drop((held, more));
    pools.close().await;
}
