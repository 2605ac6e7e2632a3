use std::sync::Arc;
use std::time::Duration;

use metrics::{Label, SharedString, counter, gauge, histogram};

use super::{CmapEvent, CommandEvent, EventHandlers};
use crate::ServerAddress;
use crate::error::{Error, ErrorKind};

/// Records events as metrics of the [`metrics`] facade, with the installed recorder.
///
/// Every metric has the labels `server.address`, `server.port` (except for Unix domain sockets) and
/// `user` (the credential's; empty without one), so that there are as many series as servers times
/// users. Durations are in seconds. The names are OpenTelemetry's where it has one.
///
/// | metric | kind | meaning, and its own labels |
/// |---|---|---|
/// | `db.client.operation.duration` | histogram | a command, from its first byte to its end: `db.operation.name`, and if it failed `error.type`: the server's code, or `timeout`, `cancelled`, `network`, `other` |
/// | `db.client.connection.create_time` | histogram | establishing a connection, including the handshake |
/// | `db.client.connection.wait_time` | histogram | a check-out, successful or not |
/// | `db.client.connection.pending_requests` | gauge | check-outs that wait |
/// | `mongodb.client.connection.open` | gauge | connections, including pending ones |
/// | `mongodb.client.connection.used` | gauge | connections that are checked out |
/// | `mongodb.client.connection.created` | counter | attempts to make a connection |
/// | `mongodb.client.connection.closed` | counter | connections that were closed, or could not be made: `reason`, as [`ConnectionClosedReason`](super::ConnectionClosedReason) |
/// | `mongodb.client.connection.check_out_failed` | counter | check-outs that failed: `reason`, as [`CheckOutFailedReason`](super::CheckOutFailedReason) |
/// | `mongodb.client.pool.cleared` | counter | pools that were cleared |
///
/// ```
/// use mongo_core::event::{EventHandlers, MetricsRecorder};
///
/// let handlers = EventHandlers::new().with_metrics();
/// // Or only the events of pools and connections:
/// let handlers = EventHandlers::new().on_cmap(MetricsRecorder::cmap);
/// ```
///
/// Specification: OpenTelemetry's semantic conventions for database clients.
#[derive(Debug)]
#[non_exhaustive]
pub struct MetricsRecorder;

impl MetricsRecorder {
    /// Records an event of a command.
    pub fn command(event: &CommandEvent) {
        let (user, duration, failure) = match event {
            CommandEvent::Started(_) => return,
            CommandEvent::Succeeded(event) => (event.user.as_ref(), event.duration, None),
            CommandEvent::Failed(event) => {
                (event.user.as_ref(), event.duration, Some(&event.failure))
            }
        };
        let mut labels = labels(event.address(), user);
        let name = event.command_name().to_owned();
        labels.push(Label::new("db.operation.name", name));
        if let Some(error) = failure {
            labels.push(Label::new("error.type", error_type(error)));
        }
        record("db.client.operation.duration", labels, duration);
    }

    /// Records an event of a pool or a connection.
    pub fn cmap(event: &CmapEvent) {
        let mut labels = labels(event.address(), event.user());
        match event {
            CmapEvent::PoolCreated(_) | CmapEvent::PoolReady(_) | CmapEvent::PoolClosed(_) => {}
            CmapEvent::PoolCleared(_) => {
                counter!("mongodb.client.pool.cleared", labels).increment(1);
            }
            CmapEvent::ConnectionCreated(_) => {
                gauge!("mongodb.client.connection.open", labels.clone()).increment(1.0);
                counter!("mongodb.client.connection.created", labels).increment(1);
            }
            CmapEvent::ConnectionReady(event) => {
                record("db.client.connection.create_time", labels, event.duration);
            }
            CmapEvent::ConnectionClosed(event) => {
                gauge!("mongodb.client.connection.open", labels.clone()).decrement(1.0);
                labels.push(Label::new("reason", event.reason.to_string()));
                counter!("mongodb.client.connection.closed", labels).increment(1);
            }
            CmapEvent::ConnectionCheckOutStarted(_) => {
                gauge!("db.client.connection.pending_requests", labels).increment(1.0);
            }
            CmapEvent::ConnectionCheckOutFailed(event) => {
                waited(&labels, event.duration);
                labels.push(Label::new("reason", event.reason.to_string()));
                counter!("mongodb.client.connection.check_out_failed", labels).increment(1);
            }
            CmapEvent::ConnectionCheckedOut(event) => {
                waited(&labels, event.duration);
                gauge!("mongodb.client.connection.used", labels).increment(1.0);
            }
            CmapEvent::ConnectionCheckedIn(_) => {
                gauge!("mongodb.client.connection.used", labels).decrement(1.0);
            }
        }
    }
}

impl EventHandlers {
    /// Records all events, after the handlers added before: see [`MetricsRecorder`].
    #[must_use]
    pub fn with_metrics(self) -> Self {
        self.on_command(MetricsRecorder::command)
            .on_cmap(MetricsRecorder::cmap)
    }
}

/// Records the end of a check-out.
fn waited(labels: &[Label], duration: Duration) {
    gauge!("db.client.connection.pending_requests", labels.to_vec()).decrement(1.0);
    record("db.client.connection.wait_time", labels.to_vec(), duration);
}

fn record(name: &'static str, labels: Vec<Label>, duration: Duration) {
    histogram!(name, labels).record(duration);
}

fn labels(address: &ServerAddress, user: Option<&Arc<str>>) -> Vec<Label> {
    let user = user.map_or(SharedString::const_str(""), |user| {
        SharedString::from_shared(user.clone())
    });
    let mut labels = Vec::with_capacity(4);
    match address {
        ServerAddress::Tcp { host, port } => {
            let host = SharedString::from_shared(host.clone());
            labels.push(Label::new("server.address", host));
            labels.push(Label::new("server.port", port.to_string()));
        }
        ServerAddress::Unix { path } => {
            labels.push(Label::new("server.address", path.display().to_string()));
        }
    }
    labels.push(Label::new("user", user));
    labels
}

fn error_type(error: &Error) -> SharedString {
    match error.kind() {
        ErrorKind::Command(error) => error.code.to_string().into(),
        ErrorKind::Timeout { .. } => "timeout".into(),
        ErrorKind::Cancelled => "cancelled".into(),
        ErrorKind::Network(_) => "network".into(),
        _ => "other".into(),
    }
}

#[cfg(test)]
mod tests;
