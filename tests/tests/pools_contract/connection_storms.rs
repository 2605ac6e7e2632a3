//! Ten thousand concurrent callers, at pools that are cold or fail.

use std::time::Duration;

use mongo_core::auth::Credential;
use mongo_core::pools::{Backend, Pools};
use mongo_core::{Error, ErrorKind};
use tokio::time::{Instant, interval, sleep};

use crate::support::{Kept, Sim, handshake, observed, ping, settled};

const CALLERS: usize = 10_000;

on_both! {
    on a paused clock:
    a_cold_pool_serves_all_callers,
    few_attempts_go_to_a_server_that_resets_connections,
    few_attempts_go_to_a_silent_server,
    few_attempts_go_to_a_server_that_refuses_connections,
    a_wrong_password_fails_all_callers,
}

/// The outcomes of the callers, and the cost.
#[derive(Debug, Default)]
struct Outcome {
    served: usize,
    failed: usize,
    timed_out: usize,
    attempts: u64,
    /// The most concurrent attempts.
    most_pending: usize,
    took: Duration,
}

/// Runs all check-outs concurrently.
async fn storm<B: Backend<Config: Default>>(pools: &Pools<B>, kept: &Kept) -> Outcome {
    let (begun, before) = (Instant::now(), kept.count("ConnectionCreated"));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let pools = pools.clone();
            tokio::spawn(async move { pools.get().await.map(drop) })
        })
        .collect();
    let mut outcome = Outcome::default();
    for caller in callers {
        match caller.await.expect("no panic") {
            Ok(()) => outcome.served += 1,
            Err(error) if is_wait(&error) => outcome.timed_out += 1,
            Err(_) => outcome.failed += 1,
        }
    }
    outcome.took = begun.elapsed();
    outcome.attempts = (kept.count("ConnectionCreated") - before) as u64;
    outcome.most_pending = kept.most_pending();
    let status = pools.status();
    assert!(status.iter().all(|pool| pool.waiting == 0), "{status:?}");
    outcome
}

/// Whether the caller's timeout expired, in any phase.
fn is_wait(error: &Error) -> bool {
    error.is_timeout() || matches!(error.kind(), ErrorKind::ServerSelection(_))
}

/// Pools with connected monitors and one idle connection.
async fn warm<B: Backend<Config: Default>>(sim: &Sim, options: &str) -> (Pools<B>, Kept) {
    let (pools, kept) = observed(sim.builder::<B>(options));
    ping(&pools).await.expect("a ping");
    settled(sim.set.server(0), 1).await;
    (pools, kept)
}

async fn a_cold_pool_serves_all_callers<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let (pools, kept) = observed(sim.builder::<B>(""));
    let outcome = storm(&pools, &kept).await;
    assert_eq!(outcome.served, CALLERS, "{outcome:?}");
    assert!(outcome.most_pending <= 2, "{outcome:?}");
    assert!(outcome.attempts <= 100, "{outcome:?}");
    pools.close().await;
}

async fn few_attempts_go_to_a_server_that_resets_connections<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let (pools, kept) = warm::<B>(&sim, "waitQueueTimeoutMS=10000").await;
    let held = pools.get().await.expect("the one there is");
    sim.set
        .server(0)
        .script()
        .add(handshake().drop_connection());
    let outcome = storm(&pools, &kept).await;
    assert_eq!(outcome.served, 0, "{outcome:?}");
    assert_eq!(outcome.failed + outcome.timed_out, CALLERS);
    assert!(outcome.most_pending <= 2, "{outcome:?}");
    // In 10 s: after the first few attempts, the mean pause is half a second.
    assert!((10..100).contains(&outcome.attempts), "{outcome:?}");
    assert!(outcome.took < Duration::from_secs(11), "{outcome:?}");
    drop(held);
    pools.close().await;
}

async fn few_attempts_go_to_a_silent_server<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let options = "waitQueueTimeoutMS=10000&connectTimeoutMS=2000";
    let (pools, kept) = warm::<B>(&sim, options).await;
    let held = pools.get().await.expect("the one there is");
    sim.set.server(0).script().add(handshake().never_answer());
    let outcome = storm(&pools, &kept).await;
    assert_eq!(outcome.failed + outcome.timed_out, CALLERS);
    assert!(outcome.most_pending <= 2, "{outcome:?}");
    assert!((4..20).contains(&outcome.attempts), "{outcome:?}");
    assert!(outcome.took < Duration::from_secs(11), "{outcome:?}");
    drop(held);
    pools.close().await;
}

async fn few_attempts_go_to_a_server_that_refuses_connections<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let options = "waitQueueTimeoutMS=10000&heartbeatFrequencyMS=500";
    let (pools, kept) = warm::<B>(&sim, options).await;
    sim.set.kill(0).await;
    sleep(Duration::from_secs(1)).await;
    let outcome = storm(&pools, &kept).await;
    assert_eq!(outcome.failed + outcome.timed_out, CALLERS);
    assert!(outcome.most_pending <= 2, "{outcome:?}");
    // The pool is paused: callers in server selection make no attempt.
    assert!(outcome.attempts <= 10, "{outcome:?}");
    assert!(outcome.took < Duration::from_secs(11), "{outcome:?}");
    sim.set.restart(0).await;
    sim.set.elect(0);
    let outcome = storm(&pools, &kept).await;
    assert_eq!(outcome.served, CALLERS, "{outcome:?}");
    pools.close().await;
}

async fn a_wrong_password_fails_all_callers<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let (pools, kept) = warm::<B>(&sim, "").await;
    let wrong = Credential::new("one", "wrong").with_source("admin");
    let wrong = pools.with_credential(wrong).expect("a handle");
    let right = Credential::new("two", "second").with_source("admin");
    let right = pools.with_credential(right).expect("a handle");
    let other = tokio::spawn(async move {
        let mut each = interval(Duration::from_millis(1));
        for _ in 0..100 {
            each.tick().await;
            ping(&right).await.expect("not affected by another user");
        }
    });
    let outcome = storm(&wrong, &kept).await;
    assert_eq!(outcome.failed, CALLERS, "{outcome:?}");
    assert!(outcome.attempts < 500, "{outcome:?}");
    other.await.expect("no panic");
    assert_eq!(kept.count("PoolCleared"), 0);
    let finished = sim.set.server(0).look(|seen| seen.count("saslContinue"));
    assert!(finished < 500, "{finished}");
    pools.close().await;
}
