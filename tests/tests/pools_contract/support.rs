use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use mongo_core::auth::{AuthMechanism, Credential};
use mongo_core::bson::{Document, doc};
use mongo_core::event::{CmapEvent, EventHandlers};
use mongo_core::net::{Connector, Stream};
use mongo_core::pools::{
    Backend, ManagerConfig, PoolStatus, PooledConnection, Pools, PoolsBuilder, PoolsConfig,
    ServerPool,
};
use mongo_core::{ClientOptions, Error, ServerAddress};
pub(crate) use mongo_testkit::driven_runtime;
use mongo_testkit::{Deployment, Matcher, ScriptedServer, Seen, SimNetwork, User};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

#[path = "../common/eventually.rs"]
mod eventually;
pub(crate) use eventually::eventually;
#[path = "../common/over_sim.rs"]
mod over_sim;
pub(crate) use over_sim::OverSim;

/// The limit for waits in tests.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Records pool events, in order.
#[derive(Clone, Default)]
pub(crate) struct Kept(Arc<Mutex<Vec<CmapEvent>>>);

impl Kept {
    pub(crate) fn handlers(&self) -> EventHandlers {
        let kept = self.clone();
        EventHandlers::new().on_cmap(move |event| kept.keep(event))
    }

    pub(crate) fn keep(&self, event: &CmapEvent) {
        self.0.lock().expect("no panic").push(event.clone());
    }

    /// The events so far.
    pub(crate) fn events(&self) -> Vec<CmapEvent> {
        self.0.lock().expect("no panic").clone()
    }

    /// The names of the events so far, without their fields.
    pub(crate) fn names(&self) -> Vec<String> {
        let name = |event: &CmapEvent| {
            let shown = format!("{event:?}");
            shown.split('(').next().unwrap_or_default().to_owned()
        };
        self.0.lock().expect("no panic").iter().map(name).collect()
    }

    /// The most connections of one pool that were pending at a time.
    pub(crate) fn most_pending(&self) -> usize {
        let (mut pending, mut most) = (HashMap::<_, HashSet<u64>>::new(), 0);
        for event in &*self.0.lock().expect("no panic") {
            match event {
                CmapEvent::ConnectionCreated(own) => {
                    let pool = (own.address.clone(), own.user.clone());
                    let all = pending.entry(pool).or_default();
                    all.insert(own.driver_connection_id);
                    most = most.max(all.len());
                }
                CmapEvent::ConnectionReady(own) => {
                    let pool = (own.address.clone(), own.user.clone());
                    pending
                        .entry(pool)
                        .or_default()
                        .remove(&own.driver_connection_id);
                }
                CmapEvent::ConnectionClosed(own) => {
                    let pool = (own.address.clone(), own.user.clone());
                    pending
                        .entry(pool)
                        .or_default()
                        .remove(&own.driver_connection_id);
                }
                _ => {}
            }
        }
        most
    }

    pub(crate) fn count(&self, name: &str) -> usize {
        self.names().iter().filter(|own| *own == name).count()
    }
}

pub(crate) fn builder<B: Backend<Config: Default>>(uri: &str) -> PoolsBuilder<B> {
    Pools::builder(ClientOptions::parse(uri).expect("a connection string"))
}

pub(crate) fn pools<B: Backend<Config: Default>>(uri: &str) -> Pools<B> {
    builder(uri).build().expect("pools")
}

/// Runs a command on a new check-out for writes, and returns the server.
pub(crate) async fn run<B: Backend>(
    pools: &Pools<B>,
    command: &Document,
) -> Result<ServerAddress, Error> {
    let mut connection = pools.get().await?;
    connection.run_command("db", command).await?;
    Ok(connection.server().clone())
}

pub(crate) async fn ping<B: Backend>(pools: &Pools<B>) -> Result<ServerAddress, Error> {
    run(pools, &doc! {"ping": 1}).await
}

/// A set of members on a network in memory, for paused clocks. Its users are `one` and `two`, with
/// passwords `first` and `second`.
pub(crate) struct Sim {
    pub(crate) network: SimNetwork,
    pub(crate) set: Deployment,
}

impl Sim {
    pub(crate) async fn of(members: usize) -> Self {
        let network = SimNetwork::new(7);
        let set = Deployment::replica_set("rs")
            .members(members)
            .user(User::new("one", "first").iterations(4096))
            .user(User::new("two", "second").iterations(4096))
            .network(&network);
        let set = set.start().await;
        Self { network, set }
    }

    /// A builder for the set's URI, with more options.
    pub(crate) fn builder<B: Backend<Config: Default>>(&self, options: &str) -> PoolsBuilder<B> {
        builder(&format!("{}&{options}", self.set.uri()))
            .connector(Arc::new(OverSim(self.network.clone())))
    }

    pub(crate) fn pools<B: Backend<Config: Default>>(&self, options: &str) -> Pools<B> {
        self.builder(options).build().expect("pools")
    }
}

/// Pools, and their events.
pub(crate) fn observed<B: Backend<Config: Default>>(builder: PoolsBuilder<B>) -> (Pools<B>, Kept) {
    let kept = Kept::default();
    let builder = builder.event_handlers(kept.handlers());
    (builder.build().expect("pools"), kept)
}

/// A user of a [`Sim`].
pub(crate) fn one() -> Credential {
    Credential::new("one", "first").with_source("admin")
}

/// The other user of a [`Sim`].
pub(crate) fn two() -> Credential {
    Credential::new("two", "second").with_source("admin")
}

/// Members on a network in memory, with tenants that authenticate by PLAIN: it needs no hashing, so
/// there can be many.
pub(crate) struct Tenants {
    pub(crate) network: SimNetwork,
    pub(crate) set: Deployment,
}

