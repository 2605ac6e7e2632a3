//! The wait queue behind a lock: waiters on any task, and the connections that they are served with.
//!
//! `interleavings.rs` compiles this file again, over locks and atomics that it schedules. So it uses
//! only those of `super::sync`.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use super::sync::{AtomicBool, AtomicUsize, Mutex, MutexGuard, Ordering, lock};
use super::wait_queue::{Limits, Next, PoolState, WaitQueue};
use crate::pools::server_cap::CapShare;

/// The owner of a queue: judges connections, and runs attempts to make them.
pub(crate) trait QueueOwner: Sized {
    type Connection;
    /// A handle on an attempt.
    type Attempt: Clone + Default;
    /// Why a waiter gets no connection.
    type Error: Clone;
    /// The runtime of a waiter, for its attempt.
    type Runtime: Clone;

    fn queue(&self) -> &SharedQueue<Self>;

    /// The limits of the server, if there are any.
    fn cap(&self) -> Option<&CapShare>;

    /// Takes an idle connection out of the generic pool.
    fn take_idle(&self) -> Option<Self::Connection>;

    /// Whether a connection of a ready pool may be handed out, or kept if there are no waiters.
    /// Called with the queue's lock.
    fn is_kept(&self, connection: &Self::Connection, has_waiters: bool) -> bool;

    /// Begins an attempt for a waiter of this runtime.
    fn begin(self: &Arc<Self>, number: u64, attempt: Self::Attempt, runtime: Option<Self::Runtime>);

    /// Interrupts an attempt that was abandoned, and is no longer counted.
    fn end_attempt(self: &Arc<Self>, attempt: &Self::Attempt);
}

type Queue<O> = WaitQueue<<O as QueueOwner>::Connection, <O as QueueOwner>::Attempt>;

/// The outcome of a wait.
pub(crate) type Served<O> = Result<<O as QueueOwner>::Connection, <O as QueueOwner>::Error>;

/// A [`WaitQueue`], shared by the tasks of a pool.
///
/// A waiter may not be polled for a long time after it was served. Until then its connection stays
/// under the queue's lock: a clear finds it there, and so does the next waiter if this one leaves.
pub(crate) struct SharedQueue<O: QueueOwner> {
    inner: Mutex<Inner<O>>,
    /// The number of waiters, readable without the lock.
    waiters: AtomicUsize,
    /// Whether the state is ready, readable without the lock.
    is_ready: AtomicBool,
    /// Notified when the state or the time of the next attempt changes, and when no connection is
    /// left.
    changed: Notify,
}

struct Inner<O: QueueOwner> {
    queue: Queue<O>,
    /// By ticket: those in the queue, and those that have left it and not taken their outcome.
    waiters: BTreeMap<u64, Waiter<O>>,
}

struct Waiter<O: QueueOwner> {
    runtime: O::Runtime,
    waker: Option<Waker>,
    served: Option<Served<O>>,
}

/// A place in the queue, and a future of its outcome. Dropping it gives up the place; a connection
/// that it has not taken goes to the next waiter.
pub(crate) struct Waiting<'a, O: QueueOwner> {
    owner: &'a Arc<O>,
    ticket: u64,
}

impl<O: QueueOwner> SharedQueue<O> {
    pub(crate) fn new(state: PoolState, limits: Limits) -> Self {
        Self {
            inner: Mutex::new(Inner {
                queue: WaitQueue::new(state, limits),
                waiters: BTreeMap::new(),
            }),
            waiters: AtomicUsize::new(0),
            is_ready: AtomicBool::new(state == PoolState::Ready),
            changed: Notify::new(),
        }
    }

