//! Everybody's colours, in memory.
//!
//! A person has a row: a cell for each rule set in force, and when their newest fact arrived. A cell is two bits of colour
//! and thirty of seconds, until when it holds. Whoever has no row is somebody of whom nothing is known, and has the cells
//! that the rule sets give to nobody in particular.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use parking_lot::RwLock;

use super::colour::Colour;
use super::facts::Facts;
use super::rules::RuleSet;
use crate::scan::{Pseudonym, UnixMillis};
use crate::services::health::fact::{Fact, Known};
use crate::services::places::ProvinceCode;

/// Shards of a table, each under a lock of its own.
pub(super) const SHARDS: usize = 64;

/// 2020-01-01T00:00:00Z, where the seconds of cells begin.
const EPOCH_S: i64 = 1_577_836_800;

/// Past all ends: a cell that holds while facts and rules do.
const ALWAYS: u32 = (1 << 30) - 1;

/// A colour, and until when it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell(u32);

impl Cell {
    pub(super) fn new(colour: Colour, until: Option<UnixMillis>) -> Self {
        // The end is rounded up: what is asked again too early has the same end again.
        let until = until.map_or(ALWAYS, |until| seconds(UnixMillis(until.0.saturating_add(999))));
        Self((colour as u32) << 30 | until)
    }

    fn colour(self) -> Colour {
        match self.0 >> 30 {
            1 => Colour::Green,
            2 => Colour::Yellow,
            3 => Colour::Red,
            _ => Colour::Unknown,
        }
    }

    const fn until_s(self) -> u32 {
        self.0 & ALWAYS
    }

    /// The colour now; one that is past its end is nobody's to tell.
    fn colour_at(self, now_s: u32) -> Colour {
        if now_s < self.until_s() { self.colour() } else { Colour::Unknown }
    }
}

fn seconds(at: UnixMillis) -> u32 {
    let seconds = at.seconds().saturating_sub(EPOCH_S).clamp(0, i64::from(ALWAYS) - 1);
    u32::try_from(seconds).unwrap_or(0)
}

fn time(seconds: u32) -> UnixMillis {
    UnixMillis((EPOCH_S + i64::from(seconds)) * 1000)
}

/// Pseudonyms are keyed hashes: any of their bytes hash as well as all.
#[derive(Default)]
struct Prefix(u64);

impl Hasher for Prefix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(prefix) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*prefix);
        }
    }

    // A length before the bytes says nothing.
    fn write_usize(&mut self, _: usize) {}
}

#[derive(Default)]
struct Shard {
    rows: HashMap<[u8; 16], u32, BuildHasherDefault<Prefix>>,
    /// Of each row the cells, and then when its newest fact arrived, in seconds.
    cells: Vec<u32>,
    free: Vec<u32>,
    /// When the first cell ends.
    next_s: u32,
}

/// Which rule sets are in force, and what they say of everybody.
pub(super) struct Table {
    sets: Vec<Arc<RuleSet>>,
    /// Which of them are for a province.
    by_province: Vec<(ProvinceCode, usize)>,
    national: Option<usize>,
    nobody: Vec<Cell>,
    /// When another choice of sets is in force, or nobody's colour turns.
    until: Option<UnixMillis>,
    shards: Vec<RwLock<Shard>>,
}

/// What the table says of a person.
#[derive(Debug, Clone)]
pub struct Look {
    /// The colour.
    pub colour: Colour,
    /// When the person's newest fact arrived; none where nothing is known.
    pub as_of: Option<UnixMillis>,
    /// The rule set that says so; none where none is in force.
    pub rules: Option<Arc<RuleSet>>,
}

impl Table {
    /// A table without rows, for those of the sets that are in force: of each province, and of none, the one that came
    /// into force last, and of several the one of the highest version.
    pub(super) fn new(all: &[Arc<RuleSet>], now: UnixMillis) -> Self {
        let mut valid: Vec<&Arc<RuleSet>> = all.iter().filter(|set| set.is_valid_at(now)).collect();
        valid.sort_by_key(|set| (set.province, set.valid_from, set.version));
        let mut sets: Vec<Arc<RuleSet>> = Vec::new();
        for set in valid {
            if sets.last().is_some_and(|last| last.province == set.province) {
                sets.pop();
            }
            sets.push(Arc::clone(set));
        }
        let provinces = sets.iter().enumerate().filter_map(|(column, set)| Some((set.province?, column)));
        let by_province = provinces.collect();
        let national = sets.iter().position(|set| set.province.is_none());
        let data = Facts::default().data(now);
        let judged: Vec<_> = sets.iter().map(|set| set.judge(&data, now)).collect();
        let nobody = judged.iter().map(|judged| Cell::new(judged.colour, judged.until)).collect();
        let ends = judged.iter().filter_map(|judged| judged.until);
        let begins = all.iter().map(|set| set.valid_from).filter(|begin| *begin > now);
        let until = ends.chain(begins).min();
        let shards = (0..SHARDS).map(|_| RwLock::new(Shard { next_s: ALWAYS, ..Shard::default() })).collect();
        Self { sets, by_province, national, nobody, until, shards }
    }

