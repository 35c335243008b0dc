//! SMART Health Cards: the specification's own examples, and cards signed here for every outcome.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod health_support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flate2::Compression;
use flate2::write::DeflateEncoder;
use health_support::{hex, keys, name, outcome, write};
use scangate::payload::{self, Claim, SignedForm};
use scangate::scan::{Form, Outcome, Refusal, UnixMillis};
use scangate::verify::{self, Keys, KeysError, Verified};
use serde_json::{Value, json};

const NOW_S: i64 = 1_637_736_569;
const ISSUER: &str = "https://example.org/issuer";

/// The issuer of the specification's examples.
const EXAMPLES: &str = include_str!("data/shc/issuer.json");

fn read_at(text: &str, seconds: i64, keys: &Keys) -> Result<Verified, Refusal> {
    match payload::parse(text)? {
        Claim::Signed(form @ SignedForm::Shc(_)) => verify::signed(form, UnixMillis(seconds * 1000), keys),
        other => panic!("not a card: {other:?}"),
    }
}

fn read(text: &str, keys: &Keys) -> Result<Verified, Refusal> {
    read_at(text, NOW_S, keys)
}

/// Signs cards.
struct Issuer {
    pair: EcdsaKeyPair,
    kid: String,
    jwk: Value,
}

impl Issuer {
    fn new() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let [x, y] = [1..33, 33..65].map(|range| base64(&pair.public_key().as_ref()[range]));
        let members = [("crv", "P-256"), ("kty", "EC"), ("x", &x), ("y", &y)];
        let sorted: BTreeMap<&str, &str> = members.into_iter().collect();
        let kid = base64(digest(&SHA256, serde_json::to_string(&sorted).unwrap().as_bytes()).as_ref());
        let jwk = json!({
            "kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": kid, "use": "sig", "alg": "ES256",
        });
        Self { pair, kid, jwk }
    }

    fn file(&self, issuer: &str) -> String {
        json!({ "issuer": issuer, "keys": [self.jwk] }).to_string()
    }

    fn keys(&self) -> Keys {
        keys(&[("shc/a.json", &self.file(ISSUER))])
    }

    fn header(&self) -> Value {
        json!({ "alg": "ES256", "zip": "DEF", "kid": self.kid })
    }

    /// Signs these bytes as they are.
    fn jws(&self, header: &[u8], payload: &[u8]) -> String {
        let input = format!("{}.{}", base64(header), base64(payload));
        let signature = self.pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", base64(signature.as_ref()))
    }

    fn card(&self, card: &Value) -> String {
        digits(&self.jws(self.header().to_string().as_bytes(), &deflate(card.to_string().as_bytes())))
    }
}

fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn digits(jws: &str) -> String {
    jws.bytes().fold("shc:/".to_owned(), |mut text, byte| {
        write!(text, "{:02}", byte - 45).unwrap();
        text
    })
}

fn good() -> Value {
    json!({ "iss": ISSUER, "nbf": NOW_S, "vc": { "rid": "MKyCxh7p6uQ", "credentialSubject": {} } })
}

#[test]
fn the_specifications_examples_are_read_under_their_issuers_keys() {
    let keys = keys(&[("shc/examples.json", EXAMPLES)]);
    let issuer = "https://spec.smarthealth.cards/examples/issuer";
    // Issued at this second, with a fraction.
    let issued_s = 1_687_450_764;
    for (text, rid) in [
        (include_str!("data/shc/example-00.txt"), Some("MKyCxh7p6uQ")),
        (include_str!("data/shc/example-01.txt"), None),
        (include_str!("data/shc/example-03.txt"), Some("vwAjHdarZuc")),
    ] {
        let text = text.trim();
        let verified = read_at(text, issued_s, &keys).unwrap();
        let (label, value) = name(&verified);
        assert_eq!((label, verified.form), ("shc", Form::Shc));
        match rid {
            Some(rid) => assert_eq!(value, format!("{issuer}#{rid}")),
            None => assert_eq!(value.strip_prefix(&format!("{issuer}#")).map(str::len), Some(64)),
        }
        assert!(!format!("{verified:?}").contains("spec.smarthealth"));
        assert_eq!(outcome(read_at(text, issued_s - 301, &keys)), Some(Outcome::NotYetValid));
        let much_later = outcome(read_at(text, issued_s + 400_000_000, &keys));
        assert_eq!(much_later, (rid == Some("vwAjHdarZuc")).then_some(Outcome::Expired));
        assert_eq!(outcome(read_at(text, issued_s, &Issuer::new().keys())), Some(Outcome::UnknownKey));
    }
    let chunk = payload::parse(include_str!("data/shc/chunk-1-of-3.txt"));
    assert_eq!(outcome(chunk), Some(Outcome::ChunkedCode));
}

