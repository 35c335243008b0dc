//! The promises pinned here: contacts are read only for a case that somebody else has approved, and each step is in the
//! audit log first; what was acknowledged is there after a kill; a notification stays until it is acknowledged and says
//! no more than its person wants; every refusal names its field; and no number or name of a person is left anywhere.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke as _};
use scangate::scan::UnixMillis;
use serde_json::{Value, json};
use support::gateway::{Gateway, Site};
use support::http::{Client, Response, bearer};
use support::ports::free_address;

/// The specimen of the citizen card has these numbers but for the serial; its own is in the hint that a start prints.
const NUMBER: &str = "001090000017";
const MINUTE: i64 = 60_000;

fn number(serial: u32) -> String {
    format!("001090{serial:06}")
}

fn card(number: &str) -> String {
    format!("{number}||NGUYEN VAN A|01011990|Nam|Hà Nội|15042021")
}

struct Services {
    site: Site,
    address: SocketAddr,
    start: i64,
}

impl Services {
    fn new() -> Self {
        let address = free_address();
        let site = Site::new().set("services.listen", &address.to_string());
        // Event times of five hours ago, so that stays that are assumed to go on are over.
        Self { site, address, start: UnixMillis::now().0 - 300 * MINUTE }
    }

    fn officer(&self, name: &str, scopes: &str) -> String {
        self.site.run_ok(&["keys", "admin", name, "--scope", scopes]).trim().to_owned()
    }

    /// A call, held to the description.
    fn call(&self, (method, path): (&str, &str), token: &str, body: &Value) -> Response {
        let authorization = bearer(token);
        let mut headers = vec![("Authorization", authorization.as_str())];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        if !body.is_empty() {
            headers.push(("Content-Type", "application/json"));
        }
        let answer = Client::connect(self.address).request(method, path, &headers, body.as_bytes());
        documented(method, path, &answer);
        answer
    }

    fn get(&self, path: &str, token: &str) -> Response {
        self.call(("GET", path), token, &Value::Null)
    }

    fn post(&self, path: &str, token: &str) -> Response {
        self.call(("POST", path), token, &Value::Null)
    }

    fn request(&self, id: &str) -> Value {
        let at = |minutes: i64| UnixMillis(self.start + minutes * MINUTE).to_string();
        json!({"id": id, "person": NUMBER, "from": at(-60), "to": at(250), "purpose": "ca bệnh 17"})
    }

    /// One person's entry and exit at a place, in minutes.
    fn stay(&self, gateway: &Gateway, token: &str, number: &str, (from, to): (i64, i64)) {
        for (direction, minute) in [("in", from), ("out", to)] {
            let at = UnixMillis(self.start + minute * MINUTE).to_string();
            let id = format!("{number}-{minute}-{direction}");
            let scan = json!({"id": id, "qr": card(number), "at": at, "direction": direction});
            assert_eq!(gateway.connect().scan(token, &scan).status, 201);
        }
    }

    /// The export begins when the store has caught up.
    fn settle(&self, gateway: &Gateway) {
        let at = |minutes: i64| UnixMillis(self.start + minutes * MINUTE).to_string();
        let path = format!("/v1/export?from={}&to={}", at(-60), at(300));
        assert_eq!(gateway.connect_admin().request("GET", &path, &[], b"").status, 200);
    }

    fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.site.data.join("audit/00000001.ndjson")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn documented(method: &str, path: &str, answer: &Response) {
    let path = path.split('?').next().unwrap();
    let parts: Vec<&str> = path.trim_start_matches("/v1/").split('/').collect();
    let template = match parts.as_slice() {
        ["cases", _, rest @ ..] => ["/v1/cases/{case}", &rest.join("/")].join("/"),
        ["notifications", _, "ack"] => "/v1/notifications/{id}/ack".to_owned(),
        _ => path.to_owned(),
    };
    let document: Value = serde_json::from_str(scangate::openapi::document()).unwrap();
    let operation = &document["paths"][template.trim_end_matches('/')][method.to_ascii_lowercase()];
    let status = answer.status.to_string();
    assert!(operation["responses"][&status].is_object(), "{method} {template} answered {status}");
}

fn refused(answer: &Response, status: u16, field: Option<&str>) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.json()["field"].as_str(), field, "{}", answer.text());
}

/// The files that hold the text.
fn files_with(dir: &Path, text: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let holding = paths.flat_map(|path| {
        let holds = |bytes: &Vec<u8>| memchr::memmem::find(bytes, text.as_bytes()).is_some();
        if path.is_dir() {
            files_with(&path, text)
        } else {
            fs::read(&path).ok().filter(holds).map(|_| path).into_iter().collect()
        }
    });
    holding.collect()
}

