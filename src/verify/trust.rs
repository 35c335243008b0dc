//! Whom the gateway believes beside its own keys: the issuers of health certificates and cards, as an
//! operator put them on disk. Nothing here is secret, so that a file's mode doesn't matter.
//!
//! ```text
//! DATA/keys/hc1/<any>.pem    one or more X.509 certificates, as a trust list exports them
//! DATA/keys/shc/<any>.json   {"issuer": "https://…", "keys": [JWK, …]}: an issuer's JWKS and its URL
//! ```
//!
//! One file that can't be used fails the load with its name: a list that is quietly shorter than it looks
//! would turn people away.

use std::ops::RangeInclusive;
use std::path::Path;

use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA256_ASN1, ParsedPublicKey, RSA_PSS_2048_8192_SHA256,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::hc1::{Algorithm, EntryKind};
use super::keyfile;
use super::keys::KeysError;
use super::revocations::Revocations;

/// The largest file that is read, in bytes: some two thousand certificates.
const TRUST_FILE_BYTES_MAX: u64 = 4 << 20;

/// The most keys of one kind. The EU's list has had a few hundred.
const TRUST_KEYS_MAX: usize = 16_384;

/// The longest URL of an issuer of cards, in bytes.
const ISSUER_BYTES_MAX: usize = 2048;

/// RSA moduli that are accepted, in bits. Longer ones are no safer here and cost each forged code more.
const RSA_BITS: RangeInclusive<usize> = 2048..=4096;

/// A key that health certificates are verified with.
pub struct Hc1Key {
    /// The first eight bytes of the SHA-256 of its certificate. Not unique.
    pub kid: [u8; 8],
    /// The country in the certificate's subject.
    pub country: Option<String>,
    /// Whether it has been revoked, by its kid in hexadecimal.
    pub revoked: bool,
    /// The first second in which it may sign.
    pub not_before_s: i64,
    /// The last second in which it may sign.
    pub not_after_s: i64,
    /// What it may sign.
    pub kinds: Vec<EntryKind>,
    pub(super) algorithm: Algorithm,
    curve: Option<Curve>,
    public: ParsedPublicKey,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
}

impl Hc1Key {
    /// Whether it may sign entries of this kind.
    pub fn may_sign(&self, kind: EntryKind) -> bool {
        self.kinds.contains(&kind)
    }

    fn is_same_as(&self, other: &Self) -> bool {
        let of = |key: &Self| (key.kid, key.not_before_s, key.not_after_s);
        of(self) == of(other) && self.kinds == other.kinds && self.public.as_ref() == other.public.as_ref()
    }

    /// Whether the signature over what has this hash is its.
    pub(super) fn verify(&self, signed: &Digest, signature: &[u8]) -> bool {
        if self.curve != Some(Curve::P384) {
            return self.public.verify_digest_sig(signed, signature).is_ok();
        }
        // The library has SHA-256 on this curve for signatures in DER only.
        p384_der(signature).is_some_and(|der| self.public.verify_digest_sig(signed, &der).is_ok())
    }
}

/// A key that SMART Health Cards are verified with.
pub struct ShcKey {
    /// The JWK's thumbprint (RFC 7638) in base64url.
    pub kid: String,
    /// The issuer whose cards it signs.
    pub issuer: String,
    /// Whether it has been revoked, by its kid.
    pub revoked: bool,
    pub(super) public: ParsedPublicKey,
}

/// The issuers of one snapshot, sorted by kid.
#[derive(Default)]
pub(super) struct Trust {
    hc1: Vec<Hc1Key>,
    shc: Vec<ShcKey>,
}

impl Trust {
    /// Reads both directories, and adds what it read to the snapshot's fingerprint.
    pub(super) fn load(
        keys_dir: &Path,
        revocations: &Revocations,
        fingerprint: &mut digest::Context,
    ) -> Result<Self, KeysError> {
        let mut trust = Self::default();
        for path in keyfile::files(&keys_dir.join("hc1"), &["pem"])? {
            let (bytes, _) = keyfile::read_up_to(&path, TRUST_FILE_BYTES_MAX)?;
            fingerprint.update(&bytes);
            certificates(&path, &bytes, &mut trust.hc1)?;
        }
        for path in keyfile::files(&keys_dir.join("shc"), &["json"])? {
            let (bytes, _) = keyfile::read_up_to(&path, TRUST_FILE_BYTES_MAX)?;
            fingerprint.update(&bytes);
            key_set(&path, &bytes, &mut trust.shc)?;
        }
        for key in &mut trust.hc1 {
            key.revoked = revocations.kid(&keyfile::hex(&key.kid)).is_some();
        }
        for key in &mut trust.shc {
            key.revoked = revocations.kid(&key.kid).is_some();
        }
        // A trust list holds a certificate once, but two of them may both be here.
        trust.hc1.sort_by_key(|key| key.kid);
        trust.hc1.dedup_by(|one, other| one.is_same_as(other));
        // The specification lists a key once for each of its certificates.
        trust.shc.sort_by(|one, other| (&one.kid, &one.issuer).cmp(&(&other.kid, &other.issuer)));
        trust.shc.dedup_by(|one, other| (&one.kid, &one.issuer) == (&other.kid, &other.issuer));
        Ok(trust)
    }

