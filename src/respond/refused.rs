//! Refusals of the services: RFC 9457 as everywhere, with fields that are named by where they stand in a document.

use std::borrow::Cow;

use bytes::Bytes;
use hyper::header::{HeaderValue, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::{JSON, ProblemBody, line, with_body, with_problem};

macro_rules! causes {
    ($($(#[$doc:meta])* $variant:ident = $status:ident, $name:literal;)+) => {
        /// Why a service refuses.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Cause { $($(#[$doc])* $variant,)+ }

        impl Cause {
            /// Every cause.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Its stable name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            const fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)+ }
            }
        }
    };
}

causes! {
    /// The request can't be read.
    Malformed = BAD_REQUEST, "malformed";
    /// No token, or none that is good.
    Unauthenticated = UNAUTHORIZED, "unauthenticated";
    /// The token's holder may not do this.
    Forbidden = FORBIDDEN, "forbidden";
    /// There is no such thing, or not for this caller.
    NotFound = NOT_FOUND, "not_found";
    /// It was decided otherwise before, or is under way.
    Conflict = CONFLICT, "conflict";
    /// Something is larger than it may be.
    TooLarge = PAYLOAD_TOO_LARGE, "too_large";
    /// The body is of a type that isn't read here.
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type";
    /// Readable, and not acceptable.
    Invalid = UNPROCESSABLE_ENTITY, "invalid";
    /// More than this caller may.
    RateLimited = TOO_MANY_REQUESTS, "rate_limited";
    /// The log, the disk or a register can't serve now.
    Unavailable = SERVICE_UNAVAILABLE, "unavailable";
}

/// A refusal of a service, of the whole request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub cause: Cause,
    /// For people: names the rule, never what was sent.
    pub detail: Cow<'static, str>,
    /// Which header, parameter or member is wrong; a member of a document as a JSON pointer (RFC 6901).
    pub field: Option<Cow<'static, str>>,
    /// Which bound was reached, by its name in the configuration.
    pub bound: Option<&'static str>,
    /// The limit that was passed.
    pub limit: Option<u64>,
    /// The value that passed it.
    pub value: Option<u64>,
    /// When to try again, in seconds.
    pub retry_after_s: Option<u32>,
}

impl Refused {
    /// A refusal with its reason.
    pub fn new(cause: Cause, detail: impl Into<Cow<'static, str>>) -> Self {
        let retry_after_s = matches!(cause, Cause::RateLimited | Cause::Unavailable).then_some(1);
        Self {
            cause,
            detail: detail.into(),
            field: None,
            bound: None,
            limit: None,
            value: None,
            retry_after_s,
        }
    }

    /// Names what is wrong.
    #[must_use]
    pub fn field(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.field = Some(name.into());
        self
    }

    /// Names the bound that was reached.
    #[must_use]
    pub fn bound(mut self, name: &'static str) -> Self {
        self.bound = Some(name);
        self
    }

    /// Names the limit's value, and the value that passed it where it is known.
    #[must_use]
    pub fn limit(mut self, limit: u64, value: Option<u64>) -> Self {
        self.limit = Some(limit);
        self.value = value;
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }
}

/// The answer to a request that a service refuses.
pub fn refused(refused: &Refused) -> Response<Bytes> {
    let status = refused.cause.status();
    let body = ProblemBody {
        field: refused.field.as_deref(),
        bound: refused.bound,
        limit: refused.limit,
        value: refused.value,
        ..ProblemBody::new("outcome", refused.cause.name(), status, &refused.detail)
    };
    let mut response = with_problem(status, &body, refused.retry_after_s);
    if refused.cause == Cause::Unauthenticated {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// Something made, and durable: 201.
pub fn created(body: &impl Serialize) -> Response<Bytes> {
    with_body(StatusCode::CREATED, JSON, line(body))
}

/// The same of what is JSON already.
pub fn created_json(body: impl Into<Bytes>) -> Response<Bytes> {
    with_body(StatusCode::CREATED, JSON, body.into())
}

/// Something read or done, as JSON: 200.
pub fn json(body: &impl Serialize) -> Response<Bytes> {
    with_body(StatusCode::OK, JSON, line(body))
}

#[cfg(test)]
mod tests {
    use hyper::header::RETRY_AFTER;

    use super::*;

    #[test]
    fn a_refusal_names_field_limit_and_value() {
        let long = Refused::new(Cause::Invalid, "note must have up to 500 characters");
        let response = refused(&long.field("/note").limit(500, Some(612)));
        assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
        let body: serde_json::Value = serde_json::from_slice(response.body()).expect("JSON");
        assert_eq!(body["type"], "urn:scangate:outcome:invalid");
        assert_eq!(
            (&body["field"], &body["limit"], &body["value"]),
            (&"/note".into(), &500.into(), &612.into())
        );
        assert!(!response.headers().contains_key(RETRY_AFTER));
    }

    #[test]
    fn what_may_pass_says_when_to_try_again() {
        for cause in Cause::ALL {
            let response = refused(&Refused::new(*cause, "why"));
            let passes = matches!(response.status().as_u16(), 429 | 503);
            assert_eq!(response.headers().contains_key(RETRY_AFTER), passes, "{cause:?}");
        }
    }
}
