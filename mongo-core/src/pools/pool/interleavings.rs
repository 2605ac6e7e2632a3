//! Interleavings of hand-over, cancellation, clear and close. `shuttle` schedules them: it switches
//! tasks at each access of a lock or an atomic.
//!
//! The model is an owner that does what [`PoolInner`](super::PoolInner) and an adapter do. Each call
//! of `explore` runs [`SCHEDULES`] random schedules, and as many that favour few switches.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::Poll;

use shuttle::future::block_on;
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::thread::{self, JoinHandle, yield_now};
use shuttle::{Config, Runner};

use self::shared_queue::{QueueOwner, SharedQueue};
use self::sync::{AtomicUsize, Mutex, Ordering, lock};
use super::wait_queue::{self, Limits, PoolState};
use crate::pools::server_cap::CapShare;

/// The same file as in the pool, over the primitives of `shuttle`.
#[expect(
    dead_code,
    clippy::duplicate_mod,
    reason = "the pool compiles the file too, and uses all of it"
)]
#[path = "shared_queue.rs"]
mod shared_queue;

mod sync {
    pub(super) use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    pub(super) use shuttle::sync::{Mutex, MutexGuard};

    pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().expect("no task panics with the lock")
    }
}

/// The schedules of each kind, in one run of a model.
const SCHEDULES: usize = 3_000;

const SEED: u64 = 16;

fn explore(model: impl Fn() + Clone + Send + Sync + 'static) {
    let mut config = Config::new();
    config.silence_warnings = true;
    config
        .ungraceful_shutdown_config
        .immediately_return_on_panic = true;
    let random = RandomScheduler::new_from_seed(SEED, SCHEDULES);
    Runner::new(random, config.clone()).run(model.clone());
    let few_switches = PctScheduler::new_from_seed(SEED, 3, SCHEDULES);
    Runner::new(few_switches, config).run(model);
}

/// A pool, and the generic pool that keeps its idle connections.
struct Model {
    queue: SharedQueue<Self>,
    idle: Mutex<Vec<Connection>>,
    /// Attempts that are yet to fail.
    failing: AtomicUsize,
    generation: AtomicUsize,
    /// The generation of the last clear that is complete.
    cleared: AtomicUsize,
    closed_connections: AtomicUsize,
    /// The tickets of callers that were served, in that order.
    served: Mutex<Vec<u64>>,
    attempts: Mutex<Vec<JoinHandle<()>>>,
}

struct Connection {
    generation: usize,
    pool: Weak<Model>,
}

/// The pool was cleared or closed, or an attempt has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Unserved;

impl Connection {
    fn is_stale(&self, pool: &Model) -> bool {
        self.generation < pool.generation.load(Ordering::SeqCst)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.closed_connections.fetch_add(1, Ordering::SeqCst);
            pool.queue.change(&pool, |queue| queue.left());
            pool.queue.pump(&pool);
        }
    }
}

impl QueueOwner for Model {
    type Connection = Connection;
    type Attempt = ();
    type Error = Unserved;
    type Runtime = ();

    fn queue(&self) -> &SharedQueue<Self> {
        &self.queue
    }

    fn cap(&self) -> Option<&CapShare> {
        None
    }

    fn take_idle(&self) -> Option<Connection> {
        lock(&self.idle).pop()
    }

    fn is_kept(&self, connection: &Connection, _: bool) -> bool {
        !connection.is_stale(self)
    }

    fn begin(self: &Arc<Self>, number: u64, (): (), _: Option<()>) {
        let pool = self.clone();
        let attempt = thread::spawn(move || pool.attempt(number));
        lock(&self.attempts).push(attempt);
    }

    fn end_attempt(self: &Arc<Self>, (): &()) {
        unreachable!("no grace period ends");
    }
}

impl Model {
    /// A pool with idle connections.
    fn new(max_size: u32, idle: usize) -> Arc<Self> {
        let limits = Limits {
            max_size: Some(max_size),
            max_connecting: Some(1),
        };
        let pool = Arc::new(Self {
            queue: SharedQueue::new(PoolState::Ready, limits),
            idle: Mutex::new(Vec::new()),
            failing: AtomicUsize::new(0),
            generation: AtomicUsize::new(0),
            cleared: AtomicUsize::new(0),
            closed_connections: AtomicUsize::new(0),
            served: Mutex::new(Vec::new()),
            attempts: Mutex::new(Vec::new()),
        });
        for _ in 0..idle {
            let now = tokio::time::Instant::now();
            let begun = pool
                .queue
                .change(&pool, |queue| queue.begin_in_advance(now, || true));
            let (number, ()) = begun.expect("room");
            pool.queue.change(&pool, |queue| queue.made(number));
            let connection = pool.connection(0);
            lock(&pool.idle).push(connection);
        }
        pool
    }

