//! The admin listener: metrics, stats, export, trace, links, drain and reload. Loopback by default; never the public
//! one. Who may do what is for `authenticate` to say, and what concerns persons is in the audit log first.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{Method, Request, Response};

use super::{Shared, audited, core, links, reading};
use crate::audit::{Action, Entry, Outcome as Ended};
use crate::authenticate::{Caller, Denied};
use crate::listen::{Answer, Body, Peer, Service};
use crate::observe::metrics::{self, AuthFailure, Endpoint};
use crate::pages;
use crate::respond::{self, Problem, Rejection};
use crate::scan::{Outcome, UnixMillis};
use crate::verify::admin_token::AdminScope;

/// The admin listener's service.
pub(super) struct Admin(pub(super) Arc<Shared>);

impl Service for Admin {
    fn call(&self, request: Request<Incoming>, peer: &Peer) -> Answer {
        let shared = Arc::clone(&self.0);
        let peer = *peer;
        Box::pin(async move {
            let began = Instant::now();
            let is_head = request.method() == Method::HEAD;
            let response = route(&shared, request, &peer).await;
            let counters = shared.metrics.core(shared.admin_core());
            counters.request_done(Endpoint::Admin, response.status().as_u16(), began.elapsed());
            if is_head { core::without_body(response) } else { response }
        })
    }
}

/// The methods that a path answers, and what a token must be good for; none where nobody is asked.
fn resource(path: &str) -> Option<(&'static str, Option<AdminScope>)> {
    Some(match path {
        "/healthz" | "/readyz" => ("GET, HEAD", None),
        "/metrics" | "/v1/stats" | "/v1/stats/stream" => ("GET, HEAD", Some(AdminScope::Read)),
        "/v1/export" => ("GET, HEAD", Some(AdminScope::Export)),
        "/v1/trace" => ("GET, HEAD, POST", Some(AdminScope::Export)),
        "/v1/drain" | "/v1/reload" => ("POST", Some(AdminScope::Operate)),
        "/v1/links" => ("GET, HEAD, POST", Some(AdminScope::Links)),
        path if pages::status(path).is_some() => ("GET, HEAD", Some(AdminScope::Read)),
        _ => return None,
    })
}

async fn route(shared: &Arc<Shared>, request: Request<Incoming>, peer: &Peer) -> Response<Body> {
    let Some((allowed, scope)) = resource(request.uri().path()) else {
        return respond::rejected(Rejection::NotFound).map(Body::from);
    };
    if !allowed.split(", ").any(|method| method == request.method().as_str()) {
        return respond::rejected(Rejection::MethodNotAllowed(allowed)).map(Body::from);
    }
    let caller = match scope.map_or(Ok(Caller::Loopback), |scope| admitted(shared, &request, scope, peer)) {
        Ok(caller) => caller,
        Err(denied) => return respond::denied(&refusal(shared, denied)).map(Body::from),
    };
    match request.uri().path() {
        "/metrics" => {
            respond::ok(metrics::CONTENT_TYPE, shared.metrics.render(&shared.sample())).map(Body::from)
        }
        "/v1/stats" => respond::ok(respond::JSON, shared.stats().to_json() + "\n").map(Body::from),
        "/v1/stats/stream" => events(Arc::clone(shared)),
        "/v1/export" => reading::all(shared, &caller, &request).await,
        "/v1/trace" => reading::of_person(shared, &caller, request).await,
        "/v1/links" if request.method() == Method::POST => {
            links::post(shared, &caller, request).await.map(Body::from)
        }
        "/v1/links" => links::get(shared, &request).await.map(Body::from),
        "/readyz" => respond::readiness(&shared.health.readiness()).map(Body::from),
        "/v1/drain" => drain(shared, &caller).await.map(Body::from),
        "/v1/reload" => reload(shared, &caller).await.map(Body::from),
        "/healthz" => core::alive().map(Body::from),
        path => match pages::status(path) {
            Some(file) => file.answer(request.headers()).map(Body::from),
            None => respond::rejected(Rejection::NotFound).map(Body::from),
        },
    }
}

/// Who asks. The links are nobody's on loopback either: they always ask for the feed's token or one of that scope.
fn admitted(
    shared: &Shared,
    request: &Request<Incoming>,
    scope: AdminScope,
    peer: &Peer,
) -> Result<Caller, Denied> {
    let header = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
    let (address, now) = (peer.address.ip(), (UnixMillis::now(), Instant::now()));
    if scope != AdminScope::Links {
        return shared.admin_auth.caller(header, scope, address, now);
    }
    match (&shared.feed_token, header) {
        (Some(token), Some(header)) if token.is_brought_by(header) => Ok(Caller::Feed),
        _ => shared.admin_auth.holder(header, scope, address, now),
    }
}

fn refusal(shared: &Shared, denied: Denied) -> Problem {
    let (outcome, failure) = match denied {
        Denied::Missing(_) => (Outcome::Unauthenticated, AuthFailure::Missing),
        Denied::Invalid(_) => (Outcome::Unauthenticated, AuthFailure::BadSignature),
        Denied::Scope(_) => (Outcome::Forbidden, AuthFailure::Forbidden),
        Denied::Limited { .. } => (Outcome::RateLimited, AuthFailure::BadSignature),
    };
    shared.metrics.core(shared.admin_core()).admin_failure(failure);
    let problem = Problem::new(outcome, denied.to_string());
    match denied {
        Denied::Limited { retry_after_s } => problem.bound("admin.failures").retry_after(retry_after_s),
        _ => problem.field("authorization").invalid_token(matches!(denied, Denied::Invalid(_))),
    }
}

/// The stats once a second, until the client goes away or the gateway drains.
fn events(shared: Arc<Shared>) -> Response<Body> {
    let events = stream::unfold((shared, true), |(shared, first)| async move {
        if !first {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let event = Bytes::from(shared.stats().to_event());
        Some((event, (shared, false)))
    });
    respond::ok(respond::EVENTS, Bytes::new()).map(|_| Body::stream(events))
}

async fn drain(shared: &Arc<Shared>, caller: &Caller) -> Response<Bytes> {
    if let Err(response) = audited::done(shared, Entry::new(caller.to_string(), Action::Drain)).await {
        return response;
    }
    shared.stop.request();
    respond::accepted("{\"draining\":true}\n")
}

async fn reload(shared: &Arc<Shared>, caller: &Caller) -> Response<Bytes> {
    let call = match audited::begin(shared, Entry::new(caller.to_string(), Action::Reload)).await {
        Ok(call) => call,
        Err(response) => return response,
    };
    let loaded = shared.reload();
    let response = match &loaded {
        Ok(changed) => {
            respond::ok(respond::JSON, format!("{{\"reloaded\":true,\"keys_changed\":{changed}}}\n"))
        }
        Err(error) => {
            tracing::error!(error = %format_args!("{error:#}"), "reload failed; what doesn't load stays as it was");
            respond::rejected(Rejection::ReloadFailed)
        }
    };
    call.end(shared, if loaded.is_ok() { Ended::Done } else { Ended::Failed }, None);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_health_is_open() {
        for path in [
            "/metrics",
            "/v1/stats",
            "/v1/stats/stream",
            "/v1/export",
            "/v1/trace",
            "/v1/drain",
            "/v1/reload",
        ] {
            assert!(resource(path).is_some_and(|(_, scope)| scope.is_some()), "{path}");
        }
        assert_eq!(resource("/healthz"), Some(("GET, HEAD", None)));
        assert_eq!(resource("/readyz"), Some(("GET, HEAD", None)));
        assert_eq!(resource("/v1/checkins"), None);
    }
}
