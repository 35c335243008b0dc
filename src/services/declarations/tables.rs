//! Where declarations are kept.
//!
//! ```text
//! declarations1            id                          → Record
//! declaration_earlier1     id, revision                → Earlier
//! declarations_of1         declarer, newest first, id  → nothing
//! declarations_ended1      end, id                     → declarer, time, revision: what a removal has to find
//! declarations_again1      the id it would have       → id: where a rotation of the pepper made those two differ
//! declarations_revoked1    cti, second                 → end of the code: not in the revocations yet
//! ```

use fjall::{Keyspace, OwnedWriteBatch};
use serde::de::DeserializeOwned;

use super::record::{Earlier, Id, Record, ctis, id_of};
use crate::scan::{Pseudonym, UnixMillis};
use crate::services::capability::{State, StateError};
use crate::services::rename::Writer;

pub(super) struct Tables {
    records: Keyspace,
    earlier: Keyspace,
    of: Keyspace,
    ended: Keyspace,
    again: Keyspace,
    revoked: Keyspace,
}

/// A code that has to go.
pub(super) struct Revoked {
    pub(super) cti: [u8; 16],
    pub(super) until_s: i64,
    pub(super) ends_s: i64,
    key: Vec<u8>,
}

/// A place in somebody's list: what comes behind it is older.
pub(super) type Cursor = [u8; 24];

impl Tables {
    pub(super) fn open(state: &State) -> Result<Self, StateError> {
        Ok(Self {
            records: state.table("declarations1")?,
            earlier: state.table("declaration_earlier1")?,
            of: state.table("declarations_of1")?,
            ended: state.table("declarations_ended1")?,
            again: state.table("declarations_again1")?,
            revoked: state.table("declarations_revoked1")?,
        })
    }

    pub(super) fn get(&self, id: Id) -> Result<Option<Record>, StateError> {
        self.records.get(id)?.map(|value| read(&value, "declarations1")).transpose()
    }

    /// The id of the declaration that a person gave this one to.
    pub(super) fn id_of(&self, declarer: Pseudonym, client: Id) -> Result<Id, StateError> {
        let id = id_of(declarer, client);
        let again = self.again.get(id)?;
        Ok(again.and_then(|before| before.first_chunk().copied()).unwrap_or(id))
    }

    /// The declaration whose code has this cti.
    pub(super) fn of_cti(&self, cti: [u8; 16]) -> Result<Option<Record>, StateError> {
        let [purpose @ .., _, _] = cti;
        match self.records.prefix(purpose).next() {
            Some(entry) => Ok(Some(read(&entry.value()?, "declarations1")?)),
            None => Ok(None),
        }
    }

    /// What was declared before, oldest first.
    pub(super) fn earlier(&self, id: Id) -> Result<Vec<Earlier>, StateError> {
        self.earlier.prefix(id).map(|entry| read(&entry.value()?, "declaration_earlier1")).collect()
    }

    /// How many a person declared since, counted up to `max`.
    pub(super) fn count_since(
        &self,
        declarer: Id,
        since: UnixMillis,
        max: usize,
    ) -> Result<usize, StateError> {
        let to = [&declarer[..], &newest_first(since.0)].concat();
        let mut count = 0;
        for entry in self.of.range([&declarer[..], &[0; 8]].concat()..to).take(max) {
            entry.key()?;
            count += 1;
        }
        Ok(count)
    }

    /// The next of those that these pseudonyms declared, newest first, up to `max`, with their places.
    pub(super) fn page(
        &self,
        declarers: &[Pseudonym],
        after: Option<Cursor>,
        max: usize,
    ) -> Result<Vec<(Cursor, Id)>, StateError> {
        let mut found: Vec<Cursor> = Vec::new();
        for declarer in declarers {
            let from = after.map_or(vec![0; 24], |after| [&after[..], &[0]].concat());
            let from = [&declarer.0[..], &from].concat();
            let to = [&declarer.0[..], &[0xff; 25]].concat();
            for entry in self.of.range(from..to).take(max) {
                let key = entry.key()?;
                let place = key.get(16..).and_then(|rest| Cursor::try_from(rest).ok());
                found.push(place.ok_or(StateError::Damaged { table: "declarations_of1" })?);
            }
        }
        found.sort_unstable();
        found.truncate(max);
        let id = |place: &Cursor| place.last_chunk().copied().unwrap_or_default();
        Ok(found.iter().map(|place| (*place, id(place))).collect())
    }

    /// Puts a declaration in, or what it became; `before` is what it was.
    pub(super) fn put(&self, batch: &mut OwnedWriteBatch, id: Id, record: &Record, before: Option<&Record>) {
        if let Some(before) = before {
            batch.remove(&self.ended, ended_key(before, id));
            let earlier = Earlier {
                revision: before.revision,
                at_ms: before.changed_ms,
                answered: before.answered.clone(),
            };
            batch.insert(&self.earlier, earlier_key(id, before.revision), written(&earlier));
            if let Some(ends_s) = before.code_until_s() {
                for cti in ctis(id, before) {
                    let key = [&cti[..], &before.issued_s.to_be_bytes()].concat();
                    batch.insert(&self.revoked, key, ends_s.to_be_bytes().to_vec());
                }
            }
        } else {
            batch.insert(&self.of, of_key(record.declared.declarer, record.at_ms, id), Vec::new());
            if let Some(again) = again_key(id, record) {
                batch.insert(&self.again, again, id);
            }
        }
        let found =
            [&record.declared.declarer[..], &record.at_ms.to_be_bytes(), &record.revision.to_be_bytes()];
        batch.insert(&self.ended, ended_key(record, id), found.concat());
        batch.insert(&self.records, id, written(record));
    }

