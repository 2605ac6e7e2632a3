use std::time::Duration;

use super::*;
use crate::error::Wait;

fn start(server: &str) -> Effect {
    Effect::StartMonitor {
        server: address(server),
    }
}

fn stop(server: &str) -> Effect {
    Effect::StopMonitor {
        server: address(server),
    }
}

fn close_pool(server: &str) -> Effect {
    Effect::ClosePool {
        server: address(server),
    }
}

fn ready(server: &str) -> Effect {
    Effect::ReadyPool {
        server: address(server),
    }
}

fn clear(server: &str, interrupt_in_use: bool) -> Effect {
    Effect::ClearPool {
        server: address(server),
        service_id: None,
        interrupt_in_use,
    }
}

/// A replica set whose primary is a.
fn replica_set() -> Run {
    let mut run = Run::connected(seeds(&["a"]));
    run.hello("a", &member("primary"));
    run.take();
    run
}

#[test]
fn discovers_a_replica_set_from_one_seed() {
    let mut run = Run::connected(seeds(&["a"]));
    let (events, effects) = run.take();
    assert_eq!(
        events,
        ["topology opening", "topology Unknown->Unknown", "a opening"]
    );
    assert_eq!(effects, [start("a")]);
    run.hello("a", &member("primary"));
    let (events, effects) = run.take();
    let expected = [
        "a Unknown->RSPrimary",
        "b opening",
        "c opening",
        "topology Unknown->ReplicaSetWithPrimary",
    ];
    assert_eq!(events, expected);
    assert_eq!(effects, [start("b"), start("c"), ready("a")]);
    assert_eq!(
        run.shown(),
        "ReplicaSetWithPrimary a=RSPrimary b=Unknown c=Unknown"
    );
}

#[test]
fn an_equal_hello_is_no_event_and_keeps_the_times_up_to_date() {
    let mut run = replica_set();
    let mut again = (*checked("a", &member("primary"))).clone();
    again.round_trip_time = Some(Duration::from_millis(7));
    let before = run.description.clone();
    run.apply(Input::Check(Arc::new(again)));
    assert_eq!(run.take(), (vec![], vec![ready("a")]));
    assert!(!Arc::ptr_eq(&before, &run.description));
    assert_eq!(
        run.server("a").round_trip_time,
        Some(Duration::from_millis(7))
    );
    // An application's connection has no round trip time: the known one stays.
    run.hello("a", &member("primary"));
    assert_eq!(
        run.server("a").round_trip_time,
        Some(Duration::from_millis(7))
    );
    run.lose("a", network_error());
    assert_eq!(run.server("a").round_trip_time, None);
}

#[test]
fn a_new_primary_makes_the_former_unknown_and_has_it_checked() {
    let mut run = replica_set();
    let mut newer = member("secondary");
    newer = {
        let mut document = bson::Document::try_from(&newer).expect("well-formed");
        document.insert("isWritablePrimary", true);
        document.insert("electionId", id(2));
        RawDocumentBuf::try_from(&document).expect("well-formed")
    };
    run.hello("b", &newer);
    let (events, effects) = run.take();
    let expected = [
        "b Unknown->RSPrimary",
        "a RSPrimary->Unknown",
        "topology ReplicaSetWithPrimary->ReplicaSetWithPrimary",
    ];
    assert_eq!(events, expected);
    let request = Effect::RequestCheck {
        server: address("a"),
        reason: CheckReason::NewerPrimary,
    };
    assert_eq!(effects, [request, ready("b")]);
    assert_eq!(run.server("a").error, Some(SdamError::NewerPrimary));
    // The former primary still reports itself as primary.
    run.hello("a", &member("primary"));
    let error = run.server("a").error.as_ref().map(ToString::to_string);
    let expected = format!(
        "primary marked stale due to electionId/setVersion mismatch, (electionId {}, setVersion 1) \
         is stale compared to (electionId {}, setVersion 1)",
        id(1),
        id(2)
    );
    assert_eq!(error, Some(expected));
    assert_eq!(run.take().1, []);
    assert_eq!(
        run.shown(),
        "ReplicaSetWithPrimary a=Unknown b=RSPrimary c=Unknown"
    );
}

