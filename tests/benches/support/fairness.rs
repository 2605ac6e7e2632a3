//! Fairness: 512 tasks run operations in sequence through pools of 10 connections.
//!
//! The run fails if a task completes no operation in 1.2 s. The output is the time of an operation,
//! which is mostly its wait for a connection.

use std::time::{Duration, Instant};

use crate::operations::Operation;
use crate::server::Server;
use crate::setting::{BARE_BB8, BARE_DEADPOOL, BB8_POOLS, DEADPOOL_POOLS, Setting};
use crate::table::{Goal, Table};
use crate::worker::Worker;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

const TASKS: usize = 512;
const CONNECTIONS: usize = 10;
const TIME: Duration = Duration::from_millis(1200);
const ROUNDS: usize = 5;

const NO_TASK: Goal = Goal {
    at_most: 0.0,
    is_kept: true,
};
const TWICE: Goal = Goal {
    at_most: 2.0,
    is_kept: false,
};

/// The number of tasks without operations, the fewest operations of a task, and the 99.9th
/// percentile of the times.
async fn measure<W: Worker + Clone>(worker: W) -> (usize, usize, f64) {
    let mut tasks = JoinSet::new();
    let end = Instant::now() + TIME;
    for _ in 0..TASKS {
        let mut worker = worker.clone();
        tasks.spawn(async move {
            let mut times = Vec::new();
            while Instant::now() < end {
                let begun = Instant::now();
                worker.operate().await;
                if Instant::now() < end {
                    times.push(begun.elapsed().as_secs_f64() * 1e3);
                }
            }
            times
        });
    }
    let all = tasks.join_all().await;
    let fewest = all.iter().map(Vec::len).min().unwrap_or_default();
    let starved = all.iter().filter(|times| times.is_empty()).count();
    let mut times: Vec<f64> = all.into_iter().flatten().collect();
    times.sort_by(f64::total_cmp);
    let rank = (times.len() * 999).div_ceil(1000);
    (starved, fewest, times[rank.saturating_sub(1)])
}

pub(crate) fn compare_all(runtime: &Runtime, server: &Server, table: &mut Table) {
    let setting = Setting::alone_with(server.ports()[0], CONNECTIONS, Operation::Ping);
    let _context = runtime.enter();
    for round in 1..=ROUNDS {
        table.heading(&format!(
            "{TASKS} tasks, {CONNECTIONS} connections, round {round}"
        ));
        let deadpool = runtime.block_on(measure(setting.deadpool_pools()));
        let bb8 = runtime.block_on(measure(setting.bb8_pools()));
        let bare_deadpool = runtime.block_on(measure(setting.bare_deadpool()));
        let bare_bb8 = runtime.block_on(measure(setting.bare_bb8()));
        for (name, (starved, fewest, slowest), is_ours) in [
            (DEADPOOL_POOLS, deadpool, true),
            (BB8_POOLS, bb8, true),
            (BARE_DEADPOOL, bare_deadpool, false),
            (BARE_BB8, bare_bb8, false),
        ] {
            let mut row =
                |what: &str, figure, goal| table.row(&format!("{name}: {what}"), figure, goal);
            row(
                "tasks without an operation",
                starved as f64,
                is_ours.then_some(NO_TASK),
            );
            row("fewest operations of a task", fewest as f64, None);
            row("p99.9 of an operation, ms", slowest, None);
        }
        table.row("p99.9, bb8 to deadpool", bb8.2 / deadpool.2, Some(TWICE));
    }
}
