//! Who of those that ask for a connection gets one next, and whether it is made for them. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// How long the pause after a second failure in a row is at most, before any more double it.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// The longest pause between two attempts to make a connection.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a pool does at the moment. Specification: connection monitoring and pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolState {
    /// The server is not known to be good: nothing is made, and nothing handed out.
    Paused,
    /// Connections are made and handed out.
    Ready,
    /// For good: nothing is made, and nothing handed out.
    Closed,
}

/// What the gate is bounded by. `None` is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GateLimits {
    /// The connections there are, those that are being made included.
    pub(crate) max_size: Option<u32>,
    /// Those that are being made (`maxConnecting`).
    pub(crate) max_connecting: Option<u32>,
}

/// What one that asked is given.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Grant<C> {
    /// One that was there.
    Connection(C),
    /// Leave to make one.
    Permit,
}

/// The gate of one pool: `W` tells one that waits of what it is given, `C` is a connection.
///
/// Who asks first is served first; who was given leave asks on until it is
/// [forgotten](Self::forget), and takes a connection that comes before its own is made. Connections
/// that are there but in nobody's hands, because they
/// were made in advance or given back while somebody waited, go before new ones. After failures in
/// a row the next attempts are paced, so that a server that fails is not stormed.
#[derive(Debug)]
pub(super) struct Gate<W, C> {
    state: PoolState,
    limits: GateLimits,
    total: u32,
    pending: u32,
    spare: VecDeque<C>,
    /// With ascending tickets; those that were given leave are in front.
    asking: VecDeque<Asking<W>>,
    next_ticket: u64,
    failures: u32,
    not_before: Option<Instant>,
}

/// One that asks.
#[derive(Debug)]
struct Asking<W> {
    ticket: u64,
    waiter: W,
    /// Whether it was given leave to make one.
    has_leave: bool,
}

impl<W: Clone, C> Gate<W, C> {
    pub(super) fn new(state: PoolState, limits: GateLimits) -> Self {
        Self {
            state,
            limits,
            total: 0,
            pending: 0,
            spare: VecDeque::new(),
            asking: VecDeque::new(),
            next_ticket: 0,
            failures: 0,
            not_before: None,
        }
    }

    pub(super) fn state(&self) -> PoolState {
        self.state
    }

    /// The connections there are, those that are being made included.
    pub(super) fn total(&self) -> u32 {
        self.total
    }

    pub(super) fn pending(&self) -> u32 {
        self.pending
    }

    /// How many would take a connection.
    pub(super) fn asking(&self) -> usize {
        self.asking.len()
    }

    /// When the next connection may be made, if that is not yet.
    pub(super) fn not_before(&self) -> Option<Instant> {
        self.not_before
    }

