//! The real topology, monitors and pools on a network in memory, with a clock that does not wait. A
//! seed decides the faults, and replays exactly.
//!
//! More seeds, optimised: `cargo bench -p mongo-testkit --bench simulation -- [seeds] [first seed] [part]`.

mod seed;

/// The number of seeds in the default run.
const SEEDS: u64 = 25;

/// The number of seeds of pools, half of them on each backend.
const POOL_SEEDS: u64 = 6;

/// The number of seeds of operations, half of them on each backend.
const OPERATION_SEEDS: u64 = 16;

#[test]
fn no_fault_breaks_an_invariant() {
    let mut faults = 0;
    for seed in 0..SEEDS {
        match seed::run(seed) {
            Ok(outcome) => {
                assert!(outcome.simulated >= seed::TROUBLE);
                assert!(outcome.selections > 0 && outcome.connections > 0);
                faults += outcome.faults;
            }
            Err(failure) => panic!("{failure}"),
        }
    }
    assert!(faults > 40 * SEEDS, "{faults} faults");
}

#[test]
fn no_fault_breaks_an_invariant_of_pools() {
    let mut faults = 0;
    for seed in 0..POOL_SEEDS {
        match seed::run_pools(seed) {
            Ok(outcome) => {
                assert!(outcome.simulated >= seed::POOL_TROUBLE);
                assert!(outcome.selections > 50 && outcome.connections > 0);
                faults += outcome.faults;
            }
            Err(failure) => panic!("{failure}"),
        }
    }
    assert!(faults > 15 * POOL_SEEDS, "{faults} faults");
}

#[test]
fn no_fault_breaks_an_invariant_of_operations() {
    let mut faults = 0;
    for seed in 0..OPERATION_SEEDS {
        match seed::run_operations(seed) {
            Ok(outcome) => {
                assert!(outcome.simulated >= seed::OPERATION_TROUBLE);
                assert!(outcome.selections > 50 && outcome.connections > 0);
                faults += outcome.faults;
            }
            Err(failure) => panic!("{failure}"),
        }
    }
    assert!(faults > 15 * OPERATION_SEEDS, "{faults} faults");
}

#[test]
fn a_seed_of_operations_replays_exactly() {
    let run = |seed| seed::run_operations(seed).unwrap_or_else(|failure| panic!("{failure}"));
    // In the last one a pause between attempts ends together with a change of its pool.
    for seed in (1000..1004).chain([60_601]) {
        let first = run(seed);
        assert!(first.entries > 100);
        assert_eq!(first, run(seed), "seed {seed}");
    }
}

#[test]
fn a_seed_of_pools_replays_exactly() {
    let run = |seed| seed::run_pools(seed).unwrap_or_else(|failure| panic!("{failure}"));
    for seed in 1000..1002 {
        let first = run(seed);
        assert!(first.entries > 100);
        assert_eq!(first, run(seed), "seed {seed}");
    }
}

#[test]
fn a_seed_replays_exactly() {
    let run = |seed| seed::run(seed).unwrap_or_else(|failure| panic!("{failure}"));
    for seed in 1000..1004 {
        let first = run(seed);
        assert!(first.entries > 100);
        assert_eq!(first, run(seed), "seed {seed}");
        assert_ne!(first.hash, run(seed + 100).hash);
    }
}
