//! Transfers between accounts under failovers: this workspace's pools on deadpool and on bb8, and the
//! official `mongodb` crate, side by side in one run, on a real server behind three proxies that
//! play the roles of a replica set.
//!
//! ```sh
//! cargo bench -p mongo-testkit --bench transfer            # 200 failovers for each
//! cargo bench -p mongo-testkit --bench transfer -- 50
//! ```
//! 16 tellers make transfers without a pause, each with a session of its own. A transfer is a
//! transaction of three writes, by the convenient API of its client: a debit if the balance
//! suffices, a credit, and an entry in the books. Runs that are repeated write entries of their own,
//! so that a transfer that was applied twice has two entries. At the end the books are compared with
//! the outcomes that the clients reported, and the balances with the books, to the cent.
//!
//! First some transfers are made without failovers. Then the primary changes: by an election, a
//! step-down and an election, or the death of the primary's process and an election. The recovery of
//! a teller is the time from the election to the end of its first transfer that was acknowledged
//! after it. The transactions that a primary had open end with its role. The real server has one set
//! of data for all roles, so nothing that it has acknowledged is ever rolled back.

mod books;
#[path = "../../tests/failover/load/course.rs"]
mod course;
mod official;
mod ours;
#[path = "../support/table.rs"]
mod table;

use std::fmt::Display;
use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use books::{ACCOUNTS, Report, Transfer, open_accounts};
use course::{Course, LIMIT};
use mongo_testkit::{Deployment, RealServer};
use official::Official;
use ours::Ours;
use table::{Goal, Table};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

const FAILOVERS: usize = 200;
const MEMBERS: usize = 3;
const TELLERS: u64 = 16;
/// The time without failovers, and the part at its start that does not count.
const STEADY: Duration = Duration::from_secs(6);
const WARM_UP: Duration = Duration::from_secs(1);
/// The least time between two elections. Monitors of these pools pace a member that changes more
/// than ten times in a row within half a second each, which no real set does.
const BETWEEN: Duration = Duration::from_millis(600);
/// The time without a primary after a step-down.
const VACANT: Duration = Duration::from_millis(30);
/// Frequent checks, so that returning members are soon noticed.
const OPTIONS: &str = "w=majority&heartbeatFrequencyMS=500&connectTimeoutMS=1000\
                       &serverSelectionTimeoutMS=5000";

const NONE: Option<Goal> = Some(Goal {
    at_most: 0.0,
    is_kept: true,
});

/// A client whose tellers make transfers.
trait Bank: Sized {
    type Teller: Teller;

    fn connect(uri: &str) -> impl Future<Output = Self>;

    fn teller(&self) -> impl Future<Output = Self::Teller>;

    fn close(self) -> impl Future<Output = ()>;
}

trait Teller: Send + 'static {
    /// Makes a transfer in a transaction. Counts its runs.
    fn make(
        &mut self,
        transfer: &Transfer,
        runs: &mut usize,
    ) -> impl Future<Output = Outcome> + Send;
}

/// The outcome of a transfer, as its client reports it.
enum Outcome {
    Made,
    /// The account has too little.
    Refused,
    Failed {
        text: String,
        /// Whether it may have been made.
        is_unknown: bool,
    },
}

impl Outcome {
    /// The outcome of a transaction that returns whether the account has enough.
    fn of<E: Display>(done: Result<bool, E>, is_unknown: impl Fn(&E) -> bool) -> Self {
        match done {
            Ok(true) => Self::Made,
            Ok(false) => Self::Refused,
            Err(error) => Self::Failed {
                text: error.to_string(),
                is_unknown: is_unknown(&error),
            },
        }
    }
}

/// One transfer of a teller.
struct Entry {
    transfer: Transfer,
    begun: Instant,
    ended: Instant,
    runs: usize,
    outcome: Outcome,
}

async fn work<T: Teller>(mut teller: T, number: u64, course: Arc<Course>) -> Vec<Entry> {
    let mut log = Vec::new();
    for count in 0_u64.. {
        if course.is_over() {
            break;
        }
        let transfer = Transfer::new(number, count);
        let (mut runs, begun) = (0, Instant::now());
        let outcome = teller.make(&transfer, &mut runs).await;
        let ended = Instant::now();
        if let Outcome::Made = outcome {
            course.acknowledged(number, ended);
        }
        log.push(Entry {
            transfer,
            begun,
            ended,
            runs,
            outcome,
        });
    }
    log
}

