//! `/v1/cases` and `/v1/notifications`.

use std::sync::Arc;

use bytes::Bytes;
use hyper::{Method, Response};

use super::Tracing;
use super::change::{Asked, Change, Key, Of, TOLD_MAX};
use super::contacts::{all, day_text, notices, page};
use super::search::Found;
use super::tables::{Case, Made, not_approved};
use crate::audit::{Action, Entry, Outcome, Purpose};
use crate::authenticate::Caller;
use crate::issue::REFERENCE_BYTES_MAX;
use crate::openapi::{
    CASE_ID_CHARS_MAX, CaseRequest, Notification, NotificationSettings, Notifications, Notified, TraceCases,
};
use crate::respond::{self, Cause, Refused};
use crate::scan::{DAY_MS, Pseudonym, UnixMillis};
use crate::services::ask::Ask;
use crate::services::capability::{Effect, Kind, StateError};
use crate::services::{Host, Services};
use crate::verify::admin_token::AdminScope;
use crate::verify::unhex;

/// Days that one case may reach over: twice an incubation.
const CASE_DAYS_MAX: i64 = 31;

/// Cases or notifications in one answer.
const LISTED_MAX: usize = 100;

/// What is asked under `/v1/cases` and `/v1/notifications`.
///
/// # Errors
/// It is refused.
pub(in crate::services) async fn answer(services: &Services, ask: &Ask) -> Result<Response<Bytes>, Refused> {
    match (ask.method(), ask.path().as_slice()) {
        (&Method::POST, ["cases"]) => open(services, ask).await,
        (&Method::GET, ["cases"]) => list(services, ask),
        (&Method::GET, ["cases", case]) => show(services, ask, case),
        (&Method::POST, ["cases", case, "approve"]) => approve(services, ask, case).await,
        (&Method::GET, ["cases", case, "contacts"]) => read(services, ask, case).await,
        (&Method::GET, ["cases", case, "sealed"]) => seal(services, ask, case).await,
        (&Method::POST, ["cases", case, "notify"]) => notify(services, ask, case).await,
        (&Method::GET, ["notifications"]) => waiting(services, ask),
        (&Method::POST, ["notifications", id, "ack"]) => acknowledge(services, ask, id).await,
        (&Method::PUT, ["notifications", "settings"]) => set(services, ask).await,
        _ => Err(Refused::new(Cause::NotFound, "there is nothing under this path and method")),
    }
}

/// The officer, by the name of their token. A token that is no one person's can't stand for one of two.
fn officer(services: &Services, ask: &Ask, scope: AdminScope) -> Result<String, Refused> {
    match ask.officer(services.host.as_ref(), scope)? {
        Caller::Token(name) => Ok(name.to_string()),
        Caller::Loopback | Caller::Local | Caller::Feed => {
            let detail = "cases are asked for and approved by named tokens (`scangate keys admin`)";
            Err(Refused::new(Cause::Forbidden, detail).field("authorization"))
        }
    }
}

async fn open(services: &Services, ask: &Ask) -> Result<Response<Bytes>, Refused> {
    let by = officer(services, ask, AdminScope::Trace)?;
    let CaseRequest { id, person, place, from, to, purpose, depth } = ask.json()?;
    let of_id = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if !(1..=CASE_ID_CHARS_MAX).contains(&id.len()) || !id.bytes().all(of_id) {
        return Err(invalid("/id", "must be 1 to 64 letters, digits, '.', '_' and '-'"));
    }
    let of = subject(services.host.as_ref(), person.as_deref(), place.as_deref())?;
    let (from, to) = (time("/from", &from)?, time("/to", &to)?);
    if from >= to {
        return Err(invalid("/to", "must be after from"));
    }
    let reach_ms = to.0.saturating_sub(from.0);
    if reach_ms > CASE_DAYS_MAX * DAY_MS {
        let refused = invalid("/to", "is too long after from; limit and value are days");
        let days = u64::try_from(reach_ms / DAY_MS).unwrap_or(u64::MAX);
        return Err(refused.limit(CASE_DAYS_MAX.unsigned_abs(), Some(days)));
    }
    let depth = depth.unwrap_or(1);
    if !(1..=2).contains(&depth) {
        return Err(invalid("/depth", "must be 1 or 2"));
    }
    let told = Purpose::parse(&purpose).map_err(|error| invalid("/purpose", error.to_string()))?;
    let key = match of {
        Of::Person(key) | Of::Place(key) => key,
    };
    let entry = entry(&by, Action::TraceAsk).named(key.to_string()).over(from, to).purpose(Some(told));
    let call = begin(services, entry).await?;
    let asked = Asked { of, from: from.0, to: to.0, depth, purpose: purpose.trim().to_owned() };
    let change = Change::Ask { by, id, asked, per_hour: tracing(services).cases_per_h };
    let effect = remember(services, ask, &change).await;
    call.end(matches!(effect, Ok(Effect::Created(_) | Effect::Done(_))), None).await;
    Ok(effect?.into())
}

