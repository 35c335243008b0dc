//! The services' listener: reads a request within its bounds and hands it to the capability that its path names.

use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Method, Request, Response};

use super::ask::Ask;
use super::{Services, card, declarations, feedback, health, places, registers, risk_map, tracing};
use crate::listen::body::{self, BodyError};
use crate::listen::{Answer, Body, Peer, Service};
use crate::openapi;
use crate::pages;
use crate::respond::{self, Cause, Refused, Rejection};
use crate::scan::UnixMillis;

/// The service of one core.
pub(super) struct Listener(pub(super) Arc<Services>);

impl Service for Listener {
    fn call(&self, request: Request<Incoming>, peer: &Peer) -> Answer {
        let services = Arc::clone(&self.0);
        let peer = *peer;
        Box::pin(async move {
            let is_head = request.method() == Method::HEAD;
            let path = request.uri().path().to_owned();
            let response = answer(&services, request, peer).await.map(Body::from);
            services.counters.count(&path, response.status().as_u16());
            if is_head { response.map(|_| Body::empty()) } else { response }
        })
    }
}

async fn answer(services: &Arc<Services>, request: Request<Incoming>, peer: Peer) -> Response<Bytes> {
    let now = UnixMillis::now();
    let (head, body) = request.into_parts();
    let ask = Ask { head, body: Bytes::new(), peer, now };
    // Before so much is taken in for anybody.
    if let Err(refused) = places::http::may_send(services, &ask) {
        return respond::refused(&refused);
    }
    let (limit, bound) = bytes_max(services, &ask);
    let body = match body::read(body, limit).await {
        Ok(body) => body,
        Err(BodyError::TooLarge { limit_bytes }) => {
            let detail = format!("the body may have {limit_bytes} bytes");
            let refused = Refused::new(Cause::TooLarge, detail).field("body").bound(bound);
            return respond::refused(&refused.limit(limit_bytes as u64, None));
        }
        Err(BodyError::Timeout { limit_ms }) => {
            return respond::rejected(Rejection::RequestTimeout { limit_ms });
        }
        Err(BodyError::Broken) => {
            let refused = Refused::new(Cause::Malformed, "the body ended before its end").field("body");
            return respond::refused(&refused);
        }
    };
    let ask = Ask { body, ..ask };
    route(services, &ask).await.unwrap_or_else(|refused| respond::refused(&refused))
}

/// How long a body may be, by what it is for, and what that bound is called.
fn bytes_max(services: &Services, ask: &Ask) -> (usize, &'static str) {
    let usual = (services.body_bytes_max, "services.body_bytes_max");
    match (ask.method(), ask.head.uri.path()) {
        (&Method::PUT, "/v1/places") => (usual.0.max(places::http::BODY_BYTES_MAX), usual.1),
        (_, "/v1/feedback/photos") => {
            (services.capabilities.feedback.photo_bytes_max(), "feedback.photo_bytes_max")
        }
        (&Method::POST, path) if registers::is_push(path) => {
            (services.registers.page_bytes_max(), "registers.page_bytes_max")
        }
        _ => usual,
    }
}

/// The capability that a path belongs to, by its first part behind `/v1/`.
async fn route(services: &Arc<Services>, ask: &Ask) -> Result<Response<Bytes>, Refused> {
    let path = ask.head.uri.path();
    let reads = matches!(*ask.method(), Method::GET | Method::HEAD);
    match path {
        "/healthz" if reads => return Ok(respond::ok(respond::JSON, "{\"status\":\"alive\"}\n")),
        "/openapi.json" if reads => return Ok(respond::published(respond::JSON, openapi::document())),
        _ => {}
    }
    match pages::services(path) {
        Some(file) if reads => return Ok(file.answer(ask.headers())),
        Some(_) => return Ok(respond::rejected(Rejection::MethodNotAllowed("GET, HEAD"))),
        None => {}
    }
    match path.strip_prefix("/v1/").and_then(|path| path.split('/').next()) {
        Some("cases" | "notifications") => tracing::answer(services, ask).await,
        Some("card") => card::http::answer(services, ask).await,
        Some("feedback") => feedback::answer(services, ask).await,
        Some("health") => health::http::answer(services, ask).await,
        Some("map") => risk_map::answer(services, ask).await,
        Some("places") => places::http::answer(services, ask).await,
        Some("registers") => registers::answer(services, ask).await,
        Some("declarations" | "forms") => declarations::answer(services, ask).await,
        _ => Err(Refused::new(Cause::NotFound, "there is nothing under this path")),
    }
}
