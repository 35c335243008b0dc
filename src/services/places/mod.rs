//! The directory of places: what a place's key stands for, in memory for whoever counts, maps or warns.
//!
//! ```text
//! places1  place(16)  ->  JSON
//! ```

pub(in crate::services) mod http;
mod place;

use std::collections::HashSet;
use std::sync::Arc;

use dashmap::DashMap;
use fjall::{Keyspace, OwnedWriteBatch};
use serde::{Deserialize, Serialize};

pub use place::{CLASS_BYTES_MAX, Code, DistrictCode, NAME_BYTES_MAX, Place, ProvinceCode};

use super::capability::{Capability, Effect, Kind, State, StateError};
use crate::journal::Event;
use crate::openapi::PlacesPut;
use crate::respond::{Cause, Refused};
use crate::scan::PlaceKey;
use crate::verify::unhex;

const PLACES: &str = "places1";

/// The directory.
pub struct Places {
    table: Keyspace,
    known: DashMap<PlaceKey, Arc<Place>>,
    max: usize,
}

/// What the log holds.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Change {
    Put { places: Vec<Entry> },
}

#[derive(Serialize, Deserialize)]
struct Entry {
    key: String,
    #[serde(flatten)]
    place: Place,
}

impl Places {
    /// Opens the table and reads it into memory, up to so many places.
    ///
    /// # Errors
    /// It can't be opened or read.
    pub fn open(state: &State, max: usize) -> Result<Self, StateError> {
        let table = state.table(PLACES)?;
        let known = DashMap::new();
        for guard in table.iter() {
            let (key, value) = guard.into_inner()?;
            let damaged = || StateError::Damaged { table: PLACES };
            let key = key.as_ref().try_into().map(PlaceKey).map_err(|_| damaged())?;
            let place: Place = serde_json::from_slice(&value).map_err(|_| damaged())?;
            known.insert(key, Arc::new(place));
        }
        Ok(Self { table, known, max })
    }

    /// What is known of a place.
    pub fn get(&self, key: PlaceKey) -> Option<Arc<Place>> {
        self.known.get(&key).map(|place| Arc::clone(&place))
    }

    /// Every place, in no order; changes under way may or may not be among them.
    pub fn all(&self) -> Vec<(PlaceKey, Arc<Place>)> {
        self.known.iter().map(|entry| (*entry.key(), Arc::clone(entry.value()))).collect()
    }
}

impl Capability for Places {
    fn kind(&self) -> Kind {
        Kind::Places
    }

    fn apply(&self, event: &Event, batch: &mut OwnedWriteBatch) -> Result<Effect, StateError> {
        let Some(places) = read(event) else {
            return Ok(Effect::Refused(Refused::new(Cause::Invalid, "the event means nothing here")));
        };
        let (mut put, mut new) = (PlacesPut::default(), HashSet::new());
        for (key, place) in &places {
            match self.known.get(key) {
                Some(before) if **before == *place => put.unchanged += 1,
                None if new.insert(*key) => put.created += 1,
                _ => put.changed += 1,
            }
        }
        let held = self.known.len();
        if held.saturating_add(new.len()) > self.max {
            let refused = Refused::new(Cause::Invalid, "the directory is full").bound("places.max");
            return Ok(Effect::Refused(refused.limit(self.max as u64, Some(held as u64))));
        }
        for (key, place) in &places {
            // Strings and numbers always serialize.
            batch.insert(&self.table, key.0, serde_json::to_vec(place).unwrap_or_default());
        }
        Ok(Effect::done(&put))
    }

    fn applied(&self, event: &Event) {
        for (key, place) in read(event).into_iter().flatten() {
            // The event may have been refused.
            if self.table.contains_key(key.0).unwrap_or_default() {
                self.known.insert(key, Arc::new(place));
            }
        }
    }
}

fn read(event: &Event) -> Option<Vec<(PlaceKey, Place)>> {
    let Change::Put { places } = serde_json::from_slice(&event.body).ok()?;
    places.into_iter().map(|Entry { key, place }| Some((PlaceKey(unhex(&key)?), place))).collect()
}
