//! The tables of tracing, and what each event does to them.
//!
//! ```text
//! tracing_cases1     case:16                     Case as JSON
//! tracing_asked1     officer, 0, the own id      case:16
//! tracing_rates1     officer                     when they asked within the last hour, as JSON
//! tracing_mail1      person:16  notification:16  Mail as JSON
//! tracing_silent1    person:16                   nothing: wants no content
//! tracing_again1     the number it would have   the number that it has, where a rotation of the pepper made those differ
//! tracing_ends1      made at:8  kind:1  key      nothing: in the order in which cases and mail go
//! tracing_unmarked1  case:16                     Row as JSON: since when, and which days the map has already
//! ```

use std::ops::Bound;

use aws_lc_rs::digest::{SHA256, digest};
use fjall::{Keyspace, OwnedWriteBatch};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Unmarked;
use super::change::{Asked, Change, Key, Of, Told};
use crate::journal::Event;
use crate::openapi::{Acknowledged, NotificationSettings, TraceCase};
use crate::respond::{Cause, Refused};
use crate::scan::{DAY_MS, Pseudonym, UnixMillis};
use crate::services::capability::{Effect, State, StateError};
use crate::services::rename::Writer;
use crate::services::risk_map::Day;

const HOUR_MS: i64 = 3_600_000;

/// How far before a positive test its person's contacts are looked for: the time for which a quarantine was ordered.
const PROPOSED_DAYS: i64 = 14;

/// Who must approve a case that nobody asked for: two, where one has asked for any other.
const PROPOSAL_APPROVALS: usize = 2;

/// Valid approvals that are kept of a case.
const APPROVALS_MAX: usize = 8;

/// Cases that are read together to be brought on the map.
const UNMARKED_MAX: usize = 1000;

/// What one event lets go.
const EXPIRED_MAX: usize = 1000;

const UNMARKED: &str = "tracing_unmarked1";

const KIND_CASE: u8 = b'c';
const KIND_MAIL: u8 = b'm';

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Approval {
    by: String,
    until: i64,
}

/// A case as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Case {
    pub(super) asked: Asked,
    /// Who asked, and by which id of theirs; a test if nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) by: Option<(String, String)>,
    at: i64,
    approvals: Vec<Approval>,
    /// Whether the test that made it was taken back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    withdrawn: bool,
}

impl Mail {
    /// The number that it would be given now.
    fn number(self) -> Option<Key> {
        self.case.map(|case| of_mail(case, self.told.person))
    }
}

impl Case {
    /// The number that it would be given now, if a test asked for it.
    fn number(&self) -> Option<Key> {
        let taken_at = self.asked.from.saturating_add(PROPOSED_DAYS * DAY_MS);
        match (self.asked.of, &self.by) {
            (Of::Person(person), None) => Some(of_test(person, taken_at)),
            _ => None,
        }
    }

    fn needed(&self) -> usize {
        if self.by.is_some() { 1 } else { PROPOSAL_APPROVALS }
    }

    /// Until when it can be read, if it can be now.
    pub(super) fn approved_until(&self, now: UnixMillis) -> Option<UnixMillis> {
        if self.withdrawn {
            return None;
        }
        let mut ends: Vec<i64> =
            self.approvals.iter().map(|approval| approval.until).filter(|until| *until > now.0).collect();
        ends.sort_unstable_by(|left, right| right.cmp(left));
        ends.get(self.needed() - 1).copied().map(UnixMillis)
    }

    /// Whether this officer may read it once it is approved.
    pub(super) fn is_for(&self, officer: &str) -> bool {
        self.by.as_ref().is_none_or(|(by, _)| by == officer)
    }

    pub(super) fn told(&self, case: Key, now: UnixMillis) -> TraceCase {
        let (person, place) = match self.asked.of {
            Of::Person(person) => (Some(person.to_string()), None),
            Of::Place(place) => (None, Some(place.to_string())),
        };
        let until = self.approved_until(now);
        let valid = self.approvals.iter().filter(|approval| approval.until > now.0);
        TraceCase {
            case: case.to_string(),
            state: match until {
                _ if self.withdrawn => "withdrawn",
                Some(_) => "approved",
                None => "waiting",
            }
            .to_owned(),
            person,
            place,
            from: UnixMillis(self.asked.from).to_string(),
            to: UnixMillis(self.asked.to).to_string(),
            depth: self.asked.depth,
            purpose: self.asked.purpose.clone(),
            asked_by: self.by.as_ref().map(|(by, _)| by.clone()),
            asked_at: UnixMillis(self.at).to_string(),
            approvals_needed: u8::try_from(self.needed()).unwrap_or(u8::MAX),
            approved_by: valid.map(|approval| approval.by.clone()).collect(),
            approved_until: until.map(|until| until.to_string()),
        }
    }
}