    /// Whether anything ended before this time.
    pub(super) fn any_ended(&self, before_ms: i64) -> Result<bool, StateError> {
        match self.ended.first_key_value() {
            Some(entry) => Ok(entry.key()?.as_ref() < before_ms.to_be_bytes().as_slice()),
            None => Ok(false),
        }
    }

    /// When the last one ends, in milliseconds since 1970.
    pub(super) fn last_end_ms(&self) -> Result<Option<i64>, StateError> {
        let Some(entry) = self.ended.last_key_value() else { return Ok(None) };
        Ok(entry.key()?.first_chunk().map(|bytes| i64::from_be_bytes(*bytes)))
    }

    /// Takes out those that ended before this time, up to `max`; says how many.
    pub(super) fn remove_ended(
        &self,
        batch: &mut OwnedWriteBatch,
        before_ms: i64,
        max: usize,
    ) -> Result<usize, StateError> {
        let damaged = StateError::Damaged { table: "declarations_ended1" };
        let mut removed = 0;
        for entry in self.ended.range(..before_ms.to_be_bytes()).take(max) {
            let (key, value) = entry.into_inner()?;
            let id = key.last_chunk::<16>().copied();
            let found = value.split_first_chunk::<16>().and_then(|(declarer, rest)| {
                let (at, revision) = rest.split_first_chunk::<8>()?;
                Some((*declarer, i64::from_be_bytes(*at), u16::from_be_bytes(*revision.first_chunk()?)))
            });
            let (Some(id), Some((declarer, at_ms, revision))) = (id, found) else { return Err(damaged) };
            for earlier in 1..revision {
                batch.remove(&self.earlier, earlier_key(id, earlier));
            }
            if let Some(again) = self.get(id)?.and_then(|record| again_key(id, &record)) {
                batch.remove(&self.again, again);
            }
            batch.remove(&self.of, of_key(declarer, at_ms, id));
            batch.remove(&self.records, id);
            batch.remove(&self.ended, key);
            removed += 1;
        }
        Ok(removed)
    }

    /// Codes that aren't in the revocations yet, up to `max`.
    pub(super) fn to_revoke(&self, max: usize) -> Result<Vec<Revoked>, StateError> {
        let damaged = || StateError::Damaged { table: "declarations_revoked1" };
        let read = |entry: fjall::Guard| {
            let (key, value) = entry.into_inner()?;
            let read = || {
                let (cti, until) = key.split_first_chunk::<16>()?;
                let until_s = i64::from_be_bytes(*until.first_chunk()?);
                let ends_s = i64::from_be_bytes(*value.first_chunk()?);
                Some(Revoked { cti: *cti, until_s, ends_s, key: key.to_vec() })
            };
            read().ok_or_else(damaged)
        };
        self.revoked.iter().take(max).map(read).collect()
    }

    /// They are now. Outside the log: each is named by its code and second, and to revoke it twice does nothing.
    pub(super) fn are_revoked(&self, revoked: &[Revoked]) -> Result<(), StateError> {
        revoked.iter().try_for_each(|one| Ok(self.revoked.remove(one.key.as_slice())?))
    }
}

/// Fills `declarations_again1` by the other tables, all of whose pseudonyms are others now.
pub(in crate::services) fn derive_again(state: &State, writer: &mut Writer<'_>) -> Result<(), StateError> {
    let tables = Tables::open(state)?;
    for entry in tables.records.iter() {
        let (key, value) = entry.into_inner()?;
        let damaged = StateError::Damaged { table: "declarations1" };
        let id = key.first_chunk().copied().ok_or(damaged)?;
        if let Some(again) = again_key(id, &read(&value, "declarations1")?) {
            writer.insert(&tables.again, again.to_vec(), id.to_vec())?;
        }
    }
    writer.commit()
}

/// The id that it would be given now, if that is another.
fn again_key(id: Id, record: &Record) -> Option<Id> {
    let now = id_of(Pseudonym(record.declared.declarer), record.declared.client?);
    (now != id).then_some(now)
}

fn newest_first(at_ms: i64) -> [u8; 8] {
    (i64::MAX - at_ms).to_be_bytes()
}

fn of_key(declarer: Id, at_ms: i64, id: Id) -> Vec<u8> {
    [&declarer[..], &newest_first(at_ms), &id].concat()
}

fn ended_key(record: &Record, id: Id) -> Vec<u8> {
    [&record.ends_ms().to_be_bytes()[..], &id].concat()
}

fn earlier_key(id: Id, revision: u16) -> Vec<u8> {
    [&id[..], &revision.to_be_bytes()].concat()
}

fn read<T: DeserializeOwned>(value: &[u8], table: &'static str) -> Result<T, StateError> {
    serde_json::from_slice(value).map_err(|_| StateError::Damaged { table })
}

fn written(value: &impl serde::Serialize) -> Vec<u8> {
    // Strings, numbers and JSON that was read always serialize.
    serde_json::to_vec(value).unwrap_or_default()
}
