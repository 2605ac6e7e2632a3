//! Topologies outside of a runtime, or on a runtime without a driver.

use std::pin::pin;

use mongo_core::bson::doc;
use mongo_core::net::{OnDemandTopology, SingleClient, Topology};
use mongo_core::select::Criterion;
use mongo_core::{ClientOptions, Error, ErrorKind};
use mongo_testkit::{Action, Gate, Matcher, Place, ScriptedServer, User, driven_runtime};
use tokio::runtime::Builder;

fn refuses<T>(place: Place, entry: &str, run: impl Future<Output = Result<T, Error>>) {
    let error = place.refuses(entry, run);
    let is_configuration = matches!(error.kind(), ErrorKind::Configuration(_));
    assert!(is_configuration, "{entry} in {place:?}: {error}");
}

#[test]
fn a_topology_names_the_missing_driver() {
    let runtime = driven_runtime();
    let server = runtime.block_on(ScriptedServer::start());
    let options = ClientOptions::parse(&server.uri()).expect("a connection string");
    let write = Criterion::write();
    for place in Place::ALL {
        let topology = Topology::new(options.clone()).expect("a topology");
        refuses(place, "connect", async { topology.connect() });
        if place != Place::WithoutIo {
            refuses(place, "select", topology.select(&write));
        }
        place.run(topology.disconnect());
        runtime.block_on(async {
            topology.connect().expect("within a runtime");
            topology.select(&write).await.expect("a server");
        });
        // A known server can be selected anywhere.
        place.run(topology.select(&write)).expect("a server");
        place.run(topology.disconnect());
        runtime.block_on(async { topology.connect().expect("within a runtime") });
        place.run(topology.close());
        assert!(place.run(topology.select(&write)).is_err());
    }
}

#[test]
fn an_on_demand_topology_names_the_missing_driver() {
    let runtime = driven_runtime();
    let server = runtime.block_on(ScriptedServer::start());
    let options = ClientOptions::parse(&server.uri()).expect("a connection string");
    let write = Criterion::write();
    let ping = doc! {"ping": 1};
    for place in Place::ALL {
        let topology = OnDemandTopology::new(options.clone());
        let mut topology = topology.expect("a topology");
        refuses(place, "select", topology.select(&write));
        runtime.block_on(topology.select(&write)).expect("a server");
        let mut client = SingleClient::new(options.clone()).expect("a client");
        refuses(place, "run_command", client.run_command("db", &ping));
        runtime
            .block_on(client.run_command("db", &ping))
            .expect("a pong");
        if place != Place::WithoutIo {
            refuses(place, "run_command", client.run_command("db", &ping));
        }
        client.close();
    }
}

/// A call moves to another runtime, while the runtime of its socket is no longer driven.
#[test]
fn a_handshake_names_an_undriven_runtime() {
    let runtime = driven_runtime();
    for (stage, rule) in [
        ("ismaster", Matcher::hello()),
        ("saslContinue", Matcher::command("saslContinue")),
    ] {
        let builder = ScriptedServer::builder().user(User::new("app", "pencil").iterations(4096));
        let server = runtime.block_on(builder.start());
        let uri = server.uri_for("app", "pencil");
        let uri = format!("{uri}&connectTimeoutMS=2000&serverSelectionTimeoutMS=2000");
        let options = ClientOptions::parse(&uri).expect("a connection string");
        let gate = Gate::new();
        server
            .script()
            .add(rule.then(Action::WaitFor(gate.clone())));
        let mut client = SingleClient::new(options).expect("a client");
        let ping = doc! {"ping": 1};
        let mut call = pin!(client.run_command("db", &ping));
        let there = Builder::new_current_thread().enable_all().build();
        let there = there.expect("a runtime");
        there.block_on(async {
            tokio::select! {
                ran = &mut call => panic!("{stage}: {:?}", ran.map(drop)),
                () = server.wait_for(stage, |seen| seen.count(stage) > 0) => {}
            }
        });
        gate.open();
        let error = runtime.block_on(async { call.await.map(drop) });
        let text = error.expect_err("the reactor does not turn").to_string();
        assert!(text.contains("nothing drives"), "{stage}: {text}");
    }
}
