//! The wait for a connection: entering the wait queue, and serving it.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::attempt::Attempt;
use super::shared_queue::{QueueOwner, Served, SharedQueue, Waiting};
use super::unserved::Unserved;
use super::wait_queue::WaitQueue;
use crate::error::{Result, Wait};
use crate::net::{Connection, ConnectionState, Deadline, PoolHooks, current_runtime, is_running};
use crate::pools::pool::{CheckBudget, PoolInner};
use crate::pools::server_cap::CapShare;

/// How often a waiter checks again for overdue attempts and free slots.
const RECHECK: Duration = Duration::from_secs(1);

impl QueueOwner for PoolInner {
    type Connection = Connection;
    type Attempt = Arc<ConnectionState>;
    type Error = Unserved;
    type Runtime = Handle;

    fn queue(&self) -> &SharedQueue<Self> {
        &self.queue
    }

    fn cap(&self) -> Option<&CapShare> {
        self.cap.as_ref()
    }

    fn take_idle(&self) -> Option<Connection> {
        self.idle_source.get()?()
    }

    fn is_kept(&self, connection: &Connection, has_waiters: bool) -> bool {
        // The server's cap may not allow an available connection.
        let rests = || {
            let pool_handle = connection.pool_handle();
            pool_handle.is_none_or(|own| self.enter_idle(connection.identity(), &own.link))
        };
        !connection.is_stale() && !connection.is_closed() && (has_waiters || rests())
    }

    fn begin(self: &Arc<Self>, number: u64, link: Arc<ConnectionState>, runtime: Option<Handle>) {
        self.spawn(runtime.as_ref(), Attempt::new(self.clone(), number, link));
    }

    /// Its slot is free at once, even before its task ends.
    fn end_attempt(self: &Arc<Self>, link: &Arc<ConnectionState>) {
        self.interrupt_attempt(link);
        self.slot_is_free();
    }
}

impl PoolInner {
    /// Waits for an available or a new connection. The attempt to make one runs in its own task, so
    /// that its progress and that of other waiters do not depend on polling this future. It
    /// continues when this is dropped, and its connection serves the next caller.
    pub(in crate::pools) async fn establish(
        self: &Arc<Self>,
        deadline: Deadline,
        budget: &mut CheckBudget,
    ) -> Result<Connection> {
        let since = Instant::now();
        let (mut ticket, mut was_hung_up) = (None, false);
        loop {
            if deadline.is_over() {
                // No time is left to make one.
                return Err(self.timed_out(Wait::WaitQueue, deadline));
            }
            let runtime = current_runtime().map_err(|error| self.establisher.name(error))?;
            let id = runtime.id();
            let waiting = self.queue.enter(self, ticket, runtime);
            let mut waiting = waiting.ok_or_else(|| self.not_ready())?;
            ticket = Some(waiting.ticket());
            let mut connection = match self.served(&mut waiting, deadline).await? {
                Ok(connection) => connection,
                Err(Unserved::TakenBack) => continue,
                // The caller has moved to another runtime since then.
                Err(Unserved::RuntimeEnded)
                    if current_runtime().is_ok_and(|here| here.id() != id) =>
                {
                    continue;
                }
                Err(unserved) => return Err(unserved.into_error(self)),
            };
            let is_new = connection.is_new() && connection.created() >= since;
            let checked = match is_new {
                // Only once: a server that hangs up after hello must not cost attempt after
                // attempt.
                true if !was_hung_up && connection.check_idle().is_err() => {
                    was_hung_up = true;
                    drop(connection);
                    continue;
                }
                true if connection.is_stale() => Err(self.not_ready()),
                true => self.take_from_idle(&connection),
                // Boxed: rare, and would make up most of each waiter's future.
                false => Box::pin(self.recycle(&mut connection, deadline, budget)).await,
            };
            match checked {
                Ok(()) => return Ok(connection),
                Err(error) if deadline.is_over() => {
                    let timed_out = self.timed_out(Wait::WaitQueue, deadline);
                    return Err(timed_out.caused_by(Some(error)));
                }
                Err(_) => drop(connection),
            }
        }
    }

    /// Safe to drop: the next waiter gets the connection.
    async fn served(
        self: &Arc<Self>,
        waiting: &mut Waiting<'_, Self>,
        deadline: Deadline,
    ) -> Result<Served<Self>> {
        let ticket = waiting.ticket();
        loop {
            let due = self.queue.read(|queue| queue.due(ticket));
            // During the wait it may adopt an attempt that hangs, and another pool may hold the
            // slot that this pool lacks.
            let recheck = Instant::now() + RECHECK;
            let bound = deadline.no_later_than(due.map_or(recheck, |due| due.min(recheck)));
            match bound.bound(&mut *waiting).await {
                Ok(served) => return Ok(served),
                Err(_) if deadline.is_over() => {
                    // The phase that it has been waiting for.
                    let wait = match self.queue.read(|queue| queue.attempt_of(ticket)) {
                        Some(_) => *self.establisher.phase(),
                        None => Wait::WaitQueue,
                    };
                    return Err(self.timed_out(wait, deadline));
                }
                // The grace period of an attempt that holds up others may be over.
                Err(_) => self.pump(),
            }
        }
    }

    pub(crate) fn pump(self: &Arc<Self>) {
        self.queue.pump(self);
    }

    /// Begins an attempt in advance, up to a size, if that delays no waiter; returns a receiver of
    /// its outcome.
    pub(in crate::pools) fn begin_in_advance(
        self: &Arc<Self>,
        min_size: u32,
    ) -> Option<oneshot::Receiver<Result<()>>> {
        let runtime = Handle::try_current().ok()?;
        let (number, link) = self.change_queue(|queue| {
            let has_slot = || self.cap.as_ref().is_none_or(CapShare::try_take_free);
            let is_lacking = queue.total() < min_size;
            is_lacking.then(|| queue.begin_in_advance(Instant::now(), has_slot))?
        })?;
        let (attempt, outcome) = Attempt::new(self.clone(), number, link).with_outcome();
        self.spawn(Some(&runtime), attempt);
        Some(outcome)
    }

    /// Runs an attempt in its own task, which ends with the pool.
    fn spawn(&self, runtime: Option<&Handle>, attempt: Attempt) {
        let named = self.runtime.as_ref().filter(|named| is_running(named));
        let Some(runtime) = named.or(runtime) else {
            return;
        };
        // Without a lock: on a runtime that has shut down the attempt is dropped at once.
        drop(runtime.spawn(attempt.run()));
    }

    pub(crate) fn take_available(self: &Arc<Self>) -> Option<Connection> {
        loop {
            let mut connection = self.change_queue(WaitQueue::take_available)?;
            match self.recycle_now(&mut connection) {
                Some(Ok(())) => return Some(connection),
                Some(Err(_)) => drop(connection),
                // The check needs I/O: left for a caller that can wait.
                None => {
                    self.offer(connection);
                    return None;
                }
            }
        }
    }

    pub(in crate::pools) fn offer(self: &Arc<Self>, connection: Connection) {
        self.queue.offer(self, connection);
    }
}
