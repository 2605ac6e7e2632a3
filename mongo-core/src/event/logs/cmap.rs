//! The messages of pools and their connections. Specification: connection monitoring and pooling.

use tracing::field::display;
use tracing::{Level, debug, enabled};

use super::{Host, milliseconds};
use crate::event::{CheckOutFailedReason, CmapEvent, ConnectionClosedReason, PoolCreatedEvent};

/// The specification's component `connection`.
const CONNECTION: &str = "mongodb::connection";

/// Whether any subscriber is interested. Without one, the cost is negligible.
#[inline]
pub(crate) fn wants_cmap_events() -> bool {
    enabled!(target: CONNECTION, Level::DEBUG)
}

/// Logs an event. In addition to the specification's fields there is `user`, which distinguishes
/// the pools of one server.
pub(crate) fn cmap_event(event: &CmapEvent) {
    let (host, port) = (display(Host(event.address())), event.address().port());
    let user = event.user().map(|user| &**user);
    match event {
        CmapEvent::PoolCreated(event) => pool_created(event),
        CmapEvent::PoolReady(_) => debug!(
            target: CONNECTION, serverHost = host, serverPort = port, user,
            "Connection pool ready"
        ),
        CmapEvent::PoolCleared(event) => debug!(
            target: CONNECTION, serverHost = host, serverPort = port, user,
            serviceId = event.service_id.map(display),
            error = event.error.as_ref().map(display),
            "Connection pool cleared"
        ),
        CmapEvent::PoolClosed(_) => debug!(
            target: CONNECTION, serverHost = host, serverPort = port, user,
            "Connection pool closed"
        ),
        CmapEvent::ConnectionCreated(event) => debug!(
            target: CONNECTION, serverHost = host, serverPort = port, user,
            driverConnectionId = event.driver_connection_id,
            "Connection created"
        ),
        CmapEvent::ConnectionReady(event) => debug!(
            target: CONNECTION, serverHost = host, serverPort = port, user,
            driverConnectionId = event.driver_connection_id,
            durationMS = milliseconds(event.duration),
            "Connection ready"
        ),
        CmapEvent::ConnectionClosed(event) => debug!(
            target: CONNECTION, serverHost = host, serverPort = port, user,
            driverConnectionId = event.driver_connection_id,
            reason = why_closed(event.reason),
            error = event.error.as_ref().map(display),
            "Connection closed"
        ),
        CmapEvent::ConnectionCheckOutStarted(_) => debug!(
            target: CONNECTION, serverHost = host, serverPort = port, user,
            "Connection checkout started"
        ),
        CmapEvent::ConnectionCheckOutFailed(event) => debug!(
            target: CONNECTION, serverHost = host, serverPort = port, user,
            reason = why_failed(event.reason),
            error = event.error.as_ref().map(display),
            durationMS = milliseconds(event.duration),
            "Connection checkout failed"
        ),
        CmapEvent::ConnectionCheckedOut(event) => debug!(
            target: CONNECTION, serverHost = host, serverPort = port, user,
            driverConnectionId = event.driver_connection_id,
            durationMS = milliseconds(event.duration),
            "Connection checked out"
        ),
        CmapEvent::ConnectionCheckedIn(event) => debug!(
            target: CONNECTION, serverHost = host, serverPort = port, user,
            driverConnectionId = event.driver_connection_id,
            "Connection checked in"
        ),
    }
}

fn pool_created(event: &PoolCreatedEvent) {
    let options = &event.options;
    debug!(
        target: CONNECTION,
        serverHost = %Host(&event.address), serverPort = event.address.port(),
        user = event.user.as_deref(),
        maxIdleTimeMS = options.max_idle_time.map(milliseconds),
        minPoolSize = options.min_pool_size,
        maxPoolSize = options.max_pool_size,
        maxConnecting = options.max_connecting,
        waitQueueTimeoutMS = options.wait_queue_timeout.map(milliseconds),
        maxLifetimeMS = options.max_lifetime.map(milliseconds),
        "Connection pool created"
    );
}

/// The specification's text.
fn why_closed(reason: ConnectionClosedReason) -> &'static str {
    match reason {
        ConnectionClosedReason::Stale => "Connection became stale because the pool was cleared",
        ConnectionClosedReason::Idle => {
            "Connection has been available but unused for longer than the configured max idle time"
        }
        ConnectionClosedReason::Error => "An error occurred while using the connection",
        ConnectionClosedReason::PoolClosed => "Connection pool was closed",
    }
}

/// The specification's text.
fn why_failed(reason: CheckOutFailedReason) -> &'static str {
    match reason {
        CheckOutFailedReason::Timeout => {
            "Wait queue timeout elapsed without a connection becoming available"
        }
        CheckOutFailedReason::ConnectionError => {
            "An error occurred while trying to establish a new connection"
        }
        CheckOutFailedReason::PoolClosed => "Connection pool was closed",
    }
}
