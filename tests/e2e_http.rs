//! The API as a scanner meets it: raw bytes over a socket against the running binary, in both runtimes.

mod support;

use std::collections::{HashMap, HashSet};
use std::io::Write as _;
use std::process::Stdio;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use support::gateway::{Site, read_all};
use support::http::{self, Client, Response, bearer};
use support::{codes, export};

on_both_runtimes!(
    every_specimen_is_recorded_and_its_repeat_is_a_duplicate,
    a_batch_answers_line_by_line,
    compressed_batches_are_inflated_up_to_a_limit,
    refusals_name_their_outcome,
    malformed_requests_name_field_and_limit,
    requests_that_never_become_a_scan,
    limits_on_size_answer_413,
    the_rate_limit_says_when_to_come_back,
    ten_thousand_racers_record_one_checkin,
    probes_and_documents_are_served,
    pipelined_and_split_requests_are_answered_in_order,
    slow_and_silent_peers_are_closed,
    sigterm_drains_and_exits_cleanly,
    draining_shows_in_readyz_first,
    a_full_journal_answers_503_and_loses_nothing,
    a_full_worker_queue_answers_503,
);

fn site(runtime: &str) -> Site {
    Site::new().set("listen.runtime", runtime)
}

fn every_specimen_is_recorded_and_its_repeat_is_a_duplicate(runtime: &str) {
    let gateway = site(runtime).start();
    let site = &gateway.site;
    let gate = site.place_device("Cổng A");
    let visitor = site.person_device("001090123456");
    let person_code = site.code("person", "001093029317");
    let place_code = site.code("place", "Cổng B");
    let mut acknowledged = HashMap::new();
    let specimens = [
        ("cccd", &gate, codes::CCCD, "person", "asserted"),
        ("qrqg", &gate, codes::QRQG, "person", "asserted"),
        ("poster", &visitor, codes::PLACE, "place", "asserted"),
        ("sg1-person", &gate, &person_code, "person", "proven"),
        ("sg1-place", &visitor, &place_code, "place", "proven"),
    ];
    let mut client = gateway.connect();
    for (id, token, qr, subject, trust) in specimens {
        let at = codes::at(0);
        let answer = client.scan(token, &json!({"id": id, "qr": qr, "at": at, "direction": "in"}));
        assert_eq!(answer.status, 201, "{id}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let first = answer.json();
        for (name, expected) in
            [("outcome", "recorded"), ("id", id), ("direction", "in"), ("subject", subject), ("trust", trust)]
        {
            assert_eq!(first[name], expected, "{id}: {first}");
        }
        assert_eq!(first["at"].as_str().expect("a time")[..19], at[..19]);
        let checkin = first["checkin"].as_str().expect("an id").to_owned();

        // A scanner's line end, another client id, a few seconds later: still the same scan.
        let repeat = json!({"id": format!("{id}-again"), "qr": format!("{qr}\r\n"), "at": codes::at(5), "direction": "in"});
        for scan in [repeat, json!({"id": id, "qr": qr, "at": at, "direction": "in"})] {
            let answer = client.scan(token, &scan);
            assert_eq!(answer.status, 200, "{id}: {}", answer.text());
            let duplicate = answer.json();
            assert_eq!(duplicate["outcome"], "duplicate");
            assert_eq!(duplicate["original"]["checkin"], *checkin);
            assert_eq!(duplicate["id"], scan["id"]);
        }
        acknowledged.insert(checkin, "in".to_owned());
    }
    assert_eq!(acknowledged.len(), specimens.len());

    // Both forms of one personal code are one person.
    let masked = client.scan(&gate, &json!({"id": "masked", "qr": codes::QRQG_MASKED, "direction": "in"}));
    assert_eq!(masked.status, 200, "{}", masked.text());

    let rows = site.export_when(acknowledged.len(), Duration::from_secs(10));
    assert_eq!(export::audit(&acknowledged, &rows), [""; 0]);
    // One person, whether the code is a card, the device is the person's own, or both.
    let visits: HashSet<&str> =
        rows.iter().filter(|row| row.subject == "place").map(|row| row.person.as_str()).collect();
    let card = rows.iter().find(|row| {
        acknowledged.contains_key(&row.checkin)
            && row.trust == "asserted"
            && row.subject == "person"
            && visits.contains(row.person.as_str())
    });
    assert_eq!(visits.len(), 1);
    assert!(card.is_some(), "the card of 001090123456 and the device of 001090123456 are one person");
}

fn a_batch_answers_line_by_line(runtime: &str) {
    let gateway = site(runtime).start();
    let gate = gateway.site.place_device("gate");
    let mut lines: Vec<String> = (0..997)
        .map(|serial| {
            json!({"id": format!("b{serial}"), "qr": codes::citizen(serial), "direction": "in"}).to_string()
        })
        .collect();
    lines.push("not json".to_owned());
    lines.push(json!({"id": "unknown", "qr": "https://example.org/menu"}).to_string());
    lines.push(json!({"id": "again", "qr": codes::citizen(0), "direction": "in"}).to_string());
    let answer =
        post(&mut gateway.connect(), &gate, "application/x-ndjson", None, lines.join("\n").as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let answers = answer.lines();
    assert_eq!(answers.len(), 1000);
    for (index, line) in answers.iter().enumerate() {
        assert_eq!(line["line"], index + 1);
    }
    assert!(answers[..997].iter().all(|line| line["status"] == 201 && line["outcome"] == "recorded"));
    assert_eq!(answers[996]["id"], "b996");
    assert_eq!((&answers[997]["status"], &answers[997]["outcome"]), (&json!(400), &json!("malformed")));
    assert_eq!((&answers[998]["status"], &answers[998]["outcome"]), (&json!(422), &json!("unrecognized")));
    assert_eq!((&answers[999]["status"], &answers[999]["outcome"]), (&json!(200), &json!("duplicate")));
    assert_eq!(answers[999]["original"]["checkin"], answers[0]["checkin"]);
    let rows = gateway.site.export_when(997, Duration::from_secs(10));
    assert_eq!(rows.len(), 997);
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

fn refusals_name_their_outcome(runtime: &str) {
    let gateway = site(runtime).start();
    let site = &gateway.site;
    let gate = site.place_device("gate");
    let visitor = site.person_device("visitor");
    let person = site.code("person", "001093029317");
    let place = site.code("place", "gate");
    let stranger = {
        let elsewhere = Site::new();
        elsewhere.run_ok(&["keys", "generate"]);
        elsewhere.code("person", "001093029317")
    };
    let mut tampered = person.clone().into_bytes();
    let last = tampered.len() - 4;
    tampered[last] = if tampered[last] == b'A' { b'B' } else { b'A' };
    let tampered = String::from_utf8(tampered).expect("ASCII");
    let (payment, now) = (codes::payment(), codes::at(0));
    let inconsistent = codes::CCCD.replace("|Nam|", "|Nữ|");
    let mut client = gateway.connect();
    for (expected, token, qr, at) in [
        ("unrecognized", &gate, "https://example.org/menu", &now),
        ("unrecognized", &gate, "NZCOVIDTRACER", &now),
        ("payment_code", &gate, &payment, &now),
        ("wrong_subject", &gate, codes::PLACE, &now),
        ("wrong_subject", &gate, &place, &now),
        ("wrong_subject", &visitor, codes::CCCD, &now),
        ("wrong_subject", &visitor, &person, &now),
        ("inconsistent_identity", &gate, &inconsistent, &now),
        (
            "chunked_code",
            &gate,
            "shc:/2/3/567629095243206034602924374044603122295953265460346029254077280433",
            &now,
        ),
        ("unknown_key", &gate, &stranger, &now),
        ("clock_skew", &gate, codes::CCCD, &codes::at(-3 * 86_400)),
        ("clock_skew", &gate, codes::CCCD, &codes::at(3600)),
    ] {
        let answer = client.scan(token, &json!({"id": "r", "qr": qr, "at": at}));
        problem(&answer, 422, expected);
        assert!(!answer.text().contains("NGUYEN"), "a refusal repeats the payload");
    }
    let answer = client.scan(&gate, &json!({"id": "r", "qr": tampered}));
    assert_eq!(answer.status, 422, "{}", answer.text());
    let outcome = answer.json()["outcome"].clone();
    assert!(outcome == "bad_signature" || outcome == "unrecognized", "{outcome}");

    assert_eq!(site.export(), [], "nothing that was refused is stored");
    let log = site.log();
    for secret in ["NGUYEN", "001090123456", "012345678", &payment, &person, gate.as_str()] {
        let printed = log.lines().filter(|line| line.starts_with('{')).any(|line| line.contains(secret));
        assert!(!printed, "the log holds a payload or token");
    }
}

fn malformed_requests_name_field_and_limit(runtime: &str) {
    let gateway = site(runtime).start();
    let gate = gateway.site.place_device("gate");
    let mut client = gateway.connect();
    for (body, field) in [
        ("", "body"),
        ("[]", "body"),
        ("{\"id\":\"a\",\"qr\":\"x\"", "body"),
        (r#"{"qr":"x"}"#, "id"),
        (r#"{"id":"","qr":"x"}"#, "id"),
        (r#"{"id":"a b","qr":"x"}"#, "id"),
        (r#"{"id":7,"qr":"x"}"#, "id"),
        (r#"{"id":"a"}"#, "qr"),
        (r#"{"id":"a","qr":""}"#, "qr"),
        (r#"{"id":"a","qr":"x","at":"noon"}"#, "at"),
        (r#"{"id":"a","qr":"x","direction":"up"}"#, "direction"),
        (r#"{"id":"a","qr":"x","directoin":"in"}"#, "body"),
    ] {
        let answer = post(&mut client, &gate, "application/json", None, body.as_bytes());
        let problem = problem(&answer, 400, "malformed");
        assert_eq!(problem["field"], field, "{body}: {problem}");
    }
    let long = json!({"id": "i".repeat(65), "qr": "x"}).to_string();
    problem(&post(&mut client, &gate, "application/json", None, long.as_bytes()), 400, "malformed");
    let invalid = post(&mut client, &gate, "application/json", None, b"{\"id\":\"a\",\"qr\":\"\xff\"}");
    problem(&invalid, 400, "malformed");
}

fn requests_that_never_become_a_scan(runtime: &str) {
    let gateway = site(runtime).start();
    let gate = gateway.site.place_device("gate");
    let scan = json!({"id": "a", "qr": codes::CCCD}).to_string();
    let json_type = ("Content-Type", "application/json");
    let mut client = gateway.connect();

    let unauthenticated = client.request("POST", "/v1/checkins", &[json_type], scan.as_bytes());
    problem(&unauthenticated, 401, "unauthenticated");
    assert!(unauthenticated.header("www-authenticate").is_some_and(|scheme| scheme.starts_with("Bearer")));
    let forged = format!("{}x", gate.trim_end_matches(char::is_alphanumeric));
    for token in ["", "x", "Basic YTpi", &bearer(&forged), &bearer(&gate[..gate.len() - 2])] {
        let headers = [json_type, ("Authorization", token)];
        problem(&client.request("POST", "/v1/checkins", &headers, scan.as_bytes()), 401, "unauthenticated");
    }
    problem(&client.request("GET", "/nothing", &[], b""), 404, "not_found");
    problem(&client.request("GET", "/metrics", &[], b""), 404, "not_found");
    let method = client.request("GET", "/v1/checkins", &[], b"");
    problem(&method, 405, "method_not_allowed");
    assert_eq!(method.header("allow"), Some("POST"));
    problem(&post(&mut client, &gate, "text/plain", None, scan.as_bytes()), 415, "unsupported_media_type");
    problem(
        &post(&mut client, &gate, "application/json", Some("br"), scan.as_bytes()),
        415,
        "unsupported_encoding",
    );

    let authorization = bearer(&gate);
    let headless = format!(
        "POST /v1/checkins HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\nContent-Type: application/json\r\n\r\n"
    );
    client.send(headless.as_bytes()).expect("sent");
    problem(&client.receive().expect("an answer"), 411, "length_required");

    // A chunked body is fine.
    let chunked = format!(
        "POST /v1/checkins HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n5\r\n{}\r\n{:x}\r\n{}\r\n0\r\n\r\n",
        &scan[..5],
        scan.len() - 5,
        &scan[5..]
    );
    let mut client = gateway.connect();
    client.send(chunked.as_bytes()).expect("sent");
    assert_eq!(client.receive().expect("an answer").status, 201);

    // What isn't HTTP gets a 4xx or a closed door, and the next peer is served.
    for garbage in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"GET\r\n\r\n", b"\0\0\0\0\r\n\r\n"]
    {
        let mut peer = gateway.connect();
        let _ = peer.send(garbage);
        let _ = peer.send(b"\r\n\r\n");
        if let Ok(answer) = peer.receive() {
            assert!((400..500).contains(&answer.status), "{}", answer.status);
        }
    }
    assert_eq!(gateway.connect().request("GET", "/healthz", &[], b"").status, 200);
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
    assert!(refused["field"].is_string(), "{refused}");

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
    let chunk = [b"10000\r\n", &[b' '; 0x10000][..], b"\r\n"].concat();
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
    assert!(body["field"].as_str().is_some_and(|field| field.contains("device_scans")), "{body}");
    let answer = client.scan(&other, &json!({"id": "o", "qr": codes::citizen(3000)}));
    assert_eq!(answer.status, 201, "another device has a bucket of its own: {}", answer.text());
}

/// Ten thousand scans of one person at one gate, from many connections at once, each with an id of its own.
fn ten_thousand_racers_record_one_checkin(runtime: &str) {
    const THREADS: usize = 8;
    const CONNECTIONS: usize = 25;
    const ROUNDS: usize = 50;
    let gateway = site(runtime).start();
    let gate = gateway.site.place_device("gate");
    let at = codes::at(0);
    let barrier = Barrier::new(THREADS);
    let race = |thread: usize| {
        let mut connections: Vec<Client> = (0..CONNECTIONS).map(|_| gateway.connect()).collect();
        let mut answers = Vec::with_capacity(CONNECTIONS * ROUNDS);
        barrier.wait();
        for round in 0..ROUNDS {
            for (index, connection) in connections.iter_mut().enumerate() {
                let id = format!("{thread}-{index}-{round}");
                let scan = json!({"id": id, "qr": codes::CCCD, "at": at, "direction": "in"});
                connection.send(&http::scan_bytes(&gate, &scan)).expect("sent");
            }
            for connection in &mut connections {
                let answer = connection.receive().expect("an answer");
                let body = answer.json();
                let checkin = match answer.status {
                    201 => &body["checkin"],
                    200 => &body["original"]["checkin"],
                    other => panic!("{other} {body}"),
                };
                answers.push((answer.status, checkin.as_str().expect("an id").to_owned()));
            }
        }
        answers
    };
    let answers: Vec<(u16, String)> = thread::scope(|scope| {
        let racers: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || race(thread))).collect();
        racers.into_iter().flat_map(|racer| racer.join().expect("a racer")).collect()
    });
    assert_eq!(answers.len(), 10_000);
    assert_eq!(answers.iter().filter(|(status, _)| *status == 201).count(), 1);
    let ids: HashSet<&str> = answers.iter().map(|(_, checkin)| checkin.as_str()).collect();
    assert_eq!(ids.len(), 1, "all were answered with one check-in");
    let rows = gateway.site.export_when(1, Duration::from_secs(10));
    assert_eq!(rows.iter().map(|row| row.checkin.as_str()).collect::<HashSet<_>>(), ids);
    assert_eq!(rows.len(), 1);
}

fn probes_and_documents_are_served(runtime: &str) {
    let gateway = site(runtime).start();
    let gate = gateway.site.place_device("gate");
    let mut client = gateway.connect();
    for path in ["/healthz", "/readyz", "/openapi.json"] {
        assert_eq!(client.request("GET", path, &[], b"").status, 200, "{path}");
    }
    let openapi = client.request("GET", "/openapi.json", &[], b"").json();
    assert!(openapi["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    assert!(openapi["paths"]["/v1/checkins"]["post"].is_object());
    assert_eq!(client.scan(&gate, &json!({"id": "a", "qr": codes::CCCD})).status, 201);

    let mut admin = gateway.connect_admin();
    let stats = admin.request("GET", "/v1/stats", &[], b"");
    assert_eq!(stats.status, 200);
    assert!(stats.json().is_object());
    let metrics = admin.request("GET", "/metrics", &[], b"");
    assert!(metrics.header("content-type").is_some_and(|kind| kind.contains("openmetrics")));
    assert!(metrics.text().ends_with("# EOF\n"));
    assert!(metrics.text().contains(runtime), "the runtime in use is exported");
    assert!(metrics.text().contains("recorded"), "outcomes are exported");
    for path in ["/v1/checkins", "/v1/nothing"] {
        assert_eq!(admin.request("GET", path, &[], b"").status, 404, "{path} on the admin listener");
    }
}

fn pipelined_and_split_requests_are_answered_in_order(runtime: &str) {
    let gateway = site(runtime).start();
    let gate = gateway.site.place_device("gate");
    let requests: Vec<Vec<u8>> = (0..50)
        .map(|n| http::scan_bytes(&gate, &json!({"id": format!("p{n}"), "qr": codes::citizen(n)})))
        .collect();
    let mut client = gateway.connect();
    client.send(&requests.concat()).expect("sent");
    for n in 0..50 {
        let answer = client.receive().expect("an answer");
        assert_eq!((answer.status, &answer.json()["id"]), (201, &json!(format!("p{n}"))));
    }
    let slow = http::scan_bytes(&gate, &json!({"id": "slow", "qr": codes::citizen(60)}));
    for piece in slow.chunks(slow.len().div_ceil(40)) {
        client.send(piece).expect("sent");
        thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(client.receive().expect("an answer").status, 201);
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

fn sigterm_drains_and_exits_cleanly(runtime: &str) {
    let gateway = site(runtime).start();
    let site = gateway.site.clone();
    let gate = site.place_device("gate");
    let mut idle = gateway.connect();
    assert_eq!(idle.request("GET", "/healthz", &[], b"").status, 200);
    // Under load: whatever is answered before the exit is kept.
    let acknowledged = thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut acknowledged = HashMap::new();
            let Ok(mut client) = Client::try_connect(site.listen, Duration::from_secs(5)) else {
                return acknowledged;
            };
            for serial in 0..100_000 {
                let scan =
                    json!({"id": format!("s{serial}"), "qr": codes::citizen(serial), "direction": "in"});
                match client.try_scan(&gate, &scan) {
                    Ok(answer) if answer.status == 201 => {
                        let checkin = answer.json()["checkin"].as_str().expect("an id").to_owned();
                        acknowledged.insert(checkin, "in".to_owned());
                    }
                    Ok(answer) => assert_eq!(answer.status, 503, "{}", answer.text()),
                    Err(_) => break,
                }
            }
            acknowledged
        });
        thread::sleep(Duration::from_millis(300));
        let status = gateway.terminate(Duration::from_secs(20));
        assert_eq!(status.code(), Some(0), "{}", site.log());
        sender.join().expect("the sender")
    });
    assert!(idle.closes_within(Duration::from_secs(1)));
    assert!(!acknowledged.is_empty());
    // The store is readable with no gateway running, and holds all of it.
    assert_eq!(export::audit(&acknowledged, &site.export()), [""; 0]);
    // And again after another start, which replays the journal.
    let again = site.start();
    let rows = site.export_when(acknowledged.len(), Duration::from_secs(10));
    assert_eq!(export::audit(&acknowledged, &rows), [""; 0]);
    assert!(again.terminate(Duration::from_secs(20)).success());
}

fn draining_shows_in_readyz_first(runtime: &str) {
    let gateway = site(runtime).start();
    let gate = gateway.site.place_device("gate");
    // A request under way holds the drain open long enough to look.
    let mut slow = gateway.connect();
    let whole = http::scan_bytes(&gate, &json!({"id": "a", "qr": codes::CCCD}));
    let (head, tail) = whole.split_at(whole.len() - 5);
    slow.send(head).expect("sent");
    let mut probe = gateway.connect();
    assert_eq!(probe.request("GET", "/readyz", &[], b"").status, 200);
    let answer = gateway.connect_admin().request("POST", "/v1/drain", &[], b"");
    assert!(matches!(answer.status, 200 | 202), "{}", answer.text());
    // Either an open connection learns it or it is closed; a new one isn't ready in any case. The order is
    // taken (202) a moment before it is carried out.
    let deadline = std::time::Instant::now() + Duration::from_secs(2);
    while probe.try_request("GET", "/readyz", &[], b"").is_ok_and(|answer| answer.status == 200) {
        assert!(std::time::Instant::now() < deadline, "still ready two seconds after the order to drain");
        thread::sleep(Duration::from_millis(5));
    }
    assert_ne!(gateway.site.ready(), Some(200));
    slow.send(tail).expect("sent");
    assert_eq!(slow.receive().expect("a request under way is finished").status, 201);
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
                    assert!(body["field"].as_str().is_some_and(|field| field.contains("queue")), "{body}");
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

fn post(client: &mut Client, token: &str, kind: &str, encoding: Option<&str>, body: &[u8]) -> Response {
    let authorization = bearer(token);
    let mut headers = vec![("Authorization", authorization.as_str()), ("Content-Type", kind)];
    headers.extend(encoding.map(|encoding| ("Content-Encoding", encoding)));
    client.request("POST", "/v1/checkins", &headers, body)
}

/// Checks that an answer is problem+json of this status and outcome, and returns it.
fn problem(answer: &Response, status: u16, outcome: &str) -> Value {
    assert_eq!(answer.status, status, "expected {outcome}: {}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let body = answer.json();
    assert_eq!(body["status"], status);
    assert_eq!(body["outcome"], outcome, "{body}");
    assert!(body["type"].is_string() && body["title"].is_string() && body["detail"].is_string(), "{body}");
    body
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("written");
    encoder.finish().expect("finished")
}
