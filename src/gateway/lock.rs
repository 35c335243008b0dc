//! One process a data directory: an advisory lock on `DATA/LOCK`, which also says who holds it and where
//! the holder's admin listener is.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What the holder wrote into the lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its admin listener, once that listens.
    pub admin: Option<SocketAddr>,
    /// The admin listener's certificate, if it speaks TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
}

/// Why the directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("data directory {} is in use by process {}", path.display(), holder.as_ref().map_or("unknown".to_owned(), |holder| holder.pid.to_string()))]
    Held {
        /// The directory.
        path: PathBuf,
        /// Who has it, as far as its file says.
        holder: Option<Holder>,
    },
    /// The lock file can't be used.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The held lock; dropping it, or dying, releases it.
#[derive(Debug)]
pub struct DataLock {
    file: File,
    path: PathBuf,
}

impl DataLock {
    /// Creates the directory where it is missing, and locks it.
    pub fn acquire(data_dir: &Path) -> Result<Self, LockError> {
        let path = data_dir.join("LOCK");
        let failed = |source| LockError::Io { path: path.clone(), source };
        std::fs::create_dir_all(data_dir).map_err(failed)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held { path: data_dir.to_owned(), holder: read(&file) });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let lock = Self { file, path };
        lock.announce(None, None)?;
        Ok(lock)
    }

    /// Writes down where the admin listener is, and with which certificate.
    pub fn announce(&self, admin: Option<SocketAddr>, certificate: Option<&Path>) -> Result<(), LockError> {
        let certificate =
            certificate.map(|path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
        let holder = Holder { pid: std::process::id(), admin, certificate };
        let write = || {
            let text = serde_json::to_string(&holder).map_err(io::Error::other)?;
            self.file.set_len(0)?;
            (&self.file).rewind()?;
            writeln!(&self.file, "{text}")
        };
        write().map_err(|source| LockError::Io { path: self.path.clone(), source })
    }

    /// Who holds the directory, if anybody does.
    pub fn holder(data_dir: &Path) -> Option<Holder> {
        let file = File::open(data_dir.join("LOCK")).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => read(&file),
            _ => None,
        }
    }
}

fn read(mut file: &File) -> Option<Holder> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(1024).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_told_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(DataLock::holder(dir.path()), None);
        let lock = DataLock::acquire(dir.path()).unwrap();
        lock.announce(Some(([127, 0, 0, 1], 9090).into()), None).unwrap();
        let second = DataLock::acquire(dir.path()).unwrap_err();
        assert!(
            second.to_string().ends_with(&format!("is in use by process {}", std::process::id())),
            "{second}"
        );
        let holder = DataLock::holder(dir.path()).unwrap();
        let admin = Some(([127, 0, 0, 1], 9090).into());
        assert_eq!(holder, Holder { pid: std::process::id(), admin, certificate: None });
        drop(lock);
        assert_eq!(DataLock::holder(dir.path()), None);
        DataLock::acquire(dir.path()).unwrap();
    }
}
