//! Which own pseudonyms belong to one citizen: a star of aliases around each citizen's pseudonym.
//!
//! In memory one map, alias to citizen, which every scan asks once; on disk the same and its reverse
//! (`link_store`). A feed's batch is on disk before it is in force, and in force before it is answered.
//! 55 bytes an entry at 10 million, allocator included: `cargo bench --bench links` prints it.
//!
//! # Rules
//! - A citizen who has aliases can't become one, and an alias can't become a citizen: one look-up resolves.
//! - An alias that is linked again moves: the last line of the feed wins.
//! - A citizen has at most [`ALIASES_MAX`] aliases.
//!
//! # Scans under way while a link arrives
//! A link changes under whom a scan is remembered for deduplication, so a scan that was resolved before
//! a change must not be admitted after it. [`Links::resolve`] says what it saw; [`Links::steadily`] hands
//! that on with the aliases that may still be remembered under pseudonyms of their own, for a [`View`] that is
//! asked, under the locks of all of these, whether that is still so. Each look is one load while nothing
//! changes: `changes` is odd while a batch is being put in force, and 0 until there is the first link.

mod batch;

use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use parking_lot::{Mutex, RwLock};

use self::batch::Batch;
use super::Identity;
use super::feed::{self, Alias, BadLine};
use super::link_store::{Change, LinkStore};
pub use super::link_store::{FeedState, LinksError, rewrite};
use crate::scan::{Pseudonym, UnixMillis};

/// Aliases of one citizen: a person has a QID, an insurance number, and a few codes and certificates. Each
/// is one more lock for every scan while it is new.
pub const ALIASES_MAX: usize = 16;

/// Shards of the maps; a power of two. Many small ones, so that growing one stalls its readers for a
/// millisecond, not for a second.
const SHARDS: usize = 256;

/// How often what is not recent any more is swept out.
const SWEEP_MS: i64 = 600_000;

/// Bounds of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinksSettings {
    /// Links held.
    pub links_max: u64,
    /// Recent links held.
    pub recent_links_max: u64,
    /// Sources that may feed links: each is an entry on disk that is kept.
    pub sources_max: usize,
    /// How long a link is recent: as long as deduplication remembers, in seconds.
    pub recent_s: u32,
}

impl Default for LinksSettings {
    fn default() -> Self {
        Self { links_max: 100_000_000, recent_links_max: 20_000_000, sources_max: 4096, recent_s: 176_400 }
    }
}

/// Whom a pseudonym stands for, and what of the table that was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linked {
    /// The pseudonym asked about.
    pub own: Pseudonym,
    /// The citizen's, or the same where there is no link.
    pub person: Pseudonym,
    changes: u64,
}

/// What an attempt to admit a scan goes by.
pub struct View<'a> {
    links: &'a Links,
    linked: Linked,
    aliases: Vec<Pseudonym>,
    now: UnixMillis,
}

impl View<'_> {
    /// Whom the scan is about.
    #[inline]
    pub fn person(&self) -> Pseudonym {
        self.linked.person
    }

    /// Under which other pseudonyms the person may be remembered.
    #[inline]
    pub fn aliases(&self) -> &[Pseudonym] {
        &self.aliases
    }

    /// Whether both are still so. Ask it under the locks of all of them; where it is not, nothing may have
    /// been done yet.
    #[inline]
    pub fn holds(&self) -> bool {
        self.links.holds(&self.linked, &self.aliases, self.now)
    }
}

/// Why a batch was not taken as a whole.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// A bound was reached.
    #[error("{bound} is {limit}")]
    Full {
        /// Its name in the configuration.
        bound: &'static str,
        /// Its value.
        limit: u64,
    },
    /// The disk failed; nothing of the batch is in force.
    #[error(transparent)]
    Links(#[from] LinksError),
}

/// The links on disk alone, for commands beside no gateway.
pub struct LinkReader(Option<LinkStore>);

impl LinkReader {
    /// Opens the table in `dir`; where there is none, there are no links.
    ///
    /// # Errors
    /// The directory can't be opened.
    pub fn open(dir: &Path) -> Result<Self, LinksError> {
        Ok(Self(if dir.exists() { Some(LinkStore::open(dir)?) } else { None }))
    }

    /// Whom a pseudonym stands for.
    ///
    /// # Errors
    /// The disk failed.
    pub fn citizen_of(&self, own: Pseudonym) -> Result<Pseudonym, LinksError> {
        let Some(disk) = &self.0 else { return Ok(own) };
        Ok(disk.citizen_of(own)?.unwrap_or(own))
    }

