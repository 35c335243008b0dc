use serde_json::{Value, json};

use super::journey::Journey;
use super::record::{client_of, cti, ctis, id_of};
use super::*;
use crate::journal::EVENT_BODY_BYTES_MAX;
use crate::openapi::Relation;
use crate::scan::Pseudonym;

const NOW: UnixMillis = UnixMillis(1_637_736_569_000);
const PERSON: Pseudonym = Pseudonym([7; 16]);

struct Site {
    _dir: tempfile::TempDir,
    state: State,
    declarations: Declarations,
}

fn site() -> Site {
    let dir = tempfile::tempdir().unwrap();
    let state = State::open(&dir.path().join("tables")).unwrap();
    let declarations = Declarations {
        tables: Tables::open(&state).unwrap(),
        forms: Forms::open().unwrap(),
        codes: Codes::without_key(dir.path()),
        retention_ms: 30 * DAY_MS,
        per_day_max: 3,
    };
    Site { _dir: dir, state, declarations }
}

impl Site {
    fn apply(&self, change: &Change, at: UnixMillis) -> Effect {
        let body = serde_json::to_vec(change).unwrap();
        let event = Event { id: [1; 16], at, capability: Kind::Declarations.code(), body };
        let mut batch = self.state.batch();
        let effect = self.declarations.apply(&event, &mut batch).unwrap();
        batch.commit().unwrap();
        effect
    }

    fn revoked(&self) -> Vec<([u8; 16], i64)> {
        let revoked = self.declarations.tables.to_revoke(100).unwrap();
        revoked.iter().map(|code| (code.cti, code.until_s)).collect()
    }
}

fn id(number: u32) -> Id {
    id_of(PERSON, client_of(&number.to_string()))
}

fn answered(answers: Value) -> Answered {
    Answered { version: 1, answers, journey: None }
}

fn travels(hours: i64) -> Answered {
    let journey = Journey { departs_ms: NOW.0, arrives_ms: NOW.0 + hours * 3_600_000 };
    Answered { journey: Some(journey), ..answered(json!({"means": "bus"})) }
}

fn declare(id: Id, answered: Answered) -> Change {
    let declared = Declared {
        declarer: PERSON.0,
        subject: PERSON.0,
        relation: None,
        epoch: 0,
        epoch_first: None,
        client: None,
        proven_until_s: i64::MAX,
        form: "movement".to_owned(),
        first: [1; 16],
    };
    Change::Declared { id, declared, answered }
}

fn cause(effect: &Effect) -> Option<Cause> {
    match effect {
        Effect::Refused(refused) => Some(refused.cause),
        _ => None,
    }
}

#[test]
fn an_id_is_a_uuid_that_only_its_person_gets() {
    let one = uuid::Uuid::from_bytes(id(1));
    assert_eq!(one.get_version_num(), 8);
    assert_ne!(id(1), id(2));
    assert_ne!(id(1), id_of(Pseudonym([8; 16]), client_of("1")));
}

