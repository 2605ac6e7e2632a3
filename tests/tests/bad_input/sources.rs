//! Sources of connections: without a pool, and each pool.

use std::ops::DerefMut;

use mongo_core::pools::{ConnectionFactory, ManagerConfig};
use mongo_core::{ClientOptions, Connection, Deadline, Error};

pub(crate) trait Source {
    type Guard: DerefMut<Target = Connection>;

    fn build(uri: &str, manager: ManagerConfig) -> Self;
    async fn get(&self) -> Result<Self::Guard, Error>;
}

pub(crate) struct Core(ConnectionFactory);

impl Source for Core {
    type Guard = Box<Connection>;

    fn build(uri: &str, manager: ManagerConfig) -> Self {
        let options = options(uri);
        let factory = ConnectionFactory::builder(options).config(manager).build();
        Self(factory.expect("a factory"))
    }

    async fn get(&self) -> Result<Self::Guard, Error> {
        self.0.establish(Deadline::never()).await.map(Box::new)
    }
}

fn options(uri: &str) -> ClientOptions {
    let mut options = ClientOptions::parse(uri).expect("a connection string");
    // For attacks without TLS.
    options.allow_plain_without_tls = true;
    options
}

macro_rules! pooled {
    ($backend:ident) => {
        impl Source for $backend::Pool {
            type Guard = $backend::Connection;

            fn build(uri: &str, manager: ManagerConfig) -> Self {
                let mut config = $backend::Config::from_options(options(uri));
                config.manager = Some(manager);
                let pool = config.create_pool(Some($backend::Runtime::Tokio1));
                pool.expect("a pool")
            }

            async fn get(&self) -> Result<Self::Guard, Error> {
                Self::get(self).await
            }
        }
    };
}

pooled!(mongo_deadpool);
pooled!(mongo_bb8);
