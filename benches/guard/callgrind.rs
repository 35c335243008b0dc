//! Runs this binary again under callgrind and reads what it counted.
//!
//! Only what happens inside [`crate::stages::MEASURED`] is collected, on the thread that entered it, and
//! every return from it writes a dump of its own. The emulated processor decides which of the vectorised
//! variants of a routine run, not the real one, so that machines agree: valgrind presents one with AVX2 and
//! without AVX-512 on every host that has AVX2.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::budget::Costs;
use crate::stages::{MEASURED, ROUNDS};

/// Measures the stages whose name contains `only`: instructions per operation, the least of a few rounds,
/// since what disturbs a round (a map that grows, a thread that has to be woken) only adds.
pub fn measure(only: &str, inject: bool) -> Result<Costs> {
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("out");
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--quiet", "--collect-atstart=no"])
        .arg(format!("--toggle-collect={MEASURED}"))
        .arg(format!("--dump-after={MEASURED}"))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .args(["stages", "--only", only])
        .args(inject.then_some("--inject"))
        // The length of the environment moves the stack, and with it how memory is aligned.
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("TMPDIR", dir.path())
        .stderr(Stdio::inherit());
    let ran = command.output().context("valgrind can't be run; is it installed?")?;
    ensure!(ran.status.success(), "valgrind ended with {}", ran.status);
    let stdout = String::from_utf8(ran.stdout)?;
    let mut costs = Costs::new();
    let mut dump = 0;
    for line in stdout.lines() {
        let (operations, stage) = line.split_once('\t').context("a line of operations and stage")?;
        let operations: f64 = operations.parse()?;
        let mut least = f64::INFINITY;
        for _ in 0..ROUNDS {
            dump += 1;
            least = least.min(total(&dir.path().join(format!("out.{dump}")))? / operations);
        }
        // Tenths are enough, and keep the file readable.
        costs.insert(stage.to_owned(), (least * 10.0).round() / 10.0);
    }
    ensure!(!costs.is_empty(), "no stage has {only:?} in its name");
    ensure!(!dir.path().join(format!("out.{}", dump + 1)).exists(), "there are more dumps than rounds");
    Ok(costs)
}

/// valgrind's version.
pub fn version() -> Result<String> {
    let ran = Command::new("valgrind").arg("--version").output().context("valgrind can't be run")?;
    Ok(String::from_utf8(ran.stdout)?.trim().to_owned())
}

fn total(dump: &Path) -> Result<f64> {
    let text = fs::read_to_string(dump).with_context(|| format!("no dump {}", dump.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("summary: "));
    match line.and_then(|line| line.split_whitespace().next()?.parse().ok()) {
        Some(total) if total > 0.0 => Ok(total),
        _ => bail!("{} counted nothing", dump.display()),
    }
}
