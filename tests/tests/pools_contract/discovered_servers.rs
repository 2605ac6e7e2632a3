//! Discovered servers have pools before the first check-out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mongo_core::event::CmapEvent;
use mongo_core::net::Topology;
use mongo_core::pools::{Backend, PoolState, Pools};
use mongo_core::{ClientOptions, ServerAddress};
use mongo_testkit::{MemberKind, MemberSpec};
use tokio::time::sleep;

use crate::support::{OverSim, Sim, eventually, observed, one, two};

on_both! {
    on a paused clock:
    min_pool_size_is_kept_without_any_check_out,
    servers_of_a_connected_topology_have_pools,
    a_server_discovered_later_has_a_pool,
    only_the_credential_of_the_options_has_pools_before_its_first_use,
    pools_without_a_credential_are_not_created_beside_those_of_tenants,
    a_pool_closed_alone_is_replaced_at_the_next_check_out,
}

/// How many idle connections there are to each server.
fn idle<B: Backend>(pools: &Pools<B>) -> BTreeMap<String, usize> {
    let status = pools.status().into_iter();
    status
        .map(|pool| (pool.server.to_string(), pool.idle))
        .collect()
}

fn two_to_each(sim: &Sim, members: impl IntoIterator<Item = usize>) -> BTreeMap<String, usize> {
    let addresses = members.into_iter().map(|member| sim.set.address(member));
    addresses.map(|address| (address, 2)).collect()
}

async fn min_pool_size_is_kept_without_any_check_out<B: Backend<Config: Default>>() {
    let sim = Sim::of(3).await;
    let (pools, kept) = observed(sim.builder::<B>("minPoolSize=2"));
    pools.connect().expect("connected");
    eventually("minPoolSize connections", || {
        idle(&pools) == two_to_each(&sim, 0..3)
    })
    .await;
    // For each pool, in order, without a check-out.
    let mut by_server: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for event in kept.events() {
        let (address, name) = match event {
            CmapEvent::PoolCreated(event) => (event.address, "pool created"),
            CmapEvent::PoolReady(event) => (event.address, "pool ready"),
            CmapEvent::ConnectionCreated(event) => (event.address, "created"),
            CmapEvent::ConnectionReady(event) => (event.address, "ready"),
            other => panic!("{other:?}"),
        };
        by_server.entry(address.to_string()).or_default().push(name);
    }
    assert_eq!(by_server.len(), 3);
    for events in by_server.values() {
        assert_eq!(events[..3], ["pool created", "pool ready", "created"]);
        assert_eq!(events.len(), 6, "{events:?}");
    }
    pools.close().await;
}

async fn servers_of_a_connected_topology_have_pools<B: Backend<Config: Default>>() {
    let sim = Sim::of(2).await;
    let uri = format!("{}&minPoolSize=2", sim.set.uri());
    let options = ClientOptions::parse(&uri).expect("a connection string");
    let topology = Topology::builder(options)
        .connector(Arc::new(OverSim(sim.network.clone())))
        .build()
        .expect("a topology");
    topology.connect().expect("connected");
    sleep(Duration::from_secs(1)).await;
    let pools = sim.builder::<B>("minPoolSize=2").topology(topology.clone());
    let pools = pools.build().expect("pools");
    pools.connect().expect("connected");
    eventually("minPoolSize connections", || {
        idle(&pools) == two_to_each(&sim, 0..2)
    })
    .await;
    pools.close().await;
    topology.close().await;
}

async fn a_server_discovered_later_has_a_pool<B: Backend<Config: Default>>() {
    let mut sim = Sim::of(1).await;
    let pools = sim.pools::<B>("minPoolSize=2");
    pools.connect().expect("connected");
    eventually("minPoolSize connections", || {
        idle(&pools) == two_to_each(&sim, 0..1)
    })
    .await;
    sim.set.add(MemberSpec::new(MemberKind::Arbiter)).await;
    let added = sim.set.add(MemberSpec::default()).await;
    eventually("minPoolSize connections", || {
        idle(&pools) == two_to_each(&sim, [0, added])
    })
    .await;
    pools.close().await;
}

async fn only_the_credential_of_the_options_has_pools_before_its_first_use<
    B: Backend<Config: Default>,
>() {
    let sim = Sim::of(1).await;
    let uri = format!("{}&minPoolSize=2", sim.set.uri());
    let mut options = ClientOptions::parse(&uri).expect("a connection string");
    options.credential = Some(one());
    let pools: Pools<B> = Pools::builder(options)
        .connector(Arc::new(OverSim(sim.network.clone())))
        .build()
        .expect("pools");
    let _other = pools.with_credential(two()).expect("a handle");
    pools.connect().expect("connected");
    eventually("minPoolSize connections", || {
        idle(&pools) == two_to_each(&sim, 0..1)
    })
    .await;
    sleep(Duration::from_secs(60)).await;
    let users: Vec<_> = pools.status().into_iter().map(|pool| pool.user).collect();
    assert_eq!(users, [Some("one".into())]);
    // After a logout no credential is left to have pools.
    pools.logout().await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(pools.status(), []);
    pools.close().await;
}

async fn pools_without_a_credential_are_not_created_beside_those_of_tenants<
    B: Backend<Config: Default>,
>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("minPoolSize=2");
    let one = pools.with_credential(one()).expect("a handle");
    drop(one.get().await.expect("a connection"));
    sleep(Duration::from_secs(60)).await;
    let users: Vec<_> = pools.status().into_iter().map(|pool| pool.user).collect();
    assert_eq!(users, [Some("one".into())]);
    assert_eq!(idle(&pools), two_to_each(&sim, 0..1));
    pools.close().await;
}

async fn a_pool_closed_alone_is_replaced_at_the_next_check_out<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("minPoolSize=2");
    pools.connect().expect("connected");
    eventually("minPoolSize connections", || {
        idle(&pools) == two_to_each(&sim, 0..1)
    })
    .await;
    let address: ServerAddress = sim.set.address(0).parse().expect("an address");
    pools.for_server(&address).expect("its pool").close();
    sleep(Duration::from_secs(60)).await;
    let states: Vec<_> = pools.status().into_iter().map(|pool| pool.state).collect();
    assert_eq!(states, [PoolState::Closed]);
    drop(pools.get().await.expect("a connection"));
    eventually("minPoolSize connections", || {
        idle(&pools) == two_to_each(&sim, 0..1)
    })
    .await;
    pools.close().await;
}
