//! The wait queue of one pool: decides which waiter gets a connection next, and when one is made.
//! No I/O, no clock.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// The upper bound of the pause after the second consecutive failure; each further failure doubles
/// it.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// The longest pause between two attempts to make a connection.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The shortest grace period of an attempt that has outlived its waiter.
const GRACE: Duration = Duration::from_secs(1);

/// The longest one.
const LONGEST_GRACE: Duration = Duration::from_secs(60);

/// The state of a pool. Specification: connection monitoring and pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PoolState {
    /// The server is not known to be available: the pool neither makes nor hands out connections.
    Paused,
    /// The pool makes connections and hands them out.
    Ready,
    /// The pool never makes or hands out connections again.
    Closed,
}

/// The limits of a pool. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// On all connections of the pool, including pending ones.
    pub(crate) max_size: Option<u32>,
    /// On pending connections (`maxConnecting`).
    pub(crate) max_connecting: Option<u32>,
}

/// The next step for the owner of the queue.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<C, A> {
    /// Hand the connection to the waiter of this ticket, which has left the queue.
    Serve(u64, C),
    /// Make a connection: begin the attempt of this number, for the waiter of this ticket.
    Begin(u64, A, u64),
    /// Interrupt an attempt that held up a waiter; it has left the queue.
    Abandon(A),
}

/// The queue: `C` is a connection, `A` a handle on an attempt. Waiters are known by their tickets.
///
/// Waiters are served first in, first out. Available connections (made in advance, made for a
/// waiter that has left, or returned while the generic pool had waiters) are used before new ones.
///
/// An attempt belongs to the waiter that it was begun for. If that waiter leaves, or is served by
/// another connection, the attempt continues, and the next waiter without an attempt adopts it. If
/// it takes longer than its grace period, and a waiter needs its permit or its slot, it is
/// abandoned. The grace period doubles each time, until an attempt succeeds: otherwise callers with
/// short deadlines would never get a connection to a slow server.
///
/// After consecutive failures the next attempts pause, so that a failing server is not flooded.
#[derive(Debug)]
pub(crate) struct WaitQueue<C, A> {
    state: PoolState,
    limits: Limits,
    total: u32,
    available: VecDeque<C>,
    /// The tickets of waiters without an attempt, ascending.
    lacking: VecDeque<u64>,
    /// The numbers of the attempts of the other waiters, by ticket.
    expecting: BTreeMap<u64, u64>,
    /// Pending connections, by number: those whose waiter they were begun for.
    own: BTreeMap<u64, Attempt<A>>,
    /// The others, which were begun in advance, or whose waiter has left. Waiters adopt them.
    orphans: BTreeMap<u64, Attempt<A>>,
    next_ticket: u64,
    next_attempt: u64,
    failures: u32,
    not_before: Option<Instant>,
    grace: Duration,
}

#[derive(Debug)]
struct Attempt<A> {
    handle: A,
    /// The ticket of its waiter.
    waiter: Option<u64>,
    /// The end of its grace period.
    due: Instant,
}

impl<C, A: Clone + Default> WaitQueue<C, A> {
    pub(crate) fn new(state: PoolState, limits: Limits) -> Self {
        Self {
            state,
            limits,
            total: 0,
            available: VecDeque::new(),
            lacking: VecDeque::new(),
            expecting: BTreeMap::new(),
            own: BTreeMap::new(),
            orphans: BTreeMap::new(),
            next_ticket: 0,
            next_attempt: 0,
            failures: 0,
            not_before: None,
            grace: GRACE,
        }
    }

    pub(crate) fn state(&self) -> PoolState {
        self.state
    }

    /// All connections of the pool, including pending ones.
    pub(crate) fn total(&self) -> u32 {
        self.total
    }

    /// Pending connections.
    pub(crate) fn pending(&self) -> u32 {
        u32::try_from(self.own.len() + self.orphans.len()).unwrap_or(u32::MAX)
    }

    /// Connections that [`next`](Self::next) would hand out.
    pub(crate) fn available(&self) -> usize {
        self.available.len()
    }

    pub(crate) fn waiters(&self) -> usize {
        self.lacking.len() + self.expecting.len()
    }

    /// The state, and the earliest time of the next attempt, if attempts are paused.
    pub(crate) fn pacing(&self) -> (PoolState, Option<Instant>) {
        (self.state, self.not_before)
    }

    pub(crate) fn set_max_size(&mut self, max_size: u32) {
        self.limits.max_size = Some(max_size);
    }

    /// Adds a waiter and returns its ticket. A waiter that returns with its former ticket gets its
    /// former place.
    pub(crate) fn enter(&mut self, former: Option<u64>) -> u64 {
        let ticket = former.unwrap_or_else(|| number(&mut self.next_ticket));
        self.lack(ticket);
        ticket
    }

