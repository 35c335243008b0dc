//! Many revocations at once: reading lists, merging lines and sets into few sets, and writing all of it out
//! again. Memory is bounded by `CHUNK_RECORDS` and by one set's filter, whatever a list's length.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::set::{NewSet, RECORDS_MAX, Record, Set};
use super::{Kind, Opened, Revocation, Revocations, lines, lock};
use crate::scan::UnixMillis;
use crate::verify::keyfile;
use crate::verify::keys::KeysError;

/// Records of a list that are held before they become a set: 100 MB.
const CHUNK_RECORDS: usize = 4 << 20;

/// A list that adds no more than this goes to the lines: a set each day would be many small ones.
const LINES_RECORDS_MAX: usize = 1_000;

/// Small sets of one kind past which an import merges them, so that a look-up asks few filters.
const SETS_OF_KIND_MAX: usize = 8;

/// Lines between two reports of progress.
const PROGRESS_LINES: u64 = 250_000;

/// How far a list has been read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Lines read, blank ones left out.
    pub lines: u64,
    /// Revocations that are new.
    pub added: u64,
    /// Revocations that were known.
    pub known: u64,
}

/// Adds a list of lines, all of it or, if a line can't be read, nothing; durable when this returns. What is
/// known already is left out, so the same list may be read again. A line without `at` counts from `now`,
/// unless its key is revoked already: reading a list again must not revoke what replaced a lost code since.
pub fn import(
    data_dir: &Path,
    list: &Path,
    reader: impl BufRead,
    now: UnixMillis,
    progress: impl FnMut(Imported),
) -> Result<Imported, KeysError> {
    import_in_chunks(data_dir, list, reader, now, progress, CHUNK_RECORDS)
}

fn import_in_chunks(
    data_dir: &Path,
    list: &Path,
    mut reader: impl BufRead,
    now: UnixMillis,
    mut progress: impl FnMut(Imported),
    chunk_records: usize,
) -> Result<Imported, KeysError> {
    keyfile::create_dirs(data_dir)?;
    let _maintenance = maintain(data_dir)?;
    let present = Revocations::load(data_dir, None)?;
    let mut import = Import { data_dir, present, chunk: Vec::new(), kids: Vec::new(), new: Vec::new() };
    let (mut so_far, mut number, mut line) = (Imported::default(), 0, Vec::new());
    while read_line(list, &mut reader, &mut line)? {
        number += 1;
        let bad = || KeysError::Revocation { path: list.to_owned(), line: number };
        if line.len() > lines::LINE_BYTES_MAX {
            return Err(bad());
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let (revocation, at) = lines::read_line(line.trim_ascii()).ok_or_else(bad)?;
        so_far.lines += 1;
        if import.take(&revocation, at, now)? {
            so_far.added += 1;
        } else {
            so_far.known += 1;
        }
        if import.chunk.len() >= chunk_records {
            import.seal()?;
        }
        if so_far.lines.is_multiple_of(PROGRESS_LINES) {
            progress(so_far);
        }
    }
    import.finish()?;
    progress(so_far);
    Ok(so_far)
}

/// Reads up to the next newline into `line`; false at the end. A line without end stops at the bound, and
/// is refused like any other that can't be read.
fn read_line(list: &Path, reader: &mut impl BufRead, line: &mut Vec<u8>) -> Result<bool, KeysError> {
    line.clear();
    let read = reader.by_ref().take(lines::LINE_BYTES_MAX as u64 + 2).read_until(b'\n', line);
    read.map(|bytes| bytes > 0).map_err(|source| KeysError::io("read", list, source))
}

/// What a list has brought so far.
struct Import<'a> {
    data_dir: &'a Path,
    present: Revocations,
    chunk: Vec<(Kind, Record)>,
    kids: Vec<u8>,
    new: Vec<NewSet>,
}

