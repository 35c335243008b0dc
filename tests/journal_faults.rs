//! Promise: a ticket reported durable is replayed after any crash, once and unchanged; a ticket reported
//! as failed for want of space never comes back; whatever recovery replays stays. Under short writes,
//! failing writes, syncs and allocations at any operation, and crashes that keep any subset of the
//! sectors not yet synced.
//!
//! Not proved here: that a real kernel and disk keep what they say they synced. A record whose commit
//! failed by poisoning may still come back: its fate could not be known.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // Test helpers: a panic is the failure.

mod journal_common;
#[path = "journal_common/sim.rs"]
mod sim;

use futures_util::FutureExt;
use journal_common::{checkin, number, small};
use scangate::journal::{
    AppendError, CommitError, Journal, JournalError, JournalSettings, Lane, Position, Ticket,
};
use sim::{Fault, Random, SimDisk};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

const SEEDS: u64 = 1_000;
const LIVES: u64 = 4;

fn open_on(disk: &SimDisk, settings: JournalSettings) -> Result<(Journal, Vec<u64>), JournalError> {
    let mut numbers = Vec::new();
    let on_record = &mut |checkin: &_| numbers.push(number(checkin));
    let (journal, _) = Journal::open_on(Arc::new(disk.clone()), Path::new("/journal"), settings, on_record)?;
    Ok((journal, numbers))
}

/// What the outside world was told.
#[derive(Default)]
struct Told {
    next: u64,
    durable: BTreeSet<u64>,
    /// Failed with a promise that nothing was kept.
    gone: BTreeSet<u64>,
    released: BTreeSet<u64>,
}

impl Told {
    fn check(&self, replayed: &[u64], seed: u64) {
        let set: BTreeSet<u64> = replayed.iter().copied().collect();
        assert_eq!(set.len(), replayed.len(), "seed {seed}: a record came back twice");
        for number in self.durable.difference(&self.released) {
            assert!(set.contains(number), "seed {seed}: durable {number} is lost");
        }
        for number in &self.gone {
            assert!(!set.contains(number), "seed {seed}: failed {number} came back");
        }
    }

    fn note(&mut self, lane: &Lane, tickets: &mut Vec<(u64, Ticket)>) {
        tickets.retain(|(number, ticket)| match lane.committed(*ticket).now_or_never() {
            None => true,
            Some(Ok(_)) => {
                self.durable.insert(*number);
                false
            }
            Some(Err(CommitError::DiskFull | CommitError::BytesMax { .. })) => {
                self.gone.insert(*number);
                false
            }
            Some(Err(_)) => false,
        });
    }
}

/// One life of the gateway, ended by a crash, a restart after whatever happened, or a clean stop.
fn live(disk: SimDisk, told: &mut Told, random: &mut Random, seed: u64) -> SimDisk {
    let faults = [Fault::Short, Fault::Short, Fault::Eio, Fault::Enospc, Fault::Enospc];
    let plan: Vec<_> = (0..random.below(5))
        .map(|_| (random.below(60), faults[usize::try_from(random.below(5)).unwrap()]))
        .collect();
    disk.set_faults(plan);
    let settings = JournalSettings { bytes_max: 8 * 4096, probe_ms: 1, ..small() };
    let (disk, (journal, replayed)) = match open_on(&disk, settings.clone()) {
        Ok(opened) => (disk, opened),
        Err(JournalError::Io { .. }) => {
            // A failing disk may keep it from opening, but may not break anything for the next start.
            let disk = if random.below(2) == 0 { disk.crashed(random.next()) } else { disk.restarted() };
            let opened = open_on(&disk, settings).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            (disk, opened)
        }
        Err(error) => panic!("seed {seed}: {error}"),
    };
    told.check(&replayed, seed);
    told.durable.extend(&replayed);
    let lanes = [journal.lane(0).unwrap(), journal.lane(1).unwrap()];
    let mut tickets = Vec::new();
    let mut reader = journal.reader(Position::START);
    for _ in 0..random.below(120) {
        let lane = &lanes[usize::try_from(random.below(2)).unwrap()];
        let number = told.next;
        told.next += 1;
        match lane.append(&checkin(number)) {
            Ok(ticket) => tickets.push((number, ticket)),
            Err(AppendError::LaneFull { .. } | AppendError::DiskFull | AppendError::BytesMax { .. }) => {
                std::thread::yield_now();
            }
            Err(_) => break,
        }
        match random.below(12) {
            0 => {
                if let Some((_, ticket)) = tickets.last() {
                    let _ = journal.committed_blocking(*ticket);
                }
            }
            1 => {
                let mut read = Vec::new();
                let position =
                    reader.read(&mut read, 40).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                let read: Vec<u64> = read.iter().map(self::number).collect();
                told.durable.extend(&read);
                told.released.extend(&read);
                journal.release(position);
            }
            _ => {}
        }
    }
    told.note(&lanes[0], &mut tickets);
    match random.below(4) {
        0 => {
            drop(lanes);
            journal.close();
            let lane = journal.lane(0).unwrap();
            told.note(&lane, &mut tickets);
            assert!(tickets.is_empty(), "seed {seed}: a ticket has no fate after closing");
            disk.restarted()
        }
        1 => {
            journal.close();
            disk.restarted()
        }
        _ => disk.crashed(random.next()),
    }
}

