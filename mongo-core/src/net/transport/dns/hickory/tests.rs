use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use super::*;

const TYPE_CNAME: u16 = 5;
const TYPE_TXT: u16 = 16;
const TYPE_SRV: u16 = 33;
const NO_SUCH_NAME: u16 = 3;
const SERVER_FAILURE: u16 = 2;

/// The response of a name server to a query: a response code, and the data of its answers.
type Answers = fn(name: &str, record_type: u16) -> (u16, Vec<Vec<u8>>);

/// A name server on loopback, over UDP and TCP, that encodes its responses itself.
struct NameServer {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl NameServer {
    async fn start(answers: Answers) -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
            let address = udp.local_addr().expect("bound");
            // The port may be in use over TCP.
            if let Ok(tcp) = TcpListener::bind(address).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().expect("bound");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut query = [0; 2048];
            loop {
                let (length, peer) = udp.recv_from(&mut query).await.expect("a query");
                let answer = respond(&query[..length], answers, 512);
                udp.send_to(&answer, peer).await.expect("sent");
            }
        });
        tasks.spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.expect("a connection");
                while let Ok(length) = stream.read_u16().await {
                    let mut query = vec![0; length.into()];
                    stream.read_exact(&mut query).await.expect("a query");
                    let answer = respond(&query, answers, usize::from(u16::MAX));
                    stream.write_u16(answer.len() as u16).await.expect("sent");
                    stream.write_all(&answer).await.expect("sent");
                }
            }
        });
        Self {
            address,
            _tasks: tasks,
        }
    }

    fn resolver(&self) -> HickoryResolver {
        HickoryResolver::with_name_servers(&[self.address]).expect("a resolver")
    }
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

fn srv_data(port: u16, target: &str) -> Vec<u8> {
    let numbers = [1_u16, 2, port].map(u16::to_be_bytes).concat();
    [numbers, wire_name(target)].concat()
}

/// The response to a query (RFC 1035), truncated if it would be longer than `limit`.
fn respond(query: &[u8], answers: Answers, limit: usize) -> Vec<u8> {
    let mut labels = Vec::new();
    let mut at = 12;
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8(query[at + 1..end].to_vec()).expect("ASCII"));
        at = end;
    }
    let question = &query[12..at + 5];
    let record_type = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    let name = labels.join(".");
    let (code, data) = answers(&name, record_type);
    let record_type = answer_type(&name, record_type);
    let header = |flags: u16, count: usize| {
        let counts = [flags | code, 1, count as u16, 0, 0].map(u16::to_be_bytes);
        [&query[..2], &counts.concat()].concat()
    };
    let mut records = Vec::new();
    for data in &data {
        records.extend(0xc00c_u16.to_be_bytes());
        records.extend([record_type, 1].map(u16::to_be_bytes).concat());
        records.extend(86_u32.to_be_bytes());
        records.extend((data.len() as u16).to_be_bytes());
        records.extend(data);
    }
    let whole = [&header(0x8180, data.len()), question, &records].concat();
    match whole.len() > limit {
        true => [&header(0x8380, 0), question].concat(),
        false => whole,
    }
}

#[tokio::test]
async fn srv_and_txt_records_come_as_they_are() {
    let server = NameServer::start(|name, record_type| match (name, record_type) {
        ("_mongodb._tcp.c.example.com", TYPE_SRV) => (
            0,
            vec![
                srv_data(27017, "a.example.com"),
                srv_data(27018, "B.example.com"),
            ],
        ),
        ("c.example.com", TYPE_TXT) => (0, vec![b"\x08replicaS\x05et=rs".to_vec()]),
        _ => (NO_SUCH_NAME, Vec::new()),
    })
    .await;
    let resolver = server.resolver();
    let found = resolver.srv_lookup("_mongodb._tcp.c.example.com").await;
    let wanted = [(27017, "a.example.com."), (27018, "B.example.com.")];
    let wanted = wanted.map(|(port, target)| SrvRecord {
        target: target.to_owned(),
        port,
        priority: 1,
        weight: 2,
        ttl: Duration::from_secs(86),
    });
    assert_eq!(found.expect("records"), wanted);
    let found = resolver.txt_lookup("c.example.com").await;
    let strings = vec![b"replicaS".to_vec(), b"et=rs".to_vec()];
    assert_eq!(found.expect("records"), [TxtRecord { strings }]);
}

/// The record type of an answer, which may be CNAME instead of the requested type.
fn answer_type(name: &str, record_type: u16) -> u16 {
    match name.starts_with("alias") {
        true => TYPE_CNAME,
        false => record_type,
    }
}

