use std::future::poll_fn;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use deadpool::managed::HookError;
use mongo_core::error::Wait;
use mongo_core::net::Elapsed;
use mongo_core::pools::{DEFAULT_WAIT_TIMEOUT, catch_panics};
use mongo_core::{Deadline, Error, ErrorKind};

use crate::at_once::{AT_ONCE, may_wait};
use crate::connection::take_idle;
use crate::manager::CheckOut;
use crate::{
    Connection, Manager, Metrics, PoolBuilder, PoolError, Status, TimeoutType, Timeouts, managed,
};

type RetainResult = deadpool::managed::RetainResult<mongo_core::Connection>;

/// The name of the application's code that deadpool calls.
const HOOK: &str = "pool hook";

/// No time-outs of deadpool: its `wait` covers only the queue; ours cover the whole check-out.
const UNBOUNDED: Timeouts = Timeouts {
    wait: None,
    create: None,
    recycle: None,
};

/// A pool of connections to one server: a deadpool with bounded waits and errors that name the
/// cause.
///
/// Cloning is cheap; clones are the same pool. Dereferences to [`managed::Pool`] for everything
/// else, such as `manager`.
#[derive(Clone, Debug)]
pub struct Pool {
    inner: managed::Pool,
}

impl Pool {
    /// A builder for a bare [`managed::Pool`], with hooks and everything else that deadpool offers.
    /// Convert its pool with `Pool::from`.
    pub fn builder(manager: Manager) -> PoolBuilder {
        managed::Pool::builder(manager)
    }

    /// Checks out a connection: an idle one that passes its check, or a new one.
    ///
    /// While all are in use it waits, first in, first out. The whole check-out ends within
    /// `timeouts.wait` of the configuration, default 30 s; making a connection also within
    /// `connectTimeoutMS` (10 s) and `timeouts.create`, checking one within `timeouts.recycle`.
    ///
    /// # Errors
    /// - [`ErrorKind::Timeout`]: names the wait; its cause is the last failure since the wait
    ///   began.
    /// - [`ErrorKind::Connect`], [`ErrorKind::Authentication`], … from making a connection, at once.
    /// - [`ErrorKind::PoolClosed`]; [`ErrorKind::Pool`] from a hook, also from one that panics.
    ///
    /// # Cancellation
    /// May be dropped at any time: its slot or connection is free at once. An attempt to make a
    /// connection continues, and its connection serves the next caller.
    pub async fn get(&self) -> Result<Connection, Error> {
        self.timeout_get(&self.inner.timeouts()).await
    }

    /// [`get`](Self::get) with time-outs other than the configured ones. `wait: None` is the
    /// default of 30 s; with `wait: Some(ZERO)` it does not wait for a slot.
    ///
    /// # Errors
    /// See [`get`](Self::get).
    pub async fn timeout_get(&self, timeouts: &Timeouts) -> Result<Connection, Error> {
        let wait = timeouts.wait.unwrap_or(DEFAULT_WAIT_TIMEOUT);
        let only_now = wait.is_zero();
        // A zero wait applies to the slot only; making a connection still has time.
        let bound = if only_now { DEFAULT_WAIT_TIMEOUT } else { wait };
        let at_once = pin!(self.inner.timeout_get(&AT_ONCE));
        let at_once = CheckOut::new(Err(bound), timeouts).scope(at_once);
        let mut at_once = pin!(catch_panics(HOOK, at_once));
        let mut first = |context: &mut Context<'_>| may_wait(|| at_once.as_mut().poll(context));
        let first = poll_fn(|context| Poll::Ready(first(context))).await;
        let got = match first {
            Poll::Ready(got) => got,
            // It has a permit from before a `resize` to a smaller size.
            Poll::Pending if only_now && self.is_over_full() => {
                return Err(self.timed_out(Wait::WaitQueue, Deadline::after(bound)));
            }
            Poll::Pending => {
                let deadline = Deadline::after(bound);
                // Boxed, so that every check-out's future stays small.
                let outcome = Box::pin(bounded(at_once, deadline)).await;
                return self.outcome(outcome, deadline);
            }
        };
        match got {
            Ok(connection) => Ok(connection),
            // It has not waited yet.
            Err(PoolError::Timeout(TimeoutType::Wait)) if !only_now => {
                Box::pin(self.queue(Deadline::after(bound), Some(timeouts))).await
            }
            Err(error) => Err(self.explain(error, Deadline::after(bound))),
        }
    }

    /// Checks out a connection without waiting for a slot. A connection may still have to be made.
    ///
    /// # Errors
    /// See [`get`](Self::get).
    pub async fn try_get(&self) -> Result<Connection, Error> {
        self.timeout_get(&AT_ONCE).await
    }

    /// Every slot is in use: waits for one, first in, first out. `None` for the configured
    /// time-outs.
    pub(crate) async fn queue(
        &self,
        deadline: Deadline,
        timeouts: Option<&Timeouts>,
    ) -> Result<Connection, Error> {
        let queued = pin!(self.inner.timeout_get(&UNBOUNDED));
        let check_out = match timeouts {
            Some(timeouts) => CheckOut::new(Ok(deadline), timeouts),
            None => CheckOut::new(Ok(deadline), &self.inner.timeouts()),
        };
        let queued = pin!(catch_panics(HOOK, check_out.scope(queued)));
        let outcome = bounded(queued, deadline).await;
        self.outcome(outcome, deadline)
    }

