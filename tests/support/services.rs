//! A gateway with services in this process, beside `api_support`, which the including test has as well.
#![allow(dead_code, clippy::unwrap_used, clippy::missing_panics_doc, clippy::must_use_candidate)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use scangate::config::Config;
use scangate::gateway::{Gateway, Signals};
use scangate::issue::{self, RoleRef};
use scangate::scan::{App, UnixMillis};
use scangate::services::Services;
use scangate::verify::admin_token::{self, AdminScope};
use serde_json::Value;

use crate::api_support::{Answer, exchange};

/// A running gateway; stopped when dropped.
pub struct Site {
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    /// None once it is to stop: whoever holds it holds the tables.
    pub services: Option<Arc<Services>>,
    pub directory: Arc<tempfile::TempDir>,
    signals: Signals,
    thread: Option<JoinHandle<()>>,
}

impl Site {
    pub fn start(adjust: impl FnOnce(&mut Config)) -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), adjust)
    }

    pub fn start_in(directory: Arc<tempfile::TempDir>, adjust: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.gateway.data_dir = directory.path().join("data");
        config.listen.addr = ([127, 0, 0, 1], 0).into();
        config.listen.admin = ([127, 0, 0, 1], 0).into();
        config.services.listen = Some(([127, 0, 0, 1], 0).into());
        config.journal.segment_bytes = 8 << 20;
        adjust(&mut config);
        let gateway = Gateway::start(&config).unwrap();
        let (listen, admin) = (gateway.services_address().unwrap(), gateway.admin_address());
        let (services, signals) = (gateway.services().map(Arc::clone), gateway.signals());
        let thread = std::thread::spawn(move || gateway.run().unwrap());
        Self { listen, admin, services, directory, signals, thread: Some(thread) }
    }

    /// Stops it, and starts another on its data.
    pub fn again(self) -> Self {
        let directory = Arc::clone(&self.directory);
        drop(self);
        Self::start_in(directory, |_| {})
    }

    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub fn services(&self) -> &Services {
        self.services.as_ref().unwrap()
    }

    /// The token of a person's app.
    pub fn person(&self, reference: &str) -> String {
        self.token(RoleRef::Person(reference))
    }

    /// The token of a place's device.
    pub fn place(&self, reference: &str) -> String {
        self.token(RoleRef::Place(reference))
    }

    fn token(&self, role: RoleRef<'_>) -> String {
        let ttl = Duration::from_hours(24);
        issue::issue_device(&self.data(), App::Vneid, role, None, ttl, UnixMillis::now()).unwrap()
    }

    /// The token of an officer, in force after the reload that this asks for.
    pub fn officer(&self, name: &str, scope: AdminScope) -> String {
        let made = admin_token::make(&self.data(), name, &[scope], None, UnixMillis::now()).unwrap();
        assert_eq!(exchange(self.admin, "POST", "/v1/reload", &[], b"").status, 200);
        made.to_string()
    }

    /// A call with a bearer token and a JSON body; "" and null for none.
    pub fn call(&self, method: &str, path: &str, token: &str, body: &Value) -> Answer {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        self.call_with(method, path, token, "application/json", text.as_bytes())
    }

    pub fn call_with(&self, method: &str, path: &str, token: &str, kind: &str, body: &[u8]) -> Answer {
        let authorization = format!("Bearer {token}");
        let mut headers = vec![("Content-Type", kind)];
        if !token.is_empty() {
            headers.push(("Authorization", &authorization));
        }
        exchange(self.listen, method, path, &headers, body)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.services = None;
        self.signals.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the gateway did not end well");
        }
    }
}
