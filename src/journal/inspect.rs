//! Looking at a journal's files without opening it, also beside the gateway that writes them.

use super::file::{Disk, Storage};
use super::recovery::{JournalError, list};
use super::segment::{End, Scanned, file_name, scan};
use super::{Event, Record, Unreadable};
use crate::scan::{Checkin, UnixMillis};
use serde::{Serialize, Serializer};
use std::io;
use std::path::{Path, PathBuf};

/// What the files of a journal hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inspection {
    /// One entry a segment, in order.
    pub segments: Vec<SegmentReport>,
    /// Intact records in all of them.
    pub records: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// The first place that can't be read although it should.
    pub damage: Option<Damage>,
}

/// What one segment holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SegmentReport {
    /// Its number.
    pub number: u64,
    /// Its file.
    pub path: PathBuf,
    /// Size of the file, preallocated space included.
    pub bytes: u64,
    /// Intact records.
    pub records: u64,
    /// Intact batches, seal and mark included.
    pub batches: u64,
    /// Latest arrival of a record; none without records.
    #[serde(serialize_with = "as_text")]
    pub newest_received: Option<UnixMillis>,
    /// Offset behind the last intact byte.
    pub end: u64,
    /// Whether it is complete.
    pub sealed: bool,
    /// Bytes of a write that is under way or never finished.
    pub torn_bytes: u64,
}

#[allow(clippy::ref_option)] // The signature that serde calls.
fn as_text<S: Serializer>(at: &Option<UnixMillis>, out: S) -> Result<S::Ok, S::Error> {
    at.map(|at| at.to_string()).serialize(out)
}

/// A place that can't be read although it should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The segment's file.
    pub path: PathBuf,
    /// Where the first record that can't be read begins.
    pub offset: u64,
    /// What is wrong.
    pub reason: String,
}

/// Looks at the journal in `dir`. An unfinished write at the very end is not damage. Damage is reported
/// in the result; an error means that the files themselves could not be read.
pub fn inspect(dir: &Path) -> Result<Inspection, JournalError> {
    let mut inspection = Inspection::default();
    if let Some(error) = look(dir, &mut inspection)? {
        inspection.damage = Some(damage(error, dir));
    }
    Ok(inspection)
}

/// As [`inspect`], but damage is an error.
pub fn verify(dir: &Path) -> Result<Inspection, JournalError> {
    let mut inspection = Inspection::default();
    match look(dir, &mut inspection)? {
        Some(error) => Err(error),
        None => Ok(inspection),
    }
}

/// Scans more often than this to rule out that "damage" was only a batch being written.
const LOOKS_MAX: u32 = 8;

fn look(dir: &Path, inspection: &mut Inspection) -> Result<Option<JournalError>, JournalError> {
    let numbers = match list(&Disk, dir) {
        Ok(numbers) => numbers,
        Err(error @ JournalError::Missing { .. }) => return Ok(Some(error)),
        Err(error) => return Err(error),
    };
    let mut next_sequence = None;
    for (index, &number) in numbers.iter().enumerate() {
        let last = index + 1 == numbers.len();
        let path = dir.join(file_name(number));
        let scanned = match look_at(&path, number, next_sequence, last) {
            Ok(scanned) => scanned,
            // Released and deleted since the listing; those are the oldest.
            Err(error) if error.kind() == io::ErrorKind::NotFound && inspection.segments.is_empty() => {
                continue;
            }
            Err(error) => return Err(JournalError::io("read", &path)(error)),
        };
        next_sequence = scanned.next_sequence;
        let bytes = std::fs::metadata(&path).map(|metadata| metadata.len()).unwrap_or_default();
        inspection.records += scanned.records;
        inspection.bytes += bytes;
        inspection.segments.push(SegmentReport {
            number,
            bytes,
            records: scanned.records,
            batches: scanned.batches,
            newest_received: (scanned.records > 0).then_some(scanned.newest_received),
            end: scanned.end,
            sealed: scanned.how == End::Sealed,
            torn_bytes: scanned.data_end.saturating_sub(scanned.end),
            path: path.clone(),
        });
        if let Some(error) = JournalError::of_end(&scanned, &path, last) {
            return Ok(Some(error));
        }
    }
    Ok(None)
}

/// A record of either journal: of what kind a directory's are is nothing that a look at it has to be told.
enum Any {
    Checkin(Checkin),
    Event(Event),
}

impl Record for Any {
    fn bytes(&self) -> usize {
        match self {
            Self::Checkin(checkin) => checkin.bytes(),
            Self::Event(event) => event.bytes(),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Checkin(checkin) => checkin.encode(out),
            Self::Event(event) => event.encode(out),
        }
    }

    fn decode(kind: u8, version: u8, body: &[u8]) -> Result<Self, Unreadable> {
        match kind {
            super::record::KIND_EVENT => Event::decode(kind, version, body).map(Self::Event),
            _ => Checkin::decode(kind, version, body).map(Self::Checkin),
        }
    }

    fn received(&self) -> UnixMillis {
        match self {
            Self::Checkin(checkin) => checkin.received(),
            Self::Event(event) => event.received(),
        }
    }
}

/// Scans until two scans agree on where the damage is: beside a running writer, the first may have read
/// a batch before it was whole and then met the header of the next.
fn look_at(path: &Path, number: u64, next_sequence: Option<u64>, last: bool) -> io::Result<Scanned> {
    let file = Disk.open(path, false)?;
    let mut before = None;
    for _ in 0..LOOKS_MAX {
        let scanned = scan(file.as_ref(), number, next_sequence, &mut |_: &Any| {})?;
        let suspect = JournalError::of_end(&scanned, path, last).is_some();
        if !suspect || before == Some(scanned.end) {
            return Ok(scanned);
        }
        before = Some(scanned.end);
    }
    scan(file.as_ref(), number, next_sequence, &mut |_: &Any| {})
}

fn damage(error: JournalError, dir: &Path) -> Damage {
    match error {
        JournalError::Damaged { path, offset, reason } => Damage { path, offset, reason: reason.to_owned() },
        JournalError::Unsupported { ref path, offset, .. } => {
            Damage { path: path.clone(), offset, reason: error.to_string() }
        }
        JournalError::Missing { path } => Damage { path, offset: 0, reason: "segment is missing".to_owned() },
        other => Damage { path: dir.to_owned(), offset: 0, reason: other.to_string() },
    }
}
