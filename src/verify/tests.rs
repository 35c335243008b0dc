//! SG1 tokens and the key store: what is accepted, and every way in which it is not.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use ciborium::value::Value;
use coset::{CborSerializable, CoseSign1};
use proptest::prelude::*;

use super::manage::{
    KeyState, KeyUse, ensure_development, keys_generate, keys_list, keys_retire, keys_revoke, keys_rotate,
    keys_stage,
};
use super::*;
use crate::issue::{issue_person, issue_place, sg1_token};
use crate::payload::SG1_PREFIX;
use crate::scan::{App, Outcome, Refusal, UnixMillis};

const NOW: UnixMillis = UnixMillis(1_637_736_569_000);
const NOW_S: i64 = 1_637_736_569;
const HOUR: Duration = Duration::from_hours(1);

fn after(seconds: i64) -> UnixMillis {
    UnixMillis((NOW_S + seconds) * 1000)
}

fn outcome<T>(result: Result<T, Refusal>) -> Option<Outcome> {
    result.err().map(|refusal| refusal.outcome)
}

/// A data directory with development keys.
fn data_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    ensure_development(dir.path(), NOW).unwrap();
    dir
}

/// The data directory's SG1 key, to forge with.
struct Forge {
    pair: Ed25519KeyPair,
    kid: Kid,
}

impl Forge {
    fn new(dir: &Path) -> Self {
        let key = manage::sg1_signing_key(dir, NOW).unwrap();
        Self { kid: Kid::parse(&key.kid).unwrap(), pair: key.pair }
    }

    fn token(&self, kind: TokenKind, issued_at_s: i64, expires_at_s: i64) -> String {
        sg1_token(&self.pair, self.kid, "scangate", 1, kind, [7; 16], issued_at_s, expires_at_s).unwrap()
    }

    /// Signs any header and claims, given as they are to be encoded.
    fn any(&self, protected: &Value, claims: &Value) -> String {
        let (protected, claims) = (cbor(protected), cbor(claims));
        let signed = cbor(&Value::Array(vec![
            Value::Text("Signature1".to_owned()),
            Value::Bytes(protected.clone()),
            Value::Bytes(Vec::new()),
            Value::Bytes(claims.clone()),
        ]));
        let signature = self.pair.sign(&signed).as_ref().to_vec();
        text(&Value::Array(vec![
            Value::Bytes(protected),
            Value::Map(Vec::new()),
            Value::Bytes(claims),
            Value::Bytes(signature),
        ]))
    }

    fn header(&self) -> Value {
        map(vec![(1, Value::from(-8)), (4, Value::Bytes(self.kid.as_bytes().to_vec()))])
    }
}

fn cbor(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    bytes
}

fn text(value: &Value) -> String {
    format!("{SG1_PREFIX}{}", base45::encode(cbor(value)))
}

fn map(pairs: Vec<(i64, Value)>) -> Value {
    Value::Map(pairs.into_iter().map(|(key, value)| (Value::from(key), value)).collect())
}

/// Claim number 1, 4, 6, 7 and the private one, all good.
fn good_claims() -> Vec<(i64, Value)> {
    let private = Value::Map(vec![("t".into(), Value::from(0)), ("e".into(), Value::from(1))]);
    vec![
        (1, "scangate".into()),
        (4, Value::from(NOW_S + 60)),
        (6, Value::from(NOW_S)),
        (7, Value::Bytes(vec![7; 16])),
        (-65_537, private),
    ]
}

#[test]
fn issued_tokens_verify_and_are_of_the_documented_size() {
    let dir = data_dir();
    let keys = Keys::load(dir.path()).unwrap();
    let person = issue_person(dir.path(), "001090123456", HOUR, NOW).unwrap();
    let place = issue_place(dir.path(), "gate 4", HOUR, NOW).unwrap();
    for (token, kind) in [(&person, TokenKind::Person), (&place, TokenKind::Place)] {
        assert!((169..=229).contains(&token.len()), "{}", token.len());
        let verified = sg1(token, NOW, &keys).unwrap();
        assert_eq!(verified.kind, kind);
        assert_eq!((verified.issued_at_s, verified.expires_at_s), (NOW_S, NOW_S + 3600));
    }
    let short = sg1_token(
        &Ed25519KeyPair::generate().unwrap(),
        Kid::new(&[1; 4]).unwrap(),
        "",
        1,
        TokenKind::Place,
        [0; 16],
        NOW_S,
        NOW_S + 1,
    );
    assert!((169..=229).contains(&short.unwrap().len()));
}