impl Tenants {
    pub(crate) async fn of(members: usize, tenants: usize) -> Self {
        let network = SimNetwork::new(11);
        let mut set = Deployment::replica_set("rs")
            .members(members)
            .network(&network);
        for tenant in 0..tenants {
            set = set.plain_user(&tenant_name(tenant), &tenant_password(tenant));
        }
        let set = set.start().await;
        Self { network, set }
    }

    /// Pools without a credential, with a cap on the connections of each server.
    pub(crate) fn pools<B: Backend<Config: Default>>(&self, options: &str, cap: u32) -> Pools<B> {
        let config = PoolsConfig::default().with_max_connections_per_server(cap);
        self.builder(options, config).build().expect("pools")
    }

    pub(crate) fn builder<B: Backend<Config: Default>>(
        &self,
        options: &str,
        config: PoolsConfig,
    ) -> PoolsBuilder<B> {
        let uri = format!("{}&{options}", self.set.uri());
        let mut options = ClientOptions::parse(&uri).expect("a connection string");
        options.allow_plain_without_tls = true;
        Pools::builder(options)
            .config(config)
            .connector(Arc::new(AfterTheNews(OverSim(self.network.clone()))))
    }
}

/// A handle for a tenant.
pub(crate) fn of_tenant<B: Backend>(pools: &Pools<B>, tenant: usize) -> Pools<B> {
    let credential = Credential::new(tenant_name(tenant), tenant_password(tenant));
    let credential = credential.with_mechanism(AuthMechanism::Plain);
    pools.with_credential(credential).expect("a handle")
}

pub(crate) fn tenant_name(tenant: usize) -> String {
    format!("tenant-{tenant}")
}

pub(crate) fn tenant_password(tenant: usize) -> String {
    format!("secret-{tenant}")
}

/// Connecting takes longer than closing, so that servers never see more connections than their
/// clients have.
struct AfterTheNews(OverSim);

#[async_trait]
impl Connector for AfterTheNews {
    async fn connect(&self, address: &ServerAddress) -> Result<Stream, Error> {
        sleep(Duration::from_millis(5)).await;
        self.0.connect(address).await
    }
}

/// Matches the handshake of a new connection. Only pools make some once the monitors are connected.
pub(crate) fn handshake() -> Matcher {
    Matcher::hello().when(|hello| hello.contains_key("client"))
}

/// Waits until both monitoring connections of a server, and `others` more, have completed their
/// handshakes.
pub(crate) async fn settled(server: &ScriptedServer, others: usize) {
    let is_settled = |seen: &Seen| {
        let open = seen.connections.values().filter(|own| own.open);
        open.filter(|own| own.client.is_some()).count() == others + 2
    };
    server.wait_for("all connections", is_settled).await;
}

/// The status of the only pool.
pub(crate) fn status_of<B: Backend>(pools: &Pools<B>) -> PoolStatus {
    let mut status = pools.status();
    assert_eq!(status.len(), 1, "{status:?}");
    status.remove(0)
}

/// Checks out `count` connections at once.
pub(crate) async fn hold<B: Backend>(pools: &Pools<B>, count: usize) -> Vec<PooledConnection<B>> {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(pools.get().await.expect("a connection"));
    }
    held
}

/// Checks out and returns a connection in a task. Gives the server.
pub(crate) fn visit_in_task<B: Backend>(
    pools: &Pools<B>,
) -> JoinHandle<Result<ServerAddress, Error>> {
    let pools = pools.clone();
    tokio::spawn(async move { Ok(pools.get().await?.server().clone()) })
}

/// A check-out in its own task.
pub(crate) fn get_in_task<B: Backend>(
    pools: &Pools<B>,
) -> JoinHandle<Result<PooledConnection<B>, Error>> {
    let pools = pools.clone();
    tokio::spawn(async move { pools.get().await })
}

/// A set on its own runtime, for clients that use several runtimes.
pub(crate) struct Elsewhere {
    pub(crate) set: Deployment,
    _runtime: Runtime,
}

impl Elsewhere {
    pub(crate) fn of(members: usize) -> Self {
        let runtime = driven_runtime();
        let set = Deployment::replica_set("rs").members(members).start();
        Self {
            set: runtime.block_on(set),
            _runtime: runtime,
        }
    }

    pub(crate) fn address(&self, member: usize) -> ServerAddress {
        self.set.address(member).parse().expect("an address")
    }
}

/// Runs a future on a new runtime, which ends with it.
pub(crate) fn on_a_runtime<R>(run: impl Future<Output = R>) -> R {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let ran = runtime.block_on(async { timeout(LIMIT, run).await });
    ran.expect("in time")
}

/// Waits until a member is known as the primary.
pub(crate) async fn known_primary<B: Backend>(pools: &Pools<B>, member: &ServerAddress) {
    let mut changes = pools.topology().subscribe();
    let is_known = changes.wait_for(|known| {
        let primary = known.primary();
        primary.is_some_and(|primary| primary.address == *member)
    });
    let waited = timeout(LIMIT, is_known).await;
    drop(waited.expect("in time").expect("a topology"));
}

/// A ready pool over the simulated network.
pub(crate) fn pool_of<B: Backend<Config: Default>>(
    sim: &Sim,
    options: &str,
    manager: ManagerConfig,
) -> ServerPool<B> {
    let uri = format!("mongodb://{}/?{options}", sim.set.address(0));
    let pool = builder::<B>(&uri)
        .connector(Arc::new(OverSim(sim.network.clone())))
        .manager_config(manager)
        .build_server_pool()
        .expect("a pool");
    pool.ready();
    pool
}

/// Polls a future once, which must be pending.
pub(crate) async fn begin<F: Future>(mut waits: Pin<&mut F>) {
    poll_fn(|context| {
        assert!(waits.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
}
