//! The four national registers: population, insurance, vaccination and testing.
//!
//! # Path of a change
//!
//! ```text
//! register ─┬─ asked for changes (follow, client) ─┬─ page: is it as the contract has it? ─ intake ─ log ─ apply
//!           └─ pushes them, signed (answer) ───────┘                                  └─ links (population, insurance)
//! ```
//!
//! A page is taken whole or, where the process ends in between, again from its beginning: the events of a page carry
//! its facts, and the last of them its cursor as well, which are applied together. Whatever comes twice, in another order or by the
//! other way counts once, by record and version.
//!
//! What is known stays known while a register is away. [`Registers::age`] says how old it may be.

mod answer;
mod breaker;
mod client;
mod follow;
mod intake;
mod page;
pub mod simulator;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fjall::{Keyspace, OwnedWriteBatch};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(super) use answer::{answer, is_push};
pub use client::SetupError;
pub(super) use follow::{Followers, Sources};

use super::capability::{Capability, Effect, Kind, State, StateError};
use super::health::fact::RegisterId;
use crate::journal::Event;
use crate::respond::{Cause, Refused};
use crate::scan::UnixMillis;

/// How many deliveries before the newest are told apart: pushes may overtake each other by as many.
const WINDOW: u64 = 64;

/// How far each register's changes are taken in.
pub struct Registers {
    /// Who keeps the facts; applies them in the events of a page.
    facts: Arc<dyn Capability>,
    /// Register → [`Feed`].
    feeds: Keyspace,
    /// Register and record → version, of those that became links.
    linked: Keyspace,
    live: Mutex<BTreeMap<RegisterId, Live>>,
}

/// How far a register's feed is taken in, as the table has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Feed {
    cursor: String,
    behind: u64,
    /// When the feed was last read to its end.
    current_ms: Option<i64>,
    accepted: u64,
    repeated: u64,
    refused: u64,
    /// The newest delivery, and which of the [`WINDOW`] up to it have come: bit 0 is the newest.
    delivery: u64,
    deliveries: u64,
}

/// The same as memory has it, and what the log needs not know.
#[derive(Debug, Clone, Default)]
struct Live {
    feed: Feed,
    current_at: Option<UnixMillis>,
    succeeded_at: Option<UnixMillis>,
    failed: Option<(UnixMillis, &'static str)>,
}

/// What the log holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Told {
    /// Changes of a register, each record once.
    Changes {
        register: RegisterId,
        /// Bodies of events of who keeps the facts.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        facts: Vec<Value>,
        /// Records and versions that are in force as links.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        links: Vec<(String, u64)>,
        /// How many were refused.
        #[serde(default)]
        refused: u64,
        /// With the last ones of a page, how far they lead.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        end: Option<End>,
    },
}

/// The end of a page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct End {
    after: String,
    cursor: String,
    behind: u64,
    /// The number of the delivery, where it was pushed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delivery: Option<u64>,
}

/// What became of an event's changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Tally {
    accepted: u64,
    repeated: u64,
    conflicting: u64,
}

/// Whether a delivery is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivery {
    New,
    Known,
    TooOld,
}

impl Registers {
    /// Opens the tables.
    ///
    /// # Errors
    /// They can't be opened.
    pub fn open(state: &State, facts: Arc<dyn Capability>) -> Result<Self, StateError> {
        let (feeds, linked) = (state.table("registers1")?, state.table("linked1")?);
        Ok(Self { facts, feeds, linked, live: Mutex::new(BTreeMap::new()) })
    }

    /// How old what is known from a register may be: the time since its feed was last read to its end. None where that
    /// never happened.
    pub fn age(&self, register: RegisterId, now: UnixMillis) -> Option<Duration> {
        let at = self.live(register).current_at?;
        Some(Duration::from_millis(u64::try_from(now.0 - at.0).unwrap_or(0)))
    }

    fn live(&self, register: RegisterId) -> Live {
        self.live.lock().get(&register).cloned().unwrap_or_default()
    }

    /// The register has answered: with nothing new, or with what is recorded by now.
    fn has_answered(&self, register: RegisterId, behind: u64, now: UnixMillis) {
        let mut live = self.live.lock();
        let live = live.entry(register).or_default();
        (live.succeeded_at, live.failed) = (Some(now), None);
        if behind == 0 {
            live.current_at = live.current_at.max(Some(now));
        }
    }

    fn has_failed(&self, register: RegisterId, why: &'static str, now: UnixMillis) {
        self.live.lock().entry(register).or_default().failed = Some((now, why));
    }

    fn feed(&self, register: RegisterId) -> Result<Feed, StateError> {
        let Some(value) = self.feeds.get(register.name())? else { return Ok(Feed::default()) };
        serde_json::from_slice(&value).map_err(|_| StateError::Damaged { table: "registers1" })
    }