    /// All aliases of a citizen.
    ///
    /// # Errors
    /// The disk failed.
    pub fn aliases_of(&self, citizen: Pseudonym) -> Result<Vec<Pseudonym>, LinksError> {
        self.0.as_ref().map_or(Ok(Vec::new()), |disk| disk.aliases_of(citizen, ALIASES_MAX))
    }
}

/// What became of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// Lines that changed a link.
    pub accepted: u64,
    /// Lines that told what was known.
    pub unchanged: u64,
    /// Lines that could not be taken, by their number from 1.
    pub refused: Vec<(usize, BadLine)>,
}

/// Counts for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinksStats {
    /// Links held.
    pub held: u64,
    /// Links of which the alias may still be remembered for deduplication.
    pub recent: u64,
    /// Lines accepted since start.
    pub accepted: u64,
    /// Lines unchanged since start.
    pub unchanged: u64,
    /// Lines refused since start.
    pub refused: u64,
    /// When the last batch was taken, in milliseconds since 1970; 0 if never.
    pub last_feed_ms: i64,
}

/// A citizen's newly linked aliases. Nearly always one.
#[derive(Debug, Clone)]
enum Recent {
    One(Pseudonym, UnixMillis),
    More(Vec<(Pseudonym, UnixMillis)>),
}

/// The table, in memory and on disk.
pub struct Links {
    citizens: DashMap<Pseudonym, Pseudonym>,
    recent: DashMap<Pseudonym, Recent>,
    recent_held: AtomicUsize,
    /// See the module's text.
    changes: AtomicU64,
    /// Whoever holds it may change the table.
    disk: Mutex<LinkStore>,
    settings: LinksSettings,
    swept: AtomicI64,
    last_feed: AtomicI64,
    lines: [AtomicU64; 3],
    listeners: RwLock<Vec<Listener>>,
}

/// Is told of each citizen who has other aliases than before.
type Listener = Box<dyn Fn(Pseudonym) + Send + Sync>;

impl Links {
    /// Opens or creates the table in `dir` and loads it.
    ///
    /// # Errors
    /// The directory can't be opened or read.
    pub fn open(dir: &Path, settings: LinksSettings, now: UnixMillis) -> Result<Self, LinksError> {
        let disk = LinkStore::open(dir)?;
        let links = Self {
            citizens: DashMap::with_shard_amount(SHARDS),
            recent: DashMap::with_shard_amount(SHARDS),
            recent_held: AtomicUsize::new(0),
            changes: AtomicU64::new(0),
            settings,
            swept: AtomicI64::new(now.0),
            last_feed: AtomicI64::new(0),
            lines: Default::default(),
            listeners: RwLock::default(),
            disk: Mutex::new(disk),
        };
        {
            let disk = links.disk.lock();
            disk.each(|alias, citizen, at| {
                links.citizens.insert(alias, citizen);
                if links.is_recent(at, now) {
                    links.add_recent(citizen, alias, at);
                }
            })?;
            let last = disk.feeds()?.into_iter().map(|(_, feed)| feed.taken_ms).max();
            links.last_feed.store(last.unwrap_or(0), Ordering::Relaxed);
        }
        if !links.citizens.is_empty() {
            links.changes.store(2, Ordering::Release);
        }
        Ok(links)
    }

    /// Whom a pseudonym stands for.
    #[inline]
    pub fn resolve(&self, own: Pseudonym) -> Linked {
        let changes = self.changes.load(Ordering::Acquire);
        let person = if changes == 0 { own } else { self.citizen_of(own) };
        Linked { own, person, changes }
    }

    /// Whom a pseudonym stands for, for readers of rows.
    #[inline]
    pub fn citizen_of(&self, own: Pseudonym) -> Pseudonym {
        self.citizens.get(&own).map_or(own, |citizen| *citizen)
    }

