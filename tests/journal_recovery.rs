//! Promise: whatever a crash or a bad disk does to the end of the journal, opening it gives back every
//! record before the damage, unchanged and once; damage before data that was durable is an error that
//! names the file and the offset of the first bad record.
//!
//! Not proved here: the order in which bytes reach a disk. The files are cut and flipped by hand, with
//! all earlier bytes present; `journal_faults` loses unsynced writes sector by sector.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // Test helpers: a panic is the failure.

mod journal_common;

use journal_common::{checkin, copy, number, open, scratch, small};
use scangate::journal::{
    BATCH_HEADER_BYTES, CHECKIN_RECORD_BYTES, Journal, JournalError, JournalSettings, SEGMENT_HEADER_BYTES,
    inspect, verify,
};
use std::path::{Path, PathBuf};

const RECORD: u64 = CHECKIN_RECORD_BYTES as u64;

/// One segment with `batches` of `each` records, as a crash leaves it: no mark at the end.
fn crashed(dir: &Path, batches: u64, each: u64) -> PathBuf {
    let live = dir.join("live");
    let (journal, _, _) = open(&live, small());
    let lane = journal.lane(0).unwrap();
    for batch in 0..batches {
        // The writer may take the first records before the last is appended; two lanes' worth of waiting
        // would not change what the tests below check, so they find the last batch in the file.
        let tickets: Vec<_> =
            (0..each).map(|index| lane.append(&checkin(batch * each + index)).unwrap()).collect();
        for ticket in tickets {
            journal.committed_blocking(ticket).unwrap();
        }
    }
    let image = dir.join("image");
    copy(&live, &image);
    image
}

fn segment(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.journal"))
}

/// Copy of `image` whose first segment holds `bytes` instead.
fn variant(dir: &Path, bytes: &[u8]) -> PathBuf {
    let variant = dir.join("variant");
    let _ = std::fs::remove_dir_all(&variant);
    std::fs::create_dir_all(&variant).unwrap();
    std::fs::write(segment(&variant, 1), bytes).unwrap();
    variant
}

fn try_open(dir: &Path, settings: JournalSettings) -> (Vec<u64>, Result<u64, JournalError>) {
    let mut numbers = Vec::new();
    let result = Journal::open(dir, settings, &mut |checkin| numbers.push(number(checkin)));
    (numbers, result.map(|(_, recovery)| recovery.torn_bytes))
}

#[test]
fn records_survive_rollover_and_reopening_in_order() {
    let dir = scratch();
    for round in 0..4_u64 {
        let (journal, recovery, replayed) = open(dir.path(), small());
        assert_eq!(replayed, (0..round * 300).collect::<Vec<_>>());
        assert_eq!((recovery.records, recovery.torn_bytes), (round * 300, 0));
        let lane = journal.lane(0).unwrap();
        for index in round * 300..(round + 1) * 300 {
            let ticket = lane.append(&checkin(index)).unwrap();
            if index % 3 == 0 {
                journal.committed_blocking(ticket).unwrap();
            }
            if index % 7 == 0 {
                journal.committed_blocking(ticket).unwrap();
            }
        }
        drop(lane);
        drop(journal);
        let inspection = verify(dir.path()).unwrap();
        assert_eq!(inspection.records, (round + 1) * 300);
        assert!(inspection.segments.len() as u64 > round);
    }
}

#[test]
fn cutting_the_file_at_any_byte_loses_only_what_lies_behind() {
    let dir = scratch();
    let image = crashed(dir.path(), 3, 4);
    let bytes = std::fs::read(segment(&image, 1)).unwrap();
    let inspection = verify(&image).unwrap();
    let end = inspection.segments[0].end;
    assert_eq!(inspection.records, 12);
    for cut in 0..=end {
        let variant = variant(dir.path(), &bytes[..usize::try_from(cut).unwrap()]);
        let (numbers, result) = try_open(&variant, small());
        result.unwrap();
        // Whole records before the cut, however the batches fell.
        let most = cut.saturating_sub(SEGMENT_HEADER_BYTES + BATCH_HEADER_BYTES) / RECORD;
        let least = cut
            .saturating_sub(SEGMENT_HEADER_BYTES + inspection.segments[0].batches * BATCH_HEADER_BYTES)
            / RECORD;
        assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
        assert!((least..=most).contains(&(numbers.len() as u64)), "cut at {cut}: {}", numbers.len());
        // And it goes on from there.
        let (journal, recovery, again) = open(&variant, small());
        assert_eq!((again, recovery.torn_bytes), (numbers, 0), "cut at {cut}");
        let ticket = journal.lane(1).unwrap().append(&checkin(99)).unwrap();
        journal.committed_blocking(ticket).unwrap();
        drop(journal);
        assert!(verify(&variant).is_ok(), "cut at {cut}");
    }
}

