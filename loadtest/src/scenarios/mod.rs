//! Scenarios, each a subcommand: a load, something that goes wrong, and an audit of the store.

mod backlog;
mod faults;
mod frames;
mod hostile;
mod load;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use scangate::scan::UnixMillis;

use crate::audit::audit;
use crate::database::Database;
use crate::issue::Issuer;
use crate::ledger::Ledger;
use crate::machine;
use crate::open::{self, Plan};
use crate::profile::Profile;
use crate::record::Recorder;
use crate::report::Report;
use crate::server::{Server, Site};
use crate::sys;
use crate::thresholds;
use crate::tls;
use crate::traffic::{Mix, Shape, Traffic};
use crate::wire::Target;

pub use frames::LOADED_BY_IDLE;

/// What can be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// One rate.
    Steady,
    /// Ten times the rate within ten seconds, held, and back.
    RushHour,
    /// A day of scans from many devices at once, a third of the batches sent twice.
    Backlog,
    /// The database is killed for a while, then comes back.
    Outage,
    /// The database is paused for a while, then goes on.
    Paused,
    /// All connections are closed and opened again, over and over.
    ReconnectStorm,
    /// Connections that never end their requests, beside a steady load.
    Slowloris,
    /// Every hostile payload and request there is, beside a steady load.
    Poison,
    /// Steady for long, with an eye on memory.
    Soak,
    /// The gateway is killed with SIGKILL again and again.
    KillLoop,
    /// Two gateways on one database receive the same scans.
    TwoGateways,
    /// Frames at three times what is read of them, beside payloads that must not feel it.
    Frames,
}

/// Options of all scenarios.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The gateway's binary (built with --release).
    #[arg(long, default_value = "target/release/scangate")]
    pub scangate: PathBuf,
    /// Scans a second.
    #[arg(long, default_value_t = 2000.0)]
    pub rate: f64,
    /// Seconds of load.
    #[arg(long, default_value_t = 30.0)]
    pub seconds: f64,
    /// Connections.
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// HTTP version: 1 or 2.
    #[arg(long, default_value_t = 1)]
    pub http: u8,
    /// Streams of one HTTP/2 connection.
    #[arg(long, default_value_t = 16)]
    pub streams: usize,
    /// TLS, with a certificate made for the run.
    #[arg(long)]
    pub tls: bool,
    /// Lines of a batch; 0 sends single scans.
    #[arg(long, default_value_t = 0)]
    pub batch: u64,
    /// Devices at places.
    #[arg(long, default_value_t = 1000)]
    pub devices: usize,
    /// People's own devices, which scan places.
    #[arg(long, default_value_t = 200)]
    pub phones: usize,
    /// Places, visited by Zipf's law.
    #[arg(long, default_value_t = 10_000)]
    pub places: usize,
    /// People.
    #[arg(long, default_value_t = 10_000_000)]
    pub population: u64,
    /// People with an SG1 code.
    #[arg(long, default_value_t = 2000)]
    pub sg1_persons: usize,
    /// Percent of SG1 codes among persons' codes.
    #[arg(long, default_value_t = 50)]
    pub sg1: u64,
    /// Percent of citizen cards; the rest is PC-COVID personal codes.
    #[arg(long, default_value_t = 30)]
    pub cccd: u64,
    /// Repeats a run.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The gateway's runtime: auto, uring, epoll.
    #[arg(long, default_value = "auto")]
    pub runtime: String,
    /// Where check-ins go: embedded, or cql with a database that is started for the run.
    #[arg(long, default_value = "embedded")]
    pub store: String,
    /// The script that starts a CQL database.
    #[arg(long, default_value = "deploy/dev/cql-dev.sh")]
    pub cql_script: PathBuf,
    /// Seconds that a database is away, kills of a gateway, slow connections, devices of a backlog: how much
    /// of what the scenario is about. Each scenario has a default.
    #[arg(long)]
    pub amount: Option<u64>,
    /// Further settings of the gateway, SECTION.KEY=VALUE.
    #[arg(long = "set")]
    pub settings: Vec<String>,
    /// Limits, a section a scenario; exit code 1 when one is broken.
    #[arg(long)]
    pub thresholds: Option<PathBuf>,
    /// Where data directories are made.
    #[arg(long, default_value = "/tmp")]
    pub work_dir: PathBuf,
    /// Results go to a directory of today's date under this one.
    #[arg(long, default_value = "loadtest/results")]
    pub results: PathBuf,
    /// Seconds that the store may take to catch up before the audit gives its verdict.
    #[arg(long, default_value_t = 120)]
    pub audit_wait_s: u64,
    /// No progress line.
    #[arg(long)]
    pub quiet: bool,
}

