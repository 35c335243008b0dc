//! Keys on disk: one JSON Web Key per file (or a PEM public key, for device issuers and NHS), written whole or not
//! at all, never over an existing file, and readable by the gateway's user only.
//!
//! ```text
//! DATA/keys/               0700
//!   pepper                 {"pepper":"<base64url, 32 bytes>","later":[…],"dev":true}
//!   pepper.next            while the pepper is being rotated (`rotation`)
//!   sg1/<kid>.json         OKP Ed25519 JWK and "epoch", "issuer", "types"
//!   devices/<app>.<…>.json OKP Ed25519 or EC P-256 JWK; "app" in it wins over the file name's
//!   devices/<app>.<kid>.pem  SubjectPublicKeyInfo of one of these
//!   hc1/*.pem              certificates of the health certificates' signers
//!   shc/<name>.json        {"issuer":"https://…","keys":[…]}, an issuer's JWK set
//!   nhs/<kid>.pem          SubjectPublicKeyInfo of P-256
//!   revoked.ndjson         and revoked/*.set, see `revocations`
//!   retired/<use>/…        out of use, without private parts; read by nobody
//!   feed-token             the bearer token of POST /v1/links
//! ```

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::keys::{DeviceAlgorithm, KeysError};
use crate::scan::{App, UnixMillis};

/// The largest key file that is read, in bytes.
const KEY_FILE_BYTES_MAX: u64 = 64 << 10;

/// The most key files in one directory: old ones stay for verification, so the bound is generous.
const KEY_FILES_MAX: usize = 1024;

/// Where each kind of key lives under the data directory.
pub(crate) fn keys_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("keys")
}

pub(crate) fn pepper_path(data_dir: &Path) -> PathBuf {
    keys_dir(data_dir).join("pepper")
}

pub(crate) fn sg1_dir(data_dir: &Path) -> PathBuf {
    keys_dir(data_dir).join("sg1")
}

pub(crate) fn devices_dir(data_dir: &Path) -> PathBuf {
    keys_dir(data_dir).join("devices")
}

pub(crate) fn hc1_dir(data_dir: &Path) -> PathBuf {
    keys_dir(data_dir).join("hc1")
}

pub(crate) fn shc_dir(data_dir: &Path) -> PathBuf {
    keys_dir(data_dir).join("shc")
}

pub(crate) fn nhs_dir(data_dir: &Path) -> PathBuf {
    keys_dir(data_dir).join("nhs")
}

pub(crate) fn retired_dir(data_dir: &Path) -> PathBuf {
    keys_dir(data_dir).join("retired")
}

pub(crate) fn revoked_dir(data_dir: &Path) -> PathBuf {
    keys_dir(data_dir).join("revoked")
}

pub(crate) fn revoked_path(data_dir: &Path) -> PathBuf {
    keys_dir(data_dir).join("revoked.ndjson")
}

/// A secret in base64url: zeroed when dropped, printed never.
#[derive(Clone)]
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The base64url text.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// The 32 bytes inside, if that is what it holds.
    pub(crate) fn bytes(&self) -> Option<Zeroizing<[u8; 32]>> {
        let mut bytes = Zeroizing::new([0_u8; 33]);
        let length = URL_SAFE_NO_PAD.decode_slice(self.0.as_bytes(), &mut *bytes).ok()?;
        let secret = bytes.get(..length)?;
        <[u8; 32]>::try_from(secret).ok().map(Zeroizing::new)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// A JSON Web Key with this gateway's own members beside the standard ones.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct KeyFile {
    pub(crate) kty: String,
    pub(crate) crv: String,
    pub(crate) x: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) y: Option<String>,
    /// The private part, kept only where this gateway issues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) d: Option<Secret>,
    pub(crate) kid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) alg: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) app: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) epoch: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) issuer: Option<String>,
    /// From when on it signs, RFC 3339; it verifies from the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) not_before: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) types: Option<Vec<String>>,
    /// Made by a first start, for development only.
    #[serde(default)]
    pub(crate) dev: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<String>,
}

impl KeyFile {
    /// The algorithm that this key verifies, and its public key: 32 bytes of Ed25519, or an
    /// uncompressed P-256 point.
    pub(crate) fn public(&self, path: &Path) -> Result<(DeviceAlgorithm, Vec<u8>), KeysError> {
        let invalid = |field| KeysError::Invalid { path: path.to_owned(), field };
        let decode = |text: &str, field| match URL_SAFE_NO_PAD.decode(text) {
            Ok(bytes) if bytes.len() == 32 => Ok(bytes),
            _ => Err(invalid(field)),
        };
        let (algorithm, bytes) = match (self.kty.as_str(), self.crv.as_str(), self.y.as_deref()) {
            ("OKP", "Ed25519", None) => (DeviceAlgorithm::EdDsa, decode(&self.x, "x")?),
            ("EC", "P-256", Some(y)) => {
                let point = [vec![0x04], decode(&self.x, "x")?, decode(y, "y")?].concat();
                (DeviceAlgorithm::Es256, point)
            }
            _ => return Err(invalid("kty")),
        };
        match self.alg.as_deref() {
            None => {}
            Some(alg) if alg == algorithm.name() => {}
            Some("Ed25519") if algorithm == DeviceAlgorithm::EdDsa => {}
            Some(_) => return Err(invalid("alg")),
        }
        Ok((algorithm, bytes))
    }
}