#[test]
fn flipping_any_byte_of_the_last_record_is_torn_or_an_error_and_never_another_record() {
    for clean in [false, true] {
        let dir = scratch();
        let mut image = crashed(dir.path(), 3, 4);
        let last = verify(&image).unwrap().segments[0].end - RECORD;
        if clean {
            drop(open(&image, small())); // A clean stop puts a mark behind the last record.
            image = dir.path().join("image");
        }
        let bytes = std::fs::read(segment(&image, 1)).unwrap();
        for at in last..last + RECORD {
            for mask in [0x01, 0x80, 0xff] {
                let mut flipped = bytes.clone();
                flipped[usize::try_from(at).unwrap()] ^= mask;
                let variant = variant(dir.path(), &flipped);
                let (numbers, result) = try_open(&variant, small());
                assert_eq!(numbers, (0..11).collect::<Vec<_>>(), "byte {at} mask {mask:#x} clean {clean}");
                match result {
                    Ok(torn) => assert!(!clean && torn > 0 && torn <= RECORD, "byte {at}: {torn}"),
                    Err(JournalError::Damaged { offset, path, .. }) => {
                        assert!(clean, "byte {at}");
                        assert_eq!((offset, path), (last, segment(&variant, 1)));
                    }
                    Err(other) => panic!("byte {at}: {other}"),
                }
            }
        }
    }
}

#[test]
fn damage_before_a_later_batch_names_the_exact_record() {
    let dir = scratch();
    let image = crashed(dir.path(), 4, 1);
    let bytes = std::fs::read(segment(&image, 1)).unwrap();
    let batch = BATCH_HEADER_BYTES + RECORD;
    // Everything up to the last batch's header was durable before that header was written.
    for at in 0..SEGMENT_HEADER_BYTES + 3 * batch {
        let mut flipped = bytes.clone();
        flipped[usize::try_from(at).unwrap()] ^= 0x40;
        let item = match at.checked_sub(SEGMENT_HEADER_BYTES) {
            None => 0,
            Some(at) if at % batch < BATCH_HEADER_BYTES => SEGMENT_HEADER_BYTES + at / batch * batch,
            Some(at) => SEGMENT_HEADER_BYTES + at / batch * batch + BATCH_HEADER_BYTES,
        };
        let variant = variant(dir.path(), &flipped);
        let (_, result) = try_open(&variant, small());
        match result {
            Err(JournalError::Damaged { offset, path, .. }) => {
                assert_eq!((offset, path), (item, segment(&variant, 1)), "byte {at}");
            }
            other => panic!("byte {at}: {other:?}"),
        }
        assert_eq!(std::fs::read(segment(&variant, 1)).unwrap(), flipped, "a damaged file is left as it is");
        let damage = inspect(&variant).unwrap().damage.unwrap();
        assert_eq!((damage.offset, damage.path), (item, segment(&variant, 1)));
        assert!(verify(&variant).is_err());
    }
}

#[test]
fn zeros_over_durable_data_are_damage_and_not_the_end() {
    let dir = scratch();
    let image = crashed(dir.path(), 4, 1);
    let mut bytes = std::fs::read(segment(&image, 1)).unwrap();
    let second = SEGMENT_HEADER_BYTES + BATCH_HEADER_BYTES + RECORD;
    let range =
        usize::try_from(second).unwrap()..usize::try_from(second + BATCH_HEADER_BYTES + RECORD).unwrap();
    bytes[range].fill(0);
    let (numbers, result) = try_open(&variant(dir.path(), &bytes), small());
    assert_eq!(numbers, [0]);
    assert!(matches!(result, Err(JournalError::Damaged { offset, .. }) if offset == second));
}

/// Several sealed segments, closed cleanly.
fn rolled(dir: &Path) {
    let (journal, _, _) = open(dir, small());
    let lane = journal.lane(0).unwrap();
    for index in 0..200 {
        let ticket = lane.append(&checkin(index)).unwrap();
        journal.committed_blocking(ticket).unwrap();
    }
}

