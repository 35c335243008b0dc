//! The promises pinned here: what the registers say is taken in once, however often, in whatever order and by whichever
//! way it comes; a register that is slow, wrong or away costs nothing but the age of its facts; what was acknowledged is
//! there after a kill; and nothing of it names a person on disk or in the log.
//!
//! What this doesn't prove: that a real register keeps its contract.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use scangate::listen::tls::{Clients, Tls};
use scangate::scan::UnixMillis;
use scangate::services::health::fact::RegisterId;
use scangate::services::registers::simulator::{CITIZENS, Mode, Simulators, Steer, paths};
use serde_json::{Value, json};
use support::gateway::{Gateway, Site};
use support::http::{Client, Response};
use support::ports::free_address;

const SECRET: &str = "fedcba98fedcba98fedcba98fedcba98";

/// Far more than anything here takes.
const WITHIN: Duration = Duration::from_mins(1);

struct Place {
    site: Site,
    services: String,
    officer: String,
}

impl Place {
    /// A site that follows these registers, quickly.
    fn new(simulators: Option<&Simulators>, scheme: &str) -> Self {
        let services = free_address().to_string();
        let mut site = Site::new().set("services.listen", &services);
        for (register, address) in simulators.map(Simulators::addresses).unwrap_or_default() {
            let url = format!("{scheme}://{address}");
            site = site.set(&format!("registers.{}_url", register.name()), &url);
        }
        for (key, value) in [
            ("registers.poll_ms", "40"),
            ("registers.request_timeout_ms", "2000"),
            ("registers.retries_max", "1"),
            ("registers.backoff_ms", "10"),
            ("registers.breaker_failures", "4"),
            ("registers.breaker_pause_ms", "200"),
        ] {
            site = site.set(key, value);
        }
        let officer = site.run_ok(&["keys", "admin", "cdc", "--scope", "services"]).trim().to_owned();
        Self { site, services, officer }
    }

    fn set(self, key: &str, value: &str) -> Self {
        Self { site: self.site.set(key, value), ..self }
    }

