//! Budgets: what is stored, and how a measurement is held against it. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// A count may grow by this much before it is refused: three parts in a hundred. Repeated measurements of
/// one binary differ by less than a tenth of that.
pub const GROWTH_MAX: f64 = 0.03;

/// The smallest number of additional allocations per request that is refused. A whole one is what a change
/// adds; half of one is room for maps that grow every few hundred requests, and for a busy machine, on which
/// fewer requests share a commit.
pub const ALLOCATIONS_ADDED_MAX: f64 = 0.5;

/// Per stage: what one operation may cost.
pub type Costs = BTreeMap<String, f64>;

/// The file `.ci/guard/budget.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// What compiled the binary that was measured.
    pub compiler: String,
    /// What counted its instructions.
    pub valgrind: String,
    /// Instructions per operation.
    pub instructions: Costs,
    /// Allocations by the core's thread per request.
    pub allocations: Costs,
}

/// How one stage stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Within the budget.
    Kept,
    /// So far below it that the budget should follow.
    Better,
    /// Over it.
    Over,
    /// Measured, but the file has no budget for it.
    Unbudgeted,
    /// In the file, but it was not measured.
    Unmeasured,
}

impl Standing {
    /// Whether the guard fails.
    pub const fn is_refused(self) -> bool {
        matches!(self, Self::Over | Self::Unbudgeted | Self::Unmeasured)
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Kept => "",
            Self::Better => "better: tighten with --bless",
            Self::Over => "OVER BUDGET",
            Self::Unbudgeted => "NO BUDGET: add it with --bless",
            Self::Unmeasured => "NOT MEASURED: drop it with --bless",
        }
    }
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The stage.
    pub stage: String,
    /// Its budget.
    pub budget: Option<f64>,
    /// What it costs now.
    pub now: Option<f64>,
    /// How it stands.
    pub standing: Standing,
}

/// Holds instruction counts against their budgets.
pub fn compare_instructions(budget: &Costs, now: &Costs) -> Vec<Row> {
    compare(budget, now, |budget| (budget * (1.0 - GROWTH_MAX), budget * (1.0 + GROWTH_MAX)))
}

/// Holds allocation counts against their budgets.
pub fn compare_allocations(budget: &Costs, now: &Costs) -> Vec<Row> {
    compare(budget, now, |budget| (budget - ALLOCATIONS_ADDED_MAX, budget + ALLOCATIONS_ADDED_MAX))
}

fn compare(budget: &Costs, now: &Costs, bounds: impl Fn(f64) -> (f64, f64)) -> Vec<Row> {
    let mut stages: Vec<&String> = budget.keys().chain(now.keys()).collect();
    stages.sort();
    stages.dedup();
    stages
        .into_iter()
        .map(|stage| {
            let (budget, now) = (budget.get(stage).copied(), now.get(stage).copied());
            let standing = match (budget, now) {
                (Some(budget), Some(now)) => {
                    let (better, over) = bounds(budget);
                    match now {
                        now if now >= over => Standing::Over,
                        now if now <= better => Standing::Better,
                        _ => Standing::Kept,
                    }
                }
                (None, _) => Standing::Unbudgeted,
                (Some(_), None) => Standing::Unmeasured,
            };
            Row { stage: stage.clone(), budget, now, standing }
        })
        .collect()
}

/// The rows as a table of stage, budget, now and ratio.
pub fn table(title: &str, rows: &[Row]) -> String {
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
    // Writing into a String can't fail.
    let mut out = String::new();
    let _ = writeln!(out, "{title:<44} {:>12} {:>12} {:>7}", "budget", "now", "ratio");
    for row in rows {
        let ratio = match (row.budget, row.now) {
            (Some(budget), Some(now)) if budget > 0.0 => format!("{:.3}", now / budget),
            _ => "-".to_owned(),
        };
        let line = format!(
            "{:<44} {:>12} {:>12} {ratio:>7}  {}",
            row.stage,
            number(row.budget),
            number(row.now),
            row.standing.words()
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}
