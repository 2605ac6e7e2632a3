//! One command round trip over each kind of client.

use std::io;
use std::sync::Arc;

use bson::{Document, doc, rawdoc};
use deadpool::managed::{Metrics, RecycleResult};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use mongo_core::operation::OperationKind;
use mongo_core::pools::{Backend, Pools};

use crate::server::message;
use crate::worker::Worker;

/// The command of an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Ping,
    /// Finds one document by `_id`. The reply is converted to an owned one.
    Find,
}

/// The commands as application types.
#[derive(Serialize)]
struct Ping {
    ping: i32,
}

#[derive(Serialize)]
struct Find<'a> {
    find: &'a str,
    filter: ById,
    limit: i32,
}

#[derive(Serialize)]
struct ById {
    _id: i32,
}

impl Operation {
    fn document(self) -> Document {
        match self {
            Self::Ping => doc! { "ping": 1 },
            Self::Find => doc! { "find": "things", "filter": { "_id": 1 }, "limit": 1 },
        }
    }

    fn message(self) -> Vec<u8> {
        message(&match self {
            Self::Ping => rawdoc! { "ping": 1, "$db": "admin" },
            Self::Find => {
                rawdoc! { "find": "things", "filter": { "_id": 1 }, "limit": 1, "$db": "admin" }
            }
        })
    }
}

/// A socket, and a pre-encoded request.
pub(crate) struct RawSocket {
    stream: TcpStream,
    request: Arc<[u8]>,
    reply: Box<[u8; 512]>,
}

impl RawSocket {
    pub(crate) async fn connect(port: u16, operation: Operation) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            request: operation.message().into(),
            reply: Box::new([0; 512]),
        })
    }

    async fn round_trip(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.request).await?;
        let mut got = 0;
        loop {
            got += self.stream.read(&mut self.reply[got..]).await?;
            let length = self.reply.first_chunk().expect("four bytes");
            if got >= 4 && got >= i32::from_le_bytes(*length) as usize {
                return Ok(());
            }
        }
    }
}

impl Worker for RawSocket {
    async fn operate(&mut self) {
        self.round_trip().await.expect("an answer");
    }
}

/// A manager of [`RawSocket`]s, for a bare pool.
pub(crate) struct RawSockets {
    pub(crate) port: u16,
    pub(crate) operation: Operation,
}

impl deadpool::managed::Manager for RawSockets {
    type Type = RawSocket;
    type Error = io::Error;

    async fn create(&self) -> io::Result<RawSocket> {
        RawSocket::connect(self.port, self.operation).await
    }

    async fn recycle(&self, _: &mut RawSocket, _: &Metrics) -> RecycleResult<io::Error> {
        Ok(())
    }
}

impl bb8::ManageConnection for RawSockets {
    type Connection = RawSocket;
    type Error = io::Error;

    async fn connect(&self) -> io::Result<RawSocket> {
        RawSocket::connect(self.port, self.operation).await
    }

    async fn is_valid(&self, _: &mut RawSocket) -> io::Result<()> {
        Ok(())
    }

    fn has_broken(&self, _: &mut RawSocket) -> bool {
        false
    }
}

impl Worker for deadpool::managed::Pool<RawSockets> {
    async fn operate(&mut self) {
        self.get().await.expect("a socket").operate().await;
    }
}

impl Worker for bb8::Pool<RawSockets> {
    async fn operate(&mut self) {
        (*self).get().await.expect("a socket").operate().await;
    }
}

/// This workspace's pool: checks out, encodes the command each time, runs it, checks in.
#[derive(Clone)]
pub(crate) struct Ours<P> {
    pub(crate) pool: P,
    pub(crate) operation: Operation,
}

/// The same with the command as a [`Document`], a map that is built and dropped each time.
#[derive(Clone)]
pub(crate) struct OursByDocument<P>(pub(crate) Ours<P>);

macro_rules! ours {
    ($($pool:ty),+) => {
        $(impl Worker for Ours<$pool> {
            async fn operate(&mut self) {
                let mut connection = self.pool.get().await.expect("a connection");
                match self.operation {
                    Operation::Ping => {
                        let ping = Ping { ping: 1 };
                        connection.run_command("admin", &ping).await.expect("ok");
                    }
                    Operation::Find => {
                        let find = Find { find: "things", filter: ById { _id: 1 }, limit: 1 };
                        let reply = connection.run_command("admin", &find).await.expect("ok");
                        drop(std::hint::black_box(reply.into_owned()));
                    }
                }
            }
        }

        impl Worker for OursByDocument<$pool> {
            async fn operate(&mut self) {
                let mut connection = self.0.pool.get().await.expect("a connection");
                let command = self.0.operation.document();
                let reply = connection.run_command("admin", &command).await.expect("ok");
                std::hint::black_box(match self.0.operation {
                    Operation::Ping => None,
                    Operation::Find => Some(reply.into_owned()),
                });
            }
        })+
    };
}
ours!(
    mongo_deadpool::Pool,
    mongo_bb8::Pool,
    mongo_deadpool::Pools,
    mongo_bb8::Pools
);

/// Operations with a session, retries, and for `find` a cursor.
#[derive(Clone)]
pub(crate) struct Operated<P>(pub(crate) Ours<P>);

impl<B: Backend> Worker for Operated<Pools<B>> {
    async fn operate(&mut self) {
        let pools = &self.0.pool;
        match self.0.operation {
            Operation::Ping => {
                let reply = pools.command("admin", &Ping { ping: 1 }).await;
                drop(std::hint::black_box(reply.expect("ok")));
            }
            Operation::Find => {
                let filter = ById { _id: 1 };
                let find = Find {
                    find: "things",
                    filter,
                    limit: 1,
                };
                let find = pools.command("admin", &find).kind(OperationKind::Read);
                let mut cursor = find.cursor().await.expect("a cursor");
                while let Some(document) = cursor.next_document().await.expect("a document") {
                    std::hint::black_box(document.to_owned());
                }
            }
        }
    }
}

/// The official driver.
#[derive(Clone)]
pub(crate) struct Official {
    pub(crate) database: mongodb::Database,
    pub(crate) operation: Operation,
}

impl Worker for Official {
    async fn operate(&mut self) {
        // The driver's own `Document` type.
        let command = match self.operation {
            Operation::Ping => mongodb::bson::doc! { "ping": 1 },
            Operation::Find => {
                mongodb::bson::doc! { "find": "things", "filter": { "_id": 1 }, "limit": 1 }
            }
        };
        let reply = self.database.run_command(command).await;
        std::hint::black_box(reply.expect("ok"));
    }
}
