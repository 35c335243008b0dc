//! From `Authorization` to [`Device`]: who sends, for which app, as which place or person, and how fast.
//!
//! A token is verified once, on the workers, and afterwards found by its keyed hash. What can change
//! between two requests is asked every time: the token's expiry on every hit, and revocation through the
//! generation of the keys, under which alone an entry is found. No state is shared between gateways: a
//! token says all that a gateway needs to know.

mod admin;
mod rate;
mod token;

use std::sync::Arc;
use std::time::Instant;

use crate::identity::Identity;
use crate::scan::{App, DeviceKey, PlaceKey, Pseudonym, UnixMillis};
use crate::verify::KeyStore;
use crate::verify::cache::Cache;

pub use admin::{AdminAuth, Caller, Denied};
pub(crate) use rate::{Bucket, Buckets};
pub use rate::{RateLimited, RateLimits};

/// The longest token that is looked at, in bytes.
pub const TOKEN_BYTES_MAX: usize = 4096;

/// Settings of this stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthenticateSettings {
    /// Verified device tokens kept in memory.
    pub device_tokens_max: usize,
    /// How far the apps' clocks may be from ours, in seconds.
    pub leeway_s: u32,
    /// How fast one device may scan.
    pub rate: RateLimits,
}

impl Default for AuthenticateSettings {
    fn default() -> Self {
        Self { device_tokens_max: 262_144, leeway_s: 60, rate: RateLimits::default() }
    }
}

/// What a device stands for, and so what it scans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// A place's fixed scanner: it scans persons.
    Place {
        /// Which place.
        place: PlaceKey,
        /// The class whose deduplication window applies there, if the token names one.
        window_class: Option<Box<str>>,
    },
    /// A person's phone: it scans places.
    Person {
        /// Which person.
        person: Pseudonym,
    },
}

/// A device whose token was verified.
#[derive(Debug)]
pub struct Device {
    /// Its key.
    pub key: DeviceKey,
    /// The app that vouches for it.
    pub app: App,
    /// What it stands for.
    pub role: Role,
    /// When its token ends, in seconds since 1970.
    pub expires_at_s: i64,
    /// SHA-256 of the client certificate that its token is bound to, if it is (RFC 8705, section 3.1).
    pub certificate: Option<[u8; 32]>,
    bucket: Arc<Bucket>,
}

impl Device {
    /// Takes `scans` from the allowance that all tokens of this device share.
    ///
    /// # Errors
    /// The device is over its rate; nothing was taken.
    pub fn admit(&self, scans: u32, now: Instant) -> Result<(), RateLimited> {
        self.bucket.admit(scans, now)
    }

    /// Whether the token may be used over a connection that showed this client certificate (its SHA-256) or
    /// none: a bound token works over its own certificate's connections only, so that whoever copies it has
    /// nothing. Asked at every request, since connections with and without share the cache.
    ///
    /// # Errors
    /// The token is bound, and the certificate is missing or another.
    pub fn check_certificate(&self, shown: Option<&[u8; 32]>) -> Result<(), AuthError> {
        match (&self.certificate, shown) {
            (None, _) => Ok(()),
            (Some(bound), Some(shown)) if bound == shown => Ok(()),
            (Some(_), None) => Err(AuthError::NoCertificate),
            (Some(_), Some(_)) => Err(AuthError::OtherCertificate),
        }
    }
}

/// Why a request has no device: the cause of a 401, with the field to name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There is no bearer token.
    #[error("a bearer token is required")]
    Missing,
    /// The header or token can't be read.
    #[error("the bearer token's {field} cannot be read")]
    Malformed {
        /// What can't be read.
        field: &'static str,
    },
    /// The token is longer than any real one.
    #[error("the bearer token must be at most {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    /// `iss` names no app.
    #[error("the token's `iss` must name a known app")]
    UnknownIssuer,
    /// The app has no key under this id.
    #[error("the token's `kid` must name a key of its issuer")]
    UnknownKid,
    /// The header asks for an algorithm that the key isn't used with.
    #[error("the token's `alg` must be its key's: EdDSA or ES256")]
    WrongAlgorithm,
    /// The signature doesn't hold.
    #[error("the token's signature does not verify")]
    BadSignature,
    /// The token has expired.
    #[error("the token has expired")]
    Expired,
    /// The token is not valid yet.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// The device or its key is revoked.
    #[error("the device or its key has been revoked")]
    Revoked,
    /// The token is bound to a client certificate, and the connection has none.
    #[error("the token is bound to a client certificate (`cnf`), and the connection showed none")]
    NoCertificate,
    /// The token is bound to another client certificate than the connection's.
    #[error("the token is bound to another client certificate (`cnf`) than the connection showed")]
    OtherCertificate,
    /// The claims don't make a device.
    #[error("the token's `{field}` {rule}")]
    WrongClaims {
        /// The claim.
        field: &'static str,
        /// What it must be.
        rule: &'static str,
    },
}

