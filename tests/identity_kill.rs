//! The promise pinned here: a batch of links that was answered is there after SIGKILL, and a rotation of the
//! pepper that was killed is ended by the next.
//!
//! What this doesn't prove: the order of fsyncs, since SIGKILL keeps the page cache.
#![allow(missing_docs, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};
use support::codes;
use support::gateway::Site;
use support::http::Client;

fn qid(serial: u32) -> String {
    format!("{serial:018}")
}

fn link(serial: u32) -> String {
    json!({"citizen": codes::citizen_number(serial), "qid": qid(serial)}).to_string()
}

/// Sends one link as a batch whose cursor is its serial; whether it was answered.
fn feed(client: &mut Client, token: &str, serial: u32) -> bool {
    let authorization = format!("Bearer {token}");
    let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/x-ndjson")];
    let path = format!("/v1/links?source=kill&cursor={serial}");
    let answer = client.try_request("POST", &path, &headers, link(serial).as_bytes());
    answer.is_ok_and(|answer| answer.status == 200 && answer.text().contains("\"accepted\":1"))
}

fn token(site: &Site) -> String {
    fs::read_to_string(site.data.join("keys/feed-token")).expect("the feed's token").trim().to_owned()
}

#[test]
fn links_that_were_answered_outlive_sigkill() {
    let site = Site::new();
    let gateway = site.start();
    let token = token(&site);
    let answered = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = Client::connect(site.admin);
            while feed(&mut client, &token, answered.load(Ordering::SeqCst) + 1) {
                answered.fetch_add(1, Ordering::SeqCst);
            }
        });
        while answered.load(Ordering::SeqCst) < 25 {
            sleep(Duration::from_millis(2));
        }
        gateway.kill();
    });
    let answered = answered.load(Ordering::SeqCst);
    let gateway = site.start();
    let authorization = format!("Bearer {token}");
    let headers = [("Authorization", authorization.as_str())];
    let state = gateway.connect_admin().request("GET", "/v1/links?source=kill", &headers, b"");
    let cursor: Value = serde_json::from_str(&state.text()).expect("JSON");
    let cursor: u32 = cursor["cursor"].as_str().and_then(|text| text.parse().ok()).expect("a cursor");
    assert!(cursor == answered || cursor == answered + 1, "{cursor} after {answered} answers");
    let (device, mut client) = (site.place_device("gate"), gateway.connect());
    for serial in 1..=answered {
        let card = json!({"id": format!("card-{serial}"), "qr": codes::citizen(serial)});
        assert_eq!(client.scan(&device, &card).status, 201);
        let code = format!("******{serial:06}|A|1990-**-**|0|{}|<1<00<", qid(serial));
        let again = client.scan(&device, &json!({"id": format!("code-{serial}"), "qr": code}));
        assert_eq!(again.status, 200, "{serial}: {}", again.text());
    }
}

#[test]
fn a_killed_rotation_is_ended_by_the_next() {
    let site = Site::new();
    let gateway = site.start();
    let device = site.place_device("gate");
    let scans: Vec<Value> = (0..200)
        .map(|serial| json!({"id": format!("scan-{serial}"), "qr": codes::citizen(serial)}))
        .collect();
    assert!(gateway.connect().batch(&device, &scans).iter().all(|line| line["status"] == 201));
    assert!(gateway.terminate(Duration::from_secs(30)).success());
    let told = |site: &Site| -> BTreeSet<(String, String)> {
        site.export().into_iter().map(|row| (row.at, row.place)).collect()
    };
    let rotate = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_scangate"));
        command.args(["migrate", "pepper", "--data-dir"]).arg(&site.data).stdout(Stdio::null());
        command.stderr(Stdio::null());
        command
    };
    let before = site.export().len();
    assert_eq!((before, told(&site).is_empty()), (200, false));
    let mut epochs = 0;
    for delay_ms in [0, 10, 25, 50, 80, 120, 180, 260] {
        let mut child = rotate().spawn().expect("starts");
        sleep(Duration::from_millis(delay_ms));
        // Gone already is as well.
        let _ = child.kill();
        child.wait().expect("is reaped");
        let ended = site.run_ok(&["migrate", "pepper"]);
        let summary: Value = serde_json::from_str(&ended).expect("a summary");
        let epoch = summary["epoch"].as_u64().expect("an epoch");
        assert!(epoch == epochs + 1 || epoch == epochs + 2, "killed before or after its end: {ended}");
        epochs = epoch;
        assert_eq!(site.export().len(), before, "after {delay_ms} ms");
    }
    let gateway = site.start();
    let again = gateway.connect().batch(&device, &scans);
    let ids: BTreeSet<String> = site.export().into_iter().map(|row| row.checkin).collect();
    for line in &again {
        let original = line["original"]["checkin"].as_str().unwrap_or_default();
        assert!(line["status"] == 200 && ids.contains(original), "{line}");
    }
}
