//! A set of revocations in one file that is written once: sorted records for the exact answer, and a
//! binary fuse filter (Graf and Lemire, 2022) in memory that spares almost every look-up the disk.
//!
//! ```text
//! 0            "SGRVKD01"
//! 8            kind (1 cti, 2 device, 3 dcc), seven zeros
//! 16           n records of 24 bytes, by ascending key, none twice: key (16 bytes), time (i64, seconds)
//! 16 + 24n     filter: its descriptor (20 bytes), its fingerprints (one byte each, about 1.13 a record)
//! end - 48     n (u64)
//! end - 40     bytes of the filter (u64)
//! end - 32     SHA-256 of everything before it; its first eight bytes are in the file's name
//! ```
//! Integers are little-endian. All of it is read and checked when the set is opened; afterwards a look-up
//! reads one block of [`BLOCK_RECORDS`] records, and only where the filter says that the key may be there:
//! always for a key that is, and for one in 256 that are not.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use xorf::{BinaryFuse8, BinaryFuse8Ref, DmaSerializable, Filter, FilterRef};

use super::Kind;
use crate::verify::keyfile;
use crate::verify::keys::KeysError;

/// What a set is looked up by: a cti, a hashed device, or a hashed certificate id.
pub(super) type Key = [u8; 16];

/// A key and a time in seconds since 1970.
pub(super) type Record = (Key, i64);

/// The most records of one set. Making its filter takes about 24 bytes a record for a moment.
pub(super) const RECORDS_MAX: u64 = 1 << 24;

const MAGIC: [u8; 8] = *b"SGRVKD01";
const HEAD_BYTES: usize = 16;
const RECORD_BYTES: usize = 24;
const TAIL_BYTES: usize = 48;
const CHECKSUM_BYTES: usize = 32;
const DESCRIPTOR_BYTES: usize = <BinaryFuse8 as DmaSerializable>::DESCRIPTOR_LEN;

/// Records of one block, of which the first key stays in memory: one read of 4 KiB.
const BLOCK_RECORDS: usize = 170;

/// What tells one file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileIdentity {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileIdentity {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// One open set.
pub(super) struct Set {
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    pub(super) records: u64,
    pub(super) checksum: [u8; 32],
    pub(super) identity: FileIdentity,
    file: File,
    /// The first key of every block.
    index: Box<[Key]>,
    filter: StoredFilter,
}

impl Set {
    /// Reads and checks a whole set.
    ///
    /// # Errors
    /// The file can't be read, or isn't what was once written.
    pub(super) fn open(path: &Path, file: File) -> Result<Self, KeysError> {
        let io = |source| KeysError::io("read", path, source);
        let damaged = |problem| KeysError::RevokedSet { path: path.to_owned(), problem };
        let identity = FileIdentity::of(&file).map_err(io)?;
        let (records, filter_bytes) =
            lengths(&file, identity.bytes).map_err(io)?.ok_or_else(|| damaged("its length"))?;
        let mut reader = Hashing {
            reader: BufReader::with_capacity(1 << 20, At { file: &file, at: 0 }),
            hash: digest::Context::new(&digest::SHA256),
        };
        let mut head = [0; HEAD_BYTES];
        reader.read_exact(&mut head).map_err(io)?;
        let kind = kind_of(head).ok_or_else(|| damaged("its head"))?;
        let index = read_index(&mut reader, records).map_err(io)?.ok_or_else(|| damaged("its order"))?;
        let mut filter = vec![0; filter_bytes];
        reader.read_exact(&mut filter).map_err(io)?;
        let mut counts = [0; 16];
        reader.read_exact(&mut counts).map_err(io)?;
        let mut checksum = [0; CHECKSUM_BYTES];
        reader.reader.read_exact(&mut checksum).map_err(io)?;
        if reader.hash.finish().as_ref() != checksum {
            return Err(damaged("its checksum"));
        }
        let filter = StoredFilter::read(&filter).ok_or_else(|| damaged("its filter"))?;
        let records = records as u64;
        Ok(Self { path: path.to_owned(), kind, records, checksum, identity, file, index, filter })
    }

