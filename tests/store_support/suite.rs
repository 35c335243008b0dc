//! What every store must do. Each case has days of its own, so all of them share one store.

use std::collections::HashSet;

use scangate::identity::links::{Links, LinksSettings};
use scangate::scan::{Checkin, DAY_MS, Direction, UnixMillis};
use scangate::services::tracing::search::{Around, Bounds, Question, Search};
use scangate::services::tracing::stays::Rules;
use scangate::store::export::{ExportRange, ExportSummary, export};
use scangate::store::{Store, version_us};

use super::{checkin, day_start, in_store_order, rows_between, shuffled};

const MINUTE_MS: i64 = 60_000;

/// `open` opens one more gateway's store on the same data; it is called only after the last was
/// closed unless `shared`.
pub async fn run(open: impl Fn() -> Store, shared: bool) {
    let store = open();
    store.ping().await.unwrap();
    replays_leave_the_same_rows(&store).await;
    the_larger_version_is_the_row(&store).await;
    range_ends_are_exact(&store).await;
    late_days_are_kept_and_expired_ones_are_not(&store).await;
    a_persons_days(&store).await;
    a_large_batch(&store).await;
    contacts_at_a_place(&store).await;
    an_export_line_is_the_contracts(&store).await;
    let other = shared.then(&open);
    two_gateways_count_a_scan_once(&store, other.as_ref().unwrap_or(&store)).await;
    windows_reach_over_midnight_and_from(&store).await;
    rows_outlive_the_process(store, other, open).await;
}

async fn exported(store: &Store, from_ms: i64, to_ms: i64) -> (String, ExportSummary) {
    let mut out = Vec::new();
    let range = ExportRange::over(UnixMillis(from_ms), UnixMillis(to_ms), 60);
    let summary = export(store, range, &Ok, &mut out).await.unwrap();
    (String::from_utf8(out).unwrap(), summary)
}

async fn replays_leave_the_same_rows(store: &Store) {
    let start = day_start(2);
    let rows: Vec<Checkin> =
        (0..600_u64).map(|n| checkin(n % 97, n % 13, start + n as i64 * 120_000, n)).collect();
    let expected = in_store_order(rows.clone());
    for _ in 0..3 {
        store.write(&rows).await.unwrap();
        assert_eq!(rows_between(store, start, start + DAY_MS).await, expected);
    }
    store.write(&shuffled(&rows, 1)).await.unwrap();
    for seed in 2..6 {
        store.write(&shuffled(&rows, seed)[..100]).await.unwrap();
    }
    store.write(&[&rows[590..], &rows[580..]].concat()).await.unwrap();
    assert_eq!(rows_between(store, start, start + DAY_MS).await, expected);
}

async fn the_larger_version_is_the_row(store: &Store) {
    let start = day_start(3);
    let first = checkin(1, 1, start, 1);
    let mut later = first;
    later.scan.received = UnixMillis(first.scan.received.0 + 1);
    later.scan.client = checkin(1, 1, start, 2).scan.client;
    let mut tied = later;
    tied.scan.client = checkin(1, 1, start, 3).scan.client;
    assert_ne!(version_us(&tied), version_us(&later));
    let winner = if version_us(&tied) > version_us(&later) { tied } else { later };
    for order in [[first, later, tied], [tied, later, first], [later, first, tied]] {
        for row in order {
            store.write(&[row]).await.unwrap();
        }
        store.write(&order).await.unwrap();
    }
    assert_eq!(rows_between(store, start, start + DAY_MS).await, [winner]);
    let day = first.scan.at.day();
    assert_eq!(store.person_history(first.scan.person, day, day).await.unwrap(), [winner]);
}

