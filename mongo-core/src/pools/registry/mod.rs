//! Pools by server and credential, over one topology.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::follow::{Servers, takes_operations};
use super::options::{PoolOptions, PoolsConfig};
use super::pool::FactoryConfig;
use super::server_cap::ServerCaps;
use super::{Backend, PoolStatus, ServerPool};
use crate::ServerAddress;
use crate::auth::Credential;
use crate::error::{Error, ErrorKind, Result};
use crate::handshake::DriverInfo;
use crate::net::{AuthParts, Deadline, Home, Tasks, Together, Topology};
use crate::operation::ClientContext;
use crate::select::{Criterion, ReadPreference, ReadPreferenceMode};
use crate::sync::lock;
use crate::uri::ClientOptions;

mod assembly;
pub(super) mod check_out;
mod closing;
mod credentials;
mod leftovers;
mod listener;
mod maintenance;
mod members;
mod retired;
mod tenant;

pub(super) use assembly::Parts;
use check_out::Wanted;
use closing::Life;
use leftovers::Leftovers;
use retired::Retired;
use tenant::Tenant;

/// Pools of connections to all servers of a deployment, for one credential. This is a handle on a
/// registry that has one pool for each server and credential, over one topology with one set of
/// monitors.
///
/// Cloning is cheap; clones are the same pools. [`with_credential`](Self::with_credential) gives a
/// handle for another credential on the same topology. When the last handle is dropped, pools,
/// monitors and background tasks end; [`close`](Self::close) waits for that.
///
/// # Automatic behavior
/// - A check-out selects a server and takes a connection from its pool, within one deadline. If the
///   server or its pool goes away before that, it selects again.
/// - Errors of connections update the topology, which clears and pauses pools and makes them ready.
/// - With `minPoolSize`, each discovered server gets a pool for the credential in the options,
///   which is filled before any check-out. If the options have no credential, this ends once there
///   is a handle for one.
/// - Maintenance in the background closes idle connections that are too old, keeps up
///   `minPoolSize`, and closes the pools of unused credentials.
///
/// # Runtimes
/// Monitors and their sockets, the maintenance of pools, and tasks that a generic pool spawns run
/// on one Tokio runtime: the [named](super::PoolsBuilder::runtime) one, else the one in which these pools
/// were first used. They end with that runtime. The next [`connect`](Self::connect), or check-out
/// that has to wait, restarts monitors and maintenance, on the named runtime if it still runs, else
/// on its own. A runtime that exists but is not driven looks like a busy one: where runtimes come
/// and go, as with the workers of actix-web or with tests, name one that outlives the others.
///
/// # Deviation from the specification
/// If a server refuses a credential, the error goes to the caller at once. The server is not marked
/// unknown and its pools are not cleared, because they serve other credentials as well.
///
/// Specifications: connection monitoring and pooling, server selection, server discovery and
/// monitoring, load balancers, client backpressure.
pub struct Pools<B: Backend> {
    life: Arc<Life<B>>,
    tenant: Arc<Tenant<B>>,
}

/// The state that all handles share.
struct Registry<B: Backend> {
    topology: Topology,
    /// Whether `close` closes the topology as well.
    owns_topology: bool,
    options: ClientOptions,
    config: PoolsConfig,
    pool_options: PoolOptions,
    backend: B::Config,
    template: FactoryConfig,
    /// The parts of authenticators for further credentials.
    auth: AuthParts,
    write: Criterion,
    wait_timeout: Duration,
    /// The tenant of the credential in the options.
    tenant: Arc<Tenant<B>>,
    /// Whether there is neither a credential in the options nor a credential provider.
    is_anonymous: bool,
    /// Whether a handle for another credential was ever made.
    has_tenants: AtomicBool,
    tenants: Mutex<HashMap<Credential, Arc<Tenant<B>>>>,
    /// The pools of all tenants; a server is suitable if it is writable.
    servers: Servers<Member<B>>,
    /// No lock is taken where this is held.
    retired: Retired<B>,
    caps: ServerCaps,
    /// Serializes the adding of pools.
    adding: Mutex<()>,
    /// Whether waiters have to check again whether their servers are suitable.
    is_recheck_due: AtomicBool,
    /// Whether a server was checked successfully: pools may be missing or lack connections.
    is_fill_due: AtomicBool,
    wake: Arc<Notify>,
    maintenance: Mutex<Option<JoinHandle<()>>>,
    /// The runtime of the pools and of maintenance, whichever runtime the caller is on.
    home: Home,
    tasks: Arc<Tasks>,
    is_closed: AtomicBool,
    /// Notified when `is_closed` is set.
    closed: Notify,
    leftovers: Leftovers<B>,
    /// The handles that are left, for what runs without one.
    life: OnceLock<Weak<Life<B>>>,
    /// One permit: its holder waits for the tasks to end; other calls of `close` wait for the
    /// permit.
    ending: Semaphore,
    this: Weak<Registry<B>>,
}

/// A pool and its tenant.
struct Member<B: Backend> {
    pool: ServerPool<B>,
    tenant: Arc<Tenant<B>>,
    /// The number of check-outs when it was last found used, and the time of that.
    used: (u64, Instant),
}

