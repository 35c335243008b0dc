//! Sockets in, requests out: thread per core, one listener each, hyper over io_uring or epoll.
//!
//! # Path of a connection
//!
//! `accept` takes a socket off its core's own listener and gives it one task in `connection`. The
//! task starts *parked*: it holds the socket, a readiness wait and nothing else, so that hundreds of
//! thousands of idle devices cost task state and no buffers. The first byte builds hyper's state over
//! the `stream`; a connection that falls quiet again gives that state back and parks. `limits` owns
//! time: one sweeper a core walks the connections and ends the overdue ones. `http` hands each request
//! to the [`Service`], and [`body`] reads its body up to a limit.
//!
//! **A socket is always shut down before it is dropped.** An io_uring operation keeps the file it waits
//! on alive, so dropping a stream alone leaves the peer with an open connection; shutting down completes
//! the operation, which lets the file go.

mod accept;
mod connection;
mod epoll;
mod http;
mod limits;
mod pool;
mod runtime;
mod stream;
mod uring;

pub mod body;
pub mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use hyper::body::Incoming;
use hyper::{Request, Response};

pub use self::body::Body;
pub use self::runtime::{Runtime, RuntimeChoice};
pub use self::tls::ClientCertificate;
use self::tls::Tls;

/// What a service owes for one request.
pub type Answer = Pin<Box<dyn Future<Output = Response<Body>>>>;

/// Answers requests on one core. Made on that core's thread, it may hold `Rc` and per-core lanes.
pub trait Service: 'static {
    /// Starts on one request. The answer is dropped unfinished when its time is up. A client that showed a
    /// certificate has its [`ClientCertificate`] among the request's extensions.
    fn call(&self, request: Request<Incoming>, peer: &Peer) -> Answer;
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Remote address, the last proxy's if there is one.
    pub address: SocketAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// The core that serves the connection.
    pub core: usize,
}

/// Everything the listener can be told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen; port 0 picks one.
    pub address: SocketAddr,
    /// Which runtime to serve on.
    pub runtime: RuntimeChoice,
    /// Threads, each with its own ring and listener.
    pub cores: usize,
    /// Connections the kernel may queue per listener.
    pub backlog: i32,
    /// Open connections over all cores; one more is accepted and closed at once.
    pub connections_max: usize,
    /// Request line and headers together; more is answered 431.
    pub head_bytes_max: usize,
    /// Number of headers; more is answered 431. hyper keeps up to 100 on the stack, other values cost
    /// an allocation a request.
    pub headers_max: usize,
    /// hyper's read and write buffer per active connection, at least 8,192.
    pub buffer_bytes_max: usize,
    /// From a TLS connection's accept to the end of its handshake.
    pub handshake_timeout_ms: u64,
    /// From a request's first byte to the end of its head.
    pub header_timeout_ms: u64,
    /// From the first wait for a body to its end.
    pub body_timeout_ms: u64,
    /// From the end of a request's head to its response's head.
    pub request_timeout_ms: u64,
    /// Between requests.
    pub idle_timeout_ms: u64,
    /// A write that the peer doesn't take.
    pub write_timeout_ms: u64,
    /// After the last response: how long the peer may keep sending what nobody reads.
    pub linger_timeout_ms: u64,
    /// A quiet HTTP/1.1 connection gives up its buffers after this long.
    pub park_after_ms: u64,
    /// Given to requests in flight when draining; then they are cut off.
    pub drain_timeout_ms: u64,
    /// HTTP/2 only.
    pub http2: Http2Settings,
}

/// Bounds on what one HTTP/2 connection may ask for.
#[derive(Debug, Clone)]
pub struct Http2Settings {
    /// Requests in flight on one connection.
    pub streams_max: u32,
    /// Decoded header list of one request.
    pub header_list_bytes_max: u32,
    /// Streams the peer may reset before they are accepted (CVE-2023-44487), and resets that its
    /// errors may cause, before the connection is closed.
    pub resets_max: usize,
    /// Ping interval; a ping unanswered for as long closes the connection. 0 turns pings off.
    pub keep_alive_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 8080)),
            runtime: RuntimeChoice::Auto,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            backlog: 4096,
            connections_max: 100_000,
            head_bytes_max: 16 * 1024,
            headers_max: 100,
            buffer_bytes_max: 64 * 1024,
            handshake_timeout_ms: 10_000,
            header_timeout_ms: 10_000,
            body_timeout_ms: 15_000,
            request_timeout_ms: 30_000,
            idle_timeout_ms: 75_000,
            write_timeout_ms: 15_000,
            linger_timeout_ms: 1_000,
            park_after_ms: 100,
            drain_timeout_ms: 10_000,
            http2: Http2Settings::default(),
        }
    }
}

impl Default for Http2Settings {
    fn default() -> Self {
        Self { streams_max: 128, header_list_bytes_max: 16 * 1024, resets_max: 64, keep_alive_ms: 20_000 }
    }
}

