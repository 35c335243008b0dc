//! A batch of the feed, line by line.

use std::collections::HashMap;

use super::super::feed::BadLine;
use super::super::link_store::{Change, LinkStore};
use super::{ALIASES_MAX, Links, LinksError};
use crate::scan::Pseudonym;

/// A batch on its way: the table as its lines so far would leave it.
pub(super) struct Batch<'a> {
    table: &'a Links,
    disk: &'a LinkStore,
    changed: HashMap<Pseudonym, Change>,
    /// By citizen, what the changes add to the number of aliases on disk.
    counts: HashMap<Pseudonym, (usize, isize)>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(table: &'a Links, disk: &'a LinkStore) -> Self {
        Self { table, disk, changed: HashMap::new(), counts: HashMap::new() }
    }

    /// Links or unlinks one line's aliases; whether that changed anything.
    pub(super) fn put(
        &mut self,
        citizen: Option<Pseudonym>,
        mut new: Vec<(&'static str, Pseudonym)>,
    ) -> Result<Result<bool, BadLine>, LinksError> {
        // A token that was issued for the citizen's number is the citizen's already.
        new.retain(|(_, alias)| Some(*alias) != citizen && self.citizen_of(*alias) != citizen);
        if let Some(citizen) = citizen
            && !new.is_empty()
        {
            if self.citizen_of(citizen).is_some() {
                return Ok(Err(BadLine::new("citizen", "must not be linked as another citizen's alias")));
            }
            if self.aliases(citizen)? + new.len() > ALIASES_MAX {
                return Ok(Err(BadLine::new("citizen", "must have at most 16 aliases")));
            }
            for (field, alias) in &new {
                if self.aliases(*alias)? > 0 {
                    return Ok(Err(BadLine::new(field, "must not be a citizen's own, with aliases")));
                }
            }
        }
        for (_, alias) in &new {
            self.set(*alias, citizen)?;
        }
        Ok(Ok(!new.is_empty()))
    }

    fn citizen_of(&self, alias: Pseudonym) -> Option<Pseudonym> {
        match self.changed.get(&alias) {
            Some(change) => change.after,
            None => self.table.citizens.get(&alias).map(|citizen| *citizen),
        }
    }

    fn aliases(&mut self, citizen: Pseudonym) -> Result<usize, LinksError> {
        let (on_disk, added) = self.count(citizen)?;
        Ok(on_disk.saturating_add_signed(*added))
    }

    fn count(&mut self, citizen: Pseudonym) -> Result<(usize, &mut isize), LinksError> {
        use std::collections::hash_map::Entry;
        let (on_disk, added) = match self.counts.entry(citizen) {
            Entry::Occupied(held) => held.into_mut(),
            Entry::Vacant(free) => {
                let on_disk = self.disk.aliases_of(citizen, ALIASES_MAX)?.len();
                free.insert((on_disk, 0))
            }
        };
        Ok((*on_disk, added))
    }

    fn set(&mut self, alias: Pseudonym, after: Option<Pseudonym>) -> Result<(), LinksError> {
        let now = self.citizen_of(alias);
        if let Some(citizen) = now {
            *self.count(citizen)?.1 -= 1;
        }
        if let Some(citizen) = after {
            *self.count(citizen)?.1 += 1;
        }
        self.changed.entry(alias).or_insert(Change { alias, before: now, after }).after = after;
        Ok(())
    }

    pub(super) fn changes(self) -> Vec<Change> {
        self.changed.into_values().filter(|change| change.before != change.after).collect()
    }
}
