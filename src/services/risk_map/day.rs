//! Days as people in Vietnam count them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::scan::{DAY_MS, UnixMillis};

/// Vietnam's clocks are seven hours ahead of UTC all year, by Decision 121/CP of 1975.
const AHEAD_MS: i64 = 7 * 3_600_000;

/// A day from midnight to midnight in Vietnam, as days since 1970-01-01; as text and as JSON `2021-11-24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Day(pub i32);

impl Day {
    /// The day that a time lies in.
    pub fn of(at: UnixMillis) -> Self {
        Self(UnixMillis(at.0.saturating_add(AHEAD_MS)).day())
    }

    /// Its first moment, which is also the end of the day before.
    pub fn begins(self) -> UnixMillis {
        UnixMillis(i64::from(self.0) * DAY_MS - AHEAD_MS)
    }

    /// So many days later, or earlier.
    #[must_use]
    pub fn plus(self, days: i32) -> Self {
        Self(self.0.saturating_add(days))
    }

    /// Reads `2021-11-24`.
    pub fn parse(text: &str) -> Option<Self> {
        // Ten characters, or the general reader would take other notations of a day.
        let at = (text.len() == 10).then(|| UnixMillis::parse(&format!("{text}T00:00:00Z")).ok())??;
        Some(Self(at.day()))
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = UnixMillis(i64::from(self.0) * DAY_MS).to_string();
        f.write_str(text.get(..10).unwrap_or(&text))
    }
}

impl TryFrom<String> for Day {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("must be a day such as 2021-11-24")
    }
}

impl From<Day> for String {
    fn from(day: Day) -> Self {
        day.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_vietnams() {
        let at = |text: &str| UnixMillis::parse(text).unwrap();
        let day = Day::parse("2021-11-24").unwrap();
        assert_eq!(Day::of(at("2021-11-23T17:00:00Z")), day);
        assert_eq!(Day::of(at("2021-11-24T16:59:59.999Z")), day);
        assert_eq!(
            (day.begins(), day.plus(1).begins()),
            (at("2021-11-23T17:00:00Z"), at("2021-11-24T17:00:00Z"))
        );
        assert_eq!(
            (day.to_string(), day.plus(7).to_string()),
            ("2021-11-24".to_owned(), "2021-12-01".to_owned())
        );
        assert_eq!(serde_json::from_str::<Day>("\"2021-11-24\"").unwrap(), day);
        for wrong in ["2021-11-31", "2021-11-4", "24-11-2021", "", "2021-11-24T00", "２021-11-2"] {
            assert_eq!(Day::parse(wrong), None, "{wrong}");
        }
    }
}
