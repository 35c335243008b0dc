//! What the check-ins are for: the card, declarations, tracing, the map, feedback, and the registers behind them.
//!
//! One folder a capability. They have a listener of their own (`services.listen`; without it none of this runs), a log
//! of their own on the journal's format, and tables that are made from that log. They take nothing from a scan's path
//! but the look-up of a card in memory where a place asks for it.
//!
//! # Path of a change
//!
//! ```text
//! socket ─ listener ─ ask (who, what) ─ capability: is it well formed? ─ log (fsync) ─ capability: apply ─ answer
//! ```
//!
//! A capability checks the shape of what it is asked and hands it to [`log::EventLog::record`] as an event. One thread
//! reads the log behind the fsync and has each event applied by its capability, in the log's order: what an event does
//! is decided there and nowhere else, by the event and by the tables as all events before it left them. **An answer
//! leaves only after that.** Tables and the place in the log up to which they are made are written together, so that
//! each event counts once, whenever the process ends.
//!
//! Reads go to the tables, or to the store of check-ins.

pub mod ask;
pub mod capability;
pub mod card;
mod counters;
pub mod declarations;
pub mod feedback;
pub mod health;
mod listener;
pub mod log;
pub mod places;
pub mod registers;
pub mod rename;
pub mod risk_map;
pub mod tracing;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;

use crate::audit::AuditLog;
use crate::authenticate::{AdminAuth, Authenticator};
use crate::config::Config;
use crate::identity::Identity;
use crate::identity::links::Links;
use crate::listen::tls::Tls;
use crate::listen::{self, ListenError};
use crate::observe::sampled::ServicesSample;
use crate::scan::UnixMillis;
use crate::store::Store;
use crate::verify::KeyStore;
use capability::{Capabilities, State, StateError};
use counters::Counters;
use health::fact::RegisterId;
use log::{EventLog, LogError};

/// What the services are lent by the gateway that they run in.
pub trait Host: Send + Sync {
    /// Makes pseudonyms.
    fn identity(&self) -> &Identity;
    /// Whose pseudonyms are one person's.
    fn links(&self) -> &Links;
    /// Keys and revocations.
    fn keys(&self) -> &KeyStore;
    /// Check-ins.
    fn store(&self) -> &Arc<Store>;
    /// Device tokens: apps and gates.
    fn authenticator(&self) -> &Authenticator;
    /// Named tokens: officers.
    fn admin_auth(&self) -> &AdminAuth;
    /// What concerns persons is in here first.
    fn audit(&self) -> &AuditLog;
    /// The widest deduplication window, in seconds: how far apart two rows of one check-in may be.
    fn window_s_max(&self) -> u16;
    /// When the oldest check-in arrived that isn't in the store yet; none if all are.
    fn oldest_unstored(&self) -> Option<UnixMillis>;
}

