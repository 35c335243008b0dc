//! The promise pinned here, on a real CQL server: every row carries the time to live that its event time leaves it, never
//! less and no more than a request takes, also when it is written again later; and a row whose time is over is gone.
//!
//! The server is the one at `SCANGATE_TEST_CQL` (`host:port`), or a Cassandra node that the test starts and stops.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_wrap)]

mod store_support;

use std::time::Duration;

use scangate::scan::{DAY_MS, UnixMillis};
use scangate::store::{CqlSettings, Store, version_us};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use store_support::node::Node;
use store_support::{checkin, day_start, rows_between};

/// What one request may take, `cql.request_timeout_ms`, in seconds.
const REQUEST_S: i64 = 3;

/// Rounded up here, and by the server's whole seconds.
const ROUNDING_S: i64 = 2;

const TABLES: [&str; 2] = ["checkins_by_place", "checkins_by_person"];

/// Seconds that each row of a table has left, and when it was written, by its event's day.
async fn ttls(session: &Session, keyspace: &str, table: &str) -> Vec<(i32, i32, i64)> {
    let select = format!("SELECT day, TTL(received), WRITETIME(received) FROM {keyspace}.{table}");
    let rows = session.query_unpaged(select, ()).await.unwrap().into_rows_result().unwrap();
    let mut rows: Vec<(i32, i32, i64)> =
        rows.rows::<(i32, i32, i64)>().unwrap().map(Result::unwrap).collect();
    rows.sort_unstable();
    rows
}

fn left_s(at_ms: i64, days: i64) -> i64 {
    (at_ms + days * DAY_MS - UnixMillis::now().0) / 1000
}

#[tokio::test]
async fn rows_have_what_their_event_time_leaves_them_and_then_are_gone() {
    let given = std::env::var("SCANGATE_TEST_CQL").ok();
    let node = given.is_none().then(Node::start);
    let address = given.or(node.as_ref().map(Node::address)).unwrap();
    let keyspace = format!("retention_{}", std::process::id());
    let settings = CqlSettings {
        nodes: vec![address.clone()],
        keyspace: keyspace.clone(),
        retention_days: 21,
        ..CqlSettings::default()
    };
    let store = Store::cql(settings.clone()).unwrap();
    let session = SessionBuilder::new().known_node(address).build().await.unwrap();

    let rows = [checkin(1, 1, day_start(20), 1), checkin(2, 1, day_start(3) + 5_000, 2)];
    let over = checkin(3, 1, day_start(22), 3);
    for _ in 0..2 {
        // Again, as a replay of the journal would: no row lives a second longer for it.
        let before = rows.map(|row| left_s(row.scan.at.0, 21));
        store.write(&[&rows[..], &[over]].concat()).await.unwrap();
        for table in TABLES {
            let found = ttls(&session, &keyspace, table).await;
            assert_eq!(found.len(), 2, "a row past its retention is not written: {found:?}");
            for ((row, (day, ttl_s, written_us)), before) in rows.iter().zip(found).zip(before) {
                let now = left_s(row.scan.at.0, 21);
                assert_eq!(day, row.scan.at.day());
                assert_eq!(written_us, version_us(row));
                // The server counts whole seconds from when the statement reached it.
                assert!(
                    (now..=before + REQUEST_S + ROUNDING_S).contains(&i64::from(ttl_s)),
                    "{table}: {ttl_s} s, not {now} to {before} and a request's time"
                );
            }
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }

    // One whose time is over in a few seconds.
    let short = Store::cql(CqlSettings { retention_days: 1, ..settings }).unwrap();
    let ends = UnixMillis::now().0 + 12_000;
    let last = checkin(4, 2, ends - DAY_MS, 4);
    short.write(&[last]).await.unwrap();
    let (from, to) = (last.scan.at.0, last.scan.at.0 + 1);
    assert_eq!(rows_between(&short, from, to).await, [last]);
    let day = last.scan.at.day();
    while UnixMillis::now().0 < ends + 1_000 * (1 + ROUNDING_S) {
        let held = rows_between(&short, from, to).await;
        // Looked at after the question: what was there then may be gone now, and nothing may be gone early.
        if UnixMillis::now().0 < ends {
            assert_eq!(held, [last], "gone early");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(rows_between(&short, from, to).await, []);
    assert_eq!(short.person_history(last.scan.person, day, day).await.unwrap(), []);
    assert_eq!(
        rows_between(&short, day_start(20), day_start(20) + 1).await,
        [rows[0]],
        "the others are there"
    );
    short.close().await.unwrap();
    store.close().await.unwrap();
}
