//! What a movement declaration says beyond its form: times that make sense, and how long its code is good.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::respond::{Cause, Refused};
use crate::scan::{DAY_MS, UnixMillis};

/// How long before a departure it may be declared.
const AHEAD_MS: i64 = 30 * DAY_MS;
/// How long after a departure it may still be declared: whoever was told on the way declares on the way.
const BEHIND_MS: i64 = DAY_MS;
/// The longest journey: from the country's one end to the other by bicycle.
const LONGEST_MS: i64 = 30 * DAY_MS;
/// How long the code is good after the expected arrival: trains are late, and roads are closed for a night.
const LATE_MS: i64 = DAY_MS;

/// When a journey is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journey {
    pub(super) departs_ms: i64,
    pub(super) arrives_ms: i64,
}

impl Journey {
    /// Reads the times of answers that are as the form has it.
    ///
    /// # Errors
    /// A time that can't be, with its field.
    pub(super) fn of(answers: &Value, now: UnixMillis) -> Result<Self, Refused> {
        let departs = time(answers, "departs_at")?;
        let arrives = time(answers, "arrives_at")?;
        let refused = |field: &'static str, detail: &'static str| {
            Err(Refused::new(Cause::Invalid, detail).field(field))
        };
        if departs.0 > now.0 + AHEAD_MS {
            return refused("/answers/departs_at", "must be within 30 days from now");
        }
        if departs.0 < now.0 - BEHIND_MS {
            return refused("/answers/departs_at", "must be no longer ago than a day");
        }
        if arrives <= departs {
            return refused("/answers/arrives_at", "must be after departs_at");
        }
        if arrives.0 - departs.0 > LONGEST_MS {
            return refused("/answers/arrives_at", "must be within 30 days from departs_at");
        }
        if arrives.0 + LATE_MS <= now.0 {
            return refused("/answers/arrives_at", "must not be more than a day ago");
        }
        Ok(Self { departs_ms: departs.0, arrives_ms: arrives.0 })
    }

    /// When its code ends, in seconds since 1970.
    pub(super) const fn ends_s(&self) -> i64 {
        (self.arrives_ms + LATE_MS).div_euclid(1000)
    }
}

fn time(answers: &Value, name: &'static str) -> Result<UnixMillis, Refused> {
    let text = answers.get(name).and_then(Value::as_str).unwrap_or_default();
    UnixMillis::parse(text)
        .map_err(|error| Refused::new(Cause::Invalid, error.to_string()).field(format!("/answers/{name}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_journey_is_soon_forward_and_not_endless() {
        let now = UnixMillis::parse("2021-11-24T06:00:00Z").unwrap();
        let journey = |departs: &str, arrives: &str| {
            let of = Journey::of(&json!({"departs_at": departs, "arrives_at": arrives}), now);
            of.map_err(|refused| refused.field.unwrap().into_owned())
        };
        let good = journey("2021-11-24T07:00:00+07:00", "2021-11-25T05:00:00+07:00").unwrap();
        assert_eq!(good.departs_ms, now.0 - 6 * 3_600_000);
        assert_eq!(good.ends_s(), UnixMillis::parse("2021-11-25T22:00:00Z").unwrap().seconds());
        let departs = Err("/answers/departs_at".to_owned());
        let arrives = Err("/answers/arrives_at".to_owned());
        assert_eq!(journey("2021-12-25T00:00:00Z", "2021-12-26T00:00:00Z"), departs);
        assert_eq!(journey("2021-11-23T05:00:00Z", "2021-11-25T00:00:00Z"), departs);
        assert_eq!(journey("tomorrow", "2021-11-25T00:00:00Z"), departs);
        assert_eq!(journey("2021-11-24T08:00:00Z", "2021-11-24T08:00:00Z"), arrives);
        assert_eq!(journey("2021-11-24T08:00:00Z", "2021-12-25T08:00:00Z"), arrives);
        assert_eq!(journey("2021-11-23T06:00:00Z", "2021-11-23T06:00:00Z"), arrives);
    }
}
