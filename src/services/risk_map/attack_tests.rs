//! Attacks on what is published. A publisher holds when every count that a hidden cell could have stays possible,
//! whatever else is told. The attackers know the method, the directory, and (where it says so) one place's own count.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;

use super::count::tests::{place, row};
use super::count::{Counter, Counts};
use super::release::{Released, release, told};
use crate::scan::{PlaceKey, UnixMillis};

/// Persons at each place of a district, and those in the district, to what is told of them.
type Publisher = fn(k: u64, places: &[u64], together: u64) -> Released;

fn ours(k: u64, places: &[u64], together: u64) -> Released {
    release(k, places, places.len() as u64, together)
}

/// Hides and rounds, and has never heard of secondary suppression.
fn rounds_only(k: u64, places: &[u64], together: u64) -> Released {
    Released { places: places.iter().map(|count| told(k, *count)).collect(), district: told(k, together) }
}

/// Hides, and tells everything else exactly.
fn exact(k: u64, places: &[u64], together: u64) -> Released {
    let shown = |count: u64| (count >= k).then_some(count);
    Released { places: places.iter().map(|count| shown(*count)).collect(), district: shown(together) }
}

/// Hides the district as well where its figure would tell; that it does so tells.
fn hides_district(k: u64, places: &[u64], together: u64) -> Released {
    let Released { places: shown, district } = rounds_only(k, places, together);
    let hidden = shown.iter().filter(|count| count.is_none()).count() as u64;
    let most: u64 = shown.iter().flatten().map(|least| least + k - 1).sum();
    let tells = hidden > 0 && district.is_some_and(|least| least > most + (hidden - 1) * (k - 1));
    Released { places: shown, district: district.filter(|_| !tells) }
}

/// Every district of so many places with up to `most` persons each. Of persons at several places only this matters:
/// that a district has no fewer persons than its fullest place and no more than all places together.
fn worlds(places: usize, most: u64) -> Vec<(Vec<u64>, u64)> {
    let mut counts = vec![vec![]];
    for _ in 0..places {
        let longer = |counts: Vec<u64>| (0..=most).map(move |last| [counts.clone(), vec![last]].concat());
        counts = counts.into_iter().flat_map(longer).collect();
    }
    let districts = |counts: Vec<u64>| {
        let (least, most) = (counts.iter().copied().max().unwrap_or(0), counts.iter().sum());
        (least..=most).map(move |together| (counts.clone(), together))
    };
    counts.into_iter().flat_map(districts).collect()
}

/// Publishes every world there is, and looks at what each publication leaves possible: the strongest attack on one
/// publication, since whoever makes it knows all but the secret itself. `keeper` also knows the count of that place.
/// Returns how many hidden cells were held against it, or the first that was narrowed down.
fn exhaustive(publisher: Publisher, k: u64, places: usize, keeper: Option<usize>) -> Result<usize, String> {
    let mut possible: HashMap<(Released, Option<u64>), Vec<BTreeSet<u64>>> = HashMap::new();
    for (counts, together) in worlds(places, 3 * k - 1) {
        let known = keeper.map(|keeper| counts[keeper]);
        let seen = possible.entry((publisher(k, &counts, together), known));
        let seen = seen.or_insert_with(|| vec![BTreeSet::new(); places]);
        seen.iter_mut().zip(&counts).for_each(|(seen, count)| {
            seen.insert(*count);
        });
    }
    let mut held = 0;
    for ((released, _), seen) in &possible {
        for (at, values) in seen.iter().enumerate() {
            if released.places[at].is_some() || keeper == Some(at) {
                continue;
            }
            if !(0..k).all(|count| values.contains(&count)) {
                return Err(format!("{released:?} leaves {values:?} for place {at}"));
            }
            held += 1;
        }
    }
    Ok(held)
}

#[test]
fn knowing_everything_but_the_secret_leaves_every_count_under_k() {
    let mut held = 0;
    for (k, places) in [(2, 1), (2, 2), (2, 3), (2, 4), (3, 1), (3, 2), (3, 3), (5, 2), (10, 2)] {
        held += exhaustive(ours, k, places, None).unwrap_or_else(|broken| panic!("k {k}: {broken}"));
        for keeper in 0..places {
            let with = exhaustive(ours, k, places, Some(keeper));
            held += with.unwrap_or_else(|broken| panic!("k {k}, keeper {keeper}: {broken}"));
        }
    }
    assert!(held > 500, "{held} hidden cells are too few to say anything");
}

