//! One segment file: its name, and the scan that recovery and inspection share.

use super::Record;
use super::file::JournalFile;
use super::record::{
    self, BATCH_HEADER_BYTES, BATCH_HEADER_LEN, BATCH_MAGIC, BadSegmentHeader, BatchHeader, BatchKind,
    FRAME_BYTES, Item, RECORD_BYTES_MAX, SEGMENT_HEADER_BYTES,
};
use crate::scan::UnixMillis;
use std::io;

/// First number given to a segment; 0 is left to mean "before the first".
pub(super) const FIRST_SEGMENT: u64 = 1;

const EXTENSION: &str = "journal";
const WINDOW_BYTES: usize = 256 * 1024;
const ITEM_BYTES_MAX: usize = RECORD_BYTES_MAX as usize + FRAME_BYTES;
const _: () = assert!(WINDOW_BYTES >= 2 * ITEM_BYTES_MAX);

/// File name of a segment: its number padded so that names sort as numbers do.
pub(super) fn file_name(number: u64) -> String {
    format!("{number:020}.{EXTENSION}")
}

/// The number of the segment with this file name.
pub(super) fn number_of(name: &str) -> Option<u64> {
    let (digits, extension) = name.split_once('.')?;
    let number = digits.parse().ok().filter(|number| *number >= FIRST_SEGMENT)?;
    (extension == EXTENSION && digits.len() == 20).then_some(number)
}

/// Reads a file front to back through one buffer.
pub(super) struct Window {
    bytes: Vec<u8>,
    start: u64,
    length: usize,
}

