//! Awaitable and streaming hellos.

use std::time::Duration;

use bson::doc;
use bson::oid::ObjectId;
use mongo_testkit::codec::{MORE_TO_COME, Reply};
use mongo_testkit::{Action, Deployment, ExhaustReplies, Matcher, MemberSpec};
use tokio::time::{Instant, timeout};

use crate::members::{Members, over_both};
use crate::wire::{BOUND, Wire, counter, first_hello, is_primary};

over_both! {
    an_awaitable_hello_is_answered_as_soon_as_the_role_changes,
    another_process_or_an_older_version_is_answered_at_once,
    an_incomplete_awaitable_hello_is_refused,
    a_stream_reports_every_change_and_chains_its_replies,
    replies_can_all_answer_the_request,
    a_fail_point_hits_a_running_stream,
    a_rule_counts_each_reply_of_a_stream,
    a_fail_point_for_an_application_hits_its_first_hello,
}

const LONG: Duration = Duration::from_secs(3600);

async fn two(members: Members) -> Deployment {
    members
        .start(Deployment::replica_set("rs").members(2))
        .await
}

fn is_more(reply: &Reply) -> bool {
    reply.flags & MORE_TO_COME != 0
}

async fn an_awaitable_hello_is_answered_as_soon_as_the_role_changes(members: Members) {
    let set = two(members).await;
    let mut client = Wire::connect(&set, 1).await;
    let hello = client.hello().await;
    let id = client.await_hello(&hello, LONG, false).await;
    set.server(1)
        .wait_for("the hello", |seen| seen.hellos() == 2)
        .await;
    let start = Instant::now();
    set.elect(1);
    let reply = client.receive().await;
    assert!(start.elapsed() < Duration::from_secs(1));
    assert!(is_primary(&reply.body) && !is_more(&reply));
    assert_eq!(reply.response_to, id);
    assert_eq!(counter(&reply.body), counter(&hello) + 1);
    assert_eq!(reply.body.get_str("me").unwrap(), set.address(1));
}

#[tokio::test(start_paused = true)]
async fn an_awaitable_hello_without_changes_is_answered_after_max_await_time() {
    let set = two(Members::Scripted).await;
    let mut client = Wire::connect(&set, 0).await;
    let hello = client.hello().await;
    let start = Instant::now();
    client
        .await_hello(&hello, Duration::from_secs(5), false)
        .await;
    assert_eq!(counter(&client.receive().await.body), counter(&hello));
    let took = start.elapsed();
    assert!((5.0..5.1).contains(&took.as_secs_f64()), "{took:?}");
}

async fn another_process_or_an_older_version_is_answered_at_once(members: Members) {
    let set = two(members).await;
    let mut client = Wire::connect(&set, 0).await;
    let hello = client.hello().await;
    for version in [
        doc! {"processId": ObjectId::new(), "counter": 100_i64},
        doc! {"processId": set.look_at_set(|set| set.process(0).id), "counter": counter(&hello) - 1},
    ] {
        let known = doc! {"topologyVersion": version};
        client.await_hello(&known, LONG, false).await;
        client.receive().await;
    }
}

async fn an_incomplete_awaitable_hello_is_refused(members: Members) {
    let set = two(members).await;
    let mut client = Wire::connect(&set, 0).await;
    let hello = client.hello().await;
    let version = hello.get("topologyVersion").unwrap().clone();
    for command in [
        doc! {"hello": 1, "maxAwaitTimeMS": 1_i64},
        doc! {"hello": 1, "topologyVersion": version},
        doc! {"hello": 1, "topologyVersion": {}, "maxAwaitTimeMS": 1_i64},
    ] {
        assert_eq!(client.code(command).await, 72);
    }
}

#[tokio::test]
async fn an_old_server_has_no_topology_version() {
    let old = MemberSpec::default().wire_versions(0, 8);
    let set = Deployment::replica_set("rs").member(old).start().await;
    let mut client = Wire::connect(&set, 0).await;
    let hello = client.hello().await;
    assert!(!hello.contains_key("topologyVersion"), "{hello}");
    let known = doc! {"topologyVersion": {"processId": ObjectId::new(), "counter": 1_i64}};
    client.await_hello(&known, LONG, false).await;
    assert_eq!(client.receive().await.body.get_i32("code").unwrap(), 72);
    set.upgrade(0, 0, 9);
    let hello = client.hello().await;
    assert!(hello.contains_key("topologyVersion"));
}

