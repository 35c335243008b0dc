use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::verify::hex;

const DAY: Day = Day(18_955);

struct World {
    _dir: TempDir,
    state: State,
    places: Arc<Places>,
    map: RiskMap,
}

fn world() -> World {
    let dir = TempDir::new().unwrap();
    let state = State::open(dir.path()).unwrap();
    let places = Arc::new(Places::open(&state, 100).unwrap());
    let map = RiskMap::open(&state, &Config::default(), Arc::clone(&places)).unwrap();
    let world = World { _dir: dir, state, places, map };
    let place = |number: u8, name: &str| json!({"key": hex(&[number; 16]), "name": name, "district": "001", "province": "01", "lon": 105.8, "lat": 21.0});
    let put = json!({"type": "put", "places": [place(1, "Bến xe"), place(2, "Thư viện")]});
    world.tell(&*world.places, &put);
    world
}

impl World {
    fn tell(&self, to: &dyn Capability, change: &Value) -> Effect {
        let body = serde_json::to_vec(change).unwrap();
        let event = Event { id: [0; 16], at: UnixMillis(0), capability: to.kind().code(), body };
        let mut batch = self.state.batch();
        let effect = to.apply(&event, &mut batch).unwrap();
        batch.commit().unwrap();
        to.applied(&event);
        effect
    }

    fn cells(&self, day: Day, attempt: u64, persons: u64) {
        let cell = |place: Option<u8>| {
            let place = place.map(|number| hex(&[number; 16]));
            json!({"district": "001", "province": "01", "place": place, "persons": persons, "checkins": place.as_ref().map(|_| persons)})
        };
        let cells =
            json!({"type": "cells", "day": day, "attempt": attempt, "cells": [cell(None), cell(Some(1))]});
        assert_eq!(self.tell(&self.map, &cells), Effect::done(&json!({})));
    }

    fn publish(&self, day: Day, attempt: u64) {
        let published = json!({"type": "published", "day": day, "attempt": attempt, "k": 10, "districts": 1,
            "places": 1, "keeps_from": day.plus(-29)});
        assert_eq!(self.tell(&self.map, &published), Effect::done(&json!({})));
    }

    fn case(&self, kind: &str, day: Day, place: u8, case: u8) {
        self.case_of(kind, day, place, (case, case));
    }

    fn case_of(&self, kind: &str, day: Day, place: u8, (case, person): (u8, u8)) {
        let at = json!([{"day": day, "place": hex(&[place; 16])}]);
        let change = json!({"type": kind, "case": hex(&[case; 16]), "person": hex(&[person; 16]), "at": at});
        assert_eq!(self.tell(&self.map, &change), Effect::done(&json!({})));
    }

    /// The place's and the district's persons and levels, as the map's answers have them.
    fn shown(&self, day: Day) -> (Value, Value) {
        let read = |asked| -> Value { serde_json::from_slice(&self.map.build(&asked).unwrap()).unwrap() };
        let figures =
            |feature: &Value| json!([feature["properties"]["persons"], feature["properties"]["level"]]);
        let districts = read(http::Asked::Districts(day));
        let district =
            districts["features"].as_array().unwrap().iter().find(|one| one["id"] == "001").unwrap().clone();
        let places = read(http::Asked::Places(day, None));
        (figures(&places["features"][0]), figures(&district))
    }
}

#[test]
fn a_told_day_is_frozen_and_an_interrupted_count_is_never_seen() {
    let world = world();
    world.cells(DAY, 1, 70);
    assert_eq!(world.map.build(&http::Asked::Districts(DAY)).unwrap_err().field.as_deref(), Some("day"));
    world.cells(DAY, 2, 30);
    world.publish(DAY, 2);
    assert_eq!(world.shown(DAY), (json!([30, "none"]), json!([30, "none"])));
    // Counted once more, with somebody who came late.
    world.cells(DAY, 3, 40);
    world.publish(DAY, 3);
    assert_eq!(world.shown(DAY).0, json!([30, "none"]));
    assert_eq!(world.map.cells.iter().count(), 2, "what nobody sees is gone");
}

