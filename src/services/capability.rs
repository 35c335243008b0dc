//! What all capabilities have in common: events of a kind, and tables that those events make.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};
use hyper::Response;
use serde::Serialize;

use super::Host;
use super::card::Card;
use super::declarations::Declarations;
use super::feedback::Feedback;
use super::health::Health;
use super::places::Places;
use super::registers::Registers;
use super::risk_map::RiskMap;
use super::tracing::Tracing;
use crate::config::Config;
use crate::journal::Event;
use crate::respond::{self, Refused};
use crate::scan::UnixMillis;

/// Whose an event is. The number stands in the log and never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The four national registers and their feeds.
    Registers = 1,
    /// Vaccinations and tests.
    Health = 2,
    /// The rules of the card.
    Card = 3,
    /// Health and movement declarations.
    Declarations = 4,
    /// Contact tracing.
    Tracing = 5,
    /// The risk map.
    RiskMap = 6,
    /// Feedback.
    Feedback = 7,
    /// The directory of places.
    Places = 8,
}

impl Kind {
    /// Every kind.
    pub const ALL: &[Self] = &[
        Self::Registers,
        Self::Health,
        Self::Card,
        Self::Declarations,
        Self::Tracing,
        Self::RiskMap,
        Self::Feedback,
        Self::Places,
    ];

    /// The number in the log.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Its name in metrics, the same as requests have.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Registers => "registers",
            Self::Health => "health",
            Self::Card => "card",
            Self::Declarations => "declarations",
            Self::Tracing => "tracing",
            Self::RiskMap => "risk_map",
            Self::Feedback => "feedback",
            Self::Places => "places",
        }
    }

    /// The kind with this number.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.code() == code)
    }
}

/// What an event did, for whoever waits for it: JSON for the answer's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// It is done, and something new is there.
    Created(Vec<u8>),
    /// It is done, or was before.
    Done(Vec<u8>),
    /// The tables, as all events before left them, don't allow it.
    Refused(Refused),
}

impl Effect {
    /// Something new, described.
    pub fn created(body: &impl Serialize) -> Self {
        Self::Created(to_json(body))
    }

    /// Done, described.
    pub fn done(body: &impl Serialize) -> Self {
        Self::Done(to_json(body))
    }
}

impl From<Effect> for Response<Bytes> {
    fn from(effect: Effect) -> Self {
        match effect {
            Effect::Created(body) => respond::created_json(body),
            Effect::Done(body) => respond::ok(respond::JSON, body),
            Effect::Refused(refused) => respond::refused(&refused),
        }
    }
}

fn to_json(body: &impl Serialize) -> Vec<u8> {
    // Structs of strings and numbers always serialize.
    let mut json = serde_json::to_vec(body).unwrap_or_default();
    json.push(b'\n');
    json
}

/// One of the services.
pub trait Capability: Send + Sync {
    /// Whose events it applies.
    fn kind(&self) -> Kind;

    /// Does what an event says: puts what it changes into `batch`, which is committed together with the place in the
    /// log. Deterministic, by the event and the tables alone: the time is the event's, and nothing outside is asked.
    ///
    /// # Errors
    /// The tables can't be read. An event that means nothing is no error but [`Effect::Refused`].
    fn apply(&self, event: &Event, batch: &mut OwnedWriteBatch) -> Result<Effect, StateError>;

    /// An event's changes are in the tables: for what is held in memory beside them.
    fn applied(&self, _event: &Event) {}

    /// An event that is due by the time alone, such as that of letting go of what is past its retention; asked once a
    /// minute.
    ///
    /// # Errors
    /// The tables can't be read.
    fn due(&self, _now: UnixMillis) -> Result<Option<Vec<u8>>, StateError> {
        Ok(None)
    }

    /// Fills what is held in memory from the tables, before anybody can ask.
    ///
    /// # Errors
    /// The tables can't be read.
    fn load(&self) -> Result<(), StateError> {
        Ok(())
    }
}

/// One of each capability.
pub struct Capabilities {
    /// Health and movement declarations.
    pub declarations: Arc<Declarations>,
    /// The directory of places.
    pub places: Arc<Places>,
    /// Vaccinations, tests and recoveries.
    pub health: Arc<Health>,
    /// Feedback.
    pub feedback: Arc<Feedback>,
    /// The national registers' feeds.
    pub registers: Arc<Registers>,
    /// Contact tracing.
    pub tracing: Arc<Tracing>,
    /// The risk map.
    pub risk_map: Arc<RiskMap>,
    /// The card.
    pub card: Arc<Card>,
}

