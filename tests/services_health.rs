//! What is known of a person's health: from registers, in whatever order versions come, and from codes that the person
//! presents; nobody else's code is taken, nothing that was acknowledged is lost, no name is kept, and no officer reads
//! what is not in the audit log first.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

mod api_support;
mod health_support;
#[path = "support/services.rs"]
mod site;
mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use ciborium::value::Value as Cbor;
use health_support::dgc;
use health_support::issuer::{Issuer, claims, members};
use scangate::openapi::{HealthFacts, HealthHistory, HealthTaken};
use scangate::payload;
use scangate::respond::Cause;
use scangate::scan::{Pseudonym, UnixMillis};
use scangate::services::capability::Effect;
use scangate::services::health::fact::{Fact, RegisterId, Source, TestKind, TestResult};
use scangate::services::health::{Health, Report};
use scangate::verify::admin_token::AdminScope;
use scangate::verify::hc1;
use serde_json::{Value, json};
use site::Site;

const NUMBER: &str = "001093029317";
const UVCI: &str = "URN:UVCI:01:VN:2021-SPECIMEN-0001#K";
const LINK: &str = r#"{"citizen":"001093029317","certificate":"URN:UVCI:01:VN:2021-SPECIMEN-0001#K"}"#;
/// 2021-11-24T06:49:29Z
const ISSUED_S: i64 = 1_637_736_569;
const EXPIRES_S: i64 = 4_000_000_000;

/// The specimen's certificate with this entry.
fn certificate(kind: &str, entry: Vec<(&str, Cbor)>) -> Cbor {
    let mut all = vec![("tg", Cbor::from("840539006")), ("ci", UVCI.into()), ("co", "VN".into())];
    all.extend(entry);
    let name = members(vec![("fnt", "MUSTERFRAU<GOESSINGER".into()), ("gnt", "GABRIELE".into())]);
    members(vec![
        ("ver", "1.3.0".into()),
        ("nam", name),
        ("dob", "1998-02-26".into()),
        (kind, Cbor::Array(vec![members(all)])),
    ])
}

fn dose(number: i64) -> Cbor {
    let day = Cbor::from("2021-11-20");
    certificate(
        "v",
        vec![("mp", "EU/1/20/1528".into()), ("dn", number.into()), ("sd", 2.into()), ("dt", day)],
    )
}

/// A site that trusts an issuer, which has linked the specimen's code to the specimen's number.
fn trusting(issuer: &Issuer) -> Site {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    health_support::write(&directory.path().join("data"), "hc1/vn.pem", &issuer.pem);
    let site = Site::start_in(directory, |_| {});
    link(&site, LINK);
    site
}

fn link(site: &Site, line: &str) {
    let token = std::fs::read_to_string(site.data().join("keys/feed-token")).unwrap();
    let authorization = format!("Bearer {}", token.trim());
    let headers = [("Authorization", &*authorization), ("Content-Type", "application/x-ndjson")];
    let path = "/v1/links?source=test&cursor=1";
    assert_eq!(api_support::exchange(site.admin, "POST", path, &headers, line.as_bytes()).status, 200);
}

fn present(site: &Site, token: &str, qr: &str) -> api_support::Answer {
    let answer = site.call("POST", "/v1/health/codes", token, &json!({ "qr": qr }));
    answer.assert_documented("/v1/health/codes", "post");
    answer
}

fn own<T: serde::de::DeserializeOwned + serde::Serialize>(site: &Site, token: &str, query: &str) -> T {
    let answer = site.call("GET", &format!("/v1/health{query}"), token, &Value::Null);
    answer.assert_documented("/v1/health", "get");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn citizen(site: &Site) -> Pseudonym {
    site.services().host.identity().citizen(NUMBER)
}

fn tell(site: &Site, report: Report) -> Result<Effect, scangate::respond::Refused> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let register = RegisterId::Testing;
    let services = site.services();
    runtime.block_on(Health::record_from_register(&services.log, register, report, UnixMillis::now()))
}

fn test_of(person: Pseudonym, version: u64, result: Option<TestResult>) -> Report {
    let taken_at = UnixMillis(ISSUED_S * 1000);
    let facts =
        result.map(|result| Fact::Test { kind: TestKind::Pcr, result, taken_at }).into_iter().collect();
    let record = "lab-7/0042".to_owned();
    Report { source: Source::Register(RegisterId::Testing), record, version, person: Some(person), facts }
}

