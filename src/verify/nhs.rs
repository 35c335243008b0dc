//! NHS place poster: `UKC19TRACING:1:` and a JWT (RFC 7519) that the health service signed with ES256.
//!
//! ```text
//! header  {"alg":"ES256","kid":"…","typ":"JWT"}
//! payload {"id":"4WT59M5Y","opn":"…","adr":"…","pt":"…","pc":"…","vt":"…"}
//! ```
//!
//! As the service's published app reads it (nhsx/covid-19-app-system-public): the venue's `id` is what a
//! check-in needs; name, address, postcode and kind are not looked at. A poster doesn't expire; it ends
//! with its key, which is revoked by its kid.
//!
//! A JWT library is not used here, since its validation turns on claims that a poster doesn't have.

use std::borrow::Cow;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::keyfile::KeyFile;
use super::keys::{DeviceAlgorithm, Keys, KeysError};
use super::{Holder, Validity, Verified};
use crate::payload::{NHS_BYTES_MAX, NHS_PREFIX};
use crate::scan::{Form, Outcome, Refusal};

/// The longest venue id, in characters; the service's have eight.
const ID_CHARACTERS_MAX: usize = 32;

/// A key of the health service's.
pub struct NhsKey {
    /// The key id that posters name.
    pub kid: String,
    /// Whether it has been revoked.
    pub revoked: bool,
    public: ParsedPublicKey,
}

impl NhsKey {
    /// The key in a file: P-256, since posters are signed with ES256 alone.
    pub(super) fn read(path: &std::path::Path, file: &KeyFile, revoked: bool) -> Result<Self, KeysError> {
        let invalid = |field| KeysError::Invalid { path: path.to_owned(), field };
        let (DeviceAlgorithm::Es256, public) = file.public(path)? else {
            return Err(invalid("crv"));
        };
        let public = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &public).map_err(|_| invalid("x"))?;
        Ok(Self { kid: file.kid.clone(), revoked, public })
    }
}

/// Verifies a poster, prefix included.
///
/// # Errors
/// It can't be read, its key is unknown or revoked, or its signature doesn't hold.
pub fn nhs(text: &str, keys: &Keys) -> Result<Verified, Refusal> {
    let (signed, header, payload, signature) = parts(text).ok_or(UNREADABLE)?;
    let header = json(header)?;
    let header: Header<'_> = serde_json::from_str(&header).map_err(|_| HEADER)?;
    // RFC 7515: a token that names an extension must not be read without it.
    if header.crit.is_some() {
        return Err(HEADER);
    }
    if header.alg != "ES256" {
        return Err(Refusal::new(Outcome::BadSignature, "an NHS place poster must be signed with ES256"));
    }
    let key = keys.nhs_key(&header.kid).ok_or(UNKNOWN_KEY)?;
    if key.revoked {
        return Err(REVOKED_KEY);
    }
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| UNREADABLE)?;
    if key.public.verify_sig(signed.as_bytes(), &signature).is_err() {
        return Err(Refusal::new(Outcome::BadSignature, "the NHS place poster's signature does not verify"));
    }
    let payload = json(payload)?;
    let venue: Venue<'_> = serde_json::from_str(&payload).map_err(|_| VENUE)?;
    let is_id = (1..=ID_CHARACTERS_MAX).contains(&venue.id.len())
        && venue.id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !is_id {
        return Err(VENUE);
    }
    let holder = Holder::NhsVenue(venue.id.into_owned());
    Ok(Verified { holder, form: Form::NhsPlace, validity: Validity::ALWAYS })
}

const UNREADABLE: Refusal =
    Refusal::new(Outcome::Unrecognized, "an NHS place poster must be a JWT of three base64url parts");
const HEADER: Refusal =
    Refusal::new(Outcome::Unrecognized, "the NHS place poster's header must have alg and kid, and no crit");
const VENUE: Refusal =
    Refusal::new(Outcome::Unrecognized, "the NHS place poster's id must be 1 to 32 letters and digits");
const UNKNOWN_KEY: Refusal =
    Refusal::new(Outcome::UnknownKey, "no key is known under the NHS place poster's kid");
const REVOKED_KEY: Refusal = Refusal::new(Outcome::Revoked, "the NHS place poster's key has been revoked");