    fn connection(self: &Arc<Self>, generation: usize) -> Connection {
        Connection {
            generation,
            pool: Arc::downgrade(self),
        }
    }

    fn attempt(self: Arc<Self>, number: u64) {
        let queue = &self.queue;
        let generation = self.generation.load(Ordering::SeqCst);
        let is_wanted = queue.read(|queue| queue.state() == PoolState::Ready);
        yield_now();
        let one_less = |failing: usize| failing.checked_sub(1);
        let fails = self
            .failing
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
        // A clear interrupts it.
        let is_interrupted = generation < self.generation.load(Ordering::SeqCst);
        if is_wanted && fails.is_err() && !is_interrupted {
            let connection = self.connection(generation);
            return queue.offer_and(&self, connection, |queue| queue.made(number));
        }
        let waiter = queue.change(&self, |queue| {
            let waiter = queue.fail_waiter(number);
            queue.failed(number);
            waiter
        });
        queue.fail(waiter, &Unserved);
        queue.pump(&self);
    }

    /// Waits for a connection, unless `leaves`: then it is dropped, pending, at any time.
    fn check_out(self: &Arc<Self>, leaves: bool) -> Result<Option<Connection>, Unserved> {
        if !self.queue.has_waiters()
            && let Some(idle) = self.take_idle()
        {
            return Ok(Some(idle));
        }
        let waiting = self.queue.enter(self, None, ()).ok_or(Unserved)?;
        let ticket = waiting.ticket();
        let mut waiting = pin!(waiting);
        let served = block_on(poll_fn(|context| {
            let cleared = self.cleared.load(Ordering::SeqCst);
            match waiting.as_mut().poll(context) {
                Poll::Ready(Ok(connection)) => {
                    assert!(connection.generation >= cleared, "a stale connection");
                    Poll::Ready(Some(Ok(connection)))
                }
                Poll::Ready(Err(unserved)) => Poll::Ready(Some(Err(unserved))),
                Poll::Pending if leaves => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        }));
        let Some(served) = served else {
            for _ in 0..thread_rng().gen_range(0..4) {
                yield_now();
            }
            return Ok(None);
        };
        lock(&self.served).push(ticket);
        served.map(Some)
    }

    fn check_in(self: &Arc<Self>, connection: Connection) {
        if connection.is_stale(self) {
            return;
        }
        match self.queue.has_waiters() {
            true => self.queue.offer(self, connection),
            false => lock(&self.idle).push(connection),
        }
        if self.queue.has_waiters()
            && let Some(idle) = self.take_idle()
        {
            self.queue.offer(self, idle);
        }
        self.reap_idle();
    }

    fn use_once(self: &Arc<Self>, leaves: bool) -> Result<(), Unserved> {
        if let Some(connection) = self.check_out(leaves)? {
            yield_now();
            self.check_in(connection);
        }
        Ok(())
    }

    /// Ends a generation, and pauses or closes the pool.
    fn clear(self: &Arc<Self>, closes: bool) {
        let queue = &self.queue;
        let generation = queue.change_state(|queue| {
            let was_ready = if closes { queue.close() } else { queue.pause() };
            assert!(was_ready);
            self.generation.fetch_add(1, Ordering::SeqCst) + 1
        });
        queue.evict(self, &Unserved);
        queue.notify_changed();
        queue.take_back(&Unserved, |connection| connection.is_stale(self));
        drop(queue.change(self, |queue| queue.retain(|own| !own.is_stale(self))));
        self.reap_idle();
        self.cleared.store(generation, Ordering::SeqCst);
    }

    fn reap_idle(&self) {
        let stale: Vec<_> = {
            let mut idle = lock(&self.idle);
            idle.extract_if(.., |own| own.is_stale(self)).collect()
        };
        drop(stale);
    }

    /// Completes once no connection is left, as a close waits for it.
    fn wait_until_drained(&self) {
        block_on(async {
            loop {
                let mut changed = pin!(self.queue.changed());
                changed.as_mut().enable();
                if self.queue.read(|queue| queue.total()) == 0 {
                    break;
                }
                changed.await;
            }
        });
    }

    /// Spawns a task of the pool.
    fn spawn<R: Send + 'static>(
        self: &Arc<Self>,
        task: impl FnOnce(&Arc<Self>) -> R + Send + 'static,
    ) -> JoinHandle<R> {
        let pool = self.clone();
        thread::spawn(move || task(&pool))
    }

