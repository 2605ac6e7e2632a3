use std::sync::Arc;

use bson::oid::ObjectId;
use tokio::time::Instant;

use super::establish::Establisher;
use crate::ServerAddress;
use crate::error::{ClosedReason, Error, ErrorKind};
use crate::event::{
    CmapEvent, ConnectionClosedEvent, ConnectionClosedReason, ConnectionCreatedEvent,
    ConnectionReadyEvent, EventHandlers,
};
use crate::handshake::ConnectionDescription;
use crate::wire::Readiness;

/// Tells of the life of a pooled connection: that it is created, then that it is ready, and, when
/// this is dropped, that it is closed.
///
/// Specification: connection monitoring and pooling.
#[derive(Debug)]
pub(super) struct Life {
    events: EventHandlers,
    address: ServerAddress,
    user: Option<Arc<str>>,
    id: u64,
    server_connection_id: Option<i64>,
    service_id: Option<ObjectId>,
    created: Instant,
    reason: ConnectionClosedReason,
    error: Option<Error>,
}

impl Life {
    /// Tells that a connection is created, if anybody wants to know of its life.
    pub(super) fn begin(establisher: &Establisher, id: u64) -> Option<Box<Self>> {
        if !establisher.events.wants_cmap() {
            return None;
        }
        let life = Self {
            events: establisher.events.clone(),
            address: establisher.server.clone(),
            user: establisher.user().cloned(),
            id,
            server_connection_id: None,
            service_id: None,
            created: Instant::now(),
            reason: ConnectionClosedReason::Error,
            // What it is if nobody says otherwise.
            error: Some(establisher.name(ErrorKind::Cancelled)),
        };
        life.events.emit_cmap(|| {
            CmapEvent::ConnectionCreated(ConnectionCreatedEvent {
                address: life.address.clone(),
                user: life.user.clone(),
                driver_connection_id: id,
            })
        });
        Some(Box::new(life))
    }

    /// Tells that the connection is ready.
    pub(super) fn ready(&mut self, description: &ConnectionDescription) {
        self.server_connection_id = description.connection_id;
        self.service_id = description.service_id;
        self.events.emit_cmap(|| {
            CmapEvent::ConnectionReady(ConnectionReadyEvent {
                address: self.address.clone(),
                user: self.user.clone(),
                driver_connection_id: self.id,
                server_connection_id: self.server_connection_id,
                service_id: self.service_id,
                duration: self.created.elapsed(),
            })
        });
    }

    /// It ends because the connection could not be made.
    pub(super) fn fail(&mut self, error: &Error) {
        self.error = Some(error.clone());
    }

    /// It ends with the connection in this state.
    pub(super) fn end(&mut self, readiness: Readiness, is_stale: bool) {
        self.error = None;
        self.reason = match readiness {
            _ if is_stale => ConnectionClosedReason::Stale,
            Readiness::Idle | Readiness::Owed => ConnectionClosedReason::PoolClosed,
            Readiness::Closed(reason) => closed_reason(reason),
        };
        if let (ConnectionClosedReason::Error, Readiness::Closed(reason)) = (self.reason, readiness)
        {
            let error = Error::from(ErrorKind::ConnectionClosed(reason));
            self.error = Some(error.at(&self.address).for_user(self.user.as_ref()));
        }
    }
}

fn closed_reason(reason: ClosedReason) -> ConnectionClosedReason {
    match reason {
        ClosedReason::CancelledWrite
        | ClosedReason::CancelledReply
        | ClosedReason::CancelledStream
        | ClosedReason::Network
        | ClosedReason::Protocol
        | ClosedReason::Unauthenticated => ConnectionClosedReason::Error,
        ClosedReason::Stale => ConnectionClosedReason::Stale,
        ClosedReason::Expired => ConnectionClosedReason::Idle,
        ClosedReason::Closed => ConnectionClosedReason::PoolClosed,
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.events.emit_cmap(|| {
            CmapEvent::ConnectionClosed(ConnectionClosedEvent {
                address: self.address.clone(),
                user: self.user.clone(),
                driver_connection_id: self.id,
                server_connection_id: self.server_connection_id,
                service_id: self.service_id,
                reason: self.reason,
                error: self.error.take(),
            })
        });
    }
}