#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    #[serde(borrow)]
    kid: Cow<'a, str>,
    crit: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Venue<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
}

/// The JSON behind a part. All of it must be UTF-8: serde_json would not look at the bytes of what it passes over.
fn json(part: &str) -> Result<String, Refusal> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| UNREADABLE)?;
    String::from_utf8(bytes).map_err(|_| UNREADABLE)
}

/// What is signed, and its header, payload and signature.
fn parts(text: &str) -> Option<(&str, &str, &str, &str)> {
    if text.len() > NHS_BYTES_MAX {
        return None;
    }
    let (signed, signature) = text.strip_prefix(NHS_PREFIX)?.rsplit_once('.')?;
    let (header, payload) = signed.split_once('.')?;
    Some((signed, header, payload, signature))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::payload::{self, Claim, SignedForm};
    use crate::scan::UnixMillis;
    use crate::verify::manage::{KeyUse, keys_list, keys_revoke, keys_rotate};
    use crate::verify::{KeyStore, Revocation, signed};

    const HEADER: &str = r#"{"alg":"ES256","typ":"JWT","kid":"poster-1"}"#;
    const VENUE: &str = r#"{"id":"4WT59M5Y","opn":"Town Hall","pc":"CM1","vt":"004"}"#;

    fn pair() -> EcdsaKeyPair {
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()
    }

    /// SubjectPublicKeyInfo in PEM, as the service publishes its keys.
    fn pem(pair: &EcdsaKeyPair) -> String {
        use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let body = STANDARD.encode(spki.as_ref());
        format!("-----BEGIN PUBLIC KEY-----\n{}\n{}\n-----END PUBLIC KEY-----\n", &body[..64], &body[64..])
    }

    fn poster(pair: &EcdsaKeyPair, header: &str, payload: impl AsRef<[u8]>) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{NHS_PREFIX}{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    fn write(dir: &Path, name: &str, pem: &str) {
        std::fs::create_dir_all(dir.join("keys/nhs")).unwrap();
        std::fs::write(dir.join("keys/nhs").join(name), pem).unwrap();
    }

    fn setup() -> (tempfile::TempDir, EcdsaKeyPair, KeyStore) {
        let (dir, pair) = (tempfile::tempdir().unwrap(), pair());
        write(dir.path(), "poster-1.pem", &pem(&pair));
        let store = KeyStore::open(dir.path()).unwrap();
        (dir, pair, store)
    }

    fn outcome(text: &str, store: &KeyStore) -> Option<Outcome> {
        nhs(text, &store.load()).err().map(|refusal| refusal.outcome)
    }

    #[test]
    fn the_venue_behind_a_signed_poster_is_proven_at_any_time() {
        let (_dir, pair, store) = setup();
        let text = poster(&pair, HEADER, VENUE);
        let Ok(Claim::Signed(form @ SignedForm::Nhs(_))) = payload::parse(&text) else { panic!("not NHS") };
        for now in [UnixMillis(0), UnixMillis(1_637_736_569_123), UnixMillis(i64::MAX)] {
            let verified = signed(form, now, &store.load()).unwrap();
            assert_eq!(verified.holder, Holder::NhsVenue("4WT59M5Y".to_owned()));
            assert_eq!((verified.form, verified.validity.check(now)), (Form::NhsPlace, Ok(())));
            assert!(!format!("{verified:?}").contains("4WT59M5Y"));
            let told = crate::issue::explain(&text, now, &store.load());
            assert_eq!((told.subject, told.trust), (Some("place"), Some("proven")));
            assert_eq!((told.outcome, told.expires, told.cti), ("accepted", None, None));
        }
    }

    #[test]
    fn no_bit_of_what_is_signed_can_change() {
        let (_dir, pair, store) = setup();
        let text = poster(&pair, HEADER, VENUE);
        let forged =
            text.replace(&URL_SAFE_NO_PAD.encode(VENUE), &URL_SAFE_NO_PAD.encode(VENUE.replace('4', "5")));
        assert_ne!(forged, text);
        assert_eq!(outcome(&forged, &store), Some(Outcome::BadSignature));
        assert_eq!(
            outcome(&poster(&super::tests::pair(), HEADER, VENUE), &store),
            Some(Outcome::BadSignature)
        );
        for algorithm in ["none", "HS256", "EdDSA", "es256", ""] {
            let text = poster(&pair, &HEADER.replace("ES256", algorithm), VENUE);
            assert_eq!(outcome(&text, &store), Some(Outcome::BadSignature), "{algorithm}");
        }
        let unsigned = text.rsplit_once('.').unwrap().0;
        assert_eq!(outcome(&format!("{unsigned}."), &store), Some(Outcome::BadSignature));
    }

    #[test]
    fn an_unknown_key_and_a_revoked_one_are_told_apart() {
        let (dir, pair, store) = setup();
        let (text, other) =
            (poster(&pair, HEADER, VENUE), poster(&pair, &HEADER.replace("poster-1", "poster-2"), VENUE));
        assert_eq!(outcome(&other, &store), Some(Outcome::UnknownKey));
        write(dir.path(), "poster-2.pem", &pem(&pair));
        assert!(store.reload().unwrap());
        assert_eq!(outcome(&other, &store), None);
        keys_revoke(dir.path(), &Revocation::Kid("poster-1".to_owned()), UnixMillis(0)).unwrap();
        assert!(store.reload().unwrap());
        assert_eq!(outcome(&text, &store), Some(Outcome::Revoked));
        assert_eq!(outcome(&other, &store), None);
        let listed = keys_list(dir.path()).unwrap();
        let listed: Vec<_> = listed.iter().map(|key| (key.key_use, key.kid.as_str(), key.revoked)).collect();
        assert_eq!(listed, [(KeyUse::Nhs, "poster-1", true), (KeyUse::Nhs, "poster-2", false)]);
        assert!(keys_rotate(dir.path(), KeyUse::Nhs, UnixMillis(0)).is_err());
        std::fs::remove_file(dir.path().join("keys/nhs/poster-1.pem")).unwrap();
        assert!(store.reload().unwrap());
        assert_eq!(outcome(&text, &store), Some(Outcome::UnknownKey));
    }

    #[test]
    fn what_is_no_poster_is_unrecognized() {
        let (_dir, pair, store) = setup();
        let latin_1 = poster(&pair, HEADER, b"{\"id\":\"4WT59M5Y\",\"opn\":\"Caf\xe9\"}");
        assert_eq!(outcome(&latin_1, &store), Some(Outcome::Unrecognized));
        let body = |header: &str, payload: &str| poster(&pair, header, payload);
        for text in [
            NHS_PREFIX.to_owned(),
            format!("{NHS_PREFIX}e30"),
            format!("{NHS_PREFIX}e30.e30"),
            format!("{NHS_PREFIX}%%.e30.AA"),
            body(HEADER, VENUE).replacen("1:", "1:2:", 1),
            format!("{}=", body(HEADER, VENUE)),
            body("{}", VENUE),
            body(r#"{"alg":"ES256"}"#, VENUE),
            body(r#"{"alg":"ES256","kid":7}"#, VENUE),
            body(&HEADER.replace("\"typ\"", "\"crit\""), VENUE),
            body(HEADER, "not json"),
            body(HEADER, "{}"),
            body(HEADER, r#"{"id":""}"#),
            body(HEADER, r#"{"id":7}"#),
            body(HEADER, r#"{"id":"a/b"}"#),
            body(HEADER, r#"{"id":"A","id":"B"}"#),
            body(HEADER, &format!(r#"{{"id":"{}"}}"#, "A".repeat(33))),
            format!("{NHS_PREFIX}{}", "A".repeat(NHS_BYTES_MAX)),
        ] {
            assert_eq!(outcome(&text, &store), Some(Outcome::Unrecognized), "{text}");
        }
    }

    #[test]
    fn only_a_p_256_key_is_loaded() {
        let (dir, _pair, store) = setup();
        let ed25519 = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
                       -----END PUBLIC KEY-----\n";
        for (name, text) in [("poster-2.pem", ed25519), ("poster-2.pem", "nothing")] {
            write(dir.path(), name, text);
            assert!(matches!(store.reload(), Err(KeysError::Invalid { .. })), "{text}");
        }
    }
}
