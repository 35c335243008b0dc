//! Making, listing, rotating, revoking and retiring keys. Files are added whole and moved away whole, so all
//! of it works beside a running server, which reads them at its next reload.
//!
//! A key of this gateway's own goes through four states. **Staged**: its file is here and can be copied to
//! the other gateways, and it verifies, but it doesn't sign before its `not_before`. **Active**: of those
//! that may sign, the one of the highest epoch. **Verifying**: it signs no more. **Revoked**, or else retired
//! once nothing it signed is valid.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use zeroize::Zeroizing;

use super::keyfile::{self, KeyFile, Secret};
use super::keys::{DeviceAlgorithm, KeysError, Kid, PepperFile};
use super::revocations::{self, Revocation, Revocations};
use super::{import, issued};
use crate::scan::{App, UnixMillis};

/// The issuer that this gateway's own tokens name.
pub const SG1_ISSUER: &str = "scangate";

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyUse {
    /// Every pseudonym.
    Pepper,
    /// SG1 tokens.
    Sg1,
    /// Device tokens of one app.
    Device(App),
    /// Health certificates of the EU's kind.
    Hc1,
    /// SMART Health Cards.
    Shc,
    /// NHS place posters, which are only verified here.
    Nhs,
}

impl KeyUse {
    /// Stable name: `pepper`, `sg1`, `hc1`, `shc`, `nhs`, or the app's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pepper => "pepper",
            Self::Sg1 => "sg1",
            Self::Device(app) => app.name(),
            Self::Hc1 => "hc1",
            Self::Shc => "shc",
            Self::Nhs => "nhs",
        }
    }
}

/// What a key does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// It verifies, and will sign.
    Staged,
    /// It signs.
    Active,
    /// It verifies only.
    Verifying,
    /// It does neither.
    Revoked,
}