/// What the map has yet to show of a case, or to take back.
#[derive(Serialize, Deserialize)]
struct Row {
    since: i64,
    /// The last day that it shows.
    through: Option<Day>,
}

/// A notification as it is kept; acknowledged ones stay until their time is over, so that none is made twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mail {
    pub(super) at: i64,
    pub(super) told: Told,
    pub(super) acknowledged: bool,
    /// None in those from before this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    case: Option<Key>,
}

/// How many notifications an event made.
#[derive(Serialize, Deserialize)]
pub(super) struct Made {
    pub(super) made: usize,
}

pub(super) struct Tables {
    cases: Keyspace,
    asked: Keyspace,
    rates: Keyspace,
    mail: Keyspace,
    silent: Keyspace,
    ends: Keyspace,
    unmarked: Keyspace,
    again: Keyspace,
}

impl Tables {
    pub(super) fn open(state: &State) -> Result<Self, StateError> {
        Ok(Self {
            cases: state.table("tracing_cases1")?,
            asked: state.table("tracing_asked1")?,
            rates: state.table("tracing_rates1")?,
            mail: state.table("tracing_mail1")?,
            silent: state.table("tracing_silent1")?,
            ends: state.table("tracing_ends1")?,
            unmarked: state.table(UNMARKED)?,
            again: state.table("tracing_again1")?,
        })
    }

    pub(super) fn case(&self, case: Key) -> Result<Option<Case>, StateError> {
        read(&self.cases, &case.0, "tracing_cases1")
    }

