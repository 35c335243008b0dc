//! Health certificates of an issuer made here: every outcome, and what the keys on disk have to say to it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod health_support;

use aws_lc_rs::digest::{SHA256, digest};
use ciborium::value::Value;
use coset::{CborSerializable, Header, HeaderBuilder, iana};
use health_support::issuer::{ARCS, Issuer, OLD_ARCS, cbor, certificate, claims, code, members, numbered};
use health_support::{hex, keys, name, outcome, write};
use scangate::payload::SignedForm;
use scangate::scan::{Form, Outcome, Refusal, UnixMillis};
use scangate::verify::{self, KeyStore, Keys, KeysError, Verified, hc1};

/// Within the certificates' year.
const NOW_S: i64 = 1_620_000_000;
const UVCI: &str = "URN:UVCI:01:AT:10807843F94AEE0EE5093FBC254BD813#B";

fn at(seconds: i64) -> UnixMillis {
    UnixMillis((NOW_S + seconds) * 1000)
}

fn read(text: &str, keys: &Keys) -> Result<Verified, Refusal> {
    verify::signed(SignedForm::Hc1(text), at(0), keys)
}

fn good(issuer: &Issuer) -> String {
    issuer.code(&claims(NOW_S, NOW_S + 60, certificate("v", UVCI)))
}

fn trusting(issuers: &[&Issuer]) -> Keys {
    let files: Vec<(String, &str)> = issuers
        .iter()
        .enumerate()
        .map(|(number, issuer)| (format!("hc1/{number}.pem"), issuer.pem.as_str()))
        .collect();
    keys(&files.iter().map(|(name, pem)| (name.as_str(), *pem)).collect::<Vec<_>>())
}

#[test]
fn a_certificate_of_a_known_issuer_names_its_holder_by_the_uvci() {
    let issuer = Issuer::new();
    let keys = trusting(&[&issuer]);
    let verified = read(&good(&issuer), &keys).unwrap();
    assert_eq!(name(&verified), ("uvci", "01:AT:10807843F94AEE0EE5093FBC254BD813#B"));
    assert_eq!(verified.form, Form::Hc1);
    assert!(!format!("{verified:?}").contains("10807843"));
    // The same holder however the issuer writes it.
    for uvci in
        ["urn:uvci:01:at:10807843f94aee0ee5093fbc254bd813#b", "01:AT:10807843F94AEE0EE5093FBC254BD813#B"]
    {
        let text = issuer.code(&claims(NOW_S, NOW_S + 60, certificate("v", uvci)));
        assert_eq!(name(&read(&text, &keys).unwrap()), name(&verified), "{uvci}");
    }
}

#[test]
fn rsa_of_2048_to_4096_bits_signs_too_and_keys_are_used_with_their_algorithm_only() {
    let (rsa, ec) = (Issuer::rsa(rcgen::RsaKeySize::_2048), Issuer::new());
    let keys = trusting(&[&rsa, &ec]);
    assert!(read(&good(&rsa), &keys).is_ok());
    let swapped = |issuer: &Issuer, algorithm| {
        let header = HeaderBuilder::new().algorithm(algorithm).key_id(issuer.kid.to_vec()).build();
        let payload = cbor(&claims(NOW_S, NOW_S + 60, certificate("v", UVCI)));
        code(&issuer.message(header, Header::default(), payload).to_vec().unwrap())
    };
    for (issuer, algorithm) in [
        (&rsa, iana::Algorithm::ES256),
        (&ec, iana::Algorithm::PS256),
        (&ec, iana::Algorithm::ES384),
        (&ec, iana::Algorithm::EdDSA),
    ] {
        assert_eq!(outcome(read(&swapped(issuer, algorithm), &keys)), Some(Outcome::BadSignature));
    }
}

