//! The directory of places: officers bring lines, everybody reads; one bad line refuses all; what was answered is there
//! after a kill; and it never holds more than `places.max`.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

mod api_support;
#[path = "support/services.rs"]
mod site;
mod support;

use std::sync::Mutex;
use std::time::Duration;

use scangate::identity::Identity;
use scangate::scan::UnixMillis;
use scangate::verify::Pepper;
use scangate::verify::admin_token::{self, AdminScope};
use serde_json::{Value, json};
use site::Site;

const NDJSON: &str = "application/x-ndjson";

fn market(number: usize) -> Value {
    json!({
        "reference": format!("market-{number}"), "name": format!("Chợ số {number}"), "district": "002",
        "province": "01", "lon": 105.85, "lat": 21.04, "class": "market",
    })
}

fn lines(places: impl IntoIterator<Item = Value>) -> String {
    places.into_iter().fold(String::new(), |text, place| text + &place.to_string() + "\n")
}

fn key(data: &std::path::Path, reference: &str) -> String {
    Identity::new(&Pepper::load(data).unwrap()).place(reference).to_string()
}

#[test]
fn an_officer_brings_places_and_everybody_reads_them() {
    let site = Site::start(|_| {});
    let token = site.officer("places", AdminScope::Services);
    let put = |body: &str| site.call_with("PUT", "/v1/places", &token, NDJSON, body.as_bytes());
    let body = lines((0..300).map(market));
    let counts = |answer: api_support::Answer| {
        assert_eq!(answer.status, 200, "{}", answer.text());
        let sum: Value = serde_json::from_slice(&answer.body).unwrap();
        ["created", "changed", "unchanged"].map(|name| sum[name].as_u64().unwrap())
    };
    assert_eq!(counts(put(&body)), [300, 0, 0]);
    assert_eq!(counts(put(&body)), [0, 0, 300]);
    assert_eq!(counts(put(&body.replacen("105.85", "105.86", 1))), [0, 1, 299]);
    assert_eq!(counts(put("\n\n")), [0, 0, 0]);

    let path = format!("/v1/places/{}", key(&site.data(), "market-7"));
    let answer = site.call("GET", &path, "", &Value::Null);
    answer.assert_documented("/v1/places/{key}", "get");
    let told: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((answer.status, &told["name"], &told["district"]), (200, &"Chợ số 7".into(), &"002".into()));
    let places = &site.services().capabilities.places;
    assert_eq!(places.all().len(), 300);

    let site = site.again();
    let again: Value = serde_json::from_slice(&site.call("GET", &path, "", &Value::Null).body).unwrap();
    assert_eq!(again, told);
}

#[test]
fn refusals_name_what_is_wrong_and_nothing_is_kept() {
    let site = Site::start(|config| config.places.max = 5);
    let token = site.officer("places", AdminScope::Services);
    let other = site.officer("reader", AdminScope::Read);
    let good = lines([market(1)]);
    let put = |token: &str, kind: &str, body: &str| {
        let answer = site.call_with("PUT", "/v1/places", token, kind, body.as_bytes());
        answer.assert_documented("/v1/places", "put");
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        (answer.status, body["field"].as_str().unwrap_or_default().to_owned(), body)
    };
    for (token, kind, body, status, field) in [
        ("", NDJSON, good.clone(), 401, "authorization"),
        (&other, NDJSON, good.clone(), 403, "authorization"),
        (&token, "application/json", good.clone(), 415, "content-type"),
        (&token, NDJSON, good.clone() + &lines([market(2)]).replace("105.85", "1e9"), 422, "/lon"),
        (&token, NDJSON, good.clone() + &good.replace("\"01\"", "\"1\""), 422, "/province"),
        (&token, NDJSON, good.clone() + "[]", 422, "body"),
    ] {
        let (found, named, body) = put(token, kind, &body);
        assert_eq!((found, named.as_str()), (status, field), "{body}");
        if status == 422 {
            assert!(body["detail"].as_str().unwrap().starts_with("line 2: "), "{body}");
        }
    }
    assert!(site.services().capabilities.places.all().is_empty());
    // A stranger is refused by the head alone, however long the body is said to be.
    let head = format!(
        "PUT /v1/places HTTP/1.1\r\nHost: a\r\nContent-Type: {NDJSON}\r\nContent-Length: 30000000\r\n\r\n"
    );
    assert_eq!(api_support::raw(site.listen, head.as_bytes(), true).status, 401);

    assert_eq!(put(&token, NDJSON, &lines((0..5).map(market))).0, 200);
    let (status, _, body) = put(&token, NDJSON, &lines([market(1), market(5)]));
    assert_eq!((status, &body["bound"], &body["limit"]), (422, &"places.max".into(), &5.into()));
    assert_eq!(site.services().capabilities.places.all().len(), 5);

    for (path, status) in [
        ("/v1/places/no-key".to_owned(), 400),
        (format!("/v1/places/{}", "0".repeat(32)), 404),
        (format!("/v1/places/{}?all=1", "0".repeat(32)), 400),
        ("/v1/places/a/b".to_owned(), 404),
    ] {
        assert_eq!(site.call("GET", &path, "", &Value::Null).status, status, "{path}");
    }
    for (method, path, allowed) in [("POST", "/v1/places", "PUT"), ("PUT", "/v1/places/a", "GET, HEAD")] {
        let answer = site.call(method, path, "", &Value::Null);
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allowed)));
    }
}

