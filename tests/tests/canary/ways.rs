//! The ways to a connection: without a pool, each pool, and each backend's `Pools`.

use std::fmt;
use std::ops::DerefMut;

use mongo_core::event::EventHandlers;
use mongo_core::pools::{Backend, ConnectionFactory, PooledConnection, Pools};
use mongo_core::{Connection, Deadline, Error, Result};

use crate::capture::Capture;
use crate::setup::Client;

pub(crate) trait Way: fmt::Debug + Sized + Send + Sync + 'static {
    type Guard: DerefMut<Target = Connection> + fmt::Debug + Send;

    fn build(client: &Client, handlers: EventHandlers, capture: &'static Capture) -> Result<Self>;
    fn get(&self) -> impl Future<Output = Result<Self::Guard>> + Send;
    fn end(self) -> impl Future<Output = ()> + Send;
}

impl Way for ConnectionFactory {
    type Guard = Box<Connection>;

    fn build(client: &Client, handlers: EventHandlers, _: &'static Capture) -> Result<Self> {
        client.factory(handlers).build()
    }

    async fn get(&self) -> Result<Self::Guard> {
        self.establish(Deadline::never()).await.map(Box::new)
    }

    async fn end(self) {}
}

impl Way for mongo_deadpool::Pool {
    type Guard = mongo_deadpool::Connection;

    fn build(client: &Client, handlers: EventHandlers, _: &'static Capture) -> Result<Self> {
        let builder = Self::builder(client.factory(handlers).build()?.into());
        let pool = builder.runtime(mongo_deadpool::Runtime::Tokio1).build();
        Ok(pool.expect("a pool").into())
    }

    async fn get(&self) -> Result<Self::Guard> {
        Self::get(self).await
    }

    async fn end(self) {
        Backend::close(&self);
    }
}

impl Way for mongo_bb8::Pool {
    type Guard = mongo_bb8::Connection;

    fn build(client: &Client, handlers: EventHandlers, _: &'static Capture) -> Result<Self> {
        let manager = client.factory(handlers).build()?.into();
        Self::build(Self::builder(), manager)
    }

    async fn get(&self) -> Result<Self::Guard> {
        Self::get(self).await
    }

    async fn end(self) {
        Backend::close(&self);
    }
}

impl<B: Backend<Config: Default>> Way for Pools<B> {
    type Guard = PooledConnection<B>;

    fn build(client: &Client, handlers: EventHandlers, capture: &'static Capture) -> Result<Self> {
        let builder = client.pools(handlers, capture);
        capture.see_debug("a builder", &builder);
        builder.build()
    }

    async fn get(&self) -> Result<Self::Guard, Error> {
        Self::get(self).await
    }

    async fn end(self) {
        self.close().await;
    }
}
