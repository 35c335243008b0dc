//! `model`: what a nation's check-ins take in gateways, journals, database and memory, computed from unit costs that
//! were measured and from assumptions that are named. docs/capacity.md explains it and shows its tables; a test holds
//! them to what this computes from `loadtest/unit-costs.json`.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use scangate::journal::CHECKIN_RECORD_BYTES;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::compare::cql::WithCql;
use crate::compare::figure::Figure;
use crate::idle::Idle;
use crate::machine::Machine;
use crate::scale::Scale;

/// What deduplication holds of a scan: by its place and time, and by its client id.
const ENTRIES_A_SCAN: f64 = 2.0;
/// Bytes of a link, allocator included: `cargo bench --bench links`.
const LINK_BYTES: f64 = 55.0;
/// The default of `deduplicate.remember_s` and `journal.retain_s`: two days and an hour.
const REMEMBER_DAYS: f64 = 176_400.0 / 86_400.0;
/// Of the page's tables.
const BEGIN: &str = "<!-- model: begin -->\n";
const END: &str = "<!-- model: end -->\n";

/// Options of `model`.
#[derive(Debug, Args)]
pub struct Options {
    /// Measured unit costs.
    #[arg(long, default_value = "loadtest/unit-costs.json")]
    unit_costs: PathBuf,
    /// Takes the unit costs from compare.json (with its part cql) and scale.json in this directory instead.
    #[arg(long)]
    results: Option<PathBuf>,
    /// Writes those unit costs down, and the tables into this page.
    #[arg(long, requires = "results")]
    write: Option<PathBuf>,
    #[command(flatten)]
    assumptions: Assumptions,
}

/// What can't be measured here. The reasons stand in docs/capacity.md.
#[derive(Debug, Clone, Args)]
struct Assumptions {
    /// Check-ins in the busiest hour, in millions: one column each.
    #[arg(long, value_delimiter = ',', default_value = "1,10,100,300")]
    millions_an_hour: Vec<f64>,
    /// The busiest minute's rate by the busiest hour's mean.
    #[arg(long, default_value_t = 3.0)]
    peak: f64,
    /// A day's check-ins by those of its busiest hour.
    #[arg(long, default_value_t = 8.0)]
    busy_hours: f64,
    /// Share of check-ins that arrive in batches.
    #[arg(long, default_value_t = 0.3)]
    batch_share: f64,
    /// Share of codes that a gateway has never seen.
    #[arg(long, default_value_t = 0.2)]
    new_share: f64,
    /// How far a gateway's cores may be used at the peak.
    #[arg(long, default_value_t = 0.6)]
    utilisation: f64,
    /// Cores of a gateway.
    #[arg(long, default_value_t = 8.0)]
    gateway_cores: f64,
    /// Memory of a gateway for scangate, in GB.
    #[arg(long, default_value_t = 48.0)]
    gateway_memory_gb: f64,
    /// Devices with an open connection, for every million check-ins an hour.
    #[arg(long, default_value_t = 10_000.0)]
    connections_a_million: f64,
    /// Links between identifiers, in millions; every gateway holds all.
    #[arg(long, default_value_t = 150.0)]
    links_millions: f64,
    /// Hours that the database may be away while all that arrives must still fit in the journal.
    #[arg(long, default_value_t = 72.0)]
    outage_hours: f64,
    /// Copies that the database keeps.
    #[arg(long, default_value_t = 3.0)]
    replication: f64,
    /// Days that a row is kept.
    #[arg(long, default_value_t = 30.0)]
    retention_days: f64,
    /// Cores of a database node.
    #[arg(long, default_value_t = 16.0)]
    node_cores: f64,
    /// How far they may be used by writes: the rest is compaction, repair and reading.
    #[arg(long, default_value_t = 0.4)]
    node_utilisation: f64,
    /// Bytes on a node's disk by those measured, where few people have many rows.
    #[arg(long, default_value_t = 2.0)]
    disk_factor: f64,
    /// Data that a database node may hold, in TB: half its disk.
    #[arg(long, default_value_t = 4.0)]
    node_tb: f64,
}

