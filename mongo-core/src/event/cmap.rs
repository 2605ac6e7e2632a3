//! The events of connection monitoring and pooling.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bson::oid::ObjectId;

use crate::address::ServerAddress;
use crate::error::Error;

/// One event of connection monitoring and pooling. A pool is for one server and one credential: if
/// a client has several credentials, `user` distinguishes their pools.
///
/// Specification: connection monitoring and pooling.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CmapEvent {
    /// The first event of a pool.
    PoolCreated(PoolCreatedEvent),
    /// The pool is ready to check out connections: its server was reached.
    PoolReady(PoolReadyEvent),
    /// Connections that were made before this event are not checked out again.
    PoolCleared(PoolClearedEvent),
    /// The last event of a pool.
    PoolClosed(PoolClosedEvent),
    /// An attempt to make a connection begins.
    ConnectionCreated(ConnectionCreatedEvent),
    /// A connection is established, with its handshake and authentication.
    ConnectionReady(ConnectionReadyEvent),
    /// A connection was closed, or could not be made.
    ConnectionClosed(ConnectionClosedEvent),
    /// A check-out begins.
    ConnectionCheckOutStarted(ConnectionCheckOutStartedEvent),
    /// A check-out failed.
    ConnectionCheckOutFailed(ConnectionCheckOutFailedEvent),
    /// A connection was checked out.
    ConnectionCheckedOut(ConnectionCheckedOutEvent),
    /// A connection was checked in.
    ConnectionCheckedIn(ConnectionCheckedInEvent),
}

/// See [`CmapEvent::PoolCreated`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PoolCreatedEvent {
    /// The pool's server.
    pub address: ServerAddress,
    /// The user of the pool's credential.
    pub user: Option<Arc<str>>,
    /// The pool's options.
    pub options: PoolCreatedOptions,
}

/// The options of a pool that differ from their defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolCreatedOptions {
    /// The largest number of connections (`maxPoolSize`); 0 is no limit.
    pub max_pool_size: Option<u32>,
    /// The number of connections that the pool maintains (`minPoolSize`).
    pub min_pool_size: Option<u32>,
    /// The largest number of connections that are established concurrently (`maxConnecting`).
    pub max_connecting: Option<u32>,
    /// How long a connection may be idle (`maxIdleTimeMS`).
    pub max_idle_time: Option<Duration>,
    /// The maximum lifetime of a connection.
    pub max_lifetime: Option<Duration>,
    /// How long a check-out may wait (`waitQueueTimeoutMS`).
    pub wait_queue_timeout: Option<Duration>,
}

/// See [`CmapEvent::PoolReady`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PoolReadyEvent {
    /// The pool's server.
    pub address: ServerAddress,
    /// The user of the pool's credential.
    pub user: Option<Arc<str>>,
}

/// See [`CmapEvent::PoolCleared`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PoolClearedEvent {
    /// The pool's server.
    pub address: ServerAddress,
    /// The user of the pool's credential.
    pub user: Option<Arc<str>>,
    /// Behind a load balancer: the service whose connections are cleared, and no others.
    pub service_id: Option<ObjectId>,
    /// Whether connections in use are closed at once, and not only at their check-in.
    pub interrupt_in_use_connections: bool,
    /// The error that the pool was cleared for.
    pub error: Option<Error>,
}

/// See [`CmapEvent::PoolClosed`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PoolClosedEvent {
    /// The pool's server.
    pub address: ServerAddress,
    /// The user of the pool's credential.
    pub user: Option<Arc<str>>,
}

/// See [`CmapEvent::ConnectionCreated`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectionCreatedEvent {
    /// The pool's server.
    pub address: ServerAddress,
    /// The user of the pool's credential.
    pub user: Option<Arc<str>>,
    /// The connection's id in its pool.
    pub driver_connection_id: u64,
}

/// See [`CmapEvent::ConnectionReady`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectionReadyEvent {
    /// The pool's server.
    pub address: ServerAddress,
    /// The user of the pool's credential.
    pub user: Option<Arc<str>>,
    /// The connection's id in its pool.
    pub driver_connection_id: u64,
    /// The connection's id on the server.
    pub server_connection_id: Option<i64>,
    /// Behind a load balancer: the service of the connection.
    pub service_id: Option<ObjectId>,
    /// The time since [`ConnectionCreated`](CmapEvent::ConnectionCreated).
    pub duration: Duration,
}

/// See [`CmapEvent::ConnectionClosed`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectionClosedEvent {
    /// The pool's server.
    pub address: ServerAddress,
    /// The user of the pool's credential.
    pub user: Option<Arc<str>>,
    /// The connection's id in its pool.
    pub driver_connection_id: u64,
    /// The connection's id on the server; `None` if it was never ready.
    pub server_connection_id: Option<i64>,
    /// Behind a load balancer: the service of the connection.
    pub service_id: Option<ObjectId>,
    /// The reason.
    pub reason: ConnectionClosedReason,
    /// For [`ConnectionClosedReason::Error`]: the error, if it is known.
    pub error: Option<Error>,
}

