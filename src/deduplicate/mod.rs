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
//! Memory and map operations are the design constraint (tens of millions of live entries, one admission a
//! microsecond), so the newest entry and the newest exit of a person at a place share one entry of
//! `presence`, which also answers what `auto` means. Only older ones, superseded or come late, go to
//! `earlier`, where event time is cut into buckets one window wide: two admitted scans of one bucket would
//! be duplicates of each other, hence a bucket holds at most one a direction, and the neighbours within a
//! window are a few exact look-ups away. Expiry is dropping a whole generation of a map (see
//! `generations`).
//!
//! | map | key (12 bytes of keyed hash) | value | bytes an entry, slot included |
//! |---|---|---|---|
//! | clients | device, client id | the original's id and direction | 25 |
//! | presence | person, place | event times of the newest entry and the newest exit | 21 |
//! | earlier | person, place, bucket | offsets in the bucket of an older entry and an older exit | 21 |

mod generations;
mod in_flight;
mod lost;
mod linked;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use siphasher::sip::SipHasher24;
use siphasher::sip128::SipHasher13;

use crate::scan::{
    Checkin, CheckinId, ClientKey, DAY_MS, Direction, DirectionRequest, PlaceKey, Pseudonym, Scan, UnixMillis,
};
use generations::{Generations, Key};
pub use in_flight::InFlight;
use in_flight::Tickets;

/// Locks that serialise the scans of one person at one place; a power of two. 4,096 bytes keep the
/// chance that two concurrent scans of a rush hour share one below a percent.
const STRIPES: usize = 4096;

/// How long memory reaches back, and how wide the windows are.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Every window in use, in seconds (the default and the classes'); zero means none.
    pub windows_s: Vec<u16>,
    /// How long entries are kept: by event time in `earlier`, by arrival elsewhere. Seconds, 1 to
    /// [`REMEMBER_S_MAX`], and at least the skew that an event may have.
    pub remember_s: u32,
    /// After this long without a check-in at the place, `auto` means entry again. Seconds.
    pub auto_reset_s: u32,
    /// Live entries over all maps; past it scans are refused with [`AdmitError::EntriesMax`]. Looked at
    /// by [`Deduplicate::sweep`], so that no admission pays for counting.
    pub entries_max: u64,
}

/// Five days: an event time is kept in 30 bits of milliseconds, counted from `remember_s` and a day
/// before its generation, which spans `remember_s` itself.
pub const REMEMBER_S_MAX: u32 = 432_000;
const _: () = assert!(REMEMBER_S_MAX as i64 * 2 * 1000 + DAY_MS < Slot::OFFSET_MS_END as i64);

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
pub enum Admission<'a, T: Copy, P: Copy> {
    /// New, and handed to the journal. Must be settled by [`InFlight::durable`] or [`InFlight::failed`].
    Fresh(InFlight<'a, T, P>),
    /// A repetition.
    Duplicate(Original, Standing<T, P>),
}

/// How far an original has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing<T, P> {
    /// Not durable yet: wait for its ticket before answering.
    InFlight(T),
    /// On disk.
    Durable(P),
}

/// Why a scan could not be admitted; `E` is the journal's reason.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError<E> {
    /// The journal did not take the record.
    #[error("journal refused the record")]
    Append(#[source] E),
    /// An original is remembered that no journal vouched for: a fault of the gateway.
    #[error("no proof that the original is on disk")]
    Unproven,
    /// The bound on live entries was reached.
    #[error("live entries must stay below deduplicate.entries_max of {limit}")]
    EntriesMax {
        /// `deduplicate.entries_max`.
        limit: u64,
    },
}

/// The exact, bounded memory of who checked in where and when. `T` is the journal's ticket, `P` its proof
/// that a record is on disk.
#[derive(Debug)]
pub struct Deduplicate<T, P> {
    settings: Settings,
    /// Bucket width in milliseconds: the narrowest window, so that no bucket holds two entries.
    bucket_ms: i64,
    id_key: [u8; 16],
    epoch: u16,
    hash_key: [u8; 16],
    clients: Generations<ClientEntry>,
    presence: Generations<Presence>,
    earlier: Generations<Presence>,
    tickets: Tickets<T>,
    stripes: Box<[Mutex<()>]>,
    full: AtomicBool,
    duplicates: AtomicU64,
    /// What is remembered and not in flight is durable: the journal said so, of this start or of the
    /// replay before it.
    proof: OnceLock<P>,
}