#[test]
fn a_general_cose_reader_agrees() {
    let dir = data_dir();
    let forge = Forge::new(dir.path());
    let token = forge.token(TokenKind::Person, NOW_S, NOW_S + 60);
    let bytes = base45::decode(token.strip_prefix(SG1_PREFIX).unwrap()).unwrap();
    let cose = CoseSign1::from_slice(&bytes).unwrap();
    assert_eq!(cose.protected.header.key_id, forge.kid.as_bytes());
    let public = aws_lc_rs::signature::KeyPair::public_key(&forge.pair).as_ref().to_vec();
    let verify = |signature: &[u8], message: &[u8]| {
        UnparsedPublicKey::new(&ED25519, &public).verify(message, signature)
    };
    assert!(cose.verify_signature(b"", verify).is_ok());
    let claims = coset::cwt::ClaimsSet::from_slice(&cose.payload.unwrap()).unwrap();
    assert_eq!(claims.cwt_id, Some(vec![7; 16]));
    // And the other way: the same token put together by an independent encoder is the same text.
    assert_eq!(forge.any(&forge.header(), &map(good_claims())), token);
}

#[test]
fn validity_has_exact_bounds() {
    let dir = data_dir();
    let keys = Keys::load(dir.path()).unwrap();
    let forge = Forge::new(dir.path());
    let token = forge.token(TokenKind::Person, NOW_S, NOW_S + 121);
    for (now, expected) in [
        (after(-301), Some(Outcome::NotYetValid)),
        (after(-300), None),
        (NOW, None),
        (UnixMillis(after(121).0 - 1), None),
        (after(121), Some(Outcome::Expired)),
        (UnixMillis(i64::MAX), Some(Outcome::Expired)),
        (UnixMillis(i64::MIN), Some(Outcome::NotYetValid)),
    ] {
        assert_eq!(outcome(sg1(&token, now, &keys)), expected, "{now:?}");
        let verified = Verified::from(sg1(&token, NOW, &keys).unwrap());
        assert_eq!(outcome(verified.validity.check(now)), expected, "{now:?}");
    }
    let backwards = forge.token(TokenKind::Person, NOW_S, NOW_S - 1);
    assert_eq!(outcome(sg1(&backwards, NOW, &keys)), Some(Outcome::Expired));
}

#[test]
fn a_code_that_rotates_has_the_configured_grace_after_its_end() {
    let dir = data_dir();
    let forge = Forge::new(dir.path());
    for (skew_s, lifetime_s, good_until_s) in
        [(30, 60, 90), (30, 120, 150), (30, 121, 121), (0, 60, 60), (300, 90, 390)]
    {
        let store = KeyStore::open_with(dir.path(), skew_s).unwrap();
        let token = forge.token(TokenKind::Person, NOW_S, NOW_S + lifetime_s);
        let verified = sg1(&token, NOW, &store.load()).unwrap();
        assert_eq!(verified.expires_at_s, NOW_S + lifetime_s, "the claim itself");
        assert_eq!(outcome(sg1(&token, after(good_until_s - 1), &store.load())), None);
        assert_eq!(outcome(sg1(&token, after(good_until_s), &store.load())), Some(Outcome::Expired));
        assert_eq!(outcome(verified.validity.check(after(good_until_s))), Some(Outcome::Expired));
        // It stays as configured over a reload.
        keys_rotate(dir.path(), KeyUse::Device(App::Vneid), NOW).unwrap();
        assert!(store.reload().unwrap());
        assert_eq!(store.load().rotating_skew_s(), skew_s);
    }
}

