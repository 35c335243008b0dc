//! A reader for the deterministic subset of CBOR (RFC 8949 §4.2) that an SG1 token is written in:
//! definite lengths and shortest heads only. It borrows, so nothing is allocated whatever lengths a
//! hostile token declares, and it is strict, so one token has one encoding.

/// The rest of a byte string that is being read item by item.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Nothing may follow the last item.
    pub(super) fn end(&self) -> Option<()> {
        self.rest.is_empty().then_some(())
    }

    /// An integer that fits in 64 bits with its sign.
    pub(super) fn integer(&mut self) -> Option<i64> {
        let (major, value) = self.head()?;
        let value = i64::try_from(value).ok()?;
        match major {
            UNSIGNED => Some(value),
            NEGATIVE => Some(-1 - value),
            _ => None,
        }
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.expect(BYTES)?;
        self.take(usize::try_from(length).ok()?)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        let length = self.expect(TEXT)?;
        std::str::from_utf8(self.take(usize::try_from(length).ok()?)?).ok()
    }

    /// The number of items in the array that opens here.
    pub(super) fn array(&mut self) -> Option<u64> {
        self.expect(ARRAY)
    }

    /// The number of pairs in the map that opens here.
    pub(super) fn map(&mut self) -> Option<u64> {
        self.expect(MAP)
    }

    fn expect(&mut self, wanted: u8) -> Option<u64> {
        let (major, value) = self.head()?;
        (major == wanted).then_some(value)
    }

    fn head(&mut self) -> Option<(u8, u64)> {
        let (&first, rest) = self.rest.split_first()?;
        self.rest = rest;
        let (value, shortest_from) = match first & 0x1f {
            small @ 0..=23 => (u64::from(small), 0),
            24 => (u64::from(u8::from_be_bytes(self.take_array()?)), 24),
            25 => (u64::from(u16::from_be_bytes(self.take_array()?)), 1 << 8),
            26 => (u64::from(u32::from_be_bytes(self.take_array()?)), 1 << 16),
            27 => (u64::from_be_bytes(self.take_array()?), 1 << 32),
            _ => return None,
        };
        (value >= shortest_from).then_some((first >> 5, value))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    fn take_array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_shortest_definite_heads_are_read() {
        assert_eq!(Reader::new(&[0x18, 0x18]).integer(), Some(24));
        assert_eq!(Reader::new(&[0x18, 0x17]).integer(), None);
        assert_eq!(Reader::new(&[0x19, 0x00, 0xff]).integer(), None);
        assert_eq!(Reader::new(&[0x27]).integer(), Some(-8));
        assert_eq!(Reader::new(&[0x3a, 0x00, 0x01, 0x00, 0x00]).integer(), Some(-65_537));
        assert_eq!(Reader::new(&[0x5f, 0x41, 0x00, 0xff]).bytes(), None);
        assert_eq!(Reader::new(&[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).bytes(), None);
        assert_eq!(Reader::new(&[0x61, 0xff]).text(), None);
    }

    proptest! {
        #[test]
        fn integers_round_trip_through_an_independent_encoder(value: i64) {
            let mut bytes = Vec::new();
            ciborium::into_writer(&value, &mut bytes).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(Reader::new(&bytes).integer(), Some(value));
        }
    }
}
