//! How a connection comes to be: a turn at the gate, a permit, the attempt.

use std::convert::Infallible;
use std::future::ready;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::gate::{Gate, Grant, PoolState};
use super::slots::Participant;
use super::{Failure, Shared, Unwanted};
use crate::error::{Error, ErrorKind, Result, Wait};
use crate::event::{
    CmapEvent, ConnectionClosedEvent, ConnectionClosedReason, ConnectionCreatedEvent,
    ConnectionReadyEvent,
};
use crate::net::{Connection, Deadline, Interrupted, Link, Owner, Tie};
use crate::sdam::{ApplicationError, ErrorPhase};

/// To one that asks for a connection: first leave to make one, it may be, and then one that was
/// there sooner.
pub(super) type Asker = mpsc::Sender<Result<Handed>>;

/// What one that asked is handed. Dropped, it goes back to where it came from.
pub(super) enum Handed {
    Spare(Spare),
    Permit(Permit),
}

/// A connection on its way to one that asked.
pub(super) struct Spare {
    connection: Option<Connection>,
    shared: Arc<Shared>,
}

impl Drop for Spare {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.shared.offer(connection);
        }
    }
}

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

/// A place among those who ask.
struct Asking<'a> {
    ticket: u64,
    handed: mpsc::Receiver<Result<Handed>>,
    shared: &'a Arc<Shared>,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.shared.change_gate(|gate| gate.forget(self.ticket));
    }
}

impl Shared {
    pub(super) async fn establish(
        self: &Arc<Self>,
        deadline: Deadline,
        mut unwanted: Unwanted<'_>,
    ) -> Result<Connection> {
        loop {
            // Before it asks, which may have others make room.
            tokio::select! {
                biased;
                () = &mut unwanted => return Err(self.establisher.name(unwanted_error())),
                () = ready(()) => {}
            }
            let mut asking = self.ask()?;
            // Both are safe to drop: what was handed over goes back.
            let handed = tokio::select! {
                biased;
                () = &mut unwanted => return Err(self.establisher.name(unwanted_error())),
                handed = asking.next(deadline) => handed?,
            };
            let spare = match handed {
                Handed::Spare(mut spare) => spare.connection.take(),
                Handed::Permit(permit) => {
                    let mut attempt = Box::pin(permit.make(deadline));
                    // Both are safe to drop: what was handed over goes back.
                    tokio::select! {
                        biased;
                        made = &mut attempt => return made,
                        Some(Ok(Handed::Spare(mut spare))) = asking.handed.recv() => {
                            self.finish(attempt);
                            spare.connection.take()
                        }
                    }
                }
            };
            // It may have been there for long.
            if let Some(mut connection) = spare
                && self.recycle(&mut connection, deadline).await.is_ok()
            {
                return Ok(connection);
            }
        }
    }

    /// Finishes an attempt whose caller was served otherwise, for the next one who asks: were it
    /// given up, a busy pool would never grow. It ends with the pool.
    fn finish(
        self: &Arc<Self>,
        attempt: impl Future<Output = Result<Connection>> + Send + 'static,
    ) {
        let shared = self.clone();
        tokio::spawn(async move {
            // Its failure was taken into account.
            if let Ok(connection) = attempt.await {
                shared.offer(connection);
            }
        });
    }

