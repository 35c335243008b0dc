//! The audit after a scenario: the store against what was acknowledged.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use scangate::scan::UnixMillis;
use serde::Serialize;

use crate::ledger::{Ledger, parse_uuid, text_of};
use crate::server::Site;

/// What an audit found. It has passed when the last five counts are zero.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Audit {
    /// Distinct check-ins that clients hold an acknowledgement of.
    pub acknowledged: u64,
    /// Lines refused, which must not be in the store: with `unexpected` at zero, none is.
    pub refused: u64,
    /// Rows exported.
    pub exported: u64,
    /// How long the store took to hold all of them, once the load had ended.
    pub caught_up_s: f64,
    /// Acknowledged, not exported.
    pub missing: u64,
    /// Exported more than once.
    pub repeated: u64,
    /// Exported in the other direction.
    pub wrong_direction: u64,
    /// Exported, but acknowledged to nobody.
    pub unexpected: u64,
    /// Answers that contradicted the request or one another.
    pub contradictions: u64,
}

impl Audit {
    /// Whether every promise was kept.
    pub fn passed(&self) -> bool {
        self.missing + self.repeated + self.wrong_direction + self.unexpected + self.contradictions == 0
    }
}

/// Exports until all acknowledged check-ins are there or the time is up, and compares.
pub fn audit(site: &Site, ledger: &Ledger, within: Duration) -> Result<Audit> {
    ensure!(ledger.doubts.is_empty(), "{} requests are still without an answer", ledger.doubts.len());
    let started = Instant::now();
    loop {
        // While the store is far behind, a running gateway refuses to export.
        match compare(site, ledger) {
            Err(error) if started.elapsed() > within => return Err(error),
            Ok(mut audit) if audit.missing == 0 || started.elapsed() > within => {
                audit.caught_up_s = started.elapsed().as_secs_f64();
                return Ok(audit);
            }
            Ok(_) | Err(_) => {}
        }
        sleep(Duration::from_millis(250));
    }
}

fn compare(site: &Site, ledger: &Ledger) -> Result<Audit> {
    let successes = ledger.successes();
    let answered: u64 = ledger.outcomes.values().sum();
    let mut audit = Audit {
        acknowledged: ledger.checkins() as u64,
        refused: answered - successes,
        contradictions: ledger.contradictions.len() as u64,
        ..Audit::default()
    };
    let mut seen: HashSet<u128> = HashSet::with_capacity(ledger.checkins());
    let now_ms = UnixMillis::now().0;
    let (from, to) =
        (UnixMillis(now_ms - 3 * 86_400_000).to_string(), UnixMillis(now_ms + 3_600_000).to_string());
    let mut child = site
        .command(&["export", "--from", &from, "--to", &to])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut lines = BufReader::with_capacity(1 << 18, child.stdout.take().context("no pipe")?);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        let id = parse_uuid(text_of(&line, b"\"checkin\":\"").context("a row without an id")?)?;
        let exit = text_of(&line, b"\"direction\":\"").context("a row without a direction")? == "out";
        audit.exported += 1;
        if !seen.insert(id) {
            audit.repeated += 1;
        }
        match ledger.exit(id) {
            None => audit.unexpected += 1,
            Some(acknowledged) if acknowledged != exit => audit.wrong_direction += 1,
            Some(_) => {}
        }
        line.clear();
    }
    let status = child.wait()?;
    ensure!(status.success(), "export exited with {status}");
    let found = seen.iter().filter(|id| ledger.exit(**id).is_some()).count();
    audit.missing = (ledger.checkins() - found) as u64;
    Ok(audit)
}
