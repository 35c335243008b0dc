//! What a device sends: one JSON document, or NDJSON, one document a line. Pure: bytes in, requests out.
//!
//! A batch is parsed as one large document, which is where simd-json is at its best: the lines are joined
//! into one array and parsed at once. Only where that fails, or the number of elements isn't the number of
//! lines, is each line parsed by itself, so that a bad line spoils only itself. A single body is small, and
//! serde_json measures faster on it (`benches/request.rs` prints both on the same bytes).

use std::borrow::Cow;

use memchr::memchr;
use serde::Deserialize;

use crate::scan::{DirectionRequest, UnixMillis};

/// Characters in a client id.
pub const CLIENT_ID_CHARS_MAX: usize = 64;

/// One scan as its device describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanRequest<'a> {
    /// The device's own id for the scan: 1 to 64 visible ASCII characters.
    pub id: Cow<'a, str>,
    /// The code's payload.
    pub qr: Cow<'a, str>,
    /// Event time; the time of arrival where it is missing.
    pub at: Option<UnixMillis>,
    /// The direction asked for.
    pub direction: DirectionRequest,
}

/// A request or line that can't be read: names the field, the rule, and the value's size or kind, never
/// its text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {rule}; got {got}")]
pub struct Malformed {
    /// The JSON field, or `body` or `line`.
    pub field: &'static str,
    /// What it must be.
    pub rule: &'static str,
    /// What it was: a length, a JSON kind or a position.
    pub got: String,
    /// The limit on its size, where it is over one.
    pub excess: Option<Excess>,
}

/// A size over its limit, both in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Excess {
    /// The limit.
    pub limit: u64,
    /// The size.
    pub value: u64,
}

impl Malformed {
    fn new(field: &'static str, rule: &'static str, got: impl Into<String>) -> Self {
        Self { field, rule, got: got.into(), excess: None }
    }

    fn over(mut self, limit: usize, value: usize) -> Self {
        let bytes = |count| u64::try_from(count).unwrap_or(u64::MAX);
        self.excess = (value > limit).then(|| Excess { limit: bytes(limit), value: bytes(value) });
        self
    }
}

/// The fields as they stand in the document. Unknown fields are refused: a misspelt `direction` must not
/// quietly become `auto`. All fields are scalars, which the batch's line count relies on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    qr: Cow<'a, str>,
    #[serde(borrow, default)]
    at: Option<Text<'a>>,
    #[serde(borrow, default)]
    direction: Option<Text<'a>>,
}

/// serde borrows a `Cow` field, but not one inside an `Option`.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Parses one request.
///
/// # Errors
/// The first thing wrong with it.
pub fn single(body: &[u8], payload_bytes_max: usize) -> Result<ScanRequest<'_>, Malformed> {
    // Checking the whole body's UTF-8 at once is cheaper than checking string after string.
    match std::str::from_utf8(body).ok().and_then(|body| serde_json::from_str::<Fields<'_>>(body).ok()) {
        Some(fields) => checked(fields, payload_bytes_max),
        None => Err(diagnose(body)),
    }
}

/// The non-blank lines of an NDJSON body, without their line ends.
pub fn lines(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = body;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let (line, after) = match memchr(b'\n', rest) {
                Some(end) => (rest.get(..end)?, rest.get(end + 1..)?),
                None => (rest, &[][..]),
            };
            rest = after;
            let line = line.trim_ascii();
            if !line.is_empty() {
                return Some(line);
            }
        }
        None
    })
}

/// The lines of a batch joined into one JSON array, for [`batch`] to parse in place.
pub fn joined(body: &[u8], count: usize) -> Vec<u8> {
    let mut document = Vec::with_capacity(body.len() + count + 2);
    for line in lines(body) {
        // The line feed stays: inside a string it is an error, so no string can run over two lines.
        document.extend_from_slice(if document.is_empty() { b"[" } else { b"\n," });
        document.extend_from_slice(line);
    }
    document.push(b']');
    document
}

/// Parses a batch of `count` lines: one result a line, in order. `document` is [`joined`]'s, overwritten in
/// parsing; `body` holds the lines for the case that they don't form one document.
pub fn batch<'a>(
    document: &'a mut [u8],
    body: &'a [u8],
    count: usize,
    payload_bytes_max: usize,
) -> Vec<Result<ScanRequest<'a>, Malformed>> {
    match simd_json::serde::from_slice::<Vec<Fields<'a>>>(document) {
        Ok(all) if all.len() == count => {
            all.into_iter().map(|fields| checked(fields, payload_bytes_max)).collect()
        }
        _ => lines(body).map(|line| single(line, payload_bytes_max)).collect(),
    }
}

