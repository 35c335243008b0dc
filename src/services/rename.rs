//! Log and tables under other pseudonyms: what a rotation of the pepper makes of `DATA/services`.
//!
//! Both are written anew beside the old ones, an event or entry after the other. Where pseudonyms stand is told by
//! `TABLES` for each table and by `events` for each kind of event; a table that isn't in the list ends the
//! rotation before anything has changed its place. Ids of declarations, cases and notifications stay: codes on paper, the
//! audit log and phones know them. They were derived from pseudonyms, so that what is sent again is found by them;
//! `declarations_again1` and `tracing_again1` hold what would be derived now.

use std::path::Path;

use fjall::{Keyspace, OwnedWriteBatch};
use serde_json::Value;

use super::ServicesError;
use super::capability::{Kind, State, StateError};
use super::health::fact::RegisterId;
use super::log::{self, POSITION};
use super::{declarations, tracing};
use crate::journal::{self, Event, JournalOf, JournalSettings, Position, ReadError};
use crate::scan::Pseudonym;
use crate::verify::{hex, unhex};

/// Entries that are written together.
const BATCH: usize = 1_000;

/// What pseudonyms become.
pub struct Renaming<'a> {
    /// A pseudonym's successor.
    pub person: &'a dyn Fn(Pseudonym) -> Pseudonym,
    /// Of the pepper that makes those.
    pub epoch: u16,
}

/// Where an entry holds a pseudonym.
enum At {
    /// In the key, from this byte on.
    Key(usize),
    /// As digits in the key, from this byte on, where the source two bytes before is a signed code: its record is named
    /// by the pseudonym of whom it names.
    KeyOfCode(usize),
    /// From this byte on in keys of this length.
    KeyOfLength(usize, usize),
    /// In the value, from this byte on, if it goes on that far.
    Value(usize),
    /// As digits in a value of JSON.
    Json(&'static [&'static str]),
    /// Nowhere: the table is made again out of the others.
    Derived,
}

/// Every table, and where its pseudonyms are.
const TABLES: &[(&str, &[At])] = &[
    ("card_parts1", &[]),
    ("card_rules1", &[]),
    ("declaration_earlier1", &[]),
    ("declarations1", &[At::Json(&["declarer", "subject"])]),
    ("declarations_again1", &[At::Derived]),
    ("declarations_ended1", &[At::Value(0)]),
    ("declarations_of1", &[At::Key(0)]),
    ("declarations_revoked1", &[]),
    ("facts1", &[At::Key(0), At::KeyOfCode(18)]),
    ("feedback_count1", &[]),
    ("feedback_item1", &[At::Json(&["sender"])]),
    ("feedback_key1", &[]),
    ("feedback_part1", &[]),
    ("feedback_photo1", &[]),
    ("feedback_queue1", &[]),
    ("linked1", &[]),
    ("places1", &[]),
    (POSITION, &[At::Derived]),
    ("registers1", &[]),
    ("risk_map_cells1", &[]),
    ("risk_map_days1", &[]),
    ("risk_map_exposures1", &[At::Value(0)]),
    ("tracing_again1", &[At::Derived]),
    ("tracing_asked1", &[]),
    ("tracing_cases1", &[At::Json(&["asked/of/person"])]),
    ("tracing_ends1", &[At::KeyOfLength(41, 9)]),
    ("tracing_mail1", &[At::Key(0), At::Json(&["told/person"])]),
    ("tracing_rates1", &[]),
    ("tracing_silent1", &[At::Key(0)]),
    ("tracing_unmarked1", &[]),
    ("versions1", &[At::KeyOfCode(2), At::Value(8)]),
];

/// Where the bodies of a kind's events hold pseudonyms; `*` is every element.
const fn events(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Health | Kind::RiskMap => &["person"],
        Kind::Registers => &["facts/*/person"],
        Kind::Declarations => &["declared/declarer", "declared/subject"],
        Kind::Tracing => &["asked/of/person", "person", "told/*/person"],
        Kind::Feedback => &["sender"],
        Kind::Card | Kind::Places => &[],
    }
}

