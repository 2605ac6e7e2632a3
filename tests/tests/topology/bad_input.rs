//! Servers that say what can't be: their state is clear, their error says why, and the other
//! servers are served all the same.

use std::time::Duration;

use bson::{Bson, doc};
use mongo_core::event::SdamEvent;
use mongo_core::net::Topology;
use mongo_core::sdam::{ServerDescription, ServerType};
use mongo_core::select::Criterion;
use mongo_core::{ClientOptions, ErrorKind};
use mongo_testkit::{Action, Deployment, ErrorReply, Matcher};
use tokio::sync::broadcast::error::RecvError;

use crate::support::{LIMIT, Watched};

/// One member of three gives each hello this way; the primary is served, and the member is what
/// `state` says.
async fn one_bad_member(action: Action, state: impl Fn(&ServerDescription) -> bool + Copy) {
    let set = Deployment::replica_set("rs").members(3).start().await;
    set.server(2).script().add(Matcher::hello().then(action));
    let watched = Watched::connect(&format!("{}&heartbeatFrequencyMS=500", set.uri()));
    let bad = set.address(2);
    watched
        .wait_until("the member is seen for what it is", |known| {
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
        ("tags", Bson::from(true)),
    ] {
        let wrong = Action::Merge(doc! { field: value });
        one_bad_member(wrong, unknown_with(field)).await;
    }
}

#[tokio::test]
async fn missing_fields_in_a_hello() {
    // Without a set name it is some other server; without hosts it is in nobody's way.
    let gone = |_: &ServerDescription| false;
    one_bad_member(Action::Remove("setName".to_owned()), gone).await;
    one_bad_member(Action::Reply(doc! { "ok": 1 }), gone).await;
    one_bad_member(Action::Reply(doc! {}), unknown_with("ok")).await;
}

#[tokio::test]
async fn a_hundred_thousand_hosts() {
    let hosts: Vec<String> = (0..100_000).map(|host| format!("host{host}:1")).collect();
    let crowd = Action::Merge(doc! { "hosts": hosts });
    one_bad_member(crowd, unknown_with("hosts")).await;
}

#[tokio::test]
async fn a_foreign_set_name() {
    // It does not belong here, and is taken out.
    let foreign = Action::Merge(doc! { "setName": "another" });
    one_bad_member(foreign, |_| false).await;
}

#[tokio::test]
async fn ok_zero() {
    let refused = ErrorReply::new(1234, "Busy", "come back later");
    one_bad_member(Action::Error(refused), unknown_with("come back later")).await;
}

#[tokio::test]
async fn a_document_that_is_none_and_bytes_that_are_no_message() {
    let body = Action::Body(vec![12, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    one_bad_member(body, unknown_with("")).await;
    one_bad_member(Action::Raw(vec![0xFF; 64]), unknown_with("16 bytes")).await;
}

/// The one case that the specification makes everybody's: no operation may run.
#[tokio::test]
async fn wire_versions_out_of_range_are_told_at_once() {
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
async fn a_channel_tells_every_event_or_how_many_were_missed() {
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
