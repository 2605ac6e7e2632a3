//! A factory whose connections follow the selection of a criterion.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bson::oid::ObjectId;
use tokio::time::Instant;

use crate::ServerAddress;
use crate::error::{ClosedReason, Error, ErrorKind, Result, Wait};
use crate::net::{
    Authenticator, Clear, Connection, Deadline, Dispatcher, Metadata, Removal, Topology,
    TopologyListener,
};
use crate::pools::follow::{Suitable, pause, takes_operations};
use crate::pools::pool::{
    CheckBudget, FactoryConfig, Failure, Limits, PoolInner, PoolParams, PoolState,
};
use crate::select::{Criterion, SelectionError, SelectionIndex, ServerEntry};
use crate::sync::lock;

/// Makes connections to the server that a criterion selects at the time, and hands out no
/// connection whose server would no longer be selected.
///
/// Each server has its own [`PoolInner`], so that generations, errors and clearing work as in a
/// pool of that server. There is one generic pool on top for all of them.
pub(crate) struct Floating {
    topology: Topology,
    criterion: Criterion,
    template: FactoryConfig,
    authenticator: Arc<Authenticator>,
    servers: Mutex<BTreeMap<ServerAddress, Arc<PoolInner>>>,
    suitable: Suitable,
    last_failure: Mutex<Option<Failure>>,
    /// How often the application called `clear`.
    clears: AtomicU64,
    evictions: Dispatcher<Eviction>,
    /// The last view of the topology for which the application's selector was called.
    asked_about: AtomicU64,
}

/// No view of a topology.
const NEVER: u64 = u64::MAX;

/// The rest of a clear or a removal, to be done without the topology's lock.
struct Eviction {
    server: Arc<PoolInner>,
    /// The last generation whose connections are given up.
    generation: u64,
    interrupt_in_use: bool,
}

impl Floating {
    pub(crate) fn new(
        topology: Topology,
        criterion: Criterion,
        template: FactoryConfig,
        authenticator: Authenticator,
    ) -> Arc<Self> {
        let evict = |own: &Eviction| own.server.evict(own.generation, own.interrupt_in_use);
        let floating = Arc::new(Self {
            topology,
            criterion,
            template,
            authenticator: Arc::new(authenticator),
            servers: Mutex::default(),
            suitable: Suitable::default(),
            last_failure: Mutex::default(),
            clears: AtomicU64::new(0),
            evictions: Dispatcher::new(Some(Arc::new(evict))),
            asked_about: AtomicU64::new(NEVER),
        });
        let listener: std::sync::Weak<Self> = Arc::downgrade(&floating);
        floating.topology.listen(listener);
        floating
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        &self.template.metadata
    }

    /// Selects a server and makes a connection to it; selects again if the server goes away before
    /// that.
    pub(crate) async fn establish(
        &self,
        deadline: Deadline,
        budget: &mut CheckBudget,
    ) -> Result<Connection> {
        let made = self.try_establish(deadline, budget).await;
        let failure = made.as_ref().err().map(|error| Failure {
            at: Instant::now(),
            error: error.clone(),
        });
        // The former one is dropped without the lock: it may be a type of the application.
        let _former = std::mem::replace(&mut *lock(&self.last_failure), failure);
        made.map_err(|error| self.name(error))
    }

