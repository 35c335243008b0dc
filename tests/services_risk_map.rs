//! The risk map on a gateway that runs: a day's check-ins become figures in which nobody can be found, for everybody to
//! read, and stay as they were told, whatever arrives later and whenever the process ends.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use scangate::openapi::{MapDays, MapFeatures, TraceCases};
use scangate::scan::UnixMillis;
use scangate::services::health::fact::RegisterId;
use scangate::services::registers::simulator::Simulators;
use scangate::services::risk_map::Day;
use serde_json::json;
use support::codes;
use support::gateway::{Gateway, Site};
use support::http::{Client, Response};
use support::ports::free_address;

struct Map {
    site: Site,
    at: SocketAddr,
}

impl Map {
    fn new() -> Self {
        let at = free_address();
        let site = Site::new().set("services.listen", &at.to_string()).set("risk_map.delay_s", "0");
        Self { site, at }
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        Client::connect(self.at).request("GET", path, headers, b"")
    }

    fn features(&self, day: Day, what: &str) -> MapFeatures {
        let answer = self.get(&format!("/v1/map/{day}/{what}"), &[]);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/geo+json")));
        serde_json::from_slice(&answer.body).unwrap()
    }

    fn district(&self, day: Day, code: &str) -> Option<u64> {
        let features = self.features(day, "districts.geojson").features;
        features.iter().find(|feature| feature.id == code).unwrap().properties.persons
    }

