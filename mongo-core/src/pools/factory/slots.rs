//! The connections that all pools of one server may have together.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::ServerAddress;
use crate::net::Link;

/// A pool that takes part.
pub(super) trait Participant: Send + Sync {
    /// A slot may be free.
    fn pump(&self);

    /// One of the pool's idle connections is doomed.
    fn sweep(&self);
}

/// A cap on the connections to one server, across all credentials (`max_connections_per_server`).
///
/// Where it is reached, the idle connection that was used least recently makes room, whosever it
/// is. Where none is idle, the next one that is given back does: its slot goes to the pool that has
/// waited longest.
#[derive(Debug)]
pub(crate) struct ServerSlots {
    max: u32,
    state: Mutex<State>,
    /// How many pools wait: a check-in looks at this alone.
    wanted: AtomicUsize,
}

/// The caps of all servers. One that leaves and comes back has the slots that it had, as long as
/// there is anything left of its former pools.
#[derive(Debug)]
pub(crate) struct Caps {
    max: Option<u32>,
    by_server: Mutex<BTreeMap<ServerAddress, Weak<ServerSlots>>>,
}

impl Caps {
    pub(crate) fn new(max: Option<u32>) -> Self {
        Self {
            max,
            by_server: Mutex::default(),
        }
    }

    /// The slots of a server; `None` if there is no cap.
    pub(crate) fn slots(&self, server: &ServerAddress) -> Option<Arc<ServerSlots>> {
        let max = self.max?;
        let by_server = self.by_server.lock();
        let mut by_server = by_server.unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = by_server.get(server).and_then(Weak::upgrade) {
            return Some(known);
        }
        by_server.retain(|_, slots| slots.strong_count() > 0);
        let slots = Arc::new(ServerSlots::new(max));
        by_server.insert(server.clone(), Arc::downgrade(&slots));
        Some(slots)
    }
}

#[derive(Default)]
struct State {
    used: u32,
    waiting: VecDeque<Weak<dyn Participant>>,
    /// By their places: the first was used least recently.
    idle: BTreeMap<u64, Idle>,
    next_place: u64,
    /// Those that were idle, are doomed, and have not gone yet.
    making_room: usize,
}

struct Idle {
    link: Arc<Link>,
    pool: Weak<dyn Participant>,
}

impl ServerSlots {
    pub(crate) fn new(max: u32) -> Self {
        Self {
            max,
            state: Mutex::default(),
            wanted: AtomicUsize::new(0),
        }
    }

    /// Takes a slot, or enters the pool among those that wait for one.
    pub(super) fn try_take(&self, pool: &Weak<dyn Participant>) -> bool {
        let mut state = self.lock();
        if state.used < self.max {
            state.used += 1;
            return true;
        }
        if !state.waiting.iter().any(|own| own.ptr_eq(pool)) {
            state.waiting.push_back(pool.clone());
        }
        self.note(&state);
        false
    }

    /// The pool waits no more.
    pub(super) fn withdraw(&self, pool: &Weak<dyn Participant>) {
        let mut state = self.lock();
        state.waiting.retain(|own| !own.ptr_eq(pool));
        self.note(&state);
    }