    /// Removes a waiter. Returns false if it is not in the queue.
    pub(crate) fn leave(&mut self, ticket: u64) -> bool {
        let is_first = self.lacking.front() == Some(&ticket);
        if let Some(number) = self.expecting.remove(&ticket) {
            self.orphan(number);
            return true;
        }
        let place = match is_first {
            true => Ok(0),
            false => self.lacking.binary_search(&ticket),
        };
        place.is_ok_and(|place| self.lacking.remove(place).is_some())
    }

    /// The attempt that a waiter depends on.
    pub(crate) fn attempt_of(&self, ticket: u64) -> Option<u64> {
        self.expecting.get(&ticket).copied()
    }

    /// Whether a waiter needs an attempt of its own.
    pub(crate) fn wants_attempt(&self) -> bool {
        !self.lacking.is_empty()
    }

    /// When [`next`](Self::next) must be called for a waiter, because a grace period that affects
    /// it ends.
    pub(crate) fn due(&self, ticket: u64) -> Option<Instant> {
        if let Some(number) = self.expecting.get(&ticket) {
            return self.orphans.get(number).map(|adopted| adopted.due);
        }
        self.lacking.binary_search(&ticket).ok()?;
        let left = self.orphans.values().filter(|own| own.waiter.is_none());
        left.map(|own| own.due).min()
    }

    /// The next step; `None` if there is none. `has_slot` is called last, and takes one of the
    /// server's slots if it returns true.
    pub(crate) fn next(
        &mut self,
        now: Instant,
        has_slot: impl FnOnce() -> bool,
    ) -> Option<Next<C, A>> {
        if let Some(first) = self.first()
            && let Some(connection) = self.available.pop_front()
        {
            self.leave(first);
            return Some(Next::Serve(first, connection));
        }
        self.adopt(now);
        let ticket = *self.lacking.front()?;
        if self.state != PoolState::Ready {
            return None;
        }
        if !self.has_room() {
            return self.abandon(now).map(Next::Abandon);
        }
        if !has_slot() {
            return None;
        }
        let (number, handle) = self.begin(now, Some(ticket));
        self.lacking.pop_front();
        self.expecting.insert(ticket, number);
        Some(Next::Begin(number, handle, ticket))
    }

    /// Removes the oldest attempt that has outlived its waiter and its grace period.
    pub(crate) fn abandon(&mut self, now: Instant) -> Option<A> {
        let overdue = |own: &Attempt<A>| own.waiter.is_none() && own.due <= now;
        let (number, _) = self.orphans.iter().find(|(_, own)| overdue(own))?;
        let abandoned = self.orphans.remove(&number.clone())?;
        self.total -= 1;
        self.grace = (self.grace * 2).min(LONGEST_GRACE);
        Some(abandoned.handle)
    }

    /// Takes an available connection, if there is no waiter.
    pub(crate) fn take_available(&mut self) -> Option<C> {
        match self.first() {
            Some(_) => None,
            None => self.available.pop_front(),
        }
    }

    /// Begins an attempt in advance, unless it would delay a waiter, and returns its number and
    /// handle.
    pub(crate) fn begin_in_advance(
        &mut self,
        now: Instant,
        has_slot: impl FnOnce() -> bool,
    ) -> Option<(u64, A)> {
        self.adopt(now);
        let is_ready = self.state == PoolState::Ready;
        let granted = is_ready && !self.wants_attempt() && self.has_room() && has_slot();
        granted.then(|| self.begin(now, None))
    }

    /// Whether an attempt has not been abandoned.
    pub(crate) fn has_attempt(&self, attempt: u64) -> bool {
        self.own.contains_key(&attempt) || self.orphans.contains_key(&attempt)
    }

    /// An attempt has made its connection.
    pub(crate) fn made(&mut self, attempt: u64) {
        self.end(attempt);
        self.failures = 0;
        self.not_before = None;
        self.grace = GRACE;
    }

    /// An attempt is about to fail. Removes the waiter that fails with it, if it was begun for that
    /// waiter. A waiter that adopted it needs another attempt.
    pub(crate) fn fail_waiter(&mut self, attempt: u64) -> Option<u64> {
        let ticket = self.own.get(&attempt)?.waiter?;
        self.leave(ticket).then_some(ticket)
    }

    /// An attempt has failed. Returns false if it was abandoned before.
    pub(crate) fn failed(&mut self, attempt: u64) -> bool {
        let was_there = self.has_attempt(attempt);
        self.end(attempt);
        self.total -= u32::from(was_there);
        was_there
    }

    /// An attempt failed because of the server or the network. The next one may begin at once.
    /// After further consecutive failures attempts pause, for a random share (`0.0..1.0`) of a time
    /// that doubles.
    pub(crate) fn pace(&mut self, now: Instant, share: f64) {
        let doublings = self.failures.checked_sub(1);
        self.failures = self.failures.saturating_add(1);
        if let Some(doublings) = doublings {
            let pause = FIRST_PAUSE.saturating_mul(1 << doublings.min(10));
            self.not_before = Some(now + pause.min(LONGEST_PAUSE).mul_f64(share));
        }
    }

