//! `scale`: how the cost of a check-in changes with connections, with the lines of a batch, with what is remembered,
//! and with cores. One gateway a curve, one closed-loop client on a core of its own (as far as there is one).

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::closed::{Closed, Source, Stretch};
use crate::compare::figure::{Figure, QUIET_S_MAX, figure, scale, stretch};
use crate::cpu;
use crate::issue::Issuer;
use crate::machine::{self, Machine};
use crate::plot::{self, Line};
use crate::server::{Server, Site};
use crate::sources::{Cached, Fill, Tolerant};
use crate::sys;

/// SG1 codes that are scanned again and again.
const CODES: usize = 512;
/// Connections of the curves that aren't about connections, and of batches, as in `compare`.
const CONNECTIONS: usize = 64;
const BATCH_CONNECTIONS: usize = 8;
/// Scans shed while new device tokens are verified are sent again, this often at most.
const WARM_UPS_MAX: usize = 100;
/// Filling may take this long.
const FILL_S_MAX: u64 = 300;

/// Options of `scale`.
#[derive(Debug, Args)]
pub struct Options {
    /// The gateway's binary (built with --release).
    #[arg(long, default_value = "target/release/scangate")]
    scangate: PathBuf,
    /// The first core of the gateway; on more than one it has those after it, too.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// Core for the client.
    #[arg(long, default_value_t = 1)]
    client_core: usize,
    /// Seconds of each point.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// The gateway's runtime.
    #[arg(long, default_value = "uring")]
    runtime: String,
    /// Curves: connections, batch, entries, cores.
    #[arg(long, value_delimiter = ',', default_value = "connections,batch,entries,cores")]
    parts: Vec<String>,
    /// Connections, each with a device of its own.
    #[arg(long, value_delimiter = ',', default_value = "1,8,64,512,2048,8000")]
    connections: Vec<u64>,
    /// Lines of a batch.
    #[arg(long, value_delimiter = ',', default_value = "1,10,100,1000")]
    batches: Vec<u64>,
    /// Entries that deduplication holds: two for each scan remembered.
    #[arg(long, value_delimiter = ',', default_value = "10000,100000,1000000,10000000")]
    entries: Vec<u64>,
    /// Cores of the gateway.
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    cores: Vec<u64>,
    /// A few small points of each curve, in some twenty seconds.
    #[arg(long)]
    small: bool,
    /// Where data directories are made; should be on the disk that the journal would use.
    #[arg(long, default_value = "/tmp")]
    work_dir: PathBuf,
    /// Results go to a directory of today's date under this one.
    #[arg(long, default_value = "loadtest/results")]
    results: PathBuf,
}

/// Everything that was measured.
#[derive(Debug, Serialize, Deserialize)]
pub struct Scale {
    command: String,
    date: String,
    machine: Machine,
    settings: Vec<String>,
    /// In the order they were taken.
    pub curves: Vec<Curve>,
}

/// One thing that was varied.
#[derive(Debug, Serialize, Deserialize)]
pub struct Curve {
    /// Which, as in `--parts`.
    pub name: String,
    /// By rising `x`.
    pub points: Vec<Point>,
}

/// One measurement.
#[derive(Debug, Serialize, Deserialize)]
pub struct Point {
    /// Of what was varied.
    pub x: u64,
    /// CPU, rate, latency.
    pub figure: Figure,
    /// Resident memory right after.
    pub resident_bytes: u64,
    /// Bytes in the journal for a check-in.
    pub journal_bytes_each: f64,
    /// Bytes over the wire for a check-in, HTTP heads included.
    pub request_bytes_each: f64,
    /// As above.
    pub answer_bytes_each: f64,
}