#[test]
fn the_demonstrations_places_are_taken_as_they_are() {
    let site = Site::start(|_| {});
    let token = site.officer("places", AdminScope::Services);
    let demo = include_str!("../config/places/demo.ndjson");
    let answer = site.call_with("PUT", "/v1/places", &token, NDJSON, demo.as_bytes());
    let sum: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(sum["created"].as_u64(), Some(demo.lines().count() as u64), "{}", answer.text());
    for (_, place) in site.services().capabilities.places.all() {
        // Hà Nội's districts, and those of TP. Hồ Chí Minh with TP. Thủ Đức's 769.
        let district: u16 = place.district.as_str().parse().unwrap();
        let (districts, lon, lat) = match place.province.as_str() {
            "01" => (1..=282, 105.2..106.1, 20.5..21.4),
            "79" => (760..=787, 106.3..107.1, 10.3..11.2),
            other => panic!("{other}"),
        };
        assert!(districts.contains(&district), "{}", place.name);
        assert!(lon.contains(&place.lon) && lat.contains(&place.lat), "{}", place.name);
    }
}

/// SIGKILL keeps the page cache: this shows that what is answered was written, not that it was synced.
#[test]
fn what_was_answered_is_there_after_a_kill() {
    let port = support::ports::free_address();
    let site = support::gateway::Site::new().set("services.listen", &port.to_string());
    drop(site.start());
    let token =
        admin_token::make(&site.data, "places", &[AdminScope::Services], None, UnixMillis::now()).unwrap();
    let (gateway, told) = (site.start(), Mutex::new(Vec::new()));
    let authorization = format!("Bearer {}", *token);
    let bring = |number: usize| {
        let mut client = support::http::Client::try_connect(port, Duration::from_secs(10)).ok()?;
        let headers = [("Authorization", authorization.as_str()), ("Content-Type", NDJSON)];
        let body = lines([market(number)]);
        let answer = client.try_request("PUT", "/v1/places", &headers, body.as_bytes()).ok()?;
        (answer.status == 200).then(|| told.lock().unwrap().push(number))
    };
    std::thread::scope(|threads| {
        threads.spawn(|| (0..100_000).try_for_each(bring));
        while told.lock().unwrap().len() < 50 {
            std::thread::sleep(Duration::from_millis(5));
        }
        gateway.kill();
    });
    let _gateway = site.start();
    let told = told.into_inner().unwrap();
    assert!(told.len() >= 50);
    let mut client = support::http::Client::connect(port);
    for number in told {
        let path = format!("/v1/places/{}", key(&site.data, &format!("market-{number}")));
        assert_eq!(client.request("GET", &path, &[], b"").status, 200, "{number}");
    }
}