    /// The newest cases that `wanted` lets through.
    pub(super) fn newest(
        &self,
        cases_max: usize,
        wanted: impl Fn(&Case) -> bool,
    ) -> Result<Vec<(Key, Case)>, StateError> {
        let mut found = Vec::new();
        for guard in self.ends.range::<&[u8], _>(..).rev() {
            let key = guard.key()?;
            let Some((KIND_CASE, case)) = key.get(8).copied().zip(key_at(&key, 9)) else { continue };
            if let Some(record) = self.case(case)?.filter(&wanted) {
                found.push((case, record));
                if found.len() == cases_max {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// The number of what has this one or would be given it now.
    fn number(&self, derived: Key) -> Result<Key, StateError> {
        let before = self.again.get(derived.0)?;
        Ok(before.and_then(|before| key_at(&before, 0)).unwrap_or(derived))
    }

    /// A person's notifications that aren't acknowledged, each with its id.
    pub(super) fn waiting(&self, person: Pseudonym) -> Result<Vec<(Key, Mail)>, StateError> {
        let mut found = Vec::new();
        for guard in self.mail.prefix(person.0) {
            let (key, value) = guard.into_inner()?;
            let mail: Mail = parse(&value, "tracing_mail1")?;
            let id = key_at(&key, 16).ok_or(StateError::Damaged { table: "tracing_mail1" })?;
            if !mail.acknowledged {
                found.push((id, mail));
            }
        }
        Ok(found)
    }

    pub(super) fn has_mail(&self, person: Pseudonym, id: Key) -> Result<bool, StateError> {
        Ok(self.mail.contains_key([person.0, id.0].concat())?)
    }

    pub(super) fn wants_content(&self, person: Pseudonym) -> Result<bool, StateError> {
        Ok(!self.silent.contains_key(person.0)?)
    }

    /// When the oldest of what is kept was made.
    pub(super) fn oldest(&self) -> Result<Option<UnixMillis>, StateError> {
        let Some(guard) = self.ends.range::<&[u8], _>(..).next() else { return Ok(None) };
        let at = guard.key()?.first_chunk::<8>().copied();
        let damaged = StateError::Damaged { table: "tracing_ends1" };
        at.map(|at| Some(UnixMillis(i64::from_be_bytes(at)))).ok_or(damaged)
    }

    pub(super) fn apply(&self, event: &Event, batch: &mut OwnedWriteBatch) -> Result<Effect, StateError> {
        let Ok(change) = serde_json::from_slice::<Change>(&event.body) else {
            return Ok(refused(Cause::Invalid, "the event means nothing to this version"));
        };
        match change {
            Change::Ask { by, id, asked, per_hour } => self.ask(event, (by, id), asked, per_hour, batch),
            Change::Propose { person, taken_at } => {
                let person = Pseudonym(person.0);
                self.propose(person, UnixMillis(taken_at), event.at, batch).map(|case| Effect::done(&case))
            }
            Change::Approve { case, by, until } => {
                self.approve(event.at, case, Approval { by, until }, batch)
            }
            Change::Marked { case, through, withdrawn } => self.marked(case, through, withdrawn, batch),
            Change::Notify { case, told } => self.notify(event.at, case, &told, batch),
            Change::Acknowledge { person, id } => {
                let key = [person.0, id.0].concat();
                let Some(mail) = read::<Mail>(&self.mail, &key, "tracing_mail1")? else {
                    return Ok(refused(Cause::NotFound, "there is no such notification for this person"));
                };
                put(batch, &self.mail, key, &Mail { acknowledged: true, ..mail });
                Ok(Effect::done(&Acknowledged { id: id.to_string() }))
            }
            Change::Content { person, content } => {
                if content {
                    batch.remove(&self.silent, person.0);
                } else {
                    batch.insert(&self.silent, person.0, []);
                }
                Ok(Effect::done(&NotificationSettings { content }))
            }
            Change::Expire { before } => self.expire(before, batch),
        }
    }

    fn ask(
        &self,
        event: &Event,
        (by, id): (String, String),
        asked: Asked,
        per_hour: u32,
        batch: &mut OwnedWriteBatch,
    ) -> Result<Effect, StateError> {
        let name = [by.as_bytes(), &[0], id.as_bytes()].concat();
        if let Some(before) = self.asked.get(&name)? {
            let case = key_at(&before, 0).ok_or(StateError::Damaged { table: "tracing_asked1" })?;
            return Ok(match self.case(case)? {
                Some(record) if record.asked == asked => Effect::done(&record.told(case, event.at)),
                _ => Effect::Refused(
                    Refused::new(Cause::Conflict, "another case was asked for by this id").field("/id"),
                ),
            });
        }
        let times: Vec<i64> = read(&self.rates, by.as_bytes(), "tracing_rates1")?.unwrap_or_default();
        let mut times: Vec<i64> = times.into_iter().filter(|at| *at > event.at.0 - HOUR_MS).collect();
        if times.len() >= per_hour as usize {
            let free_ms = times.first().map_or(HOUR_MS, |first| first + HOUR_MS - event.at.0);
            let wait_s = u32::try_from(free_ms / 1000 + 1).unwrap_or(1);
            let detail = "this officer has asked for as many cases as one may within an hour";
            let limited = Refused::new(Cause::RateLimited, detail).bound("tracing.cases_per_h");
            return Ok(Effect::Refused(limited.limit(per_hour.into(), None).retry_after(wait_s)));
        }
        times.push(event.at.0);
        put(batch, &self.rates, by.as_bytes(), &times);
        let case = Key(event.id);
        let record =
            Case { asked, by: Some((by, id)), at: event.at.0, approvals: Vec::new(), withdrawn: false };
        batch.insert(&self.asked, name, case.0);
        self.keep_case(case, &record, batch);
        Ok(Effect::created(&record.told(case, event.at)))
    }

    /// See [`super::Tracing::propose`].
    pub(super) fn propose(
        &self,
        person: Pseudonym,
        taken_at: UnixMillis,
        at: UnixMillis,
        batch: &mut OwnedWriteBatch,
    ) -> Result<TraceCase, StateError> {
        let case = self.number(of_test(Key(person.0), taken_at.0))?;
        if let Some(mut record) = self.case(case)? {
            if record.withdrawn {
                record.withdrawn = false;
                put(batch, &self.cases, case.0, &record);
                if record.approved_until(at).is_some() {
                    put(batch, &self.unmarked, case.0, &Row { since: at.0, through: None });
                } else {
                    batch.remove(&self.unmarked, case.0);
                }
            }
            return Ok(record.told(case, at));
        }
        let day_after = UnixMillis(taken_at.0.saturating_add(DAY_MS));
        let asked = Asked {
            of: Of::Person(Key(person.0)),
            from: taken_at.0.saturating_sub(PROPOSED_DAYS * DAY_MS).max(0),
            to: day_after.max(at.min(UnixMillis(taken_at.0.saturating_add(PROPOSED_DAYS * DAY_MS)))).0,
            depth: 1,
            purpose: "positive test".to_owned(),
        };
        let record = Case { asked, by: None, at: at.0, approvals: Vec::new(), withdrawn: false };
        self.keep_case(case, &record, batch);
        Ok(record.told(case, at))
    }

    fn keep_case(&self, case: Key, record: &Case, batch: &mut OwnedWriteBatch) {
        put(batch, &self.cases, case.0, record);
        batch.insert(&self.ends, end(record.at, KIND_CASE, &case.0), []);
    }

    fn approve(
        &self,
        at: UnixMillis,
        case: Key,
        approval: Approval,
        batch: &mut OwnedWriteBatch,
    ) -> Result<Effect, StateError> {
        let Some(mut record) = self.case(case)? else { return Ok(no_case()) };
        if record.by.as_ref().is_some_and(|(by, _)| *by == approval.by) {
            return Ok(refused(Cause::Forbidden, "whoever asked for a trace can't approve it"));
        }
        let was_approved = record.approved_until(at).is_some();
        record.approvals.retain(|before| before.until > at.0 && before.by != approval.by);
        record.approvals.push(approval);
        if record.approvals.len() > APPROVALS_MAX {
            record.approvals.remove(0);
        }
        put(batch, &self.cases, case.0, &record);
        // A place is no case: who was there is only a contact.
        if matches!(record.asked.of, Of::Person(_)) && !was_approved && record.approved_until(at).is_some() {
            put(batch, &self.unmarked, case.0, &Row { since: at.0, through: None });
        }
        Ok(Effect::done(&record.told(case, at)))
    }

    /// The cases that the map doesn't show as it should, some at a time, behind the one given.
    pub(super) fn unmarked(&self, after: Option<[u8; 16]>) -> Result<Vec<Unmarked>, StateError> {
        let first = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.to_vec()));
        let mut found = Vec::new();
        for guard in self.unmarked.range((first, Bound::Unbounded)).take(UNMARKED_MAX) {
            let (key, value) = guard.into_inner()?;
            let damaged = || StateError::Damaged { table: UNMARKED };
            let case = key_at(&key, 0).ok_or_else(damaged)?;
            let Case { asked, withdrawn, .. } = self.case(case)?.ok_or_else(damaged)?;
            let Of::Person(person) = asked.of else { return Err(damaged()) };
            let Row { since, through } = parse(&value, UNMARKED)?;
            found.push(Unmarked {
                case: case.0,
                person: Pseudonym(person.0),
                from: Day::of(UnixMillis(asked.from)),
                to: Day::of(UnixMillis(asked.to.saturating_sub(1))),
                since: UnixMillis(since),
                through,
                withdrawn,
            });
        }
        Ok(found)
    }

    fn marked(
        &self,
        case: Key,
        through: Day,
        withdrawn: bool,
        batch: &mut OwnedWriteBatch,
    ) -> Result<Effect, StateError> {
        let Some(record) = self.case(case)? else { return Ok(no_case()) };
        // Otherwise it was withdrawn, or stands again, while it was marked.
        if record.withdrawn == withdrawn {
            if through >= Day::of(UnixMillis(record.asked.to.saturating_sub(1))) {
                batch.remove(&self.unmarked, case.0);
            } else if let Some(row) = read::<Row>(&self.unmarked, &case.0, UNMARKED)? {
                put(batch, &self.unmarked, case.0, &Row { through: Some(through), ..row });
            }
        }
        Ok(Effect::done(&Made { made: 1 }))
    }

    /// See [`super::Tracing::withdraw`].
    pub(super) fn withdraw(
        &self,
        person: Pseudonym,
        taken_at: UnixMillis,
        at: UnixMillis,
        batch: &mut OwnedWriteBatch,
    ) -> Result<(), StateError> {
        let case = self.number(of_test(Key(person.0), taken_at.0))?;
        if let Some(mut record) = self.case(case)? {
            record.withdrawn = true;
            put(batch, &self.cases, case.0, &record);
            put(batch, &self.unmarked, case.0, &Row { since: at.0, through: None });
        }
        Ok(())
    }

    fn notify(
        &self,
        at: UnixMillis,
        case: Key,
        told: &[Told],
        batch: &mut OwnedWriteBatch,
    ) -> Result<Effect, StateError> {
        let Some(record) = self.case(case)? else { return Ok(no_case()) };
        if record.approved_until(at).is_none() {
            return Ok(Effect::Refused(not_approved()));
        }
        let mut made = 0;
        for told in told {
            // Of one case there is one for each person, and nobody can tell from the ids who share a case.
            let id = self.number(of_mail(case, told.person))?;
            let key = [told.person.0, id.0].concat();
            if !self.mail.contains_key(&key)? {
                made += 1;
                batch.insert(&self.ends, end(at.0, KIND_MAIL, &key), []);
                put(
                    batch,
                    &self.mail,
                    key,
                    &Mail { at: at.0, told: *told, acknowledged: false, case: Some(case) },
                );
            }
        }
        Ok(Effect::done(&Made { made }))
    }

    fn expire(&self, before: i64, batch: &mut OwnedWriteBatch) -> Result<Effect, StateError> {
        let mut gone = 0;
        for guard in self.ends.range(..end(before, 0, &[])).take(EXPIRED_MAX) {
            let key = guard.key()?;
            let of = key.get(9..).unwrap_or_default();
            if key.get(8) == Some(&KIND_CASE) {
                let case = key_at(of, 0).ok_or(StateError::Damaged { table: "tracing_ends1" })?;
                let record = self.case(case)?;
                if let Some(again) = record.as_ref().and_then(Case::number) {
                    batch.remove(&self.again, again.0);
                }
                if let Some((by, id)) = record.and_then(|record| record.by) {
                    batch.remove(&self.asked, [by.as_bytes(), &[0], id.as_bytes()].concat());
                }
                batch.remove(&self.cases, case.0);
                batch.remove(&self.unmarked, case.0);
            } else {
                if let Some(again) = read::<Mail>(&self.mail, of, "tracing_mail1")?.and_then(Mail::number) {
                    batch.remove(&self.again, again.0);
                }
                batch.remove(&self.mail, of.to_vec());
            }
            batch.remove(&self.ends, key);
            gone += 1;
        }
        Ok(Effect::done(&Made { made: gone }))
    }
}

/// Fills `tracing_again1` by the other tables, all of whose pseudonyms are others now.
pub(in crate::services) fn derive_again(state: &State, writer: &mut Writer<'_>) -> Result<(), StateError> {
    let tables = Tables::open(state)?;
    let mut put = |number: Option<Key>, key: Option<Key>| match (number, key) {
        (Some(number), Some(key)) if number != key => {
            writer.insert(&tables.again, number.0.to_vec(), key.0.to_vec())
        }
        _ => Ok(()),
    };
    for guard in tables.cases.iter() {
        let (key, value) = guard.into_inner()?;
        put(parse::<Case>(&value, "tracing_cases1")?.number(), key_at(&key, 0))?;
    }
    for guard in tables.mail.iter() {
        let (key, value) = guard.into_inner()?;
        put(parse::<Mail>(&value, "tracing_mail1")?.number(), key_at(&key, 16))?;
    }
    writer.commit()
}

/// The number of a positive test's case.
fn of_test(person: Key, taken_at: i64) -> Key {
    derived(&[b"positive test", &person.0, &taken_at.to_be_bytes()])
}

/// The number of a case's notification to a person.
fn of_mail(case: Key, person: Key) -> Key {
    derived(&[b"notification", &case.0, &person.0])
}

fn end(at: i64, kind: u8, key: &[u8]) -> Vec<u8> {
    [at.max(0).to_be_bytes().as_slice(), &[kind], key].concat()
}

fn key_at(bytes: &[u8], at: usize) -> Option<Key> {
    bytes.get(at..at + 16)?.try_into().ok().map(Key)
}

/// A number that follows from what it is about.
fn derived(parts: &[&[u8]]) -> Key {
    let digest = digest(&SHA256, &parts.concat());
    key_at(digest.as_ref(), 0).unwrap_or(Key([0; 16]))
}

fn refused(cause: Cause, detail: &'static str) -> Effect {
    Effect::Refused(Refused::new(cause, detail))
}

fn no_case() -> Effect {
    refused(Cause::NotFound, "there is no such case")
}

/// What is told of a case whose contacts nobody may read now.
pub(super) fn not_approved() -> Refused {
    Refused::new(Cause::Conflict, "the case waits for approval, or the approval is over")
}

fn parse<T: DeserializeOwned>(value: &[u8], table: &'static str) -> Result<T, StateError> {
    serde_json::from_slice(value).map_err(|_| StateError::Damaged { table })
}

fn read<T: DeserializeOwned>(
    of: &Keyspace,
    key: &[u8],
    table: &'static str,
) -> Result<Option<T>, StateError> {
    of.get(key)?.map(|value| parse(&value, table)).transpose()
}

fn put(batch: &mut OwnedWriteBatch, of: &Keyspace, key: impl AsRef<[u8]>, value: &impl Serialize) {
    // Structs of strings and numbers always serialize.
    batch.insert(of, key.as_ref(), serde_json::to_vec(value).unwrap_or_default());
}
