//! The settings of a test's pool.

use std::sync::Arc;
use std::time::Duration;

use mongo_core::ClientOptions;
use mongo_core::net::Connector;
use mongo_core::pools::{ConnectionFactory, ManagerConfig};

#[path = "../common/eventually.rs"]
mod eventually;
pub(crate) use eventually::eventually;
#[path = "../common/plain_pool.rs"]
mod plain_pool;
pub(crate) use plain_pool::Backend;
use plain_pool::Parts;

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
}

impl From<Setup> for Parts {
    fn from(setup: Setup) -> Self {
        let options = ClientOptions::parse(&setup.uri).expect("a connection string");
        let mut builder = ConnectionFactory::builder(options).config(setup.manager);
        if let Some(connector) = setup.connector {
            builder = builder.connector(connector);
        }
        Self {
            factory: builder.build().expect("a factory"),
            max_size: setup.max_size,
            wait: setup.wait,
        }
    }
}
