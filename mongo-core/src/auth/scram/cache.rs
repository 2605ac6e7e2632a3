//! A cache of derived keys, so that the next connection need not derive them again.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard};

use super::{CacheKey, ScramKeys};
use crate::sync::lock;

/// A cache of at most [`capacity`](Self::capacity) derived keys. It holds no password, and keys are
/// wiped when they are dropped.
///
/// One cache may serve any number of servers and credentials: an entry is found by the password,
/// the salt and the iteration count. The members of a replica set use the same salt for a user, so
/// that a user needs one entry, of about 200 bytes. Each method holds a lock for the duration of a
/// look-up. [`insert`](Self::insert) into a full cache takes one pass over it.
///
/// A full cache keeps entries that are reused. A new entry replaces the least recently used one
/// only if that one was not used for 4 × `capacity` uses of the cache. Otherwise it replaces the
/// newest entry that was not used since its insertion. So if more users than the capacity take
/// turns, only those that exceed the capacity miss, where plain LRU would miss for all.
pub struct KeyCache {
    capacity: usize,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    /// Counts uses: look-ups that hit, and insertions.
    clock: u64,
    by_key: HashMap<CacheKey, Entry>,
}

struct Entry {
    keys: ScramKeys,
    /// The clock at the last use.
    used: u64,
    /// Whether a look-up has found it since its insertion.
    is_reused: bool,
}

impl KeyCache {
    /// The default capacity: 1,024 keys, about 200 KB when full.
    pub const DEFAULT_CAPACITY: usize = 1024;

    /// For how many uses of the cache, in multiples of its capacity, an entry may stay unused
    /// before any new entry replaces it.
    const PATIENCE: u64 = 4;

    /// An empty cache with a capacity; 0 keeps no keys.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            entries: Mutex::default(),
        }
    }

    /// Finds keys, and marks them as used.
    pub fn get(&self, key: &CacheKey) -> Option<ScramKeys> {
        let mut entries = self.lock();
        let now = entries.clock + 1;
        let entry = entries.by_key.get_mut(key)?;
        entry.used = now;
        entry.is_reused = true;
        let keys = entry.keys.clone();
        entries.clock = now;
        Some(keys)
    }

    /// Inserts keys. In a full cache they replace [another entry](Self).
    pub fn insert(&self, key: CacheKey, keys: ScramKeys) {
        if self.capacity == 0 {
            return;
        }
        let mut entries = self.lock();
        entries.clock += 1;
        let replaced = match entries.by_key.len() >= self.capacity {
            true if !entries.by_key.contains_key(&key) => entries.victim(self.capacity),
            _ => None,
        };
        if let Some(replaced) = replaced {
            entries.by_key.remove(&replaced);
        }
        let entry = Entry {
            keys,
            used: entries.clock,
            is_reused: false,
        };
        entries.by_key.insert(key, entry);
    }

    /// Removes keys, such as those that a server refused.
    pub fn remove(&self, key: &CacheKey) {
        self.lock().by_key.remove(key);
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.lock().by_key.len()
    }

    /// Whether the cache has no keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The maximum number of keys.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // A panic leaves the map consistent: at worst an entry is missing.
        lock(&self.entries)
    }
}

impl Entries {
    /// The entry that a new one replaces.
    fn victim(&self, capacity: usize) -> Option<CacheKey> {
        let oldest = self.by_key.iter().min_by_key(|(_, entry)| entry.used)?;
        let patience = KeyCache::PATIENCE.saturating_mul(capacity as u64);
        if self.clock.saturating_sub(oldest.1.used) > patience {
            return Some(*oldest.0);
        }
        let unproven = self.by_key.iter().filter(|(_, entry)| !entry.is_reused);
        let newest = unproven.max_by_key(|(_, entry)| entry.used);
        Some(*newest.unwrap_or(oldest).0)
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

    fn key(number: u32) -> CacheKey {
        let mut digest = [0; 32];
        digest[..4].copy_from_slice(&number.to_be_bytes());
        CacheKey::new(digest)
    }

    /// Looks keys up and inserts those that are missing; returns how many were.
    fn misses(cache: &KeyCache, keys: &ScramKeys, numbers: impl IntoIterator<Item = u32>) -> usize {
        let misses = numbers.into_iter().filter(|number| {
            let is_missing = cache.get(&key(*number)).is_none();
            if is_missing {
                cache.insert(key(*number), keys.clone());
            }
            is_missing
        });
        misses.count()
    }

    #[test]
    fn a_new_entry_replaces_an_entry_without_reuse() {
        let cache = KeyCache::new(2);
        let keys = derived();
        assert_eq!(misses(&cache, &keys, [1, 2, 1, 3]), 3);
        assert!(cache.get(&key(1)).is_some() && cache.get(&key(3)).is_some());
        assert!(cache.get(&key(2)).is_none());
        cache.insert(key(1), keys.clone());
        assert_eq!(cache.len(), 2, "an entry that is there needs no room");
        cache.remove(&key(1));
        assert_eq!(cache.len(), 1);
        // All were reused: the least recently used one is replaced.
        assert_eq!(misses(&cache, &keys, [3, 4, 4, 5]), 2);
        assert!(cache.get(&key(3)).is_none() && cache.get(&key(4)).is_some());
    }

    #[test]
    fn a_capacity_of_zero_keeps_nothing() {
        let cache = KeyCache::new(0);
        assert_eq!(misses(&cache, &derived(), [1, 1]), 2);
        assert_eq!((cache.len(), cache.capacity()), (0, 0));
    }

    /// Plain LRU misses 300 times in each round.
    #[test]
    fn a_rotation_misses_only_for_entries_beyond_the_capacity() {
        let keys = derived();
        for (users, capacity, most) in [
            (300, 256, 45),
            (300, KeyCache::DEFAULT_CAPACITY, 0),
            (2000, KeyCache::DEFAULT_CAPACITY, 977),
            (3, 2, 2),
        ] {
            let cache = KeyCache::new(capacity);
            assert_eq!(misses(&cache, &keys, 0..users), users as usize);
            for round in 0..5 {
                let missed = misses(&cache, &keys, 0..users);
                assert!(missed <= most, "round {round}: {missed} of {users}");
                assert!(cache.len() <= capacity);
            }
        }
    }

    #[test]
    fn users_that_went_away_make_room_for_others() {
        let (cache, keys) = (KeyCache::new(64), derived());
        for _ in 0..3 {
            misses(&cache, &keys, 0..64);
        }
        // Other users replace them: after a while all of those hit.
        let missed: Vec<_> = (0..20).map(|_| misses(&cache, &keys, 100..164)).collect();
        assert_eq!(missed.last(), Some(&0), "{missed:?}");
        // One pass over many others takes no more than one entry from them.
        misses(&cache, &keys, 1000..1190);
        assert!(misses(&cache, &keys, 100..164) <= 1);
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