    /// The time beside this key, if the set has it.
    pub(super) fn get(&self, key: &Key) -> io::Result<Option<i64>> {
        if self.filter.contains(filter_key(key)) { self.look_up(key) } else { Ok(None) }
    }

    /// The exact answer, from the disk.
    fn look_up(&self, key: &Key) -> io::Result<Option<i64>> {
        let Some(block) = self.index.partition_point(|first| first <= key).checked_sub(1) else {
            return Ok(None);
        };
        let first = (block * BLOCK_RECORDS) as u64;
        let count = self.records.saturating_sub(first).min(BLOCK_RECORDS as u64);
        let mut bytes = [0_u8; BLOCK_RECORDS * RECORD_BYTES];
        let length = usize::try_from(count).unwrap_or(0) * RECORD_BYTES;
        let block = bytes.get_mut(..length).unwrap_or_default();
        self.file.read_exact_at(block, HEAD_BYTES as u64 + first * RECORD_BYTES as u64)?;
        let (records, _) = block.as_chunks::<RECORD_BYTES>();
        let found = records.binary_search_by_key(key, |record| split_record(*record).0);
        Ok(found.ok().and_then(|at| records.get(at)).map(|record| split_record(*record).1))
    }

    /// Every record, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = io::Result<Record>> + use<'_> {
        let from = At { file: &self.file, at: HEAD_BYTES as u64 };
        let mut reader = BufReader::with_capacity(1 << 20, from);
        (0..self.records).map(move |_| read_record(&mut reader))
    }

    /// Bytes that it holds in memory.
    pub(super) fn memory_bytes(&self) -> usize {
        self.filter.fingerprints.len() + std::mem::size_of_val(&*self.index) + size_of::<Self>()
    }
}

/// What the filter is asked for. Keys are hashes or ciphertext; where they aren't, only the filter gets
/// worse.
fn filter_key(key: &Key) -> u64 {
    let (high, low) = halves(*key);
    high ^ low.rotate_left(32)
}

fn halves(bytes: [u8; 16]) -> (u64, u64) {
    let half = |half: Option<&[u8; 8]>| u64::from_le_bytes(half.copied().unwrap_or_default());
    (half(bytes.first_chunk()), half(bytes.last_chunk()))
}

/// How many records and bytes of filter a file of this length says that it holds, if the three agree.
fn lengths(file: &File, bytes: u64) -> io::Result<Option<(usize, usize)>> {
    let Some(tail) = bytes.checked_sub(TAIL_BYTES as u64) else { return Ok(None) };
    let mut counts = [0; 16];
    file.read_exact_at(&mut counts, tail)?;
    let (records, filter_bytes) = halves(counts);
    let expected = records.checked_mul(RECORD_BYTES as u64).and_then(|body| body.checked_add(filter_bytes));
    let whole = expected.is_some() && expected == tail.checked_sub(HEAD_BYTES as u64);
    Ok(if whole && (1..=RECORDS_MAX).contains(&records) {
        usize::try_from(records).ok().zip(usize::try_from(filter_bytes).ok())
    } else {
        None
    })
}

/// The first key of every block; none if keys don't ascend.
fn read_index(reader: &mut impl Read, records: usize) -> io::Result<Option<Box<[Key]>>> {
    let mut index = Vec::with_capacity(records.div_ceil(BLOCK_RECORDS));
    let mut before: Option<Key> = None;
    for number in 0..records {
        let (key, _) = read_record(reader)?;
        if before.is_some_and(|before| before >= key) {
            return Ok(None);
        }
        before = Some(key);
        if number % BLOCK_RECORDS == 0 {
            index.push(key);
        }
    }
    Ok(Some(index.into_boxed_slice()))
}

fn kind_of(head: [u8; 16]) -> Option<Kind> {
    let (magic, code) = halves(head);
    let kind = Kind::ALL.into_iter().find(|kind| u64::from(kind.code()) == code)?;
    (magic == u64::from_le_bytes(MAGIC)).then_some(kind)
}

