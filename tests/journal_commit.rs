//! Promise: every waiting future learns its record's fate, on whichever core it waits, and a core is woken
//! across threads once a batch; readers see durable records only; segments go only when released.
//!
//! Not proved here: durability itself (`journal_faults`, `journal_recovery`).
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // Test helpers: a panic is the failure.

mod journal_common;
#[path = "journal_common/sim.rs"]
mod sim;

use journal_common::{checkin, number, open, scratch, small};
use scangate::journal::{
    AppendError, CommitError, Committed, Journal, JournalError, JournalSettings, Lane, Position, ReadError,
    Reader, verify,
};
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

/// Counts wakes by the thread they come from.
struct Counting {
    home: ThreadId,
    local: AtomicUsize,
    remote: AtomicUsize,
}

impl Counting {
    fn new() -> Arc<Self> {
        let home = std::thread::current().id();
        Arc::new(Self { home, local: AtomicUsize::new(0), remote: AtomicUsize::new(0) })
    }

    fn wakes(&self) -> (usize, usize) {
        (self.local.load(Ordering::SeqCst), self.remote.load(Ordering::SeqCst))
    }
}

impl Wake for Counting {
    fn wake(self: Arc<Self>) {
        let local = std::thread::current().id() == self.home;
        if local { &self.local } else { &self.remote }.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll(future: &mut Committed<'_>, waker: &Arc<Counting>) -> Poll<Result<(), CommitError>> {
    let waker = Waker::from(Arc::clone(waker));
    Pin::new(future).poll(&mut Context::from_waker(&waker)).map(|outcome| outcome.map(|_| ()))
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}

/// Lanes that no test below fills.
fn roomy() -> JournalSettings {
    JournalSettings { lane_bytes_max: 1 << 20, segment_bytes: 4 << 20, bytes_max: 16 << 20, ..small() }
}

/// A journal whose syncs take long enough to be waited for.
fn slow() -> Journal {
    let disk = sim::SimDisk::new(1, 1 << 30);
    disk.set_sync_takes(Duration::from_micros(500));
    Journal::open_on(Arc::new(disk), Path::new("/journal"), roomy(), &mut |_| {}).unwrap().0
}

#[test]
fn a_commit_wakes_the_core_once_and_the_core_wakes_the_rest() {
    let journal = slow();
    let lane = journal.lane(0).unwrap();
    let mut remote_total = 0;
    let mut rounds = 0;
    for round in 0..200_u64 {
        let wakers: Vec<_> = (0..8).map(|_| Counting::new()).collect();
        let mut futures: Vec<_> =
            (0..8).map(|index| lane.committed(lane.append(&checkin(round * 8 + index)).unwrap())).collect();
        let polls = futures.iter_mut().zip(&wakers).map(|(future, waker)| poll(future, waker));
        let pending = polls.filter(Poll::is_pending).count();
        if pending < 8 {
            continue; // The writer was faster than this loop; nothing to see.
        }
        rounds += 1;
        // An executor: polls what was woken, until all are done.
        let mut polled = [(0, 0); 8];
        let mut done = [false; 8];
        eventually("all are woken", || {
            for (index, (future, waker)) in futures.iter_mut().zip(&wakers).enumerate() {
                let wakes = waker.wakes();
                if !done[index] && wakes != polled[index] {
                    polled[index] = wakes;
                    done[index] = poll(future, waker) == Poll::Ready(Ok(()));
                }
            }
            done.iter().all(|done| *done)
        });
        remote_total += wakers.iter().map(|waker| waker.wakes().1).sum::<usize>();
    }
    assert!(rounds > 0, "the writer was always faster than this loop");
    // The eight records make one or two batches as a rule, never eight.
    assert!(remote_total <= rounds * 3, "{remote_total} cross-thread wakes in {rounds} rounds");
}

#[test]
fn a_representative_that_is_dropped_hands_over() {
    let journal = slow();
    let lane = journal.lane(0).unwrap();
    for round in 0..300_u64 {
        let wakers: Vec<_> = (0..4).map(|_| Counting::new()).collect();
        let mut futures: Vec<_> =
            (0..4).map(|index| lane.committed(lane.append(&checkin(round * 4 + index)).unwrap())).collect();
        for (future, waker) in futures.iter_mut().zip(&wakers) {
            let _ = poll(future, waker);
        }
        if round % 2 == 0 {
            std::thread::yield_now(); // Sometimes after it was woken.
        }
        let mut last = futures.pop().unwrap();
        drop(futures);
        if poll(&mut last, &wakers[3]).is_pending() {
            eventually("the last is woken", || wakers[3].wakes() != (0, 0));
            eventually("and done", || poll(&mut last, &wakers[3]).is_ready());
        }
    }
}

#[test]
fn a_duplicate_waits_on_another_cores_ticket() {
    const RECORDS: u64 = 2_000;
    let dir = scratch();
    let (journal, _, _) = open(dir.path(), roomy());
    let (send, receive) = tokio::sync::mpsc::unbounded_channel();
    let core = || tokio::runtime::Builder::new_current_thread().build().unwrap();
    std::thread::scope(|scope| {
        let (first, second) = (journal.lane(0).unwrap(), journal.lane(1).unwrap());
        scope.spawn(move || {
            core().block_on(async {
                for index in 0..RECORDS {
                    let ticket = first.append(&checkin(index)).unwrap();
                    send.send(ticket).unwrap();
                    if index % 16 == 0 {
                        first.committed(ticket).await.unwrap();
                    }
                }
            });
        });
        scope.spawn(move || {
            let local = tokio::task::LocalSet::new();
            let mut receive = receive;
            let done = core().block_on(local.run_until(async move {
                let lane = std::rc::Rc::new(second);
                let mut waiting = tokio::task::JoinSet::new();
                while let Some(ticket) = receive.recv().await {
                    let lane = std::rc::Rc::clone(&lane);
                    waiting.spawn_local(async move { lane.committed(ticket).await.is_ok() });
                }
                waiting.join_all().await
            }));
            assert!(done.len() as u64 == RECORDS && done.iter().all(|durable| *durable));
        });
    });
}

#[test]
fn handles_cross_threads_as_promised() {
    fn sends<T: Send>() {}
    fn shares<T: Send + Sync>() {}
    shares::<Journal>();
    sends::<Lane>();
    sends::<Reader>();
}

#[test]
fn a_lane_is_held_once_and_bounded() {
    let dir = scratch();
    let (journal, _, _) = open(dir.path(), small());
    let lane = journal.lane(0).unwrap();
    assert!(matches!(journal.lane(0), Err(JournalError::Lane { index: 0, lanes: 2 })));
    assert!(matches!(journal.lane(2), Err(JournalError::Lane { .. })));
    let mut full = false;
    for index in 0..100_000 {
        match lane.append(&checkin(index)) {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error, AppendError::LaneFull { limit: 1024 });
                full = true;
                break;
            }
        }
    }
    assert!(full, "the bound was never met");
    drop(lane);
    let lane = journal.lane(0).unwrap();
    journal.close();
    assert_eq!(lane.append(&checkin(0)), Err(AppendError::Stopped));
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let dir = scratch();
    let settings = JournalSettings { segment_bytes: 2048, ..small() };
    let result = Journal::open(dir.path(), settings, &mut |_| {});
    assert!(matches!(result, Err(JournalError::Setting { name: "segment_bytes", .. })));
}

