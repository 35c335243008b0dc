//! From a code's characters to its bytes, for the formats that pack them: base45 (RFC 9285), zlib (RFC 1950)
//! and raw deflate (RFC 1951). What comes out is never longer than the buffer it is given.

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};

/// The bytes behind base45. The last group is checked: two characters may stand for one byte only, which
/// the crate's decoder would otherwise wrap.
pub(super) fn base45(text: &str) -> Option<Vec<u8>> {
    if let (2, Some([low, high])) = (text.len() % 3, text.as_bytes().last_chunk()) {
        let digit = |character: u8| base45::alphabet::decode(character).map(u16::from);
        if digit(*low)? + 45 * digit(*high)? > 255 {
            return None;
        }
    }
    base45::decode(text).ok()
}

/// What stands around the compressed bytes.
#[derive(Clone, Copy)]
pub(super) enum Wrapper {
    /// zlib's header and checksum.
    Zlib,
    /// Nothing.
    Raw,
}

/// Inflates all of `packed` into `out` and returns what was written. `None` where it is broken, longer than
/// `out`, or followed by anything.
pub(super) fn inflate<'a>(packed: &[u8], wrapper: Wrapper, out: &'a mut [u8]) -> Option<&'a [u8]> {
    // One call into the caller's buffer: a bomb costs that buffer, and nothing is allocated.
    let flags = inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF
        | match wrapper {
            Wrapper::Zlib => inflate_flags::TINFL_FLAG_PARSE_ZLIB_HEADER,
            Wrapper::Raw => 0,
        };
    let (status, read, written) = decompress(&mut DecompressorOxide::new(), packed, out, 0, flags);
    let whole = status == TINFLStatus::Done && read == packed.len();
    out.get(..written).filter(|_| whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, ZlibEncoder};
    use proptest::prelude::*;
    use std::io::Write as _;

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).expect("a Vec takes all");
        encoder.finish().expect("a Vec takes all")
    }

    #[test]
    fn a_bomb_costs_its_buffer() {
        let bomb = zlib(&vec![0; 1 << 20]);
        assert!(bomb.len() < 2048);
        for limit in [0, 1, 8192] {
            assert_eq!(inflate(&bomb, Wrapper::Zlib, &mut vec![0; limit]), None);
        }
        assert!(inflate(&bomb, Wrapper::Zlib, &mut vec![0; 1 << 20]).is_some());
    }

    #[test]
    fn broken_cut_and_longer_bytes_are_refused() {
        let text = b"one code, one text, one code, one text";
        let packed = zlib(text);
        let mut out = [0; 64];
        assert_eq!(inflate(&packed, Wrapper::Zlib, &mut out), Some(&text[..]));
        for at in 0..packed.len() {
            assert_eq!(inflate(&packed[..at], Wrapper::Zlib, &mut out), None, "cut at {at}");
        }
        assert_eq!(inflate(&[packed.as_slice(), &[0]].concat(), Wrapper::Zlib, &mut out), None);
        let mut checksum = packed.clone();
        checksum[packed.len() - 1] ^= 1;
        assert_eq!(inflate(&checksum, Wrapper::Zlib, &mut out), None);
        assert_eq!(inflate(&packed, Wrapper::Raw, &mut out), None);
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).expect("a Vec takes all");
        let raw = encoder.finish().expect("a Vec takes all");
        assert_eq!(inflate(&raw, Wrapper::Raw, &mut out), Some(&text[..]));
    }

    #[test]
    fn the_last_group_of_base45_stands_for_one_byte() {
        assert_eq!(base45("%69 VD92EX0"), Some(b"Hello!!".to_vec()));
        // U5 is 255; V5 would be 256.
        assert_eq!(base45("U5"), Some(vec![255]));
        for text in ["V5", "::", "A", "abc", ":::", "A\u{e9}"] {
            assert_eq!(base45(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_come_back_and_any_others_are_refused_or_bounded(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            let mut out = [0; 600];
            prop_assert_eq!(inflate(&zlib(&bytes), Wrapper::Zlib, &mut out), Some(&bytes[..]));
            inflate(&bytes, Wrapper::Raw, &mut out);
            inflate(&bytes, Wrapper::Zlib, &mut out);
            prop_assert_eq!(base45(&base45::encode(&bytes)), Some(bytes));
        }
    }
}
