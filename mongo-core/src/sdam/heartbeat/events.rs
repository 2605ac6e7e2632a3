//! The heartbeat events of a monitor.

use std::time::{Duration, Instant};

use bson::RawDocument;

use super::{Heartbeat, Output, State};
use crate::error::Error;
use crate::event::{SdamEvent, ServerHeartbeatFailedEvent, ServerHeartbeatSucceededEvent};

impl Heartbeat {
    pub(super) fn publish(&mut self, event: SdamEvent) {
        self.outputs.push_back(Output::Publish(event));
    }

    pub(super) fn publish_success(
        &mut self,
        reply: &RawDocument,
        duration: Duration,
        awaited: bool,
    ) {
        let event = ServerHeartbeatSucceededEvent {
            topology_id: self.settings.topology_id,
            address: self.settings.server.clone(),
            driver_connection_id: self.connection.map(|own| own.driver_id),
            server_connection_id: self.connection.and_then(|own| own.server_id),
            duration,
            reply: reply.to_owned(),
            awaited,
        };
        self.publish(SdamEvent::ServerHeartbeatSucceeded(event));
    }

    /// Publishes the failure of the current check.
    pub(super) fn publish_failure(&mut self, now: Instant, failure: Error) {
        let State::Checking {
            check,
            started,
            connection_id,
            ..
        } = &self.state
        else {
            return;
        };
        let event = ServerHeartbeatFailedEvent {
            topology_id: self.settings.topology_id,
            address: self.settings.server.clone(),
            driver_connection_id: Some(*connection_id),
            server_connection_id: self.connection.and_then(|own| own.server_id),
            duration: now.saturating_duration_since(*started),
            failure,
            awaited: check.is_awaited(),
        };
        self.publish(SdamEvent::ServerHeartbeatFailed(event));
    }
}
