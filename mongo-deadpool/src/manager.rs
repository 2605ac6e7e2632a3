use std::cell::Cell;
use std::time::Duration;

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use mongo_core::handshake::DriverInfo;
use mongo_core::pools::{CheckBudget, ConnectionFactory, ManagerConfig};
use mongo_core::uri::ClientOptions;
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
    /// The bound of the whole check-out.
    bound: Duration,
    /// Computed from the bound when it is first needed: an immediate check-out does not read the
    /// clock.
    deadline: Cell<Option<Deadline>>,
    steps: Steps,
    /// The budget of the checks of idle connections.
    budget: Cell<CheckBudget>,
}

/// The bounds of single steps, which apply if they are less than the time left.
#[derive(Clone, Copy)]
pub(crate) struct Steps {
    /// The bound of making a connection.
    create: Option<Duration>,
    /// The bound of checking a connection.
    recycle: Option<Duration>,
}

impl From<&Timeouts> for Steps {
    fn from(timeouts: &Timeouts) -> Self {
        Self {
            create: timeouts.create,
            recycle: timeouts.recycle,
        }
    }
}

impl CheckOut {
    pub(crate) fn new(bound: Duration, steps: Steps) -> Self {
        Self {
            bound,
            deadline: Cell::new(None),
            steps,
            budget: Cell::default(),
        }
    }

    /// A check-out with a deadline of the caller.
    pub(crate) fn by(deadline: Deadline, steps: Steps) -> Self {
        Self {
            bound: Duration::MAX,
            deadline: Cell::new(Some(deadline)),
            steps,
            budget: Cell::default(),
        }
    }

    /// The one deadline of the check-out.
    fn deadline(&self) -> Deadline {
        let deadline = self
            .deadline
            .get()
            .unwrap_or_else(|| Deadline::after(self.bound));
        self.deadline.set(Some(deadline));
        deadline
    }

    /// Runs a check-out within these bounds.
    pub(crate) fn scope<F: Future>(self, future: F) -> TaskLocalFuture<Self, F> {
        CHECK_OUT.scope(self, future)
    }

    /// The deadline of one step of the current task's check-out. Unbounded in a bare pool, which is
    /// not called through [`Pool::get`](crate::Pool::get): only the manager's own bounds apply.
    fn current(step: impl FnOnce(&Steps) -> Option<Duration>) -> Deadline {
        CHECK_OUT
            .try_with(|current| current.deadline().within(step(&current.steps)))
            .unwrap_or_else(|_| Deadline::never())
    }
}

impl CheckOut {
    /// What is left of the check budget of the current task's check-out.
    fn budget() -> CheckBudget {
        let budget = CHECK_OUT.try_with(|current| current.budget.get());
        budget.unwrap_or_default()
    }

    fn set_budget(budget: CheckBudget) {
        let _ = CHECK_OUT.try_with(|current| current.budget.set(budget));
    }
}

/// deadpool's [`Manager`](managed::Manager) for the connections to one server.
///
/// It serves the first host of the URI, as with `directConnection=true`.
#[derive(Debug)]
pub struct Manager {
    factory: ConnectionFactory,
}

impl Manager {
    /// A manager for a connection string, with the default configuration.
    ///
    /// # Errors
    /// The connection string can't be used, or needs a feature that is not supported.
    pub fn new(url: &str) -> Result<Self, Error> {
        Self::from_config(ClientOptions::parse(url)?, ManagerConfig::default())
    }

    /// A manager for client options.
    ///
    /// # Errors
    /// The options need a feature that is not supported.
    pub fn from_config(options: ClientOptions, config: ManagerConfig) -> Result<Self, Error> {
        let factory = ConnectionFactory::builder(options)
            .config(config)
            .driver_info(driver_info())
            .build()?;
        Ok(Self { factory })
    }

    /// The factory that makes and checks the connections.
    pub fn factory(&self) -> &ConnectionFactory {
        &self.factory
    }
}

/// This crate's entry in the handshake's metadata, which the server logs.
pub(crate) fn driver_info() -> DriverInfo {
    DriverInfo::new(env!("CARGO_PKG_NAME")).with_version(env!("CARGO_PKG_VERSION"))
}

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
        let deadline = CheckOut::current(|steps| steps.create);
        let mut budget = CheckOut::budget();
        // Boxed: rare, and would enlarge every check-out's future.
        let established = self.factory.establish_within(deadline, &mut budget);
        let established = Box::pin(established).await;
        CheckOut::set_budget(budget);
        established
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
                let deadline = CheckOut::current(|steps| steps.recycle);
                let mut budget = CheckOut::budget();
                // Boxed, too.
                let check = self.factory.recycle(connection, deadline, &mut budget);
                let recycled = Box::pin(check).await;
                CheckOut::set_budget(budget);
                recycled
            }
        };
        // deadpool discards the error and tries the next connection.
        recycled.map_err(RecycleError::Backend)
    }
}