#[test]
fn no_changed_character_is_accepted() {
    let dir = data_dir();
    let keys = Keys::load(dir.path()).unwrap();
    let good = Forge::new(dir.path()).token(TokenKind::Person, NOW_S, NOW_S + 60);
    assert!(sg1(&good, NOW, &keys).is_ok());
    for at in 0..good.len() {
        for replacement in b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:a\xc3" {
            let mut bytes = good.clone().into_bytes();
            if std::mem::replace(&mut bytes[at], *replacement) == *replacement {
                continue;
            }
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            assert!(sg1(&changed, NOW, &keys).is_err(), "{at}: {}", char::from(*replacement));
        }
        assert!(sg1(&good[..at], NOW, &keys).is_err(), "cut at {at}");
        assert!(sg1(&format!("{}0{}", &good[..at], &good[at..]), NOW, &keys).is_err(), "grown at {at}");
    }
}

#[test]
fn no_changed_bit_of_the_token_is_accepted() {
    let dir = data_dir();
    let keys = Keys::load(dir.path()).unwrap();
    let good = Forge::new(dir.path()).token(TokenKind::Person, NOW_S, NOW_S + 60);
    let bytes = base45::decode(good.strip_prefix(SG1_PREFIX).unwrap()).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let refused = outcome(sg1(&format!("{SG1_PREFIX}{}", base45::encode(changed)), NOW, &keys));
        let expected = [Outcome::Unrecognized, Outcome::UnknownKey, Outcome::BadSignature];
        assert!(refused.is_some_and(|outcome| expected.contains(&outcome)), "bit {bit}: {refused:?}");
    }
}

#[test]
fn the_last_base45_group_has_one_spelling() {
    // Two characters hold up to 2,024, one byte up to 255: 256 more would decode to the same byte.
    let dir = data_dir();
    let keys = Keys::load(dir.path()).unwrap();
    let forge = Forge::new(dir.path());
    let odd = (4..=8)
        .map(|length| {
            let kid = Kid::new(&[1, 2, 3, 4, 5, 6, 7, 8][..length]).unwrap();
            sg1_token(&forge.pair, kid, "scangate", 1, TokenKind::Person, [7; 16], NOW_S, NOW_S + 60).unwrap()
        })
        .find(|token| (token.len() - SG1_PREFIX.len()) % 3 == 2)
        .unwrap();
    assert_eq!(outcome(sg1(&odd, NOW, &keys)), Some(Outcome::UnknownKey));
    let position = |byte: &u8| base45::alphabet::TABLE.iter().position(|other| other == byte).unwrap();
    let [low, high] = odd.as_bytes().last_chunk().unwrap();
    let value = position(low) + 45 * position(high) + 256;
    let mut other = odd.clone().into_bytes();
    let length = other.len();
    other[length - 2] = base45::alphabet::TABLE[value % 45];
    other[length - 1] = base45::alphabet::TABLE[value / 45];
    let other = String::from_utf8(other).unwrap();
    assert_eq!(base45::decode(&odd[4..]), base45::decode(&other[4..]));
    assert_eq!(outcome(sg1(&other, NOW, &keys)), Some(Outcome::Unrecognized));
}

