//! HC1, the EU Digital COVID Certificate (Implementing Decision (EU) 2021/1073, Annex I): `HC1:`, base45,
//! zlib, a COSE_Sign1 (RFC 9052) around CWT claims (RFC 8392).
//!
//! ```text
//! 61(18([ h'{1: alg, 4: kid}', {4: kid}, h'claims', signature ]))     both tags may be missing
//! claims = {1: country, 4: exp, 6: iat, -260: {1: {"v"|"t"|"r": [{"ci": UVCI, "co": country, …}], …}}}
//! ```
//!
//! - alg and kid are looked for in the protected header first; a protected one wins even if it is wrong.
//! - Under one kid there may be several keys: the one under which the signature holds has signed.
//! - ES256 is ECDSA with SHA-256 on the key's own curve (RFC 9053 §2.1), P-256 or P-384: the public test set
//!   has codes of a P-384 key and expects them to verify. PS256 is for RSA of 2048 to 4096 bits.
//! - The signature is checked before any claim is looked at.
//! - A code is good through the second `exp`, as the public test set expects and the EU's own verifiers do;
//!   RFC 8392 would end it a second earlier. `iat` may lie up to [`SKEW_S`] ahead.
//! - A certificate must have been valid when it signed (`iat` within notBefore and notAfter). That it has
//!   ended since ends nothing: issuers sign with a key for a part of its life and let codes outlive it.
//! - Exactly one entry is signed: that is what the schema asks, and a second one could name another person.
//!
//! The holder's name is the UVCI, which names one dose, test or recovery; [`Holder::Person`] under `uvci`.

mod cbor;
mod claims;
mod cose;
mod entry;

use aws_lc_rs::digest;

use crate::payload::{HC1_PREFIX, PAYLOAD_BYTES_MAX};
use crate::scan::{Form, Outcome, Refusal};

pub(super) use self::cose::Algorithm;
pub use self::entry::{CertificateEntry, entry};

use self::claims::Claims;
use self::cose::Envelope;
use super::keys::Keys;
use super::sg1::SKEW_S;
use super::trust::Hc1Key;
use super::unpack::{self, Wrapper};
use super::{Holder, Validity, Verified, When};

/// The longest COSE message that is inflated, in bytes. The longest in the public test set has 870.
pub const COSE_BYTES_MAX: usize = 8192;

/// Where a COSE message is inflated to.
pub type CoseBuffer = [u8; COSE_BYTES_MAX];

/// What a certificate certifies: exactly one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A vaccination.
    Vaccination,
    /// A test.
    Test,
    /// A recovery.
    Recovery,
}

impl EntryKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Vaccination, Self::Test, Self::Recovery];

    /// The member of the certificate that holds the entry.
    pub const fn member(self) -> &'static str {
        match self {
            Self::Vaccination => "v",
            Self::Test => "t",
            Self::Recovery => "r",
        }
    }

    /// The last arc of the extended key usage that lets a key sign such entries.
    pub const fn key_usage_arc(self) -> u64 {
        match self {
            Self::Test => 1,
            Self::Vaccination => 2,
            Self::Recovery => 3,
        }
    }
}

/// Verifies a certificate, prefix included.
///
/// # Errors
/// It can't be read, its key is unknown, revoked or not for such an entry, its signature doesn't hold, it
/// isn't valid now, or it has been revoked.
pub fn hc1(text: &str, when: impl Into<When>, keys: &Keys) -> Result<Verified, Refusal> {
    let mut buffer = [0; COSE_BYTES_MAX];
    let cose = inflated(&packed(text)?, &mut buffer)?;
    let envelope = cose::envelope(cose).ok_or(UNREADABLE)?;
    let key = signer(&envelope, candidates(&envelope, keys))?;
    if key.revoked {
        return Err(REVOKED_KEY);
    }
    let claims = claims::claims(envelope.payload).ok_or(CLAIMS)?;
    if !key.may_sign(claims.kind) {
        return Err(KEY_USAGE);
    }
    if !(key.not_before_s..=key.not_after_s).contains(&claims.issued_at_s) {
        return Err(KEY_PERIOD);
    }
    let from_s = claims.issued_at_s.saturating_sub(SKEW_S);
    let validity = Validity { from_s, until_s: claims.expires_at_s.saturating_add(1) };
    validity.check(when)?;
    if is_revoked(&claims, &envelope, keys) {
        return Err(Refusal::new(Outcome::Revoked, "the health certificate has been revoked"));
    }
    Ok(Verified { holder: holder(claims.uvci), form: Form::Hc1, validity })
}

