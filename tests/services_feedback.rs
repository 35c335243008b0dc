//! Feedback over HTTP, from a gateway that runs: what is answered is kept through a kill, once; a refusal names its
//! field; a photo keeps nothing of its file; and neither numbers nor texts are where they don't belong.
//!
//! A kill keeps the page cache: that the log's fsync comes before the answer is shown by the journal's own tests.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};
use support::codes;
use support::gateway::{Gateway, Site};
use support::http::{Client, Response, problem};
use support::ports::free_address;

struct World {
    gateway: Gateway,
    services: SocketAddr,
    officer: String,
}

impl World {
    fn start(settings: &[(&str, &str)]) -> Self {
        let services = free_address();
        let site = Site::new().set("services.listen", &services.to_string());
        let site = settings.iter().fold(site, |site, (key, value)| site.set(key, value));
        let gateway = site.start();
        let officer = site.run_ok(&["keys", "admin", "officer", "--scope", "services"]).trim().to_owned();
        let reader = site.run_ok(&["keys", "admin", "reader", "--scope", "read"]).trim().to_owned();
        let reloaded = gateway.connect_admin().request("POST", "/v1/reload", &[], b"");
        assert_eq!(reloaded.status, 200, "{}", reloaded.text());
        let world = Self { gateway, services, officer };
        problem(&world.ask("GET", "/v1/feedback", Some(&reader), None), 403, "forbidden");
        world
    }

    fn restart(self) -> Self {
        let Self { gateway, services, officer } = self;
        let site = gateway.site.clone();
        gateway.kill();
        Self { gateway: site.start(), services, officer }
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        Client::connect(self.services).request(method, path, headers, body)
    }

    fn ask(&self, method: &str, path: &str, token: Option<&str>, body: Option<&Value>) -> Response {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let mut headers: Vec<_> = bearer.iter().map(|bearer| ("Authorization", bearer.as_str())).collect();
        headers.push(("Content-Type", "application/json"));
        self.send(method, path, &headers, body.map(Value::to_string).unwrap_or_default().as_bytes())
    }

    fn feedback(&self, body: &Value) -> Response {
        self.ask("POST", "/v1/feedback", None, Some(body))
    }

    fn officer(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        self.ask(method, path, Some(&self.officer), body)
    }

    fn step(&self, id: &str, body: &Value) -> Response {
        self.officer("POST", &format!("/v1/feedback/{id}/state"), Some(body))
    }

    fn progress(&self, receipt: &str) -> Response {
        let header = format!("Receipt {receipt}");
        self.send("GET", "/v1/feedback/receipt", &[("Authorization", &header)], b"")
    }
}

fn piece(id: &str, text: &str) -> Value {
    json!({"id": id, "category": "scan_problem", "language": "vi", "text": text})
}

fn text<'a>(body: &'a Value, name: &str) -> &'a str {
    body[name].as_str().unwrap_or_else(|| panic!("{name} in {body}"))
}

/// A JPEG with a segment of Exif and a comment.
fn photo() -> Vec<u8> {
    let mut plain = Vec::new();
    let pixels: Vec<u8> = (0..64 * 48 * 3_u32).map(|at| (at % 251) as u8).collect();
    let encoder = jpeg_encoder::Encoder::new(&mut plain, 90);
    encoder.encode(&pixels, 64, 48, jpeg_encoder::ColorType::Rgb).unwrap();
    let mut out = plain[..2].to_vec();
    for (marker, body) in
        [(0xe1, &b"Exif\0\0II*\0\x08\0\0\0\0\0GPS-SPECIMEN-21-01-42"[..]), (0xfe, b"NOTE-SPECIMEN")]
    {
        out.extend_from_slice(&[0xff, marker]);
        out.extend_from_slice(&u16::try_from(body.len() + 2).unwrap().to_be_bytes());
        out.extend_from_slice(body);
    }
    out.extend_from_slice(&plain[2..]);
    out
}

