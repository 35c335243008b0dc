//! `/v1/export` and `/v1/trace` on the admin listener: check-ins as NDJSON, by time range or by person. Each call is in
//! the audit log before its first line leaves.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use serde::Deserialize;
use tokio::sync::mpsc::{self, error::TrySendError};

use super::Shared;
use super::audited::{self, Call};
use super::checkins::{self, BodyLimits};
use crate::audit::{Action, Entry, Outcome as Ended, Purpose};
use crate::authenticate::Caller;
use crate::issue::REFERENCE_BYTES_MAX;
use crate::listen::Body;
use crate::observe::metrics::Endpoint;
use crate::respond::{self, Problem, Rejection};
use crate::scan::{DAY_MS, Outcome, Pseudonym, UnixMillis};
use crate::store::export::{ExportError, ExportRange, ExportSummary, export};
use crate::store::trace::{TRACE_DAYS_MAX, trace};
use crate::verify::unhex;

/// How long a call waits for the store to hold what was durable when it was asked for.
const STORE_WAIT_MAX: Duration = Duration::from_secs(30);

/// How often a client that doesn't keep up is looked at again.
const SLOW_CLIENT_PAUSE: Duration = Duration::from_millis(5);

/// Bytes handed to the client at a time, and how many such pieces may wait for it.
const PIECE_BYTES: usize = 64 * 1024;
const PIECES_MAX: usize = 16;

/// What is asked for.
#[derive(Debug)]
struct Asked {
    from: UnixMillis,
    to: UnixMillis,
    /// One person's check-ins only.
    person: Option<Pseudonym>,
    purpose: Option<Purpose>,
}

/// `GET /v1/export`
pub(super) async fn all(
    shared: &Arc<Shared>,
    caller: &Caller,
    request: &Request<Incoming>,
) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default();
    answer(shared, caller, asked(query, false), request.method() == Method::HEAD).await
}

/// `GET /v1/trace`, by pseudonym, and `POST`, by any reference to a person: a number has no place in a URL.
pub(super) async fn of_person(
    shared: &Arc<Shared>,
    caller: &Caller,
    request: Request<Incoming>,
) -> Response<Body> {
    if request.method() != Method::POST {
        let query = request.uri().query().unwrap_or_default();
        return answer(shared, caller, asked(query, true), request.method() == Method::HEAD).await;
    }
    let (head, body) = request.into_parts();
    if checkins::kind(&head.headers) != Some(Endpoint::Single) {
        return respond::rejected(Rejection::UnsupportedMediaType(respond::JSON)).map(Body::from);
    }
    let size = ("limits.body_bytes_max", shared.limits().body_bytes_max);
    match checkins::read_within(&BodyLimits { body: size, inflated: size }, &head.headers, body).await {
        Ok(body) => answer(shared, caller, posted(shared, &body), false).await,
        Err(response) => response.map(Body::from),
    }
}

async fn answer(
    shared: &Arc<Shared>,
    caller: &Caller,
    asked: Result<Asked, Problem>,
    is_head: bool,
) -> Response<Body> {
    let asked = match asked.and_then(|asked| allowed(asked, shared.purpose_required)) {
        Ok(asked) => asked,
        Err(problem) => return respond::problem(&problem).map(Body::from),
    };
    if is_head {
        return respond::ok(respond::NDJSON, Bytes::new()).map(|_| Body::stream(stream::empty()));
    }
    if !caught_up(shared).await {
        let problem = Problem::new(Outcome::Unavailable, "the store is behind the journal; see /v1/stats");
        return respond::problem(&problem.bound("store.lag").retry_after(30)).map(Body::from);
    }
    let person = asked.person.map(|own| shared.links.citizen_of(own));
    let action = if person.is_some() { Action::Trace } else { Action::Export };
    let entry = Entry::new(caller.to_string(), action).over(asked.from, asked.to).purpose(asked.purpose);
    let entry = match person {
        Some(person) => entry.about(person),
        None => entry,
    };
    let call = match audited::begin(shared, entry).await {
        Ok(call) => call,
        Err(response) => return response.map(Body::from),
    };
    let range = ExportRange::over(asked.from, asked.to, shared.widest_window_s);
    let (client, mut received) = mpsc::channel(PIECES_MAX);
    let shared = Arc::clone(shared);
    // A thread of its own, since the embedded store reads by blocking.
    let spawned = std::thread::Builder::new()
        .name("export".to_owned())
        .spawn(move || hand_out(&shared, &call, (person, range), client));
    if let Err(error) = spawned {
        tracing::error!(error = %error, "cannot start an export");
        return respond::internal().map(Body::from);
    }
    let body = stream::poll_fn(move |context| received.poll_recv(context));
    respond::ok(respond::NDJSON, Bytes::new()).map(|_| Body::stream(body))
}

