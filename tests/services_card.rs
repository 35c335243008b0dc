//! The card: what a place is told at a scan, what a person is told of their own, and how officers bring rules.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod api_support;
#[path = "support/services.rs"]
mod site;
mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use api_support::{Answer, Server, exchange, request};
use scangate::identity::feed::Alias;
use scangate::openapi::{CardRulesList, Duplicate, PersonCard, Recorded};
use scangate::scan::{Pseudonym, UnixMillis};
use scangate::services::health::fact::{Fact, RegisterId, Source, TestKind, TestResult};
use scangate::services::health::{Health, Report};
use scangate::verify::admin_token::AdminScope;
use serde_json::{Value, json};
use site::Site;
use support::ports::free_address;

const NDJSON: &str = "application/x-ndjson";
const NATIONAL: &str = include_str!("../config/rules/vn.json");

/// The specimen whose number stands in `api_support::card(123_456)`.
const NUMBER: &str = "001090123456";

fn site() -> (Site, SocketAddr) {
    let public = free_address();
    (Site::start(|config| config.listen.addr = public), public)
}

fn tell(site: &Site, record: &str, facts: Vec<Fact>) {
    tell_of(site, site.services().host.identity().citizen(NUMBER), record, facts);
}

fn tell_of(site: &Site, person: Pseudonym, record: &str, facts: Vec<Fact>) {
    let (services, person) = (site.services(), Some(person));
    let source = Source::Register(RegisterId::Vaccination);
    let report = Report { source, record: record.to_owned(), version: 1, person, facts };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let recorded =
        Health::record_from_register(&services.log, RegisterId::Vaccination, report, UnixMillis::now());
    runtime.block_on(recorded).unwrap();
}

fn two_doses_ago(days: i32) -> Vec<Fact> {
    let day = UnixMillis::now().day() - days;
    vec![Fact::Vaccination { product: "EU/1/21/1529".to_owned(), dose: 2, doses: 2, day }]
}

fn positive() -> Vec<Fact> {
    let taken_at = UnixMillis(UnixMillis::now().0 - 3_600_000);
    vec![Fact::Test { kind: TestKind::Pcr, result: TestResult::Positive, taken_at }]
}

fn post(public: SocketAddr, token: &str, query: &str, kind: &str, body: &str) -> Answer {
    let headers = [("Authorization", &*format!("Bearer {token}")), ("Content-Type", kind)];
    let answer = exchange(public, "POST", &format!("/v1/checkins{query}"), &headers, body.as_bytes());
    answer.assert_documented("/v1/checkins", "post");
    answer
}

/// A national set that gives everybody one colour.
fn everybody(version: u32, colour: &str) -> Value {
    let mut document: Value = serde_json::from_str(NATIONAL).unwrap();
    document["version"] = version.into();
    document["rules"] = json!([{"id": "all", "colour": colour, "logic": true,
        "description": {"vi": "Áp dụng cho mọi người.", "en": "For everybody."}}]);
    document["cases"] = json!([{"name": "anybody", "at": "2021-11-24T00:00:00Z", "facts": [], "colour": colour, "rule": "all"}]);
    document
}

fn put(site: &Site, token: &str, document: &Value) -> (u16, Value) {
    let answer = site.call("PUT", "/v1/card/rules", token, document);
    answer.assert_documented("/v1/card/rules", "put");
    (answer.status, serde_json::from_slice(&answer.body).unwrap())
}

