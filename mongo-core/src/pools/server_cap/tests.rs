use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use super::*;

/// Takes a slot when one may be free, and closes an idle connection when it is reaped.
#[derive(Default)]
struct Pool {
    share: OnceLock<CapShare>,
    taken: AtomicUsize,
    swept: AtomicUsize,
    /// Whether it takes slots.
    wants: AtomicBool,
    has_waiters: AtomicBool,
}

impl Pool {
    fn new(cap: &Arc<ServerCap>) -> Arc<Self> {
        let pool = Arc::new(Self::default());
        let participant: Weak<dyn Participant> = Arc::<Self>::downgrade(&pool);
        let joined = pool.share.set(cap.clone().join(participant));
        joined.expect("once");
        pool.wants.store(true, Ordering::SeqCst);
        pool
    }

    fn share(&self) -> &CapShare {
        self.share.get().expect("joined")
    }

    fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    fn enter(&self, link: &Arc<ConnectionState>, age: Duration) -> bool {
        let has_waiters = || self.has_waiters.load(Ordering::SeqCst);
        self.share().enter_idle(link, || age, has_waiters)
    }
}

impl Participant for Pool {
    fn pump(&self) {
        if self.wants.load(Ordering::SeqCst) && self.share().try_take() {
            self.taken.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn abandon(&self) -> bool {
        false
    }

    fn has_waiters(&self) -> bool {
        self.has_waiters.load(Ordering::SeqCst)
    }

    fn reap(&self) {
        self.swept.fetch_add(1, Ordering::SeqCst);
        self.share().free_permits(1);
        self.share().give_back();
    }
}

/// Closes its idle connections later.
struct Slow;

impl Participant for Slow {
    fn pump(&self) {}

    fn reap(&self) {}

    fn abandon(&self) -> bool {
        false
    }

    fn has_waiters(&self) -> bool {
        false
    }
}

fn cap(max: u32) -> Arc<ServerCap> {
    Arc::new(ServerCap::new(ServerLimits {
        max: Some(max),
        max_connecting: None,
    }))
}

fn pools<const N: usize>(cap: &Arc<ServerCap>) -> [Arc<Pool>; N] {
    std::array::from_fn(|_| Pool::new(cap))
}

fn taken<const N: usize>(pools: &[Arc<Pool>; N]) -> [usize; N] {
    pools.each_ref().map(|pool| pool.taken())
}

const OLD: Duration = Duration::from_secs(1);

#[test]
fn slots_are_first_in_first_out() {
    let pools = pools::<3>(&cap(1));
    for place in [0, 1, 1, 2] {
        pools[place].pump();
    }
    assert_eq!(taken(&pools), [1, 0, 0]);
    pools[0].share().give_back();
    assert_eq!(taken(&pools), [1, 1, 0]);
    pools[1].share().give_back();
    assert_eq!(taken(&pools), [1, 1, 1]);
}

#[test]
fn a_late_pool_does_not_overtake_the_queue() {
    let pools = pools::<3>(&cap(1));
    pools[0].pump();
    pools[1].pump();
    // Between the return of the slot and the turn of the pool that queues.
    pools[0]
        .share()
        .cap
        .change(|state| state.give_back(pools[0].share().id));
    assert!(!pools[2].share().try_take());
    assert!(!pools[0].share().try_take_free());
    pools[0].share().cap.serve();
    assert_eq!(taken(&pools), [1, 1, 0]);
}

#[test]
fn an_unneeded_reserved_slot_goes_to_the_next_pool() {
    let pools = pools::<3>(&cap(1));
    pools.iter().for_each(|pool| pool.pump());
    pools[1].wants.store(false, Ordering::SeqCst);
    pools[0].share().give_back();
    assert_eq!(taken(&pools), [1, 0, 1]);
    assert_eq!(pools[0].share().cap.lock().used, 1);
}

#[test]
fn pending_connections_are_limited_across_pools() {
    let limits = ServerLimits {
        max: None,
        max_connecting: Some(2),
    };
    let pools = pools::<4>(&Arc::new(ServerCap::new(limits)));
    pools.iter().for_each(|pool| pool.pump());
    assert_eq!(taken(&pools), [1, 1, 0, 0]);
    pools[0].share().free_permits(1);
    assert_eq!(taken(&pools), [1, 1, 1, 0]);
    // A failed attempt gives both back.
    pools[1].share().free_permits(1);
    pools[1].share().give_back();
    assert_eq!(taken(&pools), [1, 1, 1, 1]);
}

#[test]
fn the_least_recently_used_idle_connection_makes_room() {
    let pools = pools::<3>(&cap(2));
    pools[0].pump();
    pools[1].pump();
    let (old, new) = (
        Arc::new(ConnectionState::default()),
        Arc::new(ConnectionState::default()),
    );
    assert!(pools[0].enter(&old, OLD) && pools[1].enter(&new, OLD));
    // Used again, it is the newest.
    assert!(pools[0].share().leave_idle(&old) && pools[0].enter(&old, OLD));
    pools[2].share().make_room();
    assert!(!new.is_doomed(), "no pool queues");
    pools[2].pump();
    pools[2].share().make_room();
    assert!(new.is_doomed() && !old.is_doomed());
    assert_eq!(pools[1].swept.load(Ordering::SeqCst), 1);
    assert_eq!(pools[2].taken(), 1);
    assert!(!pools[1].share().leave_idle(&new) && pools[0].share().leave_idle(&old));
}

#[test]
fn no_more_connections_make_room_than_pools_queue() {
    let cap = cap(2);
    let (pools, slow_pool) = (pools::<3>(&cap), Arc::new(Slow));
    let participant: Weak<dyn Participant> = Arc::<Slow>::downgrade(&slow_pool);
    let slow = cap.clone().join(participant);
    let links = [(); 2].map(|()| Arc::new(ConnectionState::default()));
    for link in &links {
        assert!(slow.try_take() && slow.enter_idle(link, || OLD, || false));
    }
    pools[1].pump();
    pools[1].share().make_room();
    pools[1].share().make_room();
    assert_eq!(links.each_ref().map(|link| link.is_doomed()), [true, false]);
    pools[2].pump();
    pools[2].share().make_room();
    assert_eq!(links.each_ref().map(|link| link.is_doomed()), [true, true]);
    for link in &links {
        assert!(!slow.leave_idle(link));
        slow.give_back();
    }
    assert_eq!(taken(&pools), [0, 1, 1]);
}

#[test]
fn a_pool_that_leaves_the_queue_needs_no_room() {
    let pools = pools::<2>(&cap(1));
    pools[0].pump();
    pools[1].pump();
    let link = Arc::new(ConnectionState::default());
    assert!(!pools[0].enter(&link, OLD));
    pools[1].share().withdraw();
    assert!(pools[0].enter(&link, OLD));
    pools[1].share().make_room();
    assert!(!link.is_doomed());
}

#[test]
fn a_busy_pool_keeps_its_share() {
    let pools = pools::<2>(&cap(4));
    for place in [0, 0, 0, 1, 1] {
        pools[place].pump();
    }
    assert_eq!(taken(&pools), [3, 1]);
    let returned = || Arc::new(ConnectionState::default());
    assert!(!pools[0].enter(&returned(), OLD), "it has no waiters");
    pools[0].has_waiters.store(true, Ordering::SeqCst);
    assert!(
        !pools[0].enter(&returned(), OLD),
        "it has more than its share"
    );
    pools[0].share().give_back();
    assert_eq!(taken(&pools), [3, 2]);
    pools[1].pump();
    pools[0].has_waiters.store(false, Ordering::SeqCst);
    assert!(!pools[0].enter(&returned(), OLD), "its waiters have left");
    pools[0].has_waiters.store(true, Ordering::SeqCst);
    assert!(pools[0].enter(&returned(), OLD), "two of four");
}

#[test]
fn a_busy_pool_uses_a_connection_for_a_quantum() {
    let pools = pools::<2>(&cap(1));
    pools[0].pump();
    pools[1].pump();
    pools[0].has_waiters.store(true, Ordering::SeqCst);
    let link = Arc::new(ConnectionState::default());
    assert!(pools[0].enter(&link, Duration::ZERO));
    pools[1].share().make_room();
    assert!(!link.is_doomed(), "its own waiters use it");
    assert!(pools[0].share().leave_idle(&link));
    assert!(!pools[0].enter(&link, QUANTUM));
    // Its waiters have left.
    assert!(pools[0].enter(&link, Duration::ZERO));
    pools[0].has_waiters.store(false, Ordering::SeqCst);
    pools[1].share().make_room();
    assert!(link.is_doomed());
}

#[test]
fn a_server_that_returns_has_its_former_cap() {
    let caps = ServerCaps::new(cap(1).limits);
    let server = |port| ServerAddress::tcp("a", port);
    let held = caps.of(&server(1)).expect("a cap");
    assert!(Arc::ptr_eq(&held, &caps.of(&server(1)).expect("a cap")));
    assert!(!Arc::ptr_eq(&held, &caps.of(&server(2)).expect("a cap")));
    let pool = Pool::new(&held);
    assert!(pool.share().try_take_free());
    drop((held, pool));
    let new = Pool::new(&caps.of(&server(1)).expect("a cap"));
    assert!(new.share().try_take_free(), "no connection was left");
    assert_eq!(caps.by_server.lock().expect("no panic").len(), 1);
    assert!(
        ServerCaps::new(ServerLimits::default())
            .of(&server(1))
            .is_none()
    );
}

#[test]
fn a_dropped_pool_holds_up_no_other() {
    let cap = cap(1);
    let pools = pools::<2>(&cap);
    pools[0].pump();
    Pool::new(&cap).pump();
    pools[1].pump();
    pools[0].share().give_back();
    assert_eq!(pools[1].taken(), 1);
}