#[test]
fn a_failed_check_clears_the_pool_and_a_time_out_interrupts() {
    let mut run = replica_set();
    run.lose("a", network_error());
    let (events, effects) = run.take();
    let lost = [
        "a RSPrimary->Unknown",
        "topology ReplicaSetWithPrimary->ReplicaSetNoPrimary",
    ];
    assert_eq!(events, lost);
    assert_eq!(effects, [clear("a", false)]);
    run.lose("a", Error::timeout(Wait::Heartbeat, Duration::from_secs(1)));
    assert_eq!(run.take().1, [clear("a", true)]);
    run.hello("a", &bson::rawdoc! { "ok": 0 });
    assert_eq!(run.take().1, [clear("a", false)]);
    run.lose("z", network_error());
    assert_eq!(run.take(), (vec![], vec![]));
}

#[test]
fn a_server_that_its_hello_removes_has_a_change_event() {
    let mut run = Run::connected(seeds(&["a", "b"]));
    run.take();
    run.hello("a", &bson::rawdoc! { "ok": 1, "maxWireVersion": 25 });
    let (events, effects) = run.take();
    let expected = [
        "a Unknown->Standalone",
        "a closed",
        "topology Unknown->Unknown",
    ];
    assert_eq!(events, expected);
    assert_eq!(effects, [stop("a"), close_pool("a")]);
    run.hello("a", &member("primary"));
    assert_eq!(run.take(), (vec![], vec![]));
}

#[test]
fn only_servers_with_data_get_a_pool_unless_connected_to_directly() {
    let ghost = bson::rawdoc! { "ok": 1, "isreplicaset": true, "maxWireVersion": 25 };
    let mut run = Run::connected(seeds(&["a"]));
    run.take();
    run.hello("a", &ghost);
    assert_eq!(run.take().1, []);
    let mut direct = seeds(&["a"]);
    direct.direct_connection = true;
    direct.replica_set = None;
    let mut run = Run::connected(direct.clone());
    run.take();
    run.hello("a", &ghost);
    assert_eq!(run.take().1, [ready("a")]);
    // A server of the wrong replica set is not used.
    direct.replica_set = Some("other".into());
    let mut run = Run::connected(direct);
    run.take();
    run.hello("a", &member("primary"));
    assert_eq!(run.take().1, []);
    let error = run.server("a").error.as_ref().map(ToString::to_string);
    assert_eq!(
        error.as_deref(),
        Some(
            "the server belongs to the replica set \"rs\", not to the replica set \"other\" (replicaSet)"
        )
    );
}

#[test]
fn a_closed_topology_can_connect_again() {
    let mut run = replica_set();
    run.apply(Input::Close);
    let (events, effects) = run.take();
    let expected = [
        "a closed",
        "b closed",
        "c closed",
        "topology ReplicaSetWithPrimary->Unknown",
        "topology closed",
    ];
    assert_eq!(events, expected);
    let expected = [
        stop("a"),
        close_pool("a"),
        stop("b"),
        close_pool("b"),
        stop("c"),
        close_pool("c"),
    ];
    assert_eq!(effects, expected);
    assert_eq!(*run.description, TopologyDescription::default());
    run.hello("a", &member("primary"));
    assert_eq!(run.take(), (vec![], vec![]));
    run.apply(Input::Connect);
    assert_eq!(run.take().1, [start("a")]);
}

#[test]
fn a_load_balancer_is_taken_as_it_is() {
    let mut settings = seeds(&["a"]);
    settings.load_balanced = true;
    let mut run = Run::connected(settings);
    assert_eq!(run.take().1, [ready("a")]);
    assert_eq!(run.shown(), "LoadBalanced a=LoadBalancer");
    run.hello("a", &member("primary"));
    run.lose("a", network_error());
    run.apply(Input::SrvHosts(vec![address("b")]));
    assert_eq!(run.take(), (vec![], vec![]));
    run.apply(Input::Close);
    let (events, effects) = run.take();
    assert_eq!(
        events,
        [
            "a closed",
            "topology LoadBalanced->Unknown",
            "topology closed"
        ]
    );
    assert_eq!(effects, [close_pool("a")]);
}

