//! The promise pinned here: a trace is what an export says of one person, under whichever of the person's codes it was
//! recorded, whether a gateway runs or not; and no citizen number gets into a URL, a log or the audit log for it.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

mod api_support;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use api_support::{Answer, Server, exchange};
use scangate::openapi::ExportedCheckin;
use serde_json::{Value, json};

/// The specimen of the personal code, its number and its QID; the citizen card of the same number.
const QRQG: &str = "001093029317|NGUYEN VAN A|1987-01-18|0|162979388586171100|<1<00<0123232422";
const NUMBER: &str = "001093029317";
const QID: &str = "162979388586171100";
const CARD: &str = "001093029317||NGUYEN VAN A|18011993|Nam|Hà Nội|15042021";
const OTHER: &str = "001090123456|012345678|NGUYEN VAN A|01011990|Nam|Hà Nội|15042021";
const LINK: &[u8] = br#"{"citizen":"001093029317","qid":"162979388586171100"}"#;

const RANGE: (&str, &str) = ("2020-06-01T00:00:00Z", "2021-05-01T00:00:00Z");

/// The year around now, by event time.
fn year() -> (String, String) {
    let now = scangate::scan::UnixMillis::now().0;
    let at = |days: i64| scangate::scan::UnixMillis(now + days * 86_400_000).to_string();
    (at(-300), at(60))
}

fn post(server: &Server, body: &Value) -> Answer {
    let headers = [("Content-Type", "application/json")];
    let answer = exchange(server.admin, "POST", "/v1/trace", &headers, body.to_string().as_bytes());
    answer.assert_documented("/v1/trace", "post");
    answer
}

fn trace(server: &Server, person: &str) -> Vec<ExportedCheckin> {
    let (from, to) = year();
    let answer = post(server, &json!({"person": person, "from": from, "to": to}));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.lines()
}

fn export(server: &Server) -> Vec<ExportedCheckin> {
    let (from, to) = year();
    server.operate("GET", &format!("/v1/export?from={from}&to={to}")).lines()
}

