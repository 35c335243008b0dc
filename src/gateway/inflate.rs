//! Content encodings: gzip (RFC 1952) and zstd (RFC 8878), each inflated up to a limit and no further.

use std::io::Read;

use bytes::Bytes;

/// A zstd frame may ask for this much window at most, as a power of two: 8 MiB, the least that RFC 8878
/// asks every decoder to take.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InflateError {
    #[error("the inflated body must be at most {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the encoding must be gzip or zstd")]
    Unsupported,
    #[error("the body does not inflate")]
    Corrupt,
}

/// The body as it was before its `Content-Encoding`.
pub(super) fn inflate(encoding: &[u8], body: Bytes, limit: usize) -> Result<Bytes, InflateError> {
    let encoding = encoding.trim_ascii();
    if encoding.eq_ignore_ascii_case(b"identity") {
        if body.len() > limit { Err(InflateError::TooLarge { limit }) } else { Ok(body) }
    } else if encoding.eq_ignore_ascii_case(b"gzip") {
        bounded(flate2::read::MultiGzDecoder::new(body.as_ref()), limit)
    } else if encoding.eq_ignore_ascii_case(b"zstd") {
        let mut decoder = zstd::Decoder::with_buffer(body.as_ref()).map_err(|_| InflateError::Corrupt)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|_| InflateError::Corrupt)?;
        bounded(decoder, limit)
    } else {
        Err(InflateError::Unsupported)
    }
}

fn bounded(decoder: impl Read, limit: usize) -> Result<Bytes, InflateError> {
    let mut inflated = Vec::new();
    // One byte over the limit tells "just full" from "too large".
    let over = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    decoder.take(over).read_to_end(&mut inflated).map_err(|_| InflateError::Corrupt)?;
    if inflated.len() > limit { Err(InflateError::TooLarge { limit }) } else { Ok(inflated.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(text: &[u8]) -> Bytes {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap().into()
    }

    #[test]
    fn each_encoding_inflates_to_its_limit_and_no_further() {
        let text = vec![b'a'; 1000];
        for (encoding, body) in [
            (&b"gzip"[..], gzip(&text)),
            (b"zstd", zstd::encode_all(&text[..], 3).unwrap().into()),
            (b"identity", text.clone().into()),
        ] {
            assert_eq!(inflate(encoding, body.clone(), 1000).unwrap(), text);
            assert_eq!(inflate(encoding, body, 999), Err(InflateError::TooLarge { limit: 999 }));
        }
    }

    #[test]
    fn a_bomb_costs_its_limit() {
        let bomb = gzip(&vec![0; 50_000_000]);
        assert!(bomb.len() < 60_000);
        assert_eq!(inflate(b"gzip", bomb, 1 << 20), Err(InflateError::TooLarge { limit: 1 << 20 }));
    }

    #[test]
    fn what_does_not_inflate_is_refused() {
        assert_eq!(inflate(b"br", Bytes::new(), 10), Err(InflateError::Unsupported));
        assert_eq!(inflate(b"gzip, gzip", Bytes::new(), 10), Err(InflateError::Unsupported));
        assert_eq!(inflate(b"gzip", Bytes::from_static(b"nonsense"), 10), Err(InflateError::Corrupt));
        assert_eq!(inflate(b"zstd", Bytes::from_static(b"nonsense"), 10), Err(InflateError::Corrupt));
        let cut = gzip(b"some text that is cut short");
        assert_eq!(inflate(b"gzip", cut.slice(..cut.len() - 9), 100), Err(InflateError::Corrupt));
    }
}
