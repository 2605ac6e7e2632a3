//! Topologies that are used outside of a runtime, or on one that lacks a driver.

use std::time::{Duration, Instant};

use mongo_core::bson::doc;
use mongo_core::net::{OnDemandTopology, SingleClient, Topology};
use mongo_core::select::Criterion;
use mongo_core::{ClientOptions, Error, ErrorKind};
use mongo_testkit::{Place, ScriptedServer};
use tokio::runtime::{Builder, Runtime};

fn driven() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    let builder = builder.worker_threads(1).enable_all();
    builder.build().expect("a runtime")
}

fn refuses<T>(place: Place, entry: &str, run: impl Future<Output = Result<T, Error>>) {
    let begun = Instant::now();
    let Err(error) = place.run(run) else {
        panic!("{entry} in {place:?} succeeds");
    };
    let is_named = error.to_string().contains(place.remedy());
    let is_configuration = matches!(error.kind(), ErrorKind::Configuration(_));
    assert!(
        is_named && is_configuration,
        "{entry} in {place:?}: {error}"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{entry} in {place:?}"
    );
}

#[test]
fn a_topology_names_what_is_missing() {
    let runtime = driven();
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
        // What is known is selected from anywhere.
        place.run(topology.select(&write)).expect("a server");
        place.run(topology.disconnect());
        runtime.block_on(async { topology.connect().expect("within a runtime") });
        place.run(topology.close());
        assert!(place.run(topology.select(&write)).is_err());
    }
}

#[test]
fn a_topology_without_background_names_what_is_missing() {
    let runtime = driven();
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
