//! Where check-ins end up: the embedded store, or a CQL cluster shared by all gateways.
//!
//! Both stores keep the same rows, arranged for the two questions that are asked of them: who was at
//! this place on that day (`export`), and where was this person on that day (`person_history`).
//!
//! Invariants, pinned by `tests/store_suite.rs` over both stores:
//! - Writing is an idempotent upsert. A row's key is (place, day, check-in id) in one table and
//!   (person, day, check-in id) in the other, and every field of the row comes from the journal record.
//!   Any subset of records, written any number of times in any order by any gateways, leaves the same rows.
//! - Where two records carry one id (the same scan met two gateways), the one with the larger
//!   [`version_us`] is the row, in both stores.
//! - A record older than the retention is acknowledged and not written: it must not be kept.

pub mod fold;
pub mod export;
pub mod trace;
pub mod rewrite;
pub mod drain;
pub mod watermark;
mod embedded;
mod cql;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use futures_util::stream;

use crate::scan::{Checkin, DAY_MS, PlaceKey, Pseudonym, UnixMillis};

pub use cql::{Cql, CqlCredentials, CqlSettings, MigrationReport, SchemaReport, consistency_from_name};
pub use embedded::{Embedded, EmbeddedSettings};

/// Place-days read ahead of the one being handed out. Each is held in memory whole.
const PLACES_READ_AHEAD: usize = 8;

/// The store behind the journal.
#[allow(clippy::large_enum_variant)] // A process has one.
pub enum Store {
    /// An LSM tree in the data directory, for one gateway.
    Embedded(Embedded),
    /// ScyllaDB or Cassandra, shared by every gateway.
    Cql(Cql),
}

impl Store {
    /// Opens or creates the embedded store in `dir`.
    pub fn embedded(dir: &Path, settings: EmbeddedSettings) -> Result<Self, StoreError> {
        Embedded::open(dir, settings).map(Self::Embedded)
    }

    /// Prepares a CQL store. Connects at first use, so a gateway starts while its database is down.
    pub fn cql(settings: CqlSettings) -> Result<Self, StoreError> {
        Cql::new(settings).map(Self::Cql)
    }

    /// Upserts every record of the batch, or fails as a whole; then writing the batch again is right.
    pub async fn write(&self, batch: &[Checkin]) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => store.write(batch),
            Self::Cql(store) => store.write(batch).await,
        }
    }

    /// Takes rows out, by key. The embedded store is never rewritten in place, and keeps them.
    async fn remove(&self, batch: &[Checkin]) -> Result<(), StoreError> {
        match self {
            Self::Embedded(_) => Ok(()),
            Self::Cql(store) => store.remove(batch).await,
        }
    }

    /// Returns once every acknowledged write survives a power cut, so that the watermark may pass it.
    #[allow(clippy::unused_async)] // Like its siblings: a caller need not know which store waits for what.
    pub async fn sync(&self) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => store.sync(),
            // An acknowledged write is as durable as the cluster's commit log makes it.
            Self::Cql(_) => Ok(()),
        }
    }

    /// Hands out the rows with `from <= at < to`, one place-day at a time, until `sink` breaks:
    /// by day, then place, then check-in id (which is by event time).
    pub async fn range<F>(&self, from: UnixMillis, to: UnixMillis, sink: &mut F) -> Result<(), StoreError>
    where
        F: FnMut(&[Checkin]) -> ControlFlow<()>,
    {
        self.place_days(from, to, 0, &mut |_, rows| sink(rows)).await
    }

    /// Like [`Store::range`], where each place-day also brings the rows of up to `lookback_ms` before
    /// its first moment. The sink's first argument is that moment.
    pub async fn place_days<F>(
        &self,
        from: UnixMillis,
        to: UnixMillis,
        lookback_ms: i64,
        sink: &mut F,
    ) -> Result<(), StoreError>
    where
        F: FnMut(UnixMillis, &[Checkin]) -> ControlFlow<()>,
    {
        if from >= to {
            return Ok(());
        }
        let last_day = UnixMillis(to.0.saturating_sub(1)).day();
        for day in self.days(from.day(), last_day).await? {
            let day_starts_ms = i64::from(day) * DAY_MS;
            let first = UnixMillis(from.0.max(day_starts_ms));
            let end = UnixMillis(to.0.min(day_starts_ms + DAY_MS));
            let mut after = None;
            loop {
                let places = self.places(day, after).await?;
                let Some(&last) = places.last() else { break };
                after = Some(last);
                let since = UnixMillis(first.0.saturating_sub(lookback_ms));
                let mut groups = stream::iter(places)
                    .map(|place| self.place_rows(place, since, end))
                    .buffered(PLACES_READ_AHEAD);
                while let Some(rows) = groups.next().await {
                    let rows = rows?;
                    if rows.last().is_some_and(|row| row.scan.at >= first) && sink(first, &rows).is_break() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// One person's rows on the days `from_day..=to_day`, by event time.
    pub async fn person_history(
        &self,
        person: Pseudonym,
        from_day: i32,
        to_day: i32,
    ) -> Result<Vec<Checkin>, StoreError> {
        let mut rows = Vec::new();
        for day in self.days(from_day, to_day).await? {
            match self {
                Self::Embedded(store) => store.person_day(person, day, &mut rows)?,
                Self::Cql(store) => store.person_day(person, day, &mut rows).await?,
            }
        }
        Ok(rows)
    }

    /// Removes what is past its retention at `now`. The embedded store does so by whole days, once the last moment of a
    /// day is over, and by itself once a day and at each start; a CQL database by the time to live of each row.
    pub fn expire(&self, now: UnixMillis) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => store.expire(now),
            Self::Cql(_) => Ok(()),
        }
    }

    /// Whether the store can be written to now.
    pub async fn ping(&self) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => store.ping(),
            Self::Cql(store) => store.ping().await,
        }
    }

    /// Makes every acknowledged write durable and lets go of connections.
    pub async fn close(&self) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => store.sync(),
            Self::Cql(store) => {
                store.close().await;
                Ok(())
            }
        }
    }

    /// Records acknowledged without a row because their retention had ended before they arrived.
    pub fn expired_total(&self) -> u64 {
        match self {
            Self::Embedded(store) => store.expired_total(),
            Self::Cql(store) => store.expired_total(),
        }
    }

    /// The days in `from..=to` that have rows, in order.
    async fn days(&self, from: i32, to: i32) -> Result<Vec<i32>, StoreError> {
        match self {
            Self::Embedded(store) => Ok(store.days(from, to)),
            Self::Cql(store) => store.days(from, to).await,
        }
    }

    /// The next few places with rows on `day`, in key order.
    async fn places(&self, day: i32, after: Option<PlaceKey>) -> Result<Vec<PlaceKey>, StoreError> {
        match self {
            Self::Embedded(store) => store.places(day, after),
            Self::Cql(store) => store.places(day, after).await,
        }
    }

    /// One place's rows with `from <= at < to`, by check-in id, and so by event time. Reads only the days it must, and
    /// of each no more than that; all of it is in memory at once.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn place_rows(
        &self,
        place: PlaceKey,
        from: UnixMillis,
        to: UnixMillis,
    ) -> Result<Vec<Checkin>, StoreError> {
        let mut rows = Vec::new();
        if from >= to {
            return Ok(rows);
        }
        for day in from.day()..=UnixMillis(to.0 - 1).day() {
            let starts = i64::from(day) * DAY_MS;
            let (first, end) = (from.max(UnixMillis(starts)), to.min(UnixMillis(starts + DAY_MS)));
            match self {
                Self::Embedded(store) => store.place_day(place, day, first, end, &mut rows)?,
                Self::Cql(store) => store.place_day(place, day, first, end, &mut rows).await?,
            }
        }
        Ok(rows)
    }
}

