use std::ops::Deref;
use std::pin::pin;
use std::time::Duration;

use deadpool::managed::HookError;
use mongo_core::error::Wait;
use mongo_core::pools::{DEFAULT_WAIT_TIMEOUT, catch_panics};
use mongo_core::{Deadline, Error, ErrorKind};

use crate::manager::{CheckOut, Steps};
use crate::{Connection, Manager, PoolBuilder, PoolError, TimeoutType, Timeouts, managed};

/// What deadpool calls of the application's.
const HOOK: &str = "pool hook";

/// Asks deadpool for what is to be had without waiting for a slot, with no timers of its own.
pub(crate) const AT_ONCE: Timeouts = Timeouts {
    wait: Some(Duration::ZERO),
    create: None,
    recycle: None,
};

/// No time-outs of deadpool's own, which cover the queue alone; ours cover what comes after it too.
const UNBOUNDED: Timeouts = Timeouts {
    wait: None,
    create: None,
    recycle: None,
};

/// A pool of connections to one server: deadpool's, with bounded waits and errors that tell the
/// truth.
///
/// Cloning is cheap; clones are the same pool. Dereferences to [`managed::Pool`] for everything
/// that is not here: `status`, `resize`, `retain`, `close`, `manager`.
#[derive(Clone, Debug)]
pub struct Pool {
    inner: managed::Pool,
}

impl Pool {
    /// A builder for a bare [`managed::Pool`], with hooks and all that deadpool offers. Turn what
    /// it builds into a `Pool` with `Pool::from`.
    pub fn builder(manager: Manager) -> PoolBuilder {
        managed::Pool::builder(manager)
    }

    /// Checks a connection out: an idle one that passes its check, or a new one.
    ///
    /// Waits, in turn, while all are in use. All of it ends within `timeouts.wait` of the
    /// configuration, default 30 s; making a connection also within `connectTimeoutMS` (10 s) and
    /// `timeouts.create`, checking one within `timeouts.recycle`.
    ///
    /// # Errors
    /// - [`ErrorKind::Timeout`]: which wait it was, with what kept failing meanwhile as its cause.
    /// - [`ErrorKind::Connect`], [`ErrorKind::Authentication`], … from making a connection, at once.
    /// - [`ErrorKind::PoolClosed`]; [`ErrorKind::Pool`] from a hook, one that panics included.
    ///
    /// # Cancellation
    /// May be dropped at any time: a slot or a connection it had gets free.
    pub async fn get(&self) -> Result<Connection, Error> {
        self.timeout_get(&self.inner.timeouts()).await
    }

    /// [`get`](Self::get) with other time-outs than the configured ones. `wait: None` is the
    /// default of 30 s, `wait: Some(ZERO)` does not wait for a slot.
    ///
    /// # Errors
    /// See [`get`](Self::get).
    pub async fn timeout_get(&self, timeouts: &Timeouts) -> Result<Connection, Error> {
        let wait = timeouts.wait.unwrap_or(DEFAULT_WAIT_TIMEOUT);
        let only_now = wait.is_zero();
        // Not to wait for a slot does not mean to have no time for a connection.
        let bound = if only_now { DEFAULT_WAIT_TIMEOUT } else { wait };
        let at_once = pin!(self.inner.timeout_get(&AT_ONCE));
        let at_once = CheckOut::new(bound, timeouts.into()).scope(at_once);
        match catch_panics(HOOK, at_once).await {
            Ok(connection) => Ok(connection),
            // There was no wait so far. In a box, not to make every check-out's future larger.
            Err(PoolError::Timeout(TimeoutType::Wait)) if !only_now => {
                Box::pin(self.queue(Deadline::after(bound), timeouts.into())).await
            }
            Err(error) => Err(self.explain(error, Deadline::after(bound))),
        }
    }

    /// Checks a connection out without waiting for a slot. A connection may still have to be made.
    ///
    /// # Errors
    /// See [`get`](Self::get).
    pub async fn try_get(&self) -> Result<Connection, Error> {
        self.timeout_get(&AT_ONCE).await
    }

    /// Every slot is in use: waits in turn for one.
    pub(crate) async fn queue(
        &self,
        deadline: Deadline,
        steps: Steps,
    ) -> Result<Connection, Error> {
        let queued = pin!(self.inner.timeout_get(&UNBOUNDED));
        let queued = catch_panics(HOOK, CheckOut::by(deadline, steps).scope(queued));
        match deadline.bound(queued).await {
            Ok(outcome) => outcome.map_err(|error| self.explain(error, deadline)),
            Err(_) => Err(self.timed_out(Wait::WaitQueue, deadline)),
        }
    }

    fn timed_out(&self, wait: Wait, deadline: Deadline) -> Error {
        self.manager().factory().timed_out(wait, deadline)
    }

    fn explain(&self, error: PoolError, deadline: Deadline) -> Error {
        let name = |kind| self.manager().factory().name(kind);
        match error {
            PoolError::Backend(error) => error,
            PoolError::Closed => name(ErrorKind::PoolClosed),
            PoolError::Timeout(TimeoutType::Wait) => self.timed_out(Wait::WaitQueue, deadline),
            PoolError::Timeout(TimeoutType::Create) => self.timed_out(Wait::Connect, deadline),
            PoolError::Timeout(TimeoutType::Recycle) => self.timed_out(Wait::Recycle, deadline),
            PoolError::NoRuntimeSpecified => name(ErrorKind::Configuration(
                "the pool was built without a runtime".to_owned(),
            )),
            PoolError::PostCreateHook(HookError::Backend(error)) => error,
            PoolError::PostCreateHook(HookError::Message(text)) => {
                name(ErrorKind::Pool(text.into_owned()))
            }
        }
    }
}

/// A bare pool, built by hand.
impl From<managed::Pool> for Pool {
    fn from(inner: managed::Pool) -> Self {
        Self { inner }
    }
}

impl Deref for Pool {
    type Target = managed::Pool;

    fn deref(&self) -> &managed::Pool {
        &self.inner
    }
}
