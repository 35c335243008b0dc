//! What has been revoked: an append-only file, one JSON object a line.
//!
//! `{"kind":"cti","value":"<32 hex digits>","at":"…"}`: every SG1 token with this cti issued until `at`; a
//! later one is good again, which is how a lost card is replaced.
//! `{"kind":"device","value":"<app>/<sub>","at":"…"}`: the device, for good.
//! `{"kind":"kid","value":"…","at":"…"}`: the key, for good.
//! `{"kind":"dcc","value":"<32 hex digits>","at":"…"}`: health certificates by one of the hashes in the EU's
//! revocation lists, or a SMART Health Card by the hash of its holder's name, for good.
//!
//! A line is written with one write and fsynced, under a lock. A last line without its newline was never
//! acknowledged (or is being written now) and is not read; any other line that cannot be read is an error,
//! because skipping it would quietly make something valid again.

use std::collections::{HashMap, HashSet};
use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::keyfile::{hex, unhex};
use super::keys::KeysError;
use crate::scan::{App, UnixMillis};

/// The largest revocation file that is read, in bytes: about a million lines.
const REVOKED_BYTES_MAX: u64 = 128 << 20;

/// One thing to revoke.
#[derive(Clone, PartialEq, Eq)]
pub enum Revocation {
    /// SG1 tokens by their cti.
    Cti([u8; 16]),
    /// A device by app and `sub`.
    Device(App, String),
    /// A key by its id: hexadecimal for SG1 keys, as in the token for device keys.
    Kid(String),
    /// A health certificate or card by a hash.
    Dcc([u8; 16]),
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
            "device" => {
                let (app, sub) = value.split_once('/')?;
                let app = App::from_name(app)?;
                (!sub.is_empty()).then(|| Self::Device(app, sub.to_owned()))
            }
            "kid" => (!value.is_empty()).then(|| Self::Kid(value.to_owned())),
            "dcc" => unhex(value).map(Self::Dcc),
            _ => None,
        }
    }

    /// The `kind` of its line.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Cti(_) => "cti",
            Self::Device(..) => "device",
            Self::Kid(_) => "kid",
            Self::Dcc(_) => "dcc",
        }
    }

    fn value(&self) -> String {
        match self {
            Self::Cti(bytes) | Self::Dcc(bytes) => hex(bytes),
            Self::Device(app, sub) => format!("{app}/{sub}"),
            Self::Kid(kid) => kid.clone(),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    kind: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    value: std::borrow::Cow<'a, str>,
    at: String,
}

/// The revocations of one snapshot.
#[derive(Default)]
pub(super) struct Revocations {
    /// The last second of issue that is revoked, by cti.
    ctis: HashMap<[u8; 16], i64>,
    devices: HashMap<App, HashSet<String>>,
    kids: HashSet<String>,
    dccs: HashSet<[u8; 16]>,
}

impl Revocations {
    /// The last second of issue that is revoked for this cti.
    pub(super) fn cti(&self, cti: &[u8; 16]) -> Option<i64> {
        self.ctis.get(cti).copied()
    }

    pub(super) fn device(&self, app: App, sub: &str) -> bool {
        self.devices.get(&app).is_some_and(|subs| subs.contains(sub))
    }

    pub(super) fn kid(&self, kid: &str) -> bool {
        self.kids.contains(kid)
    }

    pub(super) fn dcc(&self, hash: &[u8; 16]) -> bool {
        self.dccs.contains(hash)
    }

    /// Reads the file; the bytes come back too, for the snapshot's fingerprint. No file revokes nothing.
    pub(super) fn load(path: &Path) -> Result<(Self, Vec<u8>), KeysError> {
        let mut bytes = Vec::new();
        match std::fs::File::open(path) {
            Ok(file) => file
                .take(REVOKED_BYTES_MAX + 1)
                .read_to_end(&mut bytes)
                .map_err(|source| KeysError::io("read", path, source))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(source) => return Err(KeysError::io("read", path, source)),
        };
        if bytes.len() as u64 > REVOKED_BYTES_MAX {
            return Err(KeysError::TooLarge { path: path.to_owned(), limit: REVOKED_BYTES_MAX });
        }
        bytes.truncate(whole_lines(&bytes));
        let mut revocations = Self::default();
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            revocations
                .apply(line)
                .ok_or_else(|| KeysError::Revocation { path: path.to_owned(), line: index + 1 })?;
        }
        Ok((revocations, bytes))
    }

    fn apply(&mut self, line: &[u8]) -> Option<()> {
        let line: Line<'_> = serde_json::from_slice(line).ok()?;
        let at = UnixMillis::parse(&line.at).ok()?;
        match Revocation::parse(&line.kind, &line.value)? {
            Revocation::Cti(cti) => {
                let until = self.ctis.entry(cti).or_insert(i64::MIN);
                *until = at.seconds().max(*until);
            }
            Revocation::Device(app, sub) => {
                self.devices.entry(app).or_default().insert(sub);
            }
            Revocation::Kid(kid) => {
                self.kids.insert(kid);
            }
            Revocation::Dcc(hash) => {
                self.dccs.insert(hash);
            }
        }
        Some(())
    }
}

