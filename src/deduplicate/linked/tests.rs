//! The promise pinned here: once a link is known, what a person did under an alias before it is theirs. A
//! model that compares each scan with every admitted one, whoever recorded it, decides alike.

use std::cell::RefCell;

use proptest::prelude::*;

use super::super::tests::{T0, fresh, original, scan, settings};
use super::super::{Original, Standing};
use super::*;
use crate::scan::{Checkin, Direction, DirectionRequest, UnixMillis};

const CITIZEN: u8 = 1;
const QID: Pseudonym = Pseudonym([2; 16]);
const TOKEN: Pseudonym = Pseudonym([3; 16]);

fn memory() -> Deduplicate<u32, ()> {
    Deduplicate::new(settings(&[60]), [3; 16])
}

#[test]
fn a_scan_after_the_link_names_the_one_before_it() {
    let memory = memory();
    let by_qid = fresh(memory.admit(&scan(2, 1, 0, DirectionRequest::In), &[], |_| Ok(1))).durable(());
    let by_card = memory.admit(&scan(CITIZEN, 2, 59_999, DirectionRequest::In), &[QID], |_| Ok(2));
    assert_eq!(original(by_card), (Original { id: by_qid.id, direction: Direction::In }, None));
    fresh(memory.admit(&scan(CITIZEN, 3, 60_000, DirectionRequest::In), &[QID], |_| Ok(3))).durable(());
}

#[test]
fn the_same_client_id_is_answered_as_before_the_link() {
    let memory = memory();
    let first = fresh(memory.admit(&scan(2, 1, 0, DirectionRequest::Auto), &[], |_| Ok(1))).durable(());
    let again = memory.admit(&scan(CITIZEN, 1, 500_000, DirectionRequest::Auto), &[QID], |_| Ok(2));
    assert_eq!(original(again).0.id, first.id);
}

#[test]
fn auto_toggles_across_the_link() {
    let memory = memory();
    let hour = 3_600_000;
    fresh(memory.admit(&scan(2, 1, 0, DirectionRequest::Auto), &[], |_| Ok(1))).durable(());
    let leaves = memory.admit(&scan(CITIZEN, 2, hour, DirectionRequest::Auto), &[QID], |_| Ok(2));
    assert_eq!(fresh(leaves).durable(()).direction, Direction::Out);
    let enters = memory.admit(&scan(CITIZEN, 3, 2 * hour, DirectionRequest::Auto), &[QID], |_| Ok(3));
    assert_eq!(fresh(enters).durable(()).direction, Direction::In);
    let after = memory.admit(&scan(CITIZEN, 4, 3 * hour, DirectionRequest::Auto), &[], |_| Ok(4));
    assert_eq!(fresh(after).durable(()).direction, Direction::Out, "the link is no longer recent");
}

#[test]
fn two_aliases_and_the_number_count_once() {
    let memory = memory();
    let by_qid = fresh(memory.admit(&scan(2, 1, 0, DirectionRequest::In), &[], |_| Ok(1))).durable(());
    let by_token = fresh(memory.admit(&scan(3, 2, 5_000, DirectionRequest::In), &[], |_| Ok(2))).durable(());
    let aliases = [QID, TOKEN];
    for (client, at, nearest) in [(3, 2_000, &by_qid), (4, 4_000, &by_token), (5, 50_000, &by_token)] {
        let again = memory.admit(&scan(CITIZEN, client, at, DirectionRequest::In), &aliases, |_| Ok(3));
        assert_eq!(original(again).0.id, nearest.id);
    }
}

#[test]
fn a_lost_scan_of_a_linked_person_leaves_no_trace() {
    let memory = memory();
    let by_qid = fresh(memory.admit(&scan(2, 1, 0, DirectionRequest::In), &[], |_| Ok(1)));
    let waits = memory.admit(&scan(CITIZEN, 2, 5, DirectionRequest::In), &[QID], |_| Ok(2));
    assert_eq!(original(waits).1, Some(1), "it waits for the alias's commit");
    by_qid.failed();
    fresh(memory.admit(&scan(CITIZEN, 2, 5, DirectionRequest::In), &[QID], |_| Ok(3))).failed();
    assert_eq!(memory.entries(), 0);
    let refused = memory.admit(&scan(CITIZEN, 2, 5, DirectionRequest::In), &[QID], |_| Err::<u32, _>("full"));
    assert!(matches!(refused, Err(AdmitError::Append("full"))));
    assert_eq!(memory.entries(), 0);
}

#[test]
fn what_a_restart_restores_is_met_under_the_link() {
    let before = memory();
    let by_qid = fresh(before.admit(&scan(2, 1, 0, DirectionRequest::In), &[], |_| Ok(1))).durable(());
    let after = memory();
    after.restore(&by_qid, UnixMillis(T0 + 1000));
    after.vouch(());
    let by_card = after.admit(&scan(CITIZEN, 2, 10_000, DirectionRequest::In), &[QID], |_| Ok(2));
    assert_eq!(original(by_card).0.id, by_qid.id);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Persons 0 to 2 are one from the moment that the link arrives: 1 and 2 are aliases of 0.
    #[test]
    fn decides_as_the_definition_does_across_a_link(
        link_at in 0_usize..60,
        arrivals in prop::collection::vec((0_u8..3, -300_i64..300, 0_u8..3, prop::bool::weighted(0.15)), 1..80)
    ) {
        let memory: Deduplicate<usize, ()> = Deduplicate::new(settings(&[60]), [3; 16]);
        let aliases = [Pseudonym([1; 16]), Pseudonym([2; 16])];
        let admitted: RefCell<Vec<Checkin>> = RefCell::default();
        for (index, (person, at_s, direction, lost)) in arrivals.into_iter().enumerate() {
            let linked = index >= link_at;
            let person = if linked { 0 } else { person };
            let requested = DirectionRequest::from_code(direction).unwrap();
            let scan = scan(person, u32::try_from(index).unwrap(), at_s * 500, requested);
            let explicit = if requested == DirectionRequest::Out { Direction::Out } else { Direction::In };
            let near = |one: &&Checkin| {
                (linked || one.scan.person == scan.person)
                    && (requested == DirectionRequest::Auto || one.direction == explicit)
                    && (one.scan.at.0 - scan.at.0).abs() < 60_000
            };
            let distance = |one: &Checkin| (one.scan.at.0 - scan.at.0).abs();
            let least = admitted.borrow().iter().filter(near).map(distance).min();
            match memory.admit(&scan, if linked { &aliases } else { &[] }, |_| Ok::<_, ()>(index)) {
                Ok(Admission::Fresh(in_flight)) => {
                    prop_assert!(least.is_none(), "{scan:?} was admitted");
                    if lost {
                        in_flight.failed();
                    } else {
                        admitted.borrow_mut().push(in_flight.durable(()));
                    }
                }
                Ok(Admission::Duplicate(original, standing)) => {
                    prop_assert_eq!(standing, Standing::Durable(()));
                    let admitted = admitted.borrow();
                    let named = admitted.iter().find(|one| one.id == original.id);
                    prop_assert_eq!(named.map(distance), least, "{:?} was folded to {:?}", scan, original);
                }
                Err(error) => prop_assert!(false, "{error}"),
            }
        }
    }
}
