//! Pools by server and credential, over one topology.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::follow::Suitable;
use super::options::{PoolOptions, PoolsConfig};
use super::pool::FactoryConfig;
use super::server_cap::{ServerCap, ServerCaps};
use super::{Backend, PoolStatus, ServerPool};
use crate::ServerAddress;
use crate::auth::Credential;
use crate::error::{Error, ErrorKind, Result};
use crate::handshake::DriverInfo;
use crate::net::{AuthParts, Deadline, Dispatcher, Home, Tasks, Together, Topology};
use crate::sdam::TopologyType;
use crate::select::{Criterion, ReadPreference, ReadPreferenceMode, ServerEntry};
use crate::uri::ClientOptions;

mod builder;
mod check_out;
mod credentials;
mod listener;
mod maintenance;
mod members;
mod retired;
mod tenant;

pub use builder::PoolsBuilder;
use check_out::Wanted;
pub(super) use check_out::pause;
use listener::Action;
use retired::Retired;
use tenant::{Identity, Tenant};

/// Pools of connections to all servers of a deployment, for one credential: a handle on a registry
/// that keeps one pool for each server and credential, over one topology and its one set of
/// monitors.
///
/// Cloning is cheap; clones are the same pools. [`with_credential`](Self::with_credential) gives a
/// handle for another credential on the same topology. When the last handle is dropped, everything
/// ends; [`close`](Self::close) waits for that.
///
/// # What it does by itself
/// - A check-out selects a server and takes a connection of its pool, within one deadline. Where
///   the server, or its pool, goes away meanwhile, it selects again.
/// - What a connection's errors tell about its server goes to the topology; pools are cleared,
///   paused and made ready as it says.
/// - With `minPoolSize`, each server that is found has a pool for the options' own credential, which
///   is filled without any check-out. If the options have no credential, that ends with the first
///   handle for one.
/// - In the background idle connections that are too old are closed, `minPoolSize` is kept, and the
///   pools of credentials that nobody uses go.
///
/// # Runtimes
/// Monitors with their sockets, the maintenance of pools, and what a generic pool itself spawns live
/// on one Tokio runtime: the [named](PoolsBuilder::runtime) one, else the one in which these pools
/// were used first. If it ends, they end with it; the next [`connect`](Self::connect), or check-out
/// that has to wait, starts monitors and maintenance again, on the named runtime if it still runs,
/// else on its own. A runtime that exists and that nothing drives cannot be told from a busy one:
/// where runtimes come and go, as with the workers of actix-web or with tests, name one that
/// outlives the others.
///
/// # Where it departs from the specification
/// A credential that a server refuses is the problem of who uses it: the error goes to the caller
/// at once, and the server is neither marked unknown nor its pools cleared, because they serve other
/// credentials as well.
///
/// Specifications: connection monitoring and pooling, server selection, server discovery and
/// monitoring, load balancers, client backpressure.
pub struct Pools<B: Backend> {
    life: Arc<Life<B>>,
    tenant: Arc<Tenant<B>>,
}

/// Ends everything when the last handle goes.
struct Life<B: Backend>(Arc<Registry<B>>);

/// What all handles have in common.
struct Registry<B: Backend> {
    topology: Topology,
    /// Whether to close the topology as well.
    owns_topology: bool,
    options: ClientOptions,
    config: PoolsConfig,
    pool_options: PoolOptions,
    backend: B::Config,
    template: FactoryConfig,
    /// For further credentials.
    auth: AuthParts,
    write: Criterion,
    wait_timeout: Duration,
    /// The options' own.
    tenant: Arc<Tenant<B>>,
    /// Whether the options have no credential, nor a provider of one.
    is_anonymous: bool,
    /// Whether there was a handle for another credential.
    has_tenants: AtomicBool,
    tenants: Mutex<HashMap<Credential, Arc<Tenant<B>>>>,
    servers: Mutex<BTreeMap<ServerAddress, Server<B>>>,
    /// Which servers take writes.
    writable: Suitable,
    /// No lock is taken where this is held.
    retired: Retired<B>,
    caps: ServerCaps,
    /// One pool is added at a time.
    adding: Mutex<()>,
    actions: Dispatcher<Action<B>>,
    /// Whether waiters are to check whether their servers are suitable still.
    is_recheck_due: AtomicBool,
    wake: Arc<Notify>,
    maintenance: Mutex<Option<JoinHandle<()>>>,
    /// Where pools and the task live, whichever runtime asks for one.
    home: Home,
    tasks: Arc<Tasks>,
    is_closed: AtomicBool,
    /// Notified when `is_closed` is set.
    closed: Notify,
    /// One permit: its holder waits for the tasks; other calls of `close` wait for the permit.
    ending: Semaphore,
}

/// What the pools of one server have in common.
struct Server<B: Backend> {
    cap: Option<Arc<ServerCap>>,
    pools: Vec<Member<B>>,
}

/// A pool, and whose it is.
struct Member<B: Backend> {
    pool: ServerPool<B>,
    tenant: Arc<Tenant<B>>,
    /// How many check-outs it had when it was last found used, and when that was.
    used: (u64, Instant),
}

