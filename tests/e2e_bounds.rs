//! Every bound as its sender meets it: sizes, rates, times, queues and the journal's space, in both runtimes.
//! Past a bound the answer is 413, 408, 429 or 503 with the bound's name, and nothing acknowledged is lost.

// A test may panic, and says what it counted.
#![allow(clippy::indexing_slicing, clippy::print_stdout)]

mod support;

use std::collections::HashMap;
use std::io::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use support::gateway::Site;
use support::http::{self, Client, bearer, post, problem};
use support::{codes, export};

on_both_runtimes!(
    compressed_batches_are_inflated_up_to_a_limit,
    limits_on_size_answer_413,
    the_rate_limit_says_when_to_come_back,
    slow_and_silent_peers_are_closed,
    a_full_journal_answers_503_and_loses_nothing,
    a_full_worker_queue_answers_503,
);

fn site(runtime: &str) -> Site {
    Site::new().set("listen.runtime", runtime)
}

fn compressed_batches_are_inflated_up_to_a_limit(runtime: &str) {
    let gateway = site(runtime).start();
    let gate = gateway.site.place_device("gate");
    let body = |first: u32| {
        let scans: Vec<Value> = (first..first + 100)
            .map(|serial| json!({"id": format!("c{serial}"), "qr": codes::citizen(serial)}))
            .collect();
        http::ndjson(&scans)
    };
    let mut client = gateway.connect();
    for (encoding, packed) in [
        ("gzip", gzip(body(0).as_bytes())),
        ("zstd", zstd::encode_all(body(100).as_bytes(), 3).expect("zstd")),
    ] {
        let answer = post(&mut client, &gate, "application/x-ndjson", Some(encoding), &packed);
        assert_eq!(answer.status, 200, "{encoding}: {}", answer.text());
        let answers = answer.lines();
        assert_eq!(answers.len(), 100);
        assert!(answers.iter().all(|line| line["status"] == 201), "{encoding}");

        let cut =
            post(&mut client, &gate, "application/x-ndjson", Some(encoding), &packed[..packed.len() / 2]);
        assert_eq!(cut.status, 400, "{encoding}: {}", cut.text());
    }
    // A bomb: a few kilobytes that would become 64 MiB.
    let zeros = vec![b'\n'; 64 << 20];
    for (encoding, packed) in
        [("gzip", gzip(&zeros)), ("zstd", zstd::encode_all(&zeros[..], 3).expect("zstd"))]
    {
        let answer = post(&mut client, &gate, "application/x-ndjson", Some(encoding), &packed);
        let problem = problem(&answer, 413, "too_large");
        assert_eq!(problem["limit"], 1_048_576, "{problem}");
    }
    // One scan may be compressed as well.
    let single = json!({"id": "single", "qr": codes::CCCD}).to_string();
    let answer = post(&mut client, &gate, "application/json", Some("gzip"), &gzip(single.as_bytes()));
    assert_eq!(answer.status, 201, "{}", answer.text());
}

