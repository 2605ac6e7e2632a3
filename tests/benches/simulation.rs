//! Many seeds of the simulation, of one minute each, and how fast they go.
//!
//! ```sh
//! cargo bench -p mongo-testkit --bench simulation -- [seeds, default 20000] [first seed, default 0]
//! ```
//! One seed in a hundred is run twice, and must replay exactly. The first seed that breaks an
//! invariant ends the run, with its trace.

use std::process::ExitCode;
use std::time::{Duration, Instant};

#[path = "../tests/simulation/seed/mod.rs"]
mod seed;

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let mut numbers = std::env::args()
        .skip(1)
        .filter_map(|word| word.parse().ok());
    let seeds: u64 = numbers.next().unwrap_or(20_000);
    let first: u64 = numbers.next().unwrap_or(0);
    let start = Instant::now();
    let mut total = seed::Outcome::default();
    for number in first..first + seeds {
        let outcome = match seed::run(number) {
            Ok(outcome) => outcome,
            Err(failure) => {
                eprintln!("{failure}");
                return ExitCode::FAILURE;
            }
        };
        if number.is_multiple_of(100) && seed::run(number).ok() != Some(outcome) {
            eprintln!("seed {number} does not replay");
            return ExitCode::FAILURE;
        }
        assert!(outcome.simulated >= seed::TROUBLE);
        total.hash ^= outcome.hash.rotate_left((number % 64) as u32);
        total.entries += outcome.entries;
        total.faults += outcome.faults;
        total.selections += outcome.selections;
        total.connections += outcome.connections;
        total.simulated += outcome.simulated;
        let done = number - first + 1;
        if done.is_multiple_of(1000) || done == seeds {
            report(done, &total, start.elapsed());
        }
    }
    ExitCode::SUCCESS
}

fn report(seeds: u64, total: &seed::Outcome, elapsed: Duration) {
    println!(
        "{seeds} seeds in {:.0} s ({:.0} per second): {} faults, {} selections, {} connections, \
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
