//! `compare`: what a request costs in CPU, for scangate on both runtimes and for nginx answering an empty 202
//! to the same bytes, in one run: the same client, the same cores, taken in turns. A ratio of two figures
//! of one run survives a change of machine; the figures themselves don't.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use scangate::scan::UnixMillis;
use serde::Serialize;

use crate::closed::{Closed, Source, Stretch};
use crate::cpu::{self, Cost};
use crate::issue::Issuer;
use crate::machine::{self, Machine};
use crate::server::{Nginx, Server, Site};
use crate::sources::{Cached, NeverSeen};
use crate::{idle, sys};

/// Work left behind by a run must be done within this time.
const QUIET_S_MAX: u64 = 120;
/// Thread names of the part that copies from the journal to the store, after the answer.
const DRAIN_THREADS: &[&str] = &["drain", "fjall"];

/// Options of `compare`.
#[derive(Debug, Args)]
pub struct Options {
    /// The gateway's binary (built with --release).
    #[arg(long, default_value = "target/release/scangate")]
    scangate: PathBuf,
    /// nginx; "none" leaves it out.
    #[arg(long, default_value = "nginx")]
    nginx: String,
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
    /// Parts to run: single, batch, verify, idle.
    #[arg(long, value_delimiter = ',', default_value = "single,batch,verify,idle")]
    parts: Vec<String>,
    /// Where data directories are made; should be on the disk that the journal would use.
    #[arg(long, default_value = "/tmp")]
    work_dir: PathBuf,
    /// Results go to a directory of today's date under this one.
    #[arg(long, default_value = "loadtest/results")]
    results: PathBuf,
}

/// One measured figure of one server.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// Which server.
    server: String,
    /// What was counted: requests or lines.
    unit: &'static str,
    /// How many, in the median round.
    count: u64,
    /// How many a second while the load ran.
    rate_per_s: f64,
    /// CPU of all threads, for each.
    cpu: Cost,
    /// The part of it that is spent behind the answer, copying from the journal to the store.
    drain_us: f64,
    /// CPU without that part.
    answer_us: f64,
    /// Client-side latency in microseconds, closed loop.
    p50_us: u64,
    /// As above.
    p99_us: u64,
    /// CPU of each round.
    rounds_us: Vec<f64>,
    /// Scans shed with 503.
    #[serde(skip_serializing_if = "is_zero")]
    shed: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    command: String,
    date: String,
    machine: Machine,
    nginx: Option<String>,
    settings: Vec<String>,
    single: Vec<Figure>,
    batch: Vec<Figure>,
    never_seen_batch: Vec<Figure>,
    never_seen_single: Vec<Figure>,
    verify_only: Option<VerifyOnly>,
    idle: Vec<idle::Idle>,
    ratios: BTreeMap<String, f64>,
}

/// Checking signatures and doing nothing else, on the server's core.
#[expect(clippy::struct_field_names, reason = "names carry their unit")]
#[derive(Debug, Clone, Serialize)]
struct VerifyOnly {
    ed25519_us: f64,
    sg1_us: f64,
    /// A token of a worker's job, whose signatures are checked together.
    sg1_together_us: f64,
}

/// Runs the comparison, prints it and writes it down.
pub fn run(options: &Options) -> Result<()> {
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
        settings: bench.sites.first().map(|(_, site)| site.settings()).unwrap_or_default(),
        single: if wanted("single") { bench.single()? } else { Vec::new() },
        batch: if wanted("batch") { bench.batch()? } else { Vec::new() },
        never_seen_batch: Vec::new(),
        never_seen_single: Vec::new(),
        verify_only: None,
        idle: Vec::new(),
        ratios: BTreeMap::new(),
    };
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
    report.ratios = ratios(&report);
    let text = table(&report);
    std::io::stdout().write_all(text.as_bytes())?;
    let directory = options.results.join(&report.date);
    std::fs::create_dir_all(&directory)?;
    std::fs::write(directory.join("compare.json"), serde_json::to_vec_pretty(&report)?)?;
    std::fs::write(directory.join("compare.txt"), text)?;
    Ok(())
}

/// Everything that is made before the first measurement.
struct Bench<'a> {
    options: &'a Options,
    sites: Vec<(String, Site)>,
    tokens: BTreeMap<String, Vec<String>>,
    codes: BTreeMap<String, Vec<String>>,
    fresh_persons: usize,
}