impl Import<'_> {
    /// Whether it is new, as far as lines and sets of before can tell.
    fn take(
        &mut self,
        revocation: &Revocation,
        given: Option<UnixMillis>,
        now: UnixMillis,
    ) -> Result<bool, KeysError> {
        let at = given.unwrap_or(now);
        let Some((kind, key)) = revocation.key() else {
            let Revocation::Kid(kid) = revocation else { return Ok(false) };
            let known = self.present.kid(kid).is_some();
            if !known {
                self.kids.extend(lines::write_line(revocation, at));
            }
            return Ok(!known);
        };
        let dir = keyfile::revoked_dir(self.data_dir);
        let known = self.present.find(kind, &key).map_err(|source| KeysError::io("read", &dir, source))?;
        let at_s = at.seconds();
        let is_new = known.is_none_or(|known| given.is_some() && kind.merged(known, at_s) != known);
        if is_new {
            self.chunk.push((kind, (key, at_s)));
        }
        Ok(is_new)
    }

    /// Writes what is held into sets that nobody reads yet.
    fn seal(&mut self) -> Result<(), KeysError> {
        let dir = keyfile::revoked_dir(self.data_dir);
        for kind in Kind::ALL {
            let records = sorted(kind, &mut self.chunk);
            self.new.extend(NewSet::write(&dir, kind, &mut records.into_iter().map(Ok))?);
        }
        self.chunk = Vec::new();
        Ok(())
    }

    /// Makes all of it count: key ids and short lists as lines, everything else as sets.
    fn finish(mut self) -> Result<(), KeysError> {
        let mut new_lines = std::mem::take(&mut self.kids);
        if self.new.is_empty() && self.chunk.len() <= LINES_RECORDS_MAX {
            for (kind, (key, at_s)) in self.chunk.drain(..) {
                let at = UnixMillis(at_s.saturating_mul(1000));
                new_lines.extend(lines::write_line(&Revocation::of_record(kind, key), at));
            }
        } else {
            self.seal()?;
        }
        {
            let _lock = lock(self.data_dir)?;
            publish(self.data_dir, &self.new)?;
            if !new_lines.is_empty() {
                lines::append(&keyfile::revoked_path(self.data_dir), &new_lines)?;
            }
        }
        let small = |kind| self.present.of_kind(kind).filter(|set| is_small(set)).count();
        if Kind::ALL.into_iter().any(|kind| small(kind) + self.new.len() > SETS_OF_KIND_MAX) {
            merge(self.data_dir, SETS_OF_KIND_MAX, false)?;
        }
        Ok(())
    }
}

/// Whether a set is worth merging again: most of it is still free.
fn is_small(set: &Set) -> bool {
    set.records < RECORDS_MAX / 2
}

/// The records of one kind, sorted, with one time each.
fn sorted(kind: Kind, chunk: &mut [(Kind, Record)]) -> Vec<Record> {
    chunk.sort_unstable_by_key(|(other, (key, _))| (other.code(), *key));
    let mut records: Vec<Record> = Vec::new();
    for (_, (key, at)) in chunk.iter().filter(|(other, _)| *other == kind) {
        match records.last_mut() {
            Some((last, known)) if last == key => *known = kind.merged(*known, *at),
            _ => records.push((*key, *at)),
        }
    }
    records
}

/// Moves the lines of every kind but key ids into sets, and merges the sets of a kind. Safe beside a running
/// gateway, and safe to interrupt: whatever is revoked stays so throughout.
pub fn compact(data_dir: &Path) -> Result<(), KeysError> {
    keyfile::create_dirs(data_dir)?;
    let _maintenance = maintain(data_dir)?;
    merge(data_dir, 1, true)
}

