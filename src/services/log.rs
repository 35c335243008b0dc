//! The services' log, and the one thread that applies it.
//!
//! The log is a journal of [`Event`]s: group commit, recovery and bounds are the check-ins' own. Behind the fsync the
//! thread `services` reads it and has every event applied, one after the other. `position1` says up to where the tables
//! are made, and is written with each event's changes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use aws_lc_rs::rand;
use dashmap::DashMap;
use fjall::Keyspace;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::capability::{Capability, Effect, Kind, State, StateError};
use crate::journal::{
    AppendError, CommitError, EVENT_BODY_BYTES_MAX, Event, JournalError, JournalOf, JournalSettings, LaneOf,
    Position, ReadError, ReaderOf, Ticket,
};
use crate::respond::{Cause, Refused};
use crate::scan::UnixMillis;

/// The table that says up to where the tables are made, and its one key.
pub(super) const POSITION: &str = "position1";
pub(super) const APPLIED: &str = "applied";

/// How long the thread waits before it looks after those whose commit failed.
const LOOK: Duration = Duration::from_millis(20);

/// What the log may take.
#[derive(Debug, Clone)]
pub struct Settings {
    /// As `journal.segment_bytes`.
    pub segment_bytes: u64,
    /// As `journal.bytes_max`.
    pub bytes_max: u64,
    /// How long a segment stays after its events are in the tables.
    pub retain_ms: i64,
}

/// Why the log can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// It can't be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// It can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The tables can't be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// An event of a capability that this version doesn't have.
    #[error("the services' log holds an event of an unknown capability, {code}")]
    UnknownCapability {
        /// Its number.
        code: u8,
    },
    /// The thread can't start.
    #[error("cannot start the services' thread")]
    Thread(#[source] std::io::Error),
}

struct Waiter {
    ticket: Option<Ticket>,
    tell: oneshot::Sender<Result<Effect, Refused>>,
}

struct Inner {
    journal: JournalOf<Event>,
    lane: Mutex<LaneOf<Event>>,
    capabilities: Vec<Arc<dyn Capability>>,
    waiting: DashMap<[u8; 16], Waiter>,
    state: State,
    table: Keyspace,
    stop: AtomicBool,
    broken: AtomicBool,
    /// In the order of [`Kind::ALL`].
    applied_by_kind: [AtomicU64; Kind::ALL.len()],
    /// Where the tables are made up to.
    applied: Mutex<Position>,
}

