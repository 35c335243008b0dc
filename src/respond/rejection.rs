//! Requests that never became a scan, so that no outcome of a scan names them.

use std::borrow::Cow;

use bytes::Bytes;
use hyper::header::{ACCEPT_ENCODING, ALLOW, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::{Concern, ProblemBody, with_problem};

/// Requests that never became a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// No such path.
    NotFound,
    /// The path exists; the methods that it answers.
    MethodNotAllowed(&'static str),
    /// A body without a length.
    LengthRequired,
    /// The body's type; the types that are accepted.
    UnsupportedMediaType(&'static str),
    /// The body's encoding; the encodings that are accepted.
    UnsupportedEncoding(&'static str),
    /// The body did not arrive in time.
    RequestTimeout {
        /// The time it had, `listen.body_timeout_ms`.
        limit_ms: u64,
    },
    /// A fault of the gateway itself; the log has the particulars.
    Internal,
    /// What was to be loaded again is no good.
    ReloadFailed,
}

impl Rejection {
    /// Every name, as `outcome` tells it.
    pub const NAMES: &[&str] = &[
        "not_found",
        "method_not_allowed",
        "length_required",
        "unsupported_media_type",
        "unsupported_encoding",
        "request_timeout",
        "internal",
        "reload_failed",
    ];

    /// Its status and its stable name.
    const fn status_and_name(self) -> (StatusCode, &'static str) {
        match self {
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::MethodNotAllowed(_) => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::LengthRequired => (StatusCode::LENGTH_REQUIRED, "length_required"),
            Self::UnsupportedMediaType(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            Self::UnsupportedEncoding(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding"),
            Self::RequestTimeout { .. } => (StatusCode::REQUEST_TIMEOUT, "request_timeout"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
            Self::ReloadFailed => (StatusCode::INTERNAL_SERVER_ERROR, "reload_failed"),
        }
    }

    fn detail(self) -> Cow<'static, str> {
        match self {
            Self::NotFound => "no such path on this listener".into(),
            Self::MethodNotAllowed(allowed) => format!("this path answers {allowed}").into(),
            Self::LengthRequired => "a body needs Content-Length or Transfer-Encoding: chunked".into(),
            Self::UnsupportedMediaType(accepted) => format!("Content-Type must be one of {accepted}").into(),
            Self::UnsupportedEncoding(accepted) => {
                format!("Content-Encoding must be one of {accepted}").into()
            }
            Self::RequestTimeout { limit_ms } => format!("the body must arrive within {limit_ms} ms").into(),
            Self::Internal => "the gateway failed; nothing was recorded".into(),
            Self::ReloadFailed => "what could not be loaded stays as it was; the log says why".into(),
        }
    }

    const fn concern(self) -> Option<Concern> {
        match self {
            Self::LengthRequired => Some(Concern::Field("content-length")),
            Self::UnsupportedMediaType(_) => Some(Concern::Field("content-type")),
            Self::UnsupportedEncoding(_) => Some(Concern::Field("content-encoding")),
            Self::RequestTimeout { .. } => Some(Concern::Bound("listen.body_timeout_ms")),
            Self::NotFound | Self::MethodNotAllowed(_) | Self::Internal | Self::ReloadFailed => None,
        }
    }

    /// The header that says what would be right.
    const fn remedy(self) -> Option<(HeaderName, &'static str)> {
        match self {
            Self::MethodNotAllowed(allowed) => Some((ALLOW, allowed)),
            Self::UnsupportedEncoding(accepted) => Some((ACCEPT_ENCODING, accepted)),
            Self::NotFound
            | Self::LengthRequired
            | Self::UnsupportedMediaType(_)
            | Self::RequestTimeout { .. }
            | Self::Internal
            | Self::ReloadFailed => None,
        }
    }
}

/// A request that never became a scan.
pub fn rejected(rejection: Rejection) -> Response<Bytes> {
    let (status, name) = rejection.status_and_name();
    let (detail, concern) = (rejection.detail(), rejection.concern());
    let body = ProblemBody {
        field: concern.and_then(Concern::field),
        bound: concern.and_then(Concern::bound),
        limit: if let Rejection::RequestTimeout { limit_ms } = rejection { Some(limit_ms) } else { None },
        ..ProblemBody::new("rejection", name, status, &detail)
    };
    let mut response = with_problem(status, &body, None);
    if let Some((name, value)) = rejection.remedy() {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::respond::tests::parsed;

    #[test]
    fn every_rejection_is_a_documented_problem() {
        let rejections = [
            Rejection::NotFound,
            Rejection::MethodNotAllowed("POST"),
            Rejection::LengthRequired,
            Rejection::UnsupportedMediaType("application/json"),
            Rejection::UnsupportedEncoding("gzip"),
            Rejection::RequestTimeout { limit_ms: 10 },
            Rejection::Internal,
            Rejection::ReloadFailed,
        ];
        let names: Vec<_> =
            rejections.iter().map(|rejection| parsed(&rejected(*rejection)).outcome).collect();
        assert_eq!(names, Rejection::NAMES);
        assert_eq!(rejected(Rejection::MethodNotAllowed("POST")).headers()[ALLOW], "POST");
        assert_eq!(rejected(Rejection::UnsupportedEncoding("gzip")).headers()[ACCEPT_ENCODING], "gzip");
        let late = parsed(&rejected(Rejection::RequestTimeout { limit_ms: 10 }));
        assert_eq!((late.bound.as_deref(), late.limit), (Some("listen.body_timeout_ms"), Some(10)));
    }
}
