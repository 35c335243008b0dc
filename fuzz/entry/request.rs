//! What devices send: single bodies, batches, and the queries of frames.

use scangate::request::{self, FrameQuery, Malformed, ScanRequest};

const PAYLOAD_BYTES_MAX: usize = 64;

/// By the first byte: a single body, a batch, or a frame's query.
pub fn request(data: &[u8]) {
    let Some((mode, data)) = data.split_first() else {
        return;
    };
    match mode % 3 {
        0 => check(&request::single(data, PAYLOAD_BYTES_MAX)),
        1 => batch(data),
        _ => {
            if let Ok(query) = std::str::from_utf8(data)
                && let Ok(query) = FrameQuery::parse(query)
            {
                let id = query.code_id(15);
                assert!((1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
    }
}

/// A line gets the same answer in a batch as by itself.
fn batch(body: &[u8]) {
    let lines: Vec<&[u8]> = request::lines(body).collect();
    let mut document = Vec::new();
    let results = request::batch(&mut document, body, lines.len(), PAYLOAD_BYTES_MAX);
    assert_eq!(results.len(), lines.len());
    for (line, result) in lines.into_iter().zip(&results) {
        check(result);
        assert_eq!(*result, request::single(line, PAYLOAD_BYTES_MAX), "a line differs by itself");
    }
}

fn check(result: &Result<ScanRequest<'_>, Malformed>) {
    if let Ok(scan) = result {
        assert!((1..=64).contains(&scan.id.len()) && scan.id.bytes().all(|byte| byte.is_ascii_graphic()));
        assert!((1..=PAYLOAD_BYTES_MAX).contains(&scan.qr.len()));
    }
}