impl KeyFile {
    /// From when on it signs, in seconds since 1970.
    pub(crate) fn signs_from_s(&self, path: &Path) -> Result<i64, KeysError> {
        match self.not_before.as_deref().map(UnixMillis::parse) {
            None => Ok(i64::MIN),
            Some(Ok(at)) => Ok(at.seconds()),
            Some(Err(_)) => Err(KeysError::Invalid { path: path.to_owned(), field: "not_before" }),
        }
    }
}

/// Every key file of a directory, in file name order. A directory that is not there holds none.
pub(crate) fn read_dir(dir: &Path) -> Result<Vec<(PathBuf, KeyFile)>, KeysError> {
    let paths = files(dir, &["json", "pem"])?;
    paths.into_iter().map(|path| read_key(&path).map(|key| (path, key))).collect()
}

/// The files of a directory with one of these extensions, in name order, hidden ones left out. A directory
/// that is not there has none.
pub(crate) fn files(dir: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, KeysError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(KeysError::io("list", dir, source)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|source| KeysError::io("list", dir, source))?.path();
        let hidden = path.file_name().and_then(OsStr::to_str).is_none_or(|name| name.starts_with('.'));
        if !hidden && extension(&path).is_some_and(|found| extensions.contains(&found)) {
            paths.push(path);
        }
        if paths.len() > KEY_FILES_MAX {
            return Err(KeysError::TooMany { path: dir.to_owned(), limit: KEY_FILES_MAX });
        }
    }
    paths.sort();
    Ok(paths)
}

fn extension(path: &Path) -> Option<&str> {
    path.extension().and_then(OsStr::to_str)
}

pub(crate) fn read_key(path: &Path) -> Result<KeyFile, KeysError> {
    let (bytes, mode) = read(path)?;
    let mut key = if extension(path) == Some("pem") { read_pem(path, &bytes)? } else { parse(path, &bytes)? };
    if key.d.is_some() {
        check_mode(path, mode)?;
    }
    if key.kid.is_empty() || key.kid.len() > 64 || !key.kid.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(KeysError::Invalid { path: path.to_owned(), field: "kid" });
    }
    if key.app.is_none() {
        key.app = app_of_name(path).map(|app| app.name().to_owned());
    }
    Ok(key)
}

/// The app that a file name starts with: `pc-covid.2021-11.json`.
fn app_of_name(path: &Path) -> Option<App> {
    App::from_name(path.file_name()?.to_str()?.split('.').next()?)
}

/// SubjectPublicKeyInfo up to the key itself, RFC 8410 and RFC 5480; both are of fixed length, so
/// comparing these bytes is the whole parse.
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Whether a SubjectPublicKeyInfo is of P-256, its point uncompressed.
pub(crate) fn is_p256(spki: &[u8]) -> bool {
    spki.strip_prefix(&P256_SPKI).is_some_and(|point| point.len() == 65 && point.first() == Some(&0x04))
}

/// A PEM public key; its kid is its file name without an app's name before it and `.pem` behind it.
fn read_pem(path: &Path, bytes: &[u8]) -> Result<KeyFile, KeysError> {
    let invalid = |field| KeysError::Invalid { path: path.to_owned(), field };
    let spki = SubjectPublicKeyInfoDer::from_pem_slice(bytes).map_err(|_| invalid("PUBLIC KEY"))?;
    let stem = path.file_stem().and_then(OsStr::to_str).ok_or_else(|| invalid("file name"))?;
    let kid = match stem.split_once('.') {
        Some((app, kid)) if App::from_name(app).is_some() => kid,
        _ => stem,
    };
    let (kty, crv, x, y) = if let Some(key) = spki.strip_prefix(&ED25519_SPKI) {
        ("OKP", "Ed25519", URL_SAFE_NO_PAD.encode(key), None)
    } else if let Some((0x04, point)) =
        spki.strip_prefix(&P256_SPKI).and_then(|key| key.split_first().map(|(form, point)| (*form, point)))
    {
        let (x, y) = point.split_at_checked(32).ok_or_else(|| invalid("PUBLIC KEY"))?;
        ("EC", "P-256", URL_SAFE_NO_PAD.encode(x), Some(URL_SAFE_NO_PAD.encode(y)))
    } else {
        return Err(invalid("PUBLIC KEY"));
    };
    Ok(KeyFile {
        kty: kty.to_owned(),
        crv: crv.to_owned(),
        x,
        y,
        d: None,
        kid: kid.to_owned(),
        alg: None,
        app: None,
        epoch: None,
        issuer: None,
        not_before: None,
        types: None,
        dev: false,
        created: None,
    })
}