impl<B: Backend> Pools<B> {
    /// Pools for a connection string, all else by default. Nothing is connected yet.
    ///
    /// With feature `dns` also for `mongodb+srv`: the first check-out looks its records up, within its
    /// own deadline.
    ///
    /// # Errors
    /// See [`PoolsBuilder::build`].
    pub fn new(url: &str) -> Result<Self>
    where
        B::Config: Default,
    {
        Self::builder(ClientOptions::parse(url)?).build()
    }

    /// A builder over client options. Those of `mongodb+srv` need not be looked up before.
    pub fn builder(options: ClientOptions) -> PoolsBuilder<B>
    where
        B::Config: Default,
    {
        PoolsBuilder::new(options)
    }

    /// Checks out a connection to the server that takes writes: the primary, any `mongos`, a
    /// standalone server. See [`get_with`](Self::get_with).
    ///
    /// # Errors
    /// See [`get_with`](Self::get_with).
    pub async fn get(&self) -> Result<super::PooledConnection<B>> {
        self.get_with(&self.registry().write).await
    }

    /// Checks out a connection to a server that suits a read preference.
    ///
    /// Commands are sent as they are: the caller adds the `$readPreference`
    /// ([`ReadPreference::to_document`]) to each read, without which a secondary refuses it
    /// (code 13435).
    ///
    /// # Errors
    /// The parts of the preference do not agree; else see [`get_with`](Self::get_with).
    pub async fn read(&self, preference: ReadPreference) -> Result<super::PooledConnection<B>> {
        let criterion =
            Criterion::read(preference).map_err(|error| Error::configuration(error.to_string()))?;
        self.get_with(&criterion).await
    }

    /// The pool of one server of the deployment and this handle's credential. It is the same for
    /// all who ask, until the server leaves the deployment, or somebody [closes](ServerPool::close)
    /// it.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`]: there is no such server in the deployment now;
    /// [`ErrorKind::PoolClosed`]; the backend's settings can't be used.
    pub fn for_server(&self, address: &ServerAddress) -> Result<ServerPool<B>> {
        self.registry().connect()?;
        let index = self.topology().snapshot();
        let Some(entry) = index.server(address) else {
            let text = format!("{address} is no server of the deployment");
            return Err(Error::configuration(text));
        };
        self.registry().pool(&self.tenant, entry)
    }

    fn with_tenant(&self, tenant: Arc<Tenant<B>>) -> Self {
        Self {
            life: self.life.clone(),
            tenant,
        }
    }

    /// Makes connections in advance: `minPoolSize`, and at least one, to each server that takes
    /// operations. Waits for the first such server, and then until all these connections are there,
    /// whoever made them, within the configured wait time-out (`timeoutMS`, else
    /// `waitQueueTimeoutMS`, else 30 s) in all.
    ///
    /// # Errors
    /// Why there is no such server, or why a connection could not be made; of several failures the
    /// first. [`ErrorKind::Timeout`], with [`ErrorKind::PoolExhausted`] as its cause where other
    /// credentials have all connections that the server may have.
    ///
    /// # Cancellation
    /// May be dropped at any time: what is made stays.
    pub async fn warm_up(&self) -> Result<()> {
        let registry = self.registry();
        registry.connect()?;
        let deadline = Deadline::after(registry.wait_timeout);
        let nearest = Criterion::read(ReadPreference::new(ReadPreferenceMode::Nearest));
        let nearest = nearest.map_err(|error| Error::configuration(error.to_string()))?;
        let wanted = Wanted {
            criterion: &nearest,
            deprioritized: &[],
            selections: 1,
        };
        self.select(deadline, wanted).await?;
        let mut filling = Together::new();
        for entry in registry.topology.snapshot().servers() {
            if takes_operations(entry, registry.topology.description().topology_type()) {
                let pool = registry.pool(&self.tenant, entry)?;
                filling.push((), async move { pool.warm(deadline).await });
            }
        }
        while let Some(((), filled)) = filling.next().await {
            filled?;
        }
        Ok(())
    }

    /// How full each pool is, of all servers and credentials.
    pub fn status(&self) -> Vec<PoolStatus> {
        let pools = self.registry().pools();
        pools.iter().map(ServerPool::status).collect()
    }

    /// The user of this handle's credential, where it is known beforehand.
    pub fn user(&self) -> Option<Arc<str>> {
        self.tenant.identity().authenticator.user().cloned()
    }

    /// What is known of the deployment.
    pub fn topology(&self) -> &Topology {
        &self.registry().topology
    }

    /// Appends who wraps this client to the `client` document of handshakes, the
    /// monitors' among them: connections made
    /// from now on say it, those that are there stay as they are. Says whether that is new: what was
    /// appended before is not appended twice.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration): there is a `|` in it, or the
    /// names and versions would not fit into 512 bytes any more. Nothing is appended then.
    ///
    /// Specification: handshake, "Metadata updates after MongoClient initialization".
    pub fn append_metadata(&self, driver_info: DriverInfo) -> Result<bool> {
        self.topology().append_metadata(driver_info)
    }

