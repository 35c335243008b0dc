//! Contact tracing: cases that two persons stand for, the contacts of each, and their notifications.
//!
//! A case is asked for by an officer and approved by another one; a positive test makes one that two must approve. Only
//! then, and as long as the approval holds, whoever asked may read who was together with the case's person, or at its
//! place, where and how long ([`search`], by the rules of [`stays`]). Each of these is in the audit log before it
//! happens. Contacts are pseudonyms; the one list that is made for turning them into people is sealed to the
//! population register's key (`sealed`), which has the numbers. Nothing here can name a person.
//!
//! A list is made when it is asked for, out of the store as it is then, and held for a minute for its pages.

mod change;
mod contacts;
mod http;
mod sealed;
pub mod search;
pub mod stays;
mod tables;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fjall::OwnedWriteBatch;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use self::change::{Change, Key};
use self::sealed::RegisterKey;
use self::search::{Bounds, Found, Search, SearchError};
use self::stays::{Rules, Stay};
use self::tables::{Case, Tables};
use super::Host;
use super::capability::{Capability, Effect, Kind, State, StateError};
use super::risk_map::Day;
use crate::config;
use crate::journal::Event;
use crate::respond::{Cause, Refused};
use crate::scan::{Pseudonym, UnixMillis};

pub(super) use self::http::answer;
pub(super) use self::tables::derive_again;

/// Searches at once: each may hold `tracing.rows_max` rows and keep a core busy.
const SEARCHES: usize = 2;

/// How long a search waits for its turn.
const TURN: Duration = Duration::from_secs(10);

/// How long a list is held for its pages, and how many are.
const HELD_MS: i64 = 60_000;
const HELD_MAX: usize = 4;

/// A case of a person that the map doesn't show as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unmarked {
    pub(super) case: [u8; 16],
    pub(super) person: Pseudonym,
    /// Its first and last day.
    pub(super) from: Day,
    pub(super) to: Day,
    /// When it was approved, or withdrawn.
    pub(super) since: UnixMillis,
    /// The last day that the map shows already.
    pub(super) through: Option<Day>,
    pub(super) withdrawn: bool,
}

impl Unmarked {
    /// The event that the map shows it up to this day, or, if it is withdrawn, not any more.
    pub(super) fn marked(&self, through: Day) -> (Kind, Vec<u8>) {
        let change = Change::Marked { case: Key(self.case), through, withdrawn: self.withdrawn };
        (Kind::Tracing, change.body())
    }
}

struct Held {
    case: Key,
    at: UnixMillis,
    found: Arc<Found>,
}

/// The capability.
pub struct Tracing {
    tables: Tables,
    rules: Rules,
    bounds: Bounds,
    cases_per_h: u32,
    approval_ms: i64,
    retain_ms: i64,
    register: Option<RegisterKey>,
    turns: Semaphore,
    held: Mutex<VecDeque<Held>>,
}

