//! Device tokens: one seen before (every request) and one never seen (once a token and reload).
//!
//! `cargo bench --bench authenticate`

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use scangate::authenticate::{AuthenticateSettings, Authenticator, Lookup, RateLimits};
use scangate::identity::Identity;
use scangate::issue::{self, RoleRef};
use scangate::scan::{App, UnixMillis};
use scangate::verify::{KeyStore, Pepper};

const NOW: UnixMillis = UnixMillis(1_637_736_569_000);

fn device_token(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    issue::ensure_development(dir.path(), NOW).expect("development keys");
    let keys = Arc::new(KeyStore::open(dir.path()).expect("keys"));
    let identity = Arc::new(Identity::new(&Pepper::load(dir.path()).expect("the pepper")));
    let rate = RateLimits { device_scans_per_s: 1_000_000_000, device_burst_scans: 1_000_000_000 };
    let settings = AuthenticateSettings { rate, ..AuthenticateSettings::default() };
    let authenticator = Authenticator::new(keys, identity, &settings);
    let role = RoleRef::Place("https://qr.pccovid.gov.vn/Ab3xK9pQ");
    let token = issue::issue_device(dir.path(), App::PcCovid, role, None, Duration::from_hours(1), NOW);
    let token = token.expect("a token");
    let header = format!("Bearer {token}");
    let device = authenticator.verify(&token, NOW).expect("a valid token");

    let mut group = criterion.benchmark_group("device_token");
    group.bench_function("cache_hit", |bencher| {
        bencher.iter(|| match authenticator.lookup(black_box(header.as_bytes()), NOW) {
            Lookup::Known(device) => Some(device.key),
            Lookup::Unknown(_) | Lookup::Refused(_) => None,
        });
    });
    group.bench_function("verify", |bencher| {
        bencher.iter(|| authenticator.verify(black_box(&token), NOW).is_ok());
    });
    let now = Instant::now();
    group.bench_function("admit", |bencher| bencher.iter(|| device.admit(black_box(1), now).is_ok()));
    group.finish();
}

criterion_group!(benches, device_token);
criterion_main!(benches);
