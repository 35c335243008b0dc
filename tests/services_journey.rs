//! README's journey, line by line, over both stores: one person is issued a QR, declares, is vaccinated, is scanned in
//! by citizen card and out by an app, has a card; a positive test starts a trace, the map changes, feedback is answered.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::cql::Database;
use support::gateway::Site;

/// Yesterday is told a minute and a half after the start, at the next full minute; the rest is a debug build's.
const JOURNEY_S_MAX: u64 = 480;

#[test]
fn over_the_embedded_store() {
    journey(Site::new());
}

#[test]
fn over_a_cql_database() {
    let database = Database::start();
    let site = Site::new().set("store.kind", "cql").set("cql.keyspace", "scangate_journey");
    journey(site);
    drop(database);
}

fn journey(site: Site) {
    let site = site.variable("SCANGATE_SERVICES__LISTEN", "127.0.0.1:0");
    let gateway = site.spawn_with(&["--demo"]);
    let greeting = greeting(&site);
    let out = site.data.parent().expect("a root").join("journey.out");
    let file = std::fs::File::create(&out).expect("a file");
    let script = format!(
        "set -u\nscangate() {{ {} \"$@\"; }}\n{greeting}\n{}",
        env!("CARGO_BIN_EXE_scangate"),
        readme()
    );
    let mut child = Command::new("bash")
        .args(["-c", &script])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("SCANGATE_GATEWAY__DATA_DIR", &site.data)
        .stdin(Stdio::null())
        .stdout(file)
        .spawn()
        .expect("bash starts");
    let started = Instant::now();
    while child.try_wait().expect("a status").is_none() {
        if started.elapsed() > Duration::from_secs(JOURNEY_S_MAX) {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the journey never ended\n{}", std::fs::read_to_string(&out).unwrap_or_default());
        }
        sleep(Duration::from_millis(100));
    }
    let text = std::fs::read_to_string(&out).expect("what was answered");
    let answers: Vec<Value> = serde_json::Deserializer::from_str(&text)
        .into_iter::<Value>()
        .map(|answer| answer.unwrap_or_else(|error| panic!("no JSON ({error})\n{text}")))
        .collect();
    check(&answers, &text);
    drop(gateway);
}

/// The variables that the demonstration prints.
fn greeting(site: &Site) -> String {
    let started = Instant::now();
    loop {
        let log = site.log();
        if log.contains("export APPROVES_TOO=") && log.contains("\"listening\"") {
            return log.lines().filter(|line| line.starts_with("export ")).collect::<Vec<_>>().join("\n");
        }
        assert!(started.elapsed() < Duration::from_mins(1), "no greeting\n{log}");
        sleep(Duration::from_millis(50));
    }
}

/// README's only block of bash.
fn readme() -> &'static str {
    let readme = include_str!("../README.md");
    let (_, rest) = readme.split_once("```bash\n").expect("a block");
    rest.split_once("```").expect("its end").0
}

fn check(answers: &[Value], text: &str) {
    let [
        places,
        declared,
        _,
        _,
        card,
        scanned_in,
        scanned_out,
        by_qr,
        _,
        once,
        twice,
        contacts,
        red,
        map,
        _,
        answered,
        receipt,
    ] = answers
    else {
        panic!("{} answers\n{text}", answers.len());
    };
    assert_eq!(places["created"], 42, "{places}");
    assert!(declared["declaration"].is_string(), "{declared}");
    assert_eq!(card["colour"], "green", "{card}");
    assert_eq!(
        (&scanned_in["outcome"], &scanned_in["direction"]),
        (&"recorded".into(), &"in".into()),
        "{scanned_in}"
    );
    assert_eq!(scanned_in["card"]["colour"], "green", "{scanned_in}");
    // Out, since the card's holder and the app's owner are one person who is in.
    assert_eq!(
        (&scanned_out["outcome"], &scanned_out["direction"]),
        (&"recorded".into(), &"out".into()),
        "{scanned_out}"
    );
    assert_eq!((&by_qr["direction"], &by_qr["card"]["colour"]), (&"in".into(), &"green".into()), "{by_qr}");
    assert_eq!((&once["state"], &twice["state"]), (&"waiting".into(), &"approved".into()), "{once} {twice}");
    assert_eq!(contacts["contacts"].as_array().map(Vec::len), Some(13), "{contacts}");
    assert_eq!(red["colour"], "red", "{red}");
    let told = &map["features"][0]["properties"];
    assert_eq!(
        (&told["persons"], &told["name"], &told["level"]),
        (&10.into(), &"Chợ Đồng Xuân".into(), &"exposed".into()),
        "{map}"
    );
    assert_eq!(answered["state"], "answered", "{answered}");
    assert_eq!(receipt["answer"], "Cảm ơn bạn, mã đã được in lại.", "{receipt}");
}
