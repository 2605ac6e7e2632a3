//! What is left of pools that were closed: connections in use.

use std::sync::{Arc, Mutex, Weak};

use super::{Tenant, lock};
use crate::net::Deadline;
use crate::pools::pool::PoolInner;
use crate::pools::{Backend, ServerPool};

/// Pools that are out of use, kept while one of their connections or handles is left.
pub(super) struct Retired<B: Backend>(Mutex<Vec<Left<B>>>);

struct Left<B: Backend> {
    pool: Weak<PoolInner>,
    tenant: Weak<Tenant<B>>,
}

impl<B: Backend> Retired<B> {
    /// Enters pools. To be called before they are taken from where they were, so that who closes
    /// everything finds them here or there.
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

    /// Forgets those of which nothing is left.
    pub(super) fn retain_open(&self) {
        lock(&self.0).retain(Left::is_there);
    }

    /// Waits until no connection is left, of a tenant or of all, and interrupts those that are in
    /// the way then.
    pub(super) async fn drain(&self, tenant: Option<&Arc<Tenant<B>>>, deadline: Deadline) {
        if deadline.bound(self.drained(tenant)).await.is_err() {
            self.interrupt(tenant);
        }
    }

    /// Ends once no connection is left of a tenant, or of all.
    pub(super) async fn drained(&self, tenant: Option<&Arc<Tenant<B>>>) {
        for pool in self.of(tenant) {
            pool.drained().await;
        }
    }

    /// Fails all that is under way of a tenant, or of all.
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
    /// Whether anything of it is left. Without a reference to it, which might be the last: this is
    /// asked under locks.
    fn is_there(&self) -> bool {
        self.pool.strong_count() > 0
    }

    fn is_of(&self, tenant: Option<&Arc<Tenant<B>>>) -> bool {
        tenant.is_none_or(|tenant| Weak::as_ptr(&self.tenant) == Arc::as_ptr(tenant))
    }
}
