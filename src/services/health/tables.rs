//! The two tables of facts.
//!
//! ```text
//! facts1     person(16) source(2) record 0 version(8)  ->  JSON: the facts, and when they arrived
//! versions1  source(2) record 0 version(8)             ->  when it arrived(8) person(16), or no person: withdrawn
//! ```
//!
//! A person's facts stand together, and so do a record's versions. A record's last key in `versions1` is its current
//! version: nothing is ever overwritten, and the order in which versions come doesn't matter.

use fjall::{Keyspace, OwnedWriteBatch};
use serde::{Deserialize, Serialize};

use super::fact::{Fact, Source, as_time};
use crate::scan::{Pseudonym, UnixMillis};
use crate::services::capability::{State, StateError};

const FACTS: &str = "facts1";
const VERSIONS: &str = "versions1";

/// Both tables.
pub(super) struct Tables {
    facts: Keyspace,
    versions: Keyspace,
}

/// A record at its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RecordKey {
    pub(super) source: Source,
    /// Without a zero byte.
    pub(super) record: String,
}

/// Which version of a record it was, of whom, and when it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) number: u64,
    pub(super) received: UnixMillis,
    /// None where it was withdrawn.
    pub(super) person: Option<Pseudonym>,
}

/// What one version of a record tells of a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) facts: Vec<Fact>,
    #[serde(with = "as_time")]
    pub(super) received: UnixMillis,
}

impl Tables {
    pub(super) fn open(state: &State) -> Result<Self, StateError> {
        Ok(Self { facts: state.table(FACTS)?, versions: state.table(VERSIONS)? })
    }

    /// Every version of a record, lowest first, up to a bound.
    pub(super) fn versions(&self, key: &RecordKey, max: usize) -> Result<Vec<Version>, StateError> {
        let prefix = key.prefix();
        let read = |guard: fjall::Guard| {
            let (key, value) = guard.into_inner()?;
            version(&key, &value).ok_or(StateError::Damaged { table: VERSIONS })
        };
        self.versions.prefix(&prefix).take(max).map(read).collect()
    }

    /// The current version of a record.
    pub(super) fn current(&self, key: &RecordKey) -> Result<Option<Version>, StateError> {
        let Some(guard) = self.versions.prefix(key.prefix()).next_back() else { return Ok(None) };
        let (key, value) = guard.into_inner()?;
        version(&key, &value).map(Some).ok_or(StateError::Damaged { table: VERSIONS })
    }

    /// What a version told of a person.
    pub(super) fn told(
        &self,
        person: Pseudonym,
        key: &RecordKey,
        version: u64,
    ) -> Result<Option<Told>, StateError> {
        let value = self.facts.get(key.of(person, version))?;
        value.map(|value| told(&value)).transpose()
    }

    /// Everything that was ever told of a person, each record's versions together and lowest first.
    pub(super) fn of(&self, person: Pseudonym) -> Result<Vec<(RecordKey, u64, Told)>, StateError> {
        let read = |guard: fjall::Guard| {
            let (key, value) = guard.into_inner()?;
            let record = key.get(16..).and_then(split).ok_or(StateError::Damaged { table: FACTS })?;
            Ok((record.0, record.1, told(&value)?))
        };
        self.facts.prefix(person.0).map(read).collect()
    }

    /// Calls `each` with everybody of whom something was told, in order.
    pub(super) fn each_person(&self, each: &mut dyn FnMut(Pseudonym)) -> Result<(), StateError> {
        let mut last = None;
        for guard in self.facts.iter() {
            let key = guard.key()?;
            let person = key.first_chunk().copied().map(Pseudonym);
            if person != last {
                each(person.ok_or(StateError::Damaged { table: FACTS })?);
                last = person;
            }
        }
        Ok(())
    }

    /// How many versions of records tell something of a person, counted up to a bound.
    pub(super) fn count(&self, person: Pseudonym, source: Option<Source>, max: usize) -> usize {
        let mut prefix = person.0.to_vec();
        prefix.extend(source.iter().flat_map(|source| source.code()));
        self.facts.prefix(prefix).take(max).count()
    }

    pub(super) fn insert(
        &self,
        batch: &mut OwnedWriteBatch,
        key: &RecordKey,
        version: Version,
        facts: Vec<Fact>,
    ) {
        let Version { number, received, person } = version;
        let mut value = received.0.to_be_bytes().to_vec();
        if let Some(person) = person {
            value.extend_from_slice(&person.0);
            // Strings and numbers always serialize.
            let told = serde_json::to_vec(&Told { facts, received }).unwrap_or_default();
            batch.insert(&self.facts, key.of(person, number), told);
        }
        let mut version = key.prefix();
        version.extend_from_slice(&number.to_be_bytes());
        batch.insert(&self.versions, version, value);
    }
}

impl RecordKey {
    fn prefix(&self) -> Vec<u8> {
        let mut bytes = self.source.code().to_vec();
        bytes.extend_from_slice(self.record.as_bytes());
        bytes.push(0);
        bytes
    }

    fn of(&self, person: Pseudonym, version: u64) -> Vec<u8> {
        [&person.0[..], &self.prefix(), &version.to_be_bytes()].concat()
    }
}

/// A record and its version's number, of a key behind the person.
fn split(bytes: &[u8]) -> Option<(RecordKey, u64)> {
    let (code, rest) = bytes.split_first_chunk::<2>()?;
    let (record, number) = rest.split_last_chunk::<8>()?;
    let record = std::str::from_utf8(record.strip_suffix(&[0])?).ok()?;
    let source = Source::from_code(*code)?;
    Some((RecordKey { source, record: record.to_owned() }, u64::from_be_bytes(*number)))
}

fn version(key: &[u8], value: &[u8]) -> Option<Version> {
    let (_, number) = key.split_last_chunk::<8>()?;
    let (received, person) = value.split_first_chunk::<8>()?;
    let person = match person {
        [] => None,
        person => Some(Pseudonym(person.try_into().ok()?)),
    };
    let received = UnixMillis(i64::from_be_bytes(*received));
    Some(Version { number: u64::from_be_bytes(*number), received, person })
}

fn told(value: &[u8]) -> Result<Told, StateError> {
    serde_json::from_slice(value).map_err(|_| StateError::Damaged { table: FACTS })
}
