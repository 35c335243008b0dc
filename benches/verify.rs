//! A never-seen code against the bare cryptography it contains, and an SG1 token seen before.
//!
//! `cargo bench --bench verify`. The difference between `sg1/cold` and `sg1/bare_ed25519` is what the
//! gateway adds to the signature: base45, the envelope, the claims and the revocation list. The same for a
//! health certificate between `hc1/cold` and `hc1/bare_p256_and_inflate`, on a code of the EU's public test
//! data.

#[path = "../tests/health_support/mod.rs"]
mod health_support;

use std::hint::black_box;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, Ed25519KeyPair, KeyPair, ParsedPublicKey};
use coset::{CoseSign1, TaggedCborSerializable};
use criterion::{Criterion, criterion_group, criterion_main};
use scangate::identity::Identity;
use scangate::issue::{self, PRINTED_TTL};
use scangate::payload::{self, Claim, SignedForm};
use scangate::scan::UnixMillis;
use scangate::verify::{self, KeyStore, Pepper, Resolved, TokenCache, hc1};

const NOW: UnixMillis = UnixMillis(1_637_736_569_000);

/// The bytes that an SG1 token signs.
const SIGNED_BYTES: usize = 85;

fn sg1(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    issue::ensure_development(dir.path(), NOW).expect("development keys");
    let store = KeyStore::open(dir.path()).expect("keys");
    let token = issue::issue_person(dir.path(), "001090123456", PRINTED_TTL, NOW).expect("a token");
    let mut group = criterion.benchmark_group("sg1");
    group.bench_function("cold", |bencher| {
        bencher.iter(|| verify::sg1(black_box(&token), NOW, &store.load()).is_ok());
    });

    let pair = Ed25519KeyPair::generate().expect("a key");
    let public = ParsedPublicKey::new(&ED25519, pair.public_key().as_ref()).expect("its public key");
    let message = [7_u8; SIGNED_BYTES];
    let signature = pair.sign(&message);
    group.bench_function("bare_ed25519", |bencher| {
        bencher.iter(|| public.verify_sig(black_box(&message), signature.as_ref()).is_ok());
    });

    // A worker's job: all good, one bad, all bad. Twice the singles is what the worst may take.
    let persons: Vec<String> = (0..64_u32).map(|person| format!("person-{person}")).collect();
    let issue = |person| issue::issue_person(dir.path(), person, PRINTED_TTL, NOW).expect("a token");
    let good: Vec<String> = persons.iter().map(|person| issue(person)).collect();
    for (name, bad) in [("all good", 0), ("one bad", 1), ("all bad", 64)] {
        let mut tokens = good.clone();
        // The first is the one that halving finds last.
        tokens.iter_mut().take(bad).for_each(spoil);
        let tokens: Vec<(&str, UnixMillis)> = tokens.iter().map(|token| (token.as_str(), NOW)).collect();
        group.throughput(criterion::Throughput::Elements(64));
        group.bench_function(format!("64 together, {name}"), |bencher| {
            bencher.iter(|| verify::sg1_all(black_box(&tokens), &store.load()));
        });
        group.bench_function(format!("64 singly, {name}"), |bencher| {
            let one = |(token, now): &(&str, UnixMillis)| {
                verify::sg1(black_box(token), *now, &store.load()).is_ok()
            };
            bencher.iter(|| tokens.iter().filter(|token| one(token)).count());
        });
    }

    let identity = Identity::new(&Pepper::load(dir.path()).expect("the pepper"));
    let cache = TokenCache::new(1 << 20);
    let verified = verify::signed(SignedForm::Sg1(&token), NOW, &store.load()).expect("a valid token");
    let subject = identity.holder(&verified.holder).expect("a person");
    let resolved = Resolved { subject, form: verified.form, validity: verified.validity };
    cache.insert(cache.key(&token), &store.load(), resolved);
    group.bench_function("cache_hit", |bencher| {
        bencher.iter(|| {
            let keys = store.load();
            let resolved = cache.get(cache.key(black_box(&token)), &keys)?;
            resolved.validity.check(NOW).ok()?;
            Some(resolved.subject)
        });
    });
    group.finish();
}

fn health_certificate(criterion: &mut Criterion) {
    use x509_parser::prelude::FromDer as _;
    let sample = health_support::dgc::sample(health_support::dgc::AUSTRIAN);
    let keys = sample.keys();
    let now = sample.clock().expect("a clock");
    let text = sample.prefix.clone().expect("a text");
    assert!(verify::hc1(&text, now, &keys).is_ok());
    let mut group = criterion.benchmark_group("hc1");
    group.bench_function("cold", |bencher| {
        bencher.iter(|| verify::hc1(black_box(&text), now, &keys).is_ok());
    });

    let (_, pem) = x509_parser::pem::parse_x509_pem(sample.pem().as_bytes()).expect("a certificate");
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(&pem.contents).expect("one");
    let point = &certificate.public_key().subject_public_key.data;
    let public = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point.as_ref()).expect("a P-256 key");
    let cose = CoseSign1::from_tagged_slice(&sample.message().expect("a message")).expect("a COSE_Sign1");
    let (message, signature) = (cose.tbs_data(b""), &cose.signature);
    let packed = hc1::packed(&text).expect("base45");
    group.bench_function("bare_p256_and_inflate", |bencher| {
        bencher.iter(|| {
            let mut buffer = [0; hc1::COSE_BYTES_MAX];
            let inflated = hc1::inflated(black_box(&packed), &mut buffer).map(<[u8]>::len);
            (inflated, public.verify_sig(black_box(&message), signature).is_ok())
        });
    });
    group.bench_function("bare_inflate", |bencher| {
        bencher.iter(|| {
            let mut buffer = [0; hc1::COSE_BYTES_MAX];
            hc1::inflated(black_box(&packed), &mut buffer).map(<[u8]>::len)
        });
    });
    group.finish();
}

/// Changes the signature's last bytes: base45 of the same length.
fn spoil(token: &mut String) {
    let kept = token.len() - 3;
    let other = if token.ends_with("000") { "100" } else { "000" };
    token.truncate(kept);
    token.push_str(other);
}

fn identity(criterion: &mut Criterion) {
    let identity = Identity::new(&Pepper::new([7; 32], true));
    let card = "001090123456|012345678|NGUYEN VAN A|01011990|Nam|Hà Nội|15042021";
    let Ok(Claim::Person(card)) = payload::parse(card) else { return };
    let (person, _place) = (identity.person(&card), identity.place("gate 4"));
    let cti = identity.cti_of_person(person);
    let device = identity.device(scangate::scan::App::PcCovid, "gate-1");
    let mut group = criterion.benchmark_group("identity");
    group.bench_function("person_hmac", |bencher| bencher.iter(|| identity.person(black_box(&card))));
    group.bench_function("person_of_cti", |bencher| bencher.iter(|| identity.person_of_cti(black_box(cti))));
    group.bench_function("client_key", |bencher| {
        bencher.iter(|| identity.client(device, black_box("0b5c1e0e-7d4f-4a3e-9c1b-2f6d8a7e5b4c")));
    });
    group.finish();
}

criterion_group!(benches, sg1, health_certificate, identity);
criterion_main!(benches);
