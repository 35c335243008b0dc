//! A check-in from the socket to the durable answer and back: the gateway as it ships, in this process, on one core,
//! and a client on one connection that stays open.
//!
//! `cargo bench --bench end_to_end`. A single POST waits for an fsync of its own, which is most of its time: `TMPDIR`
//! chooses the disk. The stages by themselves are `request`, `payload`, `verify` (signature and token cache),
//! `authenticate`, `deduplicate`, `links`, `journal` and `store`; what a request costs in CPU when many share an
//! fsync is measured by `scangate-loadtest compare`.
#![allow(missing_docs)] // The macros below make public items.
#![allow(clippy::unwrap_used)] // A bench whose gateway doesn't answer has nothing to say.

#[allow(dead_code)] // The guard uses the rest.
#[path = "guard/fixture.rs"]
mod fixture;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use scangate::config::{Config, Runtime};
use scangate::gateway::{Gateway, GatewayError};
use scangate::issue::{self, PRINTED_TTL};
use scangate::listen::ListenError;
use scangate::scan::UnixMillis;

/// People whose codes are scanned in turns.
const PEOPLE: usize = 64;
/// Between two scans of one person, beyond the window of a second.
const STEP_MS: i64 = 2_000;
const BATCH_LINES: usize = 100;

struct Client {
    stream: TcpStream,
    device: String,
    codes: Vec<String>,
    start_ms: i64,
    scans: usize,
    answer: Vec<u8>,
    // In this order: the gateway ends before its directory goes.
    _gateway: Gateway,
    _dir: tempfile::TempDir,
}

impl Client {
    /// None where io_uring is asked for and can't be had.
    fn start(runtime: Runtime) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        fixture::write_keys(dir.path()).unwrap();
        let now = UnixMillis::now();
        let person = |number| format!("person-{number}");
        let codes = (0..PEOPLE)
            .map(|number| issue::issue_person(dir.path(), &person(number), PRINTED_TTL, now).unwrap())
            .collect();
        let mut config = Config::default();
        dir.path().clone_into(&mut config.gateway.data_dir);
        config.listen.addr = SocketAddr::from(([127, 0, 0, 1], 0));
        config.listen.admin = SocketAddr::from(([127, 0, 0, 1], 0));
        config.listen.cores = 1;
        config.listen.runtime = runtime;
        config.workers.threads = 1;
        config.limits.device_scans_per_s = 0;
        config.deduplicate.window_s = 1;
        // This program is no reader of frames, and nothing here sends any.
        config.frames.enabled = false;
        let gateway = match Gateway::start(&config) {
            Err(GatewayError::Listen(ListenError::Uring(_))) => return None,
            started => started.unwrap(),
        };
        let stream = TcpStream::connect(gateway.address()).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut client = Self {
            stream,
            device: fixture::device_token(dir.path(), now).unwrap(),
            codes,
            start_ms: now.0 - 172_000_000,
            scans: 0,
            answer: Vec::new(),
            _gateway: gateway,
            _dir: dir,
        };
        // All codes are known from here on.
        for _ in 0..PEOPLE {
            client.single();
        }
        Some(client)
    }

    fn next_line(&mut self) -> String {
        let number = self.scans;
        self.scans += 1;
        let rounds = i64::try_from(number / PEOPLE).unwrap();
        let code = self.codes.get(number % PEOPLE).unwrap();
        fixture::body(&format!("scan-{number}"), code, UnixMillis(self.start_ms + rounds * STEP_MS))
    }

    fn single(&mut self) {
        let body = self.next_line();
        self.post("application/json", &body);
        assert!(self.answer.starts_with(b"HTTP/1.1 201 "), "{}", String::from_utf8_lossy(&self.answer));
    }

    fn batch(&mut self) {
        let body: String = (0..BATCH_LINES).map(|_| self.next_line() + "\n").collect();
        self.post("application/x-ndjson", &body);
        let recorded = memchr::memmem::find_iter(&self.answer, br#""status":201"#).count();
        assert_eq!(recorded, BATCH_LINES, "{}", String::from_utf8_lossy(&self.answer));
    }

    fn post(&mut self, kind: &str, body: &str) {
        let head = format!(
            "POST /v1/checkins HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\n\r\n",
            self.device,
            body.len()
        );
        self.stream.write_all((head + body).as_bytes()).unwrap();
        self.answer.clear();
        let mut buffer = [0; 16_384];
        while !self.is_whole() {
            let read = self.stream.read(&mut buffer).unwrap();
            assert!(read > 0, "the gateway closed the connection");
            self.answer.extend_from_slice(buffer.get(..read).unwrap());
        }
    }

    fn is_whole(&self) -> bool {
        let Some(end) = memchr::memmem::find(&self.answer, b"\r\n\r\n") else { return false };
        let head = String::from_utf8_lossy(self.answer.get(..end).unwrap()).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        self.answer.len() == end + 4 + length.parse::<usize>().unwrap()
    }
}

fn end_to_end(criterion: &mut Criterion) {
    for (runtime, name) in [(Runtime::Epoll, "epoll"), (Runtime::Uring, "uring")] {
        let Some(mut client) = Client::start(runtime) else {
            eprintln!("end_to_end: io_uring is not available here");
            continue;
        };
        let mut group = criterion.benchmark_group(format!("end_to_end/{name}"));
        group.throughput(Throughput::Elements(1));
        group.bench_function("single", |bencher| bencher.iter(|| client.single()));
        group.throughput(Throughput::Elements(BATCH_LINES as u64));
        group.bench_function("batch_of_100", |bencher| bencher.iter(|| client.batch()));
        group.finish();
    }
}

criterion_group!(benches, end_to_end);
criterion_main!(benches);