/// Merges the sets of every kind of which there are more than `sets_max`: all of them and the lines, or only
/// the small sets. The caller has the maintenance lock.
fn merge(data_dir: &Path, sets_max: usize, with_lines: bool) -> Result<(), KeysError> {
    let dir = keyfile::revoked_dir(data_dir);
    let before = Revocations::load(data_dir, None)?;
    let (mut new, mut old) = (Vec::new(), Vec::new());
    for kind in Kind::ALL {
        let recent = if with_lines { before.recent.sorted(kind) } else { Vec::new() };
        let sets: Vec<&Set> =
            before.of_kind(kind).map(AsRef::as_ref).filter(|set| with_lines || is_small(set)).collect();
        if recent.is_empty() && sets.len() <= sets_max {
            continue;
        }
        old.extend(sets.iter().map(|set| set.path.clone()));
        let mut sources: Vec<Source<'_>> =
            sets.iter().map(|set| Box::new(set.iter()) as Source<'_>).collect();
        sources.push(Box::new(recent.into_iter().map(Ok)));
        let mut merged = Merged::new(kind, sources).map_err(|source| KeysError::io("read", &dir, source))?;
        while let Some(set) = NewSet::write(&dir, kind, &mut merged)? {
            new.push(set);
        }
    }
    // What replaces others is read back first.
    for set in &new {
        let file =
            File::open(&set.temporary).map_err(|source| KeysError::io("read", &set.temporary, source))?;
        Set::open(&set.temporary, file)?;
    }
    let _lock = lock(data_dir)?;
    publish(data_dir, &new)?;
    if with_lines {
        keep_later_lines(data_dir, before.recent.whole_bytes)?;
    }
    let kept: Vec<PathBuf> = new.iter().map(|set| dir.join(set.name())).collect();
    for path in old.iter().filter(|path| !kept.contains(path)) {
        fs::remove_file(path).map_err(|source| KeysError::io("remove", path, source))?;
    }
    sync_dir(&dir)
}

/// Gives new sets their names; durable when this returns.
fn publish(data_dir: &Path, new: &[NewSet]) -> Result<(), KeysError> {
    let dir = keyfile::revoked_dir(data_dir);
    for set in new {
        let path = dir.join(set.name());
        fs::rename(&set.temporary, &path).map_err(|source| KeysError::io("write", &path, source))?;
    }
    sync_dir(&dir)
}

/// Replaces the lines by those of key ids and those that came after the first `then` bytes, which were whole
/// lines. The caller holds the directory's lock, and everything else of the first `then` bytes is in sets.
fn keep_later_lines(data_dir: &Path, then: u64) -> Result<(), KeysError> {
    let path = keyfile::revoked_path(data_dir);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(KeysError::io("read", &path, source)),
    };
    let (bytes, _) = lines::read_whole_lines(&path, &file)?;
    let then = usize::try_from(then).unwrap_or(bytes.len());
    let (first, later) = bytes.split_at_checked(then).unwrap_or((&bytes, &[]));
    let mut kept = Vec::new();
    lines::for_each_line(&path, first, |line| {
        if let (Revocation::Kid(_), _) = lines::read_kept_line(line)? {
            kept.extend_from_slice(line);
            kept.push(b'\n');
        }
        Some(())
    })?;
    kept.extend_from_slice(later);
    keyfile::replace(&path, &kept)
}

fn sync_dir(dir: &Path) -> Result<(), KeysError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|source| KeysError::io("sync", dir, source))
}

/// One import or merge at a time, and what an interrupted one left is removed.
fn maintain(data_dir: &Path) -> Result<File, KeysError> {
    let dir = keyfile::revoked_dir(data_dir);
    let path = dir.join(".maintenance");
    let io = |source| KeysError::io("lock", &path, source);
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(io)?;
    file.lock().map_err(io)?;
    for entry in fs::read_dir(&dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if keyfile::is_temporary(&path) {
            fs::remove_file(&path).map_err(|source| KeysError::io("remove", &path, source))?;
        }
    }
    Ok(file)
}

type Source<'a> = Box<dyn Iterator<Item = io::Result<Record>> + 'a>;

/// Sorted sources as one, with one time a key.
struct Merged<'a> {
    kind: Kind,
    sources: Vec<Source<'a>>,
    heads: BinaryHeap<Reverse<(Record, usize)>>,
}

impl<'a> Merged<'a> {
    fn new(kind: Kind, sources: Vec<Source<'a>>) -> io::Result<Self> {
        let mut merged = Self { kind, sources, heads: BinaryHeap::new() };
        for source in 0..merged.sources.len() {
            merged.advance(source)?;
        }
        Ok(merged)
    }