#[test]
fn validity_has_exact_bounds() {
    let issuer = Issuer::new();
    let keys = trusting(&[&issuer]);
    let text = good(&issuer);
    for (seconds, expected) in [
        (-301, Some(Outcome::NotYetValid)),
        (-300, None),
        (0, None),
        (60, None),
        (61, Some(Outcome::Expired)),
        (400_000_000, Some(Outcome::Expired)),
    ] {
        let verdict = verify::signed(SignedForm::Hc1(&text), at(seconds), &keys);
        assert_eq!(outcome(verdict), expected, "{seconds}");
    }
    // Until the end of the year that the key may sign in, and past it.
    let year_end_s = 1_640_995_200;
    let long = issuer.code(&claims(year_end_s - 60, year_end_s + 86_400, certificate("v", UVCI)));
    let after = |seconds: i64| {
        outcome(verify::signed(SignedForm::Hc1(&long), UnixMillis((year_end_s + seconds) * 1000), &keys))
    };
    assert_eq!((after(-60), after(3_600), after(90_000)), (None, None, Some(Outcome::Expired)));
}

#[test]
fn an_issuer_signs_within_its_certificates_validity_only() {
    let issuer = Issuer::new();
    let keys = trusting(&[&issuer]);
    for issued_s in [1_609_459_199, 1_640_995_201, i64::MAX, 0, -1] {
        let text = issuer.code(&claims(issued_s, i64::MAX, certificate("v", UVCI)));
        assert_eq!(outcome(read(&text, &keys)), Some(Outcome::UnknownKey), "{issued_s}");
    }
}

#[test]
fn the_protected_kid_wins_and_an_unprotected_one_fills_in() {
    let issuer = Issuer::new();
    let keys = trusting(&[&issuer]);
    let payload = cbor(&claims(NOW_S, NOW_S + 60, certificate("v", UVCI)));
    let header = |kid: Option<&[u8]>, has_algorithm: bool| {
        let es256 = coset::RegisteredLabelWithPrivate::Assigned(iana::Algorithm::ES256);
        let alg = has_algorithm.then_some(es256);
        Header { alg, key_id: kid.unwrap_or_default().to_vec(), ..Header::default() }
    };
    let (right, wrong): (&[u8], &[u8]) = (&issuer.kid, &[7; 8]);
    for (protected, unprotected, expected) in [
        (header(Some(right), true), header(None, false), None),
        (header(None, true), header(Some(right), false), None),
        (header(None, false), header(Some(right), true), None),
        (header(Some(right), true), header(Some(wrong), false), None),
        (header(Some(wrong), true), header(Some(right), false), Some(Outcome::UnknownKey)),
        (header(None, true), header(Some(wrong), false), Some(Outcome::UnknownKey)),
        (header(None, true), header(None, false), Some(Outcome::UnknownKey)),
        (header(Some(&right[..7]), true), header(None, false), Some(Outcome::UnknownKey)),
        (header(Some(&[right, &[0]].concat()), true), header(None, false), Some(Outcome::UnknownKey)),
        (header(Some(right), false), header(None, false), Some(Outcome::BadSignature)),
    ] {
        let message = issuer.message(protected, unprotected, payload.clone());
        assert_eq!(outcome(read(&code(&message.clone().to_vec().unwrap()), &keys)), expected, "{message:?}");
    }
}

