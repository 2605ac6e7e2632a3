//! The state of a pool (ready, paused or closed) and its transitions.

use std::pin::pin;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use bson::oid::ObjectId;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use super::unserved::Unserved;
use super::wait_queue::{PoolState, WaitQueue};
use crate::ServerAddress;
use crate::error::{Error, ErrorKind, InUse, Wait};
use crate::event::{CmapEvent, PoolClearedEvent, PoolClosedEvent, PoolReadyEvent};
use crate::net::{Connection, Deadline};
use crate::pools::pool::{Failure, PinReason, PoolInner, Queue};
use crate::pools::server_cap::CapShare;
use crate::sync::lock;

/// The result of pausing a pool.
#[derive(Clone, Copy, Debug)]
pub(in crate::pools) struct Paused {
    /// The generation that ended.
    pub(in crate::pools) generation: u64,
    /// Whether it was ready before.
    pub(in crate::pools) was_ready: bool,
}

impl PoolInner {
    pub(in crate::pools) fn server(&self) -> &ServerAddress {
        &self.establisher.server
    }

    pub(in crate::pools) fn user(&self) -> Option<&str> {
        self.establisher.user().map(|user| &**user)
    }

    pub(in crate::pools) fn generation(&self) -> u64 {
        self.establisher.generations.current()
    }

    /// The last owner was dropped: ends attempts, and closes available connections.
    pub(crate) fn end(&self) {
        let available = self.change_queue(|queue| {
            queue.close();
            queue.retain(|_| false)
        });
        self.interrupt_pending(u64::MAX);
        drop(available);
    }

    /// Begins a new generation, and does nothing else.
    pub(crate) fn clear(&self) {
        self.establisher.generations.clear();
    }

    pub(in crate::pools) fn clear_service(&self, id: ObjectId) {
        self.establisher.generations.clear_service(id);
    }

    pub(crate) fn change_queue<R>(&self, change: impl FnOnce(&mut Queue) -> R) -> R {
        self.queue.change(self, change)
    }

    pub(crate) fn last_failure(&self) -> MutexGuard<'_, Option<Failure>> {
        lock(&self.last_failure)
    }

    pub(crate) fn timed_out(&self, wait: Wait, deadline: Deadline) -> Error {
        let cause = Failure::since(&self.last_failure(), deadline.elapsed());
        let error = self.establisher.name(deadline.timed_out(wait));
        error.caused_by(cause)
    }

    /// Whether the server's cap is reached.
    pub(in crate::pools) fn is_server_full(&self) -> bool {
        self.cap.as_ref().and_then(CapShare::full).is_some()
    }

    /// How many connections are in use, by what they are used for.
    pub(in crate::pools) fn in_use(&self, max_pool_size: u32) -> InUse {
        let in_use = self.counters.in_use();
        let pinned = |reason| self.counters.pinned(reason).load(Ordering::Relaxed);
        let (cursors, transactions) = (pinned(PinReason::Cursor), pinned(PinReason::Transaction));
        InUse {
            max_pool_size,
            cursors,
            transactions,
            others: in_use.saturating_sub(cursors + transactions),
            load_balanced: self.establisher.load_balanced,
            server_full: self.cap.as_ref().and_then(CapShare::full),
        }
    }
}

impl PoolInner {
    /// The error of a pool that hands out no connections; for a cleared pool, its cause is the
    /// error that cleared it.
    pub(in crate::pools) fn not_ready(&self) -> Error {
        let state = self.state();
        match state {
            PoolState::Closed => self.establisher.name(ErrorKind::PoolClosed),
            PoolState::Ready | PoolState::Paused => {
                let cause = self.cleared_for().clone();
                let cleared = self.establisher.name(ErrorKind::PoolCleared);
                let cleared = cleared.of_check_out(self.establisher.retries_writes);
                cleared.caused_by(cause)
            }
        }
    }