/// Runs the curves, prints and writes them down.
pub fn run(options: &Options) -> Result<()> {
    let descriptors = sys::raise_descriptors()?;
    let available = std::thread::available_parallelism()?.get();
    ensure!(
        options.server_core != options.client_core && available >= 2,
        "server and client need a core each"
    );
    sys::pin(options.client_core)?;
    let chosen = Chosen::new(options);
    let most = chosen.connections.iter().copied().max().unwrap_or_default();
    ensure!(descriptors > most + 100, "{most} connections need more descriptors than {descriptors}");
    let mut curves = Vec::new();
    let mut settings = Vec::new();
    for part in &options.parts {
        let bench = Bench::new(options, &chosen)?;
        settings = bench.site.settings();
        let points = match part.as_str() {
            "connections" => bench.connections()?,
            "batch" => bench.batches()?,
            "entries" => bench.entries()?,
            "cores" => bench.cores()?,
            other => anyhow::bail!("parts must be connections, batch, entries or cores; got {other:?}"),
        };
        curves.push(Curve { name: part.clone(), points });
    }
    let scale = Scale {
        command: machine::command_line(),
        date: machine::today(),
        machine: Machine { cores: available, ..machine::machine() },
        settings,
        curves,
    };
    let text = scale.table();
    std::io::stdout().write_all(text.as_bytes())?;
    let directory = options.results.join(&scale.date);
    std::fs::create_dir_all(&directory)?;
    std::fs::write(directory.join("scale.json"), serde_json::to_vec_pretty(&scale)?)?;
    std::fs::write(directory.join("scale.html"), scale.page(&text))?;
    std::fs::write(directory.join("scale.txt"), text)?;
    Ok(())
}

/// The points, as asked for or small.
struct Chosen {
    connections: Vec<u64>,
    batches: Vec<u64>,
    entries: Vec<u64>,
    cores: Vec<u64>,
    time: Duration,
}

impl Chosen {
    fn new(options: &Options) -> Self {
        if options.small {
            return Self {
                connections: vec![1, 64, 1024],
                batches: vec![1, 100, 1000],
                entries: vec![10_000, 100_000],
                cores: vec![1, 2],
                time: Duration::from_secs(1),
            };
        }
        Self {
            connections: options.connections.clone(),
            batches: options.batches.clone(),
            entries: options.entries.clone(),
            cores: options.cores.clone(),
            time: Duration::from_secs(options.seconds),
        }
    }
}

/// A gateway with keys, and devices and codes signed with them.
struct Bench<'a> {
    options: &'a Options,
    chosen: &'a Chosen,
    site: Site,
    codes: Vec<String>,
}

impl<'a> Bench<'a> {
    fn new(options: &'a Options, chosen: &'a Chosen) -> Result<Self> {
        let site = Site::new(&options.scangate, &options.work_dir)?
            .set("listen.runtime", &options.runtime)
            .set("listen.cores", "1")
            .set("log.level", "warn")
            .pinned(options.server_core);
        // The first start makes the keys.
        site.start()?.terminate(Duration::from_mins(1))?;
        let persons: Vec<String> = (0..CODES).map(|person| format!("person-{person}")).collect();
        let codes = Issuer::new(&site).persons(&persons)?;
        Ok(Self { options, chosen, site, codes })
    }

    fn devices(&self, kind: &str, count: usize) -> Result<Vec<String>> {
        let places: Vec<String> = (0..count).map(|place| format!("{kind}-{place}")).collect();
        Issuer::new(&self.site).place_devices(&places)
    }

    fn connections(&self) -> Result<Vec<Point>> {
        let most = usize::try_from(self.chosen.connections.iter().copied().max().unwrap_or(1))?;
        let tokens = self.devices("gate", most)?;
        let mut source = Cached::new(&tokens, &self.codes, 0, 201);
        let server = self.site.start()?;
        let points = self.chosen.connections.iter().map(|count| {
            warm(&server, usize::try_from(*count)?, &mut source)?;
            self.point(&self.site, &server, *count, usize::try_from(*count)?, 1, &mut source)
        });
        points.collect()
    }

    fn batches(&self) -> Result<Vec<Point>> {
        let server = self.site.start()?;
        let points = self.chosen.batches.iter().map(|lines| {
            // Devices of its own, so that no scan repeats one of another size.
            let tokens = self.devices(&format!("batch-{lines}"), BATCH_CONNECTIONS)?;
            let source = Cached::new(&tokens, &self.codes, usize::try_from(*lines)?, 201);
            let mut source = source.numbered_from(lines << 40);
            warm(&server, BATCH_CONNECTIONS, &mut source)?;
            self.point(&self.site, &server, *lines, BATCH_CONNECTIONS, *lines, &mut source)
        });
        points.collect()
    }

