//! What the journal tests share: check-ins by number, small settings, copies of a live directory.
#![allow(dead_code, missing_docs)] // Each test binary uses its own part.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // Test helpers: a panic is the failure.

use scangate::journal::{Journal, JournalSettings, Recovery};
use scangate::scan::{
    App, Checkin, CheckinId, ClientKey, DeviceKey, Direction, DirectionRequest, Form, PlaceKey, Pseudonym,
    Scan, Subject, Trust, UnixMillis,
};
use std::path::Path;

/// The check-in with this number; every field depends on it.
pub fn checkin(number: u64) -> Checkin {
    let at = UnixMillis(1_637_736_569_000 + i64::try_from(number).unwrap());
    let bytes = number.to_le_bytes();
    let wide = |salt: u8| {
        let mut wide = [salt; 16];
        wide[..8].copy_from_slice(&bytes);
        wide
    };
    let pick = |of: u64| u8::try_from(number % of).unwrap();
    let mut client = [3; 12];
    client[..8].copy_from_slice(&bytes);
    Checkin {
        id: CheckinId::new(at, number),
        direction: Direction::from_code(pick(2)).unwrap(),
        scan: Scan {
            person: Pseudonym(wide(1)),
            place: PlaceKey(wide(2)),
            direction: DirectionRequest::from_code(pick(3)).unwrap(),
            at,
            received: UnixMillis(at.0 + 20),
            client: ClientKey(client),
            device: DeviceKey(bytes),
            app: App::from_code(pick(3)).unwrap(),
            subject: Subject::from_code(pick(2)).unwrap(),
            trust: Trust::from_code(pick(2)).unwrap(),
            form: Form::from_code(pick(4)).unwrap(),
            window_s: u16::try_from(number % 600).unwrap(),
        },
    }
}

/// The number of a check-in made above; panics if any field is not what that number gives.
pub fn number(read: &Checkin) -> u64 {
    let number = u64::from_le_bytes(read.scan.device.0);
    assert_eq!(*read, checkin(number), "a record came back changed");
    number
}

/// Segments of a few dozen records.
pub fn small() -> JournalSettings {
    JournalSettings {
        lanes: 2,
        lane_bytes_max: 1024,
        batch_bytes_max: 1024,
        segment_bytes: 4096,
        bytes_max: 1 << 20,
        retain_ms: 0,
        probe_ms: 5,
    }
}

/// A directory in memory where there is one: these tests ask what the bytes mean, not whether they stay.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Opens and returns the numbers that were replayed.
pub fn open(dir: &Path, settings: JournalSettings) -> (Journal, Recovery, Vec<u64>) {
    let mut numbers = Vec::new();
    let (journal, recovery) =
        Journal::open(dir, settings, &mut |checkin| numbers.push(number(checkin))).unwrap();
    (journal, recovery, numbers)
}

/// Copies a directory's files, as a crash would leave them to the next start.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
