//! What a scenario must reach, from a file: a section a scenario, a key a limit.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::report::Report;
use crate::scenarios::LOADED_BY_IDLE;
use crate::services::SCANS_P99;

/// Limits of one scenario; those that are left out aren't checked.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    p50_ms_max: Option<f64>,
    p99_ms_max: Option<f64>,
    p999_ms_max: Option<f64>,
    slowest_ms_max: Option<f64>,
    /// Requests that failed, of all, in percent.
    failed_percent_max: Option<f64>,
    /// Requests that were shed, of all, in percent.
    shed_percent_max: Option<f64>,
    /// Answered requests a second over the whole run.
    answered_per_s_min: Option<f64>,
    /// From the end of the load until the store held everything.
    caught_up_s_max: Option<f64>,
    /// Answers with a status of 500 or above that isn't 503.
    server_errors_max: Option<f64>,
    /// A payload's p99 while frames are offered at three times what is read of them, by what it is without.
    loaded_by_idle_p99_max: Option<f64>,
    /// A check-in's p99 beside the load on the services.
    scans_p99_ms_max: Option<f64>,
    /// Growth of the gateway's memory between the first and the last fifth of the run.
    resident_growth_mib_max: Option<f64>,
}

/// One limit and what was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// Name of the limit.
    pub name: &'static str,
    /// The limit.
    pub limit: f64,
    /// The value.
    pub value: f64,
    /// Whether it holds.
    pub holds: bool,
}

/// Reads a file; a scenario without a section has no limits.
pub fn load(path: &Path, scenario: &str) -> Result<Limits> {
    let text = std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
    let mut all: BTreeMap<String, Limits> = toml::from_str(&text)?;
    Ok(all.remove(scenario).unwrap_or_default())
}

/// Checks a report against limits.
pub fn check(limits: &Limits, report: &Report) -> Vec<Check> {
    let at_most = [
        ("p50_ms_max", limits.p50_ms_max, report.latency.p50_ms),
        ("p99_ms_max", limits.p99_ms_max, report.latency.p99_ms),
        ("p999_ms_max", limits.p999_ms_max, report.latency.p999_ms),
        ("slowest_ms_max", limits.slowest_ms_max, report.latency.max_ms),
        ("failed_percent_max", limits.failed_percent_max, report.failed_percent()),
        ("shed_percent_max", limits.shed_percent_max, report.shed_percent()),
        ("caught_up_s_max", limits.caught_up_s_max, report.audit.caught_up_s),
        ("server_errors_max", limits.server_errors_max, report.server_errors_f64()),
        ("loaded_by_idle_p99_max", limits.loaded_by_idle_p99_max, report.note(LOADED_BY_IDLE)),
        ("scans_p99_ms_max", limits.scans_p99_ms_max, report.note(SCANS_P99)),
        ("resident_growth_mib_max", limits.resident_growth_mib_max, report.resident_growth_mib()),
    ];
    let checks = at_most.into_iter().filter_map(|(name, limit, value)| {
        limit.map(|limit| Check { name, limit, value, holds: value <= limit })
    });
    let at_least = limits.answered_per_s_min.map(|limit| {
        let value = report.answered_per_s;
        Check { name: "answered_per_s_min", limit, value, holds: value >= limit }
    });
    checks.chain(at_least).collect()
}
