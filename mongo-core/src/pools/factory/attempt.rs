//! One attempt to make a connection, by a permit: its events, its end, and what its failure tells.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::gate::PoolState;
use super::{Failure, Shared};
use crate::error::{Error, ErrorKind, Result, Wait};
use crate::event::{
    CmapEvent, ConnectionClosedEvent, ConnectionClosedReason, ConnectionCreatedEvent,
    ConnectionReadyEvent,
};
use crate::net::{Connection, Deadline, Failed, Interrupted, Link, Service, Tie};
use crate::sdam::{ApplicationError, ErrorPhase};

/// Leave to make one connection.
pub(in crate::pools) struct Permit {
    shared: Arc<Shared>,
    link: Arc<Link>,
    /// The generation when it was begun, and until then the one when it was given.
    generation: u64,
    created: Option<(u64, Instant)>,
    failure: Option<Error>,
    is_over: bool,
}

impl Shared {
    /// Fails what is being made, of generations up to one.
    pub(super) fn interrupt_pending(&self, generation: u64) {
        let reason = match self.state() {
            PoolState::Closed => ConnectionClosedReason::PoolClosed,
            PoolState::Ready | PoolState::Paused => ConnectionClosedReason::Stale,
        };
        self.links
            .interrupt_pending(generation, |id| self.tell_not_made(id, reason, None));
    }

    /// Tells that a connection was not made in the end.
    fn tell_not_made(
        &self,
        driver_connection_id: u64,
        reason: ConnectionClosedReason,
        error: Option<Error>,
    ) {
        self.counters.count_closed(reason);
        self.emit(|address, user| {
            CmapEvent::ConnectionClosed(ConnectionClosedEvent {
                address,
                user,
                driver_connection_id,
                server_connection_id: None,
                service_id: None,
                reason,
                error,
            })
        });
    }
}