#[test]
fn each_code_is_revoked_up_to_its_own_second_and_the_next_is_issued_later() {
    let site = site();
    assert!(matches!(site.apply(&declare(id(1), travels(5)), NOW), Effect::Created(_)));
    assert!(matches!(site.apply(&declare(id(1), travels(5)), NOW), Effect::Done(_)), "the same again");
    let amend = |revision, hours| Change::Amended { id: id(1), revision, answered: travels(hours) };
    assert!(matches!(site.apply(&amend(1, 6), NOW), Effect::Done(_)));
    assert!(matches!(site.apply(&amend(1, 6), NOW), Effect::Done(_)), "the same again");
    assert_eq!(cause(&site.apply(&amend(1, 7), NOW)), Some(Cause::Conflict));
    let record = site.declarations.tables.get(id(1)).unwrap().unwrap();
    assert_eq!((record.revision, record.issued_s), (2, NOW.seconds() + 1), "within one second");
    let cti = cti(id(1), &record);
    assert_eq!(site.revoked(), [(cti, NOW.seconds())]);
    assert_eq!(site.declarations.tables.of_cti(cti).unwrap(), Some(record));

    let later = UnixMillis(NOW.0 + 60_000);
    assert!(matches!(site.apply(&Change::Withdrawn { id: id(1) }, later), Effect::Done(_)));
    assert!(matches!(site.apply(&Change::Withdrawn { id: id(1) }, later), Effect::Done(_)));
    assert_eq!(site.revoked(), [(cti, NOW.seconds()), (cti, NOW.seconds() + 1)]);
    let record = site.declarations.tables.get(id(1)).unwrap().unwrap();
    assert!(record.withdrawn && record.code_until_s().is_none());
    assert_eq!(cause(&site.apply(&amend(3, 8), later)), Some(Cause::Conflict));
    let earlier = site.declarations.tables.earlier(id(1)).unwrap();
    assert_eq!(earlier.iter().map(|one| one.revision).collect::<Vec<_>>(), [1, 2]);

    let revoked = site.declarations.tables.to_revoke(1).unwrap();
    site.declarations.tables.are_revoked(&revoked).unwrap();
    assert_eq!(site.revoked(), [(cti, NOW.seconds() + 1)]);
}

#[test]
fn a_dependants_code_lives_no_longer_than_the_code_it_was_made_of() {
    let Change::Declared { declared, .. } = declare(id(1), travels(5)) else { panic!("declared") };
    let record = |proven_until_s| {
        Record::new(Declared { proven_until_s, ..declared.clone() }, travels(5), NOW).code_until_s()
    };
    assert_eq!(record(i64::MAX), Some(NOW.seconds() + 29 * 3600));
    assert_eq!(record(NOW.seconds() + 90), Some(NOW.seconds() + 90));
    assert_eq!(record(0), None, "what was only asserted");
}

#[test]
fn a_person_declares_so_many_within_a_day_and_sees_the_newest_first() {
    let site = site();
    let at = |hours: i64| UnixMillis(NOW.0 + hours * 3_600_000);
    for number in 0..3 {
        let effect = site.apply(&declare(id(number), answered(json!({}))), at(number.into()));
        assert!(matches!(effect, Effect::Created(_)));
    }
    let fourth = declare(id(3), answered(json!({})));
    assert_eq!(cause(&site.apply(&fourth, at(23))), Some(Cause::RateLimited));
    assert!(matches!(site.apply(&fourth, at(25)), Effect::Created(_)));

    let page = |after, max| site.declarations.tables.page(&[PERSON, Pseudonym([8; 16])], after, max).unwrap();
    let first = page(None, 3);
    assert_eq!(first.iter().map(|(_, id)| *id).collect::<Vec<_>>(), [id(3), id(2), id(1)]);
    let second = page(first.last().map(|(place, _)| *place), 3);
    assert_eq!(second.iter().map(|(_, id)| *id).collect::<Vec<_>>(), [id(0)]);
    assert_eq!(page(second.last().map(|(place, _)| *place), 3), []);
}

#[test]
fn what_is_over_goes_after_its_retention_with_all_that_it_was_and_nothing_before() {
    let site = site();
    site.apply(&declare(id(1), answered(json!({}))), NOW);
    site.apply(&declare(id(2), travels(48)), NOW);
    site.apply(&Change::Amended { id: id(2), revision: 1, answered: travels(24) }, NOW);
    let expire = |before_ms: i64| {
        let Effect::Done(removed) = site.apply(&Change::Expired { before_ms }, NOW) else { panic!("done") };
        String::from_utf8(removed).unwrap()
    };
    let tables = &site.declarations.tables;
    assert!(!tables.any_ended(NOW.0).unwrap());
    assert_eq!(expire(NOW.0), "{\"removed\":0}\n");
    assert!(tables.any_ended(NOW.0 + 1).unwrap());
    assert_eq!(expire(NOW.0 + 1), "{\"removed\":1}\n");
    assert!(tables.get(id(1)).unwrap().is_none() && tables.get(id(2)).unwrap().is_some());
    // Amended: it ends a day after the earlier arrival.
    let end_ms = (NOW.0 + 2 * DAY_MS).div_euclid(1000) * 1000;
    assert_eq!(tables.last_end_ms().unwrap(), Some(end_ms));
    assert_eq!(expire(end_ms), "{\"removed\":0}\n");
    assert_eq!(expire(end_ms + 1), "{\"removed\":1}\n");
    assert!(tables.get(id(2)).unwrap().is_none() && tables.earlier(id(2)).unwrap().is_empty());
    assert_eq!(tables.page(&[PERSON], None, 9).unwrap(), []);
    assert_eq!(tables.last_end_ms().unwrap(), None);
}

