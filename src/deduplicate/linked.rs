//! Admission of a person who was also remembered under other pseudonyms, until a link told that they are one.
//!
//! What was remembered stays where it is: an original's id is made from the person it was recorded under,
//! so an alias's check-ins are asked for under the alias, and only new ones are remembered under the person.
//! The scans of all of these pseudonyms at the place are serialised by holding every stripe involved, each
//! once and in ascending order, so that no two admissions can wait for each other.

use parking_lot::MutexGuard;

use super::generations::Key;
use super::{Admission, AdmitError, Deduplicate, STRIPES, Seen};
use crate::scan::{Checkin, Pseudonym, Scan};

impl<T: Copy, P: Copy> Deduplicate<T, P> {
    /// As [`Deduplicate::admit`], over all the person's pseudonyms.
    #[cold]
    pub(super) fn admit_linked<E>(
        &self,
        scan: &Scan,
        aliases: &[Pseudonym],
        append: impl FnOnce(&Checkin) -> Result<T, E>,
    ) -> Result<Admission<'_, T, P>, AdmitError<E>> {
        // The person's own first.
        let keyed: Vec<(Scan, Key)> = std::iter::once(&scan.person)
            .chain(aliases)
            .map(|person| (Scan { person: *person, ..*scan }, self.pair_key(*person, scan.place)))
            .collect();
        let _serialised = self.lock_all(keyed.iter().map(|(_, pair)| *pair));
        if let Some(original) = self.seen_client(scan.client) {
            return self.duplicate(original);
        }
        let seen: Vec<[Option<Seen>; 2]> = keyed.iter().map(|(_, pair)| self.seen_here(*pair)).collect();
        let direction = self.direction(scan, seen.iter().copied().flatten().flatten());
        let nearest = keyed
            .iter()
            .zip(&seen)
            .filter_map(|((scan, pair), seen)| self.seen_in_window(scan, *pair, *seen, direction))
            .min_by_key(|original| (original.id.at().0 - scan.at.0).abs());
        match (nearest, keyed.first(), seen.first()) {
            (None, Some((scan, pair)), Some(seen)) => self.admit_new(scan, *pair, *seen, direction, append),
            (Some(original), ..) => self.repetition(scan, original),
            // There is always the person's own.
            _ => Err(AdmitError::Unproven),
        }
    }

    fn lock_all(&self, pairs: impl Iterator<Item = Key>) -> Vec<MutexGuard<'_, ()>> {
        let mut stripes: Vec<usize> = pairs.map(|pair| pair.low() as usize % STRIPES).collect();
        stripes.sort_unstable();
        stripes.dedup();
        stripes
            .into_iter()
            .filter_map(|index| self.stripes.get(index))
            .map(parking_lot::Mutex::lock)
            .collect()
    }
}

#[cfg(test)]
mod tests;