/// Event times of one entry and one exit, each counted from the same base.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Presence {
    entry: Slot,
    exit: Slot,
}

/// Bit 31: taken. Bit 30: the direction was requested as `auto`. The rest: milliseconds since a base.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Slot(u32);

/// The original's 64 hash bits (split, to stay 4-byte aligned), then 31 bits of event time since a base and
/// one of direction.
#[derive(Debug, Clone, Copy)]
struct ClientEntry {
    hash: [u32; 2],
    at_direction: u32,
}

/// A slot with its base resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    at: UnixMillis,
    auto: bool,
    direction: Direction,
}

const _: () = assert!(size_of::<(Key, Presence)>() == 20 && size_of::<(Key, ClientEntry)>() == 24);

impl<T: Copy, P: Copy> Deduplicate<T, P> {
    /// An empty memory. `id_key` derives check-in ids and must be equal on every gateway that shares a store.
    pub fn new(settings: Settings, id_key: [u8; 16]) -> Self {
        let narrowest_s =
            settings.windows_s.iter().copied().filter(|&window_s| window_s > 0).min().unwrap_or(60);
        let remember_ms = i64::from(settings.remember_s) * 1000;
        Self {
            bucket_ms: i64::from(narrowest_s) * 1000,
            id_key,
            epoch: 0,
            hash_key: id_key.map(|byte| byte ^ 0x5c),
            clients: Generations::new(remember_ms),
            presence: Generations::new(remember_ms),
            // By event time: eight generations over the reach, so that an eighth is dropped at a time.
            earlier: Generations::new(remember_ms / 8),
            tickets: Tickets::new(),
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            full: AtomicBool::new(false),
            duplicates: AtomicU64::new(0),
            proof: OnceLock::new(),
            settings,
        }
    }

    /// Has ids carry how often the pepper was rotated.
    #[must_use]
    pub fn of_epoch(self, epoch: u16) -> Self {
        Self { epoch, ..self }
    }

