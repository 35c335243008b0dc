//! Every format a scanner can send, alive, expired, revoked, tampered and mis-keyed, over HTTP: each gets
//! the outcome that the contract names. What a format cannot be (an unsigned code is never expired) has no
//! row.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod api_support;
mod health_support;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use api_support::{Server, payment_code, request};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use coset::CborSerializable as _;
use health_support::issuer::{Issuer, cbor, certificate, claims, code};
use health_support::write;
use scangate::issue;
use scangate::scan::UnixMillis;
use scangate::verify::{Keys, Revocation};
use serde_json::{Value, json};

const HOUR_S: i64 = 3600;
const HOUR: Duration = Duration::from_hours(1);
const SHC_ISSUER: &str = "https://spec.smarthealth.cards/examples/issuer";

/// A P-256 key that signs JSON Web Signatures.
struct JwsIssuer {
    pair: EcdsaKeyPair,
    public_pem: String,
}

impl JwsIssuer {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der()).unwrap();
        Self { pair, public_pem: key.public_key_pem() }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    }

    /// The key as a JWK, under its RFC 7638 thumbprint.
    fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..65]));
        let thumbprint =
            digest(&SHA256, format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#).as_bytes());
        json!({"kty": "EC", "kid": URL_SAFE_NO_PAD.encode(thumbprint), "use": "sig", "alg": "ES256", "crv": "P-256", "x": x, "y": y})
    }
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn jws(issuer: &JwsIssuer, header: &Value, payload: &[u8]) -> String {
    let signed =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(payload));
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes())))
}

/// A SMART Health Card in one code.
fn shc(issuer: &JwsIssuer, iss: &str, not_before_s: i64, expires_s: Option<i64>) -> String {
    let mut claims = json!({
        "iss": iss, "nbf": not_before_s,
        "vc": {"type": ["https://smarthealth.cards#health-card"], "rid": "MKyCxh7p6uQ", "credentialSubject": {
            "fhirVersion": "4.0.1",
            "fhirBundle": {"resourceType": "Bundle", "type": "collection", "entry": [
                {"fullUrl": "resource:0", "resource": {"resourceType": "Patient",
                    "name": [{"family": "Anyperson", "given": ["John", "B."]}], "birthDate": "1951-01-20"}},
            ]},
        }},
    });
    if let Some(expires_s) = expires_s {
        claims["exp"] = expires_s.into();
    }
    let header = json!({"zip": "DEF", "alg": "ES256", "kid": issuer.jwk()["kid"]});
    let jws = jws(issuer, &header, &deflated(claims.to_string().as_bytes()));
    jws.bytes().fold("shc:/".to_owned(), |text, byte| format!("{text}{:02}", byte - 45))
}

fn nhs(issuer: &JwsIssuer, kid: &str) -> String {
    let header = json!({"alg": "ES256", "typ": "JWT", "kid": kid});
    let claims = json!({"id": "4WT59M5Y", "opn": "Government Office Of Human Resources", "adr": "", "pt": "", "pc": "LA1 1AA", "vt": "001"});
    format!("UKC19TRACING:1:{}", jws(issuer, &header, claims.to_string().as_bytes()))
}

fn nz(gln: &str) -> String {
    let poster =
        json!({"typ": "entry", "opn": "Specimen", "adr": "1 Specimen Street", "ver": "c19:1", "gln": gln});
    format!("NZCOVIDTRACER:{}", STANDARD.encode(poster.to_string()))
}

