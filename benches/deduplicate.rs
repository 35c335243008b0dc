//! Deduplication: what an admission costs, and what a live entry weighs.
//!
//! Memory is printed first, measured by a counting wrapper around the system allocator, at 10 million live
//! entries and at 10 million scans. The bound is 48 bytes an entry.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use scangate::deduplicate::{Admission, Deduplicate, Settings};
use scangate::scan::{
    App, ClientKey, DeviceKey, DirectionRequest, Form, PlaceKey, Pseudonym, Scan, Subject, Trust, UnixMillis,
};

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

const T0: i64 = 1_637_700_000_000;

fn settings() -> Settings {
    Settings { windows_s: vec![60], remember_s: 172_800, auto_reset_s: 57_600, entries_max: u64::MAX }
}

/// A new person each time: the worst case for memory and cache.
fn scan(number: u64, window_s: u16) -> Scan {
    let mut person = [0; 16];
    person[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    let mut client = [0; 12];
    client[..8].copy_from_slice(&number.wrapping_mul(0xd6e8_feb8_6659_fd93).to_le_bytes());
    client[8..].copy_from_slice(&number.to_le_bytes()[..4]);
    Scan {
        person: Pseudonym(person),
        place: PlaceKey([(number % 251) as u8; 16]),
        direction: DirectionRequest::Auto,
        at: UnixMillis(T0 + (number % 3_000_000).cast_signed()),
        received: UnixMillis(T0 + 3_000_000),
        client: ClientKey(client),
        device: DeviceKey([1; 8]),
        app: App::PcCovid,
        subject: Subject::Person,
        trust: Trust::Proven,
        form: Form::Sg1,
        window_s,
    }
}

fn admit(memory: &Deduplicate<u64, ()>, scan: &Scan) -> bool {
    match memory.admit(scan, &[], |_| Ok::<_, ()>(1)) {
        Ok(Admission::Fresh(in_flight)) => {
            in_flight.durable(());
            true
        }
        _ => false,
    }
}

fn memory() {
    for (name, window_s, live_scans) in
        [("clients, presence", 60, 5_000_000), ("clients, presence", 60, 10_000_000)]
    {
        let before = HELD_BYTES.load(Ordering::Relaxed);
        let memory = Deduplicate::new(settings(), [3; 16]);
        for number in 0..live_scans {
            admit(&memory, &scan(number, window_s));
        }
        let held = HELD_BYTES.load(Ordering::Relaxed) - before;
        #[allow(clippy::cast_precision_loss)]
        let per_entry = held as f64 / memory.entries() as f64;
        eprintln!(
            "deduplicate: {} live entries ({live_scans} scans: {name}) hold {} MiB: {per_entry:.1} bytes an entry (bound 48)",
            memory.entries(),
            held >> 20,
        );
        assert!(per_entry <= 48.0, "an entry weighs {per_entry:.1} bytes, over the bound of 48");
    }
}

fn admission(criterion: &mut Criterion) {
    memory();
    let mut group = criterion.benchmark_group("deduplicate");
    group.throughput(Throughput::Elements(1));
    for live in [10_000_u64, 1_000_000] {
        let memory = Deduplicate::new(settings(), [3; 16]);
        for number in 0..live {
            admit(&memory, &scan(number, 60));
        }
        let mut next = live;
        group.bench_function(format!("fresh_and_durable_at_{live}_scans"), |bench| {
            bench.iter(|| {
                next += 1;
                admit(&memory, black_box(&scan(next, 60)))
            });
        });
        group.bench_function(format!("duplicate_at_{live}_scans"), |bench| {
            let mut number = 0;
            bench.iter(|| {
                number = (number + 7919) % live;
                admit(&memory, black_box(&scan(number, 60)))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, admission);
criterion_main!(benches);
