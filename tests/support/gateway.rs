//! A gateway as a child process, killed when dropped.

use std::fs::{self, File};
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::http::Client;
use super::keep;
use super::ports::free_address;

/// How long a start may take, replaying a journal included; a debug build on a busy machine is slow.
const START_S_MAX: u64 = 30;
const BINARY: &str = env!("CARGO_BIN_EXE_scangate");

/// What to start, and the directory that outlives each process started on it.
#[derive(Clone)]
pub struct Site {
    root: Arc<TempDir>,
    pub data: PathBuf,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    env: Vec<(String, String)>,
}

impl Site {
    /// A fresh data directory and free ports. No rate limit: the tests send as fast as they can.
    pub fn new() -> Self {
        let root = Arc::new(TempDir::new().expect("a temporary directory"));
        let data = root.path().join("data");
        let (listen, admin) = (free_address(), free_address());
        Self { root, data, listen, admin, env: Vec::new() }.set("limits.device_scans_per_s", "0")
    }

    /// Sets a config key through the environment.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        let (section, name) = key.split_once('.').expect("section.key");
        let variable = format!("SCANGATE_{}__{}", section.to_uppercase(), name.to_uppercase());
        self.env.retain(|(known, _)| *known != variable);
        self.env.push((variable, value.to_owned()));
        self
    }

    /// Sets a variable of the environment that is no config key.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Another gateway that shares nothing but the keys: for two gateways on one database.
    pub fn sibling(&self) -> Self {
        let (listen, admin) = (free_address(), free_address());
        let data = self.root.path().join("sibling");
        copy_dir(&self.data.join("keys"), &data.join("keys"));
        Self { root: self.root.clone(), data, listen, admin, env: self.env.clone() }
    }

    /// Starts and waits until it is ready.
    pub fn start(&self) -> Gateway {
        let mut gateway = self.spawn();
        let started = Instant::now();
        loop {
            if let Some(status) = gateway.exited() {
                panic!("the gateway exited with {status} while starting\n{}", self.log());
            }
            if self.ready() == Some(200) {
                return gateway;
            }
            assert!(
                started.elapsed() < Duration::from_secs(START_S_MAX),
                "not ready after {START_S_MAX} s\n{}",
                self.log()
            );
            sleep(Duration::from_millis(10));
        }
    }

    /// Starts and does not wait.
    pub fn spawn(&self) -> Gateway {
        self.spawn_with(&[])
    }

    /// The same with further flags.
    pub fn spawn_with(&self, flags: &[&str]) -> Gateway {
        let log = File::options().create(true).append(true).open(self.log_path()).expect("a log file");
        let child = self
            .command(&["serve"])
            .args(["--listen", &self.listen.to_string(), "--admin", &self.admin.to_string()])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the gateway's binary starts");
        Gateway { site: self.clone(), child }
    }

    /// The status of `/readyz`, if anything answers.
    pub fn ready(&self) -> Option<u16> {
        let mut client = Client::try_connect(self.listen, Duration::from_secs(2)).ok()?;
        client.try_request("GET", "/readyz", &[], b"").ok().map(|response| response.status)
    }

    /// Runs a subcommand on the data directory to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().expect("the gateway's binary starts")
    }

    /// Runs a subcommand that takes no data directory to its end.
    pub fn run_plain(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(BINARY);
        command.args(arguments).envs(self.env.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null()).output().expect("the gateway's binary starts")
    }

    /// Runs a subcommand that must succeed, and returns its standard output.
    pub fn run_ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "{arguments:?} exited with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("UTF-8 output")
    }

    /// A bearer token for a device at a place.
    pub fn place_device(&self, place: &str) -> String {
        self.run_ok(&["issue", "device", "--place", place]).trim().to_owned()
    }

    /// A bearer token for a person's own device.
    pub fn person_device(&self, person: &str) -> String {
        self.run_ok(&["issue", "device", "--person", person]).trim().to_owned()
    }

    /// An SG1 payload that stands for a person or a place.
    pub fn code(&self, kind: &str, reference: &str) -> String {
        let printed = self.run_ok(&["issue", kind, reference]);
        let payload = printed.lines().find(|line| line.starts_with("SG1:"));
        payload.unwrap_or_else(|| panic!("no SG1 payload in {printed:?}")).to_owned()
    }

    /// Everything the processes of this site wrote to standard output and error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.root.path().join(format!("{}.log", self.data.file_name().expect("a name").display()))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        let data: &Path = &self.data;
        command.args(arguments).arg("--data-dir").arg(data).current_dir(self.root.path());
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }
}

/// A running gateway. Dropping it kills it.
pub struct Gateway {
    pub site: Site,
    child: Child,
}

impl Gateway {
    /// A keep-alive connection to the public listener.
    pub fn connect(&self) -> Client {
        Client::connect(self.site.listen)
    }

    /// A keep-alive connection to the admin listener.
    pub fn connect_admin(&self) -> Client {
        Client::connect(self.site.admin)
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, then reaps it.
    pub fn kill(mut self) {
        self.child.kill().expect("the gateway can be killed");
        self.child.wait().expect("the gateway is reaped");
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a pid fits an i32");
        // SAFETY: kill takes two integers; the pid is our own child's, which isn't reaped yet, so it can't
        // have been given to another process.
        let sent = unsafe { libc::kill(pid, signal) };
        assert_eq!(sent, 0, "signal {signal} was sent");
    }

    /// SIGTERM, and the exit status within the time.
    pub fn terminate(mut self, within: Duration) -> ExitStatus {
        keep::answers(&self.site.data, self.site.admin);
        self.signal(libc::SIGTERM);
        self.wait(within)
    }

    /// Waits for the exit.
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            assert!(started.elapsed() < within, "still running after {within:?}\n{}", self.site.log());
            sleep(Duration::from_millis(10));
        }
    }

    /// The exit status, if it has exited.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child can be waited for")
    }

    /// A number from `/metrics`: the sum over a metric's label sets.
    pub fn metric(&self, name: &str) -> f64 {
        let response = self.connect_admin().request("GET", "/metrics", &[], b"");
        assert_eq!(response.status, 200);
        let text = response.text();
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            if !rest.starts_with(['{', ' ']) {
                return None;
            }
            rest.rsplit(' ').next()?.parse::<f64>().ok()
        });
        values.sum()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            keep::answers(&self.site.data, self.site.admin);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        keep::files(&self.site.data, Some(&self.site.log_path()));
        if std::thread::panicking() {
            eprintln!("--- the gateway's log\n{}", tail(&self.site.log(), 40));
        }
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory to copy") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("a copy");
        }
    }
    // The gateway refuses keys that others may read.
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(to, private).expect("permissions");
}

/// Reads a child's pipe to its end, for tests that look at the first lines a gateway prints.
pub fn read_all(mut pipe: impl Read) -> String {
    let mut text = String::new();
    pipe.read_to_string(&mut text).expect("UTF-8 output");
    text
}
