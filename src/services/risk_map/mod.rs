//! The risk map: how many people were where on a day, told so that nobody can be found in it.
//!
//! ```text
//! store, a finished day ─ count ─ release (k) ─ log ─ tables ─ GeoJSON ─ /map
//! store, a case's stays ─ mark ──────────────── log ─ tables ─┘
//! ```
//!
//! A day is counted once, some hours after its end, and what is told of it then is in the log and never changes.
//! What does change is which of its places are known to have been visited by somebody who was infectious: approved cases
//! of tracing mark them.
//!
//! ```text
//! risk_map_cells1      day(4) attempt(8) 'd' or 'p' district(3) place(16, of a place)  ->  JSON
//! risk_map_days1       day(4)                                                          ->  JSON
//! risk_map_exposures1  day(4) place(16) case(16)                                       ->  person(16)
//! ```

pub mod count;
pub mod day;
pub mod release;
mod geojson;
mod http;
mod mark;
mod outlines;
mod publish;

#[cfg(test)]
mod attack_tests;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fjall::{Keyspace, OwnedWriteBatch};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

pub use day::Day;
pub(super) use http::answer;
pub(super) use publish::publish_due;

use super::capability::{Capability, Effect, Kind, State, StateError};
use super::places::{DistrictCode, Places, ProvinceCode};
use crate::config::Config;
use crate::journal::Event;
use crate::respond::{Cause, Refused};
use crate::scan::{PlaceKey, UnixMillis};
use crate::verify::unhex;

const CELLS: &str = "risk_map_cells1";
const DAYS: &str = "risk_map_days1";
const EXPOSURES: &str = "risk_map_exposures1";

const DISTRICT: u8 = b'd';
const PLACE: u8 = b'p';

/// What the map goes by; `risk_map` in the configuration.
#[derive(Debug, Clone, Copy)]
struct Settings {
    k: u64,
    delay_ms: i64,
    days: i32,
    levels_every_ms: i64,
}

impl Settings {
    /// When levels last changed, all together: what was approved or withdrawn before it shows, and nothing later.
    fn levels_as_of(&self, now: UnixMillis) -> UnixMillis {
        let first = Day(0).begins().0.saturating_add(self.delay_ms);
        UnixMillis(now.0 - now.0.saturating_sub(first).rem_euclid(self.levels_every_ms))
    }
}

/// The map.
pub struct RiskMap {
    cells: Keyspace,
    days: Keyspace,
    exposures: Keyspace,
    places: Arc<Places>,
    settings: Settings,
    /// Grows with every change of what is told.
    version: AtomicU64,
    answers: Mutex<HashMap<http::Asked, http::Built>>,
    worker: publish::Worker,
}

/// A told figure of a district, or of a place in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Cell {
    district: DistrictCode,
    province: ProvinceCode,
    /// The place's key; a district's own figure has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    /// At least so many different persons.
    persons: u64,
    /// At least so many check-ins, of a place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checkins: Option<u64>,
}

/// A day whose figures are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Published {
    day: Day,
    /// Which of the counts of that day it was: an interrupted one leaves cells that nobody sees.
    attempt: u64,
    k: u64,
    districts: u64,
    places: u64,
    /// Days before this one are forgotten.
    keeps_from: Day,
}

/// What the log holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Change {
    Cells {
        day: Day,
        attempt: u64,
        cells: Vec<Cell>,
    },
    Published(Published),
    /// A case's person, who was infectious, was at these places on these days.
    Exposed {
        case: String,
        person: String,
        at: Vec<Spot>,
    },
    /// It was a mistake.
    Cleared {
        case: String,
        at: Vec<Spot>,
    },
}

/// A place on a day, by the place's key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Spot {
    day: Day,
    place: String,
}

