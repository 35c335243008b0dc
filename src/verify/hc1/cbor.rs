//! A reader for any well-formed CBOR (RFC 8949) that a health certificate may be written in. Nothing asks its
//! issuer for the deterministic encoding that the reader of SG1 tokens insists on: in the public test set
//! one message in twenty has floating-point times, tagged dates, nulls or a second tag.
//!
//! It borrows and allocates nothing, whatever lengths are declared; every item read takes a byte at least,
//! so that time is linear in the input; and nesting is bounded. Strings must be in one piece: no issuer is
//! known to chunk them, and a borrowed text cannot be put together.

/// How deep an item that is passed over may nest. Certificates nest 5 deep.
const DEPTH_MAX: u8 = 16;

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const SIMPLE: u8 = 7;

const NULL: u8 = 0xf6;
const BREAK: u8 = 0xff;

/// The rest of a byte string that is being read item by item.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

/// A key of a map that numbers its members; none that has a text is known here.
pub(super) enum Label {
    Number(i64),
    Text,
}

/// The elements of an array, or the pairs of a map, that are still to be read.
pub(super) struct Items(Option<u64>);

struct Head {
    major: u8,
    /// The five low bits of the first byte: for floating-point numbers, their width.
    low: u8,
    /// None for an indefinite length.
    value: Option<u64>,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Nothing may follow the last item.
    pub(super) fn end(&self) -> Option<()> {
        self.rest.is_empty().then_some(())
    }

    /// The tag that stands here, if one does.
    pub(super) fn tag(&mut self) -> Option<u64> {
        let mut ahead = Self { rest: self.rest };
        // What is no tag, or none that can be read, is left for whoever reads on.
        let tag = ahead.head().filter(|head| head.major == TAG)?.value?;
        self.rest = ahead.rest;
        Some(tag)
    }