#[test]
fn srv_records_are_followed_up_to_the_limit() {
    let mongos = bson::rawdoc! { "ok": 1, "msg": "isdbgrid", "maxWireVersion": 25 };
    let hosts = |list: &[&str]| Input::SrvHosts(list.iter().map(|text| address(text)).collect());
    let mut settings = seeds(&["a", "b"]);
    settings.srv_max_hosts = 2;
    let mut run = Run::connected(settings);
    run.hello("a", &mongos);
    run.take();
    run.apply(hosts(&[]));
    run.apply(hosts(&["b", "a"]));
    assert_eq!(run.take(), (vec![], vec![]));
    run.apply(hosts(&["d", "c", "a"]));
    let (events, effects) = run.take();
    assert_eq!(
        events,
        ["d opening", "b closed", "topology Sharded->Sharded"]
    );
    assert_eq!(effects, [start("d"), stop("b"), close_pool("b")]);
    assert_eq!(run.shown(), "Sharded a=Mongos d=Unknown");
    let mut run = replica_set();
    run.apply(hosts(&["z"]));
    assert_eq!(run.take(), (vec![], vec![]));
}

#[test]
fn hints_at_the_primary_until_it_was_checked() {
    let mut run = Run::connected(seeds(&["a"]));
    let mut hint = member("secondary");
    hint.append(bson::raw::cstr!("primary"), "c");
    run.hello("a", &hint);
    let possible = |run: &Run| {
        let server = run.description.possible_primary();
        server.and_then(|server| server.address.host().map(str::to_owned))
    };
    assert_eq!(possible(&run).as_deref(), Some("c"));
    run.lose("c", network_error());
    assert_eq!(possible(&run), None);
}

#[test]
fn the_error_names_the_incompatible_server() {
    let mut run = replica_set();
    let reply = |min: i32, max: i32| {
        bson::rawdoc! {
            "ok": 1, "setName": "rs", "hosts": ["a", "b", "c"], "secondary": true,
            "minWireVersion": min, "maxWireVersion": max,
        }
    };
    let error = |run: &Run| {
        let error = run.description.compatibility_error();
        error.map(ToString::to_string)
    };
    run.hello("b", &reply(0, 7));
    assert_eq!(
        error(&run).as_deref(),
        Some(
            "Server at b:27017 reports wire version 7, but this version of mongo-core requires at \
             least 8 (MongoDB 4.2)."
        )
    );
    run.hello("b", &reply(999, 1000));
    assert_eq!(
        error(&run).as_deref(),
        Some(
            "Server at b:27017 requires wire version 999, but this version of mongo-core only \
             supports up to 27."
        )
    );
    run.lose("b", network_error());
    assert_eq!(error(&run), None);
}

#[test]
fn a_hundred_hosts_are_one_transition() {
    let hosts: Vec<String> = (0..100).map(|number| format!("h{number}")).collect();
    let mut list = bson::RawArrayBuf::new();
    for host in &hosts {
        list.push(&**host);
    }
    let reply = bson::rawdoc! {
        "ok": 1, "setName": "rs", "isWritablePrimary": true, "hosts": list, "maxWireVersion": 25,
    };
    let mut run = Run::connected(seeds(&["h1"]));
    run.hello("h1", &reply);
    assert_eq!(run.description.servers().len(), 100);
    let sorted = run
        .description
        .servers()
        .is_sorted_by_key(|own| &own.address);
    assert!(sorted);
}

/// A member that names other hosts in each hello, as many as a list may have.
fn names_hosts(role: &str, hello: usize, passives: bool) -> RawDocumentBuf {
    let list = |kind: &str| {
        let mut list = bson::RawArrayBuf::new();
        list.push("a");
        (0..990).for_each(|number| list.push(format!("{kind}-{hello}-{number}")));
        list
    };
    let mut reply = bson::rawdoc! {
        "ok": 1, "setName": "rs", "hosts": list("h"), "maxWireVersion": 25,
        "isWritablePrimary": role == "primary", "secondary": role == "secondary",
        "setVersion": 1, "electionId": id(1),
    };
    if passives {
        reply.append(bson::raw::cstr!("passives"), list("p"));
        reply.append(bson::raw::cstr!("arbiters"), list("q"));
    }
    reply
}

