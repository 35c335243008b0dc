//! Vaccinations, tests and recoveries of a person, from the registers and from signed codes that the person presented.
//!
//! Every fact has its provenance. A source names its records and numbers their versions: the highest version of a record
//! is current, whichever came last, and one without facts is a withdrawal. Nothing is overwritten, so that whoever
//! decided by a fact can be understood later.
//!
//! Facts stand under the pseudonym that their source named: a register's citizen, or the holder of a code. Whose they
//! are today is asked of the links when they are read.

pub mod fact;
pub(in crate::services) mod http;
mod presented;
mod tables;

use std::sync::{Arc, OnceLock};

use fjall::OwnedWriteBatch;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use self::fact::{
    FACTS_MAX, Fact, Known, PRODUCT_BYTES_MAX, Provenance, RECORD_BYTES_MAX, RegisterId, Source,
};
use self::tables::{RecordKey, Tables, Version};
use super::Host;
use super::capability::{Capability, Effect, Kind, State, StateError};
use super::log::EventLog;
use crate::journal::Event;
use crate::respond::{Cause, Refused};
use crate::scan::{DAY_MS, Pseudonym, UnixMillis};
use crate::verify::{hex, unhex};

/// Most versions of records that tell something of one pseudonym: three a week for six years.
pub const VERSIONS_OF_PERSON_MAX: usize = 1_024;

/// Most codes of one form that one pseudonym has presented. Each names its holder by itself, so that a second one is
/// already a new edition of the first.
pub const CODES_OF_HOLDER_MAX: usize = 64;

/// Most versions of one record.
pub const VERSIONS_OF_RECORD_MAX: usize = 256;

/// How far ahead of the clock a fact may lie: a day written in Hà Nội may not have begun in UTC.
const AHEAD_DAYS: i32 = 1;

/// 2019-12-01, before which there is nothing to tell.
const FIRST_DAY: i32 = 18_231;

/// Vaccinations, tests and recoveries.
pub struct Health {
    tables: Tables,
    host: Arc<dyn Host>,
    changed: RwLock<Vec<Changed>>,
    positive: OnceLock<Positive>,
}

type Changed = Box<dyn Fn(Pseudonym) + Send + Sync>;

/// What follows from a positive test, and from its end.
type Positive = Box<dyn Fn(&PositiveTest, &mut OwnedWriteBatch) -> Result<(), StateError> + Send + Sync>;

/// A positive test that is told, or taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PositiveTest {
    /// Whose.
    pub person: Pseudonym,
    /// When the sample was taken.
    pub taken_at: UnixMillis,
    /// When this was told.
    pub at: UnixMillis,
    /// Whether it stands; otherwise it was corrected or withdrawn.
    pub stands: bool,
}

/// How long a positive test is a reason to look for contacts: as long as check-ins are kept for it, at the least.
const POSITIVE_TELLS_MS: i64 = 21 * DAY_MS;

/// A version of a record, as its source tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Who says so.
    pub source: Source,
    /// The record's id there: 1 to [`RECORD_BYTES_MAX`] visible ASCII characters, and not a number of a person.
    pub record: String,
    /// Its version, from 0 on.
    pub version: u64,
    /// Whom it is about; may be missing where it is withdrawn.
    pub person: Option<Pseudonym>,
    /// What it says: up to [`FACTS_MAX`]; nothing where it is withdrawn.
    pub facts: Vec<Fact>,
}

/// One version of a record, as a person's history shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// What it says of the person; nothing where it was withdrawn, or is about somebody else from here on.
    pub facts: Vec<Fact>,
    /// Where it comes from.
    pub provenance: Provenance,
    /// Whether it is the record's highest.
    pub current: bool,
}

/// What the log holds.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Change {
    Told {
        source: Source,
        record: String,
        version: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        person: Option<String>,
        facts: Vec<Fact>,
    },
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Became {
    /// It is the record's current version.
    Current,
    /// It is kept, and a higher version was there before it.
    Superseded,
    /// It was there.
    Known,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) outcome: Became,
    pub(super) facts: Vec<Known>,
}

impl Health {
    /// Opens the tables.
    ///
    /// # Errors
    /// They can't be opened.
    pub fn open(state: &State, host: &Arc<dyn Host>) -> Result<Self, StateError> {
        let tables = Tables::open(state)?;
        Ok(Self {
            tables,
            host: Arc::clone(host),
            changed: RwLock::new(Vec::new()),
            positive: OnceLock::new(),
        })
    }