impl Serialize for KeyUse {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// One key as `scangate keys list` shows it: nothing secret.
#[derive(Debug, Clone, Serialize)]
pub struct KeyInfo {
    /// What it is for.
    #[serde(rename = "use")]
    pub key_use: KeyUse,
    /// What it does now.
    pub state: KeyState,
    /// Its id; empty for the pepper.
    pub kid: String,
    /// `EdDSA`, `ES256`, or `HMAC-SHA-256` for the pepper.
    pub algorithm: &'static str,
    /// The epoch of an SG1 key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u32>,
    /// Whether the private part is here, so that this gateway can issue.
    pub private: bool,
    /// Whether a first start made it, for development only.
    pub dev: bool,
    /// Whether it has been revoked.
    pub revoked: bool,
    /// From when on it signs, if that is staged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<String>,
    /// Whose it is, for the keys of another issuer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// When the last code that it signed here ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_expires: Option<String>,
    /// When it was made, if its file says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Its file.
    pub path: PathBuf,
}

/// Makes what a first start needs and does not find: pepper, SG1 key, one device issuer key per app, all
/// marked as development keys. A data directory with a pepper of its own gets nothing, and nothing is written
/// there: its keys may be mounted read-only. Returns what was made.
pub fn ensure_development(data_dir: &Path, now: UnixMillis) -> Result<Vec<KeyInfo>, KeysError> {
    let pepper = keyfile::pepper_path(data_dir);
    if is_there(&pepper)? && !super::Pepper::load(data_dir)?.is_dev() {
        return Ok(Vec::new());
    }
    keyfile::create_dirs(data_dir)?;
    let _lock = keyfile::lock(data_dir)?;
    let mut made = Vec::new();
    if !is_there(&keyfile::pepper_path(data_dir))? {
        let sg1 = keyfile::read_dir(&keyfile::sg1_dir(data_dir))?;
        let devices = keyfile::read_dir(&keyfile::devices_dir(data_dir))?;
        if !sg1.is_empty() || !devices.is_empty() {
            return Err(KeysError::PepperMissing { path: keyfile::pepper_path(data_dir) });
        }
        made.push(make_pepper(data_dir, true)?);
    }
    // A first start that was interrupted left its pepper and maybe some keys: the rest is made now.
    if super::Pepper::load(data_dir)?.is_dev() {
        if keyfile::read_dir(&keyfile::sg1_dir(data_dir))?.is_empty() {
            made.push(make_sg1(data_dir, 1, true, None, now)?);
        }
        let present = keyfile::read_dir(&keyfile::devices_dir(data_dir))?;
        for app in App::ALL {
            if !present.iter().any(|(_, key)| key.app.as_deref() == Some(app.name())) {
                made.push(make_device(data_dir, *app, true, None, now)?);
            }
        }
    }
    Ok(made)
}

/// Makes keys for production: a pepper if there is none, the first SG1 key, and a device issuer key for
/// each of `apps` (usually none: an app keeps its private key and gives the gateway the public one). A
/// data directory of development keys is refused: its pseudonyms must not live on in production.
pub fn keys_generate(data_dir: &Path, apps: &[App], now: UnixMillis) -> Result<Vec<KeyInfo>, KeysError> {
    keyfile::create_dirs(data_dir)?;
    let _lock = keyfile::lock(data_dir)?;
    let mut made = Vec::new();
    let sg1 = keyfile::read_dir(&keyfile::sg1_dir(data_dir))?;
    if is_there(&keyfile::pepper_path(data_dir))? {
        if super::Pepper::load(data_dir)?.is_dev() {
            return Err(KeysError::Development { path: keyfile::keys_dir(data_dir) });
        }
    } else if sg1.is_empty() {
        made.push(make_pepper(data_dir, false)?);
    } else {
        return Err(KeysError::PepperMissing { path: keyfile::pepper_path(data_dir) });
    }
    if sg1.is_empty() {
        made.push(make_sg1(data_dir, 1, false, None, now)?);
    }
    for app in apps {
        made.push(make_device(data_dir, *app, false, None, now)?);
    }
    Ok(made)
}

/// Every key under a data directory.
pub fn keys_list(data_dir: &Path) -> Result<Vec<KeyInfo>, KeysError> {
    let now = UnixMillis::now();
    let revoked = Revocations::load_kids(data_dir)?;
    let issued = issued::load(data_dir)?;
    let mut list = Vec::new();
    let pepper = keyfile::pepper_path(data_dir);
    if is_there(&pepper)? {
        list.push(pepper_info(pepper, super::Pepper::load(data_dir)?.is_dev()));
    }
    for dir in [keyfile::sg1_dir(data_dir), keyfile::devices_dir(data_dir)] {
        let keys = keyfile::read_dir(&dir)?;
        for (path, key) in &keys {
            let key_use = own_use(path, key)?;
            let mut info = info(key_use, path.clone(), key, &revoked)?;
            let active = newest_signing(&keys, key_use, &revoked, now)?;
            info.state = match active {
                _ if info.revoked => KeyState::Revoked,
                Some((active, _)) if active == path => KeyState::Active,
                _ if info.private && key.signs_from_s(path)? > now.seconds() => KeyState::Staged,
                _ => KeyState::Verifying,
            };
            info.last_expires =
                issued.last_expires_s(&key.kid).map(|at_s| UnixMillis(at_s * 1000).to_string());
            list.push(info);
        }
    }
    list.extend(import::foreign_keys(data_dir, &revoked)?);
    Ok(list)
}

/// What a key file of this gateway's own directories is for: only device keys name an app.
fn own_use(path: &Path, key: &KeyFile) -> Result<KeyUse, KeysError> {
    match &key.app {
        Some(app) => App::from_name(app)
            .map(KeyUse::Device)
            .ok_or_else(|| KeysError::Invalid { path: path.to_owned(), field: "app" }),
        None if key.epoch.is_some() => Ok(KeyUse::Sg1),
        None => Err(KeysError::Invalid { path: path.to_owned(), field: "app" }),
    }
}

/// Makes a new key beside the present ones, which go on verifying: an SG1 key with the next epoch, or a
/// further device issuer key. It signs from now on. Whether it is a development key follows the pepper.
/// A pepper is not rotated here and is refused (see `rotation`), and so is a key that another makes.
pub fn keys_rotate(data_dir: &Path, key_use: KeyUse, now: UnixMillis) -> Result<KeyInfo, KeysError> {
    keys_stage(data_dir, key_use, None, now)
}

/// The same with a key that signs from `signs_from` on: until then the old one signs, and there is time to
/// bring the new one to every gateway that verifies.
pub fn keys_stage(
    data_dir: &Path,
    key_use: KeyUse,
    signs_from: Option<UnixMillis>,
    now: UnixMillis,
) -> Result<KeyInfo, KeysError> {
    let dev = super::Pepper::load(data_dir)?.is_dev();
    keyfile::create_dirs(data_dir)?;
    let _lock = keyfile::lock(data_dir)?;
    match key_use {
        KeyUse::Sg1 => {
            let keys = keyfile::read_dir(&keyfile::sg1_dir(data_dir))?;
            let latest = keys.iter().filter_map(|(_, key)| key.epoch).max().unwrap_or(0);
            make_sg1(data_dir, latest.saturating_add(1), dev, signs_from, now)
        }
        KeyUse::Device(app) => make_device(data_dir, app, dev, signs_from, now),
        KeyUse::Pepper => Err(KeysError::Exists { path: keyfile::pepper_path(data_dir) }),
        KeyUse::Hc1 => Err(KeysError::NoPrivateKey { path: keyfile::hc1_dir(data_dir) }),
        KeyUse::Shc => Err(KeysError::NoPrivateKey { path: keyfile::shc_dir(data_dir) }),
        KeyUse::Nhs => Err(KeysError::NoPrivateKey { path: keyfile::nhs_dir(data_dir) }),
    }
}

/// Takes a key out of use: moves its file to `retired`, without its private part. A key that signs is
/// refused, and so is one of which something valid is still out there, unless `force`.
pub fn keys_retire(
    data_dir: &Path,
    key_use: KeyUse,
    kid: &str,
    force: bool,
    now: UnixMillis,
) -> Result<PathBuf, KeysError> {
    let no_key = || KeysError::NoSuchKey { key_use: key_use.name(), kid: kid.to_owned() };
    let is_it = |key: &KeyInfo| key.key_use == key_use && key.kid == kid && key_use != KeyUse::Pepper;
    let key = keys_list(data_dir)?.into_iter().find(is_it).ok_or_else(no_key)?;
    if key.state == KeyState::Active {
        return Err(KeysError::Signs { kid: kid.to_owned() });
    }
    let needed = issued::load(data_dir)?.last_expires_s(kid).filter(|until_s| *until_s > now.seconds());
    if let Some(until_s) = needed.filter(|_| !force && !key.revoked) {
        let until = UnixMillis(until_s * 1000).to_string();
        return Err(KeysError::StillNeeded { kid: kid.to_owned(), until });
    }
    let _lock = keyfile::lock(data_dir)?;
    let dir = keyfile::retired_dir(data_dir).join(key_use.name());
    keyfile::create_dir(&keyfile::retired_dir(data_dir))?;
    keyfile::create_dir(&dir)?;
    let to = dir.join(key.path.file_name().unwrap_or_default());
    let io = |source| KeysError::io("retire", &key.path, source);
    if key.private {
        let public = KeyFile { d: None, ..keyfile::read_key(&key.path)? };
        write_json(&to, &public)?;
        fs::remove_file(&key.path).map_err(io)?;
    } else {
        fs::rename(&key.path, &to).map_err(io)?;
    }
    for dir in [key.path.parent(), Some(dir.as_path())].into_iter().flatten() {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)?;
    }
    Ok(to)
}