#[test]
fn the_same_attack_breaks_publishers_without_a_bound_on_districts() {
    for (naive, name) in [
        (exact as Publisher, "exact"),
        (rounds_only as Publisher, "rounds only"),
        (hides_district as Publisher, "hides the district"),
    ] {
        assert!(exhaustive(naive, 3, 2, None).is_err(), "{name} holds under this attack: it shows nothing");
    }
}

/// What an attacker who does sums learns of each hidden place: the least and the most that it can have had.
fn sums(k: u64, released: &Released) -> Vec<(u64, u64)> {
    let most = |told: &Option<u64>| told.unwrap_or(0) + k - 1;
    let all: u64 = released.places.iter().map(most).sum();
    let of = |told: &Option<u64>| {
        let others = all - most(told);
        let least = released.district.unwrap_or(0).saturating_sub(others);
        (least.max(told.unwrap_or(0)), most(told))
    };
    released.places.iter().map(of).collect()
}

const DISTRICTS: u8 = 2;
const PLACES_EACH: u8 = 4;

fn directory() -> HashMap<PlaceKey, u32> {
    (0..DISTRICTS * PLACES_EACH).map(|at| (place(at), u32::from(at / PLACES_EACH))).collect()
}

fn count(visits: &[(u32, u8)]) -> Counts {
    let directory = directory();
    let rows: Vec<_> = visits.iter().map(|(who, at)| row(*who, *at)).collect();
    let mut counter = Counter::new(&directory, u32::from(DISTRICTS), 64);
    loop {
        counter.add(&rows);
        if !counter.ends_short() {
            return counter.counts();
        }
    }
}

/// A day's publication, district by district, with a place for each in the directory.
fn publish(publisher: Publisher, k: u64, counts: &Counts) -> Vec<Released> {
    let of: BTreeMap<PlaceKey, u64> =
        counts.places.iter().map(|count| (count.place, count.persons)).collect();
    let district = |district: u8| {
        let places =
            (0..PLACES_EACH).map(|at| of.get(&place(district * PLACES_EACH + at)).copied().unwrap_or(0));
        let together = counts.districts[usize::from(district)];
        publisher(k, &places.collect::<Vec<_>>(), together)
    };
    (0..DISTRICTS).map(district).collect()
}

