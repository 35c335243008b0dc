//! What ten million revocations cost: to import as a list, to merge, on disk, in memory, to load and to look
//! up. Sizes come from the sets themselves; memory is what a process of its own grows by when it loads them.
//!
//! ```text
//! cargo bench --bench revocations               10,000,000 of them; about 1 GB of disk under TMPDIR
//! cargo bench --bench revocations -- 100000     fewer
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    missing_docs,
    reason = "a bench"
)]

use std::hint::black_box;
use std::io::{BufReader, Read};
use std::path::Path;
use std::time::Instant;

use aws_lc_rs::digest;
use scangate::scan::UnixMillis;
use scangate::verify::revocations::bulk;
use scangate::verify::{KeyStore, Keys, Revocation, manage};

const NOW: UnixMillis = UnixMillis(1_637_736_569_000);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, dir] = arguments.as_slice()
        && flag == "--load"
    {
        return load(Path::new(dir));
    }
    // `cargo test --benches` runs it too, and must not take minutes.
    let whole = if arguments.iter().any(|argument| argument == "--bench") { 10_000_000 } else { 10_000 };
    let count = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(whole);
    let dir = tempfile::tempdir().unwrap();

    let list = BufReader::with_capacity(1 << 20, List { next: 0, count, line: Vec::new(), at: 0 });
    let started = Instant::now();
    let imported = bulk::import(dir.path(), Path::new("list"), list, NOW, |_| {}).unwrap();
    println!("import of {} lines: {:.1} s", imported.lines, started.elapsed().as_secs_f64());
    let started = Instant::now();
    bulk::compact(dir.path()).unwrap();
    println!("merge into one set: {:.1} s", started.elapsed().as_secs_f64());
    let sets = std::fs::read_dir(dir.path().join("keys/revoked")).unwrap();
    let bytes: u64 = sets.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    println!("on disk: {:.1} MB, {:.2} bytes each", bytes as f64 / 1e6, bytes as f64 / count as f64);

    // A process of its own: this one's heap has been through the import.
    let itself = std::env::current_exe().unwrap();
    let status = std::process::Command::new(itself).arg("--load").arg(dir.path()).status().unwrap();
    assert!(status.success());

    let store = KeyStore::open(dir.path()).unwrap();
    manage::keys_revoke(dir.path(), &Revocation::Kid("k".to_owned()), NOW).unwrap();
    let started = Instant::now();
    assert!(store.reload().unwrap());
    println!("reload after one more line: {:.2} ms", started.elapsed().as_secs_f64() * 1e3);
    look_up(&store.load(), count);
}

fn load(dir: &Path) {
    // The allocator, the digest and the directory are warm before the measurement.
    drop(Keys::load(&dir.join("nothing")).unwrap());
    let (before, started) = (resident_bytes(), Instant::now());
    let keys = Keys::load(dir).unwrap();
    let seconds = started.elapsed().as_secs_f64();
    let grown = resident_bytes().saturating_sub(before);
    let counted: u64 = keys.revoked_counts().iter().map(|counted| counted.memory_bytes).sum();
    println!("load, all of it read and checked: {seconds:.2} s");
    println!(
        "in memory: {:.1} MB of filter and index; the process grew by {:.1} MB",
        counted as f64 / 1e6,
        grown as f64 / 1e6
    );
}

fn look_up(keys: &Keys, count: u64) {
    let absent: Vec<_> = (count..count + 1_000_000).map(key).collect();
    let started = Instant::now();
    let found = absent.iter().filter(|key| black_box(keys.is_dcc_revoked(key))).count();
    println!("look-up of one that isn't revoked: {:.0} ns", started.elapsed().as_nanos() as f64 / 1e6);
    assert_eq!(found, 0);
    let step = (count / 100_000).max(1);
    let present: Vec<_> = (0..count).step_by(usize::try_from(step).unwrap()).map(key).collect();
    let started = Instant::now();
    assert!(present.iter().all(|key| black_box(keys.is_dcc_revoked(key))));
    let each = started.elapsed().as_nanos() as f64 / present.len() as f64;
    println!("look-up of one that is: {:.1} µs (from the page cache)", each / 1e3);
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn key(number: u64) -> [u8; 16] {
    let hash = digest::digest(&digest::SHA256, &number.to_le_bytes());
    hash.as_ref().first_chunk().copied().unwrap()
}

/// The list, line by line, without ever being whole.
struct List {
    next: u64,
    count: u64,
    line: Vec<u8>,
    at: usize,
}

impl Read for List {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        use std::io::Write as _;
        if self.at == self.line.len() && self.next < self.count {
            self.line.clear();
            self.at = 0;
            let value = u128::from_be_bytes(key(self.next));
            writeln!(self.line, "{{\"kind\":\"dcc\",\"value\":\"{value:032x}\"}}")?;
            self.next += 1;
        }
        let read = self.line.get(self.at..).unwrap_or_default().read(buffer)?;
        self.at += read;
        Ok(read)
    }
}