/// Waits until the store holds what was durable at the time of asking.
async fn caught_up(shared: &Shared) -> bool {
    let durable = shared.journal.durable_position();
    let deadline = Instant::now() + STORE_WAIT_MAX;
    while !shared.written.reached(durable) {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

fn hand_out(
    shared: &Shared,
    call: &Call,
    (person, range): (Option<Pseudonym>, ExportRange),
    client: mpsc::Sender<Bytes>,
) {
    let mut out = Pieces { client, piece: Vec::with_capacity(PIECE_BYTES), lines: 0 };
    let done = read(shared, person, range, &mut out).and_then(|summary| {
        out.flush()?;
        Ok(summary)
    });
    let (ended, failed) = match done {
        Ok(ExportSummary { checkins, folded }) => {
            tracing::info!(checkins, folded, "export done");
            (Ended::Done, false)
        }
        Err(ExportError::Output(_)) => {
            tracing::warn!("export broken off by its reader");
            (Ended::BrokenOff, false)
        }
        Err(error) => {
            tracing::error!(error = %anyhow::Error::from(error), "export broke off");
            (Ended::Failed, true)
        }
    };
    // Before the answer ends: who has seen its end finds it in the log.
    call.end(shared, ended, Some(out.lines));
    if failed {
        out.fail();
    }
}

fn read(
    shared: &Shared,
    person: Option<Pseudonym>,
    range: ExportRange,
    out: &mut Pieces,
) -> Result<ExportSummary, ExportError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match person {
        None => {
            let citizen = |own| Ok(shared.links.citizen_of(own));
            runtime.block_on(export(&shared.store, range, &citizen, out))
        }
        Some(person) => {
            let aliases = shared.links.aliases_of(person);
            let mut pseudonyms = aliases.map_err(|error| ExportError::Links(io::Error::other(error)))?;
            pseudonyms.push(person);
            runtime.block_on(trace(&shared.store, (person, &pseudonyms), range, out))
        }
    }
}

/// What a query asks for. A parameter that isn't known or comes twice is refused: a misspelt `to` must not quietly
/// become another export.
fn asked(query: &str, of_person: bool) -> Result<Asked, Problem> {
    // A query's + is itself (RFC 3986), not a form's space: offsets such as +07:00 are written with it.
    let query = query.replace('+', "%2B");
    let known: &[&'static str] =
        if of_person { &["from", "to", "purpose", "person"] } else { &["from", "to", "purpose"] };
    let mut given = [const { None }; 4];
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let place = known.iter().zip(&mut given).find(|(known, _)| **known == name);
        let Some((field, place)) = place else {
            let detail = format!("the query may hold {}", known.join(", "));
            return Err(Problem::new(Outcome::Malformed, detail).field("query"));
        };
        if place.replace(value.into_owned()).is_some() {
            return Err(malformed(field, "may be given once"));
        }
    }
    let [from, to, purpose, person] = given;
    let own = |text: String| {
        let pseudonym = unhex(&text).map(Pseudonym);
        pseudonym.ok_or_else(|| malformed("person", "must be a pseudonym here; POST any other reference"))
    };
    Ok(Asked {
        from: time("from", from)?,
        to: time("to", to)?,
        person: if of_person { Some(own(required("person", person)?)?) } else { None },
        purpose: stated(purpose)?,
    })
}

/// What the body of a POST asks for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TraceBody {
    person: String,
    from: String,
    to: String,
    #[serde(default)]
    purpose: Option<String>,
}

fn posted(shared: &Shared, body: &[u8]) -> Result<Asked, Problem> {
    // The parser's own words could quote the body.
    let TraceBody { person, from, to, purpose } = serde_json::from_slice(body).map_err(|_| {
        let detail =
            "the body must be an object with person, from, to and, if wanted, purpose, all of them text";
        Problem::new(Outcome::Malformed, detail).field("body")
    })?;
    if !(1..=REFERENCE_BYTES_MAX).contains(&person.trim().len()) {
        return Err(malformed("person", "must have 1 to 256 bytes"));
    }
    let own = match unhex(&person) {
        Some(pseudonym) => Pseudonym(pseudonym),
        None => shared.identity.person_reference(&person),
    };
    Ok(Asked {
        from: time("from", Some(from))?,
        to: time("to", Some(to))?,
        person: Some(own),
        purpose: stated(purpose)?,
    })
}

fn allowed(asked: Asked, purpose_required: bool) -> Result<Asked, Problem> {
    if purpose_required && asked.purpose.is_none() {
        return Err(malformed("purpose", "is required (admin.purpose_required)"));
    }
    let reach_ms = asked.to.0.saturating_sub(asked.from.0);
    if asked.person.is_some() && reach_ms > TRACE_DAYS_MAX * DAY_MS {
        let days = u64::try_from(reach_ms / DAY_MS).unwrap_or(u64::MAX);
        let limit = u64::try_from(TRACE_DAYS_MAX).unwrap_or(u64::MAX);
        return Err(
            malformed("to", "is too long after from; limit and value are days").limit(limit, Some(days))
        );
    }
    Ok(asked)
}