    /// Whether connections are handed out. Wait-free.
    #[inline]
    pub(crate) fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Acquire)
    }

    /// Whether an offered connection would serve a waiter. Wait-free. A caller that returns a
    /// connection elsewhere checks this again afterwards, because a waiter enters the queue before
    /// it looks for an idle connection.
    #[inline]
    pub(crate) fn has_waiters(&self) -> bool {
        self.waiters.load(Ordering::SeqCst) > 0
    }

    /// Completes once the state or the time of the next attempt changes, or no connection is left.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    pub(crate) fn notify_changed(&self) {
        self.changed.notify_waiters();
    }

    pub(crate) fn read<R>(&self, read: impl FnOnce(&Queue<O>) -> R) -> R {
        read(&self.lock().queue)
    }

    /// Changes the state and wakes nothing: it is called under the topology's lock.
    pub(crate) fn change_state<R>(&self, change: impl FnOnce(&mut Queue<O>) -> R) -> R {
        let mut inner = self.lock();
        let result = change(&mut inner.queue);
        self.publish(&inner.queue);
        result
    }

    pub(crate) fn change<R>(&self, owner: &O, change: impl FnOnce(&mut Queue<O>) -> R) -> R {
        self.change_inner(owner, |inner| change(&mut inner.queue))
    }

    /// Changes the queue, and publishes the fields that are read without its lock. What `change`
    /// returns is dropped without the lock.
    fn change_inner<R>(&self, owner: &O, change: impl FnOnce(&mut Inner<O>) -> R) -> R {
        let mut inner = self.lock();
        let (before, pending) = (inner.queue.pacing(), inner.queue.pending());
        let result = change(&mut inner);
        let queue = &inner.queue;
        self.publish(queue);
        let ended = pending.saturating_sub(queue.pending());
        let is_changed = before != queue.pacing() || queue.total() == 0;
        if let Some(cap) = owner.cap()
            && cap.is_wanted()
            && !queue.wants_attempt()
        {
            // Otherwise other pools would close a connection for nothing.
            cap.withdraw();
        }
        drop(inner);
        if is_changed {
            self.notify_changed();
        }
        if let Some(cap) = owner.cap().filter(|_| ended > 0) {
            cap.free_permits(ended);
        }
        result
    }

    fn publish(&self, queue: &Queue<O>) {
        self.waiters.store(queue.waiters(), Ordering::SeqCst);
        let is_ready = queue.state() == PoolState::Ready;
        self.is_ready.store(is_ready, Ordering::Release);
    }

    /// Adds a waiter, or returns `None` if the pool is not ready. A waiter that returns with its
    /// former ticket gets its former place.
    pub(crate) fn enter<'a>(
        &self,
        owner: &'a Arc<O>,
        former: Option<u64>,
        runtime: O::Runtime,
    ) -> Option<Waiting<'a, O>> {
        let entered = self.change_inner(owner, |inner| {
            if inner.queue.state() != PoolState::Ready {
                return None;
            }
            let ticket = inner.queue.enter(former);
            let waiter = Waiter {
                runtime,
                waker: None,
                served: None,
            };
            inner.waiters.insert(ticket, waiter);
            Some(ticket)
        });
        let ticket = entered?;
        let waiting = Waiting { owner, ticket };
        // A connection that was returned before the waiter was in the queue.
        if let Some(idle) = owner.take_idle() {
            self.offer(owner, idle);
        }
        self.pump(owner);
        Some(waiting)
    }

    /// Hands a connection to the waiter that has waited longest. If there is none, it is kept for
    /// the next one. It is dropped if the pool is not ready, or its owner does not keep it.
    pub(crate) fn offer(&self, owner: &Arc<O>, connection: O::Connection) {
        self.offer_and(owner, connection, |_| {});
    }

    /// Offers a connection together with another change of the queue, in one step.
    pub(crate) fn offer_and(
        &self,
        owner: &Arc<O>,
        connection: O::Connection,
        change: impl FnOnce(&mut Queue<O>),
    ) {
        let refused = self.change_inner(owner, |inner| {
            change(&mut inner.queue);
            inner.offer(owner, connection)
        });
        drop(refused);
        self.pump(owner);
    }

    /// Serves waiters and begins attempts, as far as the limits allow. To be called without a lock.
    pub(crate) fn pump(&self, owner: &Arc<O>) {
        let mut lacks_slot = false;
        while self.has_waiters() {
            let now = Instant::now();
            let step = self.change_inner(owner, |inner| {
                let next = inner.queue.next(now, || {
                    let has_slot = owner.cap().is_none_or(CapShare::try_take);
                    lacks_slot = !has_slot;
                    has_slot
                });
                Some(match next? {
                    Next::Serve(ticket, connection) => {
                        Step::Wake(inner.serve(ticket, Ok(connection)))
                    }
                    Next::Begin(number, attempt, ticket) => {
                        let waiter = inner.waiters.get(&ticket);
                        Step::Begin(number, attempt, waiter.map(|own| own.runtime.clone()))
                    }
                    Next::Abandon(attempt) => Step::Interrupt(attempt),
                })
            });
            match step {
                Some(Step::Wake(waker)) => waker.into_iter().for_each(Waker::wake),
                Some(Step::Begin(number, attempt, runtime)) => {
                    owner.begin(number, attempt, runtime);
                }
                Some(Step::Interrupt(attempt)) => owner.end_attempt(&attempt),
                None => break,
            }
        }
        if let (true, Some(cap)) = (lacks_slot, owner.cap()) {
            cap.make_room();
        }
    }

    /// Fails waiters that an attempt has removed from the queue.
    pub(crate) fn fail(&self, tickets: impl IntoIterator<Item = u64>, error: &O::Error) {
        let wakers = self.lock().fail(tickets, error);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Fails all waiters.
    pub(crate) fn evict(&self, owner: &O, error: &O::Error) {
        let wakers = self.change_inner(owner, |inner| {
            let evicted = inner.queue.evict();
            inner.fail(evicted, error)
        });
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Takes connections back from waiters that have not taken them yet, and fails these.
    pub(crate) fn take_back(&self, error: &O::Error, is_over: impl Fn(&O::Connection) -> bool) {
        let taken_back: Vec<_> = {
            let mut inner = self.lock();
            let served = inner
                .waiters
                .values_mut()
                .filter_map(|own| own.served.as_mut());
            let over = served.filter(|served| served.as_ref().is_ok_and(&is_over));
            over.map(|served| std::mem::replace(served, Err(error.clone())))
                .collect()
        };
        drop(taken_back);
    }

    fn lock(&self) -> MutexGuard<'_, Inner<O>> {
        lock(&self.inner)
    }
}