/// A gateway with traffic prepared, and what has been seen of it so far.
pub struct Stage<'a> {
    /// The options.
    pub options: &'a Options,
    /// The gateway's data directory.
    pub site: Site,
    /// The gateway.
    pub server: Server,
    /// The second gateway, in the scenario that has one.
    pub second: Option<Server>,
    /// The database, where the store is one.
    pub database: Option<Database>,
    /// Devices and people.
    pub traffic: Arc<Traffic>,
    /// Latency and rate.
    pub recorder: Arc<Recorder>,
    /// What was acknowledged.
    pub ledger: Ledger,
    /// What was done, and when.
    pub events: Vec<(f64, String)>,
    /// Measurements of the scenario's own.
    pub notes: BTreeMap<String, f64>,
    /// The gateway's process id, which a restart changes.
    pub watch_pid: Arc<AtomicU64>,
    base_ms: i64,
    client_tls: Option<Arc<rustls::ClientConfig>>,
}

/// Runs a scenario to its audit, prints and writes the report. False when a promise or a limit was broken.
pub fn run(scenario: Scenario, options: &Options) -> Result<bool> {
    sys::raise_descriptors()?;
    let mut stage = Stage::set(scenario, options)?;
    match scenario {
        Scenario::Steady | Scenario::Soak => load::steady(&mut stage)?,
        Scenario::RushHour => load::rush_hour(&mut stage)?,
        Scenario::Backlog => backlog::run(&mut stage)?,
        Scenario::Outage => faults::database_away(&mut stage, true)?,
        Scenario::Paused => faults::database_away(&mut stage, false)?,
        Scenario::ReconnectStorm => load::reconnect_storm(&mut stage)?,
        Scenario::Slowloris => hostile::slowloris(&mut stage)?,
        Scenario::Poison => hostile::poison(&mut stage)?,
        Scenario::KillLoop => faults::kill_loop(&mut stage)?,
        Scenario::TwoGateways => faults::two_gateways(&mut stage)?,
        Scenario::Frames => frames::run(&mut stage)?,
    }
    let report = stage.close(scenario)?;
    std::io::stdout().write_all(report.summary().as_bytes())?;
    let page = report.write(&options.results)?;
    eprintln!("report: {}", page.display());
    Ok(report.passed())
}

