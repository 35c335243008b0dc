//! Named tokens for the admin listener. A token is random and shown once; its file holds its hash, so that neither
//! a backup of `keys` nor a look into it lets anybody in.
//!
//! `keys/admin/<name>.json`, mode 0600: name, scopes, SHA-256 of the token, when it was made and when it ends. A plain
//! hash will do: there are 2^256 tokens to try.
//!
//! `DATA/admin-token` holds a token itself, made anew by every start of a gateway: who may read it may read all of the
//! data directory, so it lets the commands beside the gateway in.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::keyfile::{self, Secret};
use super::keys::KeysError;
use crate::scan::UnixMillis;

/// Characters of a token's name.
pub const TOKEN_NAME_CHARS_MAX: usize = 32;

/// What tokens begin with, so that one that has leaked is known for what it is.
const PREFIX: &str = "sga_";

/// Characters of a token that a file may hold.
const CHARS: std::ops::RangeInclusive<usize> = 32..=128;

/// What a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdminScope {
    /// Metrics and statistics: nothing about persons.
    Read,
    /// Check-ins, by time range or by person.
    Export,
    /// Drain and reload.
    Operate,
    /// The links between a person's identifiers.
    Links,
    /// The services' own matters: places, rules, the queue of feedback.
    Services,
    /// Asking for a trace, and reading the one that was asked for.
    Trace,
    /// Approving a trace that somebody else has asked for.
    Approve,
}

impl AdminScope {
    /// Every scope.
    pub const ALL: &[Self] =
        &[Self::Read, Self::Export, Self::Operate, Self::Links, Self::Services, Self::Trace, Self::Approve];

    /// Its name, on the command line and in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Export => "export",
            Self::Operate => "operate",
            Self::Links => "links",
            Self::Services => "services",
            Self::Trace => "trace",
            Self::Approve => "approve",
        }
    }

    /// The scope with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|scope| scope.name() == name)
    }
}

impl fmt::Display for AdminScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a text may name a token: 1 to 32 of a-z, 0-9, '.', '_' and '-', a letter or digit first.
pub fn is_token_name(name: &str) -> bool {
    let first = name.bytes().next();
    first.is_some_and(|first| first.is_ascii_lowercase() || first.is_ascii_digit())
        && name.len() <= TOKEN_NAME_CHARS_MAX
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}

/// The hash of a token.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Of a token's text.
    pub fn of(token: &[u8]) -> Self {
        Self(digest(&SHA256, token).as_ref().try_into().unwrap_or([0; 32]))
    }

    /// Whether both are of one token; how long that takes tells nothing of either.
    pub fn is(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

/// Prints nothing: whoever tries tokens offline would begin with it.
impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(..)")
    }
}