#[test]
fn a_persons_code_becomes_facts_and_its_editions_replace_each_other_in_any_order() {
    let issuer = Issuer::lasting();
    let site = trusting(&issuer);
    let app = site.person(NUMBER);
    let edition = |later: i64, number| issuer.code(&claims(ISSUED_S + later, EXPIRES_S, dose(number)));
    for (later, number, status, outcome) in
        [(0, 1, 201, "current"), (20, 2, 201, "current"), (10, 1, 201, "superseded"), (20, 2, 200, "known")]
    {
        let answer = present(&site, &app, &edition(later, number));
        assert_eq!(answer.status, status, "{}", answer.text());
        let taken: HealthTaken = answer.json();
        assert_eq!((&*taken.outcome, taken.facts[0].dose), (outcome, Some(u8::try_from(number).unwrap())));
    }
    let site = site.again();
    let facts = own::<HealthFacts>(&site, &app, "").facts;
    assert_eq!(facts.len(), 1);
    assert_eq!((facts[0].dose, facts[0].day.as_deref()), (Some(2), Some("2021-11-20")));
    let provenance = facts[0].provenance.as_ref().unwrap();
    assert_eq!((&*provenance.source, provenance.version), ("hc1", 1_637_736_589));
    let history = own::<HealthHistory>(&site, &app, "?history=true").history;
    let versions: Vec<_> = history.iter().map(|past| (past.provenance.version, past.current)).collect();
    assert_eq!(versions, [(1_637_736_569, false), (1_637_736_579, false), (1_637_736_589, true)]);
    assert!(own::<HealthFacts>(&site, &site.person("001090123456"), "").facts.is_empty());

    // The feed takes the link away: the code is nobody's again, and its facts go with it.
    link(&site, &LINK.replace("\"001093029317\"", "null"));
    assert!(own::<HealthFacts>(&site, &app, "").facts.is_empty());
}

#[test]
fn tests_and_recoveries_are_read_as_well() {
    let issuer = Issuer::lasting();
    let site = trusting(&issuer);
    let app = site.person(NUMBER);
    let at = Cbor::from("2021-11-24T13:49:29+07:00");
    let test = vec![("tt", "LP217198-3".into()), ("tr", "260373001".into()), ("sc", at)];
    let days = vec![("fr", "2021-10-01".into()), ("df", "2021-10-12".into()), ("du", "2022-03-30".into())];
    for (kind, entry, later) in [("t", test, 0), ("r", days, 1)] {
        let code = issuer.code(&claims(ISSUED_S + later, EXPIRES_S, certificate(kind, entry)));
        assert_eq!(present(&site, &app, &code).status, 201);
    }
    let facts: Vec<_> = own::<HealthHistory>(&site, &app, "?history=true").history;
    let told: Vec<_> = facts.into_iter().map(|past| serde_json::to_value(&past.facts[0]).unwrap()).collect();
    let test = json!({"kind": "test", "test": "antigen", "result": "positive", "taken_at": "2021-11-24T06:49:29.000Z"});
    let recovery = json!({
        "kind": "recovery", "positive_day": "2021-10-01", "from_day": "2021-10-12", "until_day": "2022-03-30",
    });
    assert_eq!(told, [test, recovery]);
}

/// The examples of the specification; `nbf` is 2023, no `exp`.
#[test]
fn a_smart_health_cards_doses_are_counted_by_their_days() {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    health_support::write(
        &directory.path().join("data"),
        "shc/examples.json",
        include_str!("data/shc/issuer.json"),
    );
    let site = Site::start_in(directory, |_| {});
    let app = site.person(NUMBER);
    let card = include_str!("data/shc/example-00.txt").trim();
    assert_eq!(present(&site, &app, card).status, 403, "nobody's yet");
    link(
        &site,
        r#"{"citizen":"001093029317","certificate":"https://spec.smarthealth.cards/examples/issuer#MKyCxh7p6uQ"}"#,
    );
    assert_eq!(present(&site, &app, card).status, 201);
    let facts = own::<HealthFacts>(&site, &app, "").facts;
    let doses: Vec<_> = facts
        .iter()
        .map(|fact| (fact.product.as_deref().unwrap(), fact.dose.unwrap(), fact.day.as_deref().unwrap()))
        .collect();
    assert_eq!(
        doses,
        [("cvx:207", 1, "2021-01-01"), ("cvx:207", 2, "2021-01-29"), ("cvx:229", 3, "2022-09-05")]
    );
}

