//! The limits of one server, across the pools of all credentials.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::ServerAddress;
use crate::net::ConnectionState;
use crate::sync::lock;

/// How long a busy pool uses a connection before it makes room for a pool that has none.
const QUANTUM: Duration = Duration::from_millis(10);

/// A pool under a cap.
pub(in crate::pools) trait Participant: Send + Sync {
    /// A slot may be free.
    fn pump(&self);

    /// One of the pool's idle connections has to make room.
    fn reap(&self);

    /// Whether callers wait for a connection of the pool. They would take idle ones.
    fn has_waiters(&self) -> bool;

    /// Another pool lacks a permit: abandons an attempt that has outlived its waiter and its grace
    /// period. Returns false if there is none.
    fn abandon(&self) -> bool;
}

/// The limits. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::pools) struct ServerLimits {
    /// Over the connections to the server (`max_connections_per_server`).
    pub(in crate::pools) max: Option<u32>,
    /// Over its pending connections (`max_connecting_per_server`).
    pub(in crate::pools) max_connecting: Option<u32>,
}

/// The caps of all servers. A server that leaves and returns keeps its cap while a connection of
/// its former pools is left.
#[derive(Debug)]
pub(in crate::pools) struct ServerCaps {
    limits: ServerLimits,
    by_server: Mutex<BTreeMap<ServerAddress, Weak<ServerCap>>>,
}

/// A cap on the connections to one server. Pools that lack a slot queue for it, first in, first out.
///
/// If all slots are used, the least recently used idle connection of any pool makes room. If none
/// is idle, a returned connection makes room, unless its own pool has waiters and no more than its
/// share.
#[derive(Debug)]
pub(in crate::pools) struct ServerCap {
    limits: ServerLimits,
    state: Mutex<State>,
    /// How many pools queue: a check-in reads only this.
    queued: AtomicUsize,
}

/// One pool's membership in a cap.
#[derive(Debug)]
pub(in crate::pools) struct CapShare {
    cap: Arc<ServerCap>,
    id: u64,
}

#[derive(Default)]
struct State {
    used: u32,
    connecting: u32,
    members: BTreeMap<u64, Member>,
    next_member: u64,
    queue: VecDeque<u64>,
    /// Pools for which a slot is reserved, until they take it.
    reserved: Vec<u64>,
    /// By last use, the least recent first.
    idle: BTreeMap<u64, Idle>,
    next_place: u64,
    /// Connections that were chosen to make room and are not closed yet.
    making_room: usize,
}

struct Member {
    pool: Weak<dyn Participant>,
    used: u32,
}

struct Idle {
    link: Arc<ConnectionState>,
    member: u64,
    since: Instant,
}

impl ServerCaps {
    pub(in crate::pools) fn new(limits: ServerLimits) -> Self {
        Self {
            limits,
            by_server: Mutex::default(),
        }
    }

    /// The cap of a server; `None` if there is no limit.
    pub(in crate::pools) fn of(&self, server: &ServerAddress) -> Option<Arc<ServerCap>> {
        if self.limits == ServerLimits::default() {
            return None;
        }
        let by_server = self.by_server.lock();
        let mut by_server = by_server.unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = by_server.get(server).and_then(Weak::upgrade) {
            return Some(known);
        }
        by_server.retain(|_, cap| cap.strong_count() > 0);
        let cap = Arc::new(ServerCap::new(self.limits));
        by_server.insert(server.clone(), Arc::downgrade(&cap));
        Some(cap)
    }
}

impl ServerCap {
    pub(in crate::pools) fn new(limits: ServerLimits) -> Self {
        Self {
            limits,
            state: Mutex::default(),
            queued: AtomicUsize::new(0),
        }
    }

    /// Adds a pool.
    pub(in crate::pools) fn join(self: Arc<Self>, pool: Weak<dyn Participant>) -> CapShare {
        let id = {
            let mut state = self.lock();
            state.next_member += 1;
            let id = state.next_member;
            state.members.insert(id, Member { pool, used: 0 });
            id
        };
        CapShare { cap: self, id }
    }

