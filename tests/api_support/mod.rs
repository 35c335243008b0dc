//! A whole gateway on free ports, raw HTTP to talk to it, and the description to hold its answers to.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::must_use_candidate
)]

#[allow(clippy::duplicate_mod)] // Some tests use both kinds of support.
#[path = "../support/keep.rs"]
mod keep;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use scangate::config::{self, Config, Runtime};
use scangate::gateway::{Gateway, Signals};
use scangate::issue::{self, RoleRef};
use scangate::openapi;
use scangate::scan::{App, UnixMillis};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

const DAY: Duration = Duration::from_hours(24);

/// A gateway with a data directory of its own; stopped when it goes out of scope.
pub struct Server {
    pub public: SocketAddr,
    pub admin: SocketAddr,
    pub directory: tempfile::TempDir,
    pub signals: Signals,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(adjust: impl FnOnce(&mut Config)) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), adjust)
    }

    pub fn start_in(directory: tempfile::TempDir, adjust: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.gateway.data_dir = directory.path().join("data");
        config.listen.addr = ([127, 0, 0, 1], 0).into();
        config.listen.admin = ([127, 0, 0, 1], 0).into();
        config.listen.runtime = match std::env::var("SCANGATE_TEST_RUNTIME").as_deref() {
            Ok("epoll") => Runtime::Epoll,
            Ok("uring") => Runtime::Uring,
            _ => Runtime::Auto,
        };
        config.journal.segment_bytes = 8 << 20;
        adjust(&mut config);
        let gateway = Gateway::start(&config).unwrap();
        // A reload takes the limits from this file once a test has written it.
        let (file, limits) = (directory.path().join("scangate.toml"), config.limits.clone());
        gateway.reload_limits_from(move || {
            if !file.exists() {
                return Ok(limits.clone());
            }
            let loaded = config::load(Some(&file), std::iter::empty(), &config::Overrides::default())?;
            Ok(loaded.config.limits)
        });
        let (public, admin, signals) = (gateway.address(), gateway.admin_address(), gateway.signals());
        let thread = std::thread::spawn(move || gateway.run().unwrap());
        Self { public, admin, directory, signals, thread: Some(thread) }
    }

    /// Stops it, and keeps its files.
    pub fn stopped(mut self) -> tempfile::TempDir {
        let empty = tempfile::tempdir().unwrap();
        std::mem::replace(&mut self.directory, empty)
    }

    pub fn data(&self) -> std::path::PathBuf {
        self.directory.path().join("data")
    }

    /// A bearer token of a device at a place.
    pub fn place_device(&self, place: &str) -> String {
        let now = UnixMillis::now();
        issue::issue_device(&self.data(), App::PcCovid, RoleRef::Place(place), None, DAY, now).unwrap()
    }

    /// A bearer token of a person's phone.
    pub fn person_device(&self, person: &str) -> String {
        let now = UnixMillis::now();
        issue::issue_device(&self.data(), App::Vneid, RoleRef::Person(person), None, DAY, now).unwrap()
    }

    /// A bearer token of a device that is named.
    pub fn named_device(&self, sub: &str, issued: UnixMillis) -> String {
        let role = RoleRef::Place("gate");
        issue::issue_device_named(&self.data(), App::PcCovid, role, sub, None, DAY, issued).unwrap()
    }

    /// `POST /v1/checkins`, held to the description.
    pub fn post(&self, token: &str, content_type: &str, body: impl AsRef<[u8]>) -> Answer {
        let headers = [("Authorization", &*format!("Bearer {token}")), ("Content-Type", content_type)];
        self.post_with(&headers, body.as_ref())
    }

    pub fn post_with(&self, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let answer = exchange(self.public, "POST", "/v1/checkins", headers, body);
        answer.assert_documented("/v1/checkins", "post");
        answer
    }

    /// One scan by a device.
    pub fn scan(&self, token: &str, id: &str, qr: &str) -> Answer {
        self.post(token, "application/json", request(id, qr).to_string())
    }

    /// A request to the admin listener, held to the description.
    pub fn operate(&self, method: &str, path: &str) -> Answer {
        let answer = exchange(self.admin, method, path, &[], b"");
        answer.assert_documented(path.split('?').next().unwrap(), &method.to_ascii_lowercase());
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        keep::answers(&self.data(), self.admin);
        self.signals.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the gateway did not end well");
        }
        keep::files(&self.data(), None);
    }
}

pub fn request(id: &str, qr: &str) -> Value {
    serde_json::json!({"id": id, "qr": qr})
}

/// A batch of these scans.
pub fn batch(scans: impl Iterator<Item = (String, String)>) -> String {
    scans.fold(String::new(), |mut lines, (id, qr)| {
        writeln!(lines, "{}", request(&id, &qr)).unwrap();
        lines
    })
}