impl<'a> Bench<'a> {
    fn prepare(options: &'a Options) -> Result<Self> {
        let mut bench = Self {
            options,
            sites: Vec::new(),
            tokens: BTreeMap::new(),
            codes: BTreeMap::new(),
            fresh_persons: 0,
        };
        for runtime in &options.runtimes {
            let site = Site::new(&options.scangate, &options.work_dir)?
                .set("listen.runtime", runtime)
                .set("log.level", "warn")
                .pinned(options.server_core);
            // The first start makes the keys.
            site.start()?.terminate(Duration::from_mins(1))?;
            let issuer = Issuer::new(&site);
            let devices = options.connections + options.batch_connections;
            let places: Vec<String> = (0..devices).map(|place| format!("gate-{place}")).collect();
            bench.tokens.insert(runtime.clone(), issuer.place_devices(&places)?);
            let persons: Vec<String> = (0..options.tokens).map(|person| format!("person-{person}")).collect();
            bench.codes.insert(runtime.clone(), issuer.persons(&persons)?);
            bench.sites.push((runtime.clone(), site));
        }
        Ok(bench)
    }

    /// Single POSTs of cached tokens: each server in turn, so that a change in the machine's mood meets all.
    fn single(&mut self) -> Result<Vec<Figure>> {
        let mut rounds: BTreeMap<String, Vec<(Stretch, Cost, u64)>> = BTreeMap::new();
        let mut order = Vec::new();
        let servers = self.start_all()?;
        let nginx = self.start_nginx()?;
        let mut sources = BTreeMap::new();
        for (name, _) in &servers {
            sources.insert(name.clone(), Cached::new(self.tokens(name)?, self.codes(name)?, 0, 201));
        }
        for round in 0..=self.options.rounds {
            // The first round fills caches and is thrown away.
            let time =
                if round == 0 { Duration::from_secs(1) } else { Duration::from_secs(self.options.seconds) };
            if let Some(nginx) = &nginx {
                let (tokens, codes) = (self.tokens.values().next(), self.codes.values().next());
                let (tokens, codes) = (tokens.context("no runtime")?, codes.context("no runtime")?);
                let mut source = Cached::new(tokens, codes, 0, 202);
                let measured = stretch(&nginx.server, self.options.connections, time, &mut source)?;
                keep(&mut rounds, &mut order, "nginx", round, measured);
            }
            for (name, server) in &servers {
                let source = sources.get_mut(name).context("an unknown runtime")?;
                let measured = stretch(server, self.options.connections, time, source)?;
                keep(&mut rounds, &mut order, name, round, measured);
            }
        }
        figures(&rounds, &order, "request")
    }

    /// Batches of cached tokens.
    fn batch(&mut self) -> Result<Vec<Figure>> {
        let mut rounds = BTreeMap::new();
        let mut order = Vec::new();
        let lines = self.options.batch_lines;
        for (name, site) in &self.sites {
            let server = site.start()?;
            // Devices of their own, so that no scan repeats one of the singles'.
            let tokens = self.tokens(name)?.get(self.options.connections..).context("too few tokens")?;
            let mut source = Cached::new(tokens, self.codes(name)?, lines, 201);
            for round in 0..=self.options.rounds {
                let time = if round == 0 {
                    Duration::from_secs(1)
                } else {
                    Duration::from_secs(self.options.seconds)
                };
                let before = source.lines_recorded;
                let (stretch, mut cost, answers) =
                    stretch(&server, self.options.batch_connections, time, &mut source)?;
                let recorded = source.lines_recorded - before;
                scale(&mut cost, answers, recorded);
                keep(&mut rounds, &mut order, name, round, (stretch, cost, recorded));
            }
        }
        figures(&rounds, &order, "line")
    }

    /// Tokens that were never seen. One round a runtime, since a token is new only once.
    fn never_seen(&mut self, lines: usize) -> Result<Vec<Figure>> {
        let count = self.options.never_seen;
        let first = self.fresh_persons;
        self.fresh_persons += count;
        let persons: Vec<String> = (first..first + count).map(|person| format!("new-{person}")).collect();
        let mut all = Vec::new();
        for (name, site) in &self.sites {
            let codes = Issuer::new(site).persons(&persons)?;
            let server = site.start()?;
            let connections =
                if lines == 0 { self.options.connections } else { self.options.batch_connections };
            let tokens = self.tokens(name)?.get(..connections).context("too few tokens")?;
            // Client ids far above those of the cached scans.
            let mut source = NeverSeen::new(tokens, &codes, lines, (1 << 40) + first as u64);
            let (stretch, mut cost, answers) =
                stretch(&server, connections, Duration::from_mins(10), &mut source)?;
            scale(&mut cost, answers, source.lines_recorded);
            let mut figure = figure(name, "token", &[(stretch, cost, source.lines_recorded)])?;
            figure.shed = source.shed;
            all.push(figure);
        }
        Ok(all)
    }

