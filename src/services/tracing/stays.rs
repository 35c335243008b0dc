//! Who was at a place from when to when, out of check-ins, and how long two such stays overlap. Pure.
//!
//! 1. An entry and the next check-in of the same person at the same place, if that is an exit no more than
//!    [`Rules::stay_ms`] later, are a stay.
//! 2. An entry without such an exit is a stay that ends [`Rules::missing_ms`] later, or with the person's next
//!    check-in at this place, or with their next entry elsewhere, whichever is first.
//! 3. An exit without such an entry is the same backwards: it began [`Rules::missing_ms`] before, or with the person's
//!    check-in here before that, or with their last exit elsewhere, whichever is last.
//! 4. Two stays of different persons at one place met for the intersection of both, if that is
//!    [`Rules::overlap_ms`] or longer.

use std::collections::HashMap;

use crate::scan::{Checkin, Direction, PlaceKey, Pseudonym, UnixMillis};

/// What is assumed of check-ins that are missing, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_field_names)] // A unit stands last in a name.
pub struct Rules {
    /// How long a stay lasts whose entry or exit is missing.
    pub missing_ms: i64,
    /// The longest stay that an entry and an exit are believed to be of; at least twice `missing_ms`, or both ends of
    /// one that are assumed could overlap.
    pub stay_ms: i64,
    /// How long two must have been at a place together to have met; at least 1.
    pub overlap_ms: i64,
}

/// Which end of a stay is the rule's and not a check-in's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Assumed {
    /// Both ends are check-ins.
    Neither,
    /// There was no entry.
    Entry,
    /// There was no exit.
    Exit,
}

/// One person at one place, `from <= t < to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stay {
    /// When it began.
    pub from: UnixMillis,
    /// When it ended.
    pub to: UnixMillis,
    /// Who.
    pub person: Pseudonym,
    /// Where.
    pub place: PlaceKey,
    /// Whether either of the times is assumed.
    pub assumed: Assumed,
}

impl Stay {
    /// Leaves what lies in the range, if anything does.
    #[must_use]
    pub fn within(self, from: UnixMillis, to: UnixMillis) -> Option<Self> {
        let cut = Self { from: self.from.max(from), to: self.to.min(to), ..self };
        (cut.from < cut.to).then_some(cut)
    }

    /// Ends an assumed end where the person's other check-ins, by event time, show them elsewhere.
    pub fn tighten(&mut self, history: &[Checkin]) {
        let elsewhere = |row: &&Checkin| row.scan.person == self.person && row.scan.place != self.place;
        match self.assumed {
            Assumed::Neither => {}
            Assumed::Exit => {
                let entry = history.iter().filter(elsewhere).find(|row| {
                    row.direction == Direction::In && row.scan.at > self.from && row.scan.at < self.to
                });
                self.to = entry.map_or(self.to, |row| row.scan.at);
            }
            Assumed::Entry => {
                let exit = history.iter().rev().filter(elsewhere).find(|row| {
                    row.direction == Direction::Out && row.scan.at < self.to && row.scan.at > self.from
                });
                self.from = exit.map_or(self.from, |row| row.scan.at);
            }
        }
    }
}

/// The stays that the rows of one place tell, folded and by event time: by beginning, then end. What the persons did
/// elsewhere is not in them ([`Stay::tighten`]).
pub fn stays(rows: &[Checkin], rules: &Rules) -> Vec<Stay> {
    let mut found = Vec::new();
    // Of each person the time of the last check-in, and whether it was an entry that is still open.
    let mut last: HashMap<Pseudonym, (i64, bool)> = HashMap::new();
    for row in rows {
        let (at, person, place) = (row.scan.at.0, row.scan.person, row.scan.place);
        let mut add = |from: i64, to: i64, assumed| {
            if from < to {
                found.push(Stay { from: UnixMillis(from), to: UnixMillis(to), person, place, assumed });
            }
        };
        let is_entry = row.direction == Direction::In;
        match last.insert(person, (at, is_entry)) {
            Some((entered, true)) if !is_entry && at - entered <= rules.stay_ms => {
                add(entered, at, Assumed::Neither);
            }
            before => {
                if let Some((entered, true)) = before {
                    add(entered, at.min(entered.saturating_add(rules.missing_ms)), Assumed::Exit);
                }
                if !is_entry {
                    let since = before.map_or(i64::MIN, |(before, _)| before);
                    add(since.max(at.saturating_sub(rules.missing_ms)), at, Assumed::Entry);
                }
            }
        }
    }
    if let Some(place) = rows.first().map(|row| row.scan.place) {
        let open = last.into_iter().filter(|(_, (_, is_entry))| *is_entry);
        found.extend(open.map(|(person, (entered, _))| Stay {
            from: UnixMillis(entered),
            to: UnixMillis(entered.saturating_add(rules.missing_ms)),
            person,
            place,
            assumed: Assumed::Exit,
        }));
    }
    found.sort_unstable();
    found
}

/// When two stays at one place overlap, if they did for long enough.
pub fn overlap(one: &Stay, other: &Stay, rules: &Rules) -> Option<(UnixMillis, UnixMillis)> {
    let (from, to) = (one.from.max(other.from), one.to.min(other.to));
    (to.0.saturating_sub(from.0) >= rules.overlap_ms.max(1)).then_some((from, to))
}

/// Every pair of a stay of `seeds` and one of `others` that met, all at one place; `others` by beginning. A person
/// doesn't meet themself.
pub fn meetings<'a>(seeds: &'a [Stay], others: &'a [Stay], rules: &Rules) -> Vec<(&'a Stay, &'a Stay)> {
    let longest = others.iter().map(|other| other.to.0.saturating_sub(other.from.0)).max().unwrap_or(0);
    let mut met = Vec::new();
    for seed in seeds {
        let first = others.partition_point(|other| other.from.0 < seed.from.0.saturating_sub(longest));
        let near = others.get(first..).unwrap_or_default();
        let near = near.iter().take_while(|other| other.from < seed.to);
        let of_others = near.filter(|other| other.person != seed.person);
        met.extend(
            of_others.filter(|other| overlap(seed, other, rules).is_some()).map(|other| (seed, other)),
        );
    }
    met
}

/// How long any of the intervals lasted, each moment once, in whole seconds.
pub fn seconds(mut intervals: Vec<(UnixMillis, UnixMillis)>) -> i64 {
    intervals.sort_unstable();
    let (mut total, mut until) = (0, i64::MIN);
    for (from, to) in intervals {
        total += to.0.saturating_sub(from.0.max(until)).max(0);
        until = until.max(to.0);
    }
    total / 1000
}

#[cfg(test)]
mod tests;