    /// Admits `scan`, handing its check-in to `append` before anyone else can ask about it, or names
    /// the original that it repeats. `aliases` are other pseudonyms that earlier scans of the same person may
    /// be remembered under; nearly always there are none.
    ///
    /// # Errors
    /// `append`'s own error, after which no trace of the scan is left; or the bound on entries.
    pub fn admit<E>(
        &self,
        scan: &Scan,
        aliases: &[Pseudonym],
        append: impl FnOnce(&Checkin) -> Result<T, E>,
    ) -> Result<Admission<'_, T, P>, AdmitError<E>> {
        if !aliases.is_empty() {
            return self.admit_linked(scan, aliases, append);
        }
        let pair = self.pair_key(scan.person, scan.place);
        let _serialised = self.stripe(pair).lock();
        if let Some(original) = self.seen_client(scan.client) {
            return self.duplicate(original);
        }
        let seen = self.seen_here(pair);
        let direction = self.direction(scan, seen.into_iter().flatten());
        if let Some(original) = self.seen_in_window(scan, pair, seen, direction) {
            return self.repetition(scan, original);
        }
        self.admit_new(scan, pair, seen, direction, append)
    }

    /// Names the original of a scan that was sent under another client id.
    fn repetition<E>(&self, scan: &Scan, original: Original) -> Result<Admission<'_, T, P>, AdmitError<E>> {
        let duplicate = self.duplicate(original)?;
        // Not while the original is in flight: if that is lost, this id must not name it.
        if matches!(duplicate, Admission::Duplicate(_, Standing::Durable(_))) {
            self.remember_client(scan, original);
        }
        Ok(duplicate)
    }

    /// Hands a scan that repeats nothing to the journal, and remembers it.
    #[inline]
    fn admit_new<E>(
        &self,
        scan: &Scan,
        pair: Key,
        seen: [Option<Seen>; 2],
        direction: Direction,
        append: impl FnOnce(&Checkin) -> Result<T, E>,
    ) -> Result<Admission<'_, T, P>, AdmitError<E>> {
        if self.full.load(Ordering::Relaxed) {
            return Err(AdmitError::EntriesMax { limit: self.settings.entries_max });
        }
        let id = self.checkin_id(scan.person, scan.place, scan.direction, scan.at);
        let checkin = Checkin { id, direction, scan: *scan };
        let ticket = append(&checkin).map_err(AdmitError::Append)?;
        self.tickets.insert(id, ticket);
        self.remember(&checkin, pair, seen);
        Ok(Admission::Fresh(InFlight::new(self, checkin, seen, ticket)))
    }

    /// Takes the journal's word that everything restored is on disk.
    pub fn vouch(&self, proof: P) {
        // All proofs are alike; the first stays.
        let _ = self.proof.set(proof);
    }

    /// Takes up a check-in at start, from the journal, in the journal's order. [`Deduplicate::vouch`] follows.
    pub fn restore(&self, checkin: &Checkin, now: UnixMillis) {
        let oldest = now.0 - i64::from(self.settings.remember_s) * 1000;
        if checkin.scan.received.0.max(checkin.scan.at.0) >= oldest {
            let pair = self.pair_key(checkin.scan.person, checkin.scan.place);
            self.remember(checkin, pair, self.seen_here(pair));
        }
    }

    /// Drops the generations that can't matter any more, looks at the bound on entries, and settles the
    /// scans whose caller went away before their commit: `outcome` says whether a ticket is still open
    /// (`None`), and if not, gives its proof or none. Call it about once a second.
    pub fn sweep(&self, now: UnixMillis, outcome: impl Fn(T) -> Option<Option<P>>) {
        let reach_ms = i64::from(self.settings.remember_s) * 1000;
        let widest_ms = self.settings.windows_s.iter().max().map_or(0, |&widest| i64::from(widest) * 1000);
        self.clients.drop_before(now.0 - reach_ms);
        self.presence.drop_before(now.0 - reach_ms);
        self.earlier.drop_before(now.0 - reach_ms - widest_ms);
        self.full.store(self.entries() >= self.settings.entries_max, Ordering::Relaxed);
        for (orphan, proof) in self.tickets.settled(outcome) {
            match proof {
                Some(proof) => self.durable(orphan.checkin.id, proof),
                None => self.forget(&orphan.checkin, orphan.previous),
            }
        }
        self.tickets.hidden.sweep(|by| self.tickets.get(by).is_some());
    }

    /// Live entries over all maps. Takes every shard's lock in turn: for scrapes, not for scans.
    pub fn entries(&self) -> u64 {
        self.clients.entries() + self.presence.entries() + self.earlier.entries()
    }

    /// Scans admitted but not yet settled.
    pub fn in_flight(&self) -> usize {
        self.tickets.len()
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
        // One buffer: hashed piece by piece it costs half as much again.
        let mut hashed = [0; 41];
        hashed[..16].copy_from_slice(&person.0);
        hashed[16..32].copy_from_slice(&place.0);
        hashed[32] = direction.code();
        hashed[33..].copy_from_slice(&at.0.to_le_bytes());
        let hash = SipHasher24::new_with_key(&self.id_key).hash(&hashed);
        CheckinId::new(at, hash).of_epoch(self.epoch)
    }

    fn duplicate<E>(&self, original: Original) -> Result<Admission<'_, T, P>, AdmitError<E>> {
        self.duplicates.fetch_add(1, Ordering::Relaxed);
        let standing = match self.tickets.get(original.id) {
            Some(ticket) => Standing::InFlight(ticket),
            None => Standing::Durable(*self.proof.get().ok_or(AdmitError::Unproven)?),
        };
        Ok(Admission::Duplicate(original, standing))
    }

    fn seen_client(&self, client: ClientKey) -> Option<Original> {
        let (start, entry) = self.clients.find(&Key::from_bytes(client.0))?;
        let original = entry.original(start - self.reach_ms());
        Some(Original { id: original.id.of_epoch(self.epoch), ..original })
    }

    /// The newest entry and the newest exit of a person at a place.
    fn seen_here(&self, pair: Key) -> [Option<Seen>; 2] {
        match self.presence.find(&pair) {
            Some((start, presence)) => presence.seen(start - self.reach_ms()),
            None => [None, None],
        }
    }

    /// The direction that the scan would count under.
    fn direction(&self, scan: &Scan, seen: impl Iterator<Item = Seen>) -> Direction {
        match scan.direction {
            DirectionRequest::In => Direction::In,
            DirectionRequest::Out => Direction::Out,
            DirectionRequest::Auto => {
                // Of an entry and an exit in one millisecond the exit is the later.
                let last = seen.max_by_key(|seen| (seen.at, seen.direction));
                let reset_ms = i64::from(self.settings.auto_reset_s) * 1000;
                match last {
                    Some(last) if (scan.at.0 - last.at.0).abs() <= reset_ms => last.direction.toggled(),
                    _ => Direction::In,
                }
            }
        }
    }

    /// The nearest check-in less than a window away; for `auto`, in either direction.
    fn seen_in_window(
        &self,
        scan: &Scan,
        pair: Key,
        seen: [Option<Seen>; 2],
        direction: Direction,
    ) -> Option<Original> {
        let window_ms = i64::from(scan.window_s) * 1000;
        let counts = |seen: &Seen| scan.direction == DirectionRequest::Auto || seen.direction == direction;
        let newest = seen.into_iter().flatten().filter(counts);
        // What `earlier` holds is older than the newest of its direction, so a scan that isn't older than
        // that one has it for its nearest.
        let late = newest.clone().any(|newest| scan.at < newest.at);
        let earlier =
            if late && window_ms > 0 { self.seen_earlier(scan.at, pair, window_ms) } else { Vec::new() };
        newest
            .chain(earlier.into_iter().filter(counts))
            .filter(|seen| (seen.at.0 - scan.at.0).abs() < window_ms)
            .min_by_key(|seen| (seen.at.0 - scan.at.0).abs())
            .map(|seen| self.original(scan, seen))
    }

    #[cold]
    fn seen_earlier(&self, at: UnixMillis, pair: Key, window_ms: i64) -> Vec<Seen> {
        let first = (at.0 - window_ms).div_euclid(self.bucket_ms);
        let last = (at.0 + window_ms).div_euclid(self.bucket_ms);
        (first..=last)
            .filter_map(|bucket| {
                let (key, start) = self.bucket(pair, bucket);
                Some(self.earlier.get(&key, start)?.seen(start))
            })
            .flatten()
            .flatten()
            .collect()
    }

    fn original(&self, scan: &Scan, seen: Seen) -> Original {
        let requested = match (seen.auto, seen.direction) {
            (true, _) => DirectionRequest::Auto,
            (false, Direction::In) => DirectionRequest::In,
            (false, Direction::Out) => DirectionRequest::Out,
        };
        let id = self.checkin_id(scan.person, scan.place, requested, seen.at);
        Original { id, direction: seen.direction }
    }

    fn remember(&self, checkin: &Checkin, pair: Key, seen: [Option<Seen>; 2]) {
        let scan = &checkin.scan;
        self.remember_client(scan, Original { id: checkin.id, direction: checkin.direction });
        let this = Seen {
            at: scan.at,
            auto: scan.direction == DirectionRequest::Auto,
            direction: checkin.direction,
        };
        let newest = seen.into_iter().flatten().find(|seen| seen.direction == checkin.direction);
        match newest {
            Some(newest) if newest.at > this.at => {
                self.remember_earlier(pair, this);
                self.hide_behind(scan, pair, newest, this);
            }
            superseded => {
                if let Some(superseded) = superseded {
                    self.remember_earlier(pair, superseded);
                }
                self.set_presence(pair, scan.received, seen, this);
            }
        }
    }

    /// Writes the newest of each direction, `this` among them, into the generation of `received`, or into
    /// the newer one that would hide it.
    fn set_presence(&self, pair: Key, received: UnixMillis, seen: [Option<Seen>; 2], this: Seen) {
        self.presence.put(pair, received.0, |start| {
            let base = start - self.reach_ms();
            let mut presence = Presence::default();
            for seen in seen.into_iter().flatten().chain([this]) {
                *presence.at(seen.direction) = Slot::new(seen.at.0 - base, seen.auto);
            }
            presence
        });
    }

    fn remember_earlier(&self, pair: Key, seen: Seen) {
        let (key, start) = self.bucket_of(pair, seen.at);
        self.earlier.upsert(key, start, |held| {
            let mut held = held.unwrap_or_default();
            *held.at(seen.direction) = Slot::new(seen.at.0 - start, seen.auto);
            held
        });
    }

    fn remember_client(&self, scan: &Scan, original: Original) {
        let base = self.clients.start_of(scan.received.0) - self.reach_ms();
        let entry = ClientEntry::new(base, original);
        self.clients.upsert(Key::from_bytes(scan.client.0), scan.received.0, |first| first.unwrap_or(entry));
    }

    fn durable(&self, id: CheckinId, proof: P) {
        self.vouch(proof);
        self.tickets.remove(id);
    }

    fn pair_key(&self, person: Pseudonym, place: PlaceKey) -> Key {
        self.key([person.0, place.0].as_flattened())
    }

    /// The key in `earlier` of the bucket that holds this time, and where the bucket begins.
    fn bucket_of(&self, pair: Key, at: UnixMillis) -> (Key, i64) {
        self.bucket(pair, at.0.div_euclid(self.bucket_ms))
    }

    fn bucket(&self, pair: Key, bucket: i64) -> (Key, i64) {
        let mut hashed = [0; 20];
        hashed[..12].copy_from_slice(&pair.to_bytes());
        hashed[12..].copy_from_slice(&bucket.to_le_bytes());
        (self.key(&hashed), bucket * self.bucket_ms)
    }

    fn key(&self, hashed: &[u8]) -> Key {
        Key::from_hash(SipHasher13::new_with_key(&self.hash_key).hash(hashed).as_u128())
    }

    fn stripe(&self, pair: Key) -> &Mutex<()> {
        let index = pair.low() as usize % STRIPES;
        #[allow(clippy::indexing_slicing)] // Taken modulo the slice's fixed length.
        &self.stripes[index]
    }

    /// How far before its generation an event time may lie: the skew, and a day that covers the widest
    /// window (a `u16` of seconds) of the original that a duplicate was folded to.
    fn reach_ms(&self) -> i64 {
        i64::from(self.settings.remember_s) * 1000 + DAY_MS
    }
}

