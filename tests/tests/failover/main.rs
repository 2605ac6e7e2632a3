//! Failover under load, on either backend, with scripted members and with proxies in front of a
//! real server. `cargo bench -p mongo-testkit --bench failover_load` is a longer run.

mod load;
mod stress;

use std::time::Duration;

use load::{Change, Ours, Report, Subject, run};
use mongo_core::pools::Backend;
use mongo_testkit::{Deployment, RealServer};

/// Each change once. The last one leaves callers without replies until the end.
const CHANGES: [Change; 6] = [
    Change::Elect,
    Change::KillPrimary,
    Change::StepDown,
    Change::KillSecondary,
    Change::Partition,
    Change::BlackHole,
];

/// The tolerated scheduling delay of a busy machine.
const TURN: Duration = Duration::from_secs(1);

async fn scripted<S: Subject>() {
    let set = Deployment::replica_set("rs").members(load::MEMBERS);
    check(set.start().await, run::<S>).await;
}

async fn before_a_real_server<S: Subject>() {
    let set = Deployment::replica_set("rs").members(load::MEMBERS);
    check(set.backed_by(RealServer::start()).start().await, run::<S>).await;
}

async fn check(set: Deployment, run: impl AsyncFnOnce(&Deployment, &[Change]) -> Report) {
    let report = run(&set, &CHANGES).await;
    let failures = &report.failures;
    assert!(report.acknowledged > 0);
    assert_eq!(report.wrong, [""; 0], "replies to other requests");
    assert_eq!(report.misdirected, [""; 0], "{failures:?}");
    assert_eq!(report.unretryable, [""; 0], "{failures:?}");
    assert_eq!(report.lost, [0; 0], "acknowledged, and not there");
    assert_eq!(
        report.unexpected, [0; 0],
        "failed for good, or never written"
    );
    assert!(report.latest < TURN, "{:?} late", report.latest);
    assert!(!report.recovery.is_empty());
    set.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadpool_follows_scripted_members() {
    scripted::<Ours<mongo_deadpool::Pool>>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bb8_follows_scripted_members() {
    scripted::<Ours<mongo_bb8::Pool>>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadpool_follows_roles_before_a_real_server() {
    before_a_real_server::<Ours<mongo_deadpool::Pool>>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bb8_follows_roles_before_a_real_server() {
    before_a_real_server::<Ours<mongo_bb8::Pool>>().await;
}

async fn survives<B: Backend<Config: Default>>() {
    let report = stress::stress::<B>(3_000).await;
    assert_eq!((report.wrong, report.stuck), (0, 0), "{report:?}");
    assert_eq!(report.left, [""; 0], "{report:?}");
    assert!(report.served > 1_000, "{report:?}");
    assert!(report.panics > 0 && report.runtimes > 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadpool_survives_everything_at_once() {
    survives::<mongo_deadpool::Pool>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bb8_survives_everything_at_once() {
    survives::<mongo_bb8::Pool>().await;
}
