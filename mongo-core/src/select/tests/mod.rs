//! Selection from whole topologies.

mod errors;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bson::DateTime;

use super::*;
use crate::address::ServerAddress;
use crate::sdam::{ServerDescription, ServerType, TopologyDescription, TopologyType};

const MODES: [ReadPreferenceMode; 5] = [
    ReadPreferenceMode::Primary,
    ReadPreferenceMode::PrimaryPreferred,
    ReadPreferenceMode::Secondary,
    ReadPreferenceMode::SecondaryPreferred,
    ReadPreferenceMode::Nearest,
];

fn address(port: u16) -> ServerAddress {
    ServerAddress::tcp("host", port)
}

/// A reachable server, with a round trip time in milliseconds.
fn server(port: u16, server_type: ServerType, round_trip_time: u64) -> ServerDescription {
    let mut server = ServerDescription::unknown(address(port));
    server.server_type = server_type;
    server.round_trip_time = Some(Duration::from_millis(round_trip_time));
    server.max_wire_version = 21;
    server
}

fn tagged(mut server: ServerDescription, dc: &str) -> ServerDescription {
    server.tags = tags(dc);
    server
}

fn tags(dc: &str) -> TagSet {
    TagSet::from([("dc".to_owned(), dc.to_owned())])
}

fn topology(
    topology_type: TopologyType,
    servers: impl IntoIterator<Item = ServerDescription>,
) -> Arc<TopologyDescription> {
    Arc::new(TopologyDescription::new(topology_type, None, servers))
}

fn index(
    topology_type: TopologyType,
    servers: impl IntoIterator<Item = ServerDescription>,
) -> SelectionIndex {
    SelectionIndex::new(
        topology(topology_type, servers),
        SelectionOptions::default(),
    )
}

/// A primary at port 1, secondaries at ports 2 to 5; the last one is beyond the latency window.
fn replica_set() -> Vec<ServerDescription> {
    vec![
        tagged(server(1, ServerType::RsPrimary, 10), "ny"),
        tagged(server(2, ServerType::RsSecondary, 5), "ny"),
        tagged(server(3, ServerType::RsSecondary, 20), "sf"),
        tagged(server(4, ServerType::RsSecondary, 12), "ny"),
        tagged(server(5, ServerType::RsSecondary, 21), "ny"),
    ]
}

fn read(mode: ReadPreferenceMode) -> Criterion {
    Criterion::read(ReadPreference::new(mode)).expect("a valid read preference")
}

fn read_tagged(mode: ReadPreferenceMode, dcs: &[&str]) -> Criterion {
    let sets = dcs.iter().map(|dc| tags(dc)).collect();
    let preference = ReadPreference::new(mode).with_tag_sets(sets);
    Criterion::read(preference).expect("a valid read preference")
}

fn ports(servers: Vec<&Arc<ServerEntry>>) -> Vec<u16> {
    let ports = servers.iter().filter_map(|server| server.address().port());
    ports.collect()
}

fn selected(
    index: &SelectionIndex,
    criterion: &Criterion,
    deprioritized: &[ServerAddress],
    random: u64,
) -> Option<u16> {
    let server = index.select(criterion, deprioritized, random);
    server.expect("no error")?.address().port()
}

