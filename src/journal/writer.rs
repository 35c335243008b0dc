//! The one thread that writes: takes what the lanes hold, writes it as a batch, syncs, publishes.

use super::file::{JournalFile, is_full, write_all_at};
use super::lane::{CommitError, Condition, Shared};
use super::record::{
    BATCH_HEADER_BYTES, BATCH_HEADER_LEN, BatchHeader, BatchKind, CHECKIN_RECORD_BYTES, SEGMENT_HEADER_BYTES,
    encode_segment_header,
};
use super::segment::file_name;
use super::space::Segment;
use super::{JournalSettings, Position};
use crate::scan::UnixMillis;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The segment being written.
pub(super) struct Active {
    pub(super) number: u64,
    pub(super) file: Arc<dyn JournalFile>,
    /// Where the durable data ends and the next batch begins.
    pub(super) end: u64,
    /// Whether its space is reserved; false after the disk was full.
    pub(super) allocated: bool,
    /// Of the first batch, or of the oldest record; the end of time while there is none.
    pub(super) oldest_received: UnixMillis,
    pub(super) newest_received: UnixMillis,
}

/// The writer's state, prepared by recovery.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) active: Option<Active>,
    pub(super) next_segment: u64,
    pub(super) next_sequence: u64,
    batch: Batch,
}

/// What was taken from the lanes and is being committed.
struct Batch {
    /// Header and records, as they will be written.
    bytes: Vec<u8>,
    /// The other half of each lane's double buffer.
    spares: Vec<Vec<u8>>,
    /// Per lane, the sequence number below which it holds the records.
    taken: Vec<(usize, u64)>,
    newest_received: UnixMillis,
    first_lane: usize,
}

/// What a turn of the writer came to.
pub(super) enum Turn {
    /// A batch was committed, or failed.
    Committed,
    /// The lanes are empty.
    Idle,
    /// There is no space: to be probed in a while.
    Full,
    /// Stopped or poisoned.
    Ended,
}

/// Why nothing could be written. Space is the only thing worth waiting for.
pub(super) enum Failure {
    DiskFull,
    BytesMax,
    Fatal(&'static str, io::Error),
}

impl Failure {
    /// An error of an operation that leaves nothing in doubt when it fails for want of space.
    fn of(doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| if is_full(&error) { Self::DiskFull } else { Self::Fatal(doing, error) }
    }

    /// An error of an operation after which nothing is certain, whatever the error.
    fn fatal(doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self::Fatal(doing, error)
    }
}

/// Starts the writer's thread.
pub(super) fn start(writer: Writer) -> io::Result<JoinHandle<()>> {
    let shared = Arc::clone(&writer.shared);
    let thread = std::thread::Builder::new().name("journal".into()).spawn(move || writer.run())?;
    if shared.writer.set(thread.thread().clone()).is_err() {
        tracing::debug!("journal writer was set twice");
    }
    // It may have parked before anyone could know its handle.
    thread.thread().unpark();
    Ok(thread)
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, next_segment: u64, next_sequence: u64) -> Self {
        let JournalSettings { lane_bytes_max, batch_bytes_max, .. } = shared.settings;
        let spare = |_| Vec::with_capacity(lane_bytes_max);
        let batch = Batch {
            bytes: Vec::with_capacity(BATCH_HEADER_LEN + batch_bytes_max + lane_bytes_max),
            spares: shared.lanes.iter().map(spare).collect(),
            taken: Vec::new(),
            newest_received: UnixMillis(i64::MIN),
            first_lane: 0,
        };
        Self { shared, active: None, next_segment, next_sequence, batch }
    }

    /// Until the journal stops or is poisoned.
    pub(super) fn run(mut self) {
        let _guard = PoisonOnPanic(Arc::clone(&self.shared));
        loop {
            match self.turn() {
                Turn::Committed => {}
                Turn::Idle => self.sleep(None),
                Turn::Full => {
                    self.sleep(Some(Duration::from_millis(self.shared.settings.probe_ms)));
                    self.probe();
                }
                Turn::Ended => break,
            }
        }
        self.finish();
    }