#[test]
fn a_scan_tells_the_card_where_a_place_asks() {
    let (site, public) = site();
    let officer = site.officer("places", AdminScope::Services);
    let place = json!({"reference": "market", "name": "Chợ Đồng Xuân", "district": "002", "province": "01", "lon": 105.8, "lat": 21.0});
    assert_eq!(
        site.call_with("PUT", "/v1/places", &officer, NDJSON, place.to_string().as_bytes()).status,
        200
    );
    tell(&site, "dose-2", two_doses_ago(30));
    let gate = site.place("market");
    let scan = |id: &str| request(id, &api_support::card(123_456)).to_string();

    let first: Recorded = post(public, &gate, "?card=true", "application/json", &scan("a")).json();
    let card = first.card.unwrap();
    assert_eq!((card.colour.as_str(), card.rules.as_deref()), ("green", Some("vn-01@1")));
    assert!(UnixMillis::parse(&card.as_of.unwrap()).is_ok());
    tell(&site, "test-1", positive());
    let again: Duplicate = post(public, &gate, "?x=1&card=true", "application/json", &scan("b")).json();
    assert_eq!(again.card.unwrap().colour, "red");
    let lines =
        [scan("a"), scan("c"), "{}".to_owned(), request("d", &api_support::card(1)).to_string()].join("\n");
    let answer = post(public, &gate, "?card=true", NDJSON, &lines);
    let lines: Vec<Value> = answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let colours: Vec<&str> =
        lines.iter().map(|line| line["card"]["colour"].as_str().unwrap_or("-")).collect();
    assert_eq!(colours, ["red", "red", "-", "unknown"], "{}", answer.text());
    assert_eq!(
        lines[3]["card"],
        json!({"colour": "unknown", "rules": "vn-01@1"}),
        "nothing is known of them"
    );

    // Elsewhere the national rules hold; and nobody is told who doesn't ask.
    let elsewhere: Recorded =
        post(public, &site.place("shop"), "?card=true", "application/json", &scan("e")).json();
    assert_eq!(elsewhere.card.unwrap().rules.as_deref(), Some("vn@1"));
    for query in ["", "?card=false", "?cards=true"] {
        let again: Duplicate = post(public, &gate, query, "application/json", &scan("f")).json();
        assert_eq!(again.card, None, "{query}");
    }
    let own: Recorded = post(
        public,
        &site.person(NUMBER),
        "?card=true",
        "application/json",
        &request("g", "https://qr.pccovid.gov.vn/Ab3xK9pQ").to_string(),
    )
    .json();
    assert_eq!(own.card, None, "an app asks /v1/card");
}

#[test]
fn a_gateway_without_services_knows_nobodys_card() {
    let server = Server::start(|_| {});
    let token = server.place_device("gate");
    let scan = request("a", &api_support::card(123_456)).to_string();
    let told: Recorded = post(server.public, &token, "?card=true", "application/json", &scan).json();
    let card = told.card.unwrap();
    assert_eq!((card.colour.as_str(), card.as_of, card.rules), ("unknown", None, None));
}

#[test]
fn a_person_is_told_why() {
    let (site, _) = site();
    let app = site.person(NUMBER);
    let card = |query: &str| -> PersonCard {
        let answer = site.call("GET", &format!("/v1/card{query}"), &app, &Value::Null);
        answer.assert_documented("/v1/card", "get");
        answer.json()
    };
    let nothing = card("");
    assert_eq!((nothing.colour.as_str(), nothing.as_of, nothing.reasons.len()), ("unknown", None, 0));
    tell(&site, "dose-2", two_doses_ago(3));
    let soon = card("?province=01");
    assert_eq!((soon.colour.as_str(), soon.rules.as_deref()), ("yellow", Some("vn-01@1")));
    let until = UnixMillis::parse(&soon.until.unwrap()).unwrap();
    assert_eq!((until.0 + 7 * 3_600_000) % 86_400_000, 0, "a day begins in Việt Nam");
    let reason = &soon.reasons[0];
    assert_eq!(reason.rule, "partly-vaccinated");
    assert!(reason.description.vi.contains("mũi") && reason.description.en.contains("dose"));
    assert_eq!(reason.facts[0]["dose"], 2);
    tell(&site, "test-1", positive());
    let red = card("?province=79");
    assert_eq!((red.colour.as_str(), red.rules.as_deref()), ("red", Some("vn@1")));
    let facts = red.reasons[0].facts.as_array().unwrap();
    assert_eq!((facts.len(), &facts[0]["result"]), (1, &json!("positive")), "only what the rule looks at");

    let refused = |path: &str, token: &str| {
        let answer = site.call("GET", path, token, &Value::Null);
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        (answer.status, body["field"].as_str().unwrap_or_default().to_owned())
    };
    let field = |name: &str| name.to_owned();
    assert_eq!(refused("/v1/card", ""), (401, field("authorization")));
    assert_eq!(refused("/v1/card", &site.place("gate")), (403, field("authorization")));
    assert_eq!(refused("/v1/card?province=1", &app), (422, field("province")));
    assert_eq!(refused("/v1/card?of=01", &app), (400, field("query")));
    assert_eq!(refused("/v1/card/of", &app), (404, field("")));
}

