//! A device token: a JWT, signed by its app. The key decides the algorithm, never the header.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode, decode_header};
use serde::Deserialize;

use super::AuthError;
use crate::scan::App;
use crate::verify::Keys;

/// The longest device name, in bytes.
const SUB_BYTES_MAX: usize = 128;

/// The longest place or person reference, in bytes.
const REFERENCE_BYTES_MAX: usize = 256;

/// The longest place class, in bytes.
const CLASS_BYTES_MAX: usize = 32;

/// A token must say exactly one of whom and what its device stands for.
pub(super) const ONE_SUBJECT: AuthError =
    AuthError::WrongClaims { field: "place", rule: "or `person` must be given, and not both" };

/// A verified token's claims, checked except against the clock.
pub(super) struct Claims {
    pub(super) app: App,
    pub(super) sub: String,
    pub(super) expires_at_s: i64,
    pub(super) not_before_s: i64,
    pub(super) place: Option<String>,
    pub(super) person: Option<String>,
    pub(super) class: Option<Box<str>>,
    pub(super) certificate: Option<[u8; 32]>,
}

#[derive(Deserialize)]
struct RawClaims {
    iss: String,
    sub: Option<String>,
    exp: Option<f64>,
    nbf: Option<f64>,
    iat: Option<f64>,
    place: Option<String>,
    person: Option<String>,
    class: Option<String>,
    cnf: Option<Confirmation>,
}

/// How the bearer proves that the token is theirs (RFC 7800). Only certificates are understood; other members
/// are for others.
#[derive(Deserialize)]
struct Confirmation {
    #[serde(rename = "x5t#S256")]
    certificate: Option<String>,
}

/// Read before the signature is checked, and used for nothing but finding the key.
#[derive(Deserialize)]
struct Issuer {
    iss: String,
}

/// Checks signature, revocation and claims.
pub(super) fn verify(token: &str, keys: &Keys) -> Result<Claims, AuthError> {
    let header = decode_header(token).map_err(|error| match error.kind() {
        // An `alg` that the library doesn't know, `none` above all, is JSON of the wrong kind.
        ErrorKind::Json(json) if json.is_data() => AuthError::WrongAlgorithm,
        _ => AuthError::Malformed { field: "header" },
    })?;
    if header.crit.is_some() {
        return Err(AuthError::Malformed { field: "crit" });
    }
    let Issuer { iss } = jsonwebtoken::dangerous::insecure_decode_claims(token)
        .map_err(|_| AuthError::Malformed { field: "claims" })?;
    let app = App::from_name(&iss).ok_or(AuthError::UnknownIssuer)?;
    let key = header.kid.as_deref().and_then(|kid| keys.issuer(app, kid)).ok_or(AuthError::UnknownKid)?;
    if key.revoked {
        return Err(AuthError::Revoked);
    }
    if header.alg != key.algorithm.jwt() {
        return Err(AuthError::WrongAlgorithm);
    }
    let mut validation = Validation::new(key.algorithm.jwt());
    // The library would read a clock of its own; dates are checked by the caller, at a given time.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let raw = decode::<RawClaims>(token, &key.decoding, &validation)
        .map_err(|error| match error.kind() {
            ErrorKind::Json(_) => AuthError::Malformed { field: "claims" },
            _ => AuthError::BadSignature,
        })?
        .claims;
    // Signed now, and compared with what chose the key.
    if raw.iss != app.name() {
        return Err(AuthError::UnknownIssuer);
    }
    let claims = raw.checked(app)?;
    if keys.is_device_revoked(app, &claims.sub) {
        return Err(AuthError::Revoked);
    }
    Ok(claims)
}

impl RawClaims {
    fn checked(self, app: App) -> Result<Claims, AuthError> {
        let wrong = |field, rule| AuthError::WrongClaims { field, rule };
        let sub = self.sub.filter(|sub| is_text(sub, SUB_BYTES_MAX));
        let sub = sub.ok_or(wrong("sub", "must be 1 to 128 bytes of text without control characters"))?;
        let expires_at_s = self.exp.map(seconds).ok_or(wrong("exp", "must be given"))?;
        let not_before_s = self.nbf.map_or(i64::MIN, seconds).max(self.iat.map_or(i64::MIN, seconds));
        for (field, reference) in [("place", &self.place), ("person", &self.person)] {
            if reference.as_deref().is_some_and(|reference| !is_text(reference.trim(), REFERENCE_BYTES_MAX)) {
                return Err(wrong(field, "must be 1 to 256 bytes of text without control characters"));
            }
        }
        if self.place.is_some() == self.person.is_some() {
            return Err(ONE_SUBJECT);
        }
        if self.class.as_deref().is_some_and(|class| !is_text(class, CLASS_BYTES_MAX)) {
            return Err(wrong("class", "must be 1 to 32 bytes of text without control characters"));
        }
        let certificate = self.cnf.map(Confirmation::certificate).transpose()?;
        Ok(Claims {
            app,
            sub,
            expires_at_s,
            not_before_s,
            place: self.place,
            person: self.person,
            class: self.class.map(String::into_boxed_str),
            certificate,
        })
    }
}

impl Confirmation {
    /// A token that says it is bound, but not to a certificate, can't be confirmed here: it is refused, never
    /// taken as unbound.
    fn certificate(self) -> Result<[u8; 32], AuthError> {
        const RULE: &str = "must have `x5t#S256`, the SHA-256 of a certificate in base64url";
        let decoded = self.certificate.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let thumbprint = decoded.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        thumbprint.ok_or(AuthError::WrongClaims { field: "cnf", rule: RULE })
    }
}

fn is_text(text: &str, bytes_max: usize) -> bool {
    (1..=bytes_max).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// A NumericDate, which may have a fraction, in whole seconds.
#[allow(clippy::cast_possible_truncation)] // `as` saturates, and a date beyond 64 bits is as good as its bound.
fn seconds(date: f64) -> i64 {
    date.floor() as i64
}
