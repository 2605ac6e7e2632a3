use std::time::Duration;

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use mongo_core::handshake::DriverInfo;
use mongo_core::pools::{ConnectionFactory, ManagerConfig};
use mongo_core::uri::ClientOptions;
use mongo_core::{Deadline, Error};

tokio::task_local! {
    /// The check-out that the current task is in: deadpool has no way to hand it to the manager.
    static CHECK_OUT: CheckOut;
}

/// The bounds of one check-out.
#[derive(Clone, Copy)]
pub(crate) struct CheckOut {
    /// Over everything.
    pub(crate) deadline: Deadline,
    /// Over making a connection, if that is less.
    pub(crate) create: Option<Duration>,
    /// Over checking a connection, if that is less.
    pub(crate) recycle: Option<Duration>,
}

impl CheckOut {
    /// Runs a check-out within these bounds.
    pub(crate) async fn scope<F: Future>(self, future: F) -> F::Output {
        CHECK_OUT.scope(self, future).await
    }

    /// The bounds of the current task's check-out; none but the manager's own in a pool that is not
    /// asked through [`Pool::get`](crate::Pool::get).
    fn current() -> Self {
        CHECK_OUT
            .try_with(|current| *current)
            .unwrap_or_else(|_| Self {
                deadline: Deadline::never(),
                create: None,
                recycle: None,
            })
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
fn driver_info() -> DriverInfo {
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
        let check_out = CheckOut::current();
        let deadline = check_out.deadline.within(check_out.create);
        self.factory.establish(deadline).await
    }

    async fn recycle(&self, connection: &mut Self::Type, _: &Metrics) -> RecycleResult<Error> {
        let check_out = CheckOut::current();
        let deadline = check_out.deadline.within(check_out.recycle);
        // deadpool swallows the error and goes on to the next connection.
        self.factory
            .recycle(connection, deadline)
            .await
            .map_err(RecycleError::Backend)
    }
}
