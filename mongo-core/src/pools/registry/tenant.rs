//! One credential, and its pools.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::lock;
use crate::error::{ErrorKind, Result};
use crate::net::Authenticator;
use crate::operation::ClientContext;
use crate::pools::{Backend, ServerPool};

/// Pools by the numbers of their servers, in ascending order.
pub(super) type ByServer<B> = Vec<(u64, ServerPool<B>)>;

/// One credential, and its pools.
pub(super) struct Tenant<B: Backend> {
    authenticator: ArcSwap<Authenticator>,
    pools: ArcSwap<ByServer<B>>,
    /// The options and the sessions of its operations.
    client: ArcSwap<ClientContext>,
    /// Serializes changes: servers leave, and pools are added or closed because they are unused.
    changing: Mutex<()>,
    /// Whether it is the credential of the options, whose pools stay when they are unused.
    is_default: bool,
    /// Whether its credential was logged out.
    is_gone: AtomicBool,
    /// Notified when `is_gone` is set.
    left: Notify,
}

impl<B: Backend> Tenant<B> {
    pub(super) fn new(
        authenticator: Arc<Authenticator>,
        client: Arc<ClientContext>,
        is_default: bool,
    ) -> Self {
        Self {
            authenticator: ArcSwap::new(authenticator),
            pools: ArcSwap::from_pointee(Vec::new()),
            client: ArcSwap::new(client),
            changing: Mutex::new(()),
            is_default,
            is_gone: AtomicBool::new(false),
            left: Notify::new(),
        }
    }

    pub(super) fn is_default(&self) -> bool {
        self.is_default
    }

    pub(super) fn authenticator(&self) -> Arc<Authenticator> {
        self.authenticator.load_full()
    }

    /// Replaces the credential and returns the former one, to be dropped without a lock.
    #[must_use]
    pub(super) fn set_authenticator(
        &self,
        authenticator: Arc<Authenticator>,
    ) -> Arc<Authenticator> {
        self.authenticator.swap(authenticator)
    }

    /// The options and the sessions of its operations.
    pub(in crate::pools) fn client(&self) -> Arc<ClientContext> {
        self.client.load_full()
    }

    /// Begins with new sessions, because those of another user can't be used. Returns the former
    /// ones.
    #[must_use]
    pub(super) fn forget_sessions(&self) -> Arc<ClientContext> {
        let renewed = self.client.load().renewed();
        self.client.swap(Arc::new(renewed))
    }

    /// The pool of a server. Wait-free.
    pub(super) fn pool(&self, server: u64) -> Option<ServerPool<B>> {
        self.with_pool(server, ServerPool::clone)
    }

    /// Calls a closure with the pool of a server, without cloning it.
    #[inline]
    pub(super) fn with_pool<R>(
        &self,
        server: u64,
        run: impl FnOnce(&ServerPool<B>) -> R,
    ) -> Option<R> {
        let pools = self.pools.load();
        let place = pools.binary_search_by_key(&server, |(number, _)| *number);
        place.ok().map(|place| run(&pools[place].1))
    }

    /// Adds a pool and returns the former list, to be dropped without a lock.
    #[must_use]
    pub(super) fn add(&self, server: u64, pool: &ServerPool<B>) -> Arc<ByServer<B>> {
        self.change(|pools| {
            let place = pools.partition_point(|(number, _)| *number < server);
            pools.insert(place, (server, pool.clone()));
        })
    }

    /// Removes a pool and returns the former list, to be dropped without a lock.
    #[must_use]
    pub(super) fn remove(&self, pool: &ServerPool<B>) -> Arc<ByServer<B>> {
        self.change(|pools| pools.retain(|(_, own)| !own.is_same(pool)))
    }

    /// Removes all pools and returns them.
    pub(super) fn take_all(&self) -> Arc<ByServer<B>> {
        self.change(Vec::clear)
    }

    /// All pools.
    pub(super) fn all(&self) -> Arc<ByServer<B>> {
        self.pools.load_full()
    }

    /// Marks the credential as logged out.
    pub(super) fn set_gone(&self) {
        self.is_gone.store(true, Ordering::Release);
    }

    /// Wakes the callers that wait for a connection of a credential that was [logged
    /// out](Self::set_gone). To be called without a lock.
    pub(super) fn notify_left(&self) {
        self.left.notify_waiters();
    }

    /// Completes when the credential is logged out. To be created before [`check`](Self::check) is
    /// called.
    pub(super) fn left(&self) -> Notified<'_> {
        self.left.notified()
    }

    pub(super) fn check(&self) -> Result<()> {
        match self.is_gone.load(Ordering::Acquire) {
            true => Err(ErrorKind::PoolClosed.into()),
            false => Ok(()),
        }
    }

    fn change(&self, change: impl FnOnce(&mut ByServer<B>)) -> Arc<ByServer<B>> {
        let _turn = lock(&self.changing);
        let former = self.pools.load_full();
        let mut pools = ByServer::clone(&former);
        change(&mut pools);
        self.pools.store(Arc::new(pools));
        former
    }
}
