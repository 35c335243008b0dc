//! The bearer token that a feed of links must bring: a secret file, made once, compared in constant time.

use std::fmt;
use std::path::Path;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{hmac, rand};
use zeroize::Zeroizing;

use super::keyfile::{self, Secret};
use super::keys::KeysError;

/// Characters of a token: enough that it can't be guessed, few enough for any header.
const CHARS: std::ops::RangeInclusive<usize> = 32..=128;

/// The token, zeroed when dropped.
pub struct FeedToken(Zeroizing<String>);

/// Prints nothing: everything inside is secret.
impl fmt::Debug for FeedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FeedToken(..)")
    }
}

impl FeedToken {
    /// Makes DATA/keys/feed-token where there is none; true if it did.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn ensure(data_dir: &Path) -> Result<bool, KeysError> {
        keyfile::create_dirs(data_dir)?;
        let _lock = keyfile::lock(data_dir)?;
        let path = keyfile::keys_dir(data_dir).join("feed-token");
        if path.try_exists().map_err(|source| KeysError::io("look for", &path, source))? {
            return Ok(false);
        }
        let mut bytes = Zeroizing::new([0_u8; 32]);
        rand::fill(&mut *bytes).map_err(|_| KeysError::Random)?;
        let token = Zeroizing::new(Secret::of(&*bytes).text().to_owned() + "\n");
        keyfile::write_new(&path, token.as_bytes())?;
        Ok(true)
    }

    /// Reads the token from `file`, or from DATA/keys/feed-token, where it may be missing.
    ///
    /// # Errors
    /// The file can't be read, is open to others, or holds no token.
    pub fn load(data_dir: &Path, file: Option<&Path>) -> Result<Option<Self>, KeysError> {
        let default = keyfile::keys_dir(data_dir).join("feed-token");
        let path = file.unwrap_or(&default);
        let exists = || path.try_exists().map_err(|source| KeysError::io("look for", path, source));
        if file.is_none() && !exists()? {
            return Ok(None);
        }
        let (bytes, mode) = keyfile::read(path)?;
        keyfile::check_mode(path, mode)?;
        let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
        if !CHARS.contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(KeysError::Invalid { path: path.to_owned(), field: "token" });
        }
        Ok(Some(Self(Zeroizing::new(text.to_owned()))))
    }

    /// The key of signatures (HMAC-SHA256) by whoever shares this as a secret.
    pub fn signing_key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.0.as_bytes())
    }

    /// Whether a header's value is `Bearer` and this token (RFC 6750). How long that takes tells nothing of
    /// the token but its length.
    pub fn is_brought_by(&self, authorization: &[u8]) -> bool {
        let brought = match authorization.split_at_checked("Bearer ".len()) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"Bearer ") => token,
            _ => return false,
        };
        verify_slices_are_equal(brought, self.0.as_bytes()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_token_is_made_once_closed_to_others_and_recognised() {
        let dir = tempfile::tempdir().unwrap();
        assert!(FeedToken::load(dir.path(), None).unwrap().is_none());
        assert!(FeedToken::ensure(dir.path()).unwrap());
        assert!(!FeedToken::ensure(dir.path()).unwrap());
        let path = dir.path().join("keys/feed-token");
        let text = std::fs::read_to_string(&path).unwrap();
        let token = FeedToken::load(dir.path(), None).unwrap().expect("a token");
        let header = format!("Bearer {}", text.trim());
        assert!(token.is_brought_by(header.as_bytes()));
        assert!(token.is_brought_by(header.replacen("Bearer", "bearer", 1).as_bytes()));
        for wrong in ["", "Bearer ", text.trim(), &format!("{header}x"), &format!("Basic {}", text.trim())] {
            assert!(!token.is_brought_by(wrong.as_bytes()), "{wrong}");
        }
        assert_eq!(format!("{token:?}"), "FeedToken(..)");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(FeedToken::load(dir.path(), None), Err(KeysError::Permissions { .. })));
    }

    #[test]
    fn a_configured_file_must_be_there_and_hold_a_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        assert!(FeedToken::load(dir.path(), Some(&path)).is_err());
        std::fs::write(&path, "short").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(FeedToken::load(dir.path(), Some(&path)), Err(KeysError::Invalid { .. })));
        std::fs::write(&path, "0123456789abcdef0123456789abcdef\n").unwrap();
        assert!(FeedToken::load(dir.path(), Some(&path)).unwrap().is_some());
    }
}
