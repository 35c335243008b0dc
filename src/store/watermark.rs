//! The watermark: how far into the journal the store is known to hold everything.
//!
//! A small JSON file, replaced whole: `{"format":1,"position":…}`. It is only ever behind the truth,
//! so a lost or damaged one costs a replay of the journal that is still there, and no rows.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const FORMAT: u32 = 1;

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

/// Reads the watermark. `None` when there is none, or none that can be understood: then everything
/// in the journal is to be written again.
pub fn load<P: DeserializeOwned>(path: &Path) -> Result<Option<P>, WatermarkError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(WatermarkError { action: "read", path: path.to_owned(), source }),
    };
    match serde_json::from_slice::<Contents<P>>(&text) {
        Ok(contents) if contents.format == FORMAT => Ok(Some(contents.position)),
        _ => {
            tracing::warn!(path = %path.display(), "watermark is damaged, replaying the whole journal");
            Ok(None)
        }
    }
}

/// Replaces the watermark so that after a power cut either the old or the new one is there.
pub fn save<P: Serialize>(path: &Path, position: P) -> Result<(), WatermarkError> {
    let replace = || -> io::Result<()> {
        let text = serde_json::to_vec(&Contents { format: FORMAT, position })?;
        let beside = path.with_extension("tmp");
        let mut file = File::create(&beside)?;
        file.write_all(&text)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir)?.sync_all()
    };
    replace().map_err(|source| WatermarkError { action: "replace", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_being_replaced_lost_and_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watermark");
        assert_eq!(load::<u64>(&path).unwrap(), None);
        save(&path, 7_u64).unwrap();
        save(&path, 8_u64).unwrap();
        assert_eq!(load::<u64>(&path).unwrap(), Some(8));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::write(&path, b"{\"format\":1,\"posi").unwrap();
        assert_eq!(load::<u64>(&path).unwrap(), None);
        fs::write(&path, b"{\"format\":2,\"position\":9}").unwrap();
        assert_eq!(load::<u64>(&path).unwrap(), None);
    }
}
