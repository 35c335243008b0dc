//! The embedded store: an LSM tree (fjall) in the data directory.
//!
//! One LSM tree ("keyspace") a UTC day of event time, holding both tables. Of the two ways to arrange
//! days this one was chosen over a single tree with day-prefixed keys, because
//! - retention is then the removal of a directory, where a shared tree would have to compact each
//!   expired day away, reading and writing it once more;
//! - a compaction never touches more than one day, so writing costs the same on day 1 and on day 30;
//! - days that only a few late records reach cost one small memtable.
//!
//! # Keys and values
//! All integers are big-endian, so that keys sort by table, then place or person, then event time.
//! ```text
//! key    table:1 ('d' place, 'p' person)  place or person:16  check-in id:16  version:8
//! value  person or place:16  device:8  client:12  window_s:2  form:1  app:1  flags:1
//! flags  bit 0 direction, bits 1-2 direction asked for, bit 3 subject, bit 4 trust
//! ```
//! - Event time is the check-in id's, arrival time is `version / 1000` (see [`super::version_us`]).
//! - The version stands in the key so that writing needs no reading first: of several keys that
//!   differ in nothing else, the last is the row.
//! - The format's number is part of the keyspace's name; a new layout takes the next one.
//!
//! Methods block on disk and so belong on a thread that may: the drain's, or a command's.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use fjall::compaction::Leveled;
use fjall::config::{BlockSizePolicy, FilterPolicy};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use parking_lot::RwLock;

use crate::scan::{
    App, Checkin, CheckinId, ClientKey, DAY_MS, DeviceKey, Direction, DirectionRequest, Form, PlaceKey,
    Pseudonym, Scan, Subject, Trust, UnixMillis,
};

use super::{Retention, StoreError, version_us};

const DAY_PREFIX: &str = "checkins1-";
const BY_PLACE: u8 = b'd';
const BY_PERSON: u8 = b'p';
const KEY_BYTES: usize = 1 + 16 + 16 + 8;
const VALUE_BYTES: usize = 16 + 8 + 12 + 2 + 1 + 1 + 1;

/// Places listed at a time: their keys alone, 16 KiB.
const PLACES_PAGE: usize = 1024;

/// Tables flushed before they are merged. With the memtable's 8 MiB the cheapest of the pairs tried with
/// `cargo bench --bench store`: 4.1 µs a check-in, against 4.7 with 4 tables, 4.3 with 16 MiB, 4.8 with 4 MiB.
const L0_TABLES: u8 = 8;

/// fjall's write-ahead journal can't be told to stay below this.
const WAL_BYTES_MIN: u64 = 64 << 20;

/// Settings of the embedded store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbeddedSettings {
    /// Days a row is kept after its event time; 0 for ever.
    pub retention_days: u16,
    /// Cache of blocks read.
    pub cache_bytes: u64,
    /// One day's memtable. A bigger one saves compaction, a smaller one is searched within the cache.
    pub memtable_bytes: u64,
    /// Write-ahead journal, and so all memtables together: past it the oldest are flushed.
    pub wal_bytes_max: u64,
}

impl Default for EmbeddedSettings {
    fn default() -> Self {
        Self { retention_days: 30, cache_bytes: 16 << 20, memtable_bytes: 8 << 20, wal_bytes_max: 128 << 20 }
    }
}

/// See the module's text.
pub struct Embedded {
    db: Database,
    days: RwLock<BTreeMap<i32, Keyspace>>,
    settings: EmbeddedSettings,
    retention: Retention,
    swept_on_day: AtomicI32,
    expired: AtomicU64,
}

impl Embedded {
    /// Opens or creates the store in `dir`.
    pub fn open(dir: &Path, settings: EmbeddedSettings) -> Result<Self, StoreError> {
        if settings.wal_bytes_max < WAL_BYTES_MIN {
            return Err(StoreError::Setting {
                name: "store.wal_bytes_max",
                rule: format!("must be at least {WAL_BYTES_MIN}; got {}", settings.wal_bytes_max),
            });
        }
        let open = || -> fjall::Result<(Database, BTreeMap<i32, Keyspace>)> {
            let db = Database::builder(dir)
                .cache_size(settings.cache_bytes)
                .max_journaling_size(settings.wal_bytes_max)
                // With two or more, fjall's first worker spins on compactions that only the others take.
                .worker_threads(1)
                .open()?;
            let mut days = BTreeMap::new();
            for name in db.list_keyspace_names() {
                let day = name.strip_prefix(DAY_PREFIX).and_then(|day| day.parse::<i32>().ok());
                if let Some(day) = day {
                    days.insert(day, db.keyspace(&name, || day_options(&settings))?);
                }
            }
            Ok((db, days))
        };
        let (db, days) = open().map_err(|source| StoreError::Open { path: dir.to_owned(), source })?;
        let store = Self {
            db,
            days: RwLock::new(days),
            settings,
            retention: Retention { days: settings.retention_days },
            swept_on_day: AtomicI32::new(i32::MIN),
            expired: AtomicU64::new(0),
        };
        store.expire(UnixMillis::now())?;
        Ok(store)
    }

