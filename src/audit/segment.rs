//! The log's files: their names, their ends, and the lock under which they change.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::AuditError;
use super::record::{LINE_BYTES_MAX, Record};

/// Files that a log may have. At 16 MiB each, a terabyte and a half.
const SEGMENTS_MAX: usize = 100_000;

pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.ndjson"))
}

/// Numbers of the segments in `dir`, in order; none where there is no directory.
pub(super) fn list(dir: &Path) -> Result<Vec<u64>, AuditError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(AuditError::Io { action: "list", path: dir.to_owned(), source }),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry.map_err(AuditError::io("list", dir))?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(".ndjson"));
        numbers
            .extend(digits.filter(|digits| digits.len() == 8).and_then(|digits| digits.parse::<u64>().ok()));
        if numbers.len() > SEGMENTS_MAX {
            return Err(AuditError::Damaged { path: dir.to_owned(), what: "there are too many files" });
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Makes the directory, closed to everyone else, and takes its lock: whoever holds it alone changes the log.
pub(super) fn lock(dir: &Path) -> Result<File, AuditError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(AuditError::io("create", dir))?;
    let file = File::open(dir).map_err(AuditError::io("open", dir))?;
    file.lock().map_err(AuditError::io("lock", dir))?;
    Ok(file)
}

/// How a segment ends.
pub(super) struct End {
    /// Bytes of whole lines.
    pub(super) bytes: u64,
    /// The last record, if there is one.
    pub(super) last: Option<Record>,
}

/// Reads the end of a segment. What is torn is not part of it.
pub(super) fn end(path: &Path) -> Result<End, AuditError> {
    let mut file = File::open(path).map_err(AuditError::io("open", path))?;
    let length = file.metadata().map_err(AuditError::io("read", path))?.len();
    // Two lines and a torn one fit.
    let from = length.saturating_sub(3 * LINE_BYTES_MAX);
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(from)).map_err(AuditError::io("read", path))?;
    file.take(length - from).read_to_end(&mut bytes).map_err(AuditError::io("read", path))?;
    let whole = whole_bytes(&bytes);
    let damaged = |what| AuditError::Damaged { path: path.to_owned(), what };
    let Some(line) = last_line(bytes.get(..whole).unwrap_or_default()) else {
        if whole > 0 || from > 0 {
            return Err(damaged("its last line is too long for a record"));
        }
        return Ok(End { bytes: 0, last: None });
    };
    let text = std::str::from_utf8(line).map_err(|_| damaged("its last line is no record"))?;
    let last = Record::parse(text).map_err(|_| damaged("its last line is not as it was written"))?;
    Ok(End { bytes: from + whole as u64, last: Some(last) })
}

/// The first record of a segment, if its first line is one.
pub(super) fn first(path: &Path) -> Result<Option<Record>, AuditError> {
    let mut line = Vec::new();
    let file = File::open(path).map_err(AuditError::io("open", path))?;
    file.take(LINE_BYTES_MAX).read_to_end(&mut line).map_err(AuditError::io("read", path))?;
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(std::str::from_utf8(line).ok().and_then(|line| Record::parse(line).ok()))
}

/// How many of a log's last bytes are whole lines: all up to the last line end, but for a last line in which a
/// power cut left pages empty.
pub(super) fn whole_bytes(bytes: &[u8]) -> usize {
    let Some(end) = memchr::memrchr(b'\n', bytes) else { return 0 };
    let lines = bytes.get(..end).unwrap_or_default();
    let start = memchr::memrchr(b'\n', lines).map_or(0, |before| before + 1);
    let holds_nul = lines.get(start..).is_some_and(|line| line.contains(&0));
    if holds_nul { start } else { end + 1 }
}

/// The last of whole lines, without its end; none where its start isn't there.
fn last_line(lines: &[u8]) -> Option<&[u8]> {
    let lines = lines.strip_suffix(b"\n")?;
    let start = memchr::memrchr(b'\n', lines).map_or(0, |before| before + 1);
    lines.get(start..).filter(|line| (line.len() as u64) < LINE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_torn_is_no_part_of_the_log() {
        for (bytes, whole) in [
            ("", 0),
            ("a", 0),
            ("a\n", 2),
            ("a\nb", 2),
            ("a\nb\n", 4),
            ("a\n\0\0b\n", 2),
            ("a\n\0\0", 2),
            ("\0\n", 0),
            ("a\n\0\nb\n", 6),
        ] {
            assert_eq!(whole_bytes(bytes.as_bytes()), whole, "{bytes:?}");
        }
    }
}
