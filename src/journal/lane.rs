//! The cores' side: appending, and waiting for the commit.
//!
//! The writer publishes per lane the sequence number below which every record's fate is known. A core's
//! waiting futures stand in a list of the core; one of them represents the core towards the writer, is
//! woken by it across threads once a batch, and wakes the others on its own thread.

use super::file::Storage;
use super::space::Space;
use super::{Clock, Durable, JournalSettings, JournalStats, Position, Record};
use crate::scan::{Checkin, UnixMillis};
use futures_util::task::AtomicWaker;
use parking_lot::{Condvar, Mutex};
use std::cell::RefCell;
use std::future::Future;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// Names one appended record until its fate is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    lane: u16,
    seq: u64,
}

/// Why a record was not taken; nothing of it was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The core has too much waiting for the writer.
    #[error("journal lane holds its limit of {limit} bytes")]
    LaneFull {
        /// `lane_bytes_max`.
        limit: usize,
    },
    /// No space on the disk; tried again on its own.
    #[error("journal disk is full")]
    DiskFull,
    /// The journal may not grow until the store has taken more.
    #[error("journal holds its limit of {limit} bytes")]
    BytesMax {
        /// `bytes_max`.
        limit: u64,
    },
    /// A write or sync failed; only a restart helps.
    #[error("journal is poisoned by a failed write")]
    Poisoned,
    /// The journal is closed.
    #[error("journal is stopped")]
    Stopped,
}

/// Why a record that was taken did not become durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// No space on the disk.
    #[error("journal disk is full")]
    DiskFull,
    /// The journal may not grow until the store has taken more.
    #[error("journal holds its limit of {limit} bytes")]
    BytesMax {
        /// `bytes_max`.
        limit: u64,
    },
    /// A write or sync failed; whether the record is on disk can't be known.
    #[error("journal is poisoned by a failed write")]
    Poisoned,
    /// The ticket is another journal's.
    #[error("journal has no lane {lane}")]
    UnknownLane {
        /// The lane that the ticket names.
        lane: u16,
    },
}

/// One core's way into the journal. It moves to the core's thread and stays there.
pub struct LaneOf<R> {
    shared: Arc<Shared>,
    core: Arc<CoreLane>,
    index: u16,
    waiters: RefCell<Waiters>,
    records: PhantomData<fn(&R)>,
}

impl<R: Record> LaneOf<R> {
    pub(super) fn take(shared: &Arc<Shared>, index: u16) -> Option<Self> {
        let core = shared.lanes.get(usize::from(index))?;
        if core.held.swap(true, Ordering::AcqRel) {
            return None;
        }
        let core = Arc::clone(core);
        Some(Self {
            shared: Arc::clone(shared),
            core,
            index,
            waiters: RefCell::default(),
            records: PhantomData,
        })
    }

    /// Hands a record to the writer. It is durable only once [`LaneOf::committed`] says so.
    pub fn append(&self, record: &R) -> Result<Ticket, AppendError> {
        let seq = {
            let mut pending = self.core.pending.lock();
            // Read under the lock: the writer changes the condition first and then takes the buffer under
            // the same lock, so nothing can slip in behind a failure and wait forever.
            self.shared.accepting()?;
            let limit = self.shared.settings.lane_bytes_max;
            if pending.bytes.len() + record.bytes() > limit {
                return Err(AppendError::LaneFull { limit });
            }
            record.encode(&mut pending.bytes);
            pending.newest_received = pending.newest_received.max(record.received());
            let seq = pending.next_seq;
            pending.next_seq += 1;
            seq
        };
        // The writer looks into every lane under its lock after setting this, so either it sees the
        // record or we see the flag.
        if self.shared.parked.load(Ordering::Acquire) {
            self.shared.unpark_writer();
        }
        Ok(Ticket { lane: self.index, seq })
    }

    /// Waits until the fate of a record is known, whichever lane took it.
    ///
    /// A future that has been polled must be polled when woken, or dropped: it may stand for every other
    /// future of this core.
    pub fn committed(&self, ticket: Ticket) -> Committed<'_, R> {
        Committed { lane: self, ticket, key: None }
    }

    /// As [`LaneOf::committed`], blocking the thread.
    pub fn committed_blocking(&self, ticket: Ticket) -> Result<Durable, CommitError> {
        self.shared.committed_blocking(ticket)
    }

    /// Wakes every waiter whose fate is known, and makes one of the others, if any, the core's
    /// representative.
    fn wake_settled(&self) {
        let mut ready = std::mem::take(&mut self.waiters.borrow_mut().ready);
        loop {
            let commits = self.shared.commits.load(Ordering::Acquire);
            let mut waiters = self.waiters.borrow_mut();
            let mut representative = None;
            for (key, slot) in waiters.slots.iter_mut().enumerate() {
                let Some(waiter) = slot else { continue };
                if waiter.waker.is_some() && self.shared.outcome(waiter.ticket).is_some() {
                    ready.extend(waiter.waker.take());
                } else if let Some(waker) = &waiter.waker
                    && representative.is_none()
                {
                    self.core.representative.register(waker);
                    representative = Some(key);
                }
            }
            waiters.representative = representative;
            // Had a batch been published before the representative was registered, nobody was woken for it.
            if representative.is_none() || self.shared.commits.load(Ordering::Acquire) == commits {
                break;
            }
        }
        // Outside the borrow: what a waker does is not ours to know.
        for waker in ready.drain(..) {
            waker.wake();
        }
        self.waiters.borrow_mut().ready = ready;
    }
}

