//! Pools over a topology that is disconnected and connected again, and closes that wait for tasks.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use mongo_core::bson::doc;
use mongo_core::net::{Deadline, Topology};
use mongo_core::pools::{Backend, ConnectionFactory, PooledConnection, Pools};
use mongo_core::select::Criterion;
use mongo_core::{ClientOptions, Connection, Error, ErrorKind};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    Elsewhere, LIMIT, OverSim, Sim, eventually, hold, known_primary, on_a_runtime, one, ping, pools,
};

on_both! {
    on a paused clock:
    a_check_out_connects_the_topology_again,
    a_warm_up_connects_the_topology_again,
    connect_connects_the_topology_again,
    a_held_connection_outlives_a_disconnect,
    a_held_connection_refuses_writes_once_another_server_is_primary,
    a_held_connection_refuses_writes_once_its_server_has_left,
    a_topology_that_was_closed_stays_closed,
}

on_both! {
    on runtimes of their own:
    every_close_waits_for_all_tasks,
}

fn topology(sim: &Sim) -> Topology {
    let options = ClientOptions::parse(&sim.set.uri()).expect("a connection string");
    Topology::builder(options)
        .connector(Arc::new(OverSim(sim.network.clone())))
        .build()
        .expect("a topology")
}

fn over<B: Backend<Config: Default>>(sim: &Sim, topology: &Topology) -> Pools<B> {
    let pools = sim.builder::<B>("").topology(topology.clone());
    let pools = pools.build().expect("pools");
    pools.with_credential(one()).expect("a handle")
}

/// A set, and pools over a topology that was in use and is disconnected.
async fn disconnected<B: Backend<Config: Default>>(members: usize) -> (Sim, Topology, Pools<B>) {
    let sim = Sim::of(members).await;
    let topology = topology(&sim);
    let pools = over::<B>(&sim, &topology);
    ping(&pools).await.expect("a ping");
    topology.disconnect().await;
    assert_eq!(pools.status(), []);
    (sim, topology, pools)
}

/// Runs an operation that must complete soon.
async fn soon<R>(run: impl Future<Output = Result<R, Error>>) -> R {
    let begun = Instant::now();
    let ran = run.await.expect("the topology is connected again");
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(100), "{took:?}");
    ran
}

async fn a_check_out_connects_the_topology_again<B: Backend<Config: Default>>() {
    let (_sim, topology, pools) = disconnected::<B>(3).await;
    for _ in 0..3 {
        soon(ping(&pools)).await;
        topology.disconnect().await;
    }
    pools.close().await;
}

async fn a_warm_up_connects_the_topology_again<B: Backend<Config: Default>>() {
    let (_sim, topology, pools) = disconnected::<B>(1).await;
    soon(pools.warm_up()).await;
    assert_eq!(pools.status().len(), 1);
    pools.close().await;
    topology.close().await;
}

async fn connect_connects_the_topology_again<B: Backend<Config: Default>>() {
    let (sim, topology, pools) = disconnected::<B>(3).await;
    pools.connect().expect("connected");
    known_primary(&pools, &sim.set.address(0).parse().expect("an address")).await;
    // Background tasks do not connect it.
    topology.disconnect().await;
    sleep(Duration::from_secs(60)).await;
    assert!(topology.description().servers().is_empty());
    pools.close().await;
}

async fn insert(connection: &mut Connection) -> Result<(), Error> {
    let insert = doc! {"insert": "c", "documents": [{"x": 1}]};
    connection.run_command("db", &insert).await.map(drop)
}

