//! Maintenance in the background.

use std::collections::HashMap;
use std::future::pending;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Registry, Tenant};
use crate::error::Result;
use crate::net::{Alive, Deadline, Together};
use crate::pools::follow::takes_operations;
use crate::pools::{Backend, ServerPool};
use crate::sync::lock;

/// The maintenance task: runs a round at once, at each interval, and whenever a pool may be missing
/// or lack connections.
async fn run<B: Backend>(
    registry: Weak<Registry<B>>,
    wake: Arc<Notify>,
    interval: Duration,
    _alive: Alive,
) {
    wake.notify_one();
    let mut next_round = Deadline::after(interval);
    // Lives across rounds: a server that does not answer does not hold up the others.
    let mut filling: Together<Fill<B>, ()> = Together::new();
    loop {
        // All are safe to drop: an unseen wake is kept, and `filling` keeps its futures.
        tokio::select! {
            biased;
            Some((fill, ())) = filling.next() => {
                if fill.is_to_be_repeated() {
                    wake.notify_one();
                }
                continue;
            }
            () = wake.notified() => {}
            _ = next_round.bound(pending::<()>()) => {}
        }
        let Some(pools) = registry
            .upgrade()
            .map(|registry| registry.run_maintenance())
        else {
            return;
        };
        next_round = Deadline::after(interval);
        for pool in pools {
            if !filling.keys().any(|fill| fill.pool.is_same(&pool)) {
                let fill = Fill::new(&pool);
                filling.push(fill, async move { pool.maintain().await });
            }
        }
    }
}

/// A pool that is being filled.
struct Fill<B: Backend> {
    pool: ServerPool<B>,
    /// The pool's generation when the fill began.
    generation: u64,
}

impl<B: Backend> Fill<B> {
    fn new(pool: &ServerPool<B>) -> Self {
        Self {
            pool: pool.clone(),
            generation: pool.shared().generation(),
        }
    }

    /// Whether it was cut short by a clear of the pool, which is ready again by now.
    fn is_to_be_repeated(&self) -> bool {
        self.pool.shared().generation() != self.generation && self.pool.lacks_connections()
    }
}

impl<B: Backend> Registry<B> {
    /// Whether the task runs; always true without an interval, which means no task.
    pub(super) fn is_maintained(&self) -> bool {
        let is_alive = || {
            let maintenance = self.maintenance();
            maintenance.as_ref().is_some_and(|task| !task.is_finished())
        };
        self.config.maintenance_interval().is_none() || is_alive()
    }

    /// Starts the task, unless it runs. One that ended with its runtime, or by a panic, is
    /// replaced.
    pub(super) fn maintain(self: &Arc<Self>) -> Result<()> {
        let Some(interval) = self.config.maintenance_interval() else {
            return Ok(());
        };
        let runtime = self.home.choose()?;
        let (registry, wake) = (Arc::downgrade(self), self.wake.clone());
        // Without the lock: on a runtime that has ended, the task is dropped at once, which wakes
        // callers of `close`.
        let mut task = Some(runtime.spawn(run(registry, wake, interval, self.tasks.begin())));
        let outcome = {
            let mut maintenance = self.maintenance();
            // `close` sets that first, and then looks for a task to end.
            let outcome = self.check_open();
            if outcome.is_ok() && maintenance.as_ref().is_none_or(JoinHandle::is_finished) {
                std::mem::swap(&mut *maintenance, &mut task);
            }
            outcome
        };
        // The former task, or a surplus one.
        if let Some(task) = task {
            task.abort();
        }
        outcome
    }

    /// Ends the task.
    pub(super) fn abort_maintenance(&self) {
        let task = self.maintenance().take();
        if let Some(task) = task {
            task.abort();
        }
    }

    /// Starts a round of maintenance now, because pools may be missing or lack connections, and
    /// restarts the task if it has ended.
    pub(super) fn wake_to_fill(&self) {
        if !self.pool_options.fills() {
            return;
        }
        self.wake.notify_one();
        if self.topology.shared().is_running()
            && !self.is_maintained()
            && let Some(registry) = self.this.upgrade()
        {
            // If that fails, the next check-out does it.
            let _ = registry.maintain();
        }
    }

