//! Links between a citizen's identifiers: what an entry weighs, what a start and a look-up cost.
//!
//! Memory is printed first, measured by a counting wrapper around the system allocator: `LINKS=10000000 cargo bench
//! --bench links` feeds as many; without it, a million.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use scangate::identity::Identity;
use scangate::identity::feed::Alias;
use scangate::identity::links::{Links, LinksSettings};
use scangate::scan::UnixMillis;
use scangate::verify::Pepper;

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

const BATCH_LINES: u64 = 10_000;
const NOW: UnixMillis = UnixMillis(1_637_700_000_000);

/// After the links have stopped being recent: what a gateway carries for good.
const LATER: UnixMillis = UnixMillis(NOW.0 + 7 * 86_400_000);

fn line(number: u64) -> String {
    format!("{{\"citizen\":\"{number:012}\",\"qid\":\"{number:018}\"}}")
}

fn links(criterion: &mut Criterion) {
    let count: u64 = std::env::var("LINKS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let identity = Identity::new(&Pepper::new([7; 32], true));
    let dir = tempfile::tempdir().expect("a directory");
    let began = Instant::now();
    {
        let links = Links::open(dir.path(), LinksSettings::default(), NOW).expect("opens");
        for start in (0..count).step_by(10_000) {
            let lines: Vec<String> = (start..count.min(start + BATCH_LINES)).map(line).collect();
            links.take(&identity, lines.iter().map(String::as_bytes), ("bench", ""), NOW).expect("taken");
        }
        eprintln!("feed: {count} links in {:.1?}, {BATCH_LINES} a batch", began.elapsed());
    }
    let (before, began) = (HELD_BYTES.load(Ordering::Relaxed), Instant::now());
    let links = Links::open(dir.path(), LinksSettings::default(), LATER).expect("opens");
    let held = HELD_BYTES.load(Ordering::Relaxed).saturating_sub(before);
    #[allow(clippy::cast_precision_loss)] // Shown to a tenth.
    let each = held as f64 / count as f64;
    eprintln!(
        "memory: {each:.1} bytes a link, the open tree's caches included; loaded in {:.1?}",
        began.elapsed()
    );
    let known = identity.alias(&Alias::Qid("000000000000000001"));
    let unknown = identity.citizen("000000000001");
    let mut group = criterion.benchmark_group("links");
    group.bench_function("resolve, linked", |bencher| bencher.iter(|| links.resolve(black_box(known))));
    group.bench_function("resolve, not linked", |bencher| bencher.iter(|| links.resolve(black_box(unknown))));
    let empty = Links::open(tempfile::tempdir().expect("a directory").path(), LinksSettings::default(), NOW);
    let empty = empty.expect("opens");
    group.bench_function("resolve, no links", |bencher| bencher.iter(|| empty.resolve(black_box(known))));
    group.finish();
}

criterion_group!(benches, links);
criterion_main!(benches);
