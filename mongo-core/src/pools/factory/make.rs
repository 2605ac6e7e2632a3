//! How a connection comes to who asks for one: a turn at the gate, and then a spare one or a permit.

use std::convert::Infallible;
use std::future::ready;
use std::pin::pin;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::attempt::Permit;
use super::gate::{Gate, Grant, PoolState};
use super::slots::Participant;
use super::{CheckBudget, Shared, Unwanted};
use crate::error::{ErrorKind, Result, Wait};
use crate::net::{Connection, Deadline, Owner};

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
        let mut budget = CheckBudget::default();
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
                && self
                    .recycle(&mut connection, deadline, &mut budget)
                    .await
                    .is_ok()
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
    pub(super) fn offer_and(
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

/// Why a connection is not made that nobody wants.
pub(super) fn unwanted_error() -> ErrorKind {
    ErrorKind::Pool("the connection is wanted no more".to_owned())
}
