//! Load on the services, each scenario a subcommand: open loop, beside check-ins, and with an audit of what was
//! acknowledged.

mod caller;
mod difference;
pub mod feedback;
pub mod map;
mod scans;
pub mod storm;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::Value;
use tokio::runtime::Runtime;

pub use self::caller::{Caller, request};
pub use self::difference::{Difference, difference};
use self::scans::Scans;
use crate::audit::audit;
use crate::issue::Issuer;
use crate::machine;
use crate::record::Recorder;
use crate::report::Report;
use crate::server::{Server, Site, free_address};
use crate::sys;
use crate::thresholds::{self, Check};
use crate::wire::Answer;

/// The note that a limit is held against: a check-in's p99 beside the load.
pub const SCANS_P99: &str = "scans_p99_ms";

/// Devices whose check-ins arrive beside the load.
const DEVICES: usize = 50;

/// The store may take so long to hold all that was acknowledged.
const CATCH_UP: Duration = Duration::from_mins(2);

/// Options of all of them.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// The gateway's binary (built with --release).
    #[arg(long, default_value = "target/release/scangate")]
    scangate: PathBuf,
    /// Seconds of load.
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
    /// Check-ins a second beside the load.
    #[arg(long, default_value_t = 500.0)]
    scans: f64,
    /// Limits, a section a scenario; exit code 1 when one is broken.
    #[arg(long)]
    thresholds: Option<PathBuf>,
    /// Where data directories are made.
    #[arg(long, default_value = "/tmp")]
    work_dir: PathBuf,
    /// Results go to a directory of today's date under this one.
    #[arg(long, default_value = "loadtest/results")]
    results: PathBuf,
}

/// A gateway with services, who calls it, and what has been seen of it so far.
struct Stage {
    common: Common,
    site: Site,
    server: Option<Server>,
    runtime: Runtime,
    /// Calls of the services.
    caller: Arc<Caller>,
    /// From the intended time of sending, waits for a restart included.
    recorder: Arc<Recorder>,
    scans: Arc<Scans>,
    gates: Vec<String>,
    events: Vec<(f64, String)>,
    notes: BTreeMap<String, f64>,
    /// Promises, by name: how often each was broken.
    broken: Vec<(&'static str, u64)>,
}

/// A site with services on, not started yet.
fn site(common: &Common) -> Result<(Site, SocketAddr)> {
    let services = free_address();
    let site = Site::new(&common.scangate, &common.work_dir)?;
    Ok((site.set("services.listen", &services.to_string()).set("log.level", "warn"), services))
}

/// A named token of an officer.
fn officer(site: &Site, name: &str, scopes: &str) -> Result<String> {
    let made = site.command(&["keys", "admin", name, "--scope", scopes]).output()?;
    ensure!(made.status.success(), "no token: {}", String::from_utf8_lossy(&made.stderr));
    Ok(String::from_utf8(made.stdout)?.trim().to_owned())
}

/// Kills a gateway and starts it again on the same data directory.
pub fn kill_and_restart(site: &Site, mut server: Server) -> Result<Server> {
    sys::signal(server.pid(), libc::SIGKILL)?;
    server.reap()?;
    site.start()
}

impl Stage {
    fn set(common: &Common, (site, services): (Site, SocketAddr)) -> Result<Self> {
        sys::raise_descriptors()?;
        let server = site.start()?;
        let gates: Vec<String> = (0..DEVICES).map(|gate| format!("beside-{gate}")).collect();
        Ok(Self {
            common: common.clone(),
            gates: Issuer::new(&site).place_devices(&gates)?,
            runtime: tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?,
            caller: Arc::new(Caller::new(services)),
            recorder: Arc::new(Recorder::start()),
            scans: Arc::new(Scans::new(Caller::new(site.listen))),
            events: Vec::new(),
            notes: BTreeMap::new(),
            broken: Vec::new(),
            server: Some(server),
            site,
        })
    }

    /// Waits until the store holds all check-ins so far.
    fn settle(&mut self) -> Result<()> {
        let ledger = self.scans.take();
        let found = audit(&self.site, &ledger, CATCH_UP)?;
        self.scans.give(ledger);
        ensure!(found.passed(), "what was to be there before the load isn't: {found:?}");
        Ok(())
    }

