//! How many check-ins and how many different persons a day brought to each place and to each district. Exact, in
//! bounded memory, and without a clock or a store: whoever has the rows hands them in, as often as they are asked for.
//!
//! Persons are told apart by sorting, and only those whose pseudonyms lie in one range at a time: where the list grows
//! too long, the range's upper half is left to another pass over the rows. Pseudonyms are hashes, so halves are halves.

use std::collections::HashMap;

use crate::scan::{Checkin, PlaceKey, Pseudonym};

/// Persons at cells held at a time: 96 MB.
pub const ENTRIES_MAX: usize = 4_000_000;

/// What a day brought to a place that the directory knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaceCount {
    /// The place.
    pub place: PlaceKey,
    /// Its district, by its index in the directory that was counted over.
    pub district: u32,
    /// Different persons.
    pub persons: u64,
    /// Check-ins, entries and exits.
    pub checkins: u64,
}

/// What a day brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Places with check-ins, in the order of their keys.
    pub places: Vec<PlaceCount>,
    /// Different persons in each district, by its index. Who was at two of its places counts once.
    pub districts: Vec<u64>,
}

/// A count under way.
pub struct Counter<'a> {
    district_of: &'a HashMap<PlaceKey, u32>,
    entries_max: usize,
    /// Persons whose hash lies in `from..=to` are counted in this pass.
    from: u64,
    to: u64,
    is_first: bool,
    entries: Vec<(u32, Pseudonym)>,
    districts: Vec<u64>,
    places: Vec<PlaceCount>,
    index: HashMap<PlaceKey, u32>,
}

impl<'a> Counter<'a> {
    /// Counts over places and the indices of their districts, which are below `districts`.
    pub fn new(district_of: &'a HashMap<PlaceKey, u32>, districts: u32, entries_max: usize) -> Self {
        Self {
            district_of,
            entries_max: entries_max.max(2),
            from: 0,
            to: u64::MAX,
            is_first: true,
            entries: Vec::new(),
            districts: vec![0; districts as usize],
            places: Vec::new(),
            index: HashMap::new(),
        }
    }

    /// Takes some of the day's check-ins, folded, under citizens' pseudonyms.
    pub fn add(&mut self, rows: &[Checkin]) {
        for row in rows {
            let Some(&district) = self.district_of.get(&row.scan.place) else { continue };
            let place = self.place(row.scan.place, district);
            if self.is_first
                && let Some(count) = self.places.get_mut(place as usize)
            {
                count.checkins += 1;
            }
            // Places are numbered behind the districts.
            for cell in [district, self.cells_before_places().saturating_add(place)] {
                self.see(cell, row.scan.person);
            }
        }
    }

    /// Ends a pass over all rows; true where they must all be handed in once more.
    pub fn ends_short(&mut self) -> bool {
        self.sort();
        for (cell, _) in std::mem::take(&mut self.entries) {
            let place = cell.checked_sub(self.cells_before_places());
            let count = match place {
                Some(place) => self.places.get_mut(place as usize).map(|count| &mut count.persons),
                None => self.districts.get_mut(cell as usize),
            };
            if let Some(count) = count {
                *count += 1;
            }
        }
        self.is_first = false;
        let Some(from) = self.to.checked_add(1) else { return false };
        // As wide as what had room this time, twice: where that is too wide it is halved again.
        let width = (self.to - self.from).saturating_mul(2).saturating_add(1);
        (self.from, self.to) = (from, from.saturating_add(width));
        true
    }

    /// What was counted.
    pub fn counts(mut self) -> Counts {
        self.places.sort_unstable_by_key(|count| count.place);
        Counts { places: self.places, districts: self.districts }
    }

    fn cells_before_places(&self) -> u32 {
        u32::try_from(self.districts.len()).unwrap_or(u32::MAX)
    }

    fn place(&mut self, place: PlaceKey, district: u32) -> u32 {
        *self.index.entry(place).or_insert_with(|| {
            self.places.push(PlaceCount { place, district, persons: 0, checkins: 0 });
            u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
        })
    }