    /// The keys with this kid.
    pub(super) fn hc1(&self, kid: [u8; 8]) -> &[Hc1Key] {
        run(&self.hc1, |key| key.kid.cmp(&kid))
    }

    /// The keys with this kid.
    pub(super) fn shc(&self, kid: &str) -> &[ShcKey] {
        run(&self.shc, |key| key.kid.as_str().cmp(kid))
    }

    /// How many keys there are of each kind.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.hc1.len(), self.shc.len())
    }
}

/// The run of elements that are equal, in a slice sorted by the same order.
fn run<T>(sorted: &[T], order: impl Fn(&T) -> std::cmp::Ordering) -> &[T] {
    let from = sorted.partition_point(|element| order(element).is_lt());
    let to = sorted.partition_point(|element| order(element).is_le());
    sorted.get(from..to).unwrap_or_default()
}

/// Reads the PEM certificates of one file.
fn certificates(path: &Path, bytes: &[u8], keys: &mut Vec<Hc1Key>) -> Result<(), KeysError> {
    let mut number = 0;
    for certificate in CertificateDer::pem_slice_iter(bytes) {
        number += 1;
        let problem = |problem| KeysError::Certificate { path: path.to_owned(), number, problem };
        let der = certificate.map_err(|_| problem("is not PEM"))?;
        let key = hc1_key(&der).map_err(problem)?;
        if keys.len() == TRUST_KEYS_MAX {
            return Err(too_many(path));
        }
        keys.push(key);
    }
    if number == 0 {
        return Err(KeysError::Invalid { path: path.to_owned(), field: "CERTIFICATE" });
    }
    Ok(())
}

/// The key inside a certificate. Its own signature is not checked: who put the file there vouches for it.
pub(super) fn hc1_key(der: &[u8]) -> Result<Hc1Key, &'static str> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| "is not an X.509 certificate")?;
    let (algorithm, curve, public) = public_key(certificate.public_key())?;
    let hash = digest::digest(&digest::SHA256, der);
    let country = certificate.subject().iter_country().next();
    Ok(Hc1Key {
        kid: hash.as_ref().first_chunk().copied().unwrap_or_default(),
        country: country.and_then(|country| country.as_str().ok()).map(str::to_owned),
        revoked: false,
        not_before_s: certificate.validity().not_before.timestamp(),
        not_after_s: certificate.validity().not_after.timestamp(),
        kinds: kinds(&certificate)?,
        algorithm,
        curve,
        public,
    })
}

fn public_key(
    info: &SubjectPublicKeyInfo<'_>,
) -> Result<(Algorithm, Option<Curve>, ParsedPublicKey), &'static str> {
    let unusable = "has a public key that is not on its curve, or malformed";
    let bytes = info.subject_public_key.data.as_ref();
    match info.parsed() {
        Ok(PublicKey::EC(_)) => {
            let parameters = info.algorithm.parameters.as_ref();
            let curve = parameters.and_then(|parameters| parameters.as_oid().ok());
            let (curve, public) = match curve.map(|curve| curve.to_id_string()).as_deref() {
                Some("1.2.840.10045.3.1.7") => {
                    (Curve::P256, ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, bytes))
                }
                Some("1.3.132.0.34") => (Curve::P384, ParsedPublicKey::new(&ECDSA_P384_SHA256_ASN1, bytes)),
                _ => return Err("must have a key on P-256 or P-384 or an RSA key"),
            };
            Ok((Algorithm::Es256, Some(curve), public.map_err(|_| unusable)?))
        }
        Ok(PublicKey::RSA(rsa)) if RSA_BITS.contains(&rsa.key_size()) => {
            let public = ParsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, bytes).map_err(|_| unusable)?;
            Ok((Algorithm::Ps256, None, public))
        }
        Ok(PublicKey::RSA(_)) => Err("must have an RSA key of 2048 to 4096 bits"),
        _ => Err("must have a key on P-256 or P-384 or an RSA key"),
    }
}

