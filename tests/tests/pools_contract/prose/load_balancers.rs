//! Load balancers: the prose tests about pools.

use std::time::Duration;

use mongo_core::ErrorKind;
use mongo_core::bson::doc;
use mongo_core::event::CmapEvent;
use mongo_core::pools::{Backend, PinReason, PooledConnection, Pools};
use mongo_core::select::Criterion;
use mongo_testkit::Deployment;

use crate::support::{LIMIT, builder, observed};

on_both! {
    only_the_connections_of_a_failed_service_are_cleared,
    a_wait_queue_timeout_counts_connections_by_use,
}

/// A connection to each of two services.
async fn one_of_each<B: Backend>(pools: &Pools<B>) -> [PooledConnection<B>; 2] {
    let first = pools.get().await.expect("a connection");
    let mut others = Vec::new();
    loop {
        let other = pools.get().await.expect("a connection");
        if other.description().service_id != first.description().service_id {
            return [first, other];
        }
        others.push(other);
    }
}

/// "Clearing a load balanced pool": only for the service, without pausing the pool or evicting
/// other connections.
async fn only_the_connections_of_a_failed_service_are_cleared<B: Backend<Config: Default>>() {
    let balanced = Deployment::load_balanced(2).start().await;
    let (pools, kept) = observed(builder::<B>(&balanced.uri()));
    let [mut failing, mut other] = one_of_each(&pools).await;
    let failed = failing.description().service_id;
    assert!(failed.is_some());
    for server in 0..2 {
        let data = doc! {"failCommands": ["ping"], "closeConnection": true};
        balanced.fail_commands(server, doc! {"times": 1}, data);
    }
    let ping = doc! {"ping": 1};
    failing.run_command("db", &ping).await.expect_err("closed");
    let cleared: Vec<_> = kept
        .events()
        .into_iter()
        .filter_map(|event| match event {
            CmapEvent::PoolCleared(event) => Some(event.service_id),
            _ => None,
        })
        .collect();
    assert_eq!(cleared, [failed]);
    assert!(failing.is_stale() && !other.is_stale());
    let id = other.id();
    // The other service is not affected.
    for server in 0..2 {
        balanced.fail_commands(server, "off", doc! {});
    }
    other.run_command("db", &ping).await.expect("a pong");
    drop(failing);
    drop(other);
    let again = pools.get().await.expect("a connection");
    assert_ne!(again.description().service_id, failed);
    assert!(again.id() <= id, "one that was there");
    assert_eq!(kept.count("PoolReady"), 1, "it was never paused");
    drop(again);
    pools.close().await;
    balanced.shutdown().await;
}

/// "Connection Tracking": connections in use by cursors, transactions and other operations.
async fn a_wait_queue_timeout_counts_connections_by_use<B: Backend<Config: Default>>() {
    let balanced = Deployment::load_balanced(1).start().await;
    let uri = format!("{}&maxPoolSize=4", balanced.uri());
    let pools: Pools<B> = builder(&uri).build().expect("pools");
    let mut held = Vec::new();
    for reason in [
        Some(PinReason::Cursor),
        Some(PinReason::Transaction),
        None,
        None,
    ] {
        let mut connection = pools.get().await.expect("a connection");
        if let Some(reason) = reason {
            connection.pin(reason);
        }
        held.push(connection);
    }
    let bound = Duration::from_millis(20);
    let late = pools.get_by(bound, &Criterion::write(), &[]).await;
    let late = late.expect_err("no connection is free");
    let text = late.to_string();
    assert!(
        text.contains(
            "maxPoolSize: 4, connections in use by cursors: 1, connections in use by \
             transactions: 1, connections in use by other operations: 2"
        ),
        "{text}"
    );
    let Some(ErrorKind::PoolExhausted(in_use)) = late.cause().map(|cause| cause.kind()) else {
        panic!("{late:?}");
    };
    assert_eq!(
        (in_use.cursors, in_use.transactions, in_use.others),
        (1, 1, 2)
    );
    drop(held);
    let free = pools.get_by(LIMIT, &Criterion::write(), &[]).await;
    drop(free.expect("a free connection"));
    pools.close().await;
    balanced.shutdown().await;
}
