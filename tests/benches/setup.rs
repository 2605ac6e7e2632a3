//! The cost for a client of setting up 200 connections that authenticate by SCRAM-SHA-256, with
//! keys derived beforehand: CPU of this process, including the kernel's work for it, compared to
//! the official driver.
//!
//! ```sh
//! cargo bench -p mongo-testkit --bench setup
//! # Only without authentication.
//! cargo bench -p mongo-testkit --bench setup -- --plain
//! ```
//! The server is another process. Each round creates a client, authenticates once, uncounted, to
//! derive the keys, and then makes 199 more connections: this workspace by as many callers that
//! keep their connections, the official driver by `minPoolSize`, which is its only reliable way.
//! Figures are medians of seven rounds, in turns. The bare sockets show the kernel's part.
//!
//! Before that, the same for growing from 1 to 100 connections without authentication, compared to
//! raw sockets that make one round trip each, which stands for the hello. A pool makes two
//! connections at a time (`maxConnecting`), and so do the raw sockets: fewer at a time cost more CPU
//! for each, because the thread waits more often. All of them at once are shown too.

#[path = "support/operations.rs"]
#[allow(dead_code, reason = "shared with other benches")]
mod operations;
#[path = "support/server.rs"]
mod server;
#[path = "support/table.rs"]
mod table;
#[path = "support/worker.rs"]
#[allow(dead_code, reason = "shared with other benches")]
mod worker;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use mongo_core::pools::Backend;
use mongo_testkit::{ScriptedServer, User};
use mongodb::event::EventHandler;
use mongodb::event::cmap::CmapEvent;
use mongodb::options::ClientOptions;
use operations::{Operation, RawSocket};
use rustix::time::{ClockId, clock_gettime};
use table::{Goal, Table};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use worker::Worker;

const CONNECTIONS: usize = 200;
const ROUNDS: usize = 7;
/// The connections without authentication.
const PLAIN: usize = 100;
/// As many are made at a time: the default of `maxConnecting`.
const MAX_CONNECTING: usize = 2;
const SERVER: &str = "SETUP_SERVER";
const OURS: [&str; 2] = ["mongo-deadpool", "mongo-bb8"];

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    if std::env::var_os(SERVER).is_some() {
        runtime.block_on(serve());
        return ExitCode::SUCCESS;
    }
    server::serve_if_asked();
    let mut table = Table::default();
    plain(&runtime, &mut table);
    if std::env::args().all(|argument| argument != "--plain") {
        authenticated(&runtime, &mut table);
    }
    table.status()
}

/// The medians over the rounds, without the first one, which warms the caches: of each subject, and
/// of its ratio to the subject with the index `base`.
fn medians<const N: usize>(base: usize, mut round: impl FnMut() -> [f64; N]) -> [(f64, f64); N] {
    let rounds: Vec<_> = (0..=ROUNDS).map(|_| round()).skip(1).collect();
    let median = |figure: &dyn Fn(&[f64; N]) -> f64| {
        let mut all: Vec<_> = rounds.iter().map(figure).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    std::array::from_fn(|index| {
        let ratio = median(&|round| round[index] / round[base]);
        (median(&|round| round[index]), ratio)
    })
}

fn authenticated(runtime: &Runtime, table: &mut Table) {
    let (mut server, uri) = start_server();
    let figures = medians(3, || {
        [
            runtime.block_on(sockets(&uri)),
            runtime.block_on(ours::<mongo_deadpool::Pool>(&uri, CONNECTIONS)),
            runtime.block_on(ours::<mongo_bb8::Pool>(&uri, CONNECTIONS)),
            runtime.block_on(theirs(&uri, CONNECTIONS)),
        ]
    });
    let names = ["bare socket", OURS[0], OURS[1], "official driver"];
    table.heading("CPU of one connection, microseconds");
    for (name, (cpu, _)) in names.into_iter().zip(figures) {
        table.row(name, cpu, None);
    }
    table.heading("ratio to the official driver, by rounds");
    report_ratios(table, 0.25, &figures);
    let _ = server.kill();
    let _ = server.wait();
}

fn plain(runtime: &Runtime, table: &mut Table) {
    let server = server::Server::start(1);
    let port = server.ports()[0];
    let uri = format!("mongodb://127.0.0.1:{port}/?directConnection=true");
    let figures = medians(0, || {
        [
            runtime.block_on(raw(port, MAX_CONNECTING)),
            runtime.block_on(ours::<mongo_deadpool::Pool>(&uri, PLAIN)),
            runtime.block_on(ours::<mongo_bb8::Pool>(&uri, PLAIN)),
            runtime.block_on(raw(port, PLAIN)),
        ]
    });
    let names = ["raw socket", OURS[0], OURS[1], "raw socket, all at once"];
    table.heading("CPU of one connection without authentication, microseconds");
    for (name, (cpu, _)) in names.into_iter().zip(figures) {
        table.row(name, cpu, None);
    }
    table.heading("ratio to the raw socket, by rounds");
    report_ratios(table, 1.3, &figures);
}

fn report_ratios(table: &mut Table, at_most: f64, figures: &[(f64, f64)]) {
    for (name, (_, ratio)) in OURS.into_iter().zip(&figures[1..]) {
        let goal = Goal {
            at_most,
            is_kept: false,
        };
        table.row(name, *ratio, Some(goal));
    }
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
fn each_since(begin: f64, connections: usize) -> f64 {
    (cpu() - begin) / (connections - 1) as f64
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
    each_since(begin, CONNECTIONS)
}

/// As many sockets, each with one round trip of a ping, so many at a time.
async fn raw(port: u16, at_a_time: usize) -> f64 {
    let begin = cpu();
    let all = (1..PLAIN).map(|_| async move {
        let mut socket = RawSocket::connect(port, Operation::Ping).await;
        socket.as_mut().expect("a socket").operate().await;
        socket
    });
    let all = futures_util::stream::iter(all).buffer_unordered(at_a_time);
    let all: Vec<_> = all.collect().await;
    let each = each_since(begin, PLAIN);
    drop(all);
    each
}

async fn ours<B: Backend>(uri: &str, connections: usize) -> f64
where
    B::Config: Default,
{
    let pools = mongo_core::pools::Pools::<B>::new(&format!("{uri}&maxPoolSize={connections}"));
    let pools = pools.expect("pools");
    let first = pools.get().await.expect("a connection");
    let begin = cpu();
    let all = (1..connections).map(|_| pools.get());
    let all = futures_util::future::join_all(all).await;
    let each = each_since(begin, connections);
    let all: Result<Vec<_>, _> = all.into_iter().collect();
    drop((first, all.expect("connections")));
    pools.close().await;
    each
}

async fn theirs(uri: &str, connections: usize) -> f64 {
    let uri = format!("{uri}&maxPoolSize={connections}&minPoolSize={connections}");
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
    reached(connections).await;
    let each = each_since(begin, connections);
    client.shutdown().await;
    each
}
