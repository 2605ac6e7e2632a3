//! Attempts that fail repeatedly.

use std::time::Duration;

use mongo_core::pools::Backend;
use mongo_testkit::{Deployment, Matcher};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{LIMIT, pools};

on_both! {
    waiters_are_served_while_attempts_are_paced,
}

/// No later caller comes to wake them.
async fn waiters_are_served_while_attempts_are_paced<B: Backend<Config: Default>>() {
    let set = Deployment::replica_set("rs").members(1).start().await;
    let uri = format!("{}&maxConnecting=1&waitQueueTimeoutMS=15000", set.uri());
    let pools = pools::<B>(&uri);
    let held = timeout(LIMIT, pools.get()).await.expect("in time");
    let held = held.expect("a connection");
    // The monitor is connected: these are only the pool's hellos.
    let is_first = |command: &mongo_core::bson::Document| command.contains_key("client");
    let rule = Matcher::hello().when(is_first).drop_connection();
    let rule = set.server(0).script().add(rule);
    let mut waiting = JoinSet::new();
    for _ in 0..6 {
        let pools = pools.clone();
        waiting.spawn(async move { pools.get().await.map(drop) });
    }
    // The pauses are 0, 20, 40, 80 and 160 ms at most.
    let all = timeout(Duration::from_secs(10), waiting.join_all()).await;
    for outcome in all.expect("no waiter hangs") {
        let error = outcome.expect_err("no connection can be made");
        assert!(!error.is_timeout(), "{error}");
        assert!(error.has_label("SystemOverloadedError"), "{error}");
    }
    set.server(0).script().remove(rule);
    drop(held);
    pools.close().await;
}
