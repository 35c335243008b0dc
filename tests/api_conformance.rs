//! Every answer of a running gateway against `openapi.json`: its status and type are described, and its
//! body has the members of the described type and no others.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod api_support;

use std::collections::BTreeSet;
use std::time::Duration;

use api_support::{Server, batch, card, eventually, exact, exchange, payment_code, raw, request};
use scangate::issue;
use scangate::openapi::{
    Alive, BatchLine, Draining, Duplicate, ExportedCheckin, LineResult, Recorded, Reloaded,
};
use scangate::scan::UnixMillis;
use serde_json::{Value, json};

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";
const DAY_MS: i64 = 86_400_000;
const TTL: Duration = Duration::from_hours(1);

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A made-up place with a location number that holds.
const NZ_POSTER: &str = "NZCOVIDTRACER:eyJnbG4iOiI5NDI5MzAwMDAwMDA3IiwidmVyIjoiYzE5OjEiLCJ0eXAiOiJlbnRyeSIsIm9wbiI6Ik\
                         NhZsOpIiwiYWRyIjoiMSBSb2FkXG5Ub3duIn0=";

/// The example in the format's specification.
const CWA_POSTER: &str = "https://e.coronawarn.app?v=1#CAESEwgBEgdGcmlzZXVyGgZCZXJsaW4adggBEmCDAszMTXne1DAA5_YxmhRdd_N\
                          ZN2VKl9L32Jl9-ZybE4b2eNIrhFOKYU4XAOHq3RPLDxdHTW6ANiO24rCOO4rj06HzcVZy3pel58-L1KSPG-_PneL2B\
                          oyZQRz3qlu2hoAaEATXwzyyIshzBHREtsdmc6kiBggBEAUYeA";

#[test]
fn a_scan_is_recorded_once_and_then_repeated() {
    let server = Server::start(|_| {});
    let token = server.place_device("gate");
    let answer = server.scan(&token, "scan-1", &card(1));
    assert_eq!((answer.status, answer.header("cache-control")), (201, Some("no-store")));
    let recorded: Recorded = answer.json();
    assert_eq!(recorded.outcome, "recorded");
    assert_eq!((recorded.id.as_str(), recorded.direction.as_str()), ("scan-1", "in"));
    assert_eq!((recorded.subject.as_str(), recorded.trust.as_str()), ("person", "asserted"));

    // The same client id, and the same person within the window under another.
    for id in ["scan-1", "scan-2"] {
        let mut again = request(id, &card(1));
        again["direction"] = "in".into();
        let answer = server.post(&token, "application/json; charset=utf-8", again.to_string());
        assert_eq!(answer.status, 200);
        let duplicate: Duplicate = answer.json();
        assert_eq!(duplicate.original.checkin, recorded.checkin, "{id}");
        assert_eq!((duplicate.outcome.as_str(), duplicate.id.as_str()), ("duplicate", id));
    }
}

