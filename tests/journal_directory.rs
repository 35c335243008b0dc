//! Promise: what the directory says is durable wherever the journal relies on it. A segment's name is
//! synced before a record in it is acknowledged, also where the process that made the file never came to
//! that; and segments go so that no crash leaves a gap between those that stay.
//!
//! Every operation at which the machine may stop is tried, each with several outcomes of what was unsynced.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // Test helpers: a panic is the failure.

mod journal_common;
#[path = "journal_common/sim.rs"]
mod sim;

use journal_common::{checkin, number, small};
use scangate::journal::{Journal, JournalError, JournalSettings, Position};
use scangate::scan::UnixMillis;
use sim::{Lies, SimDisk};
use std::path::Path;
use std::sync::Arc;

const OUTCOMES: u64 = 24;
const STOPS: u64 = 40;

/// Opens on `disk`, with the writer by hand so that operations come in a fixed order.
fn open(disk: &SimDisk, settings: JournalSettings) -> Result<(Journal, Vec<u64>), JournalError> {
    let mut numbers = Vec::new();
    let (storage, clock) = (Arc::new(disk.clone()), Box::new(|| UnixMillis(i64::MAX)));
    let on_record = &mut |checkin: &_| numbers.push(number(checkin));
    let (journal, _) = Journal::open_by_hand(storage, clock, Path::new("/journal"), settings, on_record)?;
    Ok((journal, numbers))
}

/// Appends these and returns those that were acknowledged.
fn append(journal: &Journal, numbers: impl Iterator<Item = u64>) -> Vec<u64> {
    let lane = journal.lane(0).unwrap();
    numbers
        .filter(|number| {
            let Ok(ticket) = lane.append(&checkin(*number)) else { return false };
            while journal.step() && journal.outcome(ticket).is_none() {}
            journal.outcome(ticket).is_some_and(|outcome| outcome.is_ok())
        })
        .collect()
}

/// Lives of a journal on a disk whose machine stops while the journal is created, is opened again without
/// the power having failed, takes records, and then the power fails. Says what was lost.
fn lost_after_an_interrupted_creation(lies: Lies) -> Vec<String> {
    let mut lost = Vec::new();
    for stop in 0..STOPS {
        let disk = SimDisk::new(stop, 1 << 20);
        disk.set_lies(lies);
        disk.stop_at(stop);
        let first = open(&disk, small()).map(|(journal, _)| append(&journal, 0..60)).unwrap_or_default();
        let disk = disk.restarted();
        let (journal, replayed) = open(&disk, small()).unwrap();
        assert!(replayed.starts_with(&first), "stop {stop}");
        let told: Vec<u64> = replayed.iter().copied().chain(append(&journal, 100..105)).collect();
        for outcome in 0..OUTCOMES {
            match open(&disk.crashed(outcome), small()) {
                Ok((_, kept)) if kept == told => {}
                Ok((_, kept)) => lost.push(format!("stop {stop}, outcome {outcome}: {kept:?} of {told:?}")),
                Err(error) => lost.push(format!("stop {stop}, outcome {outcome}: {error}")),
            }
        }
    }
    lost
}

#[test]
fn recovery_makes_the_names_of_segments_durable_that_it_goes_on_with() {
    assert_eq!(lost_after_an_interrupted_creation(Lies::default()), Vec::<String>::new());
    let lies = Lies { sync_dir: true, ..Lies::default() };
    assert!(
        !lost_after_an_interrupted_creation(lies).is_empty(),
        "without a synced directory names are lost"
    );
}

#[test]
fn a_removal_interrupted_anywhere_leaves_no_gap() {
    for stop in 0..STOPS {
        let disk = SimDisk::new(stop, 1 << 20);
        let (journal, _) = open(&disk, small()).unwrap();
        let told = append(&journal, 0..200);
        assert_eq!(told.len(), 200);
        let (mut read, mut reader) = (Vec::new(), journal.reader(Position::START));
        let end = reader.read(&mut read, 150).unwrap();
        disk.stop_at(stop);
        journal.release(end);
        for outcome in 0..OUTCOMES {
            let (_, kept) = open(&disk.crashed(outcome), small())
                .unwrap_or_else(|error| panic!("stop {stop}, outcome {outcome}: {error}"));
            assert!(told.ends_with(&kept) && kept.len() >= 50, "stop {stop}, outcome {outcome}: {kept:?}");
        }
    }
}

#[test]
fn a_removal_that_could_not_be_made_durable_is_not_built_upon() {
    for fail in 0..STOPS {
        let disk = SimDisk::new(fail, 1 << 20);
        let (journal, _) = open(&disk, small()).unwrap();
        append(&journal, 0..200);
        let (mut read, mut reader) = (Vec::new(), journal.reader(Position::START));
        let half = reader.read(&mut read, 80).unwrap();
        let end = reader.read(&mut read, 80).unwrap();
        disk.set_faults([(fail, sim::Fault::Eio)]);
        journal.release(half);
        journal.release(end);
        for outcome in 0..OUTCOMES {
            open(&disk.crashed(outcome), small())
                .unwrap_or_else(|error| panic!("fault {fail}, outcome {outcome}: {error}"));
        }
    }
}
