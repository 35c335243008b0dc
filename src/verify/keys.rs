//! Keys in memory: an immutable snapshot of the public keys and revocations under the data directory,
//! swapped whole on reload. Private keys never enter it; they are read where something is issued, and
//! dropped again.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use aws_lc_rs::digest;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey};
use jsonwebtoken::{Algorithm, DecodingKey};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::batch::BatchKey;
use super::keyfile::{self, KeyFile, Secret};
pub use super::kid::Kid;
use super::nhs::NhsKey;
use super::revocations::{Counted, Revocations};
use super::sg1::{ROTATING_SKEW_S, TokenKind};
use super::trust::{Hc1Key, ShcKey, Trust};
use crate::scan::{App, CheckinId};

/// Why keys could not be read or written. No variant carries a key file's content.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file system refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A key file isn't the JSON it should be.
    #[error("{path}:{line}:{column}: must be a JSON key file")]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// A key file's member has a value that can't be used.
    #[error("{path}: `{field}` is missing or not usable")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The member.
        field: &'static str,
    },
    /// A certificate of an issuer of health certificates can't be used.
    #[error("{path}: certificate {number} {problem}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Which one in the file, from 1.
        number: usize,
        /// Why, as the rest of a sentence.
        problem: &'static str,
    },
    /// Two key files carry one key id.
    #[error("{path}: key id `{kid}` is already used by another file")]
    DuplicateKid {
        /// The second file.
        path: PathBuf,
        /// The id.
        kid: String,
    },
    /// A secret is readable by others.
    #[error("{path}: a secret must not be readable by others; mode is {mode:04o}, must be 0600")]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A line of the revocation file can't be read.
    #[error("{path}:{line}: must be a revocation with kind, value and at")]
    Revocation {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// A set of revocations isn't what was once written.
    #[error("{path}: the set of revocations is damaged: {problem} is wrong; restore it from a backup")]
    RevokedSet {
        /// The file.
        path: PathBuf,
        /// What about it.
        problem: &'static str,
    },
    /// There is no room for another line of revocations.
    #[error("{path}: must be at most {limit} bytes; `scangate keys compact` makes room")]
    RevokedFull {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// A file is larger than any key file is.
    #[error("{path}: must be at most {limit} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// A directory holds more key files than the gateway reads.
    #[error("{path}: must hold at most {limit} key files")]
    TooMany {
        /// The directory.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// A file to be written is already there.
    #[error("{path} exists already")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Production keys were asked for where there are development keys.
    #[error("{path} holds development keys; make production keys in a new data directory")]
    Development {
        /// The keys directory.
        path: PathBuf,
    },
    /// There are keys but no pepper: making a new one would change every pseudonym.
    #[error("{path} is missing although there are keys beside it; restore it from a backup")]
    PepperMissing {
        /// Where the pepper belongs.
        path: PathBuf,
    },
    /// No private key of the kind that is needed to issue.
    #[error("no usable private key under {path}; `scangate keys generate` makes one")]
    NoPrivateKey {
        /// The directory that was searched.
        path: PathBuf,
    },
    /// No key has this id.
    #[error("there is no {key_use} key `{kid}`; `scangate keys list` shows those there are")]
    NoSuchKey {
        /// What the key is for.
        key_use: &'static str,
        /// The id.
        kid: String,
    },
    /// A key can't be taken out of use while it signs.
    #[error("key `{kid}` signs now; `scangate keys rotate` first")]
    Signs {
        /// The id.
        kid: String,
    },
    /// A key can't be taken out of use while what it signed is valid.
    #[error("key `{kid}` signed what is valid until {until}; retire it after that, or use --force")]
    StillNeeded {
        /// The id.
        kid: String,
        /// When the last of it ends, RFC 3339.
        until: String,
    },
    /// A file to import isn't what it should be.
    #[error("{path}: must be {expected}")]
    Import {
        /// The file.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
    },
    /// The system's random source failed.
    #[error("the system's random source failed")]
    Random,
}

impl KeysError {
    pub(super) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}

/// The secret behind every pseudonym, zeroed when dropped: the first, which every other key is derived from as
/// well, and those that persons' pseudonyms were rotated with since, in order.
pub struct Pepper {
    bytes: Zeroizing<[u8; 32]>,
    later: Vec<Zeroizing<[u8; 32]>>,
    dev: bool,
}

/// Prints nothing of the secret.
impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pepper").field("dev", &self.dev).finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct PepperFile {
    pub(super) pepper: Secret,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) later: Vec<Secret>,
    #[serde(default)]
    pub(super) dev: bool,
}