/// Measured, one server on one core.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct UnitCosts {
    /// The day, in UTC, that names the directory of results.
    date: String,
    machine: Machine,
    /// The gateway's runtime.
    runtime: String,
    /// CPU up to the answer, in µs a check-in: known code, single.
    single_us: f64,
    /// Never-seen code, single.
    new_single_us: f64,
    /// Known code, in a batch.
    batch_us: f64,
    /// Never-seen code, in a batch.
    new_batch_us: f64,
    /// CPU of the copy to a CQL database behind the answer.
    store_us: f64,
    /// CPU of the database node for one copy.
    database_us: f64,
    /// Bytes on the database node's disk for one copy.
    database_bytes: f64,
    /// Bytes in the journal for a single check-in.
    journal_bytes: f64,
    /// Bytes over the wire, in and out, for a single check-in.
    single_wire_bytes: [f64; 2],
    /// The same in a batch.
    batch_wire_bytes: [f64; 2],
    /// An idle connection.
    connection_bytes: f64,
    /// A gateway that remembers next to nothing.
    resident_bytes: f64,
    /// By how much its memory grows with each scan remembered: the entries, what the allocator and growing maps keep
    /// beside them, and the embedded store's buffers.
    remembered_bytes: f64,
}

/// What `compare` writes, as far as it is used here.
#[derive(Deserialize)]
struct Compared {
    date: String,
    machine: Machine,
    single: Vec<Figure>,
    batch: Vec<Figure>,
    never_seen_batch: Vec<Figure>,
    never_seen_single: Vec<Figure>,
    idle: Vec<Idle>,
    cql: Option<WithCql>,
}

/// Computes and prints the tables.
pub fn run(options: &Options) -> Result<()> {
    let costs = match &options.results {
        Some(directory) => UnitCosts::measured(
            &read(&directory.join("compare.json"))?,
            &read(&directory.join("scale.json"))?,
        )?,
        None => read(&options.unit_costs)?,
    };
    let tables = tables(&costs, &options.assumptions);
    std::io::stdout().write_all(tables.as_bytes())?;
    if let Some(page) = &options.write {
        fs::write(&options.unit_costs, serde_json::to_string_pretty(&costs)? + "\n")?;
        let text = fs::read_to_string(page).with_context(|| format!("can't read {}", page.display()))?;
        fs::write(page, replaced(&text, &tables)?)?;
    }
    Ok(())
}

