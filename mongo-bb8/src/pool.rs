use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bb8::NopErrorSink;
use mongo_core::error::Wait;
use mongo_core::pools::CheckBudget;
use mongo_core::{Connection, Deadline, Error, ErrorKind};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, TryAcquireError};

use crate::idle::Idle;
use crate::shared::{Counted, Shared, Slot};
use crate::upkeep::Upkeep;
use crate::{MongoConnectionManager, PooledConnection};

/// A pool of connections to one server: a bb8 pool behind a fair queue, with one deadline for a
/// check-out, and errors that name the cause.
///
/// bb8 keeps the idle connections and limits their number; connections are made and checked on the
/// tasks of the callers. An event handler must not call this pool if its builder has an
/// `idle_timeout` or a `max_lifetime`: bb8's reaper closes connections under the pool's lock. The
/// pools under [`Pools`](crate::Pools) have neither.
///
/// # Runtimes
/// bb8's reaper runs on the runtime that the pool was built on, and ends with it. On each other
/// runtime on which the pool connects, a task of the pool closes connections by the same bounds, at
/// the interval of bb8's `reaper_rate` (default 30 s). It ends with the pool. A bare `bb8::Pool`
/// has only the reaper.
///
/// Cloning is cheap; clones are the same pool.
#[derive(Clone, Debug)]
pub struct Pool {
    shared: Arc<Shared>,
}

/// The status of a pool, with deadpool's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The most connections that the pool may hold.
    pub max_size: usize,
    /// The connections that it holds, in use or idle.
    pub size: usize,
    /// The idle ones.
    pub available: usize,
    /// The callers that wait for a slot.
    pub waiting: usize,
}

impl Pool {
    /// A builder for a bare [`bb8::Pool`], or for [`Pool::build`].
    pub fn builder() -> bb8::Builder<MongoConnectionManager> {
        bb8::Pool::builder()
    }

    /// Builds a pool with your own bb8 settings, and a manager that serves only this pool.
    ///
    /// bb8's `connection_timeout` (default 30 s) is the bound of [`get`](Self::get). Its
    /// `error_sink` and `retry_connection` are not used: a failure goes to the caller, at once. A
    /// customizer runs once for each connection, within the bound of the caller.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`]: there is no Tokio runtime with a timer; or the builder has a
    /// `min_idle`, which bb8 would fill with tasks of its own: set `minPoolSize` and use
    /// [`Pools`](crate::Pools).
    pub fn build(
        builder: bb8::Builder<MongoConnectionManager>,
        manager: MongoConnectionManager,
    ) -> Result<Self, Error> {
        // bb8 would panic without one.
        manager.factory().check_runtime()?;
        let runtime = Handle::current();
        manager.set_front();
        let inner = builder
            .error_sink(Box::new(NopErrorSink))
            .retry_connection(false)
            .build_unchecked(manager.clone());
        let config = inner.config();
        if config.min_idle.is_some() {
            return Err(Error::configuration(
                "`min_idle` is not supported by `mongo_bb8::Pool`; set `minPoolSize` and use `Pools`",
            ));
        }
        // The tasks of other runtimes compare it, and bb8's own clock can't be read.
        let times_idleness = config.idle_timeout.is_some();
        let max_size = config.max_size;
        let shared = Shared {
            manager,
            slots: Semaphore::new(max_size as usize),
            waiting: AtomicUsize::new(0),
            wait: config.connection_timeout,
            max_lifetime: config.max_lifetime,
            test_on_check_out: config.test_on_check_out,
            upkeep: Upkeep::new(
                runtime.id(),
                config.idle_timeout,
                config.max_lifetime,
                config.reaper_rate,
            ),
            idle: Idle::new(inner, runtime),
        };
        let shared = Arc::new(shared);
        let weak = Arc::downgrade(&shared);
        let take_idle = move || weak.upgrade()?.take_idle();
        let factory = shared.manager.factory();
        factory.attach(max_size, times_idleness, take_idle);
        Ok(Self { shared })
    }

