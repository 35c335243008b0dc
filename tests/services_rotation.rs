//! The promise pinned here: a rotation of the pepper takes the services along. Wherever it is interrupted and taken up
//! again, a person is told the same as before, what is sent again is known, and no table and no event holds a pseudonym of
//! the old pepper.
#![allow(missing_docs, clippy::indexing_slicing, clippy::unwrap_used)]

mod api_support;
#[path = "support/copied.rs"]
mod copied;
#[path = "support/services.rs"]
mod site;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use copied::copied;
use scangate::config::Config;
use scangate::gateway::migration::rotate_pepper;
use scangate::gateway::{Gateway, GatewayError};
use scangate::identity::Identity;
use scangate::journal::{Event, JournalOf, JournalSettings};
use scangate::scan::{DAY_MS, Form, Pseudonym, UnixMillis};
use scangate::services::capability::{Effect, Kind, State};
use scangate::services::health::fact::{Fact, RegisterId, Source, TestKind, TestResult};
use scangate::services::health::{Health, Report};
use scangate::services::log_dir;
use scangate::services::risk_map::Day;
use scangate::services::tracing::Tracing;
use scangate::verify::Pepper;
use scangate::verify::admin_token::AdminScope;
use serde_json::{Value, json};
use site::Site;

const NUMBER: &str = "001093029317";

/// Tables that hold pseudonyms, as bytes or as digits.
const WITH_PSEUDONYMS: [&str; 11] = [
    "declarations1",
    "declarations_ended1",
    "declarations_of1",
    "facts1",
    "feedback_item1",
    "risk_map_exposures1",
    "tracing_cases1",
    "tracing_ends1",
    "tracing_mail1",
    "tracing_silent1",
    "versions1",
];

/// Kinds whose events hold pseudonyms.
const KINDS: [Kind; 6] =
    [Kind::Registers, Kind::Health, Kind::Declarations, Kind::Tracing, Kind::RiskMap, Kind::Feedback];

struct Used {
    directory: Arc<tempfile::TempDir>,
    tokens: [String; 4],
    before: Value,
    case: Value,
    taken_at: UnixMillis,
}

fn config(data: &Path) -> Config {
    let mut config = Config::default();
    data.clone_into(&mut config.gateway.data_dir);
    config.services.listen = Some(([127, 0, 0, 1], 0).into());
    config.listen.addr = ([127, 0, 0, 1], 0).into();
    config.listen.admin = ([127, 0, 0, 1], 0).into();
    config.journal.segment_bytes = 8 << 20;
    config
}

