//! What officers ask for: the queue, one piece, a step, the export. All of it is in the audit log before it is read.

use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use hyper::Response;
use serde::Deserialize;

use super::{broken, checked, record, record_all, secret, unreadable};
use crate::audit::{Action, Entry, Outcome};
use crate::authenticate::Caller;
use crate::openapi::feedback as api;
use crate::respond::{self, Cause, Refused};
use crate::services::Services;
use crate::services::ask::Ask;
use crate::services::feedback::event::{self, Told};
use crate::services::feedback::item::{Item, State, written};
use crate::verify::admin_token::AdminScope;
use crate::verify::{hex, unhex};

/// Pieces of one page, and of one export.
const PAGE: usize = 50;
const EXPORT: usize = 1_000;

/// Characters of a text that the queue shows.
const EXCERPT_CHARS: usize = 160;

/// `GET /v1/feedback`
pub(super) async fn queue(services: &Services, ask: &Ask) -> Result<Response<Bytes>, Refused> {
    let caller = ask.officer(&*services.host, AdminScope::Services)?;
    let [state, cursor] = ask.query(["state", "cursor"])?;
    let state = state.map(|name| known_state(&name, "state")).transpose()?;
    let after = cursor.map(|cursor| position(&cursor)).transpose()?.unwrap_or_default();
    audited(services, ask, &caller, state.map_or("queue", State::name)).await?;
    let (items, next) = page(services, state, after, PAGE).await?;
    let items = items.into_iter().map(summary).collect();
    Ok(respond::json(&api::FeedbackPage { items, next }))
}