/// Numbers across the whole range.
fn randoms(count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(|number| number.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

#[test]
fn the_window_includes_both_its_ends() {
    let found = |index: &SelectionIndex| {
        let nearest = read(ReadPreferenceMode::Nearest);
        ports(index.in_window(&nearest, &[]).expect("no error"))
    };
    let whole = index(TopologyType::ReplicaSetWithPrimary, replica_set());
    assert_eq!(found(&whole), [1, 2, 3, 4]);
    for (threshold, expected) in [(0, vec![2]), (16, vec![1, 2, 3, 4, 5])] {
        let options = SelectionOptions {
            local_threshold: Duration::from_millis(threshold),
            ..SelectionOptions::default()
        };
        let topology = topology(TopologyType::ReplicaSetWithPrimary, replica_set());
        assert_eq!(found(&SelectionIndex::new(topology, options)), expected);
    }
}

#[test]
fn a_server_that_was_never_timed_is_the_last_resort() {
    let mut untimed = server(1, ServerType::Mongos, 0);
    untimed.round_trip_time = None;
    let alone = index(TopologyType::Sharded, [untimed.clone()]);
    assert_eq!(selected(&alone, &Criterion::write(), &[], 0), Some(1));
    let timed = server(2, ServerType::Mongos, 9_000);
    let both = index(TopologyType::Sharded, [untimed, timed]);
    let window = both.in_window(&Criterion::write(), &[]).expect("no error");
    assert_eq!(ports(window), [2]);
}

/// Prepared and computed windows give the same choice for each random number.
#[test]
fn prepared_windows_equal_those_of_a_scan() {
    let elsewhere = [address(99)];
    for topology_type in TopologyType::ALL {
        let every_type = (1..).zip(ServerType::ALL).map(|(port, server_type)| {
            let dc = if port % 2 == 0 { "ny" } else { "sf" };
            tagged(server(port, server_type, 5), dc)
        });
        let more = (20..24).map(|port| tagged(server(port, ServerType::RsSecondary, 6), "ny"));
        let index = index(topology_type, every_type.chain(more));
        let criteria = MODES.iter().flat_map(|&mode| {
            let primary = mode == ReadPreferenceMode::Primary;
            let dcs: &[&[&str]] = if primary {
                &[]
            } else {
                &[&["ny"], &["la", "sf"], &["la"]]
            };
            let restricted = dcs.iter().map(move |dcs| read_tagged(mode, dcs));
            restricted.chain([read(mode)])
        });
        for criterion in criteria.chain([Criterion::write()]) {
            let window = index.in_window(&criterion, &[]).expect("no error");
            let window = ports(window);
            for random in randoms(64) {
                let prepared = selected(&index, &criterion, &[], random);
                let scanned = selected(&index, &criterion, &elsewhere, random);
                assert_eq!(prepared, scanned, "{topology_type} {criterion} {random}");
                match prepared {
                    Some(port) => assert!(window.contains(&port), "{topology_type} {criterion}"),
                    None => assert!(window.is_empty(), "{topology_type} {criterion}"),
                }
            }
        }
    }
}

#[test]
fn more_tag_sets_than_are_kept_are_served_too() {
    let servers = (1..=20).map(|port| {
        let server = server(port, ServerType::RsSecondary, 5);
        tagged(server, &port.to_string())
    });
    let index = index(TopologyType::ReplicaSetNoPrimary, servers);
    for _ in 0..2 {
        for port in 1..=20 {
            let criterion = read_tagged(ReadPreferenceMode::Secondary, &[&port.to_string()]);
            assert_eq!(selected(&index, &criterion, &[], 7), Some(port));
        }
    }
}

#[test]
fn fewer_operations_are_preferred_and_counts_outlive_the_view() {
    let servers = || [1, 2].map(|port| server(port, ServerType::Mongos, 5));
    let first = index(TopologyType::Sharded, servers());
    let busy = first.server(&address(1)).expect("a server");
    let running = busy.begin_operation();
    let chosen = |index: &SelectionIndex, expected| {
        for random in randoms(16) {
            let port = selected(index, &Criterion::write(), &[], random);
            assert_eq!(port, Some(expected));
        }
    };
    chosen(&first, 2);
    // The server gets a new description, then is unknown for a while.
    let second = first.next(topology(TopologyType::Sharded, servers()));
    chosen(&second, 2);
    let [one, two] = servers();
    let unknown = ServerDescription::unknown(one.address.clone());
    let third = second.next(topology(TopologyType::Sharded, [unknown, two.clone()]));
    let fourth = third.next(topology(TopologyType::Sharded, [one, two]));
    let running_too = fourth
        .server(&address(1))
        .map(|server| server.begin_operation());
    assert_eq!(busy.operation_count(), 2);
    chosen(&fourth, 2);
    drop((running, running_too));
    assert_eq!(
        fourth.server(&address(1)).map(|one| one.operation_count()),
        Some(0)
    );
}

#[test]
fn the_next_view_keeps_unchanged_servers() {
    let old = topology(
        TopologyType::Sharded,
        [2, 4, 6].map(|port| server(port, ServerType::Mongos, 5)),
    );
    let first = SelectionIndex::new(old.clone(), SelectionOptions::default());
    let running = first
        .servers()
        .iter()
        .map(|server| server.begin_operation());
    let running: Vec<_> = running.collect();
    let new = topology(
        TopologyType::Sharded,
        [1, 3, 4, 5, 6, 7].map(|port| server(port, ServerType::Mongos, 5)),
    );
    let second = first.next(new);
    let counts = second.servers().iter();
    let counts: Vec<_> = counts.map(|server| server.operation_count()).collect();
    assert_eq!(counts, [0, 0, 1, 0, 1, 0]);
    let third = first.next(old);
    for (before, after) in first.servers().iter().zip(third.servers()) {
        assert!(Arc::ptr_eq(before, after));
    }
    assert_eq!(running.len(), 3);
}

#[test]
fn others_are_taken_while_there_are_any_that_are_not_deprioritized() {
    let index = index(TopologyType::ReplicaSetWithPrimary, replica_set());
    let primary_preferred = read(ReadPreferenceMode::PrimaryPreferred);
    let window = index.in_window(&primary_preferred, &[address(1)]);
    assert_eq!(ports(window.expect("no error")), [2, 3, 4]);
    for random in randoms(16) {
        let port = selected(&index, &Criterion::write(), &[address(1)], random);
        assert_eq!(port, Some(1));
        let secondary = read_tagged(ReadPreferenceMode::SecondaryPreferred, &["sf"]);
        assert_eq!(selected(&index, &secondary, &[address(3)], random), Some(1));
        let all = [address(1), address(3)];
        assert_eq!(selected(&index, &secondary, &all, random), Some(3));
    }
}

/// The last write of a deprioritized primary still counts.
#[test]
fn a_deprioritized_primary_still_tells_how_stale_the_others_are() {
    let now = Instant::now();
    let written = |mut server: ServerDescription, seconds: i64| {
        server.last_update_time = Some(now);
        server.last_write_date = Some(DateTime::from_millis(seconds * 1000));
        server
    };
    let index = index(
        TopologyType::ReplicaSetWithPrimary,
        [
            written(server(1, ServerType::RsPrimary, 5), 1000),
            written(server(2, ServerType::RsSecondary, 5), 800),
            written(server(3, ServerType::RsSecondary, 5), 950),
        ],
    );
    let preference = ReadPreference::new(ReadPreferenceMode::Nearest)
        .with_max_staleness(Duration::from_secs(100));
    let nearest = Criterion::read(preference).expect("a valid read preference");
    let found = |deprioritized: &[ServerAddress]| {
        ports(index.suitable(&nearest, deprioritized).expect("no error"))
    };
    assert_eq!(found(&[]), [1, 3]);
    assert_eq!(found(&[address(1)]), [3]);
    assert_eq!(found(&[address(1), address(3)]), [1, 3]);
}

fn highest_port() -> ServerSelector {
    ServerSelector::new(|servers| {
        let highest = servers.iter().max_by_key(|server| server.address.port());
        highest.into_iter().copied().collect()
    })
}

/// Prose test: an application-provided server selector.
#[test]
fn application_provided_server_selector() {
    let nearest = read(ReadPreferenceMode::Nearest);
    let own = nearest.clone().with_selector(highest_port());
    let options = SelectionOptions {
        selector: Some(highest_port()),
        ..SelectionOptions::default()
    };
    let topology = topology(TopologyType::ReplicaSetWithPrimary, replica_set());
    let of_all = SelectionIndex::new(topology.clone(), options);
    let of_none = SelectionIndex::new(topology, SelectionOptions::default());
    for random in randoms(10) {
        // The selector is applied before the latency window, which would exclude the server.
        assert_eq!(selected(&of_all, &nearest, &[], random), Some(5));
        assert_eq!(selected(&of_none, &own, &[], random), Some(5));
        assert_eq!(selected(&of_none, &own, &[address(5)], random), Some(4));
    }
}

#[test]
fn selectors_are_asked_in_turn_about_suitable_servers_only() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let last = ServerSelector::new(move |servers| {
        counted.fetch_add(1, Ordering::Relaxed);
        // Repeated servers count once.
        servers
            .last()
            .into_iter()
            .flat_map(|last| [*last, *last])
            .collect()
    });
    let options = SelectionOptions {
        selector: Some(ServerSelector::new(|servers| servers[..2].to_vec())),
        ..SelectionOptions::default()
    };
    let topology = topology(TopologyType::ReplicaSetWithPrimary, replica_set());
    let index = SelectionIndex::new(topology, options);
    let secondary = read(ReadPreferenceMode::Secondary).with_selector(last.clone());
    assert_eq!(
        ports(index.suitable(&secondary, &[]).expect("no error")),
        [3]
    );
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    let nowhere = read_tagged(ReadPreferenceMode::Secondary, &["la"]).with_selector(last);
    assert_eq!(selected(&index, &nowhere, &[], 0), None);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}
