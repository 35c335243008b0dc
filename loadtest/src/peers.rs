//! The other servers of the comparison, as child processes on one core, each with a directory of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::server::{Server, free_address};
use crate::sys;

/// nginx answering an empty 202 to everything, with one worker.
pub struct Nginx {
    /// The process.
    pub server: Server,
    _root: TempDir,
}

impl Nginx {
    /// Its version, as it prints it.
    pub fn version(binary: &str) -> Option<String> {
        let output = Command::new(binary).arg("-v").output().ok()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        said.trim().rsplit_once("nginx/").map(|(_, version)| format!("nginx {version}"))
    }

    /// Starts it on a core.
    pub fn start(binary: &str, core: usize, work_dir: &Path) -> Result<Self> {
        let root = tempfile::Builder::new().prefix("scangate-nginx-").tempdir_in(work_dir)?;
        let listen = free_address();
        let config = root.path().join("nginx.conf");
        let directory = root.path().display();
        fs::write(&config, nginx_config(listen, &directory.to_string()))?;
        let mut command = Command::new(binary);
        command.arg("-c").arg(&config).arg("-p").arg(root.path());
        let log = root.path().join("log");
        let server = Server::start(&mut command, &[core], listen, log, (listen, "/")).context("nginx")?;
        Ok(Self { server, _root: root })
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master must end its worker, which SIGKILL would leave behind.
        let _ = sys::signal(self.server.pid(), libc::SIGTERM);
        let _ = self.server.reap();
    }
}

/// Everything that isn't needed to answer is off; nothing is turned off that scangate does.
fn nginx_config(listen: SocketAddr, directory: &str) -> String {
    format!(
        "daemon off;\nworker_processes 1;\npid {directory}/pid;\nerror_log {directory}/error.log;\n\
         events {{ worker_connections 16384; }}\nworker_rlimit_nofile 20000;\n\
         http {{\n  access_log off;\n  keepalive_requests 1000000000;\n  keepalive_timeout 3600s;\n  tcp_nodelay on;\n\
         \x20 client_body_temp_path {directory}/body;\n  proxy_temp_path {directory}/proxy;\n\
         \x20 fastcgi_temp_path {directory}/fastcgi;\n  uwsgi_temp_path {directory}/uwsgi;\n\
         \x20 scgi_temp_path {directory}/scgi;\n\
         \x20 server {{ listen {listen} backlog=8192; location / {{ return 202; }} }}\n}}\n"
    )
}

/// scangate-peer: axum, serde_json and a database write before the answer.
pub struct Peer {
    binary: PathBuf,
    keys: PathBuf,
    core: usize,
    cql: Option<String>,
    root: TempDir,
}

impl Peer {
    /// A database that is empty, and the keys of a gateway's data directory. With `cql` the database is that node,
    /// else it is embedded.
    pub fn new(binary: &Path, keys: &Path, core: usize, cql: Option<&str>, work_dir: &Path) -> Result<Self> {
        let root = tempfile::Builder::new().prefix("scangate-peer-").tempdir_in(work_dir)?;
        let binary = binary.canonicalize().with_context(|| format!("no binary at {}", binary.display()))?;
        Ok(Self { binary, keys: keys.to_owned(), core, cql: cql.map(str::to_owned), root })
    }

    /// Starts it, as often as one likes.
    pub fn start(&self) -> Result<Server> {
        let listen = free_address();
        let mut command = Command::new(&self.binary);
        command.args(["--listen", &listen.to_string(), "--keys"]).arg(&self.keys);
        match &self.cql {
            Some(node) => command.args(["--cql", node]),
            None => command.arg("--store").arg(self.root.path().join("store")),
        };
        let log = self.root.path().join("log");
        Server::start(&mut command, &[self.core], listen, log, (listen, "/readyz")).context("scangate-peer")
    }
}

/// Benthos, the engine of Redpanda Connect: JSON over HTTP into a file, answered once it is written.
pub struct Benthos {
    /// The process.
    pub server: Server,
    _root: TempDir,
}

impl Benthos {
    /// Its version, as it prints it; none where it isn't installed.
    pub fn version(binary: &Path) -> Option<String> {
        let output = Command::new(binary).arg("--version").output().ok()?;
        let said = String::from_utf8(output.stdout).ok()?;
        let version = said.lines().find_map(|line| line.strip_prefix("Version: "))?;
        Some(format!("Benthos {}", version.trim()))
    }

    /// Starts it on a core.
    pub fn start(binary: &Path, core: usize, work_dir: &Path) -> Result<Self> {
        let root = tempfile::Builder::new().prefix("scangate-benthos-").tempdir_in(work_dir)?;
        let listen = free_address();
        let config = root.path().join("benthos.yaml");
        fs::write(&config, benthos_config(listen, &root.path().display().to_string()))?;
        let mut command = Command::new(binary);
        command.arg("-c").arg(&config);
        let log = root.path().join("log");
        let server =
            Server::start(&mut command, &[core], listen, log, (listen, "/ready")).context("benthos")?;
        Ok(Self { server, _root: root })
    }
}

/// The fields of a scan are read and written as a line each. The answer waits for write(2); there is no fsync to be
/// had.
fn benthos_config(listen: SocketAddr, directory: &str) -> String {
    format!(
        "http: {{ address: '{listen}' }}\nlogger: {{ level: WARN }}\n\
         input: {{ http_server: {{ path: /v1/checkins, timeout: 30s }} }}\n\
         pipeline:\n  processors:\n    - mapping: |\n        root.id = this.id\n        root.qr = this.qr\n\
         \x20       root.at = this.at\n        root.direction = this.direction\n\
         output: {{ file: {{ path: '{directory}/checkins.ndjson', codec: lines }} }}\n"
    )
}