impl<R> Drop for LaneOf<R> {
    fn drop(&mut self) {
        drop(self.core.representative.take());
        self.core.held.store(false, Ordering::Release);
    }
}

/// Resolves when the fate of one record is known.
#[must_use = "a record is durable only once this says so"]
pub struct Committed<'a, R: Record = Checkin> {
    lane: &'a LaneOf<R>,
    ticket: Ticket,
    key: Option<usize>,
}

impl<R: Record> Future for Committed<'_, R> {
    type Output = Result<Durable, CommitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(outcome) = self.lane.shared.outcome(self.ticket) {
            self.leave();
            return Poll::Ready(outcome);
        }
        let represents = self.lane.waiters.borrow_mut().enter(&mut self, context.waker());
        if represents {
            self.lane.wake_settled();
        }
        Poll::Pending
    }
}

impl<R: Record> Committed<'_, R> {
    fn leave(&mut self) {
        let Some(key) = self.key.take() else { return };
        if self.lane.waiters.borrow_mut().leave(key) {
            self.lane.wake_settled();
        }
    }
}

impl<R: Record> Drop for Committed<'_, R> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The futures of one core that wait for a commit.
#[derive(Default)]
struct Waiters {
    slots: Vec<Option<Waiter>>,
    free: Vec<usize>,
    representative: Option<usize>,
    /// Scratch of `wake_settled`.
    ready: Vec<Waker>,
}

struct Waiter {
    ticket: Ticket,
    /// None once woken: the slot then only waits for its future to leave.
    waker: Option<Waker>,
}

impl Waiters {
    /// Puts the future on the list, or renews its waker. True if it must see to the whole list, as the
    /// core's representative.
    fn enter<R: Record>(&mut self, future: &mut Committed<'_, R>, waker: &Waker) -> bool {
        let key = if let Some(key) = future.key {
            key
        } else {
            let key = self.free.pop().unwrap_or(self.slots.len());
            if key == self.slots.len() {
                self.slots.push(None);
            }
            future.key = Some(key);
            key
        };
        if let Some(slot) = self.slots.get_mut(key) {
            match slot {
                Some(Waiter { waker: Some(old), .. }) if old.will_wake(waker) => {}
                _ => *slot = Some(Waiter { ticket: future.ticket, waker: Some(waker.clone()) }),
            }
        }
        self.representative.is_none_or(|representative| representative == key)
    }

    /// Takes a future off the list. True if it was the representative.
    fn leave(&mut self, key: usize) -> bool {
        if let Some(slot) = self.slots.get_mut(key) {
            *slot = None;
            self.free.push(key);
        }
        let represented = self.representative == Some(key);
        if represented {
            self.representative = None;
        }
        represented
    }
}

/// What the journal accepts at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Condition {
    Open = 0,
    DiskFull = 1,
    BytesMax = 2,
    Poisoned = 3,
    Stopped = 4,
}

/// Everything that cores, writer and readers share.
pub(super) struct Shared {
    pub(super) settings: JournalSettings,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) clock: Clock,
    pub(super) dir: PathBuf,
    pub(super) lanes: Box<[Arc<CoreLane>]>,
    pub(super) condition: AtomicU8,
    pub(super) stop: AtomicBool,
    pub(super) parked: AtomicBool,
    pub(super) writer: OnceLock<Thread>,
    /// Counts publications, so that a waiter can tell whether it missed one.
    pub(super) commits: AtomicU64,
    pub(super) progress: Mutex<Progress>,
    pub(super) progressed: Condvar,
    pub(super) space: Mutex<Space>,
    pub(super) counts: Mutex<JournalStats>,
    pub(super) observer: OnceLock<Box<Observer>>,
    /// A segment that holds a record from before is to take no more.
    pub(super) seal_before_ms: AtomicI64,
}

/// Told of every group commit: its records, its bytes and the time its sync took.
pub(super) type Observer = dyn Fn(usize, usize, Duration) + Send + Sync;

/// What readers and blocked threads wait for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    pub(super) durable: Position,
    pub(super) stopped: bool,
}

/// The part of a lane that the writer sees, on cache lines of its own.
#[repr(align(128))]
pub(super) struct CoreLane {
    pub(super) pending: Mutex<Pending>,
    held: AtomicBool,
    /// Every record with a smaller sequence number has its fate.
    settled: AtomicU64,
    failed: AtomicBool,
    failures: Mutex<Vec<Failure>>,
    representative: AtomicWaker,
}

/// Records that the writer has not taken yet.
pub(super) struct Pending {
    pub(super) bytes: Vec<u8>,
    pub(super) next_seq: u64,
    pub(super) newest_received: UnixMillis,
}