/// A token as the gateway knows it.
#[derive(Debug, Clone)]
pub struct AdminToken {
    /// Its name.
    pub name: String,
    /// What it is good for.
    pub scopes: Vec<AdminScope>,
    /// Its hash.
    pub hash: TokenHash,
    /// When it was made.
    pub made: UnixMillis,
    /// From when on it is no good any more.
    pub expires: Option<UnixMillis>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenFile {
    name: String,
    scopes: Vec<AdminScope>,
    hash: String,
    made: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
}

fn dir(data_dir: &Path) -> PathBuf {
    keyfile::keys_dir(data_dir).join("admin")
}

fn file_of(data_dir: &Path, name: &str) -> Result<PathBuf, KeysError> {
    let path = dir(data_dir).join(format!("{name}.json"));
    if is_token_name(name) { Ok(path) } else { Err(KeysError::Invalid { path, field: "name" }) }
}

fn random_token() -> Result<Zeroizing<String>, KeysError> {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    rand::fill(&mut *bytes).map_err(|_| KeysError::Random)?;
    Ok(Zeroizing::new(PREFIX.to_owned() + Secret::of(&*bytes).text()))
}

/// Makes a token and keeps its hash. A running gateway takes it in at its next reload.
///
/// # Errors
/// There is one of this name, the name can't be one, or the file can't be written.
pub fn make(
    data_dir: &Path,
    name: &str,
    scopes: &[AdminScope],
    expires: Option<UnixMillis>,
    now: UnixMillis,
) -> Result<Zeroizing<String>, KeysError> {
    let path = file_of(data_dir, name)?;
    keyfile::create_dirs(data_dir)?;
    keyfile::create_dir(&dir(data_dir))?;
    let _lock = keyfile::lock(data_dir)?;
    let token = random_token()?;
    let held = |scope: &AdminScope| scopes.contains(scope);
    let file = TokenFile {
        name: name.to_owned(),
        scopes: AdminScope::ALL.iter().copied().filter(held).collect(),
        hash: keyfile::hex(&TokenHash::of(token.as_bytes()).0),
        made: now.to_string(),
        expires: expires.map(|at| at.to_string()),
    };
    let invalid = |_| KeysError::Invalid { path: path.clone(), field: "scopes" };
    let bytes = serde_json::to_vec_pretty(&file).map_err(invalid)?;
    keyfile::write_new(&path, &bytes)?;
    Ok(token)
}

/// Every token, by name.
///
/// # Errors
/// A file can't be read, is open to others, or isn't a token's.
pub fn load(data_dir: &Path) -> Result<Vec<AdminToken>, KeysError> {
    let paths = keyfile::files(&dir(data_dir), &["json"])?;
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Result<AdminToken, KeysError> {
    let (bytes, mode) = keyfile::read(path)?;
    keyfile::check_mode(path, mode)?;
    let file: TokenFile = keyfile::parse(path, &bytes)?;
    let invalid = |field| KeysError::Invalid { path: path.to_owned(), field };
    let time = |text: &str, field| UnixMillis::parse(text).map_err(|_| invalid(field));
    if !is_token_name(&file.name) || path.file_stem().and_then(|stem| stem.to_str()) != Some(&file.name) {
        return Err(invalid("name"));
    }
    if file.scopes.is_empty() {
        return Err(invalid("scopes"));
    }
    Ok(AdminToken {
        hash: TokenHash(keyfile::unhex(&file.hash).ok_or_else(|| invalid("hash"))?),
        made: time(&file.made, "made")?,
        expires: file.expires.as_deref().map(|at| time(at, "expires")).transpose()?,
        name: file.name,
        scopes: file.scopes,
    })
}

/// Takes a token away: it is refused from the gateway's next reload on.
///
/// # Errors
/// There is none of this name, or its file can't be removed.
pub fn revoke(data_dir: &Path, name: &str) -> Result<(), KeysError> {
    let path = file_of(data_dir, name)?;
    keyfile::create_dirs(data_dir)?;
    let _lock = keyfile::lock(data_dir)?;
    if !path.try_exists().map_err(|source| KeysError::io("look for", &path, source))? {
        return Err(KeysError::NoSuchKey { key_use: "admin", kid: name.to_owned() });
    }
    let dir = dir(data_dir);
    fs::remove_file(&path)
        .and_then(|()| File::open(&dir)?.sync_all())
        .map_err(|source| KeysError::io("remove", &path, source))
}

/// The file of the token for commands beside a running gateway.
pub fn local_path(data_dir: &Path) -> PathBuf {
    data_dir.join("admin-token")
}

/// Makes the token for commands beside this gateway, in place of the one before, and returns its hash.
///
/// # Errors
/// The file can't be written.
pub fn make_local(data_dir: &Path) -> Result<TokenHash, KeysError> {
    let token = random_token()?;
    let line = Zeroizing::new(token.to_string() + "\n");
    keyfile::replace(&local_path(data_dir), line.as_bytes())?;
    Ok(TokenHash::of(token.as_bytes()))
}

/// Reads a token from a file that is closed to others.
///
/// # Errors
/// The file can't be read, is open to others, or holds no token.
pub fn read_token(path: &Path) -> Result<Zeroizing<String>, KeysError> {
    let (bytes, mode) = keyfile::read(path)?;
    keyfile::check_mode(path, mode)?;
    let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
    if !CHARS.contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(KeysError::Invalid { path: path.to_owned(), field: "token" });
    }
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_token_is_shown_once_and_only_its_hash_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let at = UnixMillis(1_000);
        let token =
            make(dir.path(), "grafana", &[AdminScope::Export, AdminScope::Read], Some(at), at).unwrap();
        assert!(token.starts_with(PREFIX) && token.len() == PREFIX.len() + 43);
        let path = dir.path().join("keys/admin/grafana.json");
        assert!(!fs::read_to_string(&path).unwrap().contains(&token[PREFIX.len()..]));
        let tokens = load(dir.path()).unwrap();
        assert_eq!(tokens[0].scopes, [AdminScope::Read, AdminScope::Export]);
        assert!(tokens[0].hash.is(&TokenHash::of(token.as_bytes())));
        assert!(!tokens[0].hash.is(&TokenHash::of(b"sga_other")));
        assert_eq!((tokens[0].made, tokens[0].expires), (at, Some(at)));
        let again = make(dir.path(), "grafana", &[AdminScope::Read], None, at);
        assert!(matches!(again, Err(KeysError::Exists { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(load(dir.path()), Err(KeysError::Permissions { .. })));
        revoke(dir.path(), "grafana").unwrap();
        assert!(load(dir.path()).unwrap().is_empty());
        assert!(matches!(revoke(dir.path(), "grafana"), Err(KeysError::NoSuchKey { .. })));
    }

    #[test]
    fn a_name_stays_inside_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["", "../pepper", "Grafana", ".hidden", "a/b", &"x".repeat(33)] {
            let made = make(dir.path(), name, &[AdminScope::Read], None, UnixMillis(0));
            assert!(matches!(made, Err(KeysError::Invalid { field: "name", .. })), "{name}");
        }
    }

    #[test]
    fn the_local_token_is_another_at_each_start_and_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        keyfile::create_dirs(dir.path()).unwrap();
        let first = make_local(dir.path()).unwrap();
        let token = read_token(&local_path(dir.path())).unwrap();
        assert!(first.is(&TokenHash::of(token.as_bytes())));
        assert!(!make_local(dir.path()).unwrap().is(&first));
        fs::set_permissions(local_path(dir.path()), fs::Permissions::from_mode(0o604)).unwrap();
        assert!(read_token(&local_path(dir.path())).is_err());
    }
}
