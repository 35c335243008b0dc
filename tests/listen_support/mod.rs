//! A listener with a small service behind it, on either runtime, and raw sockets to talk to it.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::needless_pass_by_value
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::{Request, Response};
use scangate::listen::body::{self, BodyError};
use scangate::listen::tls::Tls;
use scangate::listen::{self, Answer, Body, Counters, Drain, Handle, Peer, RuntimeChoice, Service, Settings};

/// The largest body that the echo takes.
pub const BODY_BYTES_MAX: usize = 100_000;

/// Both runtimes, or the one that `SCANGATE_TEST_RUNTIME` names. Where io_uring is denied the variable must
/// say so: nothing is skipped in silence.
pub fn runtimes() -> Vec<RuntimeChoice> {
    match std::env::var("SCANGATE_TEST_RUNTIME").as_deref() {
        Ok("epoll") => vec![RuntimeChoice::Epoll],
        Ok("uring") => vec![RuntimeChoice::Uring],
        _ => vec![RuntimeChoice::Uring, RuntimeChoice::Epoll],
    }
}

/// Echoes bodies; some paths take their time or never end.
pub struct Echo;

impl Service for Echo {
    fn call(&self, request: Request<Incoming>, peer: &Peer) -> Answer {
        let tls = peer.tls;
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let method = request.method().clone();
            match path.as_str() {
                "/slow" => tokio::time::sleep(Duration::from_millis(400)).await,
                "/never" => std::future::pending().await,
                "/panic" => panic!("a bug in a service, as the test wants it"),
                "/unread" => return status(403, "unread"),
                "/events" => return Response::new(Body::stream(events())),
                "/large" => return Response::new(Body::from(vec![b'x'; 3_000_000])),
                _ => {}
            }
            match body::read(request.into_body(), BODY_BYTES_MAX).await {
                Ok(bytes) if bytes.is_empty() => status(200, format!("{method} {path} tls={tls}")),
                Ok(bytes) => Response::new(Body::Full(bytes)),
                Err(BodyError::TooLarge { limit_bytes }) => status(413, format!("limit {limit_bytes}")),
                Err(BodyError::Timeout { .. }) => status(408, "late"),
                Err(BodyError::Broken) => status(400, "broken"),
            }
        })
    }
}

fn status(status: u16, text: impl Into<String>) -> Response<Body> {
    Response::builder().status(status).body(Body::from(text.into())).unwrap()
}

fn events() -> impl futures_util::Stream<Item = bytes::Bytes> {
    futures_util::stream::unfold(0u32, |count| async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Some((bytes::Bytes::from(format!("data: {count}\n\n")), count + 1))
    })
}

/// A listener on a free port with one core.
pub struct Server {
    pub address: SocketAddr,
    pub counters: Arc<Counters>,
    handle: Option<Handle>,
}

impl Server {
    pub fn start(runtime: RuntimeChoice, adjust: impl FnOnce(&mut Settings)) -> Self {
        Self::start_with(runtime, None, adjust)
    }

    pub fn start_with(runtime: RuntimeChoice, tls: Option<Tls>, adjust: impl FnOnce(&mut Settings)) -> Self {
        let mut settings =
            Settings { address: ([127, 0, 0, 1], 0).into(), runtime, cores: 1, ..Settings::default() };
        adjust(&mut settings);
        let handle = listen::run(&settings, tls.as_ref(), |_| Echo, Drain::new()).unwrap();
        assert_eq!(handle.runtime().name(), if runtime == RuntimeChoice::Uring { "uring" } else { "epoll" });
        Self { address: handle.address(), counters: handle.counters(), handle: Some(handle) }
    }

    pub fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.set_nodelay(true).unwrap();
        socket
    }

    /// Sends bytes on a new connection and reads until the server closes.
    pub fn exchange(&self, request: &[u8]) -> String {
        let mut socket = self.connect();
        socket.write_all(request).unwrap();
        read_to_close(&mut socket)
    }

    pub fn drain(&self) {
        self.handle.as_ref().unwrap().drain();
    }

    /// Drains and waits for the cores to end.
    pub fn stop(mut self) {
        let handle = self.handle.take().unwrap();
        handle.drain();
        handle.join().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.drain();
            let _ = handle.join();
        }
    }
}

pub fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Waits until `done`, or fails after ten seconds.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(10), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Everything up to the close; a reset counts as one.
pub fn read_to_close(socket: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let mut piece = vec![0; 65536];
    loop {
        match socket.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => all.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("no close: {error}; had {:?}", String::from_utf8_lossy(&all)),
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// One response with a Content-Length: its head and its body.
pub fn read_response(socket: &mut impl Read) -> (String, String) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(socket.read(&mut byte).unwrap(), 1, "closed in {:?}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, value)| value.trim().parse().unwrap());
    let mut body = vec![0; length];
    socket.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}