fn subject(host: &dyn Host, person: Option<&str>, place: Option<&str>) -> Result<Of, Refused> {
    let bounded = |field: &'static str, text: &str| {
        let is_short = (1..=REFERENCE_BYTES_MAX).contains(&text.trim().len());
        if is_short { Ok(()) } else { Err(invalid(field, "must have 1 to 256 bytes")) }
    };
    match (person, place) {
        (Some(person), None) => {
            bounded("/person", person)?;
            let own = unhex(person).map_or_else(|| host.identity().person_reference(person), Pseudonym);
            Ok(Of::Person(Key(host.links().citizen_of(own).0)))
        }
        (None, Some(place)) => {
            bounded("/place", place)?;
            Ok(Of::Place(Key::parse(place).unwrap_or_else(|| Key(host.identity().place(place).0))))
        }
        _ => Err(invalid("/person", "either person or place is given, and not both")),
    }
}

fn list(services: &Services, ask: &Ask) -> Result<Response<Bytes>, Refused> {
    let [] = ask.query([])?;
    let (name, sees_all) = reader(services, ask)?;
    let found = tracing(services).tables.newest(LISTED_MAX, |case| sees_all || case.is_for(&name));
    let cases = found.map_err(unreadable)?.iter().map(|(case, record)| record.told(*case, ask.now)).collect();
    Ok(respond::json(&TraceCases { cases }))
}

fn show(services: &Services, ask: &Ask, case: &str) -> Result<Response<Bytes>, Refused> {
    let (name, sees_all) = reader(services, ask)?;
    let (case, record) = known(services, case)?;
    if !sees_all && !record.is_for(&name) {
        return Err(no_case());
    }
    Ok(respond::json(&record.told(case, ask.now)))
}

/// Who looks at cases: whoever approves sees all, whoever asks their own.
fn reader(services: &Services, ask: &Ask) -> Result<(String, bool), Refused> {
    match officer(services, ask, AdminScope::Approve) {
        Ok(name) => Ok((name, true)),
        Err(refused) if refused.cause == Cause::Forbidden => {
            officer(services, ask, AdminScope::Trace).map(|name| (name, false))
        }
        Err(refused) => Err(refused),
    }
}

async fn approve(services: &Services, ask: &Ask, case: &str) -> Result<Response<Bytes>, Refused> {
    let by = officer(services, ask, AdminScope::Approve)?;
    let (case, record) = known(services, case)?;
    let call = begin(services, about(entry(&by, Action::TraceApprove), case, &record)).await?;
    let until = ask.now.0.saturating_add(tracing(services).approval_ms);
    let effect = remember(services, ask, &Change::Approve { case, by, until }).await;
    call.end(matches!(effect, Ok(Effect::Done(_))), None).await;
    Ok(effect?.into())
}

async fn read(services: &Services, ask: &Ask, case: &str) -> Result<Response<Bytes>, Refused> {
    let by = officer(services, ask, AdminScope::Trace)?;
    let [cursor] = ask.query(["cursor"])?;
    let (case, record) = approved(services, ask, case, &by)?;
    let call = begin(services, about(entry(&by, Action::TraceRead), case, &record)).await?;
    let shown = found(services, case, &record).await.and_then(|found| page(case, &found, cursor.as_deref()));
    call.end(shown.is_ok(), shown.as_ref().ok().map(|page| page.contacts.len())).await;
    shown.map(|page| respond::json(&page))
}