#[test]
fn codes_that_are_not_the_persons_or_do_not_hold_are_refused_with_their_field() {
    let (issuer, stranger) = (Issuer::lasting(), Issuer::lasting());
    let site = trusting(&issuer);
    let app = site.person(NUMBER);
    let code = |issuer: &Issuer, certificate| issuer.code(&claims(ISSUED_S, EXPIRES_S, certificate));
    let good = code(&issuer, dose(1));
    let expired = issuer.code(&claims(ISSUED_S, ISSUED_S + 60, dose(1)));
    let no_dose =
        certificate("v", vec![("mp", "EU/1/20/1528".into()), ("dn", 1.into()), ("dt", "2021-11-20".into())]);
    let future = certificate(
        "v",
        vec![("mp", "EU/1/20/1528".into()), ("dn", 1.into()), ("sd", 2.into()), ("dt", "2099-01-01".into())],
    );
    for (token, qr, status, field, detail) in [
        ("", good.as_str(), 401, "authorization", ""),
        (&site.place("gate"), &good, 403, "authorization", "a person's own app"),
        (&site.person("001090123456"), &good, 403, "/qr", "isn't known to be the token's person's"),
        (&app, &code(&stranger, dose(1)), 422, "/qr", "unknown_key: "),
        (&app, &expired, 422, "/qr", "expired: "),
        (&app, &code(&issuer, no_dose), 422, "/qr", "(sd)"),
        (&app, &code(&issuer, future), 422, "/facts/0/day", "2019-12-01"),
        (&app, "SG1:NCFOXN", 422, "/qr", "must be a health certificate"),
        (&app, "hello", 422, "/qr", "unrecognized: "),
    ] {
        let answer = present(&site, token, qr);
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((answer.status, body["field"].as_str()), (status, Some(field)), "{body}");
        assert!(body["detail"].as_str().unwrap().contains(detail), "{body}");
    }
    let misspelt = site.call("POST", "/v1/health/codes", &app, &json!({"qr": good, "name": "x"}));
    assert_eq!(misspelt.status, 400);
    assert!(own::<HealthHistory>(&site, &app, "?history=true").history.is_empty());
}

#[test]
fn versions_of_a_registers_record_may_come_in_any_order() {
    let told = [
        (1, Some(TestResult::Positive)),
        (2, Some(TestResult::Negative)),
        (3, None),
        (4, Some(TestResult::Positive)),
    ];
    let site = Site::start(|_| {});
    let health = &site.services().capabilities.health;
    let mut orders = BTreeSet::new();
    for seed in 0..256_usize {
        let mut left: Vec<usize> = (0..4).collect();
        let order: Vec<usize> = (0..4).map(|step| left.remove((seed >> (2 * step)) % left.len())).collect();
        orders.insert(order);
    }
    assert_eq!(orders.len(), 24);
    for (number, order) in orders.into_iter().enumerate() {
        let person = Pseudonym([u8::try_from(number).unwrap(); 16]);
        for (step, index) in order.iter().enumerate() {
            let (version, result) = told[*index];
            // A withdrawal names nobody.
            let who = result.map(|_| person);
            let report =
                Report { record: format!("r{number}"), person: who, ..test_of(person, version, result) };
            let highest = order[..step].iter().all(|before| before < index);
            let Effect::Created(body) = tell(&site, report.clone()).unwrap() else { panic!("not new") };
            let outcome = if highest { "current" } else { "superseded" };
            assert!(String::from_utf8(body).unwrap().contains(outcome));
            assert!(matches!(tell(&site, report).unwrap(), Effect::Done(_)), "known");
            let last = order[..=step].iter().max().unwrap();
            let expected = usize::from(told[*last].1.is_some());
            assert_eq!(health.facts_of(person).unwrap().len(), expected);
        }
        let history = health.history_of(person).unwrap();
        let versions: Vec<_> =
            history.iter().map(|past| (past.provenance.version, past.facts.len(), past.current)).collect();
        assert_eq!(versions, [(1, 1, false), (2, 1, false), (3, 0, false), (4, 1, true)]);
    }
}

