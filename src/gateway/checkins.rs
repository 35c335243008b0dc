//! `POST /v1/checkins`: the path of a scan, top to bottom.
//!
//! ```text
//! authenticate → read → identify (payload, verify, identity) → scan → admit → settle → respond
//! ```
//!
//! A single scan and a batch take the same steps. In a batch each step is taken for all lines before the
//! next one begins, so that its signatures are checked together and its records share one fsync.

use std::borrow::Cow;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Response, Version};

use super::cards;
use super::core::{Arrival, Core};
use super::steps::{authenticate, record, record_all, within_rate};
use crate::authenticate::Device;
use crate::listen::body::{self, BodyError};
use crate::observe::metrics::Endpoint;
use crate::request;
use crate::respond::{self, Problem, Rejection, Verdict};
use crate::scan::Outcome;

/// Answers one request: a single scan or a batch.
pub(super) async fn post(
    core: &Core,
    kind: Option<Endpoint>,
    head: &Parts,
    body: Incoming,
    arrival: Arrival,
) -> Response<Bytes> {
    let device = match authenticate(core, head, arrival.received).await {
        Ok(device) => device,
        Err(problem) => return respond::problem(&problem),
    };
    let declared = head.headers.contains_key(CONTENT_LENGTH) || head.headers.contains_key(TRANSFER_ENCODING);
    if head.version < Version::HTTP_2 && !declared {
        return respond::rejected(Rejection::LengthRequired);
    }
    let Some(kind) = kind else {
        return respond::rejected(Rejection::UnsupportedMediaType("application/json, application/x-ndjson"));
    };
    let body = match read(core, kind, &head.headers, body).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    core.counters().body(body.len());
    let tells_cards = match head.uri.query().map(|query| cards::are_asked_for(query, &device)) {
        None => false,
        Some(Ok(asked)) => asked,
        Some(Err(problem)) => return respond::problem(&problem),
    };
    match kind {
        Endpoint::Batch => Box::pin(batch(core, &device, &body, arrival, tells_cards)).await,
        _ => single(core, &device, &body, arrival, tells_cards).await,
    }
}

async fn single(
    core: &Core,
    device: &Device,
    body: &[u8],
    arrival: Arrival,
    tells_card: bool,
) -> Response<Bytes> {
    let (verdict, id) = match request::single(body, core.shared.limits().payload_bytes_max) {
        Ok(request) => {
            let verdict = match within_rate(core, device, 1, arrival.began) {
                Ok(()) => record(core, device, &request, arrival.received).await,
                Err(problem) => Verdict::Refused(problem),
            };
            (verdict, request.id)
        }
        Err(malformed) => (Verdict::Refused(malformed.into()), Cow::Borrowed("")),
    };
    core.counters().outcome(verdict.outcome());
    let response = respond::single(&verdict, &id);
    if tells_card { cards::with_card(core, response, &verdict, arrival.received) } else { response }
}

async fn batch(
    core: &Core,
    device: &Device,
    body: &[u8],
    arrival: Arrival,
    tells_cards: bool,
) -> Response<Bytes> {
    let limits = core.shared.limits();
    let count = request::lines(body).take(limits.batch_lines_max + 1).count();
    if count > limits.batch_lines_max {
        let (limit, lines) = (limits.batch_lines_max, request::lines(body).count());
        let problem =
            Problem::new(Outcome::TooLarge, format!("a batch may have {limit} lines; this one has {lines}"));
        return respond::problem(
            &problem.bound("limits.batch_lines_max").limit(limit as u64, Some(lines as u64)),
        );
    }
    let scans = u32::try_from(count).unwrap_or(u32::MAX);
    if let Err(problem) = within_rate(core, device, scans, arrival.began) {
        return respond::problem(&problem);
    }
    core.counters().batch(count);
    let mut document = Vec::new();
    let lines = request::batch(&mut document, body, count, limits.payload_bytes_max);
    respond::batch(record_all(core, device, &lines, arrival.received, tells_cards).await)
}

/// Single or batch, by the body's type; the endpoint that metrics count the request under.
pub(super) fn kind(headers: &HeaderMap) -> Option<Endpoint> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        Some(Endpoint::Single)
    } else if essence.eq_ignore_ascii_case("application/x-ndjson") {
        Some(Endpoint::Batch)
    } else {
        None
    }
}

/// Reads the body up to its limit and inflates it up to another.
async fn read(
    core: &Core,
    kind: Endpoint,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Bytes, Response<Bytes>> {
    let limits = core.shared.limits();
    let inflated_max = match kind {
        Endpoint::Single => limits.body_bytes_max.min(limits.batch_inflated_bytes_max),
        _ => limits.batch_inflated_bytes_max,
    };
    let bounds = BodyLimits {
        body: ("limits.body_bytes_max", limits.body_bytes_max),
        inflated: ("limits.batch_inflated_bytes_max", inflated_max),
    };
    read_within(&bounds, headers, body).await
}

/// What a body may measure, each bound with its name in the configuration.
pub(super) struct BodyLimits {
    /// As it arrives.
    pub(super) body: (&'static str, usize),
    /// Inflated.
    pub(super) inflated: (&'static str, usize),
}

/// Reads a body and inflates it, each within its bound.
pub(super) async fn read_within(
    bounds: &BodyLimits,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Bytes, Response<Bytes>> {
    let too_large = |bound, limit: usize| {
        let problem = Problem::new(Outcome::TooLarge, format!("{bound} is {limit}"));
        respond::problem(&problem.bound(bound).limit(limit as u64, None))
    };
    let bytes = body::read(body, bounds.body.1).await.map_err(|error| match error {
        BodyError::TooLarge { limit_bytes } => too_large(bounds.body.0, limit_bytes),
        BodyError::Timeout { limit_ms } => respond::rejected(Rejection::RequestTimeout { limit_ms }),
        BodyError::Broken => {
            respond::problem(&Problem::new(Outcome::Malformed, "the body ended before its end").field("body"))
        }
    })?;
    let encoding = headers.get(CONTENT_ENCODING).map_or(&b"identity"[..], |value| value.as_bytes());
    match super::inflate::inflate(encoding, bytes, bounds.inflated.1) {
        Ok(bytes) => Ok(bytes),
        Err(super::inflate::InflateError::TooLarge { limit }) => Err(too_large(bounds.inflated.0, limit)),
        Err(super::inflate::InflateError::Unsupported) => {
            Err(respond::rejected(Rejection::UnsupportedEncoding("gzip, zstd")))
        }
        Err(super::inflate::InflateError::Corrupt) => {
            let detail = "the body does not inflate by its Content-Encoding";
            Err(respond::problem(&Problem::new(Outcome::Malformed, detail).field("body")))
        }
    }
}
