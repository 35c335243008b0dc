//! Brings into the store what a gateway's journal still holds, without serving: for a volume whose gateway
//! won't start again.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::source::{JournalSource, Written};
use super::{GatewayError, drain_settings, journal_settings, lock_for_serving, open_store};
use crate::config::Config;
use crate::journal::Journal;
use crate::store::drain::{Drain, DrainEnd};

/// What became of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Leftover {
    /// Records that the journal held, those included that it keeps for deduplication.
    pub records: u64,
    /// Records written to the store now.
    pub written: u64,
    /// Whether the store holds all of them: only then may the journal be deleted.
    pub drained: bool,
}

/// Writes what lies beyond the watermark, for at most `limit`. Interrupted, or run again, it leaves the same
/// rows.
///
/// # Errors
/// A gateway runs on the directory, it has no journal, or journal or store can't be opened.
pub fn drain_journal(config: &Config, limit: Duration) -> Result<Leftover, GatewayError> {
    let data_dir = &config.gateway.data_dir;
    let path = super::journal_dir(data_dir);
    // Opening would make one, and call it drained.
    if !path.is_dir() {
        return Err(GatewayError::NoJournal { path });
    }
    let _lock = lock_for_serving(data_dir)?;
    let (journal, recovery) = Journal::open(&path, journal_settings(config, 1), &mut |_| ())?;
    let journal = Arc::new(journal);
    let store = Arc::new(open_store(config)?);
    let source = JournalSource::new(Arc::clone(&journal), config.journal.segment_bytes, Written::default());
    let drain = Drain::start(source, store, drain_settings(config), data_dir.join("watermark"))?;
    let stats = Arc::clone(drain.stats());
    journal.close();
    let drained = drain.stop(limit) == DrainEnd::Drained;
    Ok(Leftover { records: recovery.records, written: stats.written_total(), drained })
}