/// Revokes a token's cti, a device, a certificate or a key; durable when this returns.
pub fn keys_revoke(data_dir: &Path, revocation: &Revocation, now: UnixMillis) -> Result<(), KeysError> {
    keyfile::create_dirs(data_dir)?;
    revocations::append(data_dir, revocation, now)
}

/// The same of several, each with its time and all with one fsync.
pub fn keys_revoke_all(data_dir: &Path, revocations: &[(Revocation, UnixMillis)]) -> Result<(), KeysError> {
    keyfile::create_dirs(data_dir)?;
    revocations::append_all(data_dir, revocations)
}

/// A signing key with its private part, held for as long as something is issued.
pub(crate) struct SigningKey {
    pub(crate) pair: Ed25519KeyPair,
    pub(crate) kid: String,
    pub(crate) epoch: u32,
    pub(crate) issuer: String,
}

/// The private SG1 key that signs now: of those that may, the one of the highest epoch.
pub(crate) fn sg1_signing_key(data_dir: &Path, now: UnixMillis) -> Result<SigningKey, KeysError> {
    signing_key(data_dir, &keyfile::sg1_dir(data_dir), KeyUse::Sg1, now)
}

/// The private key of an app's device issuer that signs now: of those that may, the newest.
pub(crate) fn device_signing_key(
    data_dir: &Path,
    app: App,
    now: UnixMillis,
) -> Result<SigningKey, KeysError> {
    signing_key(data_dir, &keyfile::devices_dir(data_dir), KeyUse::Device(app), now)
}