#[test]
fn well_signed_but_wrong_tokens_are_refused() {
    let dir = data_dir();
    let keys = Keys::load(dir.path()).unwrap();
    let forge = Forge::new(dir.path());
    let good = map(good_claims());
    let kid = || Value::Bytes(forge.kid.as_bytes().to_vec());
    let replaced = |claim: i64, value: Value| {
        let replace = |(key, old): (i64, Value)| (key, if key == claim { value.clone() } else { old });
        map(good_claims().into_iter().map(replace).collect())
    };
    let private = |pairs: Vec<(&str, Value)>| {
        replaced(-65_537, Value::Map(pairs.into_iter().map(|(key, value)| (key.into(), value)).collect()))
    };
    let more = |claim: i64, value: Value| map([good_claims(), vec![(claim, value)]].concat());
    for (header, claims, expected) in [
        (map(vec![(1, Value::from(-7)), (4, kid())]), good.clone(), Outcome::BadSignature),
        (map(vec![(4, kid())]), good.clone(), Outcome::Unrecognized),
        (map(vec![(1, Value::from(-8))]), good.clone(), Outcome::Unrecognized),
        (map(vec![(1, Value::from(-8)), (4, kid()), (4, kid())]), good.clone(), Outcome::Unrecognized),
        (map(vec![(1, Value::from(-8)), (4, Value::Bytes(vec![1; 3]))]), good.clone(), Outcome::Unrecognized),
        (map(vec![(1, Value::from(-8)), (4, Value::Bytes(vec![1; 9]))]), good.clone(), Outcome::Unrecognized),
        (map(vec![(1, Value::from(-8)), (4, Value::Bytes(vec![1; 8]))]), good, Outcome::UnknownKey),
        (forge.header(), replaced(1, "other".into()), Outcome::UnknownKey),
        (forge.header(), replaced(4, "never".into()), Outcome::Unrecognized),
        (forge.header(), replaced(6, Value::from(-1)), Outcome::Unrecognized),
        (forge.header(), replaced(7, Value::Bytes(vec![7; 15])), Outcome::Unrecognized),
        (forge.header(), private(vec![("t", 0.into()), ("e", 2.into())]), Outcome::UnknownKey),
        (forge.header(), private(vec![("t", 2.into()), ("e", 1.into())]), Outcome::UnknownKey),
        (forge.header(), private(vec![("t", 3.into()), ("e", 1.into())]), Outcome::Unrecognized),
        (forge.header(), private(vec![("t", 0.into()), ("t", 1.into())]), Outcome::Unrecognized),
        (forge.header(), private(vec![("t", 0.into())]), Outcome::Unrecognized),
        (forge.header(), more(7, Value::Bytes(vec![8; 16])), Outcome::Unrecognized),
        (forge.header(), more(2, "someone".into()), Outcome::Unrecognized),
        (forge.header(), Value::from(1), Outcome::Unrecognized),
    ] {
        let refused = outcome(sg1(&forge.any(&header, &claims), NOW, &keys));
        assert_eq!(refused, Some(expected), "{header:?} {claims:?}");
    }
    for garbage in ["SG1:", "SG1:%%%", "SG1:abc", "SG1:::::::", "SG1:0", "HC1:ABC", "", "SG1:ĐĐ"] {
        assert_eq!(outcome(sg1(garbage, NOW, &keys)), Some(Outcome::Unrecognized), "{garbage}");
    }
    let stranger = Forge { pair: Ed25519KeyPair::generate().unwrap(), kid: forge.kid };
    let forged = stranger.token(TokenKind::Person, NOW_S, NOW_S + 60);
    assert_eq!(outcome(sg1(&forged, NOW, &keys)), Some(Outcome::BadSignature));
}

proptest! {
    #[test]
    fn any_bytes_behind_the_prefix_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let keys = Keys::load(Path::new("/nonexistent/scangate")).unwrap();
        let token = format!("{SG1_PREFIX}{}", base45::encode(&bytes));
        prop_assert!(sg1(&token, NOW, &keys).is_err());
        prop_assert!(sg1(&String::from_utf8_lossy(&bytes), NOW, &keys).is_err());
    }
}

#[test]
fn a_revoked_code_is_refused_and_its_replacement_is_not() {
    let dir = data_dir();
    let store = KeyStore::open(dir.path()).unwrap();
    let lost = issue_person(dir.path(), "001090123456", HOUR, NOW).unwrap();
    let verified = sg1(&lost, NOW, &store.load()).unwrap();
    keys_revoke(dir.path(), &Revocation::Cti(verified.cti), NOW).unwrap();
    assert_eq!(outcome(sg1(&lost, NOW, &store.load())), None, "until the reload");
    assert!(store.reload().unwrap());
    assert_eq!(outcome(sg1(&lost, NOW, &store.load())), Some(Outcome::Revoked));
    // Issued within the very second of the revocation.
    let replacement = issue_person(dir.path(), "001090123456", HOUR, NOW).unwrap();
    assert_eq!(sg1(&replacement, NOW, &store.load()).unwrap().cti, verified.cti);
    let other = issue_person(dir.path(), "001190123456", HOUR, NOW).unwrap();
    assert!(sg1(&other, NOW, &store.load()).is_ok());
}