#[test]
fn corrections_move_a_record_and_tell_both_persons_cards() {
    let site = Site::start(|_| {});
    let health = &site.services().capabilities.health;
    let (citizen, wrong) = (citizen(&site), Pseudonym([9; 16]));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let hook = Arc::clone(&seen);
    health.on_change(move |person| hook.lock().unwrap().push(person));
    tell(&site, test_of(wrong, 1, Some(TestResult::Positive))).unwrap();
    assert_eq!(std::mem::take(&mut *seen.lock().unwrap()), [wrong]);
    tell(&site, test_of(citizen, 2, Some(TestResult::Positive))).unwrap();
    let both = BTreeSet::from([citizen, wrong]);
    assert_eq!(BTreeSet::from_iter(std::mem::take(&mut *seen.lock().unwrap())), both);
    assert!(health.facts_of(wrong).unwrap().is_empty());
    assert_eq!(health.facts_of(citizen).unwrap().len(), 1);
    let history = health.history_of(wrong).unwrap();
    let told: Vec<_> = history.iter().map(|past| (past.facts.len(), past.current)).collect();
    assert_eq!(told, [(1, false), (0, true)], "that it is somebody else's, not whose");

    // The same version, told otherwise.
    let Ok(Effect::Refused(refused)) = tell(&site, test_of(citizen, 2, Some(TestResult::Negative))) else {
        panic!("taken");
    };
    assert_eq!((refused.cause, refused.field.as_deref()), (Cause::Conflict, Some("/version")));
    for (report, field) in [
        (Report { record: String::new(), ..test_of(citizen, 3, None) }, "/record"),
        (Report { record: NUMBER.to_owned(), ..test_of(citizen, 3, None) }, "/record"),
        (Report { person: None, ..test_of(citizen, 3, Some(TestResult::Positive)) }, "/person"),
    ] {
        assert_eq!(tell(&site, report).unwrap_err().field.as_deref(), Some(field));
    }
}

#[test]
fn an_officer_reads_what_is_in_the_audit_log_first() {
    let site = Site::start(|_| {});
    let token = site.officer("cdc", AdminScope::Services);
    let other = site.officer("reader", AdminScope::Read);
    tell(&site, test_of(citizen(&site), 1, Some(TestResult::Positive))).unwrap();
    let read = |token: &str, body: &Value| {
        let answer = site.call("POST", "/v1/health/read", token, body);
        answer.assert_documented("/v1/health/read", "post");
        answer
    };
    let asked = json!({"person": NUMBER, "purpose": "ca bệnh 17"});
    for (token, body, status, field) in [
        ("", asked.clone(), 401, "authorization"),
        (&other, asked.clone(), 403, "authorization"),
        (&token, json!({"person": NUMBER, "purpose": ""}), 422, "/purpose"),
        (&token, json!({"person": NUMBER, "purpose": NUMBER}), 422, "/purpose"),
        (&token, json!({"person": "", "purpose": "x"}), 422, "/person"),
        (&token, json!({"person": 5, "purpose": "x"}), 400, "/person"),
    ] {
        let answer = read(token, &body);
        let told: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((answer.status, told["field"].as_str()), (status, Some(field)), "{told}");
    }
    let answer = read(&token, &asked);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json::<HealthFacts>().facts[0].result.as_deref(), Some("positive"));
    let answer =
        read(&token, &json!({"person": citizen(&site).to_string(), "purpose": "17", "history": true}));
    assert_eq!(answer.json::<HealthHistory>().history.len(), 1);

    let log = std::fs::read_to_string(site.data().join("audit/00000001.ndjson")).unwrap();
    let records: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of_health: Vec<&Value> = records.iter().filter(|record| record["action"] == "health").collect();
    assert_eq!(of_health.len(), 4, "two calls, and nothing of those refused");
    assert_eq!(of_health[0]["subject"], citizen(&site).to_string());
    assert_eq!((&of_health[0]["caller"], &of_health[0]["outcome"]), (&"token:cdc".into(), &"begun".into()));
    assert_eq!((&of_health[1]["rows"], &of_health[1]["outcome"]), (&1.into(), &"done".into()));
    assert_eq!(of_health[0]["purpose"], "ca bệnh 17");

    // What can't be recorded isn't read.
    let audit = site.data().join("audit");
    std::fs::write(audit.join("00000001.ndjson"), "no record\n").unwrap();
    std::fs::write(audit.join("00000002.ndjson"), "no record\n").unwrap();
    let answer = read(&token, &asked);
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.text().contains("audit.disk"));
}

#[test]
fn nothing_personal_is_kept() {
    let issuer = Issuer::lasting();
    let site = trusting(&issuer);
    let app = site.person(NUMBER);
    let code = issuer.code(&claims(ISSUED_S, EXPIRES_S, dose(1)));
    assert_eq!(present(&site, &app, &code).status, 201);
    let directory = Arc::clone(&site.directory);
    drop(site);
    let mut files = 0;
    look(directory.path(), &mut |path, bytes| {
        files += 1;
        for word in ["SPECIMEN-0001", "MUSTERFRAU", "GABRIELE", "1998-02-26", NUMBER, &code[4..40]] {
            let found = memchr::memmem::find(bytes, word.as_bytes());
            assert_eq!(found, None, "{word} in {}", path.display());
        }
    });
    assert!(files > 10);
}