    /// Adds the missing pools of the credential in the options. A pool that was closed by its
    /// handle is replaced only at its next use. If the options have no credential, no pools are
    /// added once there was a handle for one: unauthenticated connections would be useless.
    ///
    /// Specification: server discovery and monitoring, connection pool management.
    fn add_missing_pools(self: &Arc<Self>) {
        let has_use = !self.is_anonymous || !self.has_tenants.load(Ordering::Acquire);
        if !self.pool_options.fills() || !has_use || self.tenant.check().is_err() {
            return;
        }
        let index = self.topology.snapshot();
        let topology_type = index.topology().topology_type();
        for entry in index.servers() {
            let is_missing = self.tenant.pool(entry.id()).is_none();
            if is_missing
                && takes_operations(entry, topology_type)
                && let Err(error) = self.pool(&self.tenant, entry)
            {
                tracing::debug!("failed to add a pool for {}: {error}", entry.address());
            }
        }
    }

    /// Adds missing pools, closes expired connections and unused pools, and returns the pools that
    /// lack connections.
    fn run_maintenance(self: &Arc<Self>) -> Vec<ServerPool<B>> {
        self.add_missing_pools();
        let now = Instant::now();
        let unused = self.find_unused(now);
        self.end_unused_sessions(&unused);
        for (pool, tenant) in &unused {
            self.retire(pool, tenant);
        }
        self.retired.retain_open();
        self.forget_tenants();
        let pools = self.pools();
        let is_used = |pool: &ServerPool<B>| pool.shared().checked_out_total() > 0;
        if pools.iter().any(is_used) {
            self.template.client.defaults.warn_if_unapplied();
        }
        if self.template.has_idle_bounds() {
            pools.iter().for_each(|pool| pool.shared().reap());
        }
        pools
            .into_iter()
            .filter(ServerPool::lacks_connections)
            .collect()
    }

    /// Removes the credentials that have no handle and no pool.
    fn forget_tenants(&self) {
        // A reference that may be the last one is dropped without the lock.
        let mut looked_at = Vec::new();
        let gone: Vec<_> = {
            let mut tenants = self.tenants();
            let gone = tenants.extract_if(|_, tenant| {
                let pools = tenant.all();
                let is_gone = Arc::strong_count(tenant) == 1 && pools.is_empty();
                looked_at.push(pools);
                is_gone
            });
            gone.collect()
        };
        drop((gone, looked_at));
    }

    /// Ends the sessions of credentials of which all pools are unused, while they have connections.
    fn end_unused_sessions(&self, unused: &[(ServerPool<B>, Arc<Tenant<B>>)]) {
        let mut tenants = HashMap::new();
        for (_, tenant) in unused {
            let (_, pools) = tenants.entry(Arc::as_ptr(tenant)).or_insert((tenant, 0));
            *pools += 1;
        }
        for (tenant, pools) in tenants.into_values() {
            if tenant.all().len() == pools
                && let Some(handle) = self.handle(tenant.clone())
            {
                handle.end_sessions_over_idle(&tenant.client());
            }
        }
    }

    /// The pools of credentials other than the one in the options that have been unused for too
    /// long.
    fn find_unused(&self, now: Instant) -> Vec<(ServerPool<B>, Arc<Tenant<B>>)> {
        let Some(timeout) = self.config.unused_timeout() else {
            return Vec::new();
        };
        let _adding = lock(&self.adding);
        let mut servers = self.servers.lock();
        let members = servers.values_mut().flatten();
        members
            .filter(|member| !member.tenant.is_default())
            .filter_map(|member| {
                let check_outs = member.pool.shared().checked_out_total();
                if check_outs != member.used.0 || member.pool.is_busy() {
                    member.used = (check_outs, now);
                }
                let is_unused = now.saturating_duration_since(member.used.1) >= timeout;
                is_unused.then(|| (member.pool.clone(), member.tenant.clone()))
            })
            .collect()
    }
}
