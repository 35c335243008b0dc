//! The steps of a scan's path, the same for a payload and for a code read from a frame:
//!
//! ```text
//! identify (payload, verify, identity) → scan (links) → admit → settle
//! ```

use std::sync::Arc;
use std::time::Instant;

use hyper::header::AUTHORIZATION;
use hyper::http::request::Parts;

use super::cards;
use super::core::Core;
use super::settle;
use super::signatures::{Signatures, Unseen};
use crate::authenticate::{AuthError, Device, Lookup, Role};
use crate::deduplicate::{Admission, AdmitError, InFlight, Original, Standing};
use crate::identity::links::Linked;
use crate::journal::{AppendError, CommitError, Durable, Ticket};
use crate::listen::ClientCertificate;
use crate::observe::metrics::{AuthFailure, Cache};
use crate::payload::{self, Claim};
use crate::request::{Malformed, ScanRequest};
use crate::respond::{self, Problem, Verdict};
use crate::scan::{Form, Outcome, Scan, Subject, Trust, UnixMillis};
use crate::verify::{Resolved, ResolvedSubject, When};
use crate::workers::{Together as _, WorkerError};

/// What a code turned out to stand for.
#[derive(Debug, Clone, Copy)]
struct Identified {
    holder: ResolvedSubject,
    trust: Trust,
    form: Form,
}

/// The state of a code after everything that is cheap has been tried.
enum Identification {
    Done(Result<Identified, Problem>),
    /// A signature that was never seen: for the workers.
    Unseen(Unseen),
}

/// A scan before admission, and whom its pseudonym was found to stand for.
struct Ready {
    scan: Scan,
    linked: Linked,
}

/// Why the journal did not get a scan that repeats nothing.
enum NotAppended {
    /// A link that arrived meanwhile changes whom it is about, or what it may repeat.
    Relinked,
    Refused(AppendError),
}

/// A scan between admission and answer.
enum Admitted<'a> {
    Fresh(InFlight<'a, Ticket, Durable>),
    Repeats { scan: Scan, original: Original, standing: Standing<Ticket, Durable> },
    Refused(Problem),
}

/// A line, or a frame's code, that never became a scan.
pub(super) trait Spoilt {
    /// Why.
    fn problem(&self) -> Problem;
    /// The device's id for it, where it could be read that far.
    fn id(&self) -> &str;
}

impl Spoilt for Malformed {
    fn problem(&self) -> Problem {
        self.clone().into()
    }

    fn id(&self) -> &'static str {
        ""
    }
}

/// Takes each step for one scan.
pub(super) async fn record(
    core: &Core,
    device: &Device,
    request: &ScanRequest<'_>,
    received: UnixMillis,
) -> Verdict {
    let identified = match identify(core, request, received) {
        Identification::Done(result) => result,
        Identification::Unseen(code) => match Box::pin(check_signatures(core, vec![code])).await.pop() {
            Some(result) => result,
            None => Err(unchecked()),
        },
    };
    let admitted = match identified.and_then(|identified| scan(core, device, request, identified, received)) {
        Ok(ready) => admit(core, &ready),
        Err(problem) => Admitted::Refused(problem),
    };
    settle(core, admitted).await
}