/// `GET /v1/feedback/{id}`
pub(super) async fn one(services: &Services, ask: &Ask, id: &str) -> Result<Response<Bytes>, Refused> {
    let caller = ask.officer(&*services.host, AdminScope::Services)?;
    let item = found(services, id)?;
    audited(services, ask, &caller, &item.id).await?;
    Ok(respond::json(&whole(item)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    to: String,
    revision: u32,
    #[serde(default)]
    answer: Option<String>,
}

/// `POST /v1/feedback/{id}/state`
pub(super) async fn step(services: &Services, ask: &Ask, id: &str) -> Result<Response<Bytes>, Refused> {
    let caller = ask.officer(&*services.host, AdminScope::Services)?;
    let item = found(services, id)?;
    let asked: Body = ask.json()?;
    let to = known_state(&asked.to, "/to")?;
    let answer = asked.answer.map(|answer| checked(&answer, "/answer")).transpose()?;
    if answer.is_some() != (to == State::Answered) {
        let detail = "an answer belongs to the step to answered, and to no other";
        return Err(Refused::new(Cause::Invalid, detail).field("/answer"));
    }
    let draft = secret()?;
    let (parts, answer) = match answer.map(|answer| event::parted(answer, &draft)) {
        Some((parts, answer)) => (parts, Some(answer)),
        None => (vec![], None),
    };
    record_all(services, ask, parts).await?;
    let told = Told::Moved { id: item.id, to, revision: asked.revision, answer, by: caller.to_string() };
    Ok(record(services, ask, &told).await?.into())
}

/// `GET /v1/feedback/export`: up to 1,000 pieces by when they came, and a last line that says where the next begin.
pub(super) async fn export(services: &Services, ask: &Ask) -> Result<Response<Bytes>, Refused> {
    let caller = ask.officer(&*services.host, AdminScope::Services)?;
    let [cursor] = ask.query(["cursor"])?;
    let after = cursor.map(|cursor| position(&cursor)).transpose()?.unwrap_or_default();
    let entry = Entry::new(caller.to_string(), Action::FeedbackExport);
    let call = append(services, ask, entry.clone(), Outcome::Begun).await?;
    let (items, next) = page(services, None, after, EXPORT).await?;
    let mut body = Vec::new();
    let rows = items.len() as u64;
    for item in items {
        line(&mut body, &whole(item));
    }
    line(&mut body, &api::FeedbackExportEnd { next });
    let (host, now) = (Arc::clone(&services.host), ask.now);
    let ended =
        tokio::task::spawn_blocking(move || host.audit().end(call, &entry, (Outcome::Done, Some(rows)), now));
    if let Err(error) = ended.await.map_err(|_| broken())? {
        tracing::error!(error = %anyhow::Error::from(error), call, "the end of a call isn't in the audit log");
    }
    Ok(respond::ok(respond::NDJSON, body))
}

fn line(body: &mut Vec<u8>, value: &impl serde::Serialize) {
    // Structs of strings and numbers always serialize, and writing into memory can't fail.
    let _ = serde_json::to_writer(&mut *body, value);
    let _ = body.write_all(b"\n");
}

async fn page(
    services: &Services,
    state: Option<State>,
    after: Vec<u8>,
    max: usize,
) -> Result<(Vec<Item>, Option<String>), Refused> {
    let feedback = Arc::clone(&services.capabilities.feedback);
    // Reads a thousand rows at most, but of an LSM tree on a disk: not on the listener's thread.
    let read = tokio::task::spawn_blocking(move || feedback.tables.page(state, &after, max));
    let (items, more) = read.await.map_err(|_| broken())?.map_err(unreadable)?;
    let key = items.last().filter(|_| more).map(|item| item.queue_key(state));
    let next = key.map(|key| hex(key.get(1..).unwrap_or_default()));
    Ok((items, next))
}

/// The piece with the id in the path.
pub(super) fn found(services: &Services, id: &str) -> Result<Item, Refused> {
    let unknown = || Refused::new(Cause::NotFound, "there is no such feedback, or no longer");
    let id: [u8; 16] = unhex(id).ok_or_else(unknown)?;
    services.capabilities.feedback.tables.item(&hex(&id)).map_err(unreadable)?.ok_or_else(unknown)
}

/// Records that an officer reads feedback; nothing is read that isn't recorded.
pub(super) async fn audited(
    services: &Services,
    ask: &Ask,
    caller: &Caller,
    what: &str,
) -> Result<(), Refused> {
    let entry = Entry::new(caller.to_string(), Action::Feedback).named(what);
    append(services, ask, entry, Outcome::Done).await.map(|_| ())
}

async fn append(services: &Services, ask: &Ask, entry: Entry, outcome: Outcome) -> Result<u64, Refused> {
    let (host, now) = (Arc::clone(&services.host), ask.now);
    let appended = tokio::task::spawn_blocking(move || host.audit().append(&entry, outcome, now));
    appended.await.map_err(|_| broken())?.map_err(|error| {
        tracing::error!(error = %anyhow::Error::from(error), "the audit log can't be written; the call was refused");
        let detail = "the audit log can't be written, and nothing is done that is not in it";
        Refused::new(Cause::Unavailable, detail).bound("audit.disk").retry_after(30)
    })
}

fn known_state(name: &str, field: &'static str) -> Result<State, Refused> {
    let states: Vec<_> = State::ALL.iter().map(|state| state.name()).collect();
    let unknown =
        || Refused::new(Cause::Malformed, format!("a state is one of {}", states.join(", "))).field(field);
    State::parse(name).ok_or_else(unknown)
}

/// A cursor: a key of the queue without its state.
fn position(cursor: &str) -> Result<Vec<u8>, Refused> {
    let read: Option<[u8; 40]> = unhex(cursor);
    let unknown = || Refused::new(Cause::Malformed, "cursor must be one that came as next").field("cursor");
    read.map(Vec::from).ok_or_else(unknown)
}

fn summary(item: Item) -> api::FeedbackSummary {
    let mut excerpt: String = item.text.chars().take(EXCERPT_CHARS).collect();
    if excerpt.len() < item.text.len() {
        excerpt.push('…');
    }
    api::FeedbackSummary {
        id: item.id,
        state: item.state.name().to_owned(),
        revision: item.revision,
        category: item.category.name().to_owned(),
        language: item.language.name().to_owned(),
        received: written(item.at),
        changed: written(item.changed),
        excerpt,
        signed: item.sender.is_some(),
        has_photo: item.photo.is_some(),
    }
}

fn whole(item: Item) -> api::FeedbackItem {
    let history = item.history.into_iter().map(|step| api::FeedbackStep {
        to: step.to.name().to_owned(),
        at: written(step.at),
        by: step.by,
    });
    api::FeedbackItem {
        id: item.id,
        state: item.state.name().to_owned(),
        revision: item.revision,
        category: item.category.name().to_owned(),
        language: item.language.name().to_owned(),
        received: written(item.at),
        changed: written(item.changed),
        text: item.text,
        place: item.place,
        sender: item.sender,
        photo: item.photo,
        answer: item.answer,
        history: history.collect(),
    }
}
