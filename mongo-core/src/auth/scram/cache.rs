//! Derived keys, kept so that the next connection need not derive them again.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ScramKeys;

/// What keys are found by in a [`KeyCache`]: a SHA-256 digest of the mechanism, the prepared
/// password, the salt and the iteration count. It is not shown, because a password could be
/// guessed from it faster than from what a server stores.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheKey([u8; 32]);

impl CacheKey {
    pub(super) fn new(digest: [u8; 32]) -> Self {
        Self(digest)
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CacheKey(..)")
    }
}

/// Keys that were derived before, at most [`capacity`](Self::capacity) of them; the ones not used
/// for longest make room. No password is in it, and keys are wiped when they are dropped.
///
/// One cache may serve any number of servers and credentials: what decides is the password, the
/// salt and the iteration count. Members of a replica set give a user the same salt, so that a user
/// needs one entry. Each method holds a lock for as long as a look-up takes, or on
/// [`insert`](Self::insert) into a full cache one pass over it.
pub struct KeyCache {
    capacity: NonZeroUsize,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    clock: u64,
    by_key: HashMap<CacheKey, Entry>,
}

struct Entry {
    keys: ScramKeys,
    used: u64,
}

impl KeyCache {
    /// How many keys a cache holds by default: 256, about 50 KB.
    pub const DEFAULT_CAPACITY: usize = 256;

    /// An empty cache for so many keys, at least one.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN),
            entries: Mutex::default(),
        }
    }

    /// Finds keys, and marks them as used.
    pub fn get(&self, key: &CacheKey) -> Option<ScramKeys> {
        let mut entries = self.lock();
        entries.clock += 1;
        let now = entries.clock;
        let entry = entries.by_key.get_mut(key)?;
        entry.used = now;
        Some(entry.keys.clone())
    }

    /// Keeps keys, and drops the ones not used for longest where there is no more room.
    pub fn insert(&self, key: CacheKey, keys: ScramKeys) {
        let mut entries = self.lock();
        entries.clock += 1;
        let used = entries.clock;
        if entries.by_key.len() >= self.capacity.get() && !entries.by_key.contains_key(&key) {
            let oldest = entries.by_key.iter().min_by_key(|(_, entry)| entry.used);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                entries.by_key.remove(&oldest);
            }
        }
        entries.by_key.insert(key, Entry { keys, used });
    }

    /// Drops keys, such as those that a server refused.
    pub fn remove(&self, key: &CacheKey) {
        self.lock().by_key.remove(key);
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.lock().by_key.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many keys there can be.
    pub fn capacity(&self) -> usize {
        self.capacity.get()
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // Whatever a panic interrupted, the map is whole: at worst an entry is missing.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for KeyCache {
    fn default() -> Self {
        Self::new(Self::DEFAULT_CAPACITY)
    }
}

impl fmt::Debug for KeyCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyCache")
            .field("len", &self.len())
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{KeyDerivation, ScramMechanism};
    use super::*;

    fn derived() -> ScramKeys {
        KeyDerivation::new(ScramMechanism::Sha1, "u", "p", vec![1], 1)
            .expect("allowed")
            .run()
    }

    #[test]
    fn drops_what_was_not_used_for_longest() {
        let cache = KeyCache::new(2);
        let keys = derived();
        let [a, b, c] = [1, 2, 3].map(|byte| CacheKey::new([byte; 32]));
        cache.insert(a, keys.clone());
        cache.insert(b, keys.clone());
        assert!(cache.get(&a).is_some());
        cache.insert(c, keys.clone());
        assert!(cache.get(&a).is_some() && cache.get(&c).is_some());
        assert!(cache.get(&b).is_none());
        cache.insert(a, keys);
        assert_eq!(cache.len(), 2, "an entry that is there needs no room");
        cache.remove(&a);
        assert_eq!(cache.len(), 1);
        assert_eq!(KeyCache::new(0).capacity(), 1);
    }

    #[test]
    fn many_threads_stay_within_the_bound() {
        let cache = KeyCache::new(8);
        let keys = derived();
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                let (cache, keys) = (&cache, &keys);
                scope.spawn(move || {
                    for round in 0..200u8 {
                        cache.insert(CacheKey::new([thread ^ round; 32]), keys.clone());
                        cache.get(&CacheKey::new([round; 32]));
                        assert!(cache.len() <= 8);
                    }
                });
            }
        });
        assert_eq!(cache.len(), 8);
    }
}
