use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mongo_core::handshake::DriverInfo;
use mongo_core::pools::{ConnectionFactory, DEFAULT_WAIT_TIMEOUT, ManagerConfig};
use mongo_core::uri::ClientOptions;
use mongo_core::{Connection, Deadline, Error, ErrorKind};

use crate::failures::Failures;

tokio::task_local! {
    /// The check-out that the current task is in: bb8 has no way to hand it to the manager.
    static CHECK_OUT: Deadline;
}

/// Runs a check-out that ends by `deadline`.
pub(crate) async fn check_out<F: Future>(deadline: Deadline, future: F) -> F::Output {
    CHECK_OUT.scope(deadline, future).await
}

/// bb8's [`ManageConnection`](bb8::ManageConnection) for the connections to one server.
///
/// It serves the first host of the URI, as with `directConnection=true`. Clones share what they
/// know: give each pool a manager of its own.
#[derive(Clone, Debug)]
pub struct MongoConnectionManager {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    factory: ConnectionFactory,
    create_timeout: Duration,
    recycle_timeout: Option<Duration>,
    failures: Failures,
    closed: AtomicBool,
}

impl MongoConnectionManager {
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
        Self::with_timeouts(options, config, None, None)
    }

    /// What makes and checks the connections.
    pub fn factory(&self) -> &ConnectionFactory {
        &self.shared.factory
    }

    /// The bounds of [`Timeouts`](crate::Timeouts): over making a connection, which bb8 does in a
    /// task that no caller bounds, and over checking one.
    pub(crate) fn with_timeouts(
        options: ClientOptions,
        config: ManagerConfig,
        create: Option<Duration>,
        recycle: Option<Duration>,
    ) -> Result<Self, Error> {
        // What the server's log says of this crate.
        let driver_info =
            DriverInfo::new(env!("CARGO_PKG_NAME")).with_version(env!("CARGO_PKG_VERSION"));
        let factory = ConnectionFactory::builder(options)
            .config(config)
            .driver_info(driver_info)
            .build()?;
        Ok(Self::bounded(factory, create, recycle))
    }

    fn bounded(
        factory: ConnectionFactory,
        create: Option<Duration>,
        recycle: Option<Duration>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                factory,
                create_timeout: create.unwrap_or(DEFAULT_WAIT_TIMEOUT),
                recycle_timeout: recycle,
                failures: Failures::default(),
                closed: AtomicBool::new(false),
            }),
        }
    }

    pub(crate) fn failures(&self) -> &Failures {
        &self.shared.failures
    }

    /// No connection is made or handed out any more.
    pub(crate) fn close(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.shared.factory.clear();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::SeqCst)
    }
}

/// A manager with a connector, an executor or a name of your own: build the factory first.
impl From<ConnectionFactory> for MongoConnectionManager {
    fn from(factory: ConnectionFactory) -> Self {
        Self::bounded(factory, None, None)
    }
}

impl bb8::ManageConnection for MongoConnectionManager {
    type Connection = Connection;
    type Error = Error;

    async fn connect(&self) -> Result<Connection, Error> {
        let shared = &self.shared;
        if self.is_closed() {
            return Err(shared.factory.name(ErrorKind::PoolClosed));
        }
        let deadline = Deadline::after(shared.create_timeout);
        let connected = shared.factory.establish(deadline).await;
        // bb8 tells its sink, where no caller looks.
        connected.inspect_err(|error| shared.failures.push(error.clone()))
    }

    async fn is_valid(&self, connection: &mut Connection) -> Result<(), Error> {
        let deadline = CHECK_OUT.try_with(|deadline| *deadline);
        let deadline = deadline
            .unwrap_or_else(|_| Deadline::never())
            .within(self.shared.recycle_timeout);
        self.shared.factory.recycle(connection, deadline).await
    }

    /// Called at check-in, and for nothing else.
    fn has_broken(&self, connection: &mut Connection) -> bool {
        !connection.check_in()
    }
}
