//! Hostile and broken servers. Each attack ends with its own kind of error, in time, with little
//! memory, and without stalling other tasks. No connection is reused after it.
//!
//! Each attack is a test of its own for each way to a connection, such as
//! `deadpool/authentication/short nonce`. They run one after the other, since they measure the
//! memory of the whole process: `--test-threads` is ignored.

mod attack_runner;
mod attacks;
mod authentication;
mod bounds;
mod compressed;
mod flood_runner;
mod floods;
mod plain;
mod sources;
mod tls;
mod tls_runner;

use std::fmt;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use libtest_mimic::{Arguments, Trial};
use peak_alloc::PeakAlloc;

use attacks::Attack;
use floods::Flood;
use sources::Core;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Whether to print the outcomes: with `--nocapture`.
static SHOW: AtomicBool = AtomicBool::new(false);

fn show(line: fmt::Arguments<'_>) {
    if SHOW.load(Ordering::Relaxed) {
        println!("{line}");
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    SHOW.store(arguments.nocapture, Ordering::Relaxed);
    let mut trials = Vec::new();
    let mut add = |way: &str, run: fn(&Attack)| {
        trials.extend(attacks::all().into_iter().map(|attack| {
            let name = format!("{way}/{}/{}", attack.moment, attack.name);
            Trial::test(name, move || {
                run(&attack);
                Ok(())
            })
        }));
    };
    add("core", attack_runner::run::<Core>);
    add("deadpool", attack_runner::run::<mongo_deadpool::Pool>);
    add("bb8", attack_runner::run::<mongo_bb8::Pool>);
    add("core over tls", attack_runner::run_over_tls::<Core>);
    add(
        "deadpool over tls",
        attack_runner::run_over_tls::<mongo_deadpool::Pool>,
    );
    add(
        "bb8 over tls",
        attack_runner::run_over_tls::<mongo_bb8::Pool>,
    );
    add("bounds", bounds::run);
    let mut add = |way: &str, run: fn(&Flood)| {
        trials.extend(floods::all().into_iter().map(|flood| {
            let name = format!("{way}/command/flood: {}", flood.name);
            Trial::test(name, move || {
                run(&flood);
                Ok(())
            })
        }));
    };
    add("core", flood_runner::run::<Core>);
    add("deadpool", flood_runner::run::<mongo_deadpool::Pool>);
    add("bb8", flood_runner::run::<mongo_bb8::Pool>);
    let mut add = |way: &str, run: fn(&tls::Attack)| {
        trials.extend(tls::all().into_iter().map(|attack| {
            let name = format!("{way}/tls/{}", attack.name);
            Trial::test(name, move || {
                run(&attack);
                Ok(())
            })
        }));
    };
    add("core", tls_runner::run::<Core>);
    add("deadpool", tls_runner::run::<mongo_deadpool::Pool>);
    add("bb8", tls_runner::run::<mongo_bb8::Pool>);
    trials.push(Trial::test("bounds/hashing for one second", || {
        bounds::hashing_stalls_nobody();
        Ok(())
    }));
    libtest_mimic::run(&arguments, trials).exit_code()
}