/// Makes another member the primary, and returns the moment.
async fn fail_over(set: &Deployment, number: usize) -> Instant {
    let down = set.primary().expect("there is one between failovers");
    let up = (down + 1) % MEMBERS;
    match number % 3 {
        0 => {}
        1 => {
            set.step_down(down);
            sleep(VACANT).await;
        }
        _ => set.kill(down).await,
    }
    let elected = Instant::now();
    set.elect(up);
    elected
}

async fn measure<B: Bank>(failovers: usize) -> Report {
    let real = RealServer::start();
    let set = Deployment::replica_set("rs")
        .members(MEMBERS)
        .backed_by(real);
    let set = set.start().await;
    open_accounts(&set);
    let bank = B::connect(&format!("{}&{OPTIONS}", set.uri())).await;
    let course = Arc::new(Course::new(TELLERS));
    let mut tellers = JoinSet::new();
    for number in 0..TELLERS {
        tellers.spawn(work(bank.teller().await, number, course.clone()));
    }
    sleep(WARM_UP).await;
    let steady = Instant::now();
    sleep(STEADY - WARM_UP).await;
    let steady = steady..Instant::now();
    let mut elections = Vec::new();
    for number in 0..failovers {
        let down = set.primary();
        let elected = fail_over(&set, number).await;
        elections.push(elected);
        course.all_acknowledged_since(elected).await;
        if let Some(down) = down.filter(|_| number % 3 == 2) {
            set.restart(down).await;
        }
        sleep_until(elected + BETWEEN).await;
    }
    course.end();
    let logs = timeout(LIMIT, tellers.join_all()).await;
    let logs = logs.expect("all tellers end");
    bank.close().await;
    let report = Report::new(&set, &logs, &steady, &elections);
    set.shutdown().await;
    report
}

fn tell(table: &mut Table, name: &str, report: &Report, is_ours: bool) {
    let ours = |goal| if is_ours { goal } else { None };
    let mut row =
        |what: &str, figure: f64, goal| table.row(&format!("{name}: {what}"), figure, goal);
    row("transfers per second, steady", report.per_second, None);
    row(
        "transfer p50, steady, ms",
        report.steady.percentile(50),
        None,
    );
    row(
        "transfer p99, steady, ms",
        report.steady.percentile(99),
        None,
    );
    row("acknowledged transfers", report.made as f64, None);
    row("refused transfers", report.refused as f64, None);
    row("repeated runs", report.repeated as f64, None);
    row("recoveries", report.recovery.len() as f64, None);
    row("recovery p50, ms", report.recovery.percentile(50), None);
    row("recovery p99, ms", report.recovery.percentile(99), None);
    row("recovery, most, ms", report.recovery.percentile(100), None);
    row("failed transfers", report.failed as f64, ours(NONE));
    row(
        "acknowledged transfers not in the books",
        report.lost as f64,
        ours(NONE),
    );
    row(
        "transfers in the books twice",
        report.twice as f64,
        ours(NONE),
    );
    row(
        "entries of failed or refused transfers",
        report.unexpected as f64,
        ours(NONE),
    );
    row(
        &format!("balances of {ACCOUNTS} accounts that differ from the books"),
        report.wrong_balances as f64,
        ours(NONE),
    );
    row(
        "cents too many or too few in all",
        report.difference as f64,
        ours(NONE),
    );
    for text in report.texts.iter().take(5) {
        println!("    {text}");
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let asked = std::env::args().find_map(|argument| argument.parse().ok());
    let failovers: usize = asked.unwrap_or(FAILOVERS).max(1);
    let mut table = Table::default();
    table.heading(&format!("{failovers} failovers before a real server"));
    let report = measure::<Ours<mongo_deadpool::Pool>>(failovers).await;
    tell(&mut table, "mongo-deadpool", &report, true);
    let report = measure::<Ours<mongo_bb8::Pool>>(failovers).await;
    tell(&mut table, "mongo-bb8", &report, true);
    let report = measure::<Official>(failovers).await;
    tell(&mut table, "official driver", &report, false);
    table.status()
}
