//! Verdicts into HTTP: the only place that names status codes. No await, no I/O.
//!
//! A 201 can't be built without [`Durable`], which only the journal hands out, and only after fsync.
//! Everything that isn't a success is RFC 9457 problem+json with the outcome's stable name, and the
//! field or bound, the limit and the value where there are any.

mod admin;
mod card;
mod feed;
mod refused;
mod rejection;

use std::borrow::Cow;
use std::io::Write as _;

use bytes::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::deduplicate::Original;
use crate::journal::Durable;
use crate::observe::health::Readiness;
use crate::request::Malformed;
use crate::scan::{Checkin, Outcome, Refusal, Scan};

pub use admin::denied;
pub use card::{Card, append_card};
pub use feed::{feed_state, feed_summary};
pub use refused::{Cause, Refused, created, created_json, json, refused};
pub use rejection::{Rejection, rejected};

/// `Content-Type` of every refusal (RFC 9457).
pub const PROBLEM_JSON: &str = "application/problem+json";
/// `Content-Type` of a batch's answer.
pub const NDJSON: &str = "application/x-ndjson";
/// `Content-Type` of everything else that is JSON.
pub const JSON: &str = "application/json";
/// `Content-Type` of server-sent events.
pub const EVENTS: &str = "text/event-stream";
/// `Content-Type` of maps (RFC 7946).
pub const GEO_JSON: &str = "application/geo+json";

/// How one scan ended, with all that its answer says.
#[derive(Debug)]
#[must_use]
pub enum Verdict {
    /// New, and on disk.
    Recorded {
        /// What was recorded.
        checkin: Checkin,
        /// That it is on disk.
        proof: Durable,
    },
    /// The original is on disk.
    Duplicate {
        /// The scan that repeats it.
        scan: Scan,
        /// The check-in that it repeats.
        original: Original,
        /// That the original is on disk.
        proof: Durable,
    },
    /// Refused.
    Refused(Problem),
}

impl Verdict {
    /// Its stable name.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Recorded { .. } => Outcome::Recorded,
            Self::Duplicate { .. } => Outcome::Duplicate,
            Self::Refused(problem) => problem.outcome,
        }
    }
}

/// Why a scan or a request was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The stable name.
    pub outcome: Outcome,
    /// For people: names the rule, never the payload.
    pub detail: Cow<'static, str>,
    /// What is wrong, or was reached.
    pub concern: Option<Concern>,
    /// The limit that was passed.
    pub limit: Option<u64>,
    /// The value that passed it.
    pub value: Option<u64>,
    /// When to try again, in seconds.
    pub retry_after_s: Option<u32>,
    /// Whether a token was given, and was no good.
    pub invalid_token: bool,
}

/// What a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concern {
    /// A field, header, claim or parameter of the request: another request would do.
    Field(&'static str),
    /// A limit of the gateway, by its name in the configuration: the same request may do later, or
    /// under another configuration.
    Bound(&'static str),
}

impl Concern {
    const fn field(self) -> Option<&'static str> {
        match self {
            Self::Field(name) => Some(name),
            Self::Bound(_) => None,
        }
    }

    const fn bound(self) -> Option<&'static str> {
        match self {
            Self::Field(_) => None,
            Self::Bound(name) => Some(name),
        }
    }
}

impl Problem {
    /// A refusal with its reason.
    pub fn new(outcome: Outcome, detail: impl Into<Cow<'static, str>>) -> Self {
        let retry_after_s = is_transient(outcome).then_some(RETRY_AFTER_S);
        let detail = detail.into();
        Self { outcome, detail, concern: None, limit: None, value: None, retry_after_s, invalid_token: false }
    }

    /// Names the field, header, claim or parameter that is wrong.
    #[must_use]
    pub fn field(mut self, name: &'static str) -> Self {
        self.concern = Some(Concern::Field(name));
        self
    }

    /// Names the limit of the gateway that was reached.
    #[must_use]
    pub fn bound(mut self, name: &'static str) -> Self {
        self.concern = Some(Concern::Bound(name));
        self
    }