fn read<T: DeserializeOwned>(file: &Path) -> Result<T> {
    let bytes = fs::read(file).with_context(|| format!("can't read {}", file.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} isn't as expected", file.display()))
}

/// The page with other tables.
fn replaced(page: &str, tables: &str) -> Result<String> {
    let (before, rest) = page.split_once(BEGIN).context("the page has no begin of the model")?;
    let (_, after) = rest.split_once(END).context("the page has no end of the model")?;
    Ok(format!("{before}{BEGIN}{tables}{END}{after}"))
}

impl UnitCosts {
    fn measured(compared: &Compared, scale: &Scale) -> Result<Self> {
        let runtime =
            &scale.curve("connections").context("scale.json lacks connections")?.at(64)?.figure.server;
        let of = |figures: &[Figure]| -> Result<f64> {
            let figure = figures.iter().find(|figure| figure.server == *runtime);
            Ok(hundredths(figure.with_context(|| format!("compare.json lacks {runtime}"))?.answer_us))
        };
        let cql = compared.cql.as_ref().context("compare.json lacks the part cql")?;
        let served = cql.servers.first().context("compare.json lacks a server with CQL")?;
        let idle = compared.idle.iter().find(|idle| idle.server == *runtime);
        let single = scale.curve("connections").context("scale.json lacks connections")?.at(64)?;
        let batch = scale.curve("batch").context("scale.json lacks batch")?.at(1000)?;
        let single_us = of(&compared.single)?;
        #[allow(clippy::cast_precision_loss)] // Bytes of memory.
        Ok(Self {
            date: compared.date.clone(),
            machine: compared.machine.clone(),
            runtime: runtime.clone(),
            single_us,
            new_single_us: of(&compared.never_seen_single)?,
            batch_us: of(&compared.batch)?,
            new_batch_us: of(&compared.never_seen_batch)?,
            store_us: hundredths((served.server_us - single_us).max(0.0)),
            database_us: hundredths(served.database_us),
            database_bytes: cql.disk_bytes_each.round(),
            journal_bytes: single.journal_bytes_each.round(),
            single_wire_bytes: [single.request_bytes_each.round(), single.answer_bytes_each.round()],
            batch_wire_bytes: [batch.request_bytes_each.round(), batch.answer_bytes_each.round()],
            connection_bytes: idle.context("compare.json lacks idle connections")?.bytes_each.round(),
            resident_bytes: single.resident_bytes as f64,
            remembered_bytes: remembered_bytes(scale)?.round(),
        })
    }
}

/// By the growth from the curve's first point to its last.
#[allow(clippy::cast_precision_loss)] // Bytes and counts of a run.
fn remembered_bytes(scale: &Scale) -> Result<f64> {
    let points = &scale.curve("entries").context("scale.json lacks entries")?.points;
    let (first, last) = (points.first().context("no points")?, points.last().context("no points")?);
    let entries = last.x.checked_sub(first.x).filter(|entries| *entries >= 1_000_000);
    let entries = entries.context("the curve over entries must span a million")?;
    Ok((last.resident_bytes as f64 - first.resident_bytes as f64) / entries as f64 * ENTRIES_A_SCAN)
}

fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// What so many check-ins an hour take.
struct Sized {
    mean_per_s: f64,
    peak_per_s: f64,
    cores: f64,
    gateways_by_cpu: f64,
    gateways_by_memory: f64,
    gateways: f64,
    memory_each_gb: f64,
    journal_mb_per_s: f64,
    journal_tb: f64,
    outage_tb: f64,
    in_gbit_per_s: f64,
    out_gbit_per_s: f64,
    rows_per_s: f64,
    nodes_by_cpu: f64,
    nodes_by_disk: f64,
    database_tb: f64,
}

impl Sized {
    fn of(millions_an_hour: f64, costs: &UnitCosts, assumed: &Assumptions) -> Self {
        let mean_per_s = millions_an_hour * 1e6 / 3600.0;
        let peak_per_s = mean_per_s * assumed.peak;
        let day = millions_an_hour * 1e6 * assumed.busy_hours;
        let (batch, new) = (assumed.batch_share, assumed.new_share);
        let answer_us = (1.0 - batch) * ((1.0 - new) * costs.single_us + new * costs.new_single_us)
            + batch * ((1.0 - new) * costs.batch_us + new * costs.new_batch_us);
        // The copy may lag behind by minutes, so it follows the hour's mean.
        let cores = (peak_per_s * answer_us + mean_per_s * costs.store_us) / 1e6 / assumed.utilisation;
        let gateways_by_cpu = (cores / assumed.gateway_cores).ceil();
        let remembered = day * REMEMBER_DAYS * costs.remembered_bytes / 1e9;
        let everywhere_gb = (costs.resident_bytes + assumed.links_millions * 1e6 * LINK_BYTES) / 1e9;
        let connections_gb = assumed.connections_a_million * millions_an_hour * costs.connection_bytes / 1e9;
        let shared_gb = remembered + connections_gb;
        let gateways_by_memory = (shared_gb / (assumed.gateway_memory_gb - everywhere_gb)).ceil();
        let needed = gateways_by_cpu.max(gateways_by_memory).max(1.0);
        let wire = |index: usize| {
            let at = |bytes: &[f64; 2]| bytes.get(index).copied().unwrap_or_default();
            let each = (1.0 - batch) * at(&costs.single_wire_bytes) + batch * at(&costs.batch_wire_bytes);
            peak_per_s * each * 8.0 / 1e9
        };
        let rows_per_s = mean_per_s * assumed.replication;
        let copy_bytes = costs.database_bytes * assumed.disk_factor;
        let database_tb = day * assumed.retention_days * copy_bytes * assumed.replication / 1e12;
        let node_cpu = assumed.node_cores * assumed.node_utilisation;
        let kept_days = REMEMBER_DAYS.max(assumed.outage_hours / 24.0);
        Self {
            mean_per_s,
            peak_per_s,
            cores,
            gateways_by_cpu,
            gateways_by_memory,
            // One may be away.
            gateways: needed + 1.0,
            memory_each_gb: everywhere_gb + shared_gb / needed,
            journal_mb_per_s: peak_per_s * costs.journal_bytes / 1e6,
            journal_tb: day * REMEMBER_DAYS * costs.journal_bytes / 1e12,
            outage_tb: day * kept_days * costs.journal_bytes / 1e12,
            in_gbit_per_s: wire(0),
            out_gbit_per_s: wire(1),
            rows_per_s,
            nodes_by_cpu: (rows_per_s * costs.database_us / 1e6 / node_cpu).ceil().max(assumed.replication),
            nodes_by_disk: (database_tb / assumed.node_tb).ceil().max(assumed.replication),
            database_tb,
        }
    }
}

/// A row of the model: what it is, and how a column shows it.
type Row<'a> = (String, Box<dyn Fn(&Sized) -> String + 'a>);

