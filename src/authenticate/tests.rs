//! Device tokens: what is accepted, and every way in which one is not.

use std::path::Path;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::*;
use crate::issue::{self, RoleRef};
use crate::verify::{Pepper, Revocation};

const NOW: UnixMillis = UnixMillis(1_637_736_569_000);
const HOUR: Duration = Duration::from_hours(1);

struct Gate {
    dir: tempfile::TempDir,
    keys: Arc<KeyStore>,
    identity: Arc<Identity>,
    authenticator: Authenticator,
}

impl Gate {
    /// A fresh data directory with development keys, and an Ed25519 and a P-256 key of pc-covid's own.
    fn new() -> (Self, Ed25519KeyPair, EcdsaKeyPair, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        issue::ensure_development(dir.path(), NOW).unwrap();
        let eddsa = Ed25519KeyPair::generate().unwrap();
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let es256 = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref()).unwrap();
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let point = es256.public_key().as_ref();
        write(
            dir.path(),
            "pc-covid.ed.json",
            &json!({"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": encode(eddsa.public_key().as_ref())}),
        );
        write(
            dir.path(),
            "es.json",
            &json!({"kty": "EC", "crv": "P-256", "kid": "es", "alg": "ES256", "app": "pc-covid",
                    "x": encode(&point[1..33]), "y": encode(&point[33..]), "use": "sig"}),
        );
        let keys = Arc::new(KeyStore::open(dir.path()).unwrap());
        let identity = Arc::new(Identity::new(&Pepper::load(dir.path()).unwrap()));
        let settings = AuthenticateSettings::default();
        let authenticator = Authenticator::new(Arc::clone(&keys), Arc::clone(&identity), &settings);
        (Self { dir, keys, identity, authenticator }, eddsa, es256, document.as_ref().to_vec())
    }

    fn verify(&self, token: &str) -> Result<Arc<Device>, AuthError> {
        self.authenticator.verify(token, NOW)
    }

    fn lookup(&self, token: &str, now: UnixMillis) -> Result<Option<Arc<Device>>, AuthError> {
        match self.authenticator.lookup(format!("Bearer {token}").as_bytes(), now) {
            Lookup::Known(device) => Ok(Some(device)),
            Lookup::Unknown(same) => {
                assert_eq!(same, token);
                Ok(None)
            }
            Lookup::Refused(error) => Err(error),
        }
    }
}

fn write(dir: &Path, name: &str, key: &Value) {
    std::fs::write(dir.join("keys/devices").join(name), key.to_string()).unwrap();
}

fn good_claims() -> Value {
    json!({"iss": "pc-covid", "sub": "gate-1", "place": "gate 4", "iat": NOW.seconds(), "exp": NOW.seconds() + 60})
}

/// The good claims with these replaced, or removed where null.
fn claims(changes: &Value) -> Value {
    let mut claims = good_claims();
    let members = claims.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        members.insert(name.clone(), value.clone());
    }
    members.retain(|_, value| !value.is_null());
    claims
}

fn eddsa_token(pair: &Ed25519KeyPair, kid: &str, claims: &Value) -> String {
    token(Algorithm::EdDSA, kid, claims, &EncodingKey::from_ed_der(pair.to_pkcs8().unwrap().as_ref()))
}

fn token(algorithm: Algorithm, kid: &str, claims: &Value, key: &EncodingKey) -> String {
    let header = Header { kid: Some(kid.to_owned()), ..Header::new(algorithm) };
    jsonwebtoken::encode(&header, claims, key).unwrap()
}

#[test]
fn issued_tokens_are_verified_once_and_then_found() {
    let (gate, ..) = Gate::new();
    for app in App::ALL {
        let token =
            issue::issue_device(gate.dir.path(), *app, RoleRef::Place("gate 4"), None, HOUR, NOW).unwrap();
        assert!(gate.lookup(&token, NOW).unwrap().is_none());
        let device = gate.verify(&token).unwrap();
        assert_eq!(device.app, *app);
        let expected = Role::Place { place: gate.identity.place("gate 4"), window_class: None };
        assert_eq!(device.role, expected);
        assert!(Arc::ptr_eq(&device, &gate.lookup(&token, NOW).unwrap().unwrap()));
    }
    let token =
        issue::issue_device(gate.dir.path(), App::Vneid, RoleRef::Person("001090123456"), None, HOUR, NOW);
    let device = gate.verify(&token.unwrap()).unwrap();
    assert_eq!(device.role, Role::Person { person: gate.identity.person_reference("001090123456") });
    assert_eq!(gate.authenticator.devices(), 4);
}