#[test]
fn a_case_takes_two_persons_and_each_step_is_in_the_audit_log() {
    let services = Services::new();
    let (public, private) = DH_KEM_X25519_HKDF_SHA256_AES_256.generate_key_pair().unwrap();
    let spki = [&[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x6e, 3, 0x21, 0], public.0.as_slice()].concat();
    let pem =
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", BASE64_STANDARD.encode(spki));
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), pem).unwrap();
    let site = services.site.clone().set("tracing.population_key_file", file.path().to_str().unwrap());
    let services = Services { site, ..services };
    let (an, chi) = (services.officer("an", "trace"), services.officer("chi", "trace"));
    let (binh, dung) = (services.officer("binh", "approve"), services.officer("dung", "trace,approve"));
    let gateway = services.site.start();
    let (hall, shop) = (services.site.place_device("hall"), services.site.place_device("shop"));
    services.stay(&gateway, &hall, NUMBER, (0, 60));
    services.stay(&gateway, &hall, &number(1), (30, 90));
    services.stay(&gateway, &hall, &number(2), (61, 70));
    services.stay(&gateway, &shop, &number(1), (100, 140));
    services.stay(&gateway, &shop, &number(3), (120, 130));
    services.settle(&gateway);

    let mut request = services.request("hn-17");
    request["depth"] = json!(2);
    let asked = services.call(("POST", "/v1/cases"), &an, &request);
    assert_eq!(asked.status, 201, "{}", asked.text());
    let case = asked.json()["case"].as_str().unwrap().to_owned();
    assert_eq!(services.call(("POST", "/v1/cases"), &an, &request).json(), asked.json());
    let [contacts, approve, sealed] =
        ["contacts", "approve", "sealed"].map(|part| format!("/v1/cases/{case}/{part}"));
    refused(&services.get(&contacts, &an), 409, None);
    refused(&services.post(&approve, &an), 403, Some("authorization"));
    // Of their own case, a token with both scopes approves nothing.
    let own = services.call(("POST", "/v1/cases"), &dung, &services.request("1")).json();
    let own = own["case"].as_str().unwrap();
    refused(&services.post(&format!("/v1/cases/{own}/approve"), &dung), 403, None);
    assert_eq!(services.post(&approve, &binh).json()["state"], "approved");
    refused(&services.get(&contacts, &chi), 404, None);

    let page = services.get(&contacts, &an).json();
    let told: Vec<_> = page["contacts"].as_array().unwrap().iter().collect();
    let length = |contact: &Value| (contact["depth"].as_u64().unwrap(), contact["seconds"].as_i64().unwrap());
    let mut lengths: Vec<_> = told.iter().map(|contact| length(contact)).collect();
    lengths.sort_unstable();
    // The second one met the first in the hall after the case had left; the third in the shop.
    assert_eq!(lengths, [(1, 1800), (2, 540), (2, 600)], "{page}");
    assert!(told.iter().all(|contact| contact["depth"] == 1 || contact["via"] == told[0]["person"]));
    assert_eq!((&page["total"], page.get("bound"), page.get("next")), (&json!(3), None, None));

    let list = services.get(&sealed, &an).json();
    let bytes = |name: &str| BASE64_URL_SAFE_NO_PAD.decode(list[name].as_str().unwrap()).unwrap();
    let enc = EncapsulatedSecret(bytes("enc"));
    let suite = DH_KEM_X25519_HKDF_SHA256_AES_256;
    let opened = suite.open(&enc, b"scangate contacts 1", case.as_bytes(), &bytes("ciphertext"), &private);
    assert_eq!(serde_json::from_slice::<Value>(&opened.unwrap()).unwrap(), page);

    let steps: Vec<(String, String, String)> = services
        .audit()
        .iter()
        .map(|record| ["action", "caller", "outcome"].map(|name| record[name].as_str().unwrap().to_owned()))
        .filter(|[action, ..]| action.starts_with("trace_"))
        .map(|[action, caller, outcome]| (action, caller, outcome))
        .collect();
    for step in [("trace_ask", "token:an"), ("trace_approve", "token:binh"), ("trace_read", "token:an")] {
        for outcome in ["begun", "done"] {
            assert!(steps.iter().any(
                |(action, caller, ended)| (action.as_str(), caller.as_str()) == step && ended == outcome
            ));
        }
    }
    let verified = scangate::audit::verify(&services.site.data.join("audit"), None).unwrap();
    assert!(verified.broken.is_none());
    gateway.kill();
    let restarted = services.site.start();
    assert_eq!(services.get(&format!("/v1/cases/{case}"), &an).json()["state"], "approved");
    assert_eq!(services.get(&contacts, &an).json(), page);
    assert_eq!(services.get("/v1/cases", &an).json()["cases"].as_array().unwrap().len(), 1);
    assert_eq!(services.get("/v1/cases", &binh).json()["cases"].as_array().unwrap().len(), 2);
    drop(restarted);
    for secret in [NUMBER, &number(1)] {
        assert_eq!(files_with(&services.site.data, secret), [] as [PathBuf; 0], "{secret}");
        let log = services.site.log();
        assert_eq!(log.lines().find(|line| line.contains(secret)), None);
    }
}

