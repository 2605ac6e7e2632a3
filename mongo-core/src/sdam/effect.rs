//! The result of a transition.

use std::sync::Arc;

use bson::oid::ObjectId;

use super::TopologyDescription;
use super::event::SdamEvent;
use crate::address::ServerAddress;

/// An action to carry out besides publishing the new description and the events.
///
/// The holder of the topology's lock carries them out in order. [`Effect::ReadyPool`] comes before
/// the new description is published, so that no selected server has a paused pool. All others come
/// after it, so that a server is unknown before its pool is cleared.
///
/// An effect on a monitor or pool that doesn't exist is ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// Monitor a server.
    StartMonitor {
        /// The server.
        server: ServerAddress,
    },
    /// Stop monitoring a server. The result of its last check is ignored.
    StopMonitor {
        /// The server.
        server: ServerAddress,
    },
    /// Check a server as soon as [`MIN_HEARTBEAT_FREQUENCY`](super::MIN_HEARTBEAT_FREQUENCY)
    /// allows. Without monitors: let the next selection scan again, unless the server is
    /// [recovering](CheckReason::Recovering).
    RequestCheck {
        /// The server.
        server: ServerAddress,
        /// Why.
        reason: CheckReason,
    },
    /// Cancel a check that is under way, and close the monitor's connection.
    CancelCheck {
        /// The server.
        server: ServerAddress,
    },
    /// Mark the pool as ready: connections can be established and checked out.
    ReadyPool {
        /// The server.
        server: ServerAddress,
    },
    /// Clear the pool: mark all connections as stale, and pause the pool.
    ClearPool {
        /// The server.
        server: ServerAddress,
        /// Behind a load balancer: only the connections to that service, without a pause.
        service_id: Option<ObjectId>,
        /// Whether connections that are in use are closed as well.
        interrupt_in_use: bool,
    },
    /// Close the pool for good: the server is gone.
    ClosePool {
        /// The server.
        server: ServerAddress,
    },
}

/// Why a check is requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CheckReason {
    /// The server was the primary until another one was found.
    NewerPrimary,
    /// The server is no longer the primary.
    NotWritablePrimary,
    /// The server is recovering: it is reachable but can't be used.
    Recovering,
    /// The server is shutting down.
    ShuttingDown,
}

/// The next description of a topology, with its events and effects.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Transition {
    /// The new description; the same `Arc` if there is nothing to publish.
    pub description: Arc<TopologyDescription>,
    /// The events, in order.
    pub events: Vec<SdamEvent>,
    /// The actions to carry out, in order.
    pub effects: Vec<Effect>,
}
