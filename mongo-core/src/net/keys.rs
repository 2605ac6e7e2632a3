use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OnceCell, oneshot};

use crate::auth::{CacheKey, KeyCache, KeyDerivation, ScramKeys};
use crate::error::{Error, Result};

/// Runs work that would block a runtime's worker: the password hashing of SCRAM, 2.5 ms of CPU
/// with a server's default iteration count.
///
/// Give one of your own to use a thread pool that you have already.
pub trait BlockingExecutor: Send + Sync + 'static {
    /// Runs `work` on some other thread, soon. Must not run it before it returns.
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
        let entry = InFlight { service: self, key };
        let keys = cell
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
        self.executor.execute(Box::new(move || {
            // Nobody may be waiting any more.
            if !sender.is_closed() {
                let _ = sender.send(derivation.run());
            }
        }));
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
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut in_flight = self.service.in_flight();
        // Two: the map's and that of the caller, which goes away with it.
        if in_flight
            .get(&self.key)
            .is_some_and(|cell| Arc::strong_count(cell) <= 2)
        {
            in_flight.remove(&self.key);
        }
    }
}
