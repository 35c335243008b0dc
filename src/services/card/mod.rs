//! The COVID-19 card: green, yellow, red or unknown, by rules that are data.
//!
//! ```text
//! facts (health) ─┐
//!                 ├─ judge (CertLogic) ─ table in memory ─ look ─ a scan's answer, GET /v1/card
//! rule sets ──────┘                        ▲
//!   files, officers (log)                  └ thread `card`: what ends, new rules
//! ```
//!
//! A rule set is in force in a province, or wherever no province has its own, over a range of time. Those that ship are
//! `config/rules`; `card.rules_dir` names others, and officers bring newer versions with `PUT /v1/card/rules`. Of each set
//! the highest version counts, wherever it came from.

pub mod cards;
pub mod certlogic;
pub mod colour;
pub mod facts;
pub(in crate::services) mod http;
pub mod rules;
mod store;
pub mod table;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use fjall::OwnedWriteBatch;
use parking_lot::{Condvar, Mutex};

use self::cards::Cards;
use self::rules::{RuleSet, SET_BYTES_MAX, Wrong};
use self::store::Stored;
use super::capability::{Capability, Effect, Kind, State, StateError};
use super::health::Health;
use super::places::Places;
use crate::identity::links::Links;
use crate::journal::Event;
use crate::scan::{Pseudonym, UnixMillis};

/// How often the thread looks for colours that ended.
const LOOK: Duration = Duration::from_secs(1);

/// Most rule sets, each of a name of its own.
pub const SETS_MAX: usize = 128;

/// The rule sets that come with the gateway.
const SHIPPED: [&str; 3] = [
    include_str!("../../../config/rules/vn.json"),
    include_str!("../../../config/rules/vn-01.json"),
    include_str!("../../../config/rules/vn-79.json"),
];

/// The card.
pub struct Card {
    cards: Arc<Cards>,
    /// From files.
    shipped: Vec<Arc<RuleSet>>,
    stored: Stored,
    alarm: Arc<Alarm>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What wakes the thread up.
#[derive(Default)]
struct Alarm {
    state: Mutex<AlarmState>,
    changed: Condvar,
}

#[derive(Default)]
struct AlarmState {
    rings: bool,
    stops: bool,
}

impl Card {
    /// Opens the tables and reads the rule sets: those of a directory, or those that ship.
    ///
    /// # Errors
    /// The tables can't be opened, a file can't be read, or one is no rule set.
    pub fn open(
        state: &State,
        rules_dir: Option<&Path>,
        health: &Arc<Health>,
        places: &Arc<Places>,
        links: &Links,
    ) -> Result<Self, StateError> {
        let shipped = match rules_dir {
            Some(dir) => from_dir(dir)?,
            None => SHIPPED
                .iter()
                .map(|text| read(text.as_bytes(), Path::new("config/rules")))
                .collect::<Result<_, _>>()?,
        };
        let cards = Arc::new(Cards::new(Arc::clone(health) as _, Arc::clone(places)));
        health.on_change(judging(&cards));
        links.on_change(judging(&cards));
        let (alarm, thread) = (Arc::new(Alarm::default()), Mutex::new(None));
        Ok(Self { cards, shipped, stored: Stored::open(state)?, alarm, thread })
    }

    /// Everybody's cards.
    pub fn cards(&self) -> &Arc<Cards> {
        &self.cards
    }

    /// Every rule set, of each the highest version.
    ///
    /// # Errors
    /// The tables can't be read.
    pub fn sets(&self) -> Result<Vec<Arc<RuleSet>>, StateError> {
        let mut sets = self.stored.all()?;
        sets.extend(self.shipped.iter().cloned());
        sets.sort_by(|left, right| (&left.id, right.version).cmp(&(&right.id, left.version)));
        sets.dedup_by(|later, first| later.id == first.id);
        Ok(sets)
    }

    fn start_thread(&self) -> std::io::Result<()> {
        let (cards, alarm) = (Arc::clone(&self.cards), Arc::clone(&self.alarm));
        let run = move || {
            while alarm.wait() {
                if let Err(error) = cards.tick(UnixMillis::now()) {
                    tracing::error!(%error, "cards can't be judged");
                }
            }
        };
        *self.thread.lock() = Some(std::thread::Builder::new().name("card".to_owned()).spawn(run)?);
        Ok(())
    }
}

impl Alarm {
    /// Waits for a ring, or a while. False where the thread is to end.
    fn wait(&self) -> bool {
        let mut state = self.state.lock();
        if !state.rings && !state.stops {
            self.changed.wait_for(&mut state, LOOK);
        }
        state.rings = false;
        !state.stops
    }

    fn set(&self, change: impl FnOnce(&mut AlarmState)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        self.alarm.set(|state| state.stops = true);
        if let Some(thread) = self.thread.lock().take() {
            // It only logs; a panic of it was logged where it happened.
            let _ = thread.join();
        }
    }
}

impl Capability for Card {
    fn kind(&self) -> Kind {
        Kind::Card
    }

    fn apply(&self, event: &Event, batch: &mut OwnedWriteBatch) -> Result<Effect, StateError> {
        self.stored.apply(event, batch)
    }

    fn applied(&self, event: &Event) {
        if !store::changes_rules(event) {
            return;
        }
        match self.sets() {
            Ok(sets) => self.cards.take_rules(sets),
            Err(error) => tracing::error!(%error, "the card's rules stay as they were until the next start"),
        }
        self.alarm.set(|state| state.rings = true);
    }

    fn load(&self) -> Result<(), StateError> {
        self.cards.take_rules(self.sets()?);
        self.cards.load(UnixMillis::now())?;
        let rules = self.cards.in_force().len();
        tracing::info!(rules, persons = self.cards.persons(), "cards are judged");
        self.start_thread()
            .map_err(|source| StateError::File { path: PathBuf::from("the thread card"), source })
    }
}

/// Judges whoever it is told of. Cards hold the facts: who tells them of changes may not hold them, or neither would ever
/// be closed.
fn judging(cards: &Arc<Cards>) -> impl Fn(Pseudonym) + Send + Sync + 'static {
    let told = Arc::downgrade(cards);
    move |person| {
        let judged = told.upgrade().map(|cards| cards.facts_changed(person, UnixMillis::now()));
        if let Some(Err(error)) = judged {
            tracing::error!(%error, "a card stays as it was");
        }
    }
}

fn from_dir(dir: &Path) -> Result<Vec<Arc<RuleSet>>, StateError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| StateError::File { path, source }
    };
    let mut sets = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed(dir))? {
        let path = entry.map_err(failed(dir))?.path();
        if path.extension().is_some_and(|extension| extension == "json") && sets.len() < SETS_MAX {
            let file = std::fs::File::open(&path).map_err(failed(&path))?;
            let mut json = Vec::new();
            let mut file = std::io::Read::take(file, SET_BYTES_MAX as u64 + 1);
            std::io::Read::read_to_end(&mut file, &mut json).map_err(failed(&path))?;
            sets.push(read(&json, &path)?);
        }
    }
    Ok(sets)
}

fn read(json: &[u8], path: &Path) -> Result<Arc<RuleSet>, StateError> {
    let wrong = |Wrong { at, detail }| StateError::File {
        path: path.to_owned(),
        source: std::io::Error::other(format!("{at}: {detail}")),
    };
    RuleSet::read(json).map(Arc::new).map_err(wrong)
}