    fn advance(&mut self, source: usize) -> io::Result<()> {
        if let Some(record) = self.sources.get_mut(source).and_then(Iterator::next) {
            self.heads.push(Reverse((record?, source)));
        }
        Ok(())
    }

    fn pop(&mut self) -> io::Result<Option<Record>> {
        let Some(Reverse(((key, mut at), source))) = self.heads.pop() else { return Ok(None) };
        self.advance(source)?;
        while let Some(Reverse(((other, also), source))) = self.heads.peek().copied() {
            if other != key {
                break;
            }
            self.heads.pop();
            at = self.kind.merged(at, also);
            self.advance(source)?;
        }
        Ok(Some((key, at)))
    }
}

impl Iterator for Merged<'_> {
    type Item = io::Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        self.pop().transpose()
    }
}

/// Writes every revocation as a line that [`import`] reads. Devices are written by their hash, unless `full`
/// and their names are known, which they are until `compact`.
pub fn export(data_dir: &Path, full: bool, out: &mut dyn Write) -> Result<(), ExportError> {
    let Opened { lines, sets } = Opened::open(data_dir)?;
    if let Some((path, file)) = lines {
        let (bytes, _) = lines::read_whole_lines(&path, &file)?;
        let mut written = Ok(());
        lines::for_each_line(&path, &bytes, |line| {
            let (revocation, at) = lines::read_kept_line(line)?;
            let shown = match revocation.key() {
                Some((Kind::Device, key)) if !full => Revocation::DeviceHash(key),
                _ => revocation,
            };
            if written.is_ok() {
                written = out.write_all(&lines::write_line(&shown, at));
            }
            Some(())
        })?;
        written?;
    }
    for (path, file) in sets {
        let set = Set::open(&path, file)?;
        for record in set.iter() {
            let (key, at_s) = record.map_err(|source| KeysError::io("read", &path, source))?;
            let at = UnixMillis(at_s.saturating_mul(1000));
            out.write_all(&lines::write_line(&Revocation::of_record(set.kind, key), at))?;
        }
    }
    Ok(())
}

/// Why an export ended early.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The revocations can't be read.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// Nobody reads it any more, or the disk is full.
    #[error("the export can't be written")]
    Write(#[from] io::Error),
}

/// Checks one set's file as a start does, reads all of it, and looks up what it read: for tests of hostile
/// files. How many records it has.
pub fn check_set(path: &Path) -> Result<u64, KeysError> {
    let io = |source| KeysError::io("read", path, source);
    let set = Set::open(path, File::open(path).map_err(io)?)?;
    for record in set.iter() {
        let (key, _) = record.map_err(io)?;
        set.get(&key).map_err(io)?;
    }
    Ok(set.records)
}