    /// Has this called for each positive test that is told and not past its time, and for each that isn't told any more, to
    /// put what follows from it into the same batch. The first one stays.
    pub fn on_positive(
        &self,
        then: impl Fn(&PositiveTest, &mut OwnedWriteBatch) -> Result<(), StateError> + Send + Sync + 'static,
    ) {
        let _ = self.positive.set(Box::new(then));
    }

    /// Has this called with the citizen whose facts changed, each time and at once after, on the log's thread. It must
    /// not block.
    pub fn on_change(&self, changed: impl Fn(Pseudonym) + Send + Sync + 'static) {
        self.changed.write().push(Box::new(changed));
    }

    /// What is known of a person now, under whichever of their pseudonyms, by source and record. Blocks for the disk.
    ///
    /// # Errors
    /// The disk failed.
    pub fn facts_of(&self, person: Pseudonym) -> Result<Vec<Known>, StateError> {
        let mut known = Vec::new();
        for own in self.pseudonyms(person)? {
            for (key, number, told) in self.tables.of(own)? {
                if self.tables.current(&key)?.is_some_and(|current| current.number == number) {
                    let provenance = key.provenance(number, told.received);
                    let each = |fact| Known { fact, provenance: provenance.clone() };
                    known.extend(told.facts.into_iter().map(each));
                }
            }
        }
        Ok(known)
    }

    /// Calls `each` with every citizen of whom something was ever told, more than once perhaps. Blocks for the disk.
    ///
    /// # Errors
    /// The disk failed.
    pub fn each_person(&self, each: &mut dyn FnMut(Pseudonym)) -> Result<(), StateError> {
        let links = self.host.links();
        self.tables.each_person(&mut |own| each(links.citizen_of(own)))
    }

    /// Every version of every record that was ever about a person. Blocks for the disk.
    ///
    /// # Errors
    /// The disk failed.
    pub fn history_of(&self, person: Pseudonym) -> Result<Vec<Past>, StateError> {
        let mut past = Vec::new();
        for own in self.pseudonyms(person)? {
            let mut records: Vec<RecordKey> = self.tables.of(own)?.into_iter().map(|(key, ..)| key).collect();
            records.dedup();
            for key in records {
                let versions = self.tables.versions(&key, VERSIONS_OF_RECORD_MAX)?;
                let last = versions.last().map(|version| version.number);
                for Version { number, received, .. } in versions {
                    let told = self.tables.told(own, &key, number)?;
                    let facts = told.map(|told| told.facts).unwrap_or_default();
                    let provenance = key.provenance(number, received);
                    past.push(Past { facts, provenance, current: last == Some(number) });
                }
            }
        }
        Ok(past)
    }

    /// Records what a register tells: durable and in the tables when this is done. The same again is known, and lower
    /// versions may come after higher ones.
    ///
    /// # Errors
    /// It isn't well formed, says otherwise than this version of the record did before, passes a bound, or can't be
    /// recorded now. `field` is a JSON pointer into a document of the members of [`Report`].
    pub async fn record_from_register(
        log: &EventLog,
        register: RegisterId,
        report: Report,
        now: UnixMillis,
    ) -> Result<Effect, Refused> {
        Self::record(log, Report { source: Source::Register(register), ..report }, now).await
    }

    async fn record(log: &EventLog, report: Report, now: UnixMillis) -> Result<Effect, Refused> {
        log.record(Kind::Health, Self::event_body(report, now)?, now).await
    }

    /// The body of the event that records a report, for whoever records several with something of their own.
    ///
    /// # Errors
    /// As of [`Health::record_from_register`], but for what only the tables can say.
    pub fn event_body(report: Report, now: UnixMillis) -> Result<Vec<u8>, Refused> {
        check(&report, now)?;
        let Report { source, record, version, person, facts } = report;
        let person = person.map(|person| hex(&person.0));
        // Strings and numbers always serialize.
        Ok(serde_json::to_vec(&Change::Told { source, record, version, person, facts }).unwrap_or_default())
    }

    /// The citizen and all that is theirs.
    fn pseudonyms(&self, person: Pseudonym) -> Result<Vec<Pseudonym>, StateError> {
        let links = self.host.links();
        let citizen = links.citizen_of(person);
        let mut all = links.aliases_of(citizen).map_err(|_| StateError::Damaged { table: "links" })?;
        all.retain(|own| *own != citizen);
        all.insert(0, citizen);
        Ok(all)
    }
}

