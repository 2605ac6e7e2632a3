//! Pools that outlive the runtimes that use them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mongo_core::bson::doc;
use mongo_core::event::SdamEvent;
use mongo_core::pools::{Backend, Pools, PoolsConfig};
use mongo_core::{Error, ServerAddress};
use tokio::time::sleep;

use crate::support::{
    Elsewhere, LIMIT, Sim, builder, driven_runtime, eventually, known_primary, on_a_runtime, ping,
    pools, run, status_of,
};

on_both! {
    on runtimes of their own:
    pools_move_between_runtimes,
    connect_starts_the_monitors_again,
    connect_starts_the_maintenance_again,
    a_lost_connection_starts_the_maintenance_again,
    a_check_out_that_waits_outlives_the_runtime_of_the_monitors,
    background_tasks_live_on_the_named_runtime,
    a_named_runtime_that_has_ended_is_replaced,
}

on_both! {
    on a paused clock:
    a_monitor_that_panicked_is_started_again,
}

/// Inserts until the primary accepts it.
async fn write<B: Backend>(pools: &Pools<B>, primary: &ServerAddress) {
    let insert = doc! {"insert": "c", "documents": [{"x": 1}]};
    let mut written: Result<ServerAddress, Error>;
    while {
        written = run(pools, &insert).await;
        !written.is_ok_and(|server| server == *primary)
    } {
        // The connection was of another runtime, or the server was the former primary.
        sleep(Duration::from_millis(2)).await;
    }
}

fn pools_move_between_runtimes<B: Backend<Config: Default>>() {
    let world = Elsewhere::of(2);
    let pools = pools::<B>(&world.set.uri());
    for round in 0..4 {
        let primary = round % 2;
        on_a_runtime(write(&pools, &world.address(primary)));
        world.set.elect(1 - primary);
    }
    on_a_runtime(pools.close());
}

/// Pools that know the primary, after the end of their runtime.
fn left_behind<B: Backend<Config: Default>>(world: &Elsewhere, options: &str) -> Pools<B> {
    let config = PoolsConfig::default().with_maintenance_interval(Duration::from_millis(50));
    let pools = builder::<B>(&format!("{}&{options}", world.set.uri())).config(config);
    let pools = pools.build().expect("pools");
    on_a_runtime(async {
        pools.connect().expect("connected");
        known_primary(&pools, &world.address(0)).await;
    });
    pools
}

fn connect_starts_the_monitors_again<B: Backend<Config: Default>>() {
    let world = Elsewhere::of(2);
    let pools = left_behind::<B>(&world, "");
    world.set.elect(1);
    on_a_runtime(async {
        pools.connect().expect("connected");
        known_primary(&pools, &world.address(1)).await;
        pools.close().await;
    });
}

fn connect_starts_the_maintenance_again<B: Backend<Config: Default>>() {
    let world = Elsewhere::of(1);
    let pools = left_behind::<B>(&world, "minPoolSize=2");
    on_a_runtime(async {
        pools.connect().expect("connected");
        let pool = pools.for_server(&world.address(0)).expect("its pool");
        // Connections of the other runtime are unusable.
        pool.clear(false);
        pool.ready();
        eventually("minPoolSize connections", || pool.status().idle == 2).await;
        pools.close().await;
    });
}

fn a_lost_connection_starts_the_maintenance_again<B: Backend<Config: Default>>() {
    let world = Elsewhere::of(1);
    let uri = format!("{}&minPoolSize=2", world.set.uri());
    let topology = mongo_core::net::Topology::builder(
        mongo_core::ClientOptions::parse(&uri).expect("a connection string"),
    );
    let lasting = driven_runtime();
    let topology = topology.runtime(lasting.handle().clone());
    let topology = topology.build().expect("a topology");
    // No maintenance by time.
    let config = PoolsConfig::default().with_maintenance_interval(Duration::MAX);
    let pools: Pools<B> = builder(&uri)
        .config(config)
        .topology(topology)
        .build()
        .expect("pools");
    on_a_runtime(async {
        ping(&pools).await.expect("a ping");
        eventually("minPoolSize connections", || status_of(&pools).idle == 2).await;
    });
    // The monitors are running, the maintenance is not.
    on_a_runtime(async {
        let pool = pools.for_server(&world.address(0)).expect("its pool");
        pool.clear(false);
        pool.ready();
        let held = pool.get(LIMIT.into()).await.expect("a connection");
        pool.clear(false);
        pool.ready();
        // It is stale, so the pool has too few connections.
        drop(held);
        eventually("minPoolSize connections", || pool.status().idle == 2).await;
        pools.close().await;
    });
}

fn a_check_out_that_waits_outlives_the_runtime_of_the_monitors<B: Backend<Config: Default>>() {
    let world = Elsewhere::of(2);
    let pools = pools::<B>(&world.set.uri());
    let first = driven_runtime();
    {
        let _entered = first.enter();
        pools.connect().expect("connected");
    }
    let known = || pools.topology().description();
    on_a_runtime(async {
        known_primary(&pools, &world.address(0)).await;
        world.set.step_down(0);
        eventually("no primary is known", || known().primary().is_none()).await;
        let waits = async {
            let got = pools.get().await.expect("a connection");
            assert_eq!(*got.server(), world.address(1));
        };
        let ends = async {
            // The check-out is waiting by now.
            sleep(Duration::from_millis(20)).await;
            first.shutdown_background();
            world.set.elect(1);
        };
        tokio::join!(biased; waits, ends);
        pools.close().await;
    });
}

fn background_tasks_live_on_the_named_runtime<B: Backend<Config: Default>>() {
    let world = Elsewhere::of(2);
    let named = driven_runtime();
    let pools = builder::<B>(&world.set.uri()).runtime(named.handle().clone());
    let pools = pools.build().expect("pools");
    // Outside any runtime.
    pools.connect().expect("connected");
    let tasks = || named.metrics().num_alive_tasks();
    on_a_runtime(async {
        known_primary(&pools, &world.address(0)).await;
        eventually("two monitors, and the maintenance", || tasks() >= 3).await;
        ping(&pools).await.expect("a ping");
    });
    world.set.elect(1);
    // Nobody uses the pools.
    on_a_runtime(async {
        known_primary(&pools, &world.address(1)).await;
        pools.close().await;
        eventually("no task", || tasks() == 0).await;
    });
}

fn a_named_runtime_that_has_ended_is_replaced<B: Backend<Config: Default>>() {
    let world = Elsewhere::of(2);
    let named = driven_runtime();
    let pools = builder::<B>(&world.set.uri()).runtime(named.handle().clone());
    let pools = pools.build().expect("pools");
    on_a_runtime(write(&pools, &world.address(0)));
    drop(named);
    for primary in [1, 0] {
        world.set.elect(primary);
        on_a_runtime(write(&pools, &world.address(primary)));
    }
    on_a_runtime(pools.close());
    let outside = pools.connect().expect_err("closed");
    assert!(
        matches!(outside.kind(), mongo_core::ErrorKind::PoolClosed),
        "{outside}"
    );
}

async fn a_monitor_that_panicked_is_started_again<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let has_panicked = AtomicBool::new(false);
    let handler = move |event: &SdamEvent| {
        let is_first = matches!(event, SdamEvent::ServerHeartbeatSucceeded(_))
            && !has_panicked.swap(true, Ordering::SeqCst);
        assert!(!is_first, "on purpose");
    };
    let pools = sim.builder::<B>("").on_sdam(handler).build();
    let pools = pools.expect("pools");
    ping(&pools).await.expect("a ping");
    pools.close().await;
}
