use std::collections::BTreeMap;

use bson::RawDocumentBuf;
use bson::oid::ObjectId;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};

use super::*;
use crate::error::{CommandError, Wait};
use crate::event::*;

fn address() -> ServerAddress {
    ServerAddress::tcp("db.example", 27017)
}

fn user() -> Option<Arc<str>> {
    Some("app".into())
}

const SECOND: Duration = Duration::from_secs(1);

fn created() -> CmapEvent {
    CmapEvent::ConnectionCreated(ConnectionCreatedEvent {
        address: address(),
        user: user(),
        driver_connection_id: 1,
    })
}

fn ready() -> CmapEvent {
    CmapEvent::ConnectionReady(ConnectionReadyEvent {
        address: address(),
        user: user(),
        driver_connection_id: 1,
        server_connection_id: None,
        service_id: None,
        duration: SECOND,
    })
}

fn closed(reason: ConnectionClosedReason) -> CmapEvent {
    CmapEvent::ConnectionClosed(ConnectionClosedEvent {
        address: address(),
        user: user(),
        driver_connection_id: 1,
        server_connection_id: None,
        service_id: None,
        reason,
        error: None,
    })
}

fn started() -> CmapEvent {
    CmapEvent::ConnectionCheckOutStarted(ConnectionCheckOutStartedEvent {
        address: address(),
        user: user(),
    })
}

fn failed(reason: CheckOutFailedReason) -> CmapEvent {
    CmapEvent::ConnectionCheckOutFailed(ConnectionCheckOutFailedEvent {
        address: address(),
        user: user(),
        reason,
        duration: 3 * SECOND,
        error: None,
    })
}

fn checked_out() -> CmapEvent {
    CmapEvent::ConnectionCheckedOut(ConnectionCheckedOutEvent {
        address: address(),
        user: user(),
        driver_connection_id: 1,
        server_connection_id: None,
        service_id: None,
        duration: 2 * SECOND,
    })
}

fn checked_in() -> CmapEvent {
    CmapEvent::ConnectionCheckedIn(ConnectionCheckedInEvent {
        address: address(),
        user: user(),
        driver_connection_id: 1,
        server_connection_id: None,
        service_id: None,
    })
}

fn cleared() -> CmapEvent {
    CmapEvent::PoolCleared(PoolClearedEvent {
        address: address(),
        user: user(),
        service_id: None,
        interrupt_in_use_connections: false,
        error: None,
    })
}

fn pool_created() -> CmapEvent {
    CmapEvent::PoolCreated(PoolCreatedEvent {
        address: address(),
        user: user(),
        options: PoolCreatedOptions::default(),
    })
}

fn succeeded(address: ServerAddress, user: Option<Arc<str>>) -> CommandEvent {
    CommandEvent::Succeeded(CommandSucceededEvent {
        operation_id: None,
        address,
        user,
        driver_connection_id: 1,
        server_connection_id: None,
        service_id: None,
        request_id: 1,
        command_name: "find".into(),
        database_name: "app".into(),
        duration: SECOND,
        reply: RawDocumentBuf::new(),
    })
}

fn command_failed(failure: Error) -> CommandEvent {
    CommandEvent::Failed(CommandFailedEvent {
        operation_id: None,
        address: address(),
        user: user(),
        driver_connection_id: 1,
        server_connection_id: None,
        service_id: None,
        request_id: 1,
        command_name: "find".into(),
        database_name: "app".into(),
        duration: SECOND,
        failure,
    })
}

/// The recorded metrics, by name and labels: a number, or the samples of a histogram.
fn recorded(record: impl FnOnce()) -> BTreeMap<String, Vec<f64>> {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    ::metrics::with_local_recorder(&recorder, record);
    let snapshot = snapshotter.snapshot().into_vec().into_iter();
    snapshot
        .map(|(key, _, _, value)| {
            let labels: Vec<_> = key
                .key()
                .labels()
                .map(|label| format!("{}={}", label.key(), label.value()))
                .collect();
            let values = match value {
                DebugValue::Counter(count) => vec![count as f64],
                DebugValue::Gauge(level) => vec![level.into_inner()],
                DebugValue::Histogram(samples) => samples
                    .into_iter()
                    .map(|sample| sample.into_inner())
                    .collect(),
            };
            (format!("{} {}", key.key().name(), labels.join(",")), values)
        })
        .collect()
}

const LABELS: &str = "server.address=db.example,server.port=27017,user=app";

