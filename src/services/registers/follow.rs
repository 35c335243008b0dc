//! Follows the registers' feeds, on a thread of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use aws_lc_rs::hmac;
use tokio::sync::{Mutex, watch};

use super::client::{HttpRegister, Register, RegisterError, SetupError};
use super::{End, client, intake};
use crate::config::Registers as Settings;
use crate::scan::UnixMillis;
use crate::services::Services;
use crate::services::health::fact::RegisterId;
use crate::verify::{FeedToken, KeysError};

/// A feed that goes on without changes is recorded this often, so that its age is known after a start.
const RECORDED_MS: i64 = 300_000;

/// One register as the configuration has it.
pub(in crate::services) struct Source {
    pub(super) client: Option<HttpRegister>,
    /// Signs what it pushes.
    pub(super) secret: Option<hmac::Key>,
    /// Held while changes are taken in.
    pub(super) turn: Mutex<()>,
}

/// All of them.
pub(in crate::services) struct Sources {
    pub(super) each: BTreeMap<RegisterId, Source>,
    poll_ms: u64,
    page_bytes_max: usize,
}

impl Sources {
    /// Reads secrets and certificates; asks nobody yet.
    pub(in crate::services) fn open(settings: &Settings) -> Result<Self, SetupError> {
        let source = |register: &RegisterId| {
            let url = match register {
                RegisterId::Population => &settings.population_url,
                RegisterId::Insurance => &settings.insurance_url,
                RegisterId::Vaccination => &settings.vaccination_url,
                RegisterId::Testing => &settings.testing_url,
            };
            let client = url.as_deref().map(|url| HttpRegister::new(*register, url, settings)).transpose()?;
            let secret =
                settings.secrets_dir.as_deref().map(|dir| secret(dir, *register)).transpose()?.flatten();
            Ok((*register, Source { client, secret, turn: Mutex::new(()) }))
        };
        let each = RegisterId::ALL.iter().map(source).collect::<Result<_, SetupError>>()?;
        Ok(Self { each, poll_ms: settings.poll_ms, page_bytes_max: settings.page_bytes_max })
    }

    /// How long a page that is pushed may be.
    pub(in crate::services) fn page_bytes_max(&self) -> usize {
        self.page_bytes_max
    }

    pub(super) fn of(&self, register: RegisterId) -> Option<&Source> {
        self.each.get(&register)
    }
}

fn secret(dir: &Path, register: RegisterId) -> Result<Option<hmac::Key>, SetupError> {
    let path = dir.join(format!("{}.secret", register.name()));
    match path.try_exists() {
        Ok(true) => Ok(FeedToken::load(dir, Some(&path))?.map(|secret| secret.signing_key())),
        Ok(false) => Ok(None),
        Err(source) => Err(KeysError::Io { action: "look for", path, source }.into()),
    }
}

/// The thread that follows; ends when dropped, and leaves what it is at for the next start.
pub(in crate::services) struct Followers {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Followers {
    /// Starts, if there is a register to follow.
    pub(in crate::services) fn start(services: &Arc<Services>) -> Result<Option<Self>, SetupError> {
        let followed = services.registers.each.iter().filter(|(_, source)| source.client.is_some());
        let followed: Vec<RegisterId> = followed.map(|(register, _)| *register).collect();
        if followed.is_empty() {
            return Ok(None);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(SetupError::Thread)?;
        let (stop, stopped) = watch::channel(false);
        let weak = Arc::downgrade(services);
        let run = move || {
            runtime.block_on(async {
                let each = followed.iter().map(|register| follow(&weak, *register, stopped.clone()));
                futures_util::future::join_all(each).await;
            });
        };
        let thread = std::thread::Builder::new().name("registers".to_owned()).spawn(run);
        Ok(Some(Self { stop, thread: Some(thread.map_err(SetupError::Thread)?) }))
    }
}

impl Drop for Followers {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let Some(thread) = self.thread.take() else { return };
        // The thread itself may be the last to let go of the services.
        if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
            tracing::error!("the registers' thread panicked");
        }
    }
}

async fn follow(weak: &Weak<Services>, register: RegisterId, mut stopped: watch::Receiver<bool>) {
    let mut was_well = true;
    loop {
        let Some(services) = weak.upgrade() else { return };
        let poll_ms = services.registers.poll_ms;
        let polled = tokio::select! {
            biased;
            _ = stopped.changed() => return,
            polled = poll(&services, register) => polled,
        };
        drop(services);
        let is_well = polled.is_ok();
        if is_well != was_well {
            tracing::info!(register = register.name(), well = is_well, "register");
        }
        was_well = is_well;
        if polled == Ok(true) {
            continue;
        }
        let half = Duration::from_millis(poll_ms / 2);
        tokio::select! {
            _ = stopped.changed() => return,
            () = tokio::time::sleep(half + client::jitter(half)) => {}
        }
    }
}

/// Takes one page in. Whether more come behind it.
async fn poll(services: &Arc<Services>, register: RegisterId) -> Result<bool, ()> {
    let registers = &services.capabilities.registers;
    let source = services.registers.of(register).ok_or(())?;
    let client = source.client.as_ref().ok_or(())?;
    let after = registers.live(register).feed.cursor;
    let page = client.changes(&after).await.map_err(|error| {
        // One that isn't asked has failed as it did when it was.
        if !matches!(error, RegisterError::Open { .. }) {
            registers.has_failed(register, error.name(), UnixMillis::now());
        }
        tracing::debug!(
            register = register.name(),
            error = format!("{:#}", anyhow::Error::from(error)),
            "no page"
        );
    })?;
    let now = UnixMillis::now();
    let _turn = source.turn.lock().await;
    let behind = page.behind;
    let recorded = registers.live(register).feed.current_ms;
    let is_due = recorded.is_none_or(|at| now.0 - at >= RECORDED_MS);
    if behind > 0 || is_due || !page.changes.is_empty() || page.cursor != after {
        let end = End { after, cursor: page.cursor, behind, delivery: None };
        let taken = intake::take(services, register, page.changes, Some(end), now).await;
        let taken = taken.map_err(|_| registers.has_failed(register, "log", UnixMillis::now()))?;
        if let Some((index, bad)) = taken.bad.first() {
            let count = taken.bad.len();
            tracing::warn!(
                register = register.name(),
                count,
                index,
                field = bad.field,
                "changes break the contract"
            );
        }
    }
    registers.has_answered(register, behind, now);
    Ok(behind > 0)
}
