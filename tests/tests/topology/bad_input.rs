//! Servers with invalid hello replies: their state and error are clear, and the other servers stay
//! usable.

use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, doc};
use mongo_core::event::SdamEvent;
use mongo_core::net::Topology;
use mongo_core::sdam::{ServerDescription, ServerType};
use mongo_core::select::Criterion;
use mongo_core::{ClientOptions, ErrorKind};
use mongo_testkit::{Action, Deployment, ErrorReply, Matcher, SimNetwork};
use tokio::sync::broadcast::error::RecvError;

use crate::support::{CROWD, LIMIT, OverSim, Turns, Watched, crowd};

/// One of three members answers each hello with `action`. Checks that the primary stays usable, and
/// that the member's description satisfies `state`.
async fn one_bad_member(action: Action, state: impl Fn(&ServerDescription) -> bool + Copy) {
    let set = Deployment::replica_set("rs").members(3).start().await;
    set.server(2).script().add(Matcher::hello().then(action));
    let watched = Watched::connect(&format!("{}&heartbeatFrequencyMS=500", set.uri()));
    let bad = set.address(2);
    watched
        .wait_until("the member's description", |known| {
            known
                .servers()
                .iter()
                .all(|server| server.address.to_string() != bad || state(server))
        })
        .await;
    let primary = watched.writable().await.expect("the primary");
    assert_eq!(primary.address().to_string(), set.address(0));
    watched.topology.close().await;
}

fn unknown_with(text: &'static str) -> impl Fn(&ServerDescription) -> bool + Copy {
    move |server| {
        let error = server.error.as_ref().map(ToString::to_string);
        server.server_type == ServerType::Unknown && error.is_some_and(|error| error.contains(text))
    }
}

#[tokio::test]
async fn wrong_types_in_a_hello() {
    for (field, value) in [
        ("hosts", Bson::from("not a list")),
        ("hosts", Bson::from(vec![1, 2])),
        ("setName", Bson::from(7)),
        ("setVersion", Bson::from("seven")),
        ("maxWireVersion", Bson::from("many")),
    ] {
        let wrong = Action::Merge(doc! { field: value });
        one_bad_member(wrong, unknown_with(field)).await;
    }
    // It only informs.
    let untagged = |member: &ServerDescription| {
        member.server_type == ServerType::RsSecondary && member.tags.is_empty()
    };
    one_bad_member(Action::Merge(doc! { "tags": true }), untagged).await;
}

#[tokio::test]
async fn an_informative_field_of_a_wrong_type_is_ignored() {
    let secondary = |server: &ServerDescription| server.server_type == ServerType::RsSecondary;
    for (field, value) in [
        ("tags", Bson::from(true)),
        ("me", Bson::from("")),
        ("lastWrite", Bson::from(7)),
        ("topologyVersion", Bson::Null),
    ] {
        one_bad_member(Action::Merge(doc! { field: value }), secondary).await;
    }
}

#[tokio::test]
async fn missing_fields_in_a_hello() {
    // Without a set name the member is removed; without hosts it has no effect on others.
    let gone = |_: &ServerDescription| false;
    one_bad_member(Action::Remove("setName".to_owned()), gone).await;
    one_bad_member(Action::Reply(doc! { "ok": 1 }), gone).await;
    one_bad_member(Action::Reply(doc! {}), unknown_with("ok")).await;
}

#[tokio::test]
async fn a_hundred_thousand_hosts() {
    let crowd = |number| {
        let hosts: Vec<String> = (0..number).map(|host| format!("host{host}:1")).collect();
        Action::Merge(doc! { "hosts": hosts })
    };
    one_bad_member(crowd(1001), unknown_with("hosts")).await;
    one_bad_member(crowd(20_000), unknown_with("more than 16384 elements")).await;
    one_bad_member(crowd(100_000), unknown_with("limit of 1048576 bytes")).await;
}