    /// Ends a segment that is old, and commits one batch, if there is one.
    pub(super) fn turn(&mut self) -> Turn {
        if self.shared.condition() == Condition::Open {
            self.seal_old();
        }
        let stop = || self.shared.stop.load(Ordering::SeqCst);
        match self.shared.condition() {
            Condition::Open if self.batch.take(&self.shared) => {
                self.commit();
                Turn::Committed
            }
            Condition::Open if !stop() => Turn::Idle,
            Condition::DiskFull | Condition::BytesMax if !stop() => Turn::Full,
            _ => Turn::Ended,
        }
    }

    /// Commits what came in before the door closed, and marks the end of a clean run.
    fn finish(&mut self) {
        let was = self.shared.condition();
        if was == Condition::Open {
            self.shared.set_condition(Condition::Stopped);
            while self.batch.take(&self.shared) {
                self.commit();
            }
        }
        if self.shared.condition() == Condition::Stopped
            && let Err(Failure::Fatal(doing, error)) = self.mark()
        {
            tracing::warn!(doing, %error, "journal could not mark its clean end");
        }
        if self.shared.condition() != Condition::Poisoned {
            self.shared.set_condition(Condition::Stopped);
        }
    }

    /// Sleeps until an append, a release or a stop, or the time is up.
    fn sleep(&self, timeout: Option<Duration>) {
        self.shared.parked.store(true, Ordering::SeqCst);
        let waiting = self.shared.lanes.iter().any(|lane| !lane.pending.lock().bytes.is_empty());
        if !waiting && !self.shared.stop.load(Ordering::SeqCst) {
            match timeout {
                Some(timeout) => std::thread::park_timeout(timeout),
                None => std::thread::park(),
            }
        }
        self.shared.parked.store(false, Ordering::SeqCst);
    }

    /// Ends a segment whose oldest record has been there for the retention: it could not go before it is full, which
    /// on a quiet gateway takes years. Not where that would need more room than there is.
    fn seal_old(&mut self) {
        let before_ms = self.shared.seal_before_ms.load(Ordering::Relaxed);
        if self.active.as_ref().is_none_or(|active| active.oldest_received.0 >= before_ms) {
            return;
        }
        let JournalSettings { segment_bytes, bytes_max, .. } = self.shared.settings;
        if self.shared.space.lock().bytes() + segment_bytes > bytes_max {
            return;
        }
        match self.roll_over() {
            Ok(()) => {
                let durable = self.shared.progress.lock().durable;
                self.shared.publish(Some(durable));
            }
            Err(failure) => self.failed(failure),
        }
    }

    fn commit(&mut self) {
        match self.write_batch() {
            Ok(durable) => {
                self.batch.settle(&self.shared, Ok(()));
                self.shared.publish(Some(durable));
            }
            Err(failure) => self.failed(failure),
        }
    }

    fn failed(&mut self, failure: Failure) {
        match failure {
            Failure::DiskFull => self.refuse(Condition::DiskFull, CommitError::DiskFull),
            Failure::BytesMax => {
                let limit = self.shared.settings.bytes_max;
                self.refuse(Condition::BytesMax, CommitError::BytesMax { limit });
            }
            Failure::Fatal(doing, error) => {
                tracing::error!(doing, %error, "journal is poisoned; nothing is accepted until a restart");
                self.refuse(Condition::Poisoned, CommitError::Poisoned);
            }
        }
    }

    /// Closes the door, then fails the batch and everything that came in before the door was closed.
    fn refuse(&mut self, condition: Condition, error: CommitError) {
        if condition != Condition::Poisoned {
            tracing::warn!(%error, "journal refuses records");
        }
        if self.shared.condition() != Condition::Stopped || condition == Condition::Poisoned {
            self.shared.set_condition(condition);
        }
        loop {
            self.batch.settle(&self.shared, Err(error));
            if !self.batch.take(&self.shared) {
                break;
            }
        }
        self.shared.publish(None);
    }

    /// Sees whether there is space again.
    pub(super) fn probe(&mut self) {
        match self.room_for(0) {
            Ok(()) => {
                tracing::info!("journal accepts records again");
                self.shared.set_condition(Condition::Open);
            }
            Err(Failure::Fatal(doing, error)) => {
                tracing::error!(doing, %error, "journal is poisoned; nothing is accepted until a restart");
                self.refuse(Condition::Poisoned, CommitError::Poisoned);
            }
            Err(Failure::DiskFull) => self.shared.set_condition(Condition::DiskFull),
            Err(Failure::BytesMax) => self.shared.set_condition(Condition::BytesMax),
        }
    }

