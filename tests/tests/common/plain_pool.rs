//! A common interface of the two adapters' pools. They export the same names with the same meaning,
//! so this only forwards.

use std::fmt::Debug;
use std::ops::DerefMut;
use std::time::Duration;

use mongo_core::pools::ConnectionFactory;
use mongo_core::{Connection, Error};

/// The parts of a pool.
pub(crate) struct Parts {
    pub(crate) factory: ConnectionFactory,
    pub(crate) max_size: u32,
    /// The timeout of a whole check-out.
    pub(crate) wait: Duration,
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

    fn build(parts: impl Into<Parts>) -> Self;
    fn get(&self) -> impl Future<Output = Result<Self::Guard, Error>> + Send;
    /// Checks out with its own timeout.
    fn get_within(&self, wait: Duration)
    -> impl Future<Output = Result<Self::Guard, Error>> + Send;
    fn try_get(&self) -> impl Future<Output = Result<Self::Guard, Error>> + Send;
    fn status(&self) -> Status;
    fn close(&self);
    fn factory(&self) -> &ConnectionFactory;
}

/// The methods that are the same for both.
macro_rules! forward {
    ($guard:ty) => {
        type Guard = $guard;

        async fn get(&self) -> Result<Self::Guard, Error> {
            self.get().await
        }

        async fn try_get(&self) -> Result<Self::Guard, Error> {
            self.try_get().await
        }

        fn status(&self) -> Status {
            let status = self.status();
            Status {
                size: status.size,
                available: status.available,
                waiting: status.waiting,
            }
        }

        fn close(&self) {
            self.close();
        }

        fn factory(&self) -> &ConnectionFactory {
            self.manager().factory()
        }
    };
}

impl Backend for mongo_deadpool::Pool {
    forward!(mongo_deadpool::Connection);

    fn build(parts: impl Into<Parts>) -> Self {
        let parts = parts.into();
        let mut config = mongo_deadpool::PoolConfig::new(parts.max_size as usize);
        config.timeouts.wait = Some(parts.wait);
        config.queue_mode = mongo_deadpool::QueueMode::Lifo;
        let pool = Self::builder(parts.factory.into())
            .config(config)
            .runtime(mongo_deadpool::Runtime::Tokio1)
            .build();
        pool.expect("a pool").into()
    }

    async fn get_within(&self, wait: Duration) -> Result<Self::Guard, Error> {
        let mut timeouts = self.timeouts();
        timeouts.wait = Some(wait);
        self.timeout_get(&timeouts).await
    }
}

impl Backend for mongo_bb8::Pool {
    forward!(mongo_bb8::Connection);

    fn build(parts: impl Into<Parts>) -> Self {
        let parts = parts.into();
        let builder = Self::builder()
            .max_size(parts.max_size)
            .connection_timeout(parts.wait)
            .max_lifetime(None)
            .idle_timeout(None)
            .queue_strategy(mongo_bb8::bb8::QueueStrategy::Lifo);
        Self::build(builder, parts.factory.into()).expect("a pool")
    }

    async fn get_within(&self, wait: Duration) -> Result<Self::Guard, Error> {
        self.get_within(wait).await
    }
}
