//! The pool of one server and one credential.

use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Weak};

use tokio::time::Instant;

use crate::ServerAddress;
use crate::error::{Error, ErrorKind, Result, Wait};
use crate::event::{
    CheckOutFailedReason, CmapEvent, ConnectionCheckOutFailedEvent, ConnectionCheckOutStartedEvent,
    ConnectionCheckedOutEvent, PoolCreatedEvent,
};
use crate::net::{Connection, Deadline};
use crate::pools::factory::ConnectionFactory;
use crate::pools::options::PoolOptions;
use crate::pools::pool::{PoolInner, PoolState};
use crate::pools::status::PoolStatus;
use crate::pools::{Backend, PooledConnection};

mod warm_up;

/// The pool of one server and one credential, over a generic pool.
///
/// It begins paused: [`ready`](Self::ready) makes it ready, [`clear`](Self::clear) makes all
/// connections stale and pauses it again, [`close`](Self::close) closes it.
/// [`Pools`](crate::pools::Pools) calls these as its topology changes, and runs
/// [`maintain`](Self::maintain). A pool does nothing in the background by itself.
///
/// Cloning is cheap; clones are the same pool.
///
/// Specification: connection monitoring and pooling.
pub struct ServerPool<B: Backend> {
    inner: Arc<Inner<B>>,
}

struct Inner<B: Backend> {
    shared: Arc<PoolInner>,
    factory: ConnectionFactory,
    backend: B,
    options: PoolOptions,
}

impl<B: Backend> ServerPool<B> {
    /// Builds a pool over a generic pool.
    ///
    /// # Errors
    /// The backend's settings can't be used.
    pub(super) fn new(
        shared: Arc<PoolInner>,
        options: &PoolOptions,
        config: &B::Config,
    ) -> Result<Self> {
        let factory = ConnectionFactory::from(shared.clone());
        let inner = Arc::new(Inner {
            shared,
            backend: B::build(factory.clone(), options.backend_size(), config)?,
            options: options.clone(),
            factory,
        });
        let weak = Arc::downgrade(&inner);
        inner.shared.reap_with(move || {
            if let Some(inner) = Weak::upgrade(&weak) {
                inner.backend.reap();
            }
        });
        Ok(Self { inner })
    }

    /// Emits the event of the pool's creation.
    pub(super) fn announce(&self) {
        let options = self.inner.options.created_options();
        self.shared().emit(|address, user| {
            CmapEvent::PoolCreated(PoolCreatedEvent {
                address,
                user,
                options,
            })
        });
    }

    /// Checks out a connection, if that needs no wait. Must be called within a Tokio runtime, which
    /// a generic pool may need even so.
    pub fn try_get(&self) -> Option<PooledConnection<B>> {
        if !self.shared().is_ready() {
            return None;
        }
        let guard = self.inner.backend.try_get()?;
        self.shared().counters.count_at_once();
        Some(PooledConnection::new(guard, self.shared()))
    }

    /// [`try_get`](Self::try_get), with the events of a check-out if there is one.
    pub(super) fn take_idle(&self) -> Option<PooledConnection<B>> {
        let connection = self.try_get()?;
        let deadline = Deadline::never();
        CheckOut::begin(self.shared(), &deadline).end(Ok(Some(&connection)));
        Some(connection)
    }

    /// Checks out a connection, by a deadline.
    ///
    /// # Errors
    /// - [`ErrorKind::PoolCleared`]: the pool is paused, or was cleared during the wait. Select
    ///   another server, or try again later.
    /// - [`ErrorKind::PoolClosed`].
    /// - [`ErrorKind::Timeout`], with [`ErrorKind::PoolExhausted`] or the last failure to make a
    ///   connection as its cause.
    /// - The failure to make a connection.
    ///
    /// # Cancellation
    /// May be dropped at any time.
    pub async fn get(&self, deadline: Deadline) -> Result<PooledConnection<B>> {
        let got = self.get_while(&deadline, false, &|| true).await?;
        // The condition always holds, so this is never `None`.
        got.ok_or_else(|| self.shared().not_ready())
    }

    /// [`get`](Self::get) while `suits` returns true; `None` once it returns false. It is called
    /// again after each [`notify_recheck`](PoolInner::notify_recheck). `is_tried`:
    /// [`try_get`](Self::try_get) found nothing.
    pub(super) async fn get_while(
        &self,
        deadline: &Deadline,
        is_tried: bool,
        suits: &impl Fn() -> bool,
    ) -> Result<Option<PooledConnection<B>>> {
        // If it is dropped, the check-out has failed too.
        let check_out = CheckOut::begin(self.shared(), deadline);
        if !is_tried && let Some(connection) = self.try_get() {
            check_out.end(Ok(Some(&connection)));
            return Ok(Some(connection));
        }
        let outcome = self.wait(deadline, suits).await;
        check_out.end(outcome.as_ref().map(Option::as_ref));
        outcome
    }

