//! Elections, kills, partitions, cancelled callers, panicking handlers and ending runtimes
//! together, on either backend.
//!
//! ```sh
//! cargo bench -p mongo-testkit --bench stress -- [check-outs, default 200000]
//! ```

use std::process::ExitCode;

#[path = "../tests/failover/stress.rs"]
mod stress;

use stress::{Report, stress};

fn main() -> ExitCode {
    // Handlers panic on purpose.
    std::panic::set_hook(Box::new(|_| {}));
    // Cargo adds `--bench`.
    let wanted = std::env::args().skip(1).find_map(|word| word.parse().ok());
    let wanted = wanted.unwrap_or(200_000);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    let reports = runtime.block_on(async {
        [
            ("deadpool", stress::<mongo_deadpool::Pool>(wanted).await),
            ("bb8", stress::<mongo_bb8::Pool>(wanted).await),
        ]
    });
    let is_sound = |report: &Report| report.wrong + report.stuck == 0 && report.left.is_empty();
    for (backend, report) in &reports {
        println!("{backend}: {report:#?}");
    }
    match reports.iter().all(|(_, report)| is_sound(report)) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