/// Appends one revocation, durable when this returns. A torn line before it is cut off first.
pub(super) fn append(path: &Path, revocation: &Revocation, at: UnixMillis) -> Result<(), KeysError> {
    let line = Line { kind: revocation.kind().into(), value: revocation.value().into(), at: at.to_string() };
    let io = |source| KeysError::io("append to", path, source);
    let mut bytes = serde_json::to_vec(&line).map_err(|error| io(error.into()))?;
    bytes.push(b'\n');
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(io)?;
    file.lock().map_err(io)?;
    let mut present = Vec::new();
    file.read_to_end(&mut present).map_err(io)?;
    let whole = whole_lines(&present) as u64;
    file.set_len(whole).map_err(io)?;
    file.seek(SeekFrom::Start(whole)).map_err(io)?;
    file.write_all(&bytes).map_err(io)?;
    file.sync_all().map_err(io)?;
    if let Some(dir) = path.parent() {
        std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)?;
    }
    Ok(())
}

/// The length of the lines that end in a newline.
fn whole_lines(bytes: &[u8]) -> usize {
    memchr::memrchr(b'\n', bytes).map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: UnixMillis = UnixMillis(1_637_736_569_123);

    #[test]
    fn what_is_appended_is_read_and_a_torn_tail_is_not() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("revoked.ndjson");
        assert!(Revocations::load(&path).is_ok_and(|(revoked, _)| revoked.cti(&[7; 16]).is_none()));
        append(&path, &Revocation::Cti([7; 16]), AT).expect("append");
        let mut torn = std::fs::read(&path).expect("read");
        torn.extend_from_slice(br#"{"kind":"kid","va"#);
        std::fs::write(&path, &torn).expect("write");
        let (revoked, _) = Revocations::load(&path).expect("torn tail");
        assert_eq!(revoked.cti(&[7; 16]), Some(AT.seconds()));
        append(&path, &Revocation::Device(App::Vneid, "gate/1".to_owned()), AT).expect("append");
        append(&path, &Revocation::Kid("k1".to_owned()), AT).expect("append");
        let (revoked, _) = Revocations::load(&path).expect("load");
        assert!(revoked.device(App::Vneid, "gate/1"));
        assert!(!revoked.device(App::PcCovid, "gate/1"));
        assert!(revoked.kid("k1"));
        assert_eq!(std::fs::read_to_string(&path).expect("read").lines().count(), 3);
    }

    #[test]
    fn a_damaged_line_in_the_middle_is_an_error_with_its_number() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("revoked.ndjson");
        let good = r#"{"kind":"kid","value":"k","at":"2021-11-24T06:49:29Z"}"#;
        for bad in ["{", r#"{"kind":"cti","value":"00","at":"2021-11-24T06:49:29Z"}"#, r#"{"kind":"name"}"#] {
            std::fs::write(&path, format!("{good}\n{bad}\n{good}\n")).expect("write");
            let error = Revocations::load(&path).err();
            assert!(matches!(error, Some(KeysError::Revocation { line: 2, .. })), "{bad}: {error:?}");
        }
    }
}