    fn secrets(self) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = self.site.data.join("secrets");
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("testing.secret");
        fs::write(&path, SECRET).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let dir = dir.to_str().unwrap().to_owned();
        self.set("registers.secrets_dir", &dir)
    }

    fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let mut client = Client::connect(self.services.parse().unwrap());
        client.request(method, path, headers, body.as_bytes())
    }

    fn states(&self) -> Value {
        let bearer = format!("Bearer {}", self.officer);
        let answer = self.call("GET", "/v1/registers", &[("Authorization", &bearer)], "");
        assert_eq!(answer.status, 200, "{}", answer.text());
        serde_json::from_slice(&answer.body).unwrap()
    }

    fn state(&self, register: RegisterId) -> Value {
        let states = self.states();
        let states = states["registers"].as_array().unwrap();
        states.iter().find(|state| state["register"] == register.name()).unwrap().clone()
    }

    /// Looks again until the state is as it should be.
    fn wait(&self, register: RegisterId, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let state = self.state(register);
            if is(&state) {
                return state;
            }
            assert!(started.elapsed() < WITHIN, "{what}: {state}\n{}", self.site.log());
            sleep(Duration::from_millis(20));
        }
    }

    /// Until everything that there is has been taken in.
    fn caught_up(&self, register: RegisterId, steer: &Steer) -> Value {
        let cursor = format!("c-{}", steer.changes());
        self.wait(register, "caught up", |state| state["cursor"] == *cursor && state["behind"] == 0)
    }

    /// Pushes a page of the testing register, signed.
    fn push(&self, delivery: u64, page: &Value) -> Response {
        self.push_at(UnixMillis::now().seconds(), delivery, page)
    }

    fn push_at(&self, at: i64, delivery: u64, page: &Value) -> Response {
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
        let signature = hmac::sign(&key, format!("testing\n{at}\n{delivery}\n{page}").as_bytes());
        self.push_signed(at, delivery, &hex(signature.as_ref()), page)
    }

    fn push_signed(&self, at: i64, delivery: u64, signature: &str, page: &Value) -> Response {
        let (at, delivery) = (at.to_string(), delivery.to_string());
        let headers = [
            ("Content-Type", "application/json"),
            ("Scangate-Time", at.as_str()),
            ("Scangate-Delivery", &delivery),
            ("Scangate-Signature", signature),
        ];
        self.call("POST", "/v1/registers/testing/changes", &headers, &page.to_string())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn parsed(answer: &Response) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

fn dose(dose: u8) -> Value {
    json!({"product": "EU/1/20/1528", "dose": dose, "doses": 3, "day": "2021-11-24"})
}

fn test(result: &str) -> Value {
    json!({"kind": "pcr", "result": result, "taken_at": "2021-11-24T06:49:29Z"})
}

fn change(record: &str, version: u64, content: &Value) -> Value {
    json!({"record": record, "version": version, "citizen": CITIZENS[0], "withdrawn": false, "content": content})
}

fn scan_is_recorded(gateway: &Gateway, id: &str) {
    let token = gateway.site.place_device("hn-0001");
    let answer = gateway.connect().scan(&token, &json!({"id": id, "qr": support::codes::CCCD}));
    assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
}

#[test]
fn four_registers_are_taken_in_and_one_that_is_away_costs_nothing_but_age() {
    let simulators = Simulators::start(7).unwrap();
    let place = Place::new(Some(&simulators), "http");
    let gateway = place.site.start();
    for register in RegisterId::ALL {
        let steer = simulators.steer(*register).unwrap();
        let state = place.caught_up(*register, &steer);
        assert_eq!(state["accepted"], steer.changes(), "{state}");
        assert!(state["age_s"].is_u64() && state["refused"] == 0 && state["breaker"] == "closed", "{state}");
    }
    let token = fs::read_to_string(place.site.data.join("keys/feed-token")).unwrap();
    let bearer = format!("Bearer {}", token.trim());
    let path = "/v1/links?source=register.population";
    let links = gateway.connect_admin().request("GET", path, &[("Authorization", &bearer)], b"");
    assert_eq!((links.status, &parsed(&links)["accepted"]), (200, &json!(1)), "{}", links.text());

    let (register, steer) = (RegisterId::Vaccination, simulators.steer(RegisterId::Vaccination).unwrap());
    let before = place.state(register)["accepted"].as_u64().unwrap();
    for (mode, failure) in [(Mode::Failing, "status"), (Mode::Garbage, "garbage"), (Mode::Silent, "timeout")]
    {
        steer.mode(mode);
        place.wait(register, "breaker open", |state| state["breaker"] == "open");
        let state = place.wait(register, "failure told", |state| state["failure"] == failure);
        assert!(state["age_s"].is_u64() && state["failed_at"].is_string(), "{state}");
        scan_is_recorded(&gateway, failure);
        assert_eq!(place.state(RegisterId::Testing)["breaker"], "closed", "its neighbour is well");
        steer.mode(Mode::Well);
        place.wait(register, "breaker closed", |state| {
            state["breaker"] == "closed" && state["failure"].is_null()
        });
    }
    steer.mode(Mode::Failing);
    place.wait(register, "breaker open", |state| state["breaker"] == "open");
    let record = steer.add(CITIZENS[0], dose(3));
    assert!(steer.correct(&record, dose(2)) && steer.withdraw(&record));
    steer.mode(Mode::Slow(Duration::from_millis(100)));
    let state = place.caught_up(register, &steer);
    assert_eq!(state["accepted"], before + 3, "everything since, once: {state}");
}

#[test]
fn the_cursor_goes_on_after_a_kill_and_duplicates_and_reordered_changes_count_once() {
    let simulators = Simulators::start(1).unwrap();
    let (register, steer) = (RegisterId::Testing, simulators.steer(RegisterId::Testing).unwrap());
    for index in 0..60 {
        let record = steer.add(CITIZENS[index % 2], test("negative"));
        steer.correct(&record, test("positive"));
    }
    steer.page(1);
    let place = Place::new(Some(&simulators), "http");
    for _ in 0..3 {
        let gateway = place.site.start();
        place.wait(register, "something taken in", |state| state["cursor"] != "");
        gateway.kill();
    }
    let gateway = place.site.start();
    let state = place.caught_up(register, &steer);
    let total = u64::try_from(steer.changes()).unwrap();
    assert_eq!((&state["accepted"], &state["repeated"]), (&json!(total), &json!(0)), "{state}");

    // Muddled, and from the beginning: another gateway, with the same keys.
    steer.page(50);
    steer.mode(Mode::Muddled);
    gateway.kill();
    let other = Place::new(Some(&simulators), "http");
    let _gateway = other.site.start();
    let state = other.caught_up(register, &steer);
    assert_eq!((&state["accepted"], &state["repeated"]), (&json!(total), &json!(total)), "{state}");
}

#[test]
fn pushes_are_signed_come_in_any_order_and_count_once() {
    let place = Place::new(None, "http").secrets();
    let gateway = place.site.start();
    let page = |after: &str, cursor: &str, changes: Value| json!({"after": after, "cursor": cursor, "behind": 0, "changes": changes});
    let first = page("", "a", json!([change("t-1", 1, &test("positive")), change("t-2", 1, &json!({}))]));
    let answer = place.push(1, &first);
    let body = parsed(&answer);
    assert_eq!((answer.status, &body["accepted"], &body["cursor"]), (200, &json!(1), &json!("a")), "{body}");
    assert_eq!(body["refused"][0]["field"], "/changes/1/content", "{body}");
    let again = parsed(&place.push(1, &first));
    assert_eq!((&again["accepted"], &again["repeated"]), (&json!(0), &json!(1)), "{again}");
    // The third before the second: it counts, and the cursor waits.
    let third = page("b", "c", json!([change("t-1", 3, &test("negative"))]));
    assert_eq!(parsed(&place.push(3, &third))["cursor"], "a");
    let second = page("a", "b", json!([change("t-1", 2, &test("positive"))]));
    assert_eq!(parsed(&place.push(2, &second))["cursor"], "b");
    let third = parsed(&place.push(3, &third));
    assert_eq!((&third["cursor"], &third["repeated"]), (&json!("c"), &json!(1)), "{third}");
    let other = page("c", "c", json!([change("t-1", 3, &test("positive"))]));
    assert_eq!(parsed(&place.push(4, &other))["conflicting"], 1, "another text of the same version");

    let now = UnixMillis::now().seconds();
    let empty = page("c", "c", json!([]));
    for (answer, status, field) in [
        (place.push_signed(now, 5, &"0".repeat(64), &empty), 401, "scangate-signature"),
        (place.push_signed(now, 5, "none", &empty), 401, "scangate-signature"),
        (place.push_at(now - 301, 5, &empty), 401, "scangate-time"),
        (place.push(0, &empty), 401, "scangate-delivery"),
        (place.push(5, &json!({"after": "c"})), 400, "body"),
        (place.push(5, &page("c d", "c", json!([]))), 400, "/after"),
        (place.call("POST", "/v1/registers/testing/changes", &[], "{}"), 401, "scangate-time"),
        (place.call("GET", "/v1/registers", &[], ""), 401, "authorization"),
    ] {
        assert_eq!((answer.status, &parsed(&answer)["field"]), (status, &json!(field)), "{}", answer.text());
    }
    assert_eq!(place.push(200, &empty).status, 200);
    let old = place.push(136, &empty);
    assert_eq!((old.status, &parsed(&old)["field"]), (409, &json!("scangate-delivery")));
    assert_eq!(place.call("POST", "/v1/registers/vaccination/changes", &[], "{}").status, 404, "no secret");
    assert_eq!(place.call("POST", "/v1/registers/weather/changes", &[], "{}").status, 404);
    gateway.kill();
    let _gateway = place.site.start();
    let state = place.state(RegisterId::Testing);
    assert_eq!((&state["cursor"], &state["accepted"]), (&json!("c"), &json!(3)), "after a kill: {state}");
    assert!(state["age_s"].is_u64() && state["followed"] == false && state["pushes"] == true, "{state}");
    assert_eq!(place.push(136, &empty).status, 409, "deliveries are remembered");
}

#[test]
fn an_officer_has_one_citizen_looked_up_and_nobody_else_does() {
    let simulators = Simulators::start(3).unwrap();
    let (register, steer) = (RegisterId::Testing, simulators.steer(RegisterId::Testing).unwrap());
    let place = Place::new(Some(&simulators), "http").set("registers.poll_ms", "3600000");
    let _gateway = place.site.start();
    place.caught_up(register, &steer);
    steer.add(CITIZENS[0], test("positive"));
    let bearer = format!("Bearer {}", place.officer);
    let ask = |register: &str, citizen: &str, purpose: &str| {
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        let body = json!({"citizen": citizen, "purpose": purpose}).to_string();
        place.call("POST", &format!("/v1/registers/{register}/lookups"), &headers, &body)
    };
    let answer = ask("testing", CITIZENS[0], "case 17");
    let body = parsed(&answer);
    assert_eq!((answer.status, &body["accepted"], &body["repeated"]), (200, &json!(1), &json!(1)), "{body}");
    for (register, citizen, purpose, status, field) in [
        ("testing", "0010930293", "case 17", 422, json!("/citizen")),
        ("testing", CITIZENS[0], "", 422, json!("/purpose")),
        ("population", CITIZENS[0], "case 17", 404, Value::Null),
    ] {
        let answer = ask(register, citizen, purpose);
        assert_eq!((answer.status, &parsed(&answer)["field"]), (status, &field), "{}", answer.text());
    }
    steer.mode(Mode::Failing);
    assert_eq!(ask("testing", CITIZENS[0], "case 17").status, 503);
    steer.mode(Mode::Well);
    let audit = fs::read_to_string(place.site.data.join("audit/00000001.ndjson")).unwrap();
    assert!(audit.contains("register_lookup") && !audit.contains(CITIZENS[0]), "{audit}");
}

/// Certificates of an authority in a directory: of the registers, and of a gateway.
fn certificates(dir: &Path) -> [PathBuf; 5] {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let write = |name: &str, text: String| {
        use std::os::unix::fs::PermissionsExt as _;
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let make = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let made = params.signed_by(&key, &authority).unwrap();
        [write(&format!("{name}.pem"), made.pem()), write(&format!("{name}.key"), key.serialize_pem())]
    };
    let ([register, register_key], [gateway, gateway_key]) = (make("register"), make("gateway"));
    [write("ca.pem", authority.pem()), register, register_key, gateway, gateway_key]
}

#[test]
fn a_register_answers_nobody_without_a_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let [authority, certificate, key, own, own_key] = certificates(dir.path());
    let clients = Clients { authorities: authority.clone(), revocations: None, required: true };
    let tls = Tls::load_for(&certificate, &key, Some(clients)).unwrap();
    let simulators = Simulators::start_with(7, Some(&tls)).unwrap();
    let (register, steer) = (RegisterId::Testing, simulators.steer(RegisterId::Testing).unwrap());
    let place = Place::new(Some(&simulators), "https").set("registers.ca_file", authority.to_str().unwrap());
    let gateway = place.site.start();
    let state = place.wait(register, "refused", |state| state["failure"] == "connection");
    assert!(state["age_s"].is_null() && steer.requests() == 0, "{state}");
    gateway.kill();
    let place = place
        .set("registers.certificate_file", own.to_str().unwrap())
        .set("registers.key_file", own_key.to_str().unwrap());
    let gateway = place.site.start();
    assert_eq!(place.caught_up(register, &steer)["accepted"], steer.changes());
    gateway.kill();
    // And the gateway tells its numbers to nobody whose certificate it can't check.
    let stranger = tempfile::tempdir().unwrap();
    let [other, ..] = certificates(stranger.path());
    let place = place.set("registers.ca_file", other.to_str().unwrap());
    let before = steer.requests();
    let _gateway = place.site.start();
    place.wait(register, "not trusted", |state| state["failure"] == "connection");
    assert_eq!(steer.requests(), before);
}

