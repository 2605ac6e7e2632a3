//! The official `mongodb` crate and PyMongo discover deployments, follow their primary, and read
//! and write through them. Nothing is skipped: if PyMongo is missing, the test fails with
//! instructions.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::doc;
use futures_util::TryStreamExt;
use mongo_testkit::{Deployment, MemberKind, MemberSpec, tools};
use mongodb::bson::{Document, doc as their_doc};
use mongodb::event::EventHandler;
use mongodb::event::sdam::SdamEvent;
use mongodb::options::ClientOptions;
use mongodb::{Client, Collection, ServerType, TopologyType};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::members::{Members, over_both};

/// The time limit for a client.
const BOUND: Duration = Duration::from_secs(30);
/// Far less than the 10 s of a heartbeat: changes noticed sooner were streamed.
const STREAMED: Duration = Duration::from_secs(5);

over_both! {
    official_crate_discovers_a_replica_set_from_any_seed,
    pymongo_discovers_a_replica_set_from_any_seed,
    official_crate_follows_a_step_down_at_once,
    official_crate_retries_a_write_that_meets_a_step_down,
    official_crate_survives_the_primarys_death,
    pymongo_follows_a_step_down_at_once,
    pymongo_retries_a_write_that_meets_a_step_down,
    official_crate_reads_from_the_member_that_its_preference_names,
    pymongo_reads_from_the_member_that_its_preference_names,
    official_crate_discovers_mongoses_and_spreads_over_them,
    pymongo_discovers_mongoses,
    official_crate_works_through_a_load_balancer,
    pymongo_works_through_a_load_balancer,
    both_clients_find_a_standalone,
}

type Types = BTreeMap<String, ServerType>;

/// The official client, and its view of the deployment.
struct Official {
    client: Client,
    view: watch::Receiver<(TopologyType, Types)>,
}

impl Official {
    async fn connect(uri: &str) -> Self {
        let (sender, view) = watch::channel((TopologyType::Unknown, Types::new()));
        let mut options = ClientOptions::parse(uri).await.expect("a valid URI");
        options.server_selection_timeout = Some(Duration::from_secs(10));
        options.sdam_event_handler = Some(EventHandler::callback(move |event| {
            if let SdamEvent::TopologyDescriptionChanged(event) = event {
                let new = &event.new_description;
                let servers = new.servers().into_iter();
                let types =
                    servers.map(|(address, info)| (address.to_string(), info.server_type()));
                sender.send_replace((new.topology_type(), types.collect()));
            }
        }));
        let client = Client::with_options(options).expect("a client");
        Self { client, view }
    }

    async fn sees(&mut self, limit: Duration, topology: TopologyType, wanted: &Types) {
        // Version 3.9.1 does not notice that the topology has no primary when a primary becomes a
        // secondary.
        let topologies = match topology {
            TopologyType::ReplicaSetNoPrimary => [topology, TopologyType::ReplicaSetWithPrimary],
            _ => [topology; 2],
        };
        let is_it =
            |view: &(TopologyType, Types)| topologies.contains(&view.0) && &view.1 == wanted;
        let outcome = timeout(limit, self.view.wait_for(is_it)).await.is_ok();
        let view = self.view.borrow().clone();
        assert!(
            outcome,
            "{view:?} within {limit:?}, not {topology:?} {wanted:?}"
        );
    }

    fn numbers(&self) -> Collection<Document> {
        self.client.database("kit").collection("numbers")
    }

    async fn insert(&self, id: i32) {
        let insert = timeout(BOUND, self.numbers().insert_one(their_doc! {"_id": id})).await;
        insert.expect("an insert in time").expect("an insert");
    }

    async fn reads_and_writes(&self) {
        let work = async {
            let numbers = self.numbers();
            let documents = (0..250).map(|n| their_doc! {"_id": n});
            numbers.insert_many(documents).await?;
            let find = numbers.find(their_doc! {}).batch_size(60).await?;
            let found: Vec<Document> = find.try_collect().await?;
            assert_eq!(found.len(), 250);
            let update = numbers.update_many(their_doc! {}, their_doc! {"$set": {"x": 1}});
            assert_eq!(update.await?.modified_count, 250);
            numbers.drop().await
        };
        let outcome = timeout(BOUND, work).await.expect("work in time");
        outcome.expect("reads and writes");
    }

