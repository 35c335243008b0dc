//! What a scenario came to, as JSON and as one HTML file that needs nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use crate::audit::Audit;
use crate::machine::Machine;
use crate::plot;
use crate::record::{Latency, Second};
use crate::thresholds::Check;

/// Everything about one run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// The day, in UTC.
    pub date: String,
    /// The command.
    pub command: String,
    /// The gateway's settings that differ from its defaults.
    pub settings: Vec<String>,
    /// The machine.
    pub machine: Machine,
    /// The load, in words and numbers.
    pub plan: serde_json::Value,
    /// How long the load ran, its last answers included.
    pub elapsed_s: f64,
    /// Requests answered, a second.
    pub answered_per_s: f64,
    /// Requests answered.
    pub answered: u64,
    /// Requests shed.
    pub shed: u64,
    /// Requests that failed, and were sent again afterwards.
    pub failed: u64,
    /// Requests sent again before the audit.
    pub resent: u64,
    /// Answers with a status of 500 or above that isn't 503.
    pub server_errors: u64,
    /// Lines by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// From the intended time of sending.
    pub latency: Latency,
    /// What was done to the gateway or the database, and when.
    pub events: Vec<(f64, String)>,
    /// Further measurements of this scenario.
    pub notes: BTreeMap<String, f64>,
    /// The audit.
    pub audit: Audit,
    /// Limits and whether they hold.
    pub checks: Vec<Check>,
    /// Second by second.
    pub seconds: Vec<Second>,
}

impl Report {
    /// Failed requests in percent of all.
    pub fn failed_percent(&self) -> f64 {
        self.percent(self.failed)
    }

    /// Shed requests in percent of all.
    pub fn shed_percent(&self) -> f64 {
        self.percent(self.shed)
    }

    /// A measurement of the scenario's own; infinite if it wasn't made.
    pub fn note(&self, name: &str) -> f64 {
        self.notes.get(name).copied().unwrap_or(f64::INFINITY)
    }

    /// As a number that can be compared with a limit.
    #[allow(clippy::cast_precision_loss)] // Counts of a run stay far below 2^52.
    pub fn server_errors_f64(&self) -> f64 {
        self.server_errors as f64
    }

    /// Mean memory of the last fifth of the run less that of the second fifth: the first one warms up.
    #[allow(clippy::cast_precision_loss)] // As above.
    pub fn resident_growth_mib(&self) -> f64 {
        let seen: Vec<f64> =
            self.seconds.iter().map(|second| second.resident_mib).filter(|mib| *mib > 0.0).collect();
        let fifth = seen.len() / 5;
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len().max(1) as f64;
        let early = seen.get(fifth..2 * fifth).unwrap_or_default();
        let late = seen.get(seen.len() - fifth..).unwrap_or_default();
        mean(late) - mean(early)
    }

    /// Whether the audit passed and all limits hold.
    pub fn passed(&self) -> bool {
        self.audit.passed() && self.checks.iter().all(|check| check.holds)
    }

    /// Writes `SCENARIO.json` and `SCENARIO.html` under a directory of the run's date.
    pub fn write(&self, results: &Path) -> Result<PathBuf> {
        let directory = results.join(&self.date);
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(format!("{}.json", self.scenario)), serde_json::to_vec_pretty(self)?)?;
        let page = directory.join(format!("{}.html", self.scenario));
        fs::write(&page, plot::page(self))?;
        Ok(page)
    }

    /// A few lines for the terminal.
    pub fn summary(&self) -> String {
        let audit = &self.audit;
        let mut lines = vec![
            format!(
                "{}: {} answered ({:.0}/s), {} shed, {} failed, {} resent in {:.1} s",
                self.scenario,
                self.answered,
                self.answered_per_s,
                self.shed,
                self.failed,
                self.resent,
                self.elapsed_s
            ),
            format!(
                "  latency ms: p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2}",
                self.latency.p50_ms,
                self.latency.p90_ms,
                self.latency.p99_ms,
                self.latency.p999_ms,
                self.latency.max_ms
            ),
            format!("  outcomes: {}", pairs(&self.outcomes)),
            format!(
                "  audit {}: {} acknowledged, {} exported, {} refused; missing {}, repeated {}, wrong direction {}, \
                 unexpected {}, contradictions {}; store caught up after {:.1} s",
                if audit.passed() { "passed" } else { "FAILED" },
                audit.acknowledged,
                audit.exported,
                audit.refused,
                audit.missing,
                audit.repeated,
                audit.wrong_direction,
                audit.unexpected,
                audit.contradictions,
                audit.caught_up_s
            ),
        ];
        if !self.notes.is_empty() {
            lines.push(format!("  {}", pairs(&self.notes)));
        }
        for check in &self.checks {
            let holds = if check.holds { "holds" } else { "BROKEN" };
            lines.push(format!("  {} {}: {:.2} against {}", check.name, holds, check.value, check.limit));
        }
        lines.join("\n") + "\n"
    }

    #[allow(clippy::cast_precision_loss)] // As above.
    fn percent(&self, part: u64) -> f64 {
        part as f64 * 100.0 / (self.answered + self.shed + self.failed).max(1) as f64
    }
}

fn pairs<T: std::fmt::Display>(map: &BTreeMap<String, T>) -> String {
    map.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
}
