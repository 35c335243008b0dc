//! SMART Health Card (spec.smarthealth.cards): `shc:/` and pairs of digits, each a character of a compact JWS
//! (RFC 7515) less 45.
//!
//! ```text
//! header  = {"alg":"ES256","zip":"DEF","kid":JWK thumbprint}
//! payload = deflate {"iss":URL,"nbf":s,"exp":s,"vc":{"rid":…,…}}      exp and rid may be missing
//! ```
//!
//! - The issuer is named inside the payload, but the key by its thumbprint in the header: every allowed
//!   issuer's key with that kid is tried, and after its signature held the payload must name its issuer.
//!   So nothing of the payload is inflated or read before the signature was checked, and nothing is fetched.
//! - `exp` is exact; `nbf` may lie up to [`SKEW_S`] ahead.
//!
//! The holder's name is the issuer and the card's `rid`, or where it has none the hash of what was signed:
//! such a card is only ever the same as itself. A card is revoked by the first half of that name's SHA-256,
//! in the same list as health certificates.

use std::borrow::Cow;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::payload::{PAYLOAD_BYTES_MAX, SHC_PREFIX};
use crate::scan::{Form, Outcome, Refusal};

use super::keyfile::hex;
use super::keys::Keys;
use super::sg1::SKEW_S;
use super::trust::ShcKey;
use super::unpack::{self, Wrapper};
use super::{Holder, Validity, Verified, When};

/// The longest payload that is inflated, in bytes. A card in one code has at most 1,195 characters of JWS,
/// which hold some 5 KB.
pub const CARD_BYTES_MAX: usize = 16_384;

/// The longest header, in bytes. The three members take 80.
const HEADER_BYTES_MAX: usize = 512;

#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    #[serde(borrow)]
    kid: Cow<'a, str>,
    #[serde(borrow)]
    zip: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Card<'a> {
    #[serde(borrow)]
    iss: Cow<'a, str>,
    nbf: f64,
    exp: Option<f64>,
    #[serde(borrow)]
    vc: Credential<'a>,
}

#[derive(Deserialize)]
struct Credential<'a> {
    #[serde(borrow)]
    rid: Option<Cow<'a, str>>,
}

/// Verifies a card, prefix included.
///
/// # Errors
/// It can't be read, its key is unknown or revoked or another issuer's, its signature doesn't hold, it isn't
/// valid now, or it has been revoked.
pub fn shc(text: &str, when: impl Into<When>, keys: &Keys) -> Result<Verified, Refusal> {
    let jws = jws(text).ok_or(DIGITS)?;
    let (signing_input, signature) = jws.rsplit_once('.').ok_or(JWS)?;
    let (header, payload) =
        signing_input.split_once('.').filter(|(_, payload)| !payload.contains('.')).ok_or(JWS)?;
    let mut buffer = [0; HEADER_BYTES_MAX];
    let header = decoded_header(header, &mut buffer).ok_or(HEADER)?;
    let mut bytes = [0; 64];
    let length = URL_SAFE_NO_PAD.decode_slice(signature, &mut bytes).map_err(|_| SIGNATURE)?;
    let signature = bytes.get(..length).ok_or(SIGNATURE)?;
    let candidates = keys.shc_keys(&header.kid);
    if candidates.is_empty() {
        return Err(UNKNOWN_KEY);
    }
    if header.alg != "ES256" {
        return Err(Refusal::new(Outcome::BadSignature, "a SMART Health Card must be signed with ES256"));
    }
    let signed = digest::digest(&digest::SHA256, signing_input.as_bytes());
    // One thumbprint is one key, so that issuers who share it share its signatures too.
    let first = candidates.first().ok_or(UNKNOWN_KEY)?;
    first.public.verify_digest_sig(&signed, signature).map_err(|_| SIGNATURE)?;
    if header.zip != "DEF" {
        return Err(PAYLOAD);
    }
    let packed = URL_SAFE_NO_PAD.decode(payload).map_err(|_| PAYLOAD)?;
    let mut buffer = vec![0; CARD_BYTES_MAX];
    let inflated = unpack::inflate(&packed, Wrapper::Raw, &mut buffer).ok_or(PAYLOAD)?;
    let card: Card<'_> = serde_json::from_slice(inflated).map_err(|_| PAYLOAD)?;
    let key = candidates.iter().find(|key| key.issuer == card.iss).ok_or(ISSUER)?;
    verified(&card, key, signed.as_ref(), when.into(), keys)
}