fn link(server: &Server) {
    let token = fs::read_to_string(server.data().join("keys/feed-token")).unwrap();
    let authorization = format!("Bearer {}", token.trim());
    let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/x-ndjson")];
    let answer = exchange(server.admin, "POST", "/v1/links?source=test&cursor=1", &headers, LINK);
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn offline(data: &Path, person: &str, input: Option<&str>) -> (Vec<ExportedCheckin>, String, Option<i32>) {
    let (from, to) = year();
    let mut child = Command::new(env!("CARGO_BIN_EXE_scangate"))
        .args(["trace", person, "--from", &from, "--to", &to, "--purpose", "ca bệnh 17", "--data-dir"])
        .arg(data)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.unwrap_or_default().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let rows = text.lines().map(api_support::exact).collect();
    (rows, String::from_utf8(output.stderr).unwrap(), output.status.code())
}

#[test]
fn a_trace_is_what_the_export_says_of_one_person() {
    let server = Server::start(|_| {});
    let (gate, hall) = (server.place_device("gate"), server.place_device("hall"));
    for (token, id, qr) in
        [(&gate, "1", QRQG), (&gate, "2", CARD), (&gate, "3", OTHER), (&hall, "4", CARD), (&hall, "5", OTHER)]
    {
        assert_eq!(server.scan(token, id, qr).status, 201, "{id}");
    }
    assert_eq!(
        (trace(&server, QID).len(), trace(&server, NUMBER).len()),
        (1, 2),
        "nobody knows that they are one"
    );
    link(&server);
    let mut expected = export(&server);
    let person = trace(&server, NUMBER)[0].person.clone();
    expected.retain(|row| row.person == person);
    expected.sort_by(|left, right| (&left.at, &left.checkin).cmp(&(&right.at, &right.checkin)));
    assert_eq!(expected.len(), 2, "the repetition under the other code is folded");
    for reference in [NUMBER, QID, &person] {
        assert_eq!(trace(&server, reference), expected, "{reference}");
    }
    let (from, to) = year();
    let by_pseudonym = server.operate("GET", &format!("/v1/trace?person={person}&from={from}&to={to}"));
    assert_eq!(by_pseudonym.lines::<ExportedCheckin>(), expected);
    assert_eq!(trace(&server, "nobody"), []);
    // By the command: beside the gateway, with the number from standard input, and from the files alone.
    let data = server.data();
    let (rows, error, code) = offline(&data, "-", Some("001093029317\n"));
    assert_eq!((rows, code), (expected.clone(), Some(0)), "{error}");
    let directory = server.stopped();
    let data = directory.path().join("data");
    let (rows, error, code) = offline(&data, QID, None);
    assert_eq!((rows, code), (expected, Some(0)), "{error}");
    let log = fs::read_to_string(data.join("audit/00000001.ndjson")).unwrap();
    assert!(log.contains("\"action\":\"trace\",\"outcome\":\"begun\"") && log.contains(&person));
    assert!(log.contains("\"caller\":\"local\"") && log.contains("\"caller\":\"cli:"), "{log}");
    assert!(log.contains("\"purpose\":\"ca bệnh 17\""));
    for secret in [NUMBER, QID, "NGUYEN"] {
        assert!(!log.contains(secret), "{secret}");
    }
}

#[test]
fn a_number_has_no_place_in_a_url_and_ranges_are_bounded() {
    let server = Server::start(|_| {});
    let (from, to) = RANGE;
    for (person, field) in [(NUMBER, "person"), (QID, "person"), ("", "person"), ("x", "person")] {
        let refused = server.operate("GET", &format!("/v1/trace?person={person}&from={from}&to={to}"));
        assert_eq!(refused.status, 400);
        let problem = refused.problem();
        assert_eq!(problem.field.as_deref(), Some(field));
        assert!(person.is_empty() || person == "x" || !problem.detail.contains(person));
    }
    for (body, field) in [
        (json!({"from": from, "to": to}), "body"),
        (json!({"person": NUMBER, "from": from, "to": to, "more": 1}), "body"),
        (json!({"person": NUMBER, "from": from, "to": "soon"}), "to"),
        (json!({"person": NUMBER, "from": "2019-01-01T00:00:00Z", "to": to}), "to"),
        (json!({"person": " ", "from": from, "to": to}), "person"),
        (json!({"person": "x".repeat(257), "from": from, "to": to}), "person"),
        (json!({"person": NUMBER, "from": from, "to": to, "purpose": NUMBER}), "purpose"),
    ] {
        let refused = post(&server, &body);
        assert_eq!(refused.status, 400, "{body}");
        let problem = refused.problem();
        assert_eq!(problem.field.as_deref(), Some(field), "{body}");
        assert!(!problem.detail.contains(NUMBER));
    }
    let typeless = exchange(server.admin, "POST", "/v1/trace", &[], b"{}");
    assert_eq!(typeless.status, 415);
    assert_eq!(
        post(&server, &json!({"person": NUMBER, "from": to, "to": from})).status,
        200,
        "an empty range is empty"
    );
}

#[test]
fn a_purpose_is_asked_for_where_the_configuration_says_so() {
    let server = Server::start(|config| config.admin.purpose_required = true);
    let (from, to) = RANGE;
    for path in [
        format!("/v1/export?from={from}&to={to}"),
        format!("/v1/trace?person={}&from={from}&to={to}", "0".repeat(32)),
    ] {
        let refused = server.operate("GET", &path);
        assert_eq!((refused.status, refused.problem().field.as_deref()), (400, Some("purpose")));
        assert_eq!(server.operate("GET", &format!("{path}&purpose=ca%20b%E1%BB%87nh%2017")).status, 200);
    }
    let log = fs::read_to_string(server.data().join("audit/00000001.ndjson")).unwrap();
    assert_eq!(
        log.matches("\"purpose\":\"ca bệnh 17\"").count(),
        4,
        "each call twice, the refused ones never"
    );
}
