//! Takes in what a register says: numbers become pseudonyms here, and changes become events.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::try_join_all;
use serde_json::Value;

use super::page::{Bad, Change, Content};
use super::{End, Tally, Told};
use crate::audit::{Action, Entry, Outcome};
use crate::journal::EVENT_BODY_BYTES_MAX;
use crate::respond::{Cause, Refused};
use crate::scan::UnixMillis;
use crate::services::Services;
use crate::services::capability::{Effect, Kind};
use crate::services::health::fact::{RegisterId, Source};
use crate::services::health::{Health, Report};

/// What of an event is for the changes in it; the rest is its own members, of which the cursors are the longest.
const CHANGES_BYTES_MAX: usize = EVENT_BODY_BYTES_MAX - 512;

/// What became of changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) accepted: u64,
    pub(super) repeated: u64,
    /// Those that say otherwise than the same version did before.
    pub(super) conflicting: u64,
    /// Those that aren't as the contract has them, by where they stand.
    pub(super) bad: Vec<(usize, Bad)>,
}

/// A change without a number in it.
enum Item {
    Fact { record: String, body: Value, bytes: usize },
    Link { record: String, version: u64 },
}

/// Takes in changes, and with the last of them the end of their page. Durable and in force when this is done. One call
/// for a register at a time.
///
/// # Errors
/// Something can't be recorded now. Taking the same in again is right then.
pub(super) async fn take(
    services: &Arc<Services>,
    register: RegisterId,
    values: Vec<Value>,
    end: Option<End>,
    now: UnixMillis,
) -> Result<Taken, Refused> {
    let mut taken = Taken::default();
    let mut changes = Vec::with_capacity(values.len());
    for (index, value) in values.into_iter().enumerate() {
        match Change::read(register, value) {
            Ok(change) => changes.push((index, change)),
            Err(bad) => taken.bad.push((index, bad)),
        }
    }
    let items = match register {
        RegisterId::Vaccination | RegisterId::Testing => {
            facts(services, register, changes, now, &mut taken.bad)
        }
        RegisterId::Population | RegisterId::Insurance => {
            let cursor = end.as_ref().map(|end| end.cursor.clone()).unwrap_or_default();
            links(services, register, (changes, cursor), now, &mut taken.bad).await?
        }
    };
    let refused = u64::try_from(taken.bad.len()).unwrap_or(u64::MAX);
    let mut events = pack(register, items);
    if let Some(Told::Changes { refused: counted, end: reached, .. }) = events.last_mut() {
        (*counted, *reached) = (refused, end);
    }
    let last = events.pop();
    // One commit for many; the cursor only behind all of them.
    let tallies = try_join_all(events.iter().map(|event| record(services, event, now))).await?;
    let last = match &last {
        Some(event) => Some(record(services, event, now).await?),
        None => None,
    };
    for tally in tallies.into_iter().chain(last) {
        taken.accepted += tally.accepted;
        taken.repeated += tally.repeated;
        taken.conflicting += tally.conflicting;
    }
    Ok(taken)
}

fn facts(
    services: &Services,
    register: RegisterId,
    changes: Vec<(usize, Change)>,
    now: UnixMillis,
    bad: &mut Vec<(usize, Bad)>,
) -> Vec<Item> {
    let mut items = Vec::with_capacity(changes.len());
    for (index, change) in changes {
        let citizen = services.host.identity().citizen(&change.citizen);
        let person = services.host.links().citizen_of(citizen);
        let told = match change.content {
            Content::Fact(fact) if !change.withdrawn => vec![fact],
            _ => Vec::new(),
        };
        let record = change.record;
        let report = Report {
            source: Source::Register(register),
            record: record.clone(),
            version: change.version,
            person: (!told.is_empty()).then_some(person),
            facts: told,
        };
        match Health::event_body(report, now) {
            Ok(bytes) => {
                let body = serde_json::from_slice(&bytes).unwrap_or_default();
                items.push(Item::Fact { record, body, bytes: bytes.len() });
            }
            Err(refused) => {
                let field = refused.field.unwrap_or_default().replacen("/facts/0", "/content", 1);
                bad.push((index, Bad::new(field, refused.detail.into_owned())));
            }
        }
    }
    items
}

/// Puts identifiers in force, each record's highest version only, and only where it is higher than what was.
async fn links(
    services: &Arc<Services>,
    register: RegisterId,
    (changes, cursor): (Vec<(usize, Change)>, String),
    now: UnixMillis,
    bad: &mut Vec<(usize, Bad)>,
) -> Result<Vec<Item>, Refused> {
    let mut highest: HashMap<&str, u64> = HashMap::new();
    for (_, change) in &changes {
        let highest = highest.entry(change.record.as_str()).or_default();
        *highest = change.version.max(*highest);
    }
    let registers = &services.capabilities.registers;
    let (mut indexes, mut lines) = (Vec::new(), Vec::new());
    for (index, change) in &changes {
        let known = registers.linked(register, &change.record).map_err(|error| failed(&error.into()))?;
        let is_new = known.is_none_or(|known| known < change.version);
        if is_new && highest.get(change.record.as_str()) == Some(&change.version) {
            let citizen = (!change.withdrawn).then_some(change.citizen.as_str());
            lines.extend(change.content.line(citizen));
            indexes.push(*index);
        }
    }
    let refused = if lines.is_empty() {
        Vec::new()
    } else {
        let services = Arc::clone(services);
        let put = move || put_in_force(&services, register, &lines, &cursor, now);
        tokio::task::spawn_blocking(put).await.map_err(|error| failed(&error.into()))??
    };
    for (line, wrong) in refused {
        if let Some(index) = line.checked_sub(1).and_then(|at| indexes.get(at)) {
            bad.push((*index, wrong));
        }
    }
    let is_bad: HashSet<usize> = bad.iter().map(|(index, _)| *index).collect();
    let good = changes.into_iter().filter(|(index, _)| !is_bad.contains(index));
    Ok(good.map(|(_, change)| Item::Link { record: change.record, version: change.version }).collect())
}