impl<'a> Stage<'a> {
    /// Starts the database, if any, and the gateway; issues tokens and codes.
    fn set(scenario: Scenario, options: &'a Options) -> Result<Self> {
        let needs_cql = matches!(scenario, Scenario::Outage | Scenario::Paused | Scenario::TwoGateways);
        let mut site = Site::new(&options.scangate, &options.work_dir)?
            .set("listen.runtime", &options.runtime)
            .set("log.level", "warn");
        let mut database = None;
        if needs_cql || options.store == "cql" {
            database = Some(Database::start(&options.cql_script, &options.work_dir)?);
            site = site
                .set("store.kind", "cql")
                .set("cql.nodes", r#"["127.0.0.1:9042"]"#)
                .set("cql.keyspace", "scangate_loadtest");
        }
        for setting in &options.settings {
            let Some((key, value)) = setting.split_once('=') else { bail!("--set takes SECTION.KEY=VALUE") };
            site = site.set(key, value);
        }
        if scenario == Scenario::Slowloris {
            site = site.set("listen.header_timeout_ms", "2000").set("listen.body_timeout_ms", "2000");
        }
        if scenario == Scenario::Frames {
            // The hardest case there is: the core that serves payloads is the one that frames are read on.
            sys::pin(1)?;
            site = site.set("frames.device_ms_per_s", "0").pinned(0);
        }
        let mut client_tls = None;
        if options.tls {
            let (with_tls, client) = tls::prepare(site)?;
            site = with_tls;
            client_tls = Some(client);
        }
        let server = site.start()?;
        // Two gateways that meet two scans of one window in different orders acknowledge different originals,
        // of which the export keeps one: right, but nothing that an audit by equality could check.
        let distinct = scenario == Scenario::TwoGateways;
        let shape = Shape {
            place_devices: options.devices,
            person_devices: if distinct { 0 } else { options.phones },
            places: options.places,
            population: options.population,
            sg1_persons: options.sg1_persons,
            mix: Mix { sg1: if distinct { 0 } else { options.sg1 }, cccd: options.cccd },
            distinct,
            seed: options.seed,
        };
        let traffic = Arc::new(Traffic::prepare(&Issuer::new(&site), shape)?);
        let watch_pid = Arc::new(AtomicU64::new(u64::from(server.pid())));
        Ok(Self {
            options,
            site,
            server,
            second: None,
            database,
            traffic,
            recorder: Arc::new(Recorder::start()),
            ledger: Ledger::default(),
            events: Vec::new(),
            notes: BTreeMap::new(),
            watch_pid,
            base_ms: UnixMillis::now().0,
            client_tls,
        })
    }

    /// The gateway, over the protocol asked for.
    pub fn target(&self) -> Target {
        Target { to: self.server.listen, http2: self.options.http == 2, tls: self.client_tls.clone() }
    }

    /// An open-loop plan of this profile in scans a second.
    pub fn plan(&self, profile_of: impl FnOnce(f64) -> Profile, first_scan: u64) -> Plan {
        #[allow(clippy::cast_precision_loss)] // A batch's lines are few.
        let lines = self.options.batch.max(1) as f64;
        Plan {
            targets: vec![self.target()],
            profile: profile_of(self.options.rate / lines),
            connections: self.options.connections,
            streams: self.options.streams,
            batch_lines: self.options.batch,
            first_scan,
            base_ms: self.base_ms,
            watch_pid: self.watch_pid.clone(),
        }
    }

    /// Runs a plan on a thread while `meanwhile` does something to the gateway or the database.
    pub fn load_while(&mut self, plan: &Plan, meanwhile: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let (traffic, recorder, quiet) = (self.traffic.clone(), self.recorder.clone(), self.options.quiet);
        let ledger = std::thread::scope(|scope| {
            let load = scope.spawn(|| open::run(plan, &traffic, &recorder, quiet));
            let done = meanwhile(self);
            let ledger = load.join().unwrap_or_else(|_| bail!("the load panicked"));
            done.and(ledger)
        })?;
        self.ledger.merge(ledger);
        Ok(())
    }

    /// Notes something that is being done, for the report's plots.
    pub fn event(&mut self, what: &str) {
        let at = self.recorder.started().elapsed().as_secs_f64();
        if !self.options.quiet {
            eprintln!("{at:>5.1} s  {what}");
        }
        self.events.push((at, what.to_owned()));
    }

    /// Kills the gateway and starts it again on the same data directory.
    pub fn kill_and_restart(&mut self) -> Result<Duration> {
        sys::signal(self.server.pid(), libc::SIGKILL)?;
        self.server.reap()?;
        let started = Instant::now();
        self.server = self.site.start()?;
        self.watch_pid.store(u64::from(self.server.pid()), Ordering::Relaxed);
        Ok(started.elapsed())
    }

    /// Resends what is in doubt, audits, stops the gateway and reports.
    fn close(mut self, scenario: Scenario) -> Result<Report> {
        let elapsed_s = self.recorder.started().elapsed().as_secs_f64();
        let seconds = self.recorder.seconds();
        let wait_s = self.options.audit_wait_s;
        let resent = open::resend(&self.target(), &self.traffic, &mut self.ledger)?;
        let audit = audit(&self.site, &self.ledger, Duration::from_secs(wait_s))?;
        let answered = seconds.iter().map(|second| second.answered).sum::<u64>();
        let name = scenario.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let options = self.options;
        let mut report = Report {
            date: machine::today(),
            command: machine::command_line(),
            settings: self.site.settings(),
            machine: machine::machine(),
            plan: serde_json::json!({
                "rate_per_s": options.rate, "seconds": options.seconds, "connections": options.connections,
                "http": options.http, "tls": options.tls, "batch_lines": options.batch, "traffic": self.traffic.shape(),
            }),
            elapsed_s,
            #[allow(clippy::cast_precision_loss)] // Requests of a run stay far below 2^52.
            answered_per_s: answered as f64 / elapsed_s,
            answered,
            shed: seconds.iter().map(|second| second.shed).sum(),
            failed: seconds.iter().map(|second| second.failed).sum(),
            resent,
            server_errors: self.ledger.server_errors,
            outcomes: self.ledger.outcomes.clone(),
            latency: self.recorder.latency(),
            events: self.events,
            notes: self.notes,
            audit,
            checks: Vec::new(),
            seconds,
            scenario: name,
        };
        if let Some(path) = &options.thresholds {
            report.checks = thresholds::check(&thresholds::load(path, &report.scenario)?, &report);
        }
        for server in [Some(self.server), self.second].into_iter().flatten() {
            let status = server.terminate(Duration::from_mins(1))?;
            if !status.success() {
                bail!("the gateway exited with {status} on SIGTERM");
            }
        }
        Ok(report)
    }
}