fn read_record(reader: &mut impl Read) -> io::Result<Record> {
    let mut record = [0; RECORD_BYTES];
    reader.read_exact(&mut record)?;
    Ok(split_record(record))
}

fn split_record(record: [u8; RECORD_BYTES]) -> Record {
    let key = record.first_chunk().copied().unwrap_or_default();
    let at = record.last_chunk().copied().unwrap_or_default();
    (key, i64::from_le_bytes(at))
}

/// A filter as it lies in the file.
struct StoredFilter {
    descriptor: [u8; DESCRIPTOR_BYTES],
    fingerprints: Box<[u8]>,
}

impl StoredFilter {
    /// The filter, if its descriptor (seed, length of a segment, its mask, length of all segments but two)
    /// keeps every look-up inside its fingerprints.
    fn read(bytes: &[u8]) -> Option<Self> {
        let (descriptor, fingerprints) = bytes.split_first_chunk::<DESCRIPTOR_BYTES>()?;
        let number = |at: usize| descriptor.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        let (segment, mask, counted) = (number(8)?, number(12)?, number(16)?);
        let sound = segment.is_power_of_two()
            && mask == segment - 1
            && counted.is_multiple_of(segment)
            && counted > 0
            && u64::from(counted) + 2 * u64::from(segment) == fingerprints.len() as u64;
        sound.then(|| Self { descriptor: *descriptor, fingerprints: fingerprints.into() })
    }

    fn contains(&self, key: u64) -> bool {
        BinaryFuse8Ref::from_dma(&self.descriptor, &self.fingerprints).contains(&key)
    }
}

/// Reads a file from a place of its own, so that readers of one handle don't move each other.
struct At<'a> {
    file: &'a File,
    at: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Hashes what it reads.