/// Small crowds with favourite places, so that many cells lie just under and just over `k`, and many people are at
/// several places: who, and where.
fn population() -> impl Strategy<Value = Vec<(u32, u8)>> {
    let places = DISTRICTS * PLACES_EACH;
    prop::collection::vec((1_u32..28, 0_u32..28), usize::from(places)).prop_map(move |crowds| {
        let crowd = |(at, (size, from)): (u8, (u32, u32))| (from..from + size).map(move |who| (who, at));
        (0..places).zip(crowds).flat_map(crowd).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Sums over levels and over places that share their visitors, each of several days, and all days of one place
    /// together: no hidden cell is narrowed down.
    #[test]
    fn sums_over_levels_places_and_days_narrow_nothing_down(days in prop::collection::vec(population(), 1..4)) {
        let k = 10;
        for day in &days {
            for released in publish(ours, k, &count(day)) {
                for ((least, most), told) in sums(k, &released).into_iter().zip(&released.places) {
                    prop_assert!(told.is_some() || (least == 0 && most == k - 1), "{released:?}: {least}..={most}");
                }
            }
        }
    }

    /// For each hidden place and each count under `k` there is another town with that count there whose publication
    /// is the same in every figure: no method whatever can tell the two apart.
    #[test]
    fn every_hidden_place_has_twins_with_every_count(visits in population()) {
        let k = 10;
        let counts = count(&visits);
        for released in publish(ours, k, &counts) {
            for (at, _) in released.places.iter().enumerate().filter(|(_, told)| told.is_none()) {
                for wanted in 0..k {
                    prop_assert!(has_twin(k, &released, at, wanted), "{released:?}: place {at} with {wanted}");
                }
            }
        }
    }

    /// One person more, and the day told again: as frozen figures aren't, the attacker sees the same twice. A publisher
    /// that told anew would say when its hidden count became `k`.
    #[test]
    fn one_person_more_moves_no_other_figure_than_a_threshold(visits in population(), at in 0..DISTRICTS * PLACES_EACH) {
        let k = 10;
        let before = count(&visits);
        let after = count(&[visits, vec![(1_000, at)]].concat());
        let district = usize::from(at / PLACES_EACH);
        for (index, (before, after)) in publish(ours, k, &before).iter().zip(&publish(ours, k, &after)).enumerate() {
            // Another district doesn't notice, nor does another place.
            prop_assert!(index == district || before == after);
            for (number, (before, after)) in before.places.iter().zip(&after.places).enumerate() {
                let is_there = index == district && number == usize::from(at % PLACES_EACH);
                prop_assert!(before == after || is_there && after.unwrap_or(0) == before.unwrap_or(0) + k);
            }
        }
    }
}

/// Looks for a town: places at an end of what is told of them, this one with just so many.
fn has_twin(k: u64, released: &Released, at: usize, wanted: u64) -> bool {
    let places = released.places.len();
    (0..1_u32 << places).any(|ends| {
        let end = |(index, told): (usize, &Option<u64>)| match told {
            _ if index == at => wanted,
            told if ends >> index & 1 == 0 => told.unwrap_or(0),
            told => told.unwrap_or(0) + k - 1,
        };
        let counts: Vec<u64> = released.places.iter().enumerate().map(end).collect();
        let (least, most) = (counts.iter().copied().max().unwrap_or(0), counts.iter().sum());
        (least..=most).any(|together| ours(k, &counts, together) == *released)
    })
}

/// 21 persons in a district, 12 of them at one place and 9 at the other, which is hidden.
#[test]
fn sums_break_the_naive_publisher_on_a_small_town() {
    let visits: Vec<(u32, u8)> = (0..12).map(|who| (who, 0)).chain((12..21).map(|who| (who, 1))).collect();
    let counts = count(&visits);
    let two = [12, counts.places[1].persons];
    assert_eq!(sums(10, &exact(10, &two, 21))[1].0, 0, "sums know no exact figures");
    assert_eq!(sums(10, &rounds_only(10, &two, 21))[1], (1, 9), "somebody was there");
    assert_eq!(sums(10, &ours(10, &two, 21))[1], (0, 9));
}

/// Told anew after each arrival, a hidden count is known in the moment in which it stops being hidden.
#[test]
fn telling_a_day_anew_would_break_it() {
    let visits: Vec<(u32, u8)> = (0..9).map(|who| (who, 0)).collect();
    let before = publish(ours, 10, &count(&visits));
    let after = publish(ours, 10, &count(&[visits, vec![(99, 0)]].concat()));
    // Who knows of having been the one more knows now that there were just nine.
    assert_eq!((before[0].places[0], after[0].places[0]), (None, Some(10)));
}

/// Which places turn at each look of somebody who looks every minute, when cases are approved at these minutes and the map
/// shows those from before `as_of`; every case was at places of its own.
fn turns(approved: &[i64], as_of: impl Fn(UnixMillis) -> UnixMillis, minutes: i64) -> Vec<BTreeSet<usize>> {
    let shown = |minute: i64| -> BTreeSet<usize> {
        let as_of = as_of(UnixMillis(minute * 60_000)).0;
        (0..approved.len()).filter(|case| approved[*case] * 60_000 < as_of).collect()
    };
    let looks: Vec<BTreeSet<usize>> = (0..minutes).map(shown).collect();
    looks.windows(2).map(|pair| &pair[1] - &pair[0]).filter(|turned| !turned.is_empty()).collect()
}

proptest! {
    /// Whoever looks every minute sees the cases of a day turn together, and so can't tell whose places are whose; a map
    /// that showed each at once would show it by itself.
    #[test]
    fn looking_again_and_again_sees_no_case_by_itself(gaps in prop::collection::vec(2_i64..90, 2..16)) {
        const DAY: i64 = 1_440;
        let approved: Vec<i64> = gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).collect();
        let settings = super::Settings { k: 10, delay_ms: 21_600_000, days: 30, levels_every_ms: crate::scan::DAY_MS };
        let ours = turns(&approved, |now| settings.levels_as_of(now), 3 * DAY);
        // Six hours after midnight in Vietnam is 23:00 UTC.
        let days: BTreeSet<i64> = approved.iter().map(|minute| (minute + 60).div_euclid(DAY)).collect();
        prop_assert_eq!(ours.len(), days.len());
        prop_assert_eq!(ours.iter().map(BTreeSet::len).sum::<usize>(), approved.len());
        let at_once = turns(&approved, |now| now, 3 * DAY);
        prop_assert!(at_once.iter().all(|turned| turned.len() == 1), "the attack shows nothing");
    }
}
