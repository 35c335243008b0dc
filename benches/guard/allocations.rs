//! Counts what the gateway's core allocates for a request, with the gateway in this process and a client on
//! a connection that stays open.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use scangate::config::{Config, Runtime};
use scangate::gateway::{Gateway, GatewayError};
use scangate::listen::ListenError;
use scangate::scan::UnixMillis;

use crate::budget::Costs;
use crate::fixture;

/// Threads that are told apart; what later ones allocate is counted together.
const THREADS_MAX: usize = 256;

/// Counts allocations by thread and passes them on to the system.
pub struct Counting;

static COUNTS: [AtomicU64; THREADS_MAX] = [const { AtomicU64::new(0) }; THREADS_MAX];
static THREAD_IDS: [AtomicI32; THREADS_MAX] = [const { AtomicI32::new(0) }; THREADS_MAX];
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Where this thread counts. Without a destructor, so that using it never allocates.
    static SLOT: Cell<usize> = const { Cell::new(usize::MAX) };
}

fn count() {
    let mut slot = SLOT.get();
    if slot == usize::MAX {
        slot = THREADS.fetch_add(1, Ordering::Relaxed).min(THREADS_MAX - 1);
        SLOT.set(slot);
        // SAFETY: takes nothing and can't fail.
        let id = unsafe { libc::gettid() };
        if let Some(thread) = THREAD_IDS.get(slot) {
            thread.store(id, Ordering::Release);
        }
    }
    if let Some(count) = COUNTS.get(slot) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed on to the system allocator unchanged; only a counter is kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's own contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's own contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's own contract.
        unsafe { System.realloc(pointer, layout, new_bytes) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's own contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Allocations so far by every thread called `core-0`: the public listener's core and the admin listener's,
/// which rests.
fn by_core() -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?;
        if fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim_end() == "core-0") {
            let id: i32 = task.file_name().to_string_lossy().parse()?;
            let counts = THREAD_IDS.iter().zip(&COUNTS);
            sum += counts
                .filter(|(thread, _)| thread.load(Ordering::Acquire) == id)
                .map(|(_, count)| count.load(Ordering::Relaxed))
                .sum::<u64>();
        }
    }
    ensure!(sum > 0, "no thread called core-0 has allocated anything");
    Ok(sum)
}

/// What the requests ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// A check-in of its own each time.
    Fresh,
    /// The same one each time.
    Same,
}

impl Load {
    const fn name(self) -> &'static str {
        match self {
            Self::Fresh => "recorded",
            Self::Same => "duplicate",
        }
    }

    const fn status(self) -> &'static str {
        match self {
            Self::Fresh => "HTTP/1.1 201 ",
            Self::Same => "HTTP/1.1 200 ",
        }
    }
}

/// Allocations per request of every stage whose name contains `only`. An injected regression has each
/// client id escaped, which makes its parsing allocate once more.
///
/// The names of stages that can't run here are returned beside them: io_uring may be forbidden.
pub fn measure(only: &str, inject: bool) -> Result<(Costs, Vec<String>)> {
    const REQUESTS: u32 = 1_000;
    let (mut costs, mut skipped) = (Costs::new(), Vec::new());
    for (runtime, runtime_name) in [(Runtime::Epoll, "epoll"), (Runtime::Uring, "uring")] {
        for load in [Load::Same, Load::Fresh] {
            let name = format!("POST, {runtime_name}: {}", load.name());
            if !name.contains(only) {
                continue;
            }
            let Some(mut client) = Client::start(runtime, inject)? else {
                skipped.push(name);
                continue;
            };
            // Until every shelf of tickets has been used, and most maps have their size.
            client.post(load, 5_000)?;
            let before = by_core()?;
            client.post(load, REQUESTS)?;
            let allocations = u32::try_from(by_core()? - before)?;
            costs.insert(name, (f64::from(allocations) * 100.0 / f64::from(REQUESTS)).round() / 100.0);
        }
    }
    Ok((costs, skipped))
}

