//! `POST /v1/checkins`: the path of a scan, top to bottom.
//!
//! ```text
//! authenticate → read → identify (payload, verify, identity) → scan → admit → settle → respond
//! ```
//!
//! A single scan and a batch take the same steps. In a batch each step is taken for all lines before the
//! next one begins, so that its signatures are checked together and its records share one fsync.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use hyper::{HeaderMap, Request, Response, Version};

use super::Shared;
use super::core::Core;
use crate::authenticate::{AuthError, Device, Lookup, Role};
use crate::deduplicate::{Admission, AdmitError, InFlight, Original, Standing};
use crate::journal::{AppendError, CommitError, Durable, Ticket};
use crate::listen::body::{self, BodyError};
use crate::observe::metrics::{AuthFailure, Cache, Endpoint};
use crate::payload::{self, Claim, SignedForm};
use crate::request::{self, ScanRequest};
use crate::respond::{self, Problem, Rejection, Verdict};
use crate::scan::{Form, Outcome, Refusal, Scan, Subject, Trust, UnixMillis};
use crate::verify::{self, Keys, Resolved, ResolvedSubject, TokenKind, Verified};
use crate::workers::WorkerError;

/// Signatures checked by one job: enough to pay for the hand-over, few enough that the other workers
/// take their share of a batch.
const SIGNATURES_PER_JOB: usize = 64;

/// What a code turned out to stand for.
#[derive(Debug, Clone, Copy)]
struct Identified {
    holder: ResolvedSubject,
    trust: Trust,
    form: Form,
}

/// The state of a code after everything that is cheap has been tried.
enum Identification {
    Done(Result<Identified, Refusal>),
    /// A signature that was never seen: for the workers.
    Unseen,
}

/// A scan between admission and answer.
enum Admitted<'a> {
    Fresh(InFlight<'a, Ticket, Durable>),
    Repeats { scan: Scan, original: Original, standing: Standing<Ticket, Durable> },
    Refused(Problem),
}