    /// The signature alone, and the whole token, on the core that the server had.
    fn verify_only(&self) -> Result<VerifyOnly> {
        let (name, site) = self.sites.first().context("no runtime")?;
        let (codes, data) = (self.codes(name)?, &site.data);
        let core = self.options.server_core;
        std::thread::scope(|scope| {
            let pinned = scope.spawn(move || {
                sys::pin(core)?;
                Ok(VerifyOnly {
                    ed25519_us: ed25519_us()?,
                    sg1_us: sg1_us(data, codes)?,
                    sg1_together_us: sg1_together_us(data, codes)?,
                })
            });
            pinned.join().map_err(|_| anyhow::anyhow!("the verifying thread panicked"))?
        })
    }

    /// Memory of idle keep-alive connections.
    fn idle(&self) -> Result<Vec<idle::Idle>> {
        let mut all = Vec::new();
        for (name, site) in &self.sites {
            let server = site.start()?;
            let (token, code) = (self.tokens(name)?.first(), self.codes(name)?.first());
            let (token, code) = (token.context("no token")?, code.context("no code")?);
            all.push(idle::measure(name, &server, token, code, self.options.idle)?);
        }
        if let Some(nginx) = self.start_nginx()? {
            let (token, code) = (self.tokens.values().flatten().next(), self.codes.values().flatten().next());
            let (token, code) = (token.context("no token")?, code.context("no code")?);
            all.push(idle::measure("nginx", &nginx.server, token, code, self.options.idle)?);
        }
        Ok(all)
    }

    fn start_all(&self) -> Result<Vec<(String, Server)>> {
        self.sites.iter().map(|(name, site)| Ok((name.clone(), site.start()?))).collect()
    }

    fn start_nginx(&self) -> Result<Option<Nginx>> {
        if self.options.nginx == "none" {
            return Ok(None);
        }
        let core = Some(self.options.server_core);
        Nginx::start(&self.options.nginx, core, &self.options.work_dir).map(Some)
    }

    fn tokens(&self, runtime: &str) -> Result<&[String]> {
        Ok(self.tokens.get(runtime).context("no tokens")?)
    }

    fn codes(&self, runtime: &str) -> Result<&[String]> {
        Ok(self.codes.get(runtime).context("no codes")?)
    }
}

