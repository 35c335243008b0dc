//! A journal written anew beside itself.

use std::io;
use std::path::Path;

use super::{AppendError, JournalOf, JournalSettings, LaneOf, Record, Ticket};

/// Writes what `next` makes of each record into a journal in `to`, in the same order, durably; says how many there were.
///
/// # Errors
/// One of the two can't be opened, read or written.
pub fn rewrite<R: Record>(
    from: &Path,
    to: &Path,
    settings: &JournalSettings,
    next: &dyn Fn(&R) -> R,
) -> io::Result<u64> {
    let (to, _) = JournalOf::<R>::open(to, settings.clone(), &mut |_| ()).map_err(io::Error::other)?;
    let lane = to.lane(0).map_err(io::Error::other)?;
    let (mut last, mut error) = (None, None);
    let mut copy = |record: &R| {
        if error.is_none() {
            match append(&lane, &next(record), last) {
                Ok(ticket) => last = Some(ticket),
                Err(broken) => error = Some(broken),
            }
        }
    };
    let (from, recovery) =
        JournalOf::<R>::open(from, settings.clone(), &mut copy).map_err(io::Error::other)?;
    from.close();
    match (error, last) {
        (Some(error), _) => return Err(error),
        (None, Some(last)) => lane.committed_blocking(last).map(|_| ()).map_err(io::Error::other)?,
        (None, None) => {}
    }
    drop(lane);
    to.close();
    Ok(recovery.records)
}

/// Waits for the disk where the lane is full.
fn append<R: Record>(lane: &LaneOf<R>, record: &R, last: Option<Ticket>) -> io::Result<Ticket> {
    loop {
        match (lane.append(record), last) {
            (Ok(ticket), _) => return Ok(ticket),
            (Err(AppendError::LaneFull { .. }), Some(last)) => {
                lane.committed_blocking(last).map_err(io::Error::other)?;
            }
            (Err(error), _) => return Err(io::Error::other(error)),
        }
    }
}
