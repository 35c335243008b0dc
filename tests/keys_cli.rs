//! Keys, revocations and codes as an operator meets them: the commands, their exit codes, and a running
//! gateway that takes in what they did.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod api_support;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use api_support::{Server, card};
use serde_json::Value;

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap()
    }

    fn lines(&self) -> Vec<Value> {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Runs a command on a data directory, with something on its standard input.
fn run_with(data: &Path, arguments: &[&str], input: &str) -> Ran {
    use std::io::Write as _;
    let mut child = Command::new(env!("CARGO_BIN_EXE_scangate"))
        .args(arguments)
        .args(["--data-dir", data.to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim_end().to_owned();
    Ran { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn run(data: &Path, arguments: &[&str]) -> Ran {
    run_with(data, arguments, "")
}

fn reload(server: &Server) {
    assert_eq!(server.operate("POST", "/v1/reload").status, 200);
}

fn outcome(server: &Server, token: &str, id: &str, qr: &str) -> String {
    let answer: Value = server.scan(token, id, qr).json();
    answer["outcome"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_list_of_thousands_reaches_a_running_gateway_and_survives_compaction() {
    let server = Server::start(|_| {});
    let (data, gate) = (server.data(), server.place_device("gate"));
    let code = run(&data, &["issue", "person", "001090000001"]).stdout;
    let other = run(&data, &["issue", "person", "001090000002"]).stdout;
    assert_eq!(outcome(&server, &gate, "a", &code), "recorded");
    let cti = run(&data, &["verify", &code]).json()["cti"].as_str().unwrap().to_owned();
    let mut list = String::new();
    for number in 0..5_000_u32 {
        writeln!(list, "{{\"kind\":\"cti\",\"value\":\"{:032x}\"}}", u128::from(number) << 64).unwrap();
    }
    writeln!(list, "{{\"kind\":\"cti\",\"value\":\"{cti}\"}}").unwrap();
    let first = run_with(&data, &["keys", "revoke", "--file", "-"], &list);
    assert_eq!((first.json()["added"].as_u64(), first.json()["known"].as_u64()), (Some(5_001), Some(0)));
    assert!(first.stderr.contains("5001 lines"), "{}", first.stderr);
    assert_eq!(outcome(&server, &gate, "b", &code), "duplicate", "until the reload");
    reload(&server);
    assert_eq!(outcome(&server, &gate, "c", &code), "revoked");
    assert_eq!(outcome(&server, &gate, "d", &other), "recorded");

    let exported = run(&data, &["keys", "revoked", "--export"]).lines();
    assert_eq!(exported.len(), 5_001);
    run(&data, &["keys", "compact"]).json();
    reload(&server);
    assert_eq!(outcome(&server, &gate, "e", &code), "revoked");
    let again = run_with(&data, &["keys", "revoke", "--file", "-"], &list).json();
    assert_eq!((again["added"].as_u64(), again["known"].as_u64()), (Some(0), Some(5_001)));
    let counts = run(&data, &["keys", "revoked"]).lines();
    assert_eq!((counts[0]["kind"].as_str(), counts[0]["in_sets"].as_u64()), (Some("cti"), Some(5_001)));

    // A set that is no longer what was written is refused, and what was loaded stays.
    let sets = std::fs::read_dir(data.join("keys/revoked")).unwrap();
    let set = sets.map(|entry| entry.unwrap().path()).find(|path| path.extension().is_some()).unwrap();
    let mut bytes = std::fs::read(&set).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&set, bytes).unwrap();
    let problem = server.operate("POST", "/v1/reload").problem();
    assert_eq!(problem.outcome, "reload_failed");
    assert_eq!(outcome(&server, &gate, "f", &code), "revoked");
    assert_eq!(run(&data, &["verify", &code]).code, 2);
}

#[test]
fn a_bad_list_changes_nothing() {
    let server = Server::start(|_| {});
    let data = server.data();
    let list = "{\"kind\":\"kid\",\"value\":\"k\"}\n{\"kind\":\"name\",\"value\":\"k\"}\n";
    let refused = run_with(&data, &["keys", "revoke", "--file", "-"], list);
    assert_eq!((refused.code, refused.stdout.as_str()), (1, ""));
    assert!(refused.stderr.contains("-:2: must be a revocation"), "{}", refused.stderr);
    assert!(run(&data, &["keys", "revoked", "--export"]).stdout.is_empty());
}

#[test]
fn a_device_is_exported_by_name_only_when_asked() {
    let server = Server::start(|_| {});
    let data = server.data();
    run(&data, &["keys", "revoke", "--device", "vneid/dev-7"]).json();
    run(&data, &["keys", "revoke", "--dcc", "00112233445566778899aabbccddeeff"]).json();
    let brief = run(&data, &["keys", "revoked", "--export"]);
    assert!(!brief.stdout.contains("dev-7") && brief.stdout.contains("00112233445566778899aabbccddeeff"));
    assert!(run(&data, &["keys", "revoked", "--export", "--full"]).stdout.contains("vneid/dev-7"));
}

#[test]
fn verify_exits_by_the_verdict_and_speaks_plainly() {
    let server = Server::start(|_| {});
    let data = server.data();
    let code = run(&data, &["issue", "place", "hn-0001"]).stdout;
    let accepted = run(&data, &["verify", &code]);
    assert_eq!((accepted.json()["outcome"].as_str(), accepted.code), (Some("accepted"), 0));
    let plain = run_with(&data, &["verify", "--plain", "-"], &code);
    assert_eq!(plain.code, 0);
    assert!(plain.stdout.contains("stands for a place, and that is proven"), "{}", plain.stdout);
    let refused = run(&data, &["verify", "--plain", "hello"]);
    assert_eq!(refused.code, 1);
    assert!(refused.stdout.contains("refused as `unrecognized`"), "{}", refused.stdout);
    let bytes = "\u{0}\u{fffd}";
    assert_eq!(run_with(&data, &["verify"], bytes).code, 1);
    assert_eq!(run(&data, &["verify", "--plain", "--json", "hello"]).code, 2);
    assert_eq!(run(&data, &["verify", &card(1)]).json()["trust"], "asserted");
}

#[test]
fn codes_are_revoked_by_what_the_operator_has_of_them() {
    let server = Server::start(|_| {});
    let (data, gate) = (server.data(), server.place_device("gate"));
    let codes: Vec<String> = (1..=3)
        .map(|serial| run(&data, &["issue", "person", &format!("00109000000{serial}")]).stdout)
        .collect();
    let cti = run(&data, &["verify", &codes[2]]).json()["cti"].as_str().unwrap().to_owned();
    run(&data, &["issue", "revoke", &codes[0]]).json();
    run(&data, &["issue", "revoke", "--person", "001090000002"]).json();
    run(&data, &["issue", "revoke", "--cti", &cti]).json();
    reload(&server);
    for (id, code) in ["a", "b", "c"].iter().zip(&codes) {
        assert_eq!(outcome(&server, &gate, id, code), "revoked");
    }
    let newer = run(&data, &["issue", "person", "001090000002"]).stdout;
    assert_eq!(outcome(&server, &gate, "d", &newer), "recorded");
    assert_eq!(run(&data, &["issue", "revoke", "hello"]).code, 1);
    let kept = std::fs::read_to_string(data.join("keys/revoked.ndjson")).unwrap();
    assert!(!kept.contains("001090000002"));
}

#[test]
fn a_key_goes_from_staged_to_retired() {
    let server = Server::start(|_| {});
    let data = server.data();
    let state = |kid: &str| {
        let listed = run(&data, &["keys", "list"]).lines();
        listed.iter().find(|key| key["kid"] == kid).map(|key| key["state"].as_str().unwrap().to_owned())
    };
    let listed = run(&data, &["keys", "list"]).lines();
    let old = listed.iter().find(|key| key["use"] == "sg1").unwrap()["kid"].as_str().unwrap().to_owned();
    let code = run(&data, &["issue", "person", "001090000001", "--ttl", "1h"]).stdout;
    let staged = run(&data, &["keys", "rotate", "--stage", "7d"]).json()["kid"].as_str().unwrap().to_owned();
    assert_eq!((state(&old).as_deref(), state(&staged).as_deref()), (Some("active"), Some("staged")));
    assert_eq!(run(&data, &["keys", "retire", &old]).code, 1, "it signs");
    let next = run(&data, &["keys", "rotate"]).json()["kid"].as_str().unwrap().to_owned();
    assert_eq!((state(&old).as_deref(), state(&next).as_deref()), (Some("verifying"), Some("active")));
    let signed = run(&data, &["issue", "list"]).json();
    assert_eq!((signed["kid"].as_str(), signed["codes"].as_u64()), (Some(old.as_str()), Some(1)));
    let refused = run(&data, &["keys", "retire", &old]);
    assert!(refused.code == 1 && refused.stderr.contains("is valid until"), "{}", refused.stderr);
    run(&data, &["keys", "retire", &old, "--force"]).json();
    assert_eq!(state(&old), None);
    let verdict = run(&data, &["verify", &code]);
    assert_eq!(verdict.code, 1);
    assert!(verdict.stdout.contains("unknown_key") && verdict.stdout.contains(&old));
}

#[test]
fn bulk_issue_tells_lines_and_counts_and_goes_on_where_it_was() {
    let server = Server::start(|_| {});
    let (data, gate) = (server.data(), server.place_device("gate"));
    let list = server.directory.path().join("persons.csv");
    let out = server.directory.path().join("out");
    std::fs::write(&list, "reference,name\n001090000001,NGUYEN VAN A\n001090000002,\n").unwrap();
    let (list, out_text) = (list.to_str().unwrap(), out.to_str().unwrap());
    let arguments =
        ["issue", "bulk", list, "--out", out_text, "--kind", "person", "--png", "--pdf", "--paper", "a6"];
    let first = run(&data, &arguments);
    assert_eq!(first.json()["issued"].as_u64(), Some(2));
    assert!(first.stderr.contains("2 issued"), "{}", first.stderr);
    assert_eq!(run(&data, &arguments).json()["skipped"].as_u64(), Some(2));
    assert_eq!(run(&data, &["issue", "list"]).json()["codes"].as_u64(), Some(2));
    // What was drawn is what the gateway reads and records.
    let index = std::fs::read_to_string(out.join("index.csv")).unwrap();
    let picture = out.join(index.lines().nth(1).unwrap().split(',').next().unwrap());
    let decoded = Command::new(env!("CARGO_BIN_EXE_scangate")).arg("decode").arg(picture).output().unwrap();
    let decoded: Value = serde_json::from_slice(&decoded.stdout).unwrap();
    assert_eq!(outcome(&server, &gate, "a", decoded["payload"].as_str().unwrap()), "recorded");
    let known: Value = server.scan(&gate, "b", &card(1)).json();
    assert_eq!(known["outcome"], "duplicate", "the card of the same number");
    std::fs::write(list, "reference\n\"\"\nx\n").unwrap();
    let partly = run(&data, &arguments);
    assert_eq!(partly.code, 1);
    assert!(partly.stderr.contains("line 2: a reference must be"), "{}", partly.stderr);
}