/// Load on new connections, and what it cost until the server was idle again.
fn stretch(
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

type Rounds = BTreeMap<String, Vec<(Stretch, Cost, u64)>>;

fn keep(
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

fn figures(rounds: &Rounds, order: &[String], unit: &'static str) -> Result<Vec<Figure>> {
    order.iter().map(|name| figure(name, unit, rounds.get(name).context("no rounds")?)).collect()
}

#[allow(clippy::cast_precision_loss)] // Counts of a run stay far below 2^52.
fn figure(name: &str, unit: &'static str, rounds: &[(Stretch, Cost, u64)]) -> Result<Figure> {
    let mut by_cost: Vec<&(Stretch, Cost, u64)> = rounds.iter().collect();
    by_cost.sort_by(|left, right| left.1.total_us.total_cmp(&right.1.total_us));
    let (stretch, cost, count) = by_cost.get(by_cost.len() / 2).context("no rounds")?;
    let drain_us = cost.part_us(DRAIN_THREADS);
    Ok(Figure {
        server: name.to_owned(),
        unit,
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
fn scale(cost: &mut Cost, answers: u64, lines: u64) {
    let factor = answers as f64 / lines.max(1) as f64;
    cost.total_us *= factor;
    for us in cost.by_thread_us.values_mut() {
        *us *= factor;
    }
}

/// aws-lc's Ed25519 on 200 bytes, the size of what an SG1 token signs.
fn ed25519_us() -> Result<f64> {
    use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
    let pair = Ed25519KeyPair::generate().map_err(|_| anyhow::anyhow!("no key"))?;
    let message = [7_u8; 120];
    let signature = pair.sign(&message);
    let public = UnparsedPublicKey::new(&ED25519, pair.public_key().as_ref().to_vec());
    timed_us(|| public.verify(&message, signature.as_ref()).map_err(|_| anyhow::anyhow!("not verified")))
}

fn sg1_us(data: &Path, codes: &[String]) -> Result<f64> {
    let keys = scangate::verify::Keys::load(data)?;
    let now = UnixMillis::now();
    let mut next = codes.iter().cycle();
    timed_us(|| {
        let code = next.next().context("no codes")?;
        scangate::verify::sg1(code, now, &keys).map(drop).map_err(|refusal| anyhow::anyhow!("{refusal}"))
    })
}

fn sg1_together_us(data: &Path, codes: &[String]) -> Result<f64> {
    const TOGETHER: usize = 64;
    let keys = scangate::verify::Keys::load(data)?;
    let now = UnixMillis::now();
    let codes: Vec<(&str, UnixMillis)> =
        codes.iter().map(|code| (code.as_str(), now)).take(TOGETHER).collect();
    ensure!(codes.len() == TOGETHER, "too few codes");
    let job_us = timed_us(|| {
        let verified = scangate::verify::sg1_all(&codes, &keys);
        ensure!(verified.iter().all(Result::is_ok), "a code was refused");
        Ok(())
    })?;
    #[allow(clippy::cast_precision_loss)] // A job's codes.
    Ok(job_us / TOGETHER as f64)
}

/// The median of five times 0.4 s of CPU.
fn timed_us(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut rounds = Vec::new();
    for _ in 0..5 {
        let (started, mut count) = (sys::thread_cpu_ns(), 0_u32);
        while sys::thread_cpu_ns() - started < 400_000_000 {
            for _ in 0..64 {
                work()?;
            }
            count += 64;
        }
        #[allow(clippy::cast_precision_loss)] // Nanoseconds of a round.
        rounds.push((sys::thread_cpu_ns() - started) as f64 / 1000.0 / f64::from(count));
    }
    rounds.sort_by(f64::total_cmp);
    rounds.get(2).copied().context("no rounds")
}

fn ratios(report: &Report) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    let nginx = report.single.iter().find(|figure| figure.server == "nginx");
    for figure in report.single.iter().filter(|figure| figure.server != "nginx") {
        if let Some(nginx) = nginx {
            let ratio = |us: f64| us / nginx.cpu.total_us;
            all.insert(format!("single, {}: all CPU / nginx", figure.server), ratio(figure.cpu.total_us));
            all.insert(
                format!("single, {}: CPU up to the answer / nginx", figure.server),
                ratio(figure.answer_us),
            );
        }
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

fn table(report: &Report) -> String {
    let mut out = String::new();
    let machine = &report.machine;
    let _ = writeln!(
        out,
        "{}\n{}, {} cores, {} MiB, Linux {}",
        report.command, machine.cpu, machine.cores, machine.memory_mib, machine.kernel
    );
    for (title, figures) in [
        ("single POST of a cached SG1 token, recorded and durable", &report.single),
        ("batch of cached SG1 tokens, recorded and durable", &report.batch),
        ("never-seen SG1 tokens in batches", &report.never_seen_batch),
        ("never-seen SG1 tokens in singles", &report.never_seen_single),
    ] {
        if figures.is_empty() {
            continue;
        }
        let _ = writeln!(out, "\n{title}");
        for figure in figures {
            let _ = writeln!(
                out,
                "  {:<6} {:>8.2} µs CPU a {} ({:.2} up to the answer, {:.2} store drain)  {:>9.0}/s  p50 {} µs  p99 {} µs  of {}{}",
                figure.server,
                figure.cpu.total_us,
                figure.unit,
                figure.answer_us,
                figure.drain_us,
                figure.rate_per_s,
                figure.p50_us,
                figure.p99_us,
                figure.count,
                if figure.shed > 0 { format!("  shed {}", figure.shed) } else { String::new() },
            );
            let threads: Vec<String> =
                figure.cpu.by_thread_us.iter().map(|(name, us)| format!("{name} {us:.2}")).collect();
            let _ = writeln!(out, "         by thread: {}", threads.join(", "));
        }
    }
    if let Some(verify) = &report.verify_only {
        let _ = writeln!(
            out,
            "\nverify only: Ed25519 {:.1} µs, whole SG1 token {:.1} µs, one of 64 together {:.1} µs",
            verify.ed25519_us, verify.sg1_us, verify.sg1_together_us
        );
    }
    if !report.idle.is_empty() {
        let _ = writeln!(out, "\nidle keep-alive connections after one request");
        for idle in &report.idle {
            let _ = writeln!(
                out,
                "  {:<6} {:>8.0} bytes of RSS a connection ({} connections)",
                idle.server, idle.bytes_each, idle.connections
            );
        }
    }
    if !report.ratios.is_empty() {
        let _ = writeln!(out, "\nratios");
        for (name, ratio) in &report.ratios {
            let _ = writeln!(out, "  {ratio:>6.2}  {name}");
        }
    }
    out
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde calls it with a reference.
fn is_zero(value: &u64) -> bool {
    *value == 0
}
