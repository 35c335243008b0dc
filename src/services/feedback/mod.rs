//! Feedback: what people say of codes, places and what is known of them, and what they are answered.
//!
//! Anybody may send it; who signs it with an app's token may send it when too much waits that nobody signed. The answer
//! to it holds a **receipt**, 128 random bits of which only a hash is kept: whoever has it reads how far the feedback
//! has come, and the answer. Officers work through the queue, in the states of [`item::State`].
//!
//! The text is kept as it is written, since it is what the sender wants read; where nobody signed it, what looks like a
//! person's number is masked before ([`item::masked`]). Nothing of it is ever logged.

mod album;
mod event;
mod http;
pub mod item;
mod limits;
mod photo;
mod tables;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::{self, SystemRandom};
use fjall::OwnedWriteBatch;
use tokio::sync::Semaphore;

use super::capability::{Capability, Effect, Kind, State, StateError};
use super::log::EventLog;
use crate::config::Config;
use crate::journal::Event;
use crate::scan::{DAY_MS, UnixMillis};
use album::Album;
use event::Told;
use limits::Limits;
use tables::Store;

pub use http::answer;

/// How long a photo may wait for the feedback that it belongs to.
const UNUSED_MS: i64 = 3_600_000;

/// Photos decoded at once, some 110 MB each at the worst.
const DECODED_AT_ONCE: usize = 2;

/// Feedback, its photos and its limits.
pub struct Feedback {
    tables: Store,
    album: Album,
    limits: Limits,
    decoders: Arc<Semaphore>,
    /// Of this process alone: it makes hashes of network addresses that nobody can undo later.
    origins: hmac::Key,
    photo_bytes_max: usize,
    anonymous_open_max: u64,
    retention_ms: i64,
    /// When files were last looked through that nothing names.
    swept_in_hour: AtomicI64,
}

impl Feedback {
    /// Opens tables and photos.
    ///
    /// # Errors
    /// They can't be opened.
    pub fn open(state: &State, config: &Config) -> Result<Arc<Self>, StateError> {
        let settings = &config.feedback;
        let photos = config.gateway.data_dir.join("services").join("photos");
        let generated = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        let no_random = |_| StateError::File {
            path: "/dev/urandom".into(),
            source: std::io::Error::other("no random numbers"),
        };
        Ok(Arc::new(Self {
            tables: Store::open(state)?,
            album: Album::open(&photos, settings.photos_bytes_max)?,
            limits: Limits::new(settings.address_per_h, settings.person_per_h),
            decoders: Arc::new(Semaphore::new(DECODED_AT_ONCE)),
            origins: generated.map_err(no_random)?,
            photo_bytes_max: settings.photo_bytes_max,
            anonymous_open_max: settings.anonymous_open_max,
            retention_ms: i64::from(settings.retention_days) * DAY_MS,
            swept_in_hour: AtomicI64::new(i64::MIN),
        }))
    }

    /// `feedback.photo_bytes_max`
    pub const fn photo_bytes_max(&self) -> usize {
        self.photo_bytes_max
    }

    /// Lets go of feedback and photos whose time is over. Once a minute; blocks.
    pub fn expire(&self, log: &EventLog, now: UnixMillis) {
        if let Err(error) = self.try_expire(log, now) {
            tracing::error!(error = %anyhow::Error::from(error), "feedback can't be let go of");
        }
    }

    fn try_expire(&self, log: &EventLog, now: UnixMillis) -> Result<(), StateError> {
        let unused_before = now.0.saturating_sub(UNUSED_MS);
        let unchanged_before = now.0.saturating_sub(self.retention_ms);
        let hour = now.0.div_euclid(UNUSED_MS);
        let is_new_hour = self.swept_in_hour.swap(hour, Ordering::Relaxed) != hour;
        if !self.tables.has_expired(unused_before, unchanged_before)? {
            // Whoever broke off an upload may have left a file.
            if is_new_hour {
                let _naming = self.album.naming.blocking_lock();
                self.sweep()?;
            }
            return Ok(());
        }
        let naming = self.album.naming.blocking_lock();
        let told = Told::Expired { unused_before, unchanged_before };
        let recorded = log.record_blocking(Kind::Feedback, body(&told), now);
        if let Err(refused) = recorded {
            // Nothing is lost by waiting: the next minute comes.
            tracing::warn!(reason = %refused.detail, "what is past its time stays for now");
            return Ok(());
        }
        let swept = self.sweep();
        drop(naming);
        swept
    }

    fn sweep(&self) -> Result<(), StateError> {
        self.album.sweep(|name| Ok(self.tables.photo(name)?.is_some()))
    }
}

impl Capability for Feedback {
    fn kind(&self) -> Kind {
        Kind::Feedback
    }

    fn apply(&self, event: &Event, batch: &mut OwnedWriteBatch) -> Result<Effect, StateError> {
        self.tables.apply(event, batch)
    }

    /// What a kill left behind goes before anybody can ask.
    fn load(&self) -> Result<(), StateError> {
        self.sweep()
    }
}

/// An event's body.
fn body(told: &Told) -> Vec<u8> {
    // Structs of strings and numbers always serialize.
    serde_json::to_vec(told).unwrap_or_default()
}

/// 128 random bits.
fn random() -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests;
