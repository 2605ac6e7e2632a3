//! The cost of checking a connection out and in through this workspace's managers, compared to a
//! bare deadpool and a bare bb8 of unit objects with their own defaults.
//!
//! ```sh
//! cargo bench -p mongo-testkit --bench check_out
//! ```
//! This workspace's pools also have their default configuration, and real connections over
//! loopback; nothing is sent on them. All run in turns in one process. A figure is the median of
//! the rounds' ratios. Missed goals do not fail the run, since the figures contain the machine's
//! noise.
//!
//! This workspace's pools add to the manager a deadline for the whole check-out, errors that name
//! the failure, and for bb8 a fair queue. So the generic pool with only the manager is measured as
//! well.

#[path = "support/load.rs"]
mod load;
#[path = "support/server.rs"]
mod server;
#[path = "support/table.rs"]
mod table;
#[path = "support/worker.rs"]
mod worker;

use std::convert::Infallible;
use std::process::ExitCode;

use deadpool::managed::{Metrics, RecycleResult};
use load::{Sample, Subject, measure};
use table::{Goal, Table};
use worker::Worker;

const ROUNDS: usize = 41;
const OPERATIONS: usize = 100_000;

const TIME: Goal = Goal {
    at_most: 1.3,
    is_kept: false,
};

struct Units;

impl deadpool::managed::Manager for Units {
    type Type = ();
    type Error = Infallible;

    async fn create(&self) -> Result<(), Infallible> {
        Ok(())
    }

    async fn recycle(&self, (): &mut (), _: &Metrics) -> RecycleResult<Infallible> {
        Ok(())
    }
}

impl bb8::ManageConnection for Units {
    type Connection = ();
    type Error = Infallible;

    async fn connect(&self) -> Result<(), Infallible> {
        Ok(())
    }

    async fn is_valid(&self, (): &mut ()) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, (): &mut ()) -> bool {
        false
    }
}

/// The check-out and check-in of a pool, from one task.
macro_rules! worker {
    ($($pool:ty),+) => {
        $(impl Worker for $pool {
            async fn operate(&mut self) {
                drop((*self).get().await.expect("a connection"));
            }
        })+
    };
}
worker!(
    deadpool::managed::Pool<Units>,
    mongo_deadpool::managed::Pool,
    mongo_deadpool::Pool,
    bb8::Pool<Units>,
    bb8::Pool<mongo_bb8::Manager>,
    mongo_bb8::Pool
);

/// A bare pool, the generic pool with this workspace's manager, and this workspace's pool.
type Family = [Subject; 3];

fn deadpools(url: &str, tasks: usize) -> Family {
    let bare = deadpool::managed::Pool::<Units>::builder(Units)
        .runtime(deadpool::Runtime::Tokio1)
        .build();
    let manager = mongo_deadpool::Manager::new(url).expect("a manager");
    let managed = mongo_deadpool::managed::Pool::builder(manager).build();
    let whole = mongo_deadpool::Config::from_url(url).create_pool(None);
    [
        Subject::new("bare deadpool", vec![bare.expect("a pool"); tasks]),
        Subject::new(
            "deadpool with our manager",
            vec![managed.expect("a pool"); tasks],
        ),
        Subject::new("mongo_deadpool::Pool", vec![whole.expect("a pool"); tasks]),
    ]
}

fn bb8s(url: &str, tasks: usize) -> Family {
    let bare = bb8::Pool::builder().build_unchecked(Units);
    let manager = mongo_bb8::Manager::new(url).expect("a manager");
    let managed = bb8::Pool::builder().build_unchecked(manager);
    let whole = mongo_bb8::Config::from_url(url).create_pool(None);
    [
        Subject::new("bare bb8", vec![bare; tasks]),
        Subject::new("bb8 with our manager", vec![managed; tasks]),
        Subject::new("mongo_bb8::Pool", vec![whole.expect("a pool"); tasks]),
    ]
}

fn main() -> ExitCode {
    server::serve_if_asked();
    let server = server::Server::start(1);
    let url = format!("mongodb://127.0.0.1:{}/", server.ports()[0]);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _context = runtime.enter();
    let mut table = Table::default();
    for tasks in [1, 16] {
        let mut subjects: Vec<_> = deadpools(&url, tasks)
            .into_iter()
            .chain(bb8s(&url, tasks))
            .collect();
        measure(&runtime, &mut subjects, ROUNDS, OPERATIONS / tasks);
        table.heading(&format!("check out and in, {tasks} tasks"));
        for family in subjects.chunks_exact(3) {
            for subject in family {
                compare(subject, &family[0], &mut table);
            }
        }
    }
    table.status()
}

fn compare(subject: &Subject, bare: &Subject, table: &mut Table) {
    let mut row = |what: &str, figure: f64, goal: Option<Goal>| {
        table.row(&format!("{}: {what}", subject.name), figure, goal);
    };
    let nanoseconds = |sample: &Sample| sample.wall * 1e9;
    row("ns", subject.median(nanoseconds), None);
    if subject.name != bare.name {
        let time = subject.ratio(bare, nanoseconds);
        row("time, ratio to bare", time, Some(TIME));
        let cpu = subject.ratio(bare, |sample| sample.cpu);
        row("CPU, ratio to bare", cpu, Some(TIME));
    }
}
