//! The client's types are those of the API's own description, in both directions.

#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;

use scangate_client::{Direction, Duplicate, Original, Reason, Recorded, Refusal, Scan};
use serde::Serialize;
use serde_json::{Value, json};
use support::Gateway;

fn described() -> Value {
    let gateway = Gateway::new(&[]);
    let mut answer = ureq::get(format!("{}/openapi.json", gateway.base)).call().unwrap();
    serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap()
}

fn members(value: &impl Serialize) -> BTreeSet<String> {
    serde_json::to_value(value).unwrap().as_object().unwrap().keys().cloned().collect()
}

fn words(schema: &Value) -> BTreeSet<String> {
    let words = schema["enum"].as_array().unwrap().iter();
    words.filter_map(|word| word.as_str().map(str::to_owned)).collect()
}

#[test]
fn the_types_are_the_description_s() {
    let document = described();
    let schema = |name: &str| document["components"]["schemas"][name].clone();
    let described = |name: &str| -> BTreeSet<String> {
        schema(name)["properties"].as_object().unwrap().keys().cloned().collect()
    };
    // Told to those only who ask for it, which this client doesn't.
    let without_card = |members: BTreeSet<String>| &members - &BTreeSet::from(["card".to_owned()]);
    let with_outcome = |mut members: BTreeSet<String>| {
        members.insert("outcome".to_owned());
        members
    };
    assert_eq!(members(&Scan::now("x", Direction::In)), described("CheckinRequest"));

    let common = json!({"id": "1", "direction": "in", "subject": "person", "trust": "proven", "at": "2021-11-24T06:49:29Z"});
    let mut recorded = common.clone();
    recorded["checkin"] = "01a20c8f-0000-8000-8000-000000000000".into();
    let recorded: Recorded = serde_json::from_value(recorded).unwrap();
    assert_eq!(with_outcome(members(&recorded)), without_card(described("Recorded")));

    let original: Original =
        serde_json::from_value(json!({"checkin": "01a2", "at": "2021-11-24T06:49:29Z"})).unwrap();
    assert_eq!(members(&original), described("Original"));
    let mut duplicate = common;
    duplicate["original"] = serde_json::to_value(original).unwrap();
    let duplicate: Duplicate = serde_json::from_value(duplicate).unwrap();
    assert_eq!(with_outcome(members(&duplicate)), without_card(described("Duplicate")));

    let refusal: Refusal = serde_json::from_value(json!({"outcome": "expired", "detail": "x"})).unwrap();
    let left_out = ["id", "limit", "value"].map(str::to_owned);
    assert_eq!(members(&refusal), &described("Refused") - &BTreeSet::from(left_out));
}

#[test]
fn every_reason_is_known_and_none_is_made_up() {
    let document = described();
    let described = words(&document["components"]["schemas"]["Refused"]["properties"]["outcome"]);
    for name in &described {
        let reason: Reason = serde_json::from_value(name.as_str().into()).unwrap();
        assert_ne!(reason, Reason::Other, "{name} is not known");
        assert_eq!(serde_json::to_value(reason).unwrap(), name.as_str());
    }
    assert_eq!(described.len(), 18);
}
