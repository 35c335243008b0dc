//! Group-committed write-ahead log: of check-ins, and in a directory of its own of the services' events. **A [`Durable`] leaves this module only after the
//! record's bytes were fsynced**; the answer to the client is built from it.
//!
//! Each core encodes its records into its own [`Lane`]; one writer thread takes what all lanes hold,
//! writes it as one batch, syncs once, and wakes each waiting core once. What arrives during a sync is
//! the next batch.
//!
//! # Files
//!
//! `DIR/00000000000000000001.journal`, numbered without a gap. Every integer is little-endian, every
//! checksum CRC32C.
//!
//! ```text
//! segment        = segment header, batch, batch, …, then zeros or the end of the file
//! segment header = magic "scgJrnl" 0x1a [8] · version u32 = 1 · 0 u32 · segment u64 · 0 u32 · crc u32
//! batch          = batch header, record, record, …
//! batch header   = magic [8] · sequence u64 · segment u64 · offset u64 · kind u8 · 0 [3] · crc u32
//!                  kind 0: records follow; 1: seal, the segment is complete; 2: mark, clean stop
//! record         = length u32 (1..=4096) · crc u32 · payload [length]
//!                  crc: of the payload, continued from the length as its initial value
//! payload        = kind u8 · version u8 · body
//! check-in       = kind 1, version 1 · id [16] · person [16] · place [16] · at i64 · received i64
//!                  · client [12] · device [8] · window_s u16 · direction u8 · requested direction u8
//!                  · app u8 · subject u8 · trust u8 · form u8      (102 bytes with its frame)
//! event          = kind 2, version 1 · id [16] · at i64 · capability u8 · body
//! ```
//!
//! # Invariants
//!
//! - A batch header is written only after everything before it was fsynced. So an intact batch header
//!   behind a record that can't be read proves that the record was durable once: that is damage, and
//!   opening fails with file and offset. Without such a header it is a torn tail, never acknowledged,
//!   and is cut off.
//! - A batch header carries its own segment and offset, so bytes that once stood elsewhere can't pass
//!   for one; sequence numbers rise by one a batch over all segments.
//! - A segment is followed by another only once its seal is durable; so only the last may end torn.
//! - Preallocated space reads as zeros, and no record has length 0: zeros are the end of the data.
//! - The file and the directory are fsynced before the first batch enters a new segment.
//! - After a failed write or sync nothing is ever written again ([`CommitError::Poisoned`]). Only "no
//!   space" on a write or allocation is survivable: the file is first cut back to the last durable byte.
//! - What recovery replays is durable before [`Journal::open`] returns: it writes the last batch again
//!   and syncs, because a page that failed to sync before a crash may read back fine from memory.
//! - A segment is deleted only below the released position, oldest first, each durably before the next.
//!
//! One thing can't be told apart: bit rot inside the very last batch looks like a torn write. A clean
//! stop therefore ends with a mark, which turns such rot into reported damage.

mod event;
mod record;
pub mod file;
mod segment;
mod space;
mod lane;
mod writer;
mod recovery;
mod reader;
mod inspect;
mod position;
mod rewrite;

pub use event::{EVENT_BODY_BYTES_MAX, Event};
pub use inspect::{Damage, Inspection, SegmentReport, inspect, verify};
pub use lane::{AppendError, CommitError, Committed, LaneOf, Ticket};
pub use position::{InvalidPosition, Position};
pub use reader::{ReadError, ReaderOf};
pub use record::{
    BATCH_HEADER_BYTES, CHECKIN_RECORD_BYTES, FORMAT_VERSION, RECORD_BYTES_MAX, SEGMENT_HEADER_BYTES,
    Unreadable,
};
pub use recovery::{JournalError, Recovery};
pub use rewrite::rewrite;

use crate::scan::{Checkin, UnixMillis};
use file::{Disk, Storage};
use lane::Shared;
use parking_lot::Mutex;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;
use writer::{Turn, Writer};

/// What a journal is a log of.
pub trait Record: Sized {
    /// What it takes on disk.
    fn bytes(&self) -> usize;

    /// Appends it, framed, as [`Record::bytes`] bytes.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads the rest of a record of this kind and version.
    ///
    /// # Errors
    /// It is of another kind, or none.
    fn decode(kind: u8, version: u8, body: &[u8]) -> Result<Self, Unreadable>;