/// Blocks for the audit log's and the links' fsyncs.
fn put_in_force(
    services: &Services,
    register: RegisterId,
    lines: &[String],
    cursor: &str,
    now: UnixMillis,
) -> Result<Vec<(usize, Bad)>, Refused> {
    let (host, source) = (&services.host, format!("register.{}", register.name()));
    let entry = Entry::new("feed", Action::Links).named(source.clone());
    let call = host.audit().append(&entry, Outcome::Begun, now).map_err(|error| failed(&error.into()))?;
    let lines = lines.iter().map(String::as_bytes);
    let taken = host.links().take(host.identity(), lines, (&source, cursor), now);
    let ended = match &taken {
        Ok(taken) => (Outcome::Done, Some(taken.accepted)),
        Err(_) => (Outcome::Failed, None),
    };
    if let Err(error) = host.audit().end(call, &entry, ended, now) {
        tracing::error!(error = %anyhow::Error::from(error), call, "the end of a call isn't in the audit log");
    }
    let taken = taken.map_err(|error| failed(&error.into()))?;
    let bad = |(line, bad): (usize, crate::identity::feed::BadLine)| {
        let field =
            if bad.field == "citizen" { "/citizen".to_owned() } else { format!("/content/{}", bad.field) };
        (line, Bad::new(field.trim_end_matches("/line"), bad.rule))
    };
    Ok(taken.refused.into_iter().map(bad).collect())
}

/// Events of bounded size, each record once in each: what is applied with an event doesn't see what the same event
/// has changed. At least one, for the end of the page.
fn pack(register: RegisterId, items: Vec<Item>) -> Vec<Told> {
    let empty = || (Vec::new(), Vec::new(), HashSet::new(), 0);
    let (mut facts, mut links, mut records, mut bytes) = empty();
    let mut events = Vec::new();
    let event = |facts, links| Told::Changes { register, facts, links, refused: 0, end: None };
    for item in items {
        // A link stands there as ["record",version], and both end in a comma.
        let (record, more) = match &item {
            Item::Fact { record, bytes, .. } => (record.clone(), bytes + 1),
            Item::Link { record, .. } => (record.clone(), 2 * record.len() + 26),
        };
        if bytes + more > CHANGES_BYTES_MAX || records.contains(&record) {
            events.push(event(facts, links));
            (facts, links, records, bytes) = empty();
        }
        bytes += more;
        records.insert(record);
        match item {
            Item::Fact { body, .. } => facts.push(body),
            Item::Link { record, version } => links.push((record, version)),
        }
    }
    events.push(event(facts, links));
    events
}

async fn record(services: &Services, told: &Told, now: UnixMillis) -> Result<Tally, Refused> {
    // Strings and numbers always serialize.
    let body = serde_json::to_vec(told).unwrap_or_default();
    match services.log.record(Kind::Registers, body, now).await? {
        Effect::Created(body) | Effect::Done(body) => Ok(serde_json::from_slice(&body).unwrap_or_default()),
        Effect::Refused(refused) => Err(refused),
    }
}

fn failed(error: &anyhow::Error) -> Refused {
    tracing::error!(error = format!("{error:#}"), "a register's changes can't be taken in");
    let detail = "what the register says can't be recorded now; sent again, it is taken in where it stopped";
    Refused::new(Cause::Unavailable, detail).bound("services.disk").retry_after(30)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_stay_within_their_size_and_hold_each_record_once() {
        let item = |record: &str, bytes: usize| Item::Fact {
            record: record.to_owned(),
            body: Value::String("x".repeat(bytes - 2)),
            bytes,
        };
        let items = vec![item("a", 1500), item("b", 1500), item("c", 1500), item("c", 10), item("d", 10)];
        let sizes: Vec<usize> =
            pack(RegisterId::Testing, items).iter().map(|Told::Changes { facts, .. }| facts.len()).collect();
        assert_eq!(sizes, [2, 1, 2]);
        assert_eq!(pack(RegisterId::Testing, Vec::new()).len(), 1, "the end of an empty page");
        let longest = |_| Item::Link { record: "\"".repeat(64), version: u64::MAX };
        let cursor = "\\".repeat(64);
        for event in pack(RegisterId::Population, (0..200).map(longest).collect()) {
            let Told::Changes { register, facts, links, .. } = event;
            let end = End {
                after: cursor.clone(),
                cursor: cursor.clone(),
                behind: u64::MAX,
                delivery: Some(u64::MAX),
            };
            let told = Told::Changes { register, facts, links, refused: u64::MAX, end: Some(end) };
            assert!(serde_json::to_vec(&told).unwrap().len() <= EVENT_BODY_BYTES_MAX);
        }
    }
}