async fn seal(services: &Services, ask: &Ask, case: &str) -> Result<Response<Bytes>, Refused> {
    let by = officer(services, ask, AdminScope::Trace)?;
    let [] = ask.query([])?;
    let (case, record) = approved(services, ask, case, &by)?;
    let Some(register) = &tracing(services).register else {
        let detail = "this gateway has no key of the population register";
        return Err(Refused::new(Cause::Conflict, detail).bound("tracing.population_key_file"));
    };
    let call = begin(services, about(entry(&by, Action::TraceRead), case, &record)).await?;
    let sealed = match found(services, case, &record).await {
        Ok(found) => {
            let list = serde_json::to_vec(&all(case, &found)).unwrap_or_default();
            let failed = |_| Refused::new(Cause::Unavailable, "the list can't be sealed");
            register
                .seal(&case.to_string(), &list)
                .map(|sealed| (sealed, found.contacts.len()))
                .map_err(failed)
        }
        Err(refused) => Err(refused),
    };
    call.end(sealed.is_ok(), sealed.as_ref().ok().map(|(_, contacts)| *contacts)).await;
    sealed.map(|(sealed, _)| respond::json(&sealed))
}

async fn notify(services: &Services, ask: &Ask, case: &str) -> Result<Response<Bytes>, Refused> {
    let by = officer(services, ask, AdminScope::Trace)?;
    let (case, record) = approved(services, ask, case, &by)?;
    let call = begin(services, about(entry(&by, Action::TraceNotify), case, &record)).await?;
    let notified = match found(services, case, &record).await {
        Ok(found) => tell(services, ask, case, &found).await,
        Err(refused) => Err(refused),
    };
    call.end(notified.is_ok(), notified.as_ref().ok().map(|notified| notified.notified)).await;
    notified.map(|notified| respond::json(&notified))
}

async fn tell(services: &Services, ask: &Ask, case: Key, found: &Found) -> Result<Notified, Refused> {
    let mut notified = 0;
    for told in notices(found).chunks(TOLD_MAX) {
        // One that was interrupted is done again: whoever was notified is not notified twice.
        match remember(services, ask, &Change::Notify { case, told: told.to_vec() }).await? {
            Effect::Created(body) | Effect::Done(body) => {
                notified += serde_json::from_slice::<Made>(&body).map_or(0, |made| made.made);
            }
            Effect::Refused(refused) => return Err(refused),
        }
    }
    Ok(Notified { contacts: found.contacts.len(), notified })
}

fn waiting(services: &Services, ask: &Ask) -> Result<Response<Bytes>, Refused> {
    let [] = ask.query([])?;
    let (citizen, tables) = (ask.person(services.host.as_ref())?, &tracing(services).tables);
    let mut found = Vec::new();
    for own in everyone(services, citizen)? {
        found.extend(tables.waiting(own).map_err(unreadable)?);
    }
    found.sort_unstable_by_key(|(id, mail)| (mail.at, *id));
    found.truncate(LISTED_MAX);
    let content = tables.wants_content(citizen).map_err(unreadable)?;
    let told = found.into_iter().map(|(id, mail)| Notification {
        id: id.to_string(),
        depth: content.then_some(mail.told.depth),
        day: content.then(|| day_text(mail.told.day)),
        place: mail.told.place.filter(|_| content).map(|place| place.to_string()),
    });
    Ok(respond::json(&Notifications { notifications: told.collect(), content }))
}

async fn acknowledge(services: &Services, ask: &Ask, id: &str) -> Result<Response<Bytes>, Refused> {
    let citizen = ask.person(services.host.as_ref())?;
    let none = || Refused::new(Cause::NotFound, "there is no such notification for this person");
    let id = Key::parse(id).ok_or_else(none)?;
    for own in everyone(services, citizen)? {
        if tracing(services).tables.has_mail(own, id).map_err(unreadable)? {
            let change = Change::Acknowledge { person: Key(own.0), id };
            return Ok(remember(services, ask, &change).await?.into());
        }
    }
    Err(none())
}

async fn set(services: &Services, ask: &Ask) -> Result<Response<Bytes>, Refused> {
    let citizen = ask.person(services.host.as_ref())?;
    let NotificationSettings { content } = ask.json()?;
    let change = Change::Content { person: Key(citizen.0), content };
    Ok(remember(services, ask, &change).await?.into())
}

