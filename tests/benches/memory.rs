//! Heap usage of this workspace's connections: allocations of each operation and the memory of an
//! idle connection, compared to a raw tokio socket and the official driver, and the memory of an
//! idle tenant.
//!
//! ```sh
//! cargo bench -p mongo-testkit --bench memory
//! ```
//! Allocations are those of one task, including checking out and in. Memory is bytes of the heap,
//! counted by the allocator, with 2,000 connections over loopback that were all in use at once and
//! returned, divided by their number; it includes the pool's own memory. The second pair of figures
//! is after a reply of 64 KiB on each: grown buffers have been released. The heap's figures have no
//! noise: the run fails if one misses its goal.
//!
//! Resident memory of `Pools` is that of a process of its own for each kind, with 1,000 connections
//! that as many tasks made at once, used for a ping each, held until all were made, and returned.
//!
//! A tenant is one of 1,000 credentials of the same `Pools`. Each line includes the lines before
//! it. Pools are of the default size, 100.

#[path = "support/alloc.rs"]
mod alloc;
#[path = "support/operations.rs"]
mod operations;
#[path = "support/resident.rs"]
mod resident;
#[path = "support/server.rs"]
mod server;
#[path = "support/setting.rs"]
mod setting;
#[path = "support/table.rs"]
mod table;
#[path = "support/tenants.rs"]
mod tenants;
#[path = "support/worker.rs"]
mod worker;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bson::doc;
use mongodb::Client;
use mongodb::event::EventHandler;
use mongodb::event::cmap::CmapEvent;
use mongodb::options::ClientOptions;
use operations::Operation;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use setting::{BB8_OPERATIONS, DEADPOOL_OPERATIONS, NAMES, Setting};
use table::{Goal, Table};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

const CONNECTIONS: usize = 2000;
/// The goal in KiB for each connection.
const MOST: f64 = 5.0;
const ALLOCATIONS: Goal = Goal {
    at_most: 3.0,
    is_kept: true,
};
/// The command, its options, its database, its session, its future and its reply.
const OPERATION_ALLOCATIONS: Goal = Goal {
    at_most: 6.0,
    is_kept: true,
};

/// KiB for each: of the heap, and of all memory by the kernel's count.
#[derive(Clone, Copy)]
struct Cost {
    heap: f64,
    resident: f64,
}

impl Cost {
    fn now(count: usize) -> Self {
        let each = |bytes: usize| bytes as f64 / 1024.0 / count as f64;
        let stats = alloc::stats();
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages = pages.split(' ').nth(1).and_then(|pages| pages.parse().ok());
        Self {
            heap: each(stats.bytes_allocated - stats.bytes_deallocated),
            resident: each(pages.unwrap_or(0) * rustix::param::page_size()),
        }
    }

    /// The memory that `make` adds for each of `count`, kept by its result.
    async fn of<T>(count: usize, make: impl Future<Output = T>) -> (Self, T) {
        let before = Self::now(count);
        let kept = make.await;
        // Let other tasks complete their part.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let after = Self::now(count);
        let cost = Self {
            heap: after.heap - before.heap,
            resident: after.resident - before.resident,
        };
        (cost, kept)
    }

    fn and(self, more: Self) -> Self {
        Self {
            heap: self.heap + more.heap,
            resident: self.resident + more.resident,
        }
    }
}

impl Table {
    fn cost(&mut self, of: &str, cost: Cost, is_ours: bool) {
        let goal = |is_kept| {
            is_ours.then_some(Goal {
                at_most: MOST,
                is_kept,
            })
        };
        self.row(&format!("{of}: KiB of heap"), cost.heap, goal(true));
        self.row(&format!("{of}: KiB resident"), cost.resident, goal(false));
    }
}

/// Uses all connections at once, with one command on each.
macro_rules! use_all {
    ($pool:expr, $command:expr) => {{
        let mut held = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            let mut connection = $pool.get().await.expect("a connection");
            let reply = connection.run_command("admin", $command).await;
            assert!(reply.is_ok());
            held.push(connection);
        }
    }};
}