impl<B: Backend> Pools<B> {
    /// Checks out a connection to a writable server: the primary, any `mongos`, or a standalone
    /// server. See [`get_with`](Self::get_with).
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
    /// The parts of the preference contradict each other; else see [`get_with`](Self::get_with).
    pub async fn read(&self, preference: ReadPreference) -> Result<super::PooledConnection<B>> {
        let criterion =
            Criterion::read(preference).map_err(|error| Error::configuration(error.to_string()))?;
        self.get_with(&criterion).await
    }

    /// The pool of one server of the deployment and this handle's credential. All calls return the
    /// same pool until the server leaves the deployment or the pool is [closed](ServerPool::close).
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`]: the deployment has no such server now, or the backend's
    /// settings can't be used; [`ErrorKind::PoolClosed`].
    pub fn for_server(&self, address: &ServerAddress) -> Result<ServerPool<B>> {
        self.registry().connect()?;
        let index = self.topology().snapshot();
        let Some(entry) = index.server(address) else {
            let text = format!("{address} is not a server of the deployment");
            return Err(Error::configuration(text));
        };
        self.registry().pool(&self.tenant, entry)
    }

    /// The options and the sessions of this handle's operations.
    pub(super) fn client(&self) -> Arc<ClientContext> {
        self.tenant.client()
    }

    /// Whether both are handles of one credential, whatever it is now.
    pub(super) fn is_same_credential(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.tenant, &other.tenant)
    }

    /// Checks that neither the pools are closed nor the credential was logged out.
    pub(super) fn check_usable(&self) -> Result<()> {
        self.registry().check_open()?;
        self.tenant.check()
    }

    /// The criterion of writes.
    pub(super) fn write_criterion(&self) -> &Criterion {
        &self.registry().write
    }

    /// The time of a check-out without a limit of its own, and of a selection.
    pub(super) fn wait_limits(&self) -> (Duration, Duration) {
        let registry = self.registry();
        let selection = registry.options.server_selection_timeout;
        (registry.wait_timeout, selection)
    }

    fn with_tenant(&self, tenant: Arc<Tenant<B>>) -> Self {
        Self {
            life: self.life.clone(),
            tenant,
        }
    }

    /// Makes connections in advance: `minPoolSize` or `min_idle`, and at least one, to each server
    /// that takes operations. Waits for the first such server, and then until all these connections
    /// exist, including those made by other callers. All of it ends within the configured wait
    /// time-out (`timeoutMS`, else `waitQueueTimeoutMS`, else 30 s).
    ///
    /// # Errors
    /// Why there is no such server, or the first failure to make a connection.
    /// [`ErrorKind::Timeout`], with [`ErrorKind::PoolExhausted`] as its cause if other credentials
    /// hold all connections that the server may have.
    ///
    /// # Cancellation
    /// May be dropped at any time: connections made so far stay.
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
            operation: None,
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

    /// The status of each pool, of all servers and credentials.
    pub fn status(&self) -> Vec<PoolStatus> {
        let pools = self.registry().pools();
        pools.iter().map(ServerPool::status).collect()
    }

    /// The user of this handle's credential, if it is known before authentication.
    pub fn user(&self) -> Option<Arc<str>> {
        self.tenant.authenticator().user().cloned()
    }

    /// The topology of the deployment.
    pub fn topology(&self) -> &Topology {
        &self.registry().topology
    }

    /// Appends the metadata of a library that wraps this client to the `client` document of
    /// handshakes, including those of monitors. Only connections made from now on send it. Returns
    /// whether it was appended: metadata that was appended before is not appended twice.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration): it contains a `|`, or the
    /// names and versions would no longer fit into 512 bytes. Nothing is appended then.
    ///
    /// Specification: handshake, "Metadata updates after MongoClient initialization".
    pub fn append_metadata(&self, driver_info: DriverInfo) -> Result<bool> {
        self.topology().append_metadata(driver_info)
    }

    /// Starts monitoring the deployment, unless it has started. A check-out that has to wait does
    /// the same. See [Runtimes](Self#runtimes) for where the tasks run. This also reconnects a
    /// given [topology](super::PoolsBuilder::topology) that was disconnected, and restarts tasks that
    /// ended with their runtime.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`]: there is neither a current nor a
    /// [named](super::PoolsBuilder::runtime) Tokio runtime, or it lacks the timer, or the I/O driver that
    /// the built-in connectors need; [`ErrorKind::PoolClosed`];
    /// [`ErrorKind::TopologyClosed`](crate::ErrorKind::TopologyClosed): the given topology was
    /// closed.
    pub fn connect(&self) -> Result<()> {
        self.registry().connect()
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        self.registry().is_closed.load(Ordering::Acquire)
    }

    fn registry(&self) -> &Arc<Registry<B>> {
        &self.life.0
    }
}

impl<B: Backend> Registry<B> {
    fn tenants(&self) -> MutexGuard<'_, HashMap<Credential, Arc<Tenant<B>>>> {
        lock(&self.tenants)
    }

    /// The pools of all servers and credentials. To be used and dropped without a lock.
    fn pools(&self) -> Vec<ServerPool<B>> {
        let servers = self.servers.lock();
        let members = servers.values().flatten();
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

    /// Starts monitoring and maintenance; also again if the topology was disconnected or tasks have
    /// ended with their runtime.
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
            // Of concurrent calls only the first has an effect, and all use the same runtime. It
            // calls handlers, which may call back here: without a lock.
            let _entered = runtime.enter();
            self.topology.connect().or_else(|error| {
                self.check_open()?;
                Err(error)
            })?;
        }
        self.maintain()
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
