//! Prose tests of server discovery and monitoring and of server selection, under their original
//! names. Those of monitors are in `monitoring`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bson::{Document, doc};
use mongo_core::error::ErrorKind;
use mongo_core::event::SdamEvent;
use mongo_core::net::Topology;
use mongo_core::pools::ConnectionFactory;
use mongo_core::sdam::{
    ApplicationError, ErrorPhase, MIN_HEARTBEAT_FREQUENCY, ServerType, TopologyType,
};
use mongo_core::select::{Criterion, ReadPreference, ReadPreferenceMode, ServerSelector};
use mongo_core::{ClientOptions, Connection, Deadline, ServerAddress};
use mongo_testkit::{Action, Deployment, ErrorReply, Matcher, SimNetwork};

use crate::support::{LIMIT, OverSim, Watched, secondary};

fn insert() -> Document {
    doc! { "insert": "things", "documents": [{ "_id": 1 }] }
}

/// Establishes a connection.
async fn establish(server: &ServerAddress, network: Option<&SimNetwork>) -> Connection {
    let uri = format!("mongodb://{server}/?appName=loadBalancingTest");
    let mut builder = ConnectionFactory::builder(ClientOptions::parse(&uri).expect("a URI"));
    if let Some(network) = network {
        builder = builder.connector(Arc::new(OverSim(network.clone())));
    }
    let factory = builder.build().expect("a factory");
    let connection = factory.establish(Deadline::after(LIMIT)).await;
    connection.expect("a connection")
}

/// Writes to the server that is selected for it.
async fn write(watched: &Watched) -> Result<(), mongo_core::Error> {
    let server = watched.writable().await.expect("a server");
    let mut connection = establish(server.address(), None).await;
    connection.run_command("kit", &insert()).await.map(|_| ())
}

/// "All servers unavailable": the client is still created.
#[tokio::test]
async fn all_servers_unavailable() {
    let set = Deployment::replica_set("rs").members(2).start().await;
    let uri = set.uri();
    set.shutdown().await;
    let watched = Watched::connect(&uri);
    let known = watched.topology.description();
    assert_eq!(known.servers().len(), 2);
    watched.topology.close().await;
}

/// "Topology discovery and direct connection": the URI names a secondary.
#[tokio::test]
async fn topology_discovery() {
    let set = Deployment::replica_set("rs").members(2).start().await;
    let uri = format!("mongodb://{}/?directConnection=false", set.address(1));
    let watched = Watched::connect(&uri);
    write(&watched).await.expect("a write to the primary");
    assert_eq!(set.documents("kit.things").len(), 1);
    watched.topology.close().await;
}

#[tokio::test]
async fn direct_connection() {
    let set = Deployment::replica_set("rs").members(2).start().await;
    let uri = format!("mongodb://{}/?directConnection=true", set.address(1));
    let watched = Watched::connect(&uri);
    let error = write(&watched).await.expect_err("a secondary");
    assert_eq!(error.code(), Some(10107), "{error}");
    assert_eq!(set.documents("kit.things").len(), 0);
    let known = watched.topology.description();
    assert_eq!(known.topology_type(), TopologyType::Single);
    assert_eq!(known.servers().len(), 1);
    watched.topology.close().await;
}

/// "Existing behavior": without `directConnection` the set is discovered.
#[tokio::test]
async fn existing_behavior() {
    let set = Deployment::replica_set("rs").members(2).start().await;
    let watched = Watched::connect(&format!("mongodb://{}/", set.address(1)));
    write(&watched).await.expect("a write to the primary");
    watched.topology.close().await;
}

/// A set on a network in memory, and a client that has polled all members. It may check again on
/// request, long before its next regular check.
struct AtRest {
    network: SimNetwork,
    set: Deployment,
    watched: Watched,
}

impl AtRest {
    async fn start(seed: u64) -> Self {
        let network = SimNetwork::new(seed);
        let set = Deployment::replica_set("rs")
            .members(3)
            .network(&network)
            .start()
            .await;
        let uri = format!("{}&serverMonitoringMode=poll", set.uri());
        let watched = Watched::connect_over(&uri, &network);
        let this = Self {
            network,
            set,
            watched,
        };
        this.all_known().await;
        tokio::time::sleep(MIN_HEARTBEAT_FREQUENCY * 2).await;
        this
    }

