//! The journal as the drain reads it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::journal::{CHECKIN_RECORD_BYTES, Journal, Position, ReadError, Reader};
use crate::scan::Checkin;
use crate::store::drain::{Backlog, Source};

/// How far the store has come: shared with whoever waits for it.
#[derive(Debug, Clone, Default)]
pub struct Written(Arc<Mutex<Option<Position>>>);

impl Written {
    /// Whether everything below `position` is in the store.
    pub(super) fn reached(&self, position: Position) -> bool {
        self.0.lock().is_some_and(|written| written >= position)
    }
}

/// Durable records of a journal, from the drain's position on.
pub struct JournalSource {
    journal: Arc<Journal>,
    reader: Reader,
    segment_bytes: u64,
    written: Written,
}

impl JournalSource {
    /// Reads `journal`, whose segments take `segment_bytes`, and tells `written` how far the store has come.
    pub fn new(journal: Arc<Journal>, segment_bytes: u64, written: Written) -> Self {
        let reader = journal.reader(Position::default());
        Self { journal, reader, segment_bytes, written }
    }
}

impl Source for JournalSource {
    type Position = Position;
    type Error = ReadError;

    fn seek(&mut self, to: Option<Position>) -> Result<Position, ReadError> {
        // A watermark beyond the journal's end is another journal's: everything is written again, which
        // leaves the same rows.
        let to = to.filter(|to| *to <= self.journal.durable_position());
        self.reader = self.journal.reader(to.unwrap_or_default());
        // Reading nothing moves a position below the oldest segment up to it.
        self.reader.read(&mut Vec::new(), 0)
    }

    fn read(&mut self, into: &mut Vec<Checkin>, records_max: usize) -> Result<Position, ReadError> {
        self.reader.read(into, records_max)
    }

    fn wait(&self, position: Position, limit: Duration) -> bool {
        self.journal.wait_durable_beyond(position, limit) > position
    }

    fn release(&self, position: Position) {
        self.journal.release(position);
    }

    /// Counted in bytes; the records follow from their fixed size, headers counted as records.
    fn backlog(&self, position: Position) -> Backlog {
        *self.written.0.lock() = Some(position);
        let durable = self.journal.durable_position();
        let segments = durable.segment.saturating_sub(position.segment);
        let bytes = (segments * self.segment_bytes + durable.offset).saturating_sub(position.offset);
        Backlog { records: bytes / CHECKIN_RECORD_BYTES as u64, bytes }
    }
}
