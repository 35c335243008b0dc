//! The photos on disk: `DATA/services/photos`, each under the hash of its bytes.
//!
//! A file is there, fsynced with its directory, before the event that names it is recorded. A file that no table names
//! is nobody's: it goes at the next sweep.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest::{SHA256, digest};

use crate::services::capability::StateError;
use crate::verify::hex;

/// The directory, and what is in it.
pub struct Album {
    dir: PathBuf,
    bytes_max: u64,
    /// What the files have together, those without a name included.
    bytes: AtomicU64,
    written: AtomicU64,
    /// Held from before a photo is written until its event is recorded, and while files go: what is just being named
    /// must not be taken for nobody's.
    pub naming: tokio::sync::Mutex<()>,
}

/// Why a photo isn't on disk.
#[derive(Debug, thiserror::Error)]
pub enum AlbumError {
    /// There is no room.
    #[error("the photos have {bytes} bytes together")]
    Full {
        /// What they would have with this one.
        bytes: u64,
    },
    /// The disk failed.
    #[error("a photo can't be written")]
    Disk(#[from] io::Error),
}

impl Album {
    /// Opens or makes the directory.
    ///
    /// # Errors
    /// It can't be made.
    pub fn open(dir: &Path, bytes_max: u64) -> Result<Self, StateError> {
        fs::create_dir_all(dir).map_err(|source| StateError::File { path: dir.to_owned(), source })?;
        let (dir, bytes, written) = (dir.to_owned(), AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { dir, bytes_max, bytes, written, naming: tokio::sync::Mutex::new(()) })
    }

    /// Puts a photo on disk, fsynced, and says under which name. Blocks.
    ///
    /// # Errors
    /// There is no room, or the disk failed.
    pub fn put(&self, photo: &[u8]) -> Result<String, AlbumError> {
        let name = hex(digest(&SHA256, photo).as_ref());
        let path = self.dir.join(&name);
        if path.exists() {
            // Fsynced when it was renamed.
            return Ok(name);
        }
        let length = photo.len() as u64;
        let bytes = self.bytes.load(Ordering::Relaxed).saturating_add(length);
        if bytes > self.bytes_max {
            return Err(AlbumError::Full { bytes });
        }
        self.bytes.fetch_add(length, Ordering::Relaxed);
        let draft = self.dir.join(format!("draft-{}", self.written.fetch_add(1, Ordering::Relaxed)));
        let mut file = File::create(&draft)?;
        file.write_all(photo)?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        File::open(&self.dir)?.sync_all()?;
        Ok(name)
    }

    /// Reads a photo. Blocks.
    ///
    /// # Errors
    /// The disk failed.
    pub fn get(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.dir.join(name))
    }

    /// Removes what isn't named, and counts what stays.
    ///
    /// # Errors
    /// The directory or the tables can't be read.
    pub fn sweep(&self, is_named: impl Fn(&str) -> Result<bool, StateError>) -> Result<(), StateError> {
        let file = |source| StateError::File { path: self.dir.clone(), source };
        let mut bytes = 0;
        for entry in fs::read_dir(&self.dir).map_err(file)? {
            let entry = entry.map_err(file)?;
            let name = entry.file_name();
            if is_named(&name.to_string_lossy())? {
                bytes += entry.metadata().map_err(file)?.len();
            } else if let Err(error) = fs::remove_file(entry.path()) {
                // A draft may have got its name, and the next sweep looks again.
                tracing::warn!(%error, "a photo that nothing names can't be removed");
            }
        }
        self.bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }
}
