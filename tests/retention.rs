//! The promise pinned here, with a clock that is moved: whatever is kept about persons goes when its time is over, and
//! nothing goes before. The clock is the `now` that each part is handed; nothing sleeps.
//!
//! | kept where | until |
//! |---|---|
//! | embedded store | the end of its day of event time plus `store.retention_days` |
//! | journal | `journal.retain_s` after the newest record of its segment, and once the store has it |
//! | deduplication, in memory | `deduplicate.remember_s` after the event |
//! | recent links, in memory | as long |
//! | audit log | `audit.retention_days` after the newest record of its file |
//!
//! The rows of a CQL store have their own test, `retention_cql`.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_wrap, clippy::cast_sign_loss)] // Test data counts to a few thousand.

mod journal_common;
mod store_support;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use scangate::audit::{
    Action, AuditLog, AuditSettings, Entry, Head, Outcome, RecordHash, SEGMENT_AGE_MS, verify,
};
use scangate::deduplicate::{Admission, Deduplicate, Settings};
use scangate::identity::Identity;
use scangate::identity::links::{Links, LinksSettings};
use scangate::journal::{Journal, JournalSettings, Position};
use scangate::scan::{Checkin, DAY_MS, UnixMillis};
use scangate::store::{EmbeddedSettings, Store};
use scangate::verify::Pepper;
use store_support::{checkin, day_start, rows_between};

fn after(at: UnixMillis, ms: i64) -> UnixMillis {
    UnixMillis(at.0 + ms)
}

#[tokio::test]
async fn rows_go_when_the_retention_of_their_days_last_moment_ends() {
    let dir = tempfile::tempdir().unwrap();
    let settings = EmbeddedSettings { retention_days: 21, ..EmbeddedSettings::default() };
    let store = Store::embedded(dir.path(), settings).unwrap();
    let first_moment = checkin(1, 1, day_start(3), 1);
    let last_moment = checkin(2, 1, day_start(2) - 1, 2);
    let next_day = checkin(3, 1, day_start(2), 3);
    store.write(&[first_moment, last_moment, next_day]).await.unwrap();
    store.sync().await.unwrap();
    let everything = async || rows_between(&store, 0, day_start(0)).await;

    let over = after(last_moment.scan.at, 21 * DAY_MS);
    for early in [UnixMillis::now(), after(over, -DAY_MS), after(over, -1)] {
        store.expire(early).unwrap();
        assert_eq!(everything().await.len(), 3, "nothing goes before the day's last moment is over");
    }
    store.expire(over).unwrap();
    assert_eq!(everything().await, [next_day]);
    let day = last_moment.scan.at.day();
    assert_eq!(store.person_history(last_moment.scan.person, day, day).await.unwrap(), []);
    store.expire(after(over, DAY_MS - 1)).unwrap();
    assert_eq!(everything().await, [next_day]);
    store.expire(after(over, DAY_MS)).unwrap();
    assert_eq!(everything().await, []);
}

