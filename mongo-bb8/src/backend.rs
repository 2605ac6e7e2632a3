//! bb8 as the backend of [`Pools`](crate::Pools).

use std::time::Duration;

use mongo_core::pools::{Backend, ConnectionFactory};
use mongo_core::{Deadline, Error};

use crate::{MongoConnectionManager, Pool, PoolConfig, PooledConnection, QueueMode};

/// Replaces bb8's bound of a check-out, which is mandatory: the deadline ends before it.
const NO_BOUND: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Settings of the bb8 pools under [`Pools`](crate::Pools).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct BackendConfig {
    /// The most connections of one pool. Default: the URI's `maxPoolSize`.
    pub max_size: Option<u32>,
    /// Which idle connection is taken first. Default [`QueueMode::Lifo`], so that a quiet pool can
    /// shrink.
    pub queue_mode: QueueMode,
    /// The bound of making a connection, beside `connectTimeoutMS` (10 s). Default none.
    pub create_timeout: Option<Duration>,
    /// The bound of checking an idle connection. Default none of its own.
    pub recycle_timeout: Option<Duration>,
}

impl Default for BackendConfig {
    fn default() -> Self {
        Self {
            max_size: None,
            queue_mode: QueueMode::Lifo,
            create_timeout: None,
            recycle_timeout: None,
        }
    }
}

impl BackendConfig {
    /// The defaults, with the most connections of one pool.
    pub fn new(max_size: u32) -> Self {
        Self {
            max_size: Some(max_size),
            ..Self::default()
        }
    }

    /// Sets [`queue_mode`](Self::queue_mode).
    #[must_use]
    pub fn with_queue_mode(mut self, queue_mode: QueueMode) -> Self {
        self.queue_mode = queue_mode;
        self
    }
}

impl From<PoolConfig> for BackendConfig {
    fn from(pool: PoolConfig) -> Self {
        Self {
            max_size: pool.max_size,
            queue_mode: pool.queue_mode,
            create_timeout: pool.timeouts.create,
            recycle_timeout: pool.timeouts.recycle,
        }
    }
}

impl Backend for Pool {
    type Config = BackendConfig;
    type Guard = PooledConnection;

    fn max_size(config: &BackendConfig) -> Option<u32> {
        config.max_size
    }

    fn build(
        factory: ConnectionFactory,
        max_size: u32,
        config: &BackendConfig,
    ) -> Result<Self, Error> {
        let builder = Self::builder()
            .max_size(max_size)
            .queue_strategy(config.queue_mode.into())
            .connection_timeout(NO_BOUND)
            // The pools' own maintenance closes connections that are too old, and reports the
            // reason.
            .idle_timeout(None)
            .max_lifetime(None);
        let create = config.create_timeout.unwrap_or(Duration::MAX);
        let manager =
            MongoConnectionManager::bounded(factory, Some(create), config.recycle_timeout);
        Self::build(builder, manager)
    }

    fn try_get(&self) -> Option<PooledConnection> {
        self.get_now()
    }

    fn get(
        &self,
        deadline: Deadline,
    ) -> impl Future<Output = Result<PooledConnection, Error>> + Send {
        self.get_by(deadline)
    }

    fn reap(&self) {
        self.reap();
    }

    fn close(&self) {
        self.close();
    }
}