    /// Asks for a connection that is there, or for leave to make one.
    fn ask(self: &Arc<Self>) -> Result<Asking<'_>> {
        let (asker, handed) = mpsc::channel(2);
        let ticket = self.change_gate(|gate| match gate.state() {
            PoolState::Ready => Ok(gate.ask(asker)),
            PoolState::Paused => Err(ErrorKind::PoolCleared),
            PoolState::Closed => Err(ErrorKind::PoolClosed),
        });
        let asking = Asking {
            ticket: ticket.map_err(|kind| self.establisher.name(kind))?,
            handed,
            shared: self,
        };
        self.pump();
        Ok(asking)
    }

    /// Serves those who wait when a pause between attempts is over. Of all who wait one does it, and
    /// the next one when that one goes.
    async fn keep_time(self: &Arc<Self>) -> Infallible {
        let _turn = self.timekeeper.acquire().await;
        loop {
            let mut paced = pin!(self.paced.notified());
            // Before the look, so that no change falls between.
            paced.as_mut().enable();
            let now = Instant::now();
            self.pump();
            let pause = self.gate().not_before().filter(|time| *time > now);
            // Both are safe to drop: the time is looked at again.
            tokio::select! {
                () = paced => {}
                () = sleep_until(pause.unwrap_or(now)), if pause.is_some() => {}
            }
        }
    }

    /// Serves those who wait at the gate, as far as may be. To be called without a lock.
    pub(super) fn pump(self: &Arc<Self>) {
        let participant = self.participant();
        let mut lacks_slot = false;
        loop {
            let served = self.change_gate(|gate| {
                gate.next(Instant::now(), || match &self.slots {
                    Some(slots) => {
                        let has_slot = slots.try_take(&participant);
                        lacks_slot = !has_slot;
                        has_slot
                    }
                    None => true,
                })
            });
            let Some((asking, grant)) = served else { break };
            let handed = match grant {
                Grant::Connection(connection) => Handed::Spare(Spare {
                    connection: Some(connection),
                    shared: self.clone(),
                }),
                Grant::Permit => Handed::Permit(Permit::new(self.clone())),
            };
            // Who has gone meanwhile leaves it to the next one.
            drop(asking.try_send(Ok(handed)));
        }
        if let (true, Some(slots)) = (lacks_slot, &self.slots) {
            slots.make_room();
        }
    }

    pub(super) fn take_spare(self: &Arc<Self>) -> Option<Connection> {
        loop {
            let mut connection = self.change_gate(|gate| gate.take_spare())?;
            match self.recycle_now(&mut connection) {
                Some(Ok(())) => return Some(connection),
                Some(Err(_)) => drop(connection),
                // It takes I/O: for one that can wait for it.
                None => {
                    self.offer(connection);
                    return None;
                }
            }
        }
    }

    pub(in crate::pools) fn offer(self: &Arc<Self>, connection: Connection) {
        self.offer_and(connection, |_| {});
    }

    /// Offers a connection in one step with another change, so that nobody is served between.
    fn offer_and(
        self: &Arc<Self>,
        connection: Connection,
        change: impl FnOnce(&mut Gate<Asker, Connection>),
    ) {
        let is_evictable = connection.tie().is_none_or(|tie| self.is_idle(&tie.link));
        let gone = self.change_gate(|gate| {
            change(gate);
            let is_kept = is_evictable && !connection.is_stale() && !connection.is_closed();
            if gate.state() != PoolState::Ready || !is_kept {
                return Some(connection);
            }
            gate.offer(connection);
            None
        });
        drop(gone);
        self.pump();
    }

    /// A permit for a connection in advance, if that delays nobody.
    pub(in crate::pools) fn permit_unasked(self: &Arc<Self>, min_size: u32) -> Option<Permit> {
        let granted = self.change_gate(|gate| {
            let has_slot = || {
                self.slots
                    .as_ref()
                    .is_none_or(|slots| slots.try_take_free())
            };
            gate.total() < min_size && gate.begin_unasked(Instant::now(), has_slot)
        });
        granted.then(|| Permit::new(self.clone()))
    }

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

    pub(super) fn participant(&self) -> std::sync::Weak<dyn Participant> {
        self.this.clone()
    }
}

impl Asking<'_> {
    /// What is handed over next: who asks first is served first.
    async fn next(&mut self, deadline: Deadline) -> Result<Handed> {
        let shared = self.shared;
        let handed = async {
            // Both are safe to drop: what was sent is dropped with the channel, and goes back.
            tokio::select! {
                biased;
                handed = self.handed.recv() => handed,
                never = shared.keep_time() => match never {},
            }
        };
        match deadline.bound(handed).await {
            // Late, a permit is for the next one.
            Ok(Some(Ok(Handed::Permit(_)))) if deadline.is_over() => {
                Err(shared.timed_out(Wait::WaitQueue, deadline))
            }
            Ok(Some(handed)) => handed,
            // Nobody drops a sender that was asked with, other than with the factory.
            Ok(None) => Err(shared.establisher.name(ErrorKind::PoolClosed)),
            Err(_) => Err(shared.timed_out(Wait::WaitQueue, deadline)),
        }
    }
}

impl Permit {
    fn new(shared: Arc<Shared>) -> Self {
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
    async fn make(mut self, deadline: Deadline) -> Result<Connection> {
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
        if shared.generation() != generation {
            // It came too late to be given up with the others.
            shared.interrupt_pending(generation);
        }
        let attempt = Box::pin(shared.establisher.establish(id, deadline));
        match self.link.clone().interruptible(pin!(attempt)).await {
            Ok(Ok(connection)) if shared.links.made(id) => Ok(self.succeed(connection)),
            // First, so that a clear that comes of it is not what ends it.
            Ok(Err((error, phase))) if shared.links.failed(id) => {
                Err(self.fail(error, phase, deadline))
            }
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
        self.is_over = true;
        let shared = self.shared.clone();
        let begun = self
            .created
            .map_or(connection.created(), |(_, begun)| begun);
        connection.tie_to(Tie {
            owner: shared.clone(),
            link: self.link.clone(),
            expires: shared.expiry(connection.created()),
            takes_writes: shared.takes_writes.clone(),
            for_writes: false,
            span: None,
        });
        *shared.last_failure() = None;
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
        connection
    }

    /// Takes a failure into account, before the connection counts as closed.
    fn fail(&mut self, error: Error, wait: Wait, deadline: Deadline) -> Error {
        let shared = self.shared.clone();
        let phase = phase_of(&error, wait);
        let error = phase.label(error);
        *shared.last_failure() = Some(Failure {
            at: Instant::now(),
            error: error.clone(),
        });
        self.failure = Some(error.clone());
        if error.is_authentication() {
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
            let current = shared.establisher.generations.current();
            let told = ApplicationError::new(server, error.clone(), phase);
            shared.report(told.with_generations(self.generation, current));
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

/// Why a connection is not made that nobody wants.
pub(super) fn unwanted_error() -> ErrorKind {
    ErrorKind::Pool("the connection is wanted no more".to_owned())
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
