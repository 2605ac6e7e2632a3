//! Cancels hundreds of thousands of requests over loopback sockets, and checks that none gets a
//! wrong reply, loses a slot of the pool, or leaves a socket open.
//!
//! `cargo bench -p mongo-testkit --bench cancelled_requests -- [count] [seed]`: `count` requests
//! that are cancelled for each backend, default 200,000. Fails if any check fails.

#[path = "../../tests/common/plain_pool.rs"]
#[expect(dead_code, reason = "other tests need more of it")]
mod plain_pool;
mod random;
mod server;
mod worker;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mongo_core::net::{Connector, Stream};
use mongo_core::pools::{ConnectionFactory, ManagerConfig};
use mongo_core::{ClientOptions, Error, ServerAddress};
use tokio::net::TcpSocket;
use tokio::time::sleep;

use plain_pool::{Backend, Parts};
use server::Server;
use worker::{Counts, work};

const DEFAULT_COUNT: u64 = 200_000;
/// The number of slots of the pool, and of tasks.
const SLOTS: usize = 32;
const TASKS: u64 = 80;
/// The size of a socket's send buffer, so that a request can be partly written.
pub(crate) const SMALL_BUFFER: u32 = 4096;

fn main() {
    let mut numbers = std::env::args().filter_map(|argument| argument.parse::<u64>().ok());
    let count = numbers.next().unwrap_or(DEFAULT_COUNT);
    let seed = numbers.next().unwrap_or(1);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let server = Server::start();
    runtime.block_on(async {
        soak::<mongo_deadpool::Pool>("deadpool", &server, count, seed).await;
        soak::<mongo_bb8::Pool>("bb8", &server, count, seed).await;
    });
}

/// Connects with a small send buffer.
struct SmallSockets;

#[async_trait]
impl Connector for SmallSockets {
    async fn connect(&self, address: &ServerAddress) -> Result<Stream, Error> {
        let socket = TcpSocket::new_v4().map_err(Error::network)?;
        socket
            .set_send_buffer_size(SMALL_BUFFER)
            .and_then(|()| socket.set_nodelay(true))
            .map_err(Error::network)?;
        let address = address.to_string().parse().expect("127.0.0.1 and a port");
        let stream = socket.connect(address).await.map_err(Error::network)?;
        Ok(Stream::Tcp(stream))
    }
}

fn pool<B: Backend>(server: &Server) -> B {
    let uri = format!("mongodb://{}/?directConnection=true", server.address());
    let options = ClientOptions::parse(&uri).expect("a connection string");
    let factory = ConnectionFactory::builder(options)
        .config(ManagerConfig::default())
        .connector(Arc::new(SmallSockets))
        .build();
    B::build(Parts {
        factory: factory.expect("a factory"),
        max_size: SLOTS as u32,
        wait: Duration::from_secs(30),
    })
}

async fn soak<B: Backend>(name: &str, server: &Server, count: u64, seed: u64) {
    let files = open_files();
    let accepted = server.accepted();
    let began = Instant::now();
    let counts = Arc::new(Counts::new(count));
    let pool = pool::<B>(server);
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| tokio::spawn(work(pool.clone(), counts.clone(), seed * TASKS + task)))
        .collect();
    for task in tasks {
        task.await.expect("no task panics");
    }
    let took = began.elapsed();
    let lost = lost_slots(&pool, &counts).await;
    let accepted = server.accepted() - accepted;
    drop(pool);
    let (files_left, server_left) = left(server, files).await;

    println!("{name}: {counts} in {:.1} s", took.as_secs_f64());
    println!("  {accepted} connections; {lost} slots lost of {SLOTS}");
    println!(
        "  {files_left} file descriptors left (of {files} before), {server_left} at the server"
    );
    let wrong = counts.wrong.load(Relaxed);
    assert_eq!(wrong, 0, "replies to the wrong request");
    assert_eq!(counts.failed.load(Relaxed), 0, "check-outs failed");
    assert!(counts.is_done());
    assert_eq!(lost, 0);
    assert_eq!((files_left, server_left), (0, 0));
}

/// The number of slots that are not available although no connection is in use.
async fn lost_slots<B: Backend>(pool: &B, counts: &Counts) -> usize {
    assert_eq!(pool.status().waiting, 0);
    let mut guards = Vec::new();
    while let Ok(guard) = pool.try_get().await {
        guards.push(guard);
        assert!(guards.len() <= SLOTS, "a slot too many");
    }
    let status = pool.status();
    assert_eq!((status.size, status.available), (guards.len(), 0));
    for guard in &mut guards {
        worker::check(guard, counts).await;
    }
    let had = guards.len();
    drop(guards);
    let status = pool.status();
    assert_eq!((status.size, status.available), (had, had));
    SLOTS - had
}

/// The sockets that are still open after the pool is dropped. Closing takes the server a moment.
async fn left(server: &Server, files: usize) -> (usize, usize) {
    let mut left = (0, 0);
    for _ in 0..1000 {
        left = (open_files().saturating_sub(files), server.open());
        if left == (0, 0) {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    left
}

fn open_files() -> usize {
    let files = fs::read_dir("/proc/self/fd").expect("Linux's list of open files");
    files.count()
}
