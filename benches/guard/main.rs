//! Guards the hot path's cost: instructions per stage and allocations per request, against the budgets in
//! `.ci/guard/budget.json`. Wall time isn't looked at, since it depends on the machine and its load.
//!
//! ```text
//! .ci/guard/run                     measures everything; fails where a budget is passed
//! .ci/guard/run --bless             writes what was measured as the budget
//! .ci/guard/run --only verify       stages with this in their name
//! .ci/guard/run --self-test         injects regressions and sees each guard fail
//! ```
//!
//! Exit status: 0 within budget, 1 over it, 2 not measured.

mod allocations;
mod budget;
mod callgrind;
mod fixture;
#[path = "../../tests/health_support/mod.rs"]
mod health_support;
mod stages;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};
use scangate::config::Runtime;

use allocations::Load;
use budget::{Budget, Row, Standing};

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

fn main() -> ExitCode {
    // What `cargo bench` adds.
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench" && argument != "--test").collect();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("guard: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &[String]) -> Result<ExitCode> {
    let Some((command, rest)) = arguments.split_first() else {
        eprintln!("guard: measures nothing by itself; use .ci/guard/run");
        return Ok(ExitCode::SUCCESS);
    };
    match command.as_str() {
        "check" => check(&Flags::read(rest)?),
        "self-test" => self_test(),
        "stages" => stages(&Flags::read(rest)?),
        "post" => post(rest),
        other => bail!("no command {other:?}"),
    }
}

#[derive(Debug, Default)]
struct Flags {
    only: String,
    bless: bool,
    inject: bool,
}

impl Flags {
    fn read(arguments: &[String]) -> Result<Self> {
        let mut flags = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--only" => arguments.next().context("--only wants a name")?.clone_into(&mut flags.only),
                "--bless" => flags.bless = true,
                "--inject" => flags.inject = true,
                other => bail!("no flag {other:?}"),
            }
        }
        Ok(flags)
    }
}

fn budget_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/guard/budget.json")
}

fn check(flags: &Flags) -> Result<ExitCode> {
    let file = budget_file();
    let mut budget: Budget = match fs::read(&file) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{}", file.display()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Budget::default(),
        Err(error) => return Err(error).with_context(|| format!("{}", file.display())),
    };
    let wants = |name: &str| name.contains(flags.only.as_str());
    let is_request = |name: &String| name.starts_with("POST");
    let mut now = Budget { compiler: compiler()?, valgrind: callgrind::version()?, ..Budget::default() };
    if flags.only.is_empty() || !flags.only.starts_with("POST") {
        now.instructions = callgrind::measure(&flags.only, flags.inject)?;
    }
    let skipped;
    (now.allocations, skipped) = allocations::measure(&flags.only, flags.inject)?;
    debug_assert!(now.allocations.keys().all(is_request));
    for name in &skipped {
        eprintln!("guard: skipped {name:?}: io_uring is not available here");
    }
    if flags.bless {
        return bless(&file, budget, now, flags);
    }
    budget.instructions.retain(|name, _| wants(name));
    budget.allocations.retain(|name, _| wants(name) && !skipped.contains(name));
    let instructions = budget::compare_instructions(&budget.instructions, &now.instructions);
    let allocations = budget::compare_allocations(&budget.allocations, &now.allocations);
    let mut out = io::stdout().lock();
    if !instructions.is_empty() {
        write!(out, "{}", budget::table("instructions per operation", &instructions))?;
    }
    if !allocations.is_empty() {
        write!(out, "{}", budget::table("allocations per request", &allocations))?;
    }
    let rows: Vec<&Row> = instructions.iter().chain(&allocations).collect();
    let refused = rows.iter().filter(|row| row.standing.is_refused()).count();
    let better = rows.iter().filter(|row| row.standing == Standing::Better).count();
    if (&now.compiler, &now.valgrind) != (&budget.compiler, &budget.valgrind) {
        writeln!(
            out,
            "budgets were taken with {} and {}, this is {} and {}: if all stages moved, bless",
            budget.compiler, budget.valgrind, now.compiler, now.valgrind
        )?;
    }
    writeln!(out, "{} stages, {refused} refused, {better} better than budget", rows.len())?;
    Ok(if refused == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn bless(file: &Path, old: Budget, mut now: Budget, flags: &Flags) -> Result<ExitCode> {
    ensure!(!flags.inject, "a regression can't be blessed");
    // What was not looked at keeps its budget; io_uring may be missing where the rest is blessed.
    let kept = |name: &String| !name.contains(flags.only.as_str()) || name.contains("uring");
    for (from, to) in [(old.instructions, &mut now.instructions), (old.allocations, &mut now.allocations)] {
        for (name, cost) in from.into_iter().filter(|(name, _)| kept(name)) {
            to.entry(name).or_insert(cost);
        }
    }
    fs::write(file, serde_json::to_string_pretty(&now)? + "\n")?;
    writeln!(io::stdout(), "wrote {}", file.display())?;
    Ok(ExitCode::SUCCESS)
}

fn compiler() -> Result<String> {
    let ran = Command::new("rustc").arg("--version").output().context("rustc can't be run")?;
    Ok(String::from_utf8(ran.stdout)?.trim().to_owned())
}

/// Runs the stages; what callgrind is told to watch.
fn stages(flags: &Flags) -> Result<ExitCode> {
    let dir = tempfile::tempdir()?;
    let mut out = io::stdout().lock();
    for mut stage in stages::all(dir.path())? {
        if stage.name.contains(flags.only.as_str()) {
            let operations = stage.run(flags.inject);
            writeln!(out, "{operations}\t{}", stage.name)?;
        }
    }
    out.flush()?;
    drop(dir);
    // Past every destructor: the journal's writer must not be waited for.
    std::process::exit(0)
}

/// `post epoll recorded 2000`: requests for a profiler to watch.
fn post(arguments: &[String]) -> Result<ExitCode> {
    let [runtime, load, requests] = arguments else { bail!("post wants a runtime, a load and a number") };
    let runtime = if runtime == "uring" { Runtime::Uring } else { Runtime::Epoll };
    let load = if load == "recorded" { Load::Fresh } else { Load::Same };
    allocations::post(runtime, load, requests.parse()?)?;
    Ok(ExitCode::SUCCESS)
}

/// Injects a regression into each kind of measurement and sees the guard refuse it; and sees the same
/// measurement pass without it.
fn self_test() -> Result<ExitCode> {
    for (only, injected) in
        [("payload", "5 % more instructions"), ("POST, epoll: duplicate", "one more allocation per request")]
    {
        for inject in [false, true] {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["check", "--only", only]).args(inject.then_some("--inject"));
            let ran = command.stderr(Stdio::inherit()).output()?;
            let table = String::from_utf8_lossy(&ran.stdout);
            let expected = i32::from(inject);
            ensure!(
                ran.status.code() == Some(expected),
                "{only} ended with {} instead of {expected}; injected: {inject}\n{table}",
                ran.status
            );
            ensure!(table.contains("OVER BUDGET") == inject, "{only} does not say what is over\n{table}");
        }
        writeln!(io::stdout(), "ok: {only}: {injected} refused, none accepted")?;
    }
    Ok(ExitCode::SUCCESS)
}