/// Why the services don't start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServicesError {
    /// The log can't be opened, or not be caught up with.
    #[error("cannot open the services' log")]
    Log(#[from] LogError),
    /// The tables can't be opened.
    #[error("cannot open the services' tables")]
    State(#[from] StateError),
    /// The listener can't start.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Log or tables can't be written anew under other pseudonyms.
    #[error("cannot write the services' log anew")]
    Rewrite(#[source] std::io::Error),
    /// The registers can't be followed as the configuration says.
    #[error(transparent)]
    Registers(#[from] registers::SetupError),
}

/// What all of a listener's cores share.
pub struct Services {
    /// What the gateway lends.
    pub host: Arc<dyn Host>,
    /// What is remembered.
    pub log: EventLog,
    /// One of each.
    pub capabilities: Capabilities,
    registers: registers::Sources,
    followers: Mutex<Option<registers::Followers>>,
    counters: Counters,
    body_bytes_max: usize,
    /// The minute in which what is past its time was last looked for.
    expired_in_minute: AtomicI64,
}

impl Services {
    /// Opens the tables, brings them up to the log's end, and loads what is held in memory.
    ///
    /// # Errors
    /// Tables or log can't be opened.
    pub fn open(config: &Config, host: Arc<dyn Host>) -> Result<Arc<Self>, ServicesError> {
        let registers = registers::Sources::open(&config.registers)?;
        let dir = config.gateway.data_dir.join("services");
        let state = State::open(&dir.join("tables"))?;
        let capabilities = Capabilities::open(&state, config, &host)?;
        let log = EventLog::open(&dir.join("log"), &log_settings(config), &state, capabilities.all())?;
        capabilities.load()?;
        let services = Arc::new(Self {
            host,
            log,
            capabilities,
            registers,
            followers: Mutex::new(None),
            counters: Counters::default(),
            body_bytes_max: config.services.body_bytes_max,
            expired_in_minute: AtomicI64::new(i64::MIN),
        });
        *services.followers.lock() = registers::Followers::start(&services)?;
        Ok(services)
    }

    /// Starts the listener.
    ///
    /// # Errors
    /// The address can't be bound.
    pub fn listen(
        self: &Arc<Self>,
        settings: &listen::Settings,
        tls: Option<&Tls>,
    ) -> Result<listen::Handle, ListenError> {
        let services = Arc::clone(self);
        let service = move |_: usize| listener::Listener(Arc::clone(&services));
        listen::run(settings, tls, service, listen::Drain::new())
    }

    /// Once a second; once a minute of that, what is past its time goes, and days that are over come on the map.
    pub fn housekeeping(self: &Arc<Self>, now: UnixMillis) {
        let minute = now.0.div_euclid(60_000);
        if self.expired_in_minute.swap(minute, Ordering::Relaxed) != minute {
            for capability in self.capabilities.all() {
                match capability.due(now) {
                    Ok(Some(body)) => self.log.record_later(capability.kind(), body, now),
                    Ok(None) => {}
                    Err(error) => {
                        let error = anyhow::Error::from(error);
                        ::tracing::error!(%error, "the services' tables can't be read");
                    }
                }
            }
            self.say_how_old_facts_are(now);
            self.capabilities.declarations.housekeeping(&*self.host, &self.log, now);
            self.capabilities.feedback.expire(&self.log, now);
            self.log.expire(now);
            risk_map::publish_due(self, now);
        }
    }

    /// The card's facts are as old as what the slower of vaccinations and tests told last.
    fn say_how_old_facts_are(&self, now: UnixMillis) {
        let age = |register| self.capabilities.registers.age(register, now);
        if let (Some(vaccinations), Some(tests)) = (age(RegisterId::Vaccination), age(RegisterId::Testing)) {
            let age_ms = i64::try_from(vaccinations.max(tests).as_millis()).unwrap_or(i64::MAX);
            self.capabilities.card.cards().told_until(UnixMillis(now.0.saturating_sub(age_ms)));
        }
    }

    /// What metrics tell of them.
    pub fn sample(&self) -> ServicesSample {
        let now = UnixMillis::now();
        let age = |register| self.capabilities.registers.age(register, now).map(|age| age.as_secs());
        ServicesSample {
            requests: self.counters.read(),
            events: self.log.applied_by_kind(),
            log_bytes: self.log.stats().bytes,
            works: self.is_sound(),
            register_age_s: RegisterId::ALL
                .iter()
                .filter_map(|register| Some((register.name(), age(*register)?)))
                .collect(),
        }
    }

    /// Whether nothing is broken that only another start can mend.
    pub fn is_sound(&self) -> bool {
        self.log.is_sound()
    }

    /// Applies what the log holds, and ends. Nothing is recorded from then on.
    pub fn close(&self) {
        drop(self.followers.lock().take());
        self.capabilities.risk_map.stop();
        self.log.close();
    }
}

/// Where the services' log of a data directory is.
pub fn log_dir(data_dir: &Path) -> std::path::PathBuf {
    data_dir.join("services").join("log")
}

fn log_settings(config: &Config) -> log::Settings {
    let retain_ms = i64::try_from(config.services.log_retain_s).unwrap_or(i64::MAX).saturating_mul(1000);
    log::Settings {
        segment_bytes: config.journal.segment_bytes,
        bytes_max: config.journal.bytes_max,
        retain_ms,
    }
}
