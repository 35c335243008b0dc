//! Declarations over HTTP, on a gateway of its own: a family declares, a journey's code is scanned, amended and taken back,
//! everything acknowledged outlives a kill, and no name, number or code is left anywhere.

#![allow(clippy::indexing_slicing)]

mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use scangate::config::Config;
use scangate::gateway::Gateway;
use scangate::issue::{self, RoleRef};
use scangate::scan::{App, UnixMillis};
use serde_json::{Value, json};
use support::codes;
use support::gateway::{self, Site};
use support::http::{Client, Response, bearer, problem};
use support::ports::free_address;

const MOTHER: &str = "001093029317";

/// A request with a token and JSON.
fn call(to: SocketAddr, token: &str, method: &str, path: &str, body: &Value) -> Response {
    let authorization = bearer(token);
    let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Client::connect(to).request(method, path, &headers, body.as_bytes())
}

/// A gateway with services, and where those listen.
struct Place {
    site: Site,
    services: SocketAddr,
}

fn place() -> Place {
    let services = free_address();
    Place { site: Site::new().set("services.listen", &services.to_string()), services }
}

impl Place {
    fn call(&self, token: &str, method: &str, path: &str, body: &Value) -> Response {
        call(self.services, token, method, path, body)
    }

    fn get(&self, token: &str, path: &str) -> Response {
        self.call(token, "GET", path, &Value::Null)
    }

    fn declare(&self, token: &str, body: &Value) -> Response {
        self.call(token, "POST", "/v1/declarations", body)
    }

    fn check(&self, gate: &str, qr: &Value) -> Value {
        let answer = self.call(gate, "POST", "/v1/declarations/check", &json!({"qr": qr}));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }
}

fn health(id: &str, whom: &Value) -> Value {
    let answers = json!({"symptoms": ["fever"], "symptom_days": 2, "contact_with_case": false,
        "contact_with_symptoms": false, "in_outbreak_area": false, "note": "sốt nhẹ"});
    json!({"id": id, "form": "health", "version": 1, "for": whom, "answers": answers})
}

fn movement(id: &str, whom: &Value) -> Value {
    let answers = json!({"origin": {"province": "01", "district": "002"}, "stops": [{"province": "37"}],
        "destination": {"province": "79"}, "means": "train", "purpose": "home",
        "departs_at": codes::at(3600), "arrives_at": codes::at(36 * 3600)});
    json!({"id": id, "form": "movement", "version": 1, "for": whom, "answers": answers})
}