async fn range_ends_are_exact(store: &Store) {
    let start = day_start(5);
    let times = [0, 1, 999, 1000, DAY_MS - 1, DAY_MS, DAY_MS + 1];
    let rows: Vec<Checkin> = times.iter().zip(0..).map(|(at, n)| checkin(n, n % 2, start + at, n)).collect();
    store.write(&rows).await.unwrap();
    for (from, to) in [
        (0, 1),
        (1, 1000),
        (1, 1001),
        (1000, DAY_MS),
        (0, DAY_MS + 1),
        (DAY_MS, DAY_MS + 2),
        (2, 999),
        (5, 5),
    ] {
        let expected: Vec<Checkin> =
            rows.iter().copied().filter(|row| (from..to).contains(&(row.scan.at.0 - start))).collect();
        let read = rows_between(store, start + from, start + to).await;
        assert_eq!(read, in_store_order(expected), "{from}..{to}");
    }
}

async fn late_days_are_kept_and_expired_ones_are_not(store: &Store) {
    let kept = checkin(1, 1, day_start(25) + 500, 1);
    let today = checkin(1, 1, UnixMillis::now().0, 2);
    let expired = checkin(1, 1, day_start(31), 3);
    let before = store.expired_total();
    store.write(&[today, kept, expired]).await.unwrap();
    assert_eq!(store.expired_total() - before, 1);
    assert_eq!(rows_between(store, 0, day_start(24)).await, [kept]);
}

async fn a_persons_days(store: &Store) {
    let start = day_start(9);
    let rows: Vec<Checkin> =
        (0..40_u64).map(|n| checkin(7000 + n % 2, n, start + n as i64 * 4_000_000, n)).collect();
    store.write(&shuffled(&rows, 9)).await.unwrap();
    let person = rows[0].scan.person;
    let (first, last) = (rows[0].scan.at.day(), rows[38].scan.at.day());
    assert!(first < last);
    let of = |from: i32, to: i32| -> Vec<Checkin> {
        let days = from..=to;
        rows.iter()
            .copied()
            .filter(|row| row.scan.person == person && days.contains(&row.scan.at.day()))
            .collect()
    };
    assert_eq!(store.person_history(person, first, last).await.unwrap(), of(first, last));
    assert_eq!(store.person_history(person, last, last).await.unwrap(), of(last, last));
    assert_eq!(store.person_history(person, last + 100, last + 200).await.unwrap(), []);
}

/// Sixty persons, each a minute after the one before for an hour at one place, over midnight: whoever a case met there.
async fn contacts_at_a_place(store: &Store) {
    let dir = tempfile::tempdir().unwrap();
    let links = Links::open(dir.path(), LinksSettings::default(), UnixMillis::now()).unwrap();
    let start = day_start(17) - 60 * MINUTE_MS;
    let mut rows = Vec::new();
    for person in 0..60_u64 {
        for (direction, minute) in [(Direction::In, 2 * person), (Direction::Out, 2 * person + 60)] {
            let mut row =
                checkin(9000 + person, 700, start + minute as i64 * MINUTE_MS, 90_000 + rows.len() as u64);
            row.direction = direction;
            rows.push(row);
        }
    }
    store.write(&shuffled(&rows, 17)).await.unwrap();
    let (from, to) = (UnixMillis(start), UnixMillis(start + 180 * MINUTE_MS));
    let place = rows[0].scan.place;
    let hour =
        store.place_rows(place, UnixMillis(start + 1), UnixMillis(start + 62 * MINUTE_MS)).await.unwrap();
    let expected = rows.iter().filter(|row| (1..62 * MINUTE_MS).contains(&(row.scan.at.0 - start)));
    assert_eq!(hour, in_store_order(expected.copied().collect()));
    let rules = Rules { missing_ms: 7_200_000, stay_ms: 43_200_000, overlap_ms: 1000 };
    let bounds = Bounds { contacts_max: 100, rows_max: 10_000 };
    let around = Around::Person(rows[0].scan.person);
    for (depth, contacts) in [(1, 29), (2, 58)] {
        let question = Question { around, from, to, depth };
        let found = Search::new(store, &links, rules, bounds).contacts(&question).await.unwrap();
        assert_eq!((found.contacts.len(), found.bound), (contacts, None));
        let met = found.contacts.iter().filter(|contact| contact.depth == 1).map(|contact| contact.seconds);
        assert_eq!(met.sum::<i64>(), (1..30).map(|after| 3600 - after * 120).sum::<i64>());
    }
}