    fn entries(&self) -> Result<Vec<Point>> {
        let tokens = self.devices("gate", CONNECTIONS)?;
        let mut source = Cached::new(&tokens, &self.codes, 0, 201);
        let mut fill = Fill::new(&self.devices("fill", BATCH_CONNECTIONS)?);
        let server = self.site.start()?;
        warm(&server, CONNECTIONS, &mut source)?;
        let points = self.chosen.entries.iter().map(|entries| {
            self.fill(&server, &mut fill, *entries)?;
            self.point(&self.site, &server, *entries, CONNECTIONS, 1, &mut source)
        });
        points.collect()
    }

    /// Through the front door, until so many entries are remembered and the store holds all of them.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Counts, which are small and positive.
    fn fill(&self, server: &Server, fill: &mut Fill, entries: u64) -> Result<()> {
        let started = Instant::now();
        loop {
            let held = self.site.metric("scangate_deduplicate_entries")? as u64;
            if held >= entries {
                break;
            }
            fill.up_to(fill.people() + (entries - held).div_ceil(2));
            let mut client = Closed::connect(server.listen, BATCH_CONNECTIONS)?;
            client.run(Duration::from_secs(FILL_S_MAX), &mut Tolerant::new(fill))?;
            // The gateway counts once a second.
            sleep(Duration::from_millis(1200));
            ensure!(started.elapsed().as_secs() < FILL_S_MAX, "{held} entries after {FILL_S_MAX} s");
        }
        while self.site.metric("scangate_store_lag_records")? > 0.0 {
            ensure!(started.elapsed().as_secs() < FILL_S_MAX, "the store is behind after {FILL_S_MAX} s");
            sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn cores(&self) -> Result<Vec<Point>> {
        let tokens = self.devices("gate", CONNECTIONS)?;
        let mut source = Cached::new(&tokens, &self.codes, 0, 201);
        let mut points = Vec::new();
        for count in &self.chosen.cores {
            let first = self.options.server_core;
            let cores: Vec<usize> = (first..first + usize::try_from(*count)?).collect();
            let site = self.site.clone().set("listen.cores", &count.to_string()).pinned_to(&cores);
            let server = site.start()?;
            warm(&server, CONNECTIONS, &mut source)?;
            points.push(self.point(&site, &server, *count, CONNECTIONS, 1, &mut source)?);
            server.terminate(Duration::from_mins(1))?;
        }
        Ok(points)
    }

    #[allow(clippy::cast_precision_loss)] // Bytes and counts of a stretch.
    fn point(
        &self,
        site: &Site,
        server: &Server,
        x: u64,
        connections: usize,
        lines: u64,
        source: &mut Cached,
    ) -> Result<Point> {
        const WRITTEN: &str = "scangate_journal_written_bytes_total";
        let before = site.metric(WRITTEN)?;
        let (stretch, mut cost, answers) = stretch(server, connections, self.chosen.time, source)?;
        let written = site.metric(WRITTEN)? - before;
        let checkins = answers * lines;
        scale(&mut cost, answers, checkins);
        let each = |bytes: u64| bytes as f64 / checkins as f64;
        let Stretch { request_bytes, answer_bytes, .. } = stretch;
        Ok(Point {
            x,
            figure: figure(&self.options.runtime, "check-in", &[(stretch, cost, checkins)])?,
            resident_bytes: cpu::resident_bytes(&server.pids())?,
            journal_bytes_each: written / checkins as f64,
            request_bytes_each: each(request_bytes),
            answer_bytes_each: each(answer_bytes),
        })
    }
}

/// Until all devices have been verified and nothing is shed any more.
fn warm(server: &Server, connections: usize, source: &mut impl Source) -> Result<()> {
    let mut client = Closed::connect(server.listen, connections)?;
    for _ in 0..WARM_UPS_MAX {
        let mut tolerant = Tolerant::new(source);
        client.run(Duration::from_millis(300), &mut tolerant)?;
        if tolerant.shed == 0 {
            cpu::wait_until_quiet(&server.pids(), Duration::from_secs(QUIET_S_MAX))?;
            return Ok(());
        }
    }
    anyhow::bail!("{connections} connections are still shed after {WARM_UPS_MAX} warm-ups")
}

impl Curve {
    /// What it is over, and of what load.
    fn title(&self) -> (&'static str, &'static str) {
        match self.name.as_str() {
            "connections" => ("connections", "single POSTs of known codes"),
            "batch" => ("lines", "batches of known codes, 8 connections"),
            "entries" => ("entries remembered", "single POSTs of known codes, 64 connections"),
            _ => ("cores of the gateway", "single POSTs of known codes, 64 connections"),
        }
    }

    /// A point that was measured; the nearest one below where this wasn't.
    pub fn at(&self, x: u64) -> Result<&Point> {
        let below = self.points.iter().rfind(|point| point.x <= x);
        below.or(self.points.first()).with_context(|| format!("the curve {} has no points", self.name))
    }
}

#[allow(clippy::cast_precision_loss)] // Of figures that are drawn.
impl Scale {
    /// A curve by its name.
    pub fn curve(&self, name: &str) -> Option<&Curve> {
        self.curves.iter().find(|curve| curve.name == name)
    }

    fn table(&self) -> String {
        let mut out = String::new();
        let machine = &self.machine;
        let _ = writeln!(
            out,
            "{}\n{}, {} cores, {} MiB, Linux {}",
            self.command, machine.cpu, machine.cores, machine.memory_mib, machine.kernel
        );
        for curve in &self.curves {
            let (axis, load) = curve.title();
            let _ = writeln!(
                out,
                "\n{load}\n  {axis:>20}  µs CPU  up to answer     rate/s    p50 ms    p99 ms   RSS MiB  journal B  sent B  \
                 answered B"
            );
            for point in &curve.points {
                let figure = &point.figure;
                let _ = writeln!(
                    out,
                    "  {:>20}  {:>6.2}  {:>12.2}  {:>9.0}  {:>8.2}  {:>8.2}  {:>8.0}  {:>9.1}  {:>6.0}  {:>10.0}",
                    point.x,
                    figure.cpu.total_us,
                    figure.answer_us,
                    figure.rate_per_s,
                    figure.p50_us as f64 / 1000.0,
                    figure.p99_us as f64 / 1000.0,
                    point.resident_bytes as f64 / f64::from(1 << 20),
                    point.journal_bytes_each,
                    point.request_bytes_each,
                    point.answer_bytes_each,
                );
            }
        }
        if self.curves.iter().any(|curve| curve.name == "cores") {
            let _ = writeln!(
                out,
                "\nWhere client and gateway share a core, as on a machine of two, the rate on two is the two's together."
            );
        }
        out
    }

    fn page(&self, text: &str) -> String {
        let mut charts = String::new();
        for curve in &self.curves {
            let (axis, load) = curve.title();
            let load = format!("{load}, by {axis}");
            let labels: Vec<String> = curve.points.iter().map(|point| point.x.to_string()).collect();
            // Points at equal distances: what is varied grows by factors.
            let ticks: Vec<(f64, &str)> =
                (0..).map(f64::from).zip(labels.iter().map(String::as_str)).collect();
            let points = |value: fn(&Point) -> f64| -> Vec<(f64, f64)> {
                (0..).map(f64::from).zip(curve.points.iter().map(value)).collect()
            };
            let line = |name, class, value| Line { name, class, points: points(value) };
            charts += &plot::chart(
                &format!("CPU a check-in, µs: {load}"),
                &[
                    line("all", "a", |point| point.figure.cpu.total_us),
                    line("up to the answer", "b", |point| point.figure.answer_us),
                ],
                &ticks,
                &[],
            );
            charts += &plot::chart(
                &format!("Check-ins a second: {load}"),
                &[line("rate", "a", |point| point.figure.rate_per_s)],
                &ticks,
                &[],
            );
            charts += &plot::chart(
                &format!("Latency in closed loop, ms: {load}"),
                &[
                    line("p50", "a", |point| point.figure.p50_us as f64 / 1000.0),
                    line("p99", "b", |point| point.figure.p99_us as f64 / 1000.0),
                ],
                &ticks,
                &[],
            );
            charts += &plot::chart(
                &format!("Resident memory, MiB: {load}"),
                &[line("resident", "a", |point| point.resident_bytes as f64 / f64::from(1 << 20))],
                &ticks,
                &[],
            );
        }
        let facts = serde_json::json!({
            "command": self.command, "machine": self.machine, "settings": self.settings,
        });
        plot::document("Cost of a check-in by scale", text, &charts, &facts)
    }
}
