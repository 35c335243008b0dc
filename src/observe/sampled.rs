//! Numbers that the gateway reads from its parts at the moment of a scrape.

use super::metrics::TimeoutKind;
use super::process::ProcessSample;

/// Everything that isn't counted on the hot path.
#[derive(Debug, Clone, Default)]
pub struct Sampled {
    /// `uring` or `epoll`.
    pub runtime: &'static str,
    /// Whether scans are taken.
    pub ready: bool,
    /// The journal.
    pub journal: JournalSample,
    /// The store behind it.
    pub store: StoreSample,
    /// Scans remembered for deduplication.
    pub deduplicate_entries: u64,
    /// The pool.
    pub workers: WorkersSample,
    /// Verified SG1 tokens held.
    pub token_cache_entries: u64,
    /// Verified device tokens held.
    pub device_cache_entries: u64,
    /// The public listener's connections.
    pub connections: ConnectionsSample,
    /// The process, from the operating system.
    pub process: ProcessSample,
}

/// The public listener's connections.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConnectionsSample {
    /// Open now.
    pub open: u64,
    /// Accepted since start, those turned away included.
    pub accepted: u64,
    /// Turned away since start because the limit was reached.
    pub refused: u64,
    /// Closed since start by each [`TimeoutKind`].
    pub timeouts: [u64; TimeoutKind::ALL.len()],
    /// Times that accepting failed.
    pub accept_errors: u64,
    /// Ended since start by an error in HTTP itself.
    pub protocol_errors: u64,
}

/// The journal at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct JournalSample {
    /// Size of all segments.
    pub bytes: u64,
    /// Size at which scans are refused.
    pub bytes_max: u64,
    /// Segments on disk.
    pub segments: u64,
    /// An fsync failed.
    pub poisoned: bool,
    /// The disk or the journal is full.
    pub full: bool,
}

/// The store at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoreSample {
    /// Durable check-ins that it doesn't have yet.
    pub lag_records: u64,
    /// Age of the oldest of them.
    pub lag_ms: u64,
    /// Rows it acknowledged since start.
    pub rows_written: u64,
    /// Writes tried again since start.
    pub retries: u64,
}

/// The pool at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct WorkersSample {
    /// Jobs waiting.
    pub queue_jobs: u64,
    /// Jobs finished since start.
    pub done: u64,
    /// Jobs refused since start because the queue was full.
    pub shed: u64,
    /// Jobs dropped since start because their deadline had passed.
    pub late: u64,
    /// Jobs that panicked since start.
    pub panicked: u64,
}
