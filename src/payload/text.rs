//! Small text rules that several formats share: fields, digits, calendar dates, base64.

use base64::Engine;
use base64::engine::GeneralPurpose;

use super::PAYLOAD_BYTES_MAX;

/// Splits `text` at `|` into its first `N` fields and says how many there are in all. Fields that are
/// not there are empty.
pub(super) fn fields<const N: usize>(text: &str) -> ([&str; N], usize) {
    let mut first = [""; N];
    let mut count = 0;
    let mut start = 0;
    let bars = memchr::memchr_iter(b'|', text.as_bytes()).chain(std::iter::once(text.len()));
    for end in bars {
        if let (Some(slot), Some(field)) = (first.get_mut(count), text.get(start..end)) {
            *slot = field;
        }
        count += 1;
        start = end + 1;
    }
    (first, count)
}

/// Whether `text` is exactly `length` ASCII digits.
pub(super) fn is_digits(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The number that a short run of ASCII digits stands for; `None` where it isn't one.
pub(super) fn number(text: &str) -> Option<u16> {
    if text.is_empty() || text.len() > 4 {
        return None;
    }
    text.bytes()
        .try_fold(0_u16, |value, byte| byte.is_ascii_digit().then(|| value * 10 + u16::from(byte - b'0')))
}

/// A calendar date.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Date {
    pub(super) year: u16,
    pub(super) month: u16,
    pub(super) day: u16,
}

impl Date {
    /// Eight digits `ddmmyyyy`, a day that exists in the Gregorian calendar.
    pub(super) fn ddmmyyyy(text: &str) -> Option<Self> {
        Self::checked(text.get(4..8)?, text.get(2..4)?, text.get(0..2)?)
    }

    /// `YYYY-MM-DD`, a day that exists in the Gregorian calendar.
    pub(super) fn iso(text: &str) -> Option<Self> {
        Self::checked(text.get(0..4)?, text.get(5..7)?, text.get(8..10)?)
    }

    /// `dd/mm/yyyy`, a day that exists in the Gregorian calendar.
    pub(super) fn slashed(text: &str) -> Option<Self> {
        Self::checked(text.get(6..10)?, text.get(3..5)?, text.get(0..2)?)
    }

    fn checked(year: &str, month: &str, day: &str) -> Option<Self> {
        let (year, month, day) = (number(year)?, number(month)?, number(day)?);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days = match month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 if leap => 29,
            2 => 28,
            _ => return None,
        };
        (year > 0 && (1..=days).contains(&day)).then_some(Self { year, month, day })
    }
}

/// Room for the bytes behind the longest base64 that a payload can hold.
pub(super) type Decoded = [u8; PAYLOAD_BYTES_MAX / 4 * 3];

/// The bytes that `text` stands for, in memory of the caller's: a claim is read without allocating.
pub(super) fn base64<'a>(alphabet: &GeneralPurpose, text: &str, room: &'a mut Decoded) -> Option<&'a [u8]> {
    let length = alphabet.decode_slice(text, room).ok()?;
    room.get(..length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_split_and_counted() {
        assert_eq!(fields::<3>("a|b|c|d"), (["a", "b", "c"], 4));
        assert_eq!(fields::<3>("a|"), (["a", "", ""], 2));
        assert_eq!(fields::<2>(""), (["", ""], 1));
    }

    #[test]
    fn dates_follow_the_calendar() {
        for good in ["29022020", "31121999", "01012000", "29022000"] {
            assert!(Date::ddmmyyyy(good).is_some(), "{good}");
        }
        for bad in
            ["29022021", "29021900", "31042020", "00012020", "01132020", "01010000", "1012020", "ab012020"]
        {
            assert!(Date::ddmmyyyy(bad).is_none(), "{bad}");
        }
        assert!(Date::iso("2020-02-29").is_some());
        assert!(Date::iso("2021-02-29").is_none());
        assert!(Date::slashed("29/02/2020").is_some());
        assert!(Date::slashed("29/02/2021").is_none());
    }
}
