//! deadpool, which both databases configure by the same type.

use std::time::Duration;

use deadpool_postgres::{Manager, Pool, PoolConfig, PoolError, QueueMode, Runtime, Timeouts};
pub(crate) use mongo_deadpool as mongo;
use tokio_postgres::NoTls;

use crate::config;
use crate::database::DatabaseError;
use crate::postgres::{POSTGRES, failed};

/// The bound where the configuration has none: deadpool would wait for ever.
const WAIT: Duration = Duration::from_secs(30);

pub(crate) type PostgresConnection = deadpool_postgres::Client;

pub(crate) fn pool_config(config: &config::PoolConfig) -> PoolConfig {
    let mut pool = PoolConfig::default();
    if let Some(max_size) = config.max_size {
        pool.max_size = max_size as usize;
    }
    pool.timeouts = Timeouts {
        wait: config.timeouts.wait,
        create: config.timeouts.create,
        recycle: config.timeouts.recycle,
    };
    // A quiet pool can shrink.
    pool.queue_mode = QueueMode::Lifo;
    pool
}

#[derive(Clone)]
pub(crate) struct PostgresPool(Pool);

impl PostgresPool {
    pub(crate) fn new(
        postgres: tokio_postgres::Config,
        config: &config::PoolConfig,
    ) -> Result<Self, DatabaseError> {
        let mut pool = pool_config(config);
        for bound in [&mut pool.timeouts.wait, &mut pool.timeouts.create] {
            bound.get_or_insert(WAIT);
        }
        let manager = Manager::new(postgres, NoTls);
        let builder = Pool::builder(manager).config(pool);
        let pool = builder.runtime(Runtime::Tokio1).build();
        pool.map(Self)
            .map_err(|error| DatabaseError::permanent(POSTGRES, error))
    }

    /// Makes a connection, and reports why there is none.
    pub(crate) async fn verify(&self) -> Result<(), DatabaseError> {
        self.get().await.map(drop)
    }

    pub(crate) async fn get(&self) -> Result<PostgresConnection, DatabaseError> {
        self.0.get().await.map_err(|error| match error {
            PoolError::Backend(error) => failed(error),
            PoolError::Timeout(_) => DatabaseError::transient(POSTGRES, error),
            other => DatabaseError::permanent(POSTGRES, other),
        })
    }
}