    fn write_batch(&mut self) -> Result<Position, Failure> {
        self.room_for(self.batch.bytes.len() as u64)?;
        let Some(active) = &mut self.active else { return Err(Failure::DiskFull) };
        self.batch.put_header(active.header(self.next_sequence, BatchKind::Records));
        active.write(&self.batch.bytes)?;
        let begun = Instant::now();
        active.file.sync_data().map_err(Failure::fatal("sync"))?;
        let took = begun.elapsed();
        if let Some(observe) = self.shared.observer.get() {
            let records = (self.batch.bytes.len() - BATCH_HEADER_LEN) / CHECKIN_RECORD_BYTES;
            observe(records, self.batch.bytes.len(), took);
        }
        let sync_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        active.end += self.batch.bytes.len() as u64;
        active.oldest_received = active.oldest_received.min(self.batch.newest_received);
        active.newest_received = active.newest_received.max(self.batch.newest_received);
        self.next_sequence += 1;
        let durable = Position { segment: active.number, offset: active.end };
        let mut counts = self.shared.counts.lock();
        counts.batches += 1;
        counts.sync_last_us = sync_us;
        counts.sync_total_us = counts.sync_total_us.saturating_add(sync_us);
        Ok(durable)
    }

    /// Makes sure that the active segment can take `bytes` and still a seal, rolling over if need be.
    pub(super) fn room_for(&mut self, bytes: u64) -> Result<(), Failure> {
        let segment_bytes = self.shared.settings.segment_bytes;
        let Some(active) = &mut self.active else { return self.create() };
        if active.end + bytes + BATCH_HEADER_BYTES <= segment_bytes {
            if !active.allocated {
                active.allocate(segment_bytes)?;
                self.last_segment(|segment| segment.bytes = segment_bytes);
            }
            return Ok(());
        }
        self.roll_over()
    }

    /// Seals the active segment and begins the next.
    fn roll_over(&mut self) -> Result<(), Failure> {
        let Some(active) = &mut self.active else { return self.create() };
        active.seal(self.next_sequence)?;
        self.next_sequence += 1;
        let (end, newest_received) = (active.end, active.newest_received);
        self.active = None;
        self.last_segment(|segment| {
            segment.bytes = end;
            segment.sealed_at = Some(end - BATCH_HEADER_BYTES);
            segment.newest_received = newest_received;
        });
        self.create()
    }

    fn last_segment(&self, change: impl FnOnce(&mut Segment)) {
        if let Some(segment) = self.shared.space.lock().segments.back_mut() {
            change(segment);
        }
    }

    fn create(&mut self) -> Result<(), Failure> {
        let JournalSettings { segment_bytes, bytes_max, .. } = self.shared.settings;
        self.shared.reclaim((self.shared.clock)());
        if self.shared.space.lock().bytes() + segment_bytes > bytes_max {
            return Err(Failure::BytesMax);
        }
        let number = self.next_segment;
        let path = self.shared.dir.join(file_name(number));
        let file = self.shared.storage.create(&path).map_err(Failure::of("create a segment"))?;
        if let Err(failure) = self.prepare(file.as_ref(), number) {
            drop(file);
            self.shared.storage.remove(&path).map_err(Failure::fatal("remove an unused segment"))?;
            return Err(failure);
        }
        let segment =
            Segment { number, bytes: segment_bytes, sealed_at: None, newest_received: UnixMillis(i64::MIN) };
        // A reader that starts here, the segments before being gone, is not ahead of what is durable.
        self.shared.progress.lock().durable = Position { segment: number, offset: SEGMENT_HEADER_BYTES };
        self.shared.space.lock().segments.push_back(segment);
        self.next_segment += 1;
        self.active = Some(Active {
            number,
            file,
            end: SEGMENT_HEADER_BYTES,
            allocated: true,
            oldest_received: UnixMillis(i64::MAX),
            newest_received: UnixMillis(i64::MIN),
        });
        Ok(())
    }

    /// Header, space, and both durable, before a record goes in.
    fn prepare(&self, file: &dyn JournalFile, number: u64) -> Result<(), Failure> {
        let doing = "prepare a segment";
        write_all_at(file, &encode_segment_header(number), 0).map_err(Failure::of(doing))?;
        file.allocate(self.shared.settings.segment_bytes).map_err(Failure::of(doing))?;
        file.sync_all().map_err(Failure::fatal(doing))?;
        self.shared.storage.sync_dir(&self.shared.dir).map_err(Failure::fatal("sync the directory"))
    }

