//! What a check-in costs in the journal: appending on the core, committing through the writer, replaying.
//!
//! `cargo bench --bench journal`; the journal lies in the temporary directory, so `TMPDIR` chooses the disk.
#![allow(missing_docs)] // The macros below make public items.
#![allow(clippy::unwrap_used)] // A bench that can't open its journal has nothing to say.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use scangate::journal::{Journal, JournalSettings};
use scangate::scan::{
    App, Checkin, CheckinId, ClientKey, DeviceKey, Direction, DirectionRequest, Form, PlaceKey, Pseudonym,
    Scan, Subject, Trust, UnixMillis,
};
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

fn checkin(number: u64) -> Checkin {
    let at = UnixMillis(1_637_736_569_000 + i64::try_from(number).unwrap());
    Checkin {
        id: CheckinId::new(at, number),
        direction: Direction::In,
        scan: Scan {
            person: Pseudonym([1; 16]),
            place: PlaceKey([2; 16]),
            direction: DirectionRequest::Auto,
            at,
            received: at,
            client: ClientKey([3; 12]),
            device: DeviceKey(number.to_le_bytes()),
            app: App::PcCovid,
            subject: Subject::Person,
            trust: Trust::Proven,
            form: Form::Sg1,
            window_s: 60,
        },
    }
}

fn open(dir: &Path, lane_bytes_max: usize) -> (Journal, u64) {
    let segment_bytes = (64 << 20).max(lane_bytes_max as u64 + (4 << 20));
    let settings = JournalSettings { lanes: 1, lane_bytes_max, segment_bytes, ..JournalSettings::default() };
    let mut sum = 0;
    let (journal, recovery) = Journal::open(dir, settings, &mut |checkin| sum ^= checkin.id.hash()).unwrap();
    black_box(sum);
    (journal, recovery.records)
}

/// Encoding into the lane, while the writer is busy with a batch before: no wake, no waiting.
fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal");
    group.throughput(Throughput::Elements(1));
    group.bench_function("append", |bencher| {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = open(dir.path(), 16 << 20);
        let lane = journal.lane(0).unwrap();
        let checkin = checkin(7);
        bencher.iter_custom(|iterations| {
            let mut spent = Duration::ZERO;
            let mut left = iterations;
            while left > 0 {
                let burst = left.min(10_000);
                let mut last = None;
                let begun = Instant::now();
                for _ in 0..burst {
                    last = Some(lane.append(black_box(&checkin)).unwrap());
                }
                spent += begun.elapsed();
                journal.committed_blocking(last.unwrap()).unwrap();
                left -= burst;
            }
            spent
        });
    });
    group.finish();
}

/// Bursts of n records, each burst awaited: the rate at which durable records come out.
fn commit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal/commit");
    for burst in [1_u64, 32, 1_000, 10_000] {
        group.throughput(Throughput::Elements(burst));
        group.sample_size(20);
        group.bench_function(burst.to_string(), |bencher| {
            let dir = tempfile::tempdir().unwrap();
            let (journal, _) = open(dir.path(), 4 << 20);
            let lane = journal.lane(0).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            bencher.iter(|| {
                let tickets: Vec<_> =
                    (0..burst).map(|number| lane.append(&checkin(number)).unwrap()).collect();
                runtime.block_on(async {
                    for ticket in tickets {
                        lane.committed(ticket).await.unwrap();
                    }
                });
                journal.release(journal.durable_position());
            });
        });
    }
    group.finish();
}

/// Opening a journal of a million records.
fn replay(criterion: &mut Criterion) {
    const RECORDS: u64 = 1_000_000;
    let dir = tempfile::tempdir().unwrap();
    {
        let (journal, _) = open(dir.path(), 4 << 20);
        let lane = journal.lane(0).unwrap();
        for number in 0..RECORDS {
            let ticket = lane.append(&checkin(number)).unwrap();
            if number % 10_000 == 9_999 {
                journal.committed_blocking(ticket).unwrap();
            }
        }
    }
    let mut group = criterion.benchmark_group("journal");
    group.throughput(Throughput::Elements(RECORDS));
    group.sample_size(10);
    group.bench_function("replay", |bencher| {
        bencher.iter_batched(
            || (),
            |()| {
                let (journal, records) = open(dir.path(), 4 << 20);
                assert_eq!(records, RECORDS);
                journal
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, append, commit, replay);
criterion_main!(benches);