/// The compressed bytes behind a certificate's text, prefix included.
///
/// # Errors
/// It isn't `HC1:` and base45.
pub fn packed(text: &str) -> Result<Vec<u8>, Refusal> {
    let body = text.strip_prefix(HC1_PREFIX).filter(|_| text.len() <= PAYLOAD_BYTES_MAX);
    body.and_then(unpack::base45).ok_or(BASE45)
}

/// The COSE message behind the compressed bytes.
///
/// # Errors
/// They aren't zlib of at most [`COSE_BYTES_MAX`] bytes.
pub fn inflated<'a>(packed: &[u8], buffer: &'a mut CoseBuffer) -> Result<&'a [u8], Refusal> {
    unpack::inflate(packed, Wrapper::Zlib, buffer).ok_or(ZLIB)
}

const BASE45: Refusal = Refusal::new(Outcome::Unrecognized, "a health certificate must be HC1: and base45");
const ZLIB: Refusal = Refusal::new(
    Outcome::Unrecognized,
    "a health certificate's base45 must hold zlib of at most 8192 bytes and nothing else",
);
const UNREADABLE: Refusal =
    Refusal::new(Outcome::Unrecognized, "a health certificate must be a COSE_Sign1 with one payload");
const CLAIMS: Refusal = Refusal::new(
    Outcome::Unrecognized,
    "a health certificate's claims must be exp, iat and one v, t or r with one entry that has a ci",
);
const ALGORITHM: Refusal =
    Refusal::new(Outcome::BadSignature, "a health certificate must be signed with ES256 or PS256");
const SIGNATURE: Refusal =
    Refusal::new(Outcome::BadSignature, "the health certificate's signature does not verify");
const UNKNOWN_KEY: Refusal =
    Refusal::new(Outcome::UnknownKey, "no key is known under the health certificate's kid");
const KEY_USAGE: Refusal =
    Refusal::new(Outcome::UnknownKey, "the key may not sign this type of health certificate");
const KEY_PERIOD: Refusal =
    Refusal::new(Outcome::UnknownKey, "the key's certificate was not valid when it signed");
const REVOKED_KEY: Refusal = Refusal::new(Outcome::Revoked, "the health certificate's key has been revoked");

/// The keys with the message's kid.
fn candidates<'k>(envelope: &Envelope<'_>, keys: &'k Keys) -> &'k [Hc1Key] {
    match envelope.kid.map(<[u8; 8]>::try_from) {
        Some(Ok(kid)) => keys.hc1_keys(kid),
        _ => &[],
    }
}

/// The key of these under which the signature holds.
fn signer<'k>(envelope: &Envelope<'_>, candidates: &'k [Hc1Key]) -> Result<&'k Hc1Key, Refusal> {
    if candidates.is_empty() {
        return Err(UNKNOWN_KEY);
    }
    let algorithm = envelope.algorithm.ok_or(ALGORITHM)?;
    let signed = envelope.signed();
    let holds = |key: &&Hc1Key| key.algorithm == algorithm && key.verify(&signed, envelope.signature);
    candidates.iter().find(holds).ok_or(SIGNATURE)
}

/// Whether one of the three hashes that the EU's revocation lists use is listed: of the UVCI, of the country
/// and the UVCI, and of the signature. Of an ECDSA signature only r is hashed, since anyone can make a
/// second valid s.
fn is_revoked(claims: &Claims<'_>, envelope: &Envelope<'_>, keys: &Keys) -> bool {
    let signature = match envelope.algorithm {
        Some(Algorithm::Es256) => envelope.signature.split_at(envelope.signature.len() / 2).0,
        _ => envelope.signature,
    };
    let country = claims.country.unwrap_or_default().as_bytes();
    let uvci = claims.uvci.as_bytes();
    let listed = |parts: &[&[u8]]| keys.is_dcc_revoked(&revocation_hash(parts));
    listed(&[uvci]) || listed(&[country, uvci]) || listed(&[signature])
}

/// The first half of the SHA-256 of these parts in a row.
fn revocation_hash(parts: &[&[u8]]) -> [u8; 16] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    context.finish().as_ref().first_chunk().copied().unwrap_or_default()
}

/// The UVCI without the prefix that some issuers print before it, in one case.
fn holder(uvci: &str) -> Holder {
    const URN: &str = "URN:UVCI:";
    let bare = match uvci.split_at_checked(URN.len()) {
        Some((urn, bare)) if urn.eq_ignore_ascii_case(URN) => bare,
        _ => uvci,
    };
    Holder::Person { label: "uvci", value: bare.to_ascii_uppercase() }
}

#[cfg(test)]
mod tests;