    /// Tries until an attempt was made under links that held all along, which `attempt` tells by not
    /// returning `None`. What changes meanwhile must be about the same person for another attempt.
    pub fn steadily<R>(
        &self,
        linked: Linked,
        now: UnixMillis,
        mut attempt: impl FnMut(&View<'_>) -> Option<R>,
    ) -> R {
        let mut linked = linked;
        loop {
            let view = View { links: self, linked, aliases: self.recent(&linked, now), now };
            if let Some(done) = attempt(&view) {
                return done;
            }
            linked = self.resolve(linked.own);
        }
    }

    /// The person's aliases that scans may still be remembered under.
    #[inline]
    fn recent(&self, linked: &Linked, now: UnixMillis) -> Vec<Pseudonym> {
        if linked.changes == 0 || self.recent_held.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        self.recent_of(linked.person, now)
    }

    #[inline]
    fn holds(&self, linked: &Linked, aliases: &[Pseudonym], now: UnixMillis) -> bool {
        let changes = self.changes.load(Ordering::Acquire);
        let steady = changes == linked.changes && changes.is_multiple_of(2);
        steady || self.still_holds(linked, aliases, now)
    }

    /// All aliases of a citizen, from disk: whoever reads a person's history reads theirs as well.
    ///
    /// # Errors
    /// The disk failed.
    pub fn aliases_of(&self, citizen: Pseudonym) -> Result<Vec<Pseudonym>, LinksError> {
        self.disk.lock().aliases_of(citizen, ALIASES_MAX)
    }

    /// How far a source's feed has come; none if it never sent a batch.
    ///
    /// # Errors
    /// The disk failed.
    pub fn feed(&self, source: &str) -> Result<Option<FeedState>, LinksError> {
        self.disk.lock().feed(source)
    }

    /// Takes a feed's batch: durable and in force when this returns. Lines are numbered from 1.
    ///
    /// # Errors
    /// A bound or the disk; then nothing of the batch is in force, and sending it again is right.
    pub fn take<'a>(
        &self,
        identity: &Identity,
        lines: impl Iterator<Item = &'a [u8]>,
        (source, cursor): (&str, &str),
        now: UnixMillis,
    ) -> Result<Taken, FeedError> {
        let (taken, changes) = self.take_batch(identity, lines, (source, cursor), now)?;
        // The disk's lock is free again: whoever is told may ask for aliases.
        let mut citizens: Vec<_> =
            changes.iter().flat_map(|change| [change.before, change.after]).flatten().collect();
        citizens.sort_unstable();
        citizens.dedup();
        let listeners = self.listeners.read();
        for citizen in citizens {
            listeners.iter().for_each(|listener| listener(citizen));
        }
        Ok(taken)
    }

    /// Has this called with each citizen whose aliases a batch has changed, once it is in force, on the thread that takes
    /// the batch. After a start nobody is told of what was there before.
    pub fn on_change(&self, listener: impl Fn(Pseudonym) + Send + Sync + 'static) {
        self.listeners.write().push(Box::new(listener));
    }

