//! The promise pinned here: deduplication is exact. Whatever the order of arrival, a model that
//! compares each scan with every admitted one decides alike; and of any number of racers on one key,
//! one is admitted and the rest are told of that one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::scan::{App, ClientKey, DeviceKey, Form, Subject, Trust};

pub(super) const T0: i64 = 1_637_700_000_000;

pub(super) fn settings(windows_s: &[u16]) -> Settings {
    Settings {
        windows_s: windows_s.to_vec(),
        remember_s: 172_800,
        auto_reset_s: 57_600,
        entries_max: 1 << 40,
    }
}

pub(super) fn scan(person: u8, client: u32, at_ms: i64, direction: DirectionRequest) -> Scan {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&client.to_le_bytes());
    Scan {
        person: Pseudonym([person; 16]),
        place: PlaceKey([7; 16]),
        direction,
        at: UnixMillis(T0 + at_ms),
        received: UnixMillis(T0 + 1000),
        client: ClientKey(key),
        device: DeviceKey([1; 8]),
        app: App::PcCovid,
        subject: Subject::Person,
        trust: Trust::Asserted,
        form: Form::Cccd,
        window_s: 60,
    }
}

pub(super) fn fresh<T: Copy + std::fmt::Debug>(
    admission: Result<Admission<'_, T, ()>, AdmitError<()>>,
) -> InFlight<'_, T, ()> {
    match admission {
        Ok(Admission::Fresh(in_flight)) => in_flight,
        other => panic!("expected a fresh scan, got {other:?}"),
    }
}

pub(super) fn original<T: Copy + std::fmt::Debug>(
    admission: Result<Admission<'_, T, ()>, AdmitError<()>>,
) -> (Original, Option<T>) {
    match admission {
        Ok(Admission::Duplicate(original, Standing::InFlight(ticket))) => (original, Some(ticket)),
        Ok(Admission::Duplicate(original, Standing::Durable(()))) => (original, None),
        other => panic!("expected a duplicate, got {other:?}"),
    }
}

#[test]
fn a_scan_inside_the_window_names_its_original_and_one_at_its_edge_is_new() {
    let memory = Deduplicate::new(settings(&[60]), [3; 16]);
    let first = fresh(memory.admit(&scan(1, 1, 0, DirectionRequest::In), &[], |_| Ok(1))).durable(());
    let (named, ticket) = original(memory.admit(&scan(1, 2, 59_999, DirectionRequest::In), &[], |_| Ok(2)));
    assert_eq!((named.id, ticket), (first.id, None));
    fresh(memory.admit(&scan(1, 3, 60_000, DirectionRequest::In), &[], |_| Ok(3))).durable(());
    let (named, _) = original(memory.admit(&scan(1, 4, -59_999, DirectionRequest::In), &[], |_| Ok(4)));
    assert_eq!(named.id, first.id, "a late arrival before the original is inside its window too");
    fresh(memory.admit(&scan(1, 5, -60_000, DirectionRequest::In), &[], |_| Ok(5))).durable(());
    fresh(memory.admit(&scan(1, 6, 10_000, DirectionRequest::Out), &[], |_| Ok(6))).durable(());
    fresh(memory.admit(&scan(2, 7, 10_000, DirectionRequest::In), &[], |_| Ok(7))).durable(());
}

#[test]
fn the_same_client_id_names_its_original_whatever_else_changed() {
    let memory = Deduplicate::new(settings(&[0]), [3; 16]);
    let first = fresh(memory.admit(&scan(1, 1, 0, DirectionRequest::Auto), &[], |_| Ok(1))).durable(());
    let (named, _) = original(memory.admit(&scan(1, 1, 500_000, DirectionRequest::Auto), &[], |_| Ok(2)));
    assert_eq!(named, Original { id: first.id, direction: Direction::In });
    let (named, _) = original(memory.admit(&scan(2, 1, 900, DirectionRequest::Out), &[], |_| Ok(3)));
    assert_eq!(named.id, first.id);
}

#[test]
fn auto_toggles_from_the_last_check_in_and_never_on_a_double_scan() {
    let memory = Deduplicate::new(settings(&[60]), [3; 16]);
    let hour = 3_600_000;
    let direction = |client, at| match memory
        .admit(&scan(1, client, at, DirectionRequest::Auto), &[], |_| Ok::<_, ()>(client))
    {
        Ok(Admission::Fresh(in_flight)) => Some(in_flight.durable(()).direction),
        _ => None,
    };
    assert_eq!(direction(1, 0), Some(Direction::In));
    assert_eq!(direction(2, 3_000), None);
    assert_eq!(direction(3, hour), Some(Direction::Out));
    assert_eq!(direction(4, hour + 59_000), None);
    assert_eq!(direction(5, 2 * hour), Some(Direction::In));
    assert_eq!(direction(6, 20 * hour), Some(Direction::In), "after auto_reset_s a visit begins anew");
}

