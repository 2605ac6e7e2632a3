//! The memory of an idle credential among many.

use mongo_core::auth::{AuthMechanism, Credential};
use mongo_core::pools::{Backend, Pools, PoolsConfig};
use mongo_core::uri::ClientOptions;

use crate::Cost;
use crate::server::Server;
use crate::table::Table;

const TENANTS: usize = 1000;
const SERVERS: usize = 3;
const CAP: u32 = 20;

/// A thousand tenants of a set of three, from a mere handle to an idle connection.
pub(crate) async fn measure(table: &mut Table) {
    let set = Server::start(SERVERS);
    for (cap, shown) in [(None, "no cap"), (Some(CAP), "a cap of 20 for each server")] {
        table.heading(&format!(
            "{TENANTS} idle tenants of a set of three, {shown}"
        ));
        measure_on::<mongo_deadpool::Pool>("mongo-deadpool", &set, cap, table).await;
        measure_on::<mongo_bb8::Pool>("mongo-bb8", &set, cap, table).await;
    }
}

async fn measure_on<B: Backend<Config: Default>>(
    name: &str,
    set: &Server,
    cap: Option<u32>,
    table: &mut Table,
) {
    let pools = connected::<B>(set, cap).await;
    let (handle, tenants) = Cost::of(TENANTS, async {
        (0..TENANTS)
            .map(|tenant| pools.with_credential(credential(tenant)).expect("a handle"))
            .collect::<Vec<_>>()
    })
    .await;
    tell(table, name, "a handle", handle);
    let addresses = addresses(&pools);
    let (created, ()) = Cost::of(TENANTS, async {
        for tenant in &tenants {
            for address in &addresses {
                drop(tenant.for_server(address).expect("a pool"));
            }
        }
    })
    .await;
    let mut whole = handle.and(created);
    tell(table, name, "a pool for each server, nothing open", whole);
    let (connected, ()) = Cost::of(TENANTS, async {
        for tenant in &tenants {
            drop(tenant.get().await.expect("a connection"));
        }
    })
    .await;
    whole = whole.and(connected);
    tell(table, name, "after a connection to the primary", whole);
    assert_eq!(pools.status().len(), TENANTS * SERVERS);
    let (gone, ()) = Cost::of(TENANTS, async {
        for tenant in tenants {
            tenant.logout().await;
        }
    })
    .await;
    tell(table, name, "after logout", whole.and(gone));
    assert_eq!(pools.status().len(), 0);
    pools.close().await;
}

/// A handle without a credential, once it knows all servers.
async fn connected<B: Backend<Config: Default>>(set: &Server, cap: Option<u32>) -> Pools<B> {
    let hosts: Vec<_> = set
        .ports()
        .iter()
        .map(|port| format!("127.0.0.1:{port}"))
        .collect();
    let url = format!("mongodb://{}/?replicaSet=rs", hosts.join(","));
    let mut options = ClientOptions::parse(&url).expect("options");
    options.allow_plain_without_tls = true;
    let mut config = PoolsConfig::default();
    config.max_connections_per_server = cap;
    let pools = Pools::<B>::builder(options).config(config).build();
    let pools = pools.expect("pools");
    pools.connect().expect("a runtime");
    while addresses(&pools).len() < SERVERS {
        tokio::task::yield_now().await;
    }
    pools
}

fn addresses<B: Backend>(pools: &Pools<B>) -> Vec<mongo_core::ServerAddress> {
    let known = pools.topology().snapshot();
    let known = known.servers().iter();
    known
        .filter(|entry| entry.description().server_type.is_data_bearing())
        .map(|entry| entry.address().clone())
        .collect()
}

fn credential(tenant: usize) -> Credential {
    let (name, password) = (format!("tenant-{tenant}"), format!("secret-{tenant}"));
    Credential::new(name, password).with_mechanism(AuthMechanism::Plain)
}

fn tell(table: &mut Table, name: &str, what: &str, cost: Cost) {
    table.row(&format!("{name}, {what}: KiB of heap"), cost.heap, None);
}
