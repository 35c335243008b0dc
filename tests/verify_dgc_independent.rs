//! Health certificates against a second verifier, made of other parts: coset and ciborium for the message and
//! its claims, p256 for ECDSA. Both must say the same of every code of the public test data, and of a spoilt
//! code the gateway may accept only what the other accepts too, under the same name.
//!
//! RSA and P-384 have no second implementation here: for their few codes the parts are compared, not the
//! signature.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod health_support;

use std::io::Read as _;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ciborium::value::Value;
use coset::{AsCborValue, CoseSign1, iana};
use health_support::dgc::{Sample, samples, seconds};
use health_support::issuer::code;
use health_support::name;
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use proptest::prelude::*;
use scangate::payload::SignedForm;
use scangate::scan::{Outcome, UnixMillis};
use scangate::verify::{self, Keys};

/// What the second verifier knows of a signer.
struct Signer {
    kid: [u8; 8],
    /// None for what is not on P-256.
    key: Option<VerifyingKey>,
}

impl Signer {
    fn of(sample: &Sample) -> Option<Self> {
        use x509_parser::prelude::FromDer as _;
        let der = STANDARD.decode(sample.certificate.as_deref()?).ok()?;
        let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(&der).ok()?;
        let point = &certificate.public_key().subject_public_key.data;
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
        Some(Self {
            kid: *hash.as_ref().first_chunk()?,
            key: VerifyingKey::from_sec1_bytes(point).ok().filter(|_| point.len() == 65),
        })
    }
}

/// What a code says, if all of it can be read and its signature holds (or can't be checked here).
#[derive(Debug, Clone, PartialEq)]
struct Read {
    uvci: String,
    issued_at_s: i64,
    expires_at_s: i64,
}

/// RFC 9285, by the letter.
fn base45(text: &str) -> Option<Vec<u8>> {
    const ALPHABET: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:";
    let digits: Option<Vec<u32>> = text
        .bytes()
        .map(|byte| ALPHABET.iter().position(|known| *known == byte).and_then(|at| u32::try_from(at).ok()))
        .collect();
    let mut bytes = Vec::new();
    for group in digits?.chunks(3) {
        let value = group.iter().rev().fold(0, |value, digit| value * 45 + digit);
        match group.len() {
            3 => bytes.extend_from_slice(&u16::try_from(value).ok()?.to_be_bytes()),
            2 => bytes.push(u8::try_from(value).ok()?),
            _ => return None,
        }
    }
    Some(bytes)
}

fn member<'v>(map: &'v Value, key: &Value) -> Option<&'v Value> {
    map.as_map()?.iter().find(|(name, _)| name == key).map(|(_, value)| value)
}

fn read(text: &str, signer: &Signer) -> Option<Read> {
    let packed = base45(text.strip_prefix("HC1:")?)?;
    let mut message = Vec::new();
    flate2::read::ZlibDecoder::new(packed.as_slice()).take(8193).read_to_end(&mut message).ok()?;
    let value = match ciborium::from_reader(message.as_slice()).ok()? {
        Value::Tag(61, inner) => *inner,
        value => value,
    };
    let value = match value {
        Value::Tag(18, inner) => *inner,
        value => value,
    };
    let message = CoseSign1::from_cbor_value(value).ok()?;
    let inside = &message.protected.header;
    let kid = if inside.key_id.is_empty() { &message.unprotected.key_id } else { &inside.key_id };
    if *kid != signer.kid {
        return None;
    }
    let algorithm = inside.alg.as_ref().or(message.unprotected.alg.as_ref())?;
    if let Some(key) = &signer.key {
        if *algorithm != coset::RegisteredLabelWithPrivate::Assigned(iana::Algorithm::ES256) {
            return None;
        }
        let signature = Signature::from_slice(&message.signature).ok()?;
        key.verify(&message.tbs_data(b""), &signature).ok()?;
    }
    let claims: Value = ciborium::from_reader(message.payload.as_deref()?).ok()?;
    let certificate = member(member(&claims, &Value::from(-260))?, &Value::from(1))?;
    let entries: Vec<&Value> = ["v", "t", "r"]
        .into_iter()
        .filter_map(|kind| member(certificate, &kind.into())?.as_array())
        .flatten()
        .collect();
    let [entry] = entries.as_slice() else { return None };
    let uvci = member(entry, &"ci".into())?.as_text()?.to_uppercase();
    Some(Read {
        uvci: uvci.strip_prefix("URN:UVCI:").unwrap_or(&uvci).to_owned(),
        issued_at_s: seconds(member(&claims, &Value::from(6))?)?,
        expires_at_s: seconds(member(&claims, &Value::from(4))?)?,
    })
}

/// What the gateway says, in the other's terms.
fn gateway(text: &str, now: UnixMillis, keys: &Keys) -> Result<Read, Outcome> {
    let verified = verify::signed(SignedForm::Hc1(text), now, keys).map_err(|refusal| refusal.outcome)?;
    Ok(Read {
        uvci: name(&verified).1.to_owned(),
        issued_at_s: verified.validity.from_s + verify::sg1::SKEW_S,
        expires_at_s: verified.validity.until_s - 1,
    })
}

