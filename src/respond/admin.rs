//! Refusals on the admin listener.

use bytes::Bytes;
use hyper::Response;
use hyper::header::{HeaderValue, WWW_AUTHENTICATE};

use super::{Problem, problem};

/// What a browser asks its user by, RFC 7617: the token's name, and the token as the password.
const BASIC: HeaderValue = HeaderValue::from_static("Basic realm=\"scangate\", charset=\"UTF-8\"");

/// The refusal of a token or of its want: a 401 names both ways to bring one.
pub fn denied(refused: &Problem) -> Response<Bytes> {
    let mut response = problem(refused);
    if response.headers().contains_key(WWW_AUTHENTICATE) {
        response.headers_mut().append(WWW_AUTHENTICATE, BASIC);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::Outcome;

    #[test]
    fn a_401_names_both_ways_and_a_403_none() {
        let refused = denied(&Problem::new(Outcome::Unauthenticated, "why").invalid_token(true));
        let ways: Vec<_> = refused.headers().get_all(WWW_AUTHENTICATE).iter().collect();
        assert_eq!(ways, ["Bearer error=\"invalid_token\"", "Basic realm=\"scangate\", charset=\"UTF-8\""]);
        let forbidden = denied(&Problem::new(Outcome::Forbidden, "why"));
        assert!(!forbidden.headers().contains_key(WWW_AUTHENTICATE));
    }
}