    fn mark(&mut self) -> Result<(), Failure> {
        let Some(active) = &mut self.active else { return Ok(()) };
        active.write(&active.header(self.next_sequence, BatchKind::Mark).encode())?;
        active.file.sync_data().map_err(Failure::fatal("sync"))
    }
}

impl Active {
    fn header(&self, sequence: u64, kind: BatchKind) -> BatchHeader {
        BatchHeader { sequence, segment: self.number, offset: self.end, kind }
    }

    /// Writes at the end. If there is no space, nothing of it stays behind.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        write_all_at(self.file.as_ref(), bytes, self.end).map_err(Failure::of("write")).or_else(|failure| {
            if matches!(failure, Failure::DiskFull) {
                self.roll_back()?;
            }
            Err(failure)
        })
    }

    /// Cuts the file back to its durable data, durably, so that half a batch is never read as one.
    fn roll_back(&mut self) -> Result<(), Failure> {
        self.allocated = false;
        self.file.set_len(self.end).map_err(Failure::fatal("roll back"))?;
        self.file.sync_all().map_err(Failure::fatal("roll back"))
    }

    pub(super) fn allocate(&mut self, segment_bytes: u64) -> Result<(), Failure> {
        self.file.allocate(segment_bytes).map_err(Failure::of("allocate"))?;
        self.file.sync_all().map_err(Failure::fatal("allocate"))?;
        self.allocated = true;
        Ok(())
    }

    /// Declares the segment complete and gives back the space it didn't need.
    fn seal(&mut self, sequence: u64) -> Result<(), Failure> {
        self.write(&self.header(sequence, BatchKind::Seal).encode())?;
        self.end += BATCH_HEADER_BYTES;
        self.file.set_len(self.end).map_err(Failure::fatal("seal"))?;
        self.file.sync_all().map_err(Failure::fatal("seal"))
    }
}

impl Batch {
    /// Takes lanes in turn until the batch is big enough. False if there was nothing.
    fn take(&mut self, shared: &Shared) -> bool {
        self.bytes.clear();
        self.bytes.resize(BATCH_HEADER_LEN, 0);
        self.taken.clear();
        self.newest_received = UnixMillis(i64::MIN);
        let lanes = shared.lanes.len();
        let full = BATCH_HEADER_LEN + shared.settings.batch_bytes_max;
        let order = (self.first_lane..lanes).chain(0..self.first_lane.min(lanes));
        for index in order {
            if self.bytes.len() >= full {
                // What was left out comes first next time.
                self.first_lane = index;
                break;
            }
            let (Some(lane), Some(spare)) = (shared.lanes.get(index), self.spares.get_mut(index)) else {
                continue;
            };
            let (next_seq, newest) = {
                let mut pending = lane.pending.lock();
                if pending.bytes.is_empty() {
                    continue;
                }
                std::mem::swap(&mut pending.bytes, spare);
                (pending.next_seq, pending.newest_received)
            };
            self.bytes.extend_from_slice(spare);
            spare.clear();
            self.taken.push((index, next_seq));
            self.newest_received = self.newest_received.max(newest);
        }
        !self.taken.is_empty()
    }

    fn put_header(&mut self, header: BatchHeader) {
        if let Some(room) = self.bytes.first_chunk_mut::<BATCH_HEADER_LEN>() {
            *room = header.encode();
        }
    }

    /// Publishes the fate of everything that was taken.
    fn settle(&mut self, shared: &Shared, outcome: Result<(), CommitError>) {
        let mut records = 0;
        for (index, next_seq) in self.taken.drain(..) {
            if let Some(lane) = shared.lanes.get(index) {
                records += lane.settle(next_seq, outcome);
            }
        }
        let mut counts = shared.counts.lock();
        match outcome {
            Ok(()) => counts.records += records,
            Err(_) => counts.failed_records += records,
        }
    }
}

/// If the writer itself breaks, nobody may wait for it forever.
struct PoisonOnPanic(Arc<Shared>);

impl Drop for PoisonOnPanic {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        self.0.set_condition(Condition::Poisoned);
        for lane in &self.0.lanes {
            let next_seq = lane.pending.lock().next_seq;
            lane.settle(next_seq, Err(CommitError::Poisoned));
        }
        self.0.publish(None);
    }
}