#[test]
fn a_notification_stays_until_it_is_acknowledged_and_says_what_its_person_wants() {
    let services = Services::new();
    let (an, binh) = (services.officer("an", "trace"), services.officer("binh", "approve"));
    let gateway = services.site.start();
    let hall = services.site.place_device("hall");
    let (case_person, contact) =
        (services.site.person_device(NUMBER), services.site.person_device(&number(1)));
    services.stay(&gateway, &hall, NUMBER, (0, 60));
    services.stay(&gateway, &hall, &number(1), (30, 90));
    services.settle(&gateway);
    let case = services.call(("POST", "/v1/cases"), &an, &services.request("17")).json();
    let case = case["case"].as_str().unwrap().to_owned();
    let notify = format!("/v1/cases/{case}/notify");
    refused(&services.post(&notify, &an), 409, None);
    assert_eq!(services.post(&format!("/v1/cases/{case}/approve"), &binh).status, 200);
    assert_eq!(services.post(&notify, &an).json(), json!({"contacts": 1, "notified": 1}));
    assert_eq!(services.post(&notify, &an).json(), json!({"contacts": 1, "notified": 0}));

    gateway.kill();
    let gateway = services.site.start();
    let told = services.get("/v1/notifications", &contact).json();
    let one = &told["notifications"][0];
    assert_eq!((&one["depth"], one["day"].as_str().map(str::len)), (&json!(1), Some(10)), "{told}");
    assert_eq!(one.get("place"), None, "of so few one could know whose it is");
    assert!(!told.to_string().contains(&case));
    let none = services.get("/v1/notifications", &case_person).json();
    assert_eq!(none, json!({"notifications": [], "content": true}));

    let silent = json!({"content": false});
    assert_eq!(services.call(("PUT", "/v1/notifications/settings"), &contact, &silent).json(), silent);
    let id = one["id"].as_str().unwrap();
    let bare = json!({"notifications": [{"id": id}], "content": false});
    assert_eq!(services.get("/v1/notifications", &contact).json(), bare);

    let acknowledge = format!("/v1/notifications/{id}/ack");
    refused(&services.post(&acknowledge, &case_person), 404, None);
    for _ in 0..2 {
        assert_eq!(services.post(&acknowledge, &contact).json(), json!({"id": id}));
    }
    gateway.kill();
    let _gateway = services.site.start();
    let empty = json!({"notifications": [], "content": false});
    assert_eq!(services.get("/v1/notifications", &contact).json(), empty);
    assert_eq!(services.post(&notify, &an).json(), json!({"contacts": 1, "notified": 0}));
    // A place's device has no notifications, and a person's app opens no cases.
    refused(&services.get("/v1/notifications", &hall), 403, Some("authorization"));
    refused(&services.get("/v1/cases", &contact), 401, Some("authorization"));
}

#[test]
fn every_refusal_names_its_field() {
    let services = Services::new();
    let site = services.site.clone().set("tracing.cases_per_h", "2");
    let services = Services { site, ..services };
    let an = services.officer("an", "trace");
    let _gateway = services.site.start();
    let with = |member: &str, value: Value| {
        let mut request = services.request("17");
        request[member] = value;
        request
    };
    let post = |body: &Value| services.call(("POST", "/v1/cases"), &an, body);
    for (member, value, status, field) in [
        ("id", json!(""), 422, "/id"),
        ("id", json!("a b"), 422, "/id"),
        ("id", json!(7), 400, "/id"),
        ("person", json!(""), 422, "/person"),
        ("person", json!("x".repeat(300)), 422, "/person"),
        ("place", json!("hall"), 422, "/person"),
        ("from", json!("yesterday"), 422, "/from"),
        ("to", json!("2020-01-01T00:00:00Z"), 422, "/to"),
        ("to", json!("2099-01-01T00:00:00Z"), 422, "/to"),
        ("depth", json!(3), 422, "/depth"),
        ("depth", json!("1"), 400, "/depth"),
        ("purpose", json!(format!("tìm {NUMBER}")), 422, "/purpose"),
        ("more", json!(1), 400, "/more"),
    ] {
        let answer = post(&with(member, value));
        assert!(!answer.text().contains(NUMBER));
        refused(&answer, status, Some(field));
    }
    let plain = services.call(("GET", "/v1/cases?all=1"), &an, &Value::Null);
    refused(&plain, 400, Some("query"));
    refused(&services.get("/v1/cases/1", &an), 404, None);
    refused(&services.get("/v1/cases", "sga_wrong"), 401, Some("authorization"));
    let local = fs::read_to_string(services.site.data.join("admin-token")).unwrap();
    refused(&services.get("/v1/cases", local.trim()), 403, Some("authorization"));
    let place = json!({"id": "1", "place": "hall", "from": services.request("1")["from"],
        "to": services.request("1")["to"], "purpose": "ổ dịch", "depth": 1});
    assert_eq!(post(&place).status, 201);
    assert_eq!(post(&services.request("2")).status, 201);
    refused(&post(&services.request("1")), 409, Some("/id"));
    let limited = post(&services.request("3"));
    refused(&limited, 429, None);
    assert_eq!(limited.json()["bound"], "tracing.cases_per_h");
}
