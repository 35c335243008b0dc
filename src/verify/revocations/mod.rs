//! What has been revoked, at the size of a country: recent revocations in lines ([`lines`]), large sets in
//! files that are never changed (`set`), and the way from the one to the other ([`bulk`]).
//!
//! ```text
//! DATA/keys/revoked.ndjson                append-only
//! DATA/keys/revoked/<kind>-<hash>.set     written once; found by name, checked whole when opened
//! ```
//! What is revoked is the union of all of them, so a set may hold what lines or another set hold too, and
//! moving revocations from lines into a set loses nothing, wherever it is interrupted.
//!
//! The directory `revoked` is locked for as long as names in it or lines change, and shared while files are
//! opened: whoever opens sees every revocation that was ever acknowledged. An open file stays as it was.

pub mod bulk;
pub mod lines;
mod set;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use serde::Serialize;

use self::lines::Recent;
use self::set::{FileIdentity, Key, Set};
use super::keyfile::{self, hex, unhex};
use super::keys::KeysError;
use crate::scan::{App, UnixMillis};

/// The most sets that are read. A set holds up to 16 M revocations, and `bulk` merges small ones.
const SETS_MAX: usize = 256;

/// What is kept in sets. Key ids stay in lines: there are few, and their text is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// SG1 tokens by their cti.
    Cti,
    /// Devices by a hash of app and `sub`.
    Device,
    /// Health certificates by the hashes of the EU's lists.
    Dcc,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Cti, Self::Device, Self::Dcc];

    /// Its name in lines and file names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cti => "cti",
            Self::Device => "device",
            Self::Dcc => "dcc",
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Cti => 1,
            Self::Device => 2,
            Self::Dcc => 3,
        }
    }

    /// The one time of two revocations of one key. A cti is revoked up to the later one, everything else
    /// for good since the earlier one.
    fn merged(self, one: i64, other: i64) -> i64 {
        match self {
            Self::Cti => one.max(other),
            Self::Device | Self::Dcc => one.min(other),
        }
    }
}

/// One thing to revoke.
#[derive(Clone, PartialEq, Eq)]
pub enum Revocation {
    /// SG1 tokens by their cti.
    Cti([u8; 16]),
    /// A device by app and `sub`.
    Device(App, String),
    /// A device by the hash of app and `sub`, as an export names it.
    DeviceHash([u8; 16]),
    /// Health certificates by a hash of the EU's lists.
    Dcc([u8; 16]),
    /// A key by its id: hexadecimal for SG1 keys, as in the token for device keys.
    Kid(String),
}

/// Shows the kind only: a device's `sub` may be a person's.
impl std::fmt::Debug for Revocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Revocation({})", self.kind())
    }
}

impl Revocation {
    /// Reads the `kind` and `value` of a line, as the command line takes them too.
    pub fn parse(kind: &str, value: &str) -> Option<Self> {
        match kind {
            "cti" => unhex(value).map(Self::Cti),
            "dcc" => unhex(value).map(Self::Dcc),
            "device-hash" => unhex(value).map(Self::DeviceHash),
            "device" => {
                let (app, sub) = value.split_once('/')?;
                let app = App::from_name(app)?;
                (!sub.is_empty()).then(|| Self::Device(app, sub.to_owned()))
            }
            "kid" => (!value.is_empty()).then(|| Self::Kid(value.to_owned())),
            _ => None,
        }
    }

    /// The `kind` of its line.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Cti(_) => "cti",
            Self::Device(..) => "device",
            Self::DeviceHash(_) => "device-hash",
            Self::Dcc(_) => "dcc",
            Self::Kid(_) => "kid",
        }
    }

    fn value(&self) -> String {
        match self {
            Self::Cti(key) | Self::DeviceHash(key) | Self::Dcc(key) => hex(key),
            Self::Device(app, sub) => format!("{app}/{sub}"),
            Self::Kid(kid) => kid.clone(),
        }
    }

    /// What it is looked up by; none for a key id. A device's is the first 16 bytes of the SHA-256 of
    /// `app/sub`: names stay out of memory and sets.
    pub fn key(&self) -> Option<(Kind, [u8; 16])> {
        match self {
            Self::Cti(key) => Some((Kind::Cti, *key)),
            Self::Dcc(key) => Some((Kind::Dcc, *key)),
            Self::DeviceHash(key) => Some((Kind::Device, *key)),
            Self::Device(app, sub) => Some((Kind::Device, device_key(*app, sub))),
            Self::Kid(_) => None,
        }
    }

    fn of_record(kind: Kind, key: Key) -> Self {
        match kind {
            Kind::Cti => Self::Cti(key),
            Kind::Device => Self::DeviceHash(key),
            Kind::Dcc => Self::Dcc(key),
        }
    }
}

