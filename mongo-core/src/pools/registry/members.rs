//! Pools as they come and go.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::tenant::Tenant;
use super::{Member, Registry, Server, listener, lock, takes_operations};
use crate::error::{Error, ErrorKind, Result};
use crate::pools::factory::{Place, PoolState};
use crate::pools::{Backend, ServerPool};
use crate::sdam::SdamError;
use crate::select::{SelectionIndex, ServerEntry};

impl<B: Backend> Registry<B> {
    /// The pool of a server for a tenant. One that somebody closed by its handle is replaced.
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

    /// Adds the pool, unless another caller does. It stays paused until its `PoolCreated` is emitted,
    /// which needs that no lock is held.
    fn add_pool(
        self: &Arc<Self>,
        tenant: &Arc<Tenant<B>>,
        entry: &Arc<ServerEntry>,
    ) -> Result<ServerPool<B>> {
        let pool = {
            let _adding = lock(&self.adding);
            match tenant.pool(entry.id()) {
                Some(pool) if !pool.is_closed() => return Ok(pool),
                // Whatever else closes one takes it from its tenant before.
                Some(closed) => self.take_out(&closed, tenant),
                None => {}
            }
            self.add_new_pool(tenant, entry)?
        };
        pool.announce();
        let is_ready = self.topology.shared().with_description(|index| {
            pool.shared().set_announced();
            let known = index.server(entry.address());
            let known = known.filter(|known| known.id() == entry.id());
            let topology_type = index.topology().topology_type();
            match known {
                Some(known) if takes_operations(known, topology_type) => pool.shared().make_ready(),
                Some(known) => {
                    if let Some(SdamError::Failed(error)) = &known.description().error {
                        pool.shared().note_cleared_for(Some(error));
                    }
                    false
                }
                None => false,
            }
        });
        pool.shared().set_settled();
        if is_ready {
            pool.shared().emit_ready();
            self.wake_to_fill();
        }
        Ok(pool)
    }

    /// Makes and enters the pool.
    fn add_new_pool(
        &self,
        tenant: &Arc<Tenant<B>>,
        entry: &Arc<ServerEntry>,
    ) -> Result<ServerPool<B>> {
        self.check_open()?;
        tenant.check().map_err(|error| error.at(entry.address()))?;
        let pool = self.new_pool(tenant, entry)?;
        // Under the topology's lock, so that nothing is missed that is told of the server.
        let added = self.topology.shared().with_description(|index| {
            let known = index.server(entry.address());
            known.filter(|known| known.id() == entry.id())?;
            tenant.add(entry.id(), &pool);
            self.enter(tenant, &pool, index);
            Some(())
        });
        match added {
            Some(()) => Ok(pool),
            None => Err(Error::from(ErrorKind::PoolCleared).at(entry.address())),
        }
    }

    /// Has a round of maintenance begin now, where pools may lack connections.
    pub(super) fn wake_to_fill(&self) {
        if self.pool_options.min_size > 0 {
            self.wake.notify_one();
        }
    }

    fn new_pool(&self, tenant: &Arc<Tenant<B>>, entry: &Arc<ServerEntry>) -> Result<ServerPool<B>> {
        let (cap, takes_writes) = {
            let mut servers = self.servers();
            let server = servers
                .entry(entry.address().clone())
                .or_insert_with_key(|address| Server::new(address, &self.caps));
            (server.cap.clone(), server.takes_writes.clone())
        };
        let shared = self.template.shared(Place {
            server: entry.address().clone(),
            authenticator: tenant.identity().authenticator.clone(),
            state: PoolState::Paused,
            limits: self.pool_options.limits(),
            cap,
            takes_writes,
            topology: Some(self.topology.shared().clone()),
            // Without a smallest size none can lack any.
            wake: (self.pool_options.min_size > 0).then(|| self.wake.clone()),
            runtime: None,
        });
        // What asks may run on another, which ends before the pools do.
        let _entered = self.runtime.get().map(Handle::enter);
        ServerPool::new(shared, &self.pool_options, &self.backend)
    }

    /// Enters a pool where its server's pools are.
    fn enter(&self, tenant: &Arc<Tenant<B>>, pool: &ServerPool<B>, index: &SelectionIndex) {
        let mut servers = self.servers();
        let server = servers
            .entry(pool.server().clone())
            .or_insert_with_key(|address| Server::new(address, &self.caps));
        server.pools.push(Member {
            pool: pool.clone(),
            tenant: tenant.clone(),
            used: (0, Instant::now()),
        });
        listener::note_writable(&servers, index, &self.write);
    }

    /// Closes a pool and forgets it. Connections in use go on.
    pub(super) fn retire(&self, pool: &ServerPool<B>, tenant: &Arc<Tenant<B>>) {
        self.take_out(pool, tenant);
        pool.close();
    }

    fn take_out(&self, pool: &ServerPool<B>, tenant: &Arc<Tenant<B>>) {
        self.retired.enter([(pool, tenant)]);
        tenant.remove(pool);
        self.forget(pool);
    }

    pub(super) fn retire_all(&self, tenant: &Arc<Tenant<B>>) {
        let pools = {
            let _adding = lock(&self.adding);
            let pools = tenant.take_all();
            // Under this lock, so that who does the same at the same time finds them here.
            self.retired.enter(pools.iter().map(|pool| (pool, tenant)));
            pools
        };
        for pool in &pools {
            self.forget(pool);
            pool.close();
        }
    }

    fn forget(&self, pool: &ServerPool<B>) {
        if let Some(server) = self.servers().get_mut(pool.server()) {
            server.pools.retain(|member| !member.pool.is_same(pool));
        }
    }

    /// Closes all pools, for good.
    pub(super) fn end(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.closed.notify_waiters();
        let members: Vec<_> = {
            let _adding = lock(&self.adding);
            let mut servers = self.servers();
            let members = servers.values().flat_map(|server| &server.pools);
            let members = members.map(|member| (&member.pool, &member.tenant));
            // Under this lock, so that who does the same at the same time finds them here.
            self.retired.enter(members);
            let servers = std::mem::take(&mut *servers);
            servers
                .into_values()
                .flat_map(|server| server.pools)
                .collect()
        };
        for member in &members {
            member.tenant.remove(&member.pool);
            member.pool.close();
        }
    }
}