    /// The days, once this one is told.
    fn told(&self, day: Day) -> MapDays {
        let started = Instant::now();
        loop {
            let days: MapDays = serde_json::from_slice(&self.get("/v1/map/days", &[]).body).unwrap();
            if days.days.iter().any(|told| told.day == day.to_string()) {
                return days;
            }
            assert!(started.elapsed() < Duration::from_mins(1), "{}", self.site.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn bring_places(&self, gateway: &Gateway) {
        let place = |reference: &str, name: &str, district: &str| {
            json!({"reference": reference, "name": name, "district": district, "province": "01",
                "lon": 105.85, "lat": 21.03})
        };
        let places = [
            place("station", "Ga Hà Nội", "002"),
            place("library", "Thư viện Quốc gia", "002"),
            place("park", "Công viên Thủ Lệ", "001"),
        ];
        let lines = places.iter().fold(String::new(), |text, place| text + &place.to_string() + "\n");
        let token = self.site.run_ok(&["keys", "admin", "places", "--scope", "services"]);
        assert_eq!(gateway.connect_admin().request("POST", "/v1/reload", &[], b"").status, 200);
        let authorization = format!("Bearer {}", token.trim());
        let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/x-ndjson")];
        let answer = Client::connect(self.at).request("PUT", "/v1/places", &headers, lines.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// Each of these persons was there in yesterday's last hour.
    fn visit(&self, gateway: &Gateway, place: &str, persons: std::ops::Range<u32>) {
        let token = self.site.place_device(place);
        let evening = Day::of(UnixMillis::now()).begins().0 - 3_600_000;
        let scan = |serial: u32| {
            let at = UnixMillis(evening + i64::from(serial) * 1000).to_string();
            json!({"id": format!("{place}-{serial}"), "qr": codes::citizen(serial), "at": at, "direction": "in"})
        };
        let scans: Vec<_> = persons.map(scan).collect();
        for line in gateway.connect().batch(&token, &scans) {
            assert_eq!(line["status"], 201, "{line}");
        }
    }
}

#[test]
fn a_finished_day_is_told_rounded_and_hidden_and_then_stays() {
    let map = Map::new();
    // With a day's delay yesterday isn't told yet, or it would be told before anybody was anywhere.
    let gateway = map.site.clone().set("risk_map.delay_s", "86400").start();
    map.bring_places(&gateway);
    map.visit(&gateway, "station", 0..23);
    map.visit(&gateway, "library", 20..29);
    map.visit(&gateway, "park", 40..49);
    gateway.terminate(Duration::from_mins(1));

    let day = Day::of(UnixMillis::now()).plus(-1);
    let gateway = map.site.start();
    let days = map.told(day);
    let of_day = days.days.iter().find(|told| told.day == day.to_string()).unwrap();
    assert_eq!((days.k, of_day.districts, of_day.places), (10, 1, 1));
    let places = map.features(day, "places.geojson").features;
    assert_eq!(places.len(), 1);
    let station = &places[0].properties;
    let figures = (station.persons, station.checkins, station.class, station.level.as_str());
    assert_eq!(figures, (Some(20), Some(20), 1, "none"));
    assert_eq!(station.name.as_deref(), Some("Ga Hà Nội"));
    // 29 persons: told as 20, which the library may have had none of. Nine in a park are nobody's business.
    assert_eq!((map.district(day, "002"), map.district(day, "001")), (Some(20), None));
    let elsewhere = map.features(day, "places.geojson?district=001");
    assert!(elsewhere.features.is_empty());

    let before = map.get(&format!("/v1/map/{day}/districts.geojson"), &[]);
    let etag = before.header("etag").unwrap();
    let again = map.get(&format!("/v1/map/{day}/districts.geojson"), &[("If-None-Match", etag)]);
    assert_eq!((again.status, again.body.len(), again.header("etag")), (304, 0, Some(etag)));

    // One more in the park, late: it would be the tenth.
    map.visit(&gateway, "park", 49..50);
    gateway.kill();
    let gateway = map.site.start();
    map.told(day);
    let after = map.get(&format!("/v1/map/{day}/districts.geojson"), &[]);
    assert_eq!(after.body, before.body);
    gateway.terminate(Duration::from_mins(1));
    let log = map.site.log();
    assert!((0..50).all(|serial| !log.contains(&codes::citizen_number(serial))), "{log}");
}

/// A case's state, as whoever approves sees it.
fn case(map: &Map, token: &str) -> Option<(String, String)> {
    let authorization = format!("Bearer {token}");
    let answer = map.get("/v1/cases", &[("Authorization", &authorization)]);
    let cases: TraceCases = serde_json::from_slice(&answer.body).unwrap();
    cases.cases.into_iter().next().map(|case| (case.case, case.state))
}

fn within_a_minute(what: &str, is: impl Fn() -> bool) {
    let started = Instant::now();
    while !is() {
        assert!(started.elapsed() < Duration::from_mins(1), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn an_approved_case_marks_where_its_person_was_until_the_test_is_withdrawn() {
    let registers = Simulators::start(1).unwrap();
    let testing = registers.steer(RegisterId::Testing).unwrap();
    let mut map = Map::new();
    let url = format!("http://{}", registers.addresses()[&RegisterId::Testing]);
    let site = map.site.set("registers.testing_url", &url).set("registers.poll_ms", "50");
    map.site = site.set("risk_map.levels_every_s", "1");
    let keys = |name: &str| map.site.run_ok(&["keys", "admin", name, "--scope", "approve"]).trim().to_owned();
    let officers = [keys("an"), keys("binh")];
    let gateway = map.site.clone().set("risk_map.delay_s", "86400").start();
    map.bring_places(&gateway);
    map.visit(&gateway, "station", 0..12);
    map.visit(&gateway, "library", 3..12);
    let day = Day::of(UnixMillis::now()).plus(-1);
    let content = json!({"kind": "pcr", "result": "positive", "taken_at": UnixMillis(day.begins().0 + 3_600_000).to_string()});
    let record = testing.add(&codes::citizen_number(3), content);
    within_a_minute("a case", || case(&map, &officers[0]).is_some());
    let id = case(&map, &officers[0]).unwrap().0;
    for officer in &officers {
        let authorization = format!("Bearer {officer}");
        let path = format!("/v1/cases/{id}/approve");
        let answer =
            Client::connect(map.at).request("POST", &path, &[("Authorization", &authorization)], b"");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    // What is approved is marked after the day is told, by whichever process is there then.
    gateway.kill();
    let gateway = map.site.start();
    map.told(day);
    let levels = || -> Vec<String> {
        let features = map.features(day, "places.geojson").features;
        features.into_iter().map(|feature| feature.properties.level).collect()
    };
    // The library's nine are hidden, and so is that the person was there.
    within_a_minute("marked", || levels() == ["exposed"]);

    assert!(testing.withdraw(&record));
    within_a_minute("withdrawn", || case(&map, &officers[0]).unwrap().1 == "withdrawn");
    gateway.kill();
    let _gateway = map.site.start();
    within_a_minute("unmarked", || levels() == ["none"]);
}

#[test]
fn refusals_name_their_field_and_the_page_is_served() {
    let map = Map::new();
    let _gateway = map.site.start();
    for (path, status, field) in [
        ("/v1/map/yesterday/districts.geojson", 400, "day"),
        ("/v1/map/2021-02-30/places.geojson", 400, "day"),
        ("/v1/map/2021-11-24/districts.geojson", 404, "day"),
        ("/v1/map/2021-11-24/places.geojson?district=1", 400, "district"),
        ("/v1/map/days?day=1", 400, "query"),
    ] {
        let answer = map.get(path, &[]);
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(problem["field"], field, "{path}");
    }
    assert_eq!(map.get("/v1/map/2021-11-24/lines.geojson", &[]).status, 404);
    let page = map.get("/map", &[]);
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        page.status == 200 && policy.contains("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert_eq!(map.get("/map/leaflet/leaflet.js", &[]).status, 200);
    assert_eq!(Client::connect(map.at).request("POST", "/map", &[], b"").status, 405);
}
