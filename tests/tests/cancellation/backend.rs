//! A common interface of the two adapters.

use std::ops::DerefMut;
use std::time::Duration;

use mongo_core::pools::ConnectionFactory;
use mongo_core::{Connection, Error};

/// The status that both pools report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) size: usize,
    pub(crate) available: usize,
    pub(crate) waiting: usize,
}

pub(crate) trait Backend: Clone + Send + Sync + 'static {
    type Guard: DerefMut<Target = Connection> + Send + 'static;

    fn build(factory: ConnectionFactory, max_size: u32, wait: Duration) -> Self;
    fn get(&self) -> impl Future<Output = Result<Self::Guard, Error>> + Send;
    fn try_get(&self) -> impl Future<Output = Result<Self::Guard, Error>> + Send;
    fn status(&self) -> Status;
}

#[derive(Clone)]
pub(crate) struct Deadpool(mongo_deadpool::Pool);

impl Backend for Deadpool {
    type Guard = mongo_deadpool::Connection;

    fn build(factory: ConnectionFactory, max_size: u32, wait: Duration) -> Self {
        let mut config = mongo_deadpool::PoolConfig::new(max_size as usize);
        config.timeouts.wait = Some(wait);
        let pool = mongo_deadpool::Pool::builder(factory.into())
            .config(config)
            .runtime(mongo_deadpool::Runtime::Tokio1)
            .build();
        Self(pool.expect("a pool").into())
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
}

#[derive(Clone)]
pub(crate) struct Bb8(mongo_bb8::Pool);

impl Backend for Bb8 {
    type Guard = mongo_bb8::Connection;

    fn build(factory: ConnectionFactory, max_size: u32, wait: Duration) -> Self {
        let manager = mongo_bb8::MongoConnectionManager::from(factory);
        let builder = mongo_bb8::Pool::builder()
            .max_size(max_size)
            .connection_timeout(wait)
            .max_lifetime(None)
            .idle_timeout(None);
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
}
