//! Links on disk: an LSM tree (fjall) of its own under DATA/identity. Pseudonyms only.
//!
//! ```text
//! links1      alias:16                -> citizen:16  linked at, ms, big-endian:8
//! of_citizen1 citizen:16  alias:16    -> nothing
//! feeds1      a source's name         -> its state as JSON
//! ```
//! The links of a feed's batch and its cursor are one atomic write, fsynced before [`LinkStore::commit`]
//! returns. The number in the names is the format's; a new layout takes the next one.
//!
//! Methods block on disk, and so belong on a thread that may.

use std::path::{Path, PathBuf};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use serde::{Deserialize, Serialize};

use crate::scan::{Pseudonym, UnixMillis};

/// Reads come at starts and with the feed: no cache is worth much memory.
const CACHE_BYTES: u64 = 8 << 20;

/// What fjall's write-ahead journal and one tree's memtable may take.
const WAL_BYTES_MAX: u64 = 64 << 20;
const MEMTABLE_BYTES: u64 = 8 << 20;

/// Why the links can't be read or written. Nothing in it, nor in its sources, quotes a link.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinksError {
    /// The directory can't be opened.
    #[error("can't open the links in {}", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: fjall::Error,
    },
    /// Reading or writing failed. A failed write or fsync lasts until the next start.
    #[error("the links' files failed")]
    Disk(#[from] fjall::Error),
    /// Something stored has an unknown shape.
    #[error("an entry of {table} is damaged")]
    Damaged {
        /// The table.
        table: &'static str,
    },
}

/// How far a source's feed has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedState {
    /// What the source sent with its last durable batch.
    pub cursor: String,
    /// When that batch was taken, in milliseconds since 1970.
    pub taken_ms: i64,
    /// Lines that changed a link, over all batches.
    pub accepted: u64,
    /// Lines that told what was known.
    pub unchanged: u64,
    /// Lines that could not be taken.
    pub refused: u64,
}

/// One change of the links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) alias: Pseudonym,
    pub(super) before: Option<Pseudonym>,
    pub(super) after: Option<Pseudonym>,
}

/// The open tree.
pub(super) struct LinkStore {
    db: Database,
    links: Keyspace,
    of_citizen: Keyspace,
    feeds: Keyspace,
}

impl LinkStore {
    /// Opens or creates the tree in `dir`.
    pub(super) fn open(dir: &Path) -> Result<Self, LinksError> {
        let open = || -> fjall::Result<Self> {
            let db = Database::builder(dir)
                .cache_size(CACHE_BYTES)
                .max_journaling_size(WAL_BYTES_MAX)
                .worker_threads(1)
                .open()?;
            let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
            Ok(Self {
                links: db.keyspace("links1", options)?,
                of_citizen: db.keyspace("of_citizen1", options)?,
                feeds: db.keyspace("feeds1", options)?,
                db,
            })
        };
        open().map_err(|source| LinksError::Open { path: dir.to_owned(), source })
    }

    /// Hands out every link: alias, citizen, and when they were linked.
    pub(super) fn each(
        &self,
        mut take: impl FnMut(Pseudonym, Pseudonym, UnixMillis),
    ) -> Result<(), LinksError> {
        for guard in self.links.iter() {
            let (key, value) = guard.into_inner()?;
            let alias = Pseudonym(exact(&key).ok_or(DAMAGED_LINK)?);
            let (citizen, at) = link(&value)?;
            take(alias, citizen, at);
        }
        Ok(())
    }

    /// The citizen that an alias is linked to.
    pub(super) fn citizen_of(&self, alias: Pseudonym) -> Result<Option<Pseudonym>, LinksError> {
        let value = self.links.get(alias.0)?;
        value.map(|value| link(&value).map(|(citizen, _)| citizen)).transpose()
    }

    /// Up to `max` aliases of a citizen.
    pub(super) fn aliases_of(&self, citizen: Pseudonym, max: usize) -> Result<Vec<Pseudonym>, LinksError> {
        self.of_citizen
            .prefix(citizen.0)
            .take(max)
            .map(|guard| {
                let key = guard.key()?;
                let alias = key.get(16..).and_then(exact);
                alias.map(Pseudonym).ok_or(LinksError::Damaged { table: "of_citizen1" })
            })
            .collect()
    }

