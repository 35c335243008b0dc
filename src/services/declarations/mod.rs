//! Health declarations (tờ khai y tế) and domestic movement declarations (khai báo di chuyển nội địa).
//!
//! What is asked is a form (`config/forms`); what was answered is kept under the declarer's pseudonym, each revision of it, until
//! its retention ends. The forms ask for no name, number or telephone. A dependant is told by a code of theirs, which is
//! verified as a scan's is, and kept as a pseudonym and what they are to the declarer.
//!
//! # A journey's code
//! A movement declaration is answered with an SG1 code that any gate scans as it scans every code: it stands for the person,
//! under the one pseudonym. Its cti is the declaration's ([`crate::verify::Holder::Sealed`]), so that to amend or withdraw
//! revokes that code and no other of the person's. It isn't kept: key, declaration and revision make the same text again.
//! A check asks the tables, which know at once; the revocations, which each gateway asks at a scan, follow once a
//! minute, since each change of them empties the caches of verified codes.

mod answer;
mod code;
mod form;
mod journey;
mod record;
mod tables;

use std::sync::Arc;

use fjall::OwnedWriteBatch;
use serde::Serialize;

use super::Host;
use super::capability::{Capability, Effect, Kind, State, StateError};
use super::log::EventLog;
use crate::config::Config;
use crate::journal::Event;
use crate::respond::{Cause, Refused};
use crate::scan::{DAY_MS, UnixMillis};
use code::Codes;
use form::Forms;
use record::{Answered, Change, Declared, Id, REVISIONS_MAX, Record};
use tables::Tables;

pub(super) use answer::answer;
pub(super) use tables::derive_again;

/// Declarations that one event removes: some milliseconds of the log's thread.
const REMOVED_MAX: usize = 1_000;

/// Events that one minute removes by: more than a minute of the throughput that this is made for, 5,000 a second.
const REMOVALS_MAX: usize = 400;

/// Declarations, their forms and their codes.
pub struct Declarations {
    tables: Tables,
    forms: Forms,
    codes: Codes,
    retention_ms: i64,
    per_day_max: usize,
}

#[derive(Serialize)]
struct Removed {
    removed: usize,
}

impl Declarations {
    /// Opens the tables and the forms.
    ///
    /// # Errors
    /// They can't be read.
    pub fn open(state: &State, config: &Config, host: &Arc<dyn Host>) -> Result<Self, StateError> {
        // What is compiled in is tested.
        let forms = Forms::open().map_err(|error| {
            tracing::error!(error = %error, "a form of this binary is damaged");
            StateError::Damaged { table: "forms" }
        })?;
        Ok(Self {
            tables: Tables::open(state)?,
            forms,
            codes: Codes::open(&config.gateway.data_dir, host),
            retention_ms: i64::from(config.declarations.retention_days) * DAY_MS,
            per_day_max: config.declarations.per_day_max,
        })
    }

    /// Once a minute: revokes the codes of what was amended or withdrawn, looks for another key, and removes what is past
    /// its retention.
    pub fn housekeeping(&self, host: &dyn Host, log: &EventLog, now: UnixMillis) {
        if let Err(error) = self.keep(host, log, now) {
            tracing::error!(error = %error, "declarations can't be looked after; tried again in a minute");
        }
    }

    fn keep(&self, host: &dyn Host, log: &EventLog, now: UnixMillis) -> anyhow::Result<()> {
        self.codes.keep(&self.tables, host, now)?;
        let before_ms = now.0.saturating_sub(self.retention_ms);
        for _ in 0..REMOVALS_MAX {
            if !self.tables.any_ended(before_ms)? {
                break;
            }
            let event = serde_json::to_vec(&Change::Expired { before_ms })?;
            if let Err(refused) = log.record_blocking(Kind::Declarations, event, now) {
                anyhow::bail!("{}", refused.detail);
            }
        }
        Ok(())
    }

