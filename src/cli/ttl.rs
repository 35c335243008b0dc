//! Lifetimes as people write them: `90s`, `45m`, `12h`, `30d`, `4w`.

use std::time::Duration;

/// Ten years: longer than any key should live, and far from where an expiry time overflows.
const TTL_S_MAX: u64 = 3_650 * 86_400;

/// Parses a number and a unit.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|end: char| !end.is_ascii_digit());
    let unit_s = match text.strip_prefix(digits) {
        Some("s") => 1,
        Some("m") => 60,
        Some("h") => 3_600,
        Some("d") => 86_400,
        Some("w") => 7 * 86_400,
        _ => return Err("must be a number and one of s, m, h, d, w, such as 30d".to_owned()),
    };
    let seconds = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_s));
    match seconds {
        Some(seconds @ 1..=TTL_S_MAX) => Ok(Duration::from_secs(seconds)),
        _ => Err("must be between 1s and 3650d".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read() {
        for (text, seconds) in
            [("90s", 90), ("45m", 2_700), ("12h", 43_200), ("30d", 2_592_000), ("4w", 2_419_200)]
        {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn nonsense_zero_and_centuries_are_refused() {
        for text in
            ["", "d", "30", "30 d", "-1d", "1.5d", "0s", "3651d", "99999999999999999999d", "30D", "ngày"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