/// What the extended key usages let the key sign. The arcs were published with a zero in the middle first,
/// and certificates were issued with it.
///
/// Where no usage is of this kind the key may sign everything, as several countries' certificates for servers
/// or mail do; but not where the extension is critical and names other purposes (RFC 5280 §4.2.1.12, and
/// what the public test set expects of such a certificate).
fn kinds(certificate: &X509Certificate<'_>) -> Result<Vec<EntryKind>, &'static str> {
    const ARCS: [&[u64]; 2] = [&[1, 3, 6, 1, 4, 1, 1847, 2021, 1], &[1, 3, 6, 1, 4, 1, 0, 1847, 2021, 1]];
    let usage = certificate.extended_key_usage().map_err(|_| "has extended key usages twice or malformed")?;
    let Some(usage) = usage else { return Ok(EntryKind::ALL.to_vec()) };
    let others = &usage.value.other;
    let listed = |kind: &EntryKind| {
        others.iter().filter_map(|usage| usage.iter().map(Iterator::collect::<Vec<u64>>)).any(|arcs| {
            arcs.split_last()
                .is_some_and(|(last, arcs)| *last == kind.key_usage_arc() && ARCS.contains(&arcs))
        })
    };
    let kinds: Vec<EntryKind> = EntryKind::ALL.into_iter().filter(listed).collect();
    let is_for_others = usage.critical && !others.is_empty() && !usage.value.any;
    Ok(if kinds.is_empty() && !is_for_others { EntryKind::ALL.to_vec() } else { kinds })
}

/// `r || s` of 48 bytes each as the DER that a signature has in X.509: two positive integers, shortest form.
fn p384_der(signature: &[u8]) -> Option<Vec<u8>> {
    const SCALAR: usize = 48;
    let (r, s) = signature.split_at_checked(SCALAR).filter(|(_, s)| s.len() == SCALAR)?;
    let mut der = vec![0x30, 0];
    for scalar in [r, s] {
        let zeros = scalar.iter().take_while(|byte| **byte == 0).count().min(SCALAR - 1);
        let digits = scalar.get(zeros..)?;
        let sign = usize::from(digits.first()? >> 7);
        der.extend_from_slice(&[0x02, u8::try_from(digits.len() + sign).ok()?]);
        der.extend_from_slice([0].get(..sign)?);
        der.extend_from_slice(digits);
    }
    // At most 2 × 51 bytes: a length of one byte.
    *der.get_mut(1)? = u8::try_from(der.len() - 2).ok()?;
    Some(der)
}

/// An issuer's JWKS, with the URL that its cards name.
#[derive(Deserialize)]
struct KeySet {
    issuer: String,
    keys: Vec<Jwk>,
}

/// What of a JWK matters here; certificates in it and the like are not looked at.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    kid: Option<String>,
}

fn key_set(path: &Path, bytes: &[u8], keys: &mut Vec<ShcKey>) -> Result<(), KeysError> {
    let invalid = |field| KeysError::Invalid { path: path.to_owned(), field };
    let set: KeySet = keyfile::parse(path, bytes)?;
    // Holders are named by the issuer, `#` and more.
    let is_url =
        set.issuer.starts_with("https://") && !set.issuer.ends_with('/') && !set.issuer.contains('#');
    if !is_url || set.issuer.len() > ISSUER_BYTES_MAX {
        return Err(invalid("issuer"));
    }
    if set.keys.is_empty() {
        return Err(invalid("keys"));
    }
    for jwk in &set.keys {
        let point = |text: &Option<String>, field| {
            let text = text.as_deref().unwrap_or_default();
            let bytes = URL_SAFE_NO_PAD.decode(text).ok().filter(|bytes| bytes.len() == 32);
            bytes.ok_or_else(|| invalid(field))
        };
        if jwk.kty != "EC" {
            return Err(invalid("kty"));
        }
        if jwk.crv.as_deref() != Some("P-256") {
            return Err(invalid("crv"));
        }
        let (x, y) = (point(&jwk.x, "x")?, point(&jwk.y, "y")?);
        let kid = thumbprint(&x, &y);
        if jwk.kid.as_ref().is_some_and(|given| *given != kid) {
            return Err(invalid("kid"));
        }
        let point = [&[0x04], x.as_slice(), &y].concat();
        let public = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).map_err(|_| invalid("x"))?;
        if keys.len() == TRUST_KEYS_MAX {
            return Err(too_many(path));
        }
        keys.push(ShcKey { kid, issuer: set.issuer.clone(), revoked: false, public });
    }
    Ok(())
}

/// RFC 7638: the SHA-256 of the required members in alphabetical order.
fn thumbprint(x: &[u8], y: &[u8]) -> String {
    let [x, y] = [x, y].map(|coordinate| URL_SAFE_NO_PAD.encode(coordinate));
    let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, members.as_bytes()))
}

fn too_many(path: &Path) -> KeysError {
    KeysError::TooMany { path: path.to_owned(), limit: TRUST_KEYS_MAX }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p384_signatures_become_the_shortest_der() {
        let mut signature = [0; 96];
        signature[47] = 1;
        signature[48] = 0x80;
        let der = p384_der(&signature).unwrap();
        assert_eq!(der[..7], [0x30, 54, 2, 1, 1, 2, 49]);
        assert_eq!((der[7..9].to_vec(), der.len()), (vec![0, 0x80], 56));
        assert_eq!(p384_der(&[0; 96]).unwrap(), [0x30, 6, 2, 1, 0, 2, 1, 0]);
        assert_eq!(p384_der(&[0xff; 96]).unwrap().len(), 2 + 2 * 51);
        for length in [0, 48, 95, 97] {
            assert_eq!(p384_der(&vec![1; length]), None, "{length}");
        }
    }

    #[test]
    fn a_run_is_found_among_its_neighbours() {
        let sorted = [1, 3, 3, 3, 7];
        for (wanted, length) in [(0, 0), (1, 1), (2, 0), (3, 3), (7, 1), (8, 0)] {
            assert_eq!(run(&sorted, |element| element.cmp(&wanted)), vec![wanted; length]);
        }
    }
}