    /// When it arrived, which retention goes by.
    fn received(&self) -> UnixMillis;
}

/// The journal of check-ins.
pub type Journal = JournalOf<Checkin>;

/// A core's way into the journal of check-ins.
pub type Lane = LaneOf<Checkin>;

/// Reads the journal of check-ins.
pub type Reader = ReaderOf<Checkin>;

/// Proof that a record is on disk, fsynced. Only this module can make one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable(());

/// Bounds of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalSettings {
    /// How many cores append: the number of lanes.
    pub lanes: u16,
    /// Bytes a core may have waiting for the writer.
    pub lane_bytes_max: usize,
    /// Bytes after which a batch takes in no further lane.
    pub batch_bytes_max: usize,
    /// Preallocated size of a segment.
    pub segment_bytes: u64,
    /// Bytes that all segments together may take.
    pub bytes_max: u64,
    /// How long a released segment is kept for rebuilding deduplication, by its newest arrival.
    pub retain_ms: i64,
    /// How often a full disk is tried again.
    pub probe_ms: u64,
}

impl Default for JournalSettings {
    fn default() -> Self {
        Self {
            lanes: 1,
            lane_bytes_max: 1024 * 1024,
            batch_bytes_max: 1024 * 1024,
            segment_bytes: 64 * 1024 * 1024,
            bytes_max: 8 * 1024 * 1024 * 1024,
            retain_ms: 15 * 60 * 1000,
            probe_ms: 500,
        }
    }
}

/// What the journal is doing, for metrics and readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JournalStats {
    /// Bytes that all segments take on disk.
    pub bytes: u64,
    /// Number of segments.
    pub segments: u64,
    /// Batches made durable since opening.
    pub batches: u64,
    /// Records made durable since opening.
    pub records: u64,
    /// Duration of the last sync, in microseconds.
    pub sync_last_us: u64,
    /// Duration of all syncs since opening, in microseconds.
    pub sync_total_us: u64,
    /// Records whose commit failed since opening.
    pub failed_records: u64,
    /// Segments deleted since opening.
    pub deleted_segments: u64,
    /// Those of them deleted before their retention ended, because the bytes were needed.
    pub deleted_early_segments: u64,
    /// A write or sync failed: nothing will be accepted until a restart.
    pub poisoned: bool,
    /// The disk is full: nothing is accepted until space returns.
    pub disk_full: bool,
    /// The journal's own byte bound is reached: nothing is accepted until segments are released.
    pub bytes_max_reached: bool,
}

/// The journal's own clock: how old a segment is, is asked of it.
pub type Clock = Box<dyn Fn() -> UnixMillis + Send + Sync>;

/// Who runs the writer.
enum Driver {
    Thread(JoinHandle<()>),
    /// Whoever calls [`Journal::step`].
    Hand(Box<Writer>),
}

/// The open journal. Dropping it commits what the lanes hold and stops the writer.
pub struct JournalOf<R> {
    shared: Arc<Shared>,
    writer: Mutex<Option<Driver>>,
    records: PhantomData<fn() -> R>,
}

impl<R: Record> JournalOf<R> {
    /// Opens (or creates) the journal in `dir`: replays every record in order through `on_record`, cuts
    /// off a torn tail, and starts the writer.
    pub fn open(
        dir: &Path,
        settings: JournalSettings,
        on_record: &mut dyn FnMut(&R),
    ) -> Result<(Self, Recovery), JournalError> {
        Self::open_on(Arc::new(Disk), dir, settings, on_record)
    }

    /// As [`Journal::open`], over other storage than the file system.
    pub fn open_on(
        storage: Arc<dyn Storage>,
        dir: &Path,
        settings: JournalSettings,
        on_record: &mut dyn FnMut(&R),
    ) -> Result<(Self, Recovery), JournalError> {
        let host = (storage, Box::new(UnixMillis::now) as Clock);
        let (shared, writer, recovery) = recovery::recover(host, dir, settings, on_record)?;
        let writer = writer::start(writer).map_err(|source| JournalError::Thread { source })?;
        Ok((
            Self { shared, writer: Mutex::new(Some(Driver::Thread(writer))), records: PhantomData },
            recovery,
        ))
    }