fn limits_on_size_answer_413(runtime: &str) {
    let gateway = site(runtime).start();
    let gate = gateway.site.place_device("gate");

    let too_many: Vec<Value> = (0..1001).map(|n| json!({"id": n.to_string(), "qr": "x"})).collect();
    let answer = gateway.connect().try_batch(&gate, &too_many).expect("an answer");
    let refused = problem(&answer, 413, "too_large");
    assert_eq!(refused["limit"], 1000, "{refused}");
    // Counting may stop at the limit.
    assert!(refused["value"].is_null() || refused["value"] == 1001, "{refused}");
    assert!(refused["bound"].is_string(), "{refused}");

    // Told before the body is sent, in chunks without a length, and as one scan.
    let large = vec![b' '; (1 << 20) + 1];
    let answer = post(&mut gateway.connect(), &gate, "application/x-ndjson", None, &large);
    let refused = problem(&answer, 413, "too_large");
    assert_eq!(refused["limit"], 1 << 20, "{refused}");

    let mut client = gateway.connect();
    let head = format!(
        "POST /v1/checkins HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\nContent-Type: application/x-ndjson\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
        bearer(&gate)
    );
    client.send(head.as_bytes()).expect("sent");
    let chunk = [b"10000\r\n", vec![b' '; 0x10000].as_slice(), b"\r\n"].concat();
    for _ in 0..17 {
        if client.send(&chunk).is_err() {
            break;
        }
    }
    problem(&client.receive().expect("an answer"), 413, "too_large");

    let long = json!({"id": "long", "qr": "x".repeat(5000)});
    let answer = gateway.connect().scan(&gate, &long);
    assert!(matches!(answer.status, 400 | 413), "{}", answer.text());

    let mut client = gateway.connect();
    let headers = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "a".repeat(64 << 10));
    let _ = client.send(headers.as_bytes());
    if let Ok(answer) = client.receive() {
        assert_eq!(answer.status, 431);
    }
    assert_eq!(gateway.connect().request("GET", "/healthz", &[], b"").status, 200);
}

fn the_rate_limit_says_when_to_come_back(runtime: &str) {
    let gateway =
        site(runtime).set("limits.device_scans_per_s", "1").set("limits.device_scans_burst", "1000").start();
    let site = &gateway.site;
    let (busy, other) = (site.place_device("busy"), site.place_device("other"));
    let scans: Vec<Value> =
        (0..1000).map(|n| json!({"id": n.to_string(), "qr": codes::citizen(n)})).collect();
    let mut client = gateway.connect();
    assert!(client.batch(&busy, &scans).iter().all(|line| line["status"] == 201));
    let refused =
        (0..5).map(|n| client.scan(&busy, &json!({"id": format!("x{n}"), "qr": codes::citizen(2000 + n)})));
    let refused = refused.last().expect("five answers");
    let body = problem(&refused, 429, "rate_limited");
    let after: u32 = refused.header("retry-after").expect("Retry-After").parse().expect("seconds");
    assert!((1..=60).contains(&after), "{after}");
    assert!(body["bound"].as_str().is_some_and(|bound| bound.contains("device_scans")), "{body}");
    let answer = client.scan(&other, &json!({"id": "o", "qr": codes::citizen(3000)}));
    assert_eq!(answer.status, 201, "another device has a bucket of its own: {}", answer.text());
}

fn slow_and_silent_peers_are_closed(runtime: &str) {
    let gateway = site(runtime)
        .set("listen.header_timeout_ms", "300")
        .set("listen.body_timeout_ms", "300")
        .set("listen.idle_timeout_ms", "400")
        .start();
    let gate = gateway.site.place_device("gate");
    let patience = Duration::from_secs(5);

    let mut never_ends_its_headers = gateway.connect();
    never_ends_its_headers.send(b"POST /v1/checkins HTTP/1.1\r\nHost: x\r\n").expect("sent");
    let mut never_ends_its_body = gateway.connect();
    let whole = http::scan_bytes(&gate, &json!({"id": "a", "qr": codes::CCCD}));
    never_ends_its_body.send(&whole[..whole.len() - 5]).expect("sent");
    let mut idle = gateway.connect();
    assert_eq!(idle.request("GET", "/healthz", &[], b"").status, 200);

    problem(&never_ends_its_body.receive().expect("an answer"), 408, "request_timeout");
    assert!(never_ends_its_body.closes_within(patience));
    if let Ok(answer) = never_ends_its_headers.receive() {
        assert_eq!(answer.status, 408);
    }
    assert!(idle.closes_within(patience), "an idle connection is closed after idle_timeout_ms");
    assert_eq!(gateway.site.export(), []);
}

