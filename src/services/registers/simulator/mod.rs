//! The registers as their contracts have them, with made-up records about specimens, for tests and for demonstrations.
//!
//! A real HTTP server each, which misbehaves as it is told to. The same seed makes the same records.

mod records;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};

pub use self::records::CITIZENS;
use self::records::Records;

use crate::listen::tls::Tls;
use crate::listen::{self, Answer, Body, ListenError, Peer, RuntimeChoice, Service, body};
use crate::services::health::fact::RegisterId;

/// The paths of each contract, and the methods they have.
pub const fn paths(register: RegisterId) -> &'static [(&'static str, &'static str)] {
    match register {
        RegisterId::Population | RegisterId::Insurance => &[("get", "/changes")],
        RegisterId::Vaccination | RegisterId::Testing => &[("get", "/changes"), ("post", "/lookup")],
    }
}

/// How a register behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// As its contract says.
    #[default]
    Well,
    /// The same, after this long.
    Slow(Duration),
    /// Takes requests and never answers, as behind a dead line.
    Silent,
    /// Answers 500.
    Failing,
    /// Answers 200 and what is no JSON.
    Garbage,
    /// Sends every change twice, and each page's changes in reverse.
    Muddled,
}

/// How to steer one register; clones steer the same.
#[derive(Clone)]
pub struct Steer(Arc<Mutex<Steered>>);

struct Steered {
    mode: Mode,
    records: Records,
    requests: u64,
    page: usize,
}

impl Steer {
    fn new(records: Records) -> Self {
        Self(Arc::new(Mutex::new(Steered { mode: Mode::Well, records, requests: 0, page: usize::MAX })))
    }

    /// Has it behave in some way from now on.
    pub fn mode(&self, mode: Mode) {
        self.0.lock().mode = mode;
    }

    /// Has it answer with pages of at most this many changes.
    pub fn page(&self, changes: usize) {
        self.0.lock().page = changes.max(1);
    }

    /// How many requests have come.
    pub fn requests(&self) -> u64 {
        self.0.lock().requests
    }

    /// How many changes there are.
    pub fn changes(&self) -> usize {
        self.0.lock().records.changes().len()
    }

    /// Adds a record about a citizen; its id.
    pub fn add(&self, citizen: &str, content: Value) -> String {
        self.0.lock().records.add(citizen, content)
    }

    /// Tells a record's next version. False where there is no such record.
    pub fn correct(&self, record: &str, content: Value) -> bool {
        self.0.lock().records.next(record, Some(content))
    }

    /// Withdraws a record. False where there is no such record.
    pub fn withdraw(&self, record: &str) -> bool {
        self.0.lock().records.next(record, None)
    }

    /// The page behind a cursor, as the register answers with it while it behaves well.
    pub fn page_after(&self, after: &str) -> Option<Value> {
        let steered = self.0.lock();
        page(&steered, after, usize::MAX)
    }
}

/// All four, running.
pub struct Simulators {
    each: BTreeMap<RegisterId, (Steer, listen::Handle)>,
}

impl Simulators {
    /// Starts them on free ports of 127.0.0.1, with the records that the seed makes.
    ///
    /// # Errors
    /// A port can't be had.
    pub fn start(seed: u64) -> Result<Self, ListenError> {
        Self::start_with(seed, None)
    }

    /// The same, over TLS.
    ///
    /// # Errors
    /// As for [`Simulators::start`].
    pub fn start_with(seed: u64, tls: Option<&Tls>) -> Result<Self, ListenError> {
        let settings = listen::Settings {
            address: ([127, 0, 0, 1], 0).into(),
            runtime: RuntimeChoice::Epoll,
            cores: 1,
            drain_timeout_ms: 100,
            ..listen::Settings::default()
        };
        let start = |register: &RegisterId| {
            let steer = Steer::new(Records::made(*register, seed));
            let (simulated, register) = (steer.clone(), *register);
            let service = move |_: usize| Simulator { register, steer: simulated.clone() };
            let handle = listen::run(&settings, tls, service, listen::Drain::new())?;
            Ok((register, (steer, handle)))
        };
        Ok(Self { each: RegisterId::ALL.iter().map(start).collect::<Result<_, ListenError>>()? })
    }