fn fill(dir: &Path, settings: JournalSettings, records: std::ops::Range<u64>) -> Journal {
    let (journal, _, _) = open(dir, settings);
    let lane = journal.lane(0).unwrap();
    for index in records {
        let ticket = lane.append(&checkin(index)).unwrap();
        journal.committed_blocking(ticket).unwrap();
    }
    journal
}

#[test]
fn readers_resume_anywhere_and_stop_at_the_durable_end() {
    let dir = scratch();
    let journal = fill(dir.path(), small(), 0..200);
    let mut positions = vec![Position::START];
    let mut all = Vec::new();
    let mut reader = journal.reader(Position::START);
    loop {
        let before = all.len();
        let position = reader.read(&mut all, 7).unwrap();
        if all.len() == before {
            break;
        }
        positions.push(position);
    }
    assert_eq!(all.iter().map(number).collect::<Vec<_>>(), (0..200).collect::<Vec<_>>());
    assert_eq!(*positions.last().unwrap(), journal.durable_position());
    for (index, from) in positions.iter().enumerate() {
        let mut rest = Vec::new();
        journal.reader(*from).read(&mut rest, 1_000).unwrap();
        assert_eq!(rest, all[all.len().min(index * 7)..]);
    }
    let end = journal.durable_position();
    assert_eq!(reader.wait(Duration::from_millis(1)), end, "nothing more to come");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| journal.wait_durable_beyond(end, Duration::from_secs(5)));
        let lane = journal.lane(1).unwrap();
        lane.append(&checkin(200)).unwrap();
        assert!(waiting.join().unwrap() > end);
    });
    let ahead = Position { segment: 1_000, offset: 0 };
    assert!(matches!(journal.reader(ahead).read(&mut all, 1), Err(ReadError::Ahead { .. })));
    // Positions hold over a restart, clean stop's mark included.
    drop(reader);
    drop(journal);
    let (journal, _, _) = open(dir.path(), small());
    let mut rest = Vec::new();
    journal.reader(end).read(&mut rest, 10).unwrap();
    assert_eq!(rest, [checkin(200)]);
}