    /// The outcome of a check-out that had to wait.
    fn outcome(
        &self,
        outcome: Result<Result<Connection, PoolError>, Elapsed>,
        deadline: Deadline,
    ) -> Result<Connection, Error> {
        match outcome {
            Ok(outcome) => outcome.map_err(|error| self.explain(error, deadline)),
            Err(Elapsed) => Err(self.timed_out(self.wait(), deadline)),
        }
    }

    /// The wait of a check-out that neither deadpool nor the factory has ended by itself.
    fn wait(&self) -> Wait {
        match self.status().waiting {
            0 => Wait::Hook,
            _ => Wait::WaitQueue,
        }
    }

    /// Whether there are more callers, including those with connections, than slots: when deadpool
    /// is made smaller, it keeps the permits of slots without a connection.
    fn is_over_full(&self) -> bool {
        let status = self.inner.status();
        let users = status.size + status.waiting - status.available;
        users > status.max_size && !self.inner.is_closed()
    }

    /// The pool's status, including connections that were made for callers that have left.
    pub fn status(&self) -> Status {
        let available = self.manager().factory().available();
        let status = self.inner.status();
        Status {
            size: status.size + available,
            available: status.available + available,
            ..status
        }
    }

    /// Removes the idle connections that do not satisfy the predicate, and returns them.
    ///
    /// The predicate runs under deadpool's lock, as in deadpool's own `retain`: it must neither
    /// call the pool nor block.
    ///
    /// # Panics
    /// If the predicate panics. Connections for which it was not called stay.
    pub fn retain(
        &self,
        mut predicate: impl FnMut(&mongo_core::Connection, Metrics) -> bool,
    ) -> RetainResult {
        let factory = self.manager().factory();
        let available = factory.retain(|connection| predicate(connection, Metrics::default()));
        let mut panic = None;
        // A panic would poison deadpool's lock.
        let mut result = self.inner.retain(|connection, metrics| {
            if panic.is_some() {
                return true;
            }
            let kept = catch_unwind(AssertUnwindSafe(|| predicate(connection, metrics)));
            kept.unwrap_or_else(|payload| {
                panic = Some(payload);
                true
            })
        });
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
        result.retained += factory.available();
        result.removed.extend(available);
        result
    }

    /// Changes the largest size of the pool. Surplus idle connections are closed at once, surplus
    /// ones in use when they are returned. May be called from anywhere.
    ///
    /// When the pool is made smaller, deadpool keeps the permits of slots without a connection:
    /// callers with such a permit wait for room. With a factory that
    /// [floats](mongo_core::pools::ConnectionFactoryBuilder::floating), which has no limit of its
    /// own, they get connections instead, which are closed when they are returned.
    pub fn resize(&self, max_size: usize) {
        let limit = u32::try_from(max_size).unwrap_or(u32::MAX);
        let factory = self.manager().factory();
        factory.set_max_size(limit);
        let mut surplus = self.status().size.saturating_sub(max_size);
        let available = factory.retain(|_| match surplus {
            0 => true,
            _ => {
                surplus -= 1;
                false
            }
        });
        // deadpool drops the others under its lock.
        let idle = mongo_core::Connection::dropped_by(|| self.inner.resize(max_size));
        drop((available, idle));
    }

    /// Closes the pool: callers that wait get [`ErrorKind::PoolClosed`], idle connections are closed,
    /// and those in use when they are returned. May be called from anywhere.
    pub fn close(&self) {
        self.manager().factory().close();
        // deadpool drops idle connections under its lock, except those that a caller is about to
        // take.
        drop(mongo_core::Connection::dropped_by(|| self.inner.close()));
        drop(self.retain(|_, _| false));
    }

    fn timed_out(&self, wait: Wait, deadline: Deadline) -> Error {
        let status = self.status();
        let in_use = status.size.saturating_sub(status.available);
        let factory = self.manager().factory();
        factory.timed_out(wait, deadline, in_use, status.max_size)
    }

    fn explain(&self, error: PoolError, deadline: Deadline) -> Error {
        let name = |kind| self.manager().factory().with_context(kind);
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

/// Runs a check-out that may wait, until its deadline. Not an `async fn`, whose future would also
/// store the arguments.
fn bounded<F: Future>(
    mut check_out: Pin<&mut F>,
    deadline: Deadline,
) -> impl Future<Output = Result<F::Output, Elapsed>> {
    deadline.bound(poll_fn(move |context| {
        may_wait(|| check_out.as_mut().poll(context))
    }))
}

/// Wraps a bare pool.
impl From<managed::Pool> for Pool {
    fn from(inner: managed::Pool) -> Self {
        let max_size = u32::try_from(inner.status().max_size).unwrap_or(u32::MAX);
        let factory = inner.manager().factory();
        let weak = inner.weak();
        factory.attach(max_size, false, move || take_idle(&weak.upgrade()?));
        Self { inner }
    }
}

impl Deref for Pool {
    type Target = managed::Pool;

    fn deref(&self) -> &managed::Pool {
        &self.inner
    }
}
