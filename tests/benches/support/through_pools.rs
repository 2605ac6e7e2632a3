//! Operations through `Pools`: selection, check-out, command and check-in, against a standalone server
//! and a replica set of three.

use tokio::runtime::Runtime;

use crate::load::{Sample, Subject, measure};
use crate::operations::Operation;
use crate::server::Server;
use crate::setting::{BARE_BB8, BARE_DEADPOOL, BB8_POOLS, DEADPOOL_POOLS, OFFICIAL, RAW, Setting};
use crate::table::{Goal, Table};

const ROUNDS: usize = 7;
/// The operations of all tasks in one round of one subject.
const OPERATIONS: usize = 10_240;
/// Tasks, and connections of a pool.
const LOADS: [(usize, usize); 5] = [(16, 100), (16, 10), (64, 100), (512, 100), (512, 10)];

/// All combinations of operations, tasks, connections and servers; or pings of one number of tasks
/// and connections against the standalone.
pub(crate) fn compare_all(
    runtime: &Runtime,
    standalone: &Server,
    only: Option<(usize, usize)>,
    table: &mut Table,
) {
    if let Some((tasks, connections)) = only {
        let alone = Setting::alone_with(standalone.ports()[0], connections, Operation::Ping);
        return compare(runtime, &alone, tasks, "a standalone", table);
    }
    let set = Server::start(3);
    for operation in [Operation::Ping, Operation::Find] {
        for (tasks, connections) in LOADS {
            let alone = Setting::alone_with(standalone.ports()[0], connections, operation);
            let of_set = Setting {
                set: set.ports().to_vec(),
                ..Setting::alone_with(set.ports()[0], connections, operation)
            };
            compare(runtime, &alone, tasks, "a standalone", table);
            compare(runtime, &of_set, tasks, "a set of three", table);
        }
    }
}

async fn subjects(setting: &Setting, tasks: usize) -> Vec<Subject> {
    let mut raw = Vec::new();
    for _ in 0..tasks {
        raw.push(setting.raw().await);
    }
    vec![
        Subject::new(RAW, raw),
        Subject::new(BARE_DEADPOOL, vec![setting.bare_deadpool(); tasks]),
        Subject::new(BARE_BB8, vec![setting.bare_bb8(); tasks]),
        Subject::new(DEADPOOL_POOLS, vec![setting.deadpool_pools(); tasks]),
        Subject::new(BB8_POOLS, vec![setting.bb8_pools(); tasks]),
        Subject::new(OFFICIAL, vec![setting.official().await; tasks]),
    ]
}

fn compare(runtime: &Runtime, setting: &Setting, tasks: usize, servers: &str, table: &mut Table) {
    let mut subjects = runtime.block_on(subjects(setting, tasks));
    measure(runtime, &mut subjects, ROUNDS, OPERATIONS / tasks);
    let (operation, to_raw, to_official) = match setting.operation {
        Operation::Ping => ("ping", 1.15, 1.0 / 3.0),
        Operation::Find => ("find one, owned reply", 1.3, 0.25),
    };
    let connections = setting.connections;
    table.heading(&format!(
        "{operation}: {tasks} tasks, {connections} connections, {servers}"
    ));
    let cpu = |sample: &Sample| sample.cpu * 1e6;
    let (raw, bare, official) = (&subjects[0], &subjects[1], &subjects[subjects.len() - 1]);
    // Nearly every check-out has to wait: the generic pool's waits are not our own cost.
    let to_bare = (tasks > connections).then_some(Goal {
        at_most: 1.3,
        is_kept: false,
    });
    for subject in &subjects {
        let is_ours = matches!(subject.name, DEADPOOL_POOLS | BB8_POOLS);
        let goal = |at_most| {
            is_ours.then_some(Goal {
                at_most,
                is_kept: false,
            })
        };
        let mut row = |what: &str, figure: f64, goal: Option<Goal>| {
            table.row(&format!("{}: {what}", subject.name), figure, goal);
        };
        row("CPU, µs", subject.median(cpu), None);
        if subject.name != RAW {
            row("CPU, ratio to raw", subject.ratio(raw, cpu), goal(to_raw));
        }
        if is_ours {
            let ratio = subject.ratio(bare, cpu);
            row("CPU, ratio to a bare deadpool", ratio, to_bare);
            let ratio = subject.ratio(official, cpu);
            row(
                "CPU, ratio to the official driver",
                ratio,
                goal(to_official),
            );
            // As a ratio of times, so that lower is better here too.
            let ratio = subject.ratio(official, |sample| sample.wall);
            row("time, ratio to the official driver", ratio, None);
        }
    }
}
