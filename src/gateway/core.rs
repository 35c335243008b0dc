//! One core's service: what a request is for, and what it cost.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, HeaderValue};
use hyper::{Method, Request, Response};

use super::{Shared, checkins, frames};
use crate::journal::Lane;
use crate::listen::{Answer, Body, Peer, Service};
use crate::observe::metrics::{CoreMetrics, Endpoint};
use crate::openapi;
use crate::pages;
use crate::respond::{self, Rejection};

/// What one core holds: its own way into the journal, its own counters, and what all cores share.
pub(super) struct Core {
    pub(super) shared: Arc<Shared>,
    pub(super) lane: Lane,
    pub(super) index: usize,
}

impl Core {
    pub(super) fn counters(&self) -> &CoreMetrics {
        self.shared.metrics.core(self.index)
    }
}

/// The public listener's service on one core. Without a core only where a lane was taken twice, which
/// answers 500.
pub(super) struct Public(pub(super) Option<Rc<Core>>);

impl Service for Public {
    fn call(&self, request: Request<Incoming>, _peer: &Peer) -> Answer {
        let core = self.0.clone();
        Box::pin(async move {
            let Some(core) = core else { return respond::internal().map(Body::from) };
            let began = Instant::now();
            let is_head = request.method() == Method::HEAD;
            let (endpoint, response) = route(&core, request).await;
            core.counters().request_done(endpoint, response.status().as_u16(), began.elapsed());
            let response = response.map(Body::from);
            if is_head { without_body(response) } else { response }
        })
    }
}

/// The answer to HEAD: what GET would say of the body, without it. hyper leaves it out over HTTP/1.1, but
/// would send it over HTTP/2.
pub(super) fn without_body(response: Response<Body>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    if let Body::Full(bytes) = body {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    }
    Response::from_parts(head, Body::empty())
}

/// The answer to `/healthz`, on both listeners.
pub(super) fn alive() -> Response<Bytes> {
    respond::ok(
        respond::JSON,
        concat!("{\"status\":\"alive\",\"version\":\"", env!("CARGO_PKG_VERSION"), "\"}\n"),
    )
}

async fn route(core: &Core, request: Request<Incoming>) -> (Endpoint, Response<Bytes>) {
    let (method, path) = (request.method(), request.uri().path());
    match path {
        "/v1/checkins" if method == Method::POST => {
            let kind = checkins::kind(request.headers());
            (kind.unwrap_or(Endpoint::Single), checkins::post(core, kind, request).await)
        }
        "/v1/frames" if method == Method::POST => match &core.shared.frames {
            Some(lane) => (Endpoint::Frame, frames::post(core, lane, request).await),
            None => (Endpoint::Unknown, respond::rejected(Rejection::NotFound)),
        },
        "/v1/checkins" | "/v1/frames" => {
            (Endpoint::Unknown, respond::rejected(Rejection::MethodNotAllowed("POST")))
        }
        "/healthz" | "/readyz" | "/openapi.json" if !matches!(*method, Method::GET | Method::HEAD) => {
            (Endpoint::Unknown, respond::rejected(Rejection::MethodNotAllowed("GET, HEAD")))
        }
        "/healthz" => (Endpoint::Public, alive()),
        "/readyz" => (Endpoint::Public, respond::readiness(&core.shared.health.readiness())),
        "/openapi.json" => (Endpoint::Public, respond::published(respond::JSON, openapi::document())),
        _ => match pages::scan(path) {
            Some(file) if matches!(*method, Method::GET | Method::HEAD) => {
                (Endpoint::Public, file.answer(request.headers()))
            }
            Some(_) => (Endpoint::Unknown, respond::rejected(Rejection::MethodNotAllowed("GET, HEAD"))),
            None => (Endpoint::Unknown, respond::rejected(Rejection::NotFound)),
        },
    }
}