fn rows(assumed: &Assumptions) -> Vec<Row<'_>> {
    let show = |name: &str, value: fn(&Sized) -> f64| -> Row<'_> {
        (name.to_owned(), Box::new(move |sized| number(value(sized))))
    };
    vec![
        show("check-ins a second, mean of the hour", |sized| sized.mean_per_s),
        show("check-ins a second, peak", |sized| sized.peak_per_s),
        show("cores of all gateways", |sized| sized.cores),
        show("gateways that this takes", |sized| sized.gateways_by_cpu),
        show("gateways that memory takes", |sized| sized.gateways_by_memory),
        show("**gateways**, one to spare", |sized| sized.gateways),
        show("memory of each, GB", |sized| sized.memory_each_gb),
        show("journals, MB a second at the peak", |sized| sized.journal_mb_per_s),
        (
            "that of each gateway".to_owned(),
            Box::new(|sized| number(sized.journal_mb_per_s / (sized.gateways - 1.0))),
        ),
        show("journals, TB kept for deduplication", |sized| sized.journal_tb),
        (
            format!("journals, TB after {} hours without a database", number(assumed.outage_hours)),
            Box::new(|sized| number(sized.outage_tb)),
        ),
        show("network in, Gbit a second at the peak", |sized| sized.in_gbit_per_s),
        show("network out, Gbit a second at the peak", |sized| sized.out_gbit_per_s),
        show("check-ins written a second by all replicas", |sized| sized.rows_per_s),
        show("database, TB of all replicas", |sized| sized.database_tb),
        show("database nodes that writing takes", |sized| sized.nodes_by_cpu),
        show("database nodes that the data takes", |sized| sized.nodes_by_disk),
        (
            "**database nodes**".to_owned(),
            Box::new(|sized| number(sized.nodes_by_cpu.max(sized.nodes_by_disk))),
        ),
    ]
}

/// Both tables, in Markdown.
fn tables(costs: &UnitCosts, assumed: &Assumptions) -> String {
    let mut out = String::from("| unit cost | | measured by |\n|---|---:|---|\n");
    for (name, value, source) in [
        ("single check-in, known code, up to the answer", micros(costs.single_us), "`compare`, single"),
        ("single check-in, never-seen code", micros(costs.new_single_us), "`compare`, verify"),
        ("check-in in a batch, known code", micros(costs.batch_us), "`compare`, batch"),
        ("check-in in a batch, never-seen code", micros(costs.new_batch_us), "`compare`, verify"),
        ("copy to the database, behind the answer", micros(costs.store_us), "`compare`, cql"),
        ("database node, for a copy", micros(costs.database_us), "`compare`, cql"),
        ("database node's disk, for a copy", bytes(costs.database_bytes), "`compare`, cql"),
        ("journal, single check-in", bytes(costs.journal_bytes), "`scale`, connections"),
        ("request and answer, single", pair(costs.single_wire_bytes), "`scale`, connections"),
        ("request and answer, a line of a batch", pair(costs.batch_wire_bytes), "`scale`, batch"),
        ("idle connection", bytes(costs.connection_bytes), "`compare`, idle"),
        (
            "gateway that remembers nothing",
            format!("{} MB", number(costs.resident_bytes / 1e6)),
            "`scale`, connections",
        ),
        ("scan remembered for deduplication", bytes(costs.remembered_bytes), "`scale`, entries"),
        ("link", bytes(LINK_BYTES), "`cargo bench --bench links`"),
    ] {
        let _ = writeln!(out, "| {name} | {value} | {source} |");
    }
    let machine = &costs.machine;
    let _ = writeln!(
        out,
        "\nMeasured on {} with {} on {} ({} cores, {} MiB, Linux {}). A record of the journal alone is \
         {CHECKIN_RECORD_BYTES} bytes; the rest is its batch's header.\n",
        costs.date, costs.runtime, machine.cpu, machine.cores, machine.memory_mib, machine.kernel
    );
    let columns: Vec<Sized> =
        assumed.millions_an_hour.iter().map(|millions| Sized::of(*millions, costs, assumed)).collect();
    let heads: Vec<String> =
        assumed.millions_an_hour.iter().map(|millions| format!("{} M an hour", number(*millions))).collect();
    let _ = writeln!(out, "| | {} |\n|---|{}", heads.join(" | "), "---:|".repeat(heads.len()));
    for (name, value) in rows(assumed) {
        let values: Vec<String> = columns.iter().map(value).collect();
        let _ = writeln!(out, "| {name} | {} |", values.join(" | "));
    }
    out
}