#[test]
fn tags_may_be_missing_or_two_and_nothing_may_hide() {
    let issuer = Issuer::new();
    let keys = trusting(&[&issuer]);
    let payload = cbor(&claims(NOW_S, NOW_S + 60, certificate("v", UVCI)));
    let message = issuer.message(issuer.header(), Header::default(), payload.clone()).to_vec().unwrap();
    let tagged = |tags: &[u8]| code(&[tags, &message].concat());
    for (tags, expected) in [
        (&[0xd2][..], None),
        (&[0xd8, 61, 0xd2], None),
        (&[0xd8, 61], None),
        (&[0xd2, 0xd8, 61], Some(Outcome::Unrecognized)),
        (&[0xd1], Some(Outcome::Unrecognized)),
        (&[0xd2, 0xd2], Some(Outcome::Unrecognized)),
    ] {
        assert_eq!(outcome(read(&tagged(tags), &keys)), expected, "{tags:x?}");
    }
    assert_eq!(
        outcome(read(&code(&[message.as_slice(), &[0xf6]].concat()), &keys)),
        Some(Outcome::Unrecognized)
    );
    let hiding = HeaderBuilder::new().text_value("more".to_owned(), Value::from(1)).build();
    let message = issuer.message(issuer.header(), hiding, payload.clone()).to_vec().unwrap();
    assert_eq!(outcome(read(&code(&message), &keys)), Some(Outcome::Unrecognized));
    let mut critical = issuer.header();
    critical.crit = vec![coset::RegisteredLabelWithPrivate::Assigned(iana::HeaderParameter::Alg)];
    let message = issuer.message(critical, Header::default(), payload).to_vec().unwrap();
    assert_eq!(outcome(read(&code(&message), &keys)), Some(Outcome::Unrecognized));
}

#[test]
fn no_changed_bit_is_accepted_under_another_name() {
    let issuer = Issuer::new();
    let keys = trusting(&[&issuer]);
    let payload = cbor(&claims(NOW_S, NOW_S + 60, certificate("v", UVCI)));
    let message = issuer.message(issuer.header(), Header::default(), payload).to_vec().unwrap();
    for bit in 0..message.len() * 8 {
        let mut changed = message.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let refused = outcome(read(&code(&changed), &keys));
        let expected = [Outcome::Unrecognized, Outcome::UnknownKey, Outcome::BadSignature];
        assert!(refused.is_some_and(|outcome| expected.contains(&outcome)), "bit {bit}: {refused:?}");
    }
    for cut in 0..message.len() {
        assert!(read(&code(&message[..cut]), &keys).is_err(), "cut at {cut}");
    }
}

#[test]
fn claims_must_say_what_is_needed_once() {
    let issuer = Issuer::new();
    let keys = trusting(&[&issuer]);
    let entry = || members(vec![("ci", UVCI.into()), ("co", "AT".into())]);
    let with = |kinds: Vec<(&str, Value)>| claims(NOW_S, NOW_S + 60, members(kinds));
    let one = |kind| (kind, Value::Array(vec![entry()]));
    let good = || with(vec![one("v")]);
    let without = |number: i64| {
        let pairs = good().into_map().unwrap().into_iter();
        Value::Map(pairs.filter(|(key, _)| *key != Value::from(number)).collect())
    };
    let twice = |number: i64| {
        let mut pairs = good().into_map().unwrap();
        let pair = pairs.iter().find(|(key, _)| *key == Value::from(number)).unwrap().clone();
        pairs.push(pair);
        Value::Map(pairs)
    };
    let long = "A".repeat(129);
    let refused = [
        ("no exp", without(4)),
        ("no iat", without(6)),
        ("no certificate", without(-260)),
        ("exp twice", twice(4)),
        ("iat twice", twice(6)),
        ("certificates twice", twice(-260)),
        ("no entry", with(vec![])),
        ("only nulls", with(vec![("v", Value::Null), ("t", Value::Null)])),
        ("an empty list", with(vec![("v", Value::Array(vec![]))])),
        ("two entries", with(vec![("v", Value::Array(vec![entry(), entry()]))])),
        ("two kinds", with(vec![one("v"), one("t")])),
        ("one kind twice", with(vec![one("v"), one("v")])),
        ("no ci", with(vec![("v", Value::Array(vec![members(vec![("co", "AT".into())])]))])),
        ("an empty ci", claims(NOW_S, NOW_S + 60, certificate("v", ""))),
        ("a long ci", claims(NOW_S, NOW_S + 60, certificate("v", &long))),
        (
            "a ci that is a number",
            with(vec![("v", Value::Array(vec![members(vec![("ci", Value::from(1))])]))]),
        ),
        ("an entry that is a text", with(vec![("v", Value::Array(vec!["ci".into()]))])),
        (
            "another version",
            numbered(vec![
                (4, Value::from(NOW_S)),
                (6, Value::from(NOW_S)),
                (-260, numbered(vec![(2, Value::Null)])),
            ]),
        ),
        ("a list", Value::Array(vec![])),
    ];
    for (what, claims) in refused {
        assert_eq!(outcome(read(&issuer.code(&claims), &keys)), Some(Outcome::Unrecognized), "{what}");
    }
    for (kind, null) in [("v", "t"), ("t", "r"), ("r", "v")] {
        assert!(read(&issuer.code(&with(vec![(null, Value::Null), one(kind)])), &keys).is_ok(), "{kind}");
    }
    assert!(read(&issuer.code(&without(1)), &keys).is_ok());
    assert_eq!(outcome(read(&issuer.code_of(b"\xff".to_vec()), &keys)), Some(Outcome::Unrecognized));
}