async fn a_stream_reports_every_change_and_chains_its_replies(members: Members) {
    let set = two(members).await;
    let mut client = Wire::connect(&set, 0).await;
    let hello = client.hello().await;
    let mut answered = client.await_hello(&hello, LONG, true).await;
    for round in 1..=4 {
        let requests = set.server(0).look(|seen| seen.hellos());
        assert!(requests <= 2, "one request for all replies");
        set.elect(round % 2);
        let reply = client.receive().await;
        assert!(is_more(&reply));
        assert_eq!(reply.response_to, answered);
        assert_eq!(is_primary(&reply.body), round % 2 == 0);
        answered = reply.request_id;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_continues_without_changes() {
    let set = two(Members::Scripted).await;
    let mut client = Wire::connect(&set, 0).await;
    let hello = client.hello().await;
    let start = Instant::now();
    client
        .await_hello(&hello, Duration::from_secs(2), true)
        .await;
    for _ in 0..3 {
        assert!(is_more(&client.receive().await));
    }
    let took = start.elapsed();
    assert!((6.0..6.1).contains(&took.as_secs_f64()), "{took:?}");
}

async fn replies_can_all_answer_the_request(members: Members) {
    let set = members
        .start(
            Deployment::replica_set("rs")
                .members(2)
                .exhaust_replies(ExhaustReplies::AnswerTheRequest),
        )
        .await;
    let mut client = Wire::connect(&set, 0).await;
    let hello = client.hello().await;
    let id = client.await_hello(&hello, LONG, true).await;
    for round in 1..=3 {
        set.elect(round % 2);
        assert_eq!(client.receive().await.response_to, id);
    }
}

async fn a_fail_point_hits_a_running_stream(members: Members) {
    let set = two(members).await;
    let mut client = Wire::connect(&set, 0).await;
    let hello = client.hello().await;
    client.await_hello(&hello, LONG, true).await;
    set.server(0)
        .wait_for("the hello", |seen| seen.hellos() == 2)
        .await;
    let data = doc! {"failCommands": ["hello"], "errorCode": 91};
    set.fail_commands(0, doc! {"times": 1}, data);
    set.elect(1);
    // The fail point was set while the hello waited for this reply.
    let reply = client.receive().await;
    assert_eq!(reply.body.get_i32("code").unwrap(), 91);
    assert!(!is_more(&reply));
    assert!(!is_primary(&client.hello().await));

    let data = doc! {"failCommands": ["hello"], "closeConnection": true};
    let known = client.hello().await;
    client.await_hello(&known, LONG, true).await;
    set.server(0)
        .wait_for("the hello", |seen| seen.hellos() == 5)
        .await;
    set.fail_commands(0, doc! {"skip": 2}, data);
    // The third reply from now on. It does not wait for a change.
    set.elect(0);
    assert!(is_primary(&client.receive().await.body));
    set.elect(1);
    assert!(!is_primary(&client.receive().await.body));
    let end = timeout(BOUND, client.try_receive()).await;
    assert!(end.expect("the end in time").is_none());
}

async fn a_rule_counts_each_reply_of_a_stream(members: Members) {
    let set = two(members).await;
    let script = set.server(0).script();
    script.add(Matcher::hello().after(1).once().then(Action::Copies(2)));
    script.add(Matcher::hello().after(2).drop_connection());
    let mut client = Wire::connect(&set, 0).await;
    let hello = client.hello().await;
    client.await_hello(&hello, LONG, true).await;
    set.elect(1);
    let twice = [client.receive().await, client.receive().await];
    assert!(
        twice
            .iter()
            .all(|reply| is_more(reply) && !is_primary(&reply.body))
    );
    set.elect(0);
    let reply = client.receive().await;
    assert!(is_primary(&reply.body));
    assert_eq!(reply.response_to, twice[1].request_id);
    let end = timeout(BOUND, client.try_receive()).await;
    assert!(end.expect("the end in time").is_none());
}

async fn a_fail_point_for_an_application_hits_its_first_hello(members: Members) {
    let set = two(members).await;
    let data = doc! {"failCommands": ["hello", "ping"], "appName": "a", "errorCode": 11600};
    set.fail_commands(0, "alwaysOn", data);
    let mut client = Wire::connect(&set, 0).await;
    assert_eq!(client.code(first_hello("a")).await, 11600);
    let mut client = Wire::connect(&set, 0).await;
    assert_eq!(client.code(first_hello("b")).await, 0);
    assert_eq!(client.code(doc! {"ping": 1}).await, 0);
    set.fail_commands(0, "off", doc! {});
    let mut client = Wire::connect(&set, 0).await;
    assert_eq!(client.code(first_hello("a")).await, 0);
    // Set by a client's command, only for the application's connection.
    let command = doc! {
        "configureFailPoint": "failCommand",
        "mode": {"skip": 1},
        "data": {"failCommands": ["ping"], "appName": "a", "errorCode": 50, "errorLabels": ["L"]},
    };
    assert_eq!(client.code(command).await, 0);
    assert_eq!(client.code(doc! {"ping": 1}).await, 0);
    let reply = client.run(doc! {"ping": 1}).await;
    assert_eq!(reply.get_array("errorLabels").unwrap(), &vec!["L".into()]);
}

#[tokio::test(start_paused = true)]
async fn a_fail_point_blocks_and_spoils_write_concerns() {
    let set = two(Members::Scripted).await;
    let mut client = Wire::connect(&set, 0).await;
    let concern = doc! {"code": 91, "errmsg": "x"};
    let data = doc! {
        "failCommands": ["insert"],
        "blockConnection": true,
        "blockTimeMS": 1500,
        "writeConcernError": concern.clone(),
    };
    set.fail_commands(0, doc! {"times": 1}, data);
    let start = Instant::now();
    let insert = doc! {"insert": "c", "documents": [{"_id": 1}]};
    let reply = client.run(insert).await;
    assert_eq!(reply.get_document("writeConcernError").unwrap(), &concern);
    assert!(start.elapsed() >= Duration::from_millis(1500));
    assert_eq!(set.documents("test.c").len(), 1);
}