/// Posts `requests` check-ins to a gateway in this process, for a profiler to watch its core.
pub fn post(runtime: Runtime, load: Load, requests: u32) -> Result<()> {
    match Client::start(runtime, false)? {
        Some(mut client) => client.post(load, requests),
        None => bail!("io_uring is not available here"),
    }
}

/// A connection to a gateway of its own, which is left running until the process ends.
struct Client {
    stream: TcpStream,
    device: String,
    person: String,
    start: UnixMillis,
    next: i64,
    inject: bool,
    answer: Vec<u8>,
    _dir: tempfile::TempDir,
}

impl Client {
    fn start(runtime: Runtime, inject: bool) -> Result<Option<Self>> {
        let dir = tempfile::tempdir()?;
        fixture::write_keys(dir.path())?;
        let Some(address) = serve(dir.path(), runtime)? else { return Ok(None) };
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let now = UnixMillis::now();
        let mut client = Self {
            stream,
            device: fixture::device_token(dir.path(), now)?,
            person: fixture::person_token(dir.path(), now)?,
            // Far enough back for every request to have a window of its own.
            start: UnixMillis((now.seconds() - 172_000) * 1000),
            next: 0,
            inject,
            answer: Vec::new(),
            _dir: dir,
        };
        // The tokens are verified, and the one check-in that `Same` repeats is recorded.
        client.request(Load::Fresh, 0)?;
        Ok(Some(client))
    }

    fn post(&mut self, load: Load, requests: u32) -> Result<()> {
        for _ in 0..requests {
            let number = if load == Load::Fresh {
                self.next += 1;
                self.next
            } else {
                0
            };
            self.request(load, number)?;
        }
        Ok(())
    }

    fn request(&mut self, load: Load, number: i64) -> Result<()> {
        let zero = if self.inject { "\\u0030" } else { "0" };
        let id = format!("{zero}b5c1f0e-7a53-4f0e-9d3c-{number:012}");
        let at = UnixMillis(self.start.0 + number * 2_000);
        let body = fixture::body(&id, &self.person, at);
        let request = format!(
            "POST /v1/checkins HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.device,
            body.len()
        );
        self.stream.write_all(request.as_bytes())?;
        self.answer.clear();
        let mut buffer = [0; 4096];
        loop {
            let read = self.stream.read(&mut buffer)?;
            ensure!(read > 0, "the gateway closed the connection");
            self.answer.extend_from_slice(buffer.get(..read).unwrap_or_default());
            // Every answer is one line of JSON.
            if self.answer.ends_with(b"}\n") {
                break;
            }
        }
        let answer = String::from_utf8_lossy(&self.answer);
        ensure!(answer.starts_with(load.status()), "{load:?} was answered {answer}");
        Ok(())
    }
}

/// Starts a gateway on one core; none if io_uring is asked for and not to be had.
fn serve(data_dir: &Path, runtime: Runtime) -> Result<Option<SocketAddr>> {
    let mut config = Config::default();
    data_dir.clone_into(&mut config.gateway.data_dir);
    config.listen.addr = SocketAddr::from(([127, 0, 0, 1], 0));
    config.listen.admin = SocketAddr::from(([127, 0, 0, 1], 0));
    config.listen.cores = 1;
    config.listen.runtime = runtime;
    config.workers.threads = 1;
    config.limits.device_scans_per_s = 0;
    // So that thousands of check-ins of one person at one place have a window of their own.
    config.deduplicate.window_s = 1;
    // This program is no reader of frames, and nothing here sends any.
    config.frames.enabled = false;
    match Gateway::start(&config) {
        Ok(gateway) => {
            let address = gateway.address();
            std::mem::forget(gateway);
            Ok(Some(address))
        }
        Err(GatewayError::Listen(ListenError::Uring(_))) => Ok(None),
        Err(error) => Err(error).context("the gateway does not start"),
    }
}
