//! The beginning and the end, where several have a hand in it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mongo_core::auth::Credential;
use mongo_core::pools::{Backend, PoolState, Pools, PoolsConfig};
use mongo_core::{ErrorKind, ServerAddress};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::support::{LIMIT, Sim, eventually, get_in_task, hold, ping, status_of};

on_both! {
    a_handler_of_events_may_use_the_pools,
}

on_both! {
    on a paused clock:
    times_without_an_end_are_just_that,
    a_pool_that_is_closed_alone_is_replaced,
    what_is_closed_for_good_is_not_replaced,
}

async fn times_without_an_end_are_just_that<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let config = PoolsConfig::default()
        .with_maintenance_interval(Duration::MAX)
        .with_unused_timeout(Duration::MAX)
        .with_wait_timeout(Duration::MAX)
        .with_close_timeout(Duration::MAX);
    let builder = sim.builder::<B>("minPoolSize=2").config(config);
    let pools = builder.build().expect("pools");
    ping(&pools).await.expect("a ping");
    // No round comes by time, but whoever lacks connections is seen to.
    eventually("the smallest size", || status_of(&pools).idle == 2).await;
    pools.close().await;
}

/// On a thread of its own, which a deadlock would keep.
async fn a_handler_of_events_may_use_the_pools<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let address: ServerAddress = sim.set.address(0).parse().expect("an address");
    let known: Arc<OnceLock<Pools<B>>> = Arc::default();
    let handler = {
        let known = known.clone();
        move |_: &_| {
            if let Some(pools) = known.get() {
                // What it says is not the point: the pools may be closed by then.
                let _ = pools.connect();
                let _ = pools.for_server(&address);
            }
        }
    };
    let pools = sim.builder::<B>("").on_sdam(handler).build();
    let pools = pools.expect("pools");
    assert!(known.set(pools.clone()).is_ok());
    let (done, connected) = oneshot::channel();
    let (connecting, runtime) = (pools.clone(), Handle::current());
    std::thread::spawn(move || {
        let _entered = runtime.enter();
        let _ = done.send(connecting.connect());
    });
    let connected = timeout(LIMIT, connected).await.expect("no deadlock");
    connected.expect("no panic").expect("connected");
    ping(&pools).await.expect("a ping");
    pools.close().await;
}

async fn a_pool_that_is_closed_alone_is_replaced<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("maxPoolSize=1");
    let held = hold(&pools, 1).await;
    let waiting = get_in_task(&pools);
    eventually("it waits", || status_of(&pools).waiting == 1).await;
    let pool = pools.for_server(held[0].server()).expect("its pool");
    pool.close();
    // Who waits goes on with the next one, as does who comes later.
    let begun = Instant::now();
    let got = waiting.await.expect("no panic").expect("a connection");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    let next = pools.for_server(got.server()).expect("its pool");
    assert_eq!((pool.status().size, next.status().size), (1, 1));
    drop((held, got));
    ping(&pools).await.expect("a ping");
    let status = status_of(&pools);
    assert_eq!((status.state, status.created), (PoolState::Ready, 1));
    assert_eq!(pool.status().size, 0);
    pools.close().await;
}

async fn what_is_closed_for_good_is_not_replaced<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("");
    let server = ping(&pools).await.expect("a ping");
    let one = Credential::new("one", "first").with_source("admin");
    let one = pools.with_credential(one).expect("a handle");
    ping(&one).await.expect("a ping");
    one.for_server(&server).expect("its pool").close();
    one.logout().await;
    let refused = one.for_server(&server).expect_err("logged out");
    assert!(matches!(refused.kind(), ErrorKind::PoolClosed), "{refused}");
    assert_eq!(status_of(&pools).state, PoolState::Ready);
    pools.for_server(&server).expect("its pool").close();
    pools.close().await;
    let refused = pools.for_server(&server).expect_err("closed");
    assert!(matches!(refused.kind(), ErrorKind::PoolClosed), "{refused}");
    assert!(pools.status().is_empty());
}