/// Checks what a device calls its scan: used for the `id` of a frame's query, too.
///
/// # Errors
/// It isn't 1 to 64 visible ASCII characters.
pub fn check_client_id(id: &str) -> Result<(), Malformed> {
    let rule = "must be 1 to 64 visible ASCII characters";
    if id.is_empty() || id.len() > CLIENT_ID_CHARS_MAX {
        let malformed = Malformed::new("id", rule, format!("{} bytes", id.len()));
        return Err(malformed.over(CLIENT_ID_CHARS_MAX, id.len()));
    }
    // Without a way out of the loop, which then takes many bytes at a time.
    if !id.bytes().fold(true, |all, byte| all & byte.is_ascii_graphic()) {
        return Err(Malformed::new("id", rule, "another character"));
    }
    Ok(())
}

fn checked(fields: Fields<'_>, payload_bytes_max: usize) -> Result<ScanRequest<'_>, Malformed> {
    check_client_id(&fields.id)?;
    if fields.qr.is_empty() {
        return Err(Malformed::new("qr", "must not be empty", "0 bytes"));
    }
    if fields.qr.len() > payload_bytes_max {
        let got = format!("{} bytes, over {payload_bytes_max}", fields.qr.len());
        let malformed = Malformed::new("qr", "must be at most limits.payload_bytes_max long", got);
        return Err(malformed.over(payload_bytes_max, fields.qr.len()));
    }
    let at = match fields.at {
        None => None,
        Some(Text(text)) => Some(UnixMillis::parse(&text).map_err(|_| {
            let rule = "must be an RFC 3339 timestamp such as 2021-11-24T06:49:29Z";
            Malformed::new("at", rule, format!("{} bytes of other text", text.len()))
        })?),
    };
    let direction = match fields.direction {
        None => DirectionRequest::Auto,
        Some(Text(name)) => DirectionRequest::from_name(&name).ok_or_else(|| {
            let got = format!("{} bytes of other text", name.len());
            Malformed::new("direction", "must be in, out or auto", got)
        })?,
    };
    Ok(ScanRequest { id: fields.id, qr: fields.qr, at, direction })
}

/// Says what is wrong with a document that didn't parse. Slow, and only for refusals.
#[cold]
fn diagnose(body: &[u8]) -> Malformed {
    use serde_json::Value;

    let fields = match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(fields)) => fields,
        Ok(other) => {
            return Malformed::new("body", "must be a JSON object", kind(&other));
        }
        Err(error) => {
            let got = format!("a syntax error at column {}", error.column());
            return Malformed::new("body", "must be JSON (RFC 8259)", got);
        }
    };
    for (field, required) in [("id", true), ("qr", true), ("at", false), ("direction", false)] {
        match fields.get(field) {
            Some(Value::String(_)) => {}
            Some(Value::Null) if !required => {}
            Some(other) => return Malformed::new(field, "must be a string", kind(other)),
            None if required => return Malformed::new(field, "is required", "nothing"),
            None => {}
        }
    }
    let got = format!("{} different fields", fields.len());
    Malformed::new("body", "may hold id, qr, at and direction, each once", got)
}

