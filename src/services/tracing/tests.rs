//! What each event does to the tables.

use super::change::{Asked, Of, Told};
use super::tables::Made;
use super::*;
use crate::openapi::TraceCase;
use crate::scan::DAY_MS;

struct Fixture {
    tracing: Tracing,
    state: State,
    _dir: tempfile::TempDir,
    events: u8,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let tracing = Tracing::open(&state, &config::Tracing::default()).unwrap();
        Self { tracing, state, _dir: dir, events: 0 }
    }

    fn apply(&mut self, at: i64, body: Vec<u8>) -> Effect {
        self.events += 1;
        let event = Event { id: [self.events; 16], at: UnixMillis(at), capability: 5, body };
        let mut batch = self.state.batch();
        let effect = self.tracing.apply(&event, &mut batch).unwrap();
        batch.commit().unwrap();
        effect
    }

    fn ask(&mut self, at: i64, by: &str, id: &str, depth: u8) -> Effect {
        let of = Of::Person(Key([1; 16]));
        let asked = Asked { of, from: 0, to: DAY_MS, depth, purpose: "case 17".to_owned() };
        let (by, id) = (by.to_owned(), id.to_owned());
        self.apply(at, Change::Ask { by, id, asked, per_hour: 2 }.body())
    }

    fn approve(&mut self, at: i64, case: &str, by: &str, until: i64) -> Effect {
        let case = Key::parse(case).unwrap();
        self.apply(at, Change::Approve { case, by: by.to_owned(), until }.body())
    }
}

fn case(effect: Effect) -> TraceCase {
    match effect {
        Effect::Created(body) | Effect::Done(body) => serde_json::from_slice(&body).unwrap(),
        Effect::Refused(refused) => panic!("{refused:?}"),
    }
}

fn cause(effect: Effect) -> Cause {
    match effect {
        Effect::Refused(refused) => refused.cause,
        other => panic!("{other:?}"),
    }
}