async fn a_held_connection_outlives_a_disconnect<B: Backend<Config: Default>>() {
    let sim = Sim::of(3).await;
    let topology = topology(&sim);
    let pools = over::<B>(&sim, &topology);
    let criterion = Criterion::write();
    let mut options = ClientOptions::clone(&topology.options());
    options.credential = Some(one());
    let floating = ConnectionFactory::builder(options)
        .connector(Arc::new(OverSim(sim.network.clone())))
        .floating(topology.clone(), criterion)
        .build()
        .expect("a factory");
    let mut held = pools.get().await.expect("a connection");
    let made = floating.establish(Deadline::after(LIMIT)).await;
    let mut floats = made.expect("a connection");
    for _ in 0..2 {
        topology.disconnect().await;
        insert(&mut held).await.expect("no conflict");
        insert(&mut floats).await.expect("no conflict");
        soon(ping(&pools)).await;
        insert(&mut held).await.expect("its server is the primary");
        insert(&mut floats)
            .await
            .expect("its server is the primary");
    }
    drop((held, floats));
    pools.close().await;
    topology.close().await;
}

async fn refused<B: Backend>(held: &mut PooledConnection<B>) {
    let error = insert(held).await.expect_err("no longer primary");
    assert!(matches!(error.kind(), ErrorKind::NotWritable), "{error}");
}

async fn a_held_connection_refuses_writes_once_another_server_is_primary<
    B: Backend<Config: Default>,
>() {
    let sim = Sim::of(2).await;
    let topology = topology(&sim);
    let pools = over::<B>(&sim, &topology);
    let mut held = hold(&pools, 1).await;
    topology.disconnect().await;
    sim.set.elect(1);
    pools.connect().expect("connected");
    known_primary(&pools, &sim.set.address(1).parse().expect("an address")).await;
    refused(&mut held[0]).await;
    // The server may become the primary again.
    sim.set.elect(0);
    known_primary(&pools, &sim.set.address(0).parse().expect("an address")).await;
    insert(&mut held[0]).await.expect("the primary");
    drop(held);
    pools.close().await;
    assert_eq!(sim.set.server(0).look(|seen| seen.refused_writes.len()), 0);
}

async fn a_held_connection_refuses_writes_once_its_server_has_left<B: Backend<Config: Default>>() {
    let sim = Sim::of(2).await;
    let topology = topology(&sim);
    let pools = over::<B>(&sim, &topology);
    let mut held = hold(&pools, 1).await;
    topology.disconnect().await;
    sim.set.elect(1);
    sim.set.remove(0);
    pools.connect().expect("connected");
    known_primary(&pools, &sim.set.address(1).parse().expect("an address")).await;
    refused(&mut held[0]).await;
    drop(held);
    pools.close().await;
}

async fn a_topology_that_was_closed_stays_closed<B: Backend<Config: Default>>() {
    let (_sim, topology, pools) = disconnected::<B>(1).await;
    topology.close().await;
    let error = pools.connect().expect_err("closed for good");
    assert!(matches!(error.kind(), ErrorKind::TopologyClosed), "{error}");
    let error = pools.get().await.map(drop).expect_err("closed for good");
    assert!(matches!(error.kind(), ErrorKind::TopologyClosed), "{error}");
    pools.close().await;
}

fn every_close_waits_for_all_tasks<B: Backend<Config: Default>>() {
    let world = Elsewhere::of(3);
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let in_use = async || {
        let pools = pools::<B>(&format!("{}&minPoolSize=1", world.set.uri()));
        ping(&pools).await.expect("a ping");
        assert!(tasks() >= 3, "a monitor for each server");
        pools
    };
    on_a_runtime(async {
        // After a close that was dropped.
        let pools = in_use().await;
        {
            let mut closing = pin!(pools.close());
            let mut context = Context::from_waker(Waker::noop());
            assert!(closing.as_mut().poll(&mut context).is_pending());
        }
        timeout(LIMIT, pools.close()).await.expect("in time");
        assert_eq!(tasks(), 0);
        // Concurrently.
        let pools = in_use().await;
        let close = async || {
            pools.close().await;
            tasks()
        };
        let both = async { tokio::join!(close(), close()) };
        assert_eq!(timeout(LIMIT, both).await.expect("in time"), (0, 0));
        eventually("no socket", || {
            world.set.server(0).look(|seen| seen.open) == 0
        })
        .await;
    });
}
