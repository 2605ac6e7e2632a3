use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use tokio::sync::watch;

use crate::auth::{CacheKey, KeyCache, KeyDerivation, ScramKeys};
use crate::callback::guard;
use crate::error::{Error, Result};
use crate::sync::lock;

/// Runs work that would block a runtime's worker thread: SCRAM password hashing, which takes 2.5 ms
/// of CPU time with a server's default iteration count.
///
/// Implement it to use an existing thread pool.
pub trait BlockingExecutor: Send + Sync + 'static {
    /// Runs `work` on another thread, soon. It must not run before this method returns. A panic is
    /// caught and logged, and fails the authentication with
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration).
    fn execute(&self, work: Box<dyn FnOnce() + Send>);
}

/// Tokio's blocking threads ([`tokio::task::spawn_blocking`]).
#[derive(Clone, Copy, Debug, Default)]
pub struct TokioBlocking;

impl BlockingExecutor for TokioBlocking {
    fn execute(&self, work: Box<dyn FnOnce() + Send>) {
        // The work itself reports its end.
        drop(tokio::task::spawn_blocking(work));
    }
}

/// Caches derived SCRAM keys. Each key is derived once for any number of connections that wait for
/// it.
///
/// Share one service among pools that use the same credentials. Keys are found by a digest, never
/// by a password. The service keeps at most [`KeyCache::DEFAULT_CAPACITY`] keys, of about 200 bytes
/// each, or the number set by [`with_capacity`](Self::with_capacity).
///
/// A derivation runs to completion on the executor, even if all connections that wait for it are
/// dropped or not polled. Its keys are cached once a server has proved with its signature that it
/// knows them, so that no other server can fill the cache. Until then they are used only for
/// connections that authenticate at the same time.
pub struct KeyService {
    inner: Arc<Inner>,
}

struct Inner {
    /// The keys that a server has proved to know.
    cache: KeyCache,
    unproven: Mutex<HashMap<CacheKey, Unproven>>,
    executor: Arc<dyn BlockingExecutor>,
}

/// A derivation that is running, or is complete but not proved. It exists as long as there is a
/// lease on it.
struct Unproven {
    outcome: Outcome,
    lease: Weak<Lease>,
}

/// Removes its entry from the map when dropped.
struct Lease {
    inner: Arc<Inner>,
    key: CacheKey,
}

/// Keys for one connection that authenticates.
pub(crate) struct Derived {
    keys: ScramKeys,
    /// `None` if they are from the cache.
    lease: Option<Arc<Lease>>,
}

impl Derived {
    pub(crate) fn keys(&self) -> &ScramKeys {
        &self.keys
    }

    /// Caches the keys, because the server has proved that it knows them.
    pub(crate) fn proved(self) {
        if let Some(lease) = self.lease {
            // Before the lease ends, so that the keys are always found in one of the two places.
            lease.inner.cache.insert(lease.key, self.keys);
        }
    }
}

/// The result of a derivation. The channel is closed without keys if the executor dropped the work.
type Outcome = watch::Receiver<Option<ScramKeys>>;

impl Default for KeyService {
    fn default() -> Self {
        Self::new(Arc::new(TokioBlocking))
    }
}

impl KeyService {
    /// Creates an empty cache that `executor` fills.
    pub fn new(executor: Arc<dyn BlockingExecutor>) -> Self {
        Self::over(KeyCache::default(), executor)
    }

    /// Replaces the cache with an empty one for `capacity` keys. With zero, no keys are cached: a
    /// derivation is then used only for the connections that wait for it.
    #[must_use]
    pub fn with_capacity(self, capacity: usize) -> Self {
        Self::over(KeyCache::new(capacity), self.inner.executor.clone())
    }

    fn over(cache: KeyCache, executor: Arc<dyn BlockingExecutor>) -> Self {
        let inner = Inner {
            cache,
            unproven: Mutex::default(),
            executor,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The keys of a derivation: from the cache, from a derivation that is running or not proved
    /// yet, or newly derived.
    ///
    /// Dropping this future does not stop the derivation. If the executor drops the work of another
    /// caller, as a runtime that shuts down does, this caller starts it again.
    ///
    /// # Errors
    /// The executor dropped the work that this caller started.
    pub(crate) async fn derive(&self, derivation: KeyDerivation) -> Result<Derived> {
        let key = derivation.key();
        if let Some(keys) = self.inner.cache.get(&key) {
            return Ok(Derived { keys, lease: None });
        }
        let derivation = Arc::new(derivation);
        loop {
            let (mut outcome, lease, is_own) = match self.inner.begin(key) {
                Begun::Cached(keys) => return Ok(Derived { keys, lease: None }),
                Begun::ByAnother(outcome, lease) => (outcome, lease, false),
                Begun::ByThis(outcome, lease, sender) => {
                    self.start(lease.clone(), derivation.clone(), sender)?;
                    (outcome, lease, true)
                }
            };
            // Safe to drop: the work goes on without its waiters.
            if let Ok(keys) = outcome.wait_for(Option::is_some).await
                && let Some(keys) = &*keys
            {
                return Ok(Derived {
                    keys: keys.clone(),
                    lease: Some(lease),
                });
            }
            if is_own {
                return Err(Error::configuration(
                    "the blocking executor dropped a key derivation",
                ));
            }
        }
    }

    fn start(
        &self,
        lease: Arc<Lease>,
        derivation: Arc<KeyDerivation>,
        sender: watch::Sender<Option<ScramKeys>>,
    ) -> Result<()> {
        // Without a lock, because an executor may run the work at once. If the work is dropped, all
        // waiters are woken.
        let work = Box::new(move || {
            sender.send_replace(Some(derivation.run()));
            drop(lease);
        });
        guard("blocking executor", || self.inner.executor.execute(work))
            .map_err(|panicked| Error::configuration(panicked.to_string()))
    }
}

enum Begun {
    Cached(ScramKeys),
    ByAnother(Outcome, Arc<Lease>),
    /// The caller must start the work.
    ByThis(Outcome, Arc<Lease>, watch::Sender<Option<ScramKeys>>),
}

impl Inner {
    fn begin(self: &Arc<Self>, key: CacheKey) -> Begun {
        let mut unproven = self.unproven();
        if let Some(entry) = unproven.get(&key)
            && !entry.was_dropped()
            && let Some(lease) = entry.lease.upgrade()
        {
            return Begun::ByAnother(entry.outcome.clone(), lease);
        }
        // Keys may have been proved since the last check. They are in the cache before they leave
        // the map.
        if let Some(keys) = self.cache.get(&key) {
            return Begun::Cached(keys);
        }
        let (sender, outcome) = watch::channel(None);
        let lease = Arc::new(Lease {
            inner: self.clone(),
            key,
        });
        let entry = Unproven {
            outcome: outcome.clone(),
            lease: Arc::downgrade(&lease),
        };
        unproven.insert(key, entry);
        Begun::ByThis(outcome, lease, sender)
    }

    fn unproven(&self) -> MutexGuard<'_, HashMap<CacheKey, Unproven>> {
        lock(&self.unproven)
    }
}

impl Unproven {
    /// Whether the executor dropped the work.
    fn was_dropped(&self) -> bool {
        self.outcome.has_changed().is_err() && self.outcome.borrow().is_none()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut unproven = self.inner.unproven();
        // Another entry may have replaced it.
        let is_own = |entry: &Unproven| std::ptr::eq(entry.lease.as_ptr(), self);
        if unproven.get(&self.key).is_some_and(is_own) {
            unproven.remove(&self.key);
        }
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
mod tests;