    /// Waits for a connection; `None` once `suits` returns false.
    async fn wait(
        &self,
        deadline: &Deadline,
        suits: &impl Fn() -> bool,
    ) -> Result<Option<PooledConnection<B>>> {
        let shared = self.shared();
        shared.settled(deadline).await;
        let _waiting = shared.wait();
        let generation = shared.generation();
        // Boxed: it is large, and the futures around it are moved.
        let mut got = Box::pin(self.inner.backend.get(*deadline));
        let mut recheck = pin!(shared.recheck());
        loop {
            // After the listener was created, so that no change is missed.
            if !shared.is_ready() || shared.generation() != generation {
                return Err(shared.not_ready());
            }
            if !suits() {
                return Ok(None);
            }
            tokio::select! {
                // The backend's result first. Both are safe to drop: a backend keeps a connection
                // that was not taken.
                biased;
                got = &mut got => {
                    let got = got.map(|guard| Some(PooledConnection::new(guard, shared)));
                    return got.map_err(|error| self.explain(error));
                }
                () = &mut recheck => recheck.set(shared.recheck()),
            }
        }
    }

    /// Whether a handler observes each step.
    #[inline]
    pub(super) fn is_watched(&self) -> bool {
        self.shared().is_watched()
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Whether a connection is in use, or a caller waits for one.
    pub(super) fn is_busy(&self) -> bool {
        let counters = &self.shared().counters;
        counters.in_use() > 0 || counters.waiting() > 0
    }

    /// Adds to a time-out of the wait queue what the connections are in use for, if the pool or the
    /// server is full.
    pub(super) fn explain(&self, error: Error) -> Error {
        match error.kind() {
            ErrorKind::Timeout {
                wait: Wait::WaitQueue,
                ..
            } if error.cause().is_none_or(Error::is_exhausted) => {
                let in_use = self.shared().in_use(self.inner.options.max_size);
                // Otherwise the size of the pool is not the cause.
                let used = in_use.cursors + in_use.transactions + in_use.others;
                let is_full = used > 0 || in_use.server_full.is_some();
                let exhausted = is_full.then(|| ErrorKind::PoolExhausted(in_use).into());
                error.caused_by(exhausted)
            }
            _ => error,
        }
    }

    /// Makes the pool ready: connections can be made and checked out. To be called after a
    /// [`clear`](Self::clear) by the application.
    pub fn ready(&self) {
        if self.shared().make_ready() {
            self.shared().finish_ready(true);
        }
    }

    /// Makes all connections stale, and pauses the pool. Idle connections are closed at once; those
    /// in use when they are returned, or at once with `interrupt_in_use`. Callers that wait, and
    /// later ones, get [`ErrorKind::PoolCleared`] until the pool is [ready](Self::ready) again.
    /// [`Pools`](crate::pools::Pools) makes a pool ready when a check of the server succeeds after
    /// a failure, so a pool that the application has cleared stays paused until it calls `ready`.
    pub fn clear(&self, interrupt_in_use: bool) {
        let paused = self.shared().make_paused(None);
        if paused.was_ready {
            self.shared().emit_cleared(None, interrupt_in_use, None);
        }
        self.shared().evict(paused.generation, interrupt_in_use);
    }

    /// Whether it was closed.
    pub(super) fn is_closed(&self) -> bool {
        !self.shared().is_ready() && self.shared().state() == PoolState::Closed
    }

    /// Closes the pool for good: callers that wait get [`ErrorKind::PoolClosed`], idle connections
    /// are closed, and those in use when they are returned. If it belongs to
    /// [`Pools`](crate::pools::Pools), the next use of that server replaces it by a new pool.
    pub fn close(&self) {
        if self.shared().make_closed() {
            self.finish_close();
        }
    }

    /// The remaining steps of a close, once the state is closed.
    pub(super) fn finish_close(&self) {
        let shared = self.shared();
        shared.evict(u64::MAX, false);
        self.inner.backend.close();
        shared.emit_closed();
    }

    /// Closes idle connections that are too old, and makes new ones up to `minPoolSize` and
    /// [`min_idle`](super::PoolsConfig::min_idle), at most `maxConnecting` at a time. Returns when
    /// nothing is left to do.
    ///
    /// May be dropped at any time.
    pub async fn maintain(&self) {
        // Stale connections are already closed. bb8 has to take out idle connections to inspect
        // them, and a caller that comes during that makes a new one.
        if self.shared().has_idle_bounds() {
            self.shared().reap();
        }
        // A failure has been recorded in the pool; the next round tries again.
        let _ = self.fill(self.target(), Deadline::never()).await;
    }

    /// Whether [`maintain`](Self::maintain) has a connection to make.
    pub(super) fn lacks_connections(&self) -> bool {
        self.shared().state() == PoolState::Ready && self.shared().total() < self.target()
    }

    /// The size that maintenance fills the pool up to.
    fn target(&self) -> u32 {
        self.inner.options.target(self.shared().counters.in_use())
    }

    /// The pool's size and counters.
    pub fn status(&self) -> PoolStatus {
        let shared = self.shared();
        let (total, pending) = shared.total_and_pending();
        let (size, pending) = (total as usize, pending as usize);
        let in_use = shared.counters.in_use();
        PoolStatus {
            server: shared.server().clone(),
            user: shared.user().map(Into::into),
            state: shared.state(),
            generation: shared.generation(),
            max_size: self.inner.options.max_size,
            min_size: self.inner.options.min_size,
            size,
            idle: size.saturating_sub(pending + in_use),
            in_use,
            pending,
            waiting: shared.counters.waiting(),
            created: shared.counters.created(),
            closed: shared.counters.closed(),
            wait_times: shared.counters.wait_times(),
        }
    }

    /// The server.
    pub fn server(&self) -> &ServerAddress {
        self.shared().server()
    }

    /// The factory that makes the connections.
    pub fn factory(&self) -> &ConnectionFactory {
        &self.inner.factory
    }

    pub(super) fn options(&self) -> &PoolOptions {
        &self.inner.options
    }

    pub(super) fn shared(&self) -> &Arc<PoolInner> {
        &self.inner.shared
    }
}

impl<B: Backend> Clone for ServerPool<B> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<B: Backend> fmt::Debug for ServerPool<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerPool")
            .field("status", &self.status())
            .finish()
    }
}

