//! The least that a MongoDB client can be measured against: a process of its own, so that its CPU
//! is not the client's, with answers encoded beforehand.

use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use bson::{RawDocumentBuf, rawdoc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// With this argument the bench's own binary is the server.
const ARGUMENT: &str = "--server";

/// Where the first element of a command begins: behind header, flags, section kind and length.
const FIRST_ELEMENT: usize = 16 + 4 + 1 + 4;

/// A server process. Ends with this value, and with this process however that ends.
pub(crate) struct Server {
    child: Child,
    port: u16,
}

impl Server {
    pub(crate) fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .arg(ARGUMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a server process");
        let stdout = child.stdout.take().expect("piped");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("a port");
        let port = line.trim().parse().expect("a port");
        Self { child, port }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves, if this process was started for that.
pub(crate) fn serve_if_asked() {
    if !std::env::args().any(|argument| argument == ARGUMENT) {
        return;
    }
    std::thread::spawn(|| {
        // Ends with whoever started it.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let outcome = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?.port());
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(serve(stream));
        }
    });
    let outcome: io::Result<()> = outcome;
    eprintln!("the server ended: {outcome:?}");
    std::process::exit(1);
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut answers = Answers::new();
    let mut request = Vec::with_capacity(2048);
    loop {
        let whole = |request: &[u8]| match request.first_chunk() {
            Some(length) => request.len() >= i32::from_le_bytes(*length) as usize,
            None => false,
        };
        while !whole(&request) {
            if stream.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        }
        let answer = answers.to(&request);
        stream.write_all(answer).await?;
        request.clear();
    }
}

/// Whole messages, but for the id of the request.
struct Answers {
    ping: Vec<u8>,
    find: Vec<u8>,
    large: Vec<u8>,
    hello: Vec<u8>,
}

impl Answers {
    fn new() -> Self {
        let document = rawdoc! { "_id": 1, "name": "a name of some length", "tags": ["a", "b"], "price": 12.5 };
        let batch = rawdoc! { "id": 0_i64, "ns": "app.things", "firstBatch": [document] };
        Self {
            ping: message(&rawdoc! { "ok": 1.0 }),
            find: message(&rawdoc! { "cursor": batch, "ok": 1.0 }),
            large: message(&rawdoc! { "text": "x".repeat(64 * 1024), "ok": 1.0 }),
            hello: message(&rawdoc! {
                "helloOk": true,
                "isWritablePrimary": true,
                "ismaster": true,
                "maxBsonObjectSize": 16 * 1024 * 1024,
                "maxMessageSizeBytes": 48_000_000,
                "maxWriteBatchSize": 100_000,
                "logicalSessionTimeoutMinutes": 30,
                "minWireVersion": 0,
                "maxWireVersion": 25,
                "readOnly": false,
                "ok": 1.0,
            }),
        }
    }

    fn to(&mut self, request: &[u8]) -> &[u8] {
        let name = request.get(FIRST_ELEMENT + 1..).unwrap_or_default();
        let answer = match name {
            name if name.starts_with(b"ping\0") => &mut self.ping,
            name if name.starts_with(b"find\0") => &mut self.find,
            name if name.starts_with(b"large\0") => &mut self.large,
            _ => &mut self.hello,
        };
        answer[8..12].copy_from_slice(&request[4..8]);
        answer
    }
}

/// An OP_MSG of one document.
pub(crate) fn message(document: &RawDocumentBuf) -> Vec<u8> {
    let body = document.as_bytes();
    let mut message = ((16 + 4 + 1 + body.len()) as i32).to_le_bytes().to_vec();
    for int in [1, 0, 2013, 0_i32] {
        message.extend_from_slice(&int.to_le_bytes());
    }
    message.push(0);
    message.extend_from_slice(body);
    message
}
