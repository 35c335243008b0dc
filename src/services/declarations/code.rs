//! Codes of journeys: made again whenever they are asked for, and revoked.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;

use super::record::{Id, Record, cti};
use super::tables::Tables;
use crate::issue::{Revocation, SealedIssuer, keys_revoke_all};
use crate::openapi::JourneyCode;
use crate::scan::{Pseudonym, UnixMillis};
use crate::services::Host;
use crate::verify::issued::{self, What};

/// Codes that one minute revokes. Some 100 bytes a line of the revocations, which `scangate keys compact` makes smaller.
const REVOKED_MAX: usize = 20_000;

/// The key, and how much of it was made use of.
struct Signer {
    issuer: SealedIssuer,
    /// Of the keys that it was read with.
    generation: u64,
}

/// What codes are signed with.
pub(super) struct Codes {
    data_dir: PathBuf,
    signer: ArcSwapOption<Signer>,
    /// Since they were last noted beside the key, and when the last of them ends.
    signed: AtomicU64,
    last_ends_s: AtomicI64,
}

impl Codes {
    /// Reads the key. A gateway that has none declares no journeys.
    pub(super) fn open(data_dir: &Path, host: &Arc<dyn Host>) -> Self {
        let codes = Self::without_key(data_dir);
        codes.look_for_key(&**host, UnixMillis::now());
        codes
    }

    pub(super) fn without_key(data_dir: &Path) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            signer: ArcSwapOption::empty(),
            signed: AtomicU64::new(0),
            last_ends_s: AtomicI64::new(0),
        }
    }

    /// Whether there is a key to sign with.
    pub(super) fn can_sign(&self) -> bool {
        self.signer.load().is_some()
    }

    /// The code of a journey, if it has one and it is good now.
    pub(super) fn of(
        &self,
        host: &dyn Host,
        id: Id,
        record: &Record,
        now: UnixMillis,
    ) -> Option<JourneyCode> {
        let ends_s = record.code_until_s().filter(|ends_s| *ends_s > now.seconds())?;
        let signer = self.signer.load();
        let subject = Pseudonym(record.declared.subject);
        let issue = |signer: &Signer| {
            signer.issuer.issue(host.identity(), cti(id, record), subject, record.issued_s, ends_s).ok()
        };
        let code = signer.as_deref().and_then(issue)?;
        Some(JourneyCode {
            qr: code.payload,
            expires_at: UnixMillis(ends_s.saturating_mul(1000)).to_string(),
        })
    }

    /// A code was made for the first time.
    pub(super) fn count(&self, record: &Record) {
        if let Some(ends_s) = record.code_until_s() {
            self.signed.fetch_add(1, Ordering::Relaxed);
            self.last_ends_s.fetch_max(ends_s, Ordering::Relaxed);
        }
    }

    /// Once a minute: writes down what is revoked and how much was signed, and looks for another key.
    pub(super) fn keep(&self, tables: &Tables, host: &dyn Host, now: UnixMillis) -> anyhow::Result<()> {
        let revoked = tables.to_revoke(REVOKED_MAX)?;
        // A code that is over by itself needs no revocation.
        let needed: Vec<_> = revoked
            .iter()
            .filter(|code| code.ends_s > now.seconds())
            .map(|code| (Revocation::Cti(code.cti), UnixMillis(code.until_s.saturating_mul(1000))))
            .collect();
        if !needed.is_empty() {
            keys_revoke_all(&self.data_dir, &needed)?;
            host.keys().reload()?;
        }
        tables.are_revoked(&revoked)?;
        self.note(tables, now)?;
        if self
            .signer
            .load()
            .as_ref()
            .is_none_or(|signer| signer.generation != host.keys().load().generation())
        {
            self.look_for_key(host, now);
        }
        Ok(())
    }

    /// Notes what the key has signed, so that it isn't retired before the last code is over.
    fn note(&self, tables: &Tables, now: UnixMillis) -> anyhow::Result<()> {
        let Some(signer) = self.signer.load_full() else { return Ok(()) };
        if self.last_ends_s.load(Ordering::Relaxed) == 0 {
            // What a process before this one signed in its last minute.
            let last_s = tables.last_end_ms()?.unwrap_or(0).div_euclid(1000);
            self.last_ends_s.fetch_max(last_s.max(1), Ordering::Relaxed);
        } else if self.signed.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let signed = self.signed.swap(0, Ordering::Relaxed);
        let last_s = self.last_ends_s.load(Ordering::Relaxed);
        let noted = issued::record(&self.data_dir, signer.issuer.kid(), What::Codes(signed), last_s, now);
        if noted.is_err() {
            self.signed.fetch_add(signed, Ordering::Relaxed);
        }
        Ok(noted?)
    }

    fn look_for_key(&self, host: &dyn Host, now: UnixMillis) {
        let generation = host.keys().load().generation();
        match SealedIssuer::open(&self.data_dir, now) {
            Ok(issuer) => self.signer.store(Some(Arc::new(Signer { issuer, generation }))),
            Err(error) => {
                if self.signer.swap(None).is_some() || generation == 0 {
                    tracing::warn!(error = %error, "no key to sign the codes of journeys with");
                }
            }
        }
    }
}
