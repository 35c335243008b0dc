//! The recent revocations: an append-only file, one JSON object a line.
//!
//! `{"kind":"cti","value":"<32 hex digits>","at":"…"}`: every SG1 token with this cti issued until `at`; a
//! later one is good again, which is how a lost card is replaced.
//! `{"kind":"device","value":"<app>/<sub>","at":"…"}`: the device, for good; `device-hash` names it by
//! [`Revocation::key`] alone.
//! `{"kind":"dcc","value":"<32 hex digits>","at":"…"}`: a health certificate by one of the hashes of the
//! EU's revocation lists (the first 16 bytes of the SHA-256 of UCI, country and UCI, or signature), for good.
//! `{"kind":"kid","value":"…","at":"…"}`: the key, for good.
//!
//! Lines are written with one write and fsynced, under a lock. A last line without its newline was never
//! acknowledged (or is being written now) and is not read; any other line that cannot be read is an error,
//! because skipping it would quietly make something valid again.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use super::set::{FileIdentity, Key};
use super::{Kind, Revocation};
use crate::scan::UnixMillis;
use crate::verify::keys::KeysError;

/// The largest file that is read, in bytes: about a million lines. `scangate keys compact` empties it.
pub(super) const FILE_BYTES_MAX: u64 = 128 << 20;

/// The longest line, in bytes.
pub const LINE_BYTES_MAX: usize = 4096;

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    value: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    at: Option<Cow<'a, str>>,
}

/// Reads one line. Lists that are imported may leave its time out.
pub fn read_line(line: &[u8]) -> Option<(Revocation, Option<UnixMillis>)> {
    if line.len() > LINE_BYTES_MAX {
        return None;
    }
    let line: Line<'_> = serde_json::from_slice(line).ok()?;
    let at = match line.at {
        Some(at) => Some(UnixMillis::parse(&at).ok()?),
        None => None,
    };
    Some((Revocation::parse(&line.kind, &line.value)?, at))
}

/// Reads one line of the file, which has a time.
pub(super) fn read_kept_line(line: &[u8]) -> Option<(Revocation, UnixMillis)> {
    let (revocation, at) = read_line(line)?;
    Some((revocation, at?))
}

/// The line of one revocation, newline included.
pub fn write_line(revocation: &Revocation, at: UnixMillis) -> Vec<u8> {
    let line = Line {
        kind: revocation.kind().into(),
        value: revocation.value().into(),
        at: Some(at.to_string().into()),
    };
    // Strings always serialize.
    let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// What the file holds.
#[derive(Default)]
pub(super) struct Recent {
    /// By kind and key, the time in seconds.
    keys: HashMap<(Kind, Key), i64>,
    /// By key id, since when, in seconds.
    kids: HashMap<String, i64>,
    pub(super) hash: [u8; 32],
    /// The length of the lines that were read. They stay as they are; only what follows them changes.
    pub(super) whole_bytes: u64,
    /// Which file it was read from, if there was one.
    pub(super) identity: Option<FileIdentity>,
}

impl Recent {
    pub(super) fn get(&self, kind: Kind, key: &Key) -> Option<i64> {
        self.keys.get(&(kind, *key)).copied()
    }

    pub(super) fn kid(&self, kid: &str) -> Option<i64> {
        self.kids.get(kid).copied()
    }

    pub(super) fn kids(&self) -> usize {
        self.kids.len()
    }

    pub(super) fn count(&self, kind: Kind) -> usize {
        self.keys.keys().filter(|(other, _)| *other == kind).count()
    }

    /// Its records of one kind, sorted.
    pub(super) fn sorted(&self, kind: Kind) -> Vec<(Key, i64)> {
        let of_kind = self.keys.iter().filter(|((other, _), _)| *other == kind);
        let mut records: Vec<_> = of_kind.map(|((_, key), at)| (*key, *at)).collect();
        records.sort_unstable();
        records
    }

    /// Reads an open file.
    pub(super) fn read(path: &Path, file: &File) -> Result<Self, KeysError> {
        let (bytes, identity) = read_whole_lines(path, file)?;
        let mut recent = Self::default();
        for_each_line(path, &bytes, |line| {
            let (revocation, at) = read_kept_line(line)?;
            recent.add(&revocation, at.seconds());
            Some(())
        })?;
        let hash = digest::digest(&digest::SHA256, &bytes);
        recent.hash = hash.as_ref().first_chunk().copied().unwrap_or_default();
        recent.whole_bytes = bytes.len() as u64;
        recent.identity = Some(identity);
        Ok(recent)
    }

    fn add(&mut self, revocation: &Revocation, at_s: i64) {
        match revocation.key() {
            Some((kind, key)) => {
                let known = self.keys.entry((kind, key)).or_insert(at_s);
                *known = kind.merged(*known, at_s);
            }
            None => {
                if let Revocation::Kid(kid) = revocation {
                    let since = self.kids.entry(kid.clone()).or_insert(at_s);
                    *since = at_s.min(*since);
                }
            }
        }
    }
}

/// Calls `each` with every line that isn't blank; the first that it returns none for is the error.
pub(super) fn for_each_line(
    path: &Path,
    bytes: &[u8],
    mut each: impl FnMut(&[u8]) -> Option<()>,
) -> Result<(), KeysError> {
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if !line.trim_ascii().is_empty() {
            each(line).ok_or_else(|| KeysError::Revocation { path: path.to_owned(), line: index + 1 })?;
        }
    }
    Ok(())
}

/// The lines of an open file that end in a newline.
pub(super) fn read_whole_lines(path: &Path, mut file: &File) -> Result<(Vec<u8>, FileIdentity), KeysError> {
    let io = |source| KeysError::io("read", path, source);
    let identity = FileIdentity::of(file).map_err(io)?;
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(KeysError::TooLarge { path: path.to_owned(), limit: FILE_BYTES_MAX });
    }
    bytes.truncate(memchr::memrchr(b'\n', &bytes).map_or(0, |at| at + 1));
    Ok((bytes, identity))
}

/// Appends whole lines, durable when this returns. A torn line before them is cut off first. The caller
/// holds the directory's lock.
pub(super) fn append(path: &Path, lines: &[u8]) -> Result<(), KeysError> {
    let io = |source| KeysError::io("append to", path, source);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(io)?;
    let whole = end_of_whole_lines(&mut file).map_err(io)?;
    if whole + lines.len() as u64 > FILE_BYTES_MAX {
        return Err(KeysError::RevokedFull { path: path.to_owned(), limit: FILE_BYTES_MAX });
    }
    file.set_len(whole).map_err(io)?;
    file.seek(SeekFrom::Start(whole)).map_err(io)?;
    file.write_all(lines).map_err(io)?;
    file.sync_all().map_err(io)?;
    match path.parent() {
        Some(dir) => File::open(dir).and_then(|dir| dir.sync_all()).map_err(io),
        None => Ok(()),
    }
}

/// Where the last newline is, looked for from the end.
fn end_of_whole_lines(file: &mut File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut block = [0; 8 << 10];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let length = usize::try_from(end - start).unwrap_or(block.len());
        let part = block.get_mut(..length).unwrap_or_default();
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        if let Some(at) = memchr::memrchr(b'\n', part) {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}
