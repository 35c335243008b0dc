//! The seeds of the fuzz targets for revocations, whole and spoilt, through the targets' own functions, as
//! `decode_fuzz_seeds` does for frames.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "../fuzz/entry.rs"]
#[allow(dead_code, reason = "each test has its targets")]
mod entry;

use std::path::Path;

use scangate::scan::UnixMillis;
use scangate::verify::revocations::bulk;

/// Xorshift: the same spoilt bytes on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

fn feed(folder: &str, target: fn(&[u8]), spoilt: usize) {
    let mut random = Random(0xf0_22);
    let mut seeds = 0;
    for entry in std::fs::read_dir(format!("fuzz/seeds/{folder}")).unwrap() {
        let seed = std::fs::read(entry.unwrap().path()).unwrap();
        target(&seed);
        for _ in 0..spoilt {
            let mut bytes = seed.clone();
            for _ in 0..=random.below(4) {
                let at = random.below(bytes.len());
                bytes[at] = u8::try_from(random.below(256)).unwrap();
            }
            if random.below(4) == 0 {
                bytes.truncate(1 + random.below(bytes.len()));
            }
            target(&bytes);
        }
        seeds += 1;
    }
    assert!(seeds > 0, "no seeds for {folder}");
}

#[test]
fn revocation_line_seeds() {
    feed("revocation_line", entry::revocation_line, 2_000);
}

#[test]
fn revocation_set_seeds() {
    feed("revocation_set", entry::revocation_set, 2_000);
}

/// Writes the seeds; run by hand after a format changes:
/// `SCANGATE_WRITE_SEEDS=1 cargo test --test keys_fuzz_seeds write_seeds`.
#[test]
fn write_seeds() {
    if std::env::var_os("SCANGATE_WRITE_SEEDS").is_none() {
        return;
    }
    for folder in ["revocation_line", "revocation_set"] {
        std::fs::create_dir_all(format!("fuzz/seeds/{folder}")).unwrap();
    }
    let key = "00112233445566778899aabbccddeeff";
    for (name, value) in
        [("cti", key), ("dcc", key), ("device-hash", key), ("device", "vneid/d"), ("kid", "k1")]
    {
        let line =
            format!("{{\"kind\":\"{name}\",\"value\":\"{value}\",\"at\":\"2021-11-24T06:49:29.123Z\"}}");
        std::fs::write(format!("fuzz/seeds/revocation_line/{name}"), line).unwrap();
    }
    for (name, count) in [("one", 1_u64), ("two-blocks", 300)] {
        let dir = tempfile::tempdir().unwrap();
        let line = |number: u64| {
            let key = u128::from(number) * 0x9e37_79b9_7f4a_7c15;
            format!("{{\"kind\":\"dcc\",\"value\":\"{key:032x}\"}}")
        };
        let list = (0..count).map(line).collect::<Vec<_>>().join("\n");
        bulk::import(dir.path(), Path::new("list"), list.as_bytes(), UnixMillis(0), |_| {}).unwrap();
        bulk::compact(dir.path()).unwrap();
        let files = std::fs::read_dir(dir.path().join("keys/revoked")).unwrap();
        let set = files.map(|entry| entry.unwrap().path()).find(|path| path.extension().is_some()).unwrap();
        // Without the checksum: the target adds one that holds.
        let bytes = std::fs::read(set).unwrap();
        std::fs::write(format!("fuzz/seeds/revocation_set/{name}"), &bytes[..bytes.len() - 32]).unwrap();
    }
}