/// The events of a check-out that is under way.
pub(super) struct CheckOut<'a> {
    shared: &'a PoolInner,
    /// Only if a handler observes it.
    begun: Option<Instant>,
    deadline: &'a Deadline,
    is_over: bool,
}

impl<'a> CheckOut<'a> {
    fn begin(shared: &'a PoolInner, deadline: &'a Deadline) -> Self {
        shared.emit(|address, user| {
            CmapEvent::ConnectionCheckOutStarted(ConnectionCheckOutStartedEvent { address, user })
        });
        Self {
            shared,
            begun: shared.is_watched().then(Instant::now),
            deadline,
            is_over: false,
        }
    }

    fn end<B: Backend>(mut self, outcome: Result<Option<&PooledConnection<B>>, &Error>) {
        self.is_over = true;
        match outcome {
            Ok(Some(connection)) => self.succeeded(connection),
            // Its server is no longer suitable: as if the pool had been cleared.
            Ok(None) => self.failed(CheckOutFailedReason::ConnectionError, None),
            Err(error) => self.failed(self.failed_reason(error), Some(error)),
        }
    }

    fn duration(&self) -> std::time::Duration {
        self.begun.map(|begun| begun.elapsed()).unwrap_or_default()
    }

    fn succeeded(&self, connection: &Connection) {
        let duration = self.duration();
        self.shared.emit(|address, user| {
            CmapEvent::ConnectionCheckedOut(ConnectionCheckedOutEvent {
                address,
                user,
                driver_connection_id: connection.id(),
                server_connection_id: connection.description().connection_id,
                service_id: connection.description().service_id,
                duration,
            })
        });
    }

    fn failed_reason(&self, error: &Error) -> CheckOutFailedReason {
        match error.kind() {
            ErrorKind::PoolClosed => CheckOutFailedReason::PoolClosed,
            // Whatever it waited for when its own deadline passed.
            ErrorKind::Timeout { .. } if self.deadline.is_over() => CheckOutFailedReason::Timeout,
            ErrorKind::Timeout {
                wait: Wait::WaitQueue | Wait::Drain | Wait::Recycle,
                ..
            } => CheckOutFailedReason::Timeout,
            _ => CheckOutFailedReason::ConnectionError,
        }
    }

    fn failed(&self, reason: CheckOutFailedReason, error: Option<&Error>) {
        let duration = self.duration();
        self.shared.emit(|address, user| {
            CmapEvent::ConnectionCheckOutFailed(ConnectionCheckOutFailedEvent {
                address,
                user,
                reason,
                duration,
                error: error.cloned(),
            })
        });
    }
}

impl Drop for CheckOut<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.failed(CheckOutFailedReason::Timeout, None);
        }
    }
}
