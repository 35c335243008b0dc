//! Deduplication: admits a scan or names the original that it repeats, exactly.
//!
//! Two questions are asked of every scan, in this order:
//!
//! 1. **Has this device sent this client id before?** Remembered by arrival time.
//! 2. **Is there a check-in of this person at this place in this direction less than a window away?**
//!    Remembered by *event* time, so that a backlog that arrives hours late, in any order, and twice,
//!    is folded just as it would have been at the hour it happened.
//!
//! An admitted scan is **in flight** until the journal has fsynced it: its ticket stands in `in_flight`,
//! and a duplicate that meets it there waits for the same commit. If that commit fails, [`InFlight`]
//! takes every trace of the scan out again, and both callers get an error: a scan that was lost is
//! never called a duplicate. Every entry that isn't in flight is durable.
//!
//! Memory is the design constraint (tens of millions of live entries), so event time is cut into
//! buckets one window wide. Two admitted scans of one bucket would be duplicates of each other, hence a
//! bucket holds at most one entry a direction, and the neighbours within a window are a few exact
//! look-ups away. Expiry is dropping a whole generation of the map (see [`generations`]).
//!
//! | map | key (12 bytes of keyed hash) | value | bytes an entry, slot included |
//! |---|---|---|---|
//! | windows | person, place, bucket | offset in the bucket, for entry and exit | 21 |
//! | clients | device, client id | the original's id and direction | 25 |
//! | presence | person, place | last direction and event time | 17 |

mod generations;

use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use parking_lot::Mutex;
use siphasher::sip::SipHasher24;
use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::Hasher;

use crate::scan::{Checkin, CheckinId, DAY_MS, Direction, DirectionRequest, PlaceKey, Pseudonym, Scan, UnixMillis};
use generations::{Generations, Key, Prehashed};

/// Locks that serialise the scans of one person at one place; a power of two. 4,096 bytes keep the
/// chance that two concurrent scans of a rush hour share one below a percent.
const STRIPES: usize = 4096;

/// How long memory reaches back, and how wide the windows are.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Every window in use, in seconds (the default and the classes'); zero means none.
    pub windows_s: Vec<u16>,
    /// How long entries are kept: event time for windows, arrival time for client ids. Seconds,
    /// 1 to [`REMEMBER_S_MAX`].
    pub remember_s: u32,
    /// How far an event may lie before its arrival. Seconds, at most `remember_s`.
    pub clock_skew_past_s: u32,
    /// After this long without a check-in at the place, `auto` means entry again. Seconds.
    pub auto_reset_s: u32,
    /// Live entries over all maps; past it scans are refused with [`EntriesMax`].
    pub entries_max: u64,
}

/// Ten days: a client entry keeps its event time in 31 bits of milliseconds, counted from
/// `remember_s` and a day before its generation, which spans `remember_s` itself.
pub const REMEMBER_S_MAX: u32 = 864_000;
const _: () =
    assert!(REMEMBER_S_MAX as i64 * 2 * 1000 + DAY_MS < 1 << 31, "client entries must hold their event time");

/// The check-in that a duplicate repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Original {
    /// Its id; carries its event time.
    pub id: CheckinId,
    /// The direction it was recorded under.
    pub direction: Direction,
}

/// What became of a scan that asked to be admitted.
#[derive(Debug)]
pub enum Admission<'a, T: Copy> {
    /// New, and handed to the journal. Must be settled by [`InFlight::durable`] or [`InFlight::failed`].
    Fresh(InFlight<'a, T>),
    /// A repetition. With a ticket, the original isn't durable yet: wait for it before answering.
    Duplicate(Original, Option<T>),
}

/// Why a scan could not be admitted; `E` is the journal's reason.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError<E> {
    /// The journal did not take the record.
    #[error("journal refused the record")]
    Append(#[source] E),
    /// The bound on live entries was reached.
    #[error("deduplicate.entries must stay at or below {limit}")]
    EntriesMax {
        /// `deduplicate.entries_max`.
        limit: u64,
    },
}