/// A bank code with its checksum, CRC-16/CCITT-FALSE bit by bit.
pub fn payment_code() -> String {
    let body = "00020101021138530010A0000007270123000697041601098888888880208QRIBFTTA53037045802VN6304";
    let crc = body.bytes().fold(0xFFFF_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    format!("{body}{crc:04X}")
}

/// A citizen card; the number and birth date agree for every serial.
pub fn card(serial: u32) -> String {
    format!("001090{serial:06}||NGUYEN VAN A|01011990|Nam|Hà Nội|15042021")
}

/// An answer off the wire.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The body as one line of JSON, of a type that has all of its members and no others.
    pub fn json<T: DeserializeOwned + Serialize>(&self) -> T {
        assert!(self.text().ends_with("}\n"), "{}", self.text());
        exact(self.text())
    }

    /// The body as NDJSON, likewise.
    pub fn lines<T: DeserializeOwned + Serialize>(&self) -> Vec<T> {
        assert_eq!(self.header("content-type"), Some("application/x-ndjson"), "{self:?}");
        self.text().lines().map(exact).collect()
    }

    /// The body as a problem, whose headers say what its members do.
    pub fn problem(&self) -> openapi::Problem {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem: openapi::Problem = self.json();
        assert_eq!(problem.status, self.status);
        assert_eq!(problem.kind.rsplit(':').next(), Some(problem.outcome.as_str()));
        assert_eq!(problem.title, problem.outcome.replace('_', " "));
        assert_eq!(self.header("cache-control"), Some("no-store"));
        let bounds = matches!(self.status, 408 | 413 | 429 | 503);
        assert_eq!(problem.bound.is_some(), bounds, "{problem:?}");
        assert!(!(bounds && problem.field.is_some()), "{problem:?}");
        assert_eq!(self.header("retry-after").is_some(), matches!(self.status, 429 | 503));
        assert_eq!(self.header("www-authenticate").is_some(), self.status == 401);
        assert_eq!(self.header("allow").is_some(), self.status == 405);
        problem
    }

    /// The description has this status and type under this operation.
    pub fn assert_documented(&self, path: &str, method: &str) {
        let document: Value = serde_json::from_str(openapi::document()).unwrap();
        let responses = &document["paths"][path][method]["responses"];
        if responses.is_null() {
            assert!(matches!(self.status, 404 | 405), "{method} {path} answered {}", self.status);
            return;
        }
        let response = &responses[self.status.to_string()];
        assert!(response.is_object(), "{method} {path} answered {}, which is not described", self.status);
        let content_type = self.header("content-type").unwrap_or_default();
        assert!(response["content"][content_type].is_object(), "{method} {path}: {content_type:?}");
    }
}

/// Parses JSON into a type, and demands that the type says all that the JSON does.
pub fn exact<T: DeserializeOwned + Serialize>(text: &str) -> T {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
    let typed: T = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
    assert_eq!(serde_json::to_value(&typed).unwrap(), value);
    typed
}

/// One request on a connection of its own.
pub fn exchange(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\n");
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    if !body.is_empty() {
        write!(head, "Content-Length: {}\r\n", body.len()).unwrap();
    }
    head.push_str("Connection: close\r\n\r\n");
    raw(address, &[head.as_bytes(), body].concat(), method == "HEAD")
}

/// Bytes as they are, and the one answer to them.
pub fn raw(address: SocketAddr, request: &[u8], is_head: bool) -> Answer {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // An answer may come, and the connection end, before all is sent.
    let _ = socket.write_all(request);
    read_answer(socket, is_head)
}

/// Reads an answer and what follows it, which must be nothing.
pub fn read_answer(stream: impl Read, is_head: bool) -> Answer {
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert!(line.ends_with("\r\n"), "the answer broke off in {line:?}");
        line.truncate(line.len() - 2);
        line
    };
    let status_line = line();
    let status = status_line.split(' ').nth(1).unwrap().parse().unwrap();
    let mut headers = Vec::new();
    loop {
        let header = line();
        let Some((name, value)) = header.split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut answer = Answer { status, headers, body: Vec::new() };
    if is_head {
        let _ = reader.read_to_end(&mut answer.body);
    } else if let Some(length) = answer.header("content-length").map(|length| length.parse().unwrap()) {
        answer.body = vec![0; length];
        reader.read_exact(&mut answer.body).unwrap();
    } else if answer.header("transfer-encoding") == Some("chunked") {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).unwrap();
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            let mut piece = vec![0; size + 2];
            reader.read_exact(&mut piece).unwrap();
            answer.body.extend_from_slice(&piece[..size]);
            if size == 0 {
                break;
            }
        }
    }
    answer
}

/// Waits until `done`, or fails after ten seconds.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(10), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Writes a self-signed certificate for `localhost` and returns it.
pub fn certificate(directory: &Path) -> rustls::pki_types::CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(directory.join("cert.pem"), made.cert.pem()).unwrap();
    let key = directory.join("key.pem");
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    std::fs::set_permissions(key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    made.cert.der().clone()
}
