//! The wait for a connection: entering the wait queue, and serving it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::attempt::Attempt;
use super::wait_queue::{Next, PoolState};
use super::waiter::{Offered, Served, Waiter};
use crate::error::{Result, Wait};
use crate::net::{Connection, ConnectionState, Deadline, PoolHooks, current_runtime, is_running};
use crate::pools::pool::{CheckBudget, PoolInner, Queue};
use crate::pools::server_cap::CapShare;

/// How often a waiter checks again for overdue attempts and free slots.
const RECHECK: Duration = Duration::from_secs(1);

/// A place in the wait queue.
struct Waiting<'a> {
    shared: &'a Arc<PoolInner>,
    ticket: u64,
    served: oneshot::Receiver<Served>,
}

impl Waiting<'_> {
    /// Safe to drop: the next waiter gets the connection.
    async fn served(&mut self, deadline: Deadline) -> Result<Served> {
        loop {
            let due = self.shared.queue().due(self.ticket);
            // During the wait it may adopt an attempt that hangs, and another pool may hold the
            // slot that this pool lacks.
            let recheck = Instant::now() + RECHECK;
            let bound = deadline.no_later_than(due.map_or(recheck, |due| due.min(recheck)));
            match bound.bound(&mut self.served).await {
                Ok(Ok(served)) => return Ok(served),
                Ok(Err(_)) => return Err(self.shared.not_ready()),
                Err(_) if deadline.is_over() => {
                    return Err(self.shared.timed_out(self.phase(), deadline));
                }
                // The grace period of an attempt that holds up others may be over.
                Err(_) => self.shared.pump(),
            }
        }
    }

    /// The phase that it has been waiting for.
    fn phase(&self) -> Wait {
        match self.shared.queue().attempt_of(self.ticket) {
            Some(_) => *self.shared.establisher.phase(),
            None => Wait::WaitQueue,
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let waiter = self.shared.change_queue(|queue| queue.leave(self.ticket));
        // Without the queue's lock: it wakes this waiter's task.
        drop(waiter);
        self.shared.pump();
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
            let mut waiting = self.enter(ticket, runtime)?;
            ticket = Some(waiting.ticket);
            let served = waiting.served(deadline).await?;
            let offered = match served {
                Served::Connection(offered) => offered,
                // The caller has moved to another runtime since then.
                Served::RuntimeEnded if current_runtime().is_ok_and(|here| here.id() != id) => {
                    continue;
                }
                failed => return Err(failed.into_error(self)),
            };
            // The pool may have taken it back.
            let Some(mut connection) = offered.take() else {
                return Err(self.not_ready());
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

    fn enter(self: &Arc<Self>, former: Option<u64>, runtime: Handle) -> Result<Waiting<'_>> {
        let (sender, served) = oneshot::channel();
        let waiter = Waiter {
            served: sender,
            runtime,
        };
        let ticket = self.change_queue(|queue| match queue.state() {
            PoolState::Ready => Some(queue.enter(former, waiter)),
            PoolState::Paused | PoolState::Closed => None,
        });
        let waiting = Waiting {
            ticket: ticket.ok_or_else(|| self.not_ready())?,
            served,
            shared: self,
        };
        // A connection that was returned before the waiter was in the queue.
        if let Some(idle) = self.idle_source.get().and_then(|source| source()) {
            self.offer(idle);
        }
        self.pump();
        Ok(waiting)
    }

    /// Serves waiters and begins attempts, as far as the limits allow. To be called without a lock.
    pub(crate) fn pump(self: &Arc<Self>) {
        let mut lacks_slot = false;
        while self.waiters.load(Ordering::Acquire) > 0 {
            let now = Instant::now();
            let next = self.change_queue(|queue| {
                let next = queue.next(now, || {
                    let has_slot = self.cap.as_ref().is_none_or(CapShare::try_take);
                    lacks_slot = !has_slot;
                    has_slot
                });
                let runtime = match &next {
                    Some(Next::Begin(_, _, ticket)) => queue.handle(*ticket),
                    Some(Next::Serve(..) | Next::Abandon(_)) | None => None,
                };
                let runtime = runtime.map(|waiter| waiter.runtime.clone());
                (next, runtime)
            });
            match next {
                (Some(Next::Serve(waiter, connection)), _) => {
                    let offered = Offered::new(self, connection);
                    // A clear or a close may have missed it before it was registered.
                    offered.take_back();
                    waiter.serve(Served::Connection(offered));
                }
                (Some(Next::Begin(number, link, _)), runtime) => {
                    self.spawn(runtime.as_ref(), Attempt::new(self.clone(), number, link));
                }
                (Some(Next::Abandon(link)), _) => self.give_up(&link),
                (None, _) => break,
            }
        }
        if let (true, Some(cap)) = (lacks_slot, &self.cap) {
            cap.make_room();
        }
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

    /// An attempt was abandoned: its slot is free at once, even before its task ends.
    pub(crate) fn give_up(self: &Arc<Self>, link: &Arc<ConnectionState>) {
        self.interrupt_attempt(link);
        self.slot_is_free();
    }

    /// Runs an attempt in its own task, which ends with the pool.
    fn spawn(&self, runtime: Option<&Handle>, attempt: Attempt) {
        let named = self.runtime.as_ref().filter(|named| is_running(named));
        let Some(runtime) = named.or(runtime) else {
            return;
        };
        // Without a lock: on a runtime that has shut down the attempt is dropped at once.
        let task = runtime.spawn(attempt.run());
        let mut tasks = self.tasks();
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }

    pub(crate) fn take_available(self: &Arc<Self>) -> Option<Connection> {
        loop {
            let mut connection = self.change_queue(Queue::take_available)?;
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
        self.offer_and(connection, |_| {});
    }

    /// Offers a connection together with another change of the queue, in one step.
    pub(crate) fn offer_and(
        self: &Arc<Self>,
        connection: Connection,
        change: impl FnOnce(&mut Queue),
    ) {
        let gone = self.change_queue(|queue| {
            change(queue);
            let is_kept = queue.state() == PoolState::Ready
                && !connection.is_stale()
                && !connection.is_closed()
                && (queue.waiters() > 0 || self.rests(&connection));
            if !is_kept {
                return Some(connection);
            }
            queue.offer(connection);
            None
        });
        drop(gone);
        self.pump();
    }

    /// Whether the server's cap allows keeping an available connection.
    fn rests(&self, connection: &Connection) -> bool {
        let pool_handle = connection.pool_handle();
        pool_handle
            .is_none_or(|pool_handle| self.enter_idle(connection.identity(), &pool_handle.link))
    }
}
