//! The events of server discovery and monitoring.

use std::sync::Arc;
use std::time::Duration;

use bson::RawDocumentBuf;
use bson::oid::ObjectId;

use super::{ServerDescription, TopologyDescription};
use crate::address::ServerAddress;
use crate::error::Error;

/// One event of server discovery and monitoring. The events of one topology are in the order of the
/// changes that they report.
///
/// Specification: server discovery and monitoring, logging and monitoring.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SdamEvent {
    /// The first event of a topology.
    TopologyOpening(TopologyOpeningEvent),
    /// The description of the topology changed.
    TopologyDescriptionChanged(TopologyDescriptionChangedEvent),
    /// The last event of a topology.
    TopologyClosed(TopologyClosedEvent),
    /// A server was added; its monitor is not started yet.
    ServerOpening(ServerOpeningEvent),
    /// The description of a server changed, apart from its times.
    ServerDescriptionChanged(ServerDescriptionChangedEvent),
    /// A server was removed.
    ServerClosed(ServerClosedEvent),
    /// A heartbeat begins.
    ServerHeartbeatStarted(ServerHeartbeatStartedEvent),
    /// A heartbeat got a reply with `ok: 1`.
    ServerHeartbeatSucceeded(ServerHeartbeatSucceededEvent),
    /// A heartbeat got a reply with `ok: 0`, or no reply.
    ServerHeartbeatFailed(ServerHeartbeatFailedEvent),
}

/// See [`SdamEvent::TopologyOpening`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TopologyOpeningEvent {
    /// The topology's id.
    pub topology_id: ObjectId,
}

/// See [`SdamEvent::TopologyDescriptionChanged`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TopologyDescriptionChangedEvent {
    /// The topology's id.
    pub topology_id: ObjectId,
    /// The previous description.
    pub previous_description: Arc<TopologyDescription>,
    /// The new description.
    pub new_description: Arc<TopologyDescription>,
}

/// See [`SdamEvent::TopologyClosed`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TopologyClosedEvent {
    /// The topology's id.
    pub topology_id: ObjectId,
}

/// See [`SdamEvent::ServerOpening`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerOpeningEvent {
    /// The topology's id.
    pub topology_id: ObjectId,
    /// The server.
    pub address: ServerAddress,
}

/// See [`SdamEvent::ServerDescriptionChanged`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerDescriptionChangedEvent {
    /// The topology's id.
    pub topology_id: ObjectId,
    /// The server.
    pub address: ServerAddress,
    /// The previous description.
    pub previous_description: Arc<ServerDescription>,
    /// The new description. For a server that is removed because of its reply, the description by
    /// that reply.
    pub new_description: Arc<ServerDescription>,
}

/// See [`SdamEvent::ServerClosed`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerClosedEvent {
    /// The topology's id.
    pub topology_id: ObjectId,
    /// The server.
    pub address: ServerAddress,
}

/// See [`SdamEvent::ServerHeartbeatStarted`]. If the monitor has no connection, it is published
/// before the socket is opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerHeartbeatStartedEvent {
    /// The topology's id.
    pub topology_id: ObjectId,
    /// The server.
    pub address: ServerAddress,
    /// The id of the monitor's connection in the client, which may not be open yet.
    pub driver_connection_id: Option<u64>,
    /// The connection's id on the server.
    pub server_connection_id: Option<i64>,
    /// Whether the heartbeat is awaitable: the server replies at a change or after a timeout.
    pub awaited: bool,
}

/// See [`SdamEvent::ServerHeartbeatSucceeded`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerHeartbeatSucceededEvent {
    /// The topology's id.
    pub topology_id: ObjectId,
    /// The server.
    pub address: ServerAddress,
    /// The id of the monitor's connection in the client.
    pub driver_connection_id: Option<u64>,
    /// The connection's id on the server.
    pub server_connection_id: Option<i64>,
    /// The time from sending the hello to its reply. Unless `awaited`, it is a sample of the round
    /// trip time.
    pub duration: Duration,
    /// The reply.
    pub reply: RawDocumentBuf,
    /// Whether the heartbeat was awaitable: the server replied at a change or after a timeout.
    pub awaited: bool,
}

/// See [`SdamEvent::ServerHeartbeatFailed`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerHeartbeatFailedEvent {
    /// The topology's id.
    pub topology_id: ObjectId,
    /// The server.
    pub address: ServerAddress,
    /// The id of the monitor's connection in the client. `None` if a check of an on-demand topology
    /// did not open it.
    pub driver_connection_id: Option<u64>,
    /// The connection's id on the server.
    pub server_connection_id: Option<i64>,
    /// The time from the start of the heartbeat to its failure.
    pub duration: Duration,
    /// The error.
    pub failure: Error,
    /// Whether the heartbeat was awaitable: the server replies at a change or after a timeout.
    pub awaited: bool,
}

impl SdamEvent {
    /// The topology that the event is about.
    pub fn topology_id(&self) -> ObjectId {
        match self {
            Self::TopologyOpening(event) => event.topology_id,
            Self::TopologyDescriptionChanged(event) => event.topology_id,
            Self::TopologyClosed(event) => event.topology_id,
            Self::ServerOpening(event) => event.topology_id,
            Self::ServerDescriptionChanged(event) => event.topology_id,
            Self::ServerClosed(event) => event.topology_id,
            Self::ServerHeartbeatStarted(event) => event.topology_id,
            Self::ServerHeartbeatSucceeded(event) => event.topology_id,
            Self::ServerHeartbeatFailed(event) => event.topology_id,
        }
    }

    /// The server that the event is about; `None` for events of the whole topology.
    pub fn address(&self) -> Option<&ServerAddress> {
        match self {
            Self::TopologyOpening(_)
            | Self::TopologyDescriptionChanged(_)
            | Self::TopologyClosed(_) => None,
            Self::ServerOpening(event) => Some(&event.address),
            Self::ServerDescriptionChanged(event) => Some(&event.address),
            Self::ServerClosed(event) => Some(&event.address),
            Self::ServerHeartbeatStarted(event) => Some(&event.address),
            Self::ServerHeartbeatSucceeded(event) => Some(&event.address),
            Self::ServerHeartbeatFailed(event) => Some(&event.address),
        }
    }
}
