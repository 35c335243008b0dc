//! Check-ins of a time range as NDJSON, folded by the reading rule, streamed place-day by place-day.

use std::io::{self, Write};
use std::ops::ControlFlow;

use crate::scan::{Checkin, Pseudonym, UnixMillis};

use super::fold::fold;
use super::{Store, StoreError};

/// What to export.
#[derive(Debug, Clone, Copy)]
pub struct ExportRange {
    /// The first event time.
    pub from: UnixMillis,
    /// The event time to stop before.
    pub to: UnixMillis,
    /// How far before a place-day (and before `from`) rows are read to learn what its first rows
    /// repeat. Any multiple of the widest window that no person can fill with repeats will do.
    pub lookback_ms: i64,
}

/// Widest windows' worth of rows read before a boundary, see [`ExportRange::over`]. Rows that two
/// gateways recorded in one window come in pairs; a chain of eight is out of reach of honest devices.
const LOOKBACK_WINDOWS: i64 = 8;

impl ExportRange {
    /// A range whose lookback suits deduplication windows up to `window_s_max`.
    pub fn over(from: UnixMillis, to: UnixMillis, window_s_max: u16) -> Self {
        Self { from, to, lookback_ms: i64::from(window_s_max) * 1000 * LOOKBACK_WINDOWS }
    }
}

/// What an export held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExportSummary {
    /// Lines written.
    pub checkins: u64,
    /// Rows left out because they repeat a line.
    pub folded: u64,
}

/// An export that stopped early. Lines already written are whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The store could not be read.
    #[error("can't read the store")]
    Store(#[from] StoreError),
    /// Whom a row's person stands for could not be read.
    #[error("can't read the links")]
    Links(#[source] io::Error),
    /// The output could not be written.
    #[error("can't write the export")]
    Output(#[from] io::Error),
}

/// Writes one line a check-in: by day, then place, then event time. `person` says whom a row's person stands
/// for; that is asked before rows are folded, so that what one person did under several pseudonyms is folded,
/// whenever the link between them arrived.
pub async fn export(
    store: &Store,
    range: ExportRange,
    person: &dyn Fn(Pseudonym) -> io::Result<Pseudonym>,
    out: &mut impl Write,
) -> Result<ExportSummary, ExportError> {
    let mut summary = ExportSummary::default();
    let mut failed = None;
    let mut kept: Vec<Checkin> = Vec::new();
    let mut sink = |first: UnixMillis, rows: &[Checkin]| {
        let in_range = rows.iter().filter(|row| row.scan.at >= first).count();
        kept.clear();
        kept.extend_from_slice(rows);
        for row in &mut kept {
            match person(row.scan.person) {
                Ok(person) => row.scan.person = person,
                Err(error) => {
                    failed = Some(ExportError::Links(error));
                    return ControlFlow::Break(());
                }
            }
        }
        fold(&mut kept);
        kept.retain(|row| row.scan.at >= first);
        for row in &kept {
            if let Err(error) = write_line(out, row) {
                failed = Some(ExportError::Output(error));
                return ControlFlow::Break(());
            }
        }
        summary.checkins += kept.len() as u64;
        summary.folded += (in_range - kept.len()) as u64;
        ControlFlow::Continue(())
    };
    store.place_days(range.from, range.to, range.lookback_ms, &mut sink).await?;
    if let Some(error) = failed {
        return Err(error);
    }
    out.flush()?;
    Ok(summary)
}

/// Every value is a number's, a key's or a fixed name's text, none of which JSON would escape.
pub(super) fn write_line(out: &mut impl Write, row: &Checkin) -> io::Result<()> {
    let scan = &row.scan;
    writeln!(
        out,
        concat!(
            r#"{{"checkin":"{}","at":"{}","received_at":"{}","person":"{}","place":"{}","direction":"{}","#,
            r#""subject":"{}","trust":"{}","form":"{}","app":"{}","device":"{}"}}"#
        ),
        row.id,
        scan.at,
        scan.received,
        scan.person,
        scan.place,
        row.direction,
        scan.subject,
        scan.trust,
        scan.form,
        scan.app,
        scan.device,
    )
}
