//! Rotating the pepper of a stopped gateway: journal, store and links are written anew under the pseudonyms that
//! the next pepper makes, and take the place of the old ones all at once.
//!
//! ```text
//! keys/pepper.next                          from the first step on: the rotation has begun, nobody may serve
//! journal.next, store.next, identity.next   written and fsynced beside the old ones; a rerun starts them over
//! rotation                                  from here on there is no way back: each directory changes its place
//! journal.old, store.old, identity.old      go at the end, then `rotation`
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
use crate::journal::{AppendError, Journal, JournalSettings, Lane, Ticket};
use crate::scan::Checkin;
use crate::store::Store;
use crate::store::rewrite::{Rewritten, rewrite};
use crate::verify::{Pepper, rotation};

/// What changes its place.
const DIRECTORIES: [&str; 3] = ["journal", "store", "identity"];

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
    Ok(rotated)
}

/// Writes the journal's records in their order into a journal beside it.
fn rewrite_journal(config: &Config, next: &dyn Fn(&Checkin) -> Checkin) -> Result<u64, GatewayError> {
    let data_dir = &config.gateway.data_dir;
    let dir = super::journal_dir(data_dir);
    if !dir.try_exists().map_err(failed(&dir))? {
        return Ok(0);
    }
    let settings = JournalSettings {
        lanes: 1,
        lane_bytes_max: config.journal.lane_bytes_max,
        batch_bytes_max: config.journal.batch_bytes_max,
        segment_bytes: config.journal.segment_bytes,
        // What fitted before fits again, if the disk has room for both.
        bytes_max: u64::MAX,
        ..JournalSettings::default()
    };
    let (to, _) = Journal::open(&data_dir.join("journal.next"), settings.clone(), &mut |_| ())?;
    let lane = to.lane(0)?;
    let (mut last, mut error) = (None, None);
    let mut copy = |record: &Checkin| {
        if error.is_none() {
            match append(&lane, &next(record), last) {
                Ok(ticket) => last = Some(ticket),
                Err(broken) => error = Some(broken),
            }
        }
    };
    let (from, recovery) = Journal::open(&dir, settings, &mut copy)?;
    from.close();
    let committed = match (error, last) {
        (Some(error), _) => Err(error),
        (None, Some(last)) => lane.committed_blocking(last).map(|_| ()).map_err(io::Error::other),
        (None, None) => Ok(()),
    };
    committed.map_err(failed(&data_dir.join("journal.next")))?;
    drop(lane);
    to.close();
    Ok(recovery.records)
}

/// Waits for the disk where the lane is full.
fn append(lane: &Lane, record: &Checkin, last: Option<Ticket>) -> io::Result<Ticket> {
    loop {
        match (lane.append(record), last) {
            (Ok(ticket), _) => return Ok(ticket),
            (Err(AppendError::LaneFull { .. }), Some(last)) => {
                lane.committed_blocking(last).map_err(io::Error::other)?;
            }
            (Err(error), _) => return Err(io::Error::other(error)),
        }
    }
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
    if present.try_exists().map_err(failed(&present))? {
        fs::rename(&present, &old).map_err(failed(&present))?;
        sync(data_dir)?;
        step("old aside")?;
    }
    fs::rename(&next, &present).map_err(failed(&next))?;
    sync(data_dir)?;
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
