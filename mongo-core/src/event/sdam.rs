//! The events of server discovery and monitoring.

use std::sync::Arc;
use std::time::Duration;

use bson::RawDocumentBuf;
use bson::oid::ObjectId;

use crate::address::ServerAddress;
use crate::error::Error;
use crate::sdam::{ServerDescription, TopologyDescription};

/// One event of server discovery and monitoring. The events of one topology come in the order in
/// which what they tell of happened.
///
/// Specification: server discovery and monitoring, logging and monitoring.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SdamEvent {
    /// The first event of a topology.
    TopologyOpening(TopologyOpeningEvent),
    /// Something about the deployment changed.
    TopologyDescriptionChanged(TopologyDescriptionChangedEvent),
    /// The last event of a topology.
    TopologyClosed(TopologyClosedEvent),
    /// A server was added; its monitor is not started yet.
    ServerOpening(ServerOpeningEvent),
    /// Something about a server changed, other than its times.
    ServerDescriptionChanged(ServerDescriptionChangedEvent),
    /// A server was removed.
    ServerClosed(ServerClosedEvent),
    /// A check begins.
    ServerHeartbeatStarted(ServerHeartbeatStartedEvent),
    /// A check ended with `ok: 1`.
    ServerHeartbeatSucceeded(ServerHeartbeatSucceededEvent),
    /// A check ended with `ok: 0` or without an answer.
    ServerHeartbeatFailed(ServerHeartbeatFailedEvent),
}

/// See [`SdamEvent::TopologyOpening`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TopologyOpeningEvent {
    /// Which topology.
    pub topology_id: ObjectId,
}

/// See [`SdamEvent::TopologyDescriptionChanged`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TopologyDescriptionChangedEvent {
    /// Which topology.
    pub topology_id: ObjectId,
    /// What was known before.
    pub previous_description: Arc<TopologyDescription>,
    /// What is known now.
    pub new_description: Arc<TopologyDescription>,
}

/// See [`SdamEvent::TopologyClosed`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TopologyClosedEvent {
    /// Which topology.
    pub topology_id: ObjectId,
}

/// See [`SdamEvent::ServerOpening`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerOpeningEvent {
    /// Which topology.
    pub topology_id: ObjectId,
    /// The server.
    pub address: ServerAddress,
}

/// See [`SdamEvent::ServerDescriptionChanged`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerDescriptionChangedEvent {
    /// Which topology.
    pub topology_id: ObjectId,
    /// The server.
    pub address: ServerAddress,
    /// What was known before.
    pub previous_description: Arc<ServerDescription>,
    /// What is known now; of a server that is removed for what it told, what it told.
    pub new_description: Arc<ServerDescription>,
}

/// See [`SdamEvent::ServerClosed`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerClosedEvent {
    /// Which topology.
    pub topology_id: ObjectId,
    /// The server.
    pub address: ServerAddress,
}

/// See [`SdamEvent::ServerHeartbeatStarted`]. It comes before the socket is opened, where there is
/// none yet.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerHeartbeatStartedEvent {
    /// Which topology.
    pub topology_id: ObjectId,
    /// The server.
    pub address: ServerAddress,
    /// The monitor's connection, as the client numbers them; `None` if it is still to be opened.
    pub driver_connection_id: Option<u64>,
    /// The same connection, as the server numbers them.
    pub server_connection_id: Option<i64>,
    /// Whether the server answers only when something changes, or a time is over.
    pub awaited: bool,
}

/// See [`SdamEvent::ServerHeartbeatSucceeded`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerHeartbeatSucceededEvent {
    /// Which topology.
    pub topology_id: ObjectId,
    /// The server.
    pub address: ServerAddress,
    /// The monitor's connection, as the client numbers them.
    pub driver_connection_id: Option<u64>,
    /// The same connection, as the server numbers them.
    pub server_connection_id: Option<i64>,
    /// From sending the hello to its reply. Unless `awaited`, it is the sample of the round trip
    /// time.
    pub duration: Duration,
    /// The reply.
    pub reply: RawDocumentBuf,
    /// Whether the server answered only when something changed, or a time was over.
    pub awaited: bool,
}

/// See [`SdamEvent::ServerHeartbeatFailed`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerHeartbeatFailedEvent {
    /// Which topology.
    pub topology_id: ObjectId,
    /// The server.
    pub address: ServerAddress,
    /// The monitor's connection, as the client numbers them; `None` if it was not opened.
    pub driver_connection_id: Option<u64>,
    /// The same connection, as the server numbers them.
    pub server_connection_id: Option<i64>,
    /// From the beginning of the check to its failure.
    pub duration: Duration,
    /// Why it failed.
    pub failure: Error,
    /// Whether the server would have answered only when something changes, or a time is over.
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
