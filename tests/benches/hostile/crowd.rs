//! Servers without number: one port, and all addresses of loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bson::{RawArrayBuf, RawDocumentBuf, rawdoc};
use mongo_core::ClientOptions;
use mongo_core::net::Topology;
use mongo_testkit::codec::{self, Form, HEADER_LENGTH, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// What the servers do.
#[derive(Clone, Copy)]
pub(crate) enum Crowd {
    /// One names 60 hosts, each of which announces and sends a reply of 47 MB to hello.
    LongReplies,
    /// Each names 990 others in every hello; a secondary, or else a primary.
    NewHosts { role: &'static str },
}

/// Bytes that are announced and sent, if they are read.
const LENGTH: usize = 47_000_000;
/// Hosts that the one names.
const HOSTS: u32 = 60;
/// Hosts that each names in each hello.
const NEW_HOSTS: u32 = 990;
/// How long a client is watched: so long that each server is asked twice.
pub(crate) const TIME: Duration = Duration::from_secs(12);

impl Crowd {
    pub(crate) fn name(self) -> String {
        match self {
            Self::LongReplies => format!("plain/hello/47 MB from each of {HOSTS} hosts"),
            Self::NewHosts { role } => {
                format!("plain/hello/{NEW_HOSTS} new hosts in each, of a {role}")
            }
        }
    }

    /// Connections that a client may have at most: each server's two, for heartbeats and for
    /// round-trip times.
    pub(crate) fn connections(self) -> u64 {
        match self {
            Self::LongReplies => 2 * u64::from(HOSTS + 1),
            Self::NewHosts { .. } => 2 * 1000,
        }
    }
}

/// The servers, until it is dropped.
pub(crate) struct Servers {
    pub(crate) uri: String,
    task: AbortHandle,
}

impl Servers {
    pub(crate) async fn start(crowd: Crowd) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await;
        let listener = listener.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let script = Arc::new(Script {
            crowd,
            port,
            named: AtomicU32::new(0),
            filling: vec![0x0A; 1024 * 1024],
        });
        let task = tokio::spawn(async move {
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    let script = Arc::clone(&script);
                    tokio::spawn(async move { script.serve(stream).await });
                }
            }
        });
        Self {
            uri: format!("mongodb://127.0.0.1:{port}/?replicaSet=rs"),
            task: task.abort_handle(),
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Script {
    crowd: Crowd,
    port: u16,
    /// How many hosts were named so far.
    named: AtomicU32,
    filling: Vec<u8>,
}

impl Script {
    /// Until the client has enough.
    async fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let is_first = matches!(stream.local_addr(), Ok(SocketAddr::V4(own)) if *own.ip() == Ipv4Addr::LOCALHOST);
        loop {
            let mut message = vec![0; HEADER_LENGTH];
            stream.read_exact(&mut message).await.ok()?;
            let length = codec::message_length(&message).ok()??;
            message.resize(length, 0);
            stream
                .read_exact(&mut message[HEADER_LENGTH..])
                .await
                .ok()?;
            let request = Request::decode(&message).ok()?;
            let (hosts, role) = match self.crowd {
                Crowd::LongReplies if !is_first => {
                    let head = header(&request, LENGTH);
                    stream.write_all(&head).await.ok()?;
                    for _ in 0..LENGTH / self.filling.len() {
                        stream.write_all(&self.filling).await.ok()?;
                    }
                    return None;
                }
                Crowd::LongReplies => (1..=HOSTS, "secondary"),
                Crowd::NewHosts { role } => {
                    let first = self.named.fetch_add(NEW_HOSTS, Ordering::Relaxed) + 1;
                    (first..=first + NEW_HOSTS - 1, role)
                }
            };
            let mut list = RawArrayBuf::new();
            let hosts = hosts.map(|number| Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + number));
            hosts.for_each(|host| list.push(format!("{host}:{}", self.port)));
            let hello = rawdoc! {
                "ok": 1, "setName": "rs", "hosts": list, "maxWireVersion": 21, "minWireVersion": 0,
                "isWritablePrimary": role == "primary", "ismaster": role == "primary",
                "secondary": role == "secondary", "maxBsonObjectSize": 16_777_216,
                "maxMessageSizeBytes": 48_000_000, "maxWriteBatchSize": 100_000,
            };
            stream.write_all(&reply(&request, &hello)).await.ok()?;
        }
    }
}

/// All of a reply but its document.
fn header(request: &Request, length: usize) -> Vec<u8> {
    let (op_code, rest) = match request.form {
        // Flags, and the kind of the section.
        Form::Msg => (codec::OP_MSG, vec![0; 5]),
        // Flags, a cursor, where it begins, and how many documents come.
        Form::Query => (
            codec::OP_REPLY,
            [[0; 16].as_slice(), &[1, 0, 0, 0]].concat(),
        ),
    };
    let fields = [length as i32, 1, request.request_id, op_code];
    let mut head = fields.map(i32::to_le_bytes).concat();
    head.extend(rest);
    head
}

fn reply(request: &Request, body: &RawDocumentBuf) -> Vec<u8> {
    let length = header(request, 0).len() + body.as_bytes().len();
    let mut message = header(request, length);
    message.extend(body.as_bytes());
    message
}

/// The most that was seen of a client.
#[derive(Default)]
struct Most {
    servers: usize,
    descriptors: usize,
}

/// Looks from a thread of its own, so that the client's is not held up.
fn look(servers: impl Fn() -> usize + Send + 'static) -> std::thread::JoinHandle<Most> {
    std::thread::spawn(move || {
        let (begin, mut most) = (Instant::now(), Most::default());
        while begin.elapsed() < TIME - Duration::from_millis(200) {
            let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
            most.descriptors = most.descriptors.max(descriptors);
            most.servers = most.servers.max(servers());
            std::thread::sleep(Duration::from_millis(100));
        }
        most
    })
}

fn told(most: std::thread::Result<Most>) -> String {
    let Most {
        servers,
        descriptors,
    } = most.expect("no panic");
    format!("{servers} servers, {descriptors} descriptors")
}

pub(crate) async fn ours(uri: &str) -> mongo_core::Result<String> {
    let topology = Topology::new(ClientOptions::parse(uri)?)?;
    topology.connect()?;
    let watched = topology.clone();
    let looking = look(move || watched.description().servers().len());
    tokio::time::sleep(TIME).await;
    Ok(told(looking.join()))
}

pub(crate) async fn theirs(uri: &str) -> mongodb::error::Result<String> {
    use mongodb::event::EventHandler;
    use mongodb::event::sdam::SdamEvent;
    let mut options = mongodb::options::ClientOptions::parse(uri).await?;
    let number = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&number);
    options.sdam_event_handler = Some(EventHandler::callback(move |event| {
        if let SdamEvent::TopologyDescriptionChanged(event) = event {
            let servers = event.new_description.servers().len();
            seen.store(servers as u32, Ordering::Relaxed);
        }
    }));
    let client = mongodb::Client::with_options(options)?;
    let looking = look(move || number.load(Ordering::Relaxed) as usize);
    tokio::time::sleep(TIME).await;
    drop(client);
    Ok(told(looking.join()))
}
