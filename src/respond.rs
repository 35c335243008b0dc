//! Verdicts into HTTP: the only place that names status codes. No await, no I/O.
//!
//! A 201 can't be built without [`Durable`], which only the journal hands out, and only after fsync.
//! Everything that isn't a success is RFC 9457 problem+json with the outcome's stable name, and the
//! field, the limit and the value where there are any.

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde_json::json;

use crate::deduplicate::Original;
use crate::journal::Durable;
use crate::observe::health::Readiness;
use crate::request::Malformed;
use crate::scan::{Checkin, Outcome, Refusal, Scan};

/// `Content-Type` of every refusal (RFC 9457).
pub const PROBLEM_JSON: &str = "application/problem+json";
/// `Content-Type` of a batch's answer.
pub const NDJSON: &str = "application/x-ndjson";
/// `Content-Type` of everything else that is JSON.
pub const JSON: &str = "application/json";
/// `Content-Type` of server-sent events.
pub const EVENTS: &str = "text/event-stream";

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
    /// The field, header or bound concerned.
    pub field: Option<&'static str>,
    /// The limit that was passed.
    pub limit: Option<u64>,
    /// The value that passed it.
    pub value: Option<u64>,
    /// When to try again, in seconds.
    pub retry_after_s: Option<u32>,
}

impl Problem {
    /// A refusal with its reason.
    pub fn new(outcome: Outcome, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { outcome, detail: detail.into(), field: None, limit: None, value: None, retry_after_s: None }
    }

    /// Names the field, header or bound.
    #[must_use]
    pub fn field(mut self, field: &'static str) -> Self {
        self.field = Some(field);
        self
    }

    /// Names the limit, and the value that passed it where it is known.
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
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.outcome, refusal.detail)
    }
}

impl From<Malformed> for Problem {
    fn from(malformed: Malformed) -> Self {
        let field = malformed.field;
        Self::new(Outcome::Malformed, malformed.to_string()).field(field)
    }
}

/// Requests that never became a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// No such path.
    NotFound,
    /// The path exists; the methods that it answers.
    MethodNotAllowed(&'static str),
    /// A body without a length.
    LengthRequired,
    /// The body's type; the types that are accepted.
    UnsupportedMediaType(&'static str),
    /// The body's encoding; the encodings that are accepted.
    UnsupportedEncoding(&'static str),
    /// The body did not arrive in time.
    RequestTimeout,
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
            let mut body = String::with_capacity(256);
            body.push('{');
            write_success(&mut body, verdict, client_id);
            body.push_str("}\n");
            with_body(status(verdict.outcome()), JSON, body.into())
        }
        Verdict::Refused(refused) => problem(refused),
    }
}

/// One line of a batch's answer, appended to `body`. `line` counts from 1.
pub fn batch_line(body: &mut String, line: usize, verdict: &Verdict, client_id: &str) {
    let mut digits = itoa::Buffer::new();
    body.push_str("{\"line\":");
    body.push_str(digits.format(line));
    body.push_str(",\"status\":");
    body.push_str(status(verdict.outcome()).as_str());
    body.push(',');
    match verdict {
        Verdict::Recorded { .. } | Verdict::Duplicate { .. } => write_success(body, verdict, client_id),
        Verdict::Refused(refused) => write_refusal(body, refused, client_id),
    }
    body.push_str("}\n");
}

/// The answer to a batch: always 200, each line with a status of its own.
pub fn batch(body: String) -> Response<Bytes> {
    with_body(StatusCode::OK, NDJSON, body.into())
}