#[test]
fn nothing_of_a_register_names_a_person_on_disk_or_in_the_log() {
    let simulators = Simulators::start(7).unwrap();
    let place = Place::new(Some(&simulators), "http").secrets().set("log.level", "trace");
    let gateway = place.site.start();
    for register in RegisterId::ALL {
        place.caught_up(*register, &simulators.steer(*register).unwrap());
    }
    let bad = json!([
        change("001093029317", 1, &test("positive")),
        change("t-1", 1, &json!({"qid": "162979388586171100"}))
    ]);
    let page = json!({"after": "", "cursor": "", "behind": 0, "changes": bad});
    let answer = place.push(1, &page);
    assert!(answer.status == 200 && !answer.text().contains("00109"), "{}", answer.text());
    assert!(gateway.terminate(Duration::from_secs(30)).success());
    let (mut waiting, mut files) = (vec![place.site.data.clone()], 0);
    // Beside the log stands a line to paste, with a specimen in it.
    let log: String = place.site.log().lines().filter(|line| line.starts_with('{')).collect();
    assert!(log.contains("TRACE"), "at its most talkative");
    let mut texts = vec![("the log".to_owned(), log.into_bytes())];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                waiting.push(entry.path());
            } else {
                files += 1;
                texts.push((entry.path().display().to_string(), fs::read(entry.path()).unwrap()));
            }
        }
    }
    assert!(files > 10, "{files}");
    for (name, bytes) in texts {
        let text = String::from_utf8_lossy(&bytes);
        for secret in ["001093029317", "001090123456", "162979388586171100", "0109063006", SECRET] {
            let is_secret_file = secret == SECRET && name.ends_with("testing.secret");
            assert!(is_secret_file || !text.contains(secret), "{secret} in {name}");
        }
    }
}