#[test]
fn es256_and_pem_keys_are_accepted() {
    let (gate, eddsa, es256, document) = Gate::new();
    let es_key = EncodingKey::from_ec_der(&document);
    let device = gate.verify(&token(Algorithm::ES256, "es", &good_claims(), &es_key)).unwrap();
    assert_eq!(device.key, gate.verify(&eddsa_token(&eddsa, "ed", &good_claims())).unwrap().key);
    let pem = |prefix: &[u8], key: &[u8]| {
        let der = base64::engine::general_purpose::STANDARD.encode([prefix, key].concat());
        format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n")
    };
    let p256 = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
    let ed25519 = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
    let devices = gate.dir.path().join("keys/devices");
    std::fs::write(devices.join("sskdt.2021-11.pem"), pem(p256, es256.public_key().as_ref())).unwrap();
    std::fs::write(devices.join("sskdt.2021.12.pem"), pem(ed25519, eddsa.public_key().as_ref())).unwrap();
    assert!(gate.keys.reload().unwrap());
    let claims = claims(&json!({"iss": "sskdt"}));
    assert!(gate.verify(&token(Algorithm::ES256, "2021-11", &claims, &es_key)).is_ok());
    assert!(gate.verify(&eddsa_token(&eddsa, "2021.12", &claims)).is_ok());
}

