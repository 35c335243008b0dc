//! What the log holds of tracing: one JSON object an event. Only ever extended.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::search::{Around, Question};
use crate::scan::{PlaceKey, Pseudonym, UnixMillis};
use crate::services::risk_map::Day;
use crate::verify::{hex, unhex};

/// Sixteen bytes, 32 hexadecimal digits as text: a pseudonym, a place's key, the number of a case or notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key(pub(super) [u8; 16]);

impl Key {
    /// Reads 32 hexadecimal digits.
    pub(super) fn parse(text: &str) -> Option<Self> {
        unhex(text).map(Self)
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("is no key"))
    }
}

/// Around whom or what a case is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Of {
    Person(Key),
    Place(Key),
}

/// What is asked. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) of: Of,
    pub(super) from: i64,
    pub(super) to: i64,
    pub(super) depth: u8,
    pub(super) purpose: String,
}

impl Asked {
    pub(super) fn question(&self) -> Question {
        let around = match self.of {
            Of::Person(key) => Around::Person(Pseudonym(key.0)),
            Of::Place(key) => Around::Place(PlaceKey(key.0)),
        };
        Question { around, from: UnixMillis(self.from), to: UnixMillis(self.to), depth: self.depth }
    }
}

/// One contact to notify: who, how deep, the last day of contact, and where, if it may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) person: Key,
    pub(super) depth: u8,
    /// Days since 1970 in Vietnam's time.
    pub(super) day: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) place: Option<Key>,
}

/// Contacts in one event: some 110 bytes each.
pub(super) const TOLD_MAX: usize = 30;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Change {
    /// An officer asks. `per_hour` is how many cases they may within an hour, as configured then.
    Ask { by: String, id: String, asked: Asked, per_hour: u32 },
    /// A positive test asks.
    Propose { person: Key, taken_at: i64 },
    /// Somebody approves, until then.
    Approve { case: Key, by: String, until: i64 },
    /// The map has a case's days up to this one, or, if the test is withdrawn, none of them any more.
    Marked { case: Key, through: Day, withdrawn: bool },
    /// Contacts of a case are notified.
    Notify { case: Key, told: Vec<Told> },
    /// A person has read a notification.
    Acknowledge { person: Key, id: Key },
    /// A person wants content, or none.
    Content { person: Key, content: bool },
    /// What is from before goes.
    Expire { before: i64 },
}

impl Change {
    pub(super) fn body(&self) -> Vec<u8> {
        // Strings and numbers always serialize; an empty body would mean nothing when applied.
        serde_json::to_vec(self).unwrap_or_default()
    }
}