fn feed(site: &Site, line: &Value) {
    let (host, line) = (&site.services().host, line.to_string());
    let lines = [line.as_bytes()].into_iter();
    let taken = host.links().take(host.identity(), lines, ("test", ""), UnixMillis::now()).unwrap();
    assert_eq!((taken.accepted, taken.refused), (1, Vec::new()));
}

#[test]
fn a_link_brings_a_persons_facts_together() {
    const QID: &str = "162979388586171100";
    let (site, _) = site();
    let colour = |site: &Site| {
        let answer = site.call("GET", "/v1/card?province=79", &site.person(NUMBER), &Value::Null);
        answer.json::<PersonCard>().colour
    };
    let alias = site.services().host.identity().alias(&Alias::Qid(QID));
    tell_of(&site, alias, "test-1", positive());
    assert_eq!(colour(&site), "unknown", "it was told of somebody else");
    feed(&site, &json!({"citizen": NUMBER, "qid": QID}));
    assert_eq!(colour(&site), "red");
    let site = site.again();
    assert_eq!(colour(&site), "red");
    feed(&site, &json!({"citizen": null, "qid": QID}));
    assert_eq!(colour(&site), "unknown", "the link was a mistake");
}

fn until(mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(30), "it doesn't come to hold");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn officers_bring_rules_and_cards_follow_them() {
    let (site, _) = site();
    let officer = site.officer("rules", AdminScope::Services);
    let app = site.person(NUMBER);
    let label = |site: &Site| -> Option<String> {
        site.call("GET", "/v1/card", &app, &Value::Null).json::<PersonCard>().rules
    };
    let (status, taken) = put(&site, &officer, &everybody(2, "red"));
    assert_eq!((status, &taken["version"], &taken["cases"]), (201, &json!(2), &json!(1)));
    until(|| label(&site).as_deref() == Some("vn@2"));
    assert_eq!(put(&site, &officer, &everybody(2, "red")).0, 200, "the same again");
    let (status, body) = put(&site, &officer, &everybody(2, "green"));
    assert_eq!((status, &body["field"]), (409, &json!("/version")));
    let (status, body) = put(&site, &officer, &serde_json::from_str(NATIONAL).unwrap());
    assert_eq!((status, &body["field"]), (409, &json!("/version")));
    // Longer than an event.
    let mut long = everybody(3, "yellow");
    long["sources"] = json!(vec!["ă".repeat(499); 16]);
    assert_eq!(put(&site, &officer, &long).0, 201);
    until(|| label(&site).as_deref() == Some("vn@3"));

    let listed = site.call("GET", "/v1/card/rules", &officer, &Value::Null);
    listed.assert_documented("/v1/card/rules", "get");
    let listed: CardRulesList = listed.json();
    let in_force: Vec<_> =
        listed.rules.iter().map(|set| (set.id.as_str(), set.version, set.in_force)).collect();
    assert_eq!(in_force, [("vn", 3, true), ("vn-01", 1, true), ("vn-79", 1, false)]);

    let site = site.again();
    assert_eq!(label(&site).as_deref(), Some("vn@3"), "after a start at once");
}

