//! Many seeds of the simulation, and their speed: seeds of a topology, one minute each, and then as
//! many of pools and of operations, half of them on each backend.
//!
//! ```sh
//! cargo bench -p mongo-testkit --bench simulation -- [seeds, default 20000] [first seed, default 0] \
//!     [topology | pools | operations, default all]
//! ```
//! Two seeds in a hundred are run twice, and must replay exactly. The first seed that breaks an
//! invariant ends the run, with its trace; so does one that takes a minute, because something is
//! repeated without a pause: its clock stands still.

use std::ops::Range;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

#[path = "../tests/simulation/seed/mod.rs"]
mod seed;

type Run = fn(u64) -> Result<seed::Outcome, seed::Failure>;

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let mut numbers = std::env::args()
        .skip(1)
        .filter_map(|word| word.parse().ok());
    let seeds: u64 = numbers.next().unwrap_or(20_000);
    let first: u64 = numbers.next().unwrap_or(0);
    let parts: [(&str, Run, Duration); 3] = [
        ("topology", seed::run, seed::TROUBLE),
        ("pools", seed::run_pools, seed::POOL_TROUBLE),
        ("operations", seed::run_operations, seed::OPERATION_TROUBLE),
    ];
    let named = std::env::args().find(|word| parts.iter().any(|(name, ..)| name == word));
    for (name, run, trouble) in parts {
        let is_meant = named.as_ref().is_none_or(|named| named == name);
        if is_meant && !go(name, run, trouble, first..first + seeds) {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn go(name: &str, run: Run, trouble: Duration, numbers: Range<u64>) -> bool {
    let start = Instant::now();
    let mut total = seed::Outcome::default();
    let first = numbers.start;
    let end = numbers.end;
    let (begin, begun) = channel();
    std::thread::spawn(move || watch(&begun));
    for number in numbers {
        let _ = begin.send(number);
        let outcome = match run(number) {
            Ok(outcome) => outcome,
            Err(failure) => {
                eprintln!("{failure}");
                return false;
            }
        };
        // One on deadpool and one on bb8.
        if number % 100 < 2 && run(number).ok() != Some(outcome) {
            eprintln!("seed {number} does not replay");
            return false;
        }
        assert!(outcome.simulated >= trouble);
        total.hash ^= outcome.hash.rotate_left((number % 64) as u32);
        total.entries += outcome.entries;
        total.faults += outcome.faults;
        total.selections += outcome.selections;
        total.connections += outcome.connections;
        total.simulated += outcome.simulated;
        let done = number - first + 1;
        if done.is_multiple_of(1000) || number + 1 == end {
            report(name, done, &total, start.elapsed());
        }
    }
    true
}

/// Ends the process if a seed takes too long.
fn watch(begun: &Receiver<u64>) {
    const LONGEST: Duration = Duration::from_secs(60);
    let mut seed = 0;
    loop {
        match begun.recv_timeout(LONGEST) {
            Ok(next) => seed = next,
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                eprintln!("seed {seed} takes more than {} s", LONGEST.as_secs());
                std::process::exit(1);
            }
        }
    }
}

fn report(name: &str, seeds: u64, total: &seed::Outcome, elapsed: Duration) {
    println!(
        "{name}: {seeds} seeds in {:.0} s ({:.0} per second): {} faults, {} selections, check-outs or operations, {} connections, \
         {} entries in the traces, {:.1} simulated hours, hash {:016x}",
        elapsed.as_secs_f64(),
        seeds as f64 / elapsed.as_secs_f64(),
        total.faults,
        total.selections,
        total.connections,
        total.entries,
        total.simulated.as_secs_f64() / 3600.0,
        total.hash,
    );
}
