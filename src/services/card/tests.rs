use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::cards::{Cards, FactsOf};
use super::colour::Colour;
use super::facts::Facts;
use super::rules::{RuleSet, Wrong};
use super::{SHIPPED, read};
use crate::scan::{PlaceKey, Pseudonym, UnixMillis};
use crate::services::capability::{State, StateError};
use crate::services::health::fact::{Fact, Known, Provenance, RegisterId, Source, TestKind, TestResult};
use crate::services::places::{Places, ProvinceCode};

const HOUR_MS: i64 = 3_600_000;

fn at(text: &str) -> UnixMillis {
    UnixMillis::parse(text).unwrap()
}

fn shipped() -> Vec<Arc<RuleSet>> {
    SHIPPED.iter().map(|text| read(text.as_bytes(), "config/rules".as_ref()).unwrap()).collect()
}

fn dose(dose: u8, text: &str) -> Fact {
    let day = at(&format!("{text}T00:00:00Z")).day();
    Fact::Vaccination { product: "EU/1/21/1529".to_owned(), dose, doses: 2, day }
}

fn test(result: TestResult, text: &str) -> Fact {
    Fact::Test { kind: TestKind::Pcr, result, taken_at: at(text) }
}

/// Facts that are told by hand, and of whom they can't be read.
#[derive(Default)]
struct Told(Mutex<BTreeMap<Pseudonym, Vec<Known>>>, Mutex<Option<Pseudonym>>);

impl Told {
    fn tell(&self, person: Pseudonym, facts: &[Fact], received: UnixMillis) {
        let source = Source::Register(RegisterId::Vaccination);
        let provenance = Provenance { source, record: "r".to_owned(), version: 0, received };
        let known = |fact: &Fact| Known { fact: fact.clone(), provenance: provenance.clone() };
        self.0.lock().insert(person, facts.iter().map(known).collect());
    }
}

impl FactsOf for Told {
    fn facts_of(&self, person: Pseudonym) -> Result<Vec<Known>, StateError> {
        if *self.1.lock() == Some(person) {
            return Err(StateError::Damaged { table: "facts1" });
        }
        Ok(self.0.lock().get(&person).cloned().unwrap_or_default())
    }

    fn each_person(&self, each: &mut dyn FnMut(Pseudonym)) -> Result<(), StateError> {
        let persons: Vec<_> = self.0.lock().keys().copied().collect();
        persons.into_iter().for_each(each);
        Ok(())
    }
}

struct Site {
    _directory: tempfile::TempDir,
    told: Arc<Told>,
    cards: Cards,
}

fn site(now: UnixMillis) -> Site {
    let directory = tempfile::tempdir().unwrap();
    let places = Arc::new(Places::open(&State::open(directory.path()).unwrap(), 10).unwrap());
    let told = Arc::new(Told::default());
    let cards = Cards::new(Arc::clone(&told) as _, places);
    cards.take_rules(shipped());
    cards.tick(now).unwrap();
    Site { _directory: directory, told, cards }
}

#[test]
fn what_ships_is_fit_and_in_both_languages() {
    let sets = shipped();
    let labels: Vec<&str> = sets.iter().map(|set| set.label.as_str()).collect();
    assert_eq!(labels, ["vn@1", "vn-01@1", "vn-79@1"]);
    let cases: usize = sets.iter().map(|set| set.cases).sum();
    let rules: usize = sets.iter().map(|set| set.rules.len()).sum();
    eprintln!("card: {} rule sets, {rules} rules, {cases} cases", sets.len());
    for rule in sets.iter().flat_map(|set| &set.rules) {
        assert!(!rule.description.vi.is_ascii() && rule.description.en.len() > 20, "{}", rule.id);
    }
}

/// The national set with something else at one place.
fn changed(pointer: &str, value: Value) -> Result<RuleSet, Wrong> {
    let mut document: Value = serde_json::from_str(SHIPPED[0]).unwrap();
    *document.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
    RuleSet::read(document.to_string().as_bytes())
}