#[test]
fn rotation_keeps_old_codes_and_revoking_a_key_ends_them() {
    let dir = data_dir();
    let store = KeyStore::open(dir.path()).unwrap();
    let old = issue_place(dir.path(), "gate 4", HOUR, NOW).unwrap();
    let new_key = keys_rotate(dir.path(), KeyUse::Sg1, NOW).unwrap();
    assert_eq!((new_key.epoch, new_key.dev), (Some(2), true));
    let new = issue_place(dir.path(), "gate 4", HOUR, NOW).unwrap();
    assert_eq!(outcome(sg1(&new, NOW, &store.load())), Some(Outcome::UnknownKey));
    assert!(store.reload().unwrap());
    let (one, other) = (sg1(&old, NOW, &store.load()).unwrap(), sg1(&new, NOW, &store.load()).unwrap());
    assert_ne!(one.kid, other.kid);
    assert_eq!(one.cti, other.cti);
    keys_revoke(dir.path(), &Revocation::Kid(one.kid.to_string()), NOW).unwrap();
    assert!(store.reload().unwrap());
    assert_eq!(outcome(sg1(&old, NOW, &store.load())), Some(Outcome::Revoked));
    assert!(sg1(&new, NOW, &store.load()).is_ok());
    let listed = keys_list(dir.path()).unwrap();
    assert_eq!(listed.iter().filter(|key| key.revoked).count(), 1);
    keys_revoke(dir.path(), &Revocation::Kid(other.kid.to_string()), NOW).unwrap();
    assert!(issue_place(dir.path(), "gate 4", HOUR, NOW).is_err(), "no key is left to sign with");
}

#[test]
fn a_staged_key_verifies_at_once_and_signs_when_its_time_has_come() {
    let dir = data_dir();
    let now = UnixMillis::now();
    let later = UnixMillis(now.0 + 3_600_000);
    let first = keys_list(dir.path()).unwrap()[1].kid.clone();
    let staged = keys_stage(dir.path(), KeyUse::Sg1, Some(later), now).unwrap();
    let state =
        |kid: &str| keys_list(dir.path()).unwrap().into_iter().find(|key| key.kid == kid).unwrap().state;
    assert_eq!((state(&first), state(&staged.kid)), (KeyState::Active, KeyState::Staged));
    let signer = |at| manage::sg1_signing_key(dir.path(), at).unwrap().kid;
    assert_eq!((signer(now), signer(later)), (first.clone(), staged.kid.clone()));
    // What it signs elsewhere is accepted here already.
    let token = issue_place(dir.path(), "gate 4", HOUR, later).unwrap();
    let verified = sg1(&token, later, &Keys::load(dir.path()).unwrap()).unwrap();
    assert_eq!(verified.kid.to_string(), staged.kid);
    let next = keys_rotate(dir.path(), KeyUse::Sg1, now).unwrap();
    assert_eq!((state(&first), state(&next.kid)), (KeyState::Verifying, KeyState::Active));
    keys_revoke(dir.path(), &Revocation::Kid(first.clone()), now).unwrap();
    assert_eq!(state(&first), KeyState::Revoked);
    let file = std::fs::read_to_string(&staged.path).unwrap();
    std::fs::write(&staged.path, file.replace("\"not_before\": \"", "\"not_before\": \"x")).unwrap();
    let error = keys_list(dir.path()).unwrap_err();
    assert!(matches!(error, KeysError::Invalid { field: "not_before", .. }), "{error}");
}

