//! A concurrent map cut into generations of time, so that expiry is dropping a map.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use arc_swap::ArcSwap;
use dashmap::{DashMap, Entry};
use parking_lot::Mutex;

/// 12 bytes of a keyed hash. 96 bits keep the chance of any collision among a billion live entries
/// below one in 10^11, so equality of keys is taken for equality of what was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key([u32; 3]);

impl Key {
    #[allow(clippy::cast_possible_truncation)] // Three words of the hash, the fourth dropped.
    pub(super) fn from_hash(hash: u128) -> Self {
        Self([hash as u32, (hash >> 32) as u32, (hash >> 64) as u32])
    }

    pub(super) fn from_bytes(bytes: [u8; 12]) -> Self {
        let mut words = [0; 3];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        Self(words)
    }

    pub(super) fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        for (to, from) in bytes.iter_mut().zip(self.0.iter().flat_map(|word| word.to_le_bytes())) {
            *to = from;
        }
        bytes
    }

    pub(super) fn low(self) -> u32 {
        self.0[2]
    }
}

impl std::hash::Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64((u64::from(self.0[0]) << 32) | u64::from(self.0[1]));
    }
}

/// Keys are uniform already: the map takes their bits as they are.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Prehashed;

impl BuildHasher for Prehashed {
    type Hasher = PassThrough;

    fn build_hasher(&self) -> PassThrough {
        PassThrough(0)
    }
}

/// Hands the one word that [`Key`] writes through unchanged.
#[derive(Debug)]
pub(super) struct PassThrough(u64);

impl Hasher for PassThrough {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Not reached by `Key`; any other input still hashes, if poorly.
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

/// Shards of one generation's map; a power of two. Many small shards, so that growing one stalls its
/// writers for a millisecond, not for a second.
const SHARDS: usize = 256;

/// How many generations may live at once: a bound on clock jumps, far above the eight or so in use.
const GENERATIONS_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct Generations<V> {
    span_ms: i64,
    /// Newest first. Replaced whole when a generation begins or ends; read without a lock.
    live: ArcSwap<Vec<Arc<Generation<V>>>>,
    changing: Mutex<()>,
}

#[derive(Debug)]
struct Generation<V> {
    number: i64,
    map: DashMap<Key, V, Prehashed>,
}

impl<V: Copy> Generations<V> {
    pub(super) fn new(span_ms: i64) -> Self {
        Self { span_ms: span_ms.max(1), live: ArcSwap::from_pointee(Vec::new()), changing: Mutex::new(()) }
    }

    /// Where the generation of `time` begins.
    pub(super) fn start_of(&self, time_ms: i64) -> i64 {
        time_ms.div_euclid(self.span_ms) * self.span_ms
    }

    /// The value under `key` in the generation of `time`.
    pub(super) fn get(&self, key: &Key, time_ms: i64) -> Option<V> {
        let number = time_ms.div_euclid(self.span_ms);
        let live = self.live.load();
        let generation = live.iter().find(|generation| generation.number == number)?;
        generation.map.get(key).map(|value| *value)
    }

    /// The value under `key` in the newest generation that has one, and where that generation begins.
    pub(super) fn find(&self, key: &Key) -> Option<(i64, V)> {
        let live = self.live.load();
        live.iter().find_map(|generation| {
            let value = generation.map.get(key)?;
            Some((generation.number * self.span_ms, *value))
        })
    }

    /// Sets the value under `key` in the generation of `time` to what `next` makes of the one before.
    pub(super) fn upsert(&self, key: Key, time_ms: i64, next: impl FnOnce(Option<V>) -> V) {
        let number = time_ms.div_euclid(self.span_ms);
        let live = self.live.load();
        match live.iter().find(|generation| generation.number == number) {
            Some(generation) => generation.upsert(key, next),
            None => self.begin(number).upsert(key, next),
        }
    }

    /// Sets the value under `key` where [`Generations::find`] will see it: in the generation of `time`, or
    /// in a newer one that has the key, as after a clock stepped back. `value` is told where that begins.
    pub(super) fn put(&self, key: Key, time_ms: i64, value: impl FnOnce(i64) -> V) {
        let number = time_ms.div_euclid(self.span_ms);
        let live = self.live.load();
        let holds = |newer: &Generation<V>| newer.number > number && newer.map.contains_key(&key);
        let put = |into: &Generation<V>| {
            into.map.insert(key, value(into.number * self.span_ms));
        };
        match live.iter().find(|each| each.number == number || holds(each)) {
            Some(generation) => put(generation),
            None => put(&self.begin(number)),
        }
    }

    /// Takes out what [`Generations::find`] sees under `key`.
    pub(super) fn remove_found(&self, key: &Key) {
        let live = self.live.load();
        // Stops at the first that had it.
        let _ = live.iter().find(|generation| generation.map.remove(key).is_some());
    }

    pub(super) fn remove(&self, key: &Key, time_ms: i64) {
        let number = time_ms.div_euclid(self.span_ms);
        let live = self.live.load();
        if let Some(generation) = live.iter().find(|generation| generation.number == number) {
            generation.map.remove(key);
        }
    }

    /// Drops the generations that end at or before `time`.
    pub(super) fn drop_before(&self, time_ms: i64) {
        let ended = |generation: &Arc<Generation<V>>| (generation.number + 1) * self.span_ms <= time_ms;
        if self.live.load().iter().any(ended) {
            let _one_at_a_time = self.changing.lock();
            let kept = self.live.load().iter().filter(|generation| !ended(generation)).cloned().collect();
            self.live.store(Arc::new(kept));
        }
    }

    pub(super) fn entries(&self) -> u64 {
        self.live.load().iter().map(|generation| generation.map.len() as u64).sum()
    }

    #[cold]
    fn begin(&self, number: i64) -> Arc<Generation<V>> {
        let _one_at_a_time = self.changing.lock();
        let live = self.live.load();
        if let Some(begun) = live.iter().find(|generation| generation.number == number) {
            return Arc::clone(begun);
        }
        let map = DashMap::with_hasher_and_shard_amount(Prehashed, SHARDS);
        let begun = Arc::new(Generation { number, map });
        let mut next: Vec<_> = live.iter().cloned().collect();
        next.push(Arc::clone(&begun));
        next.sort_by_key(|generation| std::cmp::Reverse(generation.number));
        next.truncate(GENERATIONS_MAX);
        self.live.store(Arc::new(next));
        begun
    }
}

impl<V: Copy> Generation<V> {
    fn upsert(&self, key: Key, next: impl FnOnce(Option<V>) -> V) {
        match self.map.entry(key) {
            Entry::Occupied(mut held) => {
                let value = next(Some(*held.get()));
                held.insert(value);
            }
            Entry::Vacant(free) => {
                free.insert(next(None));
            }
        }
    }
}