#[test]
fn a_segment_that_others_follow_must_be_whole() {
    let dir = scratch();
    let original = dir.path().join("original");
    rolled(&original);
    let whole = std::fs::read(segment(&original, 2)).unwrap();
    let damaged = dir.path().join("damaged");
    for cut in [0, 10, 32, 60, 100, whole.len() - 41, whole.len() - 40, whole.len() - 1] {
        copy(&original, &damaged);
        std::fs::write(segment(&damaged, 2), &whole[..cut]).unwrap();
        let (_, result) = try_open(&damaged, small());
        assert!(matches!(result, Err(JournalError::Damaged { .. })), "cut at {cut}: {result:?}");
    }
    copy(&original, &damaged);
    std::fs::remove_file(segment(&damaged, 2)).unwrap();
    let (_, result) = try_open(&damaged, small());
    assert!(matches!(result, Err(JournalError::Missing { path }) if path == segment(&damaged, 2)));
    copy(&original, &damaged);
    std::fs::copy(segment(&original, 1), segment(&damaged, 2)).unwrap();
    let (_, result) = try_open(&damaged, small());
    assert!(matches!(result, Err(JournalError::Damaged { offset: 0, .. })), "another segment's file");
}

#[test]
fn a_segment_whose_creation_was_cut_short_is_made_again() {
    let dir = scratch();
    rolled(dir.path());
    let segments = verify(dir.path()).unwrap().segments;
    let last = segments.last().unwrap();
    // The crash: the segment before it sealed, this one with any beginning of its header.
    for cut in [0, 5, 31] {
        let header = std::fs::read(&last.path).unwrap();
        std::fs::write(&last.path, &header[..cut]).unwrap();
        let (journal, recovery, replayed) = open(dir.path(), small());
        assert_eq!(replayed.len() as u64, segments.iter().map(|s| s.records).sum::<u64>() - last.records);
        assert_eq!(recovery.segments, last.number - 1);
        drop(journal);
        verify(dir.path()).unwrap();
    }
}

/// A segment of format version 1 with one batch of one record, as first released. Files like it are out
/// there: when this test fails, the format needs a new version, not this constant.
const VERSION_1: &str = concat!(
    "7363674a726e6c1a01000000000000000100000000000000000000008b13e153b7d15cf39e42a86b0100000000000000",
    "010000000000000020000000000000000000000006a40acd5e000000cd672ef00101017d50b4d9d38000800000000004",
    "ac002b0100000000000001010101010101012b010000000000000202020202020202d3d9b4507d010000e7d9b4507d01",
    "00002b01000000000000030303032b010000000000002b01010202010103",
);

#[test]
fn a_file_of_version_1_reads_and_is_written_as_ever() {
    let dir = scratch();
    let (journal, _, _) = open(dir.path(), small());
    let ticket = journal.lane(0).unwrap().append(&checkin(299)).unwrap();
    journal.committed_blocking(ticket).unwrap();
    let written = std::fs::read(segment(dir.path(), 1)).unwrap();
    let end = usize::try_from(verify(dir.path()).unwrap().segments[0].end).unwrap();
    let hex: String = written[..end].iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    assert_eq!(hex, VERSION_1);
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let dir = scratch();
    let image = crashed(dir.path(), 1, 1);
    let path = segment(&image, 1);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 7;
    let checksum = crc32c::crc32c(&bytes[..28]);
    bytes[28..32].copy_from_slice(&checksum.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let (_, result) = try_open(&image, small());
    assert!(matches!(result, Err(JournalError::Unsupported { found: 7, offset: 0, .. })));
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn verify_beside_a_running_writer_finds_no_damage() {
    let dir = scratch();
    let (journal, _, _) = open(dir.path(), JournalSettings { segment_bytes: 64 * 1024, ..small() });
    std::thread::scope(|scope| {
        let lane = journal.lane(0).unwrap();
        let writing = scope.spawn(move || {
            for index in 0..3_000 {
                while lane.append(&checkin(index)).is_err() {
                    std::thread::yield_now();
                }
            }
        });
        let mut seen = 0;
        while !writing.is_finished() {
            let inspection = verify(dir.path()).unwrap();
            assert!(inspection.records >= seen);
            seen = inspection.records;
        }
    });
}
