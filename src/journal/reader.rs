//! Reading durable records, for the store's drain and anyone else behind the writer.

use super::file::JournalFile;
use super::lane::Shared;
use super::record::{self, BatchKind, Item, SEGMENT_HEADER_BYTES};
use super::segment::{Window, file_name};
use super::{JournalError, Position, Record};
use crate::scan::UnixMillis;
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Reads records in order, never past what is durable.
pub struct ReaderOf<R> {
    shared: Arc<Shared>,
    position: Position,
    open: Option<Arc<dyn JournalFile>>,
    window: Window,
    /// The durable end when the window was filled: what it holds below that is final.
    seen: Position,
    records: PhantomData<fn() -> R>,
}

/// Why records can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A file operation failed.
    #[error("cannot read {path}")]
    Io {
        /// The segment's file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A durable record can't be read.
    #[error("{path} is damaged at offset {offset}: {reason}")]
    Damaged {
        /// The segment's file.
        path: PathBuf,
        /// Where the record begins.
        offset: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The position lies beyond the journal: it belongs to another one.
    #[error("position {position} lies beyond the journal's end {durable}")]
    Ahead {
        /// The reader's position.
        position: Position,
        /// Where the durable records end.
        durable: Position,
    },
}

impl<R: Record> ReaderOf<R> {
    pub(super) fn new(shared: Arc<Shared>, from: Position) -> Self {
        Self { shared, position: from, open: None, window: Window::new(), seen: from, records: PhantomData }
    }

    /// Where the next read begins.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Blocks until there is something to read, the journal stops, or `timeout` passes. Returns where the
    /// durable records end.
    pub fn wait(&self, timeout: Duration) -> Position {
        self.shared.wait_durable_beyond(self.position, timeout)
    }

    /// Appends up to `max` durable records to `out` and returns the position behind the last of them.
    /// Nothing appended means that there is nothing yet.
    pub fn read(&mut self, out: &mut Vec<R>, max: usize) -> Result<Position, ReadError> {
        let durable = self.shared.progress.lock().durable;
        self.settle_start(durable)?;
        if self.seen != durable {
            self.window.forget();
            self.seen = durable;
        }
        let mut read = 0;
        while read < max && self.position < durable {
            match self.next()? {
                Next::Record(record) => {
                    out.push(record);
                    read += 1;
                }
                Next::Header => {}
                Next::Seal => {
                    let segment = self.position.segment + 1;
                    if segment > durable.segment {
                        break;
                    }
                    self.go(Position { segment, offset: SEGMENT_HEADER_BYTES });
                }
            }
        }
        Ok(self.position)
    }

    /// Moves a position below the oldest segment up to it: what lay below was released.
    fn settle_start(&mut self, durable: Position) -> Result<(), ReadError> {
        let oldest = self.shared.space.lock().segments.front().map(|segment| segment.number);
        let segment = oldest.unwrap_or(durable.segment);
        if self.position.segment < segment {
            self.go(Position { segment, offset: SEGMENT_HEADER_BYTES });
        }
        if self.position > durable {
            return Err(ReadError::Ahead { position: self.position, durable });
        }
        Ok(())
    }

    fn go(&mut self, position: Position) {
        self.position = position;
        self.open = None;
        self.window.forget();
    }

    fn next(&mut self) -> Result<Next<R>, ReadError> {
        let Position { segment, offset } = self.position;
        let file = self.file().map_err(|source| self.error(source))?;
        let bytes = match self.window.peek(file.as_ref(), offset) {
            Ok(bytes) => bytes,
            Err(source) => return Err(self.error(source)),
        };
        let reason = match record::item(bytes, segment, offset) {
            Item::Record(record, bytes) => {
                self.position.offset += bytes;
                return Ok(Next::Record(record));
            }
            Item::Batch(header) if header.kind == BatchKind::Seal => return Ok(Next::Seal),
            Item::Batch(_) => {
                self.position.offset += record::BATCH_HEADER_BYTES;
                return Ok(Next::Header);
            }
            Item::End => "data ends before its durable end",
            Item::Bad(reason) => reason,
            Item::Unsupported { .. } => "record kind this version can't read",
        };
        Err(ReadError::Damaged { path: self.path(), offset, reason })
    }

    fn file(&mut self) -> io::Result<Arc<dyn JournalFile>> {
        if let Some(file) = &self.open {
            return Ok(Arc::clone(file));
        }
        let file = self.shared.storage.open(&self.path(), false)?;
        self.open = Some(Arc::clone(&file));
        Ok(file)
    }

    fn path(&self) -> PathBuf {
        self.shared.dir.join(file_name(self.position.segment))
    }

    fn error(&self, source: io::Error) -> ReadError {
        ReadError::Io { path: self.path(), source }
    }
}

enum Next<R> {
    Record(R),
    Header,
    Seal,
}

impl Shared {
    pub(super) fn release(&self, position: Position, now: UnixMillis) {
        let durable = self.progress.lock().durable;
        if position > durable {
            tracing::error!(%position, %durable, "released position lies beyond the journal; ignored");
            return;
        }
        {
            let mut space = self.space.lock();
            space.released = space.released.max(position);
        }
        self.reclaim(now);
        if self.condition() == super::lane::Condition::BytesMax {
            self.unpark_writer();
        }
    }

    /// Deletes the segments that may go, each durably before the next: a crash that kept only the later
    /// of two removals would leave a gap. What can't be deleted is tried again next time.
    pub(super) fn reclaim(&self, now: UnixMillis) {
        let mut space = self.space.lock();
        let bytes_wanted = self.settings.bytes_max / 4 * 3;
        loop {
            if space.removal_unsynced {
                if let Err(error) = self.sync_directory() {
                    tracing::warn!(%error, "deleted journal segment may come back after a crash");
                    return;
                }
                space.removal_unsynced = false;
            }
            let deletable = space.deletable(now, self.settings.retain_ms, bytes_wanted);
            let Some((number, early)) = deletable else { return };
            let path = self.dir.join(file_name(number));
            if let Err(error) = self.storage.remove(&path) {
                tracing::warn!(segment = number, %error, "journal segment can't be deleted");
                return;
            }
            tracing::info!(segment = number, early, "journal segment deleted");
            space.deleted(early);
        }
    }

    fn sync_directory(&self) -> Result<(), JournalError> {
        let dir: &Path = &self.dir;
        self.storage.sync_dir(dir).map_err(JournalError::io("sync", dir))
    }
}