    async fn end(self) {
        let end = timeout(BOUND, self.client.shutdown()).await;
        end.expect("a shutdown in time");
    }
}

pub(crate) async fn pymongo(check: &str, uri: &str, arguments: &[String]) {
    let python = tools::pymongo_python().unwrap_or_else(|error| panic!("{error}"));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/pymongo/deployment.py");
    let mut command = Command::new(python);
    command.args(["-B", script, check, uri]).args(arguments);
    command.kill_on_drop(true);
    let output = timeout(BOUND, command.output())
        .await
        .unwrap_or_else(|_| panic!("PyMongo took over {BOUND:?} to {check} {uri}"))
        .expect("start Python");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "PyMongo {check} {uri}:\n{text}");
}

/// A set with one member of each kind, and two ordinary ones.
async fn diverse(members: Members) -> Deployment {
    let mut set = Deployment::replica_set("rs").members(2);
    for kind in [MemberKind::Passive, MemberKind::Arbiter, MemberKind::Hidden] {
        set = set.member(MemberSpec::new(kind));
    }
    members.start(set).await
}

fn types(set: &Deployment, types: &[ServerType]) -> Types {
    let address = |(server, &kind): (usize, &ServerType)| (set.address(server), kind);
    types.iter().enumerate().map(address).collect()
}

/// The expectation as PyMongo's arguments.
fn expected(types: &Types) -> Vec<String> {
    let name = |kind: &ServerType| match kind {
        ServerType::RsPrimary => "RSPrimary",
        ServerType::RsSecondary => "RSSecondary",
        ServerType::RsArbiter => "RSArbiter",
        ServerType::Mongos => "Mongos",
        ServerType::LoadBalancer => "LoadBalancer",
        ServerType::Standalone => "Standalone",
        other => panic!("{other:?} is not expected anywhere"),
    };
    let argument = |(address, kind): (&String, &ServerType)| format!("{address}={}", name(kind));
    types.iter().map(argument).collect()
}

const DIVERSE: [ServerType; 4] = [
    ServerType::RsPrimary,
    ServerType::RsSecondary,
    ServerType::RsSecondary,
    ServerType::RsArbiter,
];

fn one_seed(set: &Deployment, seed: usize) -> String {
    format!("mongodb://{}/?replicaSet=rs", set.address(seed))
}

fn is_untouched(set: &Deployment, server: usize) {
    assert_eq!(set.server(server).look(|seen| seen.accepted), 0);
}

fn no_protocol_errors(deployment: &Deployment) {
    for server in 0..deployment.len() {
        let errors = deployment
            .server(server)
            .look(|seen| seen.protocol_errors.clone());
        assert_eq!(errors, [""; 0]);
    }
}

async fn official_crate_discovers_a_replica_set_from_any_seed(members: Members) {
    let set = diverse(members).await;
    for seed in [0, 1, 3] {
        let mut official = Official::connect(&one_seed(&set, seed)).await;
        let topology = TopologyType::ReplicaSetWithPrimary;
        official.sees(BOUND, topology, &types(&set, &DIVERSE)).await;
        official.end().await;
    }
    is_untouched(&set, 4);
    no_protocol_errors(&set);
}

async fn pymongo_discovers_a_replica_set_from_any_seed(members: Members) {
    let set = diverse(members).await;
    let mut arguments = vec!["ReplicaSetWithPrimary".to_owned()];
    arguments.extend(expected(&types(&set, &DIVERSE)));
    for seed in [1, 3] {
        pymongo("discover", &one_seed(&set, seed), &arguments).await;
    }
    is_untouched(&set, 4);
    no_protocol_errors(&set);
}