impl Capability for Health {
    fn kind(&self) -> Kind {
        Kind::Health
    }

    fn apply(&self, event: &Event, batch: &mut OwnedWriteBatch) -> Result<Effect, StateError> {
        let Some((key, number, person, facts)) = read(event) else {
            return Ok(Effect::Refused(Refused::new(Cause::Invalid, "the event means nothing here")));
        };
        let versions = self.tables.versions(&key, VERSIONS_OF_RECORD_MAX)?;
        let provenance = key.provenance(number, event.at);
        let known: Vec<Known> =
            facts.iter().map(|fact| Known { fact: fact.clone(), provenance: provenance.clone() }).collect();
        if let Some(before) = versions.iter().find(|version| version.number == number) {
            let told = match before.person {
                Some(person) => self.tables.told(person, &key, number)?.map(|told| told.facts),
                None => None,
            };
            let same = before.person == person && told.unwrap_or_default() == facts;
            return Ok(if same {
                Effect::done(&Answer { outcome: Became::Known, facts: known })
            } else {
                let detail =
                    "this version of the record was told otherwise before; a correction takes a higher one";
                Effect::Refused(Refused::new(Cause::Conflict, detail).field("/version"))
            });
        }
        if let Some(refused) = self.past_bounds(&key, versions.len(), person) {
            return Ok(Effect::Refused(refused));
        }
        let highest = versions.last().is_none_or(|last| last.number < number);
        if highest {
            let before = match versions.last() {
                Some(Version { person: Some(person), number, .. }) => {
                    let told = self.tables.told(*person, &key, *number)?;
                    told.map(|told| positive_tests(*person, &told.facts)).unwrap_or_default()
                }
                _ => Vec::new(),
            };
            let now = person.map(|person| positive_tests(person, &facts)).unwrap_or_default();
            self.positive_tests_changed(&key, &before, &now, event.at, batch)?;
        }
        self.tables.insert(batch, &key, Version { number, received: event.at, person }, facts);
        let outcome = if highest { Became::Current } else { Became::Superseded };
        Ok(Effect::created(&Answer { outcome, facts: known }))
    }

    fn applied(&self, event: &Event) {
        let changed = self.changed.read();
        if changed.is_empty() {
            return;
        }
        let Some((key, ..)) = read(event) else { return };
        // A disk that fails here fails the next event, and with it the log: nothing is missed for long.
        let versions = self.tables.versions(&key, VERSIONS_OF_RECORD_MAX).unwrap_or_default();
        let links = self.host.links();
        let mut persons: Vec<Pseudonym> =
            versions.iter().filter_map(|version| version.person).map(|own| links.citizen_of(own)).collect();
        persons.sort_unstable();
        persons.dedup();
        for person in persons {
            changed.iter().for_each(|changed| changed(person));
        }
    }
}

impl Health {
    /// What follows from a record's positive tests, as it was told before and is told now.
    fn positive_tests_changed(
        &self,
        key: &RecordKey,
        before: &[(Pseudonym, UnixMillis)],
        now: &[(Pseudonym, UnixMillis)],
        at: UnixMillis,
        batch: &mut OwnedWriteBatch,
    ) -> Result<(), StateError> {
        let Some(then) = self.positive.get() else { return Ok(()) };
        for &(person, taken_at) in before.iter().filter(|test| !now.contains(test)) {
            if !self.tells_elsewhere(key, person, taken_at)? {
                then(&PositiveTest { person, taken_at, at, stands: false }, batch)?;
            }
        }
        for &(person, taken_at) in now {
            if (0..=POSITIVE_TELLS_MS).contains(&(at.0 - taken_at.0)) {
                then(&PositiveTest { person, taken_at, at, stands: true }, batch)?;
            }
        }
        Ok(())
    }

