//! One core: its accept task, its sweeps, and one task a connection.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio_rustls::TlsAcceptor;

use super::accept::{self, Listener};
use super::http::{self, Dispatch, LocalExecutor};
use super::limits::{self, Phase, Registry, SWEEP_MS, Watch};
use super::pool::Trim;
use super::stream::{Socket, Stream, Wire};
use super::tls::{self, Tls};
use super::uring::SharedFd;
use super::{Counters, Drain, Peer, Runtime, Service, Settings, epoll, uring};

/// What a core is made from, sent to its thread.
pub(super) struct Seed {
    pub(super) index: usize,
    pub(super) runtime: Runtime,
    pub(super) settings: Settings,
    pub(super) tls: Option<Tls>,
    pub(super) counters: Arc<Counters>,
    pub(super) drain: Drain,
}

struct Core<S> {
    seed: Seed,
    service: Rc<S>,
    registry: Registry,
    http1: http1::Builder,
    http2: http2::Builder<LocalExecutor>,
}

/// Serves one core until it has drained.
pub(super) async fn run<S: Service>(seed: Seed, socket: socket2::Socket, service: S) {
    let listener = match Listener::new(seed.runtime, socket) {
        Ok(listener) => Rc::new(listener),
        Err(error) => return tracing::error!(%error, core = seed.index, "a core could not listen"),
    };
    limits::enter_core(seed.settings.body_timeout_ms, Arc::clone(&seed.counters));
    let core = Rc::new(Core {
        service: Rc::new(service),
        registry: Registry::default(),
        http1: http::http1(&seed.settings),
        http2: http::http2(&seed.settings),
        seed,
    });
    let accepting = tokio::task::spawn_local(accept_all(Rc::clone(&core), Rc::clone(&listener)));
    core.sweep_until_drained(&listener).await;
    // Its listener is shut down, so this ends at once; dropped while pending it would lose a connection.
    let _ = accepting.await;
}

/// After the drain's time is up, the cut-off tasks get this long to notice.
const CUT_OFF_MS: u64 = 1_000;

impl<S: Service> Core<S> {
    async fn sweep_until_drained(self: &Rc<Self>, listener: &Listener) {
        let started = Instant::now();
        let mut sweeps = tokio::time::interval(Duration::from_millis(SWEEP_MS));
        sweeps.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut draining_since_ms = None;
        let mut trim = Trim::default();
        loop {
            sweeps.tick().await;
            // From 1, so that 0 can mean never.
            let now_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1);
            let active = self.registry.sweep(now_ms, &self.seed.settings, &self.seed.counters);
            trim.after_sweep(active, now_ms);
            if !self.seed.drain.begun() {
                continue;
            }
            let since_ms = *draining_since_ms.get_or_insert_with(|| {
                self.stop_accepting(listener);
                now_ms
            });
            self.registry.drain();
            let over_ms = now_ms.saturating_sub(since_ms + self.seed.settings.drain_timeout_ms);
            if self.registry.len() == 0 || over_ms > CUT_OFF_MS {
                return;
            }
            if over_ms > 0 {
                self.registry.expire_all(&self.seed.counters);
            }
        }
    }

    /// Takes what is queued, so that no client that has connected is reset, and then closes the listener.
    fn stop_accepting(self: &Rc<Self>, listener: &Listener) {
        while let Some(fd) = listener.accept_queued() {
            self.admit(fd);
        }
        listener.close();
    }

    /// Gives a new connection a task, or closes it if there are enough.
    fn admit(self: &Rc<Self>, fd: OwnedFd) {
        let counters = &self.seed.counters;
        counters.accepted.fetch_add(1, Ordering::Relaxed);
        let limit = u64::try_from(self.seed.settings.connections_max).unwrap_or(u64::MAX);
        if counters.open.fetch_add(1, Ordering::Relaxed) >= limit {
            counters.open.fetch_sub(1, Ordering::Relaxed);
            counters.refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let phase = if self.seed.tls.is_some() { Phase::Handshake } else { Phase::Parked };
        let fd = Rc::new(fd);
        let watch = self.registry.add(Rc::clone(&fd), phase);
        let entry = Entry { core: Rc::clone(self), watch };
        tokio::task::spawn_local(serve(entry, fd));
    }
}