    /// How far a source's feed has come; none if it never sent a batch.
    pub(super) fn feed(&self, source: &str) -> Result<Option<FeedState>, LinksError> {
        self.feeds.get(source)?.map(|value| state(&value)).transpose()
    }

    /// Every source and how far it has come.
    pub(super) fn feeds(&self) -> Result<Vec<(String, FeedState)>, LinksError> {
        self.feeds
            .iter()
            .map(|guard| {
                let (source, value) = guard.into_inner()?;
                Ok((String::from_utf8_lossy(&source).into_owned(), state(&value)?))
            })
            .collect()
    }

    /// Writes changes and a source's state in one batch, and fsyncs it.
    pub(super) fn commit(
        &self,
        changes: &[Change],
        at: UnixMillis,
        (source, feed): (&str, &FeedState),
    ) -> Result<(), LinksError> {
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncData));
        for Change { alias, before, after } in changes {
            if let Some(citizen) = before {
                batch.remove(&self.of_citizen, pair(*citizen, *alias));
            }
            match after {
                Some(citizen) => {
                    batch.insert(&self.links, alias.0, link_value(*citizen, at));
                    batch.insert(&self.of_citizen, pair(*citizen, *alias), []);
                }
                None => batch.remove(&self.links, alias.0),
            }
        }
        batch.insert(&self.feeds, source, serde_json::to_vec(feed).unwrap_or_default());
        Ok(batch.commit()?)
    }
}

/// Links copied at a time.
const COPIED: usize = 10_000;

/// Writes all links and feeds of the tree in `from` into a new one in `to`, durably, with what `person` makes of
/// each pseudonym. Returns the number of links.
///
/// # Errors
/// A directory can't be opened, read or written.
pub fn rewrite(from: &Path, to: &Path, person: &dyn Fn(Pseudonym) -> Pseudonym) -> Result<u64, LinksError> {
    let (from, to) = (LinkStore::open(from)?, LinkStore::open(to)?);
    let mut count = 0;
    let mut batch = to.db.batch();
    for guard in from.links.iter() {
        let (key, value) = guard.into_inner()?;
        let alias = person(Pseudonym(exact(&key).ok_or(DAMAGED_LINK)?));
        let (citizen, at) = link(&value)?;
        let citizen = person(citizen);
        batch.insert(&to.links, alias.0, link_value(citizen, at));
        batch.insert(&to.of_citizen, pair(citizen, alias), []);
        count += 1;
        if batch.len() >= 2 * COPIED {
            std::mem::replace(&mut batch, to.db.batch()).commit()?;
        }
    }
    for guard in from.feeds.iter() {
        let (source, state) = guard.into_inner()?;
        batch.insert(&to.feeds, source, state);
    }
    batch.commit()?;
    to.db.persist(PersistMode::SyncAll)?;
    Ok(count)
}

const DAMAGED_LINK: LinksError = LinksError::Damaged { table: "links1" };

fn state(value: &[u8]) -> Result<FeedState, LinksError> {
    serde_json::from_slice(value).map_err(|_| LinksError::Damaged { table: "feeds1" })
}

fn link(value: &[u8]) -> Result<(Pseudonym, UnixMillis), LinksError> {
    let (citizen, at) = value.split_at_checked(16).ok_or(DAMAGED_LINK)?;
    let at = exact(at).map(i64::from_be_bytes).ok_or(DAMAGED_LINK)?;
    Ok((Pseudonym(exact(citizen).ok_or(DAMAGED_LINK)?), UnixMillis(at)))
}

fn link_value(citizen: Pseudonym, at: UnixMillis) -> [u8; 24] {
    let mut value = [0; 24];
    let (head, tail) = value.split_at_mut(16);
    head.copy_from_slice(&citizen.0);
    tail.copy_from_slice(&at.0.to_be_bytes());
    value
}

fn pair(citizen: Pseudonym, alias: Pseudonym) -> [u8; 32] {
    let mut key = [0; 32];
    let (head, tail) = key.split_at_mut(16);
    head.copy_from_slice(&citizen.0);
    tail.copy_from_slice(&alias.0);
    key
}

fn exact<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}
