//! The commands that each role executes.

use std::time::Duration;

use bson::{Document, Timestamp, doc};
use mongo_testkit::{Deployment, MemberKind, MemberSpec, User};

use crate::members::{Members, over_both};
use crate::wire::{Wire, counter, is_primary};

over_both! {
    only_the_primary_writes_and_secondaries_read_where_allowed,
    members_without_data_or_a_set_serve_neither_reads_nor_writes,
    a_legacy_hello_uses_the_legacy_field_for_the_primary,
    a_step_down_by_command_elects_another_primary,
    the_only_member_is_reelected_when_it_is_unfrozen,
    a_balancer_spreads_connections_over_the_servers_that_are_up,
    members_come_go_and_change_their_names,
}

fn insert(id: i32) -> Document {
    doc! {"insert": "c", "documents": [{"_id": id}]}
}

fn find(mode: Option<&str>) -> Document {
    let mut command = doc! {"find": "c", "batchSize": 1};
    if let Some(mode) = mode {
        command.insert("$readPreference", doc! {"mode": mode});
    }
    command
}

async fn only_the_primary_writes_and_secondaries_read_where_allowed(members: Members) {
    let set = members
        .start(Deployment::replica_set("rs").members(2))
        .await;
    let mut primary = Wire::connect(&set, 0).await;
    let mut secondary = Wire::connect(&set, 1).await;
    for id in 0..3 {
        assert_eq!(primary.code(insert(id)).await, 0);
    }
    let refusal = secondary.run(insert(9)).await;
    assert_eq!(refusal.get_i32("code").unwrap(), 10107);
    assert_eq!(counter(&refusal), counter(&secondary.hello().await));
    let pipeline = vec![doc! {"$out": "d"}];
    let aggregate = doc! {"aggregate": "c", "pipeline": pipeline, "cursor": {}};
    assert_eq!(secondary.code(aggregate).await, 10107);
    for mode in [None, Some("primary")] {
        assert_eq!(secondary.code(find(mode)).await, 13435);
        assert_eq!(primary.code(find(mode)).await, 0);
    }
    // A cursor belongs to its server, and needs no read preference.
    let reply = secondary.run(find(Some("secondary"))).await;
    let id = reply.get_document("cursor").unwrap().get_i64("id").unwrap();
    let more = doc! {"getMore": id, "collection": "c"};
    assert_eq!(primary.code(more.clone()).await, 43);
    assert_eq!(secondary.code(more).await, 0);
    assert_eq!(secondary.code(doc! {"ping": 1}).await, 0);

    set.elect(1);
    assert_eq!(secondary.code(insert(9)).await, 0);
    assert_eq!(primary.code(insert(10)).await, 10107);
    assert_eq!(set.documents("test.c").len(), 4);
}

async fn members_without_data_or_a_set_serve_neither_reads_nor_writes(members: Members) {
    let set = members
        .start(
            Deployment::replica_set("rs")
                .members(3)
                .member(MemberSpec::new(MemberKind::Arbiter)),
        )
        .await;
    set.change_set(|set| set.set_recovering(1, true));
    set.remove(2);
    for server in [1, 2, 3] {
        let mut client = Wire::connect(&set, server).await;
        let hello = client.hello().await;
        assert!(!is_primary(&hello), "{hello}");
        assert!(!hello.get_bool("secondary").unwrap());
        let has_sessions = hello.contains_key("logicalSessionTimeoutMinutes");
        assert_eq!(has_sessions, server == 1);
        assert_eq!(client.code(insert(1)).await, 10107);
        assert_eq!(client.code(find(Some("nearest"))).await, 13436);
    }
}

async fn a_legacy_hello_uses_the_legacy_field_for_the_primary(members: Members) {
    let set = members
        .start(Deployment::replica_set("rs").members(2))
        .await;
    let mut client = Wire::connect(&set, 0).await;
    let reply = client
        .run(doc! {"isMaster": 1, "helloOk": true, "$db": "admin"})
        .await;
    assert!(reply.get_bool("ismaster").unwrap() && reply.get_bool("helloOk").unwrap());
    assert!(!reply.contains_key("isWritablePrimary"));
}

async fn a_step_down_by_command_elects_another_primary(members: Members) {
    let set = members
        .start(Deployment::replica_set("rs").members(3))
        .await;
    let mut old = Wire::connect(&set, 0).await;
    let mut other = Wire::connect(&set, 2).await;
    let step_down = doc! {"replSetStepDown": 60, "$db": "admin"};
    assert_eq!(other.code(step_down.clone()).await, 10107);
    assert_eq!(old.code(step_down.clone()).await, 0);
    assert_eq!(set.primary(), Some(1));
    assert_eq!(old.code(step_down).await, 10107);
    let status = old.run(doc! {"replSetGetStatus": 1}).await;
    assert_eq!(status.get_i32("myState").unwrap(), 2);
    let states: Vec<&str> = status
        .get_array("members")
        .unwrap()
        .iter()
        .map(|one| one.as_document().unwrap().get_str("stateStr").unwrap())
        .collect();
    assert_eq!(states, ["SECONDARY", "PRIMARY", "SECONDARY"]);
}

async fn the_only_member_is_reelected_when_it_is_unfrozen(members: Members) {
    let set = members
        .start(Deployment::replica_set("rs").members(1))
        .await;
    let mut client = Wire::connect(&set, 0).await;
    let step_down = doc! {"replSetStepDown": 60, "force": true};
    assert_eq!(client.code(step_down).await, 0);
    assert!(!is_primary(&client.hello().await));
    assert_eq!(client.code(doc! {"replSetFreeze": 0}).await, 0);
    assert!(is_primary(&client.hello().await));
    assert_eq!(client.code(doc! {"replSetFreeze": 5}).await, 95);
}