/// Takes each step for all lines before the next one begins, and writes a line of the answer for each.
pub(super) async fn record_all<S: Spoilt>(
    core: &Core,
    device: &Device,
    lines: &[Result<ScanRequest<'_>, S>],
    received: UnixMillis,
    tells_cards: bool,
) -> Vec<u8> {
    let identified = identify_all(core, lines, received).await;
    let admitted: Vec<_> = lines
        .iter()
        .zip(identified)
        .map(|(line, identified)| match (line, identified) {
            (Ok(request), Ok(identified)) => match scan(core, device, request, identified, received) {
                Ok(ready) => admit(core, &ready),
                Err(problem) => Admitted::Refused(problem),
            },
            (Ok(_), Err(problem)) => Admitted::Refused(problem),
            (Err(spoilt), _) => Admitted::Refused(spoilt.problem()),
        })
        .collect();
    let mut answer = Vec::with_capacity(lines.len() * 256);
    for (index, (line, admitted)) in lines.iter().zip(admitted).enumerate() {
        let verdict = settle(core, admitted).await;
        core.counters().outcome(verdict.outcome());
        let id = line.as_ref().map_or_else(Spoilt::id, |request| request.id.as_ref());
        respond::batch_line(&mut answer, index + 1, &verdict, id);
        if tells_cards {
            cards::append(core, &mut answer, &verdict, received);
        }
    }
    answer
}

/// Turns the bearer token into a device: from the cache, or by checking its signature on the workers; and asks
/// whether the connection is one that the token may come over.
pub(super) async fn authenticate(core: &Core, head: &Parts, now: UnixMillis) -> Result<Arc<Device>, Problem> {
    let header = head.headers.get(AUTHORIZATION).map_or(&[][..], |value| value.as_bytes());
    let refused = |error: AuthError| {
        let no_token = matches!(error, AuthError::Missing | AuthError::Malformed { field: "authorization" });
        core.counters().auth_failure(auth_failure(error));
        Problem::new(Outcome::Unauthenticated, error.to_string())
            .field(error.field())
            .invalid_token(!no_token)
    };
    let lookup = core.shared.authenticator.lookup(header, now);
    core.counters().cache_lookup(Cache::Device, matches!(lookup, Lookup::Known(_)));
    let device = match lookup {
        Lookup::Known(device) => device,
        Lookup::Refused(error) => return Err(refused(error)),
        Lookup::Unknown(token) => {
            let token = token.to_owned();
            let shared = Arc::clone(&core.shared);
            let job = core.shared.workers.submit(move || shared.authenticator.verify(&token, now));
            job.map_err(overloaded)?.await.map_err(overloaded)?.map_err(refused)?
        }
    };
    let shown = head.extensions.get::<ClientCertificate>().map(ClientCertificate::sha256);
    device.check_certificate(shown).map_err(refused)?;
    Ok(device)
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
        AuthError::NoCertificate | AuthError::OtherCertificate => AuthFailure::Certificate,
    }
}

/// Takes scans from the device's allowance.
pub(super) fn within_rate(core: &Core, device: &Device, scans: u32, now: Instant) -> Result<(), Problem> {
    device.admit(scans, now).map_err(|limited| {
        core.counters().rate_limited(u64::from(scans));
        Problem::new(Outcome::RateLimited, "the device is over limits.device_scans_per_s")
            .bound("limits.device_scans_per_s")
            .limit(u64::from(core.shared.limits().device_scans_per_s), None)
            .retry_after(limited.retry_after_s)
    })
}

/// When a code was held to the scanner: a phone's code that was good then is good however late its batch
/// arrives. Keys and revocations are judged as they are on arrival. A clock that runs ahead can't make a scan
/// later than its arrival.
fn when(request: &ScanRequest<'_>, received: UnixMillis) -> When {
    When { scanned: request.at.map_or(received, |at| at.min(received)), received }
}

/// Says what a scan's code stands for, as far as that is cheap.
fn identify(core: &Core, request: &ScanRequest<'_>, received: UnixMillis) -> Identification {
    match within_skew(core, request, received) {
        Ok(()) => look_up(core, &request.qr, when(request, received)),
        Err(problem) => Identification::Done(Err(problem)),
    }
}

fn look_up(core: &Core, qr: &str, when: When) -> Identification {
    let shared = &core.shared;
    let asserted =
        |holder, form| Identification::Done(Ok(Identified { holder, trust: Trust::Asserted, form }));
    match payload::parse(qr) {
        Err(refusal) => Identification::Done(Err(refusal.into())),
        Ok(Claim::Person(form)) => {
            asserted(ResolvedSubject::Person(shared.identity.person(&form)), form.form)
        }
        Ok(Claim::Place(form)) => {
            asserted(ResolvedSubject::Place(shared.identity.place_form(&form)), form.form)
        }
        Ok(Claim::Signed(form)) => {
            let keys = shared.keys.load();
            let found = shared.tokens.get(shared.tokens.key(form.text()), &keys);
            core.counters().cache_lookup(Cache::Token, found.is_some());
            match found {
                Some(resolved) => Identification::Done(
                    resolved.validity.check(when).map(|()| proven(resolved)).map_err(Problem::from),
                ),
                None => Identification::Unseen(Unseen { text: qr.to_owned(), when }),
            }
        }
    }
}

const fn proven(resolved: Resolved) -> Identified {
    Identified { holder: resolved.subject, trust: Trust::Proven, form: resolved.form }
}

