//! The cost for a client of setting up 200 connections that authenticate by SCRAM-SHA-256, with
//! keys derived beforehand: CPU of this process, including the kernel's work for it, compared to
//! the official driver.
//!
//! ```sh
//! cargo bench -p mongo-testkit --bench setup
//! ```
//! The server is another process. Each round creates a client, authenticates once, uncounted, to
//! derive the keys, and then makes 199 more connections: this workspace by as many callers that
//! keep their connections, the official driver by `minPoolSize`, which is its only reliable way.
//! Figures are medians of seven rounds, in turns. The bare sockets show the kernel's part.

#[path = "support/table.rs"]
mod table;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mongo_core::pools::Backend;
use mongo_testkit::{ScriptedServer, User};
use mongodb::event::EventHandler;
use mongodb::event::cmap::CmapEvent;
use mongodb::options::ClientOptions;
use rustix::time::{ClockId, clock_gettime};
use table::{Goal, Table};
use tokio::net::TcpStream;
use tokio::sync::Notify;

const CONNECTIONS: usize = 200;
const ROUNDS: usize = 7;
const SERVER: &str = "SETUP_SERVER";

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    if std::env::var_os(SERVER).is_some() {
        runtime.block_on(serve());
        return ExitCode::SUCCESS;
    }
    let (mut server, uri) = start_server();
    let mut rounds = Vec::new();
    for _ in 0..=ROUNDS {
        rounds.push([
            runtime.block_on(sockets(&uri)),
            runtime.block_on(ours::<mongo_deadpool::Pool>(&uri)),
            runtime.block_on(ours::<mongo_bb8::Pool>(&uri)),
            runtime.block_on(theirs(&uri)),
        ]);
    }
    // The first round warms the caches.
    rounds.remove(0);
    let median = |figure: &dyn Fn(&[f64; 4]) -> f64| {
        let mut all: Vec<_> = rounds.iter().map(figure).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let mut table = Table::default();
    table.heading("CPU of one connection, microseconds");
    let names = [
        "bare socket",
        "mongo-deadpool",
        "mongo-bb8",
        "official driver",
    ];
    for (index, name) in names.into_iter().enumerate() {
        table.row(name, median(&|round| round[index]), None);
    }
    table.heading("ratio to the official driver, by rounds");
    for index in [1, 2] {
        let goal = Goal {
            at_most: 0.25,
            is_kept: false,
        };
        let ratio = median(&|round| round[index] / round[3]);
        table.row(names[index], ratio, Some(goal));
    }
    let _ = server.kill();
    let _ = server.wait();
    table.status()
}

fn start_server() -> (Child, String) {
    let mut server = Command::new(std::env::current_exe().expect("this binary"))
        .env(SERVER, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a server process");
    let mut uri = String::new();
    let stdout = server.stdout.take().expect("piped");
    BufReader::new(stdout).read_line(&mut uri).expect("a line");
    (server, uri.trim().to_owned())
}

async fn serve() {
    let server = ScriptedServer::builder()
        .user(User::new("app", "pencil"))
        .start()
        .await;
    println!("{}", server.uri_for("app", "pencil"));
    // Ends with its parent process.
    let end = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let _ = end.await;
}

fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32).as_secs_f64() * 1e6
}

/// CPU microseconds per connection, since `begin`.
fn each_since(begin: f64) -> f64 {
    (cpu() - begin) / (CONNECTIONS - 1) as f64
}

async fn sockets(uri: &str) -> f64 {
    let address = uri.split(['@', '/']).nth(3).expect("an address").to_owned();
    let begin = cpu();
    let mut sockets = Vec::new();
    for _ in 1..CONNECTIONS {
        let socket = TcpStream::connect(&address).await.expect("a socket");
        socket.set_nodelay(true).expect("a socket");
        sockets.push(socket);
    }
    each_since(begin)
}

async fn ours<B: Backend>(uri: &str) -> f64
where
    B::Config: Default,
{
    let pools = mongo_core::pools::Pools::<B>::new(&format!("{uri}&maxPoolSize={CONNECTIONS}"));
    let pools = pools.expect("pools");
    let first = pools.get().await.expect("a connection");
    let begin = cpu();
    let all = (1..CONNECTIONS).map(|_| pools.get());
    let all = futures_util::future::join_all(all).await;
    let each = each_since(begin);
    let all: Result<Vec<_>, _> = all.into_iter().collect();
    drop((first, all.expect("connections")));
    pools.close().await;
    each
}

async fn theirs(uri: &str) -> f64 {
    let uri = format!("{uri}&maxPoolSize={CONNECTIONS}&minPoolSize={CONNECTIONS}");
    let mut options = ClientOptions::parse(uri).await.expect("options");
    let (ready, changed) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (seen, notify) = (Arc::clone(&ready), Arc::clone(&changed));
    options.cmap_event_handler = Some(EventHandler::callback(move |event| {
        if matches!(event, CmapEvent::ConnectionReady(_)) {
            seen.fetch_add(1, Ordering::Relaxed);
            notify.notify_one();
        }
    }));
    let client = mongodb::Client::with_options(options).expect("a client");
    let reached = async |count| {
        while ready.load(Ordering::Relaxed) < count {
            changed.notified().await;
        }
    };
    reached(1).await;
    let begin = cpu();
    reached(CONNECTIONS).await;
    let each = each_since(begin);
    client.shutdown().await;
    each
}
