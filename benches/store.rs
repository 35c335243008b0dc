//! What a check-in costs the store, in CPU time of the whole process: background flushes and
//! compactions are part of the price, so wall time of the writing call alone would flatter.
//!
//! ```text
//! cargo bench --bench store                                            embedded
//! SCANGATE_TEST_CQL=127.0.0.1:9042 cargo bench --bench store           and CQL, client side only
//! ```
//! One million check-ins of one day, arriving in order: 200,000 persons at 20,000 places, a tenth of
//! all scans at the 20 busiest. Batches of 1,000, a sync every 50 batches, closed at the end.

#![allow(clippy::print_stdout, missing_docs)] // Its output is the measurement.
#![allow(clippy::cast_precision_loss)] // Of figures that are printed to two places.

use std::time::{Duration, Instant};

use scangate::scan::{
    App, Checkin, CheckinId, ClientKey, DAY_MS, DeviceKey, Direction, DirectionRequest, Form, PlaceKey,
    Pseudonym, Scan, Subject, Trust, UnixMillis,
};
use scangate::store::{CqlSettings, EmbeddedSettings, Store, StoreError};

const BATCH: u64 = 1_000;
const SYNC_EVERY_BATCHES: u64 = 50;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let store = Store::embedded(dir.path(), EmbeddedSettings::default())?;
    measure("embedded", &store, 1_000_000).await?;
    drop(store);
    println!("embedded: {:.0} bytes of disk a check-in", disk_bytes(dir.path())? / 1e6);
    if let Ok(address) = std::env::var("SCANGATE_TEST_CQL") {
        let keyspace = format!("bench_{}", std::process::id());
        let settings = CqlSettings { nodes: vec![address], keyspace, ..CqlSettings::default() };
        measure("cql", &Store::cql(settings)?, 100_000).await?;
    }
    Ok(())
}

async fn measure(name: &str, store: &Store, count: u64) -> Result<(), StoreError> {
    let day_starts = i64::from(UnixMillis::now().day() - 1) * DAY_MS;
    let gap = DAY_MS / count.cast_signed();
    store.ping().await?;
    let (mut cpu, mut wall) = (Duration::ZERO, Duration::ZERO);
    for first in (0..count).step_by(usize::try_from(BATCH).unwrap_or(1)) {
        let batch: Vec<Checkin> =
            (first..first + BATCH).map(|n| checkin(n, day_starts + n.cast_signed() * gap)).collect();
        let (cpu_before, started) = (cpu_time(), Instant::now());
        store.write(&batch).await?;
        if (first / BATCH).is_multiple_of(SYNC_EVERY_BATCHES) {
            store.sync().await?;
        }
        cpu += cpu_time().saturating_sub(cpu_before);
        wall += started.elapsed();
    }
    let (cpu_before, started) = (cpu_time(), Instant::now());
    store.close().await?;
    cpu += cpu_time().saturating_sub(cpu_before);
    wall += started.elapsed();
    let each = |spent: Duration| spent.as_secs_f64() * 1e6 / count as f64;
    println!("{name}: {:.2} µs CPU, {:.2} µs wall a check-in, {count} in all", each(cpu), each(wall));
    Ok(())
}

fn checkin(n: u64, at_ms: i64) -> Checkin {
    let chance = mix(n);
    let person = chance % 200_000;
    let place = if (chance >> 40).is_multiple_of(10) { chance >> 20 & 15 } else { (chance >> 20) % 20_000 };
    let at = UnixMillis(at_ms);
    Checkin {
        id: CheckinId::new(at, mix(chance)),
        direction: Direction::In,
        scan: Scan {
            person: Pseudonym(wide(person)),
            place: PlaceKey(wide(!place)),
            direction: DirectionRequest::Auto,
            at,
            received: UnixMillis(at_ms + 300),
            client: ClientKey(wide(n)),
            device: DeviceKey(wide(place ^ 0x5555)),
            app: App::PcCovid,
            subject: Subject::Person,
            trust: Trust::Proven,
            form: Form::Sg1,
            window_s: 60,
        },
    }
}

fn wide<const N: usize>(n: u64) -> [u8; N] {
    let mut bytes = [0; N];
    for (byte, value) in bytes.iter_mut().zip(mix(n).to_be_bytes().into_iter().chain(mix(!n).to_be_bytes())) {
        *byte = value;
    }
    bytes
}

/// splitmix64.
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// User and system time of all threads so far.
fn cpu_time() -> Duration {
    // SAFETY: getrusage writes one rusage through a pointer to one, which is plain numbers.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

fn disk_bytes(dir: &std::path::Path) -> std::io::Result<f64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut bytes = 0.0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes +=
            if metadata.is_dir() { disk_bytes(&entry.path())? } else { metadata.blocks() as f64 * 512.0 };
    }
    Ok(bytes)
}