/// One result a line. Signatures never seen before are checked together, in jobs of a few dozen.
async fn identify_all<S: Spoilt>(
    core: &Core,
    lines: &[Result<ScanRequest<'_>, S>],
    received: UnixMillis,
) -> Vec<Result<Identified, Problem>> {
    let mut unseen = Vec::new();
    let mut results: Vec<_> = lines
        .iter()
        .enumerate()
        .map(|(index, line)| match line {
            // The line's own refusal stands; this placeholder is never looked at.
            Err(spoilt) => Err(spoilt.problem()),
            Ok(request) => match identify(core, request, received) {
                Identification::Done(result) => result,
                Identification::Unseen(code) => {
                    unseen.push((index, code));
                    Err(unchecked())
                }
            },
        })
        .collect();
    if !unseen.is_empty() {
        let (indices, tokens): (Vec<_>, Vec<_>) = unseen.into_iter().unzip();
        let checked = check_signatures(core, tokens).await;
        for (index, result) in indices.into_iter().zip(checked) {
            if let Some(slot) = results.get_mut(index) {
                *slot = result;
            }
        }
    }
    results
}

/// For a code whose check told nothing.
fn unchecked() -> Problem {
    Problem::new(Outcome::Overloaded, "the signature check gave no result")
}

/// Checks signatures on the workers, which remember the good ones. One result a code, in order.
async fn check_signatures(core: &Core, codes: Vec<Unseen>) -> Vec<Result<Identified, Problem>> {
    let mut jobs = Vec::with_capacity(codes.len().div_ceil(Signatures::WEIGHT_MAX));
    let mut codes = codes.into_iter();
    loop {
        let chunk: Vec<_> = codes.by_ref().take(Signatures::WEIGHT_MAX).collect();
        if chunk.is_empty() {
            break;
        }
        jobs.push((chunk.len(), core.shared.workers.submit_together(chunk)));
    }
    let mut results = Vec::new();
    for (count, job) in jobs {
        let checked = match job {
            Ok(job) => job.await,
            Err(error) => Err(error),
        };
        match checked {
            Ok(checked) => {
                results.extend(checked.into_iter().map(|result| result.map(proven).map_err(Problem::from)));
            }
            Err(error) => results.extend((0..count).map(|_| Err(overloaded(error)))),
        }
    }
    results
}

/// Puts device and code together into a scan: one of them must be the person, the other the place.
fn scan(
    core: &Core,
    device: &Device,
    request: &ScanRequest<'_>,
    identified: Identified,
    received: UnixMillis,
) -> Result<Ready, Problem> {
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
    // The only place where a person's own pseudonym is taken for the citizen's.
    let linked = core.shared.links.resolve(person);
    let scan = Scan {
        person: linked.person,
        place,
        direction: request.direction,
        at: request.at.unwrap_or(received),
        received,
        client: core.shared.identity.client(device.key, &request.id),
        device: device.key,
        app: device.app,
        subject,
        trust: identified.trust,
        form: identified.form,
        window_s,
    };
    Ok(Ready { scan, linked })
}

/// Whether the device's time can be believed, which is asked before anything is judged by it.
fn within_skew(core: &Core, request: &ScanRequest<'_>, received: UnixMillis) -> Result<(), Problem> {
    let Some(at) = request.at else { return Ok(()) };
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

/// Admits the scan and hands it to the journal in one step, so that no duplicate can slip between; again
/// where a link slipped between, which is looked at under the locks of everybody whom the scan may be about.
fn admit<'a>(core: &'a Core, ready: &Ready) -> Admitted<'a> {
    let Ready { mut scan, linked } = *ready;
    let admission = core.shared.links.steadily(linked, scan.received, |view| {
        scan.person = view.person();
        let admission = core.shared.deduplicate.admit(&scan, view.aliases(), |checkin| {
            if view.holds() {
                core.lane.append(checkin).map_err(NotAppended::Refused)
            } else {
                Err(NotAppended::Relinked)
            }
        });
        (!matches!(admission, Err(AdmitError::Append(NotAppended::Relinked)))).then_some(admission)
    });
    match admission {
        Ok(Admission::Fresh(in_flight)) => Admitted::Fresh(in_flight),
        Ok(Admission::Duplicate(original, standing)) => Admitted::Repeats { scan, original, standing },
        Err(AdmitError::Append(NotAppended::Refused(error))) => Admitted::Refused(refused_by_journal(&error)),
        Err(AdmitError::Append(NotAppended::Relinked)) => {
            Admitted::Refused(Problem::new(Outcome::Overloaded, "the person's links are changing"))
        }
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

/// Waits for the commit, and says what came of it.
async fn settle(core: &Core, admitted: Admitted<'_>) -> Verdict {
    match admitted {
        Admitted::Refused(problem) => Verdict::Refused(problem),
        Admitted::Fresh(in_flight) => match settle::fresh(&core.lane, in_flight).await {
            Ok((checkin, proof)) => Verdict::Recorded { checkin, proof },
            Err(error) => Verdict::Refused(lost_by_journal(&error)),
        },
        Admitted::Repeats { scan, original, standing } => {
            match settle::repeated(&core.lane, standing).await {
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

/// Names a bound, and its limit where it has one.
pub(super) fn at_bound(problem: Problem, bound: &'static str, limit: Option<u64>) -> Problem {
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