impl AuthError {
    /// Stable name, for the log and the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed { .. } => "malformed",
            Self::TooLong => "too_long",
            Self::UnknownIssuer => "unknown_issuer",
            Self::UnknownKid => "unknown_kid",
            Self::WrongAlgorithm => "wrong_algorithm",
            Self::BadSignature => "bad_signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Revoked => "revoked",
            Self::NoCertificate => "no_certificate",
            Self::OtherCertificate => "other_certificate",
            Self::WrongClaims { .. } => "wrong_claims",
        }
    }

    /// The header field or claim at fault.
    pub const fn field(self) -> &'static str {
        match self {
            Self::Missing | Self::TooLong => "authorization",
            Self::Malformed { field } | Self::WrongClaims { field, .. } => field,
            Self::UnknownIssuer => "iss",
            Self::UnknownKid => "kid",
            Self::WrongAlgorithm => "alg",
            Self::BadSignature => "signature",
            Self::Expired => "exp",
            Self::NotYetValid => "nbf",
            Self::Revoked => "sub",
            Self::NoCertificate | Self::OtherCertificate => "cnf",
        }
    }
}

/// What is known about a request's token without verifying anything.
#[derive(Debug)]
pub enum Lookup<'a> {
    /// It was verified before and still holds.
    Known(Arc<Device>),
    /// It has to be verified, on the workers.
    Unknown(&'a str),
    /// It can't be or isn't good any more.
    Refused(AuthError),
}

/// Turns tokens into devices.
pub struct Authenticator {
    keys: Arc<KeyStore>,
    identity: Arc<Identity>,
    devices: Cache<Arc<Device>>,
    buckets: Buckets,
    leeway_s: i64,
}

impl Authenticator {
    /// An authenticator over these keys.
    pub fn new(keys: Arc<KeyStore>, identity: Arc<Identity>, settings: &AuthenticateSettings) -> Self {
        Self {
            keys,
            identity,
            devices: Cache::new(settings.device_tokens_max),
            buckets: Buckets::new(settings.rate, settings.device_tokens_max),
            leeway_s: i64::from(settings.leeway_s),
        }
    }

    /// Changes the rate of every device, from now on.
    pub fn set_rate(&self, limits: RateLimits) {
        self.buckets.set_rate(limits);
    }

    /// Finds the device behind an `Authorization` header's value (empty where there is none). Cheap:
    /// one hash of the token and no allocation.
    pub fn lookup<'a>(&self, authorization: &'a [u8], now: UnixMillis) -> Lookup<'a> {
        let token = match bearer(authorization) {
            Ok(token) => token,
            Err(error) => return Lookup::Refused(error),
        };
        let generation = self.keys.load().generation();
        match self.devices.get(self.devices.key(token.as_bytes()), generation) {
            Some(device) if self.has_expired(device.expires_at_s, now) => Lookup::Refused(AuthError::Expired),
            Some(device) => Lookup::Known(device),
            None => Lookup::Unknown(token),
        }
    }

    /// Verifies a token and remembers its device. Takes tens of microseconds: belongs on the workers.
    ///
    /// # Errors
    /// The token is not one of a known app's, valid now and not revoked.
    pub fn verify(&self, token: &str, now: UnixMillis) -> Result<Arc<Device>, AuthError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AuthError::TooLong);
        }
        let keys = self.keys.load();
        let claims = token::verify(token, &keys)?;
        if self.has_expired(claims.expires_at_s, now) {
            return Err(AuthError::Expired);
        }
        if claims.not_before_s > now.seconds().saturating_add(self.leeway_s) {
            return Err(AuthError::NotYetValid);
        }
        let key = self.identity.device(claims.app, &claims.sub);
        let role = match (claims.place, claims.person) {
            (Some(place), None) => {
                Role::Place { place: self.identity.place(&place), window_class: claims.class }
            }
            (None, Some(person)) => Role::Person { person: self.identity.person_reference(&person) },
            _ => return Err(token::ONE_SUBJECT),
        };
        let device = Arc::new(Device {
            key,
            app: claims.app,
            role,
            expires_at_s: claims.expires_at_s,
            certificate: claims.certificate,
            bucket: self.buckets.of(key, Instant::now()),
        });
        self.devices.insert(self.devices.key(token.as_bytes()), keys.generation(), Arc::clone(&device));
        Ok(device)
    }

    /// How many device tokens are remembered.
    pub fn devices(&self) -> usize {
        self.devices.len()
    }

    fn has_expired(&self, expires_at_s: i64, now: UnixMillis) -> bool {
        now.seconds() >= expires_at_s.saturating_add(self.leeway_s)
    }
}

/// The token of a `Bearer` authorization.
fn bearer(authorization: &[u8]) -> Result<&str, AuthError> {
    const SCHEME: &[u8] = b"bearer";
    if authorization.trim_ascii().is_empty() {
        return Err(AuthError::Missing);
    }
    let malformed = AuthError::Malformed { field: "authorization" };
    let (scheme, token) = authorization.trim_ascii_start().split_at_checked(SCHEME.len()).ok_or(malformed)?;
    if !scheme.eq_ignore_ascii_case(SCHEME) || !token.starts_with(b" ") {
        return Err(malformed);
    }
    let token = token.trim_ascii();
    if token.is_empty() {
        return Err(AuthError::Missing);
    }
    if token.len() > TOKEN_BYTES_MAX {
        return Err(AuthError::TooLong);
    }
    std::str::from_utf8(token).map_err(|_| malformed)
}

#[cfg(test)]
mod tests;