    /// As [`Journal::open_on`], without a thread and by another clock: the writer's work is done by
    /// [`Journal::step`], so that a simulation decides what happens between two commits.
    pub fn open_by_hand(
        storage: Arc<dyn Storage>,
        clock: Clock,
        dir: &Path,
        settings: JournalSettings,
        on_record: &mut dyn FnMut(&R),
    ) -> Result<(Self, Recovery), JournalError> {
        let (shared, writer, recovery) = recovery::recover((storage, clock), dir, settings, on_record)?;
        let writer = Mutex::new(Some(Driver::Hand(Box::new(writer))));
        Ok((Self { shared, writer, records: PhantomData }, recovery))
    }

    /// Commits one batch, or looks whether a full disk has space again. False if there was nothing to do,
    /// or the writer has a thread.
    pub fn step(&self) -> bool {
        let mut driver = self.writer.lock();
        let Some(Driver::Hand(writer)) = driver.as_mut() else { return false };
        match writer.turn() {
            Turn::Committed => true,
            Turn::Full => {
                writer.probe();
                true
            }
            Turn::Idle | Turn::Ended => false,
        }
    }

    /// Hands out a core's lane; each can be held once at a time.
    pub fn lane(&self, index: u16) -> Result<LaneOf<R>, JournalError> {
        LaneOf::take(&self.shared, index)
            .ok_or(JournalError::Lane { index, lanes: self.shared.settings.lanes })
    }

    /// Blocks until the ticket's fate is known.
    pub fn committed_blocking(&self, ticket: Ticket) -> Result<Durable, CommitError> {
        self.shared.committed_blocking(ticket)
    }

    /// The ticket's fate, if it is known.
    pub fn outcome(&self, ticket: Ticket) -> Option<Result<Durable, CommitError>> {
        self.shared.outcome(ticket)
    }

    /// Where the durable records end.
    pub fn durable_position(&self) -> Position {
        self.shared.progress.lock().durable
    }

    /// Blocks until something beyond `position` is durable, the journal stops, or `timeout` passes.
    /// Returns where the durable records end.
    pub fn wait_durable_beyond(&self, position: Position, timeout: Duration) -> Position {
        self.shared.wait_durable_beyond(position, timeout)
    }

    /// A reader of durable records from `from` on.
    pub fn reader(&self, from: Position) -> ReaderOf<R> {
        ReaderOf::new(Arc::clone(&self.shared), from)
    }

    /// Tells the journal that everything below `position` is in the store. Segments wholly below it are
    /// deleted once they are older than the retention, or earlier where their bytes are needed.
    pub fn release(&self, position: Position) {
        self.shared.release(position, (self.shared.clock)());
    }

    /// Lets go of what is past the retention at `now`, also where nothing more comes in: ends the segment being written
    /// if its oldest record is, and deletes those that may go.
    pub fn expire(&self, now: UnixMillis) {
        let before_ms = now.0.saturating_sub(self.shared.settings.retain_ms);
        // Not the greatest ever: a clock that ran ahead for a moment must not end every segment from then on.
        self.shared.seal_before_ms.store(before_ms, Ordering::Relaxed);
        self.shared.unpark_writer();
        self.shared.reclaim(now);
    }

    /// Has every group commit told to `observer`, on the writer's thread: its records, its bytes and how
    /// long its sync took. The first observer stays.
    pub fn observe_commits(&self, observer: impl Fn(usize, usize, Duration) + Send + Sync + 'static) {
        let _ = self.shared.observer.set(Box::new(observer));
    }

    /// A sample of what the journal is doing.
    pub fn stats(&self) -> JournalStats {
        self.shared.stats()
    }
}

impl<R> JournalOf<R> {
    /// Commits what the lanes hold, stops the writer and waits for it. Appends are refused from then on.
    pub fn close(&self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.unpark_writer();
        let ended = match self.writer.lock().take() {
            Some(Driver::Thread(writer)) => writer.join(),
            // Told to stop, it doesn't sleep.
            Some(Driver::Hand(writer)) => {
                writer.run();
                Ok(())
            }
            None => Ok(()),
        };
        if ended.is_err() {
            tracing::error!("journal writer panicked");
        }
        self.shared.progress.lock().stopped = true;
        self.shared.publish(None);
    }
}

impl<R> Drop for JournalOf<R> {
    fn drop(&mut self) {
        self.close();
    }
}