/// A journal's check-ins are from 2021-11-24; they are of these.
fn journal(dir: &Path, records: std::ops::Range<u64>, retain_ms: i64) -> Journal {
    let settings = JournalSettings { retain_ms, ..journal_common::small() };
    let (journal, ..) = journal_common::open(dir, settings);
    let lane = journal.lane(0).unwrap();
    for number in records {
        let ticket = lane.append(&journal_common::checkin(number)).unwrap();
        journal.committed_blocking(ticket).unwrap();
    }
    drop(lane);
    journal
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(10), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn replayed(dir: &Path) -> Vec<u64> {
    let copy = tempfile::tempdir().unwrap();
    journal_common::copy(dir, copy.path());
    journal_common::open(copy.path(), journal_common::small()).2
}

#[test]
fn journal_segments_go_once_stored_and_past_their_retention_and_the_open_one_too() {
    let dir = journal_common::scratch();
    // Their retention ends far in the future by the real clock: only the moved one can let them go.
    let retain_ms = 1_000 * 365 * DAY_MS;
    let journal = journal(dir.path(), 0..200, retain_ms);
    let newest = journal_common::checkin(199).scan.received;
    let segments = journal.stats().segments;
    assert!(segments > 4);
    let over = after(newest, retain_ms);
    journal.expire(after(over, 1));
    let all: Vec<u64> = (0..200).collect();
    assert_eq!(replayed(dir.path()), all, "old enough, but the store doesn't have them");
    let mut read = Vec::new();
    let mut reader = journal.reader(Position::START);
    reader.read(&mut read, 1_000).unwrap();
    assert_eq!(read.len(), 200);
    journal.release(reader.position());
    assert_eq!(replayed(dir.path()), all, "stored, but young by the real clock");
    // The first record, in the oldest segment, goes no earlier than its segment's newest.
    journal.expire(after(journal_common::checkin(0).scan.received, retain_ms - 1));
    assert_eq!(replayed(dir.path()), all);
    journal.expire(over);
    eventually("the end of the open segment", || {
        // What is sealed has to be read past before it is released, as the drain does.
        journal.release(reader.read(&mut read, 1_000).map(|_| reader.position()).unwrap());
        journal.expire(after(over, 1));
        replayed(dir.path()).is_empty()
    });
    assert_eq!(read.len(), 200, "nothing twice");
    assert_eq!(journal.stats().segments, 1);
    let lane = journal.lane(0).unwrap();
    let ticket = lane.append(&journal_common::checkin(200)).unwrap();
    journal.committed_blocking(ticket).unwrap();
    assert_eq!(replayed(dir.path()), [200], "and it goes on");
}

/// A segment takes what comes in within the retention after its first record, and no more: so on a gateway that sees one
/// scan a day, too, none is kept for years.
#[test]
fn a_quiet_journal_ends_its_segment_by_age_also_after_a_restart() {
    let dir = journal_common::scratch();
    let retain_ms = 3 * DAY_MS;
    let first = journal_common::checkin(0).scan.received;
    drop(journal(dir.path(), 0..2, retain_ms));
    let settings = JournalSettings { retain_ms, ..journal_common::small() };
    let (journal, ..) = journal_common::open(dir.path(), settings);
    journal.expire(after(first, retain_ms));
    let lane = journal.lane(0).unwrap();
    let append = |number: u64| {
        let ticket = lane.append(&journal_common::checkin(number)).unwrap();
        journal.committed_blocking(ticket).unwrap();
        journal.durable_position().segment
    };
    assert_eq!(append(2), 1, "not before the first record is that old");
    journal.expire(after(first, retain_ms + 1));
    assert_eq!(append(3), 2);
    assert_eq!(replayed(dir.path()), [0, 1, 2, 3]);
}

#[test]
fn deduplication_forgets_after_its_time_and_not_before() {
    let settings =
        Settings { windows_s: vec![60], remember_s: 3_600, auto_reset_s: 3_600, entries_max: u64::MAX };
    let memory: Deduplicate<u64, ()> = Deduplicate::new(settings, [3; 16]);
    memory.vouch(());
    let Checkin { scan, .. } = checkin(1, 1, day_start(1), 1);
    match memory.admit(&scan, &[], |_| Ok::<_, ()>(1)).unwrap() {
        Admission::Fresh(in_flight) => in_flight.durable(()),
        Admission::Duplicate(..) => panic!("nothing was there"),
    };
    let held = memory.entries();
    assert!(held > 0);
    memory.sweep(after(scan.at, 3_600_000), |_| None);
    assert_eq!(memory.entries(), held, "within its time");
    // Generations are dropped whole: the last of them a little later.
    memory.sweep(after(scan.at, 3 * 3_600_000), |_| None);
    assert_eq!(memory.entries(), 0);
}

#[test]
fn a_link_is_recent_for_its_time_and_then_only_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let linked_at = UnixMillis(1_637_712_000_000);
    let settings = LinksSettings { recent_s: 3_600, ..LinksSettings::default() };
    let links = Links::open(dir.path(), settings, linked_at).unwrap();
    let identity = Identity::new(&Pepper::new([7; 32], true));
    let line: &[u8] = br#"{"citizen":"001093029317","qid":"162979388586171100"}"#;
    links.take(&identity, [line].into_iter(), ("test", "1"), linked_at).unwrap();
    links.sweep(after(linked_at, 3_599_000));
    assert_eq!(links.stats().recent, 1);
    links.sweep(after(linked_at, 2 * 3_600_000));
    assert_eq!((links.stats().recent, links.stats().held), (0, 1));
}