    fn cleared_for(&self) -> MutexGuard<'_, Option<Error>> {
        lock(&self.cleared_for)
    }

    /// Records the error that clears the pool or one of its services. To be called before the
    /// clear.
    pub(in crate::pools) fn note_cleared_for(&self, error: Option<&Error>) {
        *self.cleared_for() = error.cloned();
    }

    /// The error of a check-out whose server is no longer suitable: as if the pool had been
    /// cleared.
    pub(in crate::pools) fn unsuitable(&self) -> Error {
        self.establisher.name(ErrorKind::PoolCleared)
    }

    /// Wakes all waiters so that they check the pool's state again.
    pub(in crate::pools) fn notify_recheck(&self) {
        self.recheck.notify_waiters();
    }

    /// Completes at the next [`notify_recheck`](Self::notify_recheck) from now on, even if it was
    /// not polled before that.
    pub(in crate::pools) fn recheck(&self) -> Notified<'_> {
        self.recheck.notified()
    }

    /// Whether connections are handed out. Wait-free.
    #[inline]
    pub(in crate::pools) fn is_ready(&self) -> bool {
        self.queue.is_ready()
    }

    pub(in crate::pools) fn state(&self) -> PoolState {
        self.queue.read(WaitQueue::state)
    }

    /// The number of connections, and of pending ones among them.
    pub(in crate::pools) fn total_and_pending(&self) -> (u32, u32) {
        self.queue.read(|queue| (queue.total(), queue.pending()))
    }

    pub(in crate::pools) fn total(&self) -> u32 {
        self.queue.read(WaitQueue::total)
    }

    /// Marks the creation as reported: from now on the pool can become ready.
    pub(in crate::pools) fn set_announced(&self) {
        self.is_announced.store(true, Ordering::Release);
    }

    /// Marks the pool's state as final.
    pub(in crate::pools) fn set_settled(&self) {
        self.is_settled.store(true, Ordering::Release);
        self.recheck.notify_waiters();
    }

    /// Waits until the state of a new pool is settled, as ready or paused.
    pub(in crate::pools) async fn settled(&self, deadline: &Deadline) {
        while !self.is_settled.load(Ordering::Acquire) {
            let recheck = self.recheck();
            // After the listener was created, so that no change is missed.
            if self.is_settled.load(Ordering::Acquire) || deadline.bound(recheck).await.is_err() {
                return;
            }
        }
    }

    /// Makes the pool ready, and returns whether it was paused. To be followed by
    /// [`finish_ready`](Self::finish_ready), without a lock.
    pub(in crate::pools) fn make_ready(&self) -> bool {
        self.is_announced.load(Ordering::Acquire) && self.queue.change_state(WaitQueue::ready)
    }

    /// Wakes paused attempts, and emits the event of a pool that became ready, if its events are
    /// reported.
    pub(in crate::pools) fn finish_ready(&self, is_reported: bool) {
        self.queue.notify_changed();
        if is_reported {
            self.emit(|address, user| CmapEvent::PoolReady(PoolReadyEvent { address, user }));
        }
    }

    /// Begins a new generation and pauses the pool, with the error that caused it. To be followed
    /// by [`evict`](Self::evict), without a lock.
    pub(in crate::pools) fn make_paused(&self, error: Option<&Error>) -> Paused {
        self.note_cleared_for(error);
        self.queue.change_state(|queue| Paused {
            generation: self.establisher.generations.clear(),
            was_ready: queue.pause(),
        })
    }

    pub(in crate::pools) fn emit_cleared(
        &self,
        service_id: Option<ObjectId>,
        interrupt_in_use_connections: bool,
        error: Option<Error>,
    ) {
        self.emit(|address, user| {
            CmapEvent::PoolCleared(PoolClearedEvent {
                address,
                user,
                service_id,
                interrupt_in_use_connections,
                error,
            })
        });
    }

    /// Fails all waiters, interrupts pending connections of generations up to the given one, and
    /// closes idle connections that must not be kept. With `interrupt_in_use`, also interrupts
    /// those in use.
    pub(in crate::pools) fn evict(&self, generation: u64, interrupt_in_use: bool) {
        // They are useless, and would hold up attempts once the pool is ready again.
        self.interrupt_pending(generation);
        if interrupt_in_use {
            self.links.interrupt_made(generation);
        }
        self.queue.evict(self, &Unserved::Failed(self.not_ready()));
        self.queue.notify_changed();
        self.notify_recheck();
        self.reap();
    }

    /// Closes idle and available connections that are stale, expired, or of a closed pool.
    pub(in crate::pools) fn reap(&self) {
        let is_closed = self.state() == PoolState::Closed;
        self.queue.take_back(&Unserved::TakenBack, |connection| {
            is_closed || connection.is_stale()
        });
        let now = Instant::now();
        let gone = self.change_queue(|queue| {
            queue.retain(|connection| {
                self.mark_if_expired(connection, now);
                !is_closed && !connection.is_stale()
            })
        });
        drop(gone);
        if let Some(reap) = self.reaper.get() {
            reap();
        }
    }

    /// Whether idle connections can be too old.
    pub(in crate::pools) fn has_idle_bounds(&self) -> bool {
        self.max_idle_time.is_some() || self.max_lifetime.is_some()
    }

    /// Sets the function that closes idle connections of the generic pool.
    pub(in crate::pools) fn reap_with(&self, reap: impl Fn() + Send + Sync + 'static) {
        let _ = self.reaper.set(Box::new(reap));
    }

    /// Whether an idle connection may be kept. An expired one is marked as perished.
    pub(crate) fn should_retain(&self, connection: &Connection) -> bool {
        self.mark_if_expired(connection, Instant::now());
        !connection.is_stale() && self.state() != PoolState::Closed
    }

    /// An expired connection is stale from then on, and its event names that reason.
    fn mark_if_expired(&self, connection: &Connection, now: Instant) {
        if self.is_expired(connection, now)
            && let Some(pool_handle) = connection.pool_handle()
        {
            pool_handle.link.mark_perished();
        }
    }

    /// Closes the pool, and returns whether it was open. To be followed by [`evict`](Self::evict),
    /// as with [`make_paused`](Self::make_paused).
    pub(in crate::pools) fn make_closed(&self) -> bool {
        self.queue.change_state(WaitQueue::close)
    }

    pub(in crate::pools) fn emit_closed(&self) {
        self.emit(|address, user| CmapEvent::PoolClosed(PoolClosedEvent { address, user }));
    }

    /// Completes once no connection is left, including pending ones. To be called once the pool is
    /// closed.
    pub(in crate::pools) async fn drained(&self) {
        loop {
            let mut changed = pin!(self.queue.changed());
            // Before the check, so that no change is missed.
            changed.as_mut().enable();
            if self.total() == 0 {
                break;
            }
            changed.await;
        }
        self.tasks.ended(self.tasks.newest()).await;
    }

    /// Closes a pool without a registry.
    pub(crate) fn shut(&self) {
        self.make_closed();
        self.clear();
        self.evict(u64::MAX, false);
    }
}