#[tokio::test(start_paused = true)]
async fn monitors_take_turns_with_long_replies() {
    let network = SimNetwork::new(31);
    let set = crowd(&network).await;
    let turns = Turns::default();
    let options = ClientOptions::parse(&set.uri()).expect("a URI");
    let topology = Topology::builder(options)
        .connector(Arc::new(OverSim(network.clone())))
        .event_handler(turns.handler())
        .build()
        .expect("a topology");
    topology.connect().expect("connected");
    // Each is checked twice.
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(turns.replies() >= 2 * CROWD, "{}", turns.replies());
    turns.assert_one_reply_in_each();
    topology.close().await;
}

#[tokio::test]
async fn one_tag_twenty_thousand_times() {
    let tag = b"\x02a\0\x02\0\0\0b\0".repeat(20_000);
    let tags = [
        &b"\x03tags\0"[..],
        &(tag.len() as i32 + 5).to_le_bytes(),
        &tag,
        b"\0",
    ];
    let tags = tags.concat();
    let body = [&(tags.len() as i32 + 5).to_le_bytes()[..], &tags, b"\0"];
    let body = Action::Body(body.concat());
    one_bad_member(body, unknown_with("more than 16384 elements")).await;
}

#[tokio::test]
async fn a_reply_with_an_announced_length_of_48_mb() {
    let mut header = 48_000_000_i32.to_le_bytes().to_vec();
    header.extend([1, 0, 0, 0, 1, 0, 0, 0]);
    header.extend(2013_i32.to_le_bytes());
    one_bad_member(Action::Raw(header), unknown_with("limit of 1048576 bytes")).await;
}

#[tokio::test]
async fn a_foreign_set_name() {
    // A member of another set is removed.
    let foreign = Action::Merge(doc! { "setName": "another" });
    one_bad_member(foreign, |_| false).await;
}

#[tokio::test]
async fn ok_zero() {
    let refused = ErrorReply::new(1234, "Busy", "come back later");
    one_bad_member(Action::Error(refused), unknown_with("come back later")).await;
}

#[tokio::test]
async fn invalid_documents_and_invalid_messages() {
    let body = Action::Body(vec![12, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    one_bad_member(body, unknown_with("")).await;
    one_bad_member(Action::Raw(vec![0xFF; 64]), unknown_with("16 bytes")).await;
}

/// The only case in which by the specification one server fails all operations.
#[tokio::test]
async fn incompatible_wire_versions_fail_at_once() {
    let set = Deployment::replica_set("rs").members(3).start().await;
    set.upgrade(2, 1000, 1001);
    let watched = Watched::connect(&set.uri());
    let incompatible =
        watched.wait_until("it is seen", |known| known.compatibility_error().is_some());
    incompatible.await;
    let error = watched.writable().await.expect_err("incompatible");
    assert!(matches!(error.kind(), ErrorKind::ServerSelection(_)));
    let text = error.to_string();
    assert!(
        text.contains("1000") && text.contains(&set.address(2)),
        "{text}"
    );
    watched.topology.close().await;
}

#[tokio::test]
async fn a_channel_yields_every_event_or_the_number_missed() {
    let set = Deployment::replica_set("rs").members(1).start().await;
    let options = ClientOptions::parse(&set.uri()).expect("a URI");
    let (builder, mut all) = Topology::builder(options.clone()).event_channel(1000);
    let (builder, mut few) = builder.event_channel(1);
    let topology = builder.build().expect("a topology");
    topology.connect().expect("connected");
    topology
        .select_by(LIMIT, &Criterion::write(), &[])
        .await
        .expect("a primary");
    topology.close().await;
    drop(topology);
    assert!(matches!(few.recv().await, Err(RecvError::Lagged(_))));
    assert!(matches!(few.recv().await, Ok(SdamEvent::TopologyClosed(_))));
    let first = all.recv().await.expect("an event");
    assert!(matches!(first, SdamEvent::TopologyOpening(_)));
    let mut last = first;
    let drained = async {
        while let Ok(event) = all.recv().await {
            last = event;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), drained)
        .await
        .expect("the channel ends with the topology");
    assert!(matches!(last, SdamEvent::TopologyClosed(_)));
}
