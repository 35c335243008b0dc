//! The promises pinned here, over HTTP on a whole gateway whose disk fails:
//!
//! - no 2xx leaves before the record's fsync, neither for the original nor for a duplicate that waits on it;
//! - a failed fsync is a 503 for everybody concerned, turns readiness false and is never retried, and a lost
//!   scan is never called a duplicate;
//! - a full disk is a 503 and passes by itself when space returns;
//! - the first request after a start already knows everything from before.
//!
//! The disk is simulated under the journal; keys and the embedded store are real files. What this doesn't
//! prove: that the real disk keeps fsync's promise.
#![allow(missing_docs)]

#[path = "journal_common/sim.rs"]
mod sim;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use scangate::config::Config;
use scangate::gateway::{Gateway, Signals};
use scangate::issue::{RoleRef, issue_device};
use scangate::scan::{App, UnixMillis};
use sim::{Fault, SimDisk};

struct Running {
    address: SocketAddr,
    signals: Signals,
    thread: JoinHandle<()>,
    token: String,
}

impl Running {
    fn start(dir: &Path, disk: &SimDisk) -> Self {
        let mut config = Config::default();
        dir.clone_into(&mut config.gateway.data_dir);
        config.listen.addr = ([127, 0, 0, 1], 0).into();
        config.listen.admin = ([127, 0, 0, 1], 0).into();
        config.listen.cores = 2;
        config.journal.segment_bytes = 1024 * 1024;
        config.journal.lane_bytes_max = 128 * 1024;
        config.journal.batch_bytes_max = 64 * 1024;
        config.limits.device_scans_per_s = 0;
        let gateway = Gateway::start_on(Arc::new(disk.clone()), &config).expect("the gateway starts");
        let place = RoleRef::Place("gate");
        let token = issue_device(dir, App::PcCovid, place, None, Duration::from_hours(1), UnixMillis::now())
            .expect("a token");
        let (address, signals) = (gateway.address(), gateway.signals());
        let thread = std::thread::spawn(move || gateway.run().expect("the gateway ends well"));
        Self { address, signals, thread, token }
    }

    fn stop(self) {
        self.signals.stop();
        self.thread.join().expect("no panic");
    }

    fn scan(&self, client: &str) -> (u16, String) {
        let body = format!(
            r#"{{"id":"{client}","qr":"001090123456|012345678|NGUYEN VAN A|01011990|Nam|x|15042021","direction":"in"}}"#
        );
        let request = format!(
            "POST /v1/checkins HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.token,
            body.len()
        );
        self.exchange(&request)
    }

    /// A thousand citizens from this number on; returns the answer's text.
    fn batch(&self, from: u32) -> String {
        use std::fmt::Write as _;
        let mut body = String::new();
        for number in from..from + 1_000 {
            let card = format!("001090{number:06}|012345678|NGUYEN VAN A|01011990|Nam|x|15042021");
            writeln!(body, r#"{{"id":"batch-{number}","qr":"{card}"}}"#).expect("a string");
        }
        let request = format!(
            "POST /v1/checkins HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/x-ndjson\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.token,
            body.len()
        );
        self.exchange(&request).1
    }

    fn ready(&self) -> u16 {
        self.exchange("GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").0
    }

    fn exchange(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream.write_all(request.as_bytes()).expect("sends");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answers");
        let status = answer.get(9..12).and_then(|status| status.parse().ok()).expect("a status");
        (status, answer)
    }
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn no_answer_leaves_before_the_fsync_and_a_failed_fsync_fails_original_and_duplicates_alike() {
    let (dir, disk) = (tempfile::tempdir().expect("a directory"), SimDisk::new(1, 1 << 22));
    let gateway = Running::start(dir.path(), &disk);
    disk.set_sync_takes(Duration::from_millis(600));
    disk.fail_sync(0, Fault::Eio);
    let began = Instant::now();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..8)
            .map(|racer| {
                scope.spawn({
                    let gateway = &gateway;
                    move || gateway.scan(&format!("racer-{racer}"))
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().expect("no panic")).collect()
    });
    assert!(began.elapsed() >= Duration::from_millis(600), "somebody was answered before the fsync returned");
    for (status, answer) in &answers {
        assert_eq!(*status, 503, "{answer}");
        assert!(
            answer.contains("journal.poisoned") && answer.to_lowercase().contains("retry-after"),
            "{answer}"
        );
    }
    eventually("readiness turns false", || gateway.ready() == 503);
    disk.set_sync_takes(Duration::ZERO);
    assert_eq!(gateway.scan("later").0, 503, "a poisoned journal is never tried again");
    gateway.stop();

    let gateway = Running::start(dir.path(), &disk.crashed(3));
    let (status, answer) = gateway.scan("racer-0");
    // The failed sync may have reached the disk or not; either way the scan is durable now.
    assert!(status == 201 || status == 200, "{answer}");
    gateway.stop();
}

#[test]
fn a_full_disk_is_a_503_that_passes_when_space_returns() {
    let (dir, disk) = (tempfile::tempdir().expect("a directory"), SimDisk::new(2, 1 << 22));
    let gateway = Running::start(dir.path(), &disk);
    // Room for the first segment, and for nothing that must be written when it is sealed.
    disk.set_capacity(1024 * 1024);
    let mut recorded = 0;
    let refused = (0..30).find_map(|number| {
        let answer = gateway.batch(number * 1_000);
        recorded += answer.matches("\"status\":201").count();
        answer.contains("\"status\":503").then_some((number, answer))
    });
    let (number, answer) = refused.expect("the disk fills");
    assert!(
        answer.contains("journal.disk") && recorded > 5_000,
        "{recorded} were recorded before the disk was full"
    );
    eventually("readiness turns false", || gateway.ready() == 503);
    assert!(
        gateway.batch(0).lines().all(|line| !line.contains("\"status\":503")),
        "a duplicate needs no space"
    );
    disk.set_capacity(1 << 24);
    eventually("the gateway recovers by itself", || gateway.ready() == 200);
    let answer = gateway.batch(number * 1_000);
    let again = answer.matches("\"status\":201").count() + answer.matches("\"status\":200").count();
    assert_eq!(again, 1_000, "what was refused is recorded now");
    assert!(answer.contains("\"status\":201"), "and was not called a duplicate");
    gateway.stop();
}

#[test]
fn the_first_request_after_a_start_knows_everything_from_before() {
    let (dir, disk) = (tempfile::tempdir().expect("a directory"), SimDisk::new(3, 1 << 22));
    let gateway = Running::start(dir.path(), &disk);
    let (status, recorded) = gateway.scan("only");
    assert_eq!(status, 201, "{recorded}");
    let checkin = recorded.split("\"checkin\":\"").nth(1).and_then(|rest| rest.get(..36)).expect("an id");
    // The power fails: nothing of the running process reaches the next one but the disk.
    let left = disk.crashed(7);
    gateway.stop();
    let gateway = Running::start(dir.path(), &left);
    for client in ["only", "another"] {
        let (status, answer) = gateway.scan(client);
        assert_eq!(status, 200, "{answer}");
        assert!(answer.contains(checkin), "{answer} does not name {checkin}");
    }
    gateway.stop();
}
