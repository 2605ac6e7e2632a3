//! Turns of tenants that share the slots of a server.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mongo_core::pools::{Backend, Pools};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::slots::{most_open, tenants};
use crate::support::LIMIT;

on_both! {
    on a paused clock:
    several_tenants_take_turns,
    busy_tenants_reuse_their_connections,
    more_tenants_than_connections_take_turns,
}

async fn several_tenants_take_turns<B: Backend<Config: Default>>() {
    const ROUNDS: usize = 10;
    let (server, pools) = tenants::<B>(4, "", 2).await;
    let served = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for (tenant, pools) in pools.iter().enumerate() {
        // Some tenants have many callers, some have one.
        for _ in 0..=tenant * 3 {
            let (pools, served) = (pools.clone(), served.clone());
            tasks.push(tokio::spawn(async move {
                for _ in 0..ROUNDS {
                    let connection = pools.get().await.expect("served");
                    served.lock().expect("no panic").push(tenant);
                    sleep(Duration::from_millis(10)).await;
                    drop(connection);
                }
            }));
        }
    }
    for task in tasks {
        task.await.expect("no panic");
    }
    assert_eq!(most_open(&server), 2);
    let served = std::mem::take(&mut *served.lock().expect("no panic"));
    assert_eq!(served.len(), (1 + 4 + 7 + 10) * ROUNDS);
    // The tenant with a single task gets every fourth turn, regardless of the other tenants'
    // callers. Its first one depends on the order in which the tasks began.
    let done = served.iter().rposition(|tenant| *tenant == 0);
    assert!(done < Some(7 * ROUNDS), "after {done:?} turns: {served:?}");
    pools[0].close().await;
}

/// Runs tasks of some tenants, each with `check_outs` check-outs. Returns the number of connections
/// that were created.
async fn busy<B: Backend<Config: Default>>(
    pools: &[Pools<B>],
    tasks: usize,
    check_outs: usize,
) -> u64 {
    let mut running = JoinSet::new();
    for pools in pools {
        for _ in 0..tasks {
            let pools = pools.clone();
            running.spawn(async move {
                for _ in 0..check_outs {
                    let connection = pools.get().await.expect("served");
                    sleep(Duration::from_millis(1)).await;
                    drop(connection);
                }
            });
        }
    }
    timeout(LIMIT * 10, running.join_all())
        .await
        .expect("in time");
    pools[0].status().iter().map(|pool| pool.created).sum()
}

async fn busy_tenants_reuse_their_connections<B: Backend<Config: Default>>() {
    for (count, tasks, cap) in [(2, 4, 8), (2, 5, 8), (3, 5, 8), (4, 8, 9)] {
        let (server, pools) = tenants::<B>(count, "", cap).await;
        let created = busy(&pools, tasks, 200).await;
        assert!(most_open(&server) <= u64::from(cap));
        let bound = u64::from(cap) + count as u64 * 4;
        assert!(
            created <= bound,
            "{count} x {tasks} at {cap}: {created} connections"
        );
        pools[0].close().await;
    }
}

/// More tenants than connections: each uses a connection for a while.
async fn more_tenants_than_connections_take_turns<B: Backend<Config: Default>>() {
    let (server, pools) = tenants::<B>(4, "", 2).await;
    let created = busy(&pools, 3, 100).await;
    assert_eq!(most_open(&server), 2);
    assert!(
        created < 4 * 3 * 100 / 4,
        "{created} connections for 1,200 check-outs"
    );
    pools[0].close().await;
}
