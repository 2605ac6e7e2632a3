//! The wait for a connection: a place in the wait queue, and what serves it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::attempt::Attempt;
use super::wait_queue::{Next, PoolState};
use super::{CheckBudget, Queue, Shared};
use crate::error::{Result, Wait};
use crate::net::{Connection, Deadline, Owner, current_runtime, is_running};
use crate::pools::server_cap::CapShare;

/// The pool's side of a waiter.
pub(super) struct Waiter {
    served: oneshot::Sender<Result<Offered>>,
    /// Where its attempt runs, unless the application named a runtime.
    runtime: Handle,
}

impl Waiter {
    /// A waiter that has left drops what it is served with, which then goes to the next one.
    pub(super) fn serve(self, served: Result<Offered>) {
        drop(self.served.send(served));
    }
}

/// A connection on its way to a waiter. Dropped, it goes to the next one.
pub(super) struct Offered {
    connection: Option<Connection>,
    shared: Arc<Shared>,
}

impl Drop for Offered {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.shared.offer(connection);
        }
    }
}

/// A place in the wait queue.
struct Waiting<'a> {
    shared: &'a Arc<Shared>,
    ticket: u64,
    served: oneshot::Receiver<Result<Offered>>,
}

impl Waiting<'_> {
    /// Safe to drop: the next waiter gets the connection.
    async fn served(&mut self, deadline: Deadline) -> Result<Connection> {
        match deadline.bound(&mut self.served).await {
            Ok(Ok(served)) => {
                let connection = served?.connection.take();
                connection.ok_or_else(|| self.shared.not_ready())
            }
            Ok(Err(_)) => Err(self.shared.not_ready()),
            Err(_) => Err(self.shared.timed_out(self.phase(), deadline)),
        }
    }

    /// What it has been waiting for.
    fn phase(&self) -> Wait {
        match self.shared.queue().attempt_of(self.ticket) {
            Some(_) => *self.shared.establisher.phase(),
            None => Wait::WaitQueue,
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.change_queue(|queue| queue.leave(self.ticket));
        self.shared.pump();
    }
}

impl Shared {
    /// Waits for a connection: an available one, or a new one. The attempt to make one runs in a
    /// task of its own, so that neither its progress nor that of other waiters depends on who polls
    /// this; it goes on when this is dropped, and its connection serves the next caller.
    pub(in crate::pools) async fn establish(
        self: &Arc<Self>,
        deadline: Deadline,
    ) -> Result<Connection> {
        let since = Instant::now();
        let mut budget = CheckBudget::default();
        loop {
            if deadline.is_over() {
                // There is no time left to make one.
                return Err(self.timed_out(Wait::WaitQueue, deadline));
            }
            let mut connection = self.enter()?.served(deadline).await?;
            let checked = match connection.is_new() && connection.created() >= since {
                // Checked, a server that hangs up after hello would cost one attempt after another.
                true if !connection.is_stale() => self.take_from_idle(&connection),
                true => Err(self.not_ready()),
                false => self.recycle(&mut connection, deadline, &mut budget).await,
            };
            match checked {
                Ok(()) => return Ok(connection),
                Err(error) if deadline.is_over() => {
                    return Err(self
                        .timed_out(Wait::WaitQueue, deadline)
                        .caused_by(Some(error)));
                }
                Err(_) => drop(connection),
            }
        }
    }

    fn enter(self: &Arc<Self>) -> Result<Waiting<'_>> {
        let runtime = current_runtime().map_err(|error| self.establisher.name(error))?;
        let (sender, served) = oneshot::channel();
        let waiter = Waiter {
            served: sender,
            runtime,
        };
        let ticket = self.change_queue(|queue| match queue.state() {
            PoolState::Ready => Some(queue.enter(waiter)),
            PoolState::Paused | PoolState::Closed => None,
        });
        let waiting = Waiting {
            ticket: ticket.ok_or_else(|| self.not_ready())?,
            served,
            shared: self,
        };
        self.pump();
        Ok(waiting)
    }

    /// Serves waiters and begins attempts, as far as the limits allow. To be called without a lock.
    pub(super) fn pump(self: &Arc<Self>) {
        let mut lacks_slot = false;
        while self.waiters.load(Ordering::Acquire) > 0 {
            let next = self.change_queue(|queue| {
                let next = queue.next(|| {
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
                (Some(Next::Serve(waiter, connection)), _) => waiter.serve(Ok(Offered {
                    connection: Some(connection),
                    shared: self.clone(),
                })),
                (Some(Next::Begin(number, link, _)), runtime) => {
                    self.spawn(runtime.as_ref(), Attempt::new(self.clone(), number, link));
                }
                (Some(Next::Abandon(link)), _) => self.interrupt_attempt(&link),
                (None, _) => break,
            }
        }
        if let (true, Some(cap)) = (lacks_slot, &self.cap) {
            cap.make_room();
        }
    }

    /// Begins an attempt in advance, up to a size, if that delays no waiter; gives its outcome.
    pub(in crate::pools) fn begin_in_advance(
        self: &Arc<Self>,
        min_size: u32,
    ) -> Option<oneshot::Receiver<Result<()>>> {
        let runtime = Handle::try_current().ok()?;
        let (number, link) = self.change_queue(|queue| {
            let has_slot = || self.cap.as_ref().is_none_or(CapShare::try_take_free);
            let is_lacking = queue.total() < min_size;
            is_lacking.then(|| queue.begin_in_advance(has_slot))?
        })?;
        let (attempt, outcome) = Attempt::new(self.clone(), number, link).with_outcome();
        self.spawn(Some(&runtime), attempt);
        Some(outcome)
    }

    /// Runs an attempt in a task of its own, which ends with the pool.
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

    pub(super) fn take_available(self: &Arc<Self>) -> Option<Connection> {
        loop {
            let mut connection = self.change_queue(Queue::take_available)?;
            match self.recycle_now(&mut connection) {
                Some(Ok(())) => return Some(connection),
                Some(Err(_)) => drop(connection),
                // It takes I/O: for a caller that can wait for it.
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

    /// Offers a connection in one step with another change, so that nothing comes between.
    pub(super) fn offer_and(
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

    /// Whether an available connection may be kept, as far as the server's cap goes.
    fn rests(&self, connection: &Connection) -> bool {
        let tie = connection.tie();
        tie.is_none_or(|tie| self.enter_idle(connection.identity(), &tie.link))
    }
}
