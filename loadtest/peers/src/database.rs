//! What is asked of a database: is this scan new, and if so, keep it. Answered when it is kept.

use anyhow::Result;
use scangate::scan::{Checkin, CheckinId, Direction, DirectionRequest, Scan};

use crate::cql::Cql;
use crate::embedded::Embedded;

/// Scans of one person at one place in one direction within this time are one: scangate's default.
pub const WINDOW_MS: i64 = 60_000;

/// What became of a scan.
#[derive(Debug, Clone, Copy)]
pub enum Admitted {
    /// New, and kept.
    Recorded(CheckinId, Direction),
    /// One of before.
    Duplicate(CheckinId, Direction),
}

/// One of the two.
pub enum Database {
    /// fjall, in this process.
    Embedded(Embedded),
    /// Cassandra or ScyllaDB.
    Cql(Box<Cql>),
}

impl Database {
    /// Keeps what is new of these scans. One answer a scan, in order, once all of them are durable.
    pub async fn admit(&self, scans: Vec<Scan>) -> Result<Vec<Admitted>> {
        match self {
            Self::Embedded(embedded) => embedded.admit(scans).await,
            Self::Cql(cql) => cql.admit(scans).await,
        }
    }
}

/// The row of a scan that is new. The id is by its client id, so that a scan that is sent again has the same.
pub fn row(scan: Scan, direction: Direction) -> Checkin {
    let hash = scan.client.0.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    Checkin { id: CheckinId::new(scan.at, hash), direction, scan }
}

/// The direction of a scan that asks for `auto`: the other than the person's last one there.
pub fn resolve(asked: DirectionRequest, last_in_ms: Option<i64>, last_out_ms: Option<i64>) -> Direction {
    match asked {
        DirectionRequest::Out => Direction::Out,
        DirectionRequest::Auto if last_in_ms > last_out_ms => Direction::Out,
        DirectionRequest::In | DirectionRequest::Auto => Direction::In,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_the_other_direction_than_the_last() {
        assert_eq!(resolve(DirectionRequest::Auto, None, None), Direction::In);
        assert_eq!(resolve(DirectionRequest::Auto, Some(1), None), Direction::Out);
        assert_eq!(resolve(DirectionRequest::Auto, Some(1), Some(2)), Direction::In);
        assert_eq!(resolve(DirectionRequest::Out, None, Some(2)), Direction::Out);
    }
}