/// The open log.
pub struct EventLog {
    inner: Arc<Inner>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl EventLog {
    /// Opens the log in `dir`, applies what the tables don't have yet, and goes on applying on a thread.
    ///
    /// # Errors
    /// Log or tables can't be read.
    pub fn open(
        dir: &Path,
        settings: &Settings,
        state: &State,
        capabilities: Vec<Arc<dyn Capability>>,
    ) -> Result<Self, LogError> {
        let share = usize::try_from(settings.segment_bytes / 4).unwrap_or(usize::MAX);
        let defaults = JournalSettings::default();
        let settings = JournalSettings {
            segment_bytes: settings.segment_bytes,
            bytes_max: settings.bytes_max,
            retain_ms: settings.retain_ms,
            lane_bytes_max: defaults.lane_bytes_max.min(share),
            batch_bytes_max: defaults.batch_bytes_max.min(share),
            ..defaults
        };
        let (journal, _) = JournalOf::open(dir, settings, &mut |_: &Event| {})?;
        let lane = Mutex::new(journal.lane(0)?);
        let table = state.table(POSITION)?;
        let from = position(&table)?;
        let mut reader = journal.reader(from);
        let inner = Arc::new(Inner {
            journal,
            lane,
            capabilities,
            waiting: DashMap::new(),
            state: state.clone(),
            table,
            stop: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            applied_by_kind: Default::default(),
            applied: Mutex::new(from),
        });
        let events = inner.catch_up(&mut reader)?;
        tracing::info!(events, "services' tables caught up with their log");
        let applier = Arc::clone(&inner);
        let thread =
            std::thread::Builder::new().name("services".to_owned()).spawn(move || applier.run(reader));
        let thread = Mutex::new(Some(thread.map_err(LogError::Thread)?));
        Ok(Self { inner, thread })
    }

    /// Records an event and waits until it is durable and applied. The answer is what applying it came to, on condition
    /// that nobody drops the future; the event itself stays either way.
    ///
    /// # Errors
    /// It is too long, or can't be recorded now; nothing of it was kept.
    pub async fn record(&self, kind: Kind, body: Vec<u8>, now: UnixMillis) -> Result<Effect, Refused> {
        match self.append(kind, body, now)?.await {
            Ok(told) => told,
            Err(_) => Err(unavailable(NOT_APPLIED)),
        }
    }

    /// As [`EventLog::record`], blocking the thread.
    ///
    /// # Errors
    /// As for it.
    pub fn record_blocking(&self, kind: Kind, body: Vec<u8>, now: UnixMillis) -> Result<Effect, Refused> {
        match self.append(kind, body, now)?.blocking_recv() {
            Ok(told) => told,
            Err(_) => Err(unavailable(NOT_APPLIED)),
        }
    }

    /// Records an event that nobody waits for. If it can't be recorded now, which is logged, it is to be due again.
    pub fn record_later(&self, kind: Kind, body: Vec<u8>, now: UnixMillis) {
        if let Err(refused) = self.append(kind, body, now) {
            tracing::warn!(kind = kind.code(), detail = %refused.detail, "an event can't be recorded now");
        }
    }

    fn append(
        &self,
        kind: Kind,
        body: Vec<u8>,
        now: UnixMillis,
    ) -> Result<oneshot::Receiver<Result<Effect, Refused>>, Refused> {
        let inner = &self.inner;
        if inner.broken.load(Ordering::Acquire) {
            return Err(unavailable(NOT_APPLIED));
        }
        if body.len() > EVENT_BODY_BYTES_MAX {
            let detail = format!("what is recorded may have {EVENT_BODY_BYTES_MAX} bytes");
            let refused = Refused::new(Cause::TooLarge, detail).field("body");
            return Err(refused.limit(EVENT_BODY_BYTES_MAX as u64, Some(body.len() as u64)));
        }
        let mut id = [0; 16];
        rand::fill(&mut id).map_err(|_| unavailable("the system has no random numbers"))?;
        let (tell, told) = oneshot::channel();
        // There before the event is, so that its being applied can't be missed.
        inner.waiting.insert(id, Waiter { ticket: None, tell });
        let event = Event { id, at: now, capability: kind.code(), body };
        let appended = inner.lane.lock().append(&event);
        match appended {
            Ok(ticket) => {
                if let Some(mut waiter) = inner.waiting.get_mut(&id) {
                    waiter.ticket = Some(ticket);
                }
                Ok(told)
            }
            Err(error) => {
                inner.waiting.remove(&id);
                Err(not_appended(error))
            }
        }
    }

    /// Lets go of what is in the tables, fsynced, and past its time.
    pub fn expire(&self, now: UnixMillis) {
        let applied = *self.inner.applied.lock();
        match self.inner.state.persist() {
            Ok(()) => self.inner.journal.release(applied),
            Err(error) => {
                tracing::error!(error = %anyhow::Error::from(error), "the services' tables can't be synced");
            }
        }
        self.inner.journal.expire(now);
    }

    /// Whether it can be written and applied, a full disk apart: that passes.
    pub fn is_sound(&self) -> bool {
        let runs = self.thread.lock().as_ref().is_some_and(|thread| !thread.is_finished());
        runs && !self.inner.broken.load(Ordering::Acquire) && !self.inner.journal.stats().poisoned
    }

    /// Events applied since the start, those caught up with included.
    pub fn applied_total(&self) -> u64 {
        self.applied_by_kind().iter().map(|(_, events)| events).sum()
    }

    /// The same by the capability that applied them.
    pub fn applied_by_kind(&self) -> Vec<(&'static str, u64)> {
        let counts = self.inner.applied_by_kind.iter().map(|count| count.load(Ordering::Relaxed));
        Kind::ALL.iter().map(|kind| kind.name()).zip(counts).collect()
    }

    /// What the journal below is doing.
    pub fn stats(&self) -> crate::journal::JournalStats {
        self.inner.journal.stats()
    }

    /// Commits and applies what is there, and ends.
    pub fn close(&self) {
        self.inner.journal.close();
        self.inner.stop.store(true, Ordering::Release);
        if self.thread.lock().take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the services' thread panicked");
        }
        if let Err(error) = self.inner.state.persist() {
            tracing::error!(error = %anyhow::Error::from(error), "the services' tables can't be synced");
        }
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    fn run(&self, mut reader: ReaderOf<Event>) {
        let _ends = Ends(self);
        loop {
            // Read before the wait: what was committed before the stop is still applied.
            let ends = self.stop.load(Ordering::Acquire);
            reader.wait(LOOK);
            if let Err(error) = self.catch_up(&mut reader) {
                tracing::error!(error = %anyhow::Error::from(error), "the services' log can't be applied");
                return;
            }
            self.tell_failed();
            if ends {
                return;
            }
        }
    }

    /// Applies what is durable and not in the tables yet; says how many events that were.
    fn catch_up(&self, reader: &mut ReaderOf<Event>) -> Result<u64, LogError> {
        let mut read = Vec::with_capacity(1);
        let mut events = 0;
        loop {
            let behind = reader.read(&mut read, 1)?;
            let Some(event) = read.pop() else { return Ok(events) };
            let effect = self.apply(&event, behind)?;
            events += 1;
            if let Some((_, waiter)) = self.waiting.remove(&event.id) {
                // Whoever asked may be gone.
                let _ = waiter.tell.send(Ok(effect));
            }
        }
    }

    fn apply(&self, event: &Event, behind: Position) -> Result<Effect, LogError> {
        let whose = |capability: &&Arc<dyn Capability>| capability.kind().code() == event.capability;
        let capability = self.capabilities.iter().find(whose);
        let capability = capability.ok_or(LogError::UnknownCapability { code: event.capability })?;
        let mut batch = self.state.batch();
        let effect = capability.apply(event, &mut batch)?;
        batch.insert(&self.table, APPLIED, written(behind));
        batch.commit().map_err(StateError::from)?;
        capability.applied(event);
        *self.applied.lock() = behind;
        let kinds = Kind::ALL.iter().zip(&self.applied_by_kind);
        for (_, count) in kinds.filter(|(kind, _)| kind.code() == event.capability) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(effect)
    }

    /// Tells those whose event didn't become durable.
    fn tell_failed(&self) {
        if self.waiting.is_empty() {
            return;
        }
        let failed = |waiter: &Waiter| match waiter.ticket.and_then(|ticket| self.journal.outcome(ticket)) {
            Some(Err(error)) => Some(error),
            _ => None,
        };
        let lost: Vec<_> = self
            .waiting
            .iter()
            .filter_map(|waiter| failed(&waiter).map(|error| (*waiter.key(), error)))
            .collect();
        for (id, error) in lost {
            if let Some((_, waiter)) = self.waiting.remove(&id) {
                let _ = waiter.tell.send(Err(not_committed(error)));
            }
        }
    }
}

/// However the thread ends, by a panic as well: nobody waits for it any longer.
struct Ends<'a>(&'a Inner);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.broken.store(true, Ordering::Release);
        self.0.waiting.clear();
    }
}