#[test]
fn what_was_told_holds_under_any_fault_and_crash() {
    for seed in 0..SEEDS {
        let mut random = Random(seed);
        let mut disk = SimDisk::new(seed, 4096 * usize::try_from(2 + random.below(6)).unwrap());
        let mut told = Told::default();
        for _ in 0..LIVES {
            disk = live(disk, &mut told, &mut random, seed);
        }
        let (_, replayed) = open_on(&disk, JournalSettings { bytes_max: 8 * 4096, ..small() })
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        told.check(&replayed, seed);
    }
}

/// Waits up to 5 s.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..5_000 {
        if condition() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("never: {what}");
}

#[test]
fn a_failed_sync_poisons_for_good_and_is_never_retried() {
    for fault in [Fault::Eio, Fault::Enospc] {
        let disk = SimDisk::new(1, 1 << 20);
        let (journal, _) = open_on(&disk, small()).unwrap();
        let (lane, other) = (journal.lane(0).unwrap(), journal.lane(1).unwrap());
        let before = lane.append(&checkin(0)).unwrap();
        lane.committed_blocking(before).unwrap();
        disk.fail_sync(0, fault);
        let ticket = lane.append(&checkin(1)).unwrap();
        assert_eq!(lane.committed_blocking(ticket), Err(CommitError::Poisoned));
        assert_eq!(other.committed_blocking(ticket), Err(CommitError::Poisoned), "a later duplicate's wait");
        assert!(lane.committed_blocking(before).is_ok(), "what was durable stays durable");
        assert_eq!(lane.append(&checkin(2)), Err(AppendError::Poisoned));
        assert_eq!(other.append(&checkin(3)), Err(AppendError::Poisoned));
        let stats = journal.stats();
        assert!(stats.poisoned && !stats.disk_full && stats.failed_records == 1);
        let ops = disk.ops();
        std::thread::sleep(std::time::Duration::from_millis(30)); // Six probes of a full disk.
        drop((lane, other));
        journal.close();
        assert_eq!(disk.ops(), ops, "a poisoned journal writes nothing more");
        let (_, replayed) = open_on(&disk.crashed(1), small()).unwrap();
        assert!(replayed.starts_with(&[0]) && replayed.len() <= 2);
    }
}

#[test]
fn a_failed_write_poisons() {
    let disk = SimDisk::new(1, 1 << 20);
    let (journal, _) = open_on(&disk, small()).unwrap();
    let lane = journal.lane(0).unwrap();
    disk.set_faults([(0, Fault::Eio)]);
    let ticket = lane.append(&checkin(0)).unwrap();
    assert_eq!(lane.committed_blocking(ticket), Err(CommitError::Poisoned));
    assert_eq!(lane.append(&checkin(1)), Err(AppendError::Poisoned));
}

#[test]
fn a_full_disk_fails_its_batch_and_recovers_with_space() {
    let disk = SimDisk::new(1, 4096 + 2048);
    let (journal, _) = open_on(&disk, small()).unwrap();
    let lane = journal.lane(0).unwrap();
    let mut durable = Vec::new();
    let failed = loop {
        let number = durable.len() as u64;
        let ticket = lane.append(&checkin(number)).unwrap();
        match lane.committed_blocking(ticket) {
            Ok(_) => durable.push(ticket),
            Err(error) => {
                assert_eq!(error, CommitError::DiskFull);
                break ticket;
            }
        }
    };
    assert!(durable.len() > 10, "a segment's worth went in first");
    assert_eq!(lane.append(&checkin(1_000)), Err(AppendError::DiskFull));
    assert!(journal.stats().disk_full && !journal.stats().poisoned);
    disk.set_capacity(1 << 20);
    eventually("records are accepted again", || !journal.stats().disk_full);
    let ticket = lane.append(&checkin(2_000)).unwrap();
    lane.committed_blocking(ticket).unwrap();
    assert_eq!(lane.committed_blocking(failed), Err(CommitError::DiskFull), "the failure stays known");
    assert!(durable.iter().all(|ticket| lane.committed_blocking(*ticket).is_ok()));
    let (_, replayed) = open_on(&disk.crashed(1), small()).unwrap();
    assert_eq!(replayed, (0..durable.len() as u64).chain([2_000]).collect::<Vec<_>>());
}

#[test]
fn a_disk_that_is_full_at_the_start_can_still_be_drained() {
    let disk = SimDisk::new(1, 1 << 20);
    let (journal, _) = open_on(&disk, small()).unwrap();
    let ticket = journal.lane(0).unwrap().append(&checkin(0)).unwrap();
    journal.committed_blocking(ticket).unwrap();
    let disk = disk.crashed(1);
    disk.set_faults((0..100).map(|op| (op, Fault::Short)));
    disk.set_capacity(100);
    let (journal, replayed) = open_on(&disk, small()).unwrap();
    assert_eq!(replayed, [0]);
    let lane = journal.lane(0).unwrap();
    assert_eq!(lane.append(&checkin(1)), Err(AppendError::DiskFull));
    let mut read = Vec::new();
    journal.reader(Position::START).read(&mut read, 10).unwrap();
    assert_eq!(read, [checkin(0)]);
    disk.set_capacity(1 << 20);
    eventually("records are accepted", || lane.append(&checkin(1)).is_ok());
}
