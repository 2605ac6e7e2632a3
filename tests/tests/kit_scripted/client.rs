//! A minimal client for the kit's own tests: a socket and the kit's codec.

use std::time::Duration;

use bson::{Document, doc};
use mongo_testkit::codec::{self, Reply};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The time limit for a single step.
pub(crate) const BOUND: Duration = Duration::from_secs(10);

pub(crate) struct BareClient {
    stream: TcpStream,
    buffer: Vec<u8>,
    last_id: i32,
}

impl BareClient {
    pub(crate) async fn connect(address: &str) -> Self {
        let stream = timeout(BOUND, TcpStream::connect(address))
            .await
            .expect("connecting to loopback takes no time")
            .expect("the server listens");
        Self {
            stream,
            buffer: Vec::new(),
            last_id: 0,
        }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream
            .write_all(bytes)
            .await
            .expect("the server reads");
    }

    /// Sends a command without waiting for the reply, and returns the request id.
    pub(crate) async fn send(&mut self, mut command: Document) -> i32 {
        if !command.contains_key("$db") {
            command.insert("$db", "test");
        }
        self.last_id += 1;
        self.write(&codec::encode_command(self.last_id, 0, &command))
            .await;
        self.last_id
    }

    /// The bytes of the next message, `None` after an orderly close by the server.
    pub(crate) async fn message(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        loop {
            if let Ok(Some(length)) = codec::message_length(&self.buffer)
                && length <= self.buffer.len()
            {
                let rest = self.buffer.split_off(length);
                return Ok(Some(std::mem::replace(&mut self.buffer, rest)));
            }
            let read = timeout(BOUND, self.stream.read_buf(&mut self.buffer));
            if read
                .await
                .expect("the server writes or closes within the bound")?
                == 0
            {
                return Ok(None);
            }
        }
    }

    pub(crate) async fn receive(&mut self) -> Reply {
        let message = self
            .message()
            .await
            .expect("no I/O error")
            .expect("a reply");
        Reply::decode(&message).expect("a sound reply")
    }

    /// Runs a command and checks that the reply answers it.
    pub(crate) async fn run(&mut self, command: Document) -> Document {
        let id = self.send(command).await;
        let reply = self.receive().await;
        assert_eq!(reply.response_to, id);
        reply.body
    }

    /// All bytes up to the end of the stream, and the error that ended it.
    pub(crate) async fn rest(&mut self) -> (Vec<u8>, std::io::Result<()>) {
        let end = loop {
            let read = timeout(BOUND, self.stream.read_buf(&mut self.buffer));
            match read.await.expect("the server closes within the bound") {
                Ok(0) => break Ok(()),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
        };
        (std::mem::take(&mut self.buffer), end)
    }

    pub(crate) async fn hello(&mut self) -> Document {
        self.run(doc! {"hello": 1, "$db": "admin"}).await
    }
}