/// Whether a value is as a schema says, for what the contracts use of JSON Schema.
fn fits(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        return fits(root, root.pointer(&reference[1..]).ok_or(reference)?, value);
    }
    let is_type = match schema["type"].as_str().unwrap_or_default() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        other => return Err(format!("unknown type {other}")),
    };
    if !is_type || schema["enum"].as_array().is_some_and(|all| !all.contains(value)) {
        return Err(format!("{value} is no {schema}"));
    }
    for (name, member) in value.as_object().into_iter().flatten() {
        let known = schema["properties"].get(name).ok_or(format!("{name} is unknown"))?;
        fits(root, known, member)?;
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        value.get(name.as_str().unwrap()).ok_or(format!("{name} is missing"))?;
    }
    value.as_array().into_iter().flatten().try_for_each(|item| fits(root, &schema["items"], item))
}

#[test]
fn contracts_and_simulators_hold_each_other() {
    let simulators = Simulators::start(11).unwrap();
    for (register, address) in simulators.addresses() {
        let file =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("config/registers/{}.json", register.name()));
        let contract: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        let mut described = Vec::new();
        for (path, item) in contract["paths"].as_object().unwrap() {
            described.extend(item.as_object().unwrap().keys().map(|method| (method.as_str(), path.as_str())));
        }
        assert_eq!(described, paths(register), "{}", register.name());
        for (method, path) in described {
            let body =
                if method == "post" { json!({"citizen": CITIZENS[0]}).to_string() } else { String::new() };
            let target = if method == "get" { format!("{path}?after=&limit=10") } else { path.to_owned() };
            let answer =
                Client::connect(address).request(&method.to_uppercase(), &target, &[], body.as_bytes());
            let responses = &contract["paths"][path][method]["responses"];
            let schema = &responses["200"]["content"]["application/json"]["schema"];
            assert_eq!(answer.status, 200);
            assert_eq!(fits(&contract, schema, &parsed(&answer)), Ok(()), "{} {path}", register.name());
            assert!(fits(&contract, schema, &json!({"after": ""})).is_err(), "the check can fail");
        }
        let steer = simulators.steer(register).unwrap();
        let content = &contract["components"]["schemas"]["Content"];
        let sent = steer.page_after("").unwrap()["changes"][0]["content"].clone();
        let missing = content["required"]
            .as_array()
            .unwrap()
            .iter()
            .find(|name| sent.get(name.as_str().unwrap()).is_none());
        assert_eq!(missing, None);
        let unknown = Client::connect(address).request("GET", "/changes?after=nowhere", &[], b"");
        assert_eq!(unknown.status, 400);
    }
}
