//! The watermark: how far into the journal the store is known to hold everything.
//!
//! A small JSON file, replaced whole: `{"format":1,"position":…}`. It is only ever behind the truth,
//! so a lost or damaged one costs a replay of the journal that is still there, and no rows.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::journal::file::{Disk, JournalFile, Storage, write_all_at};

const FORMAT: u32 = 1;

/// Several times what it takes; a longer file is no watermark.
const BYTES_MAX: usize = 4096;

#[derive(Serialize, Deserialize)]
struct Contents<P> {
    format: u32,
    position: P,
}

/// The watermark's file could not be read or replaced.
#[derive(Debug, thiserror::Error)]
#[error("can't {action} watermark {}", path.display())]
pub struct WatermarkError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The watermark's file, there or not.
#[derive(Clone)]
pub struct Watermark {
    storage: Arc<dyn Storage>,
    path: PathBuf,
}

impl Watermark {
    /// At `path` in the file system.
    pub fn at(path: PathBuf) -> Self {
        Self::on(Arc::new(Disk), path)
    }

    /// At `path` on other storage than the file system.
    pub fn on(storage: Arc<dyn Storage>, path: PathBuf) -> Self {
        Self { storage, path }
    }

    /// Reads the watermark. `None` when there is none, or none that can be understood: then everything
    /// in the journal is to be written again.
    pub fn load<P: DeserializeOwned>(&self) -> Result<Option<P>, WatermarkError> {
        let read = || read_whole(self.storage.open(&self.path, false)?.as_ref());
        let text = match read() {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.error("read", source)),
        };
        match serde_json::from_slice::<Contents<P>>(&text) {
            Ok(contents) if contents.format == FORMAT => Ok(Some(contents.position)),
            _ => {
                tracing::warn!(path = %self.path.display(), "watermark is damaged, replaying the whole journal");
                Ok(None)
            }
        }
    }

    /// Replaces the watermark so that after a power cut either the old or the new one is there.
    pub fn save<P: Serialize>(&self, position: P) -> Result<(), WatermarkError> {
        let replace = || -> io::Result<()> {
            let mut text = serde_json::to_vec(&Contents { format: FORMAT, position })?;
            text.push(b'\n');
            let beside = self.path.with_extension("tmp");
            let file = match self.storage.create(&beside) {
                // An attempt before this one was interrupted.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    self.storage.remove(&beside)?;
                    self.storage.create(&beside)?
                }
                file => file?,
            };
            write_all_at(file.as_ref(), &text, 0)?;
            file.sync_all()?;
            self.storage.rename(&beside, &self.path)?;
            let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            self.storage.sync_dir(dir)
        };
        replace().map_err(|source| self.error("replace", source))
    }

    fn error(&self, action: &'static str, source: io::Error) -> WatermarkError {
        WatermarkError { action, path: self.path.clone(), source }
    }
}

impl fmt::Debug for Watermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watermark").field(&self.path).finish()
    }
}

fn read_whole(file: &dyn JournalFile) -> io::Result<Vec<u8>> {
    let mut text = vec![0; BYTES_MAX];
    let mut length = 0;
    while let Some(free) = text.get_mut(length..).filter(|free| !free.is_empty()) {
        match file.read_at(free, length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    text.truncate(length);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn survives_being_replaced_lost_and_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watermark");
        let watermark = Watermark::at(path.clone());
        assert_eq!(watermark.load::<u64>().unwrap(), None);
        watermark.save(7_u64).unwrap();
        fs::write(path.with_extension("tmp"), b"an interrupted attempt, longer than any watermark").unwrap();
        watermark.save(8_u64).unwrap();
        assert_eq!(watermark.load::<u64>().unwrap(), Some(8));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        for damaged in ["{\"format\":1,\"posi", "{\"format\":2,\"position\":9}", &" ".repeat(BYTES_MAX + 1)] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(watermark.load::<u64>().unwrap(), None);
        }
    }
}
