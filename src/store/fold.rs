//! The reading rule: which rows of the store are one and the same check-in.
//!
//! Two gateways that share a database don't share memory, so each may record a scan that the other
//! would have called a duplicate. Rows are never rewritten; whoever reads them applies this rule, and
//! everyone who does sees the same check-ins, whatever the order the rows came in:
//!
//! 1. Rows with the same client key are the same scan; the first by (event time, id) stands for all.
//! 2. Of what is left, going by (event time, id): a row of the same person, place and direction as the
//!    last one kept, less than its own window after it, repeats that one and is left out.

use std::collections::{HashMap, HashSet};

use crate::scan::{Checkin, ClientKey, Direction, PlaceKey, Pseudonym, UnixMillis};

use super::version_us;

/// Leaves the rows that count, by (event time, id).
pub fn fold(rows: &mut Vec<Checkin>) {
    rows.sort_unstable_by_key(reading_order);
    let mut clients: HashSet<ClientKey> = HashSet::with_capacity(rows.len());
    let mut last_kept: HashMap<(Pseudonym, PlaceKey, Direction), UnixMillis> = HashMap::new();
    rows.retain(|row| {
        if !clients.insert(row.scan.client) {
            return false;
        }
        let sequence = (row.scan.person, row.scan.place, row.direction);
        let window_ms = i64::from(row.scan.window_s) * 1000;
        let repeats =
            last_kept.get(&sequence).is_some_and(|kept| row.scan.at.0.saturating_sub(kept.0) < window_ms);
        if !repeats {
            last_kept.insert(sequence, row.scan.at);
        }
        !repeats
    });
}

/// Event time and id decide. The rest only makes the order total, so that rows which differ in
/// nothing a reader can see still come out the same way round.
fn reading_order(row: &Checkin) -> impl Ord + use<> {
    let scan = &row.scan;
    let whose = (scan.place, scan.person, row.direction, version_us(row), scan.client, scan.device);
    let how = (scan.window_s, scan.direction, scan.app, scan.subject, scan.trust, scan.form);
    (scan.at, row.id, whose, how)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scan::{App, CheckinId, DeviceKey, DirectionRequest, Form, Scan, Subject, Trust};

    fn row(person: u8, at_s: i64, client: u8, window_s: u16, direction: Direction) -> Checkin {
        let at = UnixMillis(at_s * 1000);
        Checkin {
            id: CheckinId::new(at, u64::from(person) << 8 | u64::from(client)),
            direction,
            scan: Scan {
                person: Pseudonym([person; 16]),
                place: PlaceKey([1; 16]),
                direction: DirectionRequest::Auto,
                at,
                received: UnixMillis(at.0 + 5),
                client: ClientKey([client; 12]),
                device: DeviceKey([1; 8]),
                app: App::PcCovid,
                subject: Subject::Person,
                trust: Trust::Asserted,
                form: Form::Cccd,
                window_s,
            },
        }
    }

    fn kept(mut rows: Vec<Checkin>) -> Vec<(i64, u8)> {
        fold(&mut rows);
        rows.iter().map(|row| (row.scan.at.seconds(), row.scan.client.0[0])).collect()
    }

    #[test]
    fn a_repeat_inside_the_window_folds_to_the_first_kept() {
        let scans = [(0, 1), (59, 2), (60, 3), (100, 4), (120, 5)];
        let rows = scans.map(|(at_s, client)| row(1, at_s, client, 60, Direction::In));
        assert_eq!(kept(rows.to_vec()), [(0, 1), (60, 3), (120, 5)]);
    }

    #[test]
    fn other_directions_and_persons_are_other_sequences() {
        let rows = vec![
            row(1, 0, 1, 60, Direction::In),
            row(1, 10, 2, 60, Direction::Out),
            row(2, 20, 3, 60, Direction::In),
        ];
        assert_eq!(kept(rows), [(0, 1), (10, 2), (20, 3)]);
    }

    #[test]
    fn the_same_client_key_is_the_same_scan_however_far_apart() {
        let rows = vec![row(1, 500, 7, 60, Direction::In), row(1, 0, 7, 60, Direction::In)];
        assert_eq!(kept(rows), [(0, 7)]);
    }

    #[test]
    fn without_a_window_only_client_keys_fold() {
        let rows = vec![row(1, 0, 1, 0, Direction::In), row(1, 0, 2, 0, Direction::In)];
        assert_eq!(kept(rows).len(), 2);
    }

    prop_compose! {
        fn any_row()(person in 0_u8..3, at_s in 0_i64..300, client in 0_u8..40,
                     window_s in prop::sample::select(vec![0_u16, 30, 60]), out in any::<bool>()) -> Checkin {
            row(person, at_s, client, window_s, if out { Direction::Out } else { Direction::In })
        }
    }

    proptest! {
        #[test]
        fn order_does_not_matter_and_folding_twice_changes_nothing(
            (rows, shuffled) in prop::collection::vec(any_row(), 0..60)
                .prop_flat_map(|rows| (Just(rows.clone()), Just(rows).prop_shuffle()))
        ) {
            let (mut folded, mut other) = (rows, shuffled);
            fold(&mut folded);
            fold(&mut other);
            prop_assert_eq!(&folded, &other);
            fold(&mut other);
            prop_assert_eq!(&folded, &other);
        }

        #[test]
        fn what_is_kept_is_a_window_apart(rows in prop::collection::vec(any_row(), 0..60)) {
            let mut rows = rows;
            fold(&mut rows);
            for (index, later) in rows.iter().enumerate() {
                for earlier in rows.iter().take(index) {
                    let same = earlier.scan.person == later.scan.person && earlier.direction == later.direction;
                    let apart = later.scan.at.0 - earlier.scan.at.0 >= i64::from(later.scan.window_s) * 1000;
                    prop_assert!(!same || apart);
                    prop_assert_ne!(earlier.scan.client, later.scan.client);
                }
            }
        }
    }
}
