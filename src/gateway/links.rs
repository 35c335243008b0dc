//! `/v1/links` on the admin listener: the feed that tells which identifiers belong to one citizen.
//!
//! `POST` takes a batch as NDJSON and answers when it is on disk and in force; `GET` says how far a source
//! has come, so that it can go on from there. Both ask for the feed's token, or one with the scope `links`. A batch sent again changes
//! nothing, and a bad line spoils only itself.

use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use hyper::{Request, Response, Version};
use tokio::sync::oneshot;

use super::checkins::{self, BodyLimits};
use super::{Shared, audited};
use crate::audit::{Action, Entry, Outcome as Ended};
use crate::authenticate::Caller;
use crate::identity::feed::{self, BadLine};
use crate::identity::links::{FeedError, FeedState, Taken};
use crate::observe::metrics::Endpoint;
use crate::request;
use crate::respond::{self, Problem, Rejection, Verdict};
use crate::scan::{Outcome, UnixMillis};

/// The names of a source, and of the place in it that it has reached.
struct Query {
    source: String,
    cursor: Option<String>,
}

/// Takes a batch.
pub(super) async fn post(
    shared: &Arc<Shared>,
    caller: &Caller,
    request: Request<Incoming>,
) -> Response<Bytes> {
    let (head, body) = request.into_parts();
    let query = match query(head.uri.query().unwrap_or_default(), true) {
        Ok(query) => query,
        Err(problem) => return respond::problem(&problem),
    };
    if checkins::kind(&head.headers) != Some(Endpoint::Batch) {
        return respond::rejected(Rejection::UnsupportedMediaType(respond::NDJSON));
    }
    let declared = head.headers.contains_key(CONTENT_LENGTH) || head.headers.contains_key(TRANSFER_ENCODING);
    if head.version < Version::HTTP_2 && !declared {
        return respond::rejected(Rejection::LengthRequired);
    }
    // Before the body is read, so that one is held at a time.
    let turn = Arc::clone(&shared.feed_turn).lock_owned().await;
    let limits = &shared.feed_limits;
    let bounds = BodyLimits {
        body: ("identity.feed_bytes_max", limits.feed_bytes_max),
        inflated: ("identity.feed_bytes_max", limits.feed_bytes_max),
    };
    let body = match checkins::read_within(&bounds, &head.headers, body).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    if request::lines(&body).take(limits.feed_lines_max + 1).count() > limits.feed_lines_max {
        let detail = format!("a batch of links may have {} lines", limits.feed_lines_max);
        let problem = Problem::new(Outcome::TooLarge, detail).bound("identity.feed_lines_max");
        return respond::problem(&problem.limit(limits.feed_lines_max as u64, None));
    }
    let cursor = query.cursor.clone().unwrap_or_default();
    let entry = Entry::new(caller.to_string(), Action::Links).named(query.source.clone());
    let call = match audited::begin(shared, entry).await {
        Ok(call) => call,
        Err(response) => return response,
    };
    let (done, result) = oneshot::channel();
    let table = Arc::clone(shared);
    let spawned = std::thread::Builder::new().name("links".to_owned()).spawn(move || {
        let lines = request::lines(&body);
        let from = (query.source.as_str(), query.cursor.as_deref().unwrap_or_default());
        let taken = table.links.take(&table.identity, lines, from, UnixMillis::now());
        let ended = match &taken {
            Ok(taken) => (Ended::Done, taken.accepted),
            Err(_) => (Ended::Failed, 0),
        };
        call.end(&table, ended.0, Some(ended.1));
        drop(turn);
        // The client may have gone away; the batch stands.
        let _ = done.send(taken);
    });
    if let Err(error) = spawned {
        tracing::error!(%error, "cannot start a thread for a batch of links");
        return respond::internal();
    }
    match result.await {
        Ok(Ok(taken)) => answer(&taken, &cursor),
        Ok(Err(error)) => respond::problem(&refused(&error)),
        // The thread panicked, which the log has.
        Err(_) => respond::internal(),
    }
}

