//! The promise pinned here: a rotation of the pepper, wherever it is interrupted and taken up again, leaves every
//! scan once, under the pseudonyms of the new pepper, and duplicates of before it are still recognised.
#![allow(missing_docs, clippy::indexing_slicing, clippy::unwrap_used)]

mod api_support;
#[path = "support/copied.rs"]
mod copied;

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;

use api_support::{Answer, Server, exchange};
use copied::copied;
use scangate::config::Config;
use scangate::gateway::migration::{Rotated, rotate_pepper};
use scangate::gateway::{Gateway, GatewayError};
use scangate::identity::Identity;
use scangate::openapi::ExportedCheckin;
use scangate::scan::{Pseudonym, UnixMillis};
use scangate::verify::Pepper;
use serde_json::Value;
use tempfile::TempDir;

const QRQG: &str = "001093029317|NGUYEN VAN A|1987-01-18|0|162979388586171100|<1<00<0123232422";
const CARD: &str = "001093029317||NGUYEN VAN A|18011993|Nam|Hà Nội|15042021";
const SPECIMEN: &str = "001090123456||NGUYEN VAN A|01011990|Nam|Hà Nội|15042021";
const LINK: &str = r#"{"citizen":"001093029317","qid":"162979388586171100"}"#;

fn config(directory: &TempDir) -> Config {
    let mut config = Config::default();
    config.gateway.data_dir = directory.path().join("data");
    config.listen.addr = ([127, 0, 0, 1], 0).into();
    config.listen.admin = ([127, 0, 0, 1], 0).into();
    config.journal.segment_bytes = 8 << 20;
    config
}

