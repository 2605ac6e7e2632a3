//! A minimal server for measuring MongoDB clients: its own process, so that its CPU does not count
//! for the client, with pre-encoded replies.

use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use bson::spec::BinarySubtype;
use bson::{Binary, RawDocumentBuf, rawdoc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// With this argument, followed by the number of members, the bench's own binary runs as the
/// server.
const ARGUMENT: &str = "--server";

/// The offset of the first element of a command: after header, flags, section kind and length.
const FIRST_ELEMENT: usize = 16 + 4 + 1 + 4;

/// A server process. It ends with this value, and with this process.
pub(crate) struct Server {
    child: Child,
    ports: Vec<u16>,
}

impl Server {
    /// Starts a standalone server, or a replica set of `members`, whose first member is the
    /// primary.
    pub(crate) fn start(members: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args([ARGUMENT, &members.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a server process");
        let stdout = child.stdout.take().expect("piped");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("a port");
        let ports = line.split_whitespace();
        let ports = ports.map(|port| port.parse().expect("a port")).collect();
        Self { child, ports }
    }

    pub(crate) fn ports(&self) -> &[u16] {
        &self.ports
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the server, if this process was started for it.
pub(crate) fn serve_if_asked() {
    let mut arguments = std::env::args().skip_while(|argument| argument != ARGUMENT);
    let Some(members) = arguments.nth(1) else {
        return;
    };
    let members: usize = members.parse().expect("a number");
    std::thread::spawn(|| {
        // Ends with its parent process.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let outcome = runtime.block_on(async {
        let mut listeners = Vec::new();
        for _ in 0..members {
            listeners.push(TcpListener::bind("127.0.0.1:0").await?);
        }
        let mut ports = Vec::new();
        for listener in &listeners {
            ports.push(listener.local_addr()?.port());
        }
        let shown: Vec<_> = ports.iter().map(u16::to_string).collect();
        println!("{}", shown.join(" "));
        let serving = listeners.into_iter().enumerate().map(|(member, listener)| {
            let ports = ports.clone();
            tokio::spawn(accept(listener, ports, member))
        });
        for serving in serving.collect::<Vec<_>>() {
            serving.await.expect("no panic")?;
        }
        Ok(())
    });
    let outcome: io::Result<()> = outcome;
    eprintln!("the server ended: {outcome:?}");
    std::process::exit(1);
}

async fn accept(listener: TcpListener, ports: Vec<u16>, member: usize) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(serve(stream, Answers::new(&ports, member)));
    }
}

async fn serve(mut stream: TcpStream, mut answers: Answers) -> io::Result<()> {
    stream.set_nodelay(true)?;
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

/// Complete messages, except for the id of the request.
struct Answers {
    ping: Vec<u8>,
    find: Vec<u8>,
    large: Vec<u8>,
    /// The reply to PLAIN authentication.
    login: Vec<u8>,
    hello: Vec<u8>,
}

impl Answers {
    fn new(ports: &[u16], member: usize) -> Self {
        let document = rawdoc! { "_id": 1, "name": "a name of some length", "tags": ["a", "b"], "price": 12.5 };
        let batch = rawdoc! { "id": 0_i64, "ns": "app.things", "firstBatch": [document] };
        let payload = Binary {
            subtype: BinarySubtype::Generic,
            bytes: Vec::new(),
        };
        Self {
            ping: message(&rawdoc! { "ok": 1.0 }),
            find: message(&rawdoc! { "cursor": batch, "ok": 1.0 }),
            large: message(&rawdoc! { "text": "x".repeat(64 * 1024), "ok": 1.0 }),
            login: message(
                &rawdoc! { "conversationId": 1, "done": true, "payload": payload, "ok": 1.0 },
            ),
            hello: message(&hello(ports, member)),
        }
    }

    fn to(&mut self, request: &[u8]) -> &[u8] {
        let name = request.get(FIRST_ELEMENT + 1..).unwrap_or_default();
        let answer = match name {
            name if name.starts_with(b"ping\0") => &mut self.ping,
            name if name.starts_with(b"find\0") => &mut self.find,
            name if name.starts_with(b"large\0") => &mut self.large,
            name if name.starts_with(b"saslStart\0") => &mut self.login,
            _ => &mut self.hello,
        };
        answer[8..12].copy_from_slice(&request[4..8]);
        answer
    }
}

fn hello(ports: &[u16], member: usize) -> RawDocumentBuf {
    let is_primary = member == 0;
    let mut hello = rawdoc! {
        "helloOk": true,
        "isWritablePrimary": is_primary,
        "ismaster": is_primary,
        "maxBsonObjectSize": 16 * 1024 * 1024,
        "maxMessageSizeBytes": 48_000_000,
        "maxWriteBatchSize": 100_000,
        "logicalSessionTimeoutMinutes": 30,
        "minWireVersion": 0,
        "maxWireVersion": 25,
        "readOnly": false,
        "ok": 1.0,
    };
    if ports.len() > 1 {
        let address = |port: &u16| format!("127.0.0.1:{port}");
        let mut hosts = bson::RawArrayBuf::new();
        ports.iter().for_each(|port| hosts.push(address(port)));
        hello.append(bson::cstr!("setName"), "rs");
        hello.append(bson::cstr!("secondary"), !is_primary);
        hello.append(bson::cstr!("hosts"), hosts);
        hello.append(bson::cstr!("me"), address(&ports[member]));
        hello.append(bson::cstr!("primary"), address(&ports[0]));
    }
    hello
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
