//! The cluster time of a topology.

use std::sync::Arc;

use bson::raw::RawDocumentBuf;
use bson::{Timestamp, doc, rawdoc};
use mongo_core::event::SdamEvent;
use mongo_core::net::ClusterTime;
use mongo_core::pools::ConnectionFactory;
use mongo_core::{ClientOptions, Connection, Deadline};
use mongo_testkit::Deployment;

use crate::eventually;
use crate::support::{LIMIT, Watched};

fn time(seconds: u32) -> RawDocumentBuf {
    let timestamp = Timestamp {
        time: seconds,
        increment: 1,
    };
    rawdoc! {"clusterTime": timestamp}
}

async fn connect(address: &str) -> Connection {
    let options = ClientOptions::parse(&format!("mongodb://{address}")).expect("options");
    let factory = ConnectionFactory::builder(options).build();
    let factory = factory.expect("a factory");
    let made = factory.establish(Deadline::after(LIMIT)).await;
    made.expect("a connection")
}

/// Runs a command, and passes its cluster time to the topology.
async fn gossip(watched: &Watched, connection: &mut Connection) -> Arc<ClusterTime> {
    let reply = connection.run_command("admin", &doc! {"ping": 1}).await;
    let reply = reply.expect("a reply");
    let time = reply.raw().get_document("$clusterTime").expect("a time");
    watched.topology.advance_cluster_time(time);
    watched.topology.cluster_time().expect("a time")
}

/// Sessions, prose test 20: "Drivers do not gossip `$clusterTime` on SDAM commands".
#[tokio::test]
async fn sessions_20_monitors_do_not_gossip() {
    let set = Deployment::replica_set("rs").members(1).start().await;
    let uri = format!(
        "mongodb://{}/?directConnection=true&heartbeatFrequencyMS=500&serverMonitoringMode=poll",
        set.address(0)
    );
    let watched = Watched::connect(&uri);
    watched.writable().await.expect("a server");
    assert_eq!(watched.topology.cluster_time(), None, "of hellos nothing");
    let mut first = connect(&set.address(0)).await;
    let known = gossip(&watched, &mut first).await;
    let mut other = connect(&set.address(0)).await;
    let insert = doc! {"insert": "test", "documents": [{"advance": "$clusterTime"}]};
    other.run_command("test", &insert).await.expect("inserted");
    // The next pair of events of a check.
    let checks = || {
        let is = |event: &&SdamEvent| matches!(event, SdamEvent::ServerHeartbeatSucceeded(_));
        watched.events().iter().filter(is).count()
    };
    let before = checks();
    eventually("checks", || checks() >= before + 2).await;
    assert_eq!(watched.topology.cluster_time(), Some(known.clone()));
    let sent = set.server(0).look(|seen| {
        let mut commands = seen.log.iter();
        commands.any(|seen| seen.command.contains_key("$clusterTime"))
    });
    assert!(!sent, "no check says $clusterTime");
    let newer = gossip(&watched, &mut first).await;
    assert!(newer.timestamp() > known.timestamp());
    watched.topology.close().await;
    assert_eq!(watched.topology.cluster_time(), None);
}

#[tokio::test]
async fn a_newer_cluster_time_publishes_no_snapshot() {
    let set = Deployment::replica_set("rs").members(1).start().await;
    let watched = Watched::connect(&set.uri());
    watched.writable().await.expect("a primary");
    let before = watched.topology.snapshot();
    let mut changes = watched.topology.subscribe();
    changes.mark_unchanged();
    assert!(watched.topology.advance_cluster_time(&time(u32::MAX - 1)));
    assert!(!watched.topology.advance_cluster_time(&time(7)));
    let known = watched.topology.cluster_time().expect("a time");
    assert_eq!(known.document(), &*time(u32::MAX - 1));
    assert!(Arc::ptr_eq(&before, &watched.topology.snapshot()));
    assert!(!changes.has_changed().expect("the topology lives"));
    watched.topology.close().await;
}