fn rotate(directory: &TempDir, steps: usize) -> (usize, Result<Rotated, GatewayError>) {
    let mut done = 0;
    let result = rotate_pepper(&config(directory), &mut |_| {
        done += 1;
        if done == steps { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    (done, result)
}

fn scan(server: &Server, token: &str, id: &str, qr: &str, at: &str) -> Answer {
    let body = serde_json::json!({"id": id, "qr": qr, "at": at, "direction": "in"});
    server.post(token, "application/json", body.to_string())
}

fn export(server: &Server) -> Vec<ExportedCheckin> {
    server.operate("GET", "/v1/export?from=2020-01-01T00:00:00Z&to=2100-01-01T00:00:00Z").lines()
}

/// What a row says that a rotation doesn't change, and the person as `person` would have them.
fn told(row: &ExportedCheckin, person: impl Fn(Pseudonym) -> Pseudonym) -> [String; 7] {
    let bytes: Vec<u8> =
        (0..16).map(|at| u8::from_str_radix(&row.person[2 * at..2 * at + 2], 16).unwrap()).collect();
    let person = person(Pseudonym(bytes.try_into().unwrap()));
    [
        row.at.clone(),
        row.place.clone(),
        row.direction.clone(),
        row.device.clone(),
        row.form.clone(),
        row.received_at.clone(),
        person.to_string(),
    ]
}

/// A gateway that has taken a few scans and a link, stopped; and its rows.
fn used(at: &str) -> (TempDir, Vec<ExportedCheckin>) {
    let server = Server::start(|_| {});
    let code = scangate::issue::issue_person(
        &server.data(),
        "001090123456",
        std::time::Duration::from_hours(1),
        UnixMillis::now(),
    );
    fs::write(server.directory.path().join("data/code"), code.unwrap()).unwrap();
    let (gate, phone) = (server.place_device("gate"), server.person_device("001090123456"));
    for (token, id, qr) in [
        (&gate, "qrqg", QRQG),
        (&gate, "specimen", SPECIMEN),
        (&phone, "poster", "https://qr.pccovid.gov.vn/Xa3bK9pQ"),
    ] {
        assert_eq!(scan(&server, token, id, qr, at).status, 201, "{id}");
    }
    let token = fs::read_to_string(server.data().join("keys/feed-token")).unwrap();
    let authorization = format!("Bearer {}", token.trim());
    let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/x-ndjson")];
    let fed = exchange(server.admin, "POST", "/v1/links?source=t&cursor=7", &headers, LINK.as_bytes());
    assert_eq!(fed.status, 200);
    let rows = export(&server);
    assert_eq!(rows.len(), 3);
    (server.stopped(), rows)
}

/// The rows are those of before, once each, under the new pepper; and scans of before are known.
fn assert_rotated(directory: TempDir, before: &[ExportedCheckin], at: &str) -> TempDir {
    let identity = Identity::new(&Pepper::load(&directory.path().join("data")).unwrap());
    let server = Server::start_in(directory, |_| {});
    let rows = export(&server);
    let expected: BTreeSet<_> =
        before.iter().map(|row| told(row, |person| identity.rotated(person, identity.epoch() - 1))).collect();
    let found: BTreeSet<_> = rows.iter().map(|row| told(row, |person| person)).collect();
    assert_eq!((rows.len(), found), (before.len(), expected));
    let gate = server.place_device("gate");
    let code = fs::read_to_string(server.data().join("code")).unwrap();
    for (id, qr) in
        [("qrqg", QRQG), ("by-card", CARD), ("by-qid", QRQG), ("by-code", &*code), ("specimen", SPECIMEN)]
    {
        let again = scan(&server, &gate, id, qr, at);
        let body: Value = again.json();
        assert_eq!(again.status, 200, "{id}: {body}");
        let named = body["original"]["checkin"].as_str().unwrap();
        assert!(rows.iter().any(|row| row.checkin == named), "{id}: {named} is among the rows");
    }
    let token = fs::read_to_string(server.data().join("keys/feed-token")).unwrap();
    let authorization = format!("Bearer {}", token.trim());
    let state =
        exchange(server.admin, "GET", "/v1/links?source=t", &[("Authorization", &*authorization)], b"");
    assert!(state.text().contains("\"cursor\":\"7\""), "{}", state.text());
    server.stopped()
}

#[test]
fn a_rotation_interrupted_anywhere_ends_in_the_same_rows() {
    let at = UnixMillis((UnixMillis::now().seconds() - 600) * 1000).to_string();
    let (directory, before) = used(&at);
    let whole = copied(directory.path());
    let (steps, rotated) = rotate(&whole, usize::MAX);
    let rotated = rotated.unwrap();
    assert_eq!((rotated.epoch, rotated.records, rotated.rows.rows, rotated.links), (1, 3, 3, 1));
    let whole = assert_rotated(whole, &before, &at);
    for stop in 1..=steps {
        let interrupted = copied(directory.path());
        let (done, result) = rotate(&interrupted, stop);
        assert!(matches!(result, Err(GatewayError::Interrupted { .. })), "{stop}: {result:?}");
        assert_eq!(done, stop);
        let refused = Gateway::start(&config(&interrupted));
        assert!(matches!(refused, Err(GatewayError::RotationUnderWay)), "{stop}: nobody serves in between");
        if stop % 3 == 0 {
            // Interrupted again, at the first step of the second try.
            rotate(&interrupted, 1).1.unwrap_err();
        }
        rotate(&interrupted, usize::MAX).1.unwrap();
        let interrupted = assert_rotated(interrupted, &before, &at);
        for left in
            ["rotation", "keys/pepper.next", "journal.old", "store.old", "identity.old", "journal.next"]
        {
            assert!(!interrupted.path().join("data").join(left).exists(), "{stop}: {left} is left");
        }
    }
    // And once more, on top of the first.
    let again = rotate(&whole, usize::MAX).1.unwrap();
    assert_eq!((again.epoch, again.rows.rows), (2, 3));
    let identity = Identity::new(&Pepper::load(&whole.path().join("data")).unwrap());
    let server = Server::start_in(whole, |_| {});
    let expected: BTreeSet<_> =
        before.iter().map(|row| told(row, |person| identity.rotated(person, 0))).collect();
    assert_eq!(
        export(&server).iter().map(|row| told(row, |person| person)).collect::<BTreeSet<_>>(),
        expected
    );
}

#[test]
fn a_running_gateway_is_left_alone() {
    let server = Server::start(|_| {});
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_scangate"))
        .args(["migrate", "pepper", "--data-dir"])
        .arg(server.data())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("is in use by process"), "{said}");
    assert!(!server.data().join("keys/pepper.next").exists());
}