/// Every file below, and those that hold these bytes.
fn holding(dir: &Path, wanted: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(holding(&path, wanted));
        } else if fs::read(&path).unwrap().windows(wanted.len()).any(|window| window == wanted) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn what_was_answered_is_there_after_a_kill_and_only_once() {
    let world = World::start(&[]);
    let first = world.feedback(&piece("one", "Mã ở cổng sau bị mờ"));
    assert_eq!(first.status, 201, "{}", first.text());
    let first = first.json();
    let long = "Cổng số 2 không đọc được mã. 🙂\n".repeat(60);
    assert_eq!(world.feedback(&piece("long", &long)).status, 201);

    let world = world.restart();
    let again = world.feedback(&piece("one", "Mã ở cổng sau bị mờ"));
    assert_eq!((again.status, &again.json()["id"]), (200, &first["id"]));
    assert_ne!(again.json()["receipt"], first["receipt"]);
    for receipt in [text(&first, "receipt"), text(&again.json(), "receipt")] {
        assert_eq!(text(&world.progress(receipt).json(), "state"), "received");
    }
    problem(&world.feedback(&piece("one", "Chuyện khác")), 409, "conflict");
    let queue = world.officer("GET", "/v1/feedback?state=received", None).json();
    let items = queue["items"].as_array().unwrap();
    assert_eq!(items.len(), 2, "{queue}");
    let whole = world.officer("GET", &format!("/v1/feedback/{}", text(&items[1], "id")), None).json();
    assert_eq!(text(&whole, "text"), long.trim());

    let id = text(&first, "id");
    let answered = json!({"to": "answered", "revision": 1, "answer": "Cảm ơn bạn, mã đã được in lại."});
    assert_eq!(world.step(id, &json!({"to": "triaged", "revision": 0})).status, 200);
    assert_eq!(world.step(id, &answered).json(), json!({"id": id, "state": "answered", "revision": 2}));
    let world = world.restart();
    assert_eq!(world.step(id, &answered).status, 200, "the same step again");
    let seen = world.progress(text(&first, "receipt")).json();
    assert_eq!((text(&seen, "state"), text(&seen, "answer")), ("answered", "Cảm ơn bạn, mã đã được in lại."));
    let posted = json!({"receipt": first["receipt"]});
    assert_eq!(world.ask("POST", "/v1/feedback/receipt", None, Some(&posted)).json(), seen);

    let lines = world.officer("GET", "/v1/feedback/export", None).lines();
    assert_eq!((lines.len(), &lines[2]), (3, &json!({"next": null})));
    assert_eq!(
        (&lines[0]["id"], lines[0]["history"][1]["by"].as_str()),
        (&first["id"], Some("token:officer"))
    );
    let audit = fs::read_to_string(world.gateway.site.data.join("audit/00000001.ndjson")).unwrap();
    for read in [
        "\"feedback\",\"outcome\":\"done\",\"subject\":\"received\"",
        "\"feedback_export\",\"outcome\":\"begun\"",
        "\"rows\":2",
    ] {
        assert!(audit.contains(read), "{read} isn't in {audit}");
    }
}