/// Writes `log` and `tables` in `dir` anew as `log.next` and `tables.next`; says how many events and entries that were.
///
/// # Errors
/// Something can't be read or written, or a table is unknown.
pub fn rewrite(
    dir: &Path,
    settings: &JournalSettings,
    to: &Renaming<'_>,
) -> Result<(u64, u64), ServicesError> {
    let [log, tables] = ["log", "tables"].map(|name| dir.join(name));
    let [log_next, tables_next] = ["log.next", "tables.next"].map(|name| dir.join(name));
    if !tables.try_exists().map_err(ServicesError::Rewrite)? {
        return Ok((0, 0));
    }
    let (from, into) = (State::open(&tables)?, State::open(&tables_next)?);
    let entries = rewrite_tables(&from, &into, to)?;
    let mut events = 0;
    if log.try_exists().map_err(ServicesError::Rewrite)? {
        let renamed = |event: &Event| to.event(event);
        events = journal::rewrite(&log, &log_next, settings, &renamed).map_err(ServicesError::Rewrite)?;
        let waiting = count_behind(&log, settings, log::position(&from.table(POSITION)?)?)?;
        let applied = position_behind(&log_next, settings, events.saturating_sub(waiting))?;
        let mut batch = into.batch();
        batch.insert(&into.table(POSITION)?, log::APPLIED, log::written(applied));
        batch.commit().map_err(StateError::from)?;
    }
    into.persist()?;
    Ok((events, entries))
}

fn rewrite_tables(from: &State, into: &State, to: &Renaming<'_>) -> Result<u64, StateError> {
    let mut entries = 0;
    for name in from.names() {
        let places = TABLES.iter().find(|(known, _)| *known == name);
        let (name, places) = places.ok_or(StateError::Unknown { table: name.clone() })?;
        if places.iter().any(|at| matches!(at, At::Derived)) {
            continue;
        }
        entries += rewrite_table(from, into, (*name, *places), to)?;
    }
    declarations::derive_again(into, &mut Writer::new(into))?;
    tracing::derive_again(into, &mut Writer::new(into))?;
    Ok(entries)
}

fn rewrite_table(
    from: &State,
    into: &State,
    (name, places): (&'static str, &[At]),
    to: &Renaming<'_>,
) -> Result<u64, StateError> {
    let (from, table) = (from.table(name)?, into.table(name)?);
    let mut writer = Writer::new(into);
    let mut entries = 0;
    for guard in from.iter() {
        let (key, value) = guard.into_inner()?;
        let (mut key, mut value) = (key.to_vec(), value.to_vec());
        for at in places {
            to.entry(at, &mut key, &mut value).ok_or(StateError::Damaged { table: name })?;
        }
        writer.insert(&table, key, value)?;
        entries += 1;
    }
    writer.commit()?;
    Ok(entries)
}

/// Writes entries, some at a time.
pub(super) struct Writer<'a> {
    state: &'a State,
    batch: OwnedWriteBatch,
    held: usize,
}

impl<'a> Writer<'a> {
    fn new(state: &'a State) -> Self {
        Self { state, batch: state.batch(), held: 0 }
    }

    pub(super) fn insert(
        &mut self,
        table: &Keyspace,
        key: Vec<u8>,
        value: Vec<u8>,
    ) -> Result<(), StateError> {
        self.batch.insert(table, key, value);
        self.held += 1;
        if self.held == BATCH { self.commit() } else { Ok(()) }
    }

    pub(super) fn commit(&mut self) -> Result<(), StateError> {
        self.held = 0;
        Ok(std::mem::replace(&mut self.batch, self.state.batch()).commit()?)
    }
}