#[test]
fn no_number_of_hosts_named_by_servers_grows_a_topology_over_a_thousand() {
    // Without a primary, new names are only added.
    let mut run = Run::connected(seeds(&["a", "b"]));
    run.hello("a", &names_hosts("secondary", 0, false));
    assert_eq!(run.description.servers().len(), 992);
    for hello in 1..20 {
        run.hello("a", &names_hosts("secondary", hello, hello % 2 == 0));
        assert_eq!(run.description.servers().len(), 1000);
    }
    let started = |effect: &&Effect| matches!(effect, Effect::StartMonitor { .. });
    assert_eq!(run.take().1.iter().filter(started).count(), 1000);
    assert!(run.description.server(&address("b")).is_some());
    // A primary's list replaces the servers, and adds no more.
    for hello in 0..5 {
        run.hello("a", &names_hosts("primary", hello, false));
        let named = address(&format!("h-{hello}-989"));
        assert!(run.description.server(&named).is_some());
        assert_eq!(run.description.servers().len(), 991);
        run.hello("a", &names_hosts("primary", hello, true));
        assert_eq!(run.description.servers().len(), 1000);
        assert_eq!(run.server("a").server_type, ServerType::RsPrimary);
    }
}

#[test]
fn no_record_grows_a_topology_over_a_thousand() {
    let hosts = |range: std::ops::Range<usize>| {
        Input::SrvHosts(range.map(|number| address(&format!("h{number}"))).collect())
    };
    for limit in [0, 5000, 7] {
        let mut settings = seeds(&["h0"]);
        settings.srv_max_hosts = limit;
        let mut run = Run::connected(settings);
        run.apply(hosts(0..3000));
        let most = if limit == 7 { 7 } else { 1000 };
        assert_eq!(run.description.servers().len(), most);
        run.apply(hosts(5000..5003));
        assert_eq!(run.description.servers().len(), 3);
    }
}

#[test]
fn seeds_are_the_applications_own_and_not_counted() {
    let list: Vec<_> = (0..1100).map(|number| format!("s{number:04}")).collect();
    let names: Vec<_> = list.iter().map(|name| &**name).collect();
    let mut run = Run::connected(seeds(&names));
    assert_eq!(run.description.servers().len(), 1100);
    run.hello("s0000", &member("secondary"));
    assert_eq!(run.description.servers().len(), 1100);
}

#[test]
fn a_topology_says_whether_it_is_readable_and_writable() {
    use crate::select::{ReadPreference, ReadPreferenceMode};
    let shown = |run: &Run| {
        let reads = |mode| {
            run.description
                .has_readable_server(&ReadPreference::new(mode))
        };
        let primary = reads(ReadPreferenceMode::Primary);
        let secondary = reads(ReadPreferenceMode::Secondary);
        (primary, secondary, run.description.has_writable_server())
    };
    let mut run = Run::connected(seeds(&["a"]));
    assert_eq!(shown(&run), (false, false, false));
    run.hello("a", &member("primary"));
    assert_eq!(shown(&run), (true, false, true));
    run.hello("b", &member("secondary"));
    assert_eq!(shown(&run), (true, true, true));
    run.lose("a", network_error());
    assert_eq!(shown(&run), (false, true, false));
    let mut settings = seeds(&["a"]);
    settings.load_balanced = true;
    assert_eq!(shown(&Run::connected(settings)), (true, true, true));
}

#[test]
fn a_hello_of_an_older_state_is_ignored() {
    let reply = |role: &str, process: u8, counter: i64| {
        let mut reply = member(role);
        let version = bson::rawdoc! { "processId": id(process), "counter": counter };
        reply.append(bson::raw::cstr!("topologyVersion"), version);
        reply
    };
    let cases = [(1, 4, true), (1, 5, false), (1, 6, false), (2, 1, false)];
    for (process, counter, ignored) in cases {
        let mut run = Run::connected(seeds(&["a"]));
        run.hello("a", &reply("primary", 1, 5));
        run.take();
        run.hello("a", &reply("secondary", process, counter));
        let kept = run.server("a").server_type == ServerType::RsPrimary;
        assert_eq!(kept, ignored, "{process} {counter}");
        assert_eq!(run.take().0.is_empty(), ignored);
    }
    let mut run = Run::connected(seeds(&["a"]));
    run.hello("a", &reply("primary", 1, 5));
    run.hello("a", &member("secondary"));
    assert_eq!(run.server("a").server_type, ServerType::RsSecondary);
}
