//! The gateway itself, as a child process on free ports of loopback.

#![allow(dead_code, reason = "each test uses its part")]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use scangate_client::Client;
use tempfile::TempDir;

// What the gateway's own tests use.
#[path = "../../../../tests/support/ports.rs"]
mod ports;

pub struct Gateway {
    pub directory: TempDir,
    pub base: String,
    binary: PathBuf,
    ports: [u16; 2],
    settings: Vec<(String, String)>,
    child: Option<Child>,
}

impl Gateway {
    pub fn new(settings: &[(&str, &str)]) -> Self {
        let ports = [(); 2].map(|()| ports::free_address().port());
        // Beside the directory of this test's own binary.
        let beside = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("scangate");
        let binary = std::env::var_os("SCANGATE_BIN").map_or(beside, PathBuf::from);
        assert!(binary.exists(), "no gateway at {}: cargo build", binary.display());
        let settings = settings.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let base = format!("http://127.0.0.1:{}", ports[0]);
        let mut gateway =
            Self { directory: TempDir::new().unwrap(), base, binary, ports, settings, child: None };
        gateway.start();
        gateway
    }

    pub fn start(&mut self) {
        let [listen, admin] = self.ports.map(|port| format!("127.0.0.1:{port}"));
        let child = self
            .command(&["serve", "--listen", &listen, "--admin", &admin])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = self.child.insert(child.unwrap());
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(true).build().into();
        for _ in 0..600 {
            if agent.get(format!("{}/readyz", self.base)).call().is_ok() {
                return;
            }
            assert!(child.try_wait().unwrap().is_none(), "the gateway did not start");
            sleep(Duration::from_millis(50));
        }
        panic!("the gateway is not ready after 30 s");
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn client(&self) -> Client {
        let token = self.run(&["issue", "device", "--place", "hn-0001"]);
        Client::builder(&self.base, token.trim()).timeout(Duration::from_secs(10)).build().unwrap()
    }

    pub fn person(&self, reference: &str) -> String {
        self.run(&["issue", "person", reference]).trim_end_matches('\n').to_owned()
    }

    pub fn rows(&self) -> usize {
        let range = ["--from", "2020-01-01T00:00:00Z", "--to", "2100-01-01T00:00:00Z"];
        self.run(&[&["export"][..], &range[..]].concat()).lines().count()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg("--data-dir").arg(self.directory.path().join("data"));
        command.envs(self.settings.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
        command
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
    }
}