fn device_key(app: App, sub: &str) -> Key {
    let mut hash = digest::Context::new(&digest::SHA256);
    for part in [app.name(), "/", sub] {
        hash.update(part.as_bytes());
    }
    hash.finish().as_ref().first_chunk().copied().unwrap_or_default()
}

/// The revocations of one snapshot.
#[derive(Clone, Default)]
pub(super) struct Revocations {
    recent: Arc<Recent>,
    sets: Vec<Arc<Set>>,
}

/// How much of one kind is revoked, and what it costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// `cti`, `device`, `dcc` or `kid`.
    pub kind: &'static str,
    /// In lines.
    pub recent: u64,
    /// In sets; what two sets hold counts twice until they are merged.
    pub in_sets: u64,
    /// How many sets.
    pub sets: u64,
    /// What the sets' filters and indices take in memory.
    pub memory_bytes: u64,
}

impl Revocations {
    /// The last second of issue that is revoked for this cti. An unreadable disk revokes all.
    pub(super) fn cti(&self, cti: &Key) -> Option<i64> {
        self.at(Kind::Cti, cti, i64::MAX)
    }

    /// Since when a device is revoked.
    pub(super) fn device(&self, app: App, sub: &str) -> Option<i64> {
        self.at(Kind::Device, &device_key(app, sub), i64::MIN)
    }

    /// Since when a health certificate is revoked.
    pub(super) fn dcc(&self, hash: &Key) -> Option<i64> {
        self.at(Kind::Dcc, hash, i64::MIN)
    }

    /// Since when a key is revoked.
    pub(super) fn kid(&self, kid: &str) -> Option<i64> {
        self.recent.kid(kid)
    }

    /// The time of one key; `unreadable` where the disk doesn't answer, since what can't be looked up must
    /// not pass for valid.
    fn at(&self, kind: Kind, key: &Key, unreadable: i64) -> Option<i64> {
        match self.find(kind, key) {
            Ok(at) => at,
            Err(error) => {
                tracing::error!(error = %error, kind = kind.name(), "revocations can't be read; refusing");
                Some(unreadable)
            }
        }
    }

