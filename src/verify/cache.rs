//! A bounded cache of what has been verified, under a keyed hash of the bytes that were.
//!
//! The key of the hash is drawn when the process starts, so nobody outside can find two payloads that
//! meet, and 128 bits are enough that none meet by chance. SipHash-1-3 is enough too: no hash ever leaves
//! the process, so there is nothing to learn the key from. An entry also carries the generation of the
//! keys it was verified under, and is not found under another: a reload empties the cache at once, even
//! of what a slow worker adds afterwards.
//!
//! Each shard keeps two maps, young and old. A hit in the old one moves the entry to the young one; when
//! the young one is full it becomes the old one, and what nobody asked for since is dropped with a whole
//! map instead of entry by entry.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use aws_lc_rs::rand;
use parking_lot::Mutex;
use siphasher::sip128;

use super::Validity;
use super::keys::Keys;
use crate::scan::{Form, PlaceKey, Pseudonym};

/// Shards per cache: enough that a few cores rarely wait for each other.
const SHARDS: usize = 64;

/// The keyed hash of what was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheKey(u128);

/// A bounded map from a keyed hash to `V`.
pub struct Cache<V> {
    hasher: sip128::SipHasher13,
    shards: Vec<Shard<V>>,
    shard_entries_max: usize,
}

/// On cache lines of its own: neighbours are used by other cores.
#[repr(align(128))]
struct Shard<V>(Mutex<Maps<V>>);

type Map<V> = HashMap<u128, Entry<V>, BuildHasherDefault<KeyIsHash>>;

struct Maps<V> {
    young: Map<V>,
    old: Map<V>,
}

#[derive(Clone)]
struct Entry<V> {
    generation: u64,
    value: V,
}

impl<V: Clone> Cache<V> {
    /// A cache of at most `entries_max` entries (rounded up to two per shard); memory grows with use.
    pub fn new(entries_max: usize) -> Self {
        let mut key = [0_u8; 16];
        // AWS-LC ends the process rather than return without randomness, so this cannot fail.
        let _ = rand::fill(&mut key);
        Self {
            hasher: sip128::SipHasher13::new_with_key(&key),
            shards: (0..SHARDS)
                .map(|_| Shard(Mutex::new(Maps { young: Map::default(), old: Map::default() })))
                .collect(),
            shard_entries_max: entries_max.div_ceil(SHARDS * 2).max(1),
        }
    }

    /// The key for these bytes.
    pub fn key(&self, bytes: &[u8]) -> CacheKey {
        CacheKey(self.hasher.hash(bytes).as_u128())
    }

    /// The value under this key, if it was added under the same generation.
    pub fn get(&self, key: CacheKey, generation: u64) -> Option<V> {
        let maps = &mut *self.shard(key)?.0.lock();
        if let Some(entry) = maps.young.get(&key.0) {
            return (entry.generation == generation).then(|| entry.value.clone());
        }
        let entry = maps.old.remove(&key.0)?;
        if entry.generation != generation {
            return None;
        }
        let value = entry.value.clone();
        self.put(maps, key, entry);
        Some(value)
    }

    /// Adds or replaces a value.
    pub fn insert(&self, key: CacheKey, generation: u64, value: V) {
        if let Some(shard) = self.shard(key) {
            self.put(&mut shard.0.lock(), key, Entry { generation, value });
        }
    }

    /// How many entries there are, at most twice counted while they move.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.0.lock()).map(|maps| maps.young.len() + maps.old.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn put(&self, maps: &mut Maps<V>, key: CacheKey, entry: Entry<V>) {
        if maps.young.len() >= self.shard_entries_max && !maps.young.contains_key(&key.0) {
            maps.old = std::mem::take(&mut maps.young);
        }
        maps.young.insert(key.0, entry);
    }

    /// By the high half; the maps use the low one.
    fn shard(&self, key: CacheKey) -> Option<&Shard<V>> {
        let [byte, ..] = key.0.to_be_bytes();
        self.shards.get(usize::from(byte) % SHARDS)
    }
}

/// The key is a good hash already.
#[derive(Default)]
struct KeyIsHash(u64);

impl Hasher for KeyIsHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.first_chunk().map_or(self.0, |low| u64::from_le_bytes(*low));
    }
}

/// What remains of a verified code: whom or what it stands for, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolved {
    /// Its holder.
    pub subject: ResolvedSubject,
    /// The format it was read as.
    pub form: Form,
    /// When it may be used.
    pub validity: Validity,
}

/// The holder of a verified code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResolvedSubject {
    /// A person.
    Person(Pseudonym),
    /// A place.
    Place(PlaceKey),
}

/// Codes seen before. A hit is for the very snapshot of keys and revocations that the code was verified
/// under, so only its validity remains to be asked.
pub struct TokenCache(Cache<Resolved>);

impl TokenCache {
    /// A cache of at most `entries_max` tokens.
    pub fn new(entries_max: usize) -> Self {
        Self(Cache::new(entries_max))
    }

    /// The key for this payload.
    pub fn key(&self, payload: &str) -> CacheKey {
        self.0.key(payload.as_bytes())
    }

    /// The token under this key, if it was verified under these keys.
    pub fn get(&self, key: CacheKey, keys: &Keys) -> Option<Resolved> {
        self.0.get(key, keys.generation())
    }

    /// Adds a token verified under these keys.
    pub fn insert(&self, key: CacheKey, keys: &Keys, resolved: Resolved) {
        self.0.insert(key, keys.generation(), resolved);
    }

    /// How many tokens are remembered.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_found_under_its_own_generation_only() {
        let cache = Cache::new(1000);
        let key = cache.key(b"token");
        assert_eq!(cache.get(key, 0), None);
        cache.insert(key, 0, 7);
        assert_eq!(cache.get(key, 0), Some(7));
        assert_eq!(cache.get(key, 1), None);
        cache.insert(key, 1, 8);
        assert_eq!(cache.get(key, 1), Some(8));
        assert_eq!(cache.get(key, 0), None);
    }

    #[test]
    fn it_stays_within_its_bound_and_keeps_what_is_used() {
        let cache = Cache::new(SHARDS * 20);
        let favourite = cache.key(b"favourite");
        cache.insert(favourite, 0, 0_u32);
        for value in 0..100_000_u32 {
            cache.insert(cache.key(&value.to_be_bytes()), 0, value);
            assert_eq!(cache.get(favourite, 0), Some(0), "after {value}");
        }
        assert!(cache.len() <= SHARDS * 20, "{}", cache.len());
    }

    #[test]
    fn two_processes_hash_differently() {
        let (one, other) = (Cache::<u8>::new(1), Cache::<u8>::new(1));
        assert_ne!(one.key(b"token"), other.key(b"token"));
    }
}
