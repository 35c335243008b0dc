//! The promise pinned here: what read check-ins or changed keys is in the audit log before it happens, or doesn't happen;
//! and whatever is changed in the log afterwards is found, at the line it was changed in.
//!
//! What this doesn't prove: that a log which was written anew from its first record differs from the old one by itself.
//! That takes a copy of a head kept elsewhere, which is tested as such.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_wrap)]

mod api_support;
#[path = "support/ports.rs"]
mod ports;
mod store_support;

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use api_support::{Server, card, eventually, exchange};
use aws_lc_rs::digest::{SHA256, digest};
use scangate::audit::{
    Action, AuditError, AuditLog, AuditSettings, Entry, Head, Outcome, Purpose, RecordHash, Verified, verify,
};
use scangate::scan::{Checkin, Pseudonym, UnixMillis};
use scangate::store::{EmbeddedSettings, Store};
use serde_json::Value;
use store_support::{checkin, day_start};

const NOW: UnixMillis = UnixMillis(1_637_712_000_000);
const EXPORT: &str = "/v1/export?from=2020-01-01T00:00:00Z&to=2100-01-01T00:00:00Z";

fn entry() -> Entry {
    let entry = Entry::new("token:cdc", Action::Trace).about(Pseudonym([7; 16]));
    entry.over(UnixMillis(0), NOW).purpose(Purpose::parse("ca bệnh 17").ok())
}

/// Ten calls, each with its end.
fn filled(dir: &Path, settings: AuditSettings) -> AuditLog {
    let log = AuditLog::new(dir, settings);
    for call in 0..10 {
        let number = log.append(&entry(), Outcome::Begun, NOW).unwrap();
        assert_eq!(number, call * 2 + 1);
        log.end(number, &entry(), (Outcome::Done, Some(call)), NOW).unwrap();
    }
    log
}

fn first(dir: &Path) -> PathBuf {
    dir.join("00000001.ndjson")
}

fn lines(dir: &Path) -> Vec<String> {
    fs::read_to_string(first(dir)).unwrap().lines().map(str::to_owned).collect()
}

fn put(dir: &Path, lines: &[String]) {
    fs::write(first(dir), lines.join("\n") + "\n").unwrap();
}

fn broken_at(dir: &Path, head: Option<Head>) -> Option<u64> {
    verify(dir, head).unwrap().broken.map(|broken| broken.line)
}

/// The line with its hash made anew, as somebody would who knows the format.
fn resealed(line: &str) -> String {
    let body = line.split(",\"hash\":").next().unwrap().to_owned() + "}";
    let hash = RecordHash(digest(&SHA256, body.as_bytes()).as_ref().try_into().unwrap());
    format!("{},\"hash\":\"{hash}\"}}", &body[..body.len() - 1])
}

#[test]
fn any_change_to_any_record_is_found_where_it_was_made() {
    let dir = tempfile::tempdir().unwrap();
    let head = filled(dir.path(), AuditSettings::default()).head();
    let good = lines(dir.path());
    assert_eq!(broken_at(dir.path(), head), None);
    let record: Value = serde_json::from_str(&good[5]).unwrap();
    let members = record.as_object().unwrap();
    assert_eq!(members.len(), 13, "a record with every member: {record}");
    for (name, value) in members {
        let text = format!("\"{name}\":{value}");
        let other = match value {
            Value::Number(number) => (number.as_u64().unwrap() + 1).to_string(),
            Value::String(text) => Value::from(text.replacen(|_: char| true, "9", 1)).to_string(),
            _ => panic!("{name}"),
        };
        assert_ne!(other, value.to_string(), "{name}");
        let changed = good[5].replacen(&text, &format!("\"{name}\":{other}"), 1);
        assert_ne!(changed, good[5], "{name}");
        let mut all = good.clone();
        all[5] = changed;
        put(dir.path(), &all);
        assert_eq!(broken_at(dir.path(), None), Some(6), "{name} changed");
        // With a new hash the line is good by itself, and the next doesn't follow from it.
        if name != "hash" {
            all[5] = resealed(&all[5]);
            put(dir.path(), &all);
            assert!(matches!(broken_at(dir.path(), None), Some(6 | 7)), "{name} changed and sealed");
        }
    }
    for at in 0..good.len() - 1 {
        let mut without = good.clone();
        without.remove(at);
        put(dir.path(), &without);
        assert_eq!(
            broken_at(dir.path(), None),
            Some(if at == 0 { 0 } else { at as u64 + 1 }),
            "without line {at}"
        );
        let mut swapped = good.clone();
        swapped.swap(at, at + 1);
        put(dir.path(), &swapped);
        assert!(broken_at(dir.path(), None).is_some(), "lines {at} and the next swapped");
        let mut twice = good.clone();
        twice.insert(at, good[at].clone());
        put(dir.path(), &twice);
        assert_eq!(broken_at(dir.path(), None), Some(at as u64 + 2), "line {at} twice");
    }
}