fn malformed(field: &'static str, what: &str) -> Problem {
    Problem::new(Outcome::Malformed, format!("{field} {what}")).field(field)
}

fn required(field: &'static str, value: Option<String>) -> Result<String, Problem> {
    value.ok_or_else(|| malformed(field, "is required"))
}

fn time(field: &'static str, value: Option<String>) -> Result<UnixMillis, Problem> {
    UnixMillis::parse(&required(field, value)?).map_err(|error| malformed(field, &error.to_string()))
}

fn stated(purpose: Option<String>) -> Result<Option<Purpose>, Problem> {
    let read = purpose.map(|text| Purpose::parse(&text)).transpose();
    read.map_err(|error| malformed("purpose", &error.to_string()))
}

/// Hands what is written to the client, and waits for it where it is slow.
struct Pieces {
    client: mpsc::Sender<Bytes>,
    piece: Vec<u8>,
    /// Lines in the pieces handed on.
    lines: u64,
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
        let lines = memchr::memchr_iter(b'\n', &piece).count() as u64;
        // Called from inside the export's own `block_on`, where the channel's blocking send may not be used.
        let mut piece = Bytes::from(piece);
        loop {
            match self.client.try_send(piece) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) => piece = back,
                Err(TrySendError::Closed(_)) => return Err(io::ErrorKind::BrokenPipe.into()),
            }
            std::thread::sleep(SLOW_CLIENT_PAUSE);
        }
        self.lines += lines;
        Ok(())
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
            let Asked { from, to, .. } = asked(query, false).expect(query);
            assert_eq!((from.to_string().as_str(), to.to_string().as_str()), expected, "{query}");
        }
    }

    #[test]
    fn a_wrong_parameter_is_named() {
        let times = "from=2021-11-24T00:00:00Z&to=2021-11-25T00:00:00Z";
        for (query, field) in [
            ("", "from"),
            ("to=2021-11-24T00:00:00Z", "from"),
            ("from=2021-11-24T00:00:00Z", "to"),
            ("from=2021-11-24T00:00:00Z&to=", "to"),
            ("from=yesterday&to=2021-11-24T00:00:00Z", "from"),
            ("from=1969-12-31T23:59:59Z&to=2021-11-24T00:00:00Z", "from"),
            (&format!("{times}&to=2021-11-25T00:00:00Z"), "to"),
            (&format!("{times}&till=x"), "query"),
            (&format!("{times}&person=00112233445566778899aabbccddeeff"), "query"),
            (&format!("{times}&purpose="), "purpose"),
            (&format!("{times}&purpose=a&purpose=b"), "purpose"),
            (&format!("{times}&purpose=tim%20001090123456"), "purpose"),
            ("from=%ff&to=2021-11-24T00:00:00Z", "from"),
        ] {
            let problem = asked(query, false).expect_err(query);
            assert_eq!(problem.concern, Some(Concern::Field(field)), "{query}");
            assert!(!problem.detail.contains("001090123456"));
        }
    }

    #[test]
    fn a_query_names_a_person_by_pseudonym_only() {
        let times = "from=2021-11-24T00:00:00Z&to=2021-11-25T00:00:00Z";
        let good =
            asked(&format!("{times}&person=00112233445566778899aabbccddeeff"), true).expect("a pseudonym");
        assert_eq!(good.person.map(|person| person.0[1]), Some(0x11));
        for person in ["", "&person=", "&person=001090123456", "&person=guest-17"] {
            let problem = asked(&format!("{times}{person}"), true).expect_err(person);
            assert_eq!(problem.concern, Some(Concern::Field("person")), "{person}");
            assert!(!problem.detail.contains("001090123456"));
        }
    }

    #[test]
    fn a_trace_is_bounded_and_a_purpose_may_be_required() {
        let day = |day: i64| UnixMillis(day * DAY_MS);
        let asked = |to, person| Asked { from: day(1), to, person, purpose: None };
        let person = Some(Pseudonym([1; 16]));
        assert!(allowed(asked(day(1 + TRACE_DAYS_MAX), person), false).is_ok());
        let long =
            allowed(asked(UnixMillis(day(1 + TRACE_DAYS_MAX).0 + 1), person), false).expect_err("too long");
        assert_eq!((long.limit, long.value), (Some(366), Some(366)));
        assert!(allowed(asked(day(10_000), None), false).is_ok());
        let unstated = allowed(asked(day(2), None), true).expect_err("no purpose");
        assert_eq!(unstated.concern, Some(Concern::Field("purpose")));
    }
}
