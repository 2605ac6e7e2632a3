use std::cell::Cell;
use std::time::Duration;

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use mongo_core::handshake::DriverInfo;
use mongo_core::pools::{CheckBudget, ConnectionFactory, ManagerConfig};
use mongo_core::uri::ClientOptions;
use mongo_core::{Deadline, Error, ErrorKind};
use tokio::task::futures::TaskLocalFuture;

use crate::Timeouts;
use crate::backend::is_now;

tokio::task_local! {
    /// The check-out that the current task is in: deadpool has no way to hand it to the manager.
    static CHECK_OUT: CheckOut;
}

/// The bounds of one check-out.
pub(crate) struct CheckOut {
    /// Over everything.
    bound: Duration,
    /// Made of that when it is first asked for: a connection that is had at once costs no look at
    /// the clock.
    deadline: Cell<Option<Deadline>>,
    steps: Steps,
    /// Of the checks of all connections that it looks at.
    budget: Cell<CheckBudget>,
}

/// The bounds of its steps, where they are less than what is left.
#[derive(Clone, Copy)]
pub(crate) struct Steps {
    /// Over making a connection.
    create: Option<Duration>,
    /// Over checking a connection.
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

    /// One that ends by a deadline of the caller's.
    pub(crate) fn by(deadline: Deadline, steps: Steps) -> Self {
        Self {
            bound: Duration::MAX,
            deadline: Cell::new(Some(deadline)),
            steps,
            budget: Cell::default(),
        }
    }

    /// The one deadline over all that is left of the check-out.
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

    /// What the current task's check-out has for one step of it; none but the manager's own bounds
    /// in a pool that is not asked through [`Pool::get`](crate::Pool::get).
    fn current(step: impl FnOnce(&Steps) -> Option<Duration>) -> Deadline {
        CHECK_OUT
            .try_with(|current| current.deadline().within(step(&current.steps)))
            .unwrap_or_else(|_| Deadline::never())
    }
}

impl CheckOut {
    /// What is left for the checks of the current task's check-out.
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
    /// The connection string can't be used, or asks what is not supported yet.
    pub fn new(url: &str) -> Result<Self, Error> {
        Self::from_config(ClientOptions::parse(url)?, ManagerConfig::default())
    }

    /// A manager for client options.
    ///
    /// # Errors
    /// The options ask what is not supported yet.
    pub fn from_config(options: ClientOptions, config: ManagerConfig) -> Result<Self, Error> {
        let factory = ConnectionFactory::builder(options)
            .config(config)
            .driver_info(driver_info())
            .build()?;
        Ok(Self { factory })
    }

    /// What makes and checks the connections.
    pub fn factory(&self) -> &ConnectionFactory {
        &self.factory
    }
}

/// What the server's log says of this crate.
pub(crate) fn driver_info() -> DriverInfo {
    DriverInfo::new(env!("CARGO_PKG_NAME")).with_version(env!("CARGO_PKG_VERSION"))
}

/// A manager with a connector, an executor or a name of your own: build the factory first.
impl From<ConnectionFactory> for Manager {
    fn from(factory: ConnectionFactory) -> Self {
        Self { factory }
    }
}

impl managed::Manager for Manager {
    type Type = mongo_core::Connection;
    type Error = Error;

    async fn create(&self) -> Result<Self::Type, Error> {
        if is_now(self) {
            let nothing = ErrorKind::Pool("no connection is there".to_owned());
            return self.factory.take_available().ok_or_else(|| nothing.into());
        }
        let deadline = CheckOut::current(|steps| steps.create);
        let mut budget = CheckOut::budget();
        // Rare: not to be a part of every check-out's future.
        let established = self.factory.establish_within(deadline, &mut budget);
        let established = Box::pin(established).await;
        CheckOut::set_budget(budget);
        established
    }

    async fn recycle(&self, connection: &mut Self::Type, _: &Metrics) -> RecycleResult<Error> {
        let recycled = match self.factory.recycle_now(connection) {
            Some(recycled) => recycled,
            // It takes I/O: for one that can wait for it.
            None if is_now(self) => {
                self.factory.offer(connection.move_out());
                return Err(RecycleError::message("it can't be checked at once"));
            }
            None => {
                let deadline = CheckOut::current(|steps| steps.recycle);
                let mut budget = CheckOut::budget();
                // Rare, too.
                let check = self.factory.recycle(connection, deadline, &mut budget);
                let recycled = Box::pin(check).await;
                CheckOut::set_budget(budget);
                recycled
            }
        };
        // deadpool swallows the error and goes on to the next connection.
        recycled.map_err(RecycleError::Backend)
    }
}