    /// Checks out a connection: an idle one that passes its check, or a new one.
    ///
    /// While all are in use it waits, first in, first out. The whole check-out ends within
    /// `timeouts.wait` of the configuration, default 30 s; making a connection also within
    /// `connectTimeoutMS` (10 s) and `timeouts.create`, checking one within `timeouts.recycle`.
    ///
    /// # Errors
    /// - [`ErrorKind::Timeout`]: names the wait; its cause is the last failure since the wait began.
    /// - [`ErrorKind::Connect`], [`ErrorKind::Authentication`], … from making a connection, at once.
    /// - [`ErrorKind::PoolClosed`].
    ///
    /// # Cancellation
    /// May be dropped at any time: its slot or connection is free at once. An attempt to make a
    /// connection continues, and its connection serves the next caller.
    pub async fn get(&self) -> Result<PooledConnection, Error> {
        self.get_within(self.shared.wait).await
    }

    /// [`get`](Self::get) with a bound other than the configured one. With zero it does not wait
    /// for a slot; a connection may still have to be made, within the configured bound.
    ///
    /// # Errors
    /// See [`get`](Self::get).
    pub async fn get_within(&self, wait: Duration) -> Result<PooledConnection, Error> {
        let slot = match Slot::try_take(&self.shared) {
            // Usually there is an idle connection: then there is no wait to bound.
            Ok(slot) => match self.take_now(slot) {
                Ok(connection) => return Ok(connection),
                Err(slot) => Ok(slot),
            },
            Err(refused) => Err(refused),
        };
        let bound = if wait.is_zero() {
            self.shared.wait
        } else {
            wait
        };
        let deadline = Deadline::after(bound);
        // Boxed, so that every check-out's future stays small.
        Box::pin(async {
            let slot = match slot {
                Ok(slot) => slot,
                Err(TryAcquireError::NoPermits) if wait.is_zero() => {
                    return Err(self.timed_out(Wait::WaitQueue, deadline));
                }
                Err(TryAcquireError::NoPermits) => self.queue(deadline).await?,
                Err(TryAcquireError::Closed) => return Err(self.closed()),
            };
            self.take(slot, deadline).await
        })
        .await
    }

    /// Checks out a connection without waiting for a slot.
    ///
    /// # Errors
    /// See [`get`](Self::get).
    pub async fn try_get(&self) -> Result<PooledConnection, Error> {
        self.get_within(Duration::ZERO).await
    }

    /// Takes an idle connection that passes its check without I/O, if there is one.
    pub(crate) fn get_now(&self) -> Option<PooledConnection> {
        let slot = Slot::try_take(&self.shared).ok()?;
        self.take_now(slot).ok()
    }

    /// Waits for a connection by a deadline, first in, first out.
    pub(crate) async fn get_by(&self, deadline: Deadline) -> Result<PooledConnection, Error> {
        let slot = match Slot::try_take(&self.shared) {
            Ok(slot) => slot,
            Err(TryAcquireError::NoPermits) => self.queue(deadline).await?,
            Err(TryAcquireError::Closed) => return Err(self.closed()),
        };
        self.take(slot, deadline).await
    }

    /// Waits for a slot.
    async fn queue(&self, deadline: Deadline) -> Result<Slot, Error> {
        let shared = &self.shared;
        let _waiting = Counted::new(&shared.waiting);
        match deadline.bound(Slot::take(shared)).await {
            Ok(Some(slot)) => Ok(slot),
            Ok(None) => Err(self.closed()),
            Err(_) => Err(self.timed_out(Wait::WaitQueue, deadline)),
        }
    }

    /// With a slot: an idle connection that passes its check without I/O.
    #[inline]
    fn take_now(&self, slot: Slot) -> Result<PooledConnection, Slot> {
        let shared = &*self.shared;
        // Not ahead of callers that wait for a connection to be made.
        while !shared.manager.factory().has_waiters() {
            let Some(mut taken) = shared.idle.take() else {
                break;
            };
            match shared.check_now(&mut taken) {
                Some(Ok(())) => return Ok(PooledConnection::new(taken, slot)),
                Some(Err(_)) => Idle::discard(taken),
                // The check needs I/O: left for a caller that can wait.
                None => {
                    shared.idle.put(taken);
                    break;
                }
            }
        }
        Err(slot)
    }

