//! The audit log: who read persons' check-ins, or changed what the gateway trusts, when and what for.
//!
//! # Format
//! `DATA/audit/00000001.ndjson` and so on, one JSON object a line, members always in the order of [`Record`]. The
//! last member, `hash`, is the SHA-256 of the line without it; `prev` is the hash of the record before, 64 zeros
//! before the first. So a record that is changed, taken out or moved breaks the chain at a place that
//! [`verify()`] names.
//!
//! - **A record is fsynced before [`AuditLog::append`] returns**, and callers append before the first byte of an
//!   answer leaves: what is not in the log was not read.
//! - A call has two records. The first says that it begins; the second names the first by `call` and says how many
//!   lines were handed out. A call without its second record was broken off by a crash.
//! - A line without an end, or with a NUL in it, at the very end of the log is torn: its append never returned. It
//!   is cut off before the next append. Everything else that can't be read is damage, and nothing is appended to it.
//! - A segment that is full, or whose first record is older than [`SEGMENT_AGE_MS`], is followed by the next.
//! - A segment goes whole, when its newest record is past the retention; before it goes, a record says which
//!   record was its last, by number and hash. So a chain that doesn't begin at number 1 is still anchored.
//!
//! # What the chain can't show
//! Whoever may write the directory may cut records off its end, or write the whole chain anew. That is what the
//! head is published for: number and hash of each record are logged and shown in `/v1/stats`, and
//! `audit verify --head` compares such a copy with the log.
//!
//! # Several writers
//! A gateway and commands beside it append to one log: each append is made under an advisory lock on the
//! directory, and reads the end of the log anew where another has written.

mod log;
mod record;
mod segment;
mod verify;

use std::io;
use std::path::PathBuf;

pub use log::{AuditLog, AuditSettings, SEGMENT_AGE_MS};
pub use record::{Action, Entry, Outcome, PURPOSE_CHARS_MAX, Purpose, PurposeError, Record, RecordHash};
pub use verify::{Broken, Verified, each, verify};

/// Number and hash of a record: whoever keeps the newest can tell that the log was cut off or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its number, from 1; 0 for an empty log.
    pub seq: u64,
    /// Its hash.
    pub hash: RecordHash,
}

impl Head {
    /// Of an empty log.
    pub const EMPTY: Self = Self { seq: 0, hash: RecordHash([0; 32]) };
}

/// Why nothing could be appended or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The file system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The end of the log is not what was once written.
    #[error("{}: {what}; see `scangate audit verify`", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// An fsync failed: nobody can say what is on the disk until a restart has read it.
    #[error("an fsync of the audit log failed; nothing is appended until a restart")]
    Poisoned,
}

impl AuditError {
    fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