#[test]
fn only_released_segments_go_and_the_rest_is_read_as_before() {
    let dir = scratch();
    let journal = fill(dir.path(), small(), 0..200);
    let segments = journal.stats().segments;
    assert!(segments > 4);
    let mut read = Vec::new();
    let mut reader = journal.reader(Position::START);
    let position = reader.read(&mut read, 70).unwrap();
    journal.release(position);
    let stats = journal.stats();
    assert_eq!(stats.segments, segments - stats.deleted_segments);
    assert_eq!(stats.deleted_segments, position.segment - 1, "all below the position, and only those");
    assert_eq!(stats.deleted_early_segments, 0);
    journal.release(Position { segment: 1_000, offset: 0 });
    assert_eq!(journal.stats().segments, stats.segments, "a position beyond the journal releases nothing");
    reader.read(&mut read, 1_000).unwrap();
    assert_eq!(read.len(), 200);
    drop(reader);
    drop(journal);
    let inspection = verify(dir.path()).unwrap();
    assert_eq!(inspection.segments[0].number, position.segment);
    let (_, _, replayed) = open(dir.path(), small());
    assert_eq!(replayed.last(), Some(&199));
}

#[test]
fn released_segments_stay_for_their_retention_unless_bytes_are_needed() {
    let dir = scratch();
    // The check-ins are from 2021: keep them for a thousand years.
    let settings = JournalSettings { retain_ms: 31_536_000_000_000, bytes_max: 8 * 4096, ..small() };
    let journal = fill(dir.path(), settings, 0..100);
    let segments = journal.stats().segments;
    journal.release(journal.durable_position());
    assert_eq!(journal.stats().segments, segments, "young ones are needed to rebuild deduplication");
    let lane = journal.lane(1).unwrap();
    for index in 100..1_000 {
        let ticket = lane.append(&checkin(index)).unwrap();
        journal.committed_blocking(ticket).unwrap();
        journal.release(journal.durable_position());
        assert!(journal.stats().bytes <= 8 * 4096);
    }
    assert!(journal.stats().deleted_early_segments > 0);
}

#[test]
fn the_byte_bound_refuses_until_the_store_has_caught_up() {
    let dir = scratch();
    let settings = JournalSettings { bytes_max: 4 * 4096, ..small() };
    let (journal, _, _) = open(dir.path(), settings);
    let lane = journal.lane(0).unwrap();
    let mut durable = 0;
    let error = loop {
        let ticket = lane.append(&checkin(durable)).unwrap();
        match journal.committed_blocking(ticket) {
            Ok(_) => durable += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error, CommitError::BytesMax { limit: 4 * 4096 });
    assert_eq!(lane.append(&checkin(0)), Err(AppendError::BytesMax { limit: 4 * 4096 }));
    assert!(journal.stats().bytes_max_reached);
    let mut read = Vec::new();
    let position = journal.reader(Position::START).read(&mut read, usize::MAX).unwrap();
    assert_eq!(read.len() as u64, durable);
    journal.release(position);
    eventually("records are accepted again", || lane.append(&checkin(durable)).is_ok());
}

/// A tmpfs of its own, unmounted on drop.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount(kib: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={kib}k");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.path())
            .stderr(std::process::Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(dir))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// The same as `a_full_disk_fails_its_batch_and_recovers_with_space`, which always runs, on a real file
/// system where mounting one is allowed.
#[test]
fn a_real_full_disk_is_refused_and_recovered_from() {
    let Some(mount) = Tmpfs::mount(256) else { return };
    let filler = mount.0.path().join("filler");
    std::fs::write(&filler, vec![1; 100 << 10]).unwrap();
    let settings = JournalSettings { segment_bytes: 64 << 10, ..small() };
    let dir = mount.0.path().join("journal");
    let (journal, _, _) = open(&dir, settings.clone());
    let lane = journal.lane(0).unwrap();
    let mut durable = Vec::new();
    for index in 0.. {
        let ticket = lane.append(&checkin(index)).unwrap();
        match journal.committed_blocking(ticket) {
            Ok(_) => durable.push(index),
            Err(error) => {
                assert_eq!(error, CommitError::DiskFull);
                break;
            }
        }
    }
    assert_eq!(lane.append(&checkin(0)), Err(AppendError::DiskFull));
    assert!(journal.stats().disk_full);
    std::fs::remove_file(&filler).unwrap();
    eventually("records are accepted again", || !journal.stats().disk_full);
    let ticket = lane.append(&checkin(99_999)).unwrap();
    journal.committed_blocking(ticket).unwrap();
    durable.push(99_999);
    drop(lane);
    drop(journal);
    assert_eq!(open(&dir, settings).2, durable);
}
