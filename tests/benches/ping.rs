//! The cost of one command round trip for the client, compared to a raw tokio socket that writes
//! the same bytes, encoded beforehand, and to the official driver.
//!
//! ```sh
//! cargo bench -p mongo-testkit --bench ping
//! # Through `Pools`, with 16 to 512 tasks on 10 and 100 connections.
//! cargo bench -p mongo-testkit --bench ping -- --pools
//! # Operations (`Pools::command`, a cursor) beside `run_command` and the official driver.
//! cargo bench -p mongo-testkit --bench ping -- --operations
//! # Pings of 512 tasks on 10 connections alone.
//! cargo bench -p mongo-testkit --bench ping -- --pools 512 10
//! # Whether each of 512 tasks gets its turn on 10 connections.
//! cargo bench -p mongo-testkit --bench ping -- --fairness
//! # One part of it alone, for a profiler: N pings from each of TASKS tasks, one if it is not said.
//! cargo bench -p mongo-testkit --bench ping -- --callgrind mongo-deadpool N [TASKS CONNECTIONS]
//! ```
//! The server is another process. Each operation of this workspace checks out a connection, encodes
//! the command, reads and checks the reply, and checks in the connection. All run in turns in one
//! process with the same number of tasks and connections. A ratio is the median of the rounds'
//! ratios. "By Document" builds the command as a map; otherwise it is the application's own type.
//!
//! CPU and throughput are only reported. The run fails if instructions miss their goal. They need
//! `valgrind`, and are skipped without it.

#[path = "support/callgrind.rs"]
mod callgrind;
#[path = "support/fairness.rs"]
mod fairness;
#[path = "support/load.rs"]
mod load;
#[path = "support/operations.rs"]
mod operations;
#[path = "support/server.rs"]
mod server;
#[path = "support/setting.rs"]
mod setting;
#[path = "support/table.rs"]
mod table;
#[path = "support/through_operations.rs"]
mod through_operations;
#[path = "support/through_pools.rs"]
mod through_pools;
#[path = "support/worker.rs"]
mod worker;

use std::process::ExitCode;

use callgrind::Load;
use load::{Sample, Subject, measure};
use operations::{Operation, OursByDocument};
use setting::{
    BARE_BB8, BARE_DEADPOOL, BB8, BB8_DOCUMENT, BB8_POOLS, DEADPOOL, DEADPOOL_DOCUMENT,
    DEADPOOL_POOLS, NAMES, OFFICIAL, RAW, Setting,
};
use table::{Goal, Table};
use tokio::runtime::Runtime;

const ROUNDS: usize = 15;
/// The operations of all tasks in one round of one subject.
const OPERATIONS: usize = 16_000;

const CPU: Goal = Goal {
    at_most: 1.2,
    is_kept: false,
};
const INSTRUCTIONS: Goal = Goal {
    at_most: 6500.0,
    is_kept: true,
};

const POOLS_INSTRUCTIONS: Goal = Goal {
    at_most: 7000.0,
    is_kept: true,
};

/// Nearly every check-out has to wait.
const CONTENDED: Load = Load {
    tasks: 16,
    connections: 4,
};

fn main() -> ExitCode {
    server::serve_if_asked();
    let server = server::Server::start(1);
    // As many connections as tasks.
    let setting = |tasks, operation| Setting::alone_with(server.ports()[0], tasks, operation);
    if let Some(asked) = callgrind::asked() {
        let builder = &mut tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().expect("a runtime");
        let _context = runtime.enter();
        let setting = setting(asked.load.connections, Operation::Ping);
        setting.alone(&runtime, &asked.name, asked.load.tasks)(asked.count);
        return ExitCode::SUCCESS;
    }
    let runtime = Runtime::new().expect("a runtime");
    let _context = runtime.enter();
    let mut table = Table::default();
    if std::env::args().any(|argument| argument == "--fairness") {
        fairness::compare_all(&runtime, &server, &mut table);
        return table.status();
    }
    let mut arguments = std::env::args().skip_while(|argument| argument != "--pools");
    if arguments.next().is_some() {
        let mut numbers = arguments.filter_map(|number| number.parse().ok());
        let only = numbers.next().zip(numbers.next());
        through_pools::compare_all(&runtime, &server, only, &mut table);
        return table.status();
    }
    if std::env::args().any(|argument| argument == "--operations") {
        through_operations::compare_all(&runtime, &server, &mut table);
        return table.status();
    }
    compare(&runtime, &setting(16, Operation::Ping), &mut table);
    compare(&runtime, &setting(64, Operation::Ping), &mut table);
    compare(&runtime, &setting(16, Operation::Find), &mut table);
    count_instructions(&mut table, Load::ALONE);
    count_instructions(&mut table, CONTENDED);
    table.status()
}

async fn subjects(setting: &Setting) -> Vec<Subject> {
    let tasks = setting.connections;
    let mut raw = Vec::new();
    for _ in 0..tasks {
        raw.push(setting.raw().await);
    }
    vec![
        Subject::new(RAW, raw),
        Subject::new(BARE_DEADPOOL, vec![setting.bare_deadpool(); tasks]),
        Subject::new(BARE_BB8, vec![setting.bare_bb8(); tasks]),
        Subject::new(DEADPOOL, vec![setting.deadpool(); tasks]),
        Subject::new(BB8, vec![setting.bb8(); tasks]),
        Subject::new(
            DEADPOOL_DOCUMENT,
            vec![OursByDocument(setting.deadpool()); tasks],
        ),
        Subject::new(BB8_DOCUMENT, vec![OursByDocument(setting.bb8()); tasks]),
        Subject::new(OFFICIAL, vec![setting.official().await; tasks]),
    ]
}

fn compare(runtime: &Runtime, setting: &Setting, table: &mut Table) {
    let mut subjects = runtime.block_on(subjects(setting));
    measure(
        runtime,
        &mut subjects,
        ROUNDS,
        OPERATIONS / setting.connections,
    );
    let (operation, cpu_goal) = match setting.operation {
        Operation::Ping => ("ping", Some(CPU)),
        Operation::Find => ("find one, owned reply", None),
    };
    table.heading(&format!("{operation}, {} tasks", setting.connections));
    let raw = &subjects[0];
    for subject in &subjects {
        let mut row = |what: &str, figure: f64, goal: Option<Goal>| {
            table.row(&format!("{}: {what}", subject.name), figure, goal);
        };
        let cpu = |sample: &Sample| sample.cpu * 1e6;
        row("CPU, µs", subject.median(cpu), None);
        if subject.name == RAW {
            continue;
        }
        let goal = match subject.name {
            DEADPOOL | BB8 => cpu_goal,
            _ => None,
        };
        row("CPU, ratio to raw", subject.ratio(raw, cpu), goal);
        let throughput = subject.ratio(raw, |sample| 1.0 / sample.wall);
        row("throughput, ratio to raw", throughput, None);
    }
}

fn count_instructions(table: &mut Table, load: Load) {
    let Load { tasks, connections } = load;
    table.heading(&format!(
        "ping, {tasks} tasks, {connections} connections, instructions under callgrind"
    ));
    for name in NAMES {
        let goal = match name {
            _ if tasks > connections => None,
            DEADPOOL | BB8 => Some(INSTRUCTIONS),
            DEADPOOL_POOLS | BB8_POOLS => Some(POOLS_INSTRUCTIONS),
            _ => None,
        };
        match callgrind::instructions(name, load) {
            Some(instructions) => table.row(name, instructions, goal),
            None => return println!("  skipped: valgrind could not run"),
        }
    }
}