/// The exact, bounded memory of who checked in where and when. `T` is the journal's ticket.
#[derive(Debug)]
pub struct Deduplicate<T> {
    settings: Settings,
    /// Bucket width in milliseconds: the narrowest window, so that no bucket holds two entries.
    bucket_ms: i64,
    id_key: [u8; 16],
    /// Random per process would do as well, but derived keys make memory dumps comparable in tests.
    hash_key: [u8; 16],
    windows: Generations<Slots>,
    clients: Generations<ClientEntry>,
    presence: Generations<Presence>,
    /// By the id's 64 hash bits.
    in_flight: DashMap<u64, T, Prehashed>,
    orphans: Mutex<Vec<(Checkin, Option<Presence>, T)>>,
    stripes: Box<[Mutex<()>]>,
    duplicates: AtomicU64,
}

/// Entry and exit of one bucket.
#[derive(Debug, Clone, Copy, Default)]
struct Slots {
    entry: Slot,
    exit: Slot,
}

/// Bit 31: taken. Bit 30: the direction was requested as `auto`. The rest: milliseconds into the bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Slot(u32);

/// The original's 64 hash bits (split, to stay 4-byte aligned), then 31 bits of event time and one of direction.
#[derive(Debug, Clone, Copy)]
struct ClientEntry {
    hash: [u32; 2],
    at_direction: u32,
}

/// Event time in seconds since 1970 in 31 bits of a `u32` shifted by one, direction in bit 0. Good until 2038 + 68.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Presence(u32);

const _: () = assert!(size_of::<(Key, Slots)>() == 20 && size_of::<(Key, ClientEntry)>() == 24);

impl<T: Copy> Deduplicate<T> {
    /// An empty memory. `id_key` derives check-in ids and must be equal on every gateway that shares a store.
    pub fn new(settings: Settings, id_key: [u8; 16]) -> Self {
        let narrowest_s = settings.windows_s.iter().copied().filter(|&window_s| window_s > 0).min().unwrap_or(60);
        let remember_ms = i64::from(settings.remember_s) * 1000;
        let mut hash_key = id_key;
        hash_key.iter_mut().for_each(|byte| *byte ^= 0x5c);
        Self {
            bucket_ms: i64::from(narrowest_s) * 1000,
            id_key,
            hash_key,
            // Event time: eight generations over the memory's reach, so that an eighth is dropped at a time.
            windows: Generations::new(remember_ms / 8),
            clients: Generations::new(remember_ms),
            presence: Generations::new(remember_ms),
            in_flight: DashMap::with_hasher(Prehashed),
            orphans: Mutex::new(Vec::new()),
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            duplicates: AtomicU64::new(0),
            settings,
        }
    }