/// Why a connection was closed. `Display` is the specification's term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectionClosedReason {
    /// The pool was cleared after the connection was made.
    Stale,
    /// It exceeded its maximum idle time or lifetime.
    Idle,
    /// It failed, could not be made, or was cancelled in the middle of a request.
    Error,
    /// The pool was closed, or no longer needed the connection.
    PoolClosed,
}

/// See [`CmapEvent::ConnectionCheckOutStarted`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectionCheckOutStartedEvent {
    /// The pool's server.
    pub address: ServerAddress,
    /// The user of the pool's credential.
    pub user: Option<Arc<str>>,
}

/// See [`CmapEvent::ConnectionCheckOutFailed`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectionCheckOutFailedEvent {
    /// The pool's server.
    pub address: ServerAddress,
    /// The user of the pool's credential.
    pub user: Option<Arc<str>>,
    /// The reason.
    pub reason: CheckOutFailedReason,
    /// The time since [`ConnectionCheckOutStarted`](CmapEvent::ConnectionCheckOutStarted).
    pub duration: Duration,
    /// The error that the caller gets; `None` if the caller dropped the check-out.
    pub error: Option<Error>,
}

/// Why a check-out failed. `Display` is the specification's term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CheckOutFailedReason {
    /// The pool was closed.
    PoolClosed,
    /// No connection became available in time.
    Timeout,
    /// A connection could not be made, or the pool was cleared during the check-out.
    ConnectionError,
}

/// See [`CmapEvent::ConnectionCheckedOut`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectionCheckedOutEvent {
    /// The pool's server.
    pub address: ServerAddress,
    /// The user of the pool's credential.
    pub user: Option<Arc<str>>,
    /// The connection's id in its pool.
    pub driver_connection_id: u64,
    /// The connection's id on the server.
    pub server_connection_id: Option<i64>,
    /// Behind a load balancer: the service of the connection.
    pub service_id: Option<ObjectId>,
    /// The time since [`ConnectionCheckOutStarted`](CmapEvent::ConnectionCheckOutStarted).
    pub duration: Duration,
}

/// See [`CmapEvent::ConnectionCheckedIn`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectionCheckedInEvent {
    /// The pool's server.
    pub address: ServerAddress,
    /// The user of the pool's credential.
    pub user: Option<Arc<str>>,
    /// The connection's id in its pool.
    pub driver_connection_id: u64,
    /// The connection's id on the server.
    pub server_connection_id: Option<i64>,
    /// Behind a load balancer: the service of the connection.
    pub service_id: Option<ObjectId>,
}

impl CmapEvent {
    /// The server of the pool that the event is about.
    pub fn address(&self) -> &ServerAddress {
        self.pool().0
    }

    /// The user of the credential of the pool that the event is about.
    pub fn user(&self) -> Option<&Arc<str>> {
        self.pool().1
    }

    fn pool(&self) -> (&ServerAddress, Option<&Arc<str>>) {
        match self {
            Self::PoolCreated(event) => (&event.address, event.user.as_ref()),
            Self::PoolReady(event) => (&event.address, event.user.as_ref()),
            Self::PoolCleared(event) => (&event.address, event.user.as_ref()),
            Self::PoolClosed(event) => (&event.address, event.user.as_ref()),
            Self::ConnectionCreated(event) => (&event.address, event.user.as_ref()),
            Self::ConnectionReady(event) => (&event.address, event.user.as_ref()),
            Self::ConnectionClosed(event) => (&event.address, event.user.as_ref()),
            Self::ConnectionCheckOutStarted(event) => (&event.address, event.user.as_ref()),
            Self::ConnectionCheckOutFailed(event) => (&event.address, event.user.as_ref()),
            Self::ConnectionCheckedOut(event) => (&event.address, event.user.as_ref()),
            Self::ConnectionCheckedIn(event) => (&event.address, event.user.as_ref()),
        }
    }

    /// The id, in its pool, of the connection that the event is about; `None` for events of the
    /// pool, and of a check-out that has no connection yet.
    pub fn driver_connection_id(&self) -> Option<u64> {
        match self {
            Self::PoolCreated(_)
            | Self::PoolReady(_)
            | Self::PoolCleared(_)
            | Self::PoolClosed(_)
            | Self::ConnectionCheckOutStarted(_)
            | Self::ConnectionCheckOutFailed(_) => None,
            Self::ConnectionCreated(event) => Some(event.driver_connection_id),
            Self::ConnectionReady(event) => Some(event.driver_connection_id),
            Self::ConnectionClosed(event) => Some(event.driver_connection_id),
            Self::ConnectionCheckedOut(event) => Some(event.driver_connection_id),
            Self::ConnectionCheckedIn(event) => Some(event.driver_connection_id),
        }
    }
}

impl fmt::Display for ConnectionClosedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stale => "stale",
            Self::Idle => "idle",
            Self::Error => "error",
            Self::PoolClosed => "poolClosed",
        })
    }
}

impl fmt::Display for CheckOutFailedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PoolClosed => "poolClosed",
            Self::Timeout => "timeout",
            Self::ConnectionError => "connectionError",
        })
    }
}
