//! A name server on loopback.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

const TYPE_CNAME: u16 = 5;
const TYPE_TXT: u16 = 16;
const TYPE_SRV: u16 = 33;
const CLASS_IN: u16 = 1;
const SERVER_FAILURE: u16 = 2;
const NO_SUCH_NAME: u16 = 3;

/// The longest response over UDP, in bytes. A longer one is truncated, so that clients repeat the
/// query over TCP.
const UDP_LIMIT: usize = 512;

/// The time to live of all records, in seconds.
const TTL: u32 = 5;

/// How a name server answers queries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameServerConduct {
    /// Answers from its records.
    #[default]
    Answers,
    /// Answers `SERVFAIL`.
    Fails,
    /// Does not answer.
    Silent,
    /// Does not answer queries for TXT records.
    SilentOnText,
}

/// A name server over UDP and TCP for SRV, TXT and CNAME records. It serves on tasks of the current
/// runtime; dropping it ends them. A test may change its records.
#[derive(Debug)]
pub struct NameServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct State {
    conduct: NameServerConduct,
    /// Keyed by the name in lower case and the type.
    records: HashMap<(String, u16), Vec<Vec<u8>>>,
    aliases: HashMap<String, String>,
    asked: Vec<(String, u16)>,
}

impl NameServer {
    /// Starts a name server without records.
    ///
    /// # Panics
    /// If no loopback port is available, or outside a tokio runtime.
    pub async fn start() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
            let address = udp.local_addr().expect("bound");
            // The TCP port of the same number may be in use.
            if let Ok(tcp) = TcpListener::bind(address).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().expect("bound");
        let state = Arc::<Mutex<State>>::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, state.clone()));
        tasks.spawn(serve_tcp(tcp, state.clone()));
        Self {
            address,
            state,
            _tasks: tasks,
        }
    }

    /// The address at which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the SRV records of a name: hosts and ports.
    pub fn set_hosts<'a>(&self, name: &str, hosts: impl IntoIterator<Item = (&'a str, u16)>) {
        let data = |(host, port): (&str, u16)| {
            let numbers = [0, 0, port].map(u16::to_be_bytes).concat();
            [numbers, wire_name(host)].concat()
        };
        self.set(name, TYPE_SRV, hosts.into_iter().map(data).collect());
    }

    /// Sets the TXT records of a name, each of one string of at most 255 bytes.
    pub fn set_texts<'a>(&self, name: &str, texts: impl IntoIterator<Item = &'a str>) {
        let data = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
        self.set(name, TYPE_TXT, texts.into_iter().map(data).collect());
    }

    /// Makes a name an alias of another one (CNAME). Answers include the other name's records, as
    /// those of recursive servers do.
    pub fn set_alias(&self, name: &str, target: &str) {
        self.lock()
            .aliases
            .insert(name.to_ascii_lowercase(), target.to_ascii_lowercase());
    }

    /// Sets how it answers queries from now on.
    pub fn conduct(&self, conduct: NameServerConduct) {
        self.lock().conduct = conduct;
    }

    /// The names that were queried so far, and the types as in RFC 1035.
    pub fn asked(&self) -> Vec<(String, u16)> {
        self.lock().asked.clone()
    }

    fn set(&self, name: &str, record_type: u16, data: Vec<Vec<u8>>) {
        let key = (name.to_ascii_lowercase(), record_type);
        self.lock().records.insert(key, data);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve_udp(socket: UdpSocket, state: Arc<Mutex<State>>) {
    let mut query = [0; 2048];
    while let Ok((length, peer)) = socket.recv_from(&mut query).await {
        let response = lock(&state).respond(&query[..length], UDP_LIMIT);
        if let Some(response) = response {
            let _ = socket.send_to(&response, peer).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        let state = state.clone();
        connections.spawn(async move {
            while let Ok(length) = stream.read_u16().await {
                let mut query = vec![0; length.into()];
                if stream.read_exact(&mut query).await.is_err() {
                    return;
                }
                let response = lock(&state).respond(&query, usize::from(u16::MAX));
                let Some(response) = response else { continue };
                let length = (response.len() as u16).to_be_bytes();
                if stream
                    .write_all(&[&length, &*response].concat())
                    .await
                    .is_err()
                {
                    return;
                }
            }
        });
    }
}

impl State {
    /// The response to a query (RFC 1035), if the server responds.
    fn respond(&mut self, query: &[u8], limit: usize) -> Option<Vec<u8>> {
        let (name, end) = read_name(query, 12)?;
        let question = query.get(12..end + 4)?;
        let record_type =
            u16::from_be_bytes([question[question.len() - 4], question[question.len() - 3]]);
        self.asked.push((name.clone(), record_type));
        match (self.conduct, record_type) {
            (NameServerConduct::Silent, _) | (NameServerConduct::SilentOnText, TYPE_TXT) => {
                return None;
            }
            (NameServerConduct::Fails, _) => {
                return Some([&header(query, 0x8180 | SERVER_FAILURE, 0), question].concat());
            }
            (NameServerConduct::Answers | NameServerConduct::SilentOnText, _) => {}
        }
        let records = self.answer(name, record_type);
        let code = if records.is_empty() { NO_SUCH_NAME } else { 0 };
        let flags = 0x8180 | code;
        let whole = [
            &header(query, flags, records.len()),
            question,
            &records.concat(),
        ]
        .concat();
        Some(match whole.len() > limit {
            true => [&header(query, 0x8380, 0), question].concat(),
            false => whole,
        })
    }

    /// The records of an answer, with the aliases that lead to them.
    fn answer(&self, mut name: String, record_type: u16) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        // Limited, for an alias of itself.
        for _ in 0..32 {
            let Some(target) = self.aliases.get(&name) else {
                break;
            };
            records.push(record(&name, TYPE_CNAME, &wire_name(target)));
            if record_type == TYPE_CNAME {
                return records;
            }
            name.clone_from(target);
        }
        let own = self.records.get(&(name.clone(), record_type));
        let own = own.into_iter().flatten();
        records.extend(own.map(|data| record(&name, record_type, data)));
        records
    }
}

fn header(query: &[u8], flags: u16, answers: usize) -> Vec<u8> {
    let numbers = [flags, 1, answers as u16, 0, 0].map(u16::to_be_bytes);
    [&query[..2], &numbers.concat()].concat()
}

fn record(name: &str, record_type: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = wire_name(name);
    bytes.extend([record_type, CLASS_IN].map(u16::to_be_bytes).concat());
    bytes.extend(TTL.to_be_bytes());
    bytes.extend((data.len() as u16).to_be_bytes());
    bytes.extend(data);
    bytes
}

fn wire_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// A name without pointers, in lower case, and the offset after it.
fn read_name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        let label = message.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += length;
    }
}
