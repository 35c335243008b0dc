//! How much each key has signed here, and until when it is valid: what tells when an old key is no longer
//! needed, and how much a leaked one takes with it. One small file that is replaced whole:
//!
//! `DATA/keys/issued.json`: `{"<kid>":{"codes":12,"devices":3,"last_expires":"…"}}`
//!
//! There is no list of what was issued. A code's cti follows from its reference and the pepper, so a lost
//! code can be revoked without one, and what isn't kept can't be stolen.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::keyfile;
use super::keys::KeysError;
use super::sg1::ROTATING_TTL_S_MAX;
use crate::scan::UnixMillis;

/// What one key has signed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// Codes of persons and places.
    #[serde(default)]
    pub codes: u64,
    /// Device tokens.
    #[serde(default)]
    pub devices: u64,
    /// When the last of them ends, RFC 3339.
    pub last_expires: String,
}

/// What every key has signed, by key id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AllSigned(pub BTreeMap<String, Signed>);

impl AllSigned {
    /// When the last thing that this key signed ends, in seconds since 1970.
    pub fn last_expires_s(&self, kid: &str) -> Option<i64> {
        UnixMillis::parse(&self.0.get(kid)?.last_expires).ok().map(UnixMillis::seconds)
    }
}

/// What was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// So many codes of persons or places.
    Codes(u64),
    /// One device token.
    Device,
}

fn path(data_dir: &Path) -> PathBuf {
    keyfile::keys_dir(data_dir).join("issued.json")
}

/// Reads the file; without it nothing was signed.
pub fn load(data_dir: &Path) -> Result<AllSigned, KeysError> {
    let path = path(data_dir);
    match keyfile::read(&path) {
        Ok((bytes, _)) => keyfile::parse(&path, &bytes),
        Err(KeysError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(AllSigned::default())
        }
        Err(error) => Err(error),
    }
}

/// Adds what a key has signed, durable when this returns. Codes that live for a minute or two, as phones'
/// do, aren't counted: they are gone before anybody asks.
pub fn record(
    data_dir: &Path,
    kid: &str,
    what: What,
    expires_at_s: i64,
    now: UnixMillis,
) -> Result<(), KeysError> {
    if expires_at_s <= now.seconds().saturating_add(ROTATING_TTL_S_MAX) {
        return Ok(());
    }
    let _lock = keyfile::lock(data_dir)?;
    let mut all = load(data_dir)?;
    let last_s = all.last_expires_s(kid).unwrap_or(0).max(expires_at_s);
    let signed = all.0.entry(kid.to_owned()).or_default();
    match what {
        What::Codes(codes) => signed.codes = signed.codes.saturating_add(codes),
        What::Device => signed.devices = signed.devices.saturating_add(1),
    }
    signed.last_expires = UnixMillis(last_s.saturating_mul(1000)).to_string();
    let path = path(data_dir);
    let mut bytes =
        serde_json::to_vec_pretty(&all).map_err(|error| KeysError::io("write", &path, error.into()))?;
    bytes.push(b'\n');
    keyfile::replace(&path, &bytes)
}
