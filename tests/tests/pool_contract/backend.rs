//! A common interface of the two adapters. They export the same names with the same meaning, so
//! this only forwards.

use std::fmt::Debug;
use std::ops::DerefMut;
use std::sync::Arc;
use std::time::Duration;

use mongo_core::net::Connector;
use mongo_core::pools::{ConnectionFactory, ManagerConfig};
use mongo_core::{ClientOptions, Connection, Error};

/// A test's settings for a pool.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) uri: String,
    pub(crate) max_size: u32,
    /// The timeout of a whole check-out.
    pub(crate) wait: Duration,
    pub(crate) manager: ManagerConfig,
    /// The transport instead of sockets.
    pub(crate) connector: Option<Arc<dyn Connector>>,
}

impl Setup {
    /// One connection, and a timeout so long that a test would notice it.
    pub(crate) fn new(uri: impl Into<String>) -> Self {
        Self {
            uri: uri.into(),
            max_size: 1,
            wait: Duration::from_secs(10),
            manager: ManagerConfig::default(),
            connector: None,
        }
    }

    pub(crate) fn max_size(mut self, max_size: u32) -> Self {
        self.max_size = max_size;
        self
    }

    pub(crate) fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    pub(crate) fn manager(mut self, manager: ManagerConfig) -> Self {
        self.manager = manager;
        self
    }

    pub(crate) fn connector(mut self, connector: Arc<dyn Connector>) -> Self {
        self.connector = Some(connector);
        self
    }

    fn factory(&self) -> ConnectionFactory {
        let options = ClientOptions::parse(&self.uri).expect("a connection string");
        let mut builder = ConnectionFactory::builder(options).config(self.manager.clone());
        if let Some(connector) = &self.connector {
            builder = builder.connector(connector.clone());
        }
        builder.build().expect("a factory")
    }
}

/// The status that both pools report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) size: usize,
    pub(crate) available: usize,
    pub(crate) waiting: usize,
}

pub(crate) trait Backend: Clone + Send + Sync + 'static {
    type Guard: DerefMut<Target = Connection> + Debug + Send + 'static;

    fn build(setup: Setup) -> Self;
    fn get(&self) -> impl Future<Output = Result<Self::Guard, Error>> + Send;
    /// Checks out with its own timeout.
    fn get_within(&self, wait: Duration)
    -> impl Future<Output = Result<Self::Guard, Error>> + Send;
    fn try_get(&self) -> impl Future<Output = Result<Self::Guard, Error>> + Send;
    fn status(&self) -> Status;
    fn close(&self);
    fn factory(&self) -> &ConnectionFactory;
}

#[derive(Clone)]
pub(crate) struct Deadpool(pub(crate) mongo_deadpool::Pool);

impl Backend for Deadpool {
    type Guard = mongo_deadpool::Connection;

    fn build(setup: Setup) -> Self {
        let mut config = mongo_deadpool::PoolConfig::new(setup.max_size as usize);
        config.timeouts.wait = Some(setup.wait);
        config.queue_mode = mongo_deadpool::QueueMode::Lifo;
        let pool = mongo_deadpool::Pool::builder(setup.factory().into())
            .config(config)
            .runtime(mongo_deadpool::Runtime::Tokio1)
            .build();
        Self(pool.expect("a pool").into())
    }

    async fn get(&self) -> Result<Self::Guard, Error> {
        self.0.get().await
    }

    async fn get_within(&self, wait: Duration) -> Result<Self::Guard, Error> {
        let mut timeouts = self.0.timeouts();
        timeouts.wait = Some(wait);
        self.0.timeout_get(&timeouts).await
    }

    async fn try_get(&self) -> Result<Self::Guard, Error> {
        self.0.try_get().await
    }

    fn status(&self) -> Status {
        let status = self.0.status();
        Status {
            size: status.size,
            available: status.available,
            waiting: status.waiting,
        }
    }

    fn close(&self) {
        self.0.close();
    }

    fn factory(&self) -> &ConnectionFactory {
        self.0.manager().factory()
    }
}

#[derive(Clone)]
pub(crate) struct Bb8(pub(crate) mongo_bb8::Pool);

impl Backend for Bb8 {
    type Guard = mongo_bb8::Connection;

    async fn get_within(&self, wait: Duration) -> Result<Self::Guard, Error> {
        self.0.get_within(wait).await
    }

    fn build(setup: Setup) -> Self {
        let manager = mongo_bb8::MongoConnectionManager::from(setup.factory());
        let builder = mongo_bb8::Pool::builder()
            .max_size(setup.max_size)
            .connection_timeout(setup.wait)
            .queue_strategy(mongo_bb8::bb8::QueueStrategy::Lifo);
        Self(mongo_bb8::Pool::build(builder, manager).expect("a pool"))
    }

    async fn get(&self) -> Result<Self::Guard, Error> {
        self.0.get().await
    }

    async fn try_get(&self) -> Result<Self::Guard, Error> {
        self.0.try_get().await
    }

    fn status(&self) -> Status {
        let status = self.0.status();
        Status {
            size: status.size,
            available: status.available,
            waiting: status.waiting,
        }
    }

    fn close(&self) {
        self.0.close();
    }

    fn factory(&self) -> &ConnectionFactory {
        self.0.manager().factory()
    }
}
