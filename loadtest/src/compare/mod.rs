//! `compare`: what a check-in costs in CPU, in one run with the same client on the same cores, all servers in turns:
//! scangate on both runtimes, nginx answering an empty 202, an axum server that writes to its database before it
//! answers, and Benthos. A ratio of two figures of one run survives a change of machine; the figures themselves
//! don't.

mod bench;
pub mod cql;
pub mod figure;
mod text;
pub mod verify;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;

use crate::machine::{self, Machine};
use crate::peers::{Benthos, Nginx};
use crate::record::Latency;
use crate::{idle, sys};
use bench::{Bench, PEER};
use cql::WithCql;
use figure::Figure;
use verify::VerifyOnly;

/// Options of `compare`.
#[derive(Debug, Args)]
pub struct Options {
    /// The gateway's binary (built with --release).
    #[arg(long, default_value = "target/release/scangate")]
    scangate: PathBuf,
    /// nginx; "none" leaves it out.
    #[arg(long, default_value = "nginx")]
    nginx: String,
    /// The axum peer's binary; "none" leaves it out.
    #[arg(long, default_value = "target/release/scangate-peer")]
    peer: PathBuf,
    /// Benthos, which loadtest/peers/install builds; "none" leaves it out.
    #[arg(long, default_value = "target/ci-bin/benthos")]
    benthos: PathBuf,
    /// Core for the server.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// Core for the client.
    #[arg(long, default_value_t = 1)]
    client_core: usize,
    /// Seconds of each stretch of load.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// How often each stretch is repeated, servers in turn; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Keep-alive connections of the single POSTs.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Connections of the batches.
    #[arg(long, default_value_t = 8)]
    batch_connections: usize,
    /// Lines of a batch.
    #[arg(long, default_value_t = 1000)]
    batch_lines: usize,
    /// Distinct SG1 tokens that are scanned again and again.
    #[arg(long, default_value_t = 512)]
    tokens: usize,
    /// SG1 tokens that are scanned once, for each of the two runtimes and of batches and singles.
    #[arg(long, default_value_t = 40_000)]
    never_seen: usize,
    /// Idle connections.
    #[arg(long, default_value_t = 8000)]
    idle: usize,
    /// Runtimes to measure.
    #[arg(long, value_delimiter = ',', default_value = "uring,epoll")]
    runtimes: Vec<String>,
    /// Requests a second that all are offered for their latency.
    #[arg(long, default_value_t = 4000.0)]
    open_rate: f64,
    /// Scans of the part with a CQL database, for each of the two servers.
    #[arg(long, default_value_t = 40_000)]
    cql_scans: u64,
    /// Starts that database.
    #[arg(long, default_value = "deploy/dev/cql-dev.sh")]
    cql_script: PathBuf,
    /// Fails when the first runtime's CPU up to the answer is more than this much of the axum peer's.
    #[arg(long)]
    by_peer_max: Option<f64>,
    /// Parts to run: single, batch, verify, idle, cql.
    #[arg(long, value_delimiter = ',', default_value = "single,batch,verify,idle")]
    parts: Vec<String>,
    /// Where data directories are made; should be on the disk that the journal would use.
    #[arg(long, default_value = "/tmp")]
    work_dir: PathBuf,
    /// Results go to a directory of today's date under this one.
    #[arg(long, default_value = "loadtest/results")]
    results: PathBuf,
}

/// Latency of a server at the rate that all are offered.
#[derive(Debug, Serialize)]
pub struct Open {
    server: String,
    offered_per_s: f64,
    answered_per_s: f64,
    latency: Latency,
}

#[derive(Debug, Serialize)]
struct Report {
    command: String,
    date: String,
    machine: Machine,
    nginx: Option<String>,
    benthos: Option<String>,
    settings: Vec<String>,
    single: Vec<Figure>,
    open: Vec<Open>,
    batch: Vec<Figure>,
    never_seen_batch: Vec<Figure>,
    never_seen_single: Vec<Figure>,
    verify_only: Option<VerifyOnly>,
    idle: Vec<idle::Idle>,
    cql: Option<WithCql>,
    ratios: BTreeMap<String, f64>,
}

