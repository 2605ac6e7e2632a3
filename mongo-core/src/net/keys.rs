use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OnceCell, oneshot};

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
/// Share one among pools whose credentials repeat. Holds at most
/// [`KeyCache::DEFAULT_CAPACITY`] keys, found by a digest, never a password.
pub struct KeyService {
    cache: KeyCache,
    in_flight: Mutex<HashMap<CacheKey, Arc<OnceCell<ScramKeys>>>>,
    executor: Arc<dyn BlockingExecutor>,
}

impl Default for KeyService {
    fn default() -> Self {
        Self::new(Arc::new(TokioBlocking))
    }
}

impl KeyService {
    /// An empty cache, filled by `executor`.
    pub fn new(executor: Arc<dyn BlockingExecutor>) -> Self {
        Self {
            cache: KeyCache::default(),
            in_flight: Mutex::default(),
            executor,
        }
    }

    /// The keys of a derivation: from the cache, from a derivation that is under way, or derived.
    ///
    /// Dropped meanwhile, the next one who waits takes over.
    ///
    /// # Errors
    /// The executor dropped the work, as a runtime does that shuts down.
    pub(super) async fn derive(&self, derivation: KeyDerivation) -> Result<ScramKeys> {
        let key = derivation.key();
        if let Some(keys) = self.cache.get(&key) {
            return Ok(keys);
        }
        let cell = self.in_flight().entry(key).or_default().clone();
        let entry = InFlight {
            service: self,
            key,
            cell,
        };
        let keys = entry
            .cell
            .get_or_try_init(|| async {
                // Whoever was first may have ended between the look-up and this.
                match self.cache.get(&key) {
                    Some(keys) => Ok(keys),
                    None => self.execute(derivation).await,
                }
            })
            .await?
            .clone();
        self.cache.insert(key, keys.clone());
        drop(entry);
        Ok(keys)
    }

    async fn execute(&self, derivation: KeyDerivation) -> Result<ScramKeys> {
        let (sender, receiver) = oneshot::channel();
        let work = Box::new(move || {
            // Nobody may be waiting any more.
            if !sender.is_closed() {
                let _ = sender.send(derivation.run());
            }
        });
        guard("blocking executor", || self.executor.execute(work))
            .map_err(|panicked| Error::configuration(panicked.to_string()))?;
        receiver
            .await
            .map_err(|_| Error::configuration("the blocking executor dropped its work"))
    }

    fn in_flight(&self) -> MutexGuard<'_, HashMap<CacheKey, Arc<OnceCell<ScramKeys>>>> {
        self.in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for KeyService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyService")
            .field("cached", &self.cache.len())
            .finish_non_exhaustive()
    }
}

/// Takes an entry off the list with the last one who waits for it, however that one ends.
struct InFlight<'a> {
    service: &'a KeyService,
    key: CacheKey,
    cell: Arc<OnceCell<ScramKeys>>,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut in_flight = self.service.in_flight();
        // Given back under the lock, or two who end at once would each leave it to the other.
        self.cell = Arc::default();
        if in_flight
            .get(&self.key)
            .is_some_and(|cell| Arc::strong_count(cell) == 1)
        {
            in_flight.remove(&self.key);
        }
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
        assert!(service.in_flight().is_empty());
    }

    #[test]
    fn the_next_one_takes_over_from_one_who_is_dropped() {
        let (service, executor) = service();
        {
            let mut second = pin!(service.derive(derivation()));
            {
                let mut first = pin!(service.derive(derivation()));
                assert!(!is_done(first.as_mut()));
                assert!(!is_done(second.as_mut()));
            }
            // What the first one asked for is not even begun.
            for work in executor.take() {
                work();
            }
            assert!(!is_done(second.as_mut()));
            assert_eq!(executor.asked(), 2);
            for work in executor.take() {
                work();
            }
            assert!(is_done(second.as_mut()));
        }
        assert!(service.in_flight().is_empty());
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

    /// Two who are dropped in the same moment once left the entry to each other.
    #[test]
    fn whoever_is_dropped_leaves_nothing_behind() {
        let (service, _executor) = service();
        let barrier = Barrier::new(2);
        let derive_and_drop = || {
            for _ in 0..2000 {
                let mut waiting = Box::pin(service.derive(derivation()));
                assert!(!is_done(waiting.as_mut()));
                barrier.wait();
                drop(waiting);
                barrier.wait();
                assert!(service.in_flight().is_empty());
                barrier.wait();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(derive_and_drop);
            scope.spawn(derive_and_drop);
        });
    }
}