/// Ids stand in journals, stores and devices: what they are hashed from, and how, is for good.
#[test]
fn an_id_hashes_person_place_direction_and_time_one_after_the_other() {
    use std::hash::Hasher as _;

    let memory = Deduplicate::<u64, ()>::new(settings(&[60]), [3; 16]);
    let mut hasher = siphasher::sip::SipHasher24::new_with_key(&[3; 16]);
    hasher.write(&[5; 16]);
    hasher.write(&[7; 16]);
    hasher.write(&[DirectionRequest::Auto.code()]);
    hasher.write(&9_i64.to_le_bytes());
    let id = memory.checkin_id(Pseudonym([5; 16]), PlaceKey([7; 16]), DirectionRequest::Auto, UnixMillis(9));
    assert_eq!(id, CheckinId::new(UnixMillis(9), hasher.finish()));
}

#[test]
fn a_lost_scan_is_admitted_again_and_never_called_a_duplicate() {
    let memory = Deduplicate::new(settings(&[60]), [3; 16]);
    let lost = fresh(memory.admit(&scan(1, 1, 0, DirectionRequest::Auto), &[], |_| Ok(1)));
    let (_, ticket) = original(memory.admit(&scan(1, 2, 5, DirectionRequest::Auto), &[], |_| Ok(2)));
    assert_eq!(ticket, Some(1), "a duplicate of a scan in flight waits for the same commit");
    lost.failed();
    assert_eq!(memory.in_flight(), 0);
    let again = fresh(memory.admit(&scan(1, 1, 0, DirectionRequest::Auto), &[], |_| Ok(3))).durable(());
    assert_eq!(again.direction, Direction::In, "the lost entry did not toggle the next");
    let refused = memory.admit(&scan(5, 5, 0, DirectionRequest::In), &[], |_| Err::<i32, _>("full"));
    assert!(matches!(refused, Err(AdmitError::Append("full"))));
    fresh(memory.admit(&scan(5, 5, 0, DirectionRequest::In), &[], |_| Ok(4))).durable(());
}

#[test]
fn of_two_lost_scans_neither_comes_back_with_the_other() {
    let memory = Deduplicate::new(settings(&[60]), [3; 16]);
    let first = fresh(memory.admit(&scan(1, 1, 0, DirectionRequest::In), &[], |_| Ok(1)));
    let second = fresh(memory.admit(&scan(1, 2, 100_000, DirectionRequest::In), &[], |_| Ok(2)));
    first.failed();
    second.failed();
    assert_eq!(memory.entries(), 0);
    fresh(memory.admit(&scan(1, 1, 0, DirectionRequest::In), &[], |_| Ok(3))).durable(());
}

#[test]
fn what_lost_scans_had_superseded_is_the_newest_again_in_whatever_order_they_are_lost() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let memory = Deduplicate::new(settings(&[60]), [3; 16]);
        let kept = fresh(memory.admit(&scan(1, 1, 0, DirectionRequest::In), &[], |_| Ok(1))).durable(());
        let mut lost = [(2, 100_000), (3, 200_000), (4, 300_000)].map(|(client, at)| {
            Some(fresh(memory.admit(&scan(1, client, at, DirectionRequest::In), &[], |_| Ok(client))))
        });
        for index in order {
            lost[index].take().unwrap().failed();
        }
        let (named, _) = original(memory.admit(&scan(1, 5, 30_000, DirectionRequest::In), &[], |_| Ok(5)));
        assert_eq!(named.id, kept.id, "{order:?}");
        let out = fresh(memory.admit(&scan(1, 6, 400_000, DirectionRequest::Auto), &[], |_| Ok(6)));
        assert_eq!(out.durable(()).direction, Direction::Out, "{order:?}");
    }
}

#[test]
fn what_came_late_behind_a_lost_scan_is_the_newest_then() {
    let memory = Deduplicate::new(settings(&[60]), [3; 16]);
    fresh(memory.admit(&scan(1, 1, 0, DirectionRequest::In), &[], |_| Ok(1))).durable(());
    let lost = fresh(memory.admit(&scan(1, 2, 300_000, DirectionRequest::In), &[], |_| Ok(2)));
    let newer = fresh(memory.admit(&scan(1, 3, 400_000, DirectionRequest::In), &[], |_| Ok(3)));
    let late = fresh(memory.admit(&scan(1, 4, 200_000, DirectionRequest::In), &[], |_| Ok(4))).durable(());
    memory.sweep(UnixMillis(T0), |_| None);
    newer.failed();
    lost.failed();
    let (named, _) = original(memory.admit(&scan(1, 5, 210_000, DirectionRequest::In), &[], |_| Ok(5)));
    assert_eq!(named.id, late.id);
}