#[test]
fn every_refusal_names_its_field() {
    let world = World::start(&[]);
    let with = |name: &str, value: Value| {
        let mut body = piece("id", "Lời góp ý");
        body[name] = value;
        body
    };
    let person = "001093029317|NGUYEN VAN A|1987-01-18|0|162979388586171100|<1<00<0123232422";
    for (body, status, outcome, field) in [
        (with("category", json!("praise")), 400, "malformed", "/category"),
        (with("language", json!("fr")), 400, "malformed", "/language"),
        (with("extra", json!(1)), 400, "malformed", "/extra"),
        (with("text", json!(7)), 400, "malformed", "/text"),
        (with("text", json!(" ")), 422, "invalid", "/text"),
        (with("text", json!("ế".repeat(2_001))), 422, "invalid", "/text"),
        (with("text", json!("\u{7}")), 422, "invalid", "/text"),
        (with("id", json!("a b")), 422, "invalid", "/id"),
        (with("id", json!("x".repeat(65))), 422, "invalid", "/id"),
        (with("place", json!("")), 422, "invalid", "/place"),
        (with("place", json!(person)), 422, "invalid", "/place"),
        (with("place", json!(codes::CCCD)), 422, "invalid", "/place"),
        (with("place", json!("SG1:BROKEN")), 422, "invalid", "/place"),
        (with("place", json!(codes::payment())), 422, "invalid", "/place"),
        (with("photo", json!("0".repeat(64))), 422, "invalid", "/photo"),
        (with("photo", json!("../../keys/pepper")), 422, "invalid", "/photo"),
    ] {
        let answer = world.feedback(&body);
        let refused = problem(&answer, status, outcome);
        assert_eq!(refused["field"], field, "{body}");
        assert!(!answer.text().contains("NGUYEN") && !answer.text().contains("001090123456"));
    }
    let wrong = world.progress(&"0".repeat(32));
    assert_eq!(problem(&wrong, 404, "not_found")["field"], "authorization");
    let none = world.send("GET", "/v1/feedback/receipt", &[], b"");
    assert_eq!(problem(&none, 401, "unauthenticated")["field"], "authorization");
    let taken = world.feedback(&piece("id", "Lời góp ý")).json();
    let id = text(&taken, "id");
    for (body, status, outcome, field) in [
        (json!({"to": "nowhere", "revision": 0}), 400, "malformed", "/to"),
        (json!({"to": "triaged"}), 400, "malformed", "body"),
        (json!({"to": "closed", "revision": 0}), 409, "conflict", "/to"),
        (json!({"to": "triaged", "revision": 3}), 409, "conflict", "/revision"),
        (json!({"to": "triaged", "revision": 0, "answer": "x"}), 422, "invalid", "/answer"),
        (json!({"to": "answered", "revision": 0}), 422, "invalid", "/answer"),
    ] {
        assert_eq!(problem(&world.step(id, &body), status, outcome)["field"], field, "{body}");
    }
    for (path, field) in [("?state=new", "state"), ("?cursor=x", "cursor"), ("?page=2", "query")] {
        let answer = world.officer("GET", &format!("/v1/feedback{path}"), None);
        assert_eq!(problem(&answer, 400, "malformed")["field"], field);
    }
    for path in ["/v1/feedback", "/v1/feedback/export", &format!("/v1/feedback/{id}")] {
        problem(&world.ask("GET", path, None, None), 401, "unauthenticated");
    }
    problem(&world.officer("GET", &format!("/v1/feedback/{}", "0".repeat(32)), None), 404, "not_found");
    problem(&world.officer("GET", &format!("/v1/feedback/{id}/photo"), None), 404, "not_found");
    assert_eq!(
        world.officer("DELETE", &format!("/v1/feedback/{id}"), None).header("allow"),
        Some("GET, HEAD")
    );
}