#[test]
fn validity_has_exact_bounds() {
    let issuer = Issuer::new();
    let keys = issuer.keys();
    let mut card = good();
    card["exp"] = json!(NOW_S + 60);
    let text = issuer.card(&card);
    for (seconds, expected) in [
        (-301, Some(Outcome::NotYetValid)),
        (-300, None),
        (0, None),
        (59, None),
        (60, Some(Outcome::Expired)),
    ] {
        assert_eq!(outcome(read_at(&text, NOW_S + seconds, &keys)), expected, "{seconds}");
    }
    assert!(read_at(&issuer.card(&good()), NOW_S + 1_000_000_000, &keys).is_ok());
    for (member, value, expected) in [
        ("nbf", json!(1e300), Some(Outcome::NotYetValid)),
        ("nbf", json!(-1e300), None),
        ("exp", json!(-1), Some(Outcome::Expired)),
        ("exp", json!(1e300), None),
        ("exp", Value::Null, None),
        ("exp", json!("tomorrow"), Some(Outcome::Unrecognized)),
        ("nbf", Value::Null, Some(Outcome::Unrecognized)),
    ] {
        let mut card = good();
        card[member] = value;
        assert_eq!(outcome(read(&issuer.card(&card), &keys)), expected, "{card}");
    }
}

#[test]
fn an_issuer_speaks_for_itself_only() {
    let (one, other) = (Issuer::new(), Issuer::new());
    let keys = keys(&[
        ("shc/a.json", &one.file(ISSUER)),
        ("shc/b.json", &other.file("https://example.org/other")),
        ("shc/shared.json", &one.file("https://example.org/shared")),
    ]);
    assert!(read(&one.card(&good()), &keys).is_ok());
    assert_eq!(outcome(read(&other.card(&good()), &keys)), Some(Outcome::UnknownKey));
    // One key of two issuers speaks for both.
    let mut card = good();
    card["iss"] = json!("https://example.org/shared");
    assert!(read(&one.card(&card), &keys).is_ok());
    card["iss"] = json!(format!("{ISSUER}/"));
    assert_eq!(outcome(read(&one.card(&card), &keys)), Some(Outcome::UnknownKey));
}

#[test]
fn what_is_not_signed_so_is_refused() {
    let issuer = Issuer::new();
    let keys = issuer.keys();
    let packed = deflate(good().to_string().as_bytes());
    let with =
        |header: Value| outcome(read(&digits(&issuer.jws(header.to_string().as_bytes(), &packed)), &keys));
    let kid = issuer.kid.as_str();
    for (header, expected) in [
        (json!({ "alg": "none", "zip": "DEF", "kid": kid }), Outcome::BadSignature),
        (json!({ "alg": "HS256", "zip": "DEF", "kid": kid }), Outcome::BadSignature),
        (json!({ "alg": "ES256", "zip": "GZIP", "kid": kid }), Outcome::Unrecognized),
        (json!({ "alg": "ES256", "zip": "DEF", "kid": "x" }), Outcome::UnknownKey),
        (json!({ "alg": "ES256", "zip": "DEF" }), Outcome::Unrecognized),
        (json!({ "zip": "DEF", "kid": kid }), Outcome::Unrecognized),
        (json!({ "alg": "ES256", "kid": kid }), Outcome::Unrecognized),
        (json!([]), Outcome::Unrecognized),
    ] {
        assert_eq!(with(header.clone()), Some(expected), "{header}");
    }
    let jws = issuer.jws(issuer.header().to_string().as_bytes(), &packed);
    let (input, signature) = jws.rsplit_once('.').unwrap();
    let other = Issuer::new().pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
    for (changed, expected) in [
        (format!("{input}.{}", base64(other.as_ref())), Outcome::BadSignature),
        (format!("{input}."), Outcome::BadSignature),
        (format!("{input}.{signature}A"), Outcome::BadSignature),
        (format!("{input}.{}", &signature[..84]), Outcome::BadSignature),
        (input.to_owned(), Outcome::Unrecognized),
        (format!("{jws}.x"), Outcome::Unrecognized),
        ("x".to_owned(), Outcome::Unrecognized),
    ] {
        assert_eq!(outcome(read(&digits(&changed), &keys)), Some(expected), "{changed}");
    }
}

#[test]
fn no_changed_digit_is_accepted() {
    let issuer = Issuer::new();
    let keys = issuer.keys();
    let text = issuer.card(&good());
    for at in 5..text.len() {
        for digit in b'0'..=b'9' {
            let mut bytes = text.clone().into_bytes();
            if std::mem::replace(&mut bytes[at], digit) != digit {
                let changed = String::from_utf8(bytes).unwrap();
                assert!(read(&changed, &keys).is_err(), "{at}: {}", char::from(digit));
            }
        }
        assert!(read(&text[..at], &keys).is_err(), "cut at {at}");
    }
}