/// A clock that stepped back, or a request that took longer than the next one.
#[test]
fn an_arrival_of_the_generation_before_is_not_hidden_by_a_later_one() {
    let memory = Deduplicate::new(settings(&[60]), [3; 16]);
    let generation = 172_800_000;
    let begins = (T0 / generation + 1) * generation - T0;
    let arriving = |client, at, received, direction| {
        let mut scan = scan(1, client, at, direction);
        scan.received = UnixMillis(T0 + received);
        memory.admit(&scan, &[], |_| Ok::<_, ()>(client))
    };
    fresh(arriving(1, begins - 500, begins + 1, DirectionRequest::In)).durable(());
    let before = fresh(arriving(2, begins - 400, begins - 1, DirectionRequest::Out)).durable(());
    let (named, _) = original(arriving(3, begins + 10, begins + 20, DirectionRequest::Out));
    assert_eq!(named.id, before.id);
    let lost = fresh(arriving(4, begins + 100_000, begins - 1, DirectionRequest::In));
    lost.failed();
    fresh(arriving(5, begins + 100_100, begins + 2, DirectionRequest::In)).durable(());
}

#[test]
fn a_duplicate_of_a_lost_scan_does_not_keep_its_name() {
    let memory = Deduplicate::new(settings(&[60]), [3; 16]);
    fresh(memory.admit(&scan(9, 9, 0, DirectionRequest::In), &[], |_| Ok(0))).durable(());
    let lost = fresh(memory.admit(&scan(1, 1, 0, DirectionRequest::In), &[], |_| Ok(1)));
    let (_, ticket) = original(memory.admit(&scan(1, 2, 5_000, DirectionRequest::In), &[], |_| Ok(2)));
    assert_eq!(ticket, Some(1));
    lost.failed();
    fresh(memory.admit(&scan(2, 2, 5_000, DirectionRequest::In), &[], |_| Ok(3))).durable(());
}

#[test]
fn a_scan_whose_caller_went_away_is_settled_by_the_sweep() {
    let memory = Deduplicate::new(settings(&[60]), [3; 16]);
    drop(fresh(memory.admit(&scan(1, 1, 0, DirectionRequest::In), &[], |_| Ok(1))));
    drop(fresh(memory.admit(&scan(2, 2, 0, DirectionRequest::In), &[], |_| Ok(2))));
    memory.sweep(UnixMillis(T0), |_| None);
    assert_eq!(memory.in_flight(), 2);
    memory.sweep(UnixMillis(T0), |ticket| Some((ticket == 1).then_some(())));
    assert_eq!(memory.in_flight(), 0);
    original(memory.admit(&scan(1, 3, 0, DirectionRequest::In), &[], |_| Ok(3)));
    fresh(memory.admit(&scan(2, 4, 0, DirectionRequest::In), &[], |_| Ok(4))).durable(());
}

#[test]
fn what_the_journal_replays_is_remembered_and_what_is_too_old_is_dropped() {
    let first = Deduplicate::<u64, ()>::new(settings(&[60]), [3; 16]);
    let checkin = fresh(first.admit(&scan(1, 1, 0, DirectionRequest::Auto), &[], |_| Ok(1))).durable(());
    let second = Deduplicate::<u64, ()>::new(settings(&[60]), [3; 16]);
    second.restore(&checkin, UnixMillis(T0 + 1000));
    second.vouch(());
    assert_eq!(second.entries(), 2);
    let (named, _) = original(second.admit(&scan(1, 9, 100, DirectionRequest::Auto), &[], |_| Ok(2)));
    assert_eq!(named.id, checkin.id);
    let (named, _) = original(second.admit(&scan(1, 1, 9_000_000, DirectionRequest::Auto), &[], |_| Ok(2)));
    assert_eq!(named.id, checkin.id);
    second.sweep(UnixMillis(T0 + 5 * 172_800_000), |_| None);
    assert_eq!(second.entries(), 0);
    let third = Deduplicate::<u64, ()>::new(settings(&[60]), [3; 16]);
    third.restore(&checkin, UnixMillis(T0 + 5 * 172_800_000));
    assert_eq!(third.entries(), 0);
}

