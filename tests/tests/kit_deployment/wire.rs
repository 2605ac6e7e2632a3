//! A minimal client over any stream.

use std::time::Duration;

use bson::{Bson, Document, doc};
use mongo_testkit::codec::{self, EXHAUST_ALLOWED, Reply};
use mongo_testkit::{ByteStream, Deployment};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The time limit for a single step.
pub(crate) const BOUND: Duration = Duration::from_secs(10);

pub(crate) struct Wire<S = TcpStream> {
    stream: S,
    buffer: Vec<u8>,
    last_id: i32,
}

impl Wire {
    pub(crate) async fn connect(deployment: &Deployment, server: usize) -> Self {
        let connect = TcpStream::connect(deployment.address(server));
        let stream = timeout(BOUND, connect).await.expect("connecting is quick");
        Wire::over(stream.expect("the server listens"))
    }
}

impl<S: ByteStream> Wire<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            last_id: 0,
        }
    }

    pub(crate) async fn send(&mut self, mut command: Document, flags: u32) -> i32 {
        if !command.contains_key("$db") {
            command.insert("$db", "test");
        }
        self.last_id += 1;
        let message = codec::encode_command(self.last_id, flags, &command);
        self.stream
            .write_all(&message)
            .await
            .expect("the server reads");
        self.last_id
    }

    /// The next reply, `None` when the connection has ended.
    pub(crate) async fn try_receive(&mut self) -> Option<Reply> {
        loop {
            if let Ok(Some(length)) = codec::message_length(&self.buffer)
                && length <= self.buffer.len()
            {
                let rest = self.buffer.split_off(length);
                let message = std::mem::replace(&mut self.buffer, rest);
                return Some(Reply::decode(&message).expect("a sound reply"));
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    pub(crate) async fn receive(&mut self) -> Reply {
        let reply = timeout(BOUND, self.try_receive()).await;
        reply.expect("a reply in time").expect("a reply")
    }

    pub(crate) async fn run(&mut self, command: Document) -> Document {
        let id = self.send(command, 0).await;
        let reply = self.receive().await;
        assert_eq!(reply.response_to, id);
        reply.body
    }

    /// The `code` of an error reply, 0 for `ok: 1`.
    pub(crate) async fn code(&mut self, command: Document) -> i32 {
        let reply = self.run(command).await;
        reply.get_i32("code").unwrap_or(0)
    }

    pub(crate) async fn hello(&mut self) -> Document {
        self.run(doc! {"hello": 1, "$db": "admin"}).await
    }

    /// Sends a hello that waits for a change from `known`.
    pub(crate) async fn await_hello(
        &mut self,
        known: &Document,
        limit: Duration,
        is_exhaust: bool,
    ) -> i32 {
        let millis = i64::try_from(limit.as_millis()).expect("a short time");
        let command = doc! {
            "hello": 1,
            "topologyVersion": known.get("topologyVersion").cloned().unwrap_or(Bson::Null),
            "maxAwaitTimeMS": millis,
            "$db": "admin",
        };
        let flags = if is_exhaust { EXHAUST_ALLOWED } else { 0 };
        self.send(command, flags).await
    }
}

/// The first hello of an application.
pub(crate) fn first_hello(application: &str) -> Document {
    doc! {
        "hello": 1,
        "client": {
            "application": {"name": application},
            "driver": {"name": "kit", "version": "1"},
            "os": {"type": "any"},
        },
        "$db": "admin",
    }
}

pub(crate) fn is_primary(hello: &Document) -> bool {
    hello.get_bool("isWritablePrimary").expect("a hello")
}

pub(crate) fn counter(hello: &Document) -> i64 {
    let version = hello.get_document("topologyVersion").expect("a version");
    version.get_i64("counter").expect("a counter")
}