#[test]
fn a_payload_that_cannot_be_read_is_refused_after_its_signature() {
    let issuer = Issuer::new();
    let keys = issuer.keys();
    let header = issuer.header().to_string();
    let sign = |payload: &[u8]| outcome(read(&digits(&issuer.jws(header.as_bytes(), payload)), &keys));
    let bomb = deflate(&vec![b' '; 1 << 20]);
    let deep = deflate("[".repeat(16_000).as_bytes());
    let twice = deflate(format!(r#"{{"iss":"{ISSUER}","iss":"x","nbf":1,"vc":{{}}}}"#).as_bytes());
    let packed = deflate(good().to_string().as_bytes());
    let longer = [packed.as_slice(), &[0]].concat();
    for payload in [&b""[..], b"{}", &bomb, &deep, &twice, &deflate(b"[]"), &longer] {
        assert_eq!(sign(payload), Some(Outcome::Unrecognized), "{payload:.40x?}");
    }
    assert_eq!(sign(&packed), None);
    for (rid, expected) in [
        (json!("A-_9"), None),
        (json!("A".repeat(24)), None),
        (Value::Null, None),
        (json!("A".repeat(25)), Some(Outcome::Unrecognized)),
        (json!(""), Some(Outcome::Unrecognized)),
        (json!("a#b"), Some(Outcome::Unrecognized)),
        (json!(7), Some(Outcome::Unrecognized)),
    ] {
        let mut card = good();
        card["vc"]["rid"] = rid;
        assert_eq!(outcome(read(&issuer.card(&card), &keys)), expected, "{card}");
    }
    for text in ["shc:/99", "shc:/00", "shc:/000100010001"] {
        assert_eq!(outcome(read(text, &keys)), Some(Outcome::Unrecognized), "{text}");
    }
}

#[test]
fn keys_and_cards_can_be_revoked() {
    let issuer = Issuer::new();
    let with = |kind: &str, value: &str| {
        let line = format!(r#"{{"kind":"{kind}","value":"{value}","at":"2021-05-01T00:00:00Z"}}"#) + "\n";
        keys(&[("shc/a.json", &issuer.file(ISSUER)), ("revoked.ndjson", &line)])
    };
    let text = issuer.card(&good());
    assert_eq!(outcome(read(&text, &with("kid", &issuer.kid))), Some(Outcome::Revoked));
    let hash = digest(&SHA256, format!("{ISSUER}#MKyCxh7p6uQ").as_bytes());
    assert_eq!(outcome(read(&text, &with("dcc", &hex(&hash.as_ref()[..16])))), Some(Outcome::Revoked));
    assert!(read(&text, &with("kid", "another")).is_ok());
}

#[test]
fn files_of_issuers_are_read_whole_or_refused_by_name() {
    let issuer = Issuer::new();
    let dir = tempfile::tempdir().unwrap();
    let refused = |content: &Value| {
        write(dir.path(), "shc/bad.json", &content.to_string());
        Keys::load(dir.path()).unwrap_err()
    };
    let with = |member: &str, value: Value| {
        let mut jwk = issuer.jwk.clone();
        jwk[member] = value;
        json!({ "issuer": ISSUER, "keys": [issuer.jwk, jwk] })
    };
    let url = |url: &str| json!({ "issuer": url, "keys": [issuer.jwk] });
    for (content, wanted) in [
        (with("kty", json!("RSA")), "kty"),
        (with("crv", json!("P-384")), "crv"),
        (with("crv", Value::Null), "crv"),
        (with("x", json!("AAAA")), "x"),
        (with("y", Value::Null), "y"),
        (with("y", issuer.jwk["x"].clone()), "kid"),
        (with("kid", json!("mine")), "kid"),
        (url("http://example.org"), "issuer"),
        (url("https://example.org/"), "issuer"),
        (url("https://example.org#a"), "issuer"),
        (url(&format!("https://{}", "a".repeat(2048))), "issuer"),
        (json!({ "issuer": ISSUER, "keys": [] }), "keys"),
    ] {
        let error = refused(&content);
        assert!(
            matches!(&error, KeysError::Invalid { path, field } if *field == wanted && path.ends_with("shc/bad.json")),
            "{content}: {error}"
        );
    }
    // A point that is on no curve, under its own thumbprint.
    let mut off = issuer.jwk.clone();
    off["y"] = off["x"].clone();
    off.as_object_mut().unwrap().remove("kid");
    let error = refused(&json!({ "issuer": ISSUER, "keys": [off] }));
    assert!(matches!(error, KeysError::Invalid { field: "x", .. }), "{error}");
    assert!(matches!(refused(&json!({ "keys": [] })), KeysError::Json { .. }));
    write(dir.path(), "shc/bad.json", &issuer.file(ISSUER));
    assert!(read(&issuer.card(&good()), &Keys::load(dir.path()).unwrap()).is_ok());
}