impl Pepper {
    /// A pepper from its bytes.
    pub fn new(bytes: [u8; 32], dev: bool) -> Self {
        Self { bytes: Zeroizing::new(bytes), later: Vec::new(), dev }
    }

    /// Reads the data directory's pepper.
    pub fn load(data_dir: &Path) -> Result<Self, KeysError> {
        Self::read(&keyfile::pepper_path(data_dir))
    }

    pub(super) fn read(path: &Path) -> Result<Self, KeysError> {
        let (bytes, mode) = keyfile::read(path)?;
        keyfile::check_mode(path, mode)?;
        let file: PepperFile = keyfile::parse(path, &bytes)?;
        let invalid = |field| KeysError::Invalid { path: path.to_owned(), field };
        let later: Option<Vec<_>> = file.later.iter().map(Secret::bytes).collect();
        let later = later.filter(|later| later.len() <= usize::from(CheckinId::EPOCH_MAX));
        Ok(Self {
            bytes: file.pepper.bytes().ok_or_else(|| invalid("pepper"))?,
            later: later.ok_or_else(|| invalid("later"))?,
            dev: file.dev,
        })
    }

    /// Whether a first start made it, for development only.
    pub const fn is_dev(&self) -> bool {
        self.dev
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// What persons' pseudonyms were rotated with, in order.
    pub(crate) fn later(&self) -> impl Iterator<Item = &[u8; 32]> {
        self.later.iter().map(|bytes| &**bytes)
    }
}

/// A public key that SG1 tokens are verified with.
pub struct Sg1Key {
    /// The epoch that its tokens must name.
    pub epoch: u32,
    /// The issuer that its tokens must name.
    pub issuer: String,
    /// Whether it has been revoked.
    pub revoked: bool,
    /// The kinds of token it may sign.
    pub kinds: Vec<TokenKind>,
    pub(super) public: ParsedPublicKey,
    pub(super) batch: Option<BatchKey>,
}

/// The signature algorithms that device tokens may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceAlgorithm {
    /// Ed25519.
    EdDsa,
    /// ECDSA on P-256 with SHA-256.
    Es256,
}

impl DeviceAlgorithm {
    /// The JOSE name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
        }
    }

    /// The same as the JWT library names it.
    pub const fn jwt(self) -> Algorithm {
        match self {
            Self::EdDsa => Algorithm::EdDSA,
            Self::Es256 => Algorithm::ES256,
        }
    }
}

/// A public key that one app signs its device tokens with.
pub struct IssuerKey {
    /// The app.
    pub app: App,
    /// The key id that its tokens must name.
    pub kid: String,
    /// The one algorithm that it is used with, whatever a token's header says.
    pub algorithm: DeviceAlgorithm,
    /// Whether it has been revoked.
    pub revoked: bool,
    /// The key itself.
    pub decoding: DecodingKey,
}

/// One immutable snapshot of public keys and revocations.
pub struct Keys {
    generation: u64,
    fingerprint: [u8; 32],
    sg1: Vec<(Kid, Sg1Key)>,
    issuers: Vec<IssuerKey>,
    trust: Trust,
    nhs: Vec<NhsKey>,
    revocations: Revocations,
    dev: bool,
    rotating_skew_s: u32,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("generation", &self.generation)
            .field("sg1", &self.sg1.len())
            .field("issuers", &self.issuers.len())
            .field("trusted", &self.trust.counts())
            .field("dev", &self.dev)
            .finish_non_exhaustive()
    }
}

impl Keys {
    /// Reads the keys and revocations under a data directory.
    pub fn load(data_dir: &Path) -> Result<Self, KeysError> {
        Self::load_after(data_dir, None)
    }

    /// The same, with revocations whose files haven't changed since `before` taken from it.
    fn load_after(data_dir: &Path, before: Option<&Self>) -> Result<Self, KeysError> {
        let revocations = Revocations::load(data_dir, before.map(|before| &before.revocations))?;
        let mut hash = digest::Context::new(&digest::SHA256);
        revocations.fingerprint(&mut hash);
        let mut keys = Self {
            generation: 0,
            fingerprint: [0; 32],
            sg1: Vec::new(),
            issuers: Vec::new(),
            trust: Trust::load(&keyfile::keys_dir(data_dir), &revocations, &mut hash)?,
            nhs: Vec::new(),
            revocations,
            dev: has_dev_pepper(data_dir)?,
            rotating_skew_s: before.map_or(ROTATING_SKEW_S, Self::rotating_skew_s),
        };
        for (path, file) in keyfile::read_dir(&keyfile::sg1_dir(data_dir))? {
            keys.add_sg1(&path, &file)?;
            fingerprint(&mut hash, &path, &file);
        }
        for (path, file) in keyfile::read_dir(&keyfile::devices_dir(data_dir))? {
            keys.add_issuer(&path, &file)?;
            fingerprint(&mut hash, &path, &file);
        }
        for (path, file) in keyfile::read_dir(&keyfile::nhs_dir(data_dir))? {
            keys.add_nhs(&path, &file)?;
            fingerprint(&mut hash, &path, &file);
        }
        keys.fingerprint = hash.finish().as_ref().first_chunk().copied().unwrap_or_default();
        Ok(keys)
    }