/// Which of two records under one check-in id is the row: the larger. The arrival time in
/// microseconds, whose last three digits come from the client key, so that two gateways that received
/// a scan in one millisecond still agree, and never mix two records' columns.
pub fn version_us(checkin: &Checkin) -> i64 {
    let [.., high, low] = checkin.scan.client.0;
    let tie_break = i64::from(u16::from_be_bytes([high, low])) % 1000;
    checkin.scan.received.0.saturating_mul(1000).saturating_add(tie_break)
}

/// How long rows are kept after their event time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Retention {
    days: u16,
}

impl Retention {
    /// Milliseconds left to keep a row with this event time; `None` when rows are kept for ever.
    fn left_ms(self, at: UnixMillis, now: UnixMillis) -> Option<i64> {
        (self.days > 0).then(|| at.0 + i64::from(self.days) * DAY_MS - now.0)
    }

    /// Whether a row with this event time must not be kept any more.
    fn is_over(self, at: UnixMillis, now: UnixMillis) -> bool {
        self.left_ms(at, now).is_some_and(|left| left <= 0)
    }
}

/// What a failure asks of whoever watches the gateway; its names are metric labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FailureKind {
    /// No connection to the database.
    Unreachable = 1,
    /// The database did not answer in time.
    Timeout = 2,
    /// The database answered that it can't serve this now.
    Unavailable = 3,
    /// The database refused the request itself: schema, permission or a bug here.
    Refused = 4,
    /// The embedded store's files failed.
    Disk = 5,
    /// Something stored can't be read back.
    Damaged = 6,
    /// The journal could not be read.
    Source = 7,
    /// The watermark file could not be written.
    Watermark = 8,
}

impl FailureKind {
    /// Every kind, in order.
    pub const ALL: &[Self] = &[
        Self::Unreachable,
        Self::Timeout,
        Self::Unavailable,
        Self::Refused,
        Self::Disk,
        Self::Damaged,
        Self::Source,
        Self::Watermark,
    ];

    /// The stable name for metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
            Self::Disk => "disk",
            Self::Damaged => "damaged",
            Self::Source => "source",
            Self::Watermark => "watermark",
        }
    }

    /// The kind behind a stored code; `None` for 0, which is "no failure yet".
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| *kind as u8 == code)
    }
}

