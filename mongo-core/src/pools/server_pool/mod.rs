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
/// It begins paused: [`ready`](Self::ready) opens it, [`clear`](Self::clear) makes all connections
/// stale and pauses it again, [`close`](Self::close) ends it. [`Pools`](crate::pools::Pools) does that as
/// its topology says, and [`maintain`](Self::maintain)s it; by itself a pool does nothing in the
/// background.
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
    /// A pool over connections of a factory that a registry made.
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

    /// Tells that it was made.
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

    /// Checks a connection out, if there is one to be had without waiting. To be called within
    /// tokio's runtime, for which a generic pool may ask all the same.
    pub fn try_get(&self) -> Option<PooledConnection<B>> {
        if !self.shared().is_ready() {
            return None;
        }
        let guard = self.inner.backend.try_get()?;
        self.shared().counters.count_at_once();
        Some(PooledConnection::new(guard, self))
    }

    /// Checks a connection out, by a deadline.
    ///
    /// # Errors
    /// - [`ErrorKind::PoolCleared`]: the pool is paused, or was cleared meanwhile. Look for another
    ///   server, or try again later.
    /// - [`ErrorKind::PoolClosed`].
    /// - [`ErrorKind::Timeout`], with [`ErrorKind::PoolExhausted`] or the last failure to make a
    ///   connection as its cause.
    /// - Whatever making a connection failed by.
    ///
    /// # Cancellation
    /// May be dropped at any time.
    pub async fn get(&self, deadline: Deadline) -> Result<PooledConnection<B>> {
        let got = self.get_while(&deadline, false, &|| true).await?;
        // It suits whoever waits for it.
        got.ok_or_else(|| self.shared().not_ready())
    }

    /// [`get`](Self::get) for as long as it `suits`: nothing if it ceases to. Asked whenever
    /// somebody [stirs](PoolInner::notify_recheck) the pool. `is_tried`: [`try_get`](Self::try_get) found nothing.
    pub(super) async fn get_while(
        &self,
        deadline: &Deadline,
        is_tried: bool,
        suits: &impl Fn() -> bool,
    ) -> Result<Option<PooledConnection<B>>> {
        // Dropped, it has failed too.
        let check_out = CheckOut::begin(self.shared(), deadline);
        if !is_tried && let Some(connection) = self.try_get() {
            check_out.end(Ok(Some(&connection)));
            return Ok(Some(connection));
        }
        let outcome = self.wait(deadline, suits).await;
        check_out.end(outcome.as_ref().map(Option::as_ref));
        outcome
    }

    /// Checks a connection out that is not there yet; `None` once it does not suit any more.
    async fn wait(
        &self,
        deadline: &Deadline,
        suits: &impl Fn() -> bool,
    ) -> Result<Option<PooledConnection<B>>> {
        let shared = self.shared();
        shared.settled(deadline).await;
        let _waiting = shared.wait();
        let generation = shared.generation();
        // In a box: it is large, and all futures around it get moved about.
        let mut got = Box::pin(self.inner.backend.get(*deadline));
        let mut recheck = pin!(shared.recheck());
        loop {
            // After it began to listen, so that nothing falls between.
            if !shared.is_ready() || shared.generation() != generation {
                return Err(shared.not_ready());
            }
            if !suits() {
                return Ok(None);
            }
            tokio::select! {
                // First what the attempt itself says. Both are safe to drop: a backend keeps what
                // nobody took.
                biased;
                got = &mut got => {
                    let got = got.map(|guard| Some(PooledConnection::new(guard, self)));
                    return got.map_err(|error| self.explain(error));
                }
                () = &mut recheck => recheck.set(shared.recheck()),
            }
        }
    }

    /// Whether somebody wants to know of each step.
    #[inline]
    pub(super) fn is_watched(&self) -> bool {
        self.shared().is_watched()
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Whether a connection is in use, or waited for.
    pub(super) fn is_busy(&self) -> bool {
        let counters = &self.shared().counters;
        counters.in_use() > 0 || counters.waiting() > 0
    }

    /// Says who has the connections, where that is what a wait ran out for.
    pub(super) fn explain(&self, error: Error) -> Error {
        match error.kind() {
            ErrorKind::Timeout {
                wait: Wait::WaitQueue,
                ..
            } if error.cause().is_none_or(Error::is_exhausted) => {
                let in_use = self.shared().in_use(self.inner.options.max_size);
                // Else the size of the pool is not the cause.
                let used = in_use.cursors + in_use.transactions + in_use.others;
                let is_full = used > 0 || in_use.server_full.is_some();
                let exhausted = is_full.then(|| ErrorKind::PoolExhausted(in_use).into());
                error.caused_by(exhausted)
            }
            _ => error,
        }
    }

    /// Lets connections be made and checked out. To be called after [`clear`](Self::clear) by hand.
    pub fn ready(&self) {
        if self.shared().make_ready() {
            self.shared().finish_ready();
        }
    }

    /// Makes all connections stale, and pauses the pool: idle connections are closed at once, those in
    /// use when they are returned, or at once if they are to be interrupted. Callers that wait get
    /// [`ErrorKind::PoolCleared`], and so do later ones until the pool is [ready](Self::ready) again:
    /// [`Pools`](crate::pools::Pools) make it ready when a check of the server succeeds that was not
    /// successful before, so that a pool of theirs cleared by hand stays paused until `ready` is called.
    pub fn clear(&self, interrupt_in_use: bool) {
        let paused = self.shared().make_paused(None);
        if paused.was_ready {
            self.shared().emit_cleared(None, interrupt_in_use, None);
        }
        self.shared().evict(paused.generation, interrupt_in_use);
    }

    /// Whether it was closed, for good.
    pub(super) fn is_closed(&self) -> bool {
        !self.shared().is_ready() && self.shared().state() == PoolState::Closed
    }

    /// Closes the pool for good: who waits gets [`ErrorKind::PoolClosed`], what is idle is closed,
    /// what is in use when it comes back. Where it is one of [`Pools`](crate::pools::Pools), these make
    /// another in its place when it is asked for next.
    pub fn close(&self) {
        if self.shared().make_closed() {
            self.finish_close();
        }
    }

    /// What follows once the pool counts as closed.
    pub(super) fn finish_close(&self) {
        let shared = self.shared();
        shared.evict(u64::MAX, false);
        self.inner.backend.close();
        shared.emit_closed();
    }

    /// Closes idle connections that are too old, and makes new ones in advance until there are
    /// `minPoolSize`, as many at a time as `maxConnecting` says. Returns when there is nothing left
    /// to do.
    ///
    /// May be dropped at any time.
    pub async fn maintain(&self) {
        // What is stale is closed already. bb8 can look through idle connections only by taking
        // them out, and whoever comes meanwhile has another one made.
        if self.shared().has_idle_bounds() {
            self.shared().reap();
        }
        // The pool was told of a failure: the next round is time enough for another attempt.
        let _ = self
            .fill(self.inner.options.min_size, Deadline::never())
            .await;
    }

    /// Whether [`maintain`](Self::maintain) has a connection to make.
    pub(super) fn lacks_connections(&self) -> bool {
        self.shared().state() == PoolState::Ready
            && self.shared().total() < self.inner.options.min_size
    }

    /// How full the pool is, and what it did so far.
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

    /// What makes the connections.
    pub fn factory(&self) -> &ConnectionFactory {
        &self.inner.factory
    }

    /// The generic pool.
    pub fn backend(&self) -> &B {
        &self.inner.backend
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

/// A check-out that is under way, for those who want to know.
pub(super) struct CheckOut<'a> {
    shared: &'a PoolInner,
    /// Only if somebody wants to know.
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
            // Its server changed: as if the pool had been cleared.
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
            // Whatever it waited for when its own time was over.
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