/// The id of the key that signs now.
pub fn signing_kid(data_dir: &Path, key_use: KeyUse, now: UnixMillis) -> Result<String, KeysError> {
    let dir = match key_use {
        KeyUse::Device(_) => keyfile::devices_dir(data_dir),
        _ => keyfile::sg1_dir(data_dir),
    };
    signing_key(data_dir, &dir, key_use, now).map(|key| key.kid)
}

/// The key that signs: private, not revoked, not staged.
fn newest_signing<'a>(
    keys: &'a [(PathBuf, KeyFile)],
    key_use: KeyUse,
    revoked: &Revocations,
    now: UnixMillis,
) -> Result<Option<(&'a Path, &'a KeyFile)>, KeysError> {
    let mut newest: Option<(&Path, &KeyFile)> = None;
    for (path, key) in keys {
        let signs = own_use(path, key)? == key_use
            && key.d.is_some()
            && key.crv == "Ed25519"
            && revoked.kid(&key.kid).is_none()
            && key.signs_from_s(path)? <= now.seconds();
        let age = |key: &KeyFile| (key.epoch, key.created.clone());
        if signs && newest.is_none_or(|(_, newest)| age(newest) <= age(key)) {
            newest = Some((path, key));
        }
    }
    Ok(newest)
}

fn signing_key(
    data_dir: &Path,
    dir: &Path,
    key_use: KeyUse,
    now: UnixMillis,
) -> Result<SigningKey, KeysError> {
    let revoked = Revocations::load_kids(data_dir)?;
    let keys = keyfile::read_dir(dir)?;
    let Some((path, key)) = newest_signing(&keys, key_use, &revoked, now)? else {
        return Err(KeysError::NoPrivateKey { path: dir.to_owned() });
    };
    let invalid = || KeysError::Invalid { path: path.to_owned(), field: "d" };
    let seed = key.d.as_ref().and_then(Secret::bytes).ok_or_else(invalid)?;
    let (_, public) = key.public(path)?;
    let pair = Ed25519KeyPair::from_seed_and_public_key(&*seed, &public).map_err(|_| invalid())?;
    Ok(SigningKey {
        pair,
        kid: key.kid.clone(),
        epoch: key.epoch.unwrap_or_default(),
        issuer: key.issuer.clone().unwrap_or_default(),
    })
}

fn make_pepper(data_dir: &Path, dev: bool) -> Result<KeyInfo, KeysError> {
    let path = keyfile::pepper_path(data_dir);
    let bytes = random()?;
    write_json(&path, &PepperFile { pepper: Secret::of(&*bytes), later: Vec::new(), dev })?;
    Ok(pepper_info(path, dev))
}

