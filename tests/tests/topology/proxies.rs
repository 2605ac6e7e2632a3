//! The topology with proxies in front of a real server: real commands through played roles.

use bson::{Document, doc};
use mongo_core::pools::ConnectionFactory;
use mongo_core::sdam::{ServerType, TopologyType};
use mongo_core::{ClientOptions, Deadline};
use mongo_testkit::{Deployment, DeploymentBuilder, RealServer, User};

use crate::support::{LIMIT, Watched};

async fn before_a_real_server(deployment: DeploymentBuilder) -> Deployment {
    let real = RealServer::builder().user(User::new("app", "pencil"));
    deployment.backed_by(real.start()).start().await
}

/// Writes, as a user, to the selected server.
async fn write(watched: &Watched, id: i32) -> Document {
    let server = watched.writable().await.expect("a server");
    let uri = format!("mongodb://app:pencil@{}/", server.address());
    let options = ClientOptions::parse(&uri).expect("a URI");
    let factory = ConnectionFactory::builder(options).build();
    let factory = factory.expect("a factory");
    let connection = factory.establish(Deadline::after(LIMIT)).await;
    let mut connection = connection.expect("a connection");
    let insert = doc! { "insert": "things", "documents": [{ "_id": id }] };
    let reply = connection.run_command("kit", &insert).await;
    reply.expect("a reply").to_document().expect("a document")
}

#[tokio::test]
async fn writes_follow_a_played_election_at_once() {
    let set = before_a_real_server(Deployment::replica_set("rs").members(3)).await;
    // Polling at this rate would not notice it within the test's limit.
    let uri = format!("{}&heartbeatFrequencyMS=600000", set.uri());
    let watched = Watched::connect(&uri);
    write(&watched, 0).await;
    for (id, (down, up)) in (1..).zip([(0, 1), (1, 2), (2, 0)]) {
        set.step_down(down);
        let without = TopologyType::ReplicaSetNoPrimary;
        watched
            .wait_until("no primary", |known| known.topology_type() == without)
            .await;
        set.elect(up);
        let reply = write(&watched, id).await;
        assert_eq!(reply.get_i32("n").expect("a count"), 1);
        let seen = set.server(up).look(|seen| seen.count("insert"));
        assert!(seen > 0, "member {up} was not written to");
    }
    for member in 0..3 {
        let refused = set.server(member).look(|seen| seen.refused_writes.len());
        assert_eq!(refused, 0, "no write goes to a known secondary");
    }
    assert_eq!(set.documents("kit.things").len(), 4);
    watched.topology.close().await;
    set.shutdown().await;
}

#[tokio::test]
async fn a_killed_member_is_replaced_and_comes_back() {
    let set = before_a_real_server(Deployment::replica_set("rs").members(3)).await;
    let uri = format!("{}&heartbeatFrequencyMS=500", set.uri());
    let watched = Watched::connect(&uri);
    write(&watched, 0).await;
    set.kill(0).await;
    set.elect(2);
    let killed = set.address(0);
    watched
        .wait_until("the killed member is unknown", |known| {
            known.servers().iter().any(|server| {
                server.address.to_string() == killed && server.server_type == ServerType::Unknown
            })
        })
        .await;
    write(&watched, 1).await;
    set.restart(0).await;
    watched
        .wait_until("all are there", |known| {
            let mut servers = known.servers().iter();
            servers.all(|server| server.server_type.is_data_bearing())
        })
        .await;
    assert_eq!(set.documents("kit.things").len(), 2);
    watched.topology.close().await;
}

#[tokio::test]
async fn played_mongoses_are_a_sharded_deployment() {
    let deployment = before_a_real_server(Deployment::sharded(2)).await;
    let watched = Watched::connect(&deployment.uri());
    write(&watched, 0).await;
    watched
        .wait_until("two mongoses", |known| {
            let mut servers = known.servers().iter();
            known.topology_type() == TopologyType::Sharded
                && servers.all(|server| server.server_type == ServerType::Mongos)
        })
        .await;
    assert_eq!(deployment.documents("kit.things").len(), 1);
    watched.topology.close().await;
}