    /// Runs a load, check-ins beside it, and in the middle of it what happens to the gateway.
    fn load<T: Send + 'static>(
        &mut self,
        what: &str,
        load: impl Future<Output = Result<T>> + Send + 'static,
        middle: impl FnOnce(&Site, Server) -> Result<(Site, Server)>,
    ) -> Result<T> {
        self.recorder = Arc::new(Recorder::start());
        let over = Arc::new(AtomicBool::new(false));
        let (scans, gates, rate) = (Arc::clone(&self.scans), self.gates.clone(), self.common.scans);
        let ends = Arc::clone(&over);
        let beside = self.runtime.spawn(async move { scans.beside(&gates, rate, &ends).await });
        let load = self.runtime.spawn(load);
        std::thread::sleep(Duration::from_secs_f64(self.common.seconds / 2.0));
        self.event(what);
        let server = self.server.take().context("no gateway")?;
        let (site, server) = middle(&self.site, server)?;
        (self.site, self.server) = (site, Some(server));
        self.event("the gateway is ready again");
        let done = self.runtime.block_on(load)?;
        over.store(true, Ordering::Relaxed);
        let sent = self.runtime.block_on(beside)??;
        self.note("scans", sent);
        done
    }

    fn event(&mut self, what: &str) {
        self.events.push((self.recorder.started().elapsed().as_secs_f64(), what.to_owned()));
    }

    #[allow(clippy::cast_precision_loss)] // Counts of a run stay far below 2^52.
    fn note(&mut self, name: &str, value: u64) {
        self.notes.insert(name.to_owned(), value as f64);
    }

    /// Audits the check-ins, stops the gateway, verifies its audit log, and reports. False when something is broken.
    fn close(mut self, scenario: &str, plan: Value, elapsed_s: f64) -> Result<bool> {
        let found = audit(&self.site, &self.scans.take(), CATCH_UP)?;
        let ended = self.server.take().context("no gateway")?.terminate(Duration::from_mins(1))?;
        ensure!(ended.success(), "the gateway exited with {ended} on SIGTERM");
        let log = self.site.data.join("audit");
        let verified = Command::new(&self.site.binary).args(["audit", "verify"]).arg(log).output()?;
        self.broken.push(("audit_log_broken", u64::from(!verified.status.success())));
        let (services, public) = (self.caller.tally(), self.scans.caller.tally());
        self.broken.push(("without_retry_after", services.without_retry_after + public.without_retry_after));
        let beside = self.scans.recorder.latency();
        self.notes.insert(SCANS_P99.to_owned(), beside.p99_ms);
        self.notes.insert("scans_p50_ms".to_owned(), beside.p50_ms);
        self.notes.insert("scans_max_ms".to_owned(), beside.max_ms);
        let seconds = self.recorder.seconds();
        let answered = seconds.iter().map(|second| second.answered).sum::<u64>();
        let mut report = Report {
            scenario: scenario.to_owned(),
            date: machine::today(),
            command: machine::command_line(),
            settings: self.site.settings(),
            machine: machine::machine(),
            plan,
            elapsed_s,
            #[allow(clippy::cast_precision_loss)] // As above.
            answered_per_s: answered as f64 / elapsed_s,
            answered,
            shed: seconds.iter().map(|second| second.shed).sum(),
            failed: seconds.iter().map(|second| second.failed).sum(),
            resent: services.again + public.again,
            server_errors: services.server_errors() + public.server_errors(),
            outcomes: services.statuses.iter().map(|(status, count)| (status.to_string(), *count)).collect(),
            latency: self.recorder.latency(),
            events: self.events,
            notes: self.notes,
            audit: found,
            checks: self.broken.iter().map(|(name, times)| never(name, *times)).collect(),
            seconds,
        };
        if let Some(path) = &self.common.thresholds {
            report.checks.extend(thresholds::check(&thresholds::load(path, scenario)?, &report));
        }
        std::io::stdout().write_all(report.summary().as_bytes())?;
        let page = report.write(&self.common.results)?;
        eprintln!("report: {}", page.display());
        Ok(report.passed())
    }
}

/// What may not happen once.
fn never(name: &'static str, times: u64) -> Check {
    #[allow(clippy::cast_precision_loss)] // Counts of a run stay far below 2^52.
    let value = times as f64;
    Check { name, limit: 0.0, value, holds: times == 0 }
}

/// How many are due in all.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Millions at most, and not below zero.
pub fn total(rate: f64, seconds: f64) -> usize {
    (rate * seconds) as usize
}

/// After how long the one of this number is due.
pub fn due(number: usize, rate: f64) -> Duration {
    #[allow(clippy::cast_precision_loss)] // As above.
    Duration::from_secs_f64(number as f64 / rate)
}

fn document(answer: &Answer) -> Result<Value> {
    serde_json::from_slice(&answer.body)
        .with_context(|| format!("an answer {} that isn't JSON", answer.status))
}

fn member(value: &Value, name: &str) -> Result<String> {
    Ok(value
        .get(name)
        .and_then(Value::as_str)
        .with_context(|| format!("an answer without {name}"))?
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_holds_only_if_it_was_never_broken() {
        assert!(never("lost", 0).holds);
        assert!(!never("lost", 1).holds);
    }
}