    fn add_sg1(&mut self, path: &Path, file: &KeyFile) -> Result<(), KeysError> {
        let invalid = |field| KeysError::Invalid { path: path.to_owned(), field };
        let (DeviceAlgorithm::EdDsa, public) = file.public(path)? else {
            return Err(invalid("crv"));
        };
        let kid = Kid::parse(&file.kid).ok_or_else(|| invalid("kid"))?;
        if self.sg1_key(kid).is_some() {
            return Err(KeysError::DuplicateKid { path: path.to_owned(), kid: kid.to_string() });
        }
        let kinds = match &file.types {
            None => vec![TokenKind::Person, TokenKind::Place],
            Some(names) => names
                .iter()
                .map(|name| TokenKind::from_name(name).ok_or_else(|| invalid("types")))
                .collect::<Result<_, _>>()?,
        };
        let key = Sg1Key {
            epoch: file.epoch.ok_or_else(|| invalid("epoch"))?,
            issuer: file.issuer.clone().ok_or_else(|| invalid("issuer"))?,
            revoked: self.is_kid_revoked(&kid.to_string()),
            kinds,
            public: ParsedPublicKey::new(&ED25519, &public).map_err(|_| invalid("x"))?,
            batch: BatchKey::new(&public),
        };
        self.sg1.push((kid, key));
        self.dev |= file.dev;
        Ok(())
    }

    fn add_issuer(&mut self, path: &Path, file: &KeyFile) -> Result<(), KeysError> {
        let invalid = |field| KeysError::Invalid { path: path.to_owned(), field };
        let app = file.app.as_deref().and_then(App::from_name).ok_or_else(|| invalid("app"))?;
        let (algorithm, public) = file.public(path)?;
        if self.issuer(app, &file.kid).is_some() {
            return Err(KeysError::DuplicateKid { path: path.to_owned(), kid: file.kid.clone() });
        }
        // Parsed once here so that a point off the curve fails at load, not at the first token.
        let decoding = match algorithm {
            DeviceAlgorithm::EdDsa => {
                ParsedPublicKey::new(&ED25519, &public).map_err(|_| invalid("x"))?;
                DecodingKey::from_ed_der(&public)
            }
            DeviceAlgorithm::Es256 => {
                ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &public).map_err(|_| invalid("x"))?;
                DecodingKey::from_ec_der(&public)
            }
        };
        let revoked = self.is_kid_revoked(&file.kid);
        self.issuers.push(IssuerKey { app, kid: file.kid.clone(), algorithm, revoked, decoding });
        self.dev |= file.dev;
        Ok(())
    }

    fn add_nhs(&mut self, path: &Path, file: &KeyFile) -> Result<(), KeysError> {
        if self.nhs_key(&file.kid).is_some() {
            return Err(KeysError::DuplicateKid { path: path.to_owned(), kid: file.kid.clone() });
        }
        self.nhs.push(NhsKey::read(path, file, self.is_kid_revoked(&file.kid))?);
        Ok(())
    }

    /// The SG1 key with this id. There are few: a scan of them beats a hash.
    pub fn sg1_key(&self, kid: Kid) -> Option<&Sg1Key> {
        self.sg1.iter().find_map(|(id, key)| (*id == kid).then_some(key))
    }

    /// The key with this id that an app signs device tokens with.
    pub fn issuer(&self, app: App, kid: &str) -> Option<&IssuerKey> {
        self.issuers.iter().find(|key| key.app == app && key.kid == kid)
    }

    /// The keys with this id that health certificates (HC1) are signed with.
    pub fn hc1_keys(&self, kid: [u8; 8]) -> &[Hc1Key] {
        self.trust.hc1(kid)
    }

    /// The keys with this id that SMART Health Cards are signed with.
    pub fn shc_keys(&self, kid: &str) -> &[ShcKey] {
        self.trust.shc(kid)
    }

    /// The key with this id that NHS place posters are signed with.
    pub fn nhs_key(&self, kid: &str) -> Option<&NhsKey> {
        self.nhs.iter().find(|key| key.kid == kid)
    }

    /// Whether tokens with this cti issued at `issued_at_s` are revoked.
    pub fn is_cti_revoked(&self, cti: &[u8; 16], issued_at_s: i64) -> bool {
        self.revocations.cti(cti).is_some_and(|until| issued_at_s <= until)
    }

    /// The last second of issue that is revoked for this cti.
    pub fn cti_revoked_until_s(&self, cti: &[u8; 16]) -> Option<i64> {
        self.revocations.cti(cti)
    }

    /// Whether a device is revoked.
    pub fn is_device_revoked(&self, app: App, sub: &str) -> bool {
        self.revocations.device(app, sub).is_some()
    }

    /// Whether a key id is revoked.
    pub fn is_kid_revoked(&self, kid: &str) -> bool {
        self.kid_revoked_since_s(kid).is_some()
    }

    /// Since when a key id is revoked, in seconds since 1970.
    pub fn kid_revoked_since_s(&self, kid: &str) -> Option<i64> {
        self.revocations.kid(kid)
    }

    /// Whether a health certificate is revoked, by one of the hashes of the EU's lists: the first 16 bytes
    /// of the SHA-256 of its UCI, of country and UCI, or of its signature (Implementing Decision (EU)
    /// 2022/483). Or a SMART Health Card, by the hash of its holder's name.
    pub fn is_dcc_revoked(&self, hash: &[u8; 16]) -> bool {
        self.revocations.dcc(hash).is_some()
    }

    /// How much is revoked, by kind.
    pub fn revoked_counts(&self) -> Vec<Counted> {
        self.revocations.counted()
    }

    /// How long a phone's code is still good after its end, in seconds.
    pub const fn rotating_skew_s(&self) -> u32 {
        self.rotating_skew_s
    }

    /// Whether the pepper or any key was made by a first start, for development only.
    pub const fn is_dev(&self) -> bool {
        self.dev
    }

    /// Counts snapshots; what was verified under another one is verified again.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// How many SG1 keys and device issuer keys there are.
    pub fn counts(&self) -> (usize, usize) {
        (self.sg1.len(), self.issuers.len())
    }
}

