//! Rotating the pepper of a stopped gateway: journal, store, links and services are written anew under the pseudonyms that
//! the next pepper makes, and take the place of the old ones all at once.
//!
//! ```text
//! keys/pepper.next                          from the first step on: the rotation has begun, nobody may serve
//! journal.next, store.next, identity.next,
//! services/log.next, services/tables.next   written and fsynced beside the old ones; a rerun starts them over
//! rotation                                  from here on there is no way back: each directory changes its place
//! journal.old, store.old, …                 go at the end, then `rotation`
//! ```
//! A CQL store is rewritten row by row in place; an id's epoch tells which rows are done. Interrupted anywhere,
//! another run takes it up with the same pepper and ends in the same rows.

use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::{DataLock, GatewayError, deduplicate_settings, open_store, shared};
use crate::config::{Config, StoreKind};
use crate::deduplicate::Deduplicate;
use crate::identity::{Identity, links};
use crate::journal::{self, JournalSettings, Ticket};
use crate::scan::Checkin;
use crate::services::rename::{self, Renaming};
use crate::store::Store;
use crate::store::rewrite::{Rewritten, rewrite};
use crate::verify::{Pepper, rotation};

/// What changes its place.
const DIRECTORIES: [&str; 5] = ["journal", "store", "identity", "services/log", "services/tables"];

/// What a rotation wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rotated {
    /// How often the pepper has been rotated now.
    pub epoch: u16,
    /// Records of the journal.
    pub records: u64,
    /// Rows of the store.
    pub rows: Rewritten,
    /// Links between identifiers.
    pub links: u64,
    /// Events of the services' log.
    pub events: u64,
    /// Entries of the services' tables.
    pub entries: u64,
}

/// Called after each step, with its name. Tests end the rotation there.
pub type AfterStep<'a> = &'a mut dyn FnMut(&'static str) -> ControlFlow<()>;

/// Whether a rotation has begun and not ended.
///
/// # Errors
/// The data directory can't be read.
pub fn is_under_way(data_dir: &Path) -> Result<bool, GatewayError> {
    let marker = marker(data_dir);
    Ok(marker.try_exists().map_err(failed(&marker))? || rotation::is_under_way(data_dir)?)
}

/// Rotates the pepper, or ends a rotation that was interrupted: of which the counts are only those that were
/// left to write.
///
/// # Errors
/// The gateway runs, something can't be read or written, or `after_step` said so.
pub fn rotate_pepper(config: &Config, after_step: AfterStep<'_>) -> Result<Rotated, GatewayError> {
    let data_dir = &config.gateway.data_dir;
    let _lock = DataLock::acquire(data_dir)?;
    let mut step = |name| match after_step(name) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(GatewayError::Interrupted { step: name }),
    };
    let marker = marker(data_dir);
    let mut rotated = Rotated::default();
    if !marker.try_exists().map_err(failed(&marker))? {
        let identity = Identity::new(&rotation::begin(data_dir)?);
        step("pepper")?;
        rotated = write_next(config, &identity, &mut step)?;
        sync(data_dir)?;
        let services = data_dir.join("services");
        if services.try_exists().map_err(failed(&services))? {
            sync(&services)?;
        }
        write_marker(data_dir)?;
        step("decided")?;
    }
    for name in DIRECTORIES {
        change_place(data_dir, name, &mut step)?;
    }
    // The journal's positions are others now: the drain starts over, which leaves the same rows.
    remove_file(&data_dir.join("watermark"))?;
    step("watermark")?;
    rotation::adopt(data_dir)?;
    step("adopted")?;
    for name in DIRECTORIES {
        remove_dir(&data_dir.join(format!("{name}.old")))?;
        step("old removed")?;
    }
    sync(data_dir)?;
    remove_file(&marker)?;
    sync(data_dir)?;
    rotated.epoch = Identity::new(&Pepper::load(data_dir)?).epoch();
    Ok(rotated)
}