struct Hashing<R> {
    reader: R,
    hash: digest::Context,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.hash.update(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

/// A set that is being written: under a name that nobody reads, until [`NewSet::name`] is given to it.
pub(super) struct NewSet {
    pub(super) temporary: PathBuf,
    kind: Kind,
    checksum: [u8; 32],
}

impl NewSet {
    /// The name under which it will be read.
    pub(super) fn name(&self) -> String {
        let short = self.checksum.first_chunk::<8>().copied().unwrap_or_default();
        format!("{}-{}.set", self.kind.name(), keyfile::hex(&short))
    }

    /// Writes sorted records, none twice, up to [`RECORDS_MAX`] of them, durable when this returns. Nothing
    /// if there are none.
    pub(super) fn write(
        dir: &Path,
        kind: Kind,
        records: &mut dyn Iterator<Item = io::Result<Record>>,
    ) -> Result<Option<Self>, KeysError> {
        let temporary = keyfile::temporary(dir)?;
        let written = write(&temporary, kind, records);
        if !matches!(written, Ok(Some(_))) {
            // The first error is the one to report; a file left behind is removed by the next writer.
            let _ = std::fs::remove_file(&temporary);
        }
        let written = written.map_err(|source| KeysError::io("write", &temporary, source))?;
        Ok(written.map(|checksum| Self { temporary, kind, checksum }))
    }
}

fn write(
    path: &Path,
    kind: Kind,
    records: &mut dyn Iterator<Item = io::Result<Record>>,
) -> io::Result<Option<[u8; 32]>> {
    let mut out = Writing {
        file: BufWriter::with_capacity(1 << 20, keyfile::create_closed(path)?),
        hash: digest::Context::new(&digest::SHA256),
    };
    out.put(&MAGIC)?;
    out.put(&u64::from(kind.code()).to_le_bytes())?;
    let mut keys = Vec::new();
    for record in records.take(usize::try_from(RECORDS_MAX).unwrap_or(usize::MAX)) {
        let (key, at) = record?;
        out.put(&key)?;
        out.put(&at.to_le_bytes())?;
        keys.push(filter_key(&key));
    }
    let count = keys.len() as u64;
    if count == 0 {
        return Ok(None);
    }
    let filter = filter(keys)?;
    let mut descriptor = [0; DESCRIPTOR_BYTES];
    filter.dma_copy_descriptor_to(&mut descriptor);
    out.put(&descriptor)?;
    out.put(filter.dma_fingerprints())?;
    out.put(&count.to_le_bytes())?;
    out.put(&((DESCRIPTOR_BYTES + filter.fingerprints.len()) as u64).to_le_bytes())?;
    let mut file = out.file;
    let checksum: [u8; CHECKSUM_BYTES] =
        out.hash.finish().as_ref().first_chunk().copied().unwrap_or_default();
    file.write_all(&checksum)?;
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(Some(checksum))
}

/// Makes the filter, and makes sure of it: a key that it lost would be valid again, quietly.
fn filter(mut keys: Vec<u64>) -> io::Result<BinaryFuse8> {
    keys.sort_unstable();
    keys.dedup();
    let filter = BinaryFuse8::try_from(&keys).map_err(io::Error::other)?;
    if keys.iter().all(|key| filter.contains(key)) {
        Ok(filter)
    } else {
        Err(io::Error::other("the filter lost a key"))
    }
}

struct Writing {
    file: BufWriter<File>,
    hash: digest::Context,
}

impl Writing {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.file.write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> Key {
        let hash = digest::digest(&digest::SHA256, &number.to_le_bytes());
        hash.as_ref().first_chunk().copied().unwrap()
    }

    fn sealed(dir: &Path, records: &[Record]) -> Set {
        let new = NewSet::write(dir, Kind::Cti, &mut records.iter().copied().map(Ok)).unwrap().unwrap();
        Set::open(&new.temporary, File::open(&new.temporary).unwrap()).unwrap()
    }

    #[test]
    fn every_key_is_found_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        for count in [1, 2, 3, BLOCK_RECORDS as u64, BLOCK_RECORDS as u64 + 1, 5_000] {
            let mut records: Vec<Record> =
                (0..count).map(|number| (key(number), number.cast_signed())).collect();
            records.sort_unstable();
            let set = sealed(dir.path(), &records);
            assert_eq!((set.kind, set.records), (Kind::Cti, count));
            for (key, at) in &records {
                assert_eq!(set.get(key).unwrap(), Some(*at));
            }
            for number in count..count + 5_000 {
                assert_eq!(set.get(&key(number)).unwrap(), None);
                // Whatever the filter says.
                assert_eq!(set.look_up(&key(number)).unwrap(), None);
            }
            assert_eq!(set.iter().collect::<Result<Vec<_>, _>>().unwrap(), records);
        }
        assert!(NewSet::write(dir.path(), Kind::Dcc, &mut std::iter::empty()).unwrap().is_none());
    }

    #[test]
    fn keys_that_are_no_hashes_are_exact_too() {
        let dir = tempfile::tempdir().unwrap();
        // All of one filter key.
        let keys =
            (0_u64..1000).map(|number| (u128::from(number) << 64) | u128::from(number.rotate_left(32)));
        let mut records: Vec<Record> = keys.map(|key| (key.to_le_bytes(), 7)).collect();
        records.sort_unstable();
        let set = sealed(dir.path(), &records);
        assert!(records.iter().all(|(key, _)| set.get(key).unwrap() == Some(7)));
        assert_eq!(set.get(&[1; 16]).unwrap(), None);
    }

    #[test]
    fn no_changed_bit_and_no_cut_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut records: Vec<Record> = (0..8).map(|number| (key(number), 1)).collect();
        records.sort_unstable();
        let good = std::fs::read(&sealed(dir.path(), &records).path).unwrap();
        let path = dir.path().join("spoilt");
        let open = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Set::open(&path, File::open(&path).unwrap())
        };
        assert!(open(&good).is_ok());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let error = open(&bad).err();
            assert!(matches!(error, Some(KeysError::RevokedSet { .. })), "bit {bit}: {error:?}");
        }
        for length in 0..good.len() {
            assert!(open(&good[..length]).is_err(), "cut to {length}");
        }
        assert!(open(&[good.as_slice(), b"x"].concat()).is_err());
    }
}