async fn official_crate_follows_a_step_down_at_once(members: Members) {
    use ServerType::{RsPrimary, RsSecondary};
    let set = members
        .start(Deployment::replica_set("rs").members(3))
        .await;
    let mut official = Official::connect(&set.uri()).await;
    let with = TopologyType::ReplicaSetWithPrimary;
    let before = types(&set, &[RsPrimary, RsSecondary, RsSecondary]);
    official.sees(BOUND, with, &before).await;
    official.insert(1).await;

    set.step_down(0);
    let nobody = types(&set, &[RsSecondary; 3]);
    let without = TopologyType::ReplicaSetNoPrimary;
    official.sees(STREAMED, without, &nobody).await;
    set.elect(2);
    let after = types(&set, &[RsSecondary, RsSecondary, RsPrimary]);
    official.sees(STREAMED, with, &after).await;
    official.insert(2).await;
    assert_eq!(set.server(2).look(|seen| seen.count("insert")), 1);
    assert_eq!(set.documents("kit.numbers").len(), 2);
    official.end().await;
}

async fn official_crate_retries_a_write_that_meets_a_step_down(members: Members) {
    let set = members
        .start(Deployment::replica_set("rs").members(3))
        .await;
    let official = Official::connect(&set.uri()).await;
    for id in 0..20 {
        // Elects in one step, while the client is already running.
        set.elect(usize::try_from(id % 3).expect("a small number"));
        official.insert(id).await;
    }
    assert_eq!(set.documents("kit.numbers").len(), 20);
    official.end().await;
}

async fn official_crate_survives_the_primarys_death(members: Members) {
    use ServerType::{RsPrimary, RsSecondary};
    let set = members
        .start(
            Deployment::replica_set("rs")
                .members(3)
                .elections(Duration::from_millis(200)),
        )
        .await;
    // So that it checks again soon.
    let uri = format!("{}&heartbeatFrequencyMS=500", set.uri());
    let mut official = Official::connect(&uri).await;
    official.insert(1).await;
    set.kill(0).await;
    official.insert(2).await;
    set.restart(0).await;
    let wanted = types(&set, &[RsSecondary, RsPrimary, RsSecondary]);
    let topology = TopologyType::ReplicaSetWithPrimary;
    official.sees(BOUND, topology, &wanted).await;
    assert_eq!(set.documents("kit.numbers").len(), 2);
    official.end().await;
}

async fn pymongo_follows_a_step_down_at_once(members: Members) {
    let set = members
        .start(Deployment::replica_set("rs").members(3))
        .await;
    let arguments = [set.address(0), set.address(1)];
    pymongo("fail-over", &set.uri(), &arguments).await;
    assert_eq!(set.documents("kit.numbers").len(), 2);
    no_protocol_errors(&set);
}

async fn pymongo_retries_a_write_that_meets_a_step_down(members: Members) {
    let set = members
        .start(Deployment::replica_set("rs").members(3))
        .await;
    pymongo("retry", &set.uri(), &[set.address(0)]).await;
    assert_eq!(set.primary(), Some(1));
}

/// Two secondaries that differ by their tags and by their lag.
async fn unlike_secondaries(members: Members) -> Deployment {
    let lagging = MemberSpec::default().tag("dc", "la");
    let set = members
        .start(
            Deployment::replica_set("rs")
                .members(1)
                .member(MemberSpec::default().tag("dc", "ny"))
                .member(lagging.lag(Duration::from_secs(600))),
        )
        .await;
    set.insert("kit.numbers", [doc! {"_id": 1}]);
    set
}

/// URI options, and the members to read from.
const PREFERENCES: [(&str, &[usize]); 4] = [
    ("&readPreference=secondary&readPreferenceTags=dc:la", &[2]),
    ("&readPreference=secondary&readPreferenceTags=dc:ny", &[1]),
    ("&readPreference=secondary&maxStalenessSeconds=90", &[1]),
    ("&readPreference=primary", &[0]),
];

fn finds(set: &Deployment) -> Vec<u64> {
    let count = |server| set.server(server).look(|seen| seen.count("find"));
    (0..set.len()).map(count).collect()
}

fn only_these_were_read(before: &[u64], after: &[u64], wanted: &[usize], reads: u64) {
    for (server, (before, after)) in before.iter().zip(after).enumerate() {
        let expected = if wanted.contains(&server) { reads } else { 0 };
        assert_eq!(after - before, expected, "server {server}, {wanted:?}");
    }
}