    /// Whether its choice of sets still stands.
    pub(super) fn stands_at(&self, now: UnixMillis) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// The set for a province.
    pub(super) fn set(&self, province: Option<ProvinceCode>) -> Option<&Arc<RuleSet>> {
        self.column(province).and_then(|column| self.sets.get(column))
    }

    fn column(&self, province: Option<ProvinceCode>) -> Option<usize> {
        let own = province.and_then(|province| self.by_province.iter().find(|(code, _)| *code == province));
        own.map(|(_, column)| *column).or(self.national)
    }

    /// What is said of a person in a province.
    pub(super) fn look(&self, person: Pseudonym, province: Option<ProvinceCode>, now: UnixMillis) -> Look {
        let Some(column) = self.column(province) else {
            return Look { colour: Colour::Unknown, as_of: None, rules: None };
        };
        let (cell, as_of) = match self.cell(person, column) {
            Some((cell, as_of)) => (Some(cell), Some(time(as_of))),
            None => (self.nobody.get(column).copied(), None),
        };
        let colour = cell.map_or(Colour::Unknown, |cell| cell.colour_at(seconds(now)));
        Look { colour, as_of, rules: self.sets.get(column).cloned() }
    }

    fn cell(&self, person: Pseudonym, column: usize) -> Option<(Cell, u32)> {
        let shard = self.shard(person)?.read();
        let row = *shard.rows.get(&person.0)? as usize * self.stride();
        let cells = shard.cells.get(row..row + self.stride())?;
        Some((Cell(*cells.get(column)?), *cells.last()?))
    }

    fn shard(&self, person: Pseudonym) -> Option<&RwLock<Shard>> {
        self.shards.get(shard_of(person))
    }

    fn stride(&self) -> usize {
        self.sets.len() + 1
    }

    /// Judges a person anew, and writes it down.
    pub(super) fn judge(&self, person: Pseudonym, known: &[Known], now: UnixMillis) {
        let facts: Vec<&Fact> = known.iter().map(|known| &known.fact).collect();
        let data = Facts::of(facts).data(now);
        let cell = |set: &Arc<RuleSet>| {
            let judged = set.judge(&data, now);
            Cell::new(judged.colour, judged.until)
        };
        let cells: Vec<Cell> = self.sets.iter().map(cell).collect();
        self.write(person, &cells, super::facts::as_of(known));
    }

    /// Writes a person's row; without a time of facts it goes.
    pub(super) fn write(&self, person: Pseudonym, cells: &[Cell], as_of: Option<UnixMillis>) {
        let (Some(shard), stride) = (self.shard(person), self.stride()) else { return };
        let mut shard = shard.write();
        let Some(as_of) = as_of else {
            if let Some(row) = shard.rows.remove(&person.0) {
                shard.free.push(row);
            }
            return;
        };
        let row = if let Some(row) = shard.rows.get(&person.0) {
            *row
        } else {
            let last = u32::try_from(shard.cells.len() / stride).unwrap_or(u32::MAX);
            let row = shard.free.pop().unwrap_or(last);
            shard.rows.insert(person.0, row);
            row
        };
        let from = row as usize * stride;
        if shard.cells.len() < from + stride {
            shard.cells.resize(from + stride, 0);
        }
        let values = cells.iter().map(|cell| cell.0).chain([seconds(as_of)]);
        if let Some(slots) = shard.cells.get_mut(from..from + stride) {
            slots.iter_mut().zip(values).for_each(|(slot, value)| *slot = value);
        }
        let first = cells.iter().map(|cell| cell.until_s()).min().unwrap_or(ALWAYS);
        shard.next_s = shard.next_s.min(first);
    }

    /// Of a shard everybody with a cell that has ended.
    pub(super) fn ended(&self, shard: usize, now: UnixMillis) -> Vec<Pseudonym> {
        let (Some(shard), now_s) = (self.shards.get(shard), seconds(now)) else { return Vec::new() };
        if now_s < shard.read().next_s {
            return Vec::new();
        }
        let mut shard = shard.write();
        let stride = self.stride();
        let mut next_s = ALWAYS;
        let mut ended = Vec::new();
        for (person, row) in &shard.rows {
            let from = *row as usize * stride;
            let cells = shard.cells.get(from..from + stride - 1).unwrap_or_default();
            let first = cells.iter().map(|cell| Cell(*cell).until_s()).min().unwrap_or(ALWAYS);
            if first <= now_s { ended.push(Pseudonym(*person)) } else { next_s = next_s.min(first) }
        }
        // Those who have ended come back with ends of their own when they are written.
        shard.next_s = next_s;
        ended
    }

    /// Has a shard looked through again, where those who ended could not be judged.
    pub(super) fn look_again(&self, shard: usize) {
        if let Some(shard) = self.shards.get(shard) {
            shard.write().next_s = 0;
        }
    }

    /// Rows.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().rows.len()).sum()
    }

    /// The rule sets in force.
    pub(super) fn sets(&self) -> &[Arc<RuleSet>] {
        &self.sets
    }
}

/// Which shard a person is in: by another byte than the rows are hashed by, so that each shard has all hashes.
pub(super) fn shard_of(person: Pseudonym) -> usize {
    let [.., last] = person.0;
    usize::from(last) % SHARDS
}
