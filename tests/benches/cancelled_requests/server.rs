//! A server with two commands, on its own thread: hello, and `{echo: <number>, reply: <length>,
//! delay: <milliseconds>, …}`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bson::{Document, RawDocument, doc};
use mongo_testkit::codec;
use tokio::io::{self, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;

use crate::SMALL_BUFFER;

/// The offset of the body of an OP_MSG: after the header, the flags and the section's kind.
const BODY: usize = 21;

pub(crate) struct Server {
    address: SocketAddr,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    accepted: AtomicUsize,
    open: AtomicUsize,
}

impl Server {
    /// Serves until the process ends.
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let seen = Arc::new(Seen::default());
        let listener = {
            let _entered = runtime.enter();
            let socket = TcpSocket::new_v4().expect("a socket");
            let small = socket.set_recv_buffer_size(SMALL_BUFFER);
            small.expect("a small receive buffer");
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            socket.bind(any).expect("a port");
            socket.listen(1024).expect("a listener")
        };
        let address = listener.local_addr().expect("bound");
        let shared = seen.clone();
        std::thread::spawn(move || {
            runtime.block_on(async {
                loop {
                    let (stream, _) = listener.accept().await.expect("a connection");
                    shared.accepted.fetch_add(1, SeqCst);
                    shared.open.fetch_add(1, SeqCst);
                    let shared = shared.clone();
                    tokio::spawn(async move {
                        // An error means that the client ended the connection.
                        let _ = serve(stream).await;
                        shared.open.fetch_sub(1, SeqCst);
                    });
                }
            });
        });
        Self { address, seen }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The number of connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.seen.accepted.load(SeqCst)
    }

    /// The number of open connections.
    pub(crate) fn open(&self) -> usize {
        self.seen.open.load(SeqCst)
    }
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut received = Vec::new();
    let mut last_id = 0;
    loop {
        let length = codec::message_length(&received).expect("a client sends messages");
        match length.filter(|length| *length <= received.len()) {
            Some(length) => {
                last_id += 1;
                answer(&mut stream, &received[..length], last_id).await?;
                received.drain(..length);
            }
            None if stream.read_buf(&mut received).await? == 0 => return Ok(()),
            None => {}
        }
    }
}

async fn answer(stream: &mut TcpStream, request: &[u8], id: i32) -> io::Result<()> {
    let command = RawDocument::from_bytes(&request[BODY..]).expect("a command");
    let Ok(number) = command.get_i64("echo") else {
        return stream.write_all(&reply(request, id, &hello())).await;
    };
    let length = command.get_i32("reply").unwrap_or(0);
    let pad = "y".repeat(usize::try_from(length).unwrap_or(0));
    let message = reply(request, id, &doc! { "echo": number, "pad": pad, "ok": 1.0 });
    match command.get_i32("delay") {
        Ok(delay) if delay > 0 => {
            let delay = Duration::from_millis(u64::from(delay.unsigned_abs()));
            sleep(delay).await;
            stream.write_all(&message).await
        }
        // In two halves: the second one is sent after the client has received the first.
        Ok(_) => {
            let (first, second) = message.split_at(message.len() / 2);
            stream.write_all(first).await?;
            tokio::task::yield_now().await;
            sleep(Duration::from_millis(1)).await;
            stream.write_all(second).await
        }
        Err(_) => stream.write_all(&message).await,
    }
}

fn reply(request: &[u8], id: i32, document: &Document) -> Vec<u8> {
    let mut message = codec::encode_command(id, 0, document);
    message[8..12].copy_from_slice(&request[4..8]);
    message
}

fn hello() -> Document {
    doc! {
        "ismaster": true,
        "helloOk": true,
        "maxBsonObjectSize": 16 * 1024 * 1024,
        "maxMessageSizeBytes": 48_000_000,
        "maxWriteBatchSize": 100_000,
        "minWireVersion": 0,
        "maxWireVersion": 25,
        "ok": 1.0,
    }
}