    /// Passes over a null or undefined, if one stands here.
    pub(super) fn null(&mut self) -> bool {
        match self.rest.split_first() {
            Some((&(NULL | 0xf7), rest)) => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// An integer that fits in 64 bits with its sign.
    pub(super) fn integer(&mut self) -> Option<i64> {
        let Head { major, value, .. } = self.head()?;
        integer(major, value?)
    }

    /// A key of a map that numbers its members, as COSE and CWT have them: a number or a text.
    pub(super) fn label(&mut self) -> Option<Label> {
        if self.rest.first()? >> 5 == TEXT {
            return self.text().map(|_| Label::Text);
        }
        self.integer().map(Label::Number)
    }

    /// Whole seconds since 1970: an integer, or a floating-point number cut down; tagged as a time or not.
    pub(super) fn seconds(&mut self) -> Option<i64> {
        while self.tag().is_some() {}
        let Head { major, low, value } = self.head()?;
        let value = value?;
        match (major, low) {
            (SIMPLE, 25) => Some(whole(half(u16::try_from(value).ok()?))?),
            (SIMPLE, 26) => whole(f64::from(f32::from_bits(u32::try_from(value).ok()?))),
            (SIMPLE, 27) => whole(f64::from_bits(value)),
            _ => integer(major, value),
        }
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.expect(BYTES)?.0?;
        self.take(usize::try_from(length).ok()?)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        let length = self.expect(TEXT)?.0?;
        std::str::from_utf8(self.take(usize::try_from(length).ok()?)?).ok()
    }

    /// Opens the array that begins here.
    pub(super) fn array(&mut self) -> Option<Items> {
        self.expect(ARRAY)
    }

    /// Opens the map that begins here.
    pub(super) fn map(&mut self) -> Option<Items> {
        self.expect(MAP)
    }

    /// Whether another element (or pair) of what was opened follows; an indefinite one's end is passed.
    pub(super) fn another(&mut self, items: &mut Items) -> Option<bool> {
        match &mut items.0 {
            Some(0) => Some(false),
            Some(left) => {
                *left -= 1;
                Some(true)
            }
            None => {
                let (first, rest) = self.rest.split_first()?;
                if *first == BREAK {
                    self.rest = rest;
                    items.0 = Some(0);
                }
                Some(*first != BREAK)
            }
        }
    }

    /// Passes over one item, whatever it is.
    pub(super) fn skip(&mut self) -> Option<()> {
        self.skip_within(DEPTH_MAX)
    }

    fn skip_within(&mut self, depth: u8) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        let Head { major, value, .. } = self.head()?;
        match (major, value) {
            (UNSIGNED | NEGATIVE | SIMPLE, Some(_)) => Some(()),
            (BYTES | TEXT, Some(length)) => self.take(usize::try_from(length).ok()?).map(drop),
            (TAG, Some(_)) => self.skip_within(depth),
            (BYTES | TEXT | ARRAY | MAP, _) => {
                let mut items = Items(value);
                while self.another(&mut items)? {
                    self.skip_within(depth)?;
                    if major == MAP {
                        self.skip_within(depth)?;
                    }
                }
                Some(())
            }
            _ => None,
        }
    }

    /// The head of an item of this kind: its length, or none where it is indefinite.
    fn expect(&mut self, wanted: u8) -> Option<Items> {
        let head = self.head()?;
        (head.major == wanted).then_some(Items(head.value))
    }

    fn head(&mut self) -> Option<Head> {
        let (&first, rest) = self.rest.split_first()?;
        self.rest = rest;
        let (major, low) = (first >> 5, first & 0x1f);
        let value = match low {
            small @ 0..=23 => Some(u64::from(small)),
            24 => Some(u64::from(u8::from_be_bytes(self.take_array()?))),
            25 => Some(u64::from(u16::from_be_bytes(self.take_array()?))),
            26 => Some(u64::from(u32::from_be_bytes(self.take_array()?))),
            27 => Some(u64::from_be_bytes(self.take_array()?)),
            31 if matches!(major, BYTES | TEXT | ARRAY | MAP) => None,
            // A break outside of what it could end, and the reserved ones.
            _ => return None,
        };
        Some(Head { major, low, value })
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

fn integer(major: u8, value: u64) -> Option<i64> {
    let value = i64::try_from(value).ok()?;
    match major {
        UNSIGNED => Some(value),
        NEGATIVE => Some(-1 - value),
        _ => None,
    }
}

/// The number below, if there is one that a time could be.
#[allow(clippy::cast_possible_truncation, reason = "within the bounds that are checked first")]
fn whole(number: f64) -> Option<i64> {
    const LARGEST: f64 = 9_007_199_254_740_992.0;
    (number.abs() < LARGEST).then(|| number.floor() as i64)
}

/// A number of half width (IEEE 754 binary16).
fn half(bits: u16) -> f64 {
    let exponent = i32::from((bits >> 10) & 0x1f);
    let fraction = f64::from(bits & 0x3ff);
    let magnitude = match exponent {
        0 => fraction * 2_f64.powi(-24),
        31 => f64::INFINITY,
        _ => (1024.0 + fraction) * 2_f64.powi(exponent - 25),
    };
    if bits >> 15 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ciborium::value::Value;
    use proptest::prelude::*;

    #[test]
    fn heads_may_be_longer_than_needed_and_lengths_indefinite() {
        assert_eq!(Reader::new(&[0x18, 0x07]).integer(), Some(7));
        assert_eq!(Reader::new(&[0x3b, 0, 0, 0, 0, 0, 0, 0, 6]).integer(), Some(-7));
        let mut reader = Reader::new(&[0xbf, 0x01, 0x9f, 0x02, 0xff, 0xff, 0x09]);
        let mut pairs = reader.map().unwrap();
        assert_eq!(reader.another(&mut pairs), Some(true));
        assert_eq!((reader.integer(), reader.skip()), (Some(1), Some(())));
        assert_eq!(reader.another(&mut pairs), Some(false));
        assert_eq!(reader.another(&mut pairs), Some(false));
        assert_eq!((reader.integer(), reader.end()), (Some(9), Some(())));
    }

    #[test]
    fn lengths_that_lie_and_nesting_without_end_are_refused() {
        assert_eq!(Reader::new(&[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).bytes(), None);
        assert_eq!(Reader::new(&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]).skip(), None);
        assert_eq!(Reader::new(&[0x81; 8192]).skip(), None);
        assert_eq!(Reader::new(&[0xc1; 8192]).skip(), None);
        assert_eq!(Reader::new(&[0x9f; 8192]).skip(), None);
        for bytes in [&[0xff][..], &[0x1f], &[0xdf], &[0x7f, 0x61, b'a', 0xff], &[0x61, 0xff], &[0x1c], &[]] {
            assert_eq!(Reader::new(bytes).text(), None, "{bytes:x?}");
        }
        assert_eq!(Reader::new(&[0x7f, 0x61, b'a', 0xff]).skip(), Some(()));
        // A tag whose number can't be read is no tag, and isn't passed over either.
        let mut reader = Reader::new(&[0xdc, 0x80]);
        assert!(reader.tag().is_none() && reader.array().is_none());
    }

    #[test]
    fn seconds_are_whole_however_they_are_written() {
        let seconds = |value: Value| {
            let mut bytes = Vec::new();
            ciborium::into_writer(&value, &mut bytes).unwrap();
            Reader::new(&bytes).seconds()
        };
        for (value, expected) in [
            (Value::from(1_622_000_000), Some(1_622_000_000)),
            (Value::Float(1_622_000_000.9), Some(1_622_000_000)),
            (Value::Float(1.5), Some(1)),
            (Value::Float(-1.5), Some(-2)),
            (Value::Float(f64::NAN), None),
            (Value::Float(f64::INFINITY), None),
            (Value::Float(1e300), None),
            (Value::Tag(1, Box::new(Value::from(7))), Some(7)),
            (Value::Null, None),
            (Value::Text("7".to_owned()), None),
        ] {
            assert_eq!(seconds(value.clone()), expected, "{value:?}");
        }
        assert_eq!(Reader::new(&[0xf9, 0x04, 0x00]).seconds(), Some(0));
        assert_eq!(Reader::new(&[0xf9, 0x7b, 0xff]).seconds(), Some(65_504));
        assert_eq!(Reader::new(&[0xf9, 0x80, 0x01]).seconds(), Some(-1));
    }

    proptest! {
        #[test]
        fn any_bytes_are_passed_over_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = Reader::new(&bytes);
            while reader.skip().is_some() {}
            prop_assert!(reader.rest.len() <= bytes.len());
        }

        #[test]
        fn what_an_independent_encoder_writes_is_passed_over_whole(
            number: i64, text in ".{0,40}", bytes in proptest::collection::vec(any::<u8>(), 0..300), float: f64,
        ) {
            let value = Value::Map(vec![
                (Value::from(number), Value::Text(text)),
                (Value::Bytes(bytes), Value::Array(vec![Value::Float(float), Value::Null, Value::Bool(true)])),
                (Value::Null, Value::Tag(61, Box::new(Value::from(number)))),
            ]);
            let mut encoded = Vec::new();
            ciborium::into_writer(&value, &mut encoded).map_err(|error| TestCaseError::fail(error.to_string()))?;
            let mut reader = Reader::new(&encoded);
            prop_assert_eq!((reader.skip(), reader.end()), (Some(()), Some(())));
        }
    }
}
