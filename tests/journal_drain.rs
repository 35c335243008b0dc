//! `scangate journal drain`: what an ended gateway's journal still holds reaches the store, and nothing is called
//! drained that isn't there.

// A test may panic.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::codes;
use support::gateway::Site;

fn drain(site: &Site) -> (Option<i32>, Value, String) {
    let output = site.run(&["journal", "drain", "--timeout", "30s"]);
    let said = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code(), said, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_left_journal_is_brought_over_once() {
    let site = Site::new();
    let gateway = site.start();
    let scans: Vec<_> =
        (0..40).map(|number| json!({"id": format!("s{number}"), "qr": codes::CCCD})).collect();
    let mut client = gateway.connect();
    for (number, scan) in scans.iter().enumerate() {
        let token = site.place_device(&format!("gate-{number}"));
        assert_eq!(client.batch(&token, std::slice::from_ref(scan))[0]["status"], 201);
    }
    // A gateway that runs drains by itself.
    let (code, _, said) = drain(&site);
    assert!(code == Some(1) && said.contains(&gateway.pid().to_string()), "{said}");
    // Killed: what the store had not synced is written again.
    drop(gateway);
    let (code, left, said) = drain(&site);
    assert_eq!((code, &left["records"], &left["drained"]), (Some(0), &json!(40), &json!(true)), "{said}");
    assert_eq!(site.export().len(), 40);
    let (code, left, _) = drain(&site);
    assert_eq!((code, &left["written"]), (Some(0), &json!(0)));
    // And another gateway takes it up as it is.
    assert!(site.start().terminate(std::time::Duration::from_secs(30)).success());
    assert_eq!(site.export().len(), 40);
}

#[test]
fn a_directory_without_a_journal_is_not_drained() {
    let site = Site::new();
    let (code, _, said) = drain(&site);
    assert_eq!(code, Some(1));
    assert!(said.contains("there is no journal in") && !site.data.exists(), "{said}");
}
