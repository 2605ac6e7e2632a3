//! What holds after any sequence of events.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;

const MAX_SIZE: u32 = 4;
const MAX_CONNECTING: u32 = 2;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Handle;

/// An event. A number chooses one of the waiters, attempts or connections that there are.
#[derive(Clone, Copy, Debug)]
enum Event {
    Enter,
    Reenter,
    Leave(usize),
    Made(usize),
    Failed(usize),
    BeginInAdvance,
    TakeAvailable,
    CheckIn(usize),
    CloseConnection(usize),
    Advance(u64),
    Pause,
    Ready,
    Evict,
    Retain,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Enter),
        1 => Just(Event::Reenter),
        2 => any::<usize>().prop_map(Event::Leave),
        4 => any::<usize>().prop_map(Event::Made),
        2 => any::<usize>().prop_map(Event::Failed),
        1 => Just(Event::BeginInAdvance),
        1 => Just(Event::TakeAvailable),
        3 => any::<usize>().prop_map(Event::CheckIn),
        2 => any::<usize>().prop_map(Event::CloseConnection),
        2 => (0_u64..3_000).prop_map(Event::Advance),
        1 => Just(Event::Pause),
        2 => Just(Event::Ready),
        1 => Just(Event::Evict),
        1 => Just(Event::Retain),
    ]
}

/// The queue, and what its owner knows.
struct Model {
    queue: WaitQueue<u64, Handle>,
    now: Instant,
    /// Waiters, by ticket.
    waiting: BTreeSet<u64>,
    /// Tickets of waiters that were served, and may come back with them.
    served: BTreeSet<u64>,
    /// Attempts that run; the queue may have abandoned some of them.
    attempts: Vec<u64>,
    abandoned: u32,
    /// Connections that the queue does not have.
    in_use: Vec<u64>,
    next_connection: u64,
}

impl Model {
    fn new() -> Self {
        static NOW: OnceLock<Instant> = OnceLock::new();
        let limits = Limits {
            max_size: Some(MAX_SIZE),
            max_connecting: Some(MAX_CONNECTING),
        };
        Self {
            queue: WaitQueue::new(PoolState::Ready, limits),
            now: *NOW.get_or_init(Instant::now),
            waiting: BTreeSet::new(),
            served: BTreeSet::new(),
            attempts: Vec::new(),
            abandoned: 0,
            in_use: Vec::new(),
            next_connection: 0,
        }
    }

