//! The few file operations that journal and watermark need, behind two small traits, so that tests can put a layer
//! under it that tears writes, fills up and fails at will.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// A directory of files.
pub trait Storage: Send + Sync + 'static {
    /// Creates the directory, durably, if it isn't there.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Names of the files in the directory, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Creates a file that must not exist.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn JournalFile>>;
    /// Opens an existing file; read-only unless `writable`.
    fn open(&self, path: &Path, writable: bool) -> io::Result<Arc<dyn JournalFile>>;
    /// Unlinks a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Gives a file another name in its directory, in place of whatever bears that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes creations, removals and renames in the directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// One open file, read and written by offset.
pub trait JournalFile: Send + Sync {
    /// Reads at `offset`; may read less than asked, and 0 at the end.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes at `offset`; may write less than asked.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Reserves disk space for the first `bytes` of the file and extends it with zeros to that length.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    /// Cuts or extends (with zeros) the file.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// Makes the data durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Makes data and length durable.
    fn sync_all(&self) -> io::Result<()>;
    /// Length of the file.
    fn bytes(&self) -> io::Result<u64>;
}

/// Writes all of `bytes` at `offset`, however short the single writes are.
pub fn write_all_at(file: &dyn JournalFile, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = bytes.get(written..).unwrap_or_default();
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether an error means that there is no room: the one write error that leaves nothing in doubt.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The real file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

impl Storage for Disk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => self.sync_dir(parent),
            _ => self.sync_dir(Path::new(".")),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        Ok(names.collect::<io::Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn JournalFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Arc::new(file))
    }

    fn open(&self, path: &Path, writable: bool) -> io::Result<Arc<dyn JournalFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(writable).open(path)?))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

impl JournalFile for File {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, bytes, offset)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let length = libc::off_t::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        loop {
            // SAFETY: fallocate takes no pointers, and the descriptor is open as long as `self` lives.
            if unsafe { libc::fallocate(self.as_raw_fd(), 0, 0, length) } == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EOPNOTSUPP) => return fill_with_zeros(self, bytes),
                _ => return Err(error),
            }
        }
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        File::set_len(self, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn sync_all(&self) -> io::Result<()> {
        File::sync_all(self)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

/// Reserves space where the file system has no `fallocate`: by writing zeros behind the data.
fn fill_with_zeros(file: &File, bytes: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    let mut end = file.metadata()?.len();
    while end < bytes {
        let step = (bytes - end).min(ZEROS.len() as u64);
        let zeros = usize::try_from(step).ok().and_then(|step| ZEROS.get(..step)).unwrap_or_default();
        write_all_at(file, zeros, end)?;
        end += step;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_reserve_keep_the_data_and_add_zeros() {
        let dir = tempfile::tempdir().unwrap();
        for (name, fallback) in [("fallocate", false), ("zeros", true)] {
            let path = dir.path().join(name);
            Disk.create(&path).unwrap().write_at(b"data", 0).unwrap();
            let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            if fallback { fill_with_zeros(&file, 100_000) } else { file.allocate(100_000) }.unwrap();
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(bytes.len(), 100_000);
            assert!(bytes.starts_with(b"data") && bytes[4..].iter().all(|byte| *byte == 0));
        }
    }
}
