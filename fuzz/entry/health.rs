//! Health certificates and cards: as they come, and with what is under a signature chosen by the fuzzer, which
//! could not make the signature.

use std::sync::OnceLock;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use scangate::payload::{self, Claim, SignedForm};
use scangate::scan::{Outcome, Refusal, UnixMillis};
use scangate::verify::{self, Holder, Keys, Verified};

use super::signed::bytes;

const NOW: UnixMillis = UnixMillis(1_637_736_569_000);

const CARD_ISSUER: &str = "https://example.org/issuer";

struct Issuer {
    keys: Keys,
    pair: EcdsaKeyPair,
    /// Of the certificate.
    kid: [u8; 8],
    /// Of the JWK.
    thumbprint: String,
}

/// A key of this process's own, as a certificate and as a JWK, through the gateway's own loader.
fn issuer() -> &'static Issuer {
    static ISSUER: OnceLock<Issuer> = OnceLock::new();
    ISSUER.get_or_init(|| {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a P-256 key");
        let point = pair.public_key().as_ref();
        let certificate = certificate(point);
        let [x, y] = [&point[1..33], &point[33..]].map(|half| URL_SAFE_NO_PAD.encode(half));
        let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let set = format!(r#"{{"issuer":"{CARD_ISSUER}","keys":[{members}]}}"#);
        let body = STANDARD.encode(&certificate);
        let pem = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        let dir = std::env::temp_dir().join(format!("scangate-fuzz-{}-health", std::process::id()));
        for (name, file) in [("hc1/one.pem", pem), ("shc/one.json", set)] {
            let path = dir.join("keys").join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder for the keys");
            std::fs::write(path, file).expect("a key file");
        }
        let keys = Keys::load(&dir).expect("the keys");
        std::fs::remove_dir_all(&dir).expect("the keys' folder is there");
        let kid = digest(&SHA256, &certificate).as_ref().first_chunk().copied().unwrap_or_default();
        let thumbprint = URL_SAFE_NO_PAD.encode(digest(&SHA256, members.as_bytes()));
        Issuer { keys, pair, kid, thumbprint }
    })
}

/// The least that is a certificate for this point of P-256. Nobody checks its signature.
fn certificate(point: &[u8]) -> Vec<u8> {
    const ECDSA_WITH_SHA256: &[u8] = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02";
    const P256: &[u8] =
        b"\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
    const NOBODY: &[u8] = b"\x30\x00";
    let validity = der(0x30, &[&der(0x17, &[b"210101000000Z"]), &der(0x17, &[b"310101000000Z"])]);
    let key = der(0x30, &[P256, &der(0x03, &[&[0], point])]);
    let signed = der(0x30, &[b"\x02\x01\x01", ECDSA_WITH_SHA256, NOBODY, &validity, NOBODY, &key]);
    der(0x30, &[&signed, ECDSA_WITH_SHA256, b"\x03\x02\x00\x00"])
}

fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let head = match u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes() {
        [0, short @ 0..=127] => vec![tag, short],
        [0, byte] => vec![tag, 0x81, byte],
        [high, low] => vec![tag, 0x82, high, low],
    };
    [head, content].concat()
}

fn verified(text: &str) -> Result<Verified, Refusal> {
    match payload::parse(text)? {
        Claim::Signed(form @ (SignedForm::Hc1(_) | SignedForm::Shc(_))) => {
            verify::signed(form, NOW, &issuer().keys)
        }
        other => panic!("not a health certificate or card: {other:?}"),
    }
}

/// A refusal is one of those that a code nobody signed, or one that was signed badly, can meet.
fn check(verdict: &Result<Verified, Refusal>, label: &str) {
    match verdict {
        Ok(verified) => {
            let Holder::Person { label: found, value } = &verified.holder else { panic!("a person") };
            assert!(*found == label && !value.is_empty());
            assert!(verified.validity.check(NOW).is_ok());
        }
        Err(refusal) => assert!(matches!(
            refusal.outcome,
            Outcome::Unrecognized
                | Outcome::ChunkedCode
                | Outcome::UnknownKey
                | Outcome::BadSignature
                | Outcome::Expired
                | Outcome::NotYetValid
        )),
    }
}

/// By the first byte, the rest is the text behind `HC1:`; what is behind base45; a message; or claims, which
/// get a signature.
pub fn hc1(data: &[u8]) {
    let Some((mode, data)) = data.split_first() else {
        return;
    };
    let text = match mode % 4 {
        0 => String::from_utf8_lossy(data).into_owned(),
        1 => base45::encode(data),
        2 => base45::encode(zlib(data)),
        _ => base45::encode(zlib(&message(data))),
    };
    let verdict = verified(&format!("HC1:{text}"));
    assert!(verdict.is_err() || mode % 4 == 3, "nobody signed this");
    check(&verdict, "uvci");
}

/// Claims in a message that is signed.
fn message(claims: &[u8]) -> Vec<u8> {
    let issuer = issuer();
    let header = [&[0xa2, 0x01, 0x26, 0x04][..], &bytes(&issuer.kid)].concat();
    let signed = [b"\x84\x6aSignature1", &bytes(&header)[..], &bytes(b""), &bytes(claims)].concat();
    let signature = issuer.pair.sign(&SystemRandom::new(), &signed).expect("a signature");
    [&[0xd2, 0x84][..], &bytes(&header), &[0xa0], &bytes(claims), &bytes(signature.as_ref())].concat()
}

/// One stored block of deflate.
fn stored(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
    let content = &content[..usize::from(length)];
    [&[0x01][..], &length.to_le_bytes(), &(!length).to_le_bytes(), content].concat()
}

fn zlib(content: &[u8]) -> Vec<u8> {
    let (low, high) = content.iter().fold((1_u32, 0_u32), |(low, high), byte| {
        let low = (low + u32::from(*byte)) % 65_521;
        (low, (high + low) % 65_521)
    });
    [&[0x78, 0x01][..], &stored(content), &(high << 16 | low).to_be_bytes()].concat()
}

/// By the first byte, the rest is the text behind `shc:/`; a JWS; what is deflated in a signed one; or the
/// JSON in that.
pub fn shc(data: &[u8]) {
    let Some((mode, data)) = data.split_first() else {
        return;
    };
    let text = match mode % 4 {
        0 => String::from_utf8_lossy(data).into_owned(),
        1 => digits(data),
        2 => digits(jws(data).as_bytes()),
        _ => digits(jws(&stored(data)).as_bytes()),
    };
    let verdict = verified(&format!("shc:/{text}"));
    assert!(verdict.is_err() || mode % 4 > 1, "nobody signed this");
    check(&verdict, "shc");
}

fn jws(payload: &[u8]) -> String {
    let issuer = issuer();
    let header = format!(r#"{{"alg":"ES256","zip":"DEF","kid":"{}"}}"#, issuer.thumbprint);
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = issuer.pair.sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
}

/// Each character less 45, where it is one that has such a pair.
fn digits(jws: &[u8]) -> String {
    let pairs = jws.iter().filter_map(|byte| byte.checked_sub(45)).map(|pair| pair % 100);
    pairs.flat_map(|pair| [pair / 10, pair % 10]).map(|digit| char::from(b'0' + digit)).collect()
}