#[test]
fn what_was_cut_off_or_written_anew_is_found_by_a_head_kept_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let head = filled(dir.path(), AuditSettings::default()).head().unwrap();
    let good = lines(dir.path());
    for kept in 0..good.len() {
        put(dir.path(), &good[..kept]);
        if kept == 0 {
            fs::write(first(dir.path()), "").unwrap();
        }
        assert_eq!(broken_at(dir.path(), None), None, "the chain itself can't tell");
        assert!(broken_at(dir.path(), Some(head)).is_some(), "{kept} records left");
    }
    // The same records, but that the purpose was another from the start, and all hashes made anew.
    let mut prev = "0".repeat(64);
    let forged: Vec<String> = good
        .iter()
        .map(|line| {
            let mut record: Value = serde_json::from_str(line).unwrap();
            let old = record["prev"].as_str().unwrap().to_owned();
            let line = resealed(&line.replace("ca bệnh 17", "ca bệnh 18").replace(&old, &prev));
            record = serde_json::from_str(&line).unwrap();
            record["hash"].as_str().unwrap().clone_into(&mut prev);
            line
        })
        .collect();
    put(dir.path(), &forged);
    assert_eq!(broken_at(dir.path(), None), None, "the chain itself can't tell");
    assert_eq!(broken_at(dir.path(), Some(head)), Some(20));
    put(dir.path(), &good);
    assert_eq!(broken_at(dir.path(), Some(head)), None);
}

#[test]
fn a_torn_end_is_cut_off_and_damage_is_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path(), AuditSettings::default()));
    let good = fs::read(first(dir.path())).unwrap();
    let whole = good.len() as u64;
    for torn in [&b"{\"seq\":21,\"at\":\"20"[..], b"\0\0\0\0", b"{\"seq\":21\0\0\0\0}\n"] {
        fs::write(first(dir.path()), [&good[..], torn].concat()).unwrap();
        let found = verify(dir.path(), None).unwrap();
        assert_eq!((found.torn_bytes, found.broken, found.records), (torn.len() as u64, None, 20));
        let log = AuditLog::new(dir.path(), AuditSettings::default());
        assert_eq!(log.append(&entry(), Outcome::Begun, NOW).unwrap(), 21);
        let Verified { torn_bytes, broken, records, calls_without_end, .. } =
            verify(dir.path(), log.head()).unwrap();
        assert_eq!((torn_bytes, broken, records, calls_without_end), (0, None, 21, 1));
        assert!(fs::read(first(dir.path())).unwrap().starts_with(&good));
    }
    // A whole last line that is not what was written: nobody's torn append.
    let mut damaged = good.clone();
    damaged[good.len() - 10] ^= 1;
    fs::write(first(dir.path()), &damaged).unwrap();
    let log = AuditLog::new(dir.path(), AuditSettings::default());
    assert!(matches!(log.append(&entry(), Outcome::Begun, NOW), Err(AuditError::Damaged { .. })));
    assert!(!log.works() && log.head().is_none());
    assert_eq!(fs::metadata(first(dir.path())).unwrap().len(), whole, "it is left as it is");
}

