//! bb8, which has no configuration that could be in a file: MongoDB takes that of `mongo-bb8`, and
//! PostgreSQL bb8's builder.

use std::sync::{Arc, Mutex, PoisonError};

use bb8::{ErrorSink, Pool, PooledConnection, QueueStrategy, RunError};
use bb8_postgres::PostgresConnectionManager;
pub(crate) use mongo_bb8 as mongo;
use tokio_postgres::{Error, NoTls};

use crate::config;
use crate::database::DatabaseError;
use crate::postgres::{POSTGRES, failed, with_sources};

type Manager = PostgresConnectionManager<NoTls>;

pub(crate) type PostgresConnection = PooledConnection<'static, Manager>;

pub(crate) fn pool_config(config: &config::PoolConfig) -> mongo_bb8::PoolConfig {
    mongo_bb8::PoolConfig {
        max_size: config.max_size,
        timeouts: config.timeouts,
        ..mongo_bb8::PoolConfig::default()
    }
}

#[derive(Clone)]
pub(crate) struct PostgresPool {
    pool: Pool<Manager>,
    last_failure: LastFailure,
}

impl PostgresPool {
    pub(crate) fn new(
        mut postgres: tokio_postgres::Config,
        config: &config::PoolConfig,
    ) -> Result<Self, DatabaseError> {
        // bb8 panics at a bound of zero, and at no connections.
        let wait = config.timeouts.wait;
        if wait.is_some_and(|wait| wait.is_zero()) || config.max_size == Some(0) {
            let cause = "`pool.timeouts.wait` or `pool.max_size` is zero";
            return Err(DatabaseError::permanent(POSTGRES, cause));
        }
        if let Some(create) = config.timeouts.create {
            postgres.connect_timeout(create);
        }
        let last_failure = LastFailure::default();
        let mut builder = Pool::builder()
            .queue_strategy(QueueStrategy::Lifo)
            .error_sink(last_failure.boxed_clone());
        if let Some(max_size) = config.max_size {
            builder = builder.max_size(max_size);
        }
        if let Some(wait) = wait {
            builder = builder.connection_timeout(wait);
        }
        let pool = builder.build_unchecked(Manager::new(postgres, NoTls));
        Ok(Self { pool, last_failure })
    }

    /// Makes a connection, and reports why there is none: `get` would try again until its time-out,
    /// and report that.
    pub(crate) async fn verify(&self) -> Result<(), DatabaseError> {
        let connection = self.pool.dedicated_connection().await;
        connection.map(drop).map_err(failed)
    }

    pub(crate) async fn get(&self) -> Result<PostgresConnection, DatabaseError> {
        let outcome = self.pool.get_owned().await;
        let cause = self.last_failure.take();
        outcome.map_err(|error| match (error, cause) {
            (RunError::User(error), _) => failed(error),
            (RunError::TimedOut, None) => {
                DatabaseError::transient(POSTGRES, "all connections are in use")
            }
            (RunError::TimedOut, Some(cause)) => DatabaseError::transient(POSTGRES, cause),
        })
    }
}

/// The last error of connecting: bb8 gives it only to this sink.
#[derive(Clone, Debug, Default)]
struct LastFailure(Arc<Mutex<Option<String>>>);

impl LastFailure {
    fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ErrorSink<Error> for LastFailure {
    fn sink(&self, error: Error) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(with_sources(&error));
    }

    fn boxed_clone(&self) -> Box<dyn ErrorSink<Error>> {
        Box::new(self.clone())
    }
}