#[test]
fn nothing_that_is_not_a_packed_message_costs_more_than_a_refusal() {
    let issuer = Issuer::new();
    let keys = trusting(&[&issuer]);
    let bomb = code(&vec![0; 1 << 20]);
    assert!(bomb.len() < 2048);
    let deep = code(&vec![0x81; hc1::COSE_BYTES_MAX]);
    for text in ["HC1:", "HC1:A", "HC1::::", "HC1:abc", "HC1:NCF", "hc1:NCF", &bomb, &deep] {
        assert_eq!(outcome(read(text, &keys)), Some(Outcome::Unrecognized), "{text:.20}");
    }
}

#[test]
fn extended_key_usages_say_what_a_key_may_sign() {
    let with_arc = |arcs: &[u64], last: u64| [arcs, &[1, last]].concat();
    for (kind, arc) in [("t", 1), ("v", 2), ("r", 3)] {
        for arcs in [&ARCS[..], &OLD_ARCS] {
            let issuer = Issuer::with_usages(&[&with_arc(arcs, arc)]);
            let keys = trusting(&[&issuer]);
            for other in ["t", "v", "r"] {
                let text = issuer.code(&claims(NOW_S, NOW_S + 60, certificate(other, UVCI)));
                let expected = (kind != other).then_some(Outcome::UnknownKey);
                assert_eq!(outcome(read(&text, &keys)), expected, "{kind} {other}");
            }
        }
    }
    // Usages of other kinds restrict nothing, unless the extension is critical; rcgen writes it plain.
    let server = Issuer::with_usages(&[&[1, 3, 6, 1, 5, 5, 7, 3, 1]]);
    assert!(read(&good(&server), &trusting(&[&server])).is_ok());
}