/// Answers one request: a single scan or a batch.
pub(super) async fn post(core: &Core, kind: Option<Endpoint>, request: Request<Incoming>) -> Response<Bytes> {
    let (head, body) = request.into_parts();
    let device = match authenticate(core, &head.headers).await {
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
    match kind {
        Endpoint::Batch => batch(core, &device, &body).await,
        _ => single(core, &device, &body).await,
    }
}

async fn single(core: &Core, device: &Device, body: &[u8]) -> Response<Bytes> {
    let received = UnixMillis::now();
    let (verdict, id) = match request::single(body, core.shared.limits().payload_bytes_max) {
        Ok(request) => (record(core, device, &request, received).await, request.id),
        Err(malformed) => (Verdict::Refused(malformed.into()), Cow::Borrowed("")),
    };
    core.counters().outcome(verdict.outcome());
    respond::single(&verdict, &id)
}

async fn record(core: &Core, device: &Device, request: &ScanRequest<'_>, received: UnixMillis) -> Verdict {
    if let Err(problem) = within_rate(core, device, 1) {
        return Verdict::Refused(problem);
    }
    let identified = match identify(core, &request.qr, received) {
        Identification::Done(result) => result.map_err(Problem::from),
        Identification::Unseen => {
            match check_signatures(core, vec![request.qr.as_ref().to_owned()], received).await.pop() {
                Some(result) => result,
                None => Err(Problem::new(Outcome::Overloaded, "the signature check gave no result")),
            }
        }
    };
    let admitted = match identified.and_then(|identified| scan(core, device, request, identified, received)) {
        Ok(scan) => admit(core, &scan),
        Err(problem) => Admitted::Refused(problem),
    };
    settle(core, admitted).await
}

async fn batch(core: &Core, device: &Device, body: &[u8]) -> Response<Bytes> {
    let received = UnixMillis::now();
    let limits = core.shared.limits();
    let count = request::lines(body).take(limits.batch_lines_max + 1).count();
    if count > limits.batch_lines_max {
        let problem =
            Problem::new(Outcome::TooLarge, format!("a batch may have {} lines", limits.batch_lines_max));
        return respond::problem(
            &problem.bound("limits.batch_lines_max").limit(limits.batch_lines_max as u64, None),
        );
    }
    if let Err(problem) = within_rate(core, device, u32::try_from(count).unwrap_or(u32::MAX)) {
        return respond::problem(&problem);
    }
    core.counters().batch(count);
    let mut document = request::joined(body, count);
    let lines = request::batch(&mut document, body, count, limits.payload_bytes_max);
    let identified = identify_all(core, &lines, received).await;
    let admitted: Vec<_> = lines
        .iter()
        .zip(identified)
        .map(|(line, identified)| match (line, identified) {
            (Ok(request), Ok(identified)) => match scan(core, device, request, identified, received) {
                Ok(scan) => admit(core, &scan),
                Err(problem) => Admitted::Refused(problem),
            },
            (Ok(_), Err(problem)) => Admitted::Refused(problem),
            (Err(malformed), _) => Admitted::Refused(malformed.clone().into()),
        })
        .collect();
    let mut answer = String::with_capacity(count * 256);
    for (index, (line, admitted)) in lines.iter().zip(admitted).enumerate() {
        let verdict = settle(core, admitted).await;
        core.counters().outcome(verdict.outcome());
        let id = line.as_ref().map_or("", |request| request.id.as_ref());
        respond::batch_line(&mut answer, index + 1, &verdict, id);
    }
    respond::batch(answer)
}

/// Turns the bearer token into a device: from the cache, or by checking its signature on the workers.
async fn authenticate(core: &Core, headers: &HeaderMap) -> Result<Arc<Device>, Problem> {
    let now = UnixMillis::now();
    let header = headers.get(AUTHORIZATION).map_or(&[][..], |value| value.as_bytes());
    let refused = |error: AuthError| {
        let no_token = matches!(error, AuthError::Missing | AuthError::Malformed { field: "authorization" });
        core.counters().auth_failure(auth_failure(error));
        Problem::new(Outcome::Unauthenticated, error.to_string())
            .field(error.field())
            .invalid_token(!no_token)
    };
    let lookup = core.shared.authenticator.lookup(header, now);
    core.counters().cache_lookup(Cache::Device, matches!(lookup, Lookup::Known(_)));
    match lookup {
        Lookup::Known(device) => Ok(device),
        Lookup::Refused(error) => Err(refused(error)),
        Lookup::Unknown(token) => {
            let token = token.to_owned();
            let shared = Arc::clone(&core.shared);
            let job = core.shared.workers.submit(move || shared.authenticator.verify(&token, now));
            job.map_err(overloaded)?.await.map_err(overloaded)?.map_err(refused)
        }
    }
}

const fn auth_failure(error: AuthError) -> AuthFailure {
    match error {
        AuthError::Missing => AuthFailure::Missing,
        AuthError::Malformed { .. } | AuthError::TooLong | AuthError::WrongClaims { .. } => {
            AuthFailure::Malformed
        }
        AuthError::UnknownIssuer | AuthError::UnknownKid => AuthFailure::UnknownKey,
        AuthError::WrongAlgorithm => AuthFailure::Algorithm,
        AuthError::BadSignature => AuthFailure::BadSignature,
        AuthError::Expired | AuthError::NotYetValid => AuthFailure::Expired,
        AuthError::Revoked => AuthFailure::Revoked,
    }
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
    let too_large = |bound, limit: usize| {
        let problem = Problem::new(Outcome::TooLarge, format!("{bound} is {limit}"));
        respond::problem(&problem.bound(bound).limit(limit as u64, None))
    };
    let bytes = body::read(body, limits.body_bytes_max).await.map_err(|error| match error {
        BodyError::TooLarge { limit_bytes } => too_large("limits.body_bytes_max", limit_bytes),
        BodyError::Timeout { limit_ms } => respond::rejected(Rejection::RequestTimeout { limit_ms }),
        BodyError::Broken => {
            respond::problem(&Problem::new(Outcome::Malformed, "the body ended before its end").field("body"))
        }
    })?;
    let inflated_max = match kind {
        Endpoint::Single => limits.body_bytes_max.min(limits.batch_inflated_bytes_max),
        _ => limits.batch_inflated_bytes_max,
    };
    let encoding = headers.get(CONTENT_ENCODING).map_or(&b"identity"[..], |value| value.as_bytes());
    match super::inflate::inflate(encoding, bytes, inflated_max) {
        Ok(bytes) => Ok(bytes),
        Err(super::inflate::InflateError::TooLarge { limit }) => {
            Err(too_large("limits.batch_inflated_bytes_max", limit))
        }
        Err(super::inflate::InflateError::Unsupported) => {
            Err(respond::rejected(Rejection::UnsupportedEncoding("gzip, zstd")))
        }
        Err(super::inflate::InflateError::Corrupt) => {
            let detail = "the body does not inflate by its Content-Encoding";
            Err(respond::problem(&Problem::new(Outcome::Malformed, detail).field("body")))
        }
    }
}

fn within_rate(core: &Core, device: &Device, scans: u32) -> Result<(), Problem> {
    device.admit(scans, Instant::now()).map_err(|limited| {
        core.counters().rate_limited(u64::from(scans));
        Problem::new(Outcome::RateLimited, "the device is over limits.device_scans_per_s")
            .bound("limits.device_scans_per_s")
            .limit(u64::from(core.shared.limits().device_scans_per_s), None)
            .retry_after(limited.retry_after_s)
    })
}

/// Says what a code stands for, as far as that is cheap.
fn identify(core: &Core, qr: &str, now: UnixMillis) -> Identification {
    let shared = &core.shared;
    let asserted =
        |holder, form| Identification::Done(Ok(Identified { holder, trust: Trust::Asserted, form }));
    match payload::parse(qr) {
        Err(refusal) => Identification::Done(Err(refusal)),
        Ok(Claim::Person(form)) => {
            asserted(ResolvedSubject::Person(shared.identity.person(&form)), form.form)
        }
        Ok(Claim::Place(form)) => {
            asserted(ResolvedSubject::Place(shared.identity.place_form(&form)), form.form)
        }
        Ok(Claim::Signed(SignedForm::Sg1(text))) => {
            let keys = shared.keys.load();
            let found = shared.tokens.get(shared.tokens.key(text), &keys);
            core.counters().cache_lookup(Cache::Token, found.is_some());
            match found {
                Some(resolved) => Identification::Done(
                    verify::still_valid(&resolved.verified, now, &keys).map(|()| proven(resolved.subject)),
                ),
                None => Identification::Unseen,
            }
        }
    }
}

const fn proven(holder: ResolvedSubject) -> Identified {
    Identified { holder, trust: Trust::Proven, form: Form::Sg1 }
}

/// One result a line. Signatures never seen before are checked together, in jobs of a few dozen.
async fn identify_all(
    core: &Core,
    lines: &[Result<ScanRequest<'_>, request::Malformed>],
    now: UnixMillis,
) -> Vec<Result<Identified, Problem>> {
    let mut unseen = Vec::new();
    let mut results: Vec<_> = lines
        .iter()
        .enumerate()
        .map(|(index, line)| match line {
            // The line's own refusal stands; this placeholder is never looked at.
            Err(malformed) => Err(malformed.clone().into()),
            Ok(request) => match identify(core, &request.qr, now) {
                Identification::Done(result) => result.map_err(Problem::from),
                Identification::Unseen => {
                    unseen.push((index, request.qr.as_ref().to_owned()));
                    Err(Problem::new(Outcome::Overloaded, "the signature check gave no result"))
                }
            },
        })
        .collect();
    if !unseen.is_empty() {
        let (indices, tokens): (Vec<_>, Vec<_>) = unseen.into_iter().unzip();
        let checked = check_signatures(core, tokens, now).await;
        for (index, result) in indices.into_iter().zip(checked) {
            if let Some(slot) = results.get_mut(index) {
                *slot = result;
            }
        }
    }
    results
}

/// Checks signatures on the workers and remembers the good ones. One result a token, in order.
async fn check_signatures(
    core: &Core,
    tokens: Vec<String>,
    now: UnixMillis,
) -> Vec<Result<Identified, Problem>> {
    let mut jobs = Vec::with_capacity(tokens.len().div_ceil(SIGNATURES_PER_JOB));
    let mut tokens = tokens.into_iter();
    loop {
        let chunk: Vec<_> = tokens.by_ref().take(SIGNATURES_PER_JOB).collect();
        if chunk.is_empty() {
            break;
        }
        let count = chunk.len();
        let shared = Arc::clone(&core.shared);
        let job = core.shared.workers.submit(move || {
            let keys = shared.keys.load();
            chunk.iter().map(|text| check_signature(&shared, text, now, &keys)).collect::<Vec<_>>()
        });
        jobs.push((count, job));
    }
    let mut results = Vec::new();
    for (count, job) in jobs {
        let checked = match job {
            Ok(job) => job.await,
            Err(error) => Err(error),
        };
        match checked {
            Ok(checked) => results.extend(checked.into_iter().map(|result| result.map_err(Problem::from))),
            Err(error) => results.extend((0..count).map(|_| Err(overloaded(error)))),
        }
    }
    results
}

fn check_signature(shared: &Shared, text: &str, now: UnixMillis, keys: &Keys) -> Result<Identified, Refusal> {
    let text = payload::trimmed(text);
    let verified = verify::sg1(text, now, keys)?;
    let subject = subject(shared, &verified)?;
    shared.tokens.insert(shared.tokens.key(text), keys, Resolved { verified, subject });
    Ok(proven(subject))
}

fn subject(shared: &Shared, verified: &Verified) -> Result<ResolvedSubject, Refusal> {
    match verified.kind {
        TokenKind::Person => Ok(ResolvedSubject::Person(shared.identity.person_of_cti(verified.cti))),
        TokenKind::Place => Ok(ResolvedSubject::Place(shared.identity.place_of_cti(verified.cti))),
        TokenKind::Device => Err(Refusal::new(Outcome::WrongSubject, "the code stands for a device")),
    }
}

/// Puts device and code together into a scan: one of them must be the person, the other the place.
fn scan(
    core: &Core,
    device: &Device,
    request: &ScanRequest<'_>,
    identified: Identified,
    received: UnixMillis,
) -> Result<Scan, Problem> {
    let (person, place, subject, window_s) = match (&device.role, identified.holder) {
        (Role::Place { place, window_class }, ResolvedSubject::Person(person)) => {
            (person, *place, Subject::Person, core.shared.window_s(window_class.as_deref()))
        }
        (Role::Person { person }, ResolvedSubject::Place(place)) => {
            (*person, place, Subject::Place, core.shared.window_s(None))
        }
        (Role::Place { .. }, ResolvedSubject::Place(_)) => {
            return Err(Problem::new(Outcome::WrongSubject, "a place's device scans persons, not places"));
        }
        (Role::Person { .. }, ResolvedSubject::Person(_)) => {
            return Err(Problem::new(Outcome::WrongSubject, "a person's device scans places, not persons"));
        }
    };
    let at = request.at.unwrap_or(received);
    within_skew(core, at, received)?;
    Ok(Scan {
        person,
        place,
        direction: request.direction,
        at,
        received,
        client: core.shared.identity.client(device.key, &request.id),
        device: device.key,
        app: device.app,
        subject,
        trust: identified.trust,
        form: identified.form,
        window_s,
    })
}

fn within_skew(core: &Core, at: UnixMillis, received: UnixMillis) -> Result<(), Problem> {
    let limits = core.shared.limits();
    let late_s = (received.0 - at.0) / 1000;
    let (field, limit_s, value_s) = if late_s > 0 {
        ("limits.clock_skew_past_s", limits.clock_skew_past_s, late_s)
    } else {
        ("limits.clock_skew_future_s", limits.clock_skew_future_s, -late_s)
    };
    let value_s = value_s.unsigned_abs();
    if value_s <= limit_s {
        return Ok(());
    }
    let detail = format!("at must be within {field} of now: {limit_s} s; got {value_s} s");
    Err(Problem::new(Outcome::ClockSkew, detail).field("at").limit(limit_s, Some(value_s)))
}

/// Admits the scan and hands it to the journal in one step, so that no duplicate can slip between.
fn admit<'a>(core: &'a Core, scan: &Scan) -> Admitted<'a> {
    match core.shared.deduplicate.admit(scan, |checkin| core.lane.append(checkin)) {
        Ok(Admission::Fresh(in_flight)) => Admitted::Fresh(in_flight),
        Ok(Admission::Duplicate(original, standing)) => Admitted::Repeats { scan: *scan, original, standing },
        Err(AdmitError::Append(error)) => Admitted::Refused(refused_by_journal(&error)),
        Err(error @ AdmitError::Unproven) => {
            Admitted::Refused(Problem::new(Outcome::Unavailable, error.to_string()).bound("journal.unproven"))
        }
        Err(AdmitError::EntriesMax { limit }) => Admitted::Refused(
            Problem::new(Outcome::Overloaded, "the memory for deduplication is full")
                .bound("deduplicate.entries_max")
                .limit(limit, None)
                .retry_after(60),
        ),
    }
}

