//! A set of pools that follows the servers of a topology.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::ServerAddress;
use crate::net::{Authenticator, Clear, Dispatcher, Removal, Topology, TopologyShared};
use crate::pools::follow::{Suitable, takes_operations};
use crate::pools::pool::{Limits, PoolInner, PoolParams, PoolState};
use crate::sdam::SdamError;
use crate::select::{SelectionIndex, ServerEntry};
use crate::sync::lock;

/// A pool in a set of servers.
pub(in crate::pools) trait Follower: Send + Sync + 'static {
    /// Whether the pool emits the events of its state.
    const IS_REPORTED: bool;

    fn pool(&self) -> &Arc<PoolInner>;

    /// Does the rest of a removal, without a lock. The removal closed the pool, if it `was_open`.
    fn removed(&self, was_open: bool);
}

/// Pools by server, kept in step with a topology: ready while their server takes operations, cleared
/// by its failures, and closed once it is no longer part of the topology.
///
/// The methods that are named as those of a [`TopologyListener`](crate::net::TopologyListener) are
/// called as it says.
pub(in crate::pools) struct Servers<F: Follower> {
    by_server: Mutex<BTreeMap<ServerAddress, Vec<F>>>,
    pub(in crate::pools) suitable: Suitable,
    deferred: Dispatcher<Deferred>,
}

/// The rest of a change, to be done without the topology's lock. It owns the values that were read
/// under the lock, so that the last reference is not dropped there.
type Deferred = Box<dyn Fn() + Send + Sync>;

impl<F: Follower> Default for Servers<F> {
    fn default() -> Self {
        Self {
            by_server: Mutex::default(),
            suitable: Suitable::default(),
            deferred: Dispatcher::new(Some(Arc::new(|rest: &Deferred| rest()))),
        }
    }
}

impl<F: Follower> Servers<F> {
    pub(in crate::pools) fn lock(&self) -> MutexGuard<'_, BTreeMap<ServerAddress, Vec<F>>> {
        lock(&self.by_server)
    }

    /// The parameters of a new pool of a server: paused, until it is [admitted](Self::admit).
    pub(in crate::pools) fn params(
        &self,
        topology: &Topology,
        entry: &ServerEntry,
        authenticator: &Arc<Authenticator>,
    ) -> PoolParams {
        let client = topology.options();
        PoolParams {
            server: entry.address().clone(),
            authenticator: authenticator.resolved(&client),
            load_balanced: client.load_balanced == Some(true),
            state: PoolState::Paused,
            limits: Limits::default(),
            cap: None,
            takes_writes: self.suitable.of(entry.address()),
            topology: Some(topology.shared().clone()),
            client: None,
            wake: None,
            runtime: None,
        }
    }

    /// Changes the pools of a server under the topology's lock, so that no change of the server is
    /// missed. `None` if the server is no longer part of the topology.
    pub(in crate::pools) fn enter<R>(
        &self,
        topology: &TopologyShared,
        entry: &ServerEntry,
        change: impl FnOnce(&SelectionIndex, &mut Vec<F>) -> R,
    ) -> Option<R> {
        topology.with_description(|index| {
            known(index, entry)?;
            let mut servers = self.lock();
            Some(change(
                index,
                servers.entry(entry.address().clone()).or_default(),
            ))
        })
    }

    /// Settles the state of a pool that was entered and whose creation was reported: it is ready if
    /// its server takes operations. Returns whether it became ready.
    pub(in crate::pools) fn admit(
        &self,
        topology: &TopologyShared,
        entry: &ServerEntry,
        pool: &PoolInner,
    ) -> bool {
        let is_ready = topology.with_description(|index| {
            pool.set_announced();
            let Some(known) = known(index, entry) else {
                return false;
            };
            if takes_operations(known, index.topology().topology_type()) {
                return pool.make_ready();
            }
            if let Some(SdamError::Failed(error)) = &known.description().error {
                pool.note_cleared_for(Some(error));
            }
            false
        });
        pool.set_settled();
        if is_ready {
            pool.finish_ready(F::IS_REPORTED);
        }
        is_ready
    }

    pub(in crate::pools) fn ready(&self, server: &ServerAddress) {
        for pool in self.pools_of(server) {
            let was_paused = pool.make_ready();
            self.defer(move || {
                if was_paused {
                    pool.finish_ready(F::IS_REPORTED);
                }
            });
        }
    }

    pub(in crate::pools) fn clear(&self, clear: &Clear<'_>) {
        for pool in self.pools_of(clear.server) {
            let (service_id, error) = (clear.service_id, clear.error.cloned());
            let interrupt_in_use = clear.interrupt_in_use;
            let paused = match service_id {
                Some(service_id) => {
                    pool.note_cleared_for(clear.error);
                    pool.clear_service(service_id);
                    None
                }
                None => Some(pool.make_paused(clear.error)),
            };
            self.defer(move || {
                // A pool that was already paused emits no further event.
                if F::IS_REPORTED && paused.is_none_or(|paused| paused.was_ready) {
                    pool.emit_cleared(service_id, interrupt_in_use, error.clone());
                }
                match paused {
                    None => pool.reap(),
                    Some(paused) => pool.evict(paused.generation, interrupt_in_use),
                }
            });
        }
    }

    /// Calls `retire` before the pools are removed, under the same lock.
    pub(in crate::pools) fn remove(
        &self,
        server: &ServerAddress,
        removal: Removal,
        retire: impl FnOnce(&[F]),
    ) {
        let removed = {
            let mut servers = self.lock();
            retire(servers.get(server).map_or(&[], Vec::as_slice));
            servers.remove(server)
        };
        self.suitable.removed(server, removal);
        for follower in removed.into_iter().flatten() {
            let was_open = follower.pool().make_closed();
            self.defer(move || follower.removed(was_open));
        }
    }

    /// Does the deferred work of the changes.
    pub(in crate::pools) fn settle(&self) {
        self.deferred.deliver();
    }

    fn defer(&self, rest: impl Fn() + Send + Sync + 'static) {
        self.deferred.queue([Box::new(rest) as Deferred]);
    }

    fn pools_of(&self, server: &ServerAddress) -> Vec<Arc<PoolInner>> {
        let servers = self.lock();
        let pools = servers.get(server).into_iter().flatten();
        pools.map(|follower| follower.pool().clone()).collect()
    }
}

/// The server, unless it is no longer part of the topology.
fn known<'a>(index: &'a SelectionIndex, entry: &ServerEntry) -> Option<&'a Arc<ServerEntry>> {
    let known = index.server(entry.address());
    known.filter(|known| known.id() == entry.id())
}
