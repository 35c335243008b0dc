//! What a device sends: one JSON document, or NDJSON, one document a line, or a frame's query. Pure: bytes
//! in, requests out.
//!
//! Three readers, each where it is the fastest (`benches/request.rs` prints them on the same bytes): `plain` for
//! objects of strings without escapes, which is what nearly every device writes; for a batch whose first line is
//! not of that kind simd-json, which is at its best on one large document, so its lines are joined into one array
//! and parsed at once; and serde_json for everything else: a single body with escapes, the lines of a batch that
//! don't form one document, and whatever has to be refused, so that a bad line spoils only itself.

mod plain;

use std::borrow::Cow;

use memchr::memchr;
use serde::Deserialize;

use crate::scan::{DirectionRequest, UnixMillis};

/// Characters in a client id.
pub const CLIENT_ID_CHARS_MAX: usize = 64;

/// Characters in the id of a frame: its codes after the first get `#2` to `#16` appended, and each must be a
/// client id.
pub const FRAME_ID_CHARS_MAX: usize = CLIENT_ID_CHARS_MAX - "#16".len();

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

/// What a device says of a frame, in its request's query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameQuery {
    /// The device's own id for the frame, and for the first code in it: 1 to 61 visible ASCII characters.
    pub id: String,
    /// Event time; the time of arrival where it is missing.
    pub at: Option<UnixMillis>,
    /// The direction asked for.
    pub direction: DirectionRequest,
}

impl FrameQuery {
    /// Parses a query. A parameter that isn't known or comes twice is refused: a misspelt `direction` must
    /// not quietly become `auto`.
    ///
    /// # Errors
    /// The first thing wrong with it.
    pub fn parse(query: &str) -> Result<Self, Malformed> {
        // A query's + is itself (RFC 3986), not a form's space: offsets such as +07:00 are written with it.
        let query = query.replace('+', "%2B");
        let (mut id, mut at, mut direction) = (None, None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let (field, slot) = match name.as_ref() {
                "id" => ("id", &mut id),
                "at" => ("at", &mut at),
                "direction" => ("direction", &mut direction),
                _ => return Err(Malformed::new("query", "may hold id, at and direction", "another name")),
            };
            if slot.replace(value).is_some() {
                return Err(Malformed::new(field, "may be given once", "it twice"));
            }
        }
        let id = id.ok_or_else(|| Malformed::new("id", "is required", "nothing"))?;
        check_id(&id, "must be 1 to 61 visible ASCII characters", FRAME_ID_CHARS_MAX)?;
        let at = at.as_deref().map(event_time).transpose()?;
        let direction = direction.as_deref().map_or(Ok(DirectionRequest::Auto), self::direction)?;
        Ok(Self { id: id.into_owned(), at, direction })
    }

    /// The client id of the code at this place in the frame, counted from 0: the frame's own for the first,
    /// then `id#2`, `id#3` and so on, so that a frame that is sent again names the same scans.
    pub fn code_id(&self, index: usize) -> Cow<'_, str> {
        match index {
            0 => Cow::Borrowed(&self.id),
            index => Cow::Owned(format!("{}#{}", self.id, index + 1)),
        }
    }
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
    match plain::read(body).or_else(|| serde_json::from_slice(body).ok()) {
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

/// The lines of a batch joined into one JSON array, to be parsed in place; nothing where a line isn't an object
/// from its first byte to its last. Such lines might be objects only together: one more on a line and one less
/// on the next would keep the count.
pub fn joined(body: &[u8], count: usize) -> Vec<u8> {
    let mut document = Vec::with_capacity(body.len() + count + 2);
    for line in lines(body) {
        if !(line.starts_with(b"{") && line.ends_with(b"}")) {
            return Vec::new();
        }
        // The line feed stays: inside a string it is an error, so no string can run over two lines.
        document.extend_from_slice(if document.is_empty() { b"[" } else { b"\n," });
        document.extend_from_slice(line);
    }
    document.push(b']');
    document
}

/// Parses a batch of `count` lines: one result a line, in order. `document` is room for a batch that has to be
/// parsed as one; its contents don't matter.
pub fn batch<'a>(
    document: &'a mut Vec<u8>,
    body: &'a [u8],
    count: usize,
    payload_bytes_max: usize,
) -> Vec<Result<ScanRequest<'a>, Malformed>> {
    // A device writes all its lines alike, so the first one tells.
    if lines(body).next().is_none_or(|first| plain::read(first).is_some()) {
        let mut requests = Vec::with_capacity(count);
        requests.extend(lines(body).map(|line| single(line, payload_bytes_max)));
        return requests;
    }
    *document = joined(body, count);
    match simd_json::serde::from_slice::<Vec<Fields<'a>>>(document) {
        Ok(all) if all.len() == count => {
            all.into_iter().map(|fields| checked(fields, payload_bytes_max)).collect()
        }
        _ => lines(body).map(|line| single(line, payload_bytes_max)).collect(),
    }
}