/// The one check-in's person in the export, as a pseudonym.
fn persons(gateway: &gateway::Gateway) -> Vec<String> {
    let range = format!("/v1/export?from={}&to={}", codes::at(-3600), codes::at(3600));
    let began = Instant::now();
    loop {
        let answer = gateway.connect_admin().request("GET", &range, &[], b"");
        assert_eq!(answer.status, 200, "{}", answer.text());
        let lines = answer.lines();
        if lines.len() >= 3 || began.elapsed() > Duration::from_secs(20) {
            return lines
                .iter()
                .map(|line| line["person"].as_str().expect("a pseudonym").to_owned())
                .collect();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn forms_are_there_in_both_languages_for_everybody() {
    let place = place();
    let _gateway = place.site.start();
    let mut client = Client::connect(place.services);
    let list = client.request("GET", "/v1/forms", &[], b"").json();
    for form in list["forms"].as_array().expect("forms") {
        let path = format!("/v1/forms/{}/{}", form["name"].as_str().expect("a name"), form["version"]);
        let answer = client.request("GET", &path, &[], b"");
        assert_eq!(answer.status, 200);
        let schema = answer.json();
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert_eq!(&schema["x-form"], form);
        assert!(schema["x-labels"]["vi"].is_string() && schema["x-labels"]["en"].is_string());
    }
    for path in ["/v1/forms/health/2", "/v1/forms/else/1", "/v1/forms/health/x", "/v1/declarations/a/b"] {
        problem(&client.request("GET", path, &[], b""), 404, "not_found");
    }
}

#[test]
fn a_declaration_is_the_same_when_sent_again_and_keeps_what_it_was() {
    let place = place();
    let _gateway = place.site.start();
    let (mother, gate) = (place.site.person_device(MOTHER), place.site.place_device("gate 1"));
    let body = health("d-1", &json!("self"));
    let made = place.declare(&mother, &body);
    assert_eq!(made.status, 201, "{}", made.text());
    let made = made.json();
    let again = place.declare(&mother, &body);
    assert_eq!((again.status, again.json()), (200, made.clone()));
    assert_eq!(
        (&made["revision"], &made["for"], &made["withdrawn"]),
        (&json!(1), &json!("self"), &json!(false))
    );
    assert!(made.get("code").is_none());

    let mut other = body.clone();
    other["answers"]["symptom_days"] = json!(3);
    assert_eq!(problem(&place.declare(&mother, &other), 409, "conflict")["field"], "/id");

    let path = format!("/v1/declarations/{}", made["declaration"].as_str().expect("an id"));
    let amend = json!({"revision": 1, "version": 1, "answers": other["answers"]});
    for _ in 0..2 {
        let amended = place.call(&mother, "PUT", &path, &amend);
        assert_eq!(amended.status, 200, "{}", amended.text());
        assert_eq!(amended.json()["revision"], 2);
    }
    let stale = json!({"revision": 1, "version": 1, "answers": body["answers"]});
    assert_eq!(problem(&place.call(&mother, "PUT", &path, &stale), 409, "conflict")["field"], "/revision");
    let withdrawn = place.call(&mother, "DELETE", &path, &Value::Null);
    assert_eq!((withdrawn.status, &withdrawn.json()["withdrawn"]), (200, &json!(true)));
    let read = place.get(&mother, &path).json();
    let earlier = read["earlier"].as_array().expect("what it was");
    assert_eq!(earlier.iter().map(|one| one["revision"].clone()).collect::<Vec<_>>(), [json!(1), json!(2)]);
    assert_eq!((&earlier[0]["answers"], &earlier[1]["answers"]), (&body["answers"], &other["answers"]));

    // Nobody else's, in no way.
    let stranger = place.site.person_device("001090123456");
    problem(&place.get(&stranger, &path), 404, "not_found");
    problem(&place.call(&stranger, "PUT", &path, &amend), 404, "not_found");
    problem(&place.call(&stranger, "DELETE", &path, &Value::Null), 404, "not_found");
    assert_eq!(place.get(&stranger, "/v1/declarations").json()["declarations"], json!([]));
    problem(&place.get(&gate, &path), 403, "forbidden");
    problem(&Client::connect(place.services).request("GET", &path, &[], b""), 401, "unauthenticated");
}

#[test]
fn each_refusal_names_its_field_and_quotes_nothing() {
    let place = place();
    let gateway = place.site.start();
    let mother = place.site.person_device(MOTHER);
    let edit = |base: Value, pointer: &str, value: Value| {
        let mut body = base;
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        body.pointer_mut(parent).expect("a parent")[name] = value;
        body
    };
    let (by_health, by_movement) = (health("d-1", &json!("self")), movement("m-1", &json!("self")));
    let poster = json!({"dependant": codes::PLACE});
    let child = |mut body: Value, qr: &str| {
        body["relation"] = json!("child");
        edit(body, "/for", json!({"dependant": qr}))
    };
    let secret = "0912345678";
    let cases = [
        (edit(by_health.clone(), "/answers/symptoms", json!([secret])), 422, "/answers/symptoms/0"),
        (edit(by_health.clone(), "/answers/note", json!(secret.repeat(31))), 422, "/answers/note"),
        (edit(by_health.clone(), &format!("/answers/{secret}"), json!(1)), 422, "/answers"),
        (edit(by_health.clone(), "/answers", json!({})), 422, "/answers/symptoms"),
        (edit(by_movement.clone(), "/answers/means", json!(secret)), 422, "/answers/means"),
        (
            edit(by_movement.clone(), "/answers/stops", json!([{"province": secret}])),
            422,
            "/answers/stops/0/province",
        ),
        (edit(by_movement.clone(), "/answers/departs_at", json!("tomorrow")), 422, "/answers/departs_at"),
        (edit(by_movement.clone(), "/answers/arrives_at", json!(codes::at(0))), 422, "/answers/arrives_at"),
        (edit(by_health.clone(), "/form", json!(secret)), 422, "/form"),
        (edit(by_health.clone(), "/version", json!(2)), 422, "/version"),
        (edit(by_health.clone(), "/id", json!("")), 422, "/id"),
        (edit(by_health.clone(), "/relation", json!("child")), 422, "/relation"),
        (edit(by_health.clone(), "/for", json!({"dependant": codes::CCCD})), 422, "/relation"),
        (edit(child(by_health.clone(), ""), "/for", poster), 422, "/for/dependant"),
        (child(by_health.clone(), secret), 422, "/for/dependant"),
        (child(by_health.clone(), &codes::payment()), 422, "/for/dependant"),
        (child(by_health.clone(), "SG1:0123"), 422, "/for/dependant"),
        (edit(by_health.clone(), "/version", json!(secret)), 400, "/version"),
    ];
    for (body, status, field) in cases {
        let answer = place.declare(&mother, &body);
        let refused = problem(&answer, status, if status == 400 { "malformed" } else { "invalid" });
        assert_eq!(refused["field"], field, "{refused}");
        assert!(!answer.text().contains(secret), "{refused}");
    }
    for path in ["/v1/declarations?limit=0", "/v1/declarations?cursor=x", "/v1/declarations?since=x"] {
        problem(&place.get(&mother, path), 400, "malformed");
    }
    assert_eq!(place.get(&mother, "/v1/declarations").json()["declarations"], json!([]), "nothing was kept");
    let gate = place.site.place_device("gate 1");
    let unread = place.call(&gate, "POST", "/v1/declarations/check", &json!({"qr": "SG1:0123"}));
    assert_eq!(problem(&unread, 422, "invalid")["field"], "/qr");
    problem(&place.call(&mother, "POST", "/v1/declarations/check", &json!({"qr": "x"})), 403, "forbidden");
    assert!(!gateway.site.log().contains(secret));
}

/// What a checkpoint scans is the person, under the one pseudonym, by whichever of their codes.
#[test]
fn a_journeys_code_is_scanned_as_the_person_and_goes_with_its_declaration() {
    let place = place();
    let gateway = place.site.start();
    let (mother, gate) = (place.site.person_device(MOTHER), place.site.place_device("gate 1"));
    let body = movement("m-1", &json!("self"));
    let made = place.declare(&mother, &body);
    assert_eq!(made.status, 201, "{}", made.text());
    let made = made.json();
    let code = &made["code"]["qr"];
    assert_eq!(made["code"]["expires_at"].as_str().map(|at| &at[..16]), Some(&codes::at(60 * 3600)[..16]));
    let path = format!("/v1/declarations/{}", made["declaration"].as_str().expect("an id"));
    assert_eq!(place.get(&mother, &path).json()["code"], made["code"], "the same each time");

    let scan = |id: &str, at: &str, qr: &Value| {
        let token = place.site.place_device(at);
        gateway.connect().scan(&token, &json!({"id": id, "qr": qr}))
    };
    let printed = json!(place.site.code("person", MOTHER));
    for (index, qr) in [code, &printed, &json!(codes::QRQG)].into_iter().enumerate() {
        let answer = scan(&format!("s-{index}"), &format!("gate {index}"), qr);
        assert_eq!(answer.status, 201, "{}", answer.text());
        assert_eq!(answer.json()["trust"], if index == 2 { "asserted" } else { "proven" });
    }
    let persons = persons(&gateway);
    assert_eq!(persons.len(), 3);
    // The QID of the third is nobody's yet; the other two are one citizen.
    let distinct: std::collections::BTreeSet<_> = persons.iter().collect();
    assert_eq!(distinct.len(), 2, "{persons:?}");

    let checked = place.check(&gate, code);
    assert_eq!((&checked["valid"], &checked["expires_at"]), (&json!(true), &made["code"]["expires_at"]));
    let mut shown = body["answers"].clone();
    shown.as_object_mut().expect("answers").remove("purpose");
    assert_eq!(checked["journey"], shown, "the route and its times, and nothing more");
    for none in [&printed, &json!(codes::CCCD)] {
        assert_eq!(place.check(&gate, none), json!({"valid": false, "reason": "no_declaration"}));
    }

    let mut later = body["answers"].clone();
    later["means"] = json!("bus");
    let amend = json!({"revision": 1, "version": 1, "answers": later});
    let amended = place.call(&mother, "PUT", &path, &amend).json();
    assert_eq!(place.check(&gate, code), json!({"valid": false, "reason": "revoked"}), "at once");
    assert_eq!(place.check(&gate, &amended["code"]["qr"])["journey"]["means"], "bus");
    place.call(&mother, "DELETE", &path, &Value::Null);
    assert_eq!(place.check(&gate, &amended["code"]["qr"])["reason"], "revoked");
    assert!(place.get(&mother, &path).json().get("code").is_none());
    // The person's own code is as good as before.
    assert_eq!(scan("s-9", "gate 9", &printed).status, 201);
}

/// A code that anyone could have printed doesn't become one that is proven.
#[test]
fn dependants_are_told_by_any_code_and_only_a_signed_one_makes_a_code() {
    let place = place();
    let gateway = place.site.start();
    let (mother, gate) = (place.site.person_device(MOTHER), place.site.place_device("gate 1"));
    let mut card = movement("m-1", &json!({"dependant": codes::CCCD}));
    card["relation"] = json!("child");
    let by_card = place.declare(&mother, &card);
    assert_eq!(by_card.status, 201, "{}", by_card.text());
    let by_card = by_card.json();
    assert_eq!((&by_card["for"], &by_card["relation"]), (&json!("dependant"), &json!("child")));
    assert!(by_card.get("code").is_none());
    let mut signed = movement("m-2", &json!({"dependant": place.site.code("person", "001090123456")}));
    signed["relation"] = json!("child");
    let by_signed = place.declare(&mother, &signed).json();
    assert_eq!(place.check(&gate, &by_signed["code"]["qr"])["valid"], true);
    for (id, qr) in [("s-1", &by_signed["code"]["qr"]), ("s-2", &json!(codes::CCCD))] {
        let answer = gateway.connect().scan(&gate, &json!({"id": id, "qr": qr}));
        assert_eq!(answer.status, if id == "s-1" { 201 } else { 200 }, "one person: {}", answer.text());
    }
    let father = place.site.person_device("001090123456");
    assert_eq!(
        place.get(&father, "/v1/declarations").json()["declarations"],
        json!([]),
        "the declarer's alone"
    );
    // The scanned code's text and the card's number are nowhere.
    gateway.kill();
    for text in [codes::CCCD, "001090123456", MOTHER, "NGUYEN VAN A"] {
        assert!(!contains(&place.site.data, text), "{text} is on disk");
        assert!(!log_without_greeting(&place.site).contains(text), "{text} is logged");
    }
    for made in [&by_signed["code"]["qr"], &signed["for"]["dependant"]] {
        assert!(!contains(&place.site.data, made.as_str().expect("a code")));
    }
}

#[test]
fn what_was_acknowledged_outlives_a_kill_and_is_there_once() {
    let place = place();
    let gateway = place.site.start();
    let mother = place.site.person_device(MOTHER);
    let mut made: Vec<Value> = Vec::new();
    for number in 0..25 {
        let id = format!("d-{number}");
        let body = if number % 2 == 0 { movement(&id, &json!("self")) } else { health(&id, &json!("self")) };
        let answer = place.declare(&mother, &body);
        assert_eq!(answer.status, 201, "{}", answer.text());
        made.push(answer.json());
    }
    let path = format!("/v1/declarations/{}", made[0]["declaration"].as_str().expect("an id"));
    made[0] = place.call(&mother, "DELETE", &path, &Value::Null).json();
    gateway.kill();
    let _gateway = place.site.start();
    made.reverse();
    let mut listed = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = place.get(&mother, &format!("/v1/declarations?limit=10{cursor}")).json();
        listed.extend(page["declarations"].as_array().expect("a page").iter().cloned());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let key = |one: &Value| one["declaration"].to_string();
    let sorted = |mut all: Vec<Value>| {
        all.sort_by_key(key);
        all
    };
    assert_eq!(sorted(listed), sorted(made), "codes included");
}

/// A gateway in this process, whose services are told another time.
#[test]
fn within_a_minute_an_old_code_is_refused_at_a_scan_and_past_its_retention_a_declaration_is_gone() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut config = Config::default();
    config.gateway.data_dir = directory.path().join("data");
    config.listen.addr = ([127, 0, 0, 1], 0).into();
    config.listen.admin = ([127, 0, 0, 1], 0).into();
    config.services.listen = Some(([127, 0, 0, 1], 0).into());
    config.journal.segment_bytes = 8 << 20;
    let gateway = Gateway::start(&config).expect("a gateway");
    let (public, listen) = (gateway.address(), gateway.services_address().expect("services"));
    let (services, signals) = (gateway.services().map(Arc::clone).expect("services"), gateway.signals());
    let thread = std::thread::spawn(move || gateway.run().expect("a good end"));
    let (data, now) = (&config.gateway.data_dir, UnixMillis::now());
    let token = |role| {
        issue::issue_device(data, App::Vneid, role, None, Duration::from_hours(24), now).expect("a token")
    };
    let (mother, gate) = (token(RoleRef::Person(MOTHER)), token(RoleRef::Place("gate 1")));
    let made = call(listen, &mother, "POST", "/v1/declarations", &movement("m-1", &json!("self"))).json();
    let path = format!("/v1/declarations/{}", made["declaration"].as_str().expect("an id"));
    let answers = movement("m-1", &json!("self"))["answers"].clone();
    let amend = json!({"revision": 1, "version": 1, "answers": answers});
    let amended = call(listen, &mother, "PUT", &path, &amend).json();
    services.housekeeping(UnixMillis(now.0 + 120_000));
    let scan = |id: &str, made: &Value| {
        call(public, &gate, "POST", "/v1/checkins", &json!({"id": id, "qr": made["code"]["qr"]}))
    };
    problem(&scan("s-1", &made), 422, "revoked");
    let good = scan("s-2", &amended);
    assert_eq!(good.status, 201, "{}", good.text());
    let printed = issue::issue_person(data, MOTHER, issue::PRINTED_TTL, now).expect("a code");
    let scanned = scan("s-3", &json!({"code": {"qr": printed}}));
    assert_eq!(scanned.status, 200, "the same person: {}", scanned.text());

    let days = |days: i64| UnixMillis(now.0 + days * 86_400_000);
    services.housekeeping(days(32));
    assert_eq!(
        call(listen, &mother, "GET", &path, &Value::Null).status,
        200,
        "it ended in two days and a half"
    );
    services.housekeeping(days(33));
    problem(&call(listen, &mother, "GET", &path, &Value::Null), 404, "not_found");
    let checked =
        call(listen, &gate, "POST", "/v1/declarations/check", &json!({"qr": amended["code"]["qr"]}));
    assert_eq!(checked.json(), json!({"valid": false, "reason": "expired"}));
    drop(services);
    signals.stop();
    thread.join().expect("the gateway's end");
}

/// Whether any file below holds these bytes.
fn contains(dir: &Path, text: &str) -> bool {
    fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path()).any(|path| {
        if path.is_dir() {
            return contains(&path, text);
        }
        let mut bytes = fs::read(&path).unwrap_or_default();
        // Preallocated space.
        bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        memchr::memmem::find(&bytes, text.as_bytes()).is_some()
    })
}

/// The greeting shows the specimen, ready to paste.
fn log_without_greeting(site: &Site) -> String {
    let log = site.log();
    log.lines().filter(|line| !line.starts_with("  -d '{")).collect::<Vec<_>>().join("\n")
}