#[test]
fn a_set_that_is_not_fit_is_refused_by_rule_and_pointer() {
    let positive = "/rules/0/logic";
    let clock = json!({"var": "external.validationClock"});
    for (pointer, value, at, part) in [
        ("/id", json!("Việt Nam"), "/id", "a-z"),
        ("/version", json!(0), "/version", "from 1"),
        ("/valid_from", json!("yesterday"), "/valid_from", "type"),
        ("/sources", json!([]), "/sources", "document"),
        ("/rules", json!([]), "/rules", "32 rules"),
        ("/rules/1/id", json!("tested-positive"), "/rules/1/id", "another"),
        ("/rules/1/description/vi", json!(""), "/rules/1/description/vi", "500"),
        ("/rules/1/colour", json!("blue"), "/rules/1/colour", "type"),
        (
            "/rules/0/logic/if/1/and/0",
            json!({"or": [true, true]}),
            "/rules/0/logic/if/1/and/0/or",
            "rule tested-positive: there",
        ),
        (
            "/rules/0/logic/if/0/var",
            json!("payload.dob"),
            "/rules/0/logic/if/0/var",
            "rule tested-positive: var names",
        ),
        ("/rules/0/logic/if/0/var", json!("payload.v.16"), "/rules/0/logic/if/0/var", "never there"),
        ("/rules/0/logic/if/0", clock, "/rules/0/logic/if/0/var", "the clock"),
        (
            positive,
            json!({"reduce": [{"var": "payload.v"}, {"var": "current.nam"}, 0]}),
            "/rules/0/logic/reduce/1/var",
            "never",
        ),
        (positive, json!(false), "/cases/1/rule", "rule fully-vaccinated decides"),
        ("/cases/1/colour", json!("green"), "/cases/1/colour", "red"),
        ("/cases/1/at", json!("2021-01-01T00:00:00Z"), "/cases/1/at", "valid_from"),
        ("/cases/10/facts", json!([]), "/cases/10/rule", "no rule"),
        (
            "/cases/0/facts",
            json!(vec![test(TestResult::Negative, "2021-01-01T00:00:00Z"); 17]),
            "/cases/0/facts",
            "16",
        ),
    ] {
        let wrong = changed(pointer, value).expect_err(pointer);
        assert_eq!(wrong.at, at, "{wrong}");
        assert!(wrong.detail.contains(part), "{at}: {wrong}");
    }
    let wrong = changed(
        "/cases",
        json!([{"name": "a", "at": "2021-11-24T00:00:00Z", "facts": [], "colour": "unknown"}]),
    );
    assert_eq!(wrong.expect_err("untried").detail, "rule tested-positive decides no case");
    let long = format!("{{\"id\":\"{}\"", "a".repeat(super::SET_BYTES_MAX));
    assert_eq!(RuleSet::read(long.as_bytes()).expect_err("long").at, "");
    assert_eq!(RuleSet::read(b"{}").expect_err("empty").at, "");
}

#[test]
fn a_colour_lasts_until_it_is_said_to_and_no_longer() {
    let sets = shipped();
    let persons: [Vec<Fact>; 5] = [
        vec![dose(1, "2021-10-20"), dose(2, "2021-11-15")],
        vec![dose(1, "2021-11-20"), test(TestResult::Negative, "2021-11-20T11:11:11.111Z")],
        vec![test(TestResult::Positive, "2021-11-12T08:00:00Z"), dose(2, "2021-11-14")],
        vec![Fact::Recovery { positive_day: 18_940, from_day: 18_960, until_day: 19_120 }],
        vec![],
    ];
    for (set, facts) in sets.iter().flat_map(|set| persons.iter().map(move |facts| (set, facts))) {
        let facts = Facts::of(facts);
        let judge = |at: UnixMillis| set.judge(&facts.data(at), at);
        let start =
            at("2021-11-01T00:00:00Z").max(set.valid_from).min(set.valid_to.unwrap_or(UnixMillis(i64::MAX)));
        if !set.is_valid_at(start) {
            continue;
        }
        let mut now = start;
        let mut turns = 0;
        while let Some(until) = judge(now).until.filter(|until| until.0 - start.0 < 400 * 24 * HOUR_MS) {
            assert!(until > now, "{}: at {now}", set.label);
            let colour = judge(now).colour;
            for step in 0..20 {
                let between = UnixMillis(now.0 + (until.0 - 1 - now.0) * step / 19);
                assert_eq!(judge(between).colour, colour, "{}: {now} {between} {until}", set.label);
            }
            now = until;
            turns += 1;
            assert!(turns < 40, "{} turns for ever", set.label);
        }
        let end = judge(now);
        for days in 1..50 {
            let later = UnixMillis(now.0 + days * 24 * HOUR_MS);
            assert!(end.until.is_some_and(|until| later >= until) || judge(later).colour == end.colour);
        }
    }
}

