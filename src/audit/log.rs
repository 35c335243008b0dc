//! Appending, and letting go of what is past its retention.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::record::{Action, Entry, Outcome, Record};
use super::{AuditError, Head, segment};
use crate::scan::{DAY_MS, UnixMillis};

/// A segment whose first record is older takes no more: so the log of a quiet gateway, too, goes in time.
pub const SEGMENT_AGE_MS: i64 = 31 * DAY_MS;

/// Bounds of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditSettings {
    /// Size at which a segment is full.
    pub segment_bytes: u64,
    /// Days that a record is kept at least; it goes with its segment, at most [`SEGMENT_AGE_MS`] later.
    pub retention_days: u32,
}

impl Default for AuditSettings {
    fn default() -> Self {
        Self { segment_bytes: 16 << 20, retention_days: 730 }
    }
}

/// The log of a data directory, open for appending.
pub struct AuditLog {
    dir: PathBuf,
    settings: AuditSettings,
    /// Held while something is written and synced.
    state: Mutex<State>,
    /// What scrapes ask for, who must not wait for the disk.
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    head: Option<Head>,
    /// Whether the last append succeeded, or the first look.
    works: Option<bool>,
}

#[derive(Default)]
struct State {
    /// What this process knows of the end; others may have written behind it.
    tail: Option<Tail>,
    poisoned: bool,
}

/// The end of the log.
struct Tail {
    file: File,
    number: u64,
    bytes: u64,
    head: Head,
    /// When the segment's first record was appended; none while it has none.
    began: Option<UnixMillis>,
}

impl AuditLog {
    /// The log in `dir`, which is made at the first append. Nothing is read yet.
    pub fn new(dir: &Path, settings: AuditSettings) -> Self {
        Self { dir: dir.to_owned(), settings, state: Mutex::default(), seen: Mutex::default() }
    }

    /// Appends the record that a call begins with, or the only one. On disk when this returns: its number.
    ///
    /// # Errors
    /// It is not in the log; what it was to record must not happen.
    pub fn append(&self, entry: &Entry, outcome: Outcome, now: UnixMillis) -> Result<u64, AuditError> {
        self.add(entry, outcome, (None, None), now)
    }

    /// Appends the record that ends a call, by the number of the one that began it.
    ///
    /// # Errors
    /// It is not in the log, which shows the call without an end.
    pub fn end(
        &self,
        call: u64,
        entry: &Entry,
        (outcome, rows): (Outcome, Option<u64>),
        now: UnixMillis,
    ) -> Result<u64, AuditError> {
        self.add(entry, outcome, (Some(call), rows), now)
    }

    /// The newest record, as far as this process has seen; reads it where nothing was seen yet.
    pub fn head(&self) -> Option<Head> {
        if let Some(head) = self.seen.lock().head {
            return Some(head);
        }
        let read =
            if self.dir.exists() { self.locked(&mut self.state.lock(), |_, _| Ok(())) } else { Ok(()) };
        let mut seen = self.seen.lock();
        if let Err(error) = read {
            tracing::error!(%error, "the audit log can't be read");
            seen.works = Some(false);
            return None;
        }
        seen.works = seen.works.or(Some(true));
        Some(seen.head.unwrap_or(Head::EMPTY))
    }

    /// Whether the last append succeeded; before the first, whether the log can be read.
    pub fn works(&self) -> bool {
        self.seen.lock().works.unwrap_or(true)
    }

    /// Removes the segments whose newest record is past the retention, each after a record that says so. Returns how
    /// many.
    ///
    /// # Errors
    /// The log can't be read or written.
    pub fn expire(&self, now: UnixMillis) -> Result<u64, AuditError> {
        let mut removed = 0;
        if !self.dir.exists() {
            return Ok(0);
        }
        let mut state = self.state.lock();
        self.locked(&mut state, |log, state| {
            while let Some((number, last)) = log.expired(now)? {
                let gone = last.head();
                let entry = Entry::new("gateway", Action::Expire).named(gone.hash.to_string());
                let is_active = state.tail.as_ref().is_some_and(|tail| tail.number == number);
                if is_active {
                    log.next_segment(state)?;
                }
                log.write(state, &entry, Outcome::Done, (Some(gone.seq), None), now)?;
                let path = segment::path(&log.dir, number);
                fs::remove_file(&path).map_err(AuditError::io("remove", &path))?;
                log.sync_dir()?;
                tracing::info!(
                    segment = number,
                    through = gone.seq,
                    "audit log segment past its retention removed"
                );
                removed += 1;
            }
            Ok(())
        })?;
        Ok(removed)
    }

    /// The oldest segment, if it is over.
    fn expired(&self, now: UnixMillis) -> Result<Option<(u64, Record)>, AuditError> {
        let Some(number) = segment::list(&self.dir)?.first().copied() else { return Ok(None) };
        let last = segment::end(&segment::path(&self.dir, number))?.last;
        let keeps_ms = i64::from(self.settings.retention_days) * DAY_MS;
        Ok(last.filter(|last| last.time().0.saturating_add(keeps_ms) <= now.0).map(|last| (number, last)))
    }