#[test]
fn a_key_is_retired_when_nothing_that_it_signed_is_valid() {
    let dir = data_dir();
    let now = UnixMillis::now();
    let old = keys_list(dir.path()).unwrap()[1].kid.clone();
    let retire = |kid: &str, force| keys_retire(dir.path(), KeyUse::Sg1, kid, force, now);
    assert!(matches!(retire("0011223344556677", false), Err(KeysError::NoSuchKey { .. })));
    assert!(matches!(retire(&old, true), Err(KeysError::Signs { .. })));
    let token = issue_place(dir.path(), "gate 4", HOUR, now).unwrap();
    issued::record(dir.path(), &old, issued::What::Codes(1), now.seconds() + 3600, now).unwrap();
    issued::record(dir.path(), &old, issued::What::Device, now.seconds() + 1800, now).unwrap();
    issued::record(dir.path(), &old, issued::What::Codes(1), now.seconds() + 90, now).unwrap();
    let signed = issued::load(dir.path()).unwrap().0.remove(&old).unwrap();
    assert_eq!((signed.codes, signed.devices), (1, 1), "a code of 90 seconds isn't counted");
    keys_rotate(dir.path(), KeyUse::Sg1, now).unwrap();
    assert!(matches!(retire(&old, false), Err(KeysError::StillNeeded { .. })));
    let retired = retire(&old, true).unwrap();
    let file: serde_json::Value = serde_json::from_slice(&std::fs::read(retired).unwrap()).unwrap();
    assert!(file.get("d").is_none() && file.get("x").is_some());
    let keys = Keys::load(dir.path()).unwrap();
    assert_eq!(outcome(sg1(&token, now, &keys)), Some(Outcome::UnknownKey));
    assert!(keys_list(dir.path()).unwrap().iter().all(|key| key.kid != old));
    // Epochs go on, and one whose codes are over goes without force.
    let third = keys_rotate(dir.path(), KeyUse::Sg1, now).unwrap();
    assert_eq!(third.epoch, Some(3));
}

#[test]
fn a_reload_empties_the_token_cache() {
    let dir = data_dir();
    let store = KeyStore::open(dir.path()).unwrap();
    let cache = TokenCache::new(100);
    let token = issue_place(dir.path(), "gate 4", HOUR, NOW).unwrap();
    let Verified { form, validity, .. } = sg1(&token, NOW, &store.load()).unwrap().into();
    let subject = ResolvedSubject::Place(crate::scan::PlaceKey([1; 16]));
    let key = cache.key(&token);
    cache.insert(key, &store.load(), Resolved { subject, form, validity });
    assert_eq!(cache.get(key, &store.load()).map(|resolved| resolved.subject), Some(subject));
    keys_rotate(dir.path(), KeyUse::Device(App::Vneid), NOW).unwrap();
    assert!(store.reload().unwrap());
    assert_eq!(cache.get(key, &store.load()), None);
}

/// They may be mounted read-only, where even a missing directory can't be made.
#[test]
fn a_start_writes_nothing_beside_production_keys() {
    let dir = tempfile::tempdir().unwrap();
    keys_generate(dir.path(), &[], NOW).unwrap();
    let revoked = dir.path().join("keys/revoked");
    std::fs::remove_dir(&revoked).unwrap();
    assert!(ensure_development(dir.path(), NOW).unwrap().is_empty());
    assert!(!revoked.exists() && Keys::load(dir.path()).is_ok());
}

#[test]
fn a_first_start_makes_closed_files_once() {
    let dir = tempfile::tempdir().unwrap();
    let made = ensure_development(dir.path(), NOW).unwrap();
    assert_eq!(
        made.iter().map(|key| key.key_use.name()).collect::<Vec<_>>(),
        ["pepper", "sg1", "pc-covid", "vneid", "sskdt"]
    );
    assert!(made.iter().all(|key| key.dev && key.private));
    for key in &made {
        assert_eq!(std::fs::metadata(&key.path).unwrap().permissions().mode() & 0o7777, 0o600);
        let parent = std::fs::metadata(key.path.parent().unwrap()).unwrap();
        assert_eq!(parent.permissions().mode() & 0o7777, 0o700);
    }
    let before = std::fs::read(&made[0].path).unwrap();
    assert!(ensure_development(dir.path(), NOW).unwrap().is_empty());
    assert_eq!(std::fs::read(&made[0].path).unwrap(), before);
    assert!(Keys::load(dir.path()).unwrap().is_dev());
    assert_eq!(Keys::load(dir.path()).unwrap().counts(), (1, 3));
    // One that was interrupted is completed.
    std::fs::remove_file(&made[1].path).unwrap();
    assert_eq!(ensure_development(dir.path(), NOW).unwrap().len(), 1);
    // But keys whose pepper is gone are not given a new one.
    std::fs::remove_file(&made[0].path).unwrap();
    assert!(matches!(ensure_development(dir.path(), NOW), Err(KeysError::PepperMissing { .. })));
    assert!(matches!(keys_generate(dir.path(), &[], NOW), Err(KeysError::PepperMissing { .. })));
}

