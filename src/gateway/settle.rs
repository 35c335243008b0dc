//! Between admission and answer: nobody is told anything before the commit.

use crate::deduplicate::{InFlight, Standing};
use crate::journal::{CommitError, Durable, Lane, Ticket};
use crate::scan::Checkin;

/// Waits for the commit of a fresh scan. If it fails, the scan is taken out of the memory again.
#[inline]
pub async fn fresh(
    lane: &Lane,
    in_flight: InFlight<'_, Ticket, Durable>,
) -> Result<(Checkin, Durable), CommitError> {
    match lane.committed(in_flight.ticket()).await {
        Ok(proof) => Ok((in_flight.durable(proof), proof)),
        Err(error) => {
            in_flight.failed();
            Err(error)
        }
    }
}

/// Waits for the commit of what a duplicate repeats, and fails with it.
#[inline]
pub async fn repeated(lane: &Lane, original: Standing<Ticket, Durable>) -> Result<Durable, CommitError> {
    match original {
        Standing::InFlight(ticket) => lane.committed(ticket).await,
        Standing::Durable(proof) => Ok(proof),
    }
}