/// Accepts until the listener is shut down. Runs to its end: see [`Listener::accept`].
async fn accept_all<S: Service>(core: Rc<Core<S>>, listener: Rc<Listener>) {
    loop {
        match listener.accept().await {
            Ok(fd) => core.admit(fd),
            Err(_) if core.seed.drain.begun() => return,
            Err(error) => {
                core.seed.counters.accept_errors.fetch_add(1, Ordering::Relaxed);
                if let Some(pause) = accept::pause_after(&error) {
                    tracing::warn!(%error, core = core.seed.index, "accept failed");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}

/// A connection's place on its core, given up on drop.
struct Entry<S> {
    core: Rc<Core<S>>,
    watch: Rc<Watch>,
}

impl<S> Drop for Entry<S> {
    fn drop(&mut self) {
        self.core.registry.remove(&self.watch);
        self.core.seed.counters.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One connection from accept to close. What is large lives in boxes that exist only while they are needed,
/// so that a parked connection costs little more than this future.
async fn serve<S: Service>(entry: Entry<S>, fd: SharedFd) {
    let core = &entry.core;
    let Ok(address) = accept::peer_address(&fd) else { return };
    let peer = Peer { address, tls: core.seed.tls.is_some(), core: core.seed.index };
    let Ok(socket) = open(core.seed.runtime, fd) else { return };
    let mut stream = match &core.seed.tls {
        None => Stream::Plain(socket),
        Some(tls) => match Box::pin(handshake(&entry, tls, socket)).await {
            Some(stream) => stream,
            None => return,
        },
    };
    let mut protocol = protocol_agreed(&stream);
    let mut prefix = Bytes::new();
    // The end of a handshake may have brought the first request with it, which the socket won't tell.
    let mut may_hold_bytes = peer.tls;
    loop {
        if !may_hold_bytes && !park(&entry.watch, &mut stream).await {
            return;
        }
        core.registry.stir(&entry.watch);
        let active = Box::pin(active(&entry, peer, protocol, stream, prefix));
        let Some((parked, unused)) = active.await else { return };
        // Only HTTP/1.1 comes back.
        (stream, prefix, protocol) = (parked, unused, Protocol::Http1);
        may_hold_bytes = !prefix.is_empty();
    }
}

fn open(runtime: Runtime, fd: SharedFd) -> io::Result<Socket> {
    match runtime {
        Runtime::Uring => Ok(Socket::Uring(uring::Socket::new(fd))),
        Runtime::Epoll => epoll::Socket::new(&fd).map(Socket::Epoll),
    }
}

async fn handshake<S: Service>(entry: &Entry<S>, tls: &Tls, socket: Socket) -> Option<Stream> {
    let mut accept = TlsAcceptor::from(tls.current()).accept(socket);
    let accepted = poll_fn(|cx| {
        entry.watch.listen(cx);
        if entry.watch.expired() {
            return Poll::Ready(None);
        }
        Pin::new(&mut accept).poll(cx).map(Some)
    });
    match accepted.await? {
        Ok(stream) => {
            entry.watch.enter(Phase::Idle);
            Some(Stream::Tls(Box::new(stream)))
        }
        Err(_) if entry.watch.expired() => None,
        Err(error) => {
            entry.core.seed.counters.handshake_errors.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%error, "tls handshake failed");
            None
        }
    }
}

#[derive(Clone, Copy)]
enum Protocol {
    /// To be told from the first bytes.
    Unknown,
    Http1,
    Http2,
}

fn protocol_agreed(stream: &Stream) -> Protocol {
    let Stream::Tls(tls) = stream else { return Protocol::Unknown };
    match tls.get_ref().1.alpn_protocol() {
        Some(b"h2") => Protocol::Http2,
        Some(b"http/1.1") => Protocol::Http1,
        _ => Protocol::Unknown,
    }
}

/// Waits for the next bytes holding nothing but the socket; false when the connection is to end.
async fn park(watch: &Watch, stream: &mut Stream) -> bool {
    watch.continue_as(Phase::Parked);
    let readable = poll_fn(|cx| {
        watch.listen(cx);
        // Bytes first: a request that came before the drain is still answered.
        match stream.poll_readable(cx) {
            Poll::Ready(readable) => Poll::Ready(readable.is_ok() && !watch.expired()),
            Poll::Pending if watch.expired() || watch.draining() => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    });
    let go_on = readable.await;
    watch.continue_as(Phase::Idle);
    go_on
}

/// Serves requests until the connection ends or falls quiet; a quiet one comes back with the bytes that
/// hyper had read too many.
async fn active<S: Service>(
    entry: &Entry<S>,
    peer: Peer,
    mut protocol: Protocol,
    stream: Stream,
    prefix: Bytes,
) -> Option<(Stream, Bytes)> {
    let Entry { core, watch } = entry;
    let certificate = tls::client_certificate(&stream);
    let mut wire = Wire { prefix, stream, watch: Rc::clone(watch), ended: false };
    if let Protocol::Unknown = protocol {
        protocol = sniff(&mut wire).await?;
    }
    let dispatch = Dispatch {
        service: Rc::clone(&core.service),
        peer,
        certificate,
        watch: Rc::clone(watch),
        request_timeout_ms: core.seed.settings.request_timeout_ms,
        counters: Arc::clone(&core.seed.counters),
    };
    match protocol {
        Protocol::Unknown | Protocol::Http1 => serve_http1(entry, wire, dispatch).await,
        Protocol::Http2 => {
            serve_http2(entry, wire, dispatch).await;
            None
        }
    }
}

/// What an HTTP/2 client says first, and no HTTP/1.1 client can.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Tells HTTP/2 from HTTP/1.1 by as many first bytes as it takes, and puts them back.
async fn sniff(wire: &mut Wire) -> Option<Protocol> {
    let watch = Rc::clone(&wire.watch);
    let mut seen = Vec::with_capacity(HTTP2_PREFACE.len());
    while seen.len() < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(&seen) {
        let mut rest = (&mut *wire).take(u64::try_from(HTTP2_PREFACE.len() - seen.len()).unwrap_or(0));
        let mut reading = pin!(rest.read_buf(&mut seen));
        let read = poll_fn(|cx| {
            watch.listen(cx);
            if watch.expired() || watch.draining() { Poll::Ready(Ok(0)) } else { reading.as_mut().poll(cx) }
        });
        if read.await.ok()? == 0 {
            return None;
        }
    }
    let protocol = if seen == HTTP2_PREFACE { Protocol::Http2 } else { Protocol::Http1 };
    wire.rewind(seen.into());
    Some(protocol)
}

enum Http1End {
    Quiet,
    Expired,
    Done(hyper::Result<()>),
}

async fn serve_http1<S: Service>(
    entry: &Entry<S>,
    wire: Wire,
    dispatch: Dispatch<S>,
) -> Option<(Stream, Bytes)> {
    let watch = &entry.watch;
    let mut connection = entry.core.http1.serve_connection(TokioIo::new(wire), dispatch);
    let mut told_to_drain = false;
    let end = poll_fn(|cx| {
        watch.listen(cx);
        if watch.expired() {
            return Poll::Ready(Http1End::Expired);
        }
        loop {
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Http1End::Done(result));
            }
            // Told while no request is under way, hyper closes at once: so bytes first, and a head that
            // has begun to arrive may still do so.
            if !watch.draining() || watch.reads_head() || std::mem::replace(&mut told_to_drain, true) {
                break;
            }
            Pin::new(&mut connection).graceful_shutdown();
        }
        if watch.may_park() { Poll::Ready(Http1End::Quiet) } else { Poll::Pending }
    });
    match end.await {
        Http1End::Expired => None,
        Http1End::Quiet => {
            let parts = connection.into_parts();
            let mut wire = parts.io.into_inner();
            wire.rewind(parts.read_buf);
            Some((wire.stream, wire.prefix))
        }
        Http1End::Done(result) => {
            if let Err(error) = &result
                && !error.is_incomplete_message()
            {
                entry.core.seed.counters.protocol_errors.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%error, "connection ended");
            }
            let wire = connection.into_parts().io.into_inner();
            linger(watch, wire).await;
            None
        }
    }
}

async fn serve_http2<S: Service>(entry: &Entry<S>, wire: Wire, dispatch: Dispatch<S>) {
    let watch = &entry.watch;
    watch.set_http2();
    watch.enter(Phase::Idle);
    let mut connection = pin!(entry.core.http2.serve_connection(TokioIo::new(wire), dispatch));
    let mut told_to_drain = false;
    let end = poll_fn(|cx| {
        watch.listen(cx);
        if watch.expired() {
            return Poll::Ready(Ok(()));
        }
        if watch.draining() && !std::mem::replace(&mut told_to_drain, true) {
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    });
    if let Err(error) = end.await {
        entry.core.seed.counters.protocol_errors.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%error, "connection ended");
    }
}

/// Read and thrown away after the last response, at most.
const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// Lets the peer take the last response before the socket goes: closing it with bytes unread would reset
/// the connection, and a reset can overtake a 413 on its way out.
async fn linger(watch: &Watch, mut wire: Wire) {
    watch.enter(Phase::Linger);
    let mut discarded = 0;
    let mut scratch = vec![0; 4096];
    while !wire.ended && discarded < LINGER_BYTES_MAX {
        let mut reading = pin!(wire.read(&mut scratch));
        let read = poll_fn(|cx| if watch.expired() { Poll::Ready(Ok(0)) } else { reading.as_mut().poll(cx) });
        match read.await {
            Ok(0) | Err(_) => return,
            Ok(read) => discarded += read,
        }
    }
}
