//! bb8 as the backend of [`Pools`](crate::Pools).

use mongo_core::pools::{Backend, ConnectionFactory, QueueMode};
use mongo_core::{Deadline, Error};

use crate::{Pool, PooledConnection};

/// Settings of the bb8 pools under [`Pools`](crate::Pools).
pub type BackendConfig = mongo_core::pools::BackendConfig<QueueMode>;

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
            .queue_strategy(strategy(config.queue_mode.unwrap_or_default()))
            // The pools' own maintenance closes connections that are too old, and reports the
            // reason.
            .idle_timeout(None)
            .max_lifetime(None);
        let (create, recycle) = (config.create_timeout, config.recycle_timeout);
        Self::with_timeouts(builder, factory.into(), create, recycle)
    }

    fn try_get(&self) -> Option<PooledConnection> {
        self.get_now()
    }

    fn get(
        &self,
        deadline: Deadline,
    ) -> impl Future<Output = Result<PooledConnection, Error>> + Send {
        self.get_by(deadline, false)
    }

    fn reap(&self) {
        self.shared.reap();
    }

    fn close(&self) {
        self.close();
    }
}

pub(crate) fn strategy(mode: QueueMode) -> bb8::QueueStrategy {
    match mode {
        QueueMode::Fifo => bb8::QueueStrategy::Fifo,
        QueueMode::Lifo => bb8::QueueStrategy::Lifo,
    }
}
