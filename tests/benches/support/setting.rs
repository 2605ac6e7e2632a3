//! Creates the compared clients.

use mongodb::Client;
use mongodb::options::ClientOptions;
use tokio::runtime::Runtime;

use crate::operations::{
    Official, Operated, Operation, Ours, OursByDocument, RawSocket, RawSockets,
};
use crate::worker::{Worker, run_all};

pub(crate) const RAW: &str = "raw socket";
pub(crate) const BARE_DEADPOOL: &str = "bare deadpool of raw sockets";
pub(crate) const BARE_BB8: &str = "bare bb8 of raw sockets";
pub(crate) const DEADPOOL: &str = "mongo-deadpool";
pub(crate) const BB8: &str = "mongo-bb8";
pub(crate) const OFFICIAL: &str = "official driver";
pub(crate) const DEADPOOL_DOCUMENT: &str = "mongo-deadpool, by Document";
pub(crate) const BB8_DOCUMENT: &str = "mongo-bb8, by Document";
pub(crate) const DEADPOOL_POOLS: &str = "mongo-deadpool, Pools";
pub(crate) const BB8_POOLS: &str = "mongo-bb8, Pools";
pub(crate) const DEADPOOL_OPERATIONS: &str = "mongo-deadpool, operations";
pub(crate) const BB8_OPERATIONS: &str = "mongo-bb8, operations";
pub(crate) const NAMES: [&str; 12] = [
    RAW,
    BARE_DEADPOOL,
    BARE_BB8,
    DEADPOOL,
    BB8,
    DEADPOOL_DOCUMENT,
    BB8_DOCUMENT,
    DEADPOOL_POOLS,
    BB8_POOLS,
    DEADPOOL_OPERATIONS,
    BB8_OPERATIONS,
    OFFICIAL,
];

pub(crate) struct Setting {
    pub(crate) port: u16,
    /// The members of the replica set, if it is one.
    pub(crate) set: Vec<u16>,
    /// The connections of a pool.
    pub(crate) connections: usize,
    pub(crate) operation: Operation,
}

impl Setting {
    /// A standalone server.
    pub(crate) fn alone_with(port: u16, connections: usize, operation: Operation) -> Self {
        Self {
            port,
            set: Vec::new(),
            connections,
            operation,
        }
    }

    fn url(&self) -> String {
        let size = self.connections;
        if self.set.is_empty() {
            let port = self.port;
            return format!("mongodb://127.0.0.1:{port}/?directConnection=true&maxPoolSize={size}");
        }
        let hosts: Vec<_> = self
            .set
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        let hosts = hosts.join(",");
        format!("mongodb://{hosts}/?replicaSet=rs&maxPoolSize={size}")
    }

    pub(crate) fn deadpool_pools(&self) -> Ours<mongo_deadpool::Pools> {
        Ours {
            pool: mongo_deadpool::Pools::new(&self.url()).expect("pools"),
            operation: self.operation,
        }
    }

    pub(crate) fn bb8_pools(&self) -> Ours<mongo_bb8::Pools> {
        Ours {
            pool: mongo_bb8::Pools::new(&self.url()).expect("pools"),
            operation: self.operation,
        }
    }

    fn sockets(&self) -> RawSockets {
        RawSockets {
            port: self.port,
            operation: self.operation,
        }
    }

    pub(crate) async fn raw(&self) -> RawSocket {
        RawSocket::connect(self.port, self.operation)
            .await
            .expect("a socket")
    }

    pub(crate) fn bare_deadpool(&self) -> deadpool::managed::Pool<RawSockets> {
        let builder = deadpool::managed::Pool::builder(self.sockets()).max_size(self.connections);
        builder.build().expect("a pool")
    }

    pub(crate) fn bare_bb8(&self) -> bb8::Pool<RawSockets> {
        let max_size = u32::try_from(self.connections).expect("a small number");
        bb8::Pool::builder()
            .max_size(max_size)
            .build_unchecked(self.sockets())
    }

    pub(crate) fn deadpool(&self) -> Ours<mongo_deadpool::Pool> {
        let config = mongo_deadpool::Config::from_url(self.url());
        Ours {
            pool: config.create_pool(None).expect("a pool"),
            operation: self.operation,
        }
    }

    pub(crate) fn bb8(&self) -> Ours<mongo_bb8::Pool> {
        let config = mongo_bb8::Config::from_url(self.url());
        Ours {
            pool: config.create_pool(None).expect("a pool"),
            operation: self.operation,
        }
    }

    pub(crate) async fn official(&self) -> Official {
        let options = ClientOptions::parse(self.url()).await.expect("options");
        let client = Client::with_options(options).expect("a client");
        Official {
            database: client.database("admin"),
            operation: self.operation,
        }
    }

    /// Runs one of [`NAMES`], with a number of operations in each task.
    pub(crate) fn alone<'r>(
        &self,
        runtime: &'r Runtime,
        name: &str,
        tasks: usize,
    ) -> Box<dyn FnMut(usize) + 'r> {
        fn by<'r>(runtime: &'r Runtime, workers: Vec<impl Worker>) -> Box<dyn FnMut(usize) + 'r> {
            let mut workers = Some(workers);
            Box::new(move |count| {
                let taken = workers.take().expect("they come back each time");
                workers = Some(runtime.block_on(run(taken, count)));
            })
        }
        let raw = || (0..tasks).map(|_| runtime.block_on(self.raw()));
        match name {
            RAW => by(runtime, raw().collect()),
            BARE_DEADPOOL => by(runtime, vec![self.bare_deadpool(); tasks]),
            BARE_BB8 => by(runtime, vec![self.bare_bb8(); tasks]),
            DEADPOOL => by(runtime, vec![self.deadpool(); tasks]),
            BB8 => by(runtime, vec![self.bb8(); tasks]),
            DEADPOOL_DOCUMENT => by(runtime, vec![OursByDocument(self.deadpool()); tasks]),
            BB8_DOCUMENT => by(runtime, vec![OursByDocument(self.bb8()); tasks]),
            DEADPOOL_POOLS => by(runtime, vec![self.deadpool_pools(); tasks]),
            BB8_POOLS => by(runtime, vec![self.bb8_pools(); tasks]),
            DEADPOOL_OPERATIONS => by(runtime, vec![Operated(self.deadpool_pools()); tasks]),
            BB8_OPERATIONS => by(runtime, vec![Operated(self.bb8_pools()); tasks]),
            OFFICIAL => by(runtime, vec![runtime.block_on(self.official()); tasks]),
            other => panic!("{other} is none of {NAMES:?}"),
        }
    }
}

/// Runs each worker in a task. A single one runs without its own task.
async fn run<W: Worker>(mut workers: Vec<W>, count: usize) -> Vec<W> {
    if let [worker] = &mut workers[..] {
        for _ in 0..count {
            worker.operate().await;
        }
        return workers;
    }
    run_all(workers, count).await
}