/// A refusal of the whole request.
pub fn problem(problem: &Problem) -> Response<Bytes> {
    let status = status(problem.outcome);
    let name = problem.outcome.name();
    let mut body = json!({
        "type": format!("urn:scangate:outcome:{name}"),
        "title": name.replace('_', " "),
        "status": status.as_u16(),
        "outcome": name,
        "detail": problem.detail,
    });
    if let Some(fields) = body.as_object_mut() {
        fields.extend(problem.field.map(|field| ("field".to_owned(), json!(field))));
        fields.extend(problem.limit.map(|limit| ("limit".to_owned(), json!(limit))));
        fields.extend(problem.value.map(|value| ("value".to_owned(), json!(value))));
    }
    let mut response = with_body(status, PROBLEM_JSON, body.to_string().into());
    if let Some(seconds) = problem.retry_after_s {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if problem.outcome == Outcome::Unauthenticated {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// A request that never became a scan.
pub fn rejected(rejection: Rejection) -> Response<Bytes> {
    let (status, name, detail) = match rejection {
        Rejection::NotFound => (StatusCode::NOT_FOUND, "not_found", "no such path".to_owned()),
        Rejection::MethodNotAllowed(allowed) => {
            (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", format!("this path answers {allowed}"))
        }
        Rejection::LengthRequired => {
            let detail = "a body needs Content-Length or Transfer-Encoding: chunked".to_owned();
            (StatusCode::LENGTH_REQUIRED, "length_required", detail)
        }
        Rejection::UnsupportedMediaType(accepted) => {
            let detail = format!("Content-Type must be one of {accepted}");
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
        }
        Rejection::UnsupportedEncoding(accepted) => {
            let detail = format!("Content-Encoding must be one of {accepted}");
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", detail)
        }
        Rejection::RequestTimeout => {
            (StatusCode::REQUEST_TIMEOUT, "request_timeout", "the body did not arrive in time".to_owned())
        }
    };
    let body = json!({
        "type": format!("urn:scangate:rejection:{name}"),
        "title": name.replace('_', " "),
        "status": status.as_u16(),
        "outcome": name,
        "detail": detail,
    });
    let mut response = with_body(status, PROBLEM_JSON, body.to_string().into());
    if let Rejection::MethodNotAllowed(allowed) = rejection {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    }
    response
}

/// Something read: 200.
pub fn ok(content_type: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    with_body(StatusCode::OK, content_type, body.into())
}

/// Whether scans should be sent here: 200 or 503.
pub fn readiness(readiness: &Readiness) -> Response<Bytes> {
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = with_body(status, JSON, json!(readiness).to_string().into());
    if !readiness.ready {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// An order that was taken and is under way: 202.
pub fn accepted(body: impl Into<Bytes>) -> Response<Bytes> {
    with_body(StatusCode::ACCEPTED, JSON, body.into())
}

/// A fault of the gateway itself: 500 without particulars, which the log has.
pub fn internal() -> Response<Bytes> {
    let body = json!({
        "type": "urn:scangate:rejection:internal",
        "title": "internal error",
        "status": 500,
        "outcome": "internal",
        "detail": "the gateway failed; nothing was recorded",
    });
    with_body(StatusCode::INTERNAL_SERVER_ERROR, PROBLEM_JSON, body.to_string().into())
}

fn with_body(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The members that a success has alone and in a batch alike. A refusal writes nothing here.
fn write_success(body: &mut String, verdict: &Verdict, client_id: &str) {
    let (direction, scan) = match verdict {
        Verdict::Recorded { checkin, proof: _ } => {
            body.push_str("\"outcome\":\"recorded\",\"checkin\":\"");
            push_uuid(body, checkin.id.0);
            body.push('"');
            (checkin.direction, &checkin.scan)
        }
        Verdict::Duplicate { scan, original, proof: _ } => {
            body.push_str("\"outcome\":\"duplicate\",\"original\":{\"checkin\":\"");
            push_uuid(body, original.id.0);
            // Formatting into a String can't fail.
            let _ = write!(body, "\",\"at\":\"{}\"}}", original.id.at());
            (original.direction, scan)
        }
        Verdict::Refused(_) => return,
    };
    body.push_str(",\"id\":");
    push_json_string(body, client_id);
    for (name, value) in
        [("direction", direction.name()), ("subject", scan.subject.name()), ("trust", scan.trust.name())]
    {
        body.push_str(",\"");
        body.push_str(name);
        body.push_str("\":\"");
        body.push_str(value);
        body.push('"');
    }
    let _ = write!(body, ",\"at\":\"{}\"", scan.at);
}

fn write_refusal(body: &mut String, problem: &Problem, client_id: &str) {
    body.push_str("\"outcome\":\"");
    body.push_str(problem.outcome.name());
    body.push_str("\",\"detail\":");
    push_json_string(body, &problem.detail);
    if !client_id.is_empty() {
        body.push_str(",\"id\":");
        push_json_string(body, client_id);
    }
    if let Some(field) = problem.field {
        let _ = write!(body, ",\"field\":\"{field}\"");
    }
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

fn push_uuid(body: &mut String, bytes: [u8; 16]) {
    let mut buffer = uuid::Uuid::encode_buffer();
    body.push_str(uuid::Uuid::from_bytes(bytes).hyphenated().encode_lower(&mut buffer));
}

/// Client ids are visible ASCII, of which only two characters need an escape; all else takes serde's way.
fn push_json_string(body: &mut String, text: &str) {
    if text.bytes().all(|byte| (byte.is_ascii_graphic() || byte == b' ') && byte != b'"' && byte != b'\\') {
        body.push('"');
        body.push_str(text);
        body.push('"');
    } else {
        body.push_str(&serde_json::Value::from(text).to_string());
    }
}