/// One place with many times more rows than a page or a batch, among 300 with few.
async fn a_large_batch(store: &Store) {
    let start = day_start(10);
    let crowd = (0..7_000_u64).map(|n| checkin(n, 500, start + n as i64, n));
    let others = (0..3_000_u64).map(|n| checkin(n, n % 300, start + n as i64, 10_000 + n));
    let rows: Vec<Checkin> = crowd.chain(others).collect();
    store.write(&rows).await.unwrap();
    store.sync().await.unwrap();
    assert_eq!(rows_between(store, start, start + DAY_MS).await, in_store_order(rows));
}

async fn an_export_line_is_the_contracts(store: &Store) {
    let start = day_start(11);
    let row = checkin(2, 4, start, 54);
    store.write(&[row]).await.unwrap();
    let (text, summary) = exported(store, start, start + 1).await;
    let expected = format!(
        "{{\"checkin\":\"{}\",\"at\":\"{}\",\"received_at\":\"{}\",\"person\":\"{}\",\"place\":\"{}\",\
         \"direction\":\"in\",\"subject\":\"person\",\"trust\":\"proven\",\"form\":\"sg1\",\
         \"app\":\"pc-covid\",\"device\":\"{}\"}}\n",
        row.id, row.scan.at, row.scan.received, row.scan.person, row.scan.place, row.scan.device
    );
    assert_eq!(text, expected);
    assert_eq!(summary, ExportSummary { checkins: 1, folded: 0 });
    assert!(serde_json::from_str::<serde_json::Value>(&text).unwrap().is_object());
}

/// 200 persons each scan once; both gateways record half a minute apart, and both also record the
/// very same scan of the 50 devices that sent it to both.
async fn two_gateways_count_a_scan_once(one: &Store, other: &Store) {
    let start = day_start(13);
    for person in 0..200_u64 {
        let first = checkin(person, person % 5, start + person as i64 * 1000, person * 2);
        let mut again = checkin(person, person % 5, first.scan.at.0 + 30_000, person * 2 + 1);
        again.direction = first.direction;
        one.write(&[first]).await.unwrap();
        other.write(&[again]).await.unwrap();
        if person < 50 {
            let mut resent = first;
            resent.scan.received = UnixMillis(first.scan.received.0 + 40);
            other.write(&[resent]).await.unwrap();
        }
    }
    let (text, summary) = exported(one, start, start + DAY_MS).await;
    assert_eq!(summary, ExportSummary { checkins: 200, folded: 200 });
    let ids: HashSet<&str> = text.lines().filter_map(|line| line.split('"').nth(3)).collect();
    assert_eq!(ids.len(), 200);
    assert_eq!(exported(other, start, start + DAY_MS).await.0, text);
}

/// A repeat just after midnight, or just after where an export begins, is still a repeat.
async fn windows_reach_over_midnight_and_from(store: &Store) {
    let midnight = day_start(15);
    let first = checkin(1, 1, midnight - 10_000, 1);
    let mut repeat = checkin(1, 1, midnight + 10_000, 2);
    repeat.direction = first.direction;
    let mut next = checkin(1, 1, midnight + 50_000, 3);
    next.direction = first.direction;
    store.write(&[first, repeat, next]).await.unwrap();
    let (text, summary) = exported(store, midnight - 60_000, midnight + 60_000).await;
    assert_eq!(summary, ExportSummary { checkins: 2, folded: 1 });
    assert!(text.contains(&first.id.to_string()) && text.contains(&next.id.to_string()));
    let (_, from_inside) = exported(store, midnight + 1, midnight + 60_000).await;
    assert_eq!(from_inside, ExportSummary { checkins: 1, folded: 1 });
}

async fn rows_outlive_the_process(store: Store, other: Option<Store>, open: impl Fn() -> Store) {
    let before = rows_between(&store, day_start(20), day_start(0)).await;
    assert!(before.len() > 11_000);
    store.close().await.unwrap();
    drop((store, other));
    let store = open();
    assert_eq!(rows_between(&store, day_start(20), day_start(0)).await, before);
    store.close().await.unwrap();
}