impl Permit {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            link: Arc::default(),
            generation: shared.establisher.generations.current(),
            shared,
            created: None,
            failure: None,
            is_over: false,
        }
    }

    /// Makes the connection.
    pub(super) async fn make(mut self, deadline: Deadline) -> Result<Connection> {
        let shared = self.shared.clone();
        let connection = self.attempt(deadline).await?;
        shared.change_gate(|gate| gate.made());
        shared.pump();
        match connection.is_stale() {
            true => Err(shared.not_ready()),
            false => Ok(connection),
        }
    }

    /// Makes the connection for whoever waits longest; nobody waits, it is kept for the next one
    /// who asks.
    pub(in crate::pools) async fn make_spare(mut self, deadline: Deadline) -> Result<()> {
        let connection = self.attempt(deadline).await?;
        // Else who waits would be let make another one first.
        self.shared.offer_and(connection, |gate| gate.made());
        Ok(())
    }

    /// What it comes to. The gate is still to be told of a success.
    async fn attempt(&mut self, deadline: Deadline) -> Result<Connection> {
        let shared = self.shared.clone();
        // It may have been on its way for a while.
        let (state, generation) = {
            let gate = shared.gate();
            (gate.state(), shared.generation())
        };
        if state != PoolState::Ready {
            return Err(shared.not_ready());
        }
        self.generation = generation;
        let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
        self.begin(id);
        if shared.generation() != generation || shared.state() != PoolState::Ready {
            // It came too late to be given up with the others.
            shared.interrupt_pending(generation);
        }
        let attempt = Box::pin(shared.establisher.establish(id, deadline));
        match self.link.clone().interruptible(pin!(attempt)).await {
            Ok(Ok(connection)) if shared.links.made(id) => Ok(self.succeed(connection)),
            // First, so that a clear that comes of it is not what ends it.
            Ok(Err(failed)) if shared.links.failed(id) => Err(self.fail(failed, deadline)),
            Ok(_) | Err(Interrupted) => Err(shared.not_ready()),
        }
    }

    fn begin(&mut self, driver_connection_id: u64) {
        self.created = Some((driver_connection_id, Instant::now()));
        let shared = &self.shared;
        shared.counters.created.fetch_add(1, Ordering::Relaxed);
        let link = self.link.clone();
        shared
            .links
            .add(driver_connection_id, link, self.generation);
        shared.emit(|address, user| {
            CmapEvent::ConnectionCreated(ConnectionCreatedEvent {
                address,
                user,
                driver_connection_id,
            })
        });
    }

    fn succeed(&mut self, mut connection: Connection) -> Connection {
        let shared = self.shared.clone();
        let begun = self
            .created
            .map_or(connection.created(), |(_, begun)| begun);
        *shared.last_failure() = None;
        // A handler may panic: the connection is not the pool's yet, and the attempt not over.
        shared.emit(|address, user| {
            CmapEvent::ConnectionReady(ConnectionReadyEvent {
                address,
                user,
                driver_connection_id: connection.id(),
                server_connection_id: connection.description().connection_id,
                service_id: connection.description().service_id,
                duration: connection.created().saturating_duration_since(begun),
            })
        });
        self.is_over = true;
        connection.tie_to(Tie {
            owner: shared.clone(),
            link: self.link.clone(),
            expires: shared.expiry(connection.created()),
            takes_writes: shared.takes_writes.clone(),
            for_writes: false,
            span: None,
        });
        connection
    }

    /// Takes a failure into account, before the connection counts as closed.
    fn fail(&mut self, failed: Failed, deadline: Deadline) -> Error {
        let shared = self.shared.clone();
        let phase = phase_of(&failed.error, failed.phase);
        let error = phase.label(failed.error);
        *shared.last_failure() = Some(Failure {
            at: Instant::now(),
            error: error.clone(),
        });
        self.failure = Some(error.clone());
        if matches!(error.kind(), ErrorKind::Authentication(own) if own.is_of_credential()) {
            // The answer would be the same for all who wait, and is about no other credential.
            let asking = shared.change_gate(|gate| gate.evict());
            for asking in asking {
                let _ = asking.try_send(Err(error.clone()));
            }
            return error;
        }
        // That somebody had no more time tells nothing of the server.
        if !(error.is_timeout() && deadline.is_over()) {
            if shared.topology.is_some() {
                shared.change_gate(|gate| gate.pace(Instant::now(), shared.share()));
                shared.paced.notify_waiters();
            }
            let server = shared.establisher.server.clone();
            let told = ApplicationError::new(server, error.clone(), phase);
            shared.report(match failed.service {
                Some(Service { id, generation }) => told
                    .with_generations(generation.number(), generation.current())
                    .with_service_id(Some(id)),
                None => {
                    told.with_generations(self.generation, shared.establisher.generations.current())
                }
            });
        }
        error
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let shared = self.shared.clone();
        let state = shared.change_gate(|gate| {
            gate.given_up();
            gate.state()
        });
        if let Some((driver_connection_id, _)) = self.created
            && shared.links.remove(driver_connection_id)
        {
            let reason = match state {
                PoolState::Closed => ConnectionClosedReason::PoolClosed,
                PoolState::Ready | PoolState::Paused => ConnectionClosedReason::Error,
            };
            let cancelled = || shared.establisher.name(ErrorKind::Cancelled);
            let error = self.failure.take().unwrap_or_else(cancelled);
            shared.tell_not_made(driver_connection_id, reason, Some(error));
        }
        shared.slot_is_free();
    }
}

/// How far a connection was that could not be made.
fn phase_of(error: &Error, wait: Wait) -> ErrorPhase {
    match (error.kind(), wait) {
        (ErrorKind::Dns(_) | ErrorKind::Tls(_), _) | (_, Wait::Dns) => ErrorPhase::Resolution,
        // Nor is a busy server the cause where a credential can't be had.
        (_, Wait::Credential) => ErrorPhase::Resolution,
        (_, Wait::Authentication) => ErrorPhase::Authentication,
        (_, _) => ErrorPhase::Establishment,
    }
}
