//! `tracing` events, with the messages and fields of the specifications.
//!
//! Specifications: logging; server discovery and monitoring, logging and monitoring; server
//! selection, logging.

use std::fmt;

use arc_swap::ArcSwap;
use tracing::{Level, debug, enabled, info};

use super::selected::SelectedServer;
use crate::ServerAddress;
use crate::error::{Error, Result};
use crate::event::SdamEvent;
use crate::event::logs::{Host, Json, milliseconds};
use crate::net::deadline::Deadline;
use crate::sdam::TopologyDescription;
use crate::select::{Criterion, SelectionError, SelectionIndex};
use crate::text::Rounded;

/// The specification's component `topology`, and the target that the official driver uses for it.
const TOPOLOGY: &str = "mongodb::topology";

/// The specification's component `serverSelection`, likewise.
const SELECTION: &str = "mongodb::server_selection";

/// Whether logs of events are enabled. Without a subscriber this costs next to nothing.
pub(super) fn wants_events() -> bool {
    enabled!(target: TOPOLOGY, Level::DEBUG)
}

/// Whether logs of selections are enabled.
pub(super) fn wants_selections() -> bool {
    enabled!(target: SELECTION, Level::DEBUG)
}

/// Logs an event.
pub(super) fn event(event: &SdamEvent) {
    if !wants_events() {
        return;
    }
    let topology_id = tracing::field::display(event.topology_id());
    let host = event.address().map(Host).map(tracing::field::display);
    let port = event.address().and_then(ServerAddress::port);
    match event {
        SdamEvent::TopologyOpening(_) => {
            debug!(target: TOPOLOGY, topologyId = topology_id, "Starting topology monitoring");
        }
        SdamEvent::TopologyClosed(_) => {
            debug!(target: TOPOLOGY, topologyId = topology_id, "Stopped topology monitoring");
        }
        SdamEvent::TopologyDescriptionChanged(event) => debug!(
            target: TOPOLOGY,
            topologyId = topology_id,
            previousDescription = %Shown(&event.previous_description),
            newDescription = %Shown(&event.new_description),
            "Topology description changed"
        ),
        SdamEvent::ServerOpening(_) => debug!(
            target: TOPOLOGY,
            topologyId = topology_id, serverHost = host, serverPort = port,
            "Starting server monitoring"
        ),
        SdamEvent::ServerClosed(_) => debug!(
            target: TOPOLOGY,
            topologyId = topology_id, serverHost = host, serverPort = port,
            "Stopped server monitoring"
        ),
        // Left out on purpose: the log of the topology's change includes it.
        SdamEvent::ServerDescriptionChanged(_) => {}
        SdamEvent::ServerHeartbeatStarted(event) => debug!(
            target: TOPOLOGY,
            topologyId = topology_id, serverHost = host, serverPort = port,
            driverConnectionId = event.driver_connection_id,
            serverConnectionId = event.server_connection_id,
            awaited = event.awaited,
            "Server heartbeat started"
        ),
        SdamEvent::ServerHeartbeatSucceeded(event) => debug!(
            target: TOPOLOGY,
            topologyId = topology_id, serverHost = host, serverPort = port,
            driverConnectionId = event.driver_connection_id,
            serverConnectionId = event.server_connection_id,
            awaited = event.awaited,
            durationMS = milliseconds(event.duration),
            reply = %Json(&event.reply),
            "Server heartbeat succeeded"
        ),
        SdamEvent::ServerHeartbeatFailed(event) => debug!(
            target: TOPOLOGY,
            topologyId = topology_id, serverHost = host, serverPort = port,
            driverConnectionId = event.driver_connection_id,
            serverConnectionId = event.server_connection_id,
            awaited = event.awaited,
            durationMS = milliseconds(event.duration),
            failure = %event.failure,
            "Server heartbeat failed"
        ),
    }
}

/// The logs of one selection.
///
/// The fields are looked up and formatted only if the logs are enabled.
pub(super) struct Selection<'a> {
    /// The name and the id of the operation, if the caller knows it.
    pub(super) operation: Option<(&'a str, i64)>,
    pub(super) criterion: &'a Criterion,
    pub(super) index: &'a ArcSwap<SelectionIndex>,
}

impl Selection<'_> {
    fn name(&self) -> Option<&str> {
        self.operation.map(|(name, _)| name)
    }

    fn id(&self) -> Option<i64> {
        self.operation.map(|(_, id)| id)
    }

    pub(super) fn started(&self) {
        debug!(
            target: SELECTION,
            operation = self.name(), operationId = self.id(),
            selector = %self.criterion,
            topologyDescription = %Shown(self.index.load().topology()),
            "Server selection started"
        );
    }

    /// Called at most once for each selection.
    pub(super) fn waits(&self, deadline: Deadline) {
        info!(
            target: SELECTION,
            operation = self.name(), operationId = self.id(),
            selector = %self.criterion,
            topologyDescription = %Shown(self.index.load().topology()),
            remainingTimeMS = deadline.remaining().map(milliseconds),
            "Waiting for suitable server to become available"
        );
    }

    pub(super) fn ended(&self, outcome: &Result<SelectedServer>) {
        match outcome {
            Ok(selected) => debug!(
                target: SELECTION,
                operation = self.name(), operationId = self.id(),
            selector = %self.criterion,
                topologyDescription = %Shown(self.index.load().topology()),
                serverHost = %Host(selected.address()), serverPort = selected.address().port(),
                "Server selection succeeded"
            ),
            Err(error) => debug!(
                target: SELECTION,
                operation = self.name(), operationId = self.id(),
            selector = %self.criterion,
                topologyDescription = %Shown(self.index.load().topology()),
                failure = %Failure(error),
                "Server selection failed"
            ),
        }
    }
}

/// A topology in one line.
struct Shown<'a>(&'a TopologyDescription);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{ type: {}", self.0.topology_type())?;
        if let Some(name) = self.0.set_name() {
            write!(f, ", set name: {name:?}")?;
        }
        f.write_str(", servers: [")?;
        for (place, server) in self.0.servers().iter().enumerate() {
            let comma = if place > 0 { ", " } else { "" };
            write!(f, "{comma}{} {}", server.address, server.server_type)?;
            if let Some(average) = server.round_trip_time {
                write!(f, " in {}", Rounded(average))?;
            }
            if let Some(error) = &server.error {
                write!(f, " ({error})")?;
            }
        }
        f.write_str("] }")
    }
}

/// An error without the topology, which is a field of its own.
struct Failure<'a>(&'a Error);

impl fmt::Display for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(SelectionError::NoSuitableServer(error)) = SelectionError::of(self.0) {
            return write!(
                f,
                "no server within {}: {}",
                Rounded(error.after),
                error.obstacle
            );
        }
        self.0.fmt(f)
    }
}