#[test]
fn a_refusal_of_rules_names_rule_and_pointer() {
    let (site, _) = site();
    let officer = site.officer("rules", AdminScope::Services);
    let reader = site.officer("reader", AdminScope::Read);
    let changed = |pointer: &str, value: Value| {
        let mut document = everybody(2, "red");
        *document.pointer_mut(pointer).unwrap() = value;
        document
    };
    for (token, document, status, field, part) in [
        ("", everybody(2, "red"), 401, "authorization", "token"),
        (reader.as_str(), everybody(2, "red"), 403, "authorization", "scope"),
        (&officer, json!([]), 422, "body", "member"),
        (&officer, changed("/version", json!("2")), 422, "/version", "type"),
        (
            &officer,
            changed("/rules/0/logic", json!({"or": [true, true]})),
            422,
            "/rules/0/logic/or",
            "rule all: ",
        ),
        (
            &officer,
            changed("/rules/0/logic", json!({"var": "payload.nam"})),
            422,
            "/rules/0/logic/var",
            "rule all: ",
        ),
        (&officer, changed("/rules/0/logic", json!(false)), 422, "/cases/0/rule", "no rule"),
    ] {
        let (found, body) = put(&site, token, &document);
        assert_eq!((found, body["field"].as_str()), (status, Some(field)), "{body}");
        assert!(body["detail"].as_str().unwrap().contains(part), "{body}");
    }
    let text = site.call_with("PUT", "/v1/card/rules", &officer, "text/plain", b"{}");
    assert_eq!(text.status, 415);
    let broken = site.call_with("PUT", "/v1/card/rules", &officer, "application/json", b"{");
    assert_eq!(broken.status, 400);
    let listed: CardRulesList = site.call("GET", "/v1/card/rules", &officer, &Value::Null).json();
    assert!(listed.rules.iter().all(|set| set.version == 1), "nothing was kept");
}

fn holds(dir: &Path, needle: &[u8]) -> bool {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).any(|path| {
        if path.is_dir() {
            holds(&path, needle)
        } else {
            std::fs::read(&path).unwrap().windows(needle.len()).any(|window| window == needle)
        }
    })
}

/// SIGKILL keeps the page cache: this shows that what is answered was written, not that it was synced.
#[test]
fn rules_that_were_answered_are_there_after_a_kill() {
    let services = free_address();
    let site = support::gateway::Site::new().set("services.listen", &services.to_string());
    let running = site.start();
    let made = site.run_ok(&["keys", "admin", "rules", "--scope", "services"]);
    let token = made.split_whitespace().find(|word| word.len() > 40).unwrap().to_owned();
    assert_eq!(running.connect_admin().request("POST", "/v1/reload", &[], b"").status, 200);
    let app = site.person_device("001090777777");
    let call = |method: &str, path: &str, token: &str, body: &str| {
        let headers = [("Authorization", &*format!("Bearer {token}")), ("Content-Type", "application/json")];
        exchange(services, method, path, &headers, body.as_bytes())
    };
    assert_eq!(call("PUT", "/v1/card/rules", &token, &everybody(2, "yellow").to_string()).status, 201);
    // The log's greeting has the other specimen's card in it.
    let (number, scan) = ("001090777777", json!({"id": "a", "qr": api_support::card(777_777)}));
    let headers = [
        ("Authorization", &*format!("Bearer {}", site.place_device("gate"))),
        ("Content-Type", "application/json"),
    ];
    let scanned =
        running.connect().request("POST", "/v1/checkins?card=true", &headers, scan.to_string().as_bytes());
    assert_eq!(scanned.status, 201);
    running.kill();
    let _running = site.start();
    let card: PersonCard = call("GET", "/v1/card", &app, "").json();
    assert_eq!((card.colour.as_str(), card.rules.as_deref()), ("yellow", Some("vn@2")));
    assert!(!holds(&site.data.join("services"), number.as_bytes()) && !site.log().contains(number));
}
