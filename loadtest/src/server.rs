//! Servers under test as child processes, killed when dropped.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::{cpu, sys};

// What the gateway's own tests keep, by the same means.
#[path = "../../tests/support/keep.rs"]
mod keep;
#[path = "../../tests/support/ports.rs"]
mod ports;

pub use ports::free_address;

/// A start that replays a large journal may take a while.
const START_S_MAX: u64 = 120;

/// A running server. Dropping it kills it.
pub struct Server {
    /// The public listener.
    pub listen: SocketAddr,
    child: Child,
    log: PathBuf,
    /// Data directory and admin listener, of a gateway.
    gateway: Option<(PathBuf, SocketAddr)>,
}

impl Server {
    /// Starts a command on some cores (none: anywhere), its output in `log`, and waits until a GET of `ready`
    /// answers 2xx.
    pub fn start(
        command: &mut Command,
        cores: &[usize],
        listen: SocketAddr,
        log: PathBuf,
        ready: (SocketAddr, &str),
    ) -> Result<Self> {
        let out = File::options().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = spawn_on(cores, command)?;
        let mut server = Self { listen, child, log, gateway: None };
        server.wait_for(ready.0, ready.1)?;
        Ok(server)
    }

    /// The process and its workers.
    pub fn pids(&self) -> Vec<u32> {
        cpu::tree(self.child.id())
    }

    /// The process itself.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reaps it after a signal that ends it.
    pub fn reap(&mut self) -> Result<()> {
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and the exit status.
    pub fn terminate(mut self, within: Duration) -> Result<ExitStatus> {
        sys::signal(self.child.id(), libc::SIGTERM)?;
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(
                started.elapsed() < within,
                "still running {within:?} after SIGTERM: {}",
                self.log_tail()
            );
            sleep(Duration::from_millis(20));
        }
    }

    /// The last lines it wrote.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(8)..).unwrap_or_default().join("\n")
    }

    /// Ready when a GET of `path` answers 2xx.
    fn wait_for(&mut self, at: SocketAddr, path: &str) -> Result<()> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("exited with {status} while starting: {}", self.log_tail());
            }
            if get(at, path).is_ok_and(|(status, _)| (200..300).contains(&status)) {
                return Ok(());
            }
            ensure!(started.elapsed() < Duration::from_secs(START_S_MAX), "not ready: {}", self.log_tail());
            sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let (Some((data, admin)), Ok(None)) = (&self.gateway, self.child.try_wait()) {
            keep::answers(data, *admin);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some((data, _)) = &self.gateway {
            keep::files(data, Some(&self.log));
        }
    }
}

/// A data directory and how to start scangate on it, as often as a scenario likes.
#[derive(Clone)]
pub struct Site {
    root: Arc<TempDir>,
    /// The scangate binary.
    pub binary: PathBuf,
    /// Its data directory.
    pub data: PathBuf,
    /// The public listener.
    pub listen: SocketAddr,
    /// The admin listener.
    pub admin: SocketAddr,
    settings: Vec<(String, String)>,
    cores: Vec<usize>,
    tls: bool,
}

impl Site {
    /// A fresh data directory with fresh development keys, without a rate limit for devices.
    pub fn new(binary: &Path, work_dir: &Path) -> Result<Self> {
        let root = tempfile::Builder::new().prefix("scangate-loadtest-").tempdir_in(work_dir)?;
        let data = root.path().join("data");
        let (listen, admin) = (free_address(), free_address());
        let binary = binary.canonicalize().with_context(|| format!("no binary at {}", binary.display()))?;
        let site = Self {
            root: Arc::new(root),
            binary,
            data,
            listen,
            admin,
            settings: Vec::new(),
            cores: Vec::new(),
            tls: false,
        };
        Ok(site.set("limits.device_scans_per_s", "0"))
    }

    /// Sets a config key through the environment.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        let variable = format!("SCANGATE_{}", key.to_uppercase().replacen('.', "__", 1));
        self.settings.retain(|(known, _)| *known != variable);
        self.settings.push((variable, value.to_owned()));
        self
    }

    /// Pins the gateway to one core.
    #[must_use]
    pub fn pinned(self, core: usize) -> Self {
        self.pinned_to(&[core])
    }

    /// Pins the gateway to some cores.
    #[must_use]
    pub fn pinned_to(mut self, cores: &[usize]) -> Self {
        cores.clone_into(&mut self.cores);
        self
    }

    /// The public listener speaks TLS.
    #[must_use]
    pub fn over_tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Another gateway with the same keys and settings, and ports and data of its own.
    pub fn sibling(&self) -> Result<Self> {
        let (listen, admin) = (free_address(), free_address());
        let data = self.root.path().join(format!("sibling-{}", listen.port()));
        copy_keys(&self.data.join("keys"), &data.join("keys"))?;
        fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        Ok(Self { data, listen, admin, ..self.clone() })
    }

    /// The settings that differ from the defaults, as a result records them.
    pub fn settings(&self) -> Vec<String> {
        self.settings.iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    /// Starts and waits until it is ready.
    pub fn start(&self) -> Result<Server> {
        let log = self.root.path().join(format!("{}.log", self.listen.port()));
        let mut command = self.command(&["serve"]);
        command.args(["--listen", &self.listen.to_string(), "--admin", &self.admin.to_string()]);
        // Over TLS, metrics on the admin listener stand in: that one opens together with the public one.
        let ready = if self.tls { (self.admin, "/metrics") } else { (self.listen, "/readyz") };
        let mut server =
            Server::start(&mut command, &self.cores, self.listen, log, ready).context("scangate")?;
        server.gateway = Some((self.data.clone(), self.admin));
        Ok(server)
    }

    /// A sample of the gateway's metrics, by its name in the exposition.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let (_, body) = get(self.admin, "/metrics")?;
        let text = String::from_utf8(body)?;
        let sample = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(sample.with_context(|| format!("no metric {name}"))?.trim().parse()?)
    }

    /// A subcommand, to be run on the data directory.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg("--data-dir").arg(&self.data).current_dir(self.root.path());
        command.envs(self.settings.iter().map(|(key, value)| (key, value)));
        command
    }
}

/// One GET on a connection of its own: status and body.
pub fn get(to: SocketAddr, path: &str) -> Result<(u16, Vec<u8>)> {
    request(to, &format!("GET {path} HTTP/1.1\r\nHost: scangate\r\nConnection: close\r\n\r\n"))
}

/// One request on a connection of its own, which the server must close.
pub fn request(to: SocketAddr, request: &str) -> Result<(u16, Vec<u8>)> {
    let timeout = Duration::from_secs(10);
    let mut stream = TcpStream::connect_timeout(&to, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let head_end = memchr::memmem::find(&answer, b"\r\n\r\n").context("no answer")?;
    let status = answer.get(9..12).and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
    let body = answer.split_off(head_end + 4);
    Ok((status.context("no status")?, body))
}

/// A child inherits the affinity of the thread that starts it, so the thread visits the cores for a moment.
fn spawn_on(cores: &[usize], command: &mut Command) -> Result<Child> {
    if cores.is_empty() {
        return Ok(command.spawn()?);
    }
    std::thread::scope(|scope| {
        let spawner = scope.spawn(|| {
            sys::pin_to(cores)?;
            Ok(command.spawn()?)
        });
        spawner.join().unwrap_or_else(|_| bail!("the spawning thread panicked"))
    })
}

fn copy_keys(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    fs::set_permissions(to, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_keys(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
