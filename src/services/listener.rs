//! The services' listener: reads a request within its bounds and hands it to the capability that its path names.

use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Method, Request, Response};

use super::ask::Ask;
use super::{Services, card, health, places, tracing};
use crate::listen::body::{self, BodyError};
use crate::listen::{Answer, Body, Peer, Service};
use crate::openapi;
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

async fn answer(services: &Services, request: Request<Incoming>, peer: Peer) -> Response<Bytes> {
    let now = UnixMillis::now();
    let (head, body) = request.into_parts();
    let ask = Ask { head, body: Bytes::new(), peer, now };
    // Before so much is taken in for anybody.
    if let Err(refused) = places::http::may_send(services, &ask) {
        return respond::refused(&refused);
    }
    let limit = bytes_max(services, ask.head.uri.path());
    let body = match body::read(body, limit).await {
        Ok(body) => body,
        Err(BodyError::TooLarge { limit_bytes }) => {
            let detail = format!("the body may have {limit_bytes} bytes");
            let refused =
                Refused::new(Cause::TooLarge, detail).field("body").bound("services.body_bytes_max");
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

/// How long a body may be, by what it is for.
fn bytes_max(services: &Services, path: &str) -> usize {
    match path {
        "/v1/places" => services.body_bytes_max.max(places::http::BODY_BYTES_MAX),
        _ => services.body_bytes_max,
    }
}

/// The capability that a path belongs to, by its first part behind `/v1/`.
async fn route(services: &Services, ask: &Ask) -> Result<Response<Bytes>, Refused> {
    match (ask.method(), ask.head.uri.path()) {
        (&Method::GET | &Method::HEAD, "/healthz") => {
            return Ok(respond::ok(respond::JSON, "{\"status\":\"alive\"}\n"));
        }
        (&Method::GET | &Method::HEAD, "/openapi.json") => {
            return Ok(respond::published(respond::JSON, openapi::document()));
        }
        _ => {}
    }
    match ask.path().first() {
        Some(&"card") => card::http::answer(services, ask).await,
        Some(&"health") => health::http::answer(services, ask).await,
        Some(&"places") => places::http::answer(services, ask).await,
        Some(&("cases" | "notifications")) => tracing::answer(services, ask).await,
        _ => Err(Refused::new(Cause::NotFound, "there is nothing under this path")),
    }
}
