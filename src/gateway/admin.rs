//! The admin listener: metrics, stats, export, drain and reload. Loopback by default; never the public one.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use tokio::sync::mpsc::{self, error::TrySendError};

use super::Shared;
use crate::listen::{Answer, Body, Peer, Service};
use crate::observe::metrics::{self, Endpoint};
use crate::respond::{self, Problem, Rejection};
use crate::scan::{Outcome, UnixMillis};
use crate::store::export::{ExportRange, export};

/// How long an export waits for the store to hold what was durable when it was asked for.
const EXPORT_WAIT_MAX: Duration = Duration::from_secs(30);

/// How often a client that doesn't keep up is looked at again.
const SLOW_CLIENT_PAUSE: Duration = Duration::from_millis(5);

/// Bytes handed to the client at a time, and how many such pieces may wait for it.
const PIECE_BYTES: usize = 64 * 1024;
const PIECES_MAX: usize = 16;

/// The admin listener's service.
pub(super) struct Admin(pub(super) Arc<Shared>);

impl Service for Admin {
    fn call(&self, request: Request<Incoming>, _peer: &Peer) -> Answer {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let began = Instant::now();
            let response = route(&shared, &request).await;
            let counters = shared.metrics.core(shared.admin_core());
            counters.request_done(Endpoint::Admin, response.status().as_u16(), began.elapsed());
            response
        })
    }
}

async fn route(shared: &Arc<Shared>, request: &Request<Incoming>) -> Response<Body> {
    let allowed = match request.uri().path() {
        "/metrics" | "/v1/stats" | "/v1/stats/stream" | "/v1/export" | "/healthz" | "/readyz" => "GET, HEAD",
        "/v1/drain" | "/v1/reload" => "POST",
        _ => return respond::rejected(Rejection::NotFound).map(Body::from),
    };
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if if allowed == "POST" { request.method() != Method::POST } else { !reads } {
        return respond::rejected(Rejection::MethodNotAllowed(allowed)).map(Body::from);
    }
    match request.uri().path() {
        "/metrics" => {
            respond::ok(metrics::CONTENT_TYPE, shared.metrics.render(&shared.sample())).map(Body::from)
        }
        "/v1/stats" => respond::ok(respond::JSON, shared.stats().to_json()).map(Body::from),
        "/v1/stats/stream" => events(Arc::clone(shared)),
        "/v1/export" => checkins(shared, request.uri().query().unwrap_or_default()).await,
        "/readyz" => respond::readiness(&shared.health.readiness()).map(Body::from),
        "/v1/drain" => {
            shared.stop.request();
            respond::accepted("{\"draining\":true}\n").map(Body::from)
        }
        "/v1/reload" => reload(shared).map(Body::from),
        _ => respond::ok(respond::JSON, "{\"live\":true}\n").map(Body::from),
    }
}

/// The stats once a second, until the client goes away or the gateway drains.
fn events(shared: Arc<Shared>) -> Response<Body> {
    let events = stream::unfold((shared, true), |(shared, first)| async move {
        if !first {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let event = Bytes::from(shared.stats().to_event());
        Some((event, (shared, false)))
    });
    respond::ok(respond::EVENTS, Bytes::new()).map(|_| Body::stream(events))
}

fn reload(shared: &Shared) -> Response<Bytes> {
    match shared.reload() {
        Ok(changed) => {
            respond::ok(respond::JSON, format!("{{\"reloaded\":true,\"keys_changed\":{changed}}}\n"))
        }
        Err(error) => {
            tracing::error!(error = %error, "reload failed; what was loaded before stays");
            respond::problem(&Problem::new(Outcome::Malformed, format!("nothing was changed: {error}")))
        }
    }
}

/// Check-ins as NDJSON. Waits for the store to catch up with what was durable at the time of asking, and
/// then streams from a thread of its own, since the embedded store reads by blocking.
async fn checkins(shared: &Arc<Shared>, query: &str) -> Response<Body> {
    let range = match range(shared, query) {
        Ok(range) => range,
        Err(problem) => return respond::problem(&problem).map(Body::from),
    };
    let durable = shared.journal.durable_position();
    let deadline = Instant::now() + EXPORT_WAIT_MAX;
    while !shared.written.reached(durable) {
        if Instant::now() > deadline {
            let problem =
                Problem::new(Outcome::Unavailable, "the store is behind the journal; see /v1/stats");
            return respond::problem(&problem.field("store.lag").retry_after(30)).map(Body::from);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (pieces, received) = mpsc::channel(PIECES_MAX);
    let store = Arc::clone(&shared.store);
    let spawned = std::thread::Builder::new().name("export".to_owned()).spawn(move || {
        let mut out = Pieces { pieces, piece: Vec::with_capacity(PIECE_BYTES) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let done = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
            let summary = runtime.block_on(export(&store, range, &mut out))?;
            out.flush()?;
            Ok(summary)
        });
        match done {
            Ok(summary) => {
                tracing::info!(checkins = summary.checkins, folded = summary.folded, "export done");
            }
            Err(error) => {
                tracing::error!(error = %error, "export broke off");
                out.fail();
            }
        }
    });
    if let Err(error) = spawned {
        tracing::error!(error = %error, "cannot start an export");
        return respond::internal().map(Body::from);
    }
    let body =
        stream::unfold(received, |mut received| async move { Some((received.recv().await?, received)) });
    respond::ok(respond::NDJSON, Bytes::new()).map(|_| Body::stream(body))
}

fn range(shared: &Shared, query: &str) -> Result<ExportRange, Problem> {
    let mut bounds = [None, None];
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = value.replace("%3A", ":").replace("%3a", ":").replace("%2B", "+").replace("%2b", "+");
        match name {
            "from" => bounds[0] = UnixMillis::parse(&value).ok(),
            "to" => bounds[1] = UnixMillis::parse(&value).ok(),
            _ => {}
        }
    }
    let bound = |at: Option<UnixMillis>, field| {
        let detail = "from and to must be RFC 3339 timestamps in UTC, such as 2021-11-24T00:00:00Z";
        at.ok_or_else(|| Problem::new(Outcome::Malformed, detail).field(field))
    };
    let [from, to] = bounds;
    Ok(ExportRange::over(bound(from, "from")?, bound(to, "to")?, shared.widest_window_s))
}

/// Hands what is written to the client, and waits for it where it is slow.
struct Pieces {
    pieces: mpsc::Sender<Bytes>,
    piece: Vec<u8>,
}

impl Pieces {
    /// Ends an export that broke off with a line that no reader can take for a check-in.
    fn fail(&mut self) {
        self.piece.extend_from_slice(b"{\"error\":\"export broke off\"}\n");
        // The client may be what broke it off.
        let _ = self.flush();
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.piece);
        if piece.is_empty() {
            return Ok(());
        }
        // Called from inside the export's own `block_on`, where the channel's blocking send may not be used.
        let mut piece = Bytes::from(piece);
        loop {
            match self.pieces.try_send(piece) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(back)) => piece = back,
                Err(TrySendError::Closed(_)) => return Err(io::ErrorKind::BrokenPipe.into()),
            }
            std::thread::sleep(SLOW_CLIENT_PAUSE);
        }
    }
}