    /// Enters one that asks; the ticket is for [`forget`](Self::forget).
    pub(super) fn ask(&mut self, waiter: W) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.asking.push_back(Asking {
            ticket,
            waiter,
            has_leave: false,
        });
        ticket
    }

    /// One that asked has gone.
    pub(super) fn forget(&mut self, ticket: u64) {
        if let Ok(place) = self.asking.binary_search_by_key(&ticket, |own| own.ticket) {
            self.asking.remove(place);
        }
    }

    /// Whether a permit would be granted now, if anybody asked.
    pub(super) fn has_room(&self, now: Instant) -> bool {
        let below = |count, limit: Option<u32>| limit.is_none_or(|limit| count < limit);
        self.state == PoolState::Ready
            && below(self.total, self.limits.max_size)
            && below(self.pending, self.limits.max_connecting)
            && self.not_before.is_none_or(|time| time <= now)
    }

    /// Whether somebody waits for leave to make one.
    pub(super) fn wants_permit(&self) -> bool {
        let place = self.asking.partition_point(|own| own.has_leave);
        // What is made for nobody that still asks will serve some of them.
        let promised = (self.pending as usize).saturating_sub(place);
        self.asking.len() - place > promised
    }

    /// The next one to be served, and with what. `has_slot` is asked last, and takes one of the
    /// server's slots if it says yes.
    pub(super) fn next(
        &mut self,
        now: Instant,
        has_slot: impl FnOnce() -> bool,
    ) -> Option<(W, Grant<C>)> {
        if !self.asking.is_empty()
            && let Some(connection) = self.spare.pop_front()
        {
            let first = self.asking.pop_front()?;
            return Some((first.waiter, Grant::Connection(connection)));
        }
        if !self.wants_permit() || !self.has_room(now) || !has_slot() {
            return None;
        }
        let first = self.asking.iter_mut().find(|own| !own.has_leave)?;
        first.has_leave = true;
        let waiter = first.waiter.clone();
        self.begin();
        Some((waiter, Grant::Permit))
    }

    /// A connection that is there, where nobody waits for one.
    pub(super) fn take_spare(&mut self) -> Option<C> {
        match self.asking.is_empty() {
            true => self.spare.pop_front(),
            false => None,
        }
    }

    /// Counts a connection that is being made.
    fn begin(&mut self) {
        self.total += 1;
        self.pending += 1;
    }

    /// Leave to make a connection that nobody asked for, if that delays nobody.
    pub(super) fn begin_unasked(&mut self, now: Instant, has_slot: impl FnOnce() -> bool) -> bool {
        let delays = self.asking.back().is_some_and(|last| !last.has_leave);
        let granted = !delays && self.has_room(now) && has_slot();
        if granted {
            self.begin();
        }
        granted
    }

    /// A permit led to a connection.
    pub(super) fn made(&mut self) {
        self.pending -= 1;
        self.failures = 0;
        self.not_before = None;
    }

    /// A permit led to nothing.
    pub(super) fn given_up(&mut self) {
        self.pending -= 1;
        self.total -= 1;
    }

    /// The server, or the way to it, failed an attempt. The next one may be made at once; after
    /// more failures in a row there are pauses that double, each a random share (`0.0..1.0`) of
    /// the longest that it may be.
    pub(super) fn pace(&mut self, now: Instant, share: f64) {
        let doublings = self.failures.checked_sub(1);
        self.failures = self.failures.saturating_add(1);
        if let Some(doublings) = doublings {
            let pause = FIRST_PAUSE.saturating_mul(1 << doublings.min(10));
            self.not_before = Some(now + pause.min(LONGEST_PAUSE).mul_f64(share));
        }
    }

    /// A connection has gone.
    pub(super) fn left(&mut self) {
        self.total -= 1;
    }

    /// A connection that nobody has in hand.
    pub(super) fn offer(&mut self, connection: C) {
        self.spare.push_back(connection);
    }

    /// Those in nobody's hands that are not to be kept.
    pub(super) fn sort_out(&mut self, mut keep: impl FnMut(&mut C) -> bool) -> Vec<C> {
        let (kept, gone) = self
            .spare
            .drain(..)
            .map(|mut connection| (keep(&mut connection), connection))
            .partition::<Vec<_>, _>(|(kept, _)| *kept);
        self.spare = kept.into_iter().map(|(_, connection)| connection).collect();
        gone.into_iter().map(|(_, connection)| connection).collect()
    }

    /// Goes from paused to ready, and says whether it did.
    pub(super) fn ready(&mut self) -> bool {
        let becomes_ready = self.state == PoolState::Paused;
        if becomes_ready {
            self.state = PoolState::Ready;
            self.failures = 0;
            self.not_before = None;
        }
        becomes_ready
    }

    /// Goes from ready to paused, and says whether it did.
    pub(super) fn pause(&mut self) -> bool {
        let becomes_paused = self.state == PoolState::Ready;
        if becomes_paused {
            self.state = PoolState::Paused;
        }
        becomes_paused
    }

    /// Closes, and says whether it was open.
    pub(super) fn close(&mut self) -> bool {
        std::mem::replace(&mut self.state, PoolState::Closed) != PoolState::Closed
    }

    /// Those who wait, to be told why they get nothing. Those that were given leave see for
    /// themselves.
    pub(super) fn evict(&mut self) -> Vec<W> {
        let place = self.asking.partition_point(|own| own.has_leave);
        let evicted = self.asking.drain(place..);
        evicted.map(|own| own.waiter).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type TestGate = Gate<u32, &'static str>;

    fn gate(max_size: u32, max_connecting: u32) -> TestGate {
        let limits = GateLimits {
            max_size: Some(max_size),
            max_connecting: Some(max_connecting),
        };
        Gate::new(PoolState::Ready, limits)
    }

    fn served(gate: &mut TestGate, now: Instant) -> Vec<(u32, Grant<&'static str>)> {
        std::iter::from_fn(|| gate.next(now, || true)).collect()
    }

    #[test]
    fn no_more_are_made_at_a_time_than_may_be() {
        let (mut gate, now) = (gate(100, 2), Instant::now());
        for waiter in 0..5 {
            gate.ask(waiter);
        }
        assert_eq!(
            served(&mut gate, now),
            [(0, Grant::Permit), (1, Grant::Permit)]
        );
        gate.made();
        assert_eq!(served(&mut gate, now), [(2, Grant::Permit)]);
        gate.given_up();
        assert_eq!(served(&mut gate, now), [(3, Grant::Permit)]);
        assert_eq!((gate.total(), gate.pending(), gate.asking()), (3, 2, 5));
    }

    #[test]
    fn who_was_given_leave_takes_what_comes_first() {
        let (mut gate, now) = (gate(10, 2), Instant::now());
        let tickets: Vec<_> = (0..3).map(|waiter| gate.ask(waiter)).collect();
        assert_eq!(
            served(&mut gate, now),
            [(0, Grant::Permit), (1, Grant::Permit)]
        );
        gate.offer("returned");
        assert_eq!(served(&mut gate, now), [(0, Grant::Connection("returned"))]);
        // What was being made for the first is for the last now.
        gate.made();
        gate.forget(tickets[0]);
        gate.forget(tickets[1]);
        assert_eq!(served(&mut gate, now), []);
        gate.offer("made");
        assert_eq!(served(&mut gate, now), [(2, Grant::Connection("made"))]);
        gate.ask(3);
        assert_eq!((gate.pending(), gate.asking()), (1, 1));
        gate.made();
        assert_eq!(served(&mut gate, now), [(3, Grant::Permit)]);
        assert!(gate.evict().is_empty(), "it sees for itself");
        assert!(gate.begin_unasked(now, || true), "nobody is delayed by it");
    }

    #[test]
    fn what_is_made_in_advance_serves_those_who_come_meanwhile() {
        let (mut gate, now) = (gate(10, 4), Instant::now());
        assert!(gate.begin_unasked(now, || true) && gate.begin_unasked(now, || true));
        for waiter in 0..3 {
            gate.ask(waiter);
        }
        assert_eq!(served(&mut gate, now), [(0, Grant::Permit)]);
        gate.made();
        gate.offer("spare");
        assert_eq!(served(&mut gate, now), [(0, Grant::Connection("spare"))]);
        gate.given_up();
        assert_eq!(served(&mut gate, now), [(1, Grant::Permit)]);
        assert_eq!((gate.total(), gate.pending()), (3, 2));
    }

    #[test]
    fn no_more_are_there_than_may_be() {
        let (mut gate, now) = (gate(1, 2), Instant::now());
        gate.ask(0);
        gate.ask(1);
        assert_eq!(served(&mut gate, now), [(0, Grant::Permit)]);
        gate.made();
        assert_eq!(served(&mut gate, now), []);
        gate.left();
        assert_eq!(served(&mut gate, now), [(1, Grant::Permit)]);
    }

    #[test]
    fn what_is_there_goes_first_and_to_the_one_who_asked_first() {
        let (mut gate, now) = (gate(10, 1), Instant::now());
        let gone = gate.ask(0);
        gate.ask(1);
        let last = gate.ask(2);
        gate.forget(gone);
        gate.offer("spare");
        assert_eq!(
            served(&mut gate, now),
            [(1, Grant::Connection("spare")), (2, Grant::Permit)]
        );
        assert_eq!(gate.take_spare(), None);
        gate.forget(last);
        gate.offer("other");
        assert_eq!(gate.take_spare(), Some("other"));
    }

    #[test]
    fn without_a_slot_of_the_server_nothing_is_counted() {
        let (mut gate, now) = (gate(10, 10), Instant::now());
        gate.ask(0);
        assert!(gate.next(now, || false).is_none());
        assert!(!gate.begin_unasked(now, || true), "somebody waits");
        assert_eq!((gate.total(), gate.asking()), (0, 1));
        gate.evict();
        assert!(!gate.begin_unasked(now, || false));
        assert!(gate.begin_unasked(now, || true));
        assert_eq!((gate.total(), gate.pending()), (1, 1));
    }

    #[test]
    fn failures_in_a_row_are_paced_up_to_a_second() {
        let (mut gate, now) = (gate(10, 1), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..12 {
            gate.pace(now, 1.0);
            pauses.push(
                gate.not_before()
                    .map_or(0, |time| (time - now).as_millis() as u64),
            );
        }
        assert_eq!(pauses[..6], [0, 20, 40, 80, 160, 320]);
        assert_eq!(pauses[10..], [1000, 1000]);
        gate.ask(0);
        assert_eq!(served(&mut gate, now), []);
        assert_eq!(served(&mut gate, now + LONGEST_PAUSE), [(0, Grant::Permit)]);
        gate.made();
        assert_eq!(gate.not_before(), None);
        gate.pace(now, 1.0);
        assert_eq!(gate.not_before(), None, "one failure alone is not paced");
    }

    #[test]
    fn only_a_ready_pool_makes_connections() {
        let (mut gate, now) = (gate(10, 10), Instant::now());
        assert!(gate.pause() && !gate.pause());
        gate.ask(0);
        assert_eq!(served(&mut gate, now), []);
        assert!(gate.ready() && !gate.ready());
        assert_eq!(served(&mut gate, now), [(0, Grant::Permit)]);
        assert!(gate.close() && !gate.close());
        assert!(!gate.ready() && !gate.pause());
        gate.ask(1);
        assert_eq!(served(&mut gate, now), []);
        assert_eq!(gate.evict(), [1]);
    }

    #[test]
    fn what_is_not_kept_is_sorted_out() {
        let mut gate = gate(10, 10);
        for connection in ["a", "stale", "b"] {
            gate.offer(connection);
        }
        assert_eq!(
            gate.sort_out(|connection| *connection != "stale"),
            ["stale"]
        );
        assert_eq!(gate.spare.len(), 2);
        assert_eq!(gate.take_spare(), Some("a"));
    }
}
