//! A thousand credentials over one topology, with a cap on the connections of each server.

use std::collections::{BTreeMap, BTreeSet};

use mongo_core::Error;
use mongo_core::bson::{Document, doc};
use mongo_core::pools::{Backend, PooledConnection, Pools};
use mongo_core::select::{ReadPreference, ReadPreferenceMode};

use crate::support::{Tenants, of_tenant, tenant_name};

const SERVERS: usize = 3;
const TENANTS: usize = 1000;
/// The cap for each server, regardless of the number of tenants.
const CAP: u32 = 25;
/// A monitor's own connection, and the one for the round-trip time.
const MONITORING: usize = 2;

on_both! {
    on a paused clock:
    a_thousand_tenants_share_monitors_and_slots,
}

async fn a_thousand_tenants_share_monitors_and_slots<B: Backend<Config: Default>>() {
    let tenants = Tenants::of(SERVERS, TENANTS).await;
    let pools = tenants.pools::<B>("", CAP);
    let tasks: Vec<_> = (0..TENANTS)
        .map(|tenant| tokio::spawn(work(of_tenant(&pools, tenant), tenant)))
        .collect();
    for task in tasks {
        task.await.expect("no panic").expect("served");
    }
    for server in 0..SERVERS {
        watch(&tenants, server);
    }
    let by_user = check_outs_by_user(&pools);
    assert_eq!(by_user.len(), TENANTS);
    assert!(by_user.values().all(|count| *count >= 2), "{by_user:?}");
    let written = tenants.set.documents("shop.visits");
    let by_tenant = written.iter().filter_map(|own| own.get_str("tenant").ok());
    assert_eq!(by_tenant.collect::<BTreeSet<_>>().len(), TENANTS);
    pools.close().await;
    for server in 0..SERVERS {
        let server = tenants.set.server(server);
        server
            .wait_for("no connection", |seen| seen.open == 0)
            .await;
    }
}

/// The work of a tenant: it writes to the primary, and reads from any server.
async fn work<B: Backend>(pools: Pools<B>, tenant: usize) -> Result<(), Error> {
    let documents: [Document; 1] = [doc! {"tenant": tenant_name(tenant)}];
    let insert = doc! {"insert": "visits", "documents": &documents[..]};
    let mut connection = pools.get().await?;
    ask_who(&mut connection, tenant).await?;
    connection.run_command("shop", &insert).await?;
    drop(connection);
    let nearest = ReadPreference::new(ReadPreferenceMode::Nearest);
    let mut connection = pools.read(nearest).await?;
    ask_who(&mut connection, tenant).await
}

/// Asks the server for the connection's user.
async fn ask_who<B: Backend>(
    connection: &mut PooledConnection<B>,
    tenant: usize,
) -> Result<(), Error> {
    let ask = doc! {"connectionStatus": 1};
    let reply = connection.run_command("admin", &ask).await?.to_document()?;
    let users = reply.get_document("authInfo").expect("an authInfo");
    let users = users.get_array("authenticatedUsers").expect("users");
    let wanted = doc! {"user": tenant_name(tenant), "db": "$external"};
    assert_eq!(*users, [wanted.into()]);
    assert_eq!(connection.user(), Some(&*tenant_name(tenant)));
    Ok(())
}

/// Checks that a server had as many connections as the cap and never more, and one monitor.
fn watch(tenants: &Tenants, server: usize) {
    tenants.set.server(server).look(|seen| {
        let monitors = seen.connections.values().filter(|one| one.user.is_none());
        assert_eq!(monitors.count(), MONITORING, "those that ended included");
        let most = seen.most_open as usize - MONITORING;
        assert_eq!(most, CAP as usize, "of {}", seen.accepted);
        assert_eq!(seen.protocol_errors, Vec::<String>::new());
    });
}

fn check_outs_by_user<B: Backend>(pools: &Pools<B>) -> BTreeMap<String, u64> {
    let mut users = BTreeMap::new();
    for pool in pools.status() {
        let (user, times) = (pool.user.expect("a user"), pool.wait_times);
        *users.entry(user.to_string()).or_default() +=
            times.at_once + times.buckets.iter().sum::<u64>();
    }
    users
}