#[test]
fn the_chain_goes_on_over_files_and_a_file_that_is_missing_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let settings = AuditSettings { segment_bytes: 2_000, ..AuditSettings::default() };
    let log = filled(dir.path(), settings);
    let found = verify(dir.path(), log.head()).unwrap();
    assert!(found.segments >= 4, "{found:?}");
    assert_eq!((found.records, found.broken), (20, None));
    for missing in 1..=found.segments {
        let path = dir.path().join(format!("{missing:08}.ndjson"));
        let kept = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(verify(dir.path(), log.head()).unwrap().broken.is_some(), "file {missing} is missing");
        fs::write(&path, kept).unwrap();
    }
    // A file that was made when the power went, and never written to.
    fs::write(dir.path().join(format!("{:08}.ndjson", found.segments + 1)), "").unwrap();
    assert_eq!(log.append(&entry(), Outcome::Begun, NOW).unwrap(), 21);
    assert_eq!(verify(dir.path(), log.head()).unwrap().broken, None);
}

#[test]
fn several_writers_make_one_chain() {
    let dir = tempfile::tempdir().unwrap();
    let settings = AuditSettings { segment_bytes: 4_000, ..AuditSettings::default() };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            // A log of its own each, as processes have.
            scope.spawn(|| {
                let log = AuditLog::new(dir.path(), settings);
                for _ in 0..25 {
                    let call = log.append(&entry(), Outcome::Begun, NOW).unwrap();
                    log.end(call, &entry(), (Outcome::Done, None), NOW).unwrap();
                }
            });
        }
    });
    let Verified { records, broken, calls_without_end, .. } = verify(dir.path(), None).unwrap();
    assert_eq!((records, broken, calls_without_end), (200, None, 0));
}

fn scangate(arguments: &[&str], dir: &Path) -> (String, Option<i32>) {
    let output = Command::new(env!("CARGO_BIN_EXE_scangate")).args(arguments).arg(dir).output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}

#[test]
fn the_command_names_the_first_broken_link_and_exits_1() {
    let dir = tempfile::tempdir().unwrap();
    let head = filled(dir.path(), AuditSettings::default()).head().unwrap();
    let (shown, code) = scangate(&["audit", "show", "--last", "3"], dir.path());
    assert_eq!((shown.lines().count(), code), (3, Some(0)));
    assert_eq!(shown.lines().last(), lines(dir.path()).last().map(String::as_str));
    let published = format!("{}:{}", head.seq, head.hash);
    let (verified, code) = scangate(&["audit", "verify", "--head", &published], dir.path());
    let verified: Value = serde_json::from_str(&verified).unwrap();
    assert_eq!((&verified["records"], &verified["broken"], code), (&20.into(), &Value::Null, Some(0)));
    let mut changed = lines(dir.path());
    changed[7] = changed[7].replace("\"rows\":3", "\"rows\":0");
    put(dir.path(), &changed);
    let (verified, code) = scangate(&["audit", "verify"], dir.path());
    let verified: Value = serde_json::from_str(&verified).unwrap();
    assert_eq!((&verified["broken"]["line"], code), (&8.into(), Some(1)));
    assert_eq!(verified["broken"]["what"], "has another hash than its text");
    let (shown, code) = scangate(&["audit", "show"], dir.path());
    assert_eq!((shown.lines().count(), code), (7, Some(1)), "nothing behind it is shown as if it held");
}

/// The log's records of an action.
fn records(data: &Path, action: &str) -> Vec<Value> {
    let text = fs::read_to_string(first(&data.join("audit"))).unwrap();
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|record| record["action"] == action).collect()
}

