//! The admin listener: metrics, stats, export, links, drain and reload. Loopback by default; never the public one.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use tokio::sync::mpsc::{self, error::TrySendError};

use super::{Shared, core, links};
use crate::listen::{Answer, Body, Peer, Service};
use crate::observe::metrics::{self, Endpoint};
use crate::pages;
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
            let is_head = request.method() == Method::HEAD;
            let response = route(&shared, request).await;
            let counters = shared.metrics.core(shared.admin_core());
            counters.request_done(Endpoint::Admin, response.status().as_u16(), began.elapsed());
            if is_head { core::without_body(response) } else { response }
        })
    }
}

async fn route(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let allowed = match request.uri().path() {
        "/metrics" | "/v1/stats" | "/v1/stats/stream" | "/v1/export" | "/healthz" | "/readyz" => "GET, HEAD",
        "/v1/drain" | "/v1/reload" => "POST",
        "/v1/links" => "GET, HEAD, POST",
        path if pages::status(path).is_some() => "GET, HEAD",
        _ => return respond::rejected(Rejection::NotFound).map(Body::from),
    };
    if !allowed.split(", ").any(|method| method == request.method().as_str()) {
        return respond::rejected(Rejection::MethodNotAllowed(allowed)).map(Body::from);
    }
    match request.uri().path() {
        "/metrics" => {
            respond::ok(metrics::CONTENT_TYPE, shared.metrics.render(&shared.sample())).map(Body::from)
        }
        "/v1/stats" => respond::ok(respond::JSON, shared.stats().to_json() + "\n").map(Body::from),
        "/v1/stats/stream" => events(Arc::clone(shared)),
        "/v1/export" => checkins(shared, &request).await,
        "/v1/links" if request.method() == Method::POST => links::post(shared, request).await.map(Body::from),
        "/v1/links" => links::get(shared, &request).await.map(Body::from),
        "/readyz" => respond::readiness(&shared.health.readiness()).map(Body::from),
        "/v1/drain" => {
            shared.stop.request();
            respond::accepted("{\"draining\":true}\n").map(Body::from)
        }
        "/v1/reload" => reload(shared).map(Body::from),
        "/healthz" => core::alive().map(Body::from),
        path => match pages::status(path) {
            Some(file) => file.answer(request.headers()).map(Body::from),
            None => respond::rejected(Rejection::NotFound).map(Body::from),
        },
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
            tracing::error!(error = %format_args!("{error:#}"), "reload failed; what doesn't load stays as it was");
            respond::rejected(Rejection::ReloadFailed)
        }
    }
}

/// Check-ins as NDJSON. Waits for the store to catch up with what was durable at the time of asking, and
/// then streams from a thread of its own, since the embedded store reads by blocking.
async fn checkins(shared: &Arc<Shared>, request: &Request<Incoming>) -> Response<Body> {
    let (from, to) = match range(request.uri().query().unwrap_or_default()) {
        Ok(range) => range,
        Err(problem) => return respond::problem(&problem).map(Body::from),
    };
    if request.method() == Method::HEAD {
        return respond::ok(respond::NDJSON, Bytes::new()).map(|_| Body::stream(stream::empty()));
    }
    let range = ExportRange::over(from, to, shared.widest_window_s);
    let durable = shared.journal.durable_position();
    let deadline = Instant::now() + EXPORT_WAIT_MAX;
    while !shared.written.reached(durable) {
        if Instant::now() > deadline {
            let problem =
                Problem::new(Outcome::Unavailable, "the store is behind the journal; see /v1/stats");
            return respond::problem(&problem.bound("store.lag").retry_after(30)).map(Body::from);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (pieces, received) = mpsc::channel(PIECES_MAX);
    let (store, table) = (Arc::clone(&shared.store), Arc::clone(shared));
    let spawned = std::thread::Builder::new().name("export".to_owned()).spawn(move || {
        let mut out = Pieces { pieces, piece: Vec::with_capacity(PIECE_BYTES) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let done = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
            let summary =
                runtime.block_on(export(&store, range, &|own| Ok(table.links.citizen_of(own)), &mut out))?;
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

/// The event times of an export. A parameter that isn't known or comes twice is refused: a misspelt `to`
/// must not quietly become another export.
fn range(query: &str) -> Result<(UnixMillis, UnixMillis), Problem> {
    // A query's + is itself (RFC 3986), not a form's space: offsets such as +07:00 are written with it.
    let query = query.replace('+', "%2B");
    let (mut from, mut to) = (None, None);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let (field, bound) = match name.as_ref() {
            "from" => ("from", &mut from),
            "to" => ("to", &mut to),
            _ => {
                return Err(Problem::new(Outcome::Malformed, "the query may hold from and to").field("query"));
            }
        };
        let at = UnixMillis::parse(&value)
            .map_err(|error| Problem::new(Outcome::Malformed, format!("{field} {error}")).field(field))?;
        if bound.replace(at).is_some() {
            let problem = Problem::new(Outcome::Malformed, format!("{field} may be given once"));
            return Err(problem.field(field));
        }
    }
    let required = |bound: Option<UnixMillis>, field: &'static str| {
        let missing = || Problem::new(Outcome::Malformed, format!("{field} is required")).field(field);
        bound.ok_or_else(missing)
    };
    Ok((required(from, "from")?, required(to, "to")?))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::respond::Concern;

    #[test]
    fn a_range_is_read_however_it_is_encoded() {
        let expected = ("2021-11-23T17:00:00.000Z", "2021-11-24T17:00:00.500Z");
        for query in [
            "from=2021-11-23T17:00:00Z&to=2021-11-24T17:00:00.5Z",
            "to=2021-11-25T00:00:00.5+07:00&from=2021-11-24T00:00:00+07:00",
            "from=2021-11-24T00%3A00%3a00%2B07%3A00&&%74o=2021-11-25T00%3a00:00.500%2b07:00&",
        ] {
            let (from, to) = range(query).expect(query);
            assert_eq!((from.to_string().as_str(), to.to_string().as_str()), expected, "{query}");
        }
    }

    #[test]
    fn a_wrong_parameter_is_named() {
        for (query, field) in [
            ("", "from"),
            ("to=2021-11-24T00:00:00Z", "from"),
            ("from=2021-11-24T00:00:00Z", "to"),
            ("from=2021-11-24T00:00:00Z&to=", "to"),
            ("from=yesterday&to=2021-11-24T00:00:00Z", "from"),
            ("from=1969-12-31T23:59:59Z&to=2021-11-24T00:00:00Z", "from"),
            ("from=2021-11-24T00:00:00Z&to=2021-11-24T00:00:00Z&to=2021-11-25T00:00:00Z", "to"),
            ("from=2021-11-24T00:00:00Z&to=2021-11-24T00:00:00Z&till=x", "query"),
            ("from=%ff&to=2021-11-24T00:00:00Z", "from"),
        ] {
            let problem = range(query).expect_err(query);
            assert_eq!(problem.concern, Some(Concern::Field(field)), "{query}");
        }
    }
}