    /// Admits `scan`, handing its check-in to `append` before anyone else can ask about it, or names
    /// the original that it repeats.
    ///
    /// # Errors
    /// `append`'s own error, after which no trace of the scan is left; or the bound on entries.
    pub fn admit<E>(
        &self,
        scan: &Scan,
        append: impl FnOnce(&Checkin) -> Result<T, E>,
    ) -> Result<Admission<'_, T>, AdmitError<E>> {
        let pair = self.pair_key(scan.person, scan.place);
        let _serialised = self.stripe(pair).lock();
        if let Some(original) = self.seen_client(scan) {
            return Ok(self.duplicate(original));
        }
        let last = self.last_presence(pair, scan.received);
        let direction = self.direction(scan, last);
        if let Some(original) = self.seen_in_window(scan, pair, last, direction) {
            self.remember_client(scan, original);
            return Ok(self.duplicate(original));
        }
        if self.entries() >= self.settings.entries_max {
            return Err(AdmitError::EntriesMax { limit: self.settings.entries_max });
        }
        let id = self.checkin_id(scan.person, scan.place, scan.direction, scan.at);
        let checkin = Checkin { id, direction, scan: *scan };
        let ticket = append(&checkin).map_err(AdmitError::Append)?;
        self.in_flight.insert(id.hash(), ticket);
        self.remember(&checkin, pair);
        Ok(Admission::Fresh(InFlight { memory: self, checkin, previous: last, ticket: Some(ticket) }))
    }

    /// Takes up a durable check-in at start, from the journal, in the journal's order.
    pub fn restore(&self, checkin: &Checkin, now: UnixMillis) {
        let oldest = now.0 - i64::from(self.settings.remember_s) * 1000;
        if checkin.scan.received.0.max(checkin.scan.at.0) >= oldest {
            self.remember(checkin, self.pair_key(checkin.scan.person, checkin.scan.place));
        }
    }

    /// Drops the generations that can't matter any more, and settles the scans whose caller went away
    /// before their commit: `outcome` says whether a ticket is durable (`Some(true)`), failed
    /// (`Some(false)`) or still open.
    pub fn sweep(&self, now: UnixMillis, outcome: impl Fn(T) -> Option<bool>) {
        let reach_ms = i64::from(self.settings.remember_s) * 1000;
        let windows_ms = self.settings.windows_s.iter().max().map_or(0, |&widest| i64::from(widest) * 1000);
        self.windows.drop_before(now.0 - reach_ms - windows_ms);
        self.clients.drop_before(now.0 - reach_ms);
        self.presence.drop_before(now.0 - reach_ms);
        let settled = {
            let mut orphans = self.orphans.lock();
            let (open, settled): (Vec<_>, Vec<_>) =
                orphans.drain(..).partition(|(_, _, ticket)| outcome(*ticket).is_none());
            *orphans = open;
            settled
        };
        for (checkin, previous, ticket) in settled {
            if outcome(ticket) == Some(true) {
                self.in_flight.remove(&checkin.id.hash());
            } else {
                self.forget(&checkin, previous);
            }
        }
    }

    /// Live entries over all maps.
    pub fn entries(&self) -> u64 {
        self.windows.entries() + self.clients.entries() + self.presence.entries()
    }

    /// Scans admitted but not yet durable.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Duplicates named since start.
    pub fn duplicates(&self) -> u64 {
        self.duplicates.load(Ordering::Relaxed)
    }

    /// The id a scan gets on every gateway and at every replay.
    pub fn checkin_id(
        &self,
        person: Pseudonym,
        place: PlaceKey,
        direction: DirectionRequest,
        at: UnixMillis,
    ) -> CheckinId {
        let mut hasher = SipHasher24::new_with_key(&self.id_key);
        hasher.write(&person.0);
        hasher.write(&place.0);
        hasher.write(&[direction.code()]);
        hasher.write(&at.0.to_le_bytes());
        CheckinId::new(at, hasher.finish())
    }

    fn duplicate(&self, original: Original) -> Admission<'_, T> {
        self.duplicates.fetch_add(1, Ordering::Relaxed);
        Admission::Duplicate(original, self.in_flight.get(&original.id.hash()).map(|ticket| *ticket))
    }

    fn seen_client(&self, scan: &Scan) -> Option<Original> {
        let (base, entry) = self.clients.find(&Key::from_bytes(scan.client.0), scan.received.0)?;
        Some(entry.original(base - self.reach_ms()))
    }

    /// The direction that the scan would count under.
    fn direction(&self, scan: &Scan, last: Option<Presence>) -> Direction {
        match scan.direction {
            DirectionRequest::In => Direction::In,
            DirectionRequest::Out => Direction::Out,
            DirectionRequest::Auto => match last {
                Some(last) if (scan.at.seconds() - last.at_s()).abs() <= i64::from(self.settings.auto_reset_s) => {
                    last.direction().toggled()
                }
                _ => Direction::In,
            },
        }
    }

    /// The nearest check-in less than a window away; for `auto`, in either direction.
    fn seen_in_window(
        &self,
        scan: &Scan,
        pair: Key,
        last: Option<Presence>,
        direction: Direction,
    ) -> Option<Original> {
        let window_ms = i64::from(scan.window_s) * 1000;
        // Nothing of this pair is newer than `last`; the second covers its rounding.
        let nothing_near = last.is_none_or(|last| scan.at.0 - last.at_s() * 1000 >= window_ms + 1000);
        if window_ms == 0 || nothing_near {
            return None;
        }
        let first = (scan.at.0 - window_ms).div_euclid(self.bucket_ms);
        let final_ = (scan.at.0 + window_ms).div_euclid(self.bucket_ms);
        let mut nearest: Option<(i64, Original)> = None;
        for bucket in first..=final_ {
            let start = bucket * self.bucket_ms;
            let Some(slots) = self.windows.get(&self.window_key(pair, bucket), start) else { continue };
            for (slot, recorded) in [(slots.entry, Direction::In), (slots.exit, Direction::Out)] {
                let Some((offset_ms, auto)) = slot.taken() else { continue };
                let at = UnixMillis(start + offset_ms);
                let distance_ms = (at.0 - scan.at.0).abs();
                let same = scan.direction == DirectionRequest::Auto || recorded == direction;
                if same && distance_ms < window_ms && nearest.is_none_or(|(least, _)| distance_ms < least) {
                    let requested = if auto { DirectionRequest::Auto } else { explicit(recorded) };
                    let id = self.checkin_id(scan.person, scan.place, requested, at);
                    nearest = Some((distance_ms, Original { id, direction: recorded }));
                }
            }
        }
        nearest.map(|(_, original)| original)
    }

    fn last_presence(&self, pair: Key, received: UnixMillis) -> Option<Presence> {
        self.presence.find(&pair, received.0).map(|(_, presence)| presence)
    }

    fn remember(&self, checkin: &Checkin, pair: Key) {
        let scan = &checkin.scan;
        self.remember_client(scan, Original { id: checkin.id, direction: checkin.direction });
        // Where no window applies nothing will ask for it, and two such scans may share a bucket.
        if scan.window_s > 0 {
            let bucket = scan.at.0.div_euclid(self.bucket_ms);
            let slot = Slot::new(scan.at.0 - bucket * self.bucket_ms, scan.direction == DirectionRequest::Auto);
            self.windows.upsert(self.window_key(pair, bucket), bucket * self.bucket_ms, |slots: Option<Slots>| {
                let mut slots = slots.unwrap_or_default();
                *slots.at(checkin.direction) = slot;
                slots
            });
        }
        let here = Presence::new(scan.at, checkin.direction);
        let last = self.last_presence(pair, scan.received);
        let newest = last.filter(|last| last.at_s() > here.at_s()).unwrap_or(here);
        self.presence.upsert(pair, scan.received.0, |_| newest);
    }

    fn remember_client(&self, scan: &Scan, original: Original) {
        let key = Key::from_bytes(scan.client.0);
        let base = self.clients.start_of(scan.received.0) - self.reach_ms();
        self.clients.upsert(key, scan.received.0, |first| first.unwrap_or(ClientEntry::new(base, original)));
    }

    /// Takes every trace of a scan out again: its record was lost.
    fn forget(&self, checkin: &Checkin, previous: Option<Presence>) {
        let scan = &checkin.scan;
        let pair = self.pair_key(scan.person, scan.place);
        let _serialised = self.stripe(pair).lock();
        self.clients.remove(&Key::from_bytes(scan.client.0), scan.received.0);
        let bucket = scan.at.0.div_euclid(self.bucket_ms);
        let key = self.window_key(pair, bucket);
        if let Some(mut slots) = self.windows.get(&key, bucket * self.bucket_ms) {
            *slots.at(checkin.direction) = Slot::default();
            if slots.entry == Slot::default() && slots.exit == Slot::default() {
                self.windows.remove(&key, bucket * self.bucket_ms);
            } else {
                self.windows.upsert(key, bucket * self.bucket_ms, |_| slots);
            }
        }
        if self.last_presence(pair, scan.received) == Some(Presence::new(scan.at, checkin.direction)) {
            match previous {
                Some(previous) => self.presence.upsert(pair, scan.received.0, |_| previous),
                None => self.presence.remove(&pair, scan.received.0),
            }
        }
        self.in_flight.remove(&checkin.id.hash());
    }

    fn pair_key(&self, person: Pseudonym, place: PlaceKey) -> Key {
        self.key(|hasher| {
            hasher.write(&person.0);
            hasher.write(&place.0);
        })
    }

    fn window_key(&self, pair: Key, bucket: i64) -> Key {
        self.key(|hasher| {
            hasher.write(&pair.to_bytes());
            hasher.write(&bucket.to_le_bytes());
        })
    }

    fn key(&self, feed: impl FnOnce(&mut SipHasher13)) -> Key {
        let mut hasher = SipHasher13::new_with_key(&self.hash_key);
        feed(&mut hasher);
        Key::from_hash(hasher.finish128().as_u128())
    }

    fn stripe(&self, pair: Key) -> &Mutex<()> {
        let index = pair.low() as usize % STRIPES;
        #[allow(clippy::indexing_slicing)] // Taken modulo the slice's fixed length.
        &self.stripes[index]
    }

    /// How far before its generation a client entry's event time may lie: the skew, and a day that
    /// covers the widest window (a `u16` of seconds) of the original that a duplicate was folded to.
    fn reach_ms(&self) -> i64 {
        i64::from(self.settings.remember_s) * 1000 + DAY_MS
    }
}