#[test]
fn both_say_the_same_of_every_code_of_the_test_data() {
    let (mut accepted, mut refused, mut unchecked, mut differ) = (0, 0, 0, Vec::new());
    for sample in samples() {
        let (Some(message), Some(signer)) = (sample.message(), Signer::of(&sample)) else { continue };
        let text = code(&message);
        let other = read(&text, &signer);
        let now = other.as_ref().map_or(0, |read| read.issued_at_s * 1000);
        match (gateway(&text, UnixMillis(now), &sample.keys()), other) {
            (Ok(ours), Some(other)) if ours == other && signer.key.is_none() => unchecked += 1,
            (Ok(ours), Some(other)) if ours == other => accepted += 1,
            // What the certificate may sign, and when, is not the second verifier's to say.
            (Err(Outcome::UnknownKey), Some(_)) if is_about_the_certificate(&sample) => refused += 1,
            (Err(_), None) => refused += 1,
            (ours, other) => differ.push(format!("{}: {ours:?} and {other:?}", sample.file)),
        }
    }
    println!("both accept {accepted} (and {unchecked} by their parts alone), both refuse {refused}");
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    assert!(accepted > 400);
}

/// Issued before their certificate's notBefore.
const TOO_EARLY: [&str; 2] = ["BG/2DCode/raw/4.json", "LI/2DCode/raw/4.json"];

fn is_about_the_certificate(sample: &Sample) -> bool {
    TOO_EARLY.contains(&sample.file.as_str())
        || ["EXPECTEDKEYUSAGE", "EXPECTEDEXPIRATIONCHECK"]
            .iter()
            .any(|check| sample.expected.get(*check).is_some_and(|expected| expected == false))
}

/// A code that is accepted, with all that is needed to ask both.
struct Good {
    message: Vec<u8>,
    signer: Signer,
    keys: Keys,
    read: Read,
}

/// One code of each kind of headers, tags and country.
static GOOD: LazyLock<Vec<Good>> = LazyLock::new(|| {
    let good = |sample: &Sample| {
        let (message, signer) = (sample.message()?, Signer::of(sample)?);
        signer.key?;
        let (keys, read) = (sample.keys(), read(&code(&message), &signer)?);
        gateway(&code(&message), UnixMillis(read.issued_at_s * 1000), &keys).ok()?;
        Some(Good { message, signer, keys, read })
    };
    let mut seen = std::collections::BTreeSet::new();
    let country = |sample: &Sample| {
        let (country, name) = sample.file.split_once('/').unwrap();
        if country == "common" { name.to_owned() } else { country.to_owned() }
    };
    let all = samples();
    all.iter().filter(|sample| seen.insert(country(sample))).filter_map(good).collect()
});

/// Changes some bytes: bits, whole bytes, more and fewer.
fn spoil(message: &mut Vec<u8>, changes: &[(u8, usize, u8)]) {
    for &(kind, at, byte) in changes {
        let at = at % message.len().max(1);
        match kind {
            0 => message[at] ^= 1 << (byte % 8),
            1 => message[at] = byte,
            2 => message.insert(at, byte),
            3 => drop(message.remove(at)),
            // Early bytes hold the heads and headers.
            _ => message[at % 24] = byte,
        }
        if message.is_empty() {
            return;
        }
    }
}

fn check(text: &str, good: &Good) -> Result<bool, TestCaseError> {
    let now = UnixMillis(good.read.issued_at_s * 1000);
    let Ok(ours) = gateway(text, now, &good.keys) else { return Ok(false) };
    prop_assert_eq!(Some(ours), read(text, &good.signer));
    Ok(true)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn of_a_spoilt_message_no_more_is_accepted_than_by_the_other(
        which: usize, changes in proptest::collection::vec((0_u8..5, any::<usize>(), any::<u8>()), 1..4),
    ) {
        let good = &GOOD[which % GOOD.len()];
        let mut message = good.message.clone();
        spoil(&mut message, &changes);
        check(&code(&message), good)?;
    }

    #[test]
    fn nor_of_a_spoilt_text(
        which: usize, changes in proptest::collection::vec((any::<usize>(), 32_u8..91), 1..3),
    ) {
        let good = &GOOD[which % GOOD.len()];
        let mut text = code(&good.message).into_bytes();
        for (at, byte) in changes {
            let at = at % text.len();
            text[at] = byte;
        }
        check(std::str::from_utf8(&text).unwrap(), good)?;
    }
}

/// Every bit of the heads and headers, one by one: random changes would rarely meet the few that no signature
/// covers.
#[test]
fn of_every_bit_of_heads_and_headers_no_more_is_accepted() {
    let mut accepted = 0;
    for good in GOOD.iter() {
        for bit in 0..40 * 8 {
            let mut message = good.message.clone();
            message[bit / 8] ^= 1 << (bit % 8);
            accepted += usize::from(check(&code(&message), good).unwrap());
        }
    }
    println!("{} codes, {accepted} changed ones accepted by both", GOOD.len());
}
