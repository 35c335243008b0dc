//! One person's check-ins, under all of their pseudonyms, folded as [`export`](super::export) folds them, a day at
//! a time.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::scan::{Checkin, DAY_MS, PlaceKey, Pseudonym, UnixMillis};

use super::Store;
use super::export::{ExportError, ExportRange, ExportSummary, write_line};
use super::fold::fold;

/// Days that one trace may reach over: more than an incubation, a dispute or a season asks for.
pub const TRACE_DAYS_MAX: i64 = 366;

/// Writes one line a check-in with `from <= at < to`, by event time; `person` is what the lines call the person,
/// `pseudonyms` all that rows may call them. A scan that reads as a repetition in an export is left out here as well:
/// rows are folded by place and day, after those of up to `range.lookback_ms` before.
///
/// # Errors
/// The store can't be read or the output not written. Lines already written are whole.
pub async fn trace(
    store: &Store,
    (person, pseudonyms): (Pseudonym, &[Pseudonym]),
    range: ExportRange,
    out: &mut impl Write,
) -> Result<ExportSummary, ExportError> {
    let mut summary = ExportSummary::default();
    if range.from >= range.to {
        return Ok(summary);
    }
    let since = UnixMillis(range.from.0.saturating_sub(range.lookback_ms).max(0));
    let last_day = UnixMillis(range.to.0 - 1).day();
    let mut before: Vec<Checkin> = Vec::new();
    for day in store.days(since.day(), last_day).await? {
        let starts = UnixMillis(i64::from(day) * DAY_MS);
        let first = starts.max(range.from);
        before.retain(|row| row.scan.at.0 >= first.0.saturating_sub(range.lookback_ms));
        let mut rows = before.clone();
        for pseudonym in pseudonyms {
            let of_day = store.person_history(*pseudonym, day, day).await?;
            rows.extend(of_day.into_iter().map(|mut row| {
                row.scan.person = person;
                row
            }));
        }
        before.clone_from(&rows);
        rows.retain(|row| row.scan.at < range.to);
        write_day(rows, first, &mut summary, out)?;
    }
    out.flush()?;
    Ok(summary)
}

fn write_day(
    rows: Vec<Checkin>,
    first: UnixMillis,
    summary: &mut ExportSummary,
    out: &mut impl Write,
) -> io::Result<()> {
    let in_range = rows.iter().filter(|row| row.scan.at >= first).count();
    let mut places: BTreeMap<PlaceKey, Vec<Checkin>> = BTreeMap::new();
    for row in rows {
        places.entry(row.scan.place).or_default().push(row);
    }
    let mut kept: Vec<Checkin> = Vec::new();
    for mut rows in places.into_values() {
        fold(&mut rows);
        kept.extend(rows.into_iter().filter(|row| row.scan.at >= first));
    }
    kept.sort_unstable_by_key(|row| (row.scan.at, row.id));
    for row in &kept {
        write_line(out, row)?;
    }
    summary.checkins += kept.len() as u64;
    summary.folded += (in_range - kept.len()) as u64;
    Ok(())
}
