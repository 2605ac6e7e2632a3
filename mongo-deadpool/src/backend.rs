//! deadpool as the backend of [`Pools`](crate::Pools).

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mongo_core::pools::{Backend, ConnectionFactory};
use mongo_core::{Deadline, Error};

use crate::at_once::{AT_ONCE, poll_at_once};
use crate::{Connection, Manager, Pool, PoolConfig, QueueMode, Runtime, Timeouts, managed};

/// Settings of the deadpools under [`Pools`](crate::Pools).
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
            max_size: Some(u32::try_from(pool.max_size).unwrap_or(u32::MAX)),
            queue_mode: pool.queue_mode,
            create_timeout: pool.timeouts.create,
            recycle_timeout: pool.timeouts.recycle,
        }
    }
}

impl Backend for Pool {
    type Config = BackendConfig;
    type Guard = Connection;

    fn max_size(config: &BackendConfig) -> Option<u32> {
        config.max_size
    }

    fn build(
        factory: ConnectionFactory,
        max_size: u32,
        config: &BackendConfig,
    ) -> Result<Self, Error> {
        let pool = managed::Pool::builder(Manager::from(factory))
            .config(PoolConfig {
                queue_mode: config.queue_mode,
                timeouts: Timeouts {
                    wait: None,
                    create: config.create_timeout,
                    recycle: config.recycle_timeout,
                },
                ..PoolConfig::new(max_size as usize)
            })
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| Error::configuration(error.to_string()))?;
        Ok(Self::from(pool))
    }

    fn try_get(&self) -> Option<Connection> {
        poll_at_once(self.manager(), || {
            // The manager fails instead of waiting. When this future is dropped, everything goes
            // back.
            let got = pin!((**self).timeout_get(&AT_ONCE));
            match got.poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(got) => got.ok(),
                Poll::Pending => None,
            }
        })
    }

    fn get(&self, deadline: Deadline) -> impl Future<Output = Result<Connection, Error>> + Send {
        self.queue(deadline, (&self.timeouts()).into())
    }

    fn reap(&self) {
        let factory = self.manager().factory();
        // The removed connections are dropped here, without deadpool's lock.
        drop((**self).retain(|connection, _| factory.should_retain(connection)));
    }

    fn close(&self) {
        self.close();
    }
}
