//! The bodies of the API, as `/openapi.json` describes them; `tests/contract.rs` holds them to it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a scanner read, and when.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan {
    /// This scan's own name, 1 to 64 visible ASCII characters. Sent again under it, a scan is recorded once.
    pub id: String,
    /// The code's text as it was read, at most 4,096 bytes.
    pub qr: String,
    /// When it was scanned. Without it the gateway takes the time of arrival, which a queued scan must not have.
    pub at: Timestamp,
    /// Which way the person went.
    pub direction: Direction,
}

impl Scan {
    /// A scan of just now, under a fresh UUID.
    #[expect(clippy::disallowed_methods, reason = "the gateway's one clock is not the device's")]
    pub fn now(qr: impl Into<String>, direction: Direction) -> Self {
        Self { id: uuid::Uuid::new_v4().to_string(), qr: qr.into(), at: Timestamp::now(), direction }
    }
}

/// Without the code, which names a person.
impl std::fmt::Debug for Scan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scan").field("id", &self.id).field("at", &self.at).finish_non_exhaustive()
    }
}

/// Which way a person went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// In.
    In,
    /// Out.
    Out,
    /// The opposite of the person's last check-in there. Only in requests.
    #[default]
    Auto,
}

/// How a scan ended, for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// On disk.
    Recorded(Recorded),
    /// An earlier check-in, which is on disk, stands for it.
    Duplicate(Duplicate),
    /// It was read and won't be recorded, however often it is sent.
    Refused(Refusal),
}

/// A check-in that is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// The check-in's id, a UUID.
    pub checkin: String,
    /// The scan's own id.
    pub id: String,
    /// `in` or `out`.
    pub direction: Direction,
    /// Whose code it was: `person` or `place`.
    pub subject: String,
    /// `proven` if the code was signed, `asserted` if not.
    pub trust: String,
    /// When it was scanned.
    pub at: Timestamp,
}

/// A scan that an earlier check-in stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duplicate {
    /// That check-in.
    pub original: Original,
    /// The scan's own id.
    pub id: String,
    /// `in` or `out`.
    pub direction: Direction,
    /// Whose code it was: `person` or `place`.
    pub subject: String,
    /// `proven` if the code was signed, `asserted` if not.
    pub trust: String,
    /// When it was scanned.
    pub at: Timestamp,
}

/// The check-in that a duplicate repeats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Original {
    /// Its id, a UUID.
    pub checkin: String,
    /// When it was scanned.
    pub at: Timestamp,
}

/// Why a scan was not recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// As a name.
    #[serde(rename = "outcome")]
    pub reason: Reason,
    /// In words, for a log or an engineer; it names fields and limits, never what the code said.
    pub detail: String,
    /// The field that is wrong.
    #[serde(default)]
    pub field: Option<String>,
    /// The bound that was reached.
    #[serde(default)]
    pub bound: Option<String>,
    /// Seconds until it is worth sending again, where it is.
    #[serde(default)]
    pub retry_after_s: Option<u64>,
}

/// The names of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// No format that the gateway reads.
    Unrecognized,
    /// A bank or payment code.
    PaymentCode,
    /// Signed, but not by the key it names.
    BadSignature,
    /// Signed by a key the gateway does not have.
    UnknownKey,
    /// Its validity had ended when it was scanned.
    Expired,
    /// Its validity has not begun.
    NotYetValid,
    /// The code, its key or its holder was revoked.
    Revoked,
    /// A card whose number contradicts what is printed beside it.
    InconsistentIdentity,
    /// One part of a code that is split over several pictures.
    ChunkedCode,
    /// A place's scanner scanned a place, or a person's phone a person.
    WrongSubject,
    /// Scanned too long ago, or in the future.
    ClockSkew,
    /// A frame without a code that can be read.
    NoCodeFound,
    /// The request, or the line, can't be read.
    Malformed,
    /// No device token, or not a good one.
    Unauthenticated,
    /// Over a limit of size.
    TooLarge,
    /// The device sends too fast.
    RateLimited,
    /// A bound of the gateway was reached.
    Overloaded,
    /// The gateway can't keep records at present.
    Unavailable,
    /// One that this client does not know yet.
    #[serde(other)]
    Other,
}
