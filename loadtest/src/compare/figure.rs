//! One measured figure: CPU, rate and latency of a server under one load.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::closed::{Closed, Source, Stretch};
use crate::cpu::{self, Cost};
use crate::server::Server;

/// Work left behind by a run must be done within this time.
pub const QUIET_S_MAX: u64 = 120;
/// Thread names of the part that copies from the journal to the store, after the answer.
const DRAIN_THREADS: &[&str] = &["drain", "fjall"];

/// One measured figure of one server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figure {
    /// Which server.
    pub server: String,
    /// What was counted: requests or lines.
    pub unit: String,
    /// How many, in the median round.
    pub count: u64,
    /// How many a second while the load ran.
    pub rate_per_s: f64,
    /// CPU of all threads, for each.
    pub cpu: Cost,
    /// The part of it that is spent behind the answer, copying from the journal to the store.
    pub drain_us: f64,
    /// CPU without that part.
    pub answer_us: f64,
    /// Client-side latency in microseconds, closed loop.
    pub p50_us: u64,
    /// As above.
    pub p99_us: u64,
    /// CPU of each round.
    pub rounds_us: Vec<f64>,
    /// Scans shed with 503.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub shed: u64,
}

/// Load on new connections, and what it cost until the server was idle again.
pub fn stretch(
    server: &Server,
    connections: usize,
    time: Duration,
    source: &mut impl Source,
) -> Result<(Stretch, Cost, u64)> {
    let mut closed = Closed::connect(server.listen, connections)?;
    let pids = server.pids();
    cpu::wait_until_quiet(&pids, Duration::from_secs(QUIET_S_MAX))?;
    let before = cpu::usage(&pids)?;
    let stretch = closed.run(time, source).with_context(|| server.log_tail())?;
    cpu::wait_until_quiet(&pids, Duration::from_secs(QUIET_S_MAX))?;
    let answers = stretch.answers();
    Ok((stretch, cpu::usage(&pids)?.since(&before, answers), answers))
}

/// By server.
pub type Rounds = BTreeMap<String, Vec<(Stretch, Cost, u64)>>;

/// Keeps what a round came to, but for the first, which warms up.
pub fn keep(
    rounds: &mut Rounds,
    order: &mut Vec<String>,
    name: &str,
    round: usize,
    measured: (Stretch, Cost, u64),
) {
    if round == 0 {
        order.push(name.to_owned());
        return;
    }
    rounds.entry(name.to_owned()).or_default().push(measured);
}

/// The median round of each server, in order.
pub fn figures(rounds: &Rounds, order: &[String], unit: &str) -> Result<Vec<Figure>> {
    order.iter().map(|name| figure(name, unit, rounds.get(name).context("no rounds")?)).collect()
}

/// The median round.
#[allow(clippy::cast_precision_loss)] // Counts of a run stay far below 2^52.
pub fn figure(name: &str, unit: &str, rounds: &[(Stretch, Cost, u64)]) -> Result<Figure> {
    let mut by_cost: Vec<&(Stretch, Cost, u64)> = rounds.iter().collect();
    by_cost.sort_by(|left, right| left.1.total_us.total_cmp(&right.1.total_us));
    let (stretch, cost, count) = by_cost.get(by_cost.len() / 2).context("no rounds")?;
    let drain_us = cost.part_us(DRAIN_THREADS);
    Ok(Figure {
        server: name.to_owned(),
        unit: unit.to_owned(),
        count: *count,
        rate_per_s: *count as f64 / stretch.elapsed.as_secs_f64(),
        drain_us,
        answer_us: cost.total_us - drain_us,
        cpu: cost.clone(),
        p50_us: stretch.latency_us.value_at_quantile(0.5),
        p99_us: stretch.latency_us.value_at_quantile(0.99),
        rounds_us: rounds.iter().map(|(_, cost, _)| cost.total_us).collect(),
        shed: 0,
    })
}

/// Turns a cost for each answer into one for each line.
#[allow(clippy::cast_precision_loss)] // As above.
pub fn scale(cost: &mut Cost, answers: u64, lines: u64) {
    let factor = answers as f64 / lines.max(1) as f64;
    cost.total_us *= factor;
    for us in cost.by_thread_us.values_mut() {
        *us *= factor;
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde calls it with a reference.
fn is_zero(value: &u64) -> bool {
    *value == 0
}