/// Runs the comparison, prints it and writes it down. False when a limit that was asked for doesn't hold.
pub fn run(options: &Options) -> Result<bool> {
    let descriptors = sys::raise_descriptors()?;
    let cores = std::thread::available_parallelism()?.get();
    ensure!(options.server_core != options.client_core && cores >= 2, "server and client need a core each");
    sys::pin(options.client_core)?;
    let mut bench = Bench::prepare(options)?;
    let wanted = |part: &str| options.parts.iter().any(|known| known == part);
    let mut report = Report {
        command: machine::command_line(),
        date: machine::today(),
        machine: Machine { cores, ..machine::machine() },
        nginx: if options.nginx == "none" { None } else { Nginx::version(&options.nginx) },
        benthos: Benthos::version(&options.benthos),
        settings: bench.first()?.1.settings(),
        single: Vec::new(),
        open: Vec::new(),
        batch: Vec::new(),
        never_seen_batch: Vec::new(),
        never_seen_single: Vec::new(),
        verify_only: None,
        idle: Vec::new(),
        cql: None,
        ratios: BTreeMap::new(),
    };
    if wanted("single") {
        (report.single, report.open) = bench.single()?;
    }
    if wanted("batch") {
        report.batch = bench.batch()?;
    }
    if wanted("verify") {
        report.never_seen_batch = bench.never_seen(options.batch_lines)?;
        report.never_seen_single = bench.never_seen(0)?;
        report.verify_only = Some(bench.verify_only()?);
    }
    if wanted("idle") {
        ensure!(
            descriptors > options.idle as u64 + 100,
            "{} idle connections need more descriptors than {descriptors}",
            options.idle
        );
        report.idle = bench.idle()?;
    }
    if wanted("cql") {
        report.cql = Some(cql::measure(&bench, options)?);
    }
    report.ratios = ratios(&report);
    let text = text::table(&report);
    std::io::stdout().write_all(text.as_bytes())?;
    let directory = options.results.join(&report.date);
    std::fs::create_dir_all(&directory)?;
    std::fs::write(directory.join("compare.json"), serde_json::to_vec_pretty(&report)?)?;
    std::fs::write(directory.join("compare.html"), text::page(&report, &text))?;
    std::fs::write(directory.join("compare.txt"), text)?;
    holds(options, &report)
}

/// What must be so wherever this is run.
fn holds(options: &Options, report: &Report) -> Result<bool> {
    let mut broken = Vec::new();
    let cpu = |name: &str| report.single.iter().find(|figure| figure.server == name);
    if let Some(nginx) = cpu("nginx") {
        // Nothing that reads its request and writes to a disk costs less than an empty answer: the measurement
        // would be wrong.
        for figure in report.single.iter().filter(|figure| figure.cpu.total_us < nginx.cpu.total_us) {
            broken.push(format!("{} costs less than nginx's empty answer", figure.server));
        }
    }
    if let Some(max) = options.by_peer_max {
        let first = report.single.iter().find(|figure| options.runtimes.contains(&figure.server));
        let (Some(first), Some(peer)) = (first, cpu(PEER)) else {
            anyhow::bail!("--by-peer-max needs the part single, a runtime and the axum peer");
        };
        let ratio = first.answer_us / peer.answer_us;
        if ratio > max {
            broken.push(format!(
                "{} / {PEER} up to the answer must be at most {max}; got {ratio:.2}",
                first.server
            ));
        }
    }
    for what in &broken {
        writeln!(std::io::stdout(), "BROKEN: {what}")?;
    }
    Ok(broken.is_empty())
}

/// Whether a server wasn't left out with "none".
fn peers_wanted(binary: &Path) -> bool {
    binary != Path::new("none")
}

