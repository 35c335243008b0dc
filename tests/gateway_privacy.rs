//! The promise pinned here: after every specimen has been sent, in forms that are accepted and in forms that
//! are refused, no name, number, phone, address or raw payload stands in any file of the data directory, in
//! the log at its most talkative, in the metrics, in the stats or in an export.
//!
//! What this doesn't prove: that memory or swap hold nothing.
#![allow(missing_docs)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const GATEWAY: &str = env!("CARGO_BIN_EXE_scangate");

/// What must not be found, in whatever case and however encoded: plain, hexadecimal or base64.
const SECRETS: &[&str] = &[
    "001090123456",
    "012345678",
    "NGUYEN VAN A",
    "Nguyễn Văn A",
    "01011990",
    "Phố Huế",
    "001093029317",
    "162979388586171100",
    "0123232422",
    "1987-01-18",
    "0109063006",
    "Kauri Cafe",
    "9429300000007",
];

const PAYLOADS: &[&str] = &[
    "001090123456|012345678|NGUYEN VAN A|01011990|Nam|12 Phố Huế, Hai Bà Trưng, Hà Nội|15042021",
    "001090123456|012345678|NGUYEN VAN A|01011991|Nam|12 Phố Huế, Hai Bà Trưng, Hà Nội|15042021",
    "001090123456|012345678|Nguyễn Văn A|01011990|Nữ|12 Phố Huế|15042021",
    "001093029317|NGUYEN VAN A|1987-01-18|0|162979388586171100|<1<00<0123232422",
    "001093029317|NGUYEN VAN A|1987-01-18|0|not-a-qid|<1<00<0123232422",
    "DN4010109063006|4e677579e1bb856e2056c4836e2041|01/01/1990|1|5068e1bb912048756e|01-001|01/01/2021|-|15/12/2020|x|$",
    "DN4010109063006|4e677579e1bb856e2056c4836e2041|01/01/1990|1|5068e1bb912048756e|01-001|01/01/2021|-|1989|x|$",
    "NZCOVIDTRACER:eyJnbG4iOiI5NDI5MzAwMDAwMDA3IiwidmVyIjoiYzE5OjEiLCJ0eXAiOiJlbnRyeSIsIm9wbiI6IkthdXJpIENhZmUiLCJhZH\
     IiOiIifQ==",
    "HC1:NGUYEN VAN A 001090123456",
    "NGUYEN VAN A 001090123456",
    "SG1:NGUYEN VAN A 001090123456",
];

struct Gateway {
    child: Child,
    public: SocketAddr,
    admin: SocketAddr,
}

impl Gateway {
    fn start(data_dir: &Path, log: &Path) -> Self {
        let mut child = Command::new(GATEWAY)
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir)
            .env("SCANGATE_LOG__LEVEL", "trace")
            .stdout(Stdio::piped())
            .stderr(fs::File::create(log).expect("a log"))
            .spawn()
            .expect("the gateway starts");
        let mut greeting = String::new();
        let stdout = child.stdout.take().expect("standard output");
        BufReader::new(stdout).read_line(&mut greeting).expect("a greeting");
        let address = |text: &str| {
            let address = text.trim_start_matches("http://").trim_end_matches(')');
            address.parse().unwrap_or_else(|_| panic!("no address in {greeting}"))
        };
        let words: Vec<_> = greeting.split_whitespace().collect();
        let public = words.iter().find(|word| word.starts_with("http://")).expect("the public address");
        let admin = words.last().expect("the admin address");
        Self { public: address(public), admin: address(admin), child }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Only what this test started, by its id; gone already is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    stream.write_all(request.as_bytes()).expect("sends");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answers");
    answer
}

fn run(arguments: &[&str], data_dir: &Path) -> String {
    let output =
        Command::new(GATEWAY).args(arguments).arg("--data-dir").arg(data_dir).output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

fn collect(dir: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry")) {
        if entry.path().is_dir() {
            collect(&entry.path(), found);
        } else {
            let mut bytes = fs::read(entry.path()).expect("a file");
            // Preallocated space.
            bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
            found.push((entry.path().display().to_string(), bytes));
        }
    }
}