#[test]
fn each_specimen_is_recorded_and_forms_of_one_person_are_one() {
    let server = Server::start(|_| {});
    let (gate, phone) = (server.place_device("gate"), server.person_device("001090123456"));
    let now = UnixMillis::now();
    let person = issue::issue_person(&server.data(), "001090123456", TTL, now).unwrap();
    let place = issue::issue_place(&server.data(), "hn-0001", TTL, now).unwrap();
    for (id, token, code, subject, trust, status) in [
        (
            "cccd",
            &gate,
            "001090123456|012345678|NGUYEN VAN A|01011990|Nam|12 Phố Huế, Hai Bà Trưng, Hà Nội|15042021\r\n",
            "person",
            "asserted",
            201,
        ),
        ("sg1-person", &gate, person.as_str(), "person", "proven", 200),
        (
            "qrqg",
            &gate,
            "001093029317|NGUYEN VAN A|1987-01-18|0|162979388586171100|<1<00<0123232422",
            "person",
            "asserted",
            201,
        ),
        (
            "qrqg-masked",
            &gate,
            "******029317|NGUYEN VAN A|1987-**-**|0|162979388586171100|<1<00<0123232422",
            "person",
            "asserted",
            200,
        ),
        (
            "bhyt",
            &gate,
            "0123456789|4e677579656e2056616e2041|01/01/1990|1|-|01 - 001|01/04/2021|-|15/03/2021|x$",
            "person",
            "asserted",
            201,
        ),
        (
            "bhyt-old",
            &gate,
            "DN4010123456789|4e677579656e2056616e2041|1990|1|-|01 - 001|01/01/2020|31/12/2020|x$",
            "person",
            "asserted",
            200,
        ),
        ("poster", &phone, "https://qr.pccovid.gov.vn/abc123", "place", "asserted", 201),
        ("poster-nz", &phone, NZ_POSTER, "place", "asserted", 201),
        ("poster-cwa", &phone, CWA_POSTER, "place", "asserted", 201),
        ("sg1-place", &phone, place.as_str(), "place", "proven", 201),
    ] {
        let mut scan = request(id, code);
        scan["direction"] = "in".into();
        let answer = server.post(token, JSON, scan.to_string());
        assert_eq!(answer.status, status, "{id}: {}", answer.text());
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((&body["subject"], &body["trust"]), (&subject.into(), &trust.into()), "{id}");
    }
}