    async fn try_establish(
        &self,
        deadline: Deadline,
        budget: &mut CheckBudget,
    ) -> Result<Connection> {
        self.topology.connect()?;
        let selection_timeout = self.topology.options().server_selection_timeout;
        let mut cause = None;
        for round in 0_u32.. {
            pause(round, deadline).await;
            let within = deadline.round(Some(selection_timeout));
            let selected = self.topology.select_by(within, &self.criterion, &[]).await;
            let selected = selected.map_err(|error| error.caused_by(cause.take()))?;
            let made = match self.server(selected.entry()) {
                Ok(server) => server.establish(deadline, budget).await,
                Err(error) => Err(error),
            };
            match made {
                Ok(mut connection) if self.suits(&connection) => {
                    if let Some(pool_handle) = connection.pool_handle_mut() {
                        pool_handle.for_writes = self.criterion.is_write();
                    }
                    return Ok(connection);
                }
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::PoolCleared) => cause = Some(error),
                Err(error) => return Err(error),
            }
            if deadline.is_over() {
                break;
            }
        }
        let timed_out = Error::timeout(Wait::Connect, deadline.elapsed());
        Err(timed_out.caused_by(cause))
    }

    /// Whether a connection's server would be selected now, or is out of reach; in the latter case
    /// the connection is stale anyway. Wait-free.
    fn suits(&self, connection: &Connection) -> bool {
        let pool_handle = connection.pool_handle();
        pool_handle.is_some_and(|pool_handle| pool_handle.takes_writes.load(Ordering::Acquire))
    }

    pub(crate) async fn recycle(
        &self,
        connection: &mut Connection,
        deadline: Deadline,
        budget: &mut CheckBudget,
    ) -> Result<()> {
        match self.of(connection) {
            Ok(server) => server.recycle(connection, deadline, budget).await,
            Err(error) => Err(error),
        }
    }

    pub(crate) fn recycle_now(&self, connection: &mut Connection) -> Option<Result<()>> {
        match self.of(connection) {
            Ok(server) => server.recycle_now(connection),
            Err(error) => Some(Err(error)),
        }
    }

    /// The pool of a connection's server. Closes the connection if its server is no longer
    /// suitable.
    fn of(&self, connection: &mut Connection) -> Result<Arc<PoolInner>> {
        let server = self.lock().get(connection.server()).cloned();
        match server.filter(|_| self.suits(connection)) {
            Some(server) => Ok(server),
            None => {
                connection.close_for(ClosedReason::Stale);
                let closed = ErrorKind::ConnectionClosed(ClosedReason::Stale);
                Err(self.name(closed).at(connection.server()))
            }
        }
    }

    pub(crate) fn clear(&self) {
        self.clears.fetch_add(1, Ordering::AcqRel);
        let servers = self.lock();
        servers.values().for_each(|server| server.clear());
    }

    /// Closes the pools of all servers. Servers that are found later get new pools.
    pub(crate) fn shut(&self) {
        let servers: Vec<_> = self.lock().values().cloned().collect();
        servers.iter().for_each(|server| server.shut());
    }

    pub(crate) fn clear_service(&self, id: ObjectId) {
        let servers = self.lock();
        servers.values().for_each(|server| server.clear_service(id));
    }

    pub(crate) fn clears(&self) -> u64 {
        self.clears.load(Ordering::Acquire)
    }

    pub(crate) fn user(&self) -> Option<&Arc<str>> {
        self.authenticator.user()
    }

    pub(crate) fn times_idleness(&self) -> &AtomicBool {
        &self.template.times_idleness
    }

    pub(crate) fn name(&self, error: impl Into<Error>) -> Error {
        error.into().for_user(self.user())
    }

    pub(crate) fn timed_out(&self, wait: Wait, deadline: Deadline) -> Error {
        let cause = Failure::since(&lock(&self.last_failure), deadline.elapsed());
        self.name(deadline.timed_out(wait)).caused_by(cause)
    }

    /// The pool of a server that was selected.
    fn server(&self, entry: &ServerEntry) -> Result<Arc<PoolInner>> {
        let known = self.lock().get(entry.address()).cloned();
        if let Some(server) = known {
            return Ok(server);
        }
        // Under the topology's lock, so that no change of the server is missed.
        let added = self.topology.shared().with_description(|index| {
            let known = index.server(entry.address())?;
            let topology_type = index.topology().topology_type();
            let state = match takes_operations(known, topology_type) {
                true => PoolState::Ready,
                false => PoolState::Paused,
            };
            let mut servers = self.lock();
            let server = servers.entry(entry.address().clone());
            let server = server
                .or_insert_with(|| self.new_server(entry, state))
                .clone();
            self.refresh_suitability(index);
            Some(server)
        });
        self.asked_about.store(NEVER, Ordering::Release);
        self.ask_selectors();
        added.ok_or_else(|| {
            let cleared = Error::from(ErrorKind::PoolCleared).at(entry.address());
            cleared.of_check_out(self.template.retries_writes)
        })
    }

    fn new_server(&self, entry: &ServerEntry, state: PoolState) -> Arc<PoolInner> {
        let client = self.topology.options();
        let server = self.template.shared(PoolParams {
            server: entry.address().clone(),
            authenticator: self.authenticator.resolved(&client),
            load_balanced: client.load_balanced == Some(true),
            state,
            // The generic pool limits the size.
            limits: Limits::default(),
            cap: None,
            takes_writes: self.suitable.of(entry.address()),
            topology: Some(self.topology.shared().clone()),
            client: None,
            abandon: None,
            wake: None,
            runtime: None,
        });
        // There is no `PoolCreated` event to wait for.
        server.set_announced();
        server.set_settled();
        server
    }

    /// Updates for each server whether it would be selected now. The application's selector is not
    /// called under the topology's lock: a server that it may exclude does not become suitable
    /// before [`ask_selectors`](Self::ask_selectors) has called it.
    fn refresh_suitability(&self, index: &SelectionIndex) {
        if !index.has_selector(&self.criterion) {
            let suitable = index.suitable(&self.criterion, &[]);
            return self.suitable.note(index, &suitable.unwrap_or_default());
        }
        let mut suitable = index.unfiltered(&self.criterion, &[]);
        suitable.retain(|entry| self.suitable.is_suitable(entry.address()));
        self.suitable.note(index, &suitable);
    }

    /// Calls the application's selector for each new view of the topology, without a lock. If it
    /// panics, nothing changes.
    fn ask_selectors(&self) {
        loop {
            let index = self.topology.snapshot();
            let is_new = self.asked_about.swap(index.revision(), Ordering::AcqRel);
            if is_new == index.revision() || !index.has_selector(&self.criterion) {
                return;
            }
            let suitable = match index.suitable(&self.criterion, &[]) {
                Err(SelectionError::Selector(_)) => return,
                suitable => suitable.unwrap_or_default(),
            };
            let is_current = self.topology.shared().with_description(|current| {
                let is_current = current.revision() == index.revision();
                if is_current {
                    self.suitable.note(&index, &suitable);
                }
                is_current
            });
            if is_current {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ServerAddress, Arc<PoolInner>>> {
        lock(&self.servers)
    }
}

impl TopologyListener for Floating {
    fn ready(&self, server: &ServerAddress) {
        if let Some(server) = self.lock().get(server) {
            server.make_ready();
        }
    }

    fn clear(&self, clear: &Clear<'_>) {
        let Some(server) = self.lock().get(clear.server).cloned() else {
            return;
        };
        match clear.service_id {
            Some(service_id) => {
                server.note_cleared_for(clear.error);
                server.clear_service(service_id);
            }
            None => {
                let paused = server.make_paused(clear.error);
                self.evictions.queue([Eviction {
                    server,
                    generation: paused.generation,
                    interrupt_in_use: clear.interrupt_in_use,
                }]);
            }
        }
    }

    fn remove(&self, server: &ServerAddress, removal: Removal) {
        self.suitable.removed(server, removal);
        let removed = self.lock().remove(server);
        self.evictions.queue(removed.map(|server| {
            server.make_closed();
            server.clear();
            Eviction {
                server,
                generation: u64::MAX,
                interrupt_in_use: false,
            }
        }));
    }

    fn published(&self, index: &SelectionIndex) {
        self.refresh_suitability(index);
    }

    fn settle(&self) {
        self.ask_selectors();
        self.evictions.deliver();
    }
}