#[test]
fn connections_are_counted_by_server_and_user() {
    let found = recorded(|| {
        [
            created(),
            ready(),
            created(),
            closed(ConnectionClosedReason::Error),
            started(),
            started(),
            started(),
            checked_out(),
            failed(CheckOutFailedReason::Timeout),
            cleared(),
        ]
        .iter()
        .for_each(MetricsRecorder::cmap);
    });
    let expected: [(&str, &str, &[f64]); 9] = [
        ("mongodb.client.connection.open", "", &[1.0]),
        ("mongodb.client.connection.created", "", &[2.0]),
        ("mongodb.client.connection.closed", ",reason=error", &[1.0]),
        ("mongodb.client.connection.used", "", &[1.0]),
        (
            "mongodb.client.connection.check_out_failed",
            ",reason=timeout",
            &[1.0],
        ),
        ("mongodb.client.pool.cleared", "", &[1.0]),
        ("db.client.connection.create_time", "", &[1.0]),
        ("db.client.connection.wait_time", "", &[2.0, 3.0]),
        ("db.client.connection.pending_requests", "", &[1.0]),
    ];
    let expected: BTreeMap<_, _> = expected
        .into_iter()
        .map(|(name, own, values)| (format!("{name} {LABELS}{own}"), values.to_vec()))
        .collect();
    assert_eq!(found, expected);
}

/// Prometheus's `increase` and `rate` see the first clear only if the counter was scraped as 0.
#[test]
fn the_counter_of_clears_begins_with_its_pool() {
    let name = format!("mongodb.client.pool.cleared {LABELS}");
    let found = recorded(|| MetricsRecorder::cmap(&pool_created()));
    assert_eq!(found, BTreeMap::from([(name.clone(), vec![0.0])]));
    let found = recorded(|| {
        [pool_created(), cleared(), pool_created()]
            .iter()
            .for_each(MetricsRecorder::cmap);
    });
    assert_eq!(found, BTreeMap::from([(name, vec![1.0])]));
}

#[test]
fn gauges_decrease_when_their_subject_ends() {
    let found = recorded(|| {
        [
            created(),
            ready(),
            started(),
            checked_out(),
            checked_in(),
            closed(ConnectionClosedReason::Idle),
        ]
        .iter()
        .for_each(MetricsRecorder::cmap);
    });
    for name in [
        "mongodb.client.connection.open",
        "mongodb.client.connection.used",
        "db.client.connection.pending_requests",
    ] {
        assert_eq!(found[&format!("{name} {LABELS}")], [0.0], "{name}");
    }
}

#[test]
fn commands_are_timed_by_name_and_failure() {
    let refused = CommandError {
        code: 13,
        code_name: "Unauthorized".to_owned(),
        message: "no".to_owned(),
        reply: RawDocumentBuf::new(),
    };
    let found = recorded(|| {
        [
            succeeded(address(), user()),
            succeeded(address(), user()),
            succeeded(ServerAddress::unix("/tmp/a.sock"), None),
            command_failed(refused.into()),
            command_failed(Error::timeout(Wait::Command, SECOND)),
            command_failed(ErrorKind::Cancelled.into()),
        ]
        .iter()
        .for_each(MetricsRecorder::command);
    });
    let expected = [
        (format!("{LABELS},db.operation.name=find"), vec![1.0, 1.0]),
        (
            "server.address=/tmp/a.sock,user=,db.operation.name=find".to_owned(),
            vec![1.0],
        ),
        (
            format!("{LABELS},db.operation.name=find,error.type=13"),
            vec![1.0],
        ),
        (
            format!("{LABELS},db.operation.name=find,error.type=timeout"),
            vec![1.0],
        ),
        (
            format!("{LABELS},db.operation.name=find,error.type=cancelled"),
            vec![1.0],
        ),
    ];
    let expected: BTreeMap<_, _> = expected
        .into_iter()
        .map(|(labels, values)| (format!("db.client.operation.duration {labels}"), values))
        .collect();
    assert_eq!(found, expected);
}

fn topology(kind: TopologyType, servers: &[(&str, ServerType)]) -> Arc<TopologyDescription> {
    let servers = servers.iter().map(|(host, server_type)| {
        let mut server = ServerDescription::unknown(ServerAddress::tcp(host, 27017));
        server.server_type = *server_type;
        server.max_wire_version = 21;
        server
    });
    Arc::new(TopologyDescription::new(kind, None, servers))
}

/// The steps of a topology from its opening to its end, as events.
fn steps(descriptions: &[Arc<TopologyDescription>]) -> Vec<SdamEvent> {
    let topology_id = ObjectId::new();
    let opening = SdamEvent::TopologyOpening(TopologyOpeningEvent { topology_id });
    let mut previous_description = Arc::default();
    let changes = descriptions.iter().map(|new| {
        SdamEvent::TopologyDescriptionChanged(TopologyDescriptionChangedEvent {
            topology_id,
            previous_description: std::mem::replace(&mut previous_description, new.clone()),
            new_description: new.clone(),
        })
    });
    [opening].into_iter().chain(changes).collect()
}

