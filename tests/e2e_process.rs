//! The process as an operator meets it: starting, refusing to start, issuing, exporting, stopping.

// A test may panic, and says what it counted.
#![allow(clippy::indexing_slicing, clippy::print_stdout)]

mod support;

use std::io::Write as _;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use serde_json::json;
use support::codes;
use support::gateway::{Site, read_all};

#[test]
fn a_second_start_on_a_held_data_directory_names_the_holder() {
    let gateway = Site::new().start();
    let site = &gateway.site;
    let second = site.run(&["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    assert!(!second.status.success());
    let said =
        String::from_utf8_lossy(&second.stderr).into_owned() + &String::from_utf8_lossy(&second.stdout);
    assert!(said.contains(&gateway.pid().to_string()), "{said}");
    // The first is unharmed, and tokens can be issued beside it.
    assert_eq!(site.ready(), Some(200));
    assert!(!site.place_device("gate").is_empty());
}

#[test]
fn development_keys_are_refused_on_a_network() {
    let site = Site::new();
    let refused = site.run(&["serve", "--listen", "0.0.0.0:0", "--admin", "127.0.0.1:0"]);
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("development") && said.contains("loopback"), "{said}");
}

#[test]
fn the_first_start_prints_a_curl_line_that_works() {
    let site = Site::new();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_scangate"))
        .args([
            "serve",
            "--listen",
            &site.listen.to_string(),
            "--admin",
            &site.admin.to_string(),
            "--data-dir",
        ])
        .arg(&site.data)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the gateway starts");
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while site.ready() != Some(200) && std::time::Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    // SAFETY: the pid is that of our own child, which isn't reaped yet.
    unsafe { libc::kill(i32::try_from(child.id()).expect("a pid"), libc::SIGTERM) };
    let said =
        read_all(child.stdout.take().expect("a pipe")) + &read_all(child.stderr.take().expect("a pipe"));
    assert!(child.wait().expect("reaped").success());
    assert!(said.contains("curl") && said.contains("Authorization: Bearer ey"), "{said}");
    assert!(said.contains(&site.listen.to_string()), "{said}");
}

#[test]
fn a_misspelt_setting_is_an_error_that_names_it() {
    let site = Site::new();
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    writeln!(file, "[limits]\ndevice_scans_per_sec = 5").expect("written");
    let path = file.path().to_str().expect("UTF-8").to_owned();
    let refused = std::process::Command::new(env!("CARGO_BIN_EXE_scangate"))
        .args(["check-config", &path])
        .output()
        .expect("the binary runs");
    assert_eq!(refused.status.code(), Some(2));
    let said =
        String::from_utf8_lossy(&refused.stderr).into_owned() + &String::from_utf8_lossy(&refused.stdout);
    assert!(said.contains(":2:") && said.contains("device_scans_per_sec"), "{said}");
    let refused = site.run(&["serve", "--config", &path]);
    assert!(!refused.status.success());
}

#[test]
fn export_reads_beside_a_running_gateway_and_without_one() {
    let site = Site::new();
    let gateway = site.start();
    let gate = site.place_device("gate");
    let answers =
        gateway.connect().batch(&gate, &[json!({"id": "a", "qr": codes::CCCD, "direction": "out"})]);
    assert_eq!(answers[0]["status"], 201);
    let beside = site.export_when(1, Duration::from_secs(10));
    assert_eq!(beside.len(), 1);
    assert_eq!(beside[0].direction, "out");
    assert!(gateway.terminate(Duration::from_secs(20)).success());
    assert_eq!(site.export(), beside);
    let journal = site.data.join("journal");
    let verified = std::process::Command::new(env!("CARGO_BIN_EXE_scangate"))
        .args(["journal", "verify"])
        .arg(&journal)
        .output()
        .expect("the binary runs");
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}