/// Writes everything anew beside the old.
fn write_next(
    config: &Config,
    identity: &Identity,
    step: &mut dyn FnMut(&'static str) -> Result<(), GatewayError>,
) -> Result<Rotated, GatewayError> {
    let data_dir = &config.gateway.data_dir;
    let ids =
        Deduplicate::<Ticket, ()>::new(deduplicate_settings(&config.deduplicate), identity.checkin_key())
            .of_epoch(identity.epoch());
    let next = |row: &Checkin| {
        if row.id.epoch() == identity.epoch() {
            return *row;
        }
        let mut row = *row;
        row.scan.person = identity.rotated(row.scan.person, row.id.epoch());
        let scan = &row.scan;
        row.id = ids.checkin_id(scan.person, scan.place, scan.direction, scan.at);
        row
    };
    for name in DIRECTORIES {
        remove_dir(&data_dir.join(format!("{name}.next")))?;
    }
    let mut rotated = Rotated { records: rewrite_journal(config, &next)?, ..Rotated::default() };
    step("journal")?;
    rotated.rows = rewrite_store(config, &next)?;
    step("store")?;
    let links = data_dir.join("identity");
    if links.try_exists().map_err(failed(&links))? {
        let to = data_dir.join("identity.next");
        let before = identity.epoch().saturating_sub(1);
        rotated.links = links::rewrite(&links, &to, &|person| identity.rotated(person, before))?;
    }
    step("links")?;
    (rotated.events, rotated.entries) =
        rewrite_services(config, identity, identity.epoch().saturating_sub(1))?;
    step("services")?;
    Ok(rotated)
}

/// Writes the journal's records in their order into a journal beside it.
fn rewrite_journal(config: &Config, next: &dyn Fn(&Checkin) -> Checkin) -> Result<u64, GatewayError> {
    let data_dir = &config.gateway.data_dir;
    let dir = super::journal_dir(data_dir);
    if !dir.try_exists().map_err(failed(&dir))? {
        return Ok(0);
    }
    let settings = journal_settings(config);
    let next_dir = data_dir.join("journal.next");
    journal::rewrite(&dir, &next_dir, &settings, next).map_err(failed(&next_dir))
}

fn journal_settings(config: &Config) -> JournalSettings {
    JournalSettings {
        lanes: 1,
        lane_bytes_max: config.journal.lane_bytes_max,
        batch_bytes_max: config.journal.batch_bytes_max,
        segment_bytes: config.journal.segment_bytes,
        // What fitted before fits again, if the disk has room for both.
        bytes_max: u64::MAX,
        ..JournalSettings::default()
    }
}

/// Writes the services' log and tables anew beside them, whether this gateway has a listener for them now or not.
fn rewrite_services(config: &Config, identity: &Identity, before: u16) -> Result<(u64, u64), GatewayError> {
    let person = |person| identity.rotated(person, before);
    let to = Renaming { person: &person, epoch: identity.epoch() };
    Ok(rename::rewrite(&config.gateway.data_dir.join("services"), &journal_settings(config), &to)?)
}

fn rewrite_store(config: &Config, next: &dyn Fn(&Checkin) -> Checkin) -> Result<Rewritten, GatewayError> {
    let data_dir = &config.gateway.data_dir;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(GatewayError::Workers)?;
    let dir = data_dir.join("store");
    let into = match config.store.kind {
        StoreKind::Cql => None,
        StoreKind::Embedded if !dir.try_exists().map_err(failed(&dir))? => return Ok(Rewritten::default()),
        StoreKind::Embedded => {
            Some(Store::embedded(&data_dir.join("store.next"), shared::embedded_settings(config))?)
        }
    };
    runtime.block_on(async {
        let from = open_store(config)?;
        let rows = rewrite(&from, into.as_ref(), next).await?;
        from.close().await?;
        Ok(rows)
    })
}

/// Puts what was written anew in the place of the old, wherever an interruption left the two.
fn change_place(
    data_dir: &Path,
    name: &'static str,
    step: &mut dyn FnMut(&'static str) -> Result<(), GatewayError>,
) -> Result<(), GatewayError> {
    let [present, next, old] = ["", ".next", ".old"].map(|suffix| data_dir.join(format!("{name}{suffix}")));
    if !next.try_exists().map_err(failed(&next))? {
        return Ok(());
    }
    let parent = next.parent().unwrap_or(data_dir);
    if present.try_exists().map_err(failed(&present))? {
        fs::rename(&present, &old).map_err(failed(&present))?;
        sync(parent)?;
        step("old aside")?;
    }
    fs::rename(&next, &present).map_err(failed(&next))?;
    sync(parent)?;
    step(name)
}

fn marker(data_dir: &Path) -> PathBuf {
    data_dir.join("rotation")
}

fn write_marker(data_dir: &Path) -> Result<(), GatewayError> {
    let marker = marker(data_dir);
    let written = File::create(&marker).and_then(|file| file.sync_all());
    written.map_err(failed(&marker))?;
    sync(data_dir)
}

fn sync(dir: &Path) -> Result<(), GatewayError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed(dir))
}

fn remove_file(path: &Path) -> Result<(), GatewayError> {
    absent_is_fine(fs::remove_file(path)).map_err(failed(path))
}

fn remove_dir(path: &Path) -> Result<(), GatewayError> {
    absent_is_fine(fs::remove_dir_all(path)).map_err(failed(path))
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

fn failed(path: &Path) -> impl Fn(io::Error) -> GatewayError + use<> {
    let path = path.to_owned();
    move |source| GatewayError::Rotation { path: path.clone(), source }
}
