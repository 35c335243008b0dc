//! Promise: whatever happens to the database while the drain is writing to it, every record arrives,
//! and arrives once. The node starts after the gateway, is stopped (SIGSTOP) and killed (SIGKILL)
//! under load, and comes back.
//!
//! SIGKILL leaves the page cache, so this shows that the node had written what it acknowledged, not
//! that its disk had it; the node fsyncs its commit log before it acknowledges (`commitlog_sync: batch`).

#![allow(clippy::unwrap_used, clippy::cast_possible_wrap)] // As in the support.

mod store_support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use scangate::scan::{Checkin, DAY_MS, UnixMillis};
use scangate::store::drain::{Drain, DrainEnd, DrainSettings, DrainStats};
use scangate::store::export::{ExportRange, ExportSummary, export};
use scangate::store::{CqlSettings, FailureKind, Store};
use store_support::node::Node;
use store_support::source::List;
use store_support::{checkin, day_start, in_store_order, rows_between};

fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(2);
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn written(stats: &DrainStats, count: u64) -> impl Fn() -> bool + '_ {
    move || stats.written_total() >= count
}

#[test]
fn an_outage_delays_rows_and_loses_none() {
    let dir = tempfile::tempdir().unwrap();
    let start = day_start(1);
    // Each person once at each place, so that the reading rule has nothing to fold.
    let rows: Vec<Checkin> = (0..12_000_u64)
        .map(|n| checkin(n % 4_000, n / 4_000 * 40 + n % 40, start + n as i64 * 100, n))
        .collect();
    let node = Node::start();
    let settings = CqlSettings {
        nodes: vec![node.address()],
        keyspace: format!("outage_{}", std::process::id()),
        request_timeout_ms: 1_000,
        connect_timeout_ms: 2_000,
        ..CqlSettings::default()
    };
    let store = Arc::new(Store::cql(settings).unwrap());
    let list = List::default();
    let drain_settings = DrainSettings {
        batch_records_max: 200,
        linger_ms: 0,
        sync_every_ms: 50,
        backoff_max_ms: 500,
        ..DrainSettings::default()
    };
    let watermark = dir.path().join("watermark");
    let start_drain = |list: &List| {
        Drain::start(list.clone(), Arc::clone(&store), drain_settings, watermark.clone()).unwrap()
    };

    // The database is away when the gateway starts.
    node.signal("KILL");
    list.append(&rows[..8_000]);
    let drain = start_drain(&list);
    let stats = Arc::clone(drain.stats());
    until("the first connect fails", || stats.retries_total() >= 2);
    assert_eq!(stats.last_failure(), Some(FailureKind::Unreachable));
    assert_eq!((stats.written_total(), stats.lag().records), (0, 8_000));
    node.start_again();
    until("it is caught up with", written(&stats, 1_000));

    node.signal("STOP");
    let retries = stats.retries_total();
    until("a request times out", || stats.retries_total() > retries);
    assert!(stats.is_failing() && stats.written_total() < 8_000);
    node.signal("CONT");
    let goal = stats.written_total() + 1_000;
    until("it carries on", written(&stats, goal));

    node.signal("KILL");
    list.append(&rows[8_000..]);
    let retries = stats.retries_total();
    until("the killed node is noticed", || stats.retries_total() > retries + 1);
    assert!(stats.written_total() < 12_000);
    node.start_again();
    until("it is caught up with again", written(&stats, 12_000));
    assert_eq!(drain.stop(Duration::from_mins(1)), DrainEnd::Drained);
    assert_eq!(list.released(), 12_000);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let expected = in_store_order(rows.clone());
    assert_eq!(runtime.block_on(rows_between(&store, start, start + DAY_MS)), expected);

    // And once more from the beginning, as after a lost watermark.
    std::fs::remove_file(&watermark).unwrap();
    let again = List::default();
    again.append(&rows);
    assert_eq!(start_drain(&again).stop(Duration::from_mins(1)), DrainEnd::Drained);
    assert_eq!(runtime.block_on(rows_between(&store, start, start + DAY_MS)), expected);
    let range = ExportRange::over(UnixMillis(start), UnixMillis(start + DAY_MS), 60);
    let summary = runtime.block_on(export(&store, range, &Ok, &mut std::io::sink())).unwrap();
    assert_eq!(summary, ExportSummary { checkins: 12_000, folded: 0 });
}
