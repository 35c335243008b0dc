//! The API as a scanner meets it: raw bytes over a socket against the running binary, in both runtimes.

// A test may panic, and says what it counted.
#![allow(clippy::indexing_slicing, clippy::print_stdout)]

mod support;

use std::collections::{HashMap, HashSet};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use serde_json::json;
use support::gateway::Site;
use support::http::{self, Client, bearer, post, problem};
use support::{codes, export};

on_both_runtimes!(
    every_specimen_is_recorded_and_its_repeat_is_a_duplicate,
    a_batch_answers_line_by_line,
    refusals_name_their_outcome,
    malformed_requests_name_field_and_limit,
    requests_that_never_become_a_scan,
    ten_thousand_racers_record_one_checkin,
    probes_and_documents_are_served,
    pipelined_and_split_requests_are_answered_in_order,
    sigterm_drains_and_exits_cleanly,
    draining_shows_in_readyz_first,
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
