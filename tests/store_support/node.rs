//! A real database node for one test, started and stopped through `deploy/dev/cql-dev.sh`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs until it is dropped, also by a panic. The script signals only the process it recorded.
pub struct Node {
    dir: PathBuf,
    net: String,
}

impl Node {
    pub fn start() -> Self {
        // A loopback network of this process's own: other nodes, and other test runs, don't matter.
        let pid = std::process::id();
        let net = format!("127.{}.{}", 1 + (pid >> 8) % 250, pid % 250);
        let node = Self { dir: Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cql-{pid}")), net };
        node.run(&["start", node.dir(), "1"]);
        node
    }

    pub fn address(&self) -> String {
        format!("{}.1:9042", self.net)
    }

    pub fn signal(&self, name: &str) {
        self.run(&["signal", self.dir(), "1", name]);
    }

    pub fn start_again(&self) {
        self.run(&["up", self.dir(), "1"]);
    }

    fn dir(&self) -> &str {
        self.dir.to_str().unwrap()
    }

    fn run(&self, arguments: &[&str]) {
        assert!(self.command(arguments).status().unwrap().success(), "cql-dev.sh {arguments:?}");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/dev/cql-dev.sh");
        let mut command = Command::new(script);
        command.args(arguments).env("CQL_NET", &self.net).env("CQL_OWNER", std::process::id().to_string());
        command
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let stopped = self.command(&["stop", self.dir()]).status().is_ok_and(|status| status.success());
        // A failed test leaves the node's logs.
        if stopped && !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}