#[test]
fn entries_are_bounded() {
    let memory = Deduplicate::new(Settings { entries_max: 2, ..settings(&[60]) }, [3; 16]);
    fresh(memory.admit(&scan(1, 1, 0, DirectionRequest::In), &[], |_| Ok(1))).durable(());
    memory.sweep(UnixMillis(T0), |_| None);
    let refused = memory.admit(&scan(2, 2, 0, DirectionRequest::In), &[], |_| Ok::<_, ()>(2));
    assert!(matches!(refused, Err(AdmitError::EntriesMax { limit: 2 })));
    original(memory.admit(&scan(1, 1, 0, DirectionRequest::In), &[], |_| Ok(3)));
}

#[test]
fn of_ten_thousand_racers_one_is_admitted() {
    let memory = Deduplicate::new(settings(&[60]), [3; 16]);
    let appended = AtomicU64::new(0);
    let ids = Mutex::new(HashMap::<CheckinId, u32>::new());
    std::thread::scope(|scope| {
        for thread in 0..8_u32 {
            let (memory, appended, ids) = (&memory, &appended, &ids);
            scope.spawn(move || {
                for turn in 0..1_250_u32 {
                    // Racers of neighbouring buckets and different client ids, all within one window.
                    let client = thread * 10_000 + turn;
                    let scan = scan(1, client, 1_000 * i64::from(turn % 30), DirectionRequest::Auto);
                    let append = |_: &Checkin| Ok::<_, ()>(appended.fetch_add(1, Ordering::SeqCst));
                    let id = match memory.admit(&scan, &[], append) {
                        Ok(Admission::Fresh(in_flight)) => in_flight.durable(()).id,
                        Ok(Admission::Duplicate(original, _)) => original.id,
                        Err(error) => panic!("{error}"),
                    };
                    *ids.lock().entry(id).or_default() += 1;
                }
            });
        }
    });
    assert_eq!(appended.load(Ordering::SeqCst), 1);
    assert_eq!(ids.lock().values().copied().collect::<Vec<_>>(), [10_000]);
}

/// Compares with every admitted scan, as the definition says.
#[derive(Default)]
struct Model {
    clients: HashMap<ClientKey, CheckinId>,
    admitted: Vec<Checkin>,
}

impl Model {
    fn repeats(&self, scan: &Scan, direction: Direction) -> Option<Vec<CheckinId>> {
        if let Some(id) = self.clients.get(&scan.client) {
            return Some(vec![*id]);
        }
        let near: Vec<_> = self
            .admitted
            .iter()
            .filter(|one| one.scan.person == scan.person && one.scan.place == scan.place)
            .filter(|one| scan.direction == DirectionRequest::Auto || one.direction == direction)
            .filter(|one| (one.scan.at.0 - scan.at.0).abs() < i64::from(scan.window_s) * 1000)
            .collect();
        let least = near.iter().map(|one| (one.scan.at.0 - scan.at.0).abs()).min()?;
        Some(near.iter().filter(|one| (one.scan.at.0 - scan.at.0).abs() == least).map(|one| one.id).collect())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn decides_as_the_definition_does(
        arrivals in prop::collection::vec(
            (0_u8..3, 0_u32..60, -400_i64..400, 0_u8..3, prop::bool::ANY, prop::bool::weighted(0.15)), 1..120
        )
    ) {
        let memory = Deduplicate::new(settings(&[60, 150]), [3; 16]);
        let model = RefCell::new(Model::default());
        for (index, (person, client, at_s, direction, wide, lost)) in arrivals.into_iter().enumerate() {
            let requested = DirectionRequest::from_code(direction).unwrap();
            let mut scan = scan(person, client, at_s * 500, requested);
            scan.window_s = if wide { 150 } else { 60 };
            let explicit = if requested == DirectionRequest::Out { Direction::Out } else { Direction::In };
            let expected = model.borrow().repeats(&scan, explicit);
            match memory.admit(&scan, &[], |_| Ok::<_, ()>(index)) {
                Ok(Admission::Fresh(in_flight)) if lost => {
                    prop_assert!(expected.is_none());
                    in_flight.failed();
                }
                Ok(Admission::Fresh(in_flight)) => {
                    prop_assert!(expected.is_none(), "admitted {scan:?} though it repeats {expected:?}");
                    let checkin = in_flight.durable(());
                    let mut model = model.borrow_mut();
                    model.clients.insert(scan.client, checkin.id);
                    model.admitted.push(checkin);
                }
                Ok(Admission::Duplicate(original, standing)) => {
                    prop_assert_eq!(standing, Standing::Durable(()));
                    let expected = expected.unwrap_or_default();
                    prop_assert!(expected.contains(&original.id), "{scan:?} was folded to {original:?}, not {expected:?}");
                    model.borrow_mut().clients.entry(scan.client).or_insert(original.id);
                }
                Err(error) => prop_assert!(false, "{error}"),
            }
        }
    }
}
