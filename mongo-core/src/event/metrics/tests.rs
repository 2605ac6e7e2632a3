use std::collections::BTreeMap;

use bson::RawDocumentBuf;
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