fn rotate(data: &Path, stop: usize) -> (usize, Result<(), GatewayError>) {
    let mut steps = 0;
    let result = rotate_pepper(&config(data), &mut |_| {
        steps += 1;
        if steps == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    (steps, result.map(drop))
}

fn person(data: &Path) -> Pseudonym {
    Identity::new(&Pepper::load(data).unwrap()).citizen(NUMBER)
}

fn record(site: &Site, kind: Kind, body: Vec<u8>) -> Value {
    match site.services().log.record_blocking(kind, body, UnixMillis::now()).unwrap() {
        Effect::Created(body) | Effect::Done(body) => serde_json::from_slice(&body).unwrap_or_default(),
        Effect::Refused(refused) => panic!("{kind:?}: {}", refused.detail),
    }
}

fn tell(site: &Site, kind: Kind, body: &Value) -> Value {
    record(site, kind, body.to_string().into_bytes())
}

fn test_of(person: Pseudonym, source: Source, record: &str, taken_at: UnixMillis) -> Vec<u8> {
    let facts = vec![Fact::Test { kind: TestKind::Pcr, result: TestResult::Positive, taken_at }];
    let report = Report { source, record: record.to_owned(), version: 1, person: Some(person), facts };
    Health::event_body(report, UnixMillis::now()).unwrap()
}

fn declaration() -> Value {
    let answers = json!({"symptoms": ["fever"], "symptom_days": 2, "contact_with_case": false,
        "contact_with_symptoms": false, "in_outbreak_area": false, "note": "sốt nhẹ"});
    json!({"id": "1", "form": "health", "version": 1, "for": "self", "answers": answers})
}

fn get(site: &Site, path: &str, token: &str) -> Value {
    let answer = site.call("GET", path, token, &Value::Null);
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

/// What one person, and the officers about that person, are told; of pseudonyms whether they are the person's.
fn told(site: &Site, [phone, asks, ..]: &[String; 4]) -> Value {
    let mut told = json!({
        "card": get(site, "/v1/card", phone),
        "declarations": get(site, "/v1/declarations", phone),
        "facts": get(site, "/v1/health", phone),
        "notifications": get(site, "/v1/notifications", phone),
        "cases": get(site, "/v1/cases", asks),
    });
    told["card"].as_object_mut().unwrap().retain(|name, _| {
        !matches!(name.as_str(), "qr" | "issued_at" | "expires_at" | "at" | "as_of" | "age_s")
    });
    let own = person(&site.data()).to_string();
    serde_json::from_str(&told.to_string().replace(&own, "the person")).unwrap()
}

/// A gateway whose every table and kind of event holds the person's pseudonym, stopped.
fn used() -> Used {
    let site = Site::start(|_| {});
    let own = person(&site.data());
    let tokens = [
        site.person(NUMBER),
        site.officer("asks", AdminScope::Trace),
        site.officer("one", AdminScope::Approve),
        site.officer("other", AdminScope::Approve),
    ];
    let taken_at = UnixMillis((UnixMillis::now().seconds() - 7200) * 1000);
    let lab = Source::Register(RegisterId::Testing);
    record(&site, Kind::Health, test_of(own, lab, "lab-1", taken_at));
    record(&site, Kind::Health, test_of(own, Source::Code(Form::Hc1), &own.to_string(), taken_at));
    let fact: Value =
        serde_json::from_slice(&test_of(own, lab, "lab-2", UnixMillis(taken_at.0 - DAY_MS))).unwrap();
    tell(&site, Kind::Registers, &json!({"type": "changes", "register": "testing", "facts": [fact]}));
    let case = record(&site, Kind::Tracing, Tracing::proposal(own, taken_at))["case"].clone();
    for officer in &tokens[2..] {
        let path = format!("/v1/cases/{}/approve", case.as_str().unwrap());
        assert_eq!(site.call("POST", &path, officer, &Value::Null).status, 200);
    }
    let day = UnixMillis::now().day();
    tell(&site, Kind::Tracing, &notice(&case, own, day));
    tell(&site, Kind::Tracing, &json!({"event": "content", "person": own.to_string(), "content": false}));
    let place = "0".repeat(32);
    let at = json!([{"day": Day(day).to_string(), "place": place}]);
    let exposed = json!({"type": "exposed", "case": case, "person": own.to_string(), "at": at});
    tell(&site, Kind::RiskMap, &exposed);
    let sent = site.call("POST", "/v1/declarations", &tokens[0], &declaration());
    assert_eq!(sent.status, 201, "{}", sent.text());
    let feedback = json!({"id": "1", "category": "other", "language": "vi", "text": "xin chào"});
    let sent = site.call("POST", "/v1/feedback", &tokens[0], &feedback);
    assert_eq!(sent.status, 201, "{}", sent.text());
    let before = told(&site, &tokens);
    let directory = Arc::clone(&site.directory);
    drop(site);
    Used { directory, tokens, before, case, taken_at }
}

fn notice(case: &Value, person: Pseudonym, day: i32) -> Value {
    let told = json!({"person": person.to_string(), "depth": 1, "day": day});
    json!({"event": "notify", "case": case, "told": [told]})
}

fn holds(bytes: &[u8], person: Pseudonym) -> bool {
    let digits = person.to_string();
    [&person.0[..], digits.as_bytes()].iter().any(|own| memchr::memmem::find(bytes, own).is_some())
}

/// The tables, and the kinds of the log's events, that hold a pseudonym.
fn holding(data: &Path, person: Pseudonym) -> (BTreeSet<String>, BTreeSet<u8>) {
    let state = State::open(&data.join("services/tables")).unwrap();
    let in_table = |name: &String| {
        state.table(name).unwrap().iter().any(|entry| {
            let (key, value) = entry.into_inner().unwrap();
            holds(&key, person) || holds(&value, person)
        })
    };
    let tables = state.names().into_iter().filter(in_table).collect();
    let mut kinds = BTreeSet::new();
    let mut look = |event: &Event| {
        if holds(&event.body, person) {
            kinds.insert(event.capability);
        }
    };
    JournalOf::open(&log_dir(data), JournalSettings::default(), &mut look).unwrap().0.close();
    (tables, kinds)
}

fn files_with(dir: &Path, person: Pseudonym) -> Vec<std::path::PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => files_with(&path, person),
            false if holds(&fs::read(&path).unwrap(), person) => vec![path],
            false => vec![],
        })
        .collect()
}