    /// Begins to monitor the deployment, if that has not begun. A check-out that has to wait does so
    /// too. See [Runtimes](Self#runtimes) for where the tasks run. This also connects a given
    /// [topology](PoolsBuilder::topology) again that was disconnected, and starts tasks again that
    /// have ended with their runtime.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`]: there is no Tokio runtime, neither the current one nor one that
    /// was [named](PoolsBuilder::runtime), or it has no timer, or not the I/O driver that the built-in
    /// connectors need; [`ErrorKind::PoolClosed`];
    /// [`ErrorKind::TopologyClosed`](crate::ErrorKind::TopologyClosed): the given topology was
    /// closed.
    pub fn connect(&self) -> Result<()> {
        self.registry().connect()
    }

    /// Closes everything, for all handles: who waits gets [`ErrorKind::PoolClosed`], and so does who
    /// asks from now on. Connections in use are waited for, for at most the configured close
    /// time-out (10 s), those of pools too that went before, with a server or a credential; what is
    /// left then is interrupted. Returns when all connections are closed that nobody holds, and
    /// monitors and tasks have ended, or when that time is over: where nobody drives their runtime,
    /// tasks don't end. Outside of a Tokio runtime it does not wait. Who closes it at the same time waits likewise. A topology that was given
    /// stays.
    ///
    /// Dropping this future does not affect connections in use, and all else ends all the same; a
    /// later call waits for it.
    pub async fn close(&self) {
        let registry = self.registry();
        let deadline = Deadline::after(registry.config.close_timeout());
        registry.end();
        let ended = async {
            // First, because all are told to end before anything is waited for.
            registry.end_tasks().await;
            registry.retired.drained(None).await;
        };
        if deadline.bound(ended).await.is_err() {
            registry.retired.interrupt(None);
        }
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        self.registry().is_closed.load(Ordering::Acquire)
    }

    fn registry(&self) -> &Arc<Registry<B>> {
        &self.life.0
    }
}

/// Whether a server, as it is known, takes operations.
pub(super) fn takes_operations(entry: &ServerEntry, topology_type: TopologyType) -> bool {
    let server_type = entry.description().server_type;
    match topology_type {
        TopologyType::Single => server_type != crate::sdam::ServerType::Unknown,
        TopologyType::LoadBalanced => true,
        TopologyType::Unknown
        | TopologyType::Sharded
        | TopologyType::ReplicaSetNoPrimary
        | TopologyType::ReplicaSetWithPrimary => server_type.is_data_bearing(),
    }
}

impl<B: Backend> Registry<B> {
    fn tenants(&self) -> MutexGuard<'_, HashMap<Credential, Arc<Tenant<B>>>> {
        lock(&self.tenants)
    }

    fn servers(&self) -> MutexGuard<'_, BTreeMap<ServerAddress, Server<B>>> {
        lock(&self.servers)
    }

    /// The pools of all servers and credentials, to be used and dropped without a lock.
    fn pools(&self) -> Vec<ServerPool<B>> {
        let servers = self.servers();
        let members = servers.values().flat_map(|server| &server.pools);
        members.map(|member| member.pool.clone()).collect()
    }

    fn maintenance(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        lock(&self.maintenance)
    }

    fn check_open(&self) -> Result<()> {
        match self.is_closed.load(Ordering::Acquire) {
            true => Err(ErrorKind::PoolClosed.into()),
            false => Ok(()),
        }
    }

    /// Begins to monitor, and to maintain; also again, where the topology was disconnected or tasks
    /// have ended with their runtime.
    fn connect(self: &Arc<Self>) -> Result<()> {
        self.check_open()?;
        if self.topology.shared().is_running() && self.is_maintained() {
            return Ok(());
        }
        let runtime = self.home.choose()?;
        if let Err(error) = self.topology.shared().check_runtime(&runtime) {
            self.home.forget();
            return Err(error);
        }
        {
            // Of several at once it does something for one, and for all on the same runtime. It
            // tells handlers, who may come back here: without a lock.
            let _entered = runtime.enter();
            self.topology.connect().or_else(|error| {
                self.check_open()?;
                Err(error)
            })?;
        }
        self.maintain()
    }

    /// Stops what is in the background, when it is polled first, and waits until it has ended,
    /// whoever stopped it.
    async fn end_tasks(&self) {
        self.abort_maintenance();
        let newest = self.tasks.newest();
        let _turn = self.ending.acquire().await;
        if self.owns_topology {
            self.topology.close().await;
        }
        self.tasks.ended(newest).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B: Backend> Server<B> {
    fn new(address: &ServerAddress, caps: &ServerCaps) -> Self {
        Self {
            cap: caps.of(address),
            pools: Vec::new(),
        }
    }
}

impl<B: Backend> Clone for Pools<B> {
    fn clone(&self) -> Self {
        self.with_tenant(self.tenant.clone())
    }
}

impl<B: Backend> fmt::Debug for Pools<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pools")
            .field("user", &self.user())
            .field("topology", &self.topology().description())
            .finish_non_exhaustive()
    }
}

impl<B: Backend> Drop for Life<B> {
    fn drop(&mut self) {
        self.0.end();
        self.0.abort_maintenance();
    }
}
