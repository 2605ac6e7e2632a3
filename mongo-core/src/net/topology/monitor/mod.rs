//! The monitor of one server.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::clock::{Signal, now};
use crate::error::{ClosedReason, ErrorKind, Result};
use crate::event::{SdamEvent, ServerHeartbeatFailedEvent, ServerHeartbeatStartedEvent};
use crate::handshake::Environment;
use crate::net::connection::metadata::Metadata;
use crate::net::transport::Transport;
use crate::net::transport::tls::Tls;
use crate::uri::ClientOptions;

pub(super) mod link;

/// The state that all monitors of a topology share.
pub(crate) struct Monitoring {
    pub(super) options: ClientOptions,
    pub(super) transport: Transport,
    pub(crate) metadata: Metadata,
    pub(super) on_faas: bool,
    /// See [`Link::begin`](link::Link).
    pub(super) turns: Arc<Semaphore>,
}

impl Monitoring {
    pub(crate) fn new(
        options: &ClientOptions,
        transport: Transport,
        metadata: Metadata,
        environment: &Environment<'_>,
    ) -> Self {
        Self {
            options: options.clone(),
            transport,
            metadata,
            on_faas: environment.is_faas(),
            turns: Arc::new(Semaphore::new(1)),
        }
    }

    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.transport.tls()
    }

    /// The current runtime, if it has the drivers that monitors need.
    pub(crate) fn runtime(&self) -> Result<Handle> {
        self.transport.runtime()
    }
}

/// The topology's handle to the monitor of one server; its task is the [`Pump`](super::pump).
pub(crate) struct Monitor {
    pub(super) id: u64,
    pub(super) control: Control,
    created: std::time::Instant,
    /// The start of its first check.
    first_check: Option<std::time::Instant>,
    /// The first check is due no sooner than [`MIN_HEARTBEAT_FREQUENCY`] after this.
    paced_from: Option<std::time::Instant>,
    /// The check in progress, whose end was not published yet.
    under_way: Option<(ServerHeartbeatStartedEvent, std::time::Instant)>,
    is_dead: bool,
}

#[derive(Clone, Default)]
pub(super) struct Control {
    pub(super) request: Signal,
    pub(super) cancel: Signal,
    pub(super) stop: Signal,
}

impl Monitor {
    /// The handle to monitor number `id`, of which nothing runs yet. `paced_from` is the
    /// [pace](Self::pace) of the server's previous monitor.
    pub(super) fn new(id: u64, paced_from: Option<std::time::Instant>) -> Self {
        Self {
            id,
            control: Control::default(),
            created: now(),
            first_check: None,
            paced_from,
            under_way: None,
            is_dead: false,
        }
    }

    /// Distinguishes this monitor from earlier ones of the same server.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Whether its task ended without being [stopped](Self::stop).
    pub(crate) fn is_dead(&self) -> bool {
        self.is_dead
    }

    /// The time from which the next monitor of the server counts [`MIN_HEARTBEAT_FREQUENCY`]. It is
    /// the start of this one's first check, so that a server that is removed and added by each
    /// reply is not checked in a busy loop. If the task has ended by itself, it is the creation of
    /// this one, so that a task that panics at once is not restarted in a busy loop.
    pub(crate) fn pace(&self) -> Option<std::time::Instant> {
        match self.is_dead {
            true => Some(self.created),
            false => self.first_check.or(self.paced_from),
        }
    }

    /// Requests a check as soon as one is allowed. Ignored while one runs.
    pub(crate) fn check_request(&self) -> Signal {
        self.control.request.clone()
    }

    /// Cancels the check in progress.
    pub(crate) fn check_cancellation(&self) -> Signal {
        self.control.cancel.clone()
    }

    /// Notes an event that is about to be published.
    pub(crate) fn note(&mut self, event: &SdamEvent) {
        match event {
            SdamEvent::ServerHeartbeatStarted(started) => {
                let now = now();
                self.first_check.get_or_insert(now);
                self.under_way = Some((started.clone(), now));
            }
            SdamEvent::ServerHeartbeatSucceeded(_) | SdamEvent::ServerHeartbeatFailed(_) => {
                self.under_way = None;
            }
            _ => {}
        }
    }

    /// Stops the monitor. The signal ends the task at its next await, even if the task itself sends
    /// it. The event ends the check in progress and must be published, because the task's own
    /// events are ignored from now on.
    pub(crate) fn stop(mut self) -> (Signal, Option<SdamEvent>) {
        let event = self.cut_short();
        (self.control.stop, event)
    }

    /// The task has ended by itself. The event is the same as that of [`stop`](Self::stop).
    pub(crate) fn died(&mut self) -> Option<SdamEvent> {
        self.is_dead = true;
        self.cut_short()
    }

    fn cut_short(&mut self) -> Option<SdamEvent> {
        let (started, at) = self.under_way.take()?;
        Some(SdamEvent::ServerHeartbeatFailed(
            ServerHeartbeatFailedEvent {
                topology_id: started.topology_id,
                address: started.address,
                driver_connection_id: started.driver_connection_id,
                server_connection_id: started.server_connection_id,
                duration: now().saturating_duration_since(at),
                failure: ErrorKind::ConnectionClosed(ClosedReason::Closed).into(),
                awaited: started.awaited,
            },
        ))
    }
}

#[cfg(test)]
mod tests;