macro_rules! pool {
    ($table:ident, $name:literal, $config:ty, $url:expr) => {{
        let config = <$config>::from_url($url);
        let (small, pool) = Cost::of(CONNECTIONS, async {
            let pool = config.create_pool(None).expect("a pool");
            use_all!(pool, &doc! { "ping": 1 });
            pool
        })
        .await;
        assert_eq!(pool.status().available, CONNECTIONS);
        $table.cost(concat!($name, ", after a ping"), small, true);
        let (more, ()) =
            Cost::of(CONNECTIONS, async { use_all!(pool, &doc! { "large": 1 }) }).await;
        $table.cost(
            concat!($name, ", after replies of 64 KiB"),
            small.and(more),
            true,
        );
    }};
}

async fn raw(port: u16) -> Vec<TcpStream> {
    let mut streams = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        streams.push(
            TcpStream::connect(("127.0.0.1", port))
                .await
                .expect("a socket"),
        );
    }
    streams
}

/// A client that has filled its own pool.
async fn official(url: &str) -> Client {
    let mut options = ClientOptions::parse(url).await.expect("options");
    let ready = Arc::new(AtomicUsize::new(0));
    options.min_pool_size = u32::try_from(CONNECTIONS).ok();
    options.max_connecting = Some(16);
    let count = ready.clone();
    options.cmap_event_handler = Some(EventHandler::callback(move |event| {
        if matches!(event, CmapEvent::ConnectionReady(_)) {
            count.fetch_add(1, Ordering::SeqCst);
        }
    }));
    let client = Client::with_options(options).expect("a client");
    let database = client.database("admin");
    while ready.load(Ordering::SeqCst) < CONNECTIONS {
        let ping = mongodb::bson::doc! { "ping": 1 };
        database.run_command(ping).await.expect("ok");
    }
    client
}

async fn measure_idle(port: u16, table: &mut Table) {
    let url =
        format!("mongodb://127.0.0.1:{port}/?directConnection=true&maxPoolSize={CONNECTIONS}");
    table.heading(&format!("{CONNECTIONS} idle connections, memory of each"));
    let (cost, streams) = Cost::of(CONNECTIONS, raw(port)).await;
    table.cost("raw socket", cost, false);
    drop(streams);
    pool!(table, "mongo-deadpool", mongo_deadpool::Config, &url);
    pool!(table, "mongo-bb8", mongo_bb8::Config, &url);
    let (cost, client) = Cost::of(CONNECTIONS, official(&url)).await;
    table.cost("official driver", cost, false);
    drop(client);
}

fn count_allocations(runtime: &Runtime, setting: &Setting, table: &mut Table) {
    const OPERATIONS: usize = 1000;
    let (operation, goal) = match setting.operation {
        Operation::Ping => ("ping", Some(ALLOCATIONS)),
        Operation::Find => ("find one, owned reply", None),
    };
    table.heading(&format!("{operation}, allocations"));
    for name in NAMES {
        let mut run = setting.alone(runtime, name, 1);
        // Connects, and lets buffers grow.
        run(OPERATIONS);
        let before = allocations();
        run(OPERATIONS);
        let figure = (allocations() - before) as f64 / OPERATIONS as f64;
        let goal = match name {
            DEADPOOL_OPERATIONS | BB8_OPERATIONS => goal.map(|_| OPERATION_ALLOCATIONS),
            name if name.starts_with("mongo-") => goal,
            _ => None,
        };
        table.row(name, figure, goal);
    }
}

/// The number of allocations, including reallocations.
fn allocations() -> usize {
    let stats = alloc::stats();
    stats.allocations + stats.reallocations
}

fn main() -> ExitCode {
    // Before the server starts, which inherits the limit.
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("as many files as may be");
    server::serve_if_asked();
    if resident::measure_if_asked() {
        return ExitCode::SUCCESS;
    }
    let server = server::Server::start(1);
    let port = server.ports()[0];
    let runtime = || {
        let builder = &mut tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().expect("a runtime")
    };
    let mut table = Table::default();
    // Its tasks end with its runtime: what they free does not count below.
    runtime().block_on(measure_idle(port, &mut table));
    resident::compare_all(port, &mut table);
    let runtime = runtime();
    runtime.block_on(tenants::measure(&mut table));
    let _context = runtime.enter();
    for operation in [Operation::Ping, Operation::Find] {
        let setting = Setting::alone_with(port, 1, operation);
        count_allocations(&runtime, &setting, &mut table);
    }
    table.status()
}
