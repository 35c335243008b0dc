//! A real CQL database for the tests that need one, through `deploy/dev/cql-dev.sh`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// One node on 127.0.0.1:9042, stopped when dropped.
pub struct Database {
    root: TempDir,
    script: PathBuf,
}

impl Database {
    /// Starts a node. Without Java 17, or Maven for the first fetch, the test fails and says so: a durability
    /// test that skips itself proves nothing.
    pub fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/dev/cql-dev.sh");
        let root = TempDir::new().expect("a temporary directory");
        let database = Self { root, script };
        let output = database.script(&["start"], &["1"]);
        assert!(output.status.success(), "no CQL database: {}", String::from_utf8_lossy(&output.stderr));
        database
    }

    /// Sends a signal to the node's process.
    pub fn signal(&self, signal: &str) {
        self.script_ok(&["signal"], &["1", signal]);
    }

    /// Starts the node again after a kill, and waits until it answers.
    pub fn up(&self) {
        self.script_ok(&["up"], &["1"]);
    }

    fn script_ok(&self, verb: &[&str], rest: &[&str]) {
        let output = self.script(verb, rest);
        assert!(output.status.success(), "{verb:?} {rest:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn script(&self, verb: &[&str], rest: &[&str]) -> Output {
        let mut command = Command::new("bash");
        command.arg(&self.script).args(verb).arg(self.root.path()).args(rest);
        command.output().expect("bash starts")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = self.script(&["stop"], &[]);
    }
}
