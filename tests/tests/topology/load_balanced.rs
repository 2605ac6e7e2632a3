//! Load-balanced mode: no monitors, and services that are cleared separately.

use std::collections::BTreeMap;
use std::sync::Arc;

use bson::doc;
use mongo_core::error::ErrorKind;
use mongo_core::event::SdamEvent;
use mongo_core::pools::{CheckBudget, ConnectionFactory};
use mongo_core::sdam::{ServerType, TopologyType};
use mongo_core::select::Criterion;
use mongo_core::{ClientOptions, Connection, Deadline};
use mongo_testkit::{Deployment, ScriptedServer};

use crate::support::{LIMIT, Watched, secondary};

fn factory(uri: &str) -> ConnectionFactory {
    let options = ClientOptions::parse(uri).expect("a connection string");
    let factory = ConnectionFactory::builder(options).build();
    factory.expect("a factory")
}

async fn establish(factory: &ConnectionFactory) -> Connection {
    let made = factory.establish(Deadline::after(LIMIT)).await;
    made.expect("a connection")
}

#[tokio::test]
async fn the_load_balancer_is_selected_at_once_and_never_checked() {
    let balanced = Deployment::load_balanced(2).start().await;
    let watched = Watched::connect(&balanced.uri());
    for criterion in [Criterion::write(), secondary()] {
        let selected = watched.topology.select(&criterion).await;
        let selected = selected.expect("the balancer");
        assert_eq!(selected.address().to_string(), balanced.address(0));
        let known = selected.entry().description().server_type;
        assert_eq!(known, ServerType::LoadBalancer);
    }
    let known = watched.topology.description();
    assert_eq!(known.topology_type(), TopologyType::LoadBalanced);
    watched.topology.close().await;
    let names: Vec<_> = watched.events().iter().map(name).collect();
    // The sequence of the load balancer specification, and the end.
    assert_eq!(
        names,
        [
            "opening",
            "changed to LoadBalanced",
            "server opening",
            "server changed to LoadBalancer",
            "changed to LoadBalanced",
            "server closed",
            "changed to Unknown",
            "closed"
        ]
    );
    for server in 0..2 {
        assert_eq!(balanced.server(server).look(|seen| seen.accepted), 0);
    }
    balanced.shutdown().await;
}

fn name(event: &SdamEvent) -> String {
    match event {
        SdamEvent::TopologyOpening(_) => "opening".to_owned(),
        SdamEvent::TopologyDescriptionChanged(event) => {
            format!("changed to {}", event.new_description.topology_type())
        }
        SdamEvent::TopologyClosed(_) => "closed".to_owned(),
        SdamEvent::ServerOpening(_) => "server opening".to_owned(),
        SdamEvent::ServerDescriptionChanged(event) => {
            format!("server changed to {}", event.new_description.server_type)
        }
        SdamEvent::ServerClosed(_) => "server closed".to_owned(),
        other => format!("{other:?}"),
    }
}

#[tokio::test]
async fn connections_have_a_service_id_and_are_cleared_by_it() {
    let balanced = Deployment::load_balanced(2).start().await;
    let factory = factory(&balanced.uri());
    let mut by_service = BTreeMap::<_, Vec<Connection>>::new();
    for _ in 0..4 {
        let mut connection = establish(&factory).await;
        connection
            .run_command("admin", &doc! {"ping": 1})
            .await
            .expect("a ping");
        let service = connection.description().service_id.expect("a service");
        by_service.entry(service).or_default().push(connection);
    }
    assert_eq!(by_service.len(), 2, "two services in turns");
    let cleared = *by_service.keys().next().expect("a service");
    factory.clear(Some(cleared));
    for (service, connections) in &mut by_service {
        for connection in connections {
            assert_eq!(connection.is_stale(), *service == cleared);
            assert_eq!(connection.generation(), 0);
            let recycled = factory
                .recycle(
                    connection,
                    Deadline::after(LIMIT),
                    &mut CheckBudget::default(),
                )
                .await;
            assert_eq!(recycled.is_err(), *service == cleared);
        }
    }
    for _ in 0..2 {
        let connection = establish(&factory).await;
        assert!(!connection.is_stale());
        let of_cleared = connection.description().service_id == Some(cleared);
        assert_eq!(connection.generation(), u64::from(of_cleared));
    }
    // And all of them together.
    factory.clear(None);
    assert!(by_service.values().flatten().all(Connection::is_stale));
    balanced.shutdown().await;
}

#[tokio::test]
async fn the_first_message_declares_load_balanced_mode() {
    let balanced = Deployment::load_balanced(1).start().await;
    let factory = factory(&balanced.uri());
    drop(establish(&factory).await);
    let hello = balanced.server(0).look(|seen| {
        seen.commands("hello")
            .next()
            .map(|hello| hello.command.clone())
    });
    let hello = hello.expect("the command, not the legacy one");
    assert!(hello.get_bool("loadBalanced").expect("a truth value"));
    balanced.shutdown().await;
}

/// A server that is not behind a load balancer. The error's text is the specification's.
#[tokio::test]
async fn a_hello_without_a_service_id_is_an_error() {
    let server = Arc::new(ScriptedServer::builder().start().await);
    let uri = format!("mongodb://{}/?loadBalanced=true", server.address());
    let error = factory(&uri)
        .establish(Deadline::after(LIMIT))
        .await
        .expect_err("no service");
    assert!(matches!(error.kind(), ErrorKind::Handshake(_)), "{error}");
    let text = "Driver attempted to initialize in load balancing mode, but the server does not \
                support this mode";
    assert!(error.to_string().contains(text), "{error}");
}