/// Why the listener didn't start.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is taken, not ours, or not allowed.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// `uring` was asked for by name and the kernel refuses it.
    #[error("io_uring is not available here")]
    Uring(#[source] std::io::Error),
    /// A core's thread could not be started.
    #[error("cannot start the thread of core {core}")]
    Thread {
        /// Which core.
        core: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// A setting is outside its range.
    #[error("{name} must be at least {min}; got {value}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// Its least value.
        min: usize,
        /// The value given.
        value: usize,
    },
}

/// Tells every core of every listener that holds a clone to stop taking connections and finish up.
#[derive(Debug, Clone, Default)]
pub struct Drain(Arc<AtomicBool>);

impl Drain {
    /// A signal not yet given.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the signal; cores see it within one sweep. There is no way back.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether the signal was given.
    pub fn begun(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What the listener counted since it started, over all its cores.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections open now.
    pub open: AtomicU64,
    /// Connections accepted, refused ones included.
    pub accepted: AtomicU64,
    /// Connections closed at once because `connections_max` were open.
    pub refused: AtomicU64,
    /// Times `accept` failed, descriptor exhaustion included.
    pub accept_errors: AtomicU64,
    /// TLS handshakes that failed for another reason than time.
    pub handshake_errors: AtomicU64,
    /// Connections that HTTP itself ended: unparsable requests, resets.
    pub protocol_errors: AtomicU64,
    /// Connections closed in the TLS handshake.
    pub handshake_timeouts: AtomicU64,
    /// Connections closed in the middle of a request's head.
    pub header_timeouts: AtomicU64,
    /// Bodies that did not arrive in time.
    pub body_timeouts: AtomicU64,
    /// Requests that were not answered in time.
    pub request_timeouts: AtomicU64,
    /// Connections closed for want of a request.
    pub idle_timeouts: AtomicU64,
    /// Connections closed because the peer took no bytes.
    pub write_timeouts: AtomicU64,
    /// Connections cut off at the end of a drain.
    pub drain_timeouts: AtomicU64,
}

/// A running listener.
#[derive(Debug)]
pub struct Handle {
    address: SocketAddr,
    runtime: Runtime,
    counters: Arc<Counters>,
    drain: Drain,
    threads: Vec<JoinHandle<()>>,
}

impl Handle {
    /// The address listened on, with the port that the kernel picked.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The runtime in use.
    pub fn runtime(&self) -> Runtime {
        self.runtime
    }

    /// The listener's counters.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Whether every core still runs. One ends before a drain only by a panic.
    pub fn is_running(&self) -> bool {
        !self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Starts draining, as [`Drain::begin`] does.
    pub fn drain(&self) {
        self.drain.begin();
    }

    /// Waits for every core to end; after a drain that is at most `drain_timeout_ms` and a second.
    ///
    /// # Errors
    /// The number of cores that ended by a panic.
    pub fn join(self) -> Result<(), usize> {
        let panicked = self.threads.into_iter().map(JoinHandle::join).filter(Result::is_err).count();
        if panicked == 0 { Ok(()) } else { Err(panicked) }
    }
}

/// Binds one listener a core, then starts the cores. `service` is called once on each core's thread
/// with the core's number.
///
/// # Errors
/// The address can't be bound, io_uring was asked for and isn't there, or a setting is out of range.
pub fn run<S, F>(
    settings: &Settings,
    tls: Option<&Tls>,
    service: F,
    drain: Drain,
) -> Result<Handle, ListenError>
where
    S: Service,
    F: Fn(usize) -> S + Send + Sync + Clone + 'static,
{
    for (name, min, value) in [
        ("cores", 1, settings.cores),
        ("connections_max", 1, settings.connections_max),
        ("head_bytes_max", 256, settings.head_bytes_max),
        ("headers_max", 1, settings.headers_max),
        ("buffer_bytes_max", 8192, settings.buffer_bytes_max),
    ] {
        if value < min {
            return Err(ListenError::Setting { name, min, value });
        }
    }
    let runtime = runtime::choose(settings.runtime)?;
    let bind_error = |source| ListenError::Bind { address: settings.address, source };
    let sockets = accept::bind(settings.address, settings.backlog, settings.cores).map_err(bind_error)?;
    let address =
        sockets.first().and_then(|socket| socket.local_addr().ok()?.as_socket()).unwrap_or(settings.address);
    let counters = Arc::new(Counters::default());
    let mut threads = Vec::with_capacity(sockets.len());
    for (core, socket) in sockets.into_iter().enumerate() {
        let seed = connection::Seed {
            index: core,
            runtime,
            settings: settings.clone(),
            tls: tls.cloned(),
            counters: Arc::clone(&counters),
            drain: drain.clone(),
        };
        let service = service.clone();
        let thread = std::thread::Builder::new()
            .name(format!("core-{core}"))
            .spawn(move || {
                let core = seed.index;
                runtime::block_on(runtime, move || connection::run(seed, socket, service(core)));
            })
            .map_err(|source| {
                // The cores already started must not outlive the refusal.
                drain.begin();
                ListenError::Thread { core, source }
            })?;
        threads.push(thread);
    }
    tracing::info!(%address, runtime = runtime.name(), cores = threads.len(), tls = tls.is_some(), "listening");
    Ok(Handle { address, runtime, counters, drain, threads })
}