impl Renaming<'_> {
    /// None if it isn't there.
    fn entry(&self, at: &At, key: &mut [u8], value: &mut Vec<u8>) -> Option<()> {
        match *at {
            At::Key(at) => self.bytes(key, at),
            At::KeyOfLength(length, at) if key.len() == length => self.bytes(key, at),
            At::KeyOfCode(at) if key.get(at - 2) == Some(&2) => {
                let digits = key.get_mut(at..at + 32)?;
                let renamed = self.digits(std::str::from_utf8(digits).ok()?)?;
                digits.copy_from_slice(renamed.as_bytes());
                Some(())
            }
            At::Value(at) if value.len() >= at + 16 => self.bytes(value, at),
            At::Json(paths) => {
                let mut json = serde_json::from_slice(value).ok()?;
                paths.iter().try_for_each(|path| self.json(&mut json, path))?;
                if let Some(epoch) = json.get_mut("epoch") {
                    let before = std::mem::replace(epoch, self.epoch.into());
                    // The codes issued until now are of it.
                    json.as_object_mut()?.entry("epoch_first").or_insert(before);
                }
                *value = serde_json::to_vec(&json).ok()?;
                Some(())
            }
            At::KeyOfLength(..) | At::KeyOfCode(_) | At::Value(_) | At::Derived => Some(()),
        }
    }

    fn bytes(&self, bytes: &mut [u8], at: usize) -> Option<()> {
        let own: &mut [u8; 16] = bytes.get_mut(at..at + 16)?.try_into().ok()?;
        *own = (self.person)(Pseudonym(*own)).0;
        Some(())
    }

    fn digits(&self, digits: &str) -> Option<String> {
        Some(hex(&(self.person)(Pseudonym(unhex(digits)?)).0))
    }

    /// What isn't there, or is null, stays so.
    fn json(&self, json: &mut Value, path: &str) -> Option<()> {
        let (name, rest) = path.split_once('/').map_or((path, None), |(name, rest)| (name, Some(rest)));
        if name == "*" {
            let each = json.as_array_mut()?.iter_mut();
            return rest.map_or(Some(()), |rest| each.map(|one| self.json(one, rest)).collect());
        }
        match (json.get_mut(name), rest) {
            (None | Some(Value::Null), _) => Some(()),
            (Some(inner), Some(rest)) => self.json(inner, rest),
            (Some(inner), None) => {
                *inner = self.digits(inner.as_str()?)?.into();
                Some(())
            }
        }
    }

    /// An event that can't be read means nothing to whoever applies it, and stays as it is.
    fn event(&self, event: &Event) -> Event {
        let renamed = Kind::from_code(event.capability).and_then(|kind| self.body(kind, &event.body));
        Event { body: renamed.unwrap_or_else(|| event.body.clone()), ..event.clone() }
    }

    fn body(&self, kind: Kind, body: &[u8]) -> Option<Vec<u8>> {
        let mut json: Value = serde_json::from_slice(body).ok()?;
        events(kind).iter().try_for_each(|path| self.json(&mut json, path))?;
        match kind {
            Kind::Health => {
                let source = json.get("source")?.as_str()?;
                if RegisterId::from_name(source).is_none() {
                    self.json(&mut json, "record")?;
                }
            }
            Kind::Declarations => {
                if let Some(epoch) = json.pointer_mut("/declared/epoch") {
                    *epoch = self.epoch.into();
                }
            }
            _ => {}
        }
        serde_json::to_vec(&json).ok()
    }
}

/// How many events of a log come behind a position.
fn count_behind(dir: &Path, settings: &JournalSettings, from: Position) -> Result<u64, ServicesError> {
    read_from(dir, settings, from, u64::MAX).map(|(read, _)| read)
}

/// Where a log's first so many events end.
fn position_behind(dir: &Path, settings: &JournalSettings, events: u64) -> Result<Position, ServicesError> {
    read_from(dir, settings, Position::START, events).map(|(_, behind)| behind)
}

fn read_from(
    dir: &Path,
    settings: &JournalSettings,
    from: Position,
    max: u64,
) -> Result<(u64, Position), ServicesError> {
    let (log, _) =
        JournalOf::open(dir, settings.clone(), &mut |_: &Event| {}).map_err(log::LogError::from)?;
    let mut reader = log.reader(from);
    let (mut events, mut behind, mut read) = (0, from, Vec::with_capacity(1));
    let mut next = || -> Result<(), ReadError> {
        while events < max {
            let position = reader.read(&mut read, 1)?;
            if read.pop().is_none() {
                break;
            }
            (events, behind) = (events + 1, position);
        }
        Ok(())
    };
    next().map_err(log::LogError::from)?;
    log.close();
    Ok((events, behind))
}