fn assert_taken_along(used: &Used, directory: Arc<tempfile::TempDir>, old: Pseudonym) {
    let data = directory.path().join("data");
    assert_ne!(person(&data), old);
    assert_eq!(files_with(&data.join("services"), old), Vec::<std::path::PathBuf>::new());
    assert_eq!(holding(&data, old), (BTreeSet::new(), BTreeSet::new()));
    let expected = WITH_PSEUDONYMS.iter().map(ToString::to_string).collect();
    assert_eq!(holding(&data, person(&data)), (expected, KINDS.iter().map(|kind| kind.code()).collect()));
    let applied = |site: &Site| site.services().log.applied_total();
    let site = Site::start_in(directory, |_| {});
    assert_eq!(applied(&site), 0, "no event is applied twice");
    assert_eq!(told(&site, &used.tokens), used.before);
    // What comes again is what it was.
    let own = person(&data);
    let again = record(&site, Kind::Tracing, Tracing::proposal(own, used.taken_at));
    assert_eq!(again["case"], used.case, "no second case");
    assert_eq!(tell(&site, Kind::Tracing, &notice(&used.case, own, UnixMillis::now().day()))["made"], 0);
    let sent = site.call("POST", "/v1/declarations", &used.tokens[0], &declaration());
    assert_eq!(sent.status, 200, "{}", sent.text());
    for (source, name) in [
        (Source::Register(RegisterId::Testing), "lab-1".to_owned()),
        (Source::Code(Form::Hc1), own.to_string()),
    ] {
        let known = record(&site, Kind::Health, test_of(own, source, &name, used.taken_at));
        assert_eq!(known["outcome"], "known", "{known}");
    }
    assert_eq!(told(&site, &used.tokens), used.before);
}

#[test]
fn the_services_are_taken_along_wherever_a_rotation_is_interrupted() {
    let used = used();
    let old = person(&used.directory.path().join("data"));
    let expected: BTreeSet<String> = WITH_PSEUDONYMS.iter().map(ToString::to_string).collect();
    let whole = Arc::new(copied(used.directory.path()));
    let data = whole.path().join("data");
    assert_eq!(holding(&data, old), (expected, KINDS.iter().map(|kind| kind.code()).collect()));
    let (steps, result) = rotate(&data, usize::MAX);
    result.unwrap();
    assert_taken_along(&used, Arc::clone(&whole), old);
    for stop in 1..=steps {
        let interrupted = Arc::new(copied(used.directory.path()));
        let data = interrupted.path().join("data");
        assert!(matches!(rotate(&data, stop).1, Err(GatewayError::Interrupted { .. })), "{stop}");
        let refused = Gateway::start(&config(&data));
        assert!(matches!(refused, Err(GatewayError::RotationUnderWay)), "{stop}: nobody serves in between");
        rotate(&data, usize::MAX).1.unwrap();
        assert_taken_along(&used, Arc::clone(&interrupted), old);
        let mut left: Vec<_> =
            fs::read_dir(data.join("services")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.retain(|name| name.to_string_lossy().contains('.'));
        assert!(left.is_empty(), "{stop}: {left:?}");
    }
    // And once more, on top of the first.
    let second = person(&data);
    rotate(&data, usize::MAX).1.unwrap();
    assert_taken_along(&used, whole, second);
}
