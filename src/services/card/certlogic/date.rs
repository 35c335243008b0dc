//! Dates and times as CertLogic writes them, in milliseconds since 1970 UTC.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use super::Unit;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Reads one of the specification's nineteen forms. What is missing of a date is its last possible value, what is
/// missing of a time is zero, and of an offset Z.
pub(super) fn parse(text: &str) -> Option<i64> {
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let midnight = midnight_ms(date, time.is_none())?;
    match time {
        None => Some(midnight),
        Some(time) => midnight.checked_add(time_ms(time)?),
    }
}

/// Reads `YYYY`, `YYYY-MM` or `YYYY-MM-DD`: the last day that it may stand for.
pub(super) fn birth_date(text: &str) -> Option<i64> {
    midnight_ms(text, true)
}

fn midnight_ms(text: &str, may_be_partial: bool) -> Option<i64> {
    let mut parts = text.split('-');
    let year = number(parts.next()?, 4)?;
    let (month, day) = (parts.next(), parts.next());
    if parts.next().is_some() || (!may_be_partial && day.is_none()) {
        return None;
    }
    let year = i16::try_from(year).ok()?;
    let of_month = |month: Option<&str>| month.map_or(Some(12), |month| number(month, 2));
    let month = i8::try_from(of_month(month)?).ok()?;
    let date = match day {
        Some(day) => Date::new(year, month, i8::try_from(number(day, 2)?).ok()?).ok()?,
        None => Date::new(year, month, 1).ok()?.last_of_month(),
    };
    at_midnight(date)
}

fn at_midnight(date: Date) -> Option<i64> {
    Some(date.to_zoned(TimeZone::UTC).ok()?.timestamp().as_millisecond())
}

/// `hh:mm:ss`, a fraction, and an offset, as milliseconds after midnight UTC.
fn time_ms(text: &str) -> Option<i64> {
    let (clock, rest) = text.split_at_checked(8)?;
    let mut parts = clock.split(':');
    let mut part = |max| parts.next().and_then(|part| number(part, 2)).filter(|value| *value <= max);
    let (hour, minute, second) = (part(23)?, part(59)?, part(59)?);
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (fraction_ms, offset) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(rest) => {
            let (fraction, offset) = rest.split_at_checked(digits(rest))?;
            let ms: String = fraction.chars().chain("00".chars()).take(3).collect();
            (number(&ms, 3)?, offset)
        }
    };
    Some(((hour * 60 + minute) * 60 + second) * 1000 + fraction_ms - offset_ms(offset)?)
}

/// `Z` or nothing, or a sign and `h`, `hh`, `hmm`, `hhmm`, `h:mm` or `hh:mm`.
fn offset_ms(text: &str) -> Option<i64> {
    let (sign, text) = match text.as_bytes().first() {
        None => return Some(0),
        Some(b'Z') if text.len() == 1 => return Some(0),
        Some(b'+') => (1, text.get(1..)?),
        Some(b'-') => (-1, text.get(1..)?),
        Some(_) => return None,
    };
    let (hours, minutes) = match text.split_once(':') {
        Some(split) => split,
        None if text.len() > 2 => text.split_at_checked(text.len() - 2)?,
        None => (text, "00"),
    };
    if !(1..=2).contains(&hours.len()) {
        return None;
    }
    let (hours, minutes) = (number(hours, hours.len())?, number(minutes, 2)?);
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 60 + minutes) * 60_000)
}

/// A number of exactly so many digits.
fn number(text: &str, digits: usize) -> Option<i64> {
    let is_number = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// Adds to a time. A day that its new month doesn't have is so much later: a month after January 31 is March 3, or March
/// 2 in a leap year.
pub(super) fn plus(ms: i64, amount: i64, unit: Unit) -> Option<i64> {
    let months = match unit {
        Unit::Hour => return ms.checked_add(amount.checked_mul(HOUR_MS)?),
        Unit::Day => return ms.checked_add(amount.checked_mul(DAY_MS)?),
        Unit::Month => amount,
        Unit::Year => amount.checked_mul(12)?,
    };
    let date = Timestamp::from_millisecond(ms).ok()?.to_zoned(TimeZone::UTC).date();
    let from = date.first_of_month();
    let days = i64::from(date.day()) - 1;
    let to = from.checked_add(jiff::Span::new().try_months(months).ok()?).ok()?;
    let to = to.checked_add(days.days()).ok()?;
    Some(at_midnight(to)? + ms.rem_euclid(DAY_MS))
}

/// `2021-11-24T06:49:29.000Z`.
pub(super) fn text(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map(|at| format!("{at:.3}")).unwrap_or_default()
}
