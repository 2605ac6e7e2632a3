//! The cost of a reply or a command of 45 MB, compressed or not, for its own task, and the delay of
//! other tasks on a single-threaded runtime; compared to the official driver.
//!
//! ```sh
//! cargo bench -p mongo-testkit --bench large_messages
//! ```
//! Times are the thread's own CPU time, so that a busy machine changes little: the minimum of three
//! runs for the total, the maximum of three for the gap. The official driver converts each reply to
//! a `Document`, which this workspace leaves to the caller; of its compressors only zlib is
//! enabled. The remaining gap of this workspace's commands is serialising the caller's command,
//! which can't be split into steps.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bson::{RawArrayBuf, RawDocumentBuf, rawdoc};
use mongo_core::pools::ConnectionFactory;
use mongo_core::{ClientOptions, Deadline};
use mongo_testkit::{Action, Compressor, Matcher, ScriptedServer};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::{LocalSet, spawn_local, yield_now};

const BYTES: usize = 45_000_000;
const RUNS: usize = 3;

/// A request for a server with a compressor, and the channel for its URI.
type Asked = (Option<Compressor>, mpsc::Sender<String>);

fn main() {
    let documents = documents();
    let (ask, asked) = unbounded_channel();
    let reply = documents.clone().into_bytes();
    thread::spawn(move || serve(&reply, asked));
    println!(
        "{:<10} {:<10} {:<8} {:>9} {:>12}",
        "client", "compressor", "message", "CPU ms", "max gap ms"
    );
    let compressors = [
        None,
        Some(Compressor::Snappy),
        Some(Compressor::Zlib),
        Some(Compressor::Zstd),
    ];
    for compressor in compressors {
        let name = compressor.map_or("none", Compressor::name);
        let uri = || {
            let (tell, told) = mpsc::channel();
            ask.send((compressor, tell)).expect("servers");
            let uri = told.recv().expect("a server");
            match compressor {
                None => uri,
                Some(_) => format!("{uri}&compressors={name}"),
            }
        };
        for what in ["reply", "command"] {
            let command = match what {
                "reply" => rawdoc! { "large": 1 },
                _ => rawdoc! { "swallow": 1, "documents": documents.clone() },
            };
            let row = |client: &str, (cpu, gap): (f64, f64)| {
                println!("{client:<10} {name:<10} {what:<8} {cpu:>9.1} {gap:>12.2}");
            };
            let at = uri();
            row(
                "ours",
                best(|another| on_one_thread(ours(&at, &command, another))),
            );
            if matches!(name, "none" | "zlib") {
                let at = uri();
                row(
                    "official",
                    best(|another| on_one_thread(theirs(&at, &command, another))),
                );
            }
        }
    }
}

/// Similar documents with a few fields, like those of a collection.
fn documents() -> RawDocumentBuf {
    let mut array = RawArrayBuf::new();
    let mut number = 0_i32;
    while array.as_bytes().len() < BYTES {
        array.push(rawdoc! {
            "_id": number,
            "name": format!("customer {}", number.wrapping_mul(7_919)),
            "balance": f64::from(number) * 1.25,
            "address": { "street": "Long Street", "number": number % 200 },
        });
        number += 1;
    }
    rawdoc! { "ok": 1, "documents": array }
}

/// Runs one server after the other, on their own thread: each keeps all received bytes.
fn serve(reply: &[u8], mut asked: UnboundedReceiver<Asked>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut server = None;
        while let Some((compressor, tell)) = asked.recv().await {
            drop(server.take());
            let large = Matcher::command("large").then(Action::Body(reply.to_vec()));
            let large = match compressor {
                Some(compressor) => large.then(Action::Compress(compressor)),
                None => large,
            };
            let started = ScriptedServer::builder()
                .compressors(compressor)
                .rule(large)
                .rule(Matcher::command("swallow").then(Action::Reply(bson::doc! { "ok": 1 })))
                .start()
                .await;
            // The requester is waiting for it.
            let _ = tell.send(started.uri());
            server = Some(started);
        }
    });
}

/// The minimum CPU milliseconds of an operation, and the longest delay of other tasks during it.
fn best(mut run: impl FnMut(bool) -> f64) -> (f64, f64) {
    let cpu = (0..RUNS).map(|_| run(false)).fold(f64::MAX, f64::min);
    let gap = (0..RUNS).map(|_| run(true)).fold(0.0, f64::max);
    (cpu, gap)
}

fn on_one_thread<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, future)
}

fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32).as_secs_f64() * 1000.0
}

/// The CPU milliseconds of this thread for a future, or else the longest delay of a second task
/// that is always ready.
async fn measure<T>(with_another: bool, future: impl Future<Output = T>) -> f64 {
    if !with_another {
        let begin = cpu();
        future.await;
        return cpu() - begin;
    }
    let gap = Rc::new(Cell::new(0.0_f64));
    let seen = Rc::clone(&gap);
    let other = spawn_local(async move {
        let mut last = cpu();
        loop {
            yield_now().await;
            let now = cpu();
            seen.set(seen.get().max(now - last));
            last = now;
        }
    });
    yield_now().await;
    future.await;
    yield_now().await;
    other.abort();
    gap.get()
}

async fn ours(uri: &str, command: &RawDocumentBuf, with_another: bool) -> f64 {
    let options = ClientOptions::parse(uri).expect("a connection string");
    let factory = ConnectionFactory::builder(options).build();
    let factory = factory.expect("a factory");
    let mut connection = factory
        .establish(Deadline::never())
        .await
        .expect("a server");
    measure(with_another, async {
        let reply = connection.run_command("app", command).await;
        reply.expect("a reply");
    })
    .await
}

async fn theirs(uri: &str, command: &RawDocumentBuf, with_another: bool) -> f64 {
    let client = mongodb::Client::with_uri_str(uri).await.expect("a client");
    let database = client.database("app");
    let ping = database.run_command(mongodb::bson::doc! { "ping": 1 });
    ping.await.expect("a reply");
    let command = mongodb::bson::RawDocumentBuf::from_bytes(command.as_bytes().to_vec());
    let command = command.expect("BSON");
    measure(with_another, async {
        let reply = database.run_raw_command(command).await;
        // Blocked for this long, the driver's monitor may mark the server unknown.
        if let Err(error) = reply {
            eprintln!("official: {error}");
        }
    })
    .await
}
