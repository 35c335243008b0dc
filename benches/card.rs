//! The card: what a person's row weighs, what judging a person costs, and what a look-up at a scan costs.
//!
//! Memory and the median look-up are printed first: `PERSONS=10000000 cargo bench --bench card` judges as many; without it, a
//! million. Look-ups are of persons in no order, so that each meets a cold cache, as at a gate.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use scangate::scan::{PlaceKey, Pseudonym, UnixMillis};
use scangate::services::capability::{State, StateError};
use scangate::services::card::cards::{Cards, FactsOf};
use scangate::services::card::rules::RuleSet;
use scangate::services::health::fact::{Fact, Known, Provenance, RegisterId, Source, TestKind, TestResult};
use scangate::services::places::Places;

struct Counting;

static HELD_BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system allocator unchanged; only a counter is kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's own contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's own contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const NOW: UnixMillis = UnixMillis(1_637_736_569_000);

/// What a look-up may take: the services' promise to the scan's path.
const LOOK_NS_MAX: u128 = 1_000;

/// So many look-ups are one sample, since reading the clock costs as much as one.
const LOOKS: u64 = 64;

fn person(number: u64) -> Pseudonym {
    let (high, low) =
        (number.wrapping_mul(0x9e37_79b9_7f4a_7c15), number.wrapping_mul(0xd6e8_feb8_6659_fd93));
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&high.rotate_left(29).to_le_bytes());
    bytes[8..].copy_from_slice(&low.rotate_left(31).to_le_bytes());
    Pseudonym(bytes)
}

/// Two doses each, and a test for every fourth.
struct Nation {
    persons: u64,
}

impl FactsOf for Nation {
    fn facts_of(&self, person: Pseudonym) -> Result<Vec<Known>, StateError> {
        let [byte, ..] = person.0;
        let dose = |dose, day| Fact::Vaccination { product: "EU/1/21/1529".to_owned(), dose, doses: 2, day };
        let (first, taken_at) =
            (NOW.day() - 90 + i32::from(byte % 80), UnixMillis(NOW.0 - i64::from(byte) * 3_600_000));
        let mut facts = vec![dose(1, first), dose(2, first + 21)];
        if byte % 4 == 0 {
            facts.push(Fact::Test { kind: TestKind::Antigen, result: TestResult::Negative, taken_at });
        }
        let source = Source::Register(RegisterId::Vaccination);
        let known = |fact| {
            let provenance = Provenance { source, record: "r".to_owned(), version: 1, received: NOW };
            Known { fact, provenance }
        };
        Ok(facts.into_iter().map(known).collect())
    }

    fn each_person(&self, each: &mut dyn FnMut(Pseudonym)) -> Result<(), StateError> {
        (0..self.persons).map(person).for_each(each);
        Ok(())
    }
}

fn card(criterion: &mut Criterion) {
    let persons: u64 = std::env::var("PERSONS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let dir = tempfile::tempdir().expect("a directory");
    let places = Arc::new(Places::open(&State::open(dir.path()).expect("opens"), 1).expect("opens"));
    let cards = Cards::new(Arc::new(Nation { persons }), places);
    let sets = [include_str!("../config/rules/vn.json"), include_str!("../config/rules/vn-01.json")];
    let sets = sets.map(|text| Arc::new(RuleSet::read(text.as_bytes()).expect("a rule set")));
    cards.take_rules(sets.to_vec());
    let (before, began) = (HELD_BYTES.load(Ordering::Relaxed), Instant::now());
    cards.load(NOW).expect("judged");
    let (held, took) = (HELD_BYTES.load(Ordering::Relaxed) - before, began.elapsed());
    #[allow(clippy::cast_precision_loss)]
    let (bytes, us) = (held as f64 / persons as f64, took.as_secs_f64() * 1e6 / persons as f64);
    eprintln!(
        "card: {persons} persons by 2 rule sets hold {} MiB: {bytes:.1} bytes each; judged at a start in {us:.1} us each",
        held >> 20
    );

    let place = PlaceKey([1; 16]);
    let look = |number: u64| cards.at_place(person(number % persons), place, NOW).colour;
    let mut samples: Vec<u128> = (0..20_000_u64)
        .map(|sample| {
            let began = Instant::now();
            for step in 0..LOOKS {
                black_box(look((sample * LOOKS + step).wrapping_mul(0x9e37_79b9)));
            }
            began.elapsed().as_nanos() / u128::from(LOOKS)
        })
        .collect();
    samples.sort_unstable();
    let [median, p99] =
        [samples.len() / 2, samples.len() * 99 / 100].map(|at| samples.get(at).copied().unwrap_or_default());
    eprintln!("card: a look-up takes {median} ns (median), {p99} ns (p99), bound {LOOK_NS_MAX} ns");

    let mut group = criterion.benchmark_group("card");
    group.measurement_time(Duration::from_secs(2));
    let mut number = 0_u64;
    group.bench_function(format!("look_at_{persons}_persons"), |bench| {
        bench.iter(|| {
            number = number.wrapping_add(0x9e37_79b9);
            look(black_box(number))
        });
    });
    group.bench_function("judge_a_person", |bench| {
        bench.iter(|| cards.facts_changed(black_box(person(7)), NOW).is_ok());
    });
    group.finish();
}

criterion_group!(benches, card);
criterion_main!(benches);