/// The secret as it stands, in both cases, as hexadecimal and as base64 (from each of the three alignments).
fn disguises(secret: &str) -> Vec<Vec<u8>> {
    use base64::Engine as _;
    let mut all = vec![secret.as_bytes().to_vec(), secret.to_lowercase().into_bytes()];
    all.push(secret.bytes().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect());
    for padding in 0..3 {
        let shifted = [vec![b'x'; padding], secret.as_bytes().to_vec()].concat();
        let text = base64::engine::general_purpose::STANDARD_NO_PAD.encode(shifted);
        // The first and last characters also depend on the neighbours.
        all.push(text.as_bytes().iter().skip(padding + 1).take(secret.len()).copied().collect());
    }
    all
}

#[test]
fn no_name_number_or_payload_is_left_anywhere() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data_dir, log) = (dir.path().join("data"), dir.path().join("log"));
    let gateway = Gateway::start(&data_dir, &log);
    let token = run(&["issue", "device", "--place", "gate"], &data_dir);
    let code = run(&["issue", "person", "001090123456"], &data_dir);
    let mut recorded = 0;
    for (index, payload) in PAYLOADS.iter().copied().chain([code.as_str()]).enumerate() {
        let body = serde_json::json!({ "id": format!("scan-{index}"), "qr": payload }).to_string();
        for (content_type, body) in [
            ("application/json", body.clone()),
            ("application/x-ndjson", format!("{body}\n{{\"id\":\"NGUYEN VAN A\"}}\n")),
        ] {
            let answer = exchange(
                gateway.public,
                &format!(
                    "POST /v1/checkins?qr=001090123456 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
                 Content-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                ),
            );
            recorded += answer.matches("\"recorded\"").count();
            assert!(SECRETS.iter().all(|secret| !answer.contains(secret)), "{answer}");
        }
    }
    assert_eq!(recorded, 3, "the citizen card, the PC-COVID code and the insurance card");
    let get = |path: &str| {
        exchange(gateway.admin, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    };
    let export =
        run(&["export", "--from", "2020-01-01T00:00:00Z", "--to", "2100-01-01T00:00:00Z"], &data_dir);
    assert_eq!(export.lines().count(), 3, "{export}");
    let (from, to) = ("2021-11-24T00:00:00Z", "2021-11-25T00:00:00Z");
    run(&["trace", "001090123456", "--from", from, "--to", to, "--purpose", "ca bệnh 17"], &data_dir);
    let feed_token = fs::read_to_string(data_dir.join("keys/feed-token")).expect("the feed's token");
    let lines = "{\"citizen\":\"001090123456\",\"qid\":\"162979388586171100\",\"insurance\":\"DN0010109063006\"}\n\
                 {\"citizen\":\"001093029317x\",\"qid\":\"162979388586171100\"}\nNGUYEN VAN A\n";
    let answer = exchange(
        gateway.admin,
        &format!(
            "POST /v1/links?source=test&cursor=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/x-ndjson\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{lines}",
            feed_token.trim(),
            lines.len()
        ),
    );
    assert!(answer.contains("\"accepted\":1,\"unchanged\":0,\"refused\":2"), "{answer}");
    assert!(SECRETS.iter().all(|secret| !answer.contains(secret)), "{answer}");
    let mut found = vec![
        ("the metrics".to_owned(), get("/metrics").into_bytes()),
        ("the stats".to_owned(), get("/v1/stats").into_bytes()),
        ("the export".to_owned(), export.into_bytes()),
    ];
    drop(gateway);
    collect(dir.path(), &mut found);
    assert!(
        found.iter().any(|(name, bytes)| name.ends_with("log") && bytes.len() > 1_000),
        "the log is talkative"
    );
    assert!(
        found.iter().any(|(name, bytes)| name.contains("journal") && bytes.len() > 200),
        "the journal is there"
    );
    assert!(
        found.iter().any(|(name, bytes)| name.contains("/identity/") && bytes.len() > 100),
        "the links are there"
    );
    assert!(
        found.iter().any(|(name, bytes)| name.contains("/audit/") && bytes.len() > 1_000),
        "the audit log is there"
    );
    for (name, bytes) in &found {
        for secret in SECRETS.iter().flat_map(|secret| disguises(secret)).chain([code.clone().into_bytes()]) {
            let is_there = memchr::memmem::find(bytes, &secret).is_some();
            assert!(!is_there, "{name} holds {}", String::from_utf8_lossy(&secret));
        }
    }
}