    /// Where each listens.
    pub fn addresses(&self) -> BTreeMap<RegisterId, SocketAddr> {
        self.each.iter().map(|(register, (_, handle))| (*register, handle.address())).collect()
    }

    /// How to steer one.
    pub fn steer(&self, register: RegisterId) -> Option<Steer> {
        self.each.get(&register).map(|(steer, _)| steer.clone())
    }
}

impl Drop for Simulators {
    fn drop(&mut self) {
        for (steer, handle) in std::mem::take(&mut self.each).into_values() {
            steer.mode(Mode::Failing);
            handle.drain();
            // A simulator that panicked has failed its test already.
            let _ = handle.join();
        }
    }
}

struct Simulator {
    register: RegisterId,
    steer: Steer,
}

impl Service for Simulator {
    fn call(&self, request: Request<Incoming>, _: &Peer) -> Answer {
        let (register, steer) = (self.register, self.steer.clone());
        Box::pin(async move {
            let mode = {
                let mut steered = steer.0.lock();
                steered.requests += 1;
                steered.mode
            };
            match mode {
                Mode::Well | Mode::Muddled => {}
                Mode::Slow(pause) => tokio::time::sleep(pause).await,
                Mode::Silent => wait_while_silent(&steer).await,
                Mode::Failing => return answer(StatusCode::INTERNAL_SERVER_ERROR, "{}"),
                Mode::Garbage => return answer(StatusCode::OK, "<html>Xin thử lại sau</html>"),
            }
            respond(register, &steer, request).await
        })
    }
}

async fn wait_while_silent(steer: &Steer) {
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if steer.0.lock().mode != Mode::Silent {
            return;
        }
    }
}

async fn respond(register: RegisterId, steer: &Steer, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let method = head.method.as_str().to_ascii_lowercase();
    // Of no contract: how a demonstration adds a record.
    if (head.method == Method::POST) && head.uri.path() == "/records" {
        return match body::read(body, 4_096).await.ok().and_then(|body| added(steer, &body)) {
            Some(record) => answer(StatusCode::CREATED, json!({ "record": record }).to_string()),
            None => answer(StatusCode::BAD_REQUEST, "{}"),
        };
    }
    if !paths(register).contains(&(method.as_str(), head.uri.path())) {
        return answer(StatusCode::NOT_FOUND, "{}");
    }
    let found = if head.method == Method::GET {
        let (mut after, mut limit) = (String::new(), usize::MAX);
        for (name, value) in form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()) {
            match name.as_ref() {
                "after" => after = value.into_owned(),
                "limit" => limit = value.parse().unwrap_or(usize::MAX),
                _ => {}
            }
        }
        page(&steer.0.lock(), &after, limit)
    } else {
        let asked = body::read(body, 1_024).await.ok();
        let asked: Option<Value> = asked.and_then(|asked| serde_json::from_slice(&asked).ok());
        let citizen = asked.as_ref().and_then(|asked| asked.get("citizen")?.as_str());
        citizen.map(|citizen| json!({ "records": steer.0.lock().records.of(citizen) }))
    };
    match found {
        Some(found) => answer(StatusCode::OK, found.to_string()),
        None => answer(StatusCode::BAD_REQUEST, "{}"),
    }
}

fn added(steer: &Steer, body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    Some(steer.add(body.get("citizen")?.as_str()?, body.get("content")?.clone()))
}

fn page(steered: &Steered, after: &str, limit: usize) -> Option<Value> {
    let all = steered.records.changes();
    let from = if after.is_empty() { 0 } else { after.strip_prefix("c-")?.parse().ok()? };
    let rest = all.get(from..)?;
    let changes = rest.get(..rest.len().min(limit).min(steered.page))?;
    let to = from + changes.len();
    let behind = all.len() - to;
    let cursor = if to == 0 { String::new() } else { format!("c-{to}") };
    let mut changes = changes.to_vec();
    if steered.mode == Mode::Muddled {
        changes = changes.iter().rev().flat_map(|change| [change.clone(), change.clone()]).collect();
    }
    Some(json!({"after": after, "cursor": cursor, "behind": behind, "changes": changes}))
}

fn answer(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::from(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