/// What stands at the end of a set's file whose other bytes are these: for tests of hostile files.
pub fn set_checksum(body: &[u8]) -> [u8; 32] {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body);
    hash.as_ref().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::revocations::{set::Key, set_paths};

    const NOW: UnixMillis = UnixMillis(1_637_736_569_000);

    fn key(number: u64) -> Key {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &number.to_le_bytes());
        hash.as_ref().first_chunk().copied().unwrap()
    }

    fn list(kind: &str, numbers: std::ops::Range<u64>) -> Vec<u8> {
        let line = |number| format!("{{\"kind\":\"{kind}\",\"value\":\"{}\"}}\n", keyfile::hex(&key(number)));
        numbers.map(line).collect::<String>().into_bytes()
    }

    fn import_all(dir: &Path, list: &[u8]) -> Result<Imported, KeysError> {
        import_in_chunks(dir, Path::new("list"), list, NOW, |_| {}, 1_500)
    }

    fn sets(dir: &Path) -> usize {
        set_paths(&keyfile::revoked_dir(dir)).unwrap().len()
    }

    #[test]
    fn a_long_list_becomes_sets_and_is_known_the_second_time() {
        let dir = tempfile::tempdir().unwrap();
        let long = [list("cti", 0..2_000), list("dcc", 0..2_000)].concat();
        let first = import_all(dir.path(), &long).unwrap();
        assert_eq!(first, Imported { lines: 4_000, added: 4_000, known: 0 });
        assert!(sets(dir.path()) >= 2);
        let again = import_all(dir.path(), &long).unwrap();
        assert_eq!(again, Imported { lines: 4_000, added: 0, known: 4_000 });
        let revoked = Revocations::load(dir.path(), None).unwrap();
        for number in 0..2_000 {
            assert_eq!(revoked.cti(&key(number)), Some(NOW.seconds()));
            assert_eq!(revoked.dcc(&key(number)), Some(NOW.seconds()));
            assert_eq!(revoked.dcc(&key(number + 2_000)), None);
        }
    }

    #[test]
    fn a_short_list_becomes_lines() {
        let dir = tempfile::tempdir().unwrap();
        let mut short = list("dcc", 0..10);
        short.extend_from_slice(b"\n{\"kind\":\"kid\",\"value\":\"k\"}");
        assert_eq!(import_all(dir.path(), &short).unwrap().added, 11);
        assert_eq!(import_all(dir.path(), &short).unwrap().known, 11);
        assert_eq!(sets(dir.path()), 0);
        let revoked = Revocations::load(dir.path(), None).unwrap();
        assert!(revoked.dcc(&key(9)).is_some() && revoked.kid("k").is_some());
    }

    #[test]
    fn a_bad_line_is_named_and_nothing_of_the_list_counts() {
        let dir = tempfile::tempdir().unwrap();
        for bad in
            [b"{}".to_vec(), br#"{"kind":"cti","value":"00"}"#.to_vec(), vec![b' '; 1 << 20], vec![0xff]]
        {
            let bad = [list("cti", 0..2_000), bad, b"x\n".to_vec()].concat();
            let error = import_all(dir.path(), &bad).err();
            assert!(matches!(error, Some(KeysError::Revocation { line: 2_001, .. })), "{error:?}");
            let revoked = Revocations::load(dir.path(), None).unwrap();
            assert_eq!(revoked.cti(&key(0)), None);
        }
        // What the broken imports had begun is removed by the next.
        import_all(dir.path(), &list("cti", 0..1)).unwrap();
        let left = fs::read_dir(keyfile::revoked_dir(dir.path())).unwrap().count();
        assert_eq!(left, 1, "the lock");
    }

    #[test]
    fn compacting_moves_lines_and_merges_sets_and_changes_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        keyfile::create_dirs(dir.path()).unwrap();
        import_all(dir.path(), &list("cti", 0..3_000)).unwrap();
        let later = UnixMillis(NOW.0 + 60_000);
        let device = Revocation::Device(crate::scan::App::Vneid, "gate-1".to_owned());
        for revocation in [
            Revocation::Cti(key(7)),
            Revocation::Cti(key(9_000)),
            device.clone(),
            Revocation::Kid("k1".to_owned()),
        ] {
            super::super::append(dir.path(), &revocation, later).unwrap();
        }
        let answers = |revoked: &Revocations| {
            let ctis: Vec<_> = (0..3_100).map(|number| revoked.cti(&key(number))).collect();
            (
                ctis,
                revoked.cti(&key(9_000)),
                revoked.device(crate::scan::App::Vneid, "gate-1"),
                revoked.kid("k1"),
            )
        };
        let before = Revocations::load(dir.path(), None).unwrap();
        compact(dir.path()).unwrap();
        let after = Revocations::load(dir.path(), Some(&before)).unwrap();
        assert_eq!(answers(&after), answers(&before));
        assert_eq!(after.cti(&key(7)), Some(later.seconds()));
        let of_kind = |kind| after.counted().into_iter().find(|counted| counted.kind == kind).unwrap();
        let cti = of_kind("cti");
        assert_eq!((cti.recent, cti.in_sets, cti.sets), (0, 3_001, 1));
        assert_eq!((of_kind("device").in_sets, of_kind("kid").recent), (1, 1));
        // Nothing is left to do.
        let names = set_paths(&keyfile::revoked_dir(dir.path())).unwrap();
        compact(dir.path()).unwrap();
        assert_eq!(set_paths(&keyfile::revoked_dir(dir.path())).unwrap(), names);
        // A snapshot of before still answers, although its files are gone.
        assert_eq!(answers(&before), answers(&after));
    }

    #[test]
    fn a_line_that_took_a_torn_ones_place_meanwhile_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        keyfile::create_dirs(dir.path()).unwrap();
        let append = |number| super::super::append(dir.path(), &Revocation::Cti(key(number)), NOW).unwrap();
        append(1);
        let path = keyfile::revoked_path(dir.path());
        let mut torn = fs::read(&path).unwrap();
        torn.resize(torn.len() * 4, b' ');
        fs::write(&path, &torn).unwrap();
        let before = Revocations::load(dir.path(), None).unwrap();
        append(2);
        keep_later_lines(dir.path(), before.recent.whole_bytes).unwrap();
        let after = Revocations::load(dir.path(), None).unwrap();
        assert_eq!((after.cti(&key(1)), after.cti(&key(2))), (None, Some(NOW.seconds())));
    }

    #[test]
    fn a_merge_that_was_interrupted_at_any_point_loses_nothing() {
        // After each of its steps there is a state on disk; all of them are a union of the same revocations.
        let dir = tempfile::tempdir().unwrap();
        import_all(dir.path(), &list("cti", 0..2_000)).unwrap();
        super::super::append(dir.path(), &Revocation::Cti(key(5_000)), NOW).unwrap();
        let lines = fs::read(keyfile::revoked_path(dir.path())).unwrap();
        let old: Vec<_> = set_paths(&keyfile::revoked_dir(dir.path()))
            .unwrap()
            .into_iter()
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect();
        compact(dir.path()).unwrap();
        let check = || {
            let revoked = Revocations::load(dir.path(), None).unwrap();
            assert!((0..2_000).chain([5_000]).all(|number| revoked.cti(&key(number)).is_some()));
        };
        check();
        for (path, bytes) in &old {
            fs::write(path, bytes).unwrap();
            check();
        }
        fs::write(keyfile::revoked_path(dir.path()), lines).unwrap();
        check();
        compact(dir.path()).unwrap();
        check();
        assert_eq!(sets(dir.path()), 1);
    }

    #[test]
    fn many_imports_leave_few_sets() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..12 {
            import_all(dir.path(), &list("dcc", round * 1_100..(round + 1) * 1_100)).unwrap();
            assert!(sets(dir.path()) <= SETS_OF_KIND_MAX + 1);
        }
        let revoked = Revocations::load(dir.path(), None).unwrap();
        assert!((0..12 * 1_100).all(|number| revoked.dcc(&key(number)).is_some()));
    }

    #[test]
    fn an_export_can_be_imported_elsewhere_and_names_no_device() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        import_all(dir.path(), &list("cti", 0..1_200)).unwrap();
        let device = Revocation::Device(crate::scan::App::Vneid, "gate-1".to_owned());
        super::super::append(dir.path(), &device, NOW).unwrap();
        super::super::append(dir.path(), &Revocation::Kid("k1".to_owned()), NOW).unwrap();
        let mut out = Vec::new();
        export(dir.path(), false, &mut out).unwrap();
        assert!(!String::from_utf8(out.clone()).unwrap().contains("gate-1"));
        assert_eq!(import_all(other.path(), &out).unwrap().added, 1_202);
        let revoked = Revocations::load(other.path(), None).unwrap();
        assert!(revoked.device(crate::scan::App::Vneid, "gate-1").is_some());
        assert_eq!(revoked.cti(&key(1_199)), Some(NOW.seconds()));
        let mut full = Vec::new();
        export(dir.path(), true, &mut full).unwrap();
        assert!(String::from_utf8(full).unwrap().contains("vneid/gate-1"));
    }
}
