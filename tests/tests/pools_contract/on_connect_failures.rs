//! Failures of `on_connect`.

use std::time::Duration;

use mongo_core::error::{ClosedReason, Wait};
use mongo_core::event::ConnectionClosedReason;
use mongo_core::pools::Backend;
use mongo_core::select::Criterion;
use mongo_core::{Error, ErrorKind};
use mongo_testkit::{Action, ErrorReply, Matcher};
use tokio::time::Instant;

use crate::on_connect::{Doing, Hook, closed, is_of_hook};
use crate::support::{LIMIT, Sim, ping, status_of};

on_both! {
    on a paused clock:
    a_failure_is_the_callers_at_once,
    a_refused_command_keeps_its_code,
    a_failure_leaves_the_server_known,
    a_lost_connection_counts_as_a_network_error,
    an_ignored_failure_keeps_no_closed_connection,
    a_function_that_hangs_ends_with_connecttimeoutms,
    a_function_that_panics_fails_one_check_out,
}

async fn a_failure_is_the_callers_at_once<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let hook = Hook::doing(Doing::Fail);
    let (pools, kept) = hook.pools::<B>(&sim, "maxPoolSize=1");
    for _ in 0..5 {
        let begun = Instant::now();
        let error = pools.get().await.map(drop).expect_err("it fails");
        assert!(begun.elapsed() < Duration::from_millis(500), "{error}");
        assert!(is_of_hook(&error), "{error}");
        assert_eq!(
            error.server().map(ToString::to_string),
            Some(sim.set.address(0))
        );
        assert!(
            error
                .to_string()
                .starts_with("on_connect: the schema is too old"),
            "{error}"
        );
        assert!(!error.is_retryable_read(), "{error}");
    }
    let status = status_of(&pools);
    assert_eq!((status.size, status.idle, status.in_use), (0, 0, 0));
    let ends = closed(&kept);
    assert_eq!(ends.len(), 5);
    for (reason, error) in ends {
        assert_eq!(reason, ConnectionClosedReason::Error);
        assert!(error.is_some_and(|error| is_of_hook(&error)));
    }
    assert_eq!(kept.count("ConnectionReady"), 0);
    // The slot is free.
    hook.set(Doing::Ping);
    ping(&pools).await.expect("a ping");
}

async fn a_refused_command_keeps_its_code<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let refused = ErrorReply::new(13, "Unauthorized", "not authorized");
    let rule = Matcher::command("ping").then(Action::Error(refused));
    sim.set.server(0).script().add(rule);
    let (pools, kept) = Hook::default().pools::<B>(&sim, "");
    let error = pools.get().await.map(drop).expect_err("refused");
    let ErrorKind::OnConnect(own) = error.kind() else {
        panic!("{error}");
    };
    let own = own.downcast_ref::<Error>().expect("the command's error");
    assert_eq!(own.code(), Some(13));
    let shown = error.to_string();
    assert!(
        shown.starts_with("on_connect: command failed: not authorized"),
        "{shown}"
    );
    assert_eq!(shown.matches("(server ").count(), 1, "{shown}");
    assert_eq!(kept.count("PoolCleared"), 0);
}

/// Neither a failure nor an error that says that the server has changed its state: `on_connect` may
/// have commands of its own kind.
async fn a_failure_leaves_the_server_known<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let refused = ErrorReply::new(10107, "NotWritablePrimary", "not primary");
    let rule = Matcher::command("ping").then(Action::Error(refused));
    sim.set.server(0).script().add(rule);
    let (pools, kept) = Hook::default().pools::<B>(&sim, "");
    let error = pools.get().await.map(drop).expect_err("refused");
    assert!(is_of_hook(&error), "{error}");
    assert!(
        pools.topology().description().primary().is_some(),
        "{error}"
    );
    assert_eq!(kept.count("PoolCleared"), 0);
    assert_eq!(error.labels().count(), 0, "{error}");
}

async fn a_lost_connection_counts_as_a_network_error<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let rule = Matcher::command("ping").once().drop_connection();
    sim.set.server(0).script().add(rule);
    let (pools, kept) = Hook::default().pools::<B>(&sim, "maxPoolSize=1");
    let got = pools.get_by(LIMIT, &Criterion::write(), &[]).await;
    let error = got.map(drop).expect_err("the server hung up");
    assert!(matches!(error.kind(), ErrorKind::Network(_)), "{error}");
    assert!(error.is_retryable_write(), "{error}");
    assert_eq!(kept.count("PoolCleared"), 1);
    // `get` selects again by itself.
    let rule = Matcher::command("ping").once().drop_connection();
    sim.set.server(0).script().add(rule);
    drop(pools.get().await.expect("the second attempt"));
    assert_eq!(kept.count("PoolCleared"), 2);
}

async fn an_ignored_failure_keeps_no_closed_connection<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let rule = Matcher::command("ping").once().drop_connection();
    sim.set.server(0).script().add(rule);
    let (pools, _) = Hook::doing(Doing::Ignore).pools::<B>(&sim, "maxPoolSize=1");
    let error = pools.get().await.map(drop).expect_err("it is closed");
    let ErrorKind::OnConnect(own) = error.kind() else {
        panic!("{error}");
    };
    let own = own.downcast_ref::<Error>().map(Error::kind);
    let network = ClosedReason::Network;
    assert!(matches!(own, Some(ErrorKind::ConnectionClosed(reason)) if *reason == network));
    assert_eq!(status_of(&pools).size, 0);
    ping(&pools).await.expect("a ping");
}

async fn a_function_that_hangs_ends_with_connecttimeoutms<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let hook = Hook::doing(Doing::Hang);
    let (pools, kept) = hook.pools::<B>(&sim, "maxPoolSize=1&connectTimeoutMS=2000");
    // So that only the pool's connection is timed.
    pools.topology().connect().expect("a runtime");
    let begun = Instant::now();
    let error = pools.get().await.map(drop).expect_err("it hangs");
    let took = begun.elapsed();
    let is_hook = |wait: Wait| wait == Wait::Hook;
    assert!(
        matches!(error.kind(), ErrorKind::Timeout { wait, .. } if is_hook(*wait)),
        "{error}"
    );
    assert!((2000..3000).contains(&took.as_millis()), "{took:?}");
    assert_eq!(hook.dropped(), 1);
    assert_eq!(status_of(&pools).size, 0);
    assert!(pools.topology().description().primary().is_some());
    assert_eq!(kept.count("PoolCleared"), 0);
    // A caller's own deadline names the wait too.
    let short = Duration::from_millis(100);
    let got = pools.get_by(short, &Criterion::write(), &[]).await;
    let error = got.map(drop).expect_err("it hangs");
    assert!(
        matches!(error.kind(), ErrorKind::Timeout { wait, .. } if is_hook(*wait)),
        "{error}"
    );
}

async fn a_function_that_panics_fails_one_check_out<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let hook = Hook::doing(Doing::Panic);
    let (pools, kept) = hook.pools::<B>(&sim, "maxPoolSize=1");
    let error = pools.get().await.map(drop).expect_err("it panics");
    assert!(is_of_hook(&error), "{error}");
    let wanted = "on_connect: the application's on_connect panicked: on purpose";
    assert!(error.to_string().starts_with(wanted), "{error}");
    assert_eq!(kept.count("PoolCleared"), 0);
    hook.set(Doing::Ping);
    ping(&pools).await.expect("a ping");
    assert_eq!(status_of(&pools).size, 1);
}
