use std::cell::Cell;
use std::time::Duration;

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use mongo_core::pools::{CheckBudget, ConnectionFactory};
use mongo_core::{Deadline, Error, ErrorKind};
use tokio::task::futures::TaskLocalFuture;

use crate::Timeouts;
use crate::at_once::is_at_once;

tokio::task_local! {
    /// The current task's check-out: deadpool can't pass it to the manager.
    static CHECK_OUT: CheckOut;
}

/// The bounds of one check-out.
pub(crate) struct CheckOut {
    /// The deadline, or the bound that it is computed from when it is first needed: an immediate
    /// check-out does not read the clock.
    deadline: Cell<Result<Deadline, Duration>>,
    /// The bounds of making and of checking a connection, which apply if they are less than the
    /// time left.
    create: Option<Duration>,
    recycle: Option<Duration>,
    /// The budget of the checks of idle connections.
    budget: Cell<CheckBudget>,
}

impl CheckOut {
    /// A check-out by a deadline, or within a bound from its first wait on.
    pub(crate) fn new(deadline: Result<Deadline, Duration>, timeouts: &Timeouts) -> Self {
        Self {
            deadline: Cell::new(deadline),
            create: timeouts.create,
            recycle: timeouts.recycle,
            budget: Cell::default(),
        }
    }

    /// The one deadline of the check-out.
    fn deadline(&self) -> Deadline {
        let deadline = self.deadline.get().unwrap_or_else(Deadline::after);
        self.deadline.set(Ok(deadline));
        deadline
    }

    /// Runs a check-out within these bounds.
    pub(crate) fn scope<F: Future>(self, future: F) -> TaskLocalFuture<Self, F> {
        CHECK_OUT.scope(self, future)
    }

    /// Runs one step of the current task's check-out, with the step's deadline and what is left of
    /// the check budget. Unbounded in a bare pool, which is not called through
    /// [`Pool::get`](crate::Pool::get): only the manager's own bounds apply.
    async fn step<R>(
        bound: impl FnOnce(&CheckOut) -> Option<Duration>,
        run: impl AsyncFnOnce(Deadline, &mut CheckBudget) -> R,
    ) -> R {
        let started = CHECK_OUT.try_with(|current| {
            let deadline = current.deadline().within(bound(current));
            (deadline, current.budget.get())
        });
        let (deadline, mut budget) =
            started.unwrap_or_else(|_| (Deadline::never(), CheckBudget::default()));
        let outcome = run(deadline, &mut budget).await;
        let _ = CHECK_OUT.try_with(|current| current.budget.set(budget));
        outcome
    }
}

/// deadpool's [`Manager`](managed::Manager) for the connections to one server.
///
/// It serves the first host of the URI, as with `directConnection=true`.
#[derive(Debug)]
pub struct Manager {
    factory: ConnectionFactory,
}

mongo_core::adapter_manager!(Manager);

/// For a manager with your own connector, executor or name: build the factory first.
impl From<ConnectionFactory> for Manager {
    fn from(factory: ConnectionFactory) -> Self {
        Self { factory }
    }
}

impl managed::Manager for Manager {
    type Type = mongo_core::Connection;
    type Error = Error;

    async fn create(&self) -> Result<Self::Type, Error> {
        if is_at_once(self) {
            let nothing = ErrorKind::Pool("no idle connection is available".to_owned());
            return self.factory.take_available().ok_or_else(|| nothing.into());
        }
        let establish = async |deadline, budget: &mut CheckBudget| {
            self.factory.establish_within(deadline, budget).await
        };
        // Boxed: rare, and would enlarge every check-out's future.
        Box::pin(CheckOut::step(|own| own.create, establish)).await
    }

    async fn recycle(&self, connection: &mut Self::Type, _: &Metrics) -> RecycleResult<Error> {
        let recycled = match self.factory.recycle_now(connection) {
            Some(recycled) => recycled,
            // The check needs I/O: left for a check-out that can wait.
            None if is_at_once(self) => {
                self.factory.offer(connection.move_out());
                return Err(RecycleError::message(
                    "the check of the connection needs I/O",
                ));
            }
            None => {
                let check = async |deadline, budget: &mut CheckBudget| {
                    self.factory.recycle(connection, deadline, budget).await
                };
                // Boxed, too.
                Box::pin(CheckOut::step(|own| own.recycle, check)).await
            }
        };
        // deadpool discards the error and tries the next connection.
        recycled.map_err(RecycleError::Backend)
    }
}