fn micros(value: f64) -> String {
    format!("{} µs CPU", number(value))
}

fn bytes(value: f64) -> String {
    format!("{} bytes", number(value))
}

fn pair([first, second]: [f64; 2]) -> String {
    format!("{} and {} bytes", number(first), number(second))
}

/// Three digits where it is small, whole and in groups where it is large.
fn number(value: f64) -> String {
    if value >= 100.0 {
        let digits = format!("{value:.0}");
        let mut grouped = String::new();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        return grouped;
    }
    let places = match value {
        10.0.. => 1,
        0.1.. => 2,
        _ => 3,
    };
    let text = format!("{value:.places$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Defaults {
        #[command(flatten)]
        assumptions: Assumptions,
    }

    fn assumed() -> Assumptions {
        Defaults::parse_from(["model"]).assumptions
    }

    fn costs() -> UnitCosts {
        read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("unit-costs.json")).unwrap()
    }

    /// `SCANGATE_BLESS=1 cargo test -p scangate-loadtest model` writes the tables instead.
    #[test]
    fn the_page_shows_what_the_model_says() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/capacity.md");
        let text = fs::read_to_string(&page).unwrap();
        let expected = replaced(&text, &tables(&costs(), &assumed())).unwrap();
        if std::env::var_os("SCANGATE_BLESS").is_some() {
            fs::write(&page, &expected).unwrap();
        } else {
            assert_eq!(text, expected, "docs/capacity.md isn't what the model says");
        }
    }

    #[test]
    fn the_model_is_what_one_computes_by_hand() {
        let costs = UnitCosts {
            single_us: 10.0,
            new_single_us: 60.0,
            batch_us: 5.0,
            new_batch_us: 15.0,
            store_us: 12.0,
            database_us: 100.0,
            database_bytes: 200.0,
            journal_bytes: 100.0,
            ..costs()
        };
        let assumed = assumed();
        let sized = Sized::of(36.0, &costs, &assumed);
        // 0.7 · (0.8 · 10 + 0.2 · 60) + 0.3 · (0.8 · 5 + 0.2 · 15) = 16.1 µs at 30,000 a second, 12 µs at 10,000.
        assert!((sized.cores - (0.483 + 0.12) / 0.6).abs() < 1e-9, "{}", sized.cores);
        assert!((sized.journal_mb_per_s - 3.0).abs() < 1e-9);
        // 36 M · 8 · 30 days · 2 · 200 bytes · 3 copies.
        assert!((sized.database_tb - 10.368).abs() < 1e-9);
        assert!((sized.nodes_by_cpu - 3.0).abs() < 1e-9);
    }

    #[test]
    fn ten_times_the_load_takes_no_more_than_ten_times_the_machines() {
        let (costs, assumed) = (costs(), assumed());
        let (small, large) = (Sized::of(10.0, &costs, &assumed), Sized::of(100.0, &costs, &assumed));
        assert!(large.gateways <= 10.0 * small.gateways);
        assert!(large.database_tb > 9.9 * small.database_tb);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(number(1_234_567.0), "1,234,567");
        assert_eq!(number(123.0), "123");
        assert_eq!(number(12.34), "12.3");
        assert_eq!(number(3.0), "3");
        assert_eq!(number(0.456), "0.46");
        assert_eq!(number(0.0083), "0.008");
        assert_eq!(number(20.0), "20");
    }
}