#[tokio::test(start_paused = true)]
async fn a_set_with_automatic_elections_elects_a_primary() {
    let set = Deployment::replica_set("rs")
        .members(3)
        .elections(Duration::from_secs(10))
        .start()
        .await;
    set.kill(0).await;
    assert_eq!(set.primary(), None);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(set.primary(), Some(1));
    // One of three is no majority.
    set.kill(1).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(set.primary(), None);
    set.restart(0).await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(set.primary(), Some(0));
    set.shutdown().await;
}

fn cluster_time(reply: &Document) -> Timestamp {
    let time = reply.get_document("$clusterTime").expect("a cluster time");
    time.get_timestamp("clusterTime").expect("a timestamp")
}

#[tokio::test]
async fn the_cluster_time_grows_with_writes_and_by_gossip() {
    let set = Deployment::replica_set("rs").members(2).start().await;
    let mut primary = Wire::connect(&set, 0).await;
    let mut secondary = Wire::connect(&set, 1).await;
    let before = primary.run(doc! {"ping": 1}).await;
    let written = primary.run(insert(1)).await;
    assert!(cluster_time(&written) > cluster_time(&before));
    let time = written.get_timestamp("operationTime").unwrap();
    assert_eq!(cluster_time(&secondary.hello().await), time);

    let future = Timestamp {
        time: u32::MAX - 1,
        increment: 7,
    };
    let gossip = doc! {"ping": 1, "$clusterTime": {"clusterTime": future}};
    assert_eq!(cluster_time(&secondary.run(gossip).await), future);
    assert!(cluster_time(&primary.run(doc! {"ping": 1}).await) < future);

    let alone = Deployment::standalones(1).start().await;
    let mut client = Wire::connect(&alone, 0).await;
    let hello = client.hello().await;
    assert!(!hello.contains_key("$clusterTime") && !hello.contains_key("setName"));
    assert!(hello.contains_key("topologyVersion"));
}

#[tokio::test]
async fn mongoses_share_their_documents_and_standalones_do_not() {
    let sharded = Deployment::sharded(2).start().await;
    let alone = Deployment::standalones(2).start().await;
    for (deployment, seen_by_both) in [(&sharded, true), (&alone, false)] {
        let mut first = Wire::connect(deployment, 0).await;
        let mut second = Wire::connect(deployment, 1).await;
        assert_eq!(first.code(insert(1)).await, 0);
        let count = second.run(doc! {"count": "c"}).await;
        assert_eq!(count.get_i32("n").unwrap() == 1, seen_by_both);
        let is_mongos = second.hello().await.get_str("msg").is_ok();
        assert_eq!(is_mongos, seen_by_both);
    }
}

async fn a_balancer_spreads_connections_over_the_servers_that_are_up(members: Members) {
    let deployment = members.start(Deployment::load_balanced(3)).await;
    let hello = doc! {"hello": 1, "loadBalanced": true};
    let mut services = Vec::new();
    for _ in 0..6 {
        let mut client = Wire::connect(&deployment, 0).await;
        let reply = client.run(hello.clone()).await;
        services.push(reply.get_object_id("serviceId").expect("a service"));
        assert!(!client.hello().await.contains_key("serviceId"));
    }
    assert_eq!(services[..3], services[3..]);
    assert!(services[0] != services[1] && services[1] != services[2]);

    deployment.kill(1).await;
    for _ in 0..4 {
        let mut client = Wire::connect(&deployment, 0).await;
        client.hello().await;
    }
    assert_eq!(deployment.server(1).look(|seen| seen.accepted), 2);
    deployment.restart(1).await;
    let mut restarted = Vec::new();
    for _ in 0..3 {
        let mut client = Wire::connect(&deployment, 0).await;
        let reply = client.run(hello.clone()).await;
        restarted.push(reply.get_object_id("serviceId").expect("a service"));
    }
    let new = restarted.iter().filter(|id| !services.contains(id)).count();
    assert_eq!(new, 1, "a new process is another service");
    deployment.shutdown().await;
}

#[tokio::test]
async fn arbiters_know_no_users() {
    let set = Deployment::replica_set("rs")
        .members(1)
        .member(MemberSpec::new(MemberKind::Arbiter))
        .user(User::new("app", "pencil"))
        .start()
        .await;
    let hello = doc! {"hello": 1, "saslSupportedMechs": "admin.app", "$db": "admin"};
    for (server, knows) in [(0, true), (1, false)] {
        let reply = Wire::connect(&set, server).await.run(hello.clone()).await;
        assert_eq!(reply.contains_key("saslSupportedMechs"), knows);
    }
}

async fn members_come_go_and_change_their_names(members: Members) {
    let mut set = members
        .start(Deployment::replica_set("rs").members(2))
        .await;
    let mut client = Wire::connect(&set, 0).await;
    let added = set.add(MemberSpec::default().tag("dc", "ny")).await;
    let hello = Wire::connect(&set, added).await.hello().await;
    assert_eq!(hello.get_document("tags").unwrap(), &doc! {"dc": "ny"});
    assert_eq!(hello.get_str("primary").unwrap(), set.address(0));
    let name = set.address(1).replace("127.0.0.1", "localhost");
    set.rename(1, &name);
    set.remove(added);
    let hello = client.hello().await;
    assert_eq!(hello.get_i32("setVersion").unwrap(), 4);
    let hosts = hello.get_array("hosts").unwrap();
    assert_eq!(hosts, &vec![set.address(0).into(), name.as_str().into()]);
    let hello = Wire::connect(&set, 1).await.hello().await;
    assert_eq!(hello.get_str("me").unwrap(), name);
}
