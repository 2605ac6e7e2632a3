//! deadpool as the backend of [`Pools`](crate::Pools).

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use mongo_core::pools::{Backend, ConnectionFactory};
use mongo_core::{Deadline, Error};

use crate::at_once::{AT_ONCE, poll_at_once};
use crate::{Connection, Manager, Pool, PoolConfig, QueueMode, Runtime, Timeouts, managed};

/// Settings of the deadpools under [`Pools`](crate::Pools).
pub type BackendConfig = mongo_core::pools::BackendConfig<QueueMode>;

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
                queue_mode: config.queue_mode.unwrap_or(QueueMode::Lifo),
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
        self.queue(deadline, None)
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
