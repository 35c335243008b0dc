//! Requests built ahead of time, with holes for what differs each time: client id and event time.

use std::fmt::Write as _;

use scangate::scan::UnixMillis;

/// Bytes of an event time: RFC 3339 with milliseconds.
const AT_BYTES: usize = 24;
/// Bytes of a client id in UUID form.
pub const ID_BYTES: usize = 36;

/// One scan as a JSON line whose id and time can be set in place.
#[derive(Debug, Clone)]
pub struct Line {
    bytes: Vec<u8>,
    id_at: usize,
    time_at: usize,
}

impl Line {
    /// Lays out a line; `qr` is escaped by serde.
    pub fn new(qr: &str, direction: &str) -> Self {
        let mut text = String::from("{\"id\":\"");
        let id_at = text.len();
        text.extend(std::iter::repeat_n('0', ID_BYTES));
        text.push_str("\",\"qr\":");
        text.push_str(&serde_json::Value::from(qr).to_string());
        text.push_str(",\"at\":\"");
        let time_at = text.len();
        text.extend(std::iter::repeat_n('0', AT_BYTES));
        let _ = write!(text, "\",\"direction\":\"{direction}\"}}");
        Self { bytes: text.into_bytes(), id_at, time_at }
    }

    /// Length in bytes, the same for every id and time.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends the line with this id and time.
    pub fn write(&self, number: u64, time: &str, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        if let Some(hole) = out.get_mut(start + self.id_at..start + self.id_at + ID_BYTES) {
            hole.copy_from_slice(&uuid_like(number));
        }
        if let Some(hole) = out.get_mut(start + self.time_at..start + self.time_at + AT_BYTES) {
            hole.copy_from_slice(time.as_bytes());
        }
    }
}

/// The head of a POST up to the value of Content-Length, which comes last.
pub fn head(token: &str, content_type: &str) -> Vec<u8> {
    format!(
        "POST /v1/checkins HTTP/1.1\r\nHost: gateway.example\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: {content_type}\r\nContent-Length: "
    )
    .into_bytes()
}

/// A whole request from its head and body length; the body is appended by `body`.
pub fn assemble(head: &[u8], length: usize, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    out.clear();
    out.extend_from_slice(head);
    out.extend_from_slice(length.to_string().as_bytes());
    out.extend_from_slice(b"\r\n\r\n");
    body(out);
}

/// A number in the form of a UUID: what devices send, and easy to trace.
pub fn uuid_like(number: u64) -> [u8; ID_BYTES] {
    const HEX: [u8; 16] = *b"0123456789abcdef";
    let mut text = *b"00000000-0000-4000-8000-000000000000";
    let mut rest = number;
    for (index, digit) in text.iter_mut().enumerate().rev() {
        if *digit != b'-' && !matches!(index, 14 | 19) {
            // The index is masked to the table's length.
            *digit = HEX.get(usize::try_from(rest & 15).unwrap_or_default()).copied().unwrap_or(b'0');
            rest >>= 4;
        }
    }
    text
}

/// RFC 3339 with milliseconds, always 24 bytes.
pub fn time_text(at_ms: i64) -> String {
    UnixMillis(at_ms).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_filled_in_place() {
        let line = Line::new("a\"b", "in");
        let mut out = Vec::new();
        line.write(0xabc, &time_text(0), &mut out);
        assert_eq!(out.len(), line.len());
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["id"], "00000000-0000-4000-8000-000000000abc");
        assert_eq!(value["at"], "1970-01-01T00:00:00.000Z");
        assert_eq!(value["qr"], "a\"b");
        assert_eq!(value["direction"], "in");
    }

    #[test]
    fn ids_are_distinct_beyond_the_last_group() {
        assert_ne!(uuid_like(u64::MAX), uuid_like(u64::MAX >> 4));
        assert_eq!(&uuid_like(u64::MAX)[14..15], b"4");
    }
}
