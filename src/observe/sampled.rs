//! Numbers that the gateway reads from its parts at the moment of a scrape.

use super::metrics::TimeoutKind;
use super::process::{DiskSample, ProcessSample};

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
    /// How many may be.
    pub deduplicate_entries_max: u64,
    /// When the public listener's certificate ends, in seconds since 1970; none without TLS.
    pub certificate_expires_s: Option<i64>,
    /// Whether the last reload failed.
    pub reload_failed: bool,
    /// The links between identifiers of one citizen.
    pub links: LinksSample,
    /// The audit log.
    pub audit: AuditSample,
    /// The services; none in a gateway without them.
    pub services: Option<ServicesSample>,
    /// The pool.
    pub workers: WorkersSample,
    /// The reading of frames.
    pub frames: FramesSample,
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
    /// TLS handshakes that failed for another reason than time.
    pub handshake_errors: u64,
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
    /// The file system under it.
    pub disk: DiskSample,
}

/// The store at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoreSample {
    /// Durable check-ins that it doesn't have yet.
    pub lag_records: u64,
    /// Journal that they take.
    pub lag_bytes: u64,
    /// Age of the oldest of them.
    pub lag_ms: u64,
    /// Rows it acknowledged since start.
    pub rows_written: u64,
    /// Writes tried again since start.
    pub retries: u64,
    /// The last one failed.
    pub failing: bool,
}

/// The links between identifiers at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinksSample {
    /// Links held.
    pub held: u64,
    /// Links that deduplication still asks about.
    pub recent: u64,
    /// Lines of feeds since start: accepted, unchanged, refused.
    pub lines: [u64; 3],
    /// When the last batch of a feed was taken, in milliseconds since 1970; 0 if never.
    pub last_feed_ms: u64,
}

/// The services at one moment.
#[derive(Debug, Clone, Default)]
pub struct ServicesSample {
    /// Requests since start by capability, and within by class of status, `1xx` first.
    pub requests: Vec<(&'static str, [u64; 5])>,
    /// Events applied since start by capability.
    pub events: Vec<(&'static str, u64)>,
    /// Size of the log's segments.
    pub log_bytes: u64,
    /// Whether it can be written and applied.
    pub works: bool,
    /// By register, the age in seconds of what it told last.
    pub register_age_s: Vec<(&'static str, u64)>,
}

/// The end of the audit log at one moment.
#[derive(Debug, Clone, Default)]
pub struct AuditSample {
    /// The number of its newest record; 0 for none.
    pub seq: u64,
    /// That record's hash, in hexadecimal.
    pub hash: String,
    /// Whether it can be written.
    pub works: bool,
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

/// The reading of frames at one moment; counts since start.
#[derive(Debug, Clone, Default)]
pub struct FramesSample {
    /// Whether frames can be read at all.
    pub available: bool,
    /// Frames waiting.
    pub queue_frames: u64,
    /// Frames in which a code was found.
    pub read: u64,
    /// Frames without one.
    pub without_code: u64,
    /// Frames whose bytes were no image within the limits.
    pub malformed: u64,
    /// Frames refused because the queue was full.
    pub shed: u64,
    /// Frames dropped because they had waited too long.
    pub late: u64,
    /// Frames ended at the deadline.
    pub timed_out: u64,
    /// Frames during which their process died.
    pub crashed: u64,
    /// Frames whose reading panicked.
    pub panicked: u64,
    /// Frames for which no process could be had.
    pub unavailable: u64,
    /// Codes found.
    pub codes: u64,
    /// Processes started in place of another.
    pub restarts: u64,
    /// Wall time spent reading, in microseconds.
    pub busy_us: u64,
    /// The stages, in their order.
    pub stages: Vec<FrameStageSample>,
}

impl FramesSample {
    /// How frames ended, by name.
    pub fn results(&self) -> [(&'static str, u64); 9] {
        [
            ("read", self.read),
            ("no_code", self.without_code),
            ("malformed", self.malformed),
            ("shed", self.shed),
            ("late", self.late),
            ("timed_out", self.timed_out),
            ("crashed", self.crashed),
            ("panicked", self.panicked),
            ("unavailable", self.unavailable),
        ]
    }
}

/// One stage of the decoders at one moment; counts since start.
#[derive(Debug, Clone, Default)]
pub struct FrameStageSample {
    /// Its place in the order and its decoder.
    pub name: String,
    /// Frames in which it found a code.
    pub read: u64,
    /// Frames in which it found nothing.
    pub nothing: u64,
    /// Frames on which it panicked.
    pub panicked: u64,
    /// Frames that didn't need it, or that it came too late for.
    pub skipped: u64,
    /// Processor time, in microseconds.
    pub busy_us: u64,
}