/// Checks a code's payload.
///
/// # Errors
/// It is empty or over the limit.
pub fn check_payload(qr: &str, payload_bytes_max: usize) -> Result<(), Malformed> {
    if qr.is_empty() {
        return Err(Malformed::new("qr", "must not be empty", "0 bytes"));
    }
    if qr.len() > payload_bytes_max {
        let got = format!("{} bytes, over {payload_bytes_max}", qr.len());
        let malformed = Malformed::new("qr", "must be at most limits.payload_bytes_max long", got);
        return Err(malformed.over(payload_bytes_max, qr.len()));
    }
    Ok(())
}

fn checked(fields: Fields<'_>, payload_bytes_max: usize) -> Result<ScanRequest<'_>, Malformed> {
    check_id(&fields.id, "must be 1 to 64 visible ASCII characters", CLIENT_ID_CHARS_MAX)?;
    check_payload(&fields.qr, payload_bytes_max)?;
    let at = fields.at.map(|Text(text)| event_time(&text)).transpose()?;
    let direction = fields.direction.map_or(Ok(DirectionRequest::Auto), |Text(name)| direction(&name))?;
    Ok(ScanRequest { id: fields.id, qr: fields.qr, at, direction })
}

fn check_id(id: &str, rule: &'static str, chars_max: usize) -> Result<(), Malformed> {
    if id.is_empty() || id.len() > chars_max {
        return Err(Malformed::new("id", rule, format!("{} bytes", id.len())).over(chars_max, id.len()));
    }
    // Without a way out of the loop, which then takes many bytes at a time.
    if !id.bytes().fold(true, |all, byte| all & byte.is_ascii_graphic()) {
        return Err(Malformed::new("id", rule, "another character"));
    }
    Ok(())
}

fn event_time(text: &str) -> Result<UnixMillis, Malformed> {
    UnixMillis::parse(text).map_err(|_| {
        let rule = "must be an RFC 3339 timestamp such as 2021-11-24T06:49:29Z";
        Malformed::new("at", rule, format!("{} bytes of other text", text.len()))
    })
}

fn direction(name: &str) -> Result<DirectionRequest, Malformed> {
    DirectionRequest::from_name(name).ok_or_else(|| {
        let got = format!("{} bytes of other text", name.len());
        Malformed::new("direction", "must be in, out or auto", got)
    })
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
        batch(&mut Vec::new(), body.as_bytes(), count, 4096)
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
            "{\"id\":\"a\",\"qr\":\"x\"},{\"id\":\"b\"\n\"qr\":\"x\"}",
        ] {
            assert!(parse_batch(body).iter().all(Result::is_err), "{body}");
        }
    }

    #[test]
    fn a_frame_is_described_by_its_query() {
        let query = "id=a%2Fb&at=2021-11-24T06:49:29+07:00&direction=out";
        let parsed = FrameQuery::parse(query).unwrap();
        assert_eq!((parsed.id.as_str(), parsed.direction), ("a/b", DirectionRequest::Out));
        assert_eq!(parsed.at.unwrap().to_string(), "2021-11-23T23:49:29.000Z");
        assert_eq!([0, 1, 15].map(|index| parsed.code_id(index).into_owned()), ["a/b", "a/b#2", "a/b#16"]);
        let longest = FrameQuery::parse(&format!("id={}", "i".repeat(61))).unwrap();
        assert_eq!((longest.at, longest.direction), (None, DirectionRequest::Auto));
        assert_eq!(longest.code_id(15).len(), CLIENT_ID_CHARS_MAX);
        for (query, field) in [
            ("", "id"),
            ("id=", "id"),
            ("id=a%20b", "id"),
            ("id=%ff", "id"),
            (&*format!("id={}", "i".repeat(62)), "id"),
            ("id=a&id=b", "id"),
            ("id=a&at=", "at"),
            ("id=a&at=noon", "at"),
            ("id=a&direction=up", "direction"),
            ("id=a&qr=x", "query"),
        ] {
            assert_eq!(FrameQuery::parse(query).unwrap_err().field, field, "{query}");
        }
    }

    proptest! {
        #[test]
        fn a_batch_decides_as_its_lines_do(pieces in prop::collection::vec(
            prop::sample::select(vec![
                "{\"id\":\"a\",\"qr\":\"x\"}", "{\"id\":\"b\",\"qr\":\"y\",\"at\":null}", "{\"id\":\"d\",\"qr\":\"\\u0041\"}", "\n", "\n", "\n", ",", "{", "}",
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