    /// Serves the queue while slots are free. To be called without a lock.
    fn serve(&self) {
        while let Some((id, pool)) = self.reserve() {
            pool.pump();
            drop(pool);
            // It no longer needs the slot. If it needs another one, it has queued again at the end.
            self.change(|state| state.release(id));
        }
    }

    /// Reserves a slot for the pool that has queued longest.
    fn reserve(&self) -> Option<(u64, Arc<dyn Participant>)> {
        self.change(|state| {
            while state.has_room(&self.limits) {
                let id = state.queue.pop_front()?;
                let pool = state.members.get(&id).and_then(|own| own.pool.upgrade());
                if let Some(pool) = pool {
                    state.take(id);
                    state.reserved.push(id);
                    return Some((id, pool));
                }
            }
            None
        })
    }

    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = change(&mut state);
        self.queued.store(state.queue.len(), Ordering::Release);
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl CapShare {
    /// Takes a slot for a connection that is to be made, or queues for one.
    pub(super) fn try_take(&self) -> bool {
        self.cap.change(|state| {
            if let Some(place) = state.reserved.iter().position(|own| *own == self.id) {
                state.reserved.swap_remove(place);
                return true;
            }
            // Not ahead of pools that queue.
            if state.queue.is_empty() && state.has_room(&self.cap.limits) {
                state.take(self.id);
                return true;
            }
            if !state.queue.contains(&self.id) {
                state.queue.push_back(self.id);
            }
            false
        })
    }

    /// Takes a free slot if no pool queues.
    pub(super) fn try_take_free(&self) -> bool {
        self.cap.change(|state| {
            let is_free = state.queue.is_empty() && state.has_room(&self.cap.limits);
            if is_free {
                state.take(self.id);
            }
            is_free
        })
    }

    /// Leaves the queue.
    pub(super) fn withdraw(&self) {
        self.cap
            .change(|state| state.queue.retain(|own| *own != self.id));
    }

    /// Whether a pool queues.
    #[inline]
    pub(super) fn is_wanted(&self) -> bool {
        self.cap.queued.load(Ordering::Acquire) > 0
    }

    /// The limit on connections, if it is reached.
    pub(super) fn full(&self) -> Option<u32> {
        let used = self.cap.lock().used;
        self.cap.limits.max.filter(|max| used >= *max)
    }

    /// `count` attempts are over. To be called without a lock.
    pub(super) fn free_permits(&self, count: u32) {
        self.cap.change(|state| state.connecting -= count);
        self.cap.serve();
    }

    /// A connection is closed, or was not made. To be called without a lock.
    pub(super) fn give_back(&self) {
        self.cap.change(|state| state.give_back(self.id));
        self.cap.serve();
    }

    /// Closes the least recently used idle connection that no waiter of its own pool takes, if more
    /// pools lack a slot than connections are already making room. If there is none, or if pools
    /// lack a permit, abandons an attempt whose waiter has left. To be called without a lock.
    pub(super) fn make_room(&self) {
        if !self.is_wanted() {
            return;
        }
        if !self.cap.lock().has_permit(&self.cap.limits) {
            self.abandon();
            return;
        }
        // Dropped without the lock.
        let (mut pools, mut is_lacking) = (Vec::new(), false);
        let link = self.cap.change(|state| {
            is_lacking = state.is_full(&self.cap.limits) && state.queue.len() > state.making_room;
            let mut idle = state.idle.iter().filter(|_| is_lacking);
            let place = idle.find_map(|(place, idle)| {
                let pool = state.members.get(&idle.member)?.pool.upgrade()?;
                // Waiters that have not taken it for that long are not polled.
                let is_free = !pool.has_waiters() || idle.since.elapsed() >= QUANTUM;
                pools.push(pool);
                is_free.then_some(*place)
            })?;
            state.making_room += 1;
            Some(state.idle.remove(&place)?.link)
        });
        match (link, pools.pop()) {
            (Some(link), Some(pool)) => {
                link.mark_perished();
                pool.reap();
            }
            // An attempt that hangs may hold a slot.
            _ if is_lacking => self.abandon(),
            _ => {}
        }
    }

    /// Abandons one attempt whose waiter has left, of any pool.
    fn abandon(&self) {
        let pools: Vec<_> = {
            let state = self.cap.lock();
            let pools = state.members.values();
            pools.filter_map(|own| own.pool.upgrade()).collect()
        };
        pools.iter().any(|pool| pool.abandon());
    }

    /// A returned connection becomes idle. Returns false if it has to make room for another pool.
    /// While its own pool has waiters, it does not make room later: they use it.
    pub(super) fn enter_idle(
        &self,
        link: &Arc<ConnectionState>,
        age: impl FnOnce() -> Duration,
        has_waiters: impl FnOnce() -> bool,
    ) -> bool {
        self.cap.change(|state| {
            if self.is_wanted()
                && state.is_full(&self.cap.limits)
                && let Some(other) = state.queue.iter().find(|own| **own != self.id)
            {
                let (own, other) = (state.used_by(self.id), state.used_by(*other));
                let is_within_share = own <= other + 1 && (other > 0 || age() < QUANTUM);
                if !(is_within_share && has_waiters()) {
                    return false;
                }
            }
            if link.idle_place.load(Ordering::Acquire) == 0 {
                state.next_place += 1;
                link.idle_place.store(state.next_place, Ordering::Release);
                let idle = Idle {
                    link: link.clone(),
                    member: self.id,
                    since: Instant::now(),
                };
                state.idle.insert(state.next_place, idle);
            }
            true
        })
    }

    /// A connection is handed out or closed. Returns false if it was chosen to make room.
    pub(super) fn leave_idle(&self, link: &ConnectionState) -> bool {
        match link.idle_place.swap(0, Ordering::AcqRel) {
            0 => !link.is_doomed(),
            place => self.cap.change(|state| {
                let was_idle = state.idle.remove(&place).is_some();
                state.making_room -= usize::from(!was_idle);
                was_idle
            }),
        }
    }
}

impl Drop for CapShare {
    fn drop(&mut self) {
        // Dropped without the lock.
        let _member = self.cap.change(|state| {
            state.queue.retain(|own| *own != self.id);
            state.members.remove(&self.id)
        });
    }
}

impl State {
    fn is_full(&self, limits: &ServerLimits) -> bool {
        limits.max.is_some_and(|max| self.used >= max)
    }

    fn has_room(&self, limits: &ServerLimits) -> bool {
        !self.is_full(limits) && self.has_permit(limits)
    }

    fn has_permit(&self, limits: &ServerLimits) -> bool {
        let max = limits.max_connecting;
        max.is_none_or(|max| self.connecting < max)
    }

    fn used_by(&self, id: u64) -> u32 {
        self.members.get(&id).map_or(0, |own| own.used)
    }

    fn take(&mut self, id: u64) {
        self.used += 1;
        self.connecting += 1;
        if let Some(member) = self.members.get_mut(&id) {
            member.used += 1;
        }
    }

    fn give_back(&mut self, id: u64) {
        self.used -= 1;
        if let Some(member) = self.members.get_mut(&id) {
            member.used -= 1;
        }
    }

    /// Frees a reserved slot that its pool has not taken.
    fn release(&mut self, id: u64) {
        if let Some(place) = self.reserved.iter().position(|own| *own == id) {
            self.reserved.swap_remove(place);
            self.connecting -= 1;
            self.give_back(id);
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("used", &self.used)
            .field("connecting", &self.connecting)
            .field("queue", &self.queue.len())
            .field("idle", &self.idle.len())
            .finish()
    }
}

#[cfg(test)]
mod tests;
