//! The rules by example, and by a definition that goes moment by moment.

use proptest::prelude::*;

use super::*;
use crate::scan::{App, CheckinId, ClientKey, DeviceKey, DirectionRequest, Form, Scan, Subject, Trust};

const RULES: Rules = Rules { missing_ms: 20, stay_ms: 50, overlap_ms: 1 };

fn row(person: u8, place: u8, at: i64, direction: Direction) -> Checkin {
    Checkin {
        id: CheckinId::new(UnixMillis(at), u64::from(person)),
        direction,
        scan: Scan {
            person: Pseudonym([person; 16]),
            place: PlaceKey([place; 16]),
            direction: DirectionRequest::Auto,
            at: UnixMillis(at),
            received: UnixMillis(at),
            client: ClientKey([person; 12]),
            device: DeviceKey([1; 8]),
            app: App::PcCovid,
            subject: Subject::Person,
            trust: Trust::Asserted,
            form: Form::Cccd,
            window_s: 0,
        },
    }
}

fn entry(person: u8, at: i64) -> Checkin {
    row(person, 1, at, Direction::In)
}

fn exit(person: u8, at: i64) -> Checkin {
    row(person, 1, at, Direction::Out)
}

fn told(rows: &[Checkin]) -> Vec<(i64, i64, Assumed)> {
    stays(rows, &RULES).iter().map(|stay| (stay.from.0, stay.to.0, stay.assumed)).collect()
}

#[test]
fn entry_and_exit_are_a_stay_and_what_is_missing_is_bounded() {
    assert_eq!(told(&[entry(1, 100), exit(1, 130)]), [(100, 130, Assumed::Neither)]);
    assert_eq!(told(&[entry(1, 100)]), [(100, 120, Assumed::Exit)]);
    assert_eq!(told(&[exit(1, 100)]), [(80, 100, Assumed::Entry)]);
    // The next check-in here ends it before the rule does.
    assert_eq!(told(&[entry(1, 100), entry(1, 105)]), [(100, 105, Assumed::Exit), (105, 125, Assumed::Exit)]);
    assert_eq!(told(&[exit(1, 100), exit(1, 110)]), [(80, 100, Assumed::Entry), (100, 110, Assumed::Entry)]);
    // Nobody stays that long: both ends are missing.
    assert_eq!(told(&[entry(1, 100), exit(1, 151)]), [(100, 120, Assumed::Exit), (131, 151, Assumed::Entry)]);
    assert_eq!(told(&[entry(1, 100), exit(1, 150)]), [(100, 150, Assumed::Neither)]);
}

#[test]
fn whoever_enters_elsewhere_has_left() {
    let mut stay = stays(&[entry(1, 100)], &RULES)[0];
    let history =
        [row(1, 2, 90, Direction::In), row(2, 2, 105, Direction::In), row(1, 2, 110, Direction::In)];
    stay.tighten(&history);
    assert_eq!(stay.to.0, 110);
    let mut stay = stays(&[exit(1, 100)], &RULES)[0];
    stay.tighten(&[
        row(1, 2, 85, Direction::Out),
        row(1, 2, 95, Direction::In),
        row(1, 2, 105, Direction::Out),
    ]);
    assert_eq!(stay.from.0, 85);
    let mut whole = stays(&[entry(1, 100), exit(1, 130)], &RULES)[0];
    whole.tighten(&[row(1, 2, 110, Direction::In)]);
    assert_eq!((whole.from.0, whole.to.0), (100, 130), "a shop inside a market is no end of the market");
}

#[test]
fn seconds_count_each_moment_once() {
    let at = |from, to| (UnixMillis(from), UnixMillis(to));
    assert_eq!(seconds(vec![at(5_000, 9_000), at(0, 6_000), at(20_000, 21_999)]), 10);
    assert_eq!(seconds(vec![]), 0);
}

/// Whether a person is here at this moment, said of one moment and looking at nothing but rules 1 to 3.
fn is_here(rows: &[Checkin], person: Pseudonym, moment: i64) -> bool {
    let own: Vec<&Checkin> = rows.iter().filter(|row| row.scan.person == person).collect();
    let before = own.iter().rev().find(|row| row.scan.at.0 <= moment);
    let after = own.iter().find(|row| row.scan.at.0 > moment);
    let entered = before.filter(|row| row.direction == Direction::In).map(|row| row.scan.at.0);
    let left = after.filter(|row| row.direction == Direction::Out).map(|row| row.scan.at.0);
    match (entered, left) {
        (Some(entered), Some(left)) if left - entered <= RULES.stay_ms => true,
        (entered, left) => {
            entered.is_some_and(|entered| moment < entered + RULES.missing_ms)
                || left.is_some_and(|left| moment >= left - RULES.missing_ms)
        }
    }
}

prop_compose! {
    /// Rows by event time, no two of a person at one moment.
    fn any_rows()(keys in prop::collection::btree_map((0_i64..200, 0_u8..4), any::<bool>(), 0..40)) -> Vec<Checkin> {
        keys.into_iter().map(|((at, person), is_entry)| if is_entry { entry(person, at) } else { exit(person, at) }).collect()
    }
}

proptest! {
    #[test]
    fn overlaps_are_the_moments_at_which_both_are_here(rows in any_rows(), from in 0_i64..200, length in 1_i64..200) {
        let all = stays(&rows, &RULES);
        let seed_of = Pseudonym([0; 16]);
        let (from, to) = (UnixMillis(from), UnixMillis(from + length));
        let seeds: Vec<Stay> =
            all.iter().filter(|stay| stay.person == seed_of).filter_map(|stay| stay.within(from, to)).collect();
        let met = meetings(&seeds, &all, &RULES);
        for other in 1..4_u8 {
            let other = Pseudonym([other; 16]);
            let together: i64 = met.iter().filter(|(_, of)| of.person == other)
                .filter_map(|(seed, of)| overlap(seed, of, &RULES)).map(|(from, to)| to.0 - from.0).sum();
            let moments = (from.0..to.0)
                .filter(|moment| is_here(&rows, seed_of, *moment) && is_here(&rows, other, *moment)).count();
            prop_assert_eq!(together, moments as i64);
        }
        prop_assert!(met.iter().all(|(seed, of)| seed.person != of.person));
    }

    #[test]
    fn a_shorter_meeting_than_the_rule_asks_for_is_none(rows in any_rows(), overlap_ms in 1_i64..30) {
        let strict = Rules { overlap_ms, ..RULES };
        let all = stays(&rows, &RULES);
        let of_all = meetings(&all, &all, &RULES);
        let long = of_all.into_iter().filter(|(one, other)| {
            overlap(one, other, &RULES).is_some_and(|(from, to)| to.0 - from.0 >= overlap_ms)
        });
        prop_assert_eq!(meetings(&all, &all, &strict), long.collect::<Vec<_>>());
    }
}