    /// Upserts the batch in one atomic write, which is on its way to disk but not yet there.
    pub fn write(&self, batch: &[Checkin]) -> Result<(), StoreError> {
        let now = UnixMillis::now();
        let mut rows = Vec::with_capacity(batch.len() * 2);
        for checkin in batch.iter().filter(|checkin| !self.retention.is_over(checkin.scan.at, now)) {
            let (place, person) = (checkin.scan.place.0, checkin.scan.person.0);
            let day = checkin.scan.at.day();
            rows.push((day, key(BY_PLACE, place, checkin), value(person, checkin)));
            rows.push((day, key(BY_PERSON, person, checkin), value(place, checkin)));
        }
        let expired = (batch.len() - rows.len() / 2) as u64;
        // In key order each search of the memtable begins where the one before left its path in the
        // cache, which is most of what a write costs.
        rows.sort_unstable();
        let mut items = fjall::OwnedWriteBatch::with_capacity(self.db.clone(), rows.len());
        for rows in rows.chunk_by(|(a, ..), (b, ..)| a == b) {
            let Some((day, ..)) = rows.first() else { continue };
            let tree = self.day(*day)?;
            for (_, key, value) in rows {
                items.insert(&tree, key, value);
            }
        }
        items.commit()?;
        self.expired.fetch_add(expired, Ordering::Relaxed);
        Ok(())
    }

    /// Fsyncs all acknowledged writes; once a day, removes the days whose retention has ended.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.db.persist(PersistMode::SyncData)?;
        let now = UnixMillis::now();
        if self.swept_on_day.load(Ordering::Relaxed) == now.day() { Ok(()) } else { self.expire(now) }
    }

    /// Whether writes are still accepted: a failed fsync poisons the tree for good.
    pub fn ping(&self) -> Result<(), StoreError> {
        Ok(self.db.persist(PersistMode::Buffer)?)
    }

    /// See [`super::Store::expired_total`].
    pub fn expired_total(&self) -> u64 {
        self.expired.load(Ordering::Relaxed)
    }

    pub(super) fn days(&self, from: i32, to: i32) -> Vec<i32> {
        if from > to { Vec::new() } else { self.days.read().range(from..=to).map(|(day, _)| *day).collect() }
    }

    /// Jumps from each place's first row straight past its last.
    pub(super) fn places(&self, day: i32, after: Option<PlaceKey>) -> Result<Vec<PlaceKey>, StoreError> {
        let Some(rows) = self.existing_day(day) else { return Ok(Vec::new()) };
        let mut places: Vec<PlaceKey> = Vec::new();
        let mut last = after;
        while places.len() < PLACES_PAGE {
            let start = match last {
                None => key_from(BY_PLACE, [0; 16], [0; 16], i64::MIN),
                Some(place) => key_from(BY_PLACE, place.0, [0xff; 16], i64::MAX),
            };
            let end = key_from(BY_PERSON, [0; 16], [0; 16], i64::MIN);
            let Some(guard) = rows.range(start..end).next() else { break };
            let key = guard.key()?;
            let place = PlaceKey(field::<16>(&key, 1).ok_or_else(|| damaged(BY_PLACE, day, "key length"))?);
            places.push(place);
            last = Some(place);
        }
        Ok(places)
    }

    pub(super) fn place_day(
        &self,
        place: PlaceKey,
        day: i32,
        from: UnixMillis,
        to: UnixMillis,
        into: &mut Vec<Checkin>,
    ) -> Result<(), StoreError> {
        let bound = |at: UnixMillis| CheckinId::new(at, 0).0;
        let start = key_from(BY_PLACE, place.0, bound(from), i64::MIN);
        let end = key_from(BY_PLACE, place.0, bound(to), i64::MIN);
        self.read_rows(day, BY_PLACE, start, end, into)
    }

    pub(super) fn person_day(
        &self,
        person: Pseudonym,
        day: i32,
        into: &mut Vec<Checkin>,
    ) -> Result<(), StoreError> {
        let start = key_from(BY_PERSON, person.0, [0; 16], i64::MIN);
        let end = key_from(BY_PERSON, person.0, [0xff; 16], i64::MAX);
        self.read_rows(day, BY_PERSON, start, end, into)
    }

    /// Appends the rows of a key range, keeping of each check-in id only the last version.
    fn read_rows(
        &self,
        day: i32,
        table: u8,
        start: [u8; KEY_BYTES],
        end: [u8; KEY_BYTES],
        into: &mut Vec<Checkin>,
    ) -> Result<(), StoreError> {
        let Some(rows) = self.existing_day(day) else { return Ok(()) };
        let mut previous: Option<CheckinId> = None;
        for guard in rows.range(start..end) {
            let (key, value) = guard.into_inner()?;
            let row = decode(table, &key, &value).map_err(|what| damaged(table, day, what))?;
            if previous == Some(row.id) {
                into.pop();
            }
            previous = Some(row.id);
            into.push(row);
        }
        Ok(())
    }

    fn existing_day(&self, day: i32) -> Option<Keyspace> {
        self.days.read().get(&day).cloned()
    }

    fn day(&self, day: i32) -> Result<Keyspace, StoreError> {
        if let Some(rows) = self.existing_day(day) {
            return Ok(rows);
        }
        let mut days = self.days.write();
        let rows = self.db.keyspace(&format!("{DAY_PREFIX}{day}"), || day_options(&self.settings))?;
        days.insert(day, rows.clone());
        Ok(rows)
    }

    /// See [`super::Store::expire`].
    pub fn expire(&self, now: UnixMillis) -> Result<(), StoreError> {
        let over = |day: i32| {
            let last_moment = UnixMillis((i64::from(day) + 1) * DAY_MS - 1);
            self.retention.is_over(last_moment, now)
        };
        let mut days = self.days.write();
        let expired: Vec<i32> = days.keys().copied().filter(|day| over(*day)).collect();
        for day in expired {
            if let Some(rows) = days.remove(&day) {
                self.db.delete_keyspace(rows)?;
                tracing::info!(day, "removed a day past its retention");
            }
        }
        self.swept_on_day.store(now.day(), Ordering::Relaxed);
        Ok(())
    }
}