fn pepper_info(path: PathBuf, dev: bool) -> KeyInfo {
    KeyInfo {
        key_use: KeyUse::Pepper,
        state: KeyState::Active,
        kid: String::new(),
        algorithm: "HMAC-SHA-256",
        epoch: None,
        private: true,
        dev,
        revoked: false,
        not_before: None,
        issuer: None,
        last_expires: None,
        created: None,
        path,
    }
}

fn make_sg1(
    data_dir: &Path,
    epoch: u32,
    dev: bool,
    signs_from: Option<UnixMillis>,
    now: UnixMillis,
) -> Result<KeyInfo, KeysError> {
    let mut key = make_ed25519(dev, signs_from, now)?;
    key.epoch = Some(epoch);
    key.issuer = Some(SG1_ISSUER.to_owned());
    key.types = Some(vec!["person".to_owned(), "place".to_owned()]);
    let path = keyfile::sg1_dir(data_dir).join(format!("{}.json", key.kid));
    write_json(&path, &key)?;
    info(KeyUse::Sg1, path, &key, &Revocations::default())
}

fn make_device(
    data_dir: &Path,
    app: App,
    dev: bool,
    signs_from: Option<UnixMillis>,
    now: UnixMillis,
) -> Result<KeyInfo, KeysError> {
    let mut key = make_ed25519(dev, signs_from, now)?;
    key.app = Some(app.name().to_owned());
    let path = keyfile::devices_dir(data_dir).join(format!("{app}.{}.json", key.kid));
    write_json(&path, &key)?;
    info(KeyUse::Device(app), path, &key, &Revocations::default())
}

fn make_ed25519(dev: bool, signs_from: Option<UnixMillis>, now: UnixMillis) -> Result<KeyFile, KeysError> {
    let seed = random()?;
    let pair = Ed25519KeyPair::from_seed_unchecked(&*seed).map_err(|_| KeysError::Random)?;
    let public = pair.public_key().as_ref();
    Ok(KeyFile {
        kty: "OKP".to_owned(),
        crv: "Ed25519".to_owned(),
        x: URL_SAFE_NO_PAD.encode(public),
        y: None,
        d: Some(Secret::of(&*seed)),
        kid: Kid::of_public_key(public).to_string(),
        alg: Some(DeviceAlgorithm::EdDsa.name().to_owned()),
        app: None,
        epoch: None,
        issuer: None,
        not_before: signs_from.map(|at| at.to_string()),
        types: None,
        dev,
        created: Some(now.to_string()),
    })
}

fn info(key_use: KeyUse, path: PathBuf, key: &KeyFile, revoked: &Revocations) -> Result<KeyInfo, KeysError> {
    let (algorithm, _) = key.public(&path)?;
    let state = match key.not_before {
        Some(_) => KeyState::Staged,
        None => KeyState::Active,
    };
    Ok(KeyInfo {
        key_use,
        state,
        kid: key.kid.clone(),
        algorithm: algorithm.name(),
        epoch: key.epoch,
        private: key.d.is_some(),
        dev: key.dev,
        revoked: revoked.kid(&key.kid).is_some(),
        not_before: key.not_before.clone(),
        issuer: None,
        last_expires: None,
        created: key.created.clone(),
        path,
    })
}

fn random() -> Result<Zeroizing<[u8; 32]>, KeysError> {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    rand::fill(&mut *bytes).map_err(|_| KeysError::Random)?;
    Ok(bytes)
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), KeysError> {
    // Room at once, so that growing leaves no copy of the secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(1024));
    serde_json::to_writer_pretty(&mut *bytes, value)
        .map_err(|error| KeysError::io("write", path, error.into()))?;
    bytes.push(b'\n');
    keyfile::write_new(path, &bytes)
}

fn is_there(path: &Path) -> Result<bool, KeysError> {
    path.try_exists().map_err(|source| KeysError::io("look for", path, source))
}
