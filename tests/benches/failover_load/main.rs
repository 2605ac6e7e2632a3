//! Failover under load: this workspace's pools on deadpool and on bb8, and the official `mongodb`
//! crate, side by side in one run; with scripted members, and with proxies in front of a real
//! server.
//!
//! ```sh
//! cargo bench -p mongo-testkit --bench failover_load            # 200 changes for each
//! cargo bench -p mongo-testkit --bench failover_load -- 50
//! ```
//! 64 tasks write their own documents and read them back, one operation after the other without a
//! pause, while the roles of the three members change in six ways. Retries are off, and failures
//! are reported. Recovery is the time from the client's event that names a new primary to the first
//! write of each task that this one acknowledged. Tasks that were waiting for a reply of the old
//! primary, which was cut off, are reported separately as "held": they can't know about it before
//! their timeout.
//!
//! A write is misdirected if the client's own events, up to the moment before it was sent, say that
//! the server is a secondary, or that another one is the primary. The official crate does not
//! report its servers, nor whether a task was held. For it, every task counts as held that got no
//! reply, or got it after bytes passed again.

#[path = "../../tests/failover/load/mod.rs"]
mod load;
mod official;
#[path = "../support/table.rs"]
mod table;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use load::{Change, MEMBERS, Ours, Report, Subject, run};
use mongo_testkit::{Deployment, RealServer};
use official::Official;
use table::{Goal, Table};

const CHANGES: usize = 200;

/// The cycle of changes. Slower ones are rarer.
const CYCLE: [Change; 10] = [
    Change::Elect,
    Change::StepDown,
    Change::KillPrimary,
    Change::Elect,
    Change::StepDown,
    Change::Partition,
    Change::Elect,
    Change::KillSecondary,
    Change::StepDown,
    Change::BlackHole,
];

const NONE: Option<Goal> = Some(Goal {
    at_most: 0.0,
    is_kept: true,
});
/// In milliseconds, with the machine's noise.
const RECOVERY: Option<Goal> = Some(Goal {
    at_most: 50.0,
    is_kept: false,
});

async fn measure<S: Subject>(real: bool, changes: &[Change]) -> (Report, Duration) {
    let set = Deployment::replica_set("rs").members(MEMBERS);
    let set = match real {
        true => set.backed_by(RealServer::start()),
        false => set,
    };
    let set = set.start().await;
    let begun = Instant::now();
    let report = run::<S>(&set, changes).await;
    let elapsed = begun.elapsed();
    set.shutdown().await;
    (report, elapsed)
}

fn tell(table: &mut Table, name: &str, (report, elapsed): &(Report, Duration), is_ours: bool) {
    let ours = |goal| if is_ours { goal } else { None };
    let mut row =
        |what: &str, figure: f64, goal| table.row(&format!("{name}: {what}"), figure, goal);
    row("acknowledged writes", report.acknowledged as f64, None);
    let seconds = elapsed.as_secs_f64();
    row(
        "acknowledged writes per second",
        report.acknowledged as f64 / seconds,
        None,
    );
    row("wrong replies", report.wrong.len() as f64, NONE);
    row("acknowledged writes lost", report.lost.len() as f64, NONE);
    row(
        "documents that were never written",
        report.unexpected.len() as f64,
        ours(NONE),
    );
    if is_ours {
        row(
            "writes to a known secondary",
            report.misdirected.len() as f64,
            NONE,
        );
    }
    row("writes refused by a secondary", report.refused as f64, None);
    row(
        "failures that are not retryable",
        report.unretryable.len() as f64,
        ours(NONE),
    );
    for (kind, count) in &report.failures {
        row(kind, *count as f64, None);
    }
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    row(
        "latest end after its deadline, ms",
        millis(report.latest),
        None,
    );
    row("recoveries", report.recovery.len() as f64, None);
    row(
        "recovery p50, ms",
        millis(percentile(&report.recovery, 50)),
        None,
    );
    row(
        "recovery p99, ms",
        millis(percentile(&report.recovery, 99)),
        ours(RECOVERY),
    );
    row(
        "recovery, most, ms",
        millis(percentile(&report.recovery, 100)),
        None,
    );
    row("held recoveries", report.held.len() as f64, None);
    row("held p99, ms", millis(percentile(&report.held, 99)), None);
    for text in report
        .wrong
        .iter()
        .chain(&report.misdirected)
        .chain(&report.unretryable)
        .take(5)
    {
        println!("    {text}");
    }
}

/// A percentile of times in ascending order.
fn percentile(times: &[Duration], percent: usize) -> Duration {
    let rank = (times.len() * percent).div_ceil(100);
    times
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let asked = std::env::args().find_map(|argument| argument.parse().ok());
    let changes: usize = asked.unwrap_or(CHANGES).max(1);
    let changes: Vec<Change> = CYCLE.into_iter().cycle().take(changes).collect();
    let mut table = Table::default();
    for (what, real) in [
        ("scripted members", false),
        ("roles before a real server", true),
    ] {
        table.heading(&format!("{} changes, {what}", changes.len()));
        let report = measure::<Ours<mongo_deadpool::Pool>>(real, &changes).await;
        tell(&mut table, "mongo-deadpool", &report, true);
        let report = measure::<Ours<mongo_bb8::Pool>>(real, &changes).await;
        tell(&mut table, "mongo-bb8", &report, true);
        let report = measure::<Official>(real, &changes).await;
        tell(&mut table, "official driver", &report, false);
    }
    table.status()
}
