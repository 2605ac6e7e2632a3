//! A factory whose connections follow the selection of a criterion.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bson::oid::ObjectId;
use tokio::time::Instant;

use crate::ServerAddress;
use crate::error::{ClosedReason, Error, ErrorKind, Result, Wait};
use crate::net::{
    Authenticator, Clear, Connection, Deadline, Metadata, Removal, Topology, TopologyListener,
};
use crate::pools::follow::{Follower, Servers, pause};
use crate::pools::pool::{CheckBudget, FactoryConfig, Failure, PoolInner};
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
    /// One pool for each server, which is suitable if the criterion would select it.
    servers: Servers<Arc<PoolInner>>,
    last_failure: Mutex<Option<Failure>>,
    /// The last view of the topology for which the application's selector was called.
    asked_about: AtomicU64,
}

/// No view of a topology.
const NEVER: u64 = u64::MAX;

impl Follower for Arc<PoolInner> {
    /// There is one generic pool for all of them, which has no events.
    const IS_REPORTED: bool = false;

    fn pool(&self) -> &Arc<PoolInner> {
        self
    }

    fn removed(&self, _was_open: bool) {
        PoolInner::clear(self);
        self.evict(u64::MAX, false);
    }
}

impl Floating {
    pub(crate) fn new(
        topology: Topology,
        criterion: Criterion,
        template: FactoryConfig,
        authenticator: Authenticator,
    ) -> Arc<Self> {
        let floating = Arc::new(Self {
            topology,
            criterion,
            template,
            authenticator: Arc::new(authenticator),
            servers: Servers::default(),
            last_failure: Mutex::default(),
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
                Ok(server) => {
                    server.settled(&deadline).await;
                    server.establish(deadline, budget).await
                }
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
        let server = self.known(connection.server());
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
        let servers = self.servers.lock();
        let servers = servers.values().flatten();
        servers.for_each(|server| PoolInner::clear(server));
    }

    /// Closes the pools of all servers. Servers that are found later get new pools.
    pub(crate) fn shut(&self) {
        let servers: Vec<_> = self.servers.lock().values().flatten().cloned().collect();
        servers.iter().for_each(|server| server.shut());
    }

    pub(crate) fn clear_service(&self, id: ObjectId) {
        let servers = self.servers.lock();
        let servers = servers.values().flatten();
        servers.for_each(|server| server.clear_service(id));
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
        if let Some(known) = self.known(entry.address()) {
            return Ok(known);
        }
        let topology = self.topology.shared();
        let entered = self.servers.enter(topology, entry, |index, servers| {
            let server = servers.first().cloned().unwrap_or_else(|| {
                let params = self
                    .servers
                    .params(&self.topology, entry, &self.authenticator);
                servers.push(self.template.shared(params));
                servers[0].clone()
            });
            self.refresh_suitability(index);
            server
        });
        let Some(server) = entered else {
            let cleared = Error::from(ErrorKind::PoolCleared).at(entry.address());
            return Err(cleared.of_check_out(self.template.retries_writes));
        };
        self.servers.admit(topology, entry, &server);
        self.asked_about.store(NEVER, Ordering::Release);
        self.ask_selectors();
        Ok(server)
    }

    fn known(&self, server: &ServerAddress) -> Option<Arc<PoolInner>> {
        self.servers.lock().get(server)?.first().cloned()
    }

    /// Updates for each server whether it would be selected now. The application's selector is not
    /// called under the topology's lock: a server that it may exclude does not become suitable
    /// before [`ask_selectors`](Self::ask_selectors) has called it.
    fn refresh_suitability(&self, index: &SelectionIndex) {
        if !index.has_selector(&self.criterion) {
            let suitable = index.suitable(&self.criterion, &[]);
            return self
                .servers
                .suitable
                .note(index, &suitable.unwrap_or_default());
        }
        let mut suitable = index.unfiltered(&self.criterion, &[]);
        suitable.retain(|entry| self.servers.suitable.is_suitable(entry.address()));
        self.servers.suitable.note(index, &suitable);
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
                    self.servers.suitable.note(&index, &suitable);
                }
                is_current
            });
            if is_current {
                return;
            }
        }
    }
}

impl TopologyListener for Floating {
    fn ready(&self, server: &ServerAddress) {
        self.servers.ready(server);
    }

    fn clear(&self, clear: &Clear<'_>) {
        self.servers.clear(clear);
    }

    fn remove(&self, server: &ServerAddress, removal: Removal) {
        self.servers.remove(server, removal, |_| {});
    }

    fn published(&self, index: &SelectionIndex) {
        self.refresh_suitability(index);
    }

    fn settle(&self) {
        self.ask_selectors();
        self.servers.settle();
    }
}