    /// Waits for all attempts, and checks what is left.
    fn finish(&self) {
        loop {
            let attempt = lock(&self.attempts).pop();
            let Some(attempt) = attempt else { break };
            attempt.join().expect("no panic");
        }
        let idle = lock(&self.idle).len();
        self.queue.read(|queue| {
            assert_eq!((queue.waiters(), queue.pending()), (0, 0));
            assert_eq!(queue.total() as usize, queue.available() + idle, "places");
        });
        assert!(!self.queue.has_waiters());
    }
}

/// No connection is lost or closed, and every waiter that stays is served.
fn hand_over(max_size: u32, idle: usize, failing: usize) -> Arc<Model> {
    let pool = Model::new(max_size, idle);
    pool.failing.store(failing, Ordering::SeqCst);
    let all: Vec<_> = (0..4)
        .map(|caller| pool.spawn(move |pool| pool.use_once(caller % 2 == 1)))
        .collect();
    let failed = all
        .into_iter()
        .map(|task| task.join().expect("no panic"))
        .filter(Result::is_err)
        .count();
    assert!(failed <= failing, "{failed} callers failed");
    pool.finish();
    assert_eq!(pool.closed_connections.load(Ordering::SeqCst), 0, "closed");
    pool
}

#[test]
fn a_connection_passes_from_waiter_to_waiter_in_order() {
    explore(|| {
        let pool = hand_over(1, 1, 0);
        let served = lock(&pool.served);
        assert!(served.is_sorted(), "{served:?}");
    });
}

#[test]
fn no_waiter_is_left_beside_an_available_connection() {
    explore(|| drop(hand_over(2, 1, 0)));
}

#[test]
fn a_failed_attempt_leaves_its_permit_to_the_next_waiter() {
    explore(|| drop(hand_over(2, 0, 1)));
}

#[test]
fn no_stale_connection_is_handed_out_after_a_clear() {
    explore(|| {
        let pool = Model::new(2, 1);
        let callers: Vec<_> = (0..3)
            .map(|caller| pool.spawn(move |pool| pool.use_once(caller == 1)))
            .collect();
        let clear = pool.spawn(|pool| {
            pool.clear(false);
            pool.queue.change_state(|queue| queue.ready());
            pool.queue.notify_changed();
        });
        for caller in callers {
            drop(caller.join().expect("no panic"));
        }
        clear.join().expect("no panic");
        assert_eq!(pool.use_once(false), Ok(()), "it is ready again");
        pool.finish();
        let stale = lock(&pool.idle)
            .iter()
            .filter(|own| own.is_stale(&pool))
            .count();
        assert_eq!(stale, 0);
    });
}

#[test]
fn a_closed_pool_ends_all_waits_and_all_connections() {
    explore(|| {
        let pool = Model::new(2, 1);
        let callers: Vec<_> = (0..3)
            .map(|caller| pool.spawn(move |pool| pool.use_once(caller == 1)))
            .collect();
        let close = pool.spawn(|pool| {
            pool.clear(true);
            pool.wait_until_drained();
        });
        for caller in callers {
            drop(caller.join().expect("no panic"));
        }
        close.join().expect("no panic");
        assert_eq!(pool.use_once(false), Err(Unserved));
        pool.finish();
        assert_eq!(pool.queue.read(|queue| queue.total()), 0);
    });
}

/// The waiter takes a connection that a clear takes back.
#[test]
fn an_offered_connection_is_taken_or_taken_back() {
    explore(|| {
        let pool = Model::new(1, 1);
        let connection = pool.take_idle().expect("one");
        let waiter = pool.spawn(|pool| pool.check_out(false).map(drop));
        let offer = pool.spawn(|pool| pool.check_in(connection));
        let clear = pool.spawn(|pool| pool.clear(false));
        for task in [offer, clear] {
            task.join().expect("no panic");
        }
        drop(waiter.join().expect("no panic"));
        pool.finish();
        assert_eq!(pool.queue.read(|queue| queue.total()), 0);
    });
}