impl Capabilities {
    /// Opens the tables of each.
    ///
    /// # Errors
    /// Tables can't be opened.
    pub fn open(state: &State, config: &Config, host: &Arc<dyn Host>) -> Result<Self, StateError> {
        let health = Arc::new(Health::open(state, host)?);
        let places = Arc::new(Places::open(state, config.places.max)?);
        let tracing = Arc::new(Tracing::open(state, &config.tracing)?);
        let proposes = Arc::clone(&tracing);
        health.on_positive(move |test, batch| {
            if test.stands {
                proposes.propose(test.person, test.taken_at, test.at, batch)
            } else {
                proposes.withdraw(test.person, test.taken_at, test.at, batch)
            }
        });
        let card =
            Arc::new(Card::open(state, config.card.rules_dir.as_deref(), &health, &places, host.links())?);
        Ok(Self {
            card,
            declarations: Arc::new(Declarations::open(state, config, host)?),
            registers: Arc::new(Registers::open(state, Arc::clone(&health) as _)?),
            health,
            feedback: Feedback::open(state, config)?,
            tracing,
            risk_map: Arc::new(RiskMap::open(state, config, Arc::clone(&places))?),
            places,
        })
    }

    /// Each of them, for the log.
    pub fn all(&self) -> Vec<Arc<dyn Capability>> {
        vec![
            Arc::clone(&self.declarations) as _,
            Arc::clone(&self.places) as _,
            Arc::clone(&self.health) as _,
            Arc::clone(&self.feedback) as _,
            Arc::clone(&self.registers) as _,
            Arc::clone(&self.risk_map) as _,
            Arc::clone(&self.tracing) as _,
            Arc::clone(&self.card) as _,
        ]
    }

    /// Fills what each holds in memory.
    ///
    /// # Errors
    /// Tables can't be read.
    pub fn load(&self) -> Result<(), StateError> {
        self.all().iter().try_for_each(|capability| capability.load())
    }
}

/// Why the tables can't be used. Nothing in it quotes what is stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The directory can't be opened.
    #[error("can't open the services' tables in {}", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: fjall::Error,
    },
    /// Reading or writing failed. A failed write lasts until the next start.
    #[error("the services' files failed")]
    Disk(#[from] fjall::Error),
    /// Something stored has an unknown shape.
    #[error("an entry of {table} is damaged")]
    Damaged {
        /// The table.
        table: &'static str,
    },
    /// A table that this version doesn't know.
    #[error("the services' tables hold {table}, which this version doesn't know")]
    Unknown {
        /// The table.
        table: String,
    },
    /// A file besides the tables failed.
    #[error("can't use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The tables of all capabilities: one LSM tree (fjall) each, one write-ahead log, so that whatever is written in one
/// batch is there after a crash wholly or not at all.
#[derive(Clone)]
pub struct State {
    db: Database,
}

const CACHE_BYTES: u64 = 64 << 20;
const WAL_BYTES_MAX: u64 = 256 << 20;
const MEMTABLE_BYTES: u64 = 16 << 20;

impl State {
    /// Opens or creates the tables in `dir`.
    ///
    /// # Errors
    /// The directory can't be opened.
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        let open = || {
            Database::builder(dir)
                .cache_size(CACHE_BYTES)
                .max_journaling_size(WAL_BYTES_MAX)
                .worker_threads(1)
                .open()
        };
        match open() {
            Ok(db) => Ok(Self { db }),
            Err(source) => Err(StateError::Open { path: dir.to_owned(), source }),
        }
    }

    /// Opens or creates a table. The number at the end of its name is its format's: a new layout takes the next one.
    ///
    /// # Errors
    /// It can't be opened.
    pub fn table(&self, name: &str) -> Result<Keyspace, StateError> {
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        Ok(self.db.keyspace(name, options)?)
    }

    /// The tables that there are.
    pub fn names(&self) -> Vec<String> {
        self.db.list_keyspace_names().iter().map(ToString::to_string).collect()
    }

    /// A batch of changes, all or none.
    pub fn batch(&self) -> OwnedWriteBatch {
        self.db.batch()
    }

    /// Fsyncs everything written.
    ///
    /// # Errors
    /// The disk failed.
    pub fn persist(&self) -> Result<(), StateError> {
        Ok(self.db.persist(PersistMode::SyncAll)?)
    }
}
