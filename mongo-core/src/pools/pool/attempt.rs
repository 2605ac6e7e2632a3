//! One attempt to make a connection: its pause, its events, its end, and how its failure is
//! reported.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::unserved::Unserved;
use super::wait_queue::{PoolState, WaitQueue};
use crate::error::{Error, ErrorKind, Result, Wait, is_network_error};
use crate::event::{
    CmapEvent, ConnectionClosedEvent, ConnectionClosedReason, ConnectionCreatedEvent,
    ConnectionReadyEvent,
};
use crate::net::{
    Alive, Connection, ConnectionState, Deadline, Failed, Interrupted, PoolHandle, PoolHooks,
    Service, sleep_until,
};
use crate::pools::pool::{Failure, PoolInner};
use crate::sdam::{ApplicationError, ErrorPhase};

/// One attempt to make a connection, which is already counted in the pool.
pub(crate) struct Attempt {
    shared: Arc<PoolInner>,
    /// Its number in the wait queue.
    number: u64,
    link: Arc<ConnectionState>,
    /// The pool's generation when it began.
    generation: u64,
    created: Option<(u64, Instant)>,
    /// The tickets of waiters that fail with this attempt.
    waiters: Vec<u64>,
    failure: Option<Error>,
    outcome: Option<oneshot::Sender<Result<()>>>,
    is_over: bool,
    /// Dropped last.
    _alive: Alive,
}

impl PoolInner {
    /// Interrupts pending connections of generations up to the given one.
    pub(crate) fn interrupt_pending(&self, generation: u64) {
        let reason = match self.state() {
            PoolState::Closed => ConnectionClosedReason::PoolClosed,
            PoolState::Ready | PoolState::Paused => ConnectionClosedReason::Stale,
        };
        self.links
            .interrupt_pending(generation, |id| self.tell_not_made(id, reason, None));
    }

    /// Interrupts one attempt.
    pub(crate) fn interrupt_attempt(&self, link: &Arc<ConnectionState>) {
        let reason = ConnectionClosedReason::Error;
        let cancelled = || self.establisher.name(ErrorKind::Cancelled);
        self.links
            .interrupt_attempt(link, |id| self.tell_not_made(id, reason, Some(cancelled())));
    }

    /// The error of an attempt whose runtime has shut down.
    pub(crate) fn shut_down(&self) -> Error {
        let text = "the runtime on which the connection was being made has shut down";
        self.establisher.name(ErrorKind::Pool(text.to_owned()))
    }

    /// Counts and reports the end of a connection that was not made.
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

impl Attempt {
    pub(crate) fn new(shared: Arc<PoolInner>, number: u64, link: Arc<ConnectionState>) -> Self {
        Self {
            link,
            generation: shared.establisher.generations.current(),
            _alive: shared.tasks.begin(),
            shared,
            number,
            created: None,
            waiters: Vec::new(),
            failure: None,
            outcome: None,
            is_over: false,
        }
    }

    /// Also sends its outcome to a receiver.
    pub(crate) fn with_outcome(mut self) -> (Self, oneshot::Receiver<Result<()>>) {
        let (sender, outcome) = oneshot::channel();
        self.outcome = Some(sender);
        (self, outcome)
    }

    /// Makes the connection, for the longest waiter or else for the next caller.
    pub(crate) async fn run(mut self) {
        match self.make().await {
            Ok(connection) => {
                let number = self.number;
                // In one step: otherwise another attempt would begin for a waiter first.
                let shared = &self.shared;
                shared
                    .queue
                    .offer_and(shared, connection, |queue| queue.made(number));
                if let Some(outcome) = self.outcome.take() {
                    drop(outcome.send(Ok(())));
                }
            }
            Err(error) => self.failure = Some(error),
        }
    }

    async fn make(&mut self) -> Result<Connection> {
        let shared = self.shared.clone();
        self.pause().await;
        let (is_wanted, generation) = shared.queue.read(|queue| {
            let is_ready = queue.state() == PoolState::Ready;
            (
                is_ready && queue.has_attempt(self.number),
                shared.generation(),
            )
        });
        if !is_wanted {
            return Err(shared.not_ready());
        }
        self.generation = generation;
        let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
        self.begin(id);
        if shared.generation() != generation || shared.state() != PoolState::Ready {
            // It came too late to be interrupted with the others.
            shared.interrupt_pending(generation);
        }
        match self.establish(id).await {
            Ok(Ok(connection)) if shared.links.made(id) => Ok(self.succeed(connection)),
            // First, so that a clear caused by this failure does not interrupt it.
            Ok(Err(failed)) if shared.links.failed(id) => Err(self.fail(failed)),
            Ok(_) | Err(Interrupted) => Err(shared.not_ready()),
        }
    }

