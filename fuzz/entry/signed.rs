//! Signed payloads: as they come, and with what is under a signature chosen by the fuzzer, which could not
//! make the signature.

use std::sync::OnceLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use scangate::payload::{self, Claim, SignedForm};
use scangate::scan::UnixMillis;
use scangate::verify::{self, Holder, Keys, Kid, TokenKind};
use serde_json::json;

const NOW: UnixMillis = UnixMillis(1_637_736_569_000);

struct Issuer {
    keys: Keys,
    sg1: Ed25519KeyPair,
    sg1_kid: Kid,
    nhs: EcdsaKeyPair,
}

/// Keys of this process's own, through the gateway's own loader.
fn issuer() -> &'static Issuer {
    static ISSUER: OnceLock<Issuer> = OnceLock::new();
    ISSUER.get_or_init(|| {
        let sg1 = Ed25519KeyPair::generate().expect("an Ed25519 key");
        let nhs = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a P-256 key");
        let public = sg1.public_key().as_ref();
        let sg1_kid = Kid::of_public_key(public);
        let point = nhs.public_key().as_ref();
        let files = [
            (
                "sg1/one.json",
                json!({
                    "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(public),
                    "kid": sg1_kid.to_string(), "epoch": 1, "issuer": "scangate",
                }),
            ),
            (
                "nhs/one.json",
                json!({
                    "kty": "EC", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode(&point[1..33]),
                    "y": URL_SAFE_NO_PAD.encode(&point[33..]), "kid": "one",
                }),
            ),
        ];
        let dir = std::env::temp_dir().join(format!("scangate-fuzz-{}-signed", std::process::id()));
        for (name, file) in files {
            let path = dir.join("keys").join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder for the keys");
            std::fs::write(path, file.to_string()).expect("a key file");
        }
        let keys = Keys::load(&dir).expect("the keys");
        std::fs::remove_dir_all(&dir).expect("the keys' folder is there");
        Issuer { keys, sg1, sg1_kid, nhs }
    })
}

/// First byte even: the rest is the text behind `SG1:`. Odd: the rest are claims, which get a signature.
pub fn sg1(data: &[u8]) {
    let Some((mode, data)) = data.split_first() else {
        return;
    };
    let issuer = issuer();
    if mode % 2 == 0 {
        if let Ok(text) = std::str::from_utf8(data) {
            let text = format!("SG1:{text}");
            assert!(verify::sg1(&text, NOW, &issuer.keys).is_err(), "nobody signed this");
            assert!(payload::parse(&text).is_ok() || text.len() > 512);
        }
        return;
    }
    let header = [&[0xa2, 0x01, 0x27, 0x04][..], &bytes(issuer.sg1_kid.as_bytes())].concat();
    let signed = [b"\x84\x6aSignature1", &bytes(&header)[..], &bytes(b""), &bytes(data)].concat();
    let signature = issuer.sg1.sign(&signed);
    let token = [&[0x84][..], &bytes(&header), &[0xa0], &bytes(data), &bytes(signature.as_ref())].concat();
    let text = format!("SG1:{}", base45::encode(&token));
    if let Ok(Claim::Signed(form)) = payload::parse(&text)
        && let Ok(verified) = verify::signed(form, NOW, &issuer.keys)
    {
        assert!(verified.validity.from_s <= NOW.seconds() && NOW.seconds() < verified.validity.until_s);
        let is_own = matches!(verified.holder, Holder::Cti(TokenKind::Person | TokenKind::Place, _));
        assert!(is_own || matches!(verified.holder, Holder::Sealed { .. }));
    }
}

/// A CBOR byte string.
pub(super) fn bytes(content: &[u8]) -> Vec<u8> {
    let head = match u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes() {
        [0, small @ 0..=23] => vec![0x40 | small],
        [0, byte] => vec![0x58, byte],
        [high, low] => vec![0x59, high, low],
    };
    [&head, content].concat()
}

/// First byte even: the rest is the text behind the prefix. Odd: a header up to the first line feed and a payload
/// behind it, which get a signature.
pub fn nhs(data: &[u8]) {
    let Some((mode, data)) = data.split_first() else {
        return;
    };
    let issuer = issuer();
    if mode % 2 == 0 {
        if let Ok(text) = std::str::from_utf8(data) {
            let text = format!("UKC19TRACING:1:{text}");
            assert!(verify::signed(SignedForm::Nhs(&text), NOW, &issuer.keys).is_err(), "nobody signed this");
        }
        return;
    }
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (header, payload) = data.split_at(at);
    let payload = payload.get(1..).unwrap_or_default();
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = issuer.nhs.sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature");
    let text = format!("UKC19TRACING:1:{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()));
    if let Ok(verified) = verify::signed(SignedForm::Nhs(&text), NOW, &issuer.keys) {
        let header: serde_json::Value = serde_json::from_slice(header).expect("JSON");
        assert!(header["alg"] == "ES256" && header["kid"] == "one");
        let Holder::NhsVenue(id) = verified.holder else { panic!("a poster is a venue") };
        assert!((1..=32).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }
}