#[test]
fn the_key_decides_the_algorithm() {
    let (gate, eddsa, es256, document) = Gate::new();
    let es_key = EncodingKey::from_ec_der(&document);
    let wrong = Some(AuthError::WrongAlgorithm);
    // A public key as an HMAC secret, in each form in which an attacker could hold it.
    for secret in [eddsa.public_key().as_ref(), es256.public_key().as_ref()] {
        for kid in ["ed", "es"] {
            let forged = token(Algorithm::HS256, kid, &good_claims(), &EncodingKey::from_secret(secret));
            assert_eq!(gate.verify(&forged).err(), wrong);
        }
    }
    assert_eq!(gate.verify(&token(Algorithm::ES256, "ed", &good_claims(), &es_key)).err(), wrong);
    assert_eq!(gate.verify(&eddsa_token(&eddsa, "es", &good_claims())).err(), wrong);
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    for alg in ["none", "None", "NONE", "", "EdDSA "] {
        let head = part(json!({"alg": alg, "kid": "ed"}));
        for signature in ["", "AAAA"] {
            let forged = format!("{head}.{}.{signature}", part(good_claims()));
            assert_eq!(gate.verify(&forged).err(), wrong, "{alg}");
        }
    }
    let head =
        part(json!({"alg": "EdDSA", "kid": "ed", "jwk": {"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}}));
    let forged = format!("{head}.{}.", part(good_claims()));
    assert_eq!(gate.verify(&forged).err(), Some(AuthError::BadSignature));
}

#[test]
fn issuer_kid_and_signature_must_belong_together() {
    let (gate, eddsa, ..) = Gate::new();
    let error = |token: &str| gate.verify(token).err();
    let unknown_issuer = eddsa_token(&eddsa, "ed", &claims(&json!({"iss": "zalo"})));
    assert_eq!(error(&unknown_issuer), Some(AuthError::UnknownIssuer));
    assert_eq!(error(&eddsa_token(&eddsa, "nope", &good_claims())), Some(AuthError::UnknownKid));
    // Another app's token under pc-covid's key: the key is looked up in that app's set only.
    let other_app = eddsa_token(&eddsa, "ed", &claims(&json!({"iss": "vneid"})));
    assert_eq!(error(&other_app), Some(AuthError::UnknownKid));
    let stranger = Ed25519KeyPair::generate().unwrap();
    assert_eq!(error(&eddsa_token(&stranger, "ed", &good_claims())), Some(AuthError::BadSignature));
    let unnamed = Header::new(Algorithm::EdDSA);
    let key = EncodingKey::from_ed_der(eddsa.to_pkcs8().unwrap().as_ref());
    let unnamed = jsonwebtoken::encode(&unnamed, &good_claims(), &key).unwrap();
    assert_eq!(error(&unnamed), Some(AuthError::UnknownKid));
    let critical = Header {
        kid: Some("ed".to_owned()),
        crit: Some(vec!["b64".to_owned()]),
        ..Header::new(Algorithm::EdDSA)
    };
    let critical = jsonwebtoken::encode(&critical, &good_claims(), &key).unwrap();
    assert_eq!(error(&critical), Some(AuthError::Malformed { field: "crit" }));
}

#[test]
fn no_changed_byte_is_accepted() {
    let (gate, eddsa, ..) = Gate::new();
    let good = eddsa_token(&eddsa, "ed", &good_claims());
    assert!(gate.verify(&good).is_ok());
    for at in 0..good.len() {
        for replacement in [b'A', b'B', b'.', b'-', b'='] {
            let mut bytes = good.clone().into_bytes();
            if std::mem::replace(&mut bytes[at], replacement) == replacement {
                continue;
            }
            let changed = String::from_utf8(bytes).unwrap();
            assert!(gate.verify(&changed).is_err(), "byte {at} as {}", char::from(replacement));
        }
    }
}

#[test]
fn claims_must_make_one_device() {
    let (gate, eddsa, ..) = Gate::new();
    let long = "a".repeat(257);
    for (changes, field) in [
        (json!({"person": "001090123456"}), "place"),
        (json!({"place": null}), "place"),
        (json!({"place": ""}), "place"),
        (json!({"place": "  "}), "place"),
        (json!({"place": "a\u{7}b"}), "place"),
        (json!({"place": long}), "place"),
        (json!({"place": null, "person": ""}), "person"),
        (json!({"sub": null}), "sub"),
        (json!({"sub": ""}), "sub"),
        (json!({"sub": "a".repeat(129)}), "sub"),
        (json!({"exp": null}), "exp"),
        (json!({"exp": "tomorrow"}), "claims"),
        (json!({"class": ""}), "class"),
        (json!({"iss": 1}), "claims"),
    ] {
        let error = gate.verify(&eddsa_token(&eddsa, "ed", &claims(&changes))).unwrap_err();
        assert_eq!(error.field(), field, "{changes}: {error}");
    }
    let classed = gate.verify(&eddsa_token(&eddsa, "ed", &claims(&json!({"class": "hospital"})))).unwrap();
    assert!(matches!(&classed.role, Role::Place { window_class: Some(class), .. } if &**class == "hospital"));
}

#[test]
fn dates_are_checked_with_leeway_at_first_sight_and_at_every_hit() {
    let (gate, eddsa, ..) = Gate::new();
    let at = |seconds: i64| UnixMillis((NOW.seconds() + seconds) * 1000);
    let token = eddsa_token(&eddsa, "ed", &good_claims());
    assert_eq!(gate.authenticator.verify(&token, at(120)).err(), Some(AuthError::Expired));
    assert!(gate.authenticator.verify(&token, at(119)).is_ok());
    assert!(gate.lookup(&token, at(119)).unwrap().is_some());
    assert_eq!(gate.lookup(&token, at(120)).err(), Some(AuthError::Expired));
    for claim in ["nbf", "iat"] {
        let token = eddsa_token(&eddsa, "ed", &claims(&json!({claim: NOW.seconds() + 100, "exp": 1e300})));
        assert_eq!(gate.authenticator.verify(&token, at(39)).err(), Some(AuthError::NotYetValid));
        assert!(gate.authenticator.verify(&token, at(40)).is_ok());
    }
    let fraction = eddsa_token(&eddsa, "ed", &claims(&json!({"exp": 1_637_736_569.9})));
    assert!(gate.authenticator.verify(&fraction, at(59)).is_ok());
    assert_eq!(gate.authenticator.verify(&fraction, at(60)).err(), Some(AuthError::Expired));
}

#[test]
fn revocation_reaches_a_remembered_token_at_the_next_reload() {
    let (gate, eddsa, ..) = Gate::new();
    let token = eddsa_token(&eddsa, "ed", &good_claims());
    let dir = gate.dir.path();
    assert!(gate.verify(&token).is_ok());
    assert!(!gate.keys.reload().unwrap(), "nothing changed");
    assert!(gate.lookup(&token, NOW).unwrap().is_some());
    issue::keys_revoke(dir, &Revocation::Device(App::Vneid, "gate-1".to_owned()), NOW).unwrap();
    assert!(gate.keys.reload().unwrap());
    assert!(gate.lookup(&token, NOW).unwrap().is_none(), "verified under other keys");
    assert!(gate.verify(&token).is_ok());
    issue::keys_revoke(dir, &Revocation::Device(App::PcCovid, "gate-1".to_owned()), NOW).unwrap();
    assert!(gate.keys.reload().unwrap());
    assert!(gate.lookup(&token, NOW).unwrap().is_none());
    assert_eq!(gate.verify(&token).err(), Some(AuthError::Revoked));
    let other = eddsa_token(&eddsa, "ed", &claims(&json!({"sub": "gate-2"})));
    assert!(gate.verify(&other).is_ok());
    issue::keys_revoke(dir, &Revocation::Kid("ed".to_owned()), NOW).unwrap();
    assert!(gate.keys.reload().unwrap());
    assert_eq!(gate.verify(&other).err(), Some(AuthError::Revoked));
}

#[test]
fn all_tokens_of_a_device_share_one_allowance() {
    let (gate, eddsa, ..) = Gate::new();
    gate.authenticator.set_rate(RateLimits { device_scans_per_s: 1, device_burst_scans: 10 });
    let now = Instant::now();
    let one = gate.verify(&eddsa_token(&eddsa, "ed", &good_claims())).unwrap();
    let other =
        gate.verify(&eddsa_token(&eddsa, "ed", &claims(&json!({"exp": NOW.seconds() + 61})))).unwrap();
    assert!(!Arc::ptr_eq(&one, &other));
    assert_eq!(one.admit(10, now), Ok(()));
    assert_eq!(other.admit(1, now), Err(RateLimited { retry_after_s: 1 }));
    let third = gate.verify(&eddsa_token(&eddsa, "ed", &claims(&json!({"sub": "gate-2"})))).unwrap();
    assert_eq!(third.admit(10, now), Ok(()));
}

#[test]
fn headers_that_are_no_bearer_token() {
    let (gate, ..) = Gate::new();
    let refused = |header: &[u8]| match gate.authenticator.lookup(header, NOW) {
        Lookup::Refused(error) => Some(error),
        _ => None,
    };
    for header in [b"".as_slice(), b"  ", b"Bearer", b"Bearer ", b"bearer  \t"] {
        assert!(matches!(refused(header), Some(AuthError::Missing | AuthError::Malformed { .. })));
    }
    for header in [b"Basic YTpi".as_slice(), b"Bearertoken", b"Bea", b"Bearer \xff\xfe"] {
        assert_eq!(refused(header), Some(AuthError::Malformed { field: "authorization" }));
    }
    let long = [b"Bearer ".as_slice(), &[b'a'; TOKEN_BYTES_MAX + 1]].concat();
    assert_eq!(refused(&long), Some(AuthError::TooLong));
    assert_eq!(gate.verify(&"a".repeat(TOKEN_BYTES_MAX + 1)).err(), Some(AuthError::TooLong));
    assert_eq!(refused(b"bEaReR   abc "), None);
    for token in ["abc", "a.b", "a.b.c", "a.b.c.d", "..", ""] {
        assert!(gate.verify(token).is_err(), "{token}");
    }
}

#[test]
fn a_bound_token_asks_for_its_certificate_at_every_use() {
    let (gate, eddsa, ..) = Gate::new();
    let bound = |cnf: Value| eddsa_token(&eddsa, "ed", &claims(&json!({ "cnf": cnf })));
    let token = bound(json!({"x5t#S256": URL_SAFE_NO_PAD.encode([7; 32]), "jkt": "for others"}));
    let device = gate.verify(&token).unwrap();
    assert_eq!(device.check_certificate(Some(&[7; 32])), Ok(()));
    assert_eq!(device.check_certificate(Some(&[8; 32])), Err(AuthError::OtherCertificate));
    assert_eq!(device.check_certificate(None), Err(AuthError::NoCertificate));
    assert_eq!(AuthError::NoCertificate.field(), "cnf");
    let unbound = gate.verify(&eddsa_token(&eddsa, "ed", &good_claims())).unwrap();
    assert_eq!(unbound.check_certificate(Some(&[7; 32])), Ok(()));
    assert_eq!(unbound.check_certificate(None), Ok(()));
    // Bound to what can't be checked here: never taken as unbound.
    for cnf in [json!({}), json!({"jkt": "0"}), json!({"x5t#S256": "AAAA"}), json!({"x5t#S256": "="})] {
        let refused = gate.verify(&bound(cnf.clone())).unwrap_err();
        assert!(matches!(refused, AuthError::WrongClaims { field: "cnf", .. }), "{cnf} gave {refused:?}");
    }
}