    /// Whether another record of the person tells of the same positive test.
    fn tells_elsewhere(
        &self,
        key: &RecordKey,
        person: Pseudonym,
        taken_at: UnixMillis,
    ) -> Result<bool, StateError> {
        for (other, number, told) in self.tables.of(person)? {
            let is_current = self.tables.current(&other)?.is_some_and(|current| current.number == number);
            let mut positive = told.facts.iter().filter_map(Fact::positive_at);
            if other != *key && is_current && positive.any(|at| at == taken_at) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn past_bounds(&self, key: &RecordKey, versions: usize, person: Option<Pseudonym>) -> Option<Refused> {
        let refused = |detail: &'static str, limit: usize| {
            Some(Refused::new(Cause::Invalid, detail).field("/record").limit(limit as u64, None))
        };
        if versions >= VERSIONS_OF_RECORD_MAX {
            return refused("the record has all the versions that are kept", VERSIONS_OF_RECORD_MAX);
        }
        let person = person?;
        let (source, max) = match key.source {
            Source::Register(_) => (None, VERSIONS_OF_PERSON_MAX),
            Source::Code(_) => (Some(key.source), CODES_OF_HOLDER_MAX),
        };
        if self.tables.count(person, source, max) >= max {
            return refused("the person has all the records that are kept", max);
        }
        None
    }
}

impl RecordKey {
    fn provenance(&self, version: u64, received: UnixMillis) -> Provenance {
        Provenance { source: self.source, record: self.record.clone(), version, received }
    }
}

fn read(event: &Event) -> Option<(RecordKey, u64, Option<Pseudonym>, Vec<Fact>)> {
    let Change::Told { source, record, version, person, facts } = serde_json::from_slice(&event.body).ok()?;
    let person = match person {
        Some(person) => Some(Pseudonym(unhex(&person)?)),
        None => None,
    };
    // Without facts it is withdrawn, whoever it was about.
    let person = person.filter(|_| !facts.is_empty());
    (person.is_some() != facts.is_empty()).then_some((RecordKey { source, record }, version, person, facts))
}

/// Whose, and when they were taken.
fn positive_tests(person: Pseudonym, facts: &[Fact]) -> Vec<(Pseudonym, UnixMillis)> {
    facts.iter().filter_map(Fact::positive_at).map(|taken_at| (person, taken_at)).collect()
}

/// Whether a report is well formed.
fn check(report: &Report, now: UnixMillis) -> Result<(), Refused> {
    let invalid =
        |field: &str, detail: &'static str| Err(Refused::new(Cause::Invalid, detail).field(field.to_owned()));
    let record = report.record.as_bytes();
    if !(1..=RECORD_BYTES_MAX).contains(&record.len()) || !record.iter().all(u8::is_ascii_graphic) {
        return invalid("/record", "must have 1 to 64 visible ASCII characters");
    }
    if record.len() >= 9 && record.iter().all(u8::is_ascii_digit) {
        return invalid("/record", "must not be a number of nine digits or more, which could be a person's");
    }
    if report.facts.len() > FACTS_MAX {
        let refused = Refused::new(Cause::Invalid, "a record tells up to 12 facts").field("/facts");
        return Err(refused.limit(FACTS_MAX as u64, Some(report.facts.len() as u64)));
    }
    if report.person.is_none() && !report.facts.is_empty() {
        return invalid("/person", "is required where there are facts");
    }
    for (index, fact) in report.facts.iter().enumerate() {
        if let Some((member, detail)) = wrong(fact, now) {
            return invalid(&format!("/facts/{index}/{member}"), detail);
        }
    }
    Ok(())
}

/// The member of a fact that can't be, and why.
fn wrong(fact: &Fact, now: UnixMillis) -> Option<(&'static str, &'static str)> {
    const DAY: &str = "must lie between 2019-12-01 and today";
    let days = FIRST_DAY..=now.day().saturating_add(AHEAD_DAYS);
    match fact {
        Fact::Vaccination { product, .. } if !is_product(product) => {
            Some(("product", "must have 1 to 64 characters, none of them a control character"))
        }
        Fact::Vaccination { dose: 0, .. } => Some(("dose", "must be from 1 on")),
        Fact::Vaccination { doses: 0, .. } => Some(("doses", "must be from 1 on")),
        Fact::Vaccination { day, .. } if !days.contains(day) => Some(("day", DAY)),
        Fact::Test { taken_at, .. } if !days.contains(&taken_at.day()) => Some(("taken_at", DAY)),
        Fact::Recovery { positive_day, .. } if !days.contains(positive_day) => Some(("positive_day", DAY)),
        Fact::Recovery { from_day, until_day, .. } if from_day > until_day => {
            Some(("until_day", "must not lie before from_day"))
        }
        _ => None,
    }
}

fn is_product(text: &str) -> bool {
    (1..=PRODUCT_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}
