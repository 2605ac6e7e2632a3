//! All attacks of `tests/bad_input`, and a few more, on this workspace's connection and on the
//! official driver, plain and over TLS: the outcome, its time, the memory, and the delay of other
//! tasks. Each attack runs in its own process.
//!
//! ```sh
//! cargo bench -p mongo-testkit --bench hostile -- [part of a name]...
//! ```
//! Names are such as `plain/command/length of 2 GB`. All attacks take a quarter of an hour. The
//! tests check the outcomes for each backend. This bench is for comparison, but fails if this
//! workspace's client is late, needs too much memory, or has a wrong outcome.
//!
//! Memory is the process's maximum, 10 to 20 MiB of which are its own. The delay of others is CPU
//! time of the only thread between two ticks of 1 ms, so that a busy machine changes little.

#[path = "../../tests/bad_input/attacks.rs"]
#[allow(dead_code, reason = "only the tests need the rest")]
mod attacks;
#[path = "../../tests/bad_input/authentication.rs"]
mod authentication;
mod cases;
mod client;
#[path = "../../tests/bad_input/compressed.rs"]
mod compressed;
#[path = "../../tests/bad_input/floods.rs"]
mod floods;
mod long;
#[path = "../../tests/bad_input/plain.rs"]
mod plain;
#[path = "../../tests/bad_input/tls.rs"]
#[allow(dead_code, reason = "only the tests need the rest")]
mod tls;
mod watch;

use std::process::ExitCode;
use std::time::Duration;

use watch::{End, Watched, watch};

/// The timeout of connecting, of server selection and, for this workspace, of a command.
const BOUND: Duration = Duration::from_secs(2);
/// How late a timeout may be.
const LATE: Duration = Duration::from_millis(50);
/// The limit in MiB: a message, 1 more, and the process's own memory.
const MEMORY: u64 = 48 + 1 + 20;
/// The limit in milliseconds.
const GAP: f64 = 10.0;

fn main() -> ExitCode {
    let cases = cases::all();
    if let Some(job) = client::Job::of_this_process() {
        client::run(job, cases);
    }
    let wanted: Vec<_> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    println!(
        "{:<72} {:<8} {:>8} {:>8} {:>8}  outcome",
        "attack", "client", "ms", "MiB", "gap ms"
    );
    let (mut ours, mut theirs) = (Summary::default(), Summary::default());
    for (index, case) in cases.iter().enumerate() {
        let name = case.name();
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part)) {
            continue;
        }
        for (who, summary) in [("ours", &mut ours), ("official", &mut theirs)] {
            let (_server, uri) = runtime.block_on(case.server(who));
            let seen = watch(who, index, &uri);
            println!("{name:<72} {who:<8} {seen}");
            summary.add(&seen);
        }
    }
    println!("\nours:     {ours}\nofficial: {theirs}");
    match ours.bad {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

#[derive(Default)]
struct Summary {
    all: usize,
    /// Wrong outcomes. Only this workspace's client has expectations.
    bad: usize,
    refused: usize,
    accepted: usize,
    late: usize,
    stalled: usize,
    died: usize,
    too_large: usize,
    blocking: usize,
    memory: u64,
    gap: f64,
}

impl Summary {
    fn add(&mut self, seen: &Watched) {
        self.all += 1;
        self.memory = self.memory.max(seen.memory);
        self.gap = self.gap.max(seen.gap);
        let is_late = seen.took > BOUND + LATE;
        let is_large = seen.memory > MEMORY;
        let is_blocking = seen.gap > GAP;
        self.too_large += usize::from(is_large);
        self.blocking += usize::from(is_blocking);
        let mut is_right = !is_late && !is_large && !is_blocking;
        match seen.end {
            End::Refused { fits } => {
                self.refused += 1;
                self.late += usize::from(is_late);
                is_right &= fits;
            }
            End::Accepted { fits } => {
                self.accepted += 1;
                is_right &= fits;
            }
            End::Stalled => self.stalled += 1,
            End::TooLarge => {}
            End::Died => self.died += 1,
        }
        let ended = matches!(seen.end, End::Refused { .. } | End::Accepted { .. });
        self.bad += usize::from(!is_right || !ended);
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            all,
            bad,
            refused,
            accepted,
            late,
            stalled,
            died,
            too_large,
            blocking,
            memory,
            gap,
        } = self;
        write!(
            f,
            "{all} attacks: {refused} refused ({late} of them late), {accepted} accepted, {stalled} stalled, \
             {died} died, {too_large} over {MEMORY} MiB (at most {memory}), {blocking} blocked others over \
             {GAP} ms (at most {gap:.1}); {bad} not as they should be"
        )
    }
}
