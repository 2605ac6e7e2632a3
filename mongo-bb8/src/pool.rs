use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mongo_core::error::Wait;
use mongo_core::pools::{CheckBudget, DEFAULT_WAIT_TIMEOUT};
use mongo_core::{Connection, Deadline, Error, ErrorKind};
use tokio::sync::{Semaphore, TryAcquireError};

use crate::idle::Idle;
use crate::shared::Shared;
use crate::upkeep::Upkeep;
use crate::{MongoConnectionManager, PooledConnection};

/// A pool of connections to one server: a bb8 pool behind a fair queue, with one deadline for a
/// check-out, and errors that name the cause.
///
/// bb8 keeps the idle connections and limits their number; connections are made and checked on the
/// tasks of the callers. On each runtime on which the pool connects, a task of its own closes idle
/// connections that exceed bb8's `idle_timeout` or `max_lifetime`, at the interval of its
/// `reaper_rate` (default 30 s). A bare `bb8::Pool` has only bb8's reaper, which ends with the
/// runtime that the pool was built on.
///
/// Cloning is cheap; clones are the same pool.
#[derive(Clone, Debug)]
pub struct Pool {
    pub(crate) shared: Arc<Shared>,
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
    /// `error_sink` and `retry_connection` are not used: a failure goes to the caller, at once. Nor
    /// is `test_on_check_out`: each check-out checks its connection
    /// ([`RecyclingMethod`](crate::RecyclingMethod)). A customizer runs once for each connection,
    /// within the bound of the caller.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`]: there is no Tokio runtime with a timer; or the builder has a
    /// `min_idle`: set `minPoolSize` and use [`Pools`](crate::Pools).
    pub fn build(
        builder: bb8::Builder<MongoConnectionManager>,
        manager: MongoConnectionManager,
    ) -> Result<Self, Error> {
        Self::with_timeouts(builder, manager, Some(DEFAULT_WAIT_TIMEOUT), None)
    }

