//! The audit at the end: what was told, against the rows and what readers make of them.

use std::collections::BTreeMap;

use scangate::scan::{Checkin, CheckinId, ClientKey};
use scangate::store::fold::fold;
use scangate::store::version_us;

use crate::ledger::{Fate, Ledger, Record, Told};

/// Checks the rows, and returns the ids of those that count.
pub fn audit(ledger: &Ledger, rows: &BTreeMap<CheckinId, Checkin>) -> Result<Vec<CheckinId>, String> {
    rows_are_the_records(ledger, rows)?;
    let mut folded: Vec<Checkin> = rows.values().copied().collect();
    fold(&mut folded);
    each_counts_once(&folded)?;
    let reading = Reading::of(rows, &folded);
    for told in &ledger.told {
        match told {
            Told::Recorded(checkin) => recorded_holds(ledger, rows, &reading, checkin)?,
            Told::Duplicate(scan, original) => {
                let Some(row) = rows.get(&original.id) else {
                    return Err(format!("a duplicate was told of {original:?}, which is not in the store"));
                };
                if (row.scan.person, row.scan.place) != (scan.person, scan.place) {
                    return Err(format!("a duplicate was told of another's check-in: {scan:?} of {row:?}"));
                }
                if is_single(ledger, original.id) && row.direction != original.direction {
                    return Err(format!("a duplicate was told another direction: {original:?} of {row:?}"));
                }
                reading.represents(row)?;
            }
        }
    }
    Ok(folded.iter().map(|row| row.id).collect())
}

/// Every durable record has its row, no row is anything else, and of several records the latest is the row.
fn rows_are_the_records(ledger: &Ledger, rows: &BTreeMap<CheckinId, Checkin>) -> Result<(), String> {
    let durable = |record: &&Record| record.fate == Fate::Durable;
    for record in ledger.records.iter().filter(durable) {
        let Some(row) = rows.get(&record.checkin.id) else {
            return Err(format!("a durable check-in is not in the store: {record:?}"));
        };
        if version_us(row) < version_us(&record.checkin) {
            return Err(format!("an older record took a newer one's row: {row:?} of {record:?}"));
        }
    }
    for row in rows.values() {
        if !ledger.of_id(row.id).filter(durable).any(|record| record.checkin == *row) {
            return Err(format!("a row was never durable in any journal: {row:?}"));
        }
    }
    Ok(())
}

fn recorded_holds(
    ledger: &Ledger,
    rows: &BTreeMap<CheckinId, Checkin>,
    reading: &Reading<'_>,
    checkin: &Checkin,
) -> Result<(), String> {
    let Some(row) = rows.get(&checkin.id) else {
        return Err(format!("an acknowledged check-in is not in the store: {checkin:?}"));
    };
    if is_single(ledger, checkin.id) && row != checkin {
        return Err(format!("an acknowledged check-in has another row: {checkin:?}, {row:?}"));
    }
    reading.represents(row)
}

/// Whether one record only was ever made of the id, so that its row can be no other.
fn is_single(ledger: &Ledger, id: CheckinId) -> bool {
    ledger.of_id(id).filter(|record| record.fate == Fate::Durable).count() == 1
}

/// No two check-ins that count are one scan.
fn each_counts_once(folded: &[Checkin]) -> Result<(), String> {
    for (index, one) in folded.iter().enumerate() {
        for other in &folded[index + 1..] {
            let client = one.scan.client == other.scan.client;
            let apart_ms = (one.scan.at.0 - other.scan.at.0).abs();
            let window = same_sequence(one, other) && apart_ms < i64::from(other.scan.window_s) * 1000;
            if client || window {
                return Err(format!("two check-ins count for one scan: {one:?}, {other:?}"));
            }
        }
    }
    Ok(())
}

fn same_sequence(one: &Checkin, other: &Checkin) -> bool {
    let sequence = |row: &Checkin| (row.scan.person, row.scan.place, row.direction);
    sequence(one) == sequence(other)
}

/// Which row stands for which.
struct Reading<'a> {
    folded: &'a [Checkin],
    first_of_client: BTreeMap<ClientKey, &'a Checkin>,
}

impl<'a> Reading<'a> {
    fn of(rows: &'a BTreeMap<CheckinId, Checkin>, folded: &'a [Checkin]) -> Self {
        let mut first_of_client = BTreeMap::new();
        // Ids sort by event time.
        for row in rows.values() {
            first_of_client.entry(row.scan.client).or_insert(row);
        }
        Self { folded, first_of_client }
    }

    /// Whether a row counts: itself, or by the first row of its client id, or by one within the window.
    fn represents(&self, row: &Checkin) -> Result<(), String> {
        let first = self.first_of_client.get(&row.scan.client).copied().unwrap_or(row);
        let counts = self.folded.iter().any(|kept| {
            let after_ms = first.scan.at.0 - kept.scan.at.0;
            let in_window = (0..i64::from(first.scan.window_s) * 1000).contains(&after_ms);
            kept.id == first.id || (same_sequence(kept, first) && in_window)
        });
        if counts { Ok(()) } else { Err(format!("a recorded check-in counts nowhere: {row:?}")) }
    }
}