async fn official_crate_reads_from_the_member_that_its_preference_names(members: Members) {
    use ServerType::{RsPrimary, RsSecondary};
    let set = unlike_secondaries(members).await;
    let all = types(&set, &[RsPrimary, RsSecondary, RsSecondary]);
    for (options, wanted) in PREFERENCES {
        let before = finds(&set);
        let mut official = Official::connect(&format!("{}{options}", set.uri())).await;
        // A client that knows only one secondary would read from it.
        let topology = TopologyType::ReplicaSetWithPrimary;
        official.sees(BOUND, topology, &all).await;
        for _ in 0..5 {
            let find = official.numbers().find_one(their_doc! {"_id": 1}).await;
            assert!(find.expect("a read").is_some());
        }
        official.end().await;
        only_these_were_read(&before, &finds(&set), wanted, 5);
    }
}

async fn pymongo_reads_from_the_member_that_its_preference_names(members: Members) {
    let set = unlike_secondaries(members).await;
    for (options, wanted) in PREFERENCES {
        let before = finds(&set);
        pymongo("read", &format!("{}{options}", set.uri()), &[]).await;
        only_these_were_read(&before, &finds(&set), wanted, 5);
    }
}

async fn official_crate_discovers_mongoses_and_spreads_over_them(members: Members) {
    let deployment = members.start(Deployment::sharded(3)).await;
    // Even if one of them answered its first hello slowly.
    let uri = format!("{}localThresholdMS=60000", deployment.uri());
    let mut official = Official::connect(&uri).await;
    let wanted = types(&deployment, &[ServerType::Mongos; 3]);
    official.sees(BOUND, TopologyType::Sharded, &wanted).await;
    official.reads_and_writes().await;
    for id in 0..60 {
        official.insert(id).await;
    }
    for server in 0..3 {
        let inserts = deployment.server(server).look(|seen| seen.count("insert"));
        assert!(inserts > 0, "mongos {server} was never used");
    }
    official.end().await;
}

async fn pymongo_discovers_mongoses(members: Members) {
    let deployment = members.start(Deployment::sharded(2)).await;
    let mut arguments = vec!["Sharded".to_owned()];
    arguments.extend(expected(&types(&deployment, &[ServerType::Mongos; 2])));
    pymongo("discover", &deployment.uri(), &arguments).await;
    pymongo("read-and-write", &deployment.uri(), &[]).await;
    no_protocol_errors(&deployment);
}

async fn official_crate_works_through_a_load_balancer(members: Members) {
    let deployment = members.start(Deployment::load_balanced(2)).await;
    let mut official = Official::connect(&deployment.uri()).await;
    official.reads_and_writes().await;
    let wanted = BTreeMap::from([(deployment.address(0), ServerType::LoadBalancer)]);
    let topology = TopologyType::LoadBalanced;
    official.sees(BOUND, topology, &wanted).await;
    official.end().await;
    no_protocol_errors(&deployment);
}

async fn pymongo_works_through_a_load_balancer(members: Members) {
    let deployment = members.start(Deployment::load_balanced(2)).await;
    pymongo("read-and-write", &deployment.uri(), &[]).await;
    let mut arguments = vec!["LoadBalanced".to_owned()];
    arguments.push(format!("{}=LoadBalancer", deployment.address(0)));
    pymongo("discover", &deployment.uri(), &arguments).await;
    no_protocol_errors(&deployment);
}

async fn both_clients_find_a_standalone(members: Members) {
    let deployment = members.start(Deployment::standalones(1)).await;
    let mut official = Official::connect(&deployment.uri()).await;
    let wanted = types(&deployment, &[ServerType::Standalone]);
    official.sees(BOUND, TopologyType::Single, &wanted).await;
    official.reads_and_writes().await;
    official.end().await;
    let mut arguments = vec!["Single".to_owned()];
    arguments.extend(expected(&wanted));
    pymongo("discover", &deployment.uri(), &arguments).await;
    pymongo("read-and-write", &deployment.uri(), &[]).await;
}