/// All pseudonyms that were, or are, the person's: who was notified before a link is so after it.
fn everyone(services: &Services, citizen: Pseudonym) -> Result<Vec<Pseudonym>, Refused> {
    let mut all = services.host.links().aliases_of(citizen).map_err(|error| {
        ::tracing::error!(error = %anyhow::Error::from(error), "links can't be read");
        Refused::new(Cause::Unavailable, "the links can't be read now").bound("services.tables")
    })?;
    all.push(citizen);
    Ok(all)
}

fn tracing(services: &Services) -> &Arc<Tracing> {
    &services.capabilities.tracing
}

fn known(services: &Services, case: &str) -> Result<(Key, Case), Refused> {
    let case = Key::parse(case).ok_or_else(no_case)?;
    let record = tracing(services).tables.case(case).map_err(unreadable)?;
    record.map(|record| (case, record)).ok_or_else(no_case)
}

/// A case that this officer may read now.
fn approved(services: &Services, ask: &Ask, case: &str, officer: &str) -> Result<(Key, Case), Refused> {
    let (case, record) = known(services, case)?;
    if !record.is_for(officer) {
        return Err(no_case());
    }
    match record.approved_until(ask.now) {
        Some(_) => Ok((case, record)),
        None => Err(not_approved()),
    }
}

async fn found(services: &Services, case: Key, record: &Case) -> Result<Arc<Found>, Refused> {
    tracing(services).found(&services.host, case, record).await
}

async fn remember(services: &Services, ask: &Ask, change: &Change) -> Result<Effect, Refused> {
    services.log.record(Kind::Tracing, change.body(), ask.now).await
}

fn time(field: &'static str, text: &str) -> Result<UnixMillis, Refused> {
    UnixMillis::parse(text).map_err(|error| invalid(field, error.to_string()))
}

fn invalid(field: &'static str, detail: impl Into<std::borrow::Cow<'static, str>>) -> Refused {
    Refused::new(Cause::Invalid, detail).field(field)
}

fn no_case() -> Refused {
    Refused::new(Cause::NotFound, "there is no such case for this officer")
}

fn unreadable(error: StateError) -> Refused {
    ::tracing::error!(error = %anyhow::Error::from(error), "the tables of tracing can't be read");
    Refused::new(Cause::Unavailable, "the services' tables can't be read now").bound("services.tables")
}

fn entry(officer: &str, action: Action) -> Entry {
    Entry::new(Caller::Token(officer.into()).to_string(), action)
}

fn about(entry: Entry, case: Key, record: &Case) -> Entry {
    let purpose = Purpose::parse(&record.asked.purpose).ok();
    let over = entry.over(UnixMillis(record.asked.from), UnixMillis(record.asked.to));
    over.named(format!("case:{case}")).purpose(purpose)
}

/// A call whose beginning is in the audit log.
struct Call {
    host: Arc<dyn Host>,
    entry: Entry,
    number: u64,
}

async fn begin(services: &Services, entry: Entry) -> Result<Call, Refused> {
    let host = Arc::clone(&services.host);
    let begun = tokio::task::spawn_blocking(move || {
        let number = host.audit().append(&entry, Outcome::Begun, UnixMillis::now())?;
        Ok::<_, crate::audit::AuditError>(Call { host, entry, number })
    });
    match begun.await {
        Ok(Ok(call)) => Ok(call),
        Ok(Err(error)) => {
            ::tracing::error!(error = %anyhow::Error::from(error), "the audit log can't be written; the call was refused");
            let detail = "the audit log can't be written, and nothing is done that is not in it";
            Err(Refused::new(Cause::Unavailable, detail).bound("audit.disk").retry_after(30))
        }
        Err(_) => Err(Refused::new(Cause::Unavailable, "the audit log failed").bound("audit.disk")),
    }
}

impl Call {
    /// Records the end. Without it the log shows a call that was broken off, which is what the error is then about.
    async fn end(self, is_done: bool, rows: Option<usize>) {
        let ended = tokio::task::spawn_blocking(move || {
            let outcome = if is_done { Outcome::Done } else { Outcome::Failed };
            let rows = rows.map(|rows| rows as u64);
            self.host.audit().end(self.number, &self.entry, (outcome, rows), UnixMillis::now())
        });
        if let Ok(Err(error)) = ended.await {
            ::tracing::error!(error = %anyhow::Error::from(error), "the end of a call isn't in the audit log");
        }
    }
}
