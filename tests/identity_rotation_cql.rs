//! The promise pinned here: rows of a CQL database are rewritten in place for a new pepper, wherever that is
//! interrupted and taken up again, each once and none twice.

#![allow(missing_docs, clippy::unwrap_used, clippy::cast_possible_wrap)] // As in the support.

mod store_support;

use std::collections::BTreeSet;
use std::time::Duration;

use scangate::scan::{Checkin, CheckinId, DAY_MS, Pseudonym};
use scangate::store::rewrite::{Rewritten, rewrite};
use scangate::store::{CqlSettings, Store};
use store_support::node::Node;
use store_support::{checkin, day_start, in_store_order, rows_between};

/// Another person and another hash, as a rotation makes them.
fn next(row: &Checkin) -> Checkin {
    let mut row = *row;
    if row.id.epoch() == 0 {
        row.scan.person = Pseudonym(row.scan.person.0.map(|byte| !byte));
        row.id = CheckinId::new(row.scan.at, !row.id.hash()).of_epoch(1);
    }
    row
}

#[tokio::test]
async fn rows_are_rewritten_in_place_wherever_it_is_interrupted() {
    let given = std::env::var("SCANGATE_TEST_CQL").ok();
    let node = given.is_none().then(Node::start);
    let nodes = vec![given.or(node.as_ref().map(Node::address)).unwrap()];
    let keyspace = format!("rotation_{}", std::process::id());
    let store = Store::cql(CqlSettings { nodes, keyspace, ..CqlSettings::default() }).unwrap();
    let start = day_start(2);
    let rows: Vec<Checkin> =
        (0..600_u64).map(|n| checkin(n % 97, n % 23, start + n as i64 * 250_000, n)).collect();
    store.write(&rows).await.unwrap();
    // As a rewriting leaves them that ends between the two writes of its rows.
    store.write(&rows[..40].iter().map(next).collect::<Vec<_>>()).await.unwrap();
    // Each try has more time than the one before, or none would come past what those did.
    let (mut interruptions, mut time) = (0, Duration::from_millis(20));
    while tokio::time::timeout(time, rewrite(&store, None, &next)).await.is_err() {
        interruptions += 1;
        time = time * 3 / 2;
    }
    assert!(interruptions > 0, "it was never interrupted");
    let expected: Vec<Checkin> = in_store_order(rows.iter().map(next).collect());
    assert_eq!(rows_between(&store, start, start + 2 * DAY_MS).await, expected);
    let days =
        |of: &[Checkin]| of.iter().map(|row| (row.scan.person, row.scan.at.day())).collect::<BTreeSet<_>>();
    for (person, day) in days(&rows) {
        assert_eq!(store.person_history(person, day, day).await.unwrap(), [], "nothing is left of the old");
    }
    let mut by_person = Vec::new();
    for (person, day) in days(&expected) {
        by_person.extend(store.person_history(person, day, day).await.unwrap());
    }
    assert_eq!(in_store_order(by_person), expected);
    let again = rewrite(&store, None, &next).await.unwrap();
    assert_eq!(again, Rewritten { rows: 0, found: 600 });
    store.close().await.unwrap();
}