fn has_dev_pepper(data_dir: &Path) -> Result<bool, KeysError> {
    match Pepper::load(data_dir) {
        Ok(pepper) => Ok(pepper.is_dev()),
        // A gateway without a pepper fails where it makes its `Identity`; keys alone can still be read.
        Err(KeysError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Adds what makes a key file what it is, its public part only, to the snapshot's fingerprint.
fn fingerprint(hash: &mut digest::Context, path: &Path, file: &KeyFile) {
    let public = KeyFile { d: None, ..file.clone() };
    hash.update(path.as_os_str().as_encoded_bytes());
    hash.update(&serde_json::to_vec(&public).unwrap_or_default());
}

/// The current snapshot, and the way to replace it.
pub struct KeyStore {
    data_dir: PathBuf,
    current: ArcSwap<Keys>,
    generations: AtomicU64,
    /// One reload at a time, so that an older reading can't replace a newer one.
    reloading: Mutex<()>,
}

impl fmt::Debug for KeyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyStore").field("keys", &self.current.load()).finish_non_exhaustive()
    }
}

impl KeyStore {
    /// Reads the keys under a data directory.
    pub fn open(data_dir: &Path) -> Result<Self, KeysError> {
        Self::open_with(data_dir, ROTATING_SKEW_S)
    }

    /// The same, with another tolerance for phones' codes, in seconds: `verify.rotating_skew_s`.
    pub fn open_with(data_dir: &Path, rotating_skew_s: u32) -> Result<Self, KeysError> {
        let keys = Keys { rotating_skew_s, ..Keys::load(data_dir)? };
        Ok(Self {
            data_dir: data_dir.to_owned(),
            current: ArcSwap::from_pointee(keys),
            generations: AtomicU64::new(0),
            reloading: Mutex::new(()),
        })
    }

    /// The current snapshot. Hold it for one scan, not for longer.
    pub fn load(&self) -> Guard<Arc<Keys>> {
        self.current.load()
    }

    /// Reads the keys again; true if they changed. On error the old snapshot stays.
    pub fn reload(&self) -> Result<bool, KeysError> {
        let _one = self.reloading.lock();
        let mut keys = Keys::load_after(&self.data_dir, Some(&self.current.load()))?;
        if keys.fingerprint == self.current.load().fingerprint {
            return Ok(false);
        }
        keys.generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
        self.current.store(Arc::new(keys));
        Ok(true)
    }
}