/// A Corona-Warn-App poster: protobuf by hand, field by field.
fn cwa(with_key: bool) -> String {
    let field =
        |number: u8, bytes: &[u8]| [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat();
    let location = [&[0x08, 1][..], &field(2, b"Specimen"), &field(3, b"1 Specimen Street")].concat();
    let mut notifier = vec![0x08, 1];
    if with_key {
        notifier.extend(field(2, &[7; 80]));
    }
    notifier.extend(field(3, &[9; 16]));
    let payload = [&[0x08, 1][..], &field(2, &location), &field(3, &notifier)].concat();
    format!("https://e.coronawarn.app?v=1#{}", URL_SAFE_NO_PAD.encode(payload))
}

/// The code with one character of its second half changed to another of its alphabet.
fn tampered(code: &str, alphabet: &str) -> String {
    let at = code.len() * 2 / 3;
    let old = code.as_bytes()[at] as char;
    let new = alphabet.chars().find(|letter| *letter != old).unwrap();
    format!("{}{new}{}", &code[..at], &code[at + 1..])
}

/// One code and what it must get.
struct Row {
    name: &'static str,
    code: String,
    /// Scanned by a place's device; else by a person's phone.
    person: bool,
    outcome: &'static str,
    trust: &'static str,
}

fn person(name: &'static str, code: impl Into<String>, outcome: &'static str, trust: &'static str) -> Row {
    Row { name, code: code.into(), person: true, outcome, trust }
}

fn place(name: &'static str, code: impl Into<String>, outcome: &'static str, trust: &'static str) -> Row {
    Row { name, code: code.into(), person: false, outcome, trust }
}

const BASE45: &str = "0123456789ABCDEF";
const BASE64: &str = "ABCDabcd";

fn sg1_rows(data: &Path, now: UnixMillis) -> Vec<Row> {
    let (past, future) = (UnixMillis(now.0 - 7_200_000), UnixMillis(now.0 + 7_200_000));
    let elsewhere = tempfile::tempdir().unwrap();
    issue::ensure_development(elsewhere.path(), now).unwrap();
    let alive = issue::issue_person(data, "001090123456", HOUR, now).unwrap();
    let revoked = issue::issue_person(data, "001190123456", HOUR, now).unwrap();
    let lost = scangate::verify::sg1(&revoked, now, &Keys::load(data).unwrap()).unwrap();
    issue::keys_revoke(data, &Revocation::Cti(lost.cti), now).unwrap();
    vec![
        person("sg1 person, tampered", tampered(&alive, BASE45), "bad_signature", ""),
        person("sg1 person", alive, "recorded", "proven"),
        person("sg1 expired", issue::issue_person(data, "001090123457", HOUR, past).unwrap(), "expired", ""),
        person(
            "sg1 early",
            issue::issue_person(data, "001090123457", HOUR, future).unwrap(),
            "not_yet_valid",
            "",
        ),
        person("sg1 revoked", revoked, "revoked", ""),
        person(
            "sg1 of another gateway",
            issue::issue_person(elsewhere.path(), "001090123456", HOUR, now).unwrap(),
            "unknown_key",
            "",
        ),
        place("sg1 place", issue::issue_place(data, "hn-0001", HOUR, now).unwrap(), "recorded", "proven"),
        person(
            "sg1 place at a gate",
            issue::issue_place(data, "hn-0001", HOUR, now).unwrap(),
            "wrong_subject",
            "",
        ),
    ]
}

fn hc1_rows(data: &Path, now_s: i64) -> Vec<Row> {
    let (issuer, other) = (Issuer::lasting(), Issuer::lasting());
    let rsa = Issuer::rsa(rcgen::RsaKeySize::_2048);
    write(data, "hc1/vn.pem", &format!("{}{}", issuer.pem, rsa.pem));
    let vaccination = |by: &Issuer, identifier: &str, (issued_s, expires_s): (i64, i64)| {
        by.code(&claims(issued_s, expires_s, certificate("v", identifier)))
    };
    let valid = (now_s - HOUR_S, now_s + HOUR_S);
    let forged = other.message(
        issuer.header(),
        coset::Header::default(),
        cbor(&claims(valid.0, valid.1, certificate("v", "URN:UVCI:01:VN:FORGED#1"))),
    );
    let revoked = "URN:UVCI:01:VN:REVOKED#1";
    let hash = digest(&SHA256, revoked.as_bytes());
    let hash = hash.as_ref().iter().take(16).fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    issue::keys_revoke(data, &Revocation::parse("dcc", &hash).unwrap(), UnixMillis(now_s * 1000)).unwrap();
    let alive = vaccination(&issuer, "URN:UVCI:01:VN:ALIVE#1", valid);
    // Inflation notices a changed character before the signature does, as a rule.
    vec![
        person("hc1 tampered", tampered(&alive, BASE45), "unrecognized|bad_signature", ""),
        person("hc1", alive, "recorded", "proven"),
        person("hc1 PS256", vaccination(&rsa, "URN:UVCI:01:VN:RSA#1", valid), "recorded", "proven"),
        person("hc1 expired", vaccination(&issuer, "A", (now_s - 2 * HOUR_S, now_s - HOUR_S)), "expired", ""),
        person(
            "hc1 early",
            vaccination(&issuer, "A", (now_s + HOUR_S, now_s + 2 * HOUR_S)),
            "not_yet_valid",
            "",
        ),
        person("hc1 revoked", vaccination(&issuer, revoked, valid), "revoked", ""),
        person("hc1 of an unknown issuer", vaccination(&other, "A", valid), "unknown_key", ""),
        person("hc1 under another's kid", code(&forged.to_vec().unwrap()), "bad_signature", ""),
        person("hc1 of nothing", "HC1:6BFOXN*TS0BI", "unrecognized", ""),
    ]
}

fn shc_rows(data: &Path, now_s: i64) -> Vec<Row> {
    let (issuer, other) = (JwsIssuer::new(), JwsIssuer::new());
    let trusted = json!({"issuer": SHC_ISSUER, "keys": [issuer.jwk()]});
    write(data, "shc/examples.json", &trusted.to_string());
    let alive = shc(&issuer, SHC_ISSUER, now_s - HOUR_S, None);
    let chunk = format!("shc:/1/2/{}", &alive[5..]);
    // A pair of digits in the signature, which is the last 86 characters of the token.
    let at = alive.len() - 40;
    let digit = if &alive[at..=at] == "0" { "1" } else { "0" };
    let changed = format!("{}{digit}{}", &alive[..at], &alive[at + 1..]);
    vec![
        person("shc tampered", changed, "bad_signature|unrecognized", ""),
        person("shc", alive, "recorded", "proven"),
        person("shc expired", shc(&issuer, SHC_ISSUER, now_s - HOUR_S, Some(now_s - 60)), "expired", ""),
        person("shc early", shc(&issuer, SHC_ISSUER, now_s + HOUR_S, None), "not_yet_valid", ""),
        person("shc of an unknown issuer", shc(&other, SHC_ISSUER, now_s - HOUR_S, None), "unknown_key", ""),
        person(
            "shc of another issuer's name",
            shc(&issuer, "https://example.org", now_s - HOUR_S, None),
            "unknown_key",
            "",
        ),
        person("shc chunk", chunk, "chunked_code", ""),
    ]
}

fn nhs_rows(data: &Path, now_s: i64) -> Vec<Row> {
    let (issuer, other, revoked) = (JwsIssuer::new(), JwsIssuer::new(), JwsIssuer::new());
    write(data, "nhs/nhs-1.pem", &issuer.public_pem);
    write(data, "nhs/nhs-2.pem", &revoked.public_pem);
    issue::keys_revoke(data, &Revocation::Kid("nhs-2".to_owned()), UnixMillis(now_s * 1000)).unwrap();
    vec![
        place("nhs poster", nhs(&issuer, "nhs-1"), "recorded", "proven"),
        place("nhs tampered", tampered(&nhs(&issuer, "nhs-1"), BASE64), "bad_signature|unrecognized", ""),
        place("nhs of an unknown key", nhs(&other, "nhs-9"), "unknown_key", ""),
        place("nhs under another's kid", nhs(&other, "nhs-1"), "bad_signature", ""),
        place("nhs of a revoked key", nhs(&revoked, "nhs-2"), "revoked", ""),
    ]
}

fn unsigned_rows() -> Vec<Row> {
    const CARD: &str =
        "001090123456|012345678|NGUYEN VAN A|01011990|Nam|12 Phố Huế, Hai Bà Trưng, Hà Nội|15042021";
    const QRQG: &str = "001093029317|NGUYEN VAN A|1987-01-18|0|162979388586171100|<1<00<0123232422";
    // NGUYEN VAN A and an address, as the card writes them.
    const BHYT: &str = "DN4010123456789|4e475559454e2056414e2041|01/01/1990|1|48c3a0204ee1bb9969|01 - 001|01/01/2021|-|01/01/2021|01012345678901|-|4|01/01/2022|15e3f8a2c4d5e6f7-7102|4|$";
    vec![
        // The SG1 row's citizen, whose entry is a second old.
        person("cccd of the sg1 person", CARD, "duplicate", ""),
        person("cccd of another", CARD.replacen("001090123456", "001090123499", 1), "recorded", "asserted"),
        person(
            "cccd whose number is a woman's",
            CARD.replacen("001090", "001190", 1),
            "inconsistent_identity",
            "",
        ),
        person("cccd cut short", &CARD[..40], "unrecognized", ""),
        person("qrqg", QRQG, "recorded", "asserted"),
        person(
            "qrqg masked",
            QRQG.replacen("001093", "******", 1).replacen("-01-18", "-**-**", 1),
            "duplicate",
            "",
        ),
        person("bhyt", BHYT, "recorded", "asserted"),
        person(
            "bhyt of ten digits, the same person",
            BHYT.replacen("DN4010123456789", "0123456789", 1),
            "duplicate",
            "",
        ),
        person("bhyt with a broken name", BHYT.replacen("4e47", "4e4x", 1), "unrecognized", ""),
        place("pc-covid poster", "https://qr.pccovid.gov.vn/abc123", "recorded", "asserted"),
        place("nz poster", nz("9429300000007"), "recorded", "asserted"),
        place("nz poster, wrong check digit", nz("9429300000008"), "unrecognized", ""),
        place("cwa poster", cwa(true), "recorded", "asserted"),
        place("cwa poster without its key", cwa(false), "unrecognized", ""),
        person("payment code", payment_code(), "payment_code", ""),
        person("poster at a gate", "https://qr.pccovid.gov.vn/abc123", "wrong_subject", ""),
        place("person by a phone", QRQG, "wrong_subject", ""),
        person("hello", "hello", "unrecognized", ""),
    ]
}

#[test]
fn each_specimen_gets_the_outcome_that_the_contract_names() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let now = UnixMillis::now();
    issue::ensure_development(&data, now).unwrap();
    let rows: Vec<Row> = [
        sg1_rows(&data, now),
        hc1_rows(&data, now.seconds()),
        shc_rows(&data, now.seconds()),
        nhs_rows(&data, now.seconds()),
        unsigned_rows(),
    ]
    .into_iter()
    .flatten()
    .collect();

    let server = Server::start_in(directory, |_| {});
    let (gate, phone) = (server.place_device("gate"), server.person_device("001090123456"));
    let mut outcomes: BTreeMap<String, u32> = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        let token = if row.person { &gate } else { &phone };
        // The second time the answer comes from the cache of verified codes, and is the same.
        for again in [false, true] {
            let mut scan = request(&format!("{index}-{again}"), &row.code);
            scan["direction"] = "in".into();
            let answer = server.post(token, "application/json", scan.to_string());
            let body: Value = serde_json::from_slice(&answer.body).unwrap();
            let outcome = body["outcome"].as_str().unwrap();
            let expected =
                if again { row.outcome.replace("recorded", "duplicate") } else { row.outcome.to_owned() };
            assert!(expected.split('|').any(|one| one == outcome), "{}: {}", row.name, answer.text());
            let status = match outcome {
                "recorded" => 201,
                "duplicate" => 200,
                _ => 422,
            };
            assert_eq!(answer.status, status, "{}", row.name);
            if outcome == "recorded" {
                let subject = if row.person { "person" } else { "place" };
                assert_eq!(
                    (&body["subject"], &body["trust"]),
                    (&subject.into(), &row.trust.into()),
                    "{}",
                    row.name
                );
            }
            *outcomes.entry(outcome.to_owned()).or_default() += 1;
        }
    }
    println!("{} codes: {outcomes:?}", rows.len());
}
