//! One request to a service: what is asked, and who asks.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method};
use serde::de::DeserializeOwned;

use super::Host;
use crate::authenticate::{Caller, Denied, Device, Lookup, Role};
use crate::listen::{ClientCertificate, Peer};
use crate::respond::{Cause, Refused};
use crate::scan::{PlaceKey, Pseudonym, UnixMillis};
use crate::verify::admin_token::AdminScope;

/// A request, read and bounded.
pub struct Ask {
    /// Head of the request.
    pub head: Parts,
    /// Its body, inflated, within its bound.
    pub body: Bytes,
    /// Where it came from.
    pub peer: Peer,
    /// When it arrived.
    pub now: UnixMillis,
}

impl Ask {
    /// The method.
    pub fn method(&self) -> &Method {
        &self.head.method
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// The path's parts behind `/v1/`, such as `["cases", "41", "contacts"]`.
    pub fn path(&self) -> Vec<&str> {
        self.head.uri.path().trim_start_matches("/v1/").split('/').collect()
    }

    /// The query's parameters, each at most once.
    ///
    /// # Errors
    /// One that isn't known, or one that is given twice.
    pub fn query<const N: usize>(&self, known: [&'static str; N]) -> Result<[Option<String>; N], Refused> {
        let mut values = [const { None }; N];
        let text = self.head.uri.query().unwrap_or_default();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            let at = known.iter().position(|known| *known == name);
            let slot = at.and_then(|at| values.get_mut(at)).ok_or_else(|| {
                let known = if N == 0 { "none".to_owned() } else { known.join(", ") };
                Refused::new(Cause::Malformed, format!("parameters are {known}")).field("query")
            })?;
            if slot.replace(value.into_owned()).is_some() {
                return Err(Refused::new(Cause::Malformed, "each parameter may be given once").field("query"));
            }
        }
        Ok(values)
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// It is of another type or no JSON, or a member is missing, unknown or of a wrong type, which is named.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Refused> {
        let essence =
            self.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = essence.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let detail = "Content-Type must be application/json";
            return Err(Refused::new(Cause::UnsupportedMediaType, detail).field("content-type"));
        }
        let mut reader = serde_json::Deserializer::from_slice(&self.body);
        let read = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let at = pointer(error.path());
            // What serde says may quote what was sent, which is nobody's to keep.
            let detail = match error.inner().classify() {
                serde_json::error::Category::Data => {
                    "must be as the API describes it: a member is missing, \
                     unknown, or of another type"
                }
                _ => "the body must be one JSON document",
            };
            Refused::new(Cause::Malformed, detail).field(if at.is_empty() { "body".to_owned() } else { at })
        })?;
        reader.end().map_err(|_| {
            Refused::new(Cause::Malformed, "nothing may follow the JSON document").field("body")
        })?;
        Ok(read)
    }

    /// The device whose token was brought.
    ///
    /// # Errors
    /// There is none, or it is no good.
    pub fn device(&self, host: &dyn Host) -> Result<Arc<Device>, Refused> {
        let refused = |error: crate::authenticate::AuthError| {
            Refused::new(Cause::Unauthenticated, error.to_string()).field(error.field())
        };
        let header = self.headers().get(AUTHORIZATION).map_or(&[][..], HeaderValue::as_bytes);
        let device = match host.authenticator().lookup(header, self.now) {
            Lookup::Known(device) => device,
            Lookup::Refused(error) => return Err(refused(error)),
            Lookup::Unknown(token) => host.authenticator().verify(token, self.now).map_err(refused)?,
        };
        let shown = self.head.extensions.get::<ClientCertificate>().map(ClientCertificate::sha256);
        device.check_certificate(shown).map_err(refused)?;
        Ok(device)
    }

    /// The person in whose name an app asks, as the citizen whom the links know.
    ///
    /// # Errors
    /// As for [`Ask::device`], or the device is a place's.
    pub fn person(&self, host: &dyn Host) -> Result<Pseudonym, Refused> {
        match self.device(host)?.role {
            Role::Person { person } => Ok(host.links().citizen_of(person)),
            Role::Place { .. } => {
                let detail = "a person's own app may ask this, not a place's device";
                Err(Refused::new(Cause::Forbidden, detail).field("authorization"))
            }
        }
    }

    /// The place whose device asks.
    ///
    /// # Errors
    /// As for [`Ask::device`], or the device is a person's.
    pub fn place(&self, host: &dyn Host) -> Result<PlaceKey, Refused> {
        match &self.device(host)?.role {
            Role::Place { place, .. } => Ok(*place),
            Role::Person { .. } => {
                let detail = "a place's device may ask this, not a person's app";
                Err(Refused::new(Cause::Forbidden, detail).field("authorization"))
            }
        }
    }

    /// The officer whose named token has this scope. Always asked for, on loopback as well.
    ///
    /// # Errors
    /// There is no token, or it is no good for this.
    pub fn officer(&self, host: &dyn Host, scope: AdminScope) -> Result<Caller, Refused> {
        let header = self.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let now = (self.now, Instant::now());
        host.admin_auth().holder(header, scope, self.peer.address.ip(), now).map_err(|denied| {
            let (cause, wait) = match denied {
                Denied::Missing(_) | Denied::Invalid(_) => (Cause::Unauthenticated, None),
                Denied::Scope(_) => (Cause::Forbidden, None),
                Denied::Limited { retry_after_s } => (Cause::RateLimited, Some(retry_after_s)),
            };
            let refused = Refused::new(cause, denied.to_string()).field("authorization");
            match wait {
                Some(seconds) => refused.retry_after(seconds),
                None => refused,
            }
        })
    }
}

/// Where a member stands, as a JSON pointer (RFC 6901).
pub(super) fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
            Segment::Enum { variant } => format!("/{variant}"),
            Segment::Unknown => String::new(),
        })
        .collect()
}
