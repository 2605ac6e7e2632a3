//! Closed pools that still have connections in use.

use std::sync::{Arc, Mutex, Weak};

use super::Tenant;
use crate::net::Deadline;
use crate::pools::pool::PoolInner;
use crate::pools::{Backend, ServerPool};
use crate::sync::lock;

/// Closed pools, tracked while one of their connections or handles is left.
pub(super) struct Retired<B: Backend>(Mutex<Vec<Left<B>>>);

struct Left<B: Backend> {
    pool: Weak<PoolInner>,
    tenant: Weak<Tenant<B>>,
}

impl<B: Backend> Retired<B> {
    /// Adds pools. To be called before they are removed from the registry, so that a concurrent
    /// close finds them in one of the two.
    pub(super) fn enter<'a>(
        &self,
        pools: impl IntoIterator<Item = (&'a ServerPool<B>, &'a Arc<Tenant<B>>)>,
    ) {
        let entered = pools.into_iter().map(|(pool, tenant)| Left {
            pool: Arc::downgrade(pool.shared()),
            tenant: Arc::downgrade(tenant),
        });
        let mut all = lock(&self.0);
        all.retain(Left::is_there);
        all.extend(entered);
    }

    /// Removes the pools of which nothing is left.
    pub(super) fn retain_open(&self) {
        lock(&self.0).retain(Left::is_there);
    }

    /// Waits until no connection is left, of a tenant or of all, and interrupts those that are left
    /// at the deadline.
    pub(super) async fn drain(&self, tenant: Option<&Arc<Tenant<B>>>, deadline: Deadline) {
        if deadline.bound(self.drained(tenant)).await.is_err() {
            self.interrupt(tenant);
        }
    }

    /// Completes once no connection is left, of a tenant or of all.
    pub(super) async fn drained(&self, tenant: Option<&Arc<Tenant<B>>>) {
        for pool in self.of(tenant) {
            pool.drained().await;
        }
    }

    /// Interrupts all connections, of a tenant or of all.
    pub(super) fn interrupt(&self, tenant: Option<&Arc<Tenant<B>>>) {
        self.of(tenant).iter().for_each(|pool| pool.interrupt());
    }

    fn of(&self, tenant: Option<&Arc<Tenant<B>>>) -> Vec<Arc<PoolInner>> {
        let all = lock(&self.0);
        let own = all.iter().filter(|left| left.is_of(tenant));
        own.filter_map(|left| left.pool.upgrade()).collect()
    }
}

impl<B: Backend> Default for Retired<B> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<B: Backend> Left<B> {
    /// Whether anything of it is left. Takes no reference, which could become the last one: this is
    /// called under locks.
    fn is_there(&self) -> bool {
        self.pool.strong_count() > 0
    }

    fn is_of(&self, tenant: Option<&Arc<Tenant<B>>>) -> bool {
        tenant.is_none_or(|tenant| Weak::as_ptr(&self.tenant) == Arc::as_ptr(tenant))
    }
}