const fn explicit(direction: Direction) -> DirectionRequest {
    match direction {
        Direction::In => DirectionRequest::In,
        Direction::Out => DirectionRequest::Out,
    }
}

/// A scan between admission and commit. Dropped unsettled (its caller went away), it is settled by the
/// next [`Deduplicate::sweep`] after its commit.
#[must_use]
#[derive(Debug)]
pub struct InFlight<'a, T: Copy> {
    memory: &'a Deduplicate<T>,
    checkin: Checkin,
    previous: Option<Presence>,
    /// Taken when settled.
    ticket: Option<T>,
}

impl<T: Copy> InFlight<'_, T> {
    /// What was handed to the journal.
    pub fn checkin(&self) -> &Checkin {
        &self.checkin
    }

    /// The journal's ticket for it.
    pub fn ticket(&self) -> Option<T> {
        self.ticket
    }

    /// The record is on disk: from now on a duplicate is answered at once.
    pub fn durable(mut self) -> Checkin {
        self.ticket = None;
        self.memory.in_flight.remove(&self.checkin.id.hash());
        self.checkin
    }

    /// The record was lost: the same scan sent again must be admitted as new.
    pub fn failed(mut self) {
        self.ticket = None;
        self.memory.forget(&self.checkin, self.previous);
    }
}