#[test]
fn audit_records_go_after_their_own_retention_and_the_chain_stays_anchored() {
    let dir = tempfile::tempdir().unwrap();
    let settings = AuditSettings { segment_bytes: 2_000, retention_days: 400 };
    let log = AuditLog::new(dir.path(), settings);
    let begins = UnixMillis(1_637_712_000_000);
    let entry = Entry::new("loopback", Action::Export);
    for day in 0..40 {
        log.append(&entry, Outcome::Done, after(begins, day * DAY_MS)).unwrap();
    }
    let before = verify(dir.path(), log.head()).unwrap();
    assert_eq!((before.records, before.first, before.broken), (40, 1, None));
    let published = log.head().unwrap();
    assert_eq!(log.expire(after(begins, 400 * DAY_MS - 1)).unwrap(), 0, "nothing goes early");
    // One file's newest record is over, and no other's.
    let newest_of_first =
        fs::read_to_string(dir.path().join("00000001.ndjson")).unwrap().lines().count() as i64 - 1;
    let over = after(begins, (newest_of_first + 400) * DAY_MS);
    assert_eq!(log.expire(after(over, -1)).unwrap(), 0);
    assert_eq!(log.expire(over).unwrap(), 1);
    let found = verify(dir.path(), Some(published)).unwrap();
    assert_eq!((found.first, found.broken), (newest_of_first as u64 + 2, None));
    // A head that went in time is no reason for alarm; one that never was, is.
    let early = Head { seq: 1, hash: RecordHash([9; 32]) };
    assert_eq!(verify(dir.path(), Some(early)).unwrap().broken, None);
    // Taken away without a record that says so: found.
    let second = dir.path().join("00000002.ndjson");
    let kept = fs::read(&second).unwrap();
    fs::remove_file(&second).unwrap();
    assert!(verify(dir.path(), None).unwrap().broken.is_some());
    fs::write(&second, kept).unwrap();
    // All of it, the open file included, after years of quiet; the chain goes on.
    log.expire(after(begins, 4_000 * DAY_MS)).unwrap();
    let quiet = verify(dir.path(), None).unwrap();
    assert_eq!((quiet.broken, quiet.segments), (None, 1));
    let seq = log.append(&entry, Outcome::Done, after(begins, 4_001 * DAY_MS)).unwrap();
    assert_eq!(seq, quiet.seq + 1);
    assert_eq!(verify(dir.path(), log.head()).unwrap().broken, None);
}

#[test]
fn an_audit_file_takes_no_more_once_it_is_old() {
    let dir = tempfile::tempdir().unwrap();
    let log = AuditLog::new(dir.path(), AuditSettings::default());
    let (begins, entry) = (UnixMillis(1_637_712_000_000), Entry::new("loopback", Action::Export));
    for ms in [0, SEGMENT_AGE_MS, SEGMENT_AGE_MS + 1, 2 * SEGMENT_AGE_MS] {
        // A process of its own each time: how old a file is stands in it.
        let log = AuditLog::new(dir.path(), AuditSettings::default());
        log.append(&entry, Outcome::Done, after(begins, ms)).unwrap();
    }
    let lines = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap().lines().count();
    assert_eq!((lines("00000001.ndjson"), lines("00000002.ndjson")), (2, 2));
    assert_eq!(verify(dir.path(), log.head()).unwrap().broken, None);
}