impl Tracing {
    /// Opens the tables and reads the population register's key.
    ///
    /// # Errors
    /// They can't be opened, or it can't be read.
    pub fn open(state: &State, config: &config::Tracing) -> Result<Self, StateError> {
        let ms = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000);
        Ok(Self {
            tables: Tables::open(state)?,
            rules: Rules {
                missing_ms: ms(config.missing_exit_max_s),
                stay_ms: ms(config.stay_max_s),
                overlap_ms: ms(config.overlap_min_s),
            },
            bounds: Bounds { contacts_max: config.contacts_max, rows_max: config.rows_max },
            cases_per_h: config.cases_per_h,
            approval_ms: ms(config.approval_s),
            retain_ms: ms(config.retain_s),
            register: config.population_key_file.as_deref().map(RegisterKey::load).transpose()?,
            turns: Semaphore::new(SEARCHES),
            held: Mutex::new(VecDeque::new()),
        })
    }

    /// Makes the case of a positive test, which waits until two officers have approved it; done again, the same case.
    /// For the events of whoever learns of tests: the case is there if and only if the batch is committed, with the
    /// event's own time as `at`.
    ///
    /// # Errors
    /// The tables can't be read.
    pub fn propose(
        &self,
        person: Pseudonym,
        taken_at: UnixMillis,
        at: UnixMillis,
        batch: &mut OwnedWriteBatch,
    ) -> Result<(), StateError> {
        self.tables.propose(person, taken_at, at, batch).map(|_| ())
    }

    /// The event that does the same, for [`EventLog::record`](super::log::EventLog::record) under [`Kind::Tracing`].
    pub fn proposal(person: Pseudonym, taken_at: UnixMillis) -> Vec<u8> {
        Change::Propose { person: Key(person.0), taken_at: taken_at.0 }.body()
    }

    /// Takes the case of a positive test back, and what the map shows of it; for the same events, when such a test turns
    /// out not to have been one. Proposed again, it stands again.
    ///
    /// # Errors
    /// The tables can't be read.
    pub fn withdraw(
        &self,
        person: Pseudonym,
        taken_at: UnixMillis,
        at: UnixMillis,
        batch: &mut OwnedWriteBatch,
    ) -> Result<(), StateError> {
        self.tables.withdraw(person, taken_at, at, batch)
    }

    /// The cases that the map doesn't show as it should: those that were approved, as long as they have days to come, and
    /// those that were withdrawn. Some at a time, behind the one given.
    ///
    /// # Errors
    /// The tables can't be read.
    pub(super) fn unmarked(&self, after: Option<[u8; 16]>) -> Result<Vec<Unmarked>, StateError> {
        self.tables.unmarked(after)
    }

    /// Where a person was, by the rules for stays. Blocks the thread where the store is the embedded one.
    ///
    /// # Errors
    /// Check-ins or links can't be read.
    pub(super) async fn stays(
        &self,
        host: &Arc<dyn Host>,
        person: Pseudonym,
        (from, to): (UnixMillis, UnixMillis),
    ) -> Result<Vec<Stay>, SearchError> {
        let citizen = host.links().citizen_of(person);
        Search::new(host.store(), host.links(), self.rules, self.bounds).stays_of(citizen, from, to).await
    }

    /// A case's contacts: those of a moment ago, or else searched for now.
    async fn found(
        self: &Arc<Self>,
        host: &Arc<dyn Host>,
        case: Key,
        record: &Case,
    ) -> Result<Arc<Found>, Refused> {
        let now = UnixMillis::now();
        let is_fresh = |held: &Held| (0..HELD_MS).contains(&(now.0 - held.at.0));
        if let Some(held) = self.held.lock().iter().find(|held| held.case == case && is_fresh(held)) {
            return Ok(Arc::clone(&held.found));
        }
        let busy = || {
            let detail = "other cases are being searched for, as many as may be at once";
            Refused::new(Cause::Unavailable, detail).bound("tracing.searches").limit(SEARCHES as u64, None)
        };
        let turn = tokio::time::timeout(TURN, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(busy()) };
        let (tracing, host, question) = (Arc::clone(self), Arc::clone(host), record.asked.question());
        let runtime = tokio::runtime::Handle::current();
        // The embedded store reads by blocking.
        let searched = tokio::task::spawn_blocking(move || {
            let search = Search::new(host.store(), host.links(), tracing.rules, tracing.bounds);
            runtime.block_on(search.contacts(&question))
        });
        let found = match searched.await {
            Ok(Ok(found)) => Arc::new(found),
            Ok(Err(error)) => {
                ::tracing::error!(error = %anyhow::Error::from(error), "a case's contacts can't be searched for");
                let detail = "check-ins or links can't be read now";
                return Err(Refused::new(Cause::Unavailable, detail).bound("store.reads"));
            }
            Err(_) => return Err(Refused::new(Cause::Unavailable, "the search failed").bound("store.reads")),
        };
        let mut held = self.held.lock();
        held.retain(|held| held.case != case && is_fresh(held));
        if held.len() >= HELD_MAX {
            held.pop_front();
        }
        held.push_back(Held { case, at: now, found: Arc::clone(&found) });
        Ok(found)
    }
}

impl Capability for Tracing {
    fn kind(&self) -> Kind {
        Kind::Tracing
    }

    fn apply(&self, event: &Event, batch: &mut OwnedWriteBatch) -> Result<Effect, StateError> {
        self.tables.apply(event, batch)
    }

    fn due(&self, now: UnixMillis) -> Result<Option<Vec<u8>>, StateError> {
        let before = now.0.saturating_sub(self.retain_ms);
        let oldest = self.tables.oldest()?;
        Ok(oldest.filter(|oldest| oldest.0 < before).map(|_| Change::Expire { before }.body()))
    }
}

#[cfg(test)]
mod tests;
