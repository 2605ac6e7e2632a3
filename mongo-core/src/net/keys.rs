use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::auth::{CacheKey, KeyCache, KeyDerivation, ScramKeys};
use crate::callback::guard;
use crate::error::{Error, Result};

/// Runs work that would block a runtime's worker: the password hashing of SCRAM, 2.5 ms of CPU
/// with a server's default iteration count.
///
/// Give one of your own to use a thread pool that you have already.
pub trait BlockingExecutor: Send + Sync + 'static {
    /// Runs `work` on some other thread, soon. Must not run it before it returns. A panic is caught
    /// and logged, and fails the authentication as [`ErrorKind::Configuration`](crate::ErrorKind::Configuration).
    fn execute(&self, work: Box<dyn FnOnce() + Send>);
}

/// Tokio's blocking threads ([`tokio::task::spawn_blocking`]).
#[derive(Clone, Copy, Debug, Default)]
pub struct TokioBlocking;

impl BlockingExecutor for TokioBlocking {
    fn execute(&self, work: Box<dyn FnOnce() + Send>) {
        // The work tells its own end.
        drop(tokio::task::spawn_blocking(work));
    }
}

/// Derived SCRAM keys, made once for any number of connections that wait for them.
///
/// Share one among pools whose credentials repeat. Keys are found by a digest, never a password; the
/// service keeps at most [`KeyCache::DEFAULT_CAPACITY`] of them, of about 200 bytes each, or
/// [as many as you say](Self::with_capacity).
///
/// A derivation runs on the executor and ends there, also if all connections that wait for it are
/// given up, or are not polled.
pub struct KeyService {
    inner: Arc<Inner>,
}

struct Inner {
    cache: KeyCache,
    in_flight: Mutex<HashMap<CacheKey, Outcome>>,
    executor: Arc<dyn BlockingExecutor>,
}

/// What a derivation comes to; closed without keys if the executor dropped the work.
type Outcome = watch::Receiver<Option<ScramKeys>>;

impl Default for KeyService {
    fn default() -> Self {
        Self::new(Arc::new(TokioBlocking))
    }
}

impl KeyService {
    /// An empty cache, filled by `executor`.
    pub fn new(executor: Arc<dyn BlockingExecutor>) -> Self {
        Self::over(KeyCache::default(), executor)
    }

    /// The same with an empty cache for so many keys. Zero keeps none: a derivation then serves
    /// only the connections that wait for it.
    #[must_use]
    pub fn with_capacity(self, capacity: usize) -> Self {
        Self::over(KeyCache::new(capacity), self.inner.executor.clone())
    }

