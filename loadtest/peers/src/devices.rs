//! Who sends: a device token is verified once, then found in a cache until it expires.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use jsonwebtoken::{Validation, decode, decode_header};
use moka::sync::Cache;
use scangate::identity::Identity;
use scangate::scan::{App, DeviceKey, PlaceKey, UnixMillis};
use scangate::verify::Keys;
use serde::Deserialize;

/// As many as scangate keeps.
const TOKENS_MAX: u64 = 262_144;
/// How far the issuer's clock may be from ours, in seconds.
const LEEWAY_S: i64 = 60;

/// A scanner at a place.
#[derive(Debug, Clone, Copy)]
pub struct Device {
    /// Its key.
    pub key: DeviceKey,
    /// The app that vouches for it.
    pub app: App,
    /// Where it stands.
    pub place: PlaceKey,
    expires_at_s: i64,
}

/// Verifies device tokens.
pub struct Devices {
    keys: Arc<Keys>,
    identity: Arc<Identity>,
    known: Cache<String, Device>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    exp: i64,
    place: Option<String>,
}

impl Devices {
    /// With the apps' public keys.
    pub fn new(keys: Arc<Keys>, identity: Arc<Identity>) -> Self {
        Self { keys, identity, known: Cache::new(TOKENS_MAX) }
    }

    /// The device of a bearer token.
    pub fn authenticate(&self, token: &str, now: UnixMillis) -> Result<Device> {
        let device = if let Some(known) = self.known.get(token) {
            known
        } else {
            let device = self.verify(token)?;
            self.known.insert(token.to_owned(), device);
            device
        };
        ensure!(device.expires_at_s + LEEWAY_S > now.seconds(), "the token has expired");
        Ok(device)
    }

    fn verify(&self, token: &str) -> Result<Device> {
        let header = decode_header(token)?;
        let kid = header.kid.context("the token names no key")?;
        let found = App::ALL.iter().find_map(|app| Some((*app, self.keys.issuer(*app, &kid)?)));
        let (app, key) = found.context("the token's key is unknown")?;
        ensure!(!key.revoked, "the token's key has been revoked");
        let mut validation = Validation::new(key.algorithm.jwt());
        // Asked at every use.
        validation.validate_exp = false;
        let claims = decode::<Claims>(token, &key.decoding, &validation)?.claims;
        ensure!(claims.iss == app.name(), "the token is signed with another app's key");
        ensure!(!self.keys.is_device_revoked(app, &claims.sub), "the device has been revoked");
        let Some(place) = claims.place else { bail!("the token names no place") };
        Ok(Device {
            key: self.identity.device(app, &claims.sub),
            app,
            place: self.identity.place(&place),
            expires_at_s: claims.exp,
        })
    }
}