    async fn all_known(&self) {
        self.watched
            .wait_until("all members are known", |known| {
                let mut servers = known.servers().iter();
                servers.all(|server| server.server_type.is_data_bearing())
            })
            .await;
    }

    fn address(&self, member: usize) -> ServerAddress {
        self.set.address(member).parse().expect("an address")
    }

    /// The error of a command on a member, if any.
    async fn run(&self, member: usize, command: Document) -> Option<ApplicationError> {
        let address = self.address(member);
        let mut connection = establish(&address, Some(&self.network)).await;
        match connection.run_command("kit", &command).await {
            Ok(reply) => ApplicationError::from_write_concern_error(address, reply.raw()),
            Err(error) => Some(ApplicationError::new(address, error, ErrorPhase::Completed)),
        }
    }

    /// Reports an error to the topology, and checks that the member becomes unknown at once, for
    /// that reason.
    fn handle(&self, error: Option<ApplicationError>, reason: &str) -> TopologyType {
        let error = error.expect("an error");
        let address = error.server.clone();
        self.watched.topology.handle_error(error);
        let known = self.watched.topology.description();
        let server = known.server(&address).expect("a member");
        assert_eq!(server.server_type, ServerType::Unknown);
        let stored = server.error.as_ref().expect("a reason").to_string();
        assert!(stored.contains(reason), "{stored}");
        known.topology_type()
    }

    /// The number of checks of a member that begin within `time`.
    async fn checks_within(&self, member: usize, time: Duration) -> usize {
        let address = self.address(member);
        let started = || {
            let events = self.watched.events();
            let of_it = |event: &&SdamEvent| matches!(event, SdamEvent::ServerHeartbeatStarted(event) if event.address == address);
            events.iter().filter(of_it).count()
        };
        let before = started();
        tokio::time::sleep(time).await;
        started() - before
    }
}

/// "Network error writing to primary": the server is unknown, there is no primary, and no immediate
/// check.
#[tokio::test(start_paused = true)]
async fn network_error_writing_to_primary() {
    let rest = AtRest::start(11).await;
    let drops = Matcher::command("insert").drop_connection();
    rest.set.server(0).script().add(drops);
    let error = rest.run(0, insert()).await;
    let is_network = |error: &ApplicationError| matches!(error.error.kind(), ErrorKind::Network(_));
    assert!(error.as_ref().is_some_and(is_network), "{error:?}");
    let topology_type = rest.handle(error, "clos");
    assert_eq!(topology_type, TopologyType::ReplicaSetNoPrimary);
    assert_eq!(rest.checks_within(0, MIN_HEARTBEAT_FREQUENCY * 2).await, 0);
    // A selection that needs the primary requests a check.
    rest.watched.writable().await.expect("the primary is there");
    rest.watched.topology.close().await;
}

/// "'Not writable primary' error when reading without SecondaryOk bit". The plan expects no
/// immediate check, but the specification requires one by a multi-threaded client, such as this
/// one.
#[tokio::test(start_paused = true)]
async fn not_writable_primary_when_reading_without_secondary_ok() {
    let rest = AtRest::start(12).await;
    let refusal = ErrorReply::new(13435, "NotPrimaryNoSecondaryOk", "not primary, it says");
    let rule = Matcher::command("find").once();
    rest.set
        .server(0)
        .script()
        .add(rule.then(Action::Error(refusal)));
    let error = rest.run(0, doc! { "find": "things" }).await;
    let topology_type = rest.handle(error, "not primary, it says");
    assert_eq!(topology_type, TopologyType::ReplicaSetNoPrimary);
    assert_eq!(rest.checks_within(0, MIN_HEARTBEAT_FREQUENCY).await, 1);
    rest.all_known().await;
    rest.watched.topology.close().await;
}

/// "'Node is recovering' error reading with SecondaryOk bit": the topology keeps its primary, and
/// the secondary is checked at once.
#[tokio::test(start_paused = true)]
async fn node_is_recovering_when_reading_with_secondary_ok() {
    let rest = AtRest::start(13).await;
    // The member itself refuses; no poll has shown yet that it is recovering.
    rest.set.change_set(|set| set.set_recovering(1, true));
    let preference = doc! { "mode": "secondaryPreferred" };
    let find = doc! { "find": "things", "$readPreference": preference };
    let error = rest.run(1, find).await;
    assert_eq!(error.as_ref().and_then(|it| it.error.code()), Some(13436));
    let topology_type = rest.handle(error, "not in primary or recovering state");
    assert_eq!(topology_type, TopologyType::ReplicaSetWithPrimary);
    assert_eq!(rest.checks_within(1, MIN_HEARTBEAT_FREQUENCY).await, 1);
    let known = rest.watched.topology.description();
    let member = known.server(&rest.address(1)).expect("a member");
    assert_eq!(member.server_type, ServerType::RsOther);
    rest.watched.topology.close().await;
}

