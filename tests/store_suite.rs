//! The store's suite over the embedded store. `store_cql.rs` runs the same suite over CQL.

#![allow(clippy::unwrap_used, clippy::cast_possible_wrap)] // As in the support.

mod store_support;

use std::time::Duration;

use scangate::scan::{Checkin, DAY_MS};
use scangate::store::drain::{Drain, DrainEnd, DrainSettings};
use scangate::store::{EmbeddedSettings, FailureKind, Store, StoreError};
use std::sync::Arc;
use store_support::source::List;
use store_support::{checkin, day_start, in_store_order, rows_between, suite};

fn settings() -> EmbeddedSettings {
    EmbeddedSettings::default()
}

#[tokio::test]
async fn embedded_passes_the_suite() {
    let dir = tempfile::tempdir().unwrap();
    suite::run(|| Store::embedded(dir.path(), settings()).unwrap(), false).await;
}

#[tokio::test]
async fn a_day_past_its_retention_leaves_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let old = checkin(1, 1, day_start(20), 1);
    let new = checkin(1, 1, day_start(2), 2);
    let for_ever = EmbeddedSettings { retention_days: 0, ..settings() };
    let store = Store::embedded(dir.path(), for_ever).unwrap();
    store.write(&[old, new]).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let store = Store::embedded(dir.path(), EmbeddedSettings { retention_days: 10, ..settings() }).unwrap();
    assert_eq!(rows_between(&store, 0, day_start(0)).await, [new]);
    drop(store);
    // And it is still gone for a store that would keep everything.
    let store = Store::embedded(dir.path(), for_ever).unwrap();
    assert_eq!(rows_between(&store, 0, day_start(0)).await, [new]);
}

#[tokio::test]
async fn a_second_opener_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::embedded(dir.path(), settings()).unwrap();
    let second = Store::embedded(dir.path(), settings()).err();
    assert!(matches!(second, Some(StoreError::Open { .. })));
    drop(store);
}

fn fast() -> DrainSettings {
    DrainSettings { batch_records_max: 100, linger_ms: 0, sync_every_ms: 20, ..DrainSettings::default() }
}

fn some_rows(count: u64) -> Vec<Checkin> {
    (0..count).map(|n| checkin(n % 50, n % 7, day_start(1) + n as i64 * 1000, n)).collect()
}

/// Promise: a drain resumes at its watermark, releases only what lies below it, and after a lost
/// watermark a replay of everything leaves the same rows. Not shown here: power loss.
#[test]
fn the_drain_resumes_and_replays() {
    let dir = tempfile::tempdir().unwrap();
    let watermark = dir.path().join("watermark");
    let store = Arc::new(Store::embedded(&dir.path().join("store"), settings()).unwrap());
    let rows = some_rows(1_000);
    let list = List::default();
    let start = || Drain::start(list.clone(), Arc::clone(&store), fast(), watermark.clone()).unwrap();

    list.append(&rows[..600]);
    let drain = start();
    let stats = Arc::clone(drain.stats());
    assert_eq!(drain.stop(Duration::from_secs(30)), DrainEnd::Drained);
    assert_eq!((stats.written_total(), list.released()), (600, 600));
    assert_eq!(stats.lag().records, 0);

    list.append(&rows[600..]);
    let drain = start();
    let stats = Arc::clone(drain.stats());
    assert_eq!(drain.stop(Duration::from_secs(30)), DrainEnd::Drained);
    assert_eq!((stats.written_total(), list.released()), (400, 1_000), "it began at the watermark");

    std::fs::remove_file(&watermark).unwrap();
    let again = List::default();
    again.append(&rows);
    let drain = Drain::start(again.clone(), Arc::clone(&store), fast(), watermark.clone()).unwrap();
    assert_eq!(drain.stop(Duration::from_secs(30)), DrainEnd::Drained);
    assert_eq!(again.released(), 1_000);

    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let read = runtime.block_on(rows_between(&store, day_start(1), day_start(1) + DAY_MS));
    assert_eq!(read, in_store_order(rows));
}

/// A watermark that can't be written keeps the journal, and the deadline still ends the drain.
#[test]
fn nothing_is_released_above_a_watermark_that_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let watermark = dir.path().join("missing").join("watermark");
    let store = Arc::new(Store::embedded(&dir.path().join("store"), settings()).unwrap());
    let list = List::default();
    list.append(&some_rows(300));
    let drain = Drain::start(list.clone(), store, fast(), watermark).unwrap();
    let stats = Arc::clone(drain.stats());
    let until = |done: &dyn Fn() -> bool| {
        for _ in 0..2000 {
            if done() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the counters stand still: {stats:?}");
    };
    until(&|| stats.is_failing());
    list.append(&some_rows(20));
    // Nothing is read meanwhile, and what comes in is told all the same.
    until(&|| stats.lag().records == 20 && stats.oldest_received().is_some());
    assert_eq!(drain.stop(Duration::from_millis(300)), DrainEnd::Behind);
    assert_eq!(list.released(), 0);
    assert!(stats.is_failing() && stats.retries_total() > 0);
    assert_eq!(stats.last_failure().map(FailureKind::name), Some("watermark"));
}

/// Records that trickle in are stored and released without a stop.
#[test]
fn a_trickle_is_brought_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::embedded(&dir.path().join("store"), settings()).unwrap());
    let list = List::default();
    let drain = Drain::start(list.clone(), store, fast(), dir.path().join("watermark")).unwrap();
    for row in some_rows(20) {
        list.append(&[row]);
        std::thread::sleep(Duration::from_millis(2));
    }
    for _ in 0..500 {
        if list.released() == 20 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(list.released(), 20);
    assert!(drain.is_running());
}