#[test]
fn topologies_and_their_servers_are_counted_by_type() {
    use ServerType::{RsPrimary, RsSecondary, Unknown};
    let set = |a, b| {
        let kind = match a == RsPrimary || b == RsPrimary {
            true => TopologyType::ReplicaSetWithPrimary,
            false => TopologyType::ReplicaSetNoPrimary,
        };
        topology(kind, &[("a", a), ("b", b)])
    };
    let level = |events: &[SdamEvent]| {
        let mut found = recorded(|| events.iter().for_each(MetricsRecorder::sdam));
        found.retain(|_, values| *values != [0.0]);
        let found = found.into_iter().map(|(name, values)| {
            let name = name.replace("mongodb.client.topology.", "");
            (
                name.replace(",server.port=27017,mongodb.server", ""),
                values[0],
            )
        });
        found.collect::<Vec<_>>()
    };
    let named = |levels: &[(&str, f64)]| {
        let levels = levels
            .iter()
            .map(|(name, level)| ((*name).to_owned(), *level));
        levels.collect::<Vec<_>>()
    };
    let opened = steps(&[set(Unknown, Unknown)]);
    let expected = [
        ("open ", 1.0),
        ("servers server.address=a.type=Unknown", 1.0),
        ("servers server.address=b.type=Unknown", 1.0),
    ];
    assert_eq!(level(&opened), named(&expected));

    let mut followed = steps(&[
        set(Unknown, Unknown),
        set(RsPrimary, RsSecondary),
        set(Unknown, RsSecondary),
        set(Unknown, RsPrimary),
    ]);
    let expected = [
        ("open ", 1.0),
        ("servers server.address=a.type=Unknown", 1.0),
        ("servers server.address=b.type=RSPrimary", 1.0),
        ("writable ", 1.0),
    ];
    assert_eq!(level(&followed), named(&expected));

    // A second topology adds up, and the end of the first takes off what is its own.
    let second = steps(&[topology(TopologyType::Single, &[("b", RsSecondary)])]);
    followed.extend(second);
    followed.push(SdamEvent::TopologyDescriptionChanged(
        TopologyDescriptionChangedEvent {
            topology_id: ObjectId::new(),
            previous_description: set(Unknown, RsPrimary),
            new_description: Arc::default(),
        },
    ));
    let topology_id = ObjectId::new();
    let closed = SdamEvent::TopologyClosed(TopologyClosedEvent { topology_id });
    followed.push(closed);
    let expected = [
        ("open ", 1.0),
        ("servers server.address=b.type=RSSecondary", 1.0),
        ("writable ", 1.0),
    ];
    assert_eq!(level(&followed), named(&expected));
}

#[test]
fn an_incompatible_topology_is_not_writable() {
    let mut server = ServerDescription::unknown(address());
    server.server_type = ServerType::Standalone;
    server.max_wire_version = 2;
    let topology = TopologyDescription::new(TopologyType::Single, None, vec![server]);
    assert!(topology.compatibility_error().is_some());
    assert!(!is_writable(&topology));
}

#[test]
fn a_topology_that_was_just_opened_is_not_writable() {
    let found = recorded(|| steps(&[]).iter().for_each(MetricsRecorder::sdam));
    assert_eq!(found["mongodb.client.topology.writable "], [0.0]);
    assert_eq!(found["mongodb.client.topology.open "], [1.0]);
}

#[test]
fn heartbeats_are_counted_by_failure() {
    let topology_id = ObjectId::new();
    let succeeded = SdamEvent::ServerHeartbeatSucceeded(ServerHeartbeatSucceededEvent {
        topology_id,
        address: address(),
        driver_connection_id: Some(1),
        server_connection_id: None,
        duration: SECOND,
        reply: RawDocumentBuf::new(),
        awaited: false,
    });
    let failed = |failure| {
        SdamEvent::ServerHeartbeatFailed(ServerHeartbeatFailedEvent {
            topology_id,
            address: address(),
            driver_connection_id: Some(1),
            server_connection_id: None,
            duration: SECOND,
            failure,
            awaited: false,
        })
    };
    let timed_out = failed(Error::timeout(Wait::Heartbeat, SECOND));
    let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    let refused = failed(ErrorKind::Connect(Arc::new(refused)).into());
    let found = recorded(|| {
        [&succeeded, &succeeded, &timed_out, &refused]
            .into_iter()
            .for_each(MetricsRecorder::sdam);
    });
    let name = "mongodb.client.server.heartbeats server.address=db.example,server.port=27017";
    let failure = |kind| (format!("{name},error.type={kind}"), vec![1.0]);
    let succeeded = (name.to_owned(), vec![2.0]);
    let expected = [succeeded, failure("timeout"), failure("connect")];
    assert_eq!(found, BTreeMap::from(expected));
}