fn kind(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "a boolean",
        serde_json::Value::Number(_) => "a number",
        serde_json::Value::String(_) => "a string",
        serde_json::Value::Array(_) => "an array",
        serde_json::Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse_batch(body: &str) -> Vec<Result<String, &'static str>> {
        let count = lines(body.as_bytes()).count();
        let mut document = joined(body.as_bytes(), count);
        batch(&mut document, body.as_bytes(), count, 4096)
            .into_iter()
            .map(|line| line.map(|request| request.id.into_owned()).map_err(|bad| bad.field))
            .collect()
    }

    #[test]
    fn a_single_request_has_defaults() {
        let request = single(br#"{"id":"a","qr":"x|y"}"#, 4096).unwrap();
        assert_eq!(request.direction, DirectionRequest::Auto);
        assert_eq!(request.at, None);
        assert_eq!(request.qr, "x|y");
        let escaped =
            single(br#"{"id":"a","qr":"S\u1ED5 \"x\"","at":"2021-11-24T06:49:29+07:00"}"#, 4096).unwrap();
        assert_eq!(escaped.qr, "Sổ \"x\"");
        assert_eq!(escaped.at.unwrap().to_string(), "2021-11-23T23:49:29.000Z");
    }

    #[test]
    fn what_is_wrong_is_named_and_never_quoted() {
        let long_id = format!(r#"{{"id":"{}","qr":"x"}}"#, "i".repeat(65));
        let long_qr = format!(r#"{{"id":"a","qr":"{}"}}"#, "NGUYEN".repeat(1000));
        for (body, expected) in [
            ("", "body must be JSON (RFC 8259); got a syntax error at column 0"),
            ("[]", "body must be a JSON object; got an array"),
            (r#"{"qr":"x"}"#, "id is required; got nothing"),
            (r#"{"id":7,"qr":"x"}"#, "id must be a string; got a number"),
            (r#"{"id":"a"}"#, "qr is required; got nothing"),
            (r#"{"id":"a","qr":""}"#, "qr must not be empty; got 0 bytes"),
            (r#"{"id":"","qr":"x"}"#, "id must be 1 to 64 visible ASCII characters; got 0 bytes"),
            (
                r#"{"id":"a b","qr":"x"}"#,
                "id must be 1 to 64 visible ASCII characters; got another character",
            ),
            (&long_id, "id must be 1 to 64 visible ASCII characters; got 65 bytes"),
            (&long_qr, "qr must be at most limits.payload_bytes_max long; got 6000 bytes, over 4096"),
            (
                r#"{"id":"a","qr":"x","at":"noon"}"#,
                "at must be an RFC 3339 timestamp such as 2021-11-24T06:49:29Z; got 4 bytes of other text",
            ),
            (
                r#"{"id":"a","qr":"x","direction":"up"}"#,
                "direction must be in, out or auto; got 2 bytes of other text",
            ),
            (
                r#"{"id":"a","qr":"x","dir":"in"}"#,
                "body may hold id, qr, at and direction, each once; got 3 different fields",
            ),
        ] {
            assert_eq!(single(body.as_bytes(), 4096).unwrap_err().to_string(), expected, "{body}");
        }
    }

    #[test]
    fn a_bad_line_spoils_only_itself() {
        let good = |id: &str| format!(r#"{{"id":"{id}","qr":"x"}}"#);
        let body = format!("{}\r\n\n{}\nnonsense\n{}", good("1"), good("2"), good("3"));
        assert_eq!(parse_batch(&body), [Ok("1".into()), Ok("2".into()), Err("body"), Ok("3".into())]);
    }

    #[test]
    fn lines_can_not_borrow_from_their_neighbours() {
        // Each of these makes as many elements as lines when joined carelessly.
        for body in [
            "{\"id\":\"a}\n{b\",\"qr\":\"x\"}\n{\"id\":\"c\",\"qr\":\"x\"},{\"id\":\"d\",\"qr\":\"x\"}",
            "[\"a\",\n\"x\"]\n{\"id\":\"c\",\"qr\":\"x\"},{\"id\":\"d\",\"qr\":\"x\"}",
            "{\"id\":\"a\",\"qr\":[{}\n{}]}\n{\"id\":\"c\",\"qr\":\"x\"},{\"id\":\"d\",\"qr\":\"x\"}",
        ] {
            assert!(parse_batch(body).iter().all(Result::is_err), "{body}");
        }
    }

    proptest! {
        #[test]
        fn a_batch_decides_as_its_lines_do(pieces in prop::collection::vec(
            prop::sample::select(vec![
                "{\"id\":\"a\",\"qr\":\"x\"}", "{\"id\":\"b\",\"qr\":\"y\",\"at\":null}", "\n", "\n", "\n", ",", "{", "}",
                "[", "]", "\"", "{\"id\":\"c", "\",\"qr\":\"z\"}", " ", "\\",
            ]), 0..24))
        {
            let body = pieces.concat();
            let expected: Vec<_> = lines(body.as_bytes())
                .map(|line| single(line, 4096).map(|request| request.id.into_owned()).map_err(|bad| bad.field))
                .collect();
            prop_assert_eq!(parse_batch(&body), expected);
        }
    }
}