    /// [`build`](Self::build), with the bounds of making and of checking a connection.
    pub(crate) fn with_timeouts(
        builder: bb8::Builder<MongoConnectionManager>,
        mut manager: MongoConnectionManager,
        create: Option<Duration>,
        recycle: Option<Duration>,
    ) -> Result<Self, Error> {
        let runtime = manager.factory().runtime()?;
        manager.has_front = true;
        // bb8 does not export the type of its configuration: it is that of the pool's.
        let config = (&builder).into();
        let bb8 = builder
            .min_idle(None)
            .test_on_check_out(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .build_unchecked(manager.clone());
        let [config, _] = [config, bb8.config()];
        if config.min_idle.is_some() {
            return Err(Error::configuration(
                "`min_idle` is not supported by `mongo_bb8::Pool`; set `minPoolSize` and use `Pools`",
            ));
        }
        let shared = Arc::new(Shared {
            manager,
            slots: Semaphore::new(config.max_size as usize),
            waiting: Arc::default(),
            wait: config.connection_timeout,
            create,
            recycle,
            upkeep: Upkeep {
                idle_timeout: config.idle_timeout,
                max_lifetime: config.max_lifetime,
                interval: config.reaper_rate,
                tasks: Mutex::default(),
            },
            idle: Idle::new(bb8, runtime),
        });
        let weak = Arc::downgrade(&shared);
        let take_idle = move || weak.upgrade()?.take_idle();
        let times_idleness = config.idle_timeout.is_some();
        shared
            .factory()
            .attach(config.max_size, times_idleness, take_idle);
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
        // Usually there is an idle connection: then there is no wait to bound.
        if let Some(connection) = self.get_now() {
            return Ok(connection);
        }
        let only_now = wait.is_zero();
        let bound = if only_now { self.shared.wait } else { wait };
        // Boxed, so that every check-out's future stays small.
        Box::pin(self.get_by(Deadline::after(bound), only_now)).await
    }

    /// Checks out a connection without waiting for a slot.
    ///
    /// # Errors
    /// See [`get`](Self::get).
    pub async fn try_get(&self) -> Result<PooledConnection, Error> {
        self.get_within(Duration::ZERO).await
    }

    /// Takes an idle connection that passes its check without I/O, if there is one.
    #[inline]
    pub(crate) fn get_now(&self) -> Option<PooledConnection> {
        let shared = &self.shared;
        let slot = shared.slots.try_acquire().ok()?;
        // Not ahead of callers that wait for a connection to be made.
        while !shared.factory().has_waiters() {
            let mut taken = shared.idle.take()?;
            match shared.check_now(&mut taken) {
                Some(Ok(())) => return Some(PooledConnection::new(slot, shared, Some(taken))),
                Some(Err(_)) => Idle::discard(taken),
                // The check needs I/O: left for a caller that can wait.
                None => {
                    shared.idle.put(taken);
                    break;
                }
            }
        }
        None
    }

    /// Waits for a slot by a deadline, first in, first out; with `only_now` it does not wait. Then
    /// takes an idle connection that passes its check, or a new one.
    pub(crate) async fn get_by(
        &self,
        deadline: Deadline,
        only_now: bool,
    ) -> Result<PooledConnection, Error> {
        let shared = &self.shared;
        let slot = match shared.slots.try_acquire() {
            Ok(slot) => slot,
            Err(TryAcquireError::NoPermits) if only_now => {
                return Err(self.timed_out(Wait::WaitQueue, deadline));
            }
            Err(_) => {
                let _waiting = shared.waiting.clone();
                match deadline.bound(shared.slots.acquire()).await {
                    Ok(Ok(slot)) => slot,
                    Ok(Err(_)) => return Err(shared.factory().with_context(ErrorKind::PoolClosed)),
                    Err(_) => return Err(self.timed_out(Wait::WaitQueue, deadline)),
                }
            }
        };
        let mut guard = PooledConnection::new(slot, shared, None);
        let (mut budget, mut made) = (CheckBudget::default(), None);
        loop {
            while let Some(taken) = guard.take_idle() {
                // The factory has checked the connection that it made.
                let is_checked = made == Some(taken.id()) && !taken.is_stale();
                if is_checked || shared.check(taken, deadline, &mut budget).await.is_ok() {
                    return Ok(guard);
                }
                guard.discard();
            }
            if made.is_some() && deadline.is_over() {
                return Err(self.timed_out(Wait::WaitQueue, deadline));
            }
            let connection = self.connect(deadline, &mut budget).await?;
            made = Some(connection.id());
            shared.idle.add(connection);
        }
    }

    /// Waits for a connection that the factory makes, or that is returned before that.
    async fn connect(
        &self,
        deadline: Deadline,
        budget: &mut CheckBudget,
    ) -> Result<Connection, Error> {
        let shared = &*self.shared;
        let bound = deadline.within(shared.create);
        let connection = shared.factory().establish_within(bound, budget).await?;
        let (upkeep, weak) = (&shared.upkeep, Arc::downgrade(&self.shared));
        upkeep.start(move || weak.upgrade().map(|shared| shared.reap()).is_some());
        if !connection.is_new() {
            return Ok(connection);
        }
        let customizing = MongoConnectionManager::customize(&shared.idle.bb8, connection);
        match deadline.bound(pin!(customizing)).await {
            Ok(customized) => customized,
            Err(_) => Err(self.timed_out(Wait::Hook, deadline)),
        }
    }

    /// How full the pool is.
    ///
    /// bb8's own `statistics` would count each look for an idle connection as a `get`. How long
    /// check-outs took is in the [`PoolStatus`](mongo_core::pools::PoolStatus) of
    /// [`Pools`](crate::Pools).
    pub fn status(&self) -> Status {
        let bb8 = &self.shared.idle.bb8;
        let state = bb8.state();
        let available = self.shared.factory().available();
        Status {
            max_size: bb8.config().max_size as usize,
            size: state.connections as usize + available,
            available: state.idle_connections as usize + available,
            waiting: Arc::strong_count(&self.shared.waiting) - 1,
        }
    }

    /// Closes the pool: callers that wait get [`ErrorKind::PoolClosed`] at once, idle connections are
    /// closed, and those in use when they are returned. May be called from anywhere.
    pub fn close(&self) {
        self.shared.slots.close();
        self.shared.upkeep.end();
        self.shared.factory().close();
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

    fn timed_out(&self, wait: Wait, deadline: Deadline) -> Error {
        let status = self.status();
        let in_use = status.size.saturating_sub(status.available);
        let factory = self.shared.factory();
        factory.timed_out(wait, deadline, in_use, status.max_size)
    }
}