fn day_options(settings: &EmbeddedSettings) -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(settings.memtable_bytes)
        // A day takes all its writes within days and few reads ever: merge half as often as usual.
        .compaction_strategy(Arc::new(Leveled::default().with_l0_threshold(L0_TABLES)))
        // Reads are range scans, which no filter helps and big blocks do.
        .filter_policy(FilterPolicy::disabled())
        .data_block_size_policy(BlockSizePolicy::all(16 << 10))
}

fn key(table: u8, of: [u8; 16], checkin: &Checkin) -> [u8; KEY_BYTES] {
    key_from(table, of, checkin.id.0, version_us(checkin))
}

/// The version's sign bit is flipped so that it sorts as a number.
fn key_from(table: u8, of: [u8; 16], id: [u8; 16], version: i64) -> [u8; KEY_BYTES] {
    let version = (version ^ i64::MIN).to_be_bytes();
    concat([&[table], &of, &id, &version])
}

fn value(other: [u8; 16], checkin: &Checkin) -> [u8; VALUE_BYTES] {
    let scan = &checkin.scan;
    let flags = checkin.direction.code()
        | scan.direction.code() << 1
        | scan.subject.code() << 3
        | scan.trust.code() << 4;
    let codes = [scan.form.code(), scan.app.code(), flags];
    concat([&other, &scan.device.0, &scan.client.0, &scan.window_s.to_be_bytes(), &codes])
}

fn concat<const N: usize, const PARTS: usize>(parts: [&[u8]; PARTS]) -> [u8; N] {
    debug_assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), N);
    let mut whole = [0; N];
    let mut rest = whole.as_mut_slice();
    for part in parts {
        let Some((head, tail)) = rest.split_at_mut_checked(part.len()) else { break };
        head.copy_from_slice(part);
        rest = tail;
    }
    whole
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn decode(table: u8, key: &[u8], value: &[u8]) -> Result<Checkin, &'static str> {
    if key.len() != KEY_BYTES || value.len() != VALUE_BYTES {
        return Err("length");
    }
    let of = field::<16>(key, 1).ok_or("length")?;
    let id = CheckinId(field(key, 17).ok_or("length")?);
    let version = i64::from_be_bytes(field(key, 33).ok_or("length")?) ^ i64::MIN;
    let other = field::<16>(value, 0).ok_or("length")?;
    let [form, app, flags] = field(value, 38).ok_or("length")?;
    let (place, person) = if table == BY_PLACE { (of, other) } else { (other, of) };
    Ok(Checkin {
        id,
        direction: Direction::from_code(flags & 1).ok_or("direction")?,
        scan: Scan {
            person: Pseudonym(person),
            place: PlaceKey(place),
            direction: DirectionRequest::from_code(flags >> 1 & 3).ok_or("requested direction")?,
            at: id.at(),
            received: UnixMillis(version.div_euclid(1000)),
            client: ClientKey(field(value, 24).ok_or("length")?),
            device: DeviceKey(field(value, 16).ok_or("length")?),
            app: App::from_code(app).ok_or("app")?,
            subject: Subject::from_code(flags >> 3 & 1).ok_or("subject")?,
            trust: Trust::from_code(flags >> 4 & 1).ok_or("trust")?,
            form: Form::from_code(form).ok_or("form")?,
            window_s: u16::from_be_bytes(field(value, 36).ok_or("length")?),
        },
    })
}

fn damaged(table: u8, day: i32, what: &'static str) -> StoreError {
    StoreError::Damaged { table: if table == BY_PLACE { "by place" } else { "by person" }, day, what }
}