    /// Waits while attempts are paused after failures.
    async fn pause(&self) {
        let shared = &self.shared;
        loop {
            let mut changed = pin!(shared.queue.changed());
            // Before the check, so that no change is missed.
            changed.as_mut().enable();
            let until = match shared.queue.read(WaitQueue::pacing) {
                (PoolState::Ready, Some(until)) if until > Instant::now() => until,
                _ => return,
            };
            // Both are safe to drop: the state and the time are checked again. In an order, so that
            // simulations replay.
            tokio::select! {
                biased;
                () = changed => {}
                () = sleep_until(until) => {}
            }
        }
    }

    async fn establish(&self, id: u64) -> Result<Result<Connection, Failed>, Interrupted> {
        let making = self.shared.establisher.establish(id, Deadline::never());
        self.link.interruptible(pin!(making)).await
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
        // Dropped without the lock: it may be a type of the application.
        let _former = shared.last_failure().take();
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
        connection.set_pool_handle(PoolHandle {
            owner: shared.clone(),
            link: self.link.clone(),
            expires: shared.expiry(connection.created()),
            takes_writes: shared.takes_writes.clone(),
            for_writes: false,
            span: None,
        });
        connection
    }

    /// Records and reports a failure, before the connection counts as closed.
    fn fail(&mut self, failed: Failed) -> Error {
        let shared = self.shared.clone();
        let phase = phase_of(&failed.error, failed.phase);
        let error = phase.label(failed.error);
        let failure = Failure {
            at: Instant::now(),
            error: error.clone(),
        };
        let _former = shared.last_failure().replace(failure);
        if matches!(error.kind(), ErrorKind::Authentication(own) if own.is_of_credential()) {
            // It concerns only this credential. With a fixed credential, the result would be the
            // same for all waiters.
            match shared.establisher.authenticator.is_fixed() {
                true => self.waiters = shared.change_queue(WaitQueue::evict),
                false => {
                    let own = shared.change_queue(|queue| queue.fail_waiter(self.number));
                    self.waiters.extend(own);
                }
            }
            return error;
        }
        if failed.phase == Wait::Hook && !is_network_error(&error) {
            // It concerns neither the server nor other attempts.
            let own = shared.change_queue(|queue| queue.fail_waiter(self.number));
            self.waiters.extend(own);
            return error;
        }
        // The waiter fails with this error, even if the error clears the pool.
        let waiter = shared.change_queue(|queue| {
            if shared.topology.is_some() {
                queue.pace(Instant::now(), shared.jitter());
            }
            queue.fail_waiter(self.number)
        });
        self.waiters.extend(waiter);
        let server = shared.establisher.server.clone();
        let reported = ApplicationError::new(server, error.clone(), phase);
        shared.report(match failed.service {
            Some(Service { id, generation }) => reported
                .with_generations(generation.number(), generation.current())
                .with_service_id(Some(id)),
            None => {
                let current = shared.establisher.generations.current();
                reported.with_generations(self.generation, current)
            }
        });
        error
    }
}

/// An attempt that made no connection, whether it failed, was interrupted, or its runtime has shut
/// down.
impl Drop for Attempt {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let shared = self.shared.clone();
        let failure = self.failure.take();
        if let Some((driver_connection_id, _)) = self.created
            && shared.links.remove(driver_connection_id)
        {
            let reason = match shared.state() {
                PoolState::Closed => ConnectionClosedReason::PoolClosed,
                PoolState::Ready | PoolState::Paused => ConnectionClosedReason::Error,
            };
            let error = failure.clone().unwrap_or_else(|| shared.shut_down());
            shared.tell_not_made(driver_connection_id, reason, Some(error));
        }
        let (waiter, was_there) = shared.change_queue(|queue| {
            let waiter = queue.fail_waiter(self.number);
            (waiter, queue.failed(self.number))
        });
        let error = match failure {
            Some(failure) => Unserved::Failed(failure),
            None => Unserved::RuntimeEnded,
        };
        let waiters = self.waiters.drain(..).chain(waiter);
        shared.queue.fail(waiters, &error);
        if let Some(outcome) = self.outcome.take() {
            drop(outcome.send(Err(error.into_error(&shared))));
        }
        if was_there {
            shared.slot_is_free();
        }
    }
}

/// The phase in which making a connection failed.
fn phase_of(error: &Error, wait: Wait) -> ErrorPhase {
    match (error.kind(), wait) {
        (ErrorKind::Dns(_) | ErrorKind::Tls(_), _) | (_, Wait::Dns) => ErrorPhase::Resolution,
        // A busy server is not the cause if the credential could not be obtained.
        (_, Wait::Credential) => ErrorPhase::Resolution,
        (_, Wait::Authentication) => ErrorPhase::Authentication,
        (_, Wait::Hook) => ErrorPhase::Completed,
        (_, _) => ErrorPhase::Establishment,
    }
}
