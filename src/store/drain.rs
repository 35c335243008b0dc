//! Brings what the journal holds into the store, behind the answers to the clients.
//!
//! One thread reads durable records in order, writes them, makes them durable there, moves the
//! watermark, and only then releases the journal. Whatever fails is tried again from the last thing
//! known to be done, so a record may be written twice and never not at all; writing twice leaves one
//! row. A start is nothing special: it resumes at the watermark, as every batch does.
//!
//! No record is skipped: while the database is away or refuses a batch, the drain stays where it is,
//! backs off, counts, and the journal grows to its own bound, where clients are told to come later.

mod pace;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::scan::{Checkin, UnixMillis};

use super::watermark::{Watermark, WatermarkError};
use super::{FailureKind, Store, StoreError};
pub use pace::Pace;
use pace::{Backoff, ThreadPace};

/// Where the drain reads: the journal, or a test's list.
pub trait Source: Send + 'static {
    /// A place between two records.
    type Position: Copy + Ord + fmt::Debug + Send + Serialize + DeserializeOwned + 'static;
    /// Why reading failed.
    type Error: std::error::Error + Send + 'static;

    /// Moves to `to`, or before the oldest record still there, and says where that is.
    fn seek(&mut self, to: Option<Self::Position>) -> Result<Self::Position, Self::Error>;

    /// Appends up to `records_max` durable records and returns the position after the last: the
    /// unchanged one if there is nothing new. After an error the drain seeks before it reads again.
    fn read(&mut self, into: &mut Vec<Checkin>, records_max: usize) -> Result<Self::Position, Self::Error>;

    /// Blocks until there is a durable record beyond `position`, or for `limit`; says which.
    fn wait(&self, position: Self::Position, limit: Duration) -> bool;

    /// Everything before `position` is durable in the store and may be deleted.
    fn release(&self, position: Self::Position);

    /// How much durable data lies beyond `position`, for the metrics.
    fn backlog(&self, position: Self::Position) -> Backlog;
}

/// What the store still has to catch up with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Records.
    pub records: u64,
    /// Bytes of journal.
    pub bytes: u64,
}

/// Settings of the drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainSettings {
    /// Records read and written at a time.
    pub batch_records_max: usize,
    /// How long a batch well short of that is left to grow first. Costs lag nobody waits for, and
    /// saves requests: larger batches share more partitions.
    pub linger_ms: u64,
    /// How long written records may wait for the next sync and watermark.
    pub sync_every_ms: u64,
    /// How many may.
    pub sync_records_max: u64,
    /// How long to wait for new records before looking whether to stop.
    pub idle_wait_ms: u64,
    /// The first pause after a failure; it doubles with each further one.
    pub backoff_min_ms: u64,
    /// The longest.
    pub backoff_max_ms: u64,
}

impl Default for DrainSettings {
    fn default() -> Self {
        Self {
            batch_records_max: 2_000,
            linger_ms: 20,
            sync_every_ms: 1_000,
            sync_records_max: 100_000,
            idle_wait_ms: 100,
            backoff_min_ms: 50,
            backoff_max_ms: 5_000,
        }
    }
}

/// Counters of a drain, readable at any time.
#[derive(Debug, Default)]
pub struct DrainStats {
    written: AtomicU64,
    batches: AtomicU64,
    batch_us: AtomicU64,
    retries: AtomicU64,
    syncs: AtomicU64,
    lag_records: AtomicU64,
    lag_bytes: AtomicU64,
    oldest_received_ms: AtomicI64,
    last_failure: AtomicU8,
    failing: AtomicBool,
}

