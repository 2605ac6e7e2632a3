//! The beginning and the end, where several have a hand in it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mongo_core::ServerAddress;
use mongo_core::pools::{Backend, Pools, PoolsConfig};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::support::{LIMIT, Sim, eventually, ping, status_of};

on_both! {
    a_handler_of_events_may_use_the_pools,
}

on_both! {
    on a paused clock:
    times_without_an_end_are_just_that,
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
