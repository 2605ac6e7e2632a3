//! A caller's own deadline does not affect the server's pool.

use std::time::Duration;

use mongo_core::ErrorKind;
use mongo_core::error::Wait;
use mongo_core::event::{CheckOutFailedReason, CmapEvent};
use mongo_core::pools::Backend;
use mongo_core::select::Criterion;
use mongo_testkit::{Action, Deployment, Gate, Matcher, User};

use crate::support::{builder, observed, ping};

on_both! {
    a_callers_timeout_during_authentication_clears_no_pool,
}

/// By the specification, a timeout during authentication marks the server unknown and clears its
/// pool. A caller's own, shorter timeout must not.
async fn a_callers_timeout_during_authentication_clears_no_pool<B: Backend<Config: Default>>() {
    let set = Deployment::replica_set("rs").members(1);
    let set = set.user(User::new("one", "first")).start().await;
    let (pools, kept) = observed(builder::<B>(&set.uri_for("one", "first")));
    let held = pools.get().await.expect("a connection");
    let gate = Gate::new();
    let rule = Matcher::command("saslContinue").then(Action::WaitFor(gate.clone()));
    set.server(0).script().add(rule);
    let bound = Duration::from_millis(100);
    for _ in 0..3 {
        let late = pools.get_by(bound, &Criterion::write(), &[]).await;
        let late = late.expect_err("authentication hangs");
        let waits = [Wait::Authentication, Wait::WaitQueue];
        assert!(
            matches!(late.kind(), ErrorKind::Timeout { wait, .. } if waits.contains(wait)),
            "{late}"
        );
    }
    let reasons = kept.events().into_iter().filter_map(|event| match event {
        CmapEvent::ConnectionCheckOutFailed(event) => Some(event.reason),
        _ => None,
    });
    assert_eq!(
        reasons.collect::<Vec<_>>(),
        [CheckOutFailedReason::Timeout; 3]
    );
    assert_eq!(kept.count("PoolCleared"), 0);
    assert!(!held.is_stale());
    gate.open();
    drop(held);
    ping(&pools).await.expect("the connection that was there");
    pools.close().await;
    set.shutdown().await;
}