/// "'Node is recovering' error from a write concern error": the same as for a failed command.
#[tokio::test(start_paused = true)]
async fn node_is_recovering_in_a_write_concern_error() {
    let rest = AtRest::start(14).await;
    let concern = doc! { "code": 91, "errmsg": "Replication is being shut down" };
    let data = doc! { "failCommands": ["insert"], "writeConcernError": concern };
    rest.set.fail_commands(0, doc! { "times": 1 }, data);
    let error = rest.run(0, insert()).await;
    let topology_type = rest.handle(error, "Replication is being shut down");
    assert_eq!(topology_type, TopologyType::ReplicaSetNoPrimary);
    assert_eq!(rest.checks_within(0, MIN_HEARTBEAT_FREQUENCY).await, 1);
    rest.all_known().await;
    rest.watched.topology.close().await;
}

/// "Parsing 'not writable primary' and 'node is recovering' errors": texts without a code, fields
/// in any order. Servers that are old enough to omit the code say "not master".
#[tokio::test(start_paused = true)]
async fn parsing_not_writable_primary_and_node_is_recovering_errors() {
    let rest = AtRest::start(15).await;
    for text in [
        "not master",
        "not master or secondary; cannot currently read from this replSet member",
        "not master and slaveOk=false",
        "node is recovering",
    ] {
        for reply in [
            doc! { "ok": 0, "errmsg": text },
            doc! { "errmsg": text, "ok": 0.0 },
        ] {
            let rule = Matcher::command("count").once();
            rest.set
                .server(0)
                .script()
                .add(rule.then(Action::Reply(reply)));
            let error = rest.run(0, doc! { "count": "things" }).await;
            let topology_type = rest.handle(error, text);
            assert_eq!(topology_type, TopologyType::ReplicaSetNoPrimary);
            rest.all_known().await;
        }
    }
    rest.watched.topology.close().await;
}

/// Ten tasks, each with a connection to each server, as from full pools.
struct Finders {
    topology: Topology,
    connections: Vec<HashMap<ServerAddress, Connection>>,
}

impl Finders {
    /// Each task runs `times` finds in order, on selected servers.
    async fn find(&mut self, times: usize) {
        let tasks: Vec<_> = self
            .connections
            .drain(..)
            .map(|mut own| {
                let topology = self.topology.clone();
                let read = ReadPreference::new(ReadPreferenceMode::Primary);
                let criterion = Criterion::read(read).expect("a criterion");
                tokio::spawn(async move {
                    for _ in 0..times {
                        let server = topology.select(&criterion).await.expect("a server");
                        let connection = own.get_mut(server.address()).expect("a connection");
                        let find = doc! { "find": "things", "filter": {}, "limit": 1 };
                        connection.run_command("kit", &find).await.expect("a reply");
                    }
                    own
                })
            })
            .collect();
        for task in tasks {
            self.connections.push(task.await.expect("no panic"));
        }
    }
}