impl Presence {
    fn at(&mut self, direction: Direction) -> &mut Slot {
        match direction {
            Direction::In => &mut self.entry,
            Direction::Out => &mut self.exit,
        }
    }

    fn seen(self, base: i64) -> [Option<Seen>; 2] {
        [self.entry.seen(base, Direction::In), self.exit.seen(base, Direction::Out)]
    }
}

impl Slot {
    const TAKEN: u32 = 1 << 31;
    const AUTO: u32 = 1 << 30;
    const OFFSET_MS_END: u32 = Self::AUTO;

    fn new(offset_ms: i64, auto: bool) -> Self {
        let offset = u32::try_from(offset_ms).unwrap_or_default() % Self::OFFSET_MS_END;
        Self(Self::TAKEN | offset | if auto { Self::AUTO } else { 0 })
    }

    fn seen(self, base: i64, direction: Direction) -> Option<Seen> {
        let at = UnixMillis(base + i64::from(self.0 % Self::OFFSET_MS_END));
        (self.0 & Self::TAKEN != 0).then_some(Seen { at, auto: self.0 & Self::AUTO != 0, direction })
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
        let [high, low] = self.hash.map(u64::from);
        let at = UnixMillis(base + i64::from(self.at_direction >> 1));
        let direction = if self.at_direction & 1 == 0 { Direction::In } else { Direction::Out };
        Original { id: CheckinId::new(at, (high << 32) | low), direction }
    }
}

#[cfg(test)]
mod tests;
