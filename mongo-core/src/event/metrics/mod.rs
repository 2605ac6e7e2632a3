use std::sync::Arc;
use std::time::Duration;

use metrics::{Label, SharedString, counter, gauge, histogram};

use super::{CmapEvent, CommandEvent, EventHandlers, SdamEvent};
use crate::ServerAddress;
use crate::error::{Error, ErrorKind};
use crate::sdam::{ServerDescription, ServerType, TopologyDescription, TopologyType};

/// Records events as metrics of the [`metrics`] facade, with the installed recorder.
///
/// The metrics of commands, pools and connections have the labels `server.address`, `server.port`
/// (except for Unix domain sockets) and `user` (the credential's; empty without one), so that there
/// are as many series as servers times users. Durations are in seconds. The names are
/// OpenTelemetry's where it has one.
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
/// Those of topologies are recorded by a handler of the topology's events, [`sdam`](Self::sdam).
/// They have no user:
///
/// | metric | kind | meaning, and its labels |
/// |---|---|---|
/// | `mongodb.client.topology.open` | gauge | topologies that are monitored |
/// | `mongodb.client.topology.writable` | gauge | of these, the ones with a server that can be selected for writes |
/// | `mongodb.client.topology.servers` | gauge | topologies in which a server has a type: `server.address`, `server.port`, `mongodb.server.type`, as [`ServerType`] |
/// | `mongodb.client.server.heartbeats` | counter | heartbeats that ended: `server.address`, `server.port`, and if it failed `error.type`, as above, or `connect`, `dns`, `tls` |
///
/// ```
/// use mongo_core::event::{EventHandlers, MetricsRecorder};
///
/// let handlers = EventHandlers::new().with_metrics();
/// // Or only the events of pools and connections:
/// let handlers = EventHandlers::new().on_cmap(MetricsRecorder::cmap);
/// # #[cfg(feature = "net")]
/// let topology = mongo_core::net::Topology::builder(mongo_core::ClientOptions::default())
///     .event_handler(MetricsRecorder::sdam);
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

    /// Records an event of a topology.
    pub fn sdam(event: &SdamEvent) {
        match event {
            SdamEvent::TopologyOpening(_) => {
                gauge!("mongodb.client.topology.open").increment(1.0);
                // So that an alert can compare the two before the first server is known.
                gauge!("mongodb.client.topology.writable").increment(0.0);
            }
            SdamEvent::TopologyDescriptionChanged(event) => {
                topology_changed(&event.previous_description, &event.new_description);
            }
            SdamEvent::TopologyClosed(_) => {
                gauge!("mongodb.client.topology.open").decrement(1.0);
            }
            SdamEvent::ServerHeartbeatSucceeded(event) => heartbeat(&event.address, None),
            SdamEvent::ServerHeartbeatFailed(event) => {
                heartbeat(&event.address, Some(&event.failure));
            }
            SdamEvent::ServerOpening(_)
            | SdamEvent::ServerDescriptionChanged(_)
            | SdamEvent::ServerClosed(_)
            | SdamEvent::ServerHeartbeatStarted(_) => {}
        }
    }

    /// Records an event of a pool or a connection.
    pub fn cmap(event: &CmapEvent) {
        let mut labels = labels(event.address(), event.user());
        match event {
            // A counter that begins with 1 hides its first event from `increase`.
            CmapEvent::PoolCreated(_) => {
                counter!("mongodb.client.pool.cleared", labels).increment(0);
            }
            CmapEvent::PoolReady(_) | CmapEvent::PoolClosed(_) => {}
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
    /// Records the events of commands, pools and connections, after the handlers added before: see
    /// [`MetricsRecorder`], which records those of topologies too.
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

/// Moves a topology's servers from their previous types to the new ones. Several topologies of one
/// process add up.
fn topology_changed(previous: &TopologyDescription, new: &TopologyDescription) {
    for server in new.servers() {
        servers_of_type(server).increment(1.0);
    }
    for server in previous.servers() {
        servers_of_type(server).decrement(1.0);
    }
    let change = f64::from(is_writable(new)) - f64::from(is_writable(previous));
    gauge!("mongodb.client.topology.writable").increment(change);
}

fn servers_of_type(server: &ServerDescription) -> metrics::Gauge {
    let mut labels = server_labels(&server.address);
    let server_type = server.server_type.as_str();
    labels.push(Label::from_static_parts("mongodb.server.type", server_type));
    gauge!("mongodb.client.topology.servers", labels)
}

/// Whether a server can be selected for writes.
fn is_writable(topology: &TopologyDescription) -> bool {
    let is_selectable = match topology.topology_type() {
        TopologyType::Unknown | TopologyType::ReplicaSetNoPrimary => false,
        TopologyType::ReplicaSetWithPrimary => true,
        TopologyType::Single | TopologyType::Sharded | TopologyType::LoadBalanced => {
            let mut servers = topology.servers().iter();
            servers.any(|server| server.server_type != ServerType::Unknown)
        }
    };
    is_selectable && topology.compatibility_error().is_none()
}

fn heartbeat(address: &ServerAddress, failure: Option<&Error>) {
    let mut labels = server_labels(address);
    if let Some(error) = failure {
        labels.push(Label::new("error.type", error_type(error)));
    }
    counter!("mongodb.client.server.heartbeats", labels).increment(1);
}

fn labels(address: &ServerAddress, user: Option<&Arc<str>>) -> Vec<Label> {
    let user = user.map_or(SharedString::const_str(""), |user| {
        SharedString::from_shared(user.clone())
    });
    let mut labels = server_labels(address);
    labels.push(Label::new("user", user));
    labels
}

fn server_labels(address: &ServerAddress) -> Vec<Label> {
    let mut labels = Vec::with_capacity(5);
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
    labels
}

fn error_type(error: &Error) -> SharedString {
    match error.kind() {
        ErrorKind::Command(error) => error.code.to_string().into(),
        ErrorKind::Timeout { .. } => "timeout".into(),
        ErrorKind::Cancelled => "cancelled".into(),
        ErrorKind::Network(_) => "network".into(),
        ErrorKind::Connect(_) | ErrorKind::Proxy(_) => "connect".into(),
        ErrorKind::Dns(_) => "dns".into(),
        ErrorKind::Tls(_) => "tls".into(),
        _ => "other".into(),
    }
}

#[cfg(test)]
mod tests;
