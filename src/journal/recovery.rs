//! Opening: replay every segment, cut off a torn tail, refuse damage, prepare the writer.

use super::file::{JournalFile, Storage, write_all_at};
use super::lane::{Condition, CoreLane, Progress, Shared};
use super::record::{BATCH_HEADER_BYTES, CHECKIN_RECORD_BYTES, SEGMENT_HEADER_BYTES};
use super::segment::{End, FIRST_SEGMENT, Scanned, file_name, number_of, scan};
use super::space::{Segment, Space};
use super::writer::{Active, Failure, Writer};
use super::{Clock, Durable, JournalSettings, JournalStats, Position, Record};
use parking_lot::{Condvar, Mutex};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64};
use std::sync::{Arc, OnceLock};

/// What opening the journal found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovery {
    /// Records replayed.
    pub records: u64,
    /// Segments replayed.
    pub segments: u64,
    /// Bytes of a write that never finished, cut off.
    pub torn_bytes: u64,
    /// Where the records end.
    pub end: Position,
    /// All replayed records are on disk: this is the proof for each of them.
    pub durable: Durable,
}

/// Why the journal can't be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A file operation failed.
    #[error("cannot {doing} {path}")]
    Io {
        /// The operation.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Records that were durable can't be read any more.
    #[error("{path} is damaged at offset {offset}: {reason}")]
    Damaged {
        /// The segment's file.
        path: PathBuf,
        /// Where the first record that can't be read begins.
        offset: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A segment between two others is gone.
    #[error("{path} is missing although later segments exist")]
    Missing {
        /// The file that should be there.
        path: PathBuf,
    },
    /// The file was written by a newer version.
    #[error("{path} holds {what} {found} at offset {offset}, which this version can't read")]
    Unsupported {
        /// The segment's file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What has the version.
        what: &'static str,
        /// The version found.
        found: u32,
    },
    /// Two settings contradict each other.
    #[error("journal {name} must be at least {min}; got {value}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// Its smallest value, given the others.
        min: u64,
        /// Its value.
        value: u64,
    },
    /// The writer's thread can't be started.
    #[error("cannot start the journal's writer")]
    Thread {
        /// The system's error.
        source: io::Error,
    },
    /// The lane doesn't exist or is held already.
    #[error("journal lane {index} is not free (there are {lanes})")]
    Lane {
        /// The lane asked for.
        index: u16,
        /// Number of lanes.
        lanes: u16,
    },
}

impl JournalError {
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }

    /// The error in how a segment ends, if that is one. `last`: no segment follows it.
    pub(super) fn of_end(scanned: &Scanned, path: &Path, last: bool) -> Option<Self> {
        let (path, offset) = (path.to_owned(), scanned.end);
        match scanned.how {
            End::Damaged { reason } => Some(Self::Damaged { path, offset, reason }),
            End::Unsupported { what, found } => Some(Self::Unsupported { path, offset, what, found }),
            End::Torn { reason } if !last => Some(Self::Damaged { path, offset, reason }),
            End::Open if !last => {
                Some(Self::Damaged { path, offset, reason: "segment ends without its seal" })
            }
            End::Torn { .. } | End::Open | End::Sealed => None,
        }
    }
}

/// Numbers of the segments in `dir`, in order; an error if one is missing between them.
pub(super) fn list(storage: &dyn Storage, dir: &Path) -> Result<Vec<u64>, JournalError> {
    let names = storage.list(dir).map_err(JournalError::io("list", dir))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    let first = numbers.first().copied().unwrap_or(FIRST_SEGMENT);
    match (first..).zip(&numbers).find(|(expected, number)| expected != *number) {
        Some((expected, _)) => Err(JournalError::Missing { path: dir.join(file_name(expected)) }),
        None => Ok(numbers),
    }
}

/// Replays the journal and prepares its writer.
pub(super) fn recover<R: Record>(
    (storage, clock): (Arc<dyn Storage>, Clock),
    dir: &Path,
    settings: JournalSettings,
    on_record: &mut dyn FnMut(&R),
) -> Result<(Arc<Shared>, Writer, Recovery), JournalError> {
    check(&settings)?;
    storage.create_dir(dir).map_err(JournalError::io("create", dir))?;
    let replayed = replay(storage.as_ref(), dir, on_record)?;
    let shared = share((storage, clock), dir, settings, &replayed);
    let mut writer = Writer::new(Arc::clone(&shared), replayed.next_segment, replayed.next_sequence);
    writer.active = replayed.active;
    ready(&mut writer)?;
    let recovery = Recovery {
        records: replayed.records,
        segments: replayed.segments,
        torn_bytes: replayed.torn_bytes,
        end: shared.progress.lock().durable,
        durable: Durable(()),
    };
    Ok((shared, writer, recovery))
}

fn check(settings: &JournalSettings) -> Result<(), JournalError> {
    let at_least = |name, min, value| {
        if value < min { Err(JournalError::Setting { name, min, value }) } else { Ok(()) }
    };
    at_least("lanes", 1, settings.lanes.into())?;
    at_least("lane_bytes_max", CHECKIN_RECORD_BYTES as u64, settings.lane_bytes_max as u64)?;
    at_least("batch_bytes_max", CHECKIN_RECORD_BYTES as u64, settings.batch_bytes_max as u64)?;
    // The biggest batch is one lane over its limit, and the seal must still fit behind it.
    let batch = settings.lane_bytes_max.saturating_add(settings.batch_bytes_max) as u64;
    let segment = batch.saturating_add(SEGMENT_HEADER_BYTES + 2 * BATCH_HEADER_BYTES);
    at_least("segment_bytes", segment, settings.segment_bytes)?;
    at_least("bytes_max", settings.segment_bytes.saturating_mul(2), settings.bytes_max)?;
    at_least("probe_ms", 1, settings.probe_ms)
}

