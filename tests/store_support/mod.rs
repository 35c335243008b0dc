//! What the store's tests share: check-ins made of numbers, a journal made of a list, a database node
//! of their own, and the suite that every store must pass.

// Each test binary uses a part of this, and fails by panicking.
#![allow(dead_code, missing_docs, clippy::missing_panics_doc, clippy::unwrap_used, clippy::indexing_slicing)]
// Test data counts to a few thousand.
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]

pub mod node;
pub mod source;
pub mod suite;

use std::ops::ControlFlow;

use scangate::scan::{
    App, Checkin, CheckinId, ClientKey, DAY_MS, DeviceKey, Direction, DirectionRequest, Form, PlaceKey,
    Pseudonym, Scan, Subject, Trust, UnixMillis,
};
use scangate::store::Store;

/// The first moment of the UTC day so many days ago.
pub fn day_start(days_ago: i64) -> i64 {
    i64::from(UnixMillis::now().day()) * DAY_MS - days_ago * DAY_MS
}

pub fn bytes<const N: usize>(number: u64) -> [u8; N] {
    // Spread over the first byte as well, so that every bucket of places is used.
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    let mut all = [0; N];
    for (byte, value) in all.iter_mut().zip(spread.into_iter().cycle()) {
        *byte = value;
    }
    all
}

/// A check-in whose other fields follow from these.
pub fn checkin(person: u64, place: u64, at_ms: i64, client: u64) -> Checkin {
    let at = UnixMillis(at_ms);
    let pick = (person + place + client) as usize;
    Checkin {
        id: CheckinId::new(at, person.wrapping_mul(31) ^ (place << 32)),
        direction: Direction::ALL[pick % 2],
        scan: Scan {
            person: Pseudonym(bytes(person)),
            place: PlaceKey(bytes(place)),
            direction: DirectionRequest::ALL[pick % 3],
            at,
            received: UnixMillis(at_ms + 250),
            client: ClientKey(bytes(client)),
            device: DeviceKey(bytes(place ^ 0xff)),
            app: App::ALL[pick % App::ALL.len()],
            subject: Subject::ALL[pick / 2 % 2],
            trust: Trust::ALL[pick / 3 % 2],
            form: Form::ALL[pick % Form::ALL.len()],
            window_s: 60,
        },
    }
}

/// A fixed pseudo-random order.
pub fn shuffled(rows: &[Checkin], seed: u64) -> Vec<Checkin> {
    let mut keyed: Vec<(u64, Checkin)> = rows
        .iter()
        .enumerate()
        .map(|(index, row)| (u64::from_be_bytes(bytes(seed.wrapping_add(index as u64 * 7919))), *row))
        .collect();
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, row)| row).collect()
}

/// The order in which a store hands rows out.
pub fn in_store_order(mut rows: Vec<Checkin>) -> Vec<Checkin> {
    rows.sort_by_key(|row| (row.scan.at.day(), row.scan.place, row.id));
    rows
}

pub async fn rows_between(store: &Store, from_ms: i64, to_ms: i64) -> Vec<Checkin> {
    let mut all = Vec::new();
    store
        .range(UnixMillis(from_ms), UnixMillis(to_ms), &mut |rows: &[Checkin]| {
            all.extend_from_slice(rows);
            ControlFlow::Continue(())
        })
        .await
        .unwrap();
    all
}