#[test]
fn two_first_starts_at_once_agree() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| ensure_development(dir.path(), NOW).unwrap());
        }
    });
    assert!(Pepper::load(dir.path()).is_ok());
    assert_eq!(Keys::load(dir.path()).unwrap().counts(), (1, 3));
}

#[test]
fn production_keys_are_not_development_keys() {
    let dev = data_dir();
    assert!(matches!(keys_generate(dev.path(), &[], NOW), Err(KeysError::Development { .. })));
    let dir = tempfile::tempdir().unwrap();
    let made = keys_generate(dir.path(), &[App::Sskdt], NOW).unwrap();
    assert_eq!(made.len(), 3);
    assert!(ensure_development(dir.path(), NOW).unwrap().is_empty());
    let keys = Keys::load(dir.path()).unwrap();
    assert!(!keys.is_dev() && !Pepper::load(dir.path()).unwrap().is_dev());
    assert!(!keys_rotate(dir.path(), KeyUse::Sg1, NOW).unwrap().dev);
    assert!(keys_rotate(dir.path(), KeyUse::Pepper, NOW).is_err());
}

#[test]
fn unusable_key_files_are_named() {
    let dir = data_dir();
    let sg1_file = keys_list(dir.path()).unwrap()[1].path.clone();
    let good = std::fs::read_to_string(&sg1_file).unwrap();
    for (from, to, field) in [
        ("Ed25519", "P-256", "kty"),
        ("\"EdDSA\"", "\"ES256\"", "alg"),
        ("\"epoch\"", "\"other\"", "epoch"),
        ("\"issuer\"", "\"other\"", "issuer"),
        ("\"person\"", "\"pet\"", "types"),
        ("\"kid\": \"", "\"kid\": \"zz", "kid"),
        ("\"x\": \"", "\"x\": \"AA", "x"),
    ] {
        assert!(good.contains(from));
        std::fs::write(&sg1_file, good.replace(from, to)).unwrap();
        let error = Keys::load(dir.path()).unwrap_err();
        assert!(matches!(&error, KeysError::Invalid { field: named, .. } if *named == field), "{error}");
    }
    std::fs::write(&sg1_file, &good[..good.len() / 2]).unwrap();
    let error = Keys::load(dir.path()).unwrap_err();
    assert!(matches!(error, KeysError::Json { .. }));
    std::fs::write(&sg1_file, &good).unwrap();
    std::fs::copy(&sg1_file, sg1_file.with_file_name("copy.json")).unwrap();
    assert!(matches!(Keys::load(dir.path()), Err(KeysError::DuplicateKid { .. })));
    std::fs::remove_file(sg1_file.with_file_name("copy.json")).unwrap();
    std::fs::set_permissions(&sg1_file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(Keys::load(dir.path()), Err(KeysError::Permissions { mode: 0o644, .. })));
}

#[test]
fn a_failed_reload_keeps_the_old_keys() {
    let dir = data_dir();
    let store = KeyStore::open(dir.path()).unwrap();
    let token = issue_place(dir.path(), "gate 4", HOUR, NOW).unwrap();
    std::fs::write(dir.path().join("keys/sg1/bad.json"), "{").unwrap();
    assert!(store.reload().is_err());
    assert!(sg1(&token, NOW, &store.load()).is_ok());
}

#[test]
fn nothing_secret_is_printed() {
    let dir = data_dir();
    let printed = format!(
        "{:?} {:?} {:?} {:?}",
        KeyStore::open(dir.path()).unwrap(),
        Pepper::load(dir.path()).unwrap(),
        keyfile::read_dir(&keyfile::sg1_dir(dir.path())).unwrap(),
        keys_list(dir.path()).unwrap(),
    );
    for path in [dir.path().join("keys/pepper"), keys_list(dir.path()).unwrap()[1].path.clone()] {
        let file: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let secret = file.get("pepper").or(file.get("d")).and_then(serde_json::Value::as_str).unwrap();
        assert!(!printed.contains(secret));
    }
}