    /// Whether a pool waits.
    #[inline]
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire) > 0
    }

    /// Takes a slot if there is a free one that nobody waits for.
    pub(super) fn try_take_free(&self) -> bool {
        let mut state = self.lock();
        let is_free = state.used < self.max && state.waiting.is_empty();
        state.used += u32::from(is_free);
        is_free
    }

    /// The cap, if it is reached.
    pub(super) fn full(&self) -> Option<u32> {
        Some(self.max).filter(|max| self.lock().used >= *max)
    }

    /// Gives a slot back, to the pools that wait for one, in turn. To be called without a lock.
    pub(super) fn give_back(&self) {
        self.lock().used -= 1;
        while let Some(pool) = self.next_waiting() {
            // One that wants another after this enters again, behind the others.
            pool.pump();
        }
    }

    fn next_waiting(&self) -> Option<Arc<dyn Participant>> {
        let mut state = self.lock();
        if state.used >= self.max {
            return None;
        }
        let next = std::iter::from_fn(|| state.waiting.pop_front()).find_map(|pool| pool.upgrade());
        self.note(&state);
        next
    }

    /// Closes the connection that has been idle longest, if more pools wait for a slot than have one
    /// made for them already. To be called without a lock.
    pub(super) fn make_room(&self) {
        if !self.is_wanted() {
            return;
        }
        let oldest = {
            let mut state = self.lock();
            let is_lacking = state.used >= self.max && state.waiting.len() > state.making_room;
            let oldest = is_lacking.then(|| state.idle.pop_first()).flatten();
            state.making_room += usize::from(oldest.is_some());
            oldest
        };
        if let Some((_, Idle { link, pool })) = oldest {
            link.doom();
            if let Some(pool) = pool.upgrade() {
                pool.sweep();
            }
        }
    }

    /// A connection comes back. Says no if its slot is wanted by another pool.
    pub(super) fn enter(&self, link: &Arc<Link>, pool: &Weak<dyn Participant>) -> bool {
        let mut state = self.lock();
        let others = state.waiting.iter().any(|own| !own.ptr_eq(pool));
        if others {
            return false;
        }
        if link.idle_place.load(Ordering::Acquire) != 0 {
            return true;
        }
        state.next_place += 1;
        let place = state.next_place;
        link.idle_place.store(place, Ordering::Release);
        let idle = Idle {
            link: link.clone(),
            pool: pool.clone(),
        };
        state.idle.insert(place, idle);
        true
    }

    /// A connection is handed out, or closed. Says no if it was to make room.
    pub(super) fn leave(&self, link: &Link) -> bool {
        let place = match link.idle_place.swap(0, Ordering::AcqRel) {
            0 => return !link.is_doomed(),
            place => place,
        };
        let mut state = self.lock();
        let was_idle = state.idle.remove(&place).is_some();
        state.making_room -= usize::from(!was_idle);
        was_idle
    }

    fn note(&self, state: &State) {
        self.wanted.store(state.waiting.len(), Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("used", &self.used)
            .field("waiting", &self.waiting.len())
            .field("idle", &self.idle.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a slot when it is told that one may be free, and drops its idle connection when swept.
    struct Pool {
        slots: Arc<ServerSlots>,
        taken: AtomicUsize,
        swept: AtomicUsize,
        own: Weak<dyn Participant>,
    }

    impl Pool {
        fn new(slots: &Arc<ServerSlots>) -> Arc<Self> {
            Arc::new_cyclic(|own: &Weak<Pool>| Self {
                slots: slots.clone(),
                taken: AtomicUsize::new(0),
                swept: AtomicUsize::new(0),
                own: own.clone(),
            })
        }

        fn taken(&self) -> usize {
            self.taken.load(Ordering::SeqCst)
        }
    }

    impl Participant for Pool {
        fn pump(&self) {
            if self.slots.try_take(&self.own) {
                self.taken.fetch_add(1, Ordering::SeqCst);
            }
        }

        fn sweep(&self) {
            self.swept.fetch_add(1, Ordering::SeqCst);
            self.slots.give_back();
        }
    }

    #[test]
    fn who_waits_longest_gets_what_is_given_back() {
        let slots = Arc::new(ServerSlots::new(1));
        let (first, second, third) = (Pool::new(&slots), Pool::new(&slots), Pool::new(&slots));
        first.pump();
        second.pump();
        second.pump();
        third.pump();
        assert_eq!((first.taken(), second.taken(), third.taken()), (1, 0, 0));
        slots.give_back();
        assert_eq!((second.taken(), third.taken()), (1, 0));
        slots.give_back();
        assert_eq!((second.taken(), third.taken()), (1, 1));
    }

    #[test]
    fn the_least_recently_used_idle_connection_makes_room() {
        let slots = Arc::new(ServerSlots::new(2));
        let (first, second, third) = (Pool::new(&slots), Pool::new(&slots), Pool::new(&slots));
        first.pump();
        second.pump();
        let (old, new) = (Arc::new(Link::default()), Arc::new(Link::default()));
        assert!(slots.enter(&old, &first.own) && slots.enter(&new, &second.own));
        // Used again, it is the newest.
        assert!(slots.leave(&old) && slots.enter(&old, &first.own));
        slots.make_room();
        assert!(!new.is_doomed(), "nobody wants it");
        third.pump();
        slots.make_room();
        assert!(new.is_doomed() && !old.is_doomed());
        assert_eq!(second.swept.load(Ordering::SeqCst), 1);
        assert_eq!(third.taken(), 1);
        assert!(!slots.leave(&new) && slots.leave(&old));
    }

    #[test]
    fn no_more_make_room_than_are_wanted() {
        let slots = Arc::new(ServerSlots::new(2));
        let [first, second, third] = [(); 3].map(|()| Pool::new(&slots));
        // Nobody sweeps at once.
        let slow: Weak<dyn Participant> = Weak::<Pool>::new();
        let links = [(); 2].map(|()| Arc::new(Link::default()));
        for link in &links {
            first.pump();
            assert!(slots.enter(link, &slow));
        }
        second.pump();
        slots.make_room();
        slots.make_room();
        assert_eq!(links.each_ref().map(|link| link.is_doomed()), [true, false]);
        third.pump();
        slots.make_room();
        assert_eq!(links.each_ref().map(|link| link.is_doomed()), [true, true]);
        for link in &links {
            assert!(!slots.leave(link));
            slots.give_back();
        }
        assert_eq!((second.taken(), third.taken()), (1, 1));
    }

    #[test]
    fn who_withdraws_is_in_nobodys_way() {
        let slots = Arc::new(ServerSlots::new(1));
        let (first, second) = (Pool::new(&slots), Pool::new(&slots));
        first.pump();
        second.pump();
        let link = Arc::new(Link::default());
        assert!(slots.is_wanted() && !slots.enter(&link, &first.own));
        slots.withdraw(&second.own);
        assert!(!slots.is_wanted() && slots.enter(&link, &first.own));
        slots.make_room();
        assert!(!link.is_doomed());
    }

    #[test]
    fn what_comes_back_while_another_pool_waits_is_not_kept() {
        let slots = Arc::new(ServerSlots::new(1));
        let (first, second) = (Pool::new(&slots), Pool::new(&slots));
        first.pump();
        first.pump();
        let link = Arc::new(Link::default());
        assert!(
            slots.enter(&link, &first.own),
            "its own pool waits, and can use it"
        );
        assert!(slots.leave(&link));
        second.pump();
        assert!(!slots.enter(&link, &first.own));
    }

    #[test]
    fn a_server_that_comes_back_has_the_slots_that_are_held() {
        let caps = Caps::new(Some(1));
        let server = |port| ServerAddress::tcp("a", port);
        let held = caps.slots(&server(1)).expect("a cap");
        assert!(Arc::ptr_eq(&held, &caps.slots(&server(1)).expect("a cap")));
        assert!(!Arc::ptr_eq(&held, &caps.slots(&server(2)).expect("a cap")));
        assert!(held.try_take_free());
        drop(held);
        let new = caps.slots(&server(1)).expect("a cap");
        assert!(new.try_take_free(), "nothing was left of the former one");
        assert_eq!(caps.by_server.lock().expect("no panic").len(), 1);
        assert!(Caps::new(None).slots(&server(1)).is_none());
    }

    #[test]
    fn a_pool_that_is_gone_holds_nobody_up() {
        let slots = Arc::new(ServerSlots::new(1));
        let (first, second) = (Pool::new(&slots), Pool::new(&slots));
        first.pump();
        Pool::new(&slots).pump();
        second.pump();
        slots.give_back();
        assert_eq!(second.taken(), 1);
    }
}