    fn over(cache: KeyCache, executor: Arc<dyn BlockingExecutor>) -> Self {
        let inner = Inner {
            cache,
            in_flight: Mutex::default(),
            executor,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The keys of a derivation: from the cache, from a derivation that is under way, or derived.
    ///
    /// Dropping this future does not stop the derivation. If the executor drops the work of another
    /// caller, as a runtime does that shuts down, this caller starts it anew.
    ///
    /// # Errors
    /// The executor dropped the work that this caller started.
    pub(super) async fn derive(&self, derivation: KeyDerivation) -> Result<ScramKeys> {
        let key = derivation.key();
        if let Some(keys) = self.inner.cache.get(&key) {
            return Ok(keys);
        }
        let derivation = Arc::new(derivation);
        loop {
            let (mut outcome, is_own) = match self.inner.begin(key) {
                Begun::Cached(keys) => return Ok(keys),
                Begun::ByAnother(outcome) => (outcome, false),
                Begun::ByThis(outcome, sender) => {
                    self.start(key, derivation.clone(), sender)?;
                    (outcome, true)
                }
            };
            // Safe to drop: the work goes on without its waiters.
            if let Ok(keys) = outcome.wait_for(Option::is_some).await
                && let Some(keys) = &*keys
            {
                return Ok(keys.clone());
            }
            if is_own {
                return Err(Error::configuration(
                    "the blocking executor dropped the derivation of a key",
                ));
            }
        }
    }

    fn start(
        &self,
        key: CacheKey,
        derivation: Arc<KeyDerivation>,
        sender: watch::Sender<Option<ScramKeys>>,
    ) -> Result<()> {
        let flight = Flight {
            inner: self.inner.clone(),
            key,
            sender,
        };
        // Without a lock: an executor may run the work at once.
        let work = Box::new(move || flight.finish(derivation.run()));
        guard("blocking executor", || self.inner.executor.execute(work))
            .map_err(|panicked| Error::configuration(panicked.to_string()))
    }
}

enum Begun {
    Cached(ScramKeys),
    ByAnother(Outcome),
    /// The caller has to start the work.
    ByThis(Outcome, watch::Sender<Option<ScramKeys>>),
}

impl Inner {
    fn begin(&self, key: CacheKey) -> Begun {
        let mut in_flight = self.in_flight();
        if let Some(outcome) = in_flight.get(&key) {
            return Begun::ByAnother(outcome.clone());
        }
        // A derivation may have ended since the last look: it fills the cache first.
        if let Some(keys) = self.cache.get(&key) {
            return Begun::Cached(keys);
        }
        let (sender, outcome) = watch::channel(None);
        in_flight.insert(key, outcome.clone());
        Begun::ByThis(outcome, sender)
    }

    fn in_flight(&self) -> MutexGuard<'_, HashMap<CacheKey, Outcome>> {
        self.in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A derivation under way, in the executor's hands. Run or dropped, it takes itself off the list
/// and wakes all waiters.
struct Flight {
    inner: Arc<Inner>,
    key: CacheKey,
    sender: watch::Sender<Option<ScramKeys>>,
}

impl Flight {
    fn finish(self, keys: ScramKeys) {
        self.inner.cache.insert(self.key, keys.clone());
        self.sender.send_replace(Some(keys));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        // Before the sender goes, so that whoever sees it closed finds no entry of it.
        let removed = self.inner.in_flight().remove(&self.key);
        drop(removed);
    }
}

impl fmt::Debug for KeyService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyService")
            .field("cached", &self.inner.cache.len())
            .field("capacity", &self.inner.cache.capacity())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::auth::ScramMechanism;
    use crate::auth::scram::{ClientFirst, Nonce};

    type Work = Box<dyn FnOnce() + Send>;

    /// Keeps the work until it is asked for.
    #[derive(Clone, Default)]
    struct Held(Arc<(Mutex<Vec<Work>>, AtomicUsize)>);

    impl BlockingExecutor for Held {
        fn execute(&self, work: Work) {
            self.0.1.fetch_add(1, Ordering::SeqCst);
            self.0.0.lock().expect("not poisoned").push(work);
        }
    }

    impl Held {
        fn take(&self) -> Vec<Work> {
            std::mem::take(&mut *self.0.0.lock().expect("not poisoned"))
        }

        fn asked(&self) -> usize {
            self.0.1.load(Ordering::SeqCst)
        }
    }

    fn service() -> (KeyService, Held) {
        let held = Held::default();
        (KeyService::new(Arc::new(held.clone())), held)
    }

    fn derivation() -> KeyDerivation {
        let nonce = Nonce::from_text("abc").expect("a nonce");
        let first = ClientFirst::new(ScramMechanism::Sha256, "user", nonce);
        let made = first.server_first(b"r=abcdef,s=c2FsdA==,i=4096", "user", "pencil");
        made.expect("within bounds").1
    }

    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn is_done<F: Future<Output = Result<ScramKeys>>>(future: Pin<&mut F>) -> bool {
        match poll(future) {
            Poll::Ready(keys) => keys.is_ok(),
            Poll::Pending => false,
        }
    }

    #[test]
    fn one_derivation_serves_all_who_wait_and_all_who_come_later() {
        let (service, executor) = service();
        {
            let mut first = pin!(service.derive(derivation()));
            let mut second = pin!(service.derive(derivation()));
            assert!(!is_done(first.as_mut()));
            assert!(!is_done(second.as_mut()));
            for work in executor.take() {
                work();
            }
            assert!(is_done(first.as_mut()));
            assert!(is_done(second.as_mut()));
        }
        assert!(is_done(pin!(service.derive(derivation()))));
        assert_eq!(executor.asked(), 1);
        assert!(service.inner.in_flight().is_empty());
    }

    #[test]
    fn a_dropped_waiter_does_not_stop_the_derivation() {
        let (service, executor) = service();
        {
            let mut second = pin!(service.derive(derivation()));
            {
                let mut first = pin!(service.derive(derivation()));
                assert!(!is_done(first.as_mut()));
                assert!(!is_done(second.as_mut()));
            }
            for work in executor.take() {
                work();
            }
            assert!(is_done(second.as_mut()));
        }
        assert_eq!(executor.asked(), 1);
        assert!(service.inner.in_flight().is_empty());
    }

    #[test]
    fn a_waiter_that_is_not_polled_holds_up_no_other() {
        let (service, executor) = service();
        let mut unpolled = pin!(service.derive(derivation()));
        assert!(!is_done(unpolled.as_mut()));
        for work in executor.take() {
            work();
        }
        assert!(is_done(pin!(service.derive(derivation()))));
        assert_eq!(executor.asked(), 1);
        assert!(is_done(unpolled.as_mut()));
    }

    #[test]
    fn work_that_one_runtime_drops_is_started_anew_by_another_waiter() {
        let (service, executor) = service();
        let mut unpolled = pin!(service.derive(derivation()));
        let mut other = pin!(service.derive(derivation()));
        assert!(!is_done(unpolled.as_mut()));
        assert!(!is_done(other.as_mut()));
        drop(executor.take());
        assert!(!is_done(other.as_mut()), "it has started the work");
        assert_eq!(executor.asked(), 2);
        for work in executor.take() {
            work();
        }
        assert!(is_done(other.as_mut()));
    }

    /// The real executor, and a runtime that ends with the work still queued.
    #[test]
    fn a_runtime_that_ends_hands_its_derivation_over() {
        let service = KeyService::default();
        let narrow = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .build()
            .expect("a runtime");
        let (begun, is_begun) = std::sync::mpsc::channel();
        let (end, is_over) = std::sync::mpsc::channel::<()>();
        narrow.spawn_blocking(move || {
            let _ = begun.send(());
            let _ = is_over.recv();
        });
        is_begun.recv().expect("the only thread is busy");
        let mut unpolled = Box::pin(service.derive(derivation()));
        {
            let _entered = narrow.enter();
            assert!(!is_done(unpolled.as_mut()));
        }
        narrow.shutdown_background();
        drop(end);
        let other = tokio::runtime::Builder::new_current_thread().build();
        let derived = other
            .expect("a runtime")
            .block_on(service.derive(derivation()));
        derived.expect("keys");
    }

    #[test]
    fn the_capacity_bounds_what_is_kept() {
        let (service, executor) = service();
        let service = service.with_capacity(0);
        for round in 1..=2 {
            let mut waiting = pin!(service.derive(derivation()));
            assert!(!is_done(waiting.as_mut()));
            for work in executor.take() {
                work();
            }
            assert!(is_done(waiting.as_mut()));
            assert_eq!(executor.asked(), round);
        }
        assert!(service.inner.cache.is_empty());
    }

    #[test]
    fn work_that_the_executor_drops_is_an_error_and_no_end() {
        let (service, executor) = service();
        {
            let mut first = pin!(service.derive(derivation()));
            assert!(!is_done(first.as_mut()));
            drop(executor.take());
            assert!(matches!(poll(first.as_mut()), Poll::Ready(Err(_))));
        }
        let mut second = pin!(service.derive(derivation()));
        assert!(!is_done(second.as_mut()));
        for work in executor.take() {
            work();
        }
        assert!(is_done(second.as_mut()));
    }

    /// Whatever its waiters do, the work itself takes its entry off the list.
    #[test]
    fn a_dropped_derivation_leaves_nothing_behind() {
        let (service, executor) = service();
        let barrier = Barrier::new(2);
        let derive_and_drop = || {
            for round in 0..2000 {
                let mut waiting = Box::pin(service.derive(derivation()));
                assert!(!is_done(waiting.as_mut()));
                barrier.wait();
                match round % 2 {
                    0 => drop(waiting),
                    _ => drop(executor.take()),
                }
                barrier.wait();
                drop(executor.take());
                barrier.wait();
                assert!(service.inner.in_flight().is_empty());
                barrier.wait();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(derive_and_drop);
            scope.spawn(derive_and_drop);
        });
    }
}
