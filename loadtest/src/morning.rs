//! A morning of declarations: people declare at a rate, the gateway is killed in the middle of it, and everything that
//! was acknowledged must be there afterwards, once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use tokio::time::sleep_until;

use crate::issue::Issuer;
use crate::machine::{Machine, command_line, machine, today};
use crate::record::{Ending, Latency, Recorder};
use crate::server::{Site, free_address};
use crate::services::{Caller, Difference, difference, due, kill_and_restart, request, total};
use crate::sys;

/// Options.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The gateway's binary (built with --release).
    #[arg(long, default_value = "target/release/scangate")]
    scangate: PathBuf,
    /// Declarations a second.
    #[arg(long, default_value_t = 5000.0)]
    rate: f64,
    /// Seconds of load.
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
    /// Connections.
    #[arg(long, default_value_t = 128)]
    connections: usize,
    /// People who declare, by turns.
    #[arg(long, default_value_t = 2000)]
    persons: usize,
    /// Leave the gateway alone in the middle.
    #[arg(long)]
    no_kill: bool,
    /// Where data directories are made.
    #[arg(long, default_value = "/tmp")]
    work_dir: PathBuf,
    /// Results go to a directory of today's date under this one.
    #[arg(long, default_value = "loadtest/results")]
    results: PathBuf,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    scenario: &'static str,
    command: String,
    machine: Machine,
    rate_per_s: f64,
    seconds: f64,
    acknowledged: usize,
    acknowledged_per_s: f64,
    asked_again: u64,
    killed: bool,
    /// From the intended time of sending, waits for a restart included.
    latency: Latency,
    lost: u64,
    doubled: u64,
    unasked: u64,
}

struct Crowd {
    caller: Caller,
    tokens: Vec<String>,
    recorder: Recorder,
}

/// Runs it. False when something acknowledged is gone or there twice.
///
/// # Errors
/// The gateway doesn't start, or somebody never got an answer.
pub fn run(options: &Options) -> Result<bool> {
    sys::raise_descriptors()?;
    let services = free_address();
    let site = Site::new(&options.scangate, &options.work_dir)?
        .set("services.listen", &services.to_string())
        .set("log.level", "warn");
    let mut server = site.start()?;
    let names: Vec<String> = (0..options.persons).map(|person| format!("declarer-{person}")).collect();
    let tokens = Issuer::new(&site).person_devices(&names)?;
    let crowd = Arc::new(Crowd { caller: Caller::new(services), tokens, recorder: Recorder::start() });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let began = Instant::now();
    let tasks: Vec<_> = (0..options.connections)
        .map(|index| runtime.spawn(declare(Arc::clone(&crowd), options.clone(), index, began)))
        .collect();
    if !options.no_kill {
        std::thread::sleep(Duration::from_secs_f64(options.seconds / 2.0));
        server = kill_and_restart(&site, server)?;
    }
    let mut acknowledged = BTreeMap::new();
    for task in tasks {
        acknowledged.extend(runtime.block_on(task)??);
    }
    let elapsed = began.elapsed();
    let Difference { lost, doubled, unasked } = runtime.block_on(audit(&crowd, &acknowledged))?;
    ensure!(server.terminate(Duration::from_mins(1))?.success(), "the gateway did not end well");
    #[allow(clippy::cast_precision_loss)] // Millions at most.
    let per_s = acknowledged.len() as f64 / elapsed.as_secs_f64();
    let report = Report {
        scenario: "morning",
        command: command_line(),
        machine: machine(),
        rate_per_s: options.rate,
        seconds: options.seconds,
        acknowledged: acknowledged.len(),
        acknowledged_per_s: per_s,
        asked_again: crowd.caller.tally().again,
        killed: !options.no_kill,
        latency: crowd.recorder.latency(),
        lost,
        doubled,
        unasked,
    };
    print_and_keep(&report, &options.results)?;
    Ok(lost == 0 && doubled == 0 && unasked == 0)
}

/// One connection's share of the declarations: by person and its own number, the declaration's id.
async fn declare(
    crowd: Arc<Crowd>,
    options: Options,
    index: usize,
    began: Instant,
) -> Result<BTreeMap<(usize, usize), String>> {
    let mut acknowledged = BTreeMap::new();
    let total = total(options.rate, options.seconds);
    for number in (index..total).step_by(options.connections) {
        let due = began + due(number, options.rate);
        sleep_until(due.into()).await;
        let person = number % crowd.tokens.len();
        let token = crowd.tokens.get(person).context("no person")?;
        let request = declaration(token, number);
        let answer = crowd.caller.insist(&request).await?;
        ensure!(
            matches!(answer.status, 200 | 201),
            "a declaration was answered {}: {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        );
        crowd.recorder.record(Ending::Answered, due.elapsed());
        let body: Value = serde_json::from_slice(&answer.body)?;
        let id = body.get("declaration").and_then(Value::as_str).context("an answer without an id")?;
        acknowledged.insert((person, number), id.to_owned());
    }
    Ok(acknowledged)
}

fn declaration(token: &str, number: usize) -> Vec<u8> {
    let body = serde_json::json!({
        "id": format!("morning-{number}"),
        "form": "health",
        "version": 1,
        "for": "self",
        "answers": {
            "symptoms": [],
            "contact_with_case": false,
            "contact_with_symptoms": false,
            "in_outbreak_area": false,
        },
    })
    .to_string();
    request("POST", "/v1/declarations", token, &body)
}

/// Asks for every person's declarations: how many acknowledged ones are missing, listed twice, or were never asked
/// for.
async fn audit(crowd: &Crowd, acknowledged: &BTreeMap<(usize, usize), String>) -> Result<Difference> {
    let mut found = Difference::default();
    for (person, token) in crowd.tokens.iter().enumerate() {
        let expected: BTreeSet<&str> =
            acknowledged.range((person, 0)..(person + 1, 0)).map(|(_, id)| id.as_str()).collect();
        let mut listed = Vec::new();
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/declarations{cursor}");
            let answer = crowd.caller.insist(&request("GET", &path, token, "")).await?;
            ensure!(answer.status == 200, "the list was answered {}", answer.status);
            let page: Value = serde_json::from_slice(&answer.body)?;
            let items =
                page.get("declarations").and_then(Value::as_array).context("a page without declarations")?;
            listed
                .extend(items.iter().filter_map(|item| Some(item.get("declaration")?.as_str()?.to_owned())));
            match page.get("next").and_then(Value::as_str) {
                Some(next) => cursor = format!("?cursor={next}"),
                None => break,
            }
        }
        found += difference(&expected, &listed);
    }
    Ok(found)
}

/// A few lines for the terminal, and all of it as JSON beside the other results of the day.
fn print_and_keep(report: &Report, results: &Path) -> Result<()> {
    let Latency { p50_ms, p99_ms, max_ms, .. } = report.latency;
    let text = format!(
        "morning: {} declarations acknowledged ({:.0}/s), {} asked again{}\n  latency ms: p50 {p50_ms:.2}  p99 {p99_ms:.2}  max \
         {max_ms:.2}\n  audit: {} lost, {} doubled, {} never asked for\n",
        report.acknowledged,
        report.acknowledged_per_s,
        report.asked_again,
        if report.killed { ", over a kill" } else { "" },
        report.lost,
        report.doubled,
        report.unasked,
    );
    std::io::stdout().write_all(text.as_bytes())?;
    let directory = results.join(today());
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("morning.json"), serde_json::to_vec_pretty(report)?)?;
    Ok(())
}