    fn add(
        &self,
        entry: &Entry,
        outcome: Outcome,
        of: (Option<u64>, Option<u64>),
        now: UnixMillis,
    ) -> Result<u64, AuditError> {
        let mut state = self.state.lock();
        let written = self.locked(&mut state, |log, state| log.write(state, entry, outcome, of, now));
        self.seen.lock().works = Some(written.is_ok());
        written
    }

    /// Does something at the end of the log, alone and knowing where that is.
    fn locked<T>(
        &self,
        state: &mut State,
        what: impl FnOnce(&Self, &mut State) -> Result<T, AuditError>,
    ) -> Result<T, AuditError> {
        if state.poisoned {
            return Err(AuditError::Poisoned);
        }
        let _lock = segment::lock(&self.dir)?;
        if !self.is_current(state.tail.as_ref()) {
            state.tail = None;
            state.tail = Some(self.read_tail()?);
        }
        let done = what(self, state);
        if let Some(tail) = &state.tail {
            self.seen.lock().head = Some(tail.head);
        }
        if done.is_err() {
            // What was half written is cut off when the end is read again.
            state.tail = None;
        }
        done
    }

    /// Whether nobody else has written since.
    fn is_current(&self, tail: Option<&Tail>) -> bool {
        tail.is_some_and(|tail| {
            let same = tail.file.metadata().is_ok_and(|now| now.len() == tail.bytes);
            let path = |number| segment::path(&self.dir, number);
            same && path(tail.number).exists() && !path(tail.number + 1).exists()
        })
    }

    /// Finds the end of the log, and cuts off what is torn there.
    fn read_tail(&self) -> Result<Tail, AuditError> {
        let numbers = segment::list(&self.dir)?;
        let Some(&number) = numbers.last() else { return self.create(1, Head::EMPTY) };
        let path = segment::path(&self.dir, number);
        let end = segment::end(&path)?;
        let head = match (&end.last, numbers.iter().rev().nth(1)) {
            (Some(last), _) => last.head(),
            // The segment was made, and then nothing was written to it.
            (None, Some(before)) => {
                let before = segment::path(&self.dir, *before);
                let damaged = || AuditError::Damaged { path: before.clone(), what: "it holds no record" };
                segment::end(&before)?.last.ok_or_else(damaged)?.head()
            }
            (None, None) if number == 1 => Head::EMPTY,
            (None, None) => return Err(AuditError::Damaged { path, what: "it holds no record" }),
        };
        let file = open(&path, false)?;
        let length = file.metadata().map_err(AuditError::io("read", &path))?.len();
        if length > end.bytes {
            file.set_len(end.bytes)
                .and_then(|()| file.sync_all())
                .map_err(AuditError::io("cut off", &path))?;
            tracing::warn!(torn_bytes = length - end.bytes, "the audit log's torn end was cut off");
        }
        let began = segment::first(&path)?.map(|first| first.time());
        Ok(Tail { file, number, bytes: end.bytes, head, began })
    }

    fn create(&self, number: u64, head: Head) -> Result<Tail, AuditError> {
        let file = open(&segment::path(&self.dir, number), true)?;
        self.sync_dir()?;
        Ok(Tail { file, number, bytes: 0, head, began: None })
    }

    fn next_segment(&self, state: &mut State) -> Result<(), AuditError> {
        if let Some(tail) = &state.tail {
            state.tail = Some(self.create(tail.number + 1, tail.head)?);
        }
        Ok(())
    }

    fn write(
        &self,
        state: &mut State,
        entry: &Entry,
        outcome: Outcome,
        of: (Option<u64>, Option<u64>),
        now: UnixMillis,
    ) -> Result<u64, AuditError> {
        let line = |head: Head| entry.record(head, now, outcome, of);
        let is_over = |tail: &Tail| {
            let full = tail.bytes > 0
                && tail.bytes + line(tail.head).text().len() as u64 >= self.settings.segment_bytes;
            full || tail.began.is_some_and(|began| now.0.saturating_sub(began.0) > SEGMENT_AGE_MS)
        };
        if state.tail.as_ref().is_some_and(is_over) {
            self.next_segment(state)?;
        }
        let Some(tail) = &mut state.tail else { return Err(AuditError::Poisoned) };
        let path = segment::path(&self.dir, tail.number);
        let record = line(tail.head);
        let text = record.text() + "\n";
        tail.file.write_all(text.as_bytes()).map_err(AuditError::io("write", &path))?;
        if let Err(source) = tail.file.sync_data() {
            state.poisoned = true;
            return Err(AuditError::Io { action: "sync", path, source });
        }
        tail.bytes += text.len() as u64;
        tail.began = tail.began.or(Some(now));
        tail.head = record.head();
        let Head { seq, hash } = tail.head;
        // An outside copy of the log lines is what the end of the log can be held against.
        tracing::info!(seq, %hash, action = record.action.name(), outcome = outcome.name(), "audit record");
        Ok(seq)
    }

    fn sync_dir(&self) -> Result<(), AuditError> {
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(AuditError::io("sync", &self.dir))
    }
}

fn open(path: &Path, new: bool) -> Result<File, AuditError> {
    let mut options = OpenOptions::new();
    options.append(true).create_new(new).mode(0o600);
    options.open(path).map_err(AuditError::io(if new { "create" } else { "open" }, path))
}