#[test]
fn a_photo_keeps_its_picture_and_nothing_of_its_file() {
    let world = World::start(&[("feedback.photo_bytes_max", "100000")]);
    let sent = photo();
    let upload = |kind: &str, bytes: &[u8]| {
        world.send("POST", "/v1/feedback/photos", &[("Content-Type", kind)], bytes)
    };
    let kept = upload("image/jpeg", &sent);
    assert_eq!(kept.status, 201, "{}", kept.text());
    let kept = kept.json();
    let mut body = piece("with-a-photo", "Ảnh chụp mã bị mờ");
    body["photo"] = kept["photo"].clone();
    body["place"] = json!(codes::PLACE);
    let id = world.feedback(&body).json()["id"].as_str().unwrap().to_owned();

    let large = problem(&upload("image/jpeg", &vec![0; 100_001]), 413, "too_large");
    assert_eq!(
        (large["bound"].as_str(), large["limit"].as_u64()),
        (Some("feedback.photo_bytes_max"), Some(100_000))
    );
    assert_eq!(problem(&upload("image/webp", &sent), 415, "unsupported_media_type")["field"], "content-type");
    assert_eq!(problem(&upload("image/png", &sent), 422, "invalid")["field"], "body");
    assert_eq!(problem(&upload("image/jpeg", &sent[..200]), 422, "invalid")["field"], "body");

    let world = world.restart();
    let shown = world.officer("GET", &format!("/v1/feedback/{id}/photo"), None);
    assert_eq!((shown.status, shown.header("content-type")), (200, Some("image/jpeg")));
    assert_eq!(shown.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(shown.body.len() as u64, kept["bytes"].as_u64().unwrap());
    assert!(shown.body.starts_with(&[0xff, 0xd8]));
    for part in [&b"Exif"[..], b"SPECIMEN"] {
        assert!(sent.windows(part.len()).any(|window| window == part));
        assert!(!shown.body.windows(part.len()).any(|window| window == part));
        assert_eq!(holding(&world.gateway.site.data, part), Vec::<String>::new());
    }
}

#[test]
fn one_sender_can_send_so_much_and_a_signature_is_a_sender_of_its_own() {
    let world = World::start(&[
        ("feedback.address_per_h", "3"),
        ("feedback.person_per_h", "1"),
        ("feedback.anonymous_open_max", "1"),
    ]);
    assert_eq!(world.feedback(&piece("a", "Một")).status, 201);
    assert_eq!(world.feedback(&piece("b", "Một")).status, 200, "the same text is the same piece");
    let full = problem(&world.feedback(&piece("c", "Hai")), 503, "unavailable");
    assert_eq!(full["bound"], "feedback.anonymous_open_max");
    let limited = world.feedback(&piece("d", "Ba"));
    assert_eq!(problem(&limited, 429, "rate_limited")["bound"], "feedback.address_per_h");
    assert!(limited.header("retry-after").unwrap().parse::<u32>().unwrap() > 600);

    let person = world.gateway.site.person_device("001093029317");
    let signed =
        |id: &str| world.ask("POST", "/v1/feedback", Some(&person), Some(&piece(id, "Mã số 1234567890 sai")));
    assert_eq!(signed("a").status, 201);
    assert_eq!(problem(&signed("b"), 429, "rate_limited")["bound"], "feedback.person_per_h");
    let place = world.gateway.site.place_device("hn-0001");
    problem(&world.ask("POST", "/v1/feedback", Some(&place), Some(&piece("c", "x"))), 403, "forbidden");
    problem(
        &world.ask("POST", "/v1/feedback", Some("nonsense"), Some(&piece("c", "x"))),
        401,
        "unauthenticated",
    );
    let queue = world.officer("GET", "/v1/feedback", None).json();
    let signatures: Vec<_> = queue["items"].as_array().unwrap().iter().map(|item| &item["signed"]).collect();
    assert_eq!(signatures, [&json!(false), &json!(true)]);
    let whole =
        world.officer("GET", &format!("/v1/feedback/{}", text(&queue["items"][1], "id")), None).json();
    assert_eq!(text(&whole, "sender").len(), 32);
    // Who signs says whose number it is.
    assert_eq!(text(&whole, "text"), "Mã số 1234567890 sai");
}

#[test]
fn no_number_address_or_secret_is_kept_and_no_text_is_logged() {
    let world = World::start(&[("log.level", "\"debug\"")]);
    let mut body = piece("private", "Gọi cho tôi 0123 232 422, CCCD 001090123456, cảm ơn-SPECIMEN");
    body["place"] = json!(codes::PLACE);
    let taken = world.feedback(&body);
    assert_eq!(taken.status, 201, "{}", taken.text());
    let receipt = text(&taken.json(), "receipt").to_owned();
    world.progress(&receipt);
    let id = text(&taken.json(), "id").to_owned();
    let whole = world.officer("GET", &format!("/v1/feedback/{id}"), None).json();
    assert_eq!(text(&whole, "text"), "Gọi cho tôi **** *** ***, CCCD ************, cảm ơn-SPECIMEN");
    let world = world.restart();
    let data = &world.gateway.site.data;
    assert!(!holding(&data.join("services"), b"SPECIMEN").is_empty(), "the search finds what is there");
    for never in ["232 422", "001090123456", "pccovid", "private", receipt.as_str()] {
        assert_eq!(holding(data, never.as_bytes()), Vec::<String>::new(), "{never}");
    }
    let log = world.gateway.site.log();
    for never in ["SPECIMEN", "232 422", receipt.as_str()] {
        assert!(!log.contains(never), "{never} is in the log");
    }
}

#[test]
fn the_pages_are_served_to_readers_only() {
    let world = World::start(&[]);
    for path in ["/feedback", "/feedback/new", "/feedback/app.js"] {
        let page = world.send("GET", path, &[], b"");
        assert_eq!(page.status, 200, "{path}");
        assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'"), "{path}");
        assert_eq!(world.send("POST", path, &[], b"").header("allow"), Some("GET, HEAD"));
    }
    assert_eq!(world.send("GET", "/feedback/page.html", &[], b"").status, 404);
}
