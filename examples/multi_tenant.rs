//! Two hundred credentials for one deployment: one topology, one set of monitors, and a cap on the
//! connections to each server across all credentials.
//!
//! Needs no server: the test kit's embedded replica set is started, which has a user for each
//! tenant and counts the connections.
//!
//! ```sh
//! cargo run --example multi_tenant
//! cargo run --example multi_tenant --no-default-features --features bb8
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bson::{Document, doc};
use mongo_core::auth::Credential;
use mongo_core::event::{CmapEvent, EventHandlers};
use mongo_core::pools::PoolsConfig;
use mongo_core::select::{ReadPreference, ReadPreferenceMode};
// The one line that names a backend: `use mongo_deadpool::…` or `use mongo_bb8::…` in your code.
use mongo_examples::Fatal;
use mongo_examples::backend::{Config, Pools};
use mongo_testkit::{Deployment, User};

const SERVERS: usize = 3;
const TENANTS: usize = 200;
/// For each server, with any number of tenants.
const MAX_CONNECTIONS_PER_SERVER: u32 = 20;

#[tokio::main]
async fn main() -> Result<(), Fatal> {
    let set = start_embedded().await;
    let mut config = Config::from_url(set.uri());
    let limit = MAX_CONNECTIONS_PER_SERVER;
    config.pools = Some(PoolsConfig::default().with_max_connections_per_server(limit));
    let count = Count::default();
    let pools = config
        .pools_builder()?
        .event_handlers(EventHandlers::new().on_cmap(count.clone().handler()))
        .build()?;

    let begun = Instant::now();
    let tasks: Vec<_> = (0..TENANTS)
        .map(|tenant| {
            // A cheap handle. A framework can make one for each request, and need not keep it.
            let pools = pools.with_credential(Credential::new(name(tenant), password(tenant)))?;
            Ok(tokio::spawn(work(pools, tenant)))
        })
        .collect::<Result<_, mongo_core::Error>>()?;
    for task in tasks {
        task.await??;
    }
    println!("{TENANTS} tenants were served in {:.1?}", begun.elapsed());

    print_table(&set, &pools, &count);
    pools.close().await;
    set.shutdown().await;
    Ok(())
}

/// The work of a tenant: a write to the primary, and a read from any server.
async fn work(pools: Pools, tenant: usize) -> Result<(), mongo_core::Error> {
    let documents: [Document; 1] = [doc! { "tenant": name(tenant) }];
    let insert = doc! { "insert": "visits", "documents": &documents[..] };
    let mut connection = pools.get().await?;
    connection
        .run_command("shop", &insert)
        .await?
        .check_write()?;
    // Checked in before the next check-out.
    drop(connection);

    let nearest = ReadPreference::new(ReadPreferenceMode::Nearest);
    let mut connection = pools.read(nearest).await?;
    // A secondary refuses a read without `$readPreference`.
    let find = doc! {
        "find": "visits",
        "filter": { "tenant": name(tenant) },
        "$readPreference": { "mode": "nearest" },
    };
    connection.run_command("shop", &find).await?;
    Ok(())
}

/// The current and the peak number of connections to each server. Pending connections are included;
/// connections of monitors have no events.
#[derive(Clone, Default)]
struct Count(Arc<Mutex<BTreeMap<String, (u32, u32)>>>);

impl Count {
    fn handler(self) -> impl Fn(&CmapEvent) + Send + Sync {
        move |event| {
            let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let (now, most) = servers.entry(event.address().to_string()).or_default();
            match event {
                CmapEvent::ConnectionCreated(_) => *now += 1,
                CmapEvent::ConnectionClosed(_) => *now -= 1,
                _ => {}
            }
            *most = (*most).max(*now);
        }
    }

    fn of(&self, server: &str) -> (u32, u32) {
        let servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        servers.get(server).copied().unwrap_or_default()
    }
}

fn print_table(set: &Deployment, pools: &Pools, count: &Count) {
    let pools = pools.status();
    println!("\nSERVER             TENANTS  MADE  OPEN  MOST  CAP  MONITOR'S");
    for server in 0..SERVERS {
        let address = set.address(server);
        let here = || {
            pools
                .iter()
                .filter(|pool| pool.server.to_string() == address)
        };
        let made: u64 = here().map(|pool| pool.created).sum();
        let (open, most) = count.of(&address);
        // Counted by the server: monitors do not authenticate.
        let monitors = set.server(server).look(|seen| {
            let open = seen.connections.values().filter(|one| one.open);
            open.filter(|one| one.user.is_none()).count()
        });
        println!(
            "{address:<17}  {tenants:>7}  {made:>4}  {open:>4}  {most:>4}  \
             {MAX_CONNECTIONS_PER_SERVER:>3}  {monitors:>9}",
            tenants = here().count(),
        );
    }
}

async fn start_embedded() -> Deployment {
    let mut set = Deployment::replica_set("embedded").members(SERVERS);
    for tenant in 0..TENANTS {
        set = set.user(User::new(&name(tenant), &password(tenant)));
    }
    set.start().await
}

fn name(tenant: usize) -> String {
    format!("tenant-{tenant}")
}

fn password(tenant: usize) -> String {
    format!("secret-{tenant}")
}
