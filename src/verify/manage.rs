//! Making, listing, rotating and revoking keys. Files are only ever added, so all of it works beside a
//! running server, which reads them at its next reload.

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
    /// NHS place posters, which are only verified here.
    Nhs,
}

impl KeyUse {
    /// Stable name: `pepper`, `sg1`, `nhs`, or the app's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pepper => "pepper",
            Self::Sg1 => "sg1",
            Self::Device(app) => app.name(),
            Self::Nhs => "nhs",
        }
    }
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
    /// When it was made, if its file says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Its file.
    pub path: PathBuf,
}

/// Makes what a first start needs and does not find: pepper, SG1 key, one device issuer key per app, all
/// marked as development keys. A data directory with a pepper of its own gets nothing. Returns what was made.
pub fn ensure_development(data_dir: &Path, now: UnixMillis) -> Result<Vec<KeyInfo>, KeysError> {
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
            made.push(make_sg1(data_dir, 1, true, now)?);
        }
        let present = keyfile::read_dir(&keyfile::devices_dir(data_dir))?;
        for app in App::ALL {
            if !present.iter().any(|(_, key)| key.app.as_deref() == Some(app.name())) {
                made.push(make_device(data_dir, *app, true, now)?);
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
        made.push(make_sg1(data_dir, 1, false, now)?);
    }
    for app in apps {
        made.push(make_device(data_dir, *app, false, now)?);
    }
    Ok(made)
}

/// Every key under a data directory.
pub fn keys_list(data_dir: &Path) -> Result<Vec<KeyInfo>, KeysError> {
    let (revoked, _) = Revocations::load(&keyfile::revoked_path(data_dir))?;
    let mut list = Vec::new();
    let pepper = keyfile::pepper_path(data_dir);
    if is_there(&pepper)? {
        list.push(pepper_info(pepper, super::Pepper::load(data_dir)?.is_dev()));
    }
    for (path, key) in keyfile::read_dir(&keyfile::sg1_dir(data_dir))? {
        list.push(info(KeyUse::Sg1, path, &key, &revoked)?);
    }
    for (path, key) in keyfile::read_dir(&keyfile::devices_dir(data_dir))? {
        let app = key
            .app
            .as_deref()
            .and_then(App::from_name)
            .ok_or_else(|| KeysError::Invalid { path: path.clone(), field: "app" })?;
        list.push(info(KeyUse::Device(app), path, &key, &revoked)?);
    }
    for (path, key) in keyfile::read_dir(&keyfile::nhs_dir(data_dir))? {
        list.push(info(KeyUse::Nhs, path, &key, &revoked)?);
    }
    Ok(list)
}

/// Makes a new key beside the present ones, which go on verifying: an SG1 key with the next epoch, or a
/// further device issuer key. Whether it is a development key follows the pepper.
/// A pepper can't be rotated and is refused: a new one would change every pseudonym. So is a key that
/// another makes.
pub fn keys_rotate(data_dir: &Path, key_use: KeyUse, now: UnixMillis) -> Result<KeyInfo, KeysError> {
    let dev = super::Pepper::load(data_dir)?.is_dev();
    keyfile::create_dirs(data_dir)?;
    let _lock = keyfile::lock(data_dir)?;
    match key_use {
        KeyUse::Pepper => Err(KeysError::Exists { path: keyfile::pepper_path(data_dir) }),
        KeyUse::Sg1 => {
            let keys = keyfile::read_dir(&keyfile::sg1_dir(data_dir))?;
            let latest = keys.iter().filter_map(|(_, key)| key.epoch).max().unwrap_or(0);
            make_sg1(data_dir, latest.saturating_add(1), dev, now)
        }
        KeyUse::Device(app) => make_device(data_dir, app, dev, now),
        KeyUse::Nhs => Err(KeysError::NoPrivateKey { path: keyfile::nhs_dir(data_dir) }),
    }
}

/// Revokes a token's cti, a device or a key; durable when this returns.
pub fn keys_revoke(data_dir: &Path, revocation: &Revocation, now: UnixMillis) -> Result<(), KeysError> {
    keyfile::create_dirs(data_dir)?;
    revocations::append(&keyfile::revoked_path(data_dir), revocation, now)
}

