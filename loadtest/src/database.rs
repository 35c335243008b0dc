//! A CQL database for a scenario, through the development script.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// One node on 127.0.0.1:9042, stopped when dropped.
pub struct Database {
    root: TempDir,
    script: PathBuf,
}

impl Database {
    /// Starts it.
    pub fn start(script: &Path, work_dir: &Path) -> Result<Self> {
        let root = tempfile::Builder::new().prefix("scangate-cql-").tempdir_in(work_dir)?;
        let script = script.canonicalize().with_context(|| format!("no script at {}", script.display()))?;
        let database = Self { root, script };
        database.run("start", &["1"])?;
        Ok(database)
    }

    /// Sends a signal to it.
    pub fn signal(&self, signal: &str) -> Result<()> {
        self.run("signal", &["1", signal])
    }

    /// Starts it again after a kill, and waits until it answers.
    pub fn up(&self) -> Result<()> {
        self.run("up", &["1"])
    }

    /// Its process.
    pub fn pid(&self) -> Result<u32> {
        let text = fs::read_to_string(self.root.path().join("node1/pid"))?;
        Ok(text.split_whitespace().next().context("an empty pid file")?.parse()?)
    }

    /// Stops it, which writes out all that it holds in memory, and returns the bytes of a keyspace's tables whose
    /// names begin with this. What its commit log holds isn't counted.
    pub fn stop_and_measure(self, keyspace: &str, prefix: &str) -> Result<u64> {
        self.run("stop", &[])?;
        let mut bytes = 0;
        for table in fs::read_dir(self.root.path().join("node1/data").join(keyspace))? {
            let table = table?;
            if !table.file_name().to_string_lossy().starts_with(prefix) {
                continue;
            }
            for file in fs::read_dir(table.path())? {
                let file = file?.metadata()?;
                bytes += if file.is_file() { file.len() } else { 0 };
            }
        }
        Ok(bytes)
    }

    fn run(&self, verb: &str, rest: &[&str]) -> Result<()> {
        let output =
            Command::new("bash").arg(&self.script).arg(verb).arg(self.root.path()).args(rest).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the database script's {verb} failed: {said}");
        Ok(())
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = self.signal("CONT");
        let _ = self.run("stop", &[]);
    }
}