fn made(effect: Effect) -> usize {
    match effect {
        Effect::Done(body) => serde_json::from_slice::<Made>(&body).unwrap().made,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_case_is_asked_for_once_by_its_id_and_so_often_an_hour() {
    let mut fixture = Fixture::new();
    let first = case(fixture.ask(1_000, "an", "17", 1));
    assert_eq!((first.state.as_str(), first.approvals_needed), ("waiting", 1));
    assert_eq!(case(fixture.ask(2_000, "an", "17", 1)), first);
    assert_eq!(cause(fixture.ask(2_000, "an", "17", 2)), Cause::Conflict);
    assert_ne!(case(fixture.ask(3_000, "binh", "17", 1)).case, first.case, "another officer's");
    case(fixture.ask(4_000, "an", "18", 1));
    assert_eq!(cause(fixture.ask(5_000, "an", "19", 1)), Cause::RateLimited);
    case(fixture.ask(5_000, "binh", "19", 1));
    case(fixture.ask(3_601_000, "an", "19", 1));
    assert_eq!(cause(fixture.ask(3_601_000, "an", "20", 1)), Cause::RateLimited);
}

#[test]
fn nobody_approves_their_own_and_an_approval_ends() {
    let mut fixture = Fixture::new();
    let asked = case(fixture.ask(0, "an", "17", 1)).case;
    assert_eq!(cause(fixture.approve(1, &asked, "an", 100)), Cause::Forbidden);
    assert_eq!(cause(fixture.approve(1, &"0".repeat(32), "binh", 100)), Cause::NotFound);
    let approved = case(fixture.approve(1, &asked, "binh", 100));
    assert_eq!((approved.state.as_str(), approved.approved_by), ("approved", vec!["binh".to_owned()]));
    let record = fixture.tracing.tables.case(Key::parse(&asked).unwrap()).unwrap().unwrap();
    assert_eq!(record.approved_until(UnixMillis(99)), Some(UnixMillis(100)));
    assert_eq!(record.approved_until(UnixMillis(100)), None);
    let again = case(fixture.approve(200, &asked, "chi", 300));
    assert_eq!(again.approved_by, ["chi"]);
}

#[test]
fn a_positive_test_makes_one_case_that_two_must_approve() {
    let mut fixture = Fixture::new();
    let taken_at = UnixMillis(20 * DAY_MS);
    let proposal = Tracing::proposal(Pseudonym([1; 16]), taken_at);
    let proposed = case(fixture.apply(taken_at.0 + 5, proposal.clone()));
    assert_eq!((proposed.asked_by, proposed.approvals_needed), (None, 2));
    assert_eq!(proposed.from, UnixMillis(6 * DAY_MS).to_string());
    assert_eq!(case(fixture.apply(taken_at.0 + 9, proposal)).case, proposed.case);
    let mut batch = fixture.state.batch();
    let at = UnixMillis(taken_at.0 + 10);
    fixture.tracing.propose(Pseudonym([1; 16]), taken_at, at, &mut batch).unwrap();
    assert!(batch.is_empty());
    let until = 90 * DAY_MS;
    let at = 21 * DAY_MS;
    assert_eq!(case(fixture.approve(at, &proposed.case, "an", until)).state, "waiting");
    assert_eq!(case(fixture.approve(at, &proposed.case, "an", until)).state, "waiting", "the same one again");
    assert_eq!(case(fixture.approve(at, &proposed.case, "binh", until)).state, "approved");
}

#[test]
fn a_notification_is_made_once_and_stays_until_it_is_acknowledged() {
    let mut fixture = Fixture::new();
    let person = Pseudonym([2; 16]);
    let asked = case(fixture.ask(0, "an", "17", 1)).case;
    let told = vec![Told { person: Key(person.0), depth: 1, day: 3, place: None }];
    let change = Change::Notify { case: Key::parse(&asked).unwrap(), told }.body();
    assert_eq!(cause(fixture.apply(1, change.clone())), Cause::Conflict, "not approved");
    case(fixture.approve(1, &asked, "binh", 100));
    assert_eq!(made(fixture.apply(2, change.clone())), 1);
    assert_eq!(made(fixture.apply(3, change.clone())), 0);
    let waiting = fixture.tracing.tables.waiting(person).unwrap();
    assert_eq!(waiting.len(), 1);
    let id = waiting[0].0;
    assert!(!format!("{:?}", waiting[0]).contains(&asked), "it doesn't say whose case it is");
    let acknowledge = Change::Acknowledge { person: Key(person.0), id }.body();
    for _ in 0..2 {
        assert!(matches!(fixture.apply(4, acknowledge.clone()), Effect::Done(_)));
        assert_eq!(fixture.tracing.tables.waiting(person).unwrap(), []);
    }
    assert_eq!(made(fixture.apply(5, change)), 0, "it isn't made anew");
    let other = Change::Acknowledge { person: Key([3; 16]), id }.body();
    assert_eq!(cause(fixture.apply(6, other)), Cause::NotFound);
}

#[test]
fn all_of_it_goes_when_its_time_is_over() {
    let mut fixture = Fixture::new();
    let retain_ms = fixture.tracing.retain_ms;
    let asked = case(fixture.ask(10, "an", "17", 1)).case;
    case(fixture.approve(10, &asked, "binh", 1000));
    let told = vec![Told { person: Key([2; 16]), depth: 1, day: 3, place: None }];
    fixture.apply(20, Change::Notify { case: Key::parse(&asked).unwrap(), told }.body());
    assert_eq!(fixture.tracing.due(UnixMillis(10 + retain_ms)).unwrap(), None);
    let due = fixture.tracing.due(UnixMillis(15 + retain_ms)).unwrap().expect("the case is over");
    assert_eq!(made(fixture.apply(15 + retain_ms, due)), 1);
    assert_eq!(fixture.tracing.tables.case(Key::parse(&asked).unwrap()).unwrap(), None);
    assert_eq!(fixture.tracing.tables.waiting(Pseudonym([2; 16])).unwrap().len(), 1);
    let due = fixture.tracing.due(UnixMillis(21 + retain_ms)).unwrap().expect("the notification is over");
    assert_eq!(made(fixture.apply(21 + retain_ms, due)), 1);
    assert_eq!(fixture.tracing.tables.waiting(Pseudonym([2; 16])).unwrap(), []);
    assert_eq!(fixture.tracing.due(UnixMillis(i64::MAX)).unwrap(), None);
    case(fixture.ask(30 + retain_ms, "an", "17", 2));
}

#[test]
fn an_event_of_full_size_fits_the_log_and_one_of_another_version_is_refused() {
    let told = Told { person: Key([255; 16]), depth: 2, day: i32::MIN, place: Some(Key([255; 16])) };
    let body = Change::Notify { case: Key([255; 16]), told: vec![told; change::TOLD_MAX] }.body();
    assert!(body.len() <= crate::journal::EVENT_BODY_BYTES_MAX, "{}", body.len());
    let mut fixture = Fixture::new();
    assert_eq!(cause(fixture.apply(0, b"{\"event\":\"later\"}".to_vec())), Cause::Invalid);
}

#[test]
fn what_the_map_is_to_show_follows_approvals_and_tests() {
    let mut fixture = Fixture::new();
    let (person, taken_at) = (Pseudonym([7; 16]), UnixMillis(20 * DAY_MS));
    let proposal = Tracing::proposal(person, taken_at);
    let proposed = case(fixture.apply(taken_at.0, proposal.clone()));
    let unmarked = |fixture: &Fixture| fixture.tracing.unmarked(None).unwrap();
    case(fixture.approve(taken_at.0, &proposed.case, "an", i64::MAX));
    assert_eq!(unmarked(&fixture), [], "one of two");
    case(fixture.approve(taken_at.0, &proposed.case, "binh", i64::MAX));
    let [due] = unmarked(&fixture)[..] else { panic!("{:?}", unmarked(&fixture)) };
    assert_eq!((due.person, due.from, due.to, due.through), (person, Day(6), Day(21), None));
    case(fixture.approve(taken_at.0 + 1, &proposed.case, "chi", i64::MAX));
    assert_eq!(unmarked(&fixture), [due], "it was approved before");

    // Days that aren't told yet are left for later.
    fixture.apply(taken_at.0, due.marked(Day(20)).1);
    let left = unmarked(&fixture)[0];
    assert_eq!((left.through, left.since), (Some(Day(20)), taken_at));
    assert_eq!(fixture.tracing.unmarked(Some(left.case)).unwrap(), []);

    let withdraw = |fixture: &Fixture| {
        let mut batch = fixture.state.batch();
        fixture.tracing.withdraw(person, taken_at, taken_at, &mut batch).unwrap();
        batch.commit().unwrap();
    };
    withdraw(&fixture);
    assert!(unmarked(&fixture)[0].withdrawn);
    let approved = case(fixture.approve(taken_at.0, &proposed.case, "dung", i64::MAX));
    assert_eq!((approved.state.as_str(), approved.approved_until), ("withdrawn", None));
    // Marked by somebody who had seen it before it was withdrawn.
    fixture.apply(taken_at.0, left.marked(Day(21)).1);
    let taken_back = unmarked(&fixture)[0];
    assert!(taken_back.withdrawn);
    fixture.apply(taken_at.0, taken_back.marked(taken_back.to).1);
    assert_eq!(unmarked(&fixture), []);

    assert_eq!(case(fixture.apply(taken_at.0, proposal)).state, "approved", "it was one after all");
    assert_eq!(unmarked(&fixture), [due]);
    fixture.apply(taken_at.0, due.marked(Day(21)).1);
    assert_eq!(unmarked(&fixture), []);
}

#[test]
fn a_places_case_marks_nothing() {
    let mut fixture = Fixture::new();
    let asked =
        Asked { of: Of::Place(Key([2; 16])), from: 0, to: DAY_MS, depth: 1, purpose: "case 17".to_owned() };
    let ask = Change::Ask { by: "an".to_owned(), id: "1".to_owned(), asked, per_hour: 9 };
    let asked = case(fixture.apply(0, ask.body()));
    assert_eq!(case(fixture.approve(1, &asked.case, "binh", 100)).state, "approved");
    assert_eq!(fixture.tracing.unmarked(None).unwrap(), []);
}