#[test]
fn levels_follow_cases_at_told_places_only() {
    let world = world();
    world.cells(DAY, 1, 30);
    world.publish(DAY, 1);
    // Place 2 isn't told, so neither is anything about it.
    world.case("exposed", DAY, 2, 1);
    assert_eq!(world.shown(DAY), (json!([30, "none"]), json!([30, "none"])));
    for case in (1..=9).chain([9]) {
        world.case("exposed", DAY, 1, case);
        assert_eq!(world.shown(DAY), (json!([30, "exposed"]), json!([30, "exposed"])), "{case}");
    }
    // Somebody's second case is no tenth person.
    world.case_of("exposed", DAY, 1, (11, 9));
    assert_eq!(world.shown(DAY).1, json!([30, "exposed"]));
    world.case("exposed", DAY, 1, 10);
    assert_eq!(world.shown(DAY).1, json!([30, "cluster"]));
    world.case("cleared", DAY, 1, 10);
    assert_eq!(world.shown(DAY).1, json!([30, "exposed"]));
}

#[test]
fn answers_are_made_once_and_anew_when_something_changes() {
    let world = world();
    world.cells(DAY, 1, 30);
    world.publish(DAY, 1);
    let asked = || world.map.built(http::Asked::Places(DAY, None)).unwrap();
    let (first, second) = (asked(), asked());
    assert_eq!((&first.etag, first.body.as_ptr()), (&second.etag, second.body.as_ptr()));
    world.case("exposed", DAY, 1, 1);
    assert_ne!(asked().etag, first.etag);
    world.case("cleared", DAY, 1, 1);
    assert_eq!(asked().etag, first.etag);
}

#[test]
fn days_are_due_after_their_delay_and_forgotten_in_the_end() {
    let world = world();
    let delay = world.map.settings.delay_ms;
    let due = |at: i64| world.map.due(UnixMillis(at)).unwrap();
    let end = DAY.plus(1).begins().0;
    assert_eq!((due(end + delay - 1).last(), due(end + delay).last()), (Some(&DAY.plus(-1)), Some(&DAY)));
    assert_eq!(due(end + delay).len(), 30);
    for day in [DAY, DAY.plus(1), DAY.plus(29), DAY.plus(30)] {
        world.cells(day, 1, 10);
        world.case("exposed", day, 1, 1);
        world.publish(day, 1);
    }
    let days: Vec<Day> = world.map.published().unwrap().iter().map(|of| of.day).collect();
    assert_eq!(days, [DAY.plus(30), DAY.plus(29), DAY.plus(1)]);
    assert_eq!((world.map.cells.iter().count(), world.map.exposures.iter().count()), (6, 3));
    assert_eq!(due(end + delay), []);
    assert_eq!(due(end + delay + 31 * crate::scan::DAY_MS), [DAY.plus(31)]);
}

#[test]
fn levels_change_with_the_days_figures() {
    let world = world();
    let told_at = DAY.plus(1).begins().0 + world.map.settings.delay_ms;
    let as_of = |at: i64| world.map.settings.levels_as_of(UnixMillis(at)).0;
    assert_eq!((as_of(told_at), as_of(told_at + crate::scan::DAY_MS - 1)), (told_at, told_at));
    assert_eq!(as_of(told_at - 1), told_at - crate::scan::DAY_MS);
}

#[test]
fn events_that_mean_nothing_change_nothing() {
    let world = world();
    for change in [
        json!({"type": "exposed", "case": hex(&[1; 16]), "person": hex(&[1; 16]), "at": [{"day": DAY, "place": "zz"}]}),
        json!({"type": "exposed", "case": hex(&[1; 16]), "person": "zz", "at": []}),
        json!({"type": "cleared", "case": "zz", "at": [{"day": DAY, "place": hex(&[1; 16])}]}),
        json!({"type": "cells", "day": "yesterday", "attempt": 1, "cells": []}),
        json!({"type": "another"}),
    ] {
        assert!(matches!(world.tell(&world.map, &change), Effect::Refused(_)), "{change}");
    }
    assert_eq!(world.map.exposures.iter().count(), 0);
}