    /// With a slot: an idle connection that passes its check, or a new one.
    async fn take(&self, slot: Slot, deadline: Deadline) -> Result<PooledConnection, Error> {
        let shared = &*self.shared;
        let mut budget = CheckBudget::default();
        loop {
            while let Some(taken) = shared.idle.take() {
                if let Some(taken) = shared.check(taken, deadline, &mut budget).await {
                    return Ok(PooledConnection::new(taken, slot));
                }
            }
            let made = self.connect(deadline, &mut budget).await?;
            let id = made.id();
            if let Some(taken) = shared.idle.add_and_take(made) {
                // The factory has checked the connection that it gave.
                if taken.id() == id {
                    return Ok(PooledConnection::new(taken, slot));
                }
                if let Some(taken) = shared.check(taken, deadline, &mut budget).await {
                    return Ok(PooledConnection::new(taken, slot));
                }
            }
            if deadline.is_over() {
                return Err(self.timed_out(Wait::WaitQueue, deadline));
            }
        }
    }

    /// Waits for a connection that the factory makes, or that is returned before that.
    async fn connect(
        &self,
        deadline: Deadline,
        budget: &mut CheckBudget,
    ) -> Result<Connection, Error> {
        let shared = &*self.shared;
        let runtime = shared.upkeep.missing();
        let connecting = shared
            .manager
            .connect_in(shared.idle.bb8(), deadline, budget);
        match deadline.bound(pin!(connecting)).await {
            Ok(connected) => {
                // A runtime that connects has a timer.
                if let (Ok(_), Some(runtime)) = (&connected, runtime) {
                    let weak = Arc::downgrade(&self.shared);
                    let reap = move || weak.upgrade().is_some_and(|shared| shared.reap());
                    shared.upkeep.start(&runtime, reap);
                }
                connected
            }
            // The factory itself keeps the deadline: the customizer exceeded it.
            Err(_) => Err(self.timed_out(Wait::Hook, deadline)),
        }
    }

    /// How full the pool is.
    ///
    /// bb8's own `statistics` are not shown: this pool looks for idle connections in bb8 in other ways
    /// than a check-out, and bb8 counts each look as a `get`. How long check-outs took is in the
    /// [`PoolStatus`](mongo_core::pools::PoolStatus) of [`Pools`](crate::Pools).
    pub fn status(&self) -> Status {
        let bb8 = self.shared.idle.bb8();
        let state = bb8.state();
        let available = self.shared.manager.factory().available();
        Status {
            max_size: bb8.config().max_size as usize,
            size: state.connections as usize + available,
            available: state.idle_connections as usize + available,
            waiting: self.shared.waiting.load(Ordering::Relaxed),
        }
    }

    /// Closes the pool: callers that wait get [`ErrorKind::PoolClosed`] at once, idle connections are
    /// closed, and those in use when they are returned. May be called from anywhere.
    pub fn close(&self) {
        self.shared.slots.close();
        self.shared.upkeep.end();
        self.shared.manager.factory().close();
        self.shared.idle.retain(|_| false);
    }

    /// Whether the pool was closed.
    pub fn is_closed(&self) -> bool {
        self.shared.slots.is_closed()
    }

    /// The manager.
    pub fn manager(&self) -> &MongoConnectionManager {
        &self.shared.manager
    }

    /// Closes the idle connections that the factory does not retain. May be called from anywhere.
    pub(crate) fn reap(&self) {
        let factory = self.shared.manager.factory();
        self.shared
            .idle
            .retain(|connection| factory.should_retain(connection));
    }

    fn timed_out(&self, wait: Wait, deadline: Deadline) -> Error {
        let status = self.status();
        let in_use = status.size.saturating_sub(status.available);
        let factory = self.manager().factory();
        factory.timed_out(wait, deadline, in_use, status.max_size)
    }

    fn closed(&self) -> Error {
        self.manager().factory().name(ErrorKind::PoolClosed)
    }
}