    /// A connection was closed or has left the pool.
    pub(crate) fn left(&mut self) {
        self.total -= 1;
    }

    /// Adds an available connection.
    pub(crate) fn offer(&mut self, connection: C) {
        self.available.push_back(connection);
    }

    /// Removes the available connections that do not satisfy the predicate.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&mut C) -> bool) -> Vec<C> {
        let (kept, removed) = self
            .available
            .drain(..)
            .map(|mut connection| (keep(&mut connection), connection))
            .partition::<Vec<_>, _>(|(is_kept, _)| *is_kept);
        self.available = kept.into_iter().map(|(_, connection)| connection).collect();
        removed
            .into_iter()
            .map(|(_, connection)| connection)
            .collect()
    }

    /// Changes from paused to ready, and returns whether it did.
    pub(crate) fn ready(&mut self) -> bool {
        let becomes_ready = self.state == PoolState::Paused;
        if becomes_ready {
            self.state = PoolState::Ready;
            self.failures = 0;
            self.not_before = None;
        }
        becomes_ready
    }

    /// Changes from ready to paused, and returns whether it did.
    pub(crate) fn pause(&mut self) -> bool {
        let becomes_paused = self.state == PoolState::Ready;
        if becomes_paused {
            self.state = PoolState::Paused;
        }
        becomes_paused
    }

    /// Closes the queue, and returns whether it was open.
    pub(crate) fn close(&mut self) -> bool {
        std::mem::replace(&mut self.state, PoolState::Closed) != PoolState::Closed
    }

    /// Removes all waiters, which are to fail.
    pub(crate) fn evict(&mut self) -> Vec<u64> {
        let mut evicted = Vec::with_capacity(self.waiters());
        while let Some(ticket) = self.first() {
            self.leave(ticket);
            evicted.push(ticket);
        }
        evicted
    }

    fn has_room(&self) -> bool {
        let below = |count: u32, limit: Option<u32>| limit.is_none_or(|limit| count < limit);
        below(self.total, self.limits.max_size) && below(self.pending(), self.limits.max_connecting)
    }

    /// The waiter that has waited longest.
    fn first(&self) -> Option<u64> {
        let expecting = self.expecting.keys().next();
        self.lacking
            .front()
            .into_iter()
            .chain(expecting)
            .min()
            .copied()
    }

    /// A waiter needs an attempt.
    fn lack(&mut self, ticket: u64) {
        let place = self.lacking.partition_point(|own| *own < ticket);
        self.lacking.insert(place, ticket);
    }

    /// The waiter of an attempt has left.
    fn orphan(&mut self, number: u64) {
        if let Some(attempt) = self.own.remove(&number) {
            self.orphans.insert(number, attempt);
        }
        if let Some(attempt) = self.orphans.get_mut(&number) {
            attempt.waiter = None;
        }
    }

    /// Lets waiters without an attempt adopt attempts without a waiter whose grace period is not
    /// over. Adopted attempts whose grace period is over lose their waiter.
    fn adopt(&mut self, now: Instant) {
        let overdue = self.orphans.values_mut().filter(|own| own.due <= now);
        let given_up: Vec<_> = overdue.filter_map(|own| own.waiter.take()).collect();
        for ticket in given_up {
            self.expecting.remove(&ticket);
            self.lack(ticket);
        }
        let is_free = |own: &Attempt<A>| own.waiter.is_none() && own.due > now;
        let free = self.orphans.iter_mut().filter(|(_, own)| is_free(own));
        for (number, attempt) in free {
            let Some(ticket) = self.lacking.pop_front() else {
                break;
            };
            self.expecting.insert(ticket, *number);
            attempt.waiter = Some(ticket);
        }
    }

    fn begin(&mut self, now: Instant, waiter: Option<u64>) -> (u64, A) {
        let (number, handle) = (number(&mut self.next_attempt), A::default());
        let begins = self.not_before.map_or(now, |time| time.max(now));
        let attempt = Attempt {
            handle: handle.clone(),
            waiter,
            due: begins + self.grace,
        };
        match waiter {
            Some(_) => self.own.insert(number, attempt),
            None => self.orphans.insert(number, attempt),
        };
        self.total += 1;
        (number, handle)
    }

    fn end(&mut self, attempt: u64) {
        let own = self.own.remove(&attempt);
        let ended = own.or_else(|| self.orphans.remove(&attempt));
        if let Some(ticket) = ended.and_then(|ended| ended.waiter) {
            self.expecting.remove(&ticket);
            self.lack(ticket);
        }
    }
}

fn number(next: &mut u64) -> u64 {
    *next += 1;
    *next - 1
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod properties;