impl<T: Copy> Drop for InFlight<'_, T> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.memory.orphans.lock().push((self.checkin, self.previous, ticket));
        }
    }
}

impl Slots {
    fn at(&mut self, direction: Direction) -> &mut Slot {
        match direction {
            Direction::In => &mut self.entry,
            Direction::Out => &mut self.exit,
        }
    }
}

impl Slot {
    const TAKEN: u32 = 1 << 31;
    const AUTO: u32 = 1 << 30;

    fn new(offset_ms: i64, auto: bool) -> Self {
        // A bucket is at most one u16 of seconds wide: 27 bits of milliseconds.
        let offset = u32::try_from(offset_ms).unwrap_or_default() & (Self::AUTO - 1);
        Self(Self::TAKEN | offset | if auto { Self::AUTO } else { 0 })
    }

    fn taken(self) -> Option<(i64, bool)> {
        let taken = self.0 & Self::TAKEN != 0;
        taken.then_some((i64::from(self.0 & (Self::AUTO - 1)), self.0 & Self::AUTO != 0))
    }
}

impl ClientEntry {
    fn new(base: i64, original: Original) -> Self {
        let hash = original.id.hash();
        let since_base = u32::try_from(original.id.at().0 - base).unwrap_or_default();
        #[allow(clippy::cast_possible_truncation)] // The two halves of a u64.
        let hash = [(hash >> 32) as u32, hash as u32];
        Self { hash, at_direction: (since_base << 1) | u32::from(original.direction.code()) }
    }

    fn original(self, base: i64) -> Original {
        let hash = (u64::from(self.hash[0]) << 32) | u64::from(self.hash[1]);
        let at = UnixMillis(base + i64::from(self.at_direction >> 1));
        let direction = if self.at_direction & 1 == 0 { Direction::In } else { Direction::Out };
        Original { id: CheckinId::new(at, hash), direction }
    }
}

impl Presence {
    fn new(at: UnixMillis, direction: Direction) -> Self {
        let seconds = u32::try_from(at.seconds()).unwrap_or_default();
        Self((seconds << 1) | u32::from(direction.code()))
    }

    fn at_s(self) -> i64 {
        i64::from(self.0 >> 1)
    }

    fn direction(self) -> Direction {
        if self.0 & 1 == 0 { Direction::In } else { Direction::Out }
    }
}

#[cfg(test)]
mod tests;
