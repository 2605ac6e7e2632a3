//! Logouts of credentials.

use std::time::Duration;

use mongo_core::ErrorKind;
use mongo_core::bson::doc;
use mongo_core::error::ClosedReason;
use mongo_core::pools::{Backend, PoolsConfig};
use mongo_core::select::{ReadPreference, ReadPreferenceMode};
use mongo_testkit::Matcher;
use tokio::time::{Instant, sleep};

use crate::credentials::{as_one, echo, open_for, pools_of};
use crate::support::{Sim, eventually, get_in_task, hold, ping};

on_both! {
    on a paused clock:
    a_logout_waits_for_connections_in_use,
    a_logout_interrupts_connections_after_the_close_timeout,
    a_logout_fails_waiters_at_once,
    a_logout_fails_server_selections_at_once,
    a_logged_out_handle_stays_logged_out,
}

async fn a_logout_waits_for_connections_in_use<B: Backend<Config: Default>>() {
    let sim = Sim::of(3).await;
    let own = sim.pools::<B>("");
    let pools = as_one(&own);
    let mut held = hold(&pools, 2).await;
    let secondary = ReadPreference::new(ReadPreferenceMode::Secondary);
    drop(pools.read(secondary).await.expect("a connection"));
    ping(&own).await.expect("a ping");
    let mut last = held.pop().expect("one of two");
    drop(held);
    let using = tokio::spawn(async move {
        sleep(Duration::from_secs(5)).await;
        echo(&mut last, 1).await
    });
    let begun = Instant::now();
    pools.logout().await;
    let took = begun.elapsed();
    assert!((5..6).contains(&took.as_secs()), "{took:?}");
    assert!(using.await.expect("no panic").expect("it still works"));
    assert_eq!((pools_of(&pools, "one"), own.status().len()), (0, 1));
    eventually("no socket of its own", || {
        (0..3).all(|server| open_for(&sim, server, "one") == 0)
    })
    .await;
    ping(&own).await.expect("others still work");
    own.close().await;
}

async fn a_logout_interrupts_connections_after_the_close_timeout<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let config = PoolsConfig::default().with_close_timeout(Duration::from_secs(2));
    let own = sim.builder::<B>("").config(config).build().expect("pools");
    let pools = as_one(&own);
    let mut held = pools.get().await.expect("a connection");
    let mut of_others = own.get().await.expect("a connection");
    let find = Matcher::command("find").never_answer();
    let find = sim.set.server(0).script().add(find);
    let using = tokio::spawn(async move {
        let failed = held.run_command("db", &doc! {"find": "c"}).await.map(drop);
        failed.expect_err("interrupted")
    });
    eventually("it is asked", || {
        sim.set.server(0).script().applied(find) == 1
    })
    .await;
    let begun = Instant::now();
    pools.logout().await;
    let took = begun.elapsed();
    assert!((2..3).contains(&took.as_secs()), "{took:?}");
    let error = using.await.expect("no panic");
    let interrupted = ErrorKind::ConnectionClosed(ClosedReason::Interrupted);
    assert_eq!(error.kind().to_string(), interrupted.to_string());
    let answered = of_others.run_command("db", &doc! {"ping": 1}).await;
    answered.map(drop).expect("others still work");
    drop(of_others);
    own.close().await;
}

async fn a_logout_fails_waiters_at_once<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let own = sim.pools::<B>("maxPoolSize=1");
    let pools = as_one(&own);
    let held = pools.get().await.expect("a connection");
    let waiting: Vec<_> = (0..3).map(|_| get_in_task(&pools)).collect();
    eventually("they wait", || pools.status()[0].waiting == 3).await;
    let begun = Instant::now();
    let leaving = pools.clone();
    let leaving = tokio::spawn(async move { leaving.logout().await });
    for waiting in waiting {
        let refused = waiting.await.expect("no panic").expect_err("logged out");
        assert!(matches!(refused.kind(), ErrorKind::PoolClosed), "{refused}");
        assert_eq!(refused.user(), Some("one"));
    }
    assert!(begun.elapsed() < Duration::from_millis(10));
    drop(held);
    leaving.await.expect("no panic");
    own.close().await;
}

async fn a_logout_fails_server_selections_at_once<B: Backend<Config: Default>>() {
    let sim = Sim::of(2).await;
    let own = sim.pools::<B>("");
    let pools = as_one(&own);
    ping(&pools).await.expect("a ping");
    sim.set.step_down(0);
    let has_primary = || own.topology().description().primary().is_some();
    eventually("no primary", || !has_primary()).await;
    let (waiting, other) = (get_in_task(&pools), get_in_task(&own));
    eventually("both wait", || own.topology().waiting_selections() == 2).await;
    let begun = Instant::now();
    pools.logout().await;
    let refused = waiting.await.expect("no panic").expect_err("logged out");
    assert!(matches!(refused.kind(), ErrorKind::PoolClosed), "{refused}");
    assert!(begun.elapsed() < Duration::from_millis(10));
    assert!(!other.is_finished());
    sim.set.elect(1);
    drop(other.await.expect("no panic").expect("others still work"));
    own.close().await;
}

async fn a_logged_out_handle_stays_logged_out<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let own = sim.pools::<B>("");
    let pools = as_one(&own);
    ping(&pools).await.expect("a ping");
    pools.logout().await;
    pools.logout().await;
    for refused in [
        pools.get().await.map(drop),
        pools.verify().await,
        pools.warm_up().await,
        pools
            .for_server(&sim.set.address(0).parse().expect("an address"))
            .map(drop),
    ] {
        let refused = refused.expect_err("logged out");
        assert!(matches!(refused.kind(), ErrorKind::PoolClosed), "{refused}");
    }
    let again = as_one(&own);
    ping(&again).await.expect("another handle begins anew");
    own.close().await;
}