/// What the files hold.
#[derive(Default)]
struct Replayed {
    space: Space,
    active: Option<Active>,
    next_segment: u64,
    next_sequence: u64,
    records: u64,
    segments: u64,
    torn_bytes: u64,
    end: Position,
}

fn replay<R: Record>(
    storage: &dyn Storage,
    dir: &Path,
    on_record: &mut dyn FnMut(&R),
) -> Result<Replayed, JournalError> {
    let numbers = list(storage, dir)?;
    let mut replayed = Replayed { next_segment: FIRST_SEGMENT, ..Replayed::default() };
    let mut next_sequence = None;
    for (index, &number) in numbers.iter().enumerate() {
        let last = index + 1 == numbers.len();
        let path = dir.join(file_name(number));
        let file = storage.open(&path, last).map_err(JournalError::io("open", &path))?;
        let scanned =
            scan(file.as_ref(), number, next_sequence, on_record).map_err(JournalError::io("read", &path))?;
        if let Some(error) = JournalError::of_end(&scanned, &path, last) {
            return Err(error);
        }
        next_sequence = scanned.next_sequence;
        replayed.torn_bytes += scanned.data_end.saturating_sub(scanned.end);
        replayed.next_segment = number + 1;
        if scanned.end == 0 {
            // The crash came while the segment was being created; nothing was ever put in.
            drop(file);
            storage.remove(&path).map_err(JournalError::io("remove", &path))?;
            storage.sync_dir(dir).map_err(JournalError::io("sync", dir))?;
            replayed.next_segment = number;
            break;
        }
        replayed.segments += 1;
        replayed.records += scanned.records;
        let sealed = scanned.how == End::Sealed;
        if last {
            settle_last(file.as_ref(), &scanned).map_err(JournalError::io("repair", &path))?;
            storage.sync_dir(dir).map_err(JournalError::io("sync", dir))?;
        }
        replayed.end = Position { segment: number, offset: scanned.records_end };
        if last && !sealed {
            replayed.end.offset = scanned.end;
            replayed.active = Some(Active {
                number,
                file,
                end: scanned.end,
                allocated: false,
                oldest_received: scanned.oldest_received,
                newest_received: scanned.newest_received,
            });
        }
        replayed.space.segments.push_back(Segment {
            number,
            bytes: scanned.data_end.max(scanned.end),
            sealed_at: sealed.then_some(scanned.records_end),
            newest_received: scanned.newest_received,
        });
    }
    replayed.next_sequence = next_sequence.unwrap_or(1);
    if replayed.end == Position::START {
        replayed.end = Position { segment: replayed.next_segment, offset: SEGMENT_HEADER_BYTES };
    }
    Ok(replayed)
}

/// Cuts off what is torn and makes the rest durable. The last batch may never have been synced, and may
/// sit in memory marked clean after a failed sync; writing the same bytes again makes the sync real.
fn settle_last(file: &dyn JournalFile, scanned: &Scanned) -> io::Result<()> {
    file.set_len(scanned.end)?;
    let from = scanned.last_batch;
    let mut bytes = vec![0; usize::try_from(scanned.end - from).unwrap_or_default()];
    let mut at = 0;
    while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, from + at as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => at += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    write_all_at(file, &bytes, from)?;
    file.sync_all()
}

fn share(
    (storage, clock): (Arc<dyn Storage>, Clock),
    dir: &Path,
    settings: JournalSettings,
    replayed: &Replayed,
) -> Arc<Shared> {
    let lane = |_| Arc::new(CoreLane::new(settings.lane_bytes_max));
    Arc::new(Shared {
        lanes: (0..settings.lanes).map(lane).collect(),
        storage,
        clock,
        dir: dir.to_owned(),
        settings,
        condition: AtomicU8::new(Condition::Open as u8),
        stop: AtomicBool::new(false),
        parked: AtomicBool::new(false),
        writer: OnceLock::new(),
        commits: AtomicU64::new(0),
        progress: Mutex::new(Progress { durable: replayed.end, stopped: false }),
        progressed: Condvar::new(),
        space: Mutex::new(Space { segments: replayed.space.segments.clone(), ..Space::default() }),
        counts: Mutex::new(JournalStats::default()),
        observer: OnceLock::new(),
        seal_before_ms: AtomicI64::new(i64::MIN),
    })
}

/// Reserves the first segment's space. No space is no reason not to start: records are refused until
/// there is some, and everything that is there can still be drained.
fn ready(writer: &mut Writer) -> Result<(), JournalError> {
    let result = writer.room_for(0);
    let shared = &writer.shared;
    match result {
        Ok(()) => {}
        Err(Failure::DiskFull) => shared.set_condition(Condition::DiskFull),
        Err(Failure::BytesMax) => shared.set_condition(Condition::BytesMax),
        Err(Failure::Fatal(doing, source)) => {
            return Err(JournalError::Io { doing, path: shared.dir.clone(), source });
        }
    }
    Ok(())
}