/// Waits for the commit. A fresh scan whose commit fails is taken out of the memory again, and so the
/// duplicates that waited for it fail with it.
async fn settle(core: &Core, admitted: Admitted<'_>) -> Verdict {
    match admitted {
        Admitted::Refused(problem) => Verdict::Refused(problem),
        Admitted::Fresh(in_flight) => match core.lane.committed(in_flight.ticket()).await {
            Ok(proof) => Verdict::Recorded { checkin: in_flight.durable(proof), proof },
            Err(error) => {
                in_flight.failed();
                Verdict::Refused(lost_by_journal(&error))
            }
        },
        Admitted::Repeats { scan, original, standing } => {
            let proof = match standing {
                Standing::InFlight(ticket) => core.lane.committed(ticket).await,
                Standing::Durable(proof) => Ok(proof),
            };
            match proof {
                Ok(proof) => Verdict::Duplicate { scan, original, proof },
                Err(error) => Verdict::Refused(lost_by_journal(&error)),
            }
        }
    }
}

fn refused_by_journal(error: &AppendError) -> Problem {
    let (outcome, bound, limit, retry_after_s) = match error {
        AppendError::LaneFull { limit } => {
            (Outcome::Overloaded, "journal.lane_bytes_max", Some(*limit as u64), 1)
        }
        AppendError::BytesMax { limit } => (Outcome::Overloaded, "journal.bytes_max", Some(*limit), 10),
        AppendError::DiskFull => (Outcome::Unavailable, "journal.disk", None, 10),
        AppendError::Poisoned => (Outcome::Unavailable, "journal.poisoned", None, 30),
        AppendError::Stopped => (Outcome::Unavailable, "journal.stopped", None, 5),
    };
    at_bound(Problem::new(outcome, error.to_string()), bound, limit).retry_after(retry_after_s)
}

fn lost_by_journal(error: &CommitError) -> Problem {
    let (bound, limit, retry_after_s) = match error {
        CommitError::DiskFull => ("journal.disk", None, 10),
        CommitError::BytesMax { limit } => ("journal.bytes_max", Some(*limit), 10),
        CommitError::Poisoned | CommitError::UnknownLane { .. } => ("journal.poisoned", None, 30),
    };
    at_bound(Problem::new(Outcome::Unavailable, error.to_string()), bound, limit).retry_after(retry_after_s)
}

fn at_bound(problem: Problem, bound: &'static str, limit: Option<u64>) -> Problem {
    let problem = problem.bound(bound);
    match limit {
        Some(limit) => problem.limit(limit, None),
        None => problem,
    }
}

fn overloaded(error: WorkerError) -> Problem {
    let (bound, limit) = match error {
        WorkerError::QueueFull { limit } => ("workers.queue_jobs_max", Some(limit as u64)),
        WorkerError::Deadline { limit_ms } => ("workers.deadline_ms", Some(limit_ms)),
        WorkerError::Panicked | WorkerError::Stopped => ("workers", None),
    };
    at_bound(Problem::new(Outcome::Overloaded, error.to_string()), bound, limit)
}