fn a_full_journal_answers_503_and_loses_nothing(runtime: &str) {
    // With a database that isn't there, nothing is ever deleted from the journal.
    let site = site(runtime)
        .set("journal.bytes_max", "2097152")
        .set("journal.segment_bytes", "524288")
        .set("journal.lane_bytes_max", "262144")
        .set("journal.batch_bytes_max", "65536");
    let gateway = site.clone().set("store.kind", "cql").set("cql.nodes", r#"["127.0.0.1:1"]"#).start();
    let gate = gateway.site.place_device("gate");
    let mut client = gateway.connect();
    let mut acknowledged = HashMap::new();
    let mut refused = 0;
    for batch in 0..40 {
        let scans: Vec<Value> = (0..1000)
            .map(|n| json!({"id": format!("{batch}-{n}"), "qr": codes::citizen(batch * 1000 + n), "direction": "in"}))
            .collect();
        for line in client.batch(&gate, &scans) {
            match line["status"].as_u64() {
                Some(201) => {
                    acknowledged.insert(line["checkin"].as_str().expect("an id").to_owned(), "in".to_owned());
                }
                Some(503) => refused += 1,
                _ => panic!("{line}"),
            }
        }
    }
    assert!(refused > 0 && acknowledged.len() > 1000, "{refused} refused, {} recorded", acknowledged.len());
    let answer = client.scan(&gate, &json!({"id": "full", "qr": codes::citizen(999_999)}));
    let body = problem(&answer, 503, answer.json()["outcome"].as_str().expect("an outcome"));
    assert!(answer.header("retry-after").is_some(), "{body}");
    assert!(body.to_string().contains("journal"), "the bound is named: {body}");
    // Probes and reads go on, and all that was acknowledged reaches a store once there is one.
    assert_eq!(client.request("GET", "/healthz", &[], b"").status, 200);
    gateway.kill();
    let gateway = site.start();
    let rows = gateway.site.export_when(acknowledged.len(), Duration::from_secs(20));
    assert_eq!(export::audit(&acknowledged, &rows), [""; 0]);
    let answer = gateway.connect().scan(&gate, &json!({"id": "later", "qr": codes::citizen(999_999)}));
    assert_eq!(answer.status, 201, "space is back: {}", answer.text());
}

fn a_full_worker_queue_answers_503(runtime: &str) {
    let gateway = site(runtime).set("workers.queue_jobs_max", "1").set("workers.threads", "1").start();
    let site = &gateway.site;
    let gate = site.place_device("gate");
    let code = site.code("person", "001093029317");
    let mut connections: Vec<Client> = (0..64).map(|_| gateway.connect()).collect();
    let mut shed = 0;
    for round in 0..50 {
        // Never-seen signatures: the token's last character decides only the signature.
        for (index, connection) in connections.iter_mut().enumerate() {
            let forged = forge(&code, round * 64 + index);
            connection.send(&http::scan_bytes(&gate, &json!({"id": "q", "qr": forged}))).expect("sent");
        }
        for connection in &mut connections {
            let answer = connection.receive().expect("an answer");
            match answer.status {
                422 => {}
                503 => {
                    let body = problem(&answer, 503, "overloaded");
                    assert!(answer.header("retry-after").is_some(), "{body}");
                    assert!(body["bound"].as_str().is_some_and(|bound| bound.contains("queue")), "{body}");
                    shed += 1;
                }
                other => panic!("{other} {}", answer.text()),
            }
        }
        if shed > 0 {
            break;
        }
    }
    assert!(shed > 0, "a queue of one job was never full");
    assert_eq!(connections[0].scan(&gate, &json!({"id": "after", "qr": codes::CCCD})).status, 201);
}

/// A different, well-formed but wrong token for each index: two base45 characters of the signature change.
fn forge(code: &str, index: usize) -> String {
    const ALPHABET: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut bytes = code.as_bytes().to_vec();
    let end = bytes.len();
    // The first two of a group of three, well inside the last 64 bytes, so that each group stays below 65,536.
    for (place, digit) in [(end - 30, index % 30), (end - 33, index / 30 % 30), (end - 36, index / 900 % 30)]
    {
        bytes[place] = ALPHABET[digit];
    }
    String::from_utf8(bytes).expect("ASCII")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("written");
    encoder.finish().expect("finished")
}
