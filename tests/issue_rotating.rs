//! A phone's code over HTTP: judged at the time of the scan, however late the scan arrives, while keys and
//! revocations are judged on arrival.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod api_support;

use std::time::Duration;

use api_support::{Server, card, request};
use scangate::issue;
use scangate::scan::UnixMillis;
use scangate::verify::manage::keys_revoke;
use scangate::verify::{Keys, Revocation};
use serde_json::Value;

const JSON: &str = "application/json";
const HOUR_MS: i64 = 3_600_000;
const PHONE_TTL: Duration = Duration::from_secs(90);

fn at(id: &str, qr: &str, at_ms: i64) -> String {
    let mut scan = request(id, qr);
    scan["at"] = UnixMillis(at_ms).to_string().into();
    scan.to_string()
}

fn outcome(server: &Server, token: &str, body: String) -> String {
    let answer: Value = server.post(token, JSON, body).json();
    answer["outcome"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_code_that_was_good_when_it_was_scanned_is_good_an_hour_later() {
    let server = Server::start(|_| {});
    let (gate, now) = (server.place_device("gate"), UnixMillis::now().0);
    let issued = now - HOUR_MS;
    let code =
        |person: &str| issue::issue_person(&server.data(), person, PHONE_TTL, UnixMillis(issued)).unwrap();
    let (first, second) = (code("001090000001"), code("001090000002"));
    // A batch that was kept for an hour; each line is judged by its own time, the first look-ups and those
    // that find the code remembered alike.
    for round in 0..2 {
        let lines = [
            at(&format!("a{round}"), &first, issued + 30_000),
            at(&format!("b{round}"), &first, issued + 500_000),
            at(&format!("c{round}"), &second, issued + 119_000),
            at(&format!("d{round}"), &second, issued + 121_000),
            // By a clock that is almost seven minutes slow.
            at(&format!("e{round}"), &first, issued - 400_000),
        ];
        let answer = server.post(&gate, "application/x-ndjson", lines.join("\n"));
        let outcomes: Vec<String> = String::from_utf8(answer.body)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["outcome"].as_str().unwrap().to_owned())
            .collect();
        let good = if round == 0 { "recorded" } else { "duplicate" };
        assert_eq!(outcomes, [good, "expired", good, "expired", good], "round {round}");
    }
    // One at a time: now it has expired, then it had not.
    assert_eq!(outcome(&server, &gate, request("f", &first).to_string()), "expired");
    assert_eq!(outcome(&server, &gate, at("g", &first, issued + 30_000)), "duplicate");
}

#[test]
fn a_clock_that_is_off_is_told_first_and_one_that_runs_ahead_expires_nothing() {
    let server = Server::start(|_| {});
    let (gate, now) = (server.place_device("gate"), UnixMillis::now().0);
    let code = issue::issue_person(&server.data(), "001090000001", PHONE_TTL, UnixMillis(now)).unwrap();
    // Four minutes ahead, the code would be over; but it can't have been scanned after it arrived.
    assert_eq!(outcome(&server, &gate, at("a", &code, now + 240_000)), "recorded");
    for (id, at_ms) in [("b", now + 2 * HOUR_MS), ("c", now - 72 * HOUR_MS)] {
        let old = issue::issue_person(&server.data(), "001090000002", PHONE_TTL, UnixMillis(at_ms)).unwrap();
        for qr in [old.as_str(), &card(3), "hello"] {
            let problem = server.post(&gate, JSON, at(id, qr, at_ms)).problem();
            assert_eq!((problem.outcome.as_str(), problem.field.as_deref()), ("clock_skew", Some("at")));
        }
    }
}

#[test]
fn a_revocation_counts_for_scans_of_before_it() {
    let server = Server::start(|_| {});
    let (data, gate, now) = (server.data(), server.place_device("gate"), UnixMillis::now().0);
    let code = issue::issue_person(&data, "001090000001", PHONE_TTL, UnixMillis(now - HOUR_MS)).unwrap();
    assert_eq!(outcome(&server, &gate, at("a", &code, now - HOUR_MS + 1_000)), "recorded");
    let keys = Keys::load(&data).unwrap();
    let cti = issue::explain(&code, UnixMillis(now - HOUR_MS), &keys).cti.unwrap();
    keys_revoke(&data, &Revocation::parse("cti", &cti).unwrap(), UnixMillis(now)).unwrap();
    assert_eq!(server.operate("POST", "/v1/reload").status, 200);
    assert_eq!(outcome(&server, &gate, at("b", &code, now - HOUR_MS + 2_000)), "revoked");
}

#[test]
fn the_grace_after_the_end_is_configured() {
    let server = Server::start(|config| config.verify.rotating_skew_s = 300);
    let (gate, now) = (server.place_device("gate"), UnixMillis::now().0);
    let code =
        issue::issue_person(&server.data(), "001090000001", PHONE_TTL, UnixMillis(now - 200_000)).unwrap();
    assert_eq!(outcome(&server, &gate, request("a", &code).to_string()), "recorded");
}