/// Where the tables are made up to.
pub(super) fn position(table: &Keyspace) -> Result<Position, StateError> {
    let Some(value) = table.get(APPLIED)? else { return Ok(Position::START) };
    let damaged = StateError::Damaged { table: POSITION };
    let read = || {
        let (segment, offset) = value.split_first_chunk::<8>()?;
        let offset = offset.first_chunk::<8>()?;
        Some(Position { segment: u64::from_be_bytes(*segment), offset: u64::from_be_bytes(*offset) })
    };
    read().ok_or(damaged)
}

/// A position as the table has it.
pub(super) fn written(position: Position) -> Vec<u8> {
    [position.segment.to_be_bytes(), position.offset.to_be_bytes()].concat()
}

/// What is told of an event that is durable, or may be, and of which nobody knows what it came to.
const NOT_APPLIED: &str = "the services' log can't be applied; it is safe, and will be at the next start";

fn unavailable(detail: &'static str) -> Refused {
    Refused::new(Cause::Unavailable, detail).bound("services.log")
}

fn not_appended(error: AppendError) -> Refused {
    let refused = Refused::new(Cause::Unavailable, format!("{error}; nothing was recorded"));
    match error {
        AppendError::LaneFull { .. } => refused.bound("journal.lane_bytes_max"),
        AppendError::BytesMax { .. } => refused.bound("journal.bytes_max"),
        AppendError::DiskFull | AppendError::Poisoned | AppendError::Stopped => {
            refused.bound("services.disk").retry_after(30)
        }
    }
}

fn not_committed(error: CommitError) -> Refused {
    let refused = Refused::new(Cause::Unavailable, format!("{error}; nothing was recorded"));
    match error {
        CommitError::BytesMax { .. } => refused.bound("journal.bytes_max"),
        _ => refused.bound("services.disk").retry_after(30),
    }
}

#[cfg(test)]
mod tests;