#[derive(Debug, Clone, Copy)]
struct Failure {
    from: u64,
    to: u64,
    error: CommitError,
}

/// Failed ranges remembered a lane. Ranges of one outage are adjacent and merge, so this is outages;
/// past it, the two oldest are merged over what succeeded between them, long after anyone waits for it.
const FAILURES_MAX: usize = 1024;

impl CoreLane {
    pub(super) fn new(lane_bytes_max: usize) -> Self {
        let bytes = Vec::with_capacity(lane_bytes_max);
        Self {
            pending: Mutex::new(Pending { bytes, next_seq: 0, newest_received: UnixMillis(i64::MIN) }),
            held: AtomicBool::new(false),
            settled: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            failures: Mutex::new(Vec::new()),
            representative: AtomicWaker::new(),
        }
    }

    /// Publishes the fate of all records below `to` that have none yet, and says how many they are.
    pub(super) fn settle(&self, to: u64, outcome: Result<(), CommitError>) -> u64 {
        let from = self.settled.load(Ordering::Relaxed);
        if from == to {
            return 0;
        }
        if let Err(error) = outcome {
            let mut failures = self.failures.lock();
            match failures.last_mut() {
                Some(last) if last.to == from && last.error == error => last.to = to,
                _ => failures.push(Failure { from, to, error }),
            }
            if failures.len() > FAILURES_MAX {
                let oldest = failures.remove(0);
                if let Some(next) = failures.first_mut() {
                    next.from = oldest.from;
                }
            }
            self.failed.store(true, Ordering::Release);
        }
        self.settled.store(to, Ordering::Release);
        to - from
    }

    fn outcome(&self, seq: u64) -> Option<Result<Durable, CommitError>> {
        if seq >= self.settled.load(Ordering::Acquire) {
            return None;
        }
        if self.failed.load(Ordering::Acquire) {
            let failures = self.failures.lock();
            let next = failures.partition_point(|failure| failure.to <= seq);
            if let Some(failure) = failures.get(next).filter(|failure| failure.from <= seq) {
                return Some(Err(failure.error));
            }
        }
        Some(Ok(Durable(())))
    }
}

impl Shared {
    pub(super) fn condition(&self) -> Condition {
        match self.condition.load(Ordering::Acquire) {
            0 => Condition::Open,
            1 => Condition::DiskFull,
            2 => Condition::BytesMax,
            4 => Condition::Stopped,
            _ => Condition::Poisoned,
        }
    }

    pub(super) fn set_condition(&self, condition: Condition) {
        self.condition.store(condition as u8, Ordering::Release);
    }

    fn accepting(&self) -> Result<(), AppendError> {
        match self.condition() {
            Condition::Open => Ok(()),
            Condition::DiskFull => Err(AppendError::DiskFull),
            Condition::BytesMax => Err(AppendError::BytesMax { limit: self.settings.bytes_max }),
            Condition::Poisoned => Err(AppendError::Poisoned),
            Condition::Stopped => Err(AppendError::Stopped),
        }
    }

    pub(super) fn outcome(&self, ticket: Ticket) -> Option<Result<Durable, CommitError>> {
        match self.lanes.get(usize::from(ticket.lane)) {
            Some(lane) => lane.outcome(ticket.seq),
            None => Some(Err(CommitError::UnknownLane { lane: ticket.lane })),
        }
    }

    /// Wakes the writer if it sleeps.
    pub(super) fn unpark_writer(&self) {
        if self.parked.swap(false, Ordering::AcqRel)
            && let Some(writer) = self.writer.get()
        {
            writer.unpark();
        }
    }

    /// Wakes everyone who may have waited for what was just settled.
    pub(super) fn publish(&self, durable: Option<Position>) {
        self.commits.fetch_add(1, Ordering::AcqRel);
        for lane in &self.lanes {
            lane.representative.wake();
        }
        let mut progress = self.progress.lock();
        if let Some(durable) = durable {
            progress.durable = durable;
        }
        self.progressed.notify_all();
    }

    pub(super) fn committed_blocking(&self, ticket: Ticket) -> Result<Durable, CommitError> {
        let mut progress = self.progress.lock();
        loop {
            if let Some(outcome) = self.outcome(ticket) {
                return outcome;
            }
            self.progressed.wait(&mut progress);
        }
    }

    pub(super) fn wait_durable_beyond(&self, position: Position, timeout: Duration) -> Position {
        let deadline = Instant::now() + timeout;
        let mut progress = self.progress.lock();
        while progress.durable <= position && !progress.stopped {
            if self.progressed.wait_until(&mut progress, deadline).timed_out() {
                break;
            }
        }
        progress.durable
    }

    pub(super) fn stats(&self) -> JournalStats {
        let counts = *self.counts.lock();
        let condition = self.condition();
        let space = self.space.lock();
        JournalStats {
            bytes: space.bytes(),
            segments: space.segments.len() as u64,
            deleted_segments: space.deleted,
            deleted_early_segments: space.deleted_early,
            poisoned: condition == Condition::Poisoned,
            disk_full: condition == Condition::DiskFull,
            bytes_max_reached: condition == Condition::BytesMax,
            ..counts
        }
    }
}