    fn declare(
        &self,
        batch: &mut OwnedWriteBatch,
        (id, at): (Id, UnixMillis),
        declared: Declared,
        answered: Answered,
    ) -> Result<Effect, StateError> {
        if let Some(record) = self.tables.get(id)? {
            return Ok(
                if (record.declared.first, record.declared.subject) == (declared.first, declared.subject) {
                    Effect::done(&record)
                } else {
                    let detail = "this id was given to another declaration before";
                    Effect::Refused(Refused::new(Cause::Conflict, detail).field("/id"))
                },
            );
        }
        let since = UnixMillis(at.0.saturating_sub(DAY_MS));
        if self.tables.count_since(declared.declarer, since, self.per_day_max)? >= self.per_day_max {
            let detail = format!("a person may make {} declarations within 24 hours", self.per_day_max);
            let refused = Refused::new(Cause::RateLimited, detail).bound("declarations.per_day_max");
            return Ok(Effect::Refused(refused.limit(self.per_day_max as u64, None).retry_after(3600)));
        }
        let record = Record::new(declared, answered, at);
        self.tables.put(batch, id, &record, None);
        Ok(Effect::created(&record))
    }

    fn amend(
        &self,
        batch: &mut OwnedWriteBatch,
        (id, at): (Id, UnixMillis),
        revision: u16,
        answered: Answered,
    ) -> Result<Effect, StateError> {
        let refused = |cause, detail: &'static str, field| {
            Ok(Effect::Refused(Refused::new(cause, detail).field(field)))
        };
        let Some(record) = self.tables.get(id)? else {
            return refused(Cause::NotFound, "there is no such declaration", "id");
        };
        if record.withdrawn {
            return refused(Cause::Conflict, "it was withdrawn", "id");
        }
        if record.revision == revision.saturating_add(1) && record.answered == answered {
            // Sent again.
            return Ok(Effect::done(&record));
        }
        if record.revision != revision {
            return refused(Cause::Conflict, "it was amended since: this isn't its revision", "/revision");
        }
        if revision >= REVISIONS_MAX {
            let detail =
                format!("a declaration can have {REVISIONS_MAX} revisions; withdraw it for a new one");
            return Ok(Effect::Refused(Refused::new(Cause::Conflict, detail).field("/revision")));
        }
        let amended = record.amended(answered, at);
        self.tables.put(batch, id, &amended, Some(&record));
        Ok(Effect::done(&amended))
    }

    fn withdraw(&self, batch: &mut OwnedWriteBatch, id: Id, at: UnixMillis) -> Result<Effect, StateError> {
        let Some(record) = self.tables.get(id)? else {
            let refused = Refused::new(Cause::NotFound, "there is no such declaration").field("id");
            return Ok(Effect::Refused(refused));
        };
        if record.withdrawn {
            return Ok(Effect::done(&record));
        }
        let withdrawn = record.taken_back(at);
        self.tables.put(batch, id, &withdrawn, Some(&record));
        Ok(Effect::done(&withdrawn))
    }
}

impl Capability for Declarations {
    fn kind(&self) -> Kind {
        Kind::Declarations
    }

    fn apply(&self, event: &Event, batch: &mut OwnedWriteBatch) -> Result<Effect, StateError> {
        match serde_json::from_slice(&event.body) {
            Ok(Change::Declared { id, declared, answered }) => {
                self.declare(batch, (id, event.at), declared, answered)
            }
            Ok(Change::Amended { id, revision, answered }) => {
                self.amend(batch, (id, event.at), revision, answered)
            }
            Ok(Change::Withdrawn { id }) => self.withdraw(batch, id, event.at),
            Ok(Change::Expired { before_ms }) => {
                let removed = self.tables.remove_ended(batch, before_ms, REMOVED_MAX)?;
                Ok(Effect::done(&Removed { removed }))
            }
            Err(_) => {
                let refused = Refused::new(Cause::Malformed, "this version doesn't know such an event");
                Ok(Effect::Refused(refused.field("body")))
            }
        }
    }
}

#[cfg(test)]
mod tests;