impl Window {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; WINDOW_BYTES], start: 0, length: 0 }
    }

    /// Forgets what was read, so that the next peek sees the file as it is now.
    pub(super) fn forget(&mut self) {
        self.length = 0;
    }

    /// The bytes at `at`: as many as the longest item takes, or fewer where the file ends.
    pub(super) fn peek(&mut self, file: &dyn JournalFile, at: u64) -> io::Result<&[u8]> {
        self.ensure(file, at, ITEM_BYTES_MAX)?;
        let seen = self.seen(at);
        Ok(seen.get(..ITEM_BYTES_MAX).unwrap_or(seen))
    }

    /// Everything buffered from `at` on, at least one byte unless the file ends there.
    fn chunk(&mut self, file: &dyn JournalFile, at: u64, want: usize) -> io::Result<&[u8]> {
        self.ensure(file, at, want)?;
        Ok(self.seen(at))
    }

    fn seen(&self, at: u64) -> &[u8] {
        let skip = at.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok());
        skip.and_then(|skip| self.bytes.get(skip..self.length)).unwrap_or_default()
    }

    fn ensure(&mut self, file: &dyn JournalFile, at: u64, want: usize) -> io::Result<()> {
        if self.seen(at).len() >= want {
            return Ok(());
        }
        self.start = at;
        self.length = 0;
        while let Some(free) = self.bytes.get_mut(self.length..).filter(|free| !free.is_empty()) {
            match file.read_at(free, at + self.length as u64) {
                Ok(0) => break,
                Ok(read) => self.length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// How a segment's readable data ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With a seal: the segment is complete.
    Sealed,
    /// With zeros or the end of the file.
    Open,
    /// With bytes that are no record and have no batch behind them: a write that never finished.
    Torn { reason: &'static str },
    /// With bytes that are no record although a later batch proves that they once were.
    Damaged { reason: &'static str },
    /// With an intact record or header of a version this code can't read.
    Unsupported { what: &'static str, found: u32 },
}

/// What a scan found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scanned {
    /// Where the last intact item ends, and the next would begin. 0: not even the header is intact.
    pub(super) end: u64,
    /// Where the seal begins, or the same as `end`.
    pub(super) records_end: u64,
    /// Where the last batch begins (0: there is none).
    pub(super) last_batch: u64,
    /// Last byte of the file that isn't zero, plus one.
    pub(super) data_end: u64,
    pub(super) records: u64,
    pub(super) batches: u64,
    pub(super) next_sequence: Option<u64>,
    pub(super) oldest_received: UnixMillis,
    pub(super) newest_received: UnixMillis,
    pub(super) how: End,
}

/// Scans one segment, handing each intact record on in order.
///
/// `next_sequence` is the sequence number that the first batch must carry, where it is known.
pub(super) fn scan<R: Record>(
    file: &dyn JournalFile,
    number: u64,
    next_sequence: Option<u64>,
    on_record: &mut dyn FnMut(&R),
) -> io::Result<Scanned> {
    let mut window = Window::new();
    let mut scanned = Scanned {
        end: 0,
        records_end: 0,
        last_batch: 0,
        data_end: 0,
        records: 0,
        batches: 0,
        next_sequence,
        oldest_received: UnixMillis(i64::MAX),
        newest_received: UnixMillis(i64::MIN),
        how: End::Open,
    };
    let stopped = match record::check_segment_header(window.peek(file, 0)?, number) {
        Ok(()) => {
            scanned.end = SEGMENT_HEADER_BYTES;
            scan_items(file, number, &mut window, &mut scanned, on_record)?
        }
        Err(BadSegmentHeader::Version(found)) => {
            scanned.how = End::Unsupported { what: "format version", found };
            return Ok(scanned);
        }
        Err(BadSegmentHeader::OtherSegment(_)) => {
            scanned.how = End::Damaged { reason: "segment header carries another segment's number" };
            return Ok(scanned);
        }
        Err(BadSegmentHeader::Damaged) => Stopped::Bad("segment header fails its checksum"),
    };
    if scanned.records_end == 0 {
        scanned.records_end = scanned.end;
    }
    judge(file, number, &mut window, &mut scanned, stopped)?;
    Ok(scanned)
}

/// Why the walk over the items ended.
#[derive(Clone, Copy)]
enum Stopped {
    End,
    Seal,
    Bad(&'static str),
    Unsupported(&'static str, u32),
}

fn scan_items<R: Record>(
    file: &dyn JournalFile,
    number: u64,
    window: &mut Window,
    scanned: &mut Scanned,
    on_record: &mut dyn FnMut(&R),
) -> io::Result<Stopped> {
    loop {
        let at = scanned.end;
        match record::item(window.peek(file, at)?, number, at) {
            Item::Record(_, _) if scanned.batches == 0 => {
                return Ok(Stopped::Bad("record outside a batch"));
            }
            Item::Record(record, bytes) => {
                on_record(&record);
                scanned.records += 1;
                scanned.oldest_received = scanned.oldest_received.min(record.received());
                scanned.newest_received = scanned.newest_received.max(record.received());
                scanned.end += bytes;
            }
            Item::Batch(header) => {
                if scanned.next_sequence.is_some_and(|expected| expected != header.sequence) {
                    return Ok(Stopped::Bad("batch out of sequence"));
                }
                scanned.next_sequence = Some(header.sequence.wrapping_add(1));
                scanned.batches += 1;
                scanned.last_batch = at;
                scanned.end += BATCH_HEADER_BYTES;
                if header.kind == BatchKind::Seal {
                    scanned.records_end = at;
                    return Ok(Stopped::Seal);
                }
            }
            Item::End => return Ok(Stopped::End),
            Item::Bad(reason) => return Ok(Stopped::Bad(reason)),
            Item::Unsupported { what, found } => return Ok(Stopped::Unsupported(what, u32::from(found))),
        }
    }
}

/// Tells a torn tail from damage by what stands behind the place where the walk stopped.
fn judge(
    file: &dyn JournalFile,
    number: u64,
    window: &mut Window,
    scanned: &mut Scanned,
    stopped: Stopped,
) -> io::Result<()> {
    if let Stopped::Unsupported(what, found) = stopped {
        scanned.how = End::Unsupported { what, found };
        return Ok(());
    }
    let rest = search(file, number, window, scanned.end)?;
    scanned.data_end = rest.data_end.max(scanned.end);
    let dirty = rest.data_end > scanned.end;
    scanned.how = match stopped {
        Stopped::Seal if dirty => End::Damaged { reason: "data behind the seal" },
        Stopped::Seal => End::Sealed,
        Stopped::Bad(reason) if rest.batch => End::Damaged { reason },
        Stopped::Bad(reason) => End::Torn { reason },
        Stopped::End if rest.batch => End::Damaged { reason: "zeros in the middle of data" },
        Stopped::End if dirty => End::Torn { reason: "zeros in front of data" },
        Stopped::End | Stopped::Unsupported(..) => End::Open,
    };
    Ok(())
}

/// What stands behind a place that can't be read.
struct Rest {
    /// An intact batch header: everything before it was durable once.
    batch: bool,
    /// Last byte that isn't zero, plus one; 0 if all are.
    data_end: u64,
}

fn search(file: &dyn JournalFile, number: u64, window: &mut Window, from: u64) -> io::Result<Rest> {
    static ZEROS: [u8; WINDOW_BYTES] = [0; WINDOW_BYTES];
    let header_bytes = BATCH_HEADER_LEN;
    let finder = memchr::memmem::Finder::new(&BATCH_MAGIC);
    let mut rest = Rest { batch: false, data_end: 0 };
    let mut at = from;
    loop {
        let chunk = window.chunk(file, at, header_bytes)?;
        if chunk.is_empty() {
            return Ok(rest);
        }
        // Comparing with zeros first keeps the common case, untouched preallocated space, at the speed
        // of memory.
        if ZEROS.get(..chunk.len()) != Some(chunk) {
            let last = chunk.iter().rposition(|byte| *byte != 0);
            rest.data_end = last.map_or(rest.data_end, |last| at + last as u64 + 1);
            rest.batch |= finder.find_iter(chunk).any(|found| {
                let header = chunk.get(found..).unwrap_or_default();
                BatchHeader::decode(header, number, at + found as u64).is_some()
            });
        }
        // A header may lie across two chunks: step back by less than one.
        at += (chunk.len().saturating_sub(header_bytes - 1)).max(1) as u64;
        if chunk.len() < header_bytes {
            return Ok(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_and_parse() {
        assert_eq!(file_name(42), "00000000000000000042.journal");
        assert_eq!(number_of("00000000000000000042.journal"), Some(42));
        for name in ["42.journal", "00000000000000000000.journal", "00000000000000000042.tmp", "watermark"] {
            assert_eq!(number_of(name), None, "{name}");
        }
    }
}