    fn see(&mut self, cell: u32, person: Pseudonym) {
        if !(self.from..=self.to).contains(&hash(person)) {
            return;
        }
        self.entries.push((cell, person));
        if self.entries.len() < self.entries_max {
            return;
        }
        self.sort();
        // Half of the room must be free, or the list would be sorted over and over.
        while self.entries.len() > self.entries_max / 2 && self.from < self.to {
            self.to = self.from + (self.to - self.from) / 2;
            let to = self.to;
            self.entries.retain(|(_, person)| hash(*person) <= to);
        }
    }

    fn sort(&mut self) {
        self.entries.sort_unstable();
        self.entries.dedup();
    }
}

fn hash(person: Pseudonym) -> u64 {
    u64::from_be_bytes(person.0.first_chunk().copied().unwrap_or_default())
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::scan::{
        App, CheckinId, ClientKey, DeviceKey, Direction, DirectionRequest, Form, Scan, Subject, Trust,
        UnixMillis,
    };

    pub(in crate::services::risk_map) fn person(number: u32) -> Pseudonym {
        // Spread as hashes are.
        let mixed = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        Pseudonym(mixed.to_be_bytes())
    }

    pub(in crate::services::risk_map) fn place(number: u8) -> PlaceKey {
        PlaceKey([number; 16])
    }

    pub(in crate::services::risk_map) fn row(who: u32, at: u8) -> Checkin {
        let time = UnixMillis(1_637_712_000_000);
        Checkin {
            id: CheckinId::new(time, u64::from(who) << 8 | u64::from(at)),
            direction: Direction::In,
            scan: Scan {
                person: person(who),
                place: place(at),
                direction: DirectionRequest::In,
                at: time,
                received: time,
                client: ClientKey([at; 12]),
                device: DeviceKey([at; 8]),
                app: App::PcCovid,
                subject: Subject::Person,
                trust: Trust::Proven,
                form: Form::Sg1,
                window_s: 60,
            },
        }
    }

    fn counted(
        visits: &[(u32, u8)],
        district_of: &HashMap<PlaceKey, u32>,
        entries_max: usize,
    ) -> (Counts, u32) {
        let rows: Vec<Checkin> = visits.iter().map(|(who, at)| row(*who, *at)).collect();
        let mut counter = Counter::new(district_of, 3, entries_max);
        let mut passes = 0;
        loop {
            rows.chunks(7).for_each(|rows| counter.add(rows));
            passes += 1;
            if !counter.ends_short() {
                return (counter.counts(), passes);
            }
        }
    }

    proptest! {
        #[test]
        fn counts_are_those_of_plain_sets_however_little_room_there_is(
            visits in prop::collection::vec((0_u32..60, 0_u8..8), 0..300),
            entries_max in 4_usize..400,
        ) {
            // Places 6 and 7 aren't in the directory, and district 2 has none.
            let district_of: HashMap<PlaceKey, u32> = (0..6).map(|at| (place(at), u32::from(at) % 2)).collect();
            let (counts, _) = counted(&visits, &district_of, entries_max);
            let mut places: BTreeMap<u8, (BTreeSet<u32>, u64)> = BTreeMap::new();
            let mut districts = vec![BTreeSet::new(); 3];
            for (who, at) in visits.iter().filter(|(_, at)| *at < 6) {
                let (persons, checkins) = places.entry(*at).or_default();
                persons.insert(*who);
                *checkins += 1;
                districts[usize::from(at % 2)].insert(*who);
            }
            let expected: Vec<PlaceCount> = places
                .iter()
                .map(|(at, (persons, checkins))| PlaceCount {
                    place: place(*at),
                    district: u32::from(at % 2),
                    persons: persons.len() as u64,
                    checkins: *checkins,
                })
                .collect();
            prop_assert_eq!(counts.places, expected);
            prop_assert_eq!(counts.districts, districts.iter().map(|persons| persons.len() as u64).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_crowd_takes_more_passes_and_no_more_room() {
        let district_of = HashMap::from([(place(0), 0)]);
        let visits: Vec<(u32, u8)> = (0..5_000).map(|who| (who, 0)).collect();
        let (counts, passes) = counted(&visits, &district_of, 1_000);
        assert_eq!(
            (counts.districts[0], counts.places[0].persons, counts.places[0].checkins),
            (5_000, 5_000, 5_000)
        );
        assert!((10..40).contains(&passes), "{passes}");
        assert_eq!(counted(&visits, &district_of, 100_000).1, 1);
    }
}