/// What is wrong with a body, and the field that is named.
fn malformed_bodies() -> Vec<(String, &'static str)> {
    vec![
        (String::new(), "body"),
        ("[]".to_owned(), "body"),
        (r#"{"id":"a","qr":"x""#.to_owned(), "body"),
        (r#"{"id":"a","qr":"x"} {}"#.to_owned(), "body"),
        (r#"{"id":"a","id":"b","qr":"x"}"#.to_owned(), "body"),
        (r#"{"id":"a","qr":"x","Direction":"in"}"#.to_owned(), "body"),
        (r#"{"qr":"x"}"#.to_owned(), "id"),
        (r#"{"id":"","qr":"x"}"#.to_owned(), "id"),
        (r#"{"id":"a b","qr":"x"}"#.to_owned(), "id"),
        (r#"{"id":1,"qr":"x"}"#.to_owned(), "id"),
        (r#"{"id":"a"}"#.to_owned(), "qr"),
        (r#"{"id":"a","qr":null}"#.to_owned(), "qr"),
        (r#"{"id":"a","qr":""}"#.to_owned(), "qr"),
        (r#"{"id":"a","qr":"x","at":"noon"}"#.to_owned(), "at"),
        (r#"{"id":"a","qr":"x","at":"1969-12-31T00:00:00Z"}"#.to_owned(), "at"),
        (r#"{"id":"a","qr":"x","direction":"up"}"#.to_owned(), "direction"),
        (r#"{"id":"a","qr":"x","direction":true}"#.to_owned(), "direction"),
    ]
}

#[test]
fn a_malformed_scan_is_400_and_names_its_field() {
    let server = Server::start(|_| {});
    let token = server.place_device("gate");
    for (body, field) in malformed_bodies() {
        let headers = [("Authorization", &*format!("Bearer {token}")), ("Content-Type", JSON)];
        let headers = [&headers[..], if body.is_empty() { &[("Content-Length", "0")] } else { &[] }].concat();
        let answer = server.post_with(&headers, body.as_bytes());
        let problem = answer.problem();
        assert_eq!((problem.status, problem.outcome.as_str()), (400, "malformed"), "{body}");
        assert_eq!(problem.field.as_deref(), Some(field), "{body}");
    }
    for (id, qr, field, limit, value) in
        [("i".repeat(65), "x".to_owned(), "id", 64, 65), ("a".to_owned(), "q".repeat(4097), "qr", 4096, 4097)]
    {
        let problem = server.scan(&token, &id, &qr).problem();
        assert_eq!((problem.field.as_deref(), problem.status), (Some(field), 400));
        assert_eq!((problem.limit, problem.value), (Some(limit), Some(value)));
    }
    let headers = [
        ("Authorization", &*format!("Bearer {token}")),
        ("Content-Type", JSON),
        ("Content-Encoding", "gzip"),
    ];
    let problem = server.post_with(&headers, b"not gzip").problem();
    assert_eq!((problem.status, problem.field.as_deref()), (400, Some("body")));
    // Null is as good as nothing where nothing is allowed.
    let body = r#"{"id":"n","qr":"001090000001||NGUYEN VAN A|01011990|Nam|Hà Nội|15042021","at":null,"direction":null}"#;
    assert_eq!(server.post(&token, JSON, body).status, 201);
}

#[test]
fn a_readable_scan_is_refused_by_name() {
    let server = Server::start(|_| {});
    let other = Server::start(|_| {});
    let (gate, phone) = (server.place_device("gate"), server.person_device("001090123456"));
    let (data, now) = (server.data(), UnixMillis::now());
    let issued = |at_ms| issue::issue_person(&data, "001090000009", TTL, UnixMillis(at_ms)).unwrap();
    let good = issued(now.0);
    let mut forged = base45::decode(good.strip_prefix("SG1:").unwrap()).unwrap();
    *forged.last_mut().unwrap() ^= 1;
    let foreign = issue::issue_person(&other.data(), "001090000009", TTL, now).unwrap();
    let place = issue::issue_place(&data, "hn-0001", TTL, now).unwrap();
    let poster = "https://qr.pccovid.gov.vn/abc123";
    for (token, qr, outcome) in [
        (&gate, "hello".to_owned(), "unrecognized"),
        (&gate, "SG1:".to_owned(), "unrecognized"),
        (&gate, "\u{0}\u{7f}|\u{202e}".to_owned(), "unrecognized"),
        (&gate, payment_code(), "payment_code"),
        (&gate, format!("SG1:{}", base45::encode(&forged)), "bad_signature"),
        (&gate, foreign, "unknown_key"),
        (&gate, issued(now.0 - 10 * DAY_MS), "expired"),
        (&gate, issued(now.0 + 10 * DAY_MS), "not_yet_valid"),
        (&gate, card(1).replace("Nam", "Nữ"), "inconsistent_identity"),
        (&gate, "shc:/1/2/567629".to_owned(), "chunked_code"),
        (&phone, "UKC19TRACING:1:eyJhbGciOiJFUzI1NiIsImtpZCI6IjMifQ.e30.AAAA".to_owned(), "unknown_key"),
        (&gate, NZ_POSTER.to_owned(), "wrong_subject"),
        (&gate, place, "wrong_subject"),
        (&gate, poster.to_owned(), "wrong_subject"),
        (&phone, card(1), "wrong_subject"),
        (&phone, good, "wrong_subject"),
    ] {
        let problem = server.scan(token, "a", &qr).problem();
        assert_eq!((problem.status, problem.outcome.as_str()), (422, outcome), "{}", problem.detail);
        assert_eq!(problem.kind, format!("urn:scangate:outcome:{outcome}"));
    }
    for (at, limit) in [(now.0 - 3 * DAY_MS, 172_800), (now.0 + DAY_MS, 300)] {
        let mut scan = request("a", &card(1));
        scan["at"] = UnixMillis(at).to_string().into();
        let problem = server.post(&gate, JSON, scan.to_string()).problem();
        assert_eq!((problem.outcome.as_str(), problem.field.as_deref()), ("clock_skew", Some("at")));
        assert_eq!(problem.limit, Some(limit));
        assert!(problem.value.unwrap() > limit);
    }
}

#[test]
fn without_a_good_token_there_is_401_and_a_challenge() {
    let server = Server::start(|_| {});
    let token = server.place_device("gate");
    let (now, day) = (UnixMillis::now(), DAY_MS);
    let expired = server.named_device("dev", UnixMillis(now.0 - 2 * day));
    let forged = format!("{}AAAA", &token[..token.len() - 4]);
    let body = request("a", &card(1)).to_string();
    for (authorization, challenge) in [
        (None, "Bearer"),
        (Some("Bearer ".to_owned()), "Bearer"),
        (Some("Basic dXNlcjpwYXNz".to_owned()), "Bearer"),
        (Some("Bearer x.y.z".to_owned()), "Bearer error=\"invalid_token\""),
        (Some(format!("Bearer {}", "x".repeat(5000))), "Bearer error=\"invalid_token\""),
        (Some(format!("Bearer {expired}")), "Bearer error=\"invalid_token\""),
        (Some(format!("Bearer {forged}")), "Bearer error=\"invalid_token\""),
    ] {
        let mut headers = vec![("Content-Type", JSON)];
        headers.extend(authorization.as_deref().map(|value| ("Authorization", value)));
        let answer = server.post_with(&headers, body.as_bytes());
        assert_eq!(answer.header("www-authenticate"), Some(challenge), "{authorization:?}");
        let problem = answer.problem();
        assert_eq!((problem.status, problem.outcome.as_str()), (401, "unauthenticated"));
        assert!(problem.field.is_some());
    }
    assert_eq!(server.scan(&token, "a", &card(1)).status, 201);
}

#[test]
fn a_body_of_no_length_type_or_encoding_is_refused() {
    let server = Server::start(|config| config.listen.body_timeout_ms = 300);
    let authorization = format!("Bearer {}", server.place_device("gate"));
    let body = request("a", &card(1)).to_string();
    let with = |more: &[(&str, &str)]| {
        server.post_with(&[&[("Authorization", authorization.as_str())], more].concat(), body.as_bytes())
    };
    for content_type in [None, Some("text/plain"), Some("application/jsonx"), Some("")] {
        let headers: Vec<_> = content_type.map(|value| ("Content-Type", value)).into_iter().collect();
        let problem = with(&headers).problem();
        assert_eq!((problem.status, problem.field.as_deref()), (415, Some("content-type")));
        assert_eq!(problem.outcome, "unsupported_media_type");
    }
    let answer = with(&[("Content-Type", JSON), ("Content-Encoding", "br")]);
    assert_eq!(answer.header("accept-encoding"), Some("gzip, zstd"));
    assert_eq!(answer.problem().field.as_deref(), Some("content-encoding"));

    let head = format!(
        "POST /v1/checkins HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\nContent-Type: {JSON}\r\n"
    );
    let answer = raw(server.public, format!("{head}\r\n").as_bytes(), false);
    answer.assert_documented("/v1/checkins", "post");
    assert_eq!((answer.status, answer.problem().outcome.as_str()), (411, "length_required"));
    let answer = raw(server.public, format!("{head}Content-Length: 10\r\n\r\n{{").as_bytes(), false);
    answer.assert_documented("/v1/checkins", "post");
    let problem = answer.problem();
    assert_eq!((answer.status, problem.bound.as_deref()), (408, Some("listen.body_timeout_ms")));
    assert_eq!(problem.limit, Some(300));
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    assert_eq!(raw(server.public, chunked.as_bytes(), false).status, 201);
}

#[test]
fn a_batch_answers_each_line_as_if_it_were_alone() {
    let server = Server::start(|_| {});
    let token = server.place_device("gate");
    let mut lines = vec![request("b-1", &card(1)), request("b-2", &card(2)), request("b-1", &card(1))];
    lines.push(json!({"id": "b-4", "qr": "hello"}));
    lines.push(json!({"id": "b-5", "qr": card(5), "at": "2001-01-01T00:00:00Z"}));
    lines.push(json!({"id": "i".repeat(65), "qr": card(6)}));
    let text: Vec<_> = lines.iter().map(Value::to_string).collect();
    let mut text = text.join("\n");
    text.push_str("\r\n\n   \nnonsense\n");
    let answer = server.post(&token, NDJSON, &text);
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")));
    let lines: Vec<BatchLine> = answer.lines();
    assert_eq!(lines.iter().map(|line| line.line).collect::<Vec<_>>(), (1..=7).collect::<Vec<_>>());
    let statuses: Vec<_> = lines.iter().map(|line| line.status).collect();
    assert_eq!(statuses, [201, 201, 200, 422, 422, 400, 400]);
    let LineResult::Duplicate(duplicate) = &lines[2].result else { panic!("{:?}", lines[2]) };
    let LineResult::Recorded(recorded) = &lines[0].result else { panic!("{:?}", lines[0]) };
    assert_eq!(duplicate.original.checkin, recorded.checkin);
    let refused: Vec<_> = lines[3..]
        .iter()
        .map(|line| match &line.result {
            LineResult::Refused(refused) => refused,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!((refused[0].outcome.as_str(), refused[0].id.as_deref()), ("unrecognized", Some("b-4")));
    assert_eq!((refused[1].field.as_deref(), refused[1].limit), (Some("at"), Some(172_800)));
    assert_eq!((refused[2].field.as_deref(), refused[2].value), (Some("id"), Some(65)));
    assert_eq!((refused[3].field.as_deref(), refused[3].id.as_deref()), (Some("body"), None));

    // Compressed, it is the same batch; all of it has been seen.
    let zstd = zstd::encode_all(text.as_bytes(), 3).unwrap();
    for (encoding, body) in [("gzip", gzip(text.as_bytes())), ("zstd", zstd), ("identity", text.into_bytes())]
    {
        let headers = [
            ("Authorization", &*format!("Bearer {token}")),
            ("Content-Type", NDJSON),
            ("Content-Encoding", encoding),
        ];
        let lines: Vec<BatchLine> = server.post_with(&headers, &body).lines();
        let statuses: Vec<_> = lines.iter().map(|line| line.status).collect();
        assert_eq!(statuses, [200, 200, 200, 422, 422, 400, 400], "{encoding}");
    }
    let headers =
        [("Authorization", &*format!("Bearer {token}")), ("Content-Type", NDJSON), ("Content-Length", "0")];
    let empty = server.post_with(&headers, b"");
    assert_eq!((empty.status, empty.text()), (200, ""));
}

#[test]
fn what_is_too_large_is_413_and_names_the_bound() {
    let server = Server::start(|config| {
        config.limits.batch_lines_max = 3;
        config.limits.body_bytes_max = 2_000;
        config.limits.batch_inflated_bytes_max = 4_000;
    });
    let authorization = format!("Bearer {}", server.place_device("gate"));
    let four = format!("{}\n", request("a", "x")).repeat(4);
    let long = " ".repeat(5_000);
    for (content_type, encoding, body, bound, limit, value) in [
        (NDJSON, "identity", four.into_bytes(), "limits.batch_lines_max", 3, Some(4)),
        (JSON, "identity", long.clone().into_bytes(), "limits.body_bytes_max", 2_000, None),
        (NDJSON, "gzip", gzip(long.as_bytes()), "limits.batch_inflated_bytes_max", 4_000, None),
    ] {
        let headers = [
            ("Authorization", authorization.as_str()),
            ("Content-Type", content_type),
            ("Content-Encoding", encoding),
        ];
        let problem = server.post_with(&headers, &body).problem();
        assert_eq!((problem.status, problem.outcome.as_str()), (413, "too_large"));
        assert_eq!((problem.bound.as_deref(), problem.limit), (Some(bound), Some(limit)));
        assert_eq!(problem.value, value, "{bound}");
    }
}

#[test]
fn a_device_over_its_rate_is_429() {
    let server = Server::start(|config| {
        config.limits.device_scans_per_s = 1;
        config.limits.device_scans_burst = 3;
        config.limits.batch_lines_max = 3;
    });
    let token = server.place_device("gate");
    let batch = batch((1..=3).map(|n| (format!("b-{n}"), card(n))));
    assert_eq!(server.post(&token, NDJSON, &batch).status, 200);
    for answer in [server.scan(&token, "c", &card(4)), server.post(&token, NDJSON, &batch)] {
        let problem = answer.problem();
        assert_eq!((answer.status, problem.outcome.as_str()), (429, "rate_limited"));
        assert_eq!((problem.bound.as_deref(), problem.limit), (Some("limits.device_scans_per_s"), Some(1)));
        assert!(answer.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    }
    // Another device has an allowance of its own.
    assert_eq!(server.scan(&server.place_device("gate"), "c", &card(4)).status, 201);
}

#[test]
fn signatures_beyond_the_queue_are_503_line_by_line() {
    let server = Server::start(|config| {
        config.workers.threads = 1;
        config.workers.queue_jobs_max = 1;
    });
    let token = server.place_device("gate");
    let code = issue::issue_person(&server.data(), "001090000009", TTL, UnixMillis::now()).unwrap();
    // Known to the device cache, so that the queue holds nothing but signatures.
    assert_eq!(server.scan(&token, "a", &card(1)).status, 201);
    let batch = batch((0..1000).map(|n| (format!("b-{n}"), code.clone())));
    let lines: Vec<BatchLine> = server.post(&token, NDJSON, &batch).lines();
    assert_eq!(lines[0].status, 201);
    let shed: Vec<_> = lines.iter().filter(|line| line.status == 503).collect();
    assert!(!shed.is_empty());
    for line in shed {
        let LineResult::Refused(refused) = &line.result else { panic!("{line:?}") };
        assert_eq!(refused.outcome, "overloaded");
        assert_eq!((refused.bound.as_deref(), refused.limit), (Some("workers.queue_jobs_max"), Some(1)));
        assert!(refused.retry_after_s.unwrap() >= 1);
    }
}

#[test]
fn a_full_journal_is_503_and_not_ready() {
    let server = Server::start(|config| {
        config.limits.device_scans_per_s = 0;
        // A store that can't be reached, so that no segment may go.
        config.store.kind = scangate::config::StoreKind::Cql;
        config.cql.nodes = vec!["127.0.0.1:1".to_owned()];
        config.gateway.drain_timeout_ms = 200;
        config.journal.lane_bytes_max = 131_072;
        config.journal.batch_bytes_max = 65_536;
        config.journal.segment_bytes = 262_144;
        config.journal.bytes_max = 1 << 20;
    });
    let token = server.place_device("gate");
    let ready = exchange(server.public, "GET", "/readyz", &[], b"");
    ready.assert_documented("/readyz", "get");
    assert_eq!((ready.status, ready.text()), (200, "{\"ready\":true,\"reasons\":[]}\n"));
    let mut person = 0;
    let refused = loop {
        let batch = batch((0..500).map(|_| {
            person += 1;
            (format!("f-{person}"), card(person))
        }));
        let lines: Vec<BatchLine> = server.post(&token, NDJSON, &batch).lines();
        if let Some(line) = lines.into_iter().find(|line| line.status != 201) {
            break line;
        }
        assert!(person < 20_000, "the journal has no bound");
    };
    let LineResult::Refused(line) = &refused.result else { panic!("{refused:?}") };
    assert_eq!((refused.status, line.bound.as_deref()), (503, Some("journal.bytes_max")));
    let answer = server.scan(&token, "late", &card(999_999));
    let problem = answer.problem();
    assert_eq!((answer.status, problem.bound.as_deref()), (503, Some("journal.bytes_max")));
    assert_eq!(problem.limit, Some(1 << 20));
    // What was recorded is still answered for.
    let duplicate = server.scan(&token, "f-1", &card(1));
    assert_eq!(duplicate.status, 200, "{}", duplicate.text());
    for address in [server.public, server.admin] {
        eventually("readiness to fail", || exchange(address, "GET", "/readyz", &[], b"").status == 503);
        let answer = exchange(address, "GET", "/readyz", &[], b"");
        answer.assert_documented("/readyz", "get");
        assert_eq!(answer.text(), "{\"ready\":false,\"reasons\":[\"journal_full\"]}\n");
        assert!(answer.header("retry-after").is_some());
    }
}

#[test]
fn paths_and_methods_are_told_apart_on_both_listeners() {
    let server = Server::start(|_| {});
    let (public, admin) = (server.public, server.admin);
    for (address, method, target, status, allow) in [
        (public, "GET", "/", 404, None),
        (public, "GET", "/v1/checkins/", 404, None),
        (public, "POST", "//v1/checkins", 404, None),
        (public, "GET", "/%68ealthz", 404, None),
        (public, "GET", "/healthz%00", 404, None),
        (public, "GET", "/../healthz", 404, None),
        (public, "GET", "/Healthz", 404, None),
        (public, "OPTIONS", "*", 404, None),
        (public, "CONNECT", "x:1", 404, None),
        (public, "GET", "/metrics", 404, None),
        (public, "GET", "/v1/stats", 404, None),
        (public, "POST", "/v1/drain", 404, None),
        (public, "GET", "/v1/checkins", 405, Some("POST")),
        (public, "PUT", "/v1/checkins", 405, Some("POST")),
        (public, "TRACE", "/v1/checkins", 405, Some("POST")),
        (public, "POST", "/healthz", 405, Some("GET, HEAD")),
        (public, "get", "/healthz", 405, Some("GET, HEAD")),
        (public, "DELETE", "/openapi.json", 405, Some("GET, HEAD")),
        (admin, "POST", "/v1/checkins", 404, None),
        (admin, "GET", "/openapi.json", 404, None),
        (admin, "GET", "/v1/drain", 405, Some("POST")),
        (admin, "HEAD", "/v1/drain", 405, Some("POST")),
        (admin, "POST", "/v1/stats", 405, Some("GET, HEAD")),
    ] {
        let answer = exchange(address, method, target, &[], b"");
        assert_eq!((answer.status, answer.header("allow")), (status, allow), "{method} {target}");
        if method != "HEAD" {
            let outcome = if status == 404 { "not_found" } else { "method_not_allowed" };
            assert_eq!(answer.problem().outcome, outcome);
        }
    }
    for target in ["/healthz?a=b", "/healthz?", &format!("http://{public}/healthz")] {
        assert_eq!(exchange(public, "GET", target, &[], b"").status, 200, "{target}");
    }
}

#[test]
fn head_says_what_get_would_and_sends_nothing() {
    let server = Server::start(|_| {});
    let range = "/v1/export?from=2021-11-24T00:00:00Z&to=2021-11-25T00:00:00Z";
    for (address, path) in [
        (server.public, "/healthz"),
        (server.public, "/readyz"),
        (server.public, "/openapi.json"),
        (server.public, "/nowhere"),
        (server.admin, "/healthz"),
        (server.admin, "/v1/stats"),
        (server.admin, "/v1/stats/stream"),
        (server.admin, range),
    ] {
        let head = exchange(address, "HEAD", path, &[], b"");
        assert_eq!(head.body, b"", "{path}");
        if path.ends_with("stream") {
            assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
            continue;
        }
        let get = exchange(address, "GET", path, &[], b"");
        assert_eq!((head.status, head.header("content-type")), (get.status, get.header("content-type")));
        if path != range && path != "/v1/stats" {
            assert_eq!(head.header("content-length"), get.header("content-length"), "{path}");
        }
    }
}

#[test]
fn what_is_no_http_gets_a_bare_answer() {
    let server = Server::start(|_| {});
    let long = format!("GET /healthz HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(40_000));
    for (request, status) in [("nonsense\r\n\r\n", 400), (long.as_str(), 431)] {
        let answer = raw(server.public, request.as_bytes(), false);
        assert_eq!((answer.status, answer.body.len()), (status, 0));
    }
}

#[test]
fn operators_get_what_is_described() {
    let server = Server::start(|_| {});
    let token = server.place_device("gate");
    assert_eq!(server.scan(&token, "a", &card(1)).status, 201);

    let alive: Alive = exchange(server.public, "GET", "/healthz", &[], b"").json();
    assert_eq!((alive.status.as_str(), alive.version.as_str()), ("alive", env!("CARGO_PKG_VERSION")));
    let stats = server.operate("GET", "/v1/stats");
    assert_eq!(stats.header("cache-control"), Some("no-store"));
    let stats: Value = serde_json::from_str(stats.text()).unwrap();
    assert_members(&stats, "Stats");
    assert_eq!(stats["outcomes"]["recorded"], 1);
    let metrics = server.operate("GET", "/metrics");
    assert!(metrics.text().ends_with("# EOF\n"));

    let reloaded: Reloaded = server.operate("POST", "/v1/reload").json();
    assert_eq!(reloaded, Reloaded { reloaded: true, keys_changed: false });
    std::fs::write(server.data().join("keys/revoked.ndjson"), "nonsense\n").unwrap();
    let broken = server.operate("POST", "/v1/reload");
    assert_eq!((broken.status, broken.problem().outcome.as_str()), (500, "reload_failed"));
    assert_eq!(server.scan(&token, "a", &card(1)).status, 200, "what was loaded before stays");

    let exported =
        server.operate("GET", "/v1/export?from=2020-01-01T00:00:00%2B07:00&to=2100-01-01T00:00:00+07:00");
    let lines: Vec<ExportedCheckin> = exported.lines();
    assert_eq!((lines.len(), lines[0].form.as_str()), (1, "cccd"));
    for (query, field) in [("", "from"), ("?from=2021-11-24T00:00:00Z&to=x", "to"), ("?since=1", "query")] {
        let problem = server.operate("GET", &format!("/v1/export{query}")).problem();
        assert_eq!((problem.status, problem.field.as_deref()), (400, Some(field)));
    }

    let draining: Draining = server.operate("POST", "/v1/drain").json();
    assert!(draining.draining);
    eventually("the end", || std::net::TcpStream::connect(server.public).is_err());
}

/// A value has the members that its description has, at every depth.
fn assert_members(value: &Value, schema: &str) {
    fn walk(value: &Value, schema: &Value, root: &Value, place: &str) {
        let schema = match schema["$ref"].as_str() {
            Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap(),
            None => schema,
        };
        let (Some(members), Some(described)) = (value.as_object(), schema["properties"].as_object()) else {
            return;
        };
        let names = |map: &serde_json::Map<String, Value>| map.keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(names(members), names(described), "{place}");
        for (name, value) in members {
            walk(value, &described[name], root, &format!("{place}.{name}"));
        }
    }
    let root: Value = serde_json::from_str(scangate::openapi::document()).unwrap();
    walk(value, &root["components"]["schemas"][schema], &root, schema);
}

#[test]
fn the_stream_of_stats_is_of_events() {
    use std::io::{BufRead, BufReader, Write};
    let server = Server::start(|_| {});
    let mut socket = std::net::TcpStream::connect(server.admin).unwrap();
    socket.write_all(b"GET /v1/stats/stream HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut events = BufReader::new(socket).lines().map(Result::unwrap).filter_map(|line| {
        line.strip_prefix("data: ").map(|data| serde_json::from_str::<Value>(data).unwrap())
    });
    for _ in 0..2 {
        assert_members(&events.next().unwrap(), "Stats");
    }
}

#[test]
fn the_command_line_prints_what_is_served() {
    let server = Server::start(|_| {});
    let run = |arguments: &[&str]| {
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_scangate")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let served = exchange(server.public, "GET", "/openapi.json", &[], b"");
    served.assert_documented("/openapi.json", "get");
    assert_eq!(served.header("cache-control"), Some("max-age=300"));
    assert_eq!(run(&["openapi"]), served.text());
    exact::<Value>(served.text());
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(run(&["completions", shell]).contains("check-config"), "{shell}");
    }
}