fn look(directory: &Path, each: &mut impl FnMut(&Path, &[u8])) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            look(&path, each);
        } else {
            each(&path, &std::fs::read(&path).unwrap());
        }
    }
}

/// SIGKILL keeps the page cache: this shows that what is answered was written, not that it was synced.
#[test]
fn what_was_acknowledged_is_there_after_a_kill() {
    const CODES: usize = 400;
    let issuer = Issuer::lasting();
    let port = support::ports::free_address();
    let site = support::gateway::Site::new().set("services.listen", &port.to_string());
    health_support::write(&site.data, "hc1/vn.pem", &issuer.pem);
    let gateway = site.start();
    let uvci = |number: usize| format!("01:VN:{number:04}#K");
    let feed = std::fs::read_to_string(site.data.join("keys/feed-token")).unwrap();
    // Sixteen codes a citizen is as many as may be linked.
    let person = |number: usize| format!("0010930{:05}", number / 16);
    let links: String = (0..CODES)
        .map(|number| json!({"citizen": person(number), "certificate": uvci(number)}).to_string() + "\n")
        .collect();
    let authorization = format!("Bearer {}", feed.trim());
    let headers = [("Authorization", &*authorization), ("Content-Type", "application/x-ndjson")];
    let path = "/v1/links?source=test&cursor=1";
    assert_eq!(gateway.connect_admin().request("POST", path, &headers, links.as_bytes()).status, 200);
    let apps: Vec<String> = (0..CODES)
        .step_by(16)
        .map(|number| format!("Bearer {}", site.person_device(&person(number))))
        .collect();

    let told = Mutex::new(vec![0_usize; apps.len()]);
    let taken = |number: usize| {
        let mut entry = dose(1);
        rename(&mut entry, &uvci(number));
        let body = json!({"qr": issuer.code(&claims(ISSUED_S, EXPIRES_S, entry))}).to_string();
        let mut client = support::http::Client::try_connect(port, std::time::Duration::from_secs(10)).ok()?;
        let headers = [("Authorization", apps[number / 16].as_str()), ("Content-Type", "application/json")];
        let answer = client.try_request("POST", "/v1/health/codes", &headers, body.as_bytes()).ok()?;
        (answer.status == 201).then(|| told.lock().unwrap()[number / 16] += 1)
    };
    let count = || told.lock().unwrap().iter().sum::<usize>();
    std::thread::scope(|threads| {
        threads.spawn(|| (0..CODES).try_for_each(taken));
        while count() < 40 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        gateway.kill();
    });
    let _gateway = site.start();
    let told = told.into_inner().unwrap();
    let mut client = support::http::Client::connect(port);
    for (app, told) in apps.iter().zip(told) {
        let answer = client.request("GET", "/v1/health", &[("Authorization", app.as_str())], b"");
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        // One more may have been recorded that nobody could be told of any more.
        let kept = body["facts"].as_array().unwrap().len();
        assert!(kept == told || kept == told + 1, "{kept} of {told}");
    }
}

/// Names another code in a certificate's entry.
fn rename(certificate: &mut Cbor, uvci: &str) {
    let all = certificate.as_map_mut().unwrap();
    let (_, entries) = all.iter_mut().find(|(name, _)| name.as_text() == Some("v")).unwrap();
    let entry = entries.as_array_mut().unwrap()[0].as_map_mut().unwrap();
    entry.iter_mut().find(|(name, _)| name.as_text() == Some("ci")).unwrap().1 = uvci.into();
}

/// Every code of the EU's public test data that can be read at all has an entry with the members that its kind needs.
#[test]
fn the_eus_test_data_has_readable_entries() {
    let (mut read, mut whole) = (0, 0);
    for sample in dgc::samples() {
        let Some(text) = &sample.prefix else { continue };
        if payload::parse(text).is_err() {
            continue;
        }
        let Some(entry) = hc1::entry(text) else { continue };
        read += 1;
        let needed: &[&str] = match entry.kind {
            hc1::EntryKind::Vaccination => &["tg", "mp", "dt"],
            hc1::EntryKind::Test => &["tg", "tt", "tr", "sc"],
            hc1::EntryKind::Recovery => &["tg", "fr", "df", "du"],
        };
        let is_dose = entry.kind == hc1::EntryKind::Vaccination;
        let numbered = !is_dose || ["dn", "sd"].iter().all(|member| entry.number(member).is_some());
        whole += usize::from(numbered && needed.iter().all(|member| entry.text(member).is_some()));
    }
    assert_eq!((read, whole), (569, 569));
}