    /// Names the limit's value, and the value that passed it where it is known.
    #[must_use]
    pub fn limit(mut self, limit: u64, value: Option<u64>) -> Self {
        self.limit = Some(limit);
        self.value = value;
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// Says that a token was given and was no good (RFC 6750, `invalid_token`).
    #[must_use]
    pub fn invalid_token(mut self, given: bool) -> Self {
        self.invalid_token = given;
        self
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.outcome, refusal.detail)
    }
}

impl From<Malformed> for Problem {
    fn from(malformed: Malformed) -> Self {
        let problem = Self::new(Outcome::Malformed, malformed.to_string()).field(malformed.field);
        match malformed.excess {
            Some(excess) => problem.limit(excess.limit, Some(excess.value)),
            None => problem,
        }
    }
}

/// When to try again where nothing better is known. A commit takes milliseconds, so that what is full
/// now has room in a second.
const RETRY_AFTER_S: u32 = 1;

/// Whether the same request may do later: exactly the outcomes of 429 and 503.
const fn is_transient(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::RateLimited | Outcome::Overloaded | Outcome::Unavailable)
}

/// The one translation of outcomes into status codes.
pub const fn status(outcome: Outcome) -> StatusCode {
    match outcome {
        Outcome::Recorded => StatusCode::CREATED,
        Outcome::Duplicate => StatusCode::OK,
        Outcome::Unrecognized
        | Outcome::PaymentCode
        | Outcome::BadSignature
        | Outcome::UnknownKey
        | Outcome::Expired
        | Outcome::NotYetValid
        | Outcome::Revoked
        | Outcome::InconsistentIdentity
        | Outcome::ChunkedCode
        | Outcome::WrongSubject
        | Outcome::ClockSkew
        | Outcome::NoCodeFound => StatusCode::UNPROCESSABLE_ENTITY,
        Outcome::Malformed => StatusCode::BAD_REQUEST,
        Outcome::Unauthenticated => StatusCode::UNAUTHORIZED,
        Outcome::Forbidden => StatusCode::FORBIDDEN,
        Outcome::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Outcome::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Outcome::Overloaded | Outcome::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// The answer to a single scan.
pub fn single(verdict: &Verdict, client_id: &str) -> Response<Bytes> {
    match verdict {
        Verdict::Recorded { .. } | Verdict::Duplicate { .. } => {
            let mut body = Vec::with_capacity(320);
            body.push(b'{');
            write_success(&mut body, verdict, client_id);
            body.extend_from_slice(b"}\n");
            answer(status(verdict.outcome()), JSON_VALUE.clone(), body.into())
        }
        Verdict::Refused(refused) => problem(refused),
    }
}

/// One line of a batch's answer, appended to `body`. `line` counts from 1.
pub fn batch_line(body: &mut Vec<u8>, line: usize, verdict: &Verdict, client_id: &str) {
    let mut digits = itoa::Buffer::new();
    body.extend_from_slice(b"{\"line\":");
    body.extend_from_slice(digits.format(line).as_bytes());
    body.extend_from_slice(b",\"status\":");
    body.extend_from_slice(status(verdict.outcome()).as_str().as_bytes());
    body.push(b',');
    match verdict {
        Verdict::Recorded { .. } | Verdict::Duplicate { .. } => write_success(body, verdict, client_id),
        Verdict::Refused(refused) => write_refusal(body, refused, client_id),
    }
    body.extend_from_slice(b"}\n");
}

/// The answer to a batch: always 200, each line with a status of its own.
pub fn batch(body: Vec<u8>) -> Response<Bytes> {
    with_body(StatusCode::OK, NDJSON, body.into())
}

/// The members of a problem (RFC 9457), in the order in which they are written.
#[derive(Serialize)]
struct ProblemBody<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: String,
    status: u16,
    outcome: &'a str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bound: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<u64>,
}

impl<'a> ProblemBody<'a> {
    /// `of` is what its names are of: an outcome, or a rejection.
    fn new(of: &str, outcome: &'a str, status: StatusCode, detail: &'a str) -> Self {
        Self {
            kind: format!("urn:scangate:{of}:{outcome}"),
            title: outcome.replace('_', " "),
            status: status.as_u16(),
            outcome,
            detail,
            field: None,
            bound: None,
            limit: None,
            value: None,
        }
    }
}

/// A refusal of the whole request.
pub fn problem(problem: &Problem) -> Response<Bytes> {
    let status = status(problem.outcome);
    let body = ProblemBody {
        field: problem.concern.and_then(Concern::field),
        bound: problem.concern.and_then(Concern::bound),
        limit: problem.limit,
        value: problem.value,
        ..ProblemBody::new("outcome", problem.outcome.name(), status, &problem.detail)
    };
    let mut response = with_problem(status, &body, problem.retry_after_s);
    if problem.outcome == Outcome::Unauthenticated {
        let challenge = if problem.invalid_token { "Bearer error=\"invalid_token\"" } else { "Bearer" };
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    response
}

/// Something read: 200.
pub fn ok(content_type: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    with_body(StatusCode::OK, content_type, body.into())
}

/// The same for everyone until the next release, so that it may be kept: 200.
pub fn published(content_type: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = ok(content_type, body);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
    response
}

/// What the client has is what there is: 304.
pub fn not_modified() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response
}

/// Whether scans should be sent here: 200 or 503.
pub fn readiness(readiness: &Readiness) -> Response<Bytes> {
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = with_body(status, JSON, line(readiness));
    if !readiness.ready {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
    }
    response
}

/// An order that was taken and is under way: 202.
pub fn accepted(body: impl Into<Bytes>) -> Response<Bytes> {
    with_body(StatusCode::ACCEPTED, JSON, body.into())
}

/// A fault of the gateway itself: 500 without particulars, which the log has.
pub fn internal() -> Response<Bytes> {
    rejected(Rejection::Internal)
}

fn with_problem(status: StatusCode, body: &ProblemBody<'_>, retry_after_s: Option<u32>) -> Response<Bytes> {
    let mut response = with_body(status, PROBLEM_JSON, line(body));
    if let Some(seconds) = retry_after_s {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// JSON that ends its line, so that a terminal's prompt starts on the next one.
fn line(body: &impl Serialize) -> Bytes {
    // Plain strings and numbers always serialize.
    let mut line = serde_json::to_vec(body).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

/// Answers tell who was where, or how things stand now: nothing on the way may keep them.
fn with_body(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Bytes> {
    answer(status, HeaderValue::from_static(content_type), body)
}

/// Made once: making one looks at each of its bytes.
static JSON_VALUE: HeaderValue = HeaderValue::from_static(JSON);
static NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

fn answer(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CACHE_CONTROL, NO_STORE.clone());
    response
}

/// The members that a success has alone and in a batch alike. A refusal writes nothing here.
fn write_success(body: &mut Vec<u8>, verdict: &Verdict, client_id: &str) {
    let (direction, scan) = match verdict {
        Verdict::Recorded { checkin, proof: _ } => {
            body.extend_from_slice(b"\"outcome\":\"recorded\",\"checkin\":\"");
            push_uuid(body, checkin.id.0);
            body.extend_from_slice(b"\",\"id\":");
            (checkin.direction, &checkin.scan)
        }
        Verdict::Duplicate { scan, original, proof: _ } => {
            body.extend_from_slice(b"\"outcome\":\"duplicate\",\"original\":{\"checkin\":\"");
            push_uuid(body, original.id.0);
            body.extend_from_slice(b"\",\"at\":\"");
            original.id.at().write(body);
            body.extend_from_slice(b"\"},\"id\":");
            (original.direction, scan)
        }
        Verdict::Refused(_) => return,
    };
    push_json_string(body, client_id);
    body.extend_from_slice(b",\"direction\":\"");
    body.extend_from_slice(direction.name().as_bytes());
    body.extend_from_slice(b"\",\"subject\":\"");
    body.extend_from_slice(scan.subject.name().as_bytes());
    body.extend_from_slice(b"\",\"trust\":\"");
    body.extend_from_slice(scan.trust.name().as_bytes());
    body.extend_from_slice(b"\",\"at\":\"");
    scan.at.write(body);
    body.push(b'"');
}

fn write_refusal(body: &mut Vec<u8>, problem: &Problem, client_id: &str) {
    body.extend_from_slice(b"\"outcome\":\"");
    body.extend_from_slice(problem.outcome.name().as_bytes());
    body.extend_from_slice(b"\",\"detail\":");
    push_json_string(body, &problem.detail);
    if !client_id.is_empty() {
        body.extend_from_slice(b",\"id\":");
        push_json_string(body, client_id);
    }
    // Writing into memory can't fail.
    let _ = match problem.concern {
        Some(Concern::Field(name)) => write!(body, ",\"field\":\"{name}\""),
        Some(Concern::Bound(name)) => write!(body, ",\"bound\":\"{name}\""),
        None => Ok(()),
    };
    for (name, value) in [
        ("limit", problem.limit),
        ("value", problem.value),
        ("retry_after_s", problem.retry_after_s.map(u64::from)),
    ] {
        if let Some(value) = value {
            let _ = write!(body, ",\"{name}\":{value}");
        }
    }
}

fn push_uuid(body: &mut Vec<u8>, bytes: [u8; 16]) {
    let mut buffer = uuid::Uuid::encode_buffer();
    body.extend_from_slice(uuid::Uuid::from_bytes(bytes).hyphenated().encode_lower(&mut buffer).as_bytes());
}

/// Client ids are visible ASCII, of which only two characters need an escape; all else takes serde's way.
fn push_json_string(body: &mut Vec<u8>, text: &str) {
    let is_plain = |byte: u8| (byte.is_ascii_graphic() || byte == b' ') && byte != b'"' && byte != b'\\';
    // Without a way out of the loop, which then takes many bytes at a time.
    if text.bytes().fold(true, |all, byte| all & is_plain(byte)) {
        body.push(b'"');
        body.extend_from_slice(text.as_bytes());
        body.push(b'"');
    } else {
        body.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openapi;

    pub(super) fn parsed(response: &Response<Bytes>) -> openapi::Problem {
        let body = response.body();
        assert!(body.ends_with(b"}\n"), "{body:?}");
        assert_eq!(response.headers()[CONTENT_TYPE], PROBLEM_JSON);
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        let problem: openapi::Problem = serde_json::from_slice(body).expect("a documented problem");
        assert_eq!(problem.status, response.status().as_u16());
        assert!(problem.field.is_none() || problem.bound.is_none());
        problem
    }

    #[test]
    fn every_refusal_is_a_documented_problem() {
        for outcome in Outcome::ALL {
            if status(*outcome).is_success() {
                continue;
            }
            let response = problem(&Problem::new(*outcome, "why \"so\"").field("at").limit(3, Some(4)));
            let body = parsed(&response);
            assert_eq!(body.kind, format!("urn:scangate:outcome:{outcome}"));
            assert_eq!((body.outcome.as_str(), body.detail.as_str()), (outcome.name(), "why \"so\""));
            assert_eq!(
                (body.field.as_deref(), body.limit, body.value),
                (Some("at"), Some(3), Some(4)),
                "{outcome}"
            );
            let is_transient = matches!(body.status, 429 | 503);
            assert_eq!(response.headers().contains_key(RETRY_AFTER), is_transient, "{outcome}");
            assert_eq!(response.headers().contains_key(WWW_AUTHENTICATE), body.status == 401, "{outcome}");

            let mut line = Vec::new();
            let refused = Verdict::Refused(Problem::new(*outcome, "why").bound("limits.x"));
            batch_line(&mut line, 7, &refused, "a\\b");
            let line: openapi::BatchLine = serde_json::from_slice(&line).expect("a documented line");
            let openapi::LineResult::Refused(refused) = line.result else { panic!("{:?}", line.result) };
            assert_eq!((line.line, line.status), (7, status(*outcome).as_u16()));
            assert_eq!((refused.bound.as_deref(), refused.field), (Some("limits.x"), None));
            assert_eq!(refused.id.as_deref(), Some("a\\b"));
            assert_eq!(refused.retry_after_s, is_transient.then_some(1));
        }
    }

    #[test]
    fn a_bad_token_is_told_from_a_missing_one() {
        let challenge = |given| {
            let refused = Problem::new(Outcome::Unauthenticated, "why").invalid_token(given);
            problem(&refused).headers()[WWW_AUTHENTICATE].clone()
        };
        assert_eq!(challenge(false), "Bearer");
        assert_eq!(challenge(true), "Bearer error=\"invalid_token\"");
    }
}