/// Parses JSON; an error keeps its place and drops its text, which could quote a secret.
pub(crate) fn parse<T: serde::de::DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, KeysError> {
    serde_json::from_slice(bytes).map_err(|error| KeysError::Json {
        path: path.to_owned(),
        line: error.line(),
        column: error.column(),
    })
}

/// Reads a small file into memory that is zeroed afterwards, with its mode.
pub(crate) fn read(path: &Path) -> Result<(Zeroizing<Vec<u8>>, u32), KeysError> {
    read_up_to(path, KEY_FILE_BYTES_MAX)
}

/// The same with another bound, in bytes.
pub(crate) fn read_up_to(path: &Path, bytes_max: u64) -> Result<(Zeroizing<Vec<u8>>, u32), KeysError> {
    let io = |source| KeysError::io("read", path, source);
    let mut file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if metadata.len() > bytes_max {
        return Err(KeysError::TooLarge { path: path.to_owned(), limit: bytes_max });
    }
    // Room for the whole file at once: growing would leave copies of the secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1));
    (&mut file).take(bytes_max).read_to_end(&mut bytes).map_err(io)?;
    Ok((bytes, metadata.mode() & 0o7777))
}

/// A secret may be read by its owner, and by a group where an orchestrator mounts it so; by no one else.
pub(crate) fn check_mode(path: &Path, mode: u32) -> Result<(), KeysError> {
    const CLOSED: u32 = 0o037;
    if mode & CLOSED == 0 { Ok(()) } else { Err(KeysError::Permissions { path: path.to_owned(), mode }) }
}

/// Makes the key directories, closed to everyone else.
pub(crate) fn create_dirs(data_dir: &Path) -> Result<(), KeysError> {
    [keys_dir(data_dir), sg1_dir(data_dir), devices_dir(data_dir), revoked_dir(data_dir)]
        .iter()
        .try_for_each(|dir| create_dir(dir))
}

/// Makes one directory, closed to everyone else.
pub(crate) fn create_dir(dir: &Path) -> Result<(), KeysError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(dir).map_err(|source| KeysError::io("create", dir, source))
}

/// Held while keys are made, so that two starts, or a start and the command line, make them once.
pub(crate) fn lock(data_dir: &Path) -> Result<File, KeysError> {
    let dir = keys_dir(data_dir);
    let io = |source| KeysError::io("lock", &dir, source);
    let file = File::open(&dir).map_err(io)?;
    file.lock().map_err(io)?;
    Ok(file)
}

/// Writes a new file with mode 0600: whole and durable, or not there. A file that exists is left alone
/// and is an error. The caller holds [`lock`], so nobody takes the name between the look and the rename.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), KeysError> {
    if path.try_exists().map_err(|source| KeysError::io("write", path, source))? {
        return Err(KeysError::Exists { path: path.to_owned() });
    }
    write_and_rename(path, bytes)
}

/// Writes a file with mode 0600 over the present one, if any: the one or the other is there, whole.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), KeysError> {
    write_and_rename(path, bytes)
}

fn write_and_rename(path: &Path, bytes: &[u8]) -> Result<(), KeysError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let io = |source| KeysError::io("write", path, source);
    let temporary = temporary(dir)?;
    let mut file = create_closed(&temporary).map_err(io)?;
    let written =
        file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&temporary, path));
    if let Err(source) = written {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
        return Err(io(source));
    }
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)
}

/// What names of files begin with that are not whole yet.
const TEMPORARY: &str = ".new-";

/// A name in this directory that nobody reads.
pub(crate) fn temporary(dir: &Path) -> Result<PathBuf, KeysError> {
    let mut nonce = [0_u8; 8];
    rand::fill(&mut nonce).map_err(|_| KeysError::Random)?;
    Ok(dir.join(format!("{TEMPORARY}{}", hex(&nonce))))
}

/// Whether a file was left behind half written.
pub(crate) fn is_temporary(path: &Path) -> bool {
    path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(TEMPORARY))
}

/// A new file that only its owner may read.
pub(crate) fn create_closed(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Lowercase hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes behind lowercase or uppercase hexadecimal of exactly `N` bytes.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; N];
    for (index, byte) in bytes.iter_mut().enumerate() {
        let digits = text.get(2 * index..2 * index + 2)?;
        if digits.starts_with('+') {
            return None;
        }
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(bytes)
}