impl RiskMap {
    /// Opens the tables.
    ///
    /// # Errors
    /// They can't be opened.
    pub fn open(state: &State, config: &Config, places: Arc<Places>) -> Result<Self, StateError> {
        let ms = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000);
        let settings = Settings {
            k: u64::from(config.risk_map.k),
            delay_ms: ms(config.risk_map.delay_s),
            days: i32::from(config.risk_map.days),
            levels_every_ms: ms(config.risk_map.levels_every_s),
        };
        Ok(Self {
            cells: state.table(CELLS)?,
            days: state.table(DAYS)?,
            exposures: state.table(EXPOSURES)?,
            places,
            settings,
            version: AtomicU64::new(0),
            answers: Mutex::default(),
            worker: publish::Worker::default(),
        })
    }

    /// Ends a count under way, and waits for its end.
    pub fn stop(&self) {
        self.worker.stop();
    }

    /// The days that are told, the newest first.
    fn published(&self) -> Result<Vec<Published>, StateError> {
        let days = self.days.iter().rev().map(|guard| read(DAYS, &guard.into_inner()?.1));
        days.collect()
    }

    fn published_on(&self, day: Day) -> Result<Option<Published>, StateError> {
        self.days.get(day_key(day))?.map(|value| read(DAYS, &value)).transpose()
    }

    /// The told figures of one kind, of all districts or of one.
    fn told(
        &self,
        of: &Published,
        kind: u8,
        district: Option<DistrictCode>,
    ) -> impl Iterator<Item = Result<Cell, StateError>> + use<> {
        let mut prefix = cell_prefix(of.day, of.attempt);
        prefix.push(kind);
        if let Some(district) = &district {
            prefix.extend_from_slice(district.as_str().as_bytes());
        }
        self.cells.prefix(prefix).map(|guard| read(CELLS, &guard.into_inner()?.1))
    }

    /// How many persons each place of a day had who are cases: one of two cases counts once.
    fn cases(&self, day: Day) -> Result<HashMap<PlaceKey, u64>, StateError> {
        let mut persons: HashMap<PlaceKey, HashSet<Vec<u8>>> = HashMap::new();
        for guard in self.exposures.prefix(day_key(day)) {
            let (key, person) = guard.into_inner()?;
            let place = key.get(4..20).and_then(|place| place.try_into().ok());
            let place = place.map(PlaceKey).ok_or(StateError::Damaged { table: EXPOSURES })?;
            persons.entry(place).or_default().insert(person.to_vec());
        }
        Ok(persons.into_iter().map(|(place, persons)| (place, persons.len() as u64)).collect())
    }

    fn publish(&self, published: &Published, batch: &mut OwnedWriteBatch) -> Result<(), StateError> {
        let kept = cell_prefix(published.day, published.attempt);
        let forgotten = day_key(published.keeps_from);
        for guard in self.cells.range(..forgotten).chain(self.cells.prefix(day_key(published.day))) {
            let key = guard.key()?;
            if !key.starts_with(&kept) {
                batch.remove(&self.cells, key);
            }
        }
        for table in [&self.days, &self.exposures] {
            for guard in table.range(..forgotten) {
                batch.remove(table, guard.key()?);
            }
        }
        batch.insert(&self.days, day_key(published.day), written(published));
        Ok(())
    }
}

impl Capability for RiskMap {
    fn kind(&self) -> Kind {
        Kind::RiskMap
    }

    fn apply(&self, event: &Event, batch: &mut OwnedWriteBatch) -> Result<Effect, StateError> {
        let meaningless = || Refused::new(Cause::Invalid, "the event means nothing here");
        let Ok(change) = serde_json::from_slice::<Change>(&event.body) else {
            return Ok(Effect::Refused(meaningless()));
        };
        match change {
            // What is told of a day stays as it is.
            Change::Cells { day, .. } | Change::Published(Published { day, .. })
                if self.days.contains_key(day_key(day))? => {}
            Change::Cells { day, attempt, cells } => {
                for cell in cells {
                    match cell_key(day, attempt, &cell) {
                        Some(key) => batch.insert(&self.cells, key, written(&cell)),
                        None => return Ok(Effect::Refused(meaningless())),
                    }
                }
            }
            Change::Published(published) => self.publish(&published, batch)?,
            Change::Exposed { case, person, at } => {
                let Some(person) = unhex::<16>(&person) else { return Ok(Effect::Refused(meaningless())) };
                for spot in at {
                    match exposure_key(&spot, &case) {
                        Some(key) => batch.insert(&self.exposures, key, person),
                        None => return Ok(Effect::Refused(meaningless())),
                    }
                }
            }
            Change::Cleared { case, at } => {
                for spot in at {
                    match exposure_key(&spot, &case) {
                        Some(key) => batch.remove(&self.exposures, key),
                        None => return Ok(Effect::Refused(meaningless())),
                    }
                }
            }
        }
        Ok(Effect::done(&serde_json::json!({})))
    }

    fn applied(&self, _event: &Event) {
        self.version.fetch_add(1, Ordering::Release);
    }
}

/// Days in order, also those before 1970.
fn day_key(day: Day) -> [u8; 4] {
    (day.0 ^ i32::MIN).to_be_bytes()
}

fn cell_prefix(day: Day, attempt: u64) -> Vec<u8> {
    [&day_key(day)[..], &attempt.to_be_bytes()].concat()
}

fn cell_key(day: Day, attempt: u64, cell: &Cell) -> Option<Vec<u8>> {
    let mut key = cell_prefix(day, attempt);
    key.push(if cell.place.is_some() { PLACE } else { DISTRICT });
    key.extend_from_slice(cell.district.as_str().as_bytes());
    if let Some(place) = &cell.place {
        key.extend_from_slice(&unhex::<16>(place)?);
    }
    Some(key)
}

fn exposure_key(spot: &Spot, case: &str) -> Option<Vec<u8>> {
    Some([&day_key(spot.day)[..], &unhex::<16>(&spot.place)?, &unhex::<16>(case)?].concat())
}

fn written(value: &impl Serialize) -> Vec<u8> {
    // Structs of strings and numbers always serialize.
    serde_json::to_vec(value).unwrap_or_default()
}

fn read<'a, T: Deserialize<'a>>(table: &'static str, value: &'a [u8]) -> Result<T, StateError> {
    serde_json::from_slice(value).map_err(|_| StateError::Damaged { table })
}