fn ratios(report: &Report) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    for (kind, figures) in [("single", &report.single), ("batch", &report.batch)] {
        for base in
            figures.iter().filter(|figure| matches!(figure.server.as_str(), "nginx" | PEER | "benthos"))
        {
            for figure in
                figures.iter().filter(|figure| figure.server != base.server && figure.server != "nginx")
            {
                let name = format!("{kind}, {}", figure.server);
                let of = &base.server;
                all.insert(format!("{name}: all CPU / {of}"), figure.cpu.total_us / base.cpu.total_us);
                all.insert(format!("{name}: CPU up to the answer / {of}"), figure.answer_us / base.answer_us);
            }
        }
    }
    if let Some([gateway, peer]) = report.cql.as_ref().map(|cql| cql.servers.as_slice()) {
        let name = format!("with CQL, {}", gateway.server);
        let of = &peer.server;
        all.insert(format!("{name}: CPU of the server / {of}"), gateway.server_us / peer.server_us);
        all.insert(format!("{name}: CPU of the node / {of}"), gateway.database_us / peer.database_us);
        all.insert(format!("{name}: stored a second / {of}"), gateway.stored_per_s / peer.stored_per_s);
    }
    if let Some(verify) = &report.verify_only {
        for (kind, figures) in [("batches", &report.never_seen_batch), ("singles", &report.never_seen_single)]
        {
            for figure in figures {
                // Both as rates of one core that does nothing else: the inverse of CPU a token.
                let rate = |us: f64| verify.ed25519_us / us;
                let name = format!("never seen in {kind}, {}", figure.server);
                all.insert(format!("{name}: rate / verify-only rate"), rate(figure.cpu.total_us));
                all.insert(
                    format!("{name}: rate without store drain / verify-only rate"),
                    rate(figure.answer_us),
                );
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cpu::Cost;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    fn figure(server: &str, us: f64) -> Figure {
        Figure {
            server: server.to_owned(),
            unit: "request".to_owned(),
            count: 1,
            rate_per_s: 1.0,
            cpu: Cost { total_us: us, ..Cost::default() },
            drain_us: 0.0,
            answer_us: us,
            p50_us: 1,
            p99_us: 1,
            rounds_us: vec![us],
            shed: 0,
        }
    }

    fn report(single: Vec<Figure>) -> Report {
        Report {
            command: String::new(),
            date: String::new(),
            machine: machine::machine(),
            nginx: None,
            benthos: None,
            settings: Vec::new(),
            single,
            open: Vec::new(),
            batch: Vec::new(),
            never_seen_batch: Vec::new(),
            never_seen_single: Vec::new(),
            verify_only: None,
            idle: Vec::new(),
            cql: None,
            ratios: BTreeMap::new(),
        }
    }

    #[test]
    fn a_broken_limit_and_an_impossible_figure_are_seen() {
        let options = |max: &str| Command::parse_from(["compare", "--by-peer-max", max]).options;
        let sane = || vec![figure("nginx", 7.0), figure("uring", 15.0), figure(PEER, 30.0)];
        assert!(holds(&options("0.6"), &report(sane())).unwrap());
        assert!(!holds(&options("0.4"), &report(sane())).unwrap());
        let impossible = vec![figure("nginx", 16.0), figure("uring", 15.0), figure(PEER, 30.0)];
        assert!(!holds(&options("0.6"), &report(impossible)).unwrap());
        assert!(holds(&options("0.6"), &report(vec![figure("uring", 15.0)])).is_err());
    }

    #[test]
    fn each_server_is_held_against_each_that_does_less() {
        let ratios = ratios(&report(vec![figure("nginx", 5.0), figure("uring", 15.0), figure(PEER, 30.0)]));
        assert!((ratios["single, uring: all CPU / nginx"] - 3.0).abs() < 1e-9);
        assert!((ratios["single, uring: all CPU / axum+fjall"] - 0.5).abs() < 1e-9);
        assert!(!ratios.contains_key("single, nginx: all CPU / axum+fjall"));
    }
}