#[tokio::test]
async fn cname_records_are_followed_within_a_bound() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let server = NameServer::start(|name, record_type| {
        ASKED.fetch_add(1, Ordering::SeqCst);
        let next = |number: u32| match number {
            1 => "c.example.com".to_owned(),
            number => format!("alias{}.example.com", number - 1),
        };
        let number = name
            .strip_prefix("alias")
            .and_then(|rest| rest.split('.').next());
        match (number.map(str::parse::<u32>), record_type) {
            (Some(Ok(number)), _) => (0, vec![wire_name(&next(number))]),
            (_, TYPE_SRV) => (0, vec![srv_data(1, "a.example.com")]),
            _ => (NO_SUCH_NAME, Vec::new()),
        }
    })
    .await;
    let resolver = server.resolver();
    for length in [1, 2, 8] {
        let name = format!("alias{length}.example.com");
        let found = resolver.srv_lookup(&name).await.expect("records");
        assert_eq!(found.len(), 1, "{length}");
        assert_eq!(found[0].target, "a.example.com.");
    }
    ASKED.store(0, Ordering::SeqCst);
    let found = resolver.srv_lookup("alias1000.example.com").await;
    assert!(found.map_or(true, |found| found.is_empty()));
    assert!(ASKED.load(Ordering::SeqCst) < 100);
}

#[tokio::test]
async fn a_long_answer_comes_over_tcp() {
    let server = NameServer::start(|_, _| {
        let hosts = (1..=200).map(|port| srv_data(port, "a.example.com"));
        (0, hosts.collect())
    })
    .await;
    let found = server.resolver().srv_lookup("c.example.com").await;
    assert_eq!(found.expect("records").len(), 200);
}

#[tokio::test]
async fn no_such_name_and_no_such_records_are_none() {
    for answers in [(|_, _| (NO_SUCH_NAME, Vec::new())) as Answers, |_, _| {
        (0, Vec::new())
    }] {
        let server = NameServer::start(answers).await;
        let resolver = server.resolver();
        let found = resolver.srv_lookup("c.example.com").await;
        assert_eq!(found.expect("an answer"), []);
        let found = resolver.txt_lookup("c.example.com").await;
        assert_eq!(found.expect("an answer"), []);
    }
}

#[tokio::test]
async fn a_failing_server_is_an_error() {
    let server = NameServer::start(|_, _| (SERVER_FAILURE, Vec::new())).await;
    let found = server.resolver().srv_lookup("c.example.com").await;
    assert!(found.is_err(), "{found:?}");
    assert!(HickoryResolver::with_name_servers(&[]).is_err());
}

#[tokio::test]
async fn the_resolver_caches_no_record_and_tries_no_search_domain() {
    use std::sync::Mutex;
    static ASKED: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let server = NameServer::start(|name, _| {
        ASKED.lock().expect("unpoisoned").push(name.to_owned());
        match name {
            "c.example.com" => (0, vec![srv_data(1, "a.example.com")]),
            _ => (NO_SUCH_NAME, Vec::new()),
        }
    })
    .await;
    let resolver: Arc<dyn DnsResolver> = Arc::new(server.resolver());
    for name in ["c.example.com", "c.example.com", "none"] {
        resolver.srv_lookup(name).await.expect("an answer");
    }
    let asked = ASKED.lock().expect("unpoisoned").clone();
    // For the name without records, the CNAME record is looked up too.
    assert_eq!(asked, ["c.example.com", "c.example.com", "none", "none"]);
}

#[tokio::test]
async fn its_tasks_end_when_it_is_dropped() {
    let server = NameServer::start(|_, _| {
        let hosts = (1..=200).map(|port| srv_data(port, "a.example.com"));
        (0, hosts.collect())
    })
    .await;
    let alive = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = alive();
    let resolver = server.resolver();
    let found = resolver.srv_lookup("c.example.com").await;
    assert_eq!(found.expect("records").len(), 200);
    assert!(alive() > before);
    drop(resolver);
    let ended = async {
        while alive() > before {
            tokio::task::yield_now().await;
        }
    };
    let bound = Duration::from_secs(10);
    let ended = tokio::time::timeout(bound, ended).await;
    assert!(ended.is_ok(), "{} tasks are left", alive() - before);
}

/// On runtimes that lack a driver.
#[test]
fn a_runtime_without_a_timer_or_without_io_is_an_error() {
    use tokio::runtime::Builder;
    type Enable = fn(&mut Builder) -> &mut Builder;

    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("bound");
    let resolver = HickoryResolver::with_name_servers(&[address]).expect("a resolver");
    let cases: [(Enable, &str); 3] = [
        (Builder::enable_io, "has no timer"),
        (Builder::enable_time, "has no I/O driver"),
        (|builder| builder, "has no timer"),
    ];
    for (enable, wanted) in cases {
        let runtime = enable(&mut Builder::new_current_thread()).build();
        let runtime = runtime.expect("a runtime");
        let srv = runtime.block_on(resolver.srv_lookup("_mongodb._tcp.a.example"));
        let txt = runtime.block_on(resolver.txt_lookup("a.example"));
        for error in [srv.map(drop), txt.map(drop)] {
            let error = error.expect_err(wanted).to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
