//! Adding and removing pools.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::tenant::{ByServer, Tenant};
use super::{Member, Registry};
use crate::error::{Error, ErrorKind, Result};
use crate::pools::pool::PoolParams;
use crate::pools::{Backend, ServerPool};
use crate::select::ServerEntry;
use crate::sync::lock;

/// Values to be dropped only once no lock is held.
struct LetGo<B: Backend> {
    pools: Vec<ServerPool<B>>,
    lists: Vec<Arc<ByServer<B>>>,
}

impl<B: Backend> Registry<B> {
    /// The pool of a server for a tenant. A pool that was closed by its handle is replaced.
    pub(super) fn pool(
        self: &Arc<Self>,
        tenant: &Arc<Tenant<B>>,
        entry: &Arc<ServerEntry>,
    ) -> Result<ServerPool<B>> {
        match tenant.pool(entry.id()) {
            Some(pool) if !pool.is_closed() => Ok(pool),
            Some(_) | None => self.add_pool(tenant, entry),
        }
    }

    /// Adds the pool, unless another caller does. It stays paused until its `PoolCreated` is
    /// emitted, which is done without a lock.
    fn add_pool(
        self: &Arc<Self>,
        tenant: &Arc<Tenant<B>>,
        entry: &Arc<ServerEntry>,
    ) -> Result<ServerPool<B>> {
        let mut let_go = LetGo {
            pools: Vec::new(),
            lists: Vec::new(),
        };
        let pool = {
            let _adding = lock(&self.adding);
            match tenant.pool(entry.id()) {
                Some(pool) if !pool.is_closed() => return Ok(pool),
                // Everything else that closes a pool first removes it from its tenant.
                Some(closed) => {
                    let_go.lists.push(self.take_out(&closed, tenant));
                    let_go.pools.push(closed);
                }
                None => {}
            }
            self.add_new_pool(tenant, entry, &mut let_go)?
        };
        pool.announce();
        let topology = self.topology.shared();
        if self.servers.admit(topology, entry, pool.shared()) {
            self.wake_to_fill();
        }
        Ok(pool)
    }

    /// Makes and enters the pool.
    fn add_new_pool(
        self: &Arc<Self>,
        tenant: &Arc<Tenant<B>>,
        entry: &Arc<ServerEntry>,
        let_go: &mut LetGo<B>,
    ) -> Result<ServerPool<B>> {
        self.check_open()?;
        tenant.check().map_err(|error| error.at(entry.address()))?;
        let pool = self.new_pool(tenant, entry)?;
        let topology = self.topology.shared();
        let added = self.servers.enter(topology, entry, |index, members| {
            let_go.lists.push(tenant.add(entry.id(), &pool));
            members.push(Member {
                pool: pool.clone(),
                tenant: tenant.clone(),
                used: (0, Instant::now()),
            });
            self.note_writable(index);
        });
        match added {
            Some(()) => Ok(pool),
            None => {
                let_go.pools.push(pool);
                let cleared = Error::from(ErrorKind::PoolCleared).at(entry.address());
                Err(cleared.of_check_out(self.options.retry_writes))
            }
        }
    }

    fn new_pool(
        self: &Arc<Self>,
        tenant: &Arc<Tenant<B>>,
        entry: &Arc<ServerEntry>,
    ) -> Result<ServerPool<B>> {
        let registry = Arc::downgrade(self);
        let wake = move || {
            if let Some(registry) = registry.upgrade() {
                registry.wake_to_fill();
            }
        };
        let authenticator = &tenant.authenticator();
        let shared = self.template.shared(PoolParams {
            limits: self.pool_options.limits(),
            cap: self.caps.of(entry.address()),
            client: Some(tenant.client()),
            // Without a smallest size no pool can lack connections.
            wake: self.pool_options.fills().then(|| Arc::new(wake) as _),
            runtime: self.home.named().cloned(),
            ..self.servers.params(&self.topology, entry, authenticator)
        });
        // The caller may be on another runtime, which ends before the pools do.
        let runtime = self.home.choose().ok();
        let _entered = runtime.as_ref().map(|runtime| runtime.enter());
        ServerPool::new(shared, &self.pool_options, &self.backend)
    }

    /// Closes a pool and removes it. Connections in use are not interrupted.
    pub(super) fn retire(&self, pool: &ServerPool<B>, tenant: &Arc<Tenant<B>>) {
        drop(self.take_out(pool, tenant));
        pool.close();
    }

    /// Removes a pool; the result is to be dropped without a lock.
    #[must_use]
    fn take_out(&self, pool: &ServerPool<B>, tenant: &Arc<Tenant<B>>) -> Arc<ByServer<B>> {
        self.retired.enter([(pool, tenant)]);
        let former = tenant.remove(pool);
        self.forget(pool);
        former
    }

    pub(super) fn retire_all(&self, tenant: &Arc<Tenant<B>>) {
        let pools = {
            let _adding = lock(&self.adding);
            let pools = tenant.take_all();
            // Under this lock, so that a concurrent call finds them in `retired`.
            self.retired
                .enter(pools.iter().map(|(_, pool)| (pool, tenant)));
            pools
        };
        for (_, pool) in &*pools {
            self.forget(pool);
            pool.close();
        }
    }

    fn forget(&self, pool: &ServerPool<B>) {
        if let Some(members) = self.servers.lock().get_mut(pool.server()) {
            members.retain(|member| !member.pool.is_same(pool));
        }
    }

    /// Closes all pools, for good.
    pub(super) fn end(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.closed.notify_waiters();
        self.leftovers.clear();
        let members: Vec<_> = {
            let _adding = lock(&self.adding);
            let mut servers = self.servers.lock();
            let members = servers.values().flatten();
            let members = members.map(|member| (&member.pool, &member.tenant));
            // Under this lock, so that a concurrent call finds them in `retired`.
            self.retired.enter(members);
            std::mem::take(&mut *servers)
                .into_values()
                .flatten()
                .collect()
        };
        for member in &members {
            drop(member.tenant.remove(&member.pool));
            member.pool.close();
        }
    }
}