/// Says how far a source has come.
pub(super) async fn get(shared: &Arc<Shared>, request: &Request<Incoming>) -> Response<Bytes> {
    let query = match query(request.uri().query().unwrap_or_default(), false) {
        Ok(query) => query,
        Err(problem) => return respond::problem(&problem),
    };
    // A batch that is under way holds the table for as long as the disk takes.
    let _turn = shared.feed_turn.lock().await;
    match shared.links.feed(&query.source) {
        Ok(state) => {
            let FeedState { cursor, accepted, unchanged, refused, .. } = state.unwrap_or_default();
            respond::feed_state(&cursor, [accepted, unchanged, refused])
        }
        Err(error) => respond::problem(&refused(&error.into())),
    }
}

fn query(text: &str, with_cursor: bool) -> Result<Query, Problem> {
    let malformed = |field: &'static str, detail: &'static str| {
        Err(Problem::new(Outcome::Malformed, detail).field(field))
    };
    // A query's + is itself (RFC 3986), not a form's space.
    let text = text.replace('+', "%2B");
    let (mut source, mut cursor) = (None, None);
    for (name, value) in form_urlencoded::parse(text.as_bytes()) {
        let twice = match name.as_ref() {
            "source" => source.replace(value.into_owned()).is_some(),
            "cursor" if with_cursor => cursor.replace(value.into_owned()).is_some(),
            _ => return malformed("query", "the query may hold source, and cursor with a batch"),
        };
        if twice {
            return malformed("query", "each parameter may be given once");
        }
    }
    match (source.filter(|source| feed::is_source(source)), cursor) {
        (None, _) => malformed("source", "source must be 1 to 32 of a-z, 0-9, '.', '_' and '-'"),
        (Some(_), Some(cursor)) if !feed::is_cursor(&cursor) => {
            malformed("cursor", "cursor must be up to 64 visible ASCII characters")
        }
        (Some(_), None) if with_cursor => malformed("cursor", "cursor is required; it may be empty"),
        (Some(source), cursor) => Ok(Query { source, cursor }),
    }
}

fn answer(taken: &Taken, cursor: &str) -> Response<Bytes> {
    let mut body = String::with_capacity(128 + taken.refused.len() * 128);
    for (line, bad) in &taken.refused {
        respond::batch_line(&mut body, *line, &Verdict::Refused(bad_line(bad)), "");
    }
    respond::feed_summary(&mut body, taken.accepted, taken.unchanged, taken.refused.len(), cursor);
    respond::batch(body)
}

fn bad_line(bad: &BadLine) -> Problem {
    let problem = Problem::new(Outcome::Malformed, bad.to_string()).field(bad.field);
    match bad.size {
        Some((limit, size)) => problem.limit(limit, Some(size)),
        None => problem,
    }
}

fn refused(error: &FeedError) -> Problem {
    match error {
        FeedError::Full { bound, limit } => {
            let problem = Problem::new(Outcome::Overloaded, error.to_string()).bound(bound);
            problem.limit(*limit, None).retry_after(60)
        }
        FeedError::Links(source) => {
            tracing::error!(error = %source, "links can't be read or written");
            let detail = "the links can't be written; nothing of the batch is in force";
            Problem::new(Outcome::Unavailable, detail).bound("identity.disk").retry_after(30)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::respond::Concern;

    #[test]
    fn a_query_names_source_and_cursor() {
        let read = query("cursor=a%2Fb+c&source=vneid", true).expect("a query");
        assert_eq!((read.source.as_str(), read.cursor.as_deref()), ("vneid", Some("a/b+c")));
        assert!(query("source=vneid", false).is_ok());
        for (text, with_cursor, field) in [
            ("", true, "source"),
            ("source=VNeID&cursor=1", true, "source"),
            ("source=vneid", true, "cursor"),
            ("source=vneid&cursor=a%20b", true, "cursor"),
            ("source=vneid&cursor=1&cursor=2", true, "query"),
            ("source=vneid&cursor=1", false, "query"),
            ("source=vneid&since=1&cursor=1", true, "query"),
        ] {
            let problem = query(text, with_cursor).err().expect(text);
            assert_eq!(problem.concern, Some(Concern::Field(field)), "{text}");
        }
    }
}