#[test]
fn revisions_are_bounded_and_an_unknown_event_is_refused() {
    let site = site();
    site.apply(&declare(id(1), answered(json!({}))), NOW);
    for revision in 1..REVISIONS_MAX {
        let change = Change::Amended { id: id(1), revision, answered: answered(json!({"n": revision})) };
        assert!(matches!(site.apply(&change, NOW), Effect::Done(_)), "{revision}");
    }
    let change = Change::Amended { id: id(1), revision: REVISIONS_MAX, answered: answered(json!({})) };
    assert_eq!(cause(&site.apply(&change, NOW)), Some(Cause::Conflict));
    assert_eq!(cause(&site.apply(&Change::Withdrawn { id: id(2) }, NOW)), Some(Cause::NotFound));
    let body = br#"{"what":"else"}"#.to_vec();
    let event = Event { id: [1; 16], at: NOW, capability: Kind::Declarations.code(), body };
    let effect = site.declarations.apply(&event, &mut site.state.batch()).unwrap();
    assert_eq!(cause(&effect), Some(Cause::Malformed));
}

/// What a form lets in fits an event, so that it is the form that says what is too long.
#[test]
fn the_longest_answers_that_a_form_takes_fit_an_event() {
    let area = json!({"province": "79", "district": "760"});
    let symptoms = [
        "fever",
        "cough",
        "breathlessness",
        "sore_throat",
        "loss_of_taste_or_smell",
        "fatigue",
        "body_aches",
        "diarrhoea",
    ];
    let health = json!({"symptoms": symptoms, "symptom_days": 14, "contact_with_case": false,
        "contact_with_symptoms": false, "in_outbreak_area": true, "areas": vec![area.clone(); 10],
        "staying_in": area, "note": "\u{1f9a0}".repeat(300)});
    let time = "2021-11-24T06:49:29.123456789+07:00";
    let movement = json!({"origin": area, "stops": vec![area.clone(); 10], "destination": area,
        "means": "motorbike", "departs_at": time, "arrives_at": time, "purpose": "official"});
    let forms = Forms::open().unwrap();
    for (name, answers) in [("health", health), ("movement", movement)] {
        let refused = forms.find(name, 1).unwrap().check(&answers).err();
        assert!(refused.is_none(), "{refused:?}");
        let change = declare(id(1), Answered { answers, ..travels(1) });
        let Change::Declared { id, mut declared, answered } = change else { panic!("declared") };
        declared.relation = Some(Relation::Sibling);
        let event = serde_json::to_vec(&Change::Declared { id, declared, answered }).unwrap();
        assert!(event.len() <= EVENT_BODY_BYTES_MAX, "{}", event.len());
    }
}

#[test]
fn after_a_rotation_the_codes_of_every_epoch_since_are_revoked() {
    let Change::Declared { declared, .. } = declare(id(1), travels(5)) else { panic!("declared") };
    let of = |epoch, epoch_first| {
        let record = Record::new(Declared { epoch, epoch_first, ..declared.clone() }, travels(5), NOW);
        ctis(id(1), &record).map(|cti| cti[15]).collect::<Vec<_>>()
    };
    assert_eq!(of(2, None), [2]);
    assert_eq!(of(3, Some(1)), [1, 2, 3]);
}