    fn take_batch<'a>(
        &self,
        identity: &Identity,
        lines: impl Iterator<Item = &'a [u8]>,
        (source, cursor): (&str, &str),
        now: UnixMillis,
    ) -> Result<(Taken, Vec<Change>), FeedError> {
        let disk = self.disk.lock();
        let mut feed = match disk.feed(source)? {
            Some(feed) => feed,
            None if disk.feeds()?.len() >= self.settings.sources_max => {
                let limit = self.settings.sources_max as u64;
                return Err(FeedError::Full { bound: "identity.feed_sources_max", limit });
            }
            None => FeedState::default(),
        };
        let mut batch = Batch::new(self, &disk);
        let mut taken = Taken::default();
        for (index, bytes) in lines.enumerate() {
            let read = feed::line(bytes, |citizen, aliases| {
                let own = |alias: &Alias<'_>| (alias.field(), identity.alias(alias));
                (citizen.map(|number| identity.citizen(number)), aliases.iter().map(own).collect::<Vec<_>>())
            });
            let put = match read {
                Ok((citizen, aliases)) => batch.put(citizen, aliases)?,
                Err(bad) => Err(bad),
            };
            match put {
                Ok(true) => taken.accepted += 1,
                Ok(false) => taken.unchanged += 1,
                Err(bad) => taken.refused.push((index + 1, bad)),
            }
        }
        let changes = batch.changes();
        self.check_room(&changes)?;
        let refused = taken.refused.len() as u64;
        cursor.clone_into(&mut feed.cursor);
        feed.taken_ms = now.0;
        feed.accepted += taken.accepted;
        feed.unchanged += taken.unchanged;
        feed.refused += refused;
        disk.commit(&changes, now, (source, &feed))?;
        self.put_in_force(&changes, now);
        self.last_feed.store(now.0, Ordering::Relaxed);
        for (counter, count) in self.lines.iter().zip([taken.accepted, taken.unchanged, refused]) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
        Ok((taken, changes))
    }

    /// Lets go of what is not recent any more. Call it about once a second.
    pub fn sweep(&self, now: UnixMillis) {
        let swept = self.swept.load(Ordering::Relaxed);
        if now.0.saturating_sub(swept) < SWEEP_MS || self.recent_held.load(Ordering::Relaxed) == 0 {
            return;
        }
        // One at a time with feeds, whose counts it would upset.
        let Some(_disk) = self.disk.try_lock() else { return };
        self.swept.store(now.0, Ordering::Relaxed);
        let mut gone = 0;
        self.recent.retain(|_, recent| {
            let before = recent.len();
            let left = recent.retain(|at| self.is_recent(at, now));
            gone += before - left;
            left > 0
        });
        self.recent_held.fetch_sub(gone, Ordering::Release);
    }

    /// Counts for metrics. Takes every shard's lock in turn: for scrapes, not for scans.
    pub fn stats(&self) -> LinksStats {
        let [accepted, unchanged, refused] = self.lines.each_ref().map(|count| count.load(Ordering::Relaxed));
        LinksStats {
            held: self.citizens.len() as u64,
            recent: self.recent_held.load(Ordering::Relaxed) as u64,
            accepted,
            unchanged,
            refused,
            last_feed_ms: self.last_feed.load(Ordering::Relaxed),
        }
    }

    fn check_room(&self, changes: &[Change]) -> Result<(), FeedError> {
        let more = changes.iter().filter(|change| change.before.is_none()).count() as u64;
        let newly = changes.iter().filter(|change| change.after.is_some()).count() as u64;
        let LinksSettings { links_max, recent_links_max, .. } = self.settings;
        if more > 0 && self.citizens.len() as u64 + more > links_max {
            return Err(FeedError::Full { bound: "identity.links_max", limit: links_max });
        }
        let recent = self.recent_held.load(Ordering::Relaxed) as u64;
        if newly > 0 && recent + newly > recent_links_max {
            return Err(FeedError::Full { bound: "identity.recent_links_max", limit: recent_links_max });
        }
        Ok(())
    }

    /// The order matters: while an alias resolves to its citizen, it is among the recent ones.
    fn put_in_force(&self, changes: &[Change], now: UnixMillis) {
        if changes.is_empty() {
            return;
        }
        self.changes.fetch_add(1, Ordering::SeqCst);
        for change in changes {
            match change.after {
                Some(citizen) => {
                    self.add_recent(citizen, change.alias, now);
                    self.citizens.insert(change.alias, citizen);
                }
                None => {
                    self.citizens.remove(&change.alias);
                }
            }
            if let Some(citizen) = change.before {
                self.remove_recent(citizen, change.alias);
            }
        }
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    #[cold]
    fn still_holds(&self, linked: &Linked, aliases: &[Pseudonym], now: UnixMillis) -> bool {
        self.citizen_of(linked.own) == linked.person && self.recent_of(linked.person, now) == aliases
    }

    fn recent_of(&self, person: Pseudonym, now: UnixMillis) -> Vec<Pseudonym> {
        let Some(recent) = self.recent.get(&person) else { return Vec::new() };
        let is_recent = |(_, at): &&(Pseudonym, UnixMillis)| self.is_recent(*at, now);
        match &*recent {
            Recent::One(alias, at) => {
                if self.is_recent(*at, now) {
                    vec![*alias]
                } else {
                    Vec::new()
                }
            }
            Recent::More(all) => all.iter().filter(is_recent).map(|(alias, _)| *alias).collect(),
        }
    }

    fn is_recent(&self, linked: UnixMillis, now: UnixMillis) -> bool {
        now.0.saturating_sub(linked.0) < i64::from(self.settings.recent_s) * 1000
    }

    fn add_recent(&self, citizen: Pseudonym, alias: Pseudonym, at: UnixMillis) {
        use dashmap::Entry;
        match self.recent.entry(citizen) {
            Entry::Vacant(free) => {
                free.insert(Recent::One(alias, at));
            }
            Entry::Occupied(mut held) => held.get_mut().add(alias, at),
        }
        self.recent_held.fetch_add(1, Ordering::Release);
    }

    fn remove_recent(&self, citizen: Pseudonym, alias: Pseudonym) {
        use dashmap::Entry;
        let Entry::Occupied(mut held) = self.recent.entry(citizen) else { return };
        let before = held.get().len();
        let left = held.get_mut().remove(alias);
        if left == 0 {
            held.remove();
        }
        self.recent_held.fetch_sub(before - left, Ordering::Release);
    }
}

impl Recent {
    fn len(&self) -> usize {
        match self {
            Self::One(..) => 1,
            Self::More(all) => all.len(),
        }
    }

    fn add(&mut self, alias: Pseudonym, at: UnixMillis) {
        match self {
            Self::One(first, linked) => *self = Self::More(vec![(*first, *linked), (alias, at)]),
            Self::More(all) => all.push((alias, at)),
        }
    }

    /// How many are left.
    fn remove(&mut self, alias: Pseudonym) -> usize {
        match self {
            Self::One(only, _) => usize::from(*only != alias),
            Self::More(all) => {
                all.retain(|(held, _)| *held != alias);
                all.len()
            }
        }
    }

    /// How many are left.
    fn retain(&mut self, keep: impl Fn(UnixMillis) -> bool) -> usize {
        match self {
            Self::One(_, at) => usize::from(keep(*at)),
            Self::More(all) => {
                all.retain(|(_, at)| keep(*at));
                all.len()
            }
        }
    }
}

#[cfg(test)]
mod tests;