    fn enter(&mut self, former: Option<u64>) {
        let ticket = self.queue.enter(former);
        assert!(self.waiting.insert(ticket), "a ticket twice");
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Enter => self.enter(None),
            Event::Reenter => {
                if let Some(ticket) = self.served.pop_first() {
                    self.enter(Some(ticket));
                }
            }
            Event::Leave(choice) => {
                if let Some(&ticket) = nth(&self.waiting, choice) {
                    assert!(self.queue.leave(ticket));
                    self.waiting.remove(&ticket);
                    assert!(!self.queue.leave(ticket), "it has left");
                }
            }
            Event::Made(choice) => self.end_attempt(choice, true),
            Event::Failed(choice) => self.end_attempt(choice, false),
            Event::BeginInAdvance => {
                if let Some((attempt, Handle)) = self.queue.begin_in_advance(self.now, || true) {
                    assert!(!self.queue.wants_attempt(), "ahead of a waiter");
                    self.attempts.push(attempt);
                }
            }
            Event::TakeAvailable => {
                if let Some(connection) = self.queue.take_available() {
                    assert!(self.waiting.is_empty(), "ahead of a waiter");
                    self.in_use.push(connection);
                }
            }
            Event::CheckIn(choice) => {
                if let Some(connection) = take(&mut self.in_use, choice) {
                    self.queue.offer(connection);
                }
            }
            Event::CloseConnection(choice) => {
                if take(&mut self.in_use, choice).is_some() {
                    self.queue.left();
                }
            }
            Event::Advance(millis) => self.now += Duration::from_millis(millis),
            Event::Pause => drop(self.queue.pause()),
            Event::Ready => drop(self.queue.ready()),
            Event::Evict => {
                let evicted: BTreeSet<u64> = self.queue.evict().into_iter().collect();
                assert_eq!(evicted, std::mem::take(&mut self.waiting));
            }
            Event::Retain => {
                for _closed in self.queue.retain(|connection| *connection % 2 == 0) {
                    self.queue.left();
                }
            }
        }
    }

    fn end_attempt(&mut self, choice: usize, is_made: bool) {
        let Some(attempt) = take(&mut self.attempts, choice) else {
            return;
        };
        if !self.queue.has_attempt(attempt) {
            self.abandoned -= 1;
            assert!(!self.queue.failed(attempt), "it was abandoned");
        } else if is_made {
            self.queue.made(attempt);
            self.next_connection += 1;
            self.queue.offer(self.next_connection);
        } else {
            if let Some(ticket) = self.queue.fail_waiter(attempt) {
                assert!(self.waiting.remove(&ticket), "it was gone");
            }
            assert!(self.queue.failed(attempt));
            self.queue.pace(self.now, 0.5);
        }
    }

    /// Does what the queue says, until it says nothing.
    fn settle(&mut self) {
        while let Some(next) = self.queue.next(self.now, || true) {
            match next {
                Next::Serve(ticket, connection) => {
                    let first = self.waiting.pop_first();
                    assert_eq!(first, Some(ticket), "not the one that waits longest");
                    self.served.insert(ticket);
                    self.in_use.push(connection);
                }
                Next::Begin(attempt, Handle, ticket) => {
                    assert!(self.waiting.contains(&ticket), "for no waiter");
                    assert_eq!(self.queue.state(), PoolState::Ready);
                    self.attempts.push(attempt);
                }
                Next::Abandon(Handle) => self.abandoned += 1,
            }
        }
    }

    fn check(&self) {
        let queue = &self.queue;
        assert_eq!(queue.waiters(), self.waiting.len());
        let pending = self.attempts.len() - self.abandoned as usize;
        assert_eq!(queue.pending() as usize, pending, "permits");
        let total = pending + queue.available() + self.in_use.len();
        assert_eq!(queue.total() as usize, total, "places");
        assert!(queue.total() <= MAX_SIZE && queue.pending() <= MAX_CONNECTING);
        assert!(
            self.waiting.is_empty() || queue.available() == 0,
            "a waiter beside an available connection"
        );
        if queue.state() == PoolState::Ready && queue.wants_attempt() {
            assert!(!queue.has_room(), "a waiter beside a free permit");
        }
        let lacking = &queue.lacking;
        assert!(lacking.iter().is_sorted_by(|one, next| one < next));
        assert!(!lacking.iter().any(|own| queue.expecting.contains_key(own)));
        let attempts = queue.own.iter().chain(&queue.orphans);
        let served = attempts.filter_map(|(number, own)| Some((own.waiter?, *number)));
        let mut served: Vec<_> = served.collect();
        served.sort_unstable();
        assert!(
            served.into_iter().eq(queue.expecting.clone()),
            "one waiter of two attempts"
        );
        assert!(queue.own.values().all(|own| own.waiter.is_some()));
        let numbers = queue.expecting.values().collect::<BTreeSet<_>>();
        assert_eq!(
            numbers.len(),
            queue.expecting.len(),
            "one attempt for two waiters"
        );
    }
}

fn nth(set: &BTreeSet<u64>, choice: usize) -> Option<&u64> {
    set.iter().nth(choice % set.len().max(1))
}

fn take(list: &mut Vec<u64>, choice: usize) -> Option<u64> {
    (!list.is_empty()).then(|| list.swap_remove(choice % list.len()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Waiters are served in order, no permit or place is lost or given twice, and no waiter is left
    /// beside a connection or a permit that it could have.
    #[test]
    fn order_permits_and_places_hold(events in prop::collection::vec(event(), 1..80)) {
        let mut model = Model::new();
        for event in events {
            model.handle(event);
            model.settle();
            model.check();
        }
    }

    /// Once attempts succeed and connections come back, every waiter is served.
    #[test]
    fn every_waiter_is_served_in_the_end(events in prop::collection::vec(event(), 1..80)) {
        let mut model = Model::new();
        for event in events {
            model.handle(event);
            model.settle();
        }
        model.handle(Event::Ready);
        for _ in 0..500 {
            model.settle();
            if model.waiting.is_empty() {
                return Ok(());
            }
            model.handle(Event::Made(0));
            model.settle();
            model.handle(Event::CheckIn(0));
        }
        prop_assert!(false, "{} waiters are left", model.waiting.len());
    }
}