/// A store operation that failed. Nothing in it, nor in its sources, quotes a row.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The embedded store's directory can't be opened.
    #[error("can't open the embedded store in {}", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: fjall::Error,
    },
    /// The embedded store failed. A failed write or fsync poisons it until the next start.
    #[error("embedded store failed")]
    Embedded(#[from] fjall::Error),
    /// A stored row has an unknown shape.
    #[error("row of day {day} in {table} is damaged: {what}")]
    Damaged {
        /// The table.
        table: &'static str,
        /// The partition day.
        day: i32,
        /// The field and what is wrong with it.
        what: &'static str,
    },
    /// A setting is out of its bounds.
    #[error("{name} {rule}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// The rule, with limit and value.
        rule: String,
    },
    /// The driver's own runtime thread could not be started.
    #[error("can't start the database driver's thread")]
    Runtime(#[source] std::io::Error),
    /// No session with the database.
    #[error("can't connect to any of the database nodes")]
    Connect(#[source] Box<scylla::errors::NewSessionError>),
    /// Connecting took too long.
    #[error("no session with the database within {limit_ms} ms")]
    ConnectTimeout {
        /// The limit.
        limit_ms: u64,
    },
    /// The schema is not there and the gateway was told not to create it.
    #[error("schema migration {version} is not applied in keyspace {keyspace}")]
    SchemaMissing {
        /// The first missing migration.
        version: i32,
        /// The keyspace looked in.
        keyspace: String,
    },
    /// The keyspace was migrated by a newer version.
    #[error(
        "keyspace {keyspace} has schema migration {version}, this version knows them up to {newest}: it needs a newer gateway"
    )]
    SchemaUnknown {
        /// The migration that isn't known.
        version: i32,
        /// The newest that is.
        newest: i32,
        /// The keyspace looked in.
        keyspace: String,
    },
    /// A migration was applied in another form.
    #[error(
        "schema migration {name} was applied to keyspace {keyspace} with other statements than this version's"
    )]
    SchemaChanged {
        /// The migration.
        name: &'static str,
        /// The keyspace looked in.
        keyspace: String,
    },
    /// A statement failed.
    #[error("database statement failed: {statement}")]
    Execute {
        /// What the statement does.
        statement: &'static str,
        /// Why.
        source: Box<scylla::errors::ExecutionError>,
    },
    /// A statement could not be prepared.
    #[error("database statement can't be prepared: {statement}")]
    Prepare {
        /// What the statement does.
        statement: &'static str,
        /// Why.
        source: Box<scylla::errors::PrepareError>,
    },
    /// The keyspace can't be used.
    #[error("keyspace {keyspace} can't be used")]
    Keyspace {
        /// The keyspace.
        keyspace: String,
        /// Why.
        source: Box<scylla::errors::UseKeyspaceError>,
    },
    /// Reading rows failed.
    #[error("database read failed: {statement}")]
    Read {
        /// What the statement does.
        statement: &'static str,
        /// Why.
        source: Box<scylla::errors::PagerExecutionError>,
    },
    /// A page of rows could not be fetched or read.
    #[error("database page failed: {statement}")]
    Page {
        /// What the statement does.
        statement: &'static str,
        /// Why.
        source: Box<scylla::errors::NextRowError>,
    },
    /// The table's columns are not the ones this version knows.
    #[error("database columns differ: {statement}")]
    Columns {
        /// What the statement does.
        statement: &'static str,
        /// Why.
        source: Box<scylla::errors::TypeCheckError>,
    },
}

impl StoreError {
    /// What kind of failure this is.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Open { .. } | Self::Embedded(_) => FailureKind::Disk,
            Self::Damaged { .. } => FailureKind::Damaged,
            Self::Runtime(_) | Self::Connect(_) | Self::ConnectTimeout { .. } => FailureKind::Unreachable,
            Self::Execute { source, .. } => cql::kind_of(source),
            Self::Read { .. } | Self::Page { .. } => FailureKind::Unavailable,
            Self::Setting { .. }
            | Self::SchemaMissing { .. }
            | Self::SchemaUnknown { .. }
            | Self::SchemaChanged { .. }
            | Self::Prepare { .. }
            | Self::Keyspace { .. }
            | Self::Columns { .. } => FailureKind::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_counts_from_the_event_and_zero_keeps_for_ever() {
        let at = UnixMillis(10 * DAY_MS);
        let kept = Retention { days: 30 };
        assert!(!kept.is_over(at, UnixMillis(40 * DAY_MS - 1)));
        assert!(kept.is_over(at, UnixMillis(40 * DAY_MS)));
        assert!(!Retention { days: 0 }.is_over(at, UnixMillis(i64::MAX)));
    }

    #[test]
    fn failure_kinds_keep_their_codes() {
        for kind in FailureKind::ALL {
            assert_eq!(FailureKind::from_code(*kind as u8), Some(*kind));
        }
        assert_eq!(FailureKind::from_code(0), None);
    }
}