#[test]
fn cards_follow_facts_time_and_rules() {
    let now = at("2021-11-24T06:00:00Z");
    let Site { told, cards, .. } = &site(now);
    let (one, other) = (Pseudonym([1; 16]), Pseudonym([2; 16]));
    let look = |person, now| {
        let look = cards.look(person, None, now);
        (look.colour, look.as_of, look.rules.map(|rules| rules.label.clone()))
    };
    let label = Some("vn@1".to_owned());
    assert_eq!(look(one, now), (Colour::Unknown, None, label.clone()));
    told.tell(one, &[dose(1, "2021-10-20"), dose(2, "2021-11-15")], now);
    assert_eq!(look(one, now).0, Colour::Unknown, "nobody said so yet");
    cards.facts_changed(one, now).unwrap();
    assert_eq!(look(one, now), (Colour::Yellow, Some(now), label));
    assert_eq!((look(other, now).0, cards.persons()), (Colour::Unknown, 1));
    // Fourteen days after November 15 begin in Việt Nam at 17:00 UTC on the 28th.
    let (before, after) = (at("2021-11-28T16:59:59Z"), at("2021-11-28T17:00:00Z"));
    cards.tick(before).unwrap();
    assert_eq!(look(one, before).0, Colour::Yellow);
    assert_eq!(look(one, after).0, Colour::Unknown, "what has ended is not told");
    cards.tick(after).unwrap();
    assert_eq!(look(one, after).0, Colour::Green);
    told.tell(one, &[], after);
    cards.facts_changed(one, after).unwrap();
    assert_eq!((look(one, after).0, cards.persons()), (Colour::Unknown, 0));
    // Another version turns all cards, after a tick.
    let mut document: Value = serde_json::from_str(SHIPPED[0]).unwrap();
    document["version"] = json!(2);
    document["rules"] =
        json!([{"id": "all", "colour": "red", "description": {"vi": "Tất cả", "en": "All"}, "logic": true}]);
    document["cases"] =
        json!([{"name": "all", "at": "2021-11-24T00:00:00Z", "facts": [], "colour": "red", "rule": "all"}]);
    let set = Arc::new(RuleSet::read(document.to_string().as_bytes()).unwrap());
    told.tell(other, &[dose(1, "2021-11-20")], after);
    cards.take_rules(vec![set]);
    assert_eq!(look(other, after).0, Colour::Unknown);
    cards.tick(after).unwrap();
    let red = |as_of| (Colour::Red, as_of, Some("vn@2".to_owned()));
    assert_eq!((look(one, after), look(other, after)), (red(None), red(Some(after))));
    cards.told_until(UnixMillis(after.0 + HOUR_MS));
    assert_eq!(look(other, after).1, Some(UnixMillis(after.0 + HOUR_MS)));
}

#[test]
fn the_rules_in_force_are_those_of_province_and_time() {
    let label = |cards: &Cards, code: &str| {
        cards.rules(ProvinceCode::parse(code)).map(|rules| rules.label.clone()).unwrap_or_default()
    };
    for (time, hanoi, hcmc, elsewhere) in [
        ("2021-09-01T00:00:00Z", "", "", ""),
        ("2021-09-24T00:00:00Z", "", "vn-79@1", ""),
        ("2021-10-10T17:00:00Z", "vn@1", "vn@1", "vn@1"),
        ("2021-11-24T00:00:00Z", "vn-01@1", "vn@1", "vn@1"),
    ] {
        let Site { cards, .. } = &site(at(time));
        assert_eq!(
            [label(cards, "01"), label(cards, "79"), label(cards, "31")],
            [hanoi, hcmc, elsewhere],
            "{time}"
        );
    }
    // The same over time, without a start in between; a place that nobody knows follows the national rules.
    let Site { cards, .. } = &site(at("2021-09-24T00:00:00Z"));
    cards.tick(at("2021-11-24T00:00:00Z")).unwrap();
    assert_eq!([label(cards, "01"), label(cards, "79")], ["vn-01@1", "vn@1"]);
    let look = cards.at_place(Pseudonym([1; 16]), PlaceKey([1; 16]), at("2021-11-24T00:00:00Z"));
    assert_eq!(look.rules.unwrap().label, "vn@1");
}

#[test]
fn rows_are_found_again_among_many() {
    let now = at("2021-11-24T06:00:00Z");
    let Site { told, cards, .. } = &site(now);
    let person = |number: u64| {
        let mut bytes = [7; 16];
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bytes[..8].copy_from_slice(&mixed.to_le_bytes());
        bytes[15] = number.to_le_bytes()[0];
        Pseudonym(bytes)
    };
    let facts = |number: u64| match number % 3 {
        0 => vec![dose(2, "2021-09-01")],
        1 => vec![test(TestResult::Positive, "2021-11-20T00:00:00Z")],
        _ => vec![],
    };
    for number in 0..3_000 {
        told.tell(person(number), &facts(number), now);
        cards.facts_changed(person(number), now).unwrap();
    }
    // Half of them become others, so that rows are freed and taken again.
    for number in (0..3_000).step_by(2) {
        told.tell(person(number), &facts(number + 1), now);
        cards.facts_changed(person(number), now).unwrap();
    }
    let expected = |number: u64| match (number + u64::from(number.is_multiple_of(2))) % 3 {
        0 => Colour::Green,
        1 => Colour::Red,
        _ => Colour::Unknown,
    };
    for number in 0..3_000 {
        assert_eq!(cards.look(person(number), None, now).colour, expected(number), "{number}");
    }
    for anew in [Cards::tick, Cards::load] {
        cards.take_rules(shipped());
        anew(cards, now).unwrap();
        assert!((0..3_000).all(|number| cards.look(person(number), None, now).colour == expected(number)));
        assert_eq!(cards.persons(), 2_000);
    }
    *told.1.lock() = Some(person(1_500));
    assert!(cards.load(now).is_err(), "one who can't be judged is nobody to pass over");
}
