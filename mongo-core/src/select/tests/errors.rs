//! The messages of failed server selections.

use std::io;

use super::*;
use crate::error::Error;
use crate::sdam::SdamError;

fn failed(port: u16, text: &str) -> ServerDescription {
    let mut server = ServerDescription::unknown(address(port));
    server.error = Some(SdamError::Failed(Error::network(io::Error::other(text))));
    server
}

fn obstacle(index: &SelectionIndex, criterion: &Criterion) -> Obstacle {
    assert_eq!(selected(index, criterion, &[], 0), None, "{criterion}");
    match index.no_suitable_server(criterion, Duration::ZERO) {
        SelectionError::NoSuitableServer(error) => error.obstacle,
        other => panic!("another error: {other}"),
    }
}

#[test]
fn each_obstacle_has_its_text() {
    use ReadPreferenceMode::{Nearest, Secondary, SecondaryPreferred};
    let write = Criterion::write();
    let none = ServerSelector::new(|_| Vec::new());
    let unknown = || ServerDescription::unknown(address(1));
    let secondary = || tagged(server(2, ServerType::RsSecondary, 5), "ny");
    let stale = ReadPreference::new(Nearest).with_max_staleness(Duration::from_secs(90));
    let stale = Criterion::read(stale.with_tag_sets(vec![tags("ny")])).expect("valid");
    let (no_primary, with_primary) = (
        TopologyType::ReplicaSetNoPrimary,
        TopologyType::ReplicaSetWithPrimary,
    );
    let table = [
        (index(no_primary, []), &write, Obstacle::NoServers),
        (
            index(TopologyType::Unknown, [unknown()]),
            &write,
            Obstacle::NotChecked,
        ),
        (
            index(TopologyType::Sharded, [unknown(), failed(2, "refused")]),
            &read(Nearest),
            Obstacle::Unreachable,
        ),
        (
            index(TopologyType::Unknown, [server(1, ServerType::RsGhost, 5)]),
            &write,
            Obstacle::NoData,
        ),
        (
            index(no_primary, [server(1, ServerType::RsArbiter, 5)]),
            &read(SecondaryPreferred),
            Obstacle::NoData,
        ),
        (
            index(no_primary, [unknown(), secondary()]),
            &write,
            Obstacle::NoPrimary,
        ),
        (
            index(with_primary, [server(1, ServerType::RsPrimary, 5)]),
            &read(Secondary),
            Obstacle::NoSecondary,
        ),
        // It reports no last write.
        (index(no_primary, [secondary()]), &stale, Obstacle::TooStale),
        (
            index(no_primary, [secondary()]),
            &read_tagged(SecondaryPreferred, &["la", "sf"]),
            Obstacle::Tags,
        ),
        (
            index(with_primary, replica_set()),
            &read(Nearest).with_selector(none),
            Obstacle::Selector,
        ),
    ];
    for (index, criterion, expected) in &table {
        assert_eq!(obstacle(index, criterion), *expected, "{criterion}");
    }
}

#[test]
fn the_text_shows_each_server_and_its_failure() {
    let servers = [
        server(1, ServerType::RsSecondary, 5),
        failed(2, "connection refused"),
        failed(3, "no route to host"),
        ServerDescription::unknown(address(4)),
    ];
    let name = Some("rs".into());
    let topology = TopologyDescription::new(TopologyType::ReplicaSetNoPrimary, name, servers);
    let index = SelectionIndex::new(Arc::new(topology), SelectionOptions::default());
    let error = index.no_suitable_server(&Criterion::write(), Duration::from_secs(30));
    assert_eq!(
        error.to_string(),
        "no server was found within 30.0 s for a writable server: no primary is known: an \
         election may be under way, or most members of the replica set cannot reach each other, or \
         the primary cannot be reached from here. The topology is ReplicaSetNoPrimary of the \
         replica set \"rs\", its servers are host:2 (Unknown: network: connection refused); host:3 \
         (Unknown: network: no route to host); host:1 (RSSecondary); host:4 (Unknown: no answer yet)"
    );
    assert!(error.last_failure().is_some());
}

#[test]
fn the_text_shows_the_tags_that_did_not_match() {
    let index = index(
        TopologyType::ReplicaSetNoPrimary,
        [tagged(server(1, ServerType::RsSecondary, 5), "ny")],
    );
    let criterion = read_tagged(ReadPreferenceMode::Nearest, &["sf"]);
    let error = index.no_suitable_server(&criterion, Duration::ZERO);
    assert_eq!(
        error.to_string(),
        "no server was found for read preference { mode: nearest, tags: [{\"dc\": \"sf\"}] }: no \
         member has all the tags of one of the read preference's tag sets. The topology is \
         ReplicaSetNoPrimary, its servers are host:1 (RSSecondary with tags {\"dc\": \"ny\"})"
    );
}

#[test]
fn the_text_is_short_and_on_one_line_for_any_server_error() {
    let servers = (1..=1000).map(|port| failed(port, &"line\n\u{7f}\u{1b}[31m".repeat(100)));
    let index = index(TopologyType::Sharded, servers);
    let shown = index
        .no_suitable_server(&Criterion::write(), Duration::from_secs(30))
        .to_string();
    assert!(shown.len() < 4_000, "{} bytes", shown.len());
    assert!(!shown.chars().any(char::is_control));
    assert!(shown.ends_with("; and 990 more"), "{shown}");
}

#[test]
fn incompatible_servers_are_reported_first() {
    let mut old = server(1, ServerType::RsPrimary, 5);
    old.max_wire_version = 1;
    let index = index(TopologyType::ReplicaSetWithPrimary, [old]);
    let small =
        ReadPreference::new(ReadPreferenceMode::Nearest).with_max_staleness(Duration::from_secs(1));
    for criterion in [Criterion::write(), Criterion::read(small).expect("valid")] {
        let error = index.select(&criterion, &[], 0).expect_err("incompatible");
        assert!(matches!(error, SelectionError::Incompatible(_)), "{error}");
    }
}

#[test]
fn replica_sets_refuse_a_small_maximum_staleness() {
    let small = ReadPreference::new(ReadPreferenceMode::Nearest)
        .with_max_staleness(Duration::from_secs(89));
    let criterion = Criterion::read(small).expect("a valid read preference");
    for topology_type in TopologyType::ALL {
        let index = index(topology_type, [server(1, ServerType::Mongos, 5)]);
        match (topology_type, index.select(&criterion, &[], 0)) {
            (
                TopologyType::ReplicaSetNoPrimary | TopologyType::ReplicaSetWithPrimary,
                Err(error),
            ) => assert_eq!(
                error.to_string(),
                "maxStalenessSeconds is 89, and must be at least 90 with a replica set: 90 s, and \
                 no less than heartbeatFrequencyMS and 10 s"
            ),
            (_, found) => assert!(found.is_ok(), "{topology_type}"),
        }
    }
}