    fn find(&self, kind: Kind, key: &Key) -> io::Result<Option<i64>> {
        let mut found = self.recent.get(kind, key);
        for set in self.of_kind(kind) {
            if let Some(at) = set.get(key)? {
                found = Some(found.map_or(at, |known| kind.merged(known, at)));
            }
        }
        Ok(found)
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Set>> {
        self.sets.iter().filter(move |set| set.kind == kind)
    }

    /// What tells this content from another.
    pub(super) fn fingerprint(&self, hash: &mut digest::Context) {
        hash.update(&self.recent.hash);
        for set in &self.sets {
            hash.update(&set.checksum);
        }
    }

    /// How much there is of each kind.
    pub(super) fn counted(&self) -> Vec<Counted> {
        let mut counted: Vec<_> = Kind::ALL
            .into_iter()
            .map(|kind| Counted {
                kind: kind.name(),
                recent: self.recent.count(kind) as u64,
                in_sets: self.of_kind(kind).map(|set| set.records).sum(),
                sets: self.of_kind(kind).count() as u64,
                memory_bytes: self.of_kind(kind).map(|set| set.memory_bytes() as u64).sum(),
            })
            .collect();
        let recent = self.recent.kids() as u64;
        counted.push(Counted { kind: "kid", recent, in_sets: 0, sets: 0, memory_bytes: 0 });
        counted
    }

    /// Reads the lines alone: enough for key ids, and quick however much is revoked.
    pub(super) fn load_kids(data_dir: &Path) -> Result<Self, KeysError> {
        let opened = Opened::open(data_dir)?;
        let recent = match &opened.lines {
            None => Recent::default(),
            Some((path, file)) => Recent::read(path, file)?,
        };
        Ok(Self { recent: Arc::new(recent), sets: Vec::new() })
    }

    /// Reads lines and sets under a data directory. What hasn't changed since `before` is taken from it
    /// instead of being read again. Nothing there revokes nothing.
    pub(super) fn load(data_dir: &Path, before: Option<&Self>) -> Result<Self, KeysError> {
        let opened = Opened::open(data_dir)?;
        let recent = match &opened.lines {
            None => Arc::default(),
            Some((path, file)) => {
                let identity =
                    FileIdentity::of(file).map_err(|source| KeysError::io("read", path, source))?;
                match before.map(|before| &before.recent).filter(|known| known.identity == Some(identity)) {
                    Some(known) => Arc::clone(known),
                    None => Arc::new(Recent::read(path, file)?),
                }
            }
        };
        let known = before.map(|before| before.sets.as_slice()).unwrap_or_default();
        let mut sets = Vec::with_capacity(opened.sets.len());
        for (path, file) in opened.sets {
            let identity = FileIdentity::of(&file).map_err(|source| KeysError::io("read", &path, source))?;
            sets.push(match known.iter().find(|set| set.identity == identity && set.path == path) {
                Some(set) => Arc::clone(set),
                None => Arc::new(Set::open(&path, file)?),
            });
        }
        Ok(Self { recent, sets })
    }
}

/// The files of one moment.
struct Opened {
    lines: Option<(PathBuf, File)>,
    sets: Vec<(PathBuf, File)>,
}

impl Opened {
    fn open(data_dir: &Path) -> Result<Self, KeysError> {
        let dir = keyfile::revoked_dir(data_dir);
        // Without the directory there are lines at most.
        let _lock = match File::open(&dir) {
            Ok(lock) => {
                lock.lock_shared().map_err(|source| KeysError::io("lock", &dir, source))?;
                Some(lock)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(KeysError::io("open", &dir, source)),
        };
        let path = keyfile::revoked_path(data_dir);
        let lines = match File::open(&path) {
            Ok(file) => Some((path, file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(KeysError::io("read", &path, source)),
        };
        let mut sets = Vec::new();
        for path in set_paths(&dir)? {
            let file = File::open(&path).map_err(|source| KeysError::io("read", &path, source))?;
            sets.push((path, file));
        }
        Ok(Self { lines, sets })
    }
}

/// The sets of the directory, by name.
fn set_paths(dir: &Path) -> Result<Vec<PathBuf>, KeysError> {
    let list = |source| KeysError::io("list", dir, source);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(list(source)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(list)?.path();
        if path.extension().is_some_and(|extension| extension == "set") {
            paths.push(path);
        }
        if paths.len() > SETS_MAX {
            return Err(KeysError::TooMany { path: dir.to_owned(), limit: SETS_MAX });
        }
    }
    paths.sort();
    Ok(paths)
}

/// Held while names in the directory, or lines, change.
fn lock(data_dir: &Path) -> Result<File, KeysError> {
    let dir = keyfile::revoked_dir(data_dir);
    let io = |source| KeysError::io("lock", &dir, source);
    let file = File::open(&dir).map_err(io)?;
    file.lock().map_err(io)?;
    Ok(file)
}

/// Appends one revocation to the lines, durable when this returns. The key directories exist.
pub(super) fn append(data_dir: &Path, revocation: &Revocation, at: UnixMillis) -> Result<(), KeysError> {
    append_all(data_dir, &[(revocation.clone(), at)])
}

/// Appends revocations to the lines, all of them or none, durable when this returns. The key directories exist.
pub(super) fn append_all(data_dir: &Path, revocations: &[(Revocation, UnixMillis)]) -> Result<(), KeysError> {
    let _lock = lock(data_dir)?;
    let lines: Vec<u8> =
        revocations.iter().flat_map(|(revocation, at)| lines::write_line(revocation, *at)).collect();
    lines::append(&keyfile::revoked_path(data_dir), &lines)
}

#[cfg(test)]
mod tests;
