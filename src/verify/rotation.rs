//! Rotating the pepper: a further secret, which every person's pseudonym is taken through once more.
//!
//! ```text
//! DATA/keys/pepper       {"pepper":"<the first>","later":["<the second>",…],"dev":…}
//! DATA/keys/pepper.next  the same and one more, while a rotation is under way
//! ```
//! None of them may be lost: a pseudonym is HMAC(last, … HMAC(second, HMAC(first, number))), so that rows can
//! be rotated without the numbers that they stand for.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::keyfile::{self, Secret};
use super::keys::{KeysError, Pepper, PepperFile};
use crate::scan::CheckinId;

/// Whether a rotation has begun and not ended.
///
/// # Errors
/// The directory can't be read.
pub fn is_under_way(data_dir: &Path) -> Result<bool, KeysError> {
    let next = next_path(data_dir);
    next.try_exists().map_err(|source| KeysError::io("look for", &next, source))
}

/// Makes the next pepper, or finds the one of a rotation that was interrupted; durable when this returns.
///
/// # Errors
/// The pepper can't be read or written, was rotated too often, or the next one isn't its successor.
pub fn begin(data_dir: &Path) -> Result<Pepper, KeysError> {
    let _lock = keyfile::lock(data_dir)?;
    let (path, next) = (keyfile::pepper_path(data_dir), next_path(data_dir));
    let present = Pepper::load(data_dir)?;
    if !is_under_way(data_dir)? {
        let (bytes, _) = keyfile::read(&path)?;
        let mut file: PepperFile = keyfile::parse(&path, &bytes)?;
        if file.later.len() >= usize::from(CheckinId::EPOCH_MAX) {
            return Err(KeysError::TooMany { path, limit: usize::from(CheckinId::EPOCH_MAX) });
        }
        let mut secret = Zeroizing::new([0_u8; 32]);
        rand::fill(&mut *secret).map_err(|_| KeysError::Random)?;
        file.later.push(Secret::of(&*secret));
        // Room at once, so that growing leaves no copy of the secrets behind.
        let mut text = Zeroizing::new(Vec::with_capacity(256 + 64 * file.later.len()));
        serde_json::to_writer_pretty(&mut *text, &file)
            .map_err(|error| KeysError::io("write", &next, error.into()))?;
        keyfile::write_new(&next, &text)?;
    }
    let rotated = Pepper::read(&next)?;
    let is_successor = rotated.bytes() == present.bytes()
        && rotated.later().count() == present.later().count() + 1
        && rotated.later().zip(present.later()).all(|(one, other)| one == other);
    if is_successor { Ok(rotated) } else { Err(KeysError::Invalid { path: next, field: "later" }) }
}

/// Puts the next pepper in the place of the present one, where that has not been done.
///
/// # Errors
/// The files can't be renamed.
pub fn adopt(data_dir: &Path) -> Result<(), KeysError> {
    let (path, next) = (keyfile::pepper_path(data_dir), next_path(data_dir));
    let io = |source| KeysError::io("replace", &path, source);
    if is_under_way(data_dir)? {
        fs::rename(&next, &path).map_err(io)?;
    }
    File::open(keyfile::keys_dir(data_dir)).and_then(|dir| dir.sync_all()).map_err(io)
}

fn next_path(data_dir: &Path) -> PathBuf {
    keyfile::keys_dir(data_dir).join("pepper.next")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use crate::scan::UnixMillis;
    use crate::verify::manage;

    #[test]
    fn a_rotation_is_found_again_and_changes_persons_only() {
        let dir = tempfile::tempdir().unwrap();
        manage::ensure_development(dir.path(), UnixMillis(0)).unwrap();
        let before = Identity::new(&Pepper::load(dir.path()).unwrap());
        let code = before.cti_of_reference("001090123456");
        let first = begin(dir.path()).unwrap();
        let again = begin(dir.path()).unwrap();
        assert!(first.later().eq(again.later()), "an interrupted rotation goes on with its pepper");
        assert!(is_under_way(dir.path()).unwrap());
        adopt(dir.path()).unwrap();
        adopt(dir.path()).unwrap();
        assert!(!is_under_way(dir.path()).unwrap());
        let after = Identity::new(&Pepper::load(dir.path()).unwrap());
        assert_eq!((before.epoch(), after.epoch()), (0, 1));
        let (old, new) = (before.citizen("001090123456"), after.citizen("001090123456"));
        assert_ne!(old, new);
        assert_eq!(after.rotated(old, 0), new);
        assert_eq!(after.person_of_cti(code), new, "printed codes live on");
        assert_eq!(after.cti_of_reference("001090123456"), code);
        assert_eq!(after.place("gate"), before.place("gate"));
        begin(dir.path()).unwrap();
        adopt(dir.path()).unwrap();
        let last = Identity::new(&Pepper::load(dir.path()).unwrap());
        let newest = last.citizen("001090123456");
        assert_eq!([last.rotated(old, 0), last.rotated(new, 1), last.rotated(newest, 2)], [newest; 3]);
    }
}
