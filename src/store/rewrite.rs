//! Writing every row anew, for a rotation of the pepper that persons are known under.

use crate::scan::{Checkin, DAY_MS, UnixMillis};

use super::{Store, StoreError};

/// Rows written at a time.
const ROWS: usize = 4096;

/// What a rewriting did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// Rows written under another key.
    pub rows: u64,
    /// Rows that had been written before an interruption.
    pub found: u64,
}

/// Writes what `next` makes of every row of `from` into `into`, durably. Where both are one store, each row
/// then goes from where it was, unless `next` leaves it as it is: so an interrupted rewriting is taken up by
/// another.
///
/// # Errors
/// A store can't be read or written.
pub async fn rewrite(
    from: &Store,
    into: Option<&Store>,
    next: &dyn Fn(&Checkin) -> Checkin,
) -> Result<Rewritten, StoreError> {
    let mut rewritten = Rewritten::default();
    for day in from.days(i32::MIN, i32::MAX).await? {
        let starts = UnixMillis(i64::from(day) * DAY_MS);
        let ends = UnixMillis(starts.0 + DAY_MS);
        let mut after = None;
        loop {
            let places = from.places(day, after).await?;
            let Some(last) = places.last() else { break };
            after = Some(*last);
            for place in places {
                let rows = from.place_rows(place, starts, ends).await?;
                for rows in rows.chunks(ROWS) {
                    let changed = |row: &&Checkin| into.is_some() || next(row) != **row;
                    let old: Vec<Checkin> = rows.iter().filter(changed).copied().collect();
                    let new: Vec<Checkin> = old.iter().map(next).collect();
                    into.unwrap_or(from).write(&new).await?;
                    if into.is_none() {
                        from.remove(&old).await?;
                    }
                    rewritten.rows += old.len() as u64;
                    rewritten.found += (rows.len() - old.len()) as u64;
                }
            }
        }
    }
    into.unwrap_or(from).sync().await?;
    Ok(rewritten)
}
