//! All attacks of `tests/bad_input`, and a few more, on our connection and, beside it, on the official
//! driver, in plain and over TLS: what comes out, after how long, with how much memory, and how long
//! other tasks had to wait. Each in a process of its own.
//!
//! ```sh
//! cargo bench -p mongo-testkit --bench hostile -- [part of a name]...
//! ```
//! Names are such as `plain/command/length of 2 GB`. All take a quarter of an hour. The tests prove what
//! becomes of ours with each backend; this is for comparison, but fails where ours is late, takes too
//! much, or does not end as it should.
//!
//! Memory is the largest growth of the process during the attack, including pages of the program itself.
//! The wait of other tasks is the CPU time of the one thread between two ticks of 1 ms, so that a busy
//! machine changes little. The servers are in another process than the clients.

#[path = "../../tests/bad_input/attacks.rs"]
#[allow(dead_code, reason = "what only the tests need")]
mod attacks;
#[path = "../../tests/bad_input/authentication.rs"]
mod authentication;
mod cases;
mod client;
#[path = "../../tests/bad_input/compressed.rs"]
mod compressed;
mod crowd;
#[path = "../../tests/bad_input/floods.rs"]
mod floods;
mod long;
#[path = "../../tests/bad_input/plain.rs"]
mod plain;
#[path = "../../tests/bad_input/tls.rs"]
#[allow(dead_code, reason = "what only the tests need")]
mod tls;
mod watch;

use std::process::ExitCode;
use std::time::Duration;

use cases::Case;
use watch::{End, Watched, watch};

/// Of connecting, of selecting a server and, for ours, of a command: after it an honest client has
/// given up.
const BOUND: Duration = Duration::from_secs(2);
/// How late it may be.
const LATE: Duration = Duration::from_millis(50);
/// Bytes of the program itself that come into memory when they are first needed.
const OWN: u64 = 4 * 1024 * 1024;
/// Milliseconds.
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
            let seen = watch(who, index, &uri, case.bound());
            println!("{name:<72} {who:<8} {seen}");
            summary.add(&seen, case);
        }
    }
    println!("\nours:     {ours}\nofficial: {theirs}");
    match ours.bad {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

#[derive(Default)]
struct Summary {
    all: usize,
    /// Not as it should be: counted by our own expectations, so for ours alone.
    bad: usize,
    refused: usize,
    accepted: usize,
    late: usize,
    stalled: usize,
    died: usize,
    too_large: usize,
    blocking: usize,
    memory: f64,
    gap: f64,
}

impl Summary {
    fn add(&mut self, seen: &Watched, case: &Case) {
        self.all += 1;
        self.memory = self.memory.max(mib(seen.memory));
        self.gap = self.gap.max(seen.gap);
        let is_late = seen.took > case.bound() + LATE;
        let is_large = seen.memory > case.memory() + OWN;
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
             {died} died, {too_large} took too much memory (at most {memory:.1} MiB), {blocking} blocked others over \
             {GAP} ms (at most {gap:.1}); {bad} not as they should be"
        )
    }
}