    /// The version of a record that is in force as a link.
    fn linked(&self, register: RegisterId, record: &str) -> Result<Option<u64>, StateError> {
        let Some(value) = self.linked.get(linked_key(register, record))? else { return Ok(None) };
        let version = <[u8; 8]>::try_from(&*value).map_err(|_| StateError::Damaged { table: "linked1" })?;
        Ok(Some(u64::from_be_bytes(version)))
    }

    /// Brings memory to what the table has.
    fn refresh(&self, register: RegisterId) -> Result<(), StateError> {
        let feed = self.feed(register)?;
        let mut live = self.live.lock();
        let live = live.entry(register).or_default();
        live.current_at = live.current_at.max(feed.current_ms.map(UnixMillis));
        live.feed = feed;
        Ok(())
    }
}

impl Capability for Registers {
    fn kind(&self) -> Kind {
        Kind::Registers
    }

    fn apply(&self, event: &Event, batch: &mut OwnedWriteBatch) -> Result<Effect, StateError> {
        let Ok(Told::Changes { register, facts, links, refused, end }) = serde_json::from_slice(&event.body)
        else {
            return Ok(Effect::Refused(Refused::new(Cause::Invalid, "the event means nothing here")));
        };
        let mut feed = self.feed(register)?;
        let mut tally = Tally::default();
        for fact in &facts {
            match self.facts.apply(&self.of_facts(event, fact), batch)? {
                Effect::Created(_) => tally.accepted += 1,
                Effect::Done(_) => tally.repeated += 1,
                Effect::Refused(_) => tally.conflicting += 1,
            }
        }
        for (record, version) in &links {
            if self.linked(register, record)?.is_none_or(|known| known < *version) {
                batch.insert(&self.linked, linked_key(register, record), version.to_be_bytes());
                tally.accepted += 1;
            } else {
                tally.repeated += 1;
            }
        }
        feed.accepted += tally.accepted;
        feed.repeated += tally.repeated;
        feed.refused += refused + tally.conflicting;
        if let Some(end) = &end {
            feed.reach(end, event.at);
        }
        // Strings and numbers always serialize.
        batch.insert(&self.feeds, register.name(), serde_json::to_vec(&feed).unwrap_or_default());
        Ok(Effect::done(&tally))
    }

    fn applied(&self, event: &Event) {
        let Ok(Told::Changes { register, facts, .. }) = serde_json::from_slice(&event.body) else { return };
        for fact in &facts {
            self.facts.applied(&self.of_facts(event, fact));
        }
        // A disk that fails here fails the next event, and with it the log.
        if let Err(error) = self.refresh(register) {
            tracing::error!(error = %anyhow::Error::from(error), "a register's state can't be read");
        }
    }

    fn load(&self) -> Result<(), StateError> {
        RegisterId::ALL.iter().try_for_each(|register| self.refresh(*register))
    }
}

impl Registers {
    /// The event that one fact of a page is to who keeps the facts.
    fn of_facts(&self, event: &Event, fact: &Value) -> Event {
        let body = serde_json::to_vec(fact).unwrap_or_default();
        Event { id: event.id, at: event.at, capability: self.facts.kind().code(), body }
    }
}

impl Feed {
    /// Goes to a page's end, if it begins where the feed is.
    fn reach(&mut self, end: &End, at: UnixMillis) {
        if end.after == self.cursor {
            end.cursor.clone_into(&mut self.cursor);
            self.behind = end.behind;
            if end.behind == 0 {
                self.current_ms = Some(at.0);
            }
        }
        let Some(number) = end.delivery else { return };
        let shifted =
            |bits: u64, by: u64| u32::try_from(by).ok().and_then(|by| bits.checked_shl(by)).unwrap_or(0);
        if let Some(ahead) = number.checked_sub(self.delivery) {
            self.deliveries = shifted(self.deliveries, ahead) | 1;
            self.delivery = number;
        } else {
            self.deliveries |= shifted(1, self.delivery - number);
        }
    }

    /// Whether a delivery has come before: what the anti-replay window of IPsec does (RFC 4303, section 3.4.3).
    fn knows(&self, number: u64) -> Delivery {
        match self.delivery.checked_sub(number) {
            Some(back) if back >= WINDOW => Delivery::TooOld,
            Some(back) if self.deliveries >> back & 1 == 1 => Delivery::Known,
            _ => Delivery::New,
        }
    }
}

fn linked_key(register: RegisterId, record: &str) -> Vec<u8> {
    [&[register as u8], record.as_bytes()].concat()
}

#[cfg(test)]
mod tests;