#[test]
fn each_call_is_recorded_with_its_caller_and_its_rows_and_the_head_is_published() {
    let server = Server::start(|_| {});
    let token = server.place_device("gate");
    for serial in 0..3 {
        assert_eq!(server.scan(&token, &format!("scan-{serial}"), &card(serial)).status, 201);
    }
    assert_eq!(server.operate("GET", &format!("{EXPORT}&purpose=ca%20b%E1%BB%87nh%2017")).status, 200);
    assert_eq!(exchange(server.admin, "HEAD", EXPORT, &[], b"").status, 200);
    assert_eq!(server.operate("GET", "/v1/export?from=soon&to=later").status, 400);
    assert_eq!(server.operate("POST", "/v1/reload").status, 200);
    let exports = records(&server.data(), "export");
    assert_eq!(exports.len(), 2, "what hands out nothing is no call: {exports:?}");
    assert_eq!((&exports[0]["outcome"], &exports[1]["outcome"]), (&"begun".into(), &"done".into()));
    assert_eq!((&exports[0]["caller"], &exports[1]["rows"]), (&"loopback".into(), &3.into()));
    assert_eq!((&exports[0]["purpose"], &exports[1]["call"]), (&"ca bệnh 17".into(), &exports[0]["seq"]));
    assert_eq!(records(&server.data(), "reload").len(), 2);
    let stats: Value = serde_json::from_slice(&server.operate("GET", "/v1/stats").body).unwrap();
    assert_eq!((&stats["audit"]["seq"], &stats["audit"]["works"]), (&4.into(), &true.into()));
    let hash = RecordHash::parse(stats["audit"]["hash"].as_str().unwrap()).unwrap();
    assert_eq!(verify(&server.data().join("audit"), Some(Head { seq: 4, hash })).unwrap().broken, None);
    let metrics = server.operate("GET", "/metrics");
    assert!(metrics.text().contains("\nscangate_audit_records 4\n"), "{}", metrics.text());
    // A command that changes keys, beside the gateway: one chain.
    let (_, code) = scangate(&["keys", "rotate", "--data-dir"], &server.data());
    assert_eq!(code, Some(0));
    assert_eq!(server.operate("POST", "/v1/drain").status, 202);
    let keys = records(&server.data(), "keys");
    assert_eq!((keys.len(), &keys[0]["subject"], &keys[1]["outcome"]), (2, &"rotate".into(), &"done".into()));
    assert_eq!(records(&server.data(), "drain").len(), 1);
    let found = verify(&server.data().join("audit"), None).unwrap();
    assert_eq!((found.records, found.broken, found.calls_without_end), (7, None, 0));
}

#[test]
fn what_can_not_be_recorded_does_not_happen() {
    let server = Server::start(|_| {});
    let token = server.place_device("gate");
    assert_eq!(server.scan(&token, "scan-1", &card(1)).status, 201);
    let audit = server.data().join("audit");
    fs::create_dir_all(&audit).unwrap();
    // Every write to it fails for want of space, as on a full disk.
    std::os::unix::fs::symlink("/dev/full", first(&audit)).unwrap();
    for (method, path) in [("GET", EXPORT), ("POST", "/v1/reload"), ("POST", "/v1/drain")] {
        let refused = server.operate(method, path);
        assert_eq!(refused.status, 503, "{path}: {refused:?}");
        assert_eq!(refused.problem().bound.as_deref(), Some("audit.disk"));
    }
    let metrics = server.operate("GET", "/metrics");
    assert!(metrics.text().contains("\nscangate_audit_works 0\n"), "{}", metrics.text());
    let (_, code) = scangate(&["keys", "rotate", "--data-dir"], &server.data());
    assert_eq!(code, Some(1));
    assert_eq!(fs::read_dir(server.data().join("keys/sg1")).unwrap().count(), 1, "no key was made");
    assert_eq!(server.scan(&token, "scan-2", &card(2)).status, 201, "check-ins go on");
    fs::remove_file(first(&audit)).unwrap();
    assert_eq!(server.operate("GET", EXPORT).status, 200, "there is room again");
    let metrics = server.operate("GET", "/metrics");
    assert!(metrics.text().contains("\nscangate_audit_works 1\n"), "{}", metrics.text());
}