/// A signing key with its private part, held for as long as something is issued.
pub(crate) struct SigningKey {
    pub(crate) pair: Ed25519KeyPair,
    pub(crate) kid: String,
    pub(crate) epoch: u32,
    pub(crate) issuer: String,
}

/// The private SG1 key of the highest epoch that is not revoked.
pub(crate) fn sg1_signing_key(data_dir: &Path) -> Result<SigningKey, KeysError> {
    signing_key(data_dir, &keyfile::sg1_dir(data_dir), |key| key.epoch.is_some())
}

/// The newest private key of an app's device issuer that is not revoked.
pub(crate) fn device_signing_key(data_dir: &Path, app: App) -> Result<SigningKey, KeysError> {
    signing_key(data_dir, &keyfile::devices_dir(data_dir), |key| key.app.as_deref() == Some(app.name()))
}

fn signing_key(
    data_dir: &Path,
    dir: &Path,
    wanted: impl Fn(&KeyFile) -> bool,
) -> Result<SigningKey, KeysError> {
    let (revoked, _) = Revocations::load(&keyfile::revoked_path(data_dir))?;
    let newest = keyfile::read_dir(dir)?
        .into_iter()
        .filter(|(_, key)| wanted(key) && key.d.is_some() && key.crv == "Ed25519" && !revoked.kid(&key.kid))
        .max_by(|(_, one), (_, other)| (one.epoch, &one.created).cmp(&(other.epoch, &other.created)));
    let Some((path, key)) = newest else {
        return Err(KeysError::NoPrivateKey { path: dir.to_owned() });
    };
    let seed = key
        .d
        .as_ref()
        .and_then(Secret::bytes)
        .ok_or_else(|| KeysError::Invalid { path: path.clone(), field: "d" })?;
    let (_, public) = key.public(&path)?;
    let pair = Ed25519KeyPair::from_seed_and_public_key(&*seed, &public)
        .map_err(|_| KeysError::Invalid { path, field: "d" })?;
    Ok(SigningKey {
        pair,
        kid: key.kid,
        epoch: key.epoch.unwrap_or_default(),
        issuer: key.issuer.unwrap_or_default(),
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
        kid: String::new(),
        algorithm: "HMAC-SHA-256",
        epoch: None,
        private: true,
        dev,
        revoked: false,
        created: None,
        path,
    }
}

fn make_sg1(data_dir: &Path, epoch: u32, dev: bool, now: UnixMillis) -> Result<KeyInfo, KeysError> {
    let mut key = make_ed25519(dev, now)?;
    key.epoch = Some(epoch);
    key.issuer = Some(SG1_ISSUER.to_owned());
    key.types = Some(vec!["person".to_owned(), "place".to_owned()]);
    let path = keyfile::sg1_dir(data_dir).join(format!("{}.json", key.kid));
    write_json(&path, &key)?;
    info(KeyUse::Sg1, path, &key, &Revocations::default())
}

fn make_device(data_dir: &Path, app: App, dev: bool, now: UnixMillis) -> Result<KeyInfo, KeysError> {
    let mut key = make_ed25519(dev, now)?;
    key.app = Some(app.name().to_owned());
    let path = keyfile::devices_dir(data_dir).join(format!("{app}.{}.json", key.kid));
    write_json(&path, &key)?;
    info(KeyUse::Device(app), path, &key, &Revocations::default())
}

fn make_ed25519(dev: bool, now: UnixMillis) -> Result<KeyFile, KeysError> {
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
        types: None,
        dev,
        created: Some(now.to_string()),
    })
}

fn info(key_use: KeyUse, path: PathBuf, key: &KeyFile, revoked: &Revocations) -> Result<KeyInfo, KeysError> {
    let (algorithm, _) = key.public(&path)?;
    Ok(KeyInfo {
        key_use,
        kid: key.kid.clone(),
        algorithm: algorithm.name(),
        epoch: key.epoch,
        private: key.d.is_some(),
        dev: key.dev,
        revoked: revoked.kid(&key.kid),
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