/// What a pump does without the lock.
enum Step<A, R> {
    Wake(Option<Waker>),
    Begin(u64, A, Option<R>),
    Interrupt(A),
}

impl<O: QueueOwner> Inner<O> {
    /// Makes a connection available, or returns it if it must not be kept.
    fn offer(&mut self, owner: &O, connection: O::Connection) -> Option<O::Connection> {
        let is_ready = self.queue.state() == PoolState::Ready;
        if !is_ready || !owner.is_kept(&connection, self.queue.waiters() > 0) {
            return Some(connection);
        }
        self.queue.offer(connection);
        None
    }

    /// Serves a waiter that has left the queue. Its waker is to be woken without the lock.
    fn serve(&mut self, ticket: u64, served: Served<O>) -> Option<Waker> {
        let waiter = self.waiters.get_mut(&ticket)?;
        waiter.served = Some(served);
        waiter.waker.take()
    }

    fn fail(&mut self, tickets: impl IntoIterator<Item = u64>, error: &O::Error) -> Vec<Waker> {
        let tickets = tickets.into_iter();
        tickets
            .filter_map(|ticket| self.serve(ticket, Err(error.clone())))
            .collect()
    }
}

impl<O: QueueOwner> Waiting<'_, O> {
    pub(crate) fn ticket(&self) -> u64 {
        self.ticket
    }
}

/// Stays pending once it has returned its outcome.
impl<O: QueueOwner> Future for Waiting<'_, O> {
    type Output = Served<O>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Served<O>> {
        // Cloned and dropped without the lock: a waker is application code.
        let waker = context.waker().clone();
        let mut inner = self.owner.queue().lock();
        let Some(waiter) = inner.waiters.get_mut(&self.ticket) else {
            return Poll::Pending;
        };
        if let Some(served) = waiter.served.take() {
            return Poll::Ready(served);
        }
        let former = waiter.waker.replace(waker);
        drop(inner);
        drop(former);
        Poll::Pending
    }
}

impl<O: QueueOwner> Drop for Waiting<'_, O> {
    fn drop(&mut self) {
        let queue = self.owner.queue();
        // Dropped without the lock: a waker, a connection or an error may call the pool.
        let gone = queue.change_inner(self.owner, |inner| {
            inner.queue.leave(self.ticket);
            let mut waiter = inner.waiters.remove(&self.ticket)?;
            let refused = match waiter.served.take() {
                Some(Ok(connection)) => inner.offer(self.owner, connection).map(Ok),
                served => served,
            };
            Some((waiter, refused))
        });
        drop(gone);
        queue.pump(self.owner);
    }
}