impl DrainStats {
    /// Records the store has acknowledged.
    pub fn written_total(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Batches the store has acknowledged.
    pub fn batches_total(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    /// Time spent writing acknowledged batches.
    pub fn batch_time_total(&self) -> Duration {
        Duration::from_micros(self.batch_us.load(Ordering::Relaxed))
    }

    /// Attempts that failed and were made again.
    pub fn retries_total(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Watermarks written.
    pub fn syncs_total(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// What lay beyond the drain when it last looked.
    pub fn lag(&self) -> Backlog {
        Backlog {
            records: self.lag_records.load(Ordering::Relaxed),
            bytes: self.lag_bytes.load(Ordering::Relaxed),
        }
    }

    /// When the oldest record of the batch in hand was received; none once everything is written.
    pub fn oldest_received(&self) -> Option<UnixMillis> {
        let received = self.oldest_received_ms.load(Ordering::Relaxed);
        (received > 0).then_some(UnixMillis(received))
    }

    /// The last failure's kind, if there ever was one.
    pub fn last_failure(&self) -> Option<FailureKind> {
        FailureKind::from_code(self.last_failure.load(Ordering::Relaxed))
    }

    /// Whether the latest attempt failed.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    fn failed(&self, kind: FailureKind) {
        self.last_failure.store(kind as u8, Ordering::Relaxed);
        self.retries.fetch_add(1, Ordering::Relaxed);
        self.failing.store(true, Ordering::Relaxed);
    }

    fn took(&self, batch: &[Checkin]) {
        let oldest = batch.first().map_or(0, |checkin| checkin.scan.received.0);
        self.oldest_received_ms.store(oldest, Ordering::Relaxed);
    }

    /// Nothing is read meanwhile: what comes in is at least as old as the first look at it.
    fn stalled(&self, backlog: Backlog) {
        self.looked(backlog);
        if backlog.records > 0 {
            let now = UnixMillis::now().0;
            // One that is in hand already is older.
            let _ = self.oldest_received_ms.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    fn looked(&self, backlog: Backlog) {
        self.lag_records.store(backlog.records, Ordering::Relaxed);
        self.lag_bytes.store(backlog.bytes, Ordering::Relaxed);
    }
}

/// The drain could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DrainError {
    /// The watermark's file can't be read.
    #[error("can't start the drain")]
    Watermark(#[from] WatermarkError),
    /// No thread or runtime.
    #[error("can't start the drain's thread")]
    Thread(#[source] std::io::Error),
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainEnd {
    /// Everything durable in the journal is durable in the store, and the watermark says so.
    Drained,
    /// The deadline came first, or the watermark can't be written; the next start carries on.
    Behind,
    /// The thread panicked; the next start carries on.
    Panicked,
}

/// Where the drain writes: the store, or a simulation's.
pub trait Target: 'static {
    /// As [`Store::write`].
    fn write(&self, batch: &[Checkin]) -> impl Future<Output = Result<(), StoreError>>;

    /// As [`Store::sync`].
    fn sync(&self) -> impl Future<Output = Result<(), StoreError>>;
}

impl Target for Arc<Store> {
    fn write(&self, batch: &[Checkin]) -> impl Future<Output = Result<(), StoreError>> {
        Store::write(self, batch)
    }

    fn sync(&self) -> impl Future<Output = Result<(), StoreError>> {
        Store::sync(self)
    }
}

/// Starts drains.
#[derive(Debug)]
pub struct Drain;

impl Drain {
    /// Resumes at the watermark, on a thread of its own.
    pub fn start<S: Source>(
        source: S,
        store: Arc<Store>,
        settings: DrainSettings,
        watermark: PathBuf,
    ) -> Result<DrainHandle, DrainError> {
        let watermark = Watermark::at(watermark);
        let resume = watermark.load::<S::Position>()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(DrainError::Thread)?;
        let stats = Arc::new(DrainStats::default());
        let (stop, stopped) = watch::channel(None);
        let worker_stats = Arc::clone(&stats);
        let run = move || {
            let (stop, stats) = (Stop(stopped), worker_stats);
            let worker = Worker { source, target: store, settings, watermark, stats, stop, pace: ThreadPace };
            runtime.block_on(worker.run(resume))
        };
        let thread = thread::Builder::new()
            .name("scangate-drain".to_owned())
            .spawn(run)
            .map_err(DrainError::Thread)?;
        Ok(DrainHandle { stats, stop, thread: Some(thread) })
    }

    /// The same drain as a future that its caller polls, so that a simulation decides what happens
    /// between two of its steps. It stops as one on a thread does, at the time put into the sender or
    /// when that is dropped; dropping the future ends it as a crash would.
    pub fn by_hand<S: Source, T: Target, P: Pace>(
        source: S,
        target: T,
        settings: DrainSettings,
        watermark: Watermark,
        pace: P,
    ) -> Result<(watch::Sender<Option<Instant>>, impl Future<Output = DrainEnd> + use<S, T, P>), DrainError>
    {
        let resume = watermark.load::<S::Position>()?;
        let (stop, stopped) = watch::channel(None);
        let (stop_at, stats) = (Stop(stopped), Arc::default());
        let worker = Worker { source, target, settings, watermark, stats, stop: stop_at, pace };
        Ok((stop, worker.run(resume)))
    }
}

/// A running drain. Dropping it stops it at once, which loses nothing.
#[derive(Debug)]
pub struct DrainHandle {
    stats: Arc<DrainStats>,
    stop: watch::Sender<Option<Instant>>,
    thread: Option<JoinHandle<DrainEnd>>,
}

impl DrainHandle {
    /// The counters.
    pub fn stats(&self) -> &Arc<DrainStats> {
        &self.stats
    }

    /// Whether the thread still runs. It ends by itself only by a panic.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Brings over everything durable, as far as that can be done within `limit`, and stops. Call it
    /// when nothing more is written to the journal.
    pub fn stop(mut self, limit: Duration) -> DrainEnd {
        self.join(limit)
    }

    fn join(&mut self, limit: Duration) -> DrainEnd {
        self.stop.send_replace(Some(Instant::now() + limit));
        self.thread.take().map_or(DrainEnd::Behind, |thread| thread.join().unwrap_or(DrainEnd::Panicked))
    }
}

impl Drop for DrainHandle {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.join(Duration::ZERO);
        }
    }
}

/// When to stop: at the deadline, once there is one.
struct Stop(watch::Receiver<Option<Instant>>);

impl Stop {
    fn requested(&self) -> bool {
        self.0.borrow().is_some()
    }

    fn is_due(&self, now: Instant) -> bool {
        self.0.borrow().is_some_and(|deadline| now >= deadline)
    }

    /// Resolves at the deadline. A dropped handle is a deadline too.
    async fn due(&mut self, pace: &impl Pace) {
        let deadline = match self.0.wait_for(Option::is_some).await {
            Ok(deadline) => *deadline,
            Err(_) => return,
        };
        if let Some(deadline) = deadline {
            pace.pause(deadline.saturating_duration_since(pace.now())).await;
        }
    }
}

/// The deadline came.
struct OutOfTime;

struct Worker<S, T, P> {
    source: S,
    target: T,
    settings: DrainSettings,
    watermark: Watermark,
    stats: Arc<DrainStats>,
    stop: Stop,
    pace: P,
}

/// What is written but not yet under the watermark.
struct Unsynced {
    records: u64,
    since: Instant,
}

impl<S: Source, T: Target, P: Pace> Worker<S, T, P> {
    async fn run(mut self, resume: Option<S::Position>) -> DrainEnd {
        tracing::info!(position = ?resume, "drain starts");
        match self.drain(resume).await {
            Ok(()) => DrainEnd::Drained,
            Err(OutOfTime) => DrainEnd::Behind,
        }
    }

    async fn drain(&mut self, resume: Option<S::Position>) -> Result<(), OutOfTime> {
        let mut position = self.seek(resume).await?;
        let mut batch = Vec::with_capacity(self.settings.batch_records_max);
        let mut unsynced: Option<Unsynced> = None;
        loop {
            let next = self.read(position, &mut batch).await?;
            self.stats.took(&batch);
            self.write(position, &batch).await?;
            if next != position {
                let since = self.pace.now();
                let pending = unsynced.get_or_insert(Unsynced { records: 0, since });
                pending.records += batch.len() as u64;
                position = next;
            }
            self.stats.looked(self.source.backlog(position));
            let caught_up = batch.is_empty();
            let finishing = caught_up && self.stop.requested();
            if unsynced.as_ref().is_some_and(|pending| finishing || self.is_due(pending)) {
                self.checkpoint(position).await?;
                unsynced = None;
            }
            if finishing {
                return Ok(());
            }
            if caught_up {
                let limit = self.idle(unsynced.as_ref());
                self.pace.until_more(&self.source, position, limit).await;
            } else if batch.len() < self.settings.batch_records_max / 2 && !self.stop.requested() {
                self.pace.pause(Duration::from_millis(self.settings.linger_ms)).await;
            }
        }
    }

    async fn seek(&mut self, to: Option<S::Position>) -> Result<S::Position, OutOfTime> {
        let mut backoff = self.backoff();
        loop {
            match self.source.seek(to) {
                Ok(position) => return Ok(position),
                Err(error) => self.failed(FailureKind::Source, &error, &mut backoff).await?,
            }
        }
    }

    async fn read(
        &mut self,
        position: S::Position,
        batch: &mut Vec<Checkin>,
    ) -> Result<S::Position, OutOfTime> {
        let mut backoff = self.backoff();
        loop {
            batch.clear();
            match self.source.read(batch, self.settings.batch_records_max) {
                Ok(next) => return Ok(next),
                Err(error) => self.failed(FailureKind::Source, &error, &mut backoff).await?,
            }
            self.seek(Some(position)).await?;
        }
    }

    /// Until the store has acknowledged the batch.
    async fn write(&mut self, position: S::Position, batch: &[Checkin]) -> Result<(), OutOfTime> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut backoff = self.backoff();
        loop {
            let started = self.pace.now();
            let done = tokio::select! {
                biased;
                done = self.target.write(batch) => Some(done),
                () = self.stop.due(&self.pace) => None,
            };
            match done {
                None => return Err(OutOfTime),
                Some(Ok(())) => {
                    let took = self.pace.now().saturating_duration_since(started);
                    let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                    self.stats.written.fetch_add(batch.len() as u64, Ordering::Relaxed);
                    self.stats.batches.fetch_add(1, Ordering::Relaxed);
                    self.stats.batch_us.fetch_add(took_us, Ordering::Relaxed);
                    if self.stats.failing.swap(false, Ordering::Relaxed) {
                        tracing::info!("store accepts writes again");
                    }
                    return Ok(());
                }
                Some(Err(error)) => {
                    self.stats.looked(self.source.backlog(position));
                    self.failed(error.kind(), &error, &mut backoff).await?;
                }
            }
        }
    }

    /// Store durable, then watermark durable, then the journal may forget.
    async fn checkpoint(&mut self, position: S::Position) -> Result<(), OutOfTime> {
        let mut backoff = self.backoff();
        loop {
            match self.target.sync().await {
                Ok(()) => break,
                Err(error) => {
                    self.stats.stalled(self.source.backlog(position));
                    self.failed(error.kind(), &error, &mut backoff).await?;
                }
            }
        }
        loop {
            match self.watermark.save(position) {
                Ok(()) => break,
                Err(error) => {
                    self.stats.stalled(self.source.backlog(position));
                    self.failed(FailureKind::Watermark, &error, &mut backoff).await?;
                }
            }
        }
        self.stats.failing.store(false, Ordering::Relaxed);
        self.stats.syncs.fetch_add(1, Ordering::Relaxed);
        self.source.release(position);
        Ok(())
    }

    fn is_due(&self, pending: &Unsynced) -> bool {
        pending.records >= self.settings.sync_records_max
            || self.age(pending) >= Duration::from_millis(self.settings.sync_every_ms)
    }

    /// As long as nothing else has to be done.
    fn idle(&self, unsynced: Option<&Unsynced>) -> Duration {
        let idle = Duration::from_millis(self.settings.idle_wait_ms);
        let sync_every = Duration::from_millis(self.settings.sync_every_ms);
        unsynced.map_or(idle, |pending| idle.min(sync_every.saturating_sub(self.age(pending))))
    }

    fn age(&self, pending: &Unsynced) -> Duration {
        self.pace.now().saturating_duration_since(pending.since)
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(self.settings.backoff_min_ms, self.settings.backoff_max_ms)
    }

    /// Counts, logs and pauses; the pause ends early when the time is up.
    async fn failed(
        &mut self,
        kind: FailureKind,
        error: &(dyn std::error::Error + 'static),
        backoff: &mut Backoff,
    ) -> Result<(), OutOfTime> {
        self.stats.failed(kind);
        let pause = backoff.pause(self.pace.chance());
        tracing::warn!(
            kind = kind.name(),
            error = %Chain(error),
            pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            "drain failed and tries again"
        );
        tokio::select! {
            biased;
            () = self.pace.pause(pause) => (),
            () = self.stop.due(&self.pace) => (),
        }
        if self.stop.is_due(self.pace.now()) { Err(OutOfTime) } else { Ok(()) }
    }
}

/// An error with its causes on one line.
struct Chain<'a>(&'a (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