/// The payload of a card, prefix included: JSON, of at most [`CARD_BYTES_MAX`]. None for what isn't one; whether it holds
/// is asked before, of [`shc()`].
pub fn payload(text: &str) -> Option<Vec<u8>> {
    let jws = jws(text)?;
    let packed = URL_SAFE_NO_PAD.decode(jws.split('.').nth(1)?).ok()?;
    let mut buffer = vec![0; CARD_BYTES_MAX];
    let bytes = unpack::inflate(&packed, Wrapper::Raw, &mut buffer)?.len();
    buffer.truncate(bytes);
    Some(buffer)
}

fn verified(
    card: &Card<'_>,
    key: &ShcKey,
    signed: &[u8],
    when: When,
    keys: &Keys,
) -> Result<Verified, Refusal> {
    if key.revoked {
        return Err(Refusal::new(Outcome::Revoked, "the SMART Health Card's key has been revoked"));
    }
    let from_s = seconds(card.nbf).saturating_sub(SKEW_S);
    let validity = Validity { from_s, until_s: card.exp.map_or(i64::MAX, seconds) };
    validity.check(when)?;
    let value = match card.vc.rid.as_deref() {
        Some(rid) if !is_revocation_id(rid) => return Err(PAYLOAD),
        Some(rid) => format!("{}#{rid}", card.iss),
        None => format!("{}#{}", card.iss, hex(signed)),
    };
    let hash = digest::digest(&digest::SHA256, value.as_bytes());
    if hash.as_ref().first_chunk().is_some_and(|hash| keys.is_dcc_revoked(hash)) {
        return Err(Refusal::new(Outcome::Revoked, "the SMART Health Card has been revoked"));
    }
    Ok(Verified { holder: Holder::Person { label: "shc", value }, form: Form::Shc, validity })
}

const DIGITS: Refusal = Refusal::new(
    Outcome::Unrecognized,
    "a SMART Health Card must be pairs of digits that stand for the characters of a JWS",
);
const JWS: Refusal =
    Refusal::new(Outcome::Unrecognized, "a SMART Health Card must be a JWS of header, payload and signature");
const HEADER: Refusal =
    Refusal::new(Outcome::Unrecognized, "a SMART Health Card's header must be JSON with alg, kid and zip");
const PAYLOAD: Refusal = Refusal::new(
    Outcome::Unrecognized,
    "a SMART Health Card's payload must be deflated JSON with iss, nbf and vc of at most 16384 bytes",
);
const UNKNOWN_KEY: Refusal =
    Refusal::new(Outcome::UnknownKey, "no allowed issuer has a key under the SMART Health Card's kid");
const ISSUER: Refusal =
    Refusal::new(Outcome::UnknownKey, "the SMART Health Card names another issuer than its key's");
const SIGNATURE: Refusal =
    Refusal::new(Outcome::BadSignature, "the SMART Health Card's signature does not verify");

/// At most 24 characters of base64url, as the specification has it: so no `rid` passes for a hash.
fn is_revocation_id(rid: &str) -> bool {
    let is_base64url = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=24).contains(&rid.len()) && rid.bytes().all(is_base64url)
}

/// The characters that the pairs of digits stand for.
fn jws(text: &str) -> Option<String> {
    let digits = text.strip_prefix(SHC_PREFIX).filter(|_| text.len() <= PAYLOAD_BYTES_MAX)?;
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let character = |[tens, ones]: &[u8; 2]| {
        let digit = |byte: u8| byte.is_ascii_digit().then(|| byte - b'0');
        // At most 99 + 45: past what base64url and dots need, and still checked where they are decoded.
        Some(char::from(digit(*tens)? * 10 + digit(*ones)? + 45)).filter(char::is_ascii)
    };
    pairs.iter().map(character).collect()
}

fn decoded_header<'a>(header: &str, buffer: &'a mut [u8]) -> Option<Header<'a>> {
    let length = URL_SAFE_NO_PAD.decode_slice(header, buffer).ok()?;
    serde_json::from_slice(buffer.get(..length)?).ok()
}

/// Whole seconds: times may have a fraction (RFC 7519 §2). What no clock reaches stays out of its reach.
#[allow(clippy::cast_possible_truncation, reason = "saturates")]
fn seconds(time: f64) -> i64 {
    time.floor() as i64
}