/// Server selection, "operationCount-based Selection Within Latency Window": the slower of two
/// mongos gets under 25 % of the finds, and 40 to 60 % once it is as fast as the other.
#[tokio::test(start_paused = true)]
async fn operation_count_based_selection_within_latency_window() {
    let network = SimNetwork::new(16);
    let mongoses = Deployment::sharded(2).network(&network).start().await;
    let slow = doc! {
        "failCommands": ["find"],
        "blockConnection": true,
        "blockTimeMS": 500,
        "appName": "loadBalancingTest",
    };
    mongoses.fail_commands(0, doc! { "times": 10_000 }, slow);
    let options = "appName=loadBalancingTest&localThresholdMS=30000";
    let watched = Watched::connect_over(&format!("{}{options}", mongoses.uri()), &network);
    watched
        .wait_until("both are known", |known| {
            let mut servers = known.servers().iter();
            servers.all(|server| server.server_type == ServerType::Mongos)
        })
        .await;
    let mut finders = Finders {
        topology: watched.topology.clone(),
        connections: Vec::new(),
    };
    for _ in 0..10 {
        let mut own = HashMap::new();
        for mongos in 0..2 {
            let address: ServerAddress = mongoses.address(mongos).parse().expect("an address");
            let connection = establish(&address, Some(&network)).await;
            own.insert(address, connection);
        }
        finders.connections.push(own);
    }
    let finds = || [0, 1].map(|mongos| mongoses.server(mongos).look(|seen| seen.count("find")));

    finders.find(10).await;
    let [slowed, other] = finds();
    assert_eq!(slowed + other, 100);
    assert!(slowed < 25, "{slowed} of 100");

    mongoses.fail_commands(0, "off", Document::new());
    finders.find(100).await;
    let since = finds()[0] - slowed;
    assert!((400..=600).contains(&since), "{since} of 1000");
    watched.topology.close().await;
}

/// Server selection, "Application-Provided Server Selector": ten reads from the nearest all go to
/// the member with the highest port.
#[tokio::test]
async fn application_provided_server_selector() {
    let set = Deployment::replica_set("rs").members(3).start().await;
    let highest_port = ServerSelector::new(|servers| {
        let highest = servers.iter().max_by_key(|server| server.address.port());
        highest.into_iter().copied().collect()
    });
    let options = ClientOptions::parse(&set.uri()).expect("a URI");
    let topology = Topology::builder(options)
        .server_selector(highest_port)
        .build()
        .expect("a topology");
    topology.connect().expect("connected");
    let all_known = |known: &Arc<mongo_core::sdam::TopologyDescription>| {
        let mut servers = known.servers().iter();
        servers.all(|server| server.server_type.is_data_bearing())
    };
    let mut changes = topology.subscribe();
    let waited = tokio::time::timeout(LIMIT, changes.wait_for(all_known)).await;
    drop(waited.expect("in time").expect("a topology"));

    let nearest = ReadPreference::new(ReadPreferenceMode::Nearest);
    let nearest = Criterion::read(nearest).expect("a criterion");
    for _ in 0..10 {
        let server = topology.select(&nearest).await.expect("a server");
        let mut connection = establish(server.address(), None).await;
        let find = doc! { "find": "things", "$readPreference": { "mode": "nearest" } };
        connection.run_command("kit", &find).await.expect("a reply");
    }
    let port = |member: &usize| set.server(*member).port();
    let highest = (0..3).max_by_key(port).expect("three members");
    for member in 0..3 {
        let finds = set.server(member).look(|seen| seen.count("find"));
        assert_eq!(finds, if member == highest { 10 } else { 0 });
    }
    topology.close().await;
}

/// Server selection, "Calculating Round Trip Time": the average is reset with the connection, and
/// the first sample of the next one becomes the average.
#[tokio::test(start_paused = true)]
async fn rtt_is_reset_on_disconnect() {
    let network = SimNetwork::new(17);
    let slow = Duration::from_millis(100);
    network.set_latency(slow, slow);
    let set = Deployment::replica_set("rs")
        .members(2)
        .network(&network)
        .start()
        .await;
    let watched = Watched::connect_over(&set.uri(), &network);
    let average = |member: &str, known: &mongo_core::sdam::TopologyDescription| {
        let mut servers = known.servers().iter();
        let server = servers.find(|server| server.address.to_string() == member);
        server.and_then(|server| server.round_trip_time)
    };
    let address = set.address(1);
    watched
        .wait_until("a slow member", |known| {
            average(&address, known) >= Some(slow * 2)
        })
        .await;
    set.kill(1).await;
    watched
        .wait_until("no time of a member that is gone", |known| {
            known.servers().len() == 2 && average(&address, known).is_none()
        })
        .await;
    let fast = Duration::from_millis(1);
    network.set_latency(fast, fast);
    set.restart(1).await;
    let server = watched.topology.select_by(LIMIT, &secondary(), &[]).await;
    let server = server.expect("a secondary");
    let known = server.entry().description().round_trip_time;
    // An average with the samples from before would be over 160 ms.
    assert!(
        known.is_some_and(|average| average < fast * 10),
        "{known:?}"
    );
    watched.topology.close().await;
}