#[test]
fn unknown_and_revoked_keys_are_told_apart() {
    let (known, unknown) = (Issuer::new(), Issuer::new());
    assert_eq!(outcome(read(&good(&unknown), &trusting(&[&known]))), Some(Outcome::UnknownKey));
    assert_eq!(outcome(read(&good(&unknown), &trusting(&[]))), Some(Outcome::UnknownKey));
    let kid = hex(&known.kid);
    let line = format!(r#"{{"kind":"kid","value":"{kid}","at":"2021-05-01T00:00:00Z"}}"#) + "\n";
    let keys = keys(&[("hc1/a.pem", &known.pem), ("revoked.ndjson", &line)]);
    assert_eq!(outcome(read(&good(&known), &keys)), Some(Outcome::Revoked));
}

#[test]
fn a_code_is_revoked_by_any_of_the_three_hashes() {
    for issuer in [Issuer::new(), Issuer::rsa(rcgen::RsaKeySize::_2048)] {
        let payload = cbor(&claims(NOW_S, NOW_S + 60, certificate("v", UVCI)));
        let message = issuer.message(issuer.header(), Header::default(), payload);
        let text = code(&message.clone().to_vec().unwrap());
        let signature = match issuer.algorithm() {
            iana::Algorithm::ES256 => &message.signature[..32],
            _ => &message.signature,
        };
        let hash = |bytes: &[u8]| hex(&digest(&SHA256, bytes).as_ref()[..16]);
        let listed = |hash: &str| {
            let line = format!(r#"{{"kind":"dcc","value":"{hash}","at":"2021-05-01T00:00:00Z"}}"#) + "\n";
            let keys = keys(&[("hc1/a.pem", &issuer.pem), ("revoked.ndjson", &line)]);
            outcome(read(&text, &keys))
        };
        assert_eq!(listed(&hash(UVCI.as_bytes())), Some(Outcome::Revoked));
        assert_eq!(listed(&hash(format!("AT{UVCI}").as_bytes())), Some(Outcome::Revoked));
        assert_eq!(listed(&hash(signature)), Some(Outcome::Revoked));
        assert_eq!(listed(&hash(b"another")), None);
    }
}

#[test]
fn files_of_issuers_are_read_whole_or_refused_by_name() {
    let (one, other) = (Issuer::new(), Issuer::new());
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "hc1/list.pem", &format!("{}{}", one.pem, other.pem));
    write(dir.path(), "hc1/again.pem", &one.pem);
    write(dir.path(), "hc1/readme.txt", "not read");
    write(dir.path(), "hc1/.hidden.pem", "not read");
    let keys = Keys::load(dir.path()).unwrap();
    assert!(read(&good(&one), &keys).is_ok() && read(&good(&other), &keys).is_ok());
    let [key] = keys.hc1_keys(one.kid) else { panic!("one key") };
    assert_eq!((key.country.as_deref(), key.not_before_s), (Some("VN"), 1_609_459_200));

    let refused = |content: &str| {
        write(dir.path(), "hc1/bad.pem", content);
        Keys::load(dir.path()).unwrap_err()
    };
    let key = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n";
    for content in ["", "hello", key] {
        let error = refused(content);
        assert!(
            matches!(&error, KeysError::Invalid { path, .. } if path.ends_with("hc1/bad.pem")),
            "{error}"
        );
    }
    let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let ed25519 = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&ed25519).unwrap().pem();
    let broken = "-----BEGIN CERTIFICATE-----\nMCowBQYDK2VwAyEA\n-----END CERTIFICATE-----\n";
    for content in [ed25519.as_str(), broken] {
        let error = refused(&format!("{}{content}", one.pem));
        assert!(
            matches!(&error, KeysError::Certificate { path, number: 2, .. } if path.ends_with("hc1/bad.pem")),
            "{error}"
        );
        assert!(error.to_string().contains("bad.pem: certificate 2 "), "{error}");
    }
    let large = " ".repeat((4 << 20) + 1);
    assert!(matches!(refused(&large), KeysError::TooLarge { limit: 4_194_304, .. }));
}

#[test]
fn a_reload_takes_issuers_in_and_out() {
    let issuer = Issuer::new();
    let dir = tempfile::tempdir().unwrap();
    let store = KeyStore::open(dir.path()).unwrap();
    assert_eq!(outcome(read(&good(&issuer), &store.load())), Some(Outcome::UnknownKey));
    write(dir.path(), "hc1/a.pem", &issuer.pem);
    assert!(store.reload().unwrap() && !store.reload().unwrap());
    assert!(read(&good(&issuer), &store.load()).is_ok());
    let generation = store.load().generation();
    std::fs::remove_file(dir.path().join("keys/hc1/a.pem")).unwrap();
    assert!(store.reload().unwrap() && store.load().generation() > generation);
    assert_eq!(outcome(read(&good(&issuer), &store.load())), Some(Outcome::UnknownKey));
}