#[test]
fn a_reader_that_goes_away_is_in_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let store = Store::embedded(&data.join("store"), EmbeddedSettings::default()).unwrap();
    let rows: Vec<Checkin> =
        (0..60_000_u64).map(|n| checkin(n, n % 50, day_start(1) + n as i64, n)).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for rows in rows.chunks(5_000) {
        runtime.block_on(store.write(rows)).unwrap();
    }
    runtime.block_on(store.close()).unwrap();
    drop(store);
    let server = Server::start_in(directory, |_| {});
    let mut reader = TcpStream::connect(server.admin).unwrap();
    write!(reader, "GET {EXPORT} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut some = [0; 4096];
    assert!(reader.read(&mut some).unwrap() > 0);
    assert!(String::from_utf8_lossy(&some).starts_with("HTTP/1.1 200"));
    assert_eq!(records(&server.data(), "export").len(), 1, "recorded before the first byte, and under way");
    drop(reader);
    eventually("the end of the call", || records(&server.data(), "export").len() == 2);
    let end = records(&server.data(), "export").pop().unwrap();
    assert_eq!(end["outcome"], "broken_off");
    assert!(end["rows"].as_u64().unwrap() < 60_000, "{end}");
}

/// SIGKILL keeps the page cache: it shows that a record is written before its call is answered. That it is fsynced first
/// stands in `AuditLog::write` alone.
#[test]
fn after_a_kill_every_answered_call_is_in_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut answered = 0;
    for round in 0..3 {
        let (listen, admin) = (ports::free_address(), ports::free_address());
        let mut child = Command::new(env!("CARGO_BIN_EXE_scangate"))
            .args(["serve", "--listen", &listen.to_string(), "--admin", &admin.to_string(), "--data-dir"])
            .arg(&data)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        eventually("a start", || TcpStream::connect(admin).is_ok());
        let (stop, reloads) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let Ok(mut stream) = TcpStream::connect(admin) else { break };
                        let asked = stream
                            .write_all(b"POST /v1/reload HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
                        let mut answer = String::new();
                        let read = asked.and_then(|()| stream.read_to_string(&mut answer));
                        if read.is_ok() && answer.starts_with("HTTP/1.1 200") {
                            reloads.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
            eventually("some calls", || reloads.load(Ordering::Relaxed) >= 20);
            child.kill().unwrap();
            stop.store(true, Ordering::Relaxed);
        });
        child.wait().unwrap();
        answered += reloads.into_inner();
        let found = verify(&data.join("audit"), None).unwrap();
        assert_eq!(found.broken, None, "round {round}: {found:?}");
        let ended = records(&data, "reload").iter().filter(|record| record["outcome"] == "done").count();
        assert!(ended as u64 >= answered, "round {round}: {answered} answered, {ended} in the log");
    }
}

#[test]
fn a_command_that_meets_damage_leaves_it_alone() {
    let server = Server::start(|_| {});
    assert_eq!(server.operate("GET", EXPORT).status, 200);
    let path = first(&server.data().join("audit"));
    let good = fs::read(&path).unwrap();
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"not a record\n").unwrap();
    let refused = exchange(server.admin, "GET", EXPORT, &[], b"");
    assert_eq!(refused.status, 503);
    let (_, code) = scangate(&["keys", "compact", "--data-dir"], &server.data());
    assert_eq!(code, Some(1));
    assert_eq!(fs::read(&path).unwrap().len(), good.len() + 13);
}
