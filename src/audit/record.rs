//! One record: what it holds, its one text, and the hash that chains it.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::Head;
use crate::scan::{Pseudonym, UnixMillis};
use crate::verify::{hex, unhex};

/// Longest line, its end included. What a caller can choose in it is bounded: the purpose takes at most 4 bytes a
/// character, or 2 where JSON escapes it.
pub(super) const LINE_BYTES_MAX: u64 = 4096;

/// Characters of a purpose.
pub const PURPOSE_CHARS_MAX: usize = 120;

/// More digits than any date or year has, and as many as the shortest number of a person: the old identity card's.
const PURPOSE_DIGITS: usize = 9;

macro_rules! names {
    ($(#[$doc:meta])* $Name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $Name { $($(#[$variant_doc])* #[serde(rename = $text)] $variant,)+ }

        impl $Name {
            /// The name in a record.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

names!(
    /// What was done.
    Action {
        /// Check-ins of a time range were read.
        Export = "export",
        /// One person's check-ins were read.
        Trace = "trace",
        /// What is known of one person's health was read.
        Health = "health",
        /// A feed linked identifiers.
        Links = "links",
        /// The gateway was told to end.
        Drain = "drain",
        /// Keys, revocations and limits were loaded again.
        Reload = "reload",
        /// Keys were made, imported, rotated, revoked or retired.
        Keys = "keys",
        /// A token for the admin listener was made or revoked.
        AdminToken = "admin_token",
        /// The pepper was rotated.
        Pepper = "pepper",
        /// An officer asked for a case's contacts to be traced.
        TraceAsk = "trace_ask",
        /// Another officer approved that.
        TraceApprove = "trace_approve",
        /// A case's contacts were read, or sealed.
        TraceRead = "trace_read",
        /// A case's contacts were notified.
        TraceNotify = "trace_notify",
        /// A segment of this log went, its retention over.
        Expire = "expire",
        /// Feedback was read: the queue, one piece, its photo.
        Feedback = "feedback",
        /// Feedback was exported.
        FeedbackExport = "feedback_export",
    }
);

names!(
    /// How it stands or ended.
    Outcome {
        /// It begins.
        Begun = "begun",
        /// It is done.
        Done = "done",
        /// It failed on this side.
        Failed = "failed",
        /// The reader went away before the end.
        BrokenOff = "broken_off",
    }
);

/// SHA-256 of a record, 64 hexadecimal digits as text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RecordHash(pub [u8; 32]);

impl RecordHash {
    fn of(text: &str) -> Self {
        let digest = digest(&SHA256, text.as_bytes());
        Self(digest.as_ref().try_into().unwrap_or([0; 32]))
    }

    /// Reads 64 lowercase hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let hash = Self(unhex(text)?);
        (hash.to_string() == text).then_some(hash)
    }
}

impl fmt::Display for RecordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for RecordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One line of the log. Members that a kind of record has no use for are left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its number, from 1 without a gap.
    pub seq: u64,
    /// When it was appended, RFC 3339 in UTC.
    pub at: String,
    /// `loopback`, `local`, `feed`, `token:NAME`, `cli:UID`, `signal` or `gateway`.
    pub caller: String,
    /// What was done.
    pub action: Action,
    /// How it stands or ended.
    pub outcome: Outcome,
    /// The number of the record that this one ends, or the last one of a segment that went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<u64>,
    /// First event time asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Event time asked to stop before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// About whom or what: a person's pseudonym, a feed's source, a key's use, a token's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What for, as the caller said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// Lines handed out, or taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// The hash of the record before.
    pub prev: String,
    /// The hash of this one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hash: String,
}

impl Record {
    /// Its hash, whatever `hash` says.
    pub(super) fn hashed(&self) -> RecordHash {
        RecordHash::of(&self.text_without_hash())
    }

    /// Puts the hash in.
    pub(super) fn seal(mut self) -> Self {
        self.hash = self.hashed().to_string();
        self
    }

    /// The one text of this record, without a line end.
    pub(super) fn text(&self) -> String {
        // Strings and numbers always serialize; an empty line would be refused when read.
        serde_json::to_string(self).unwrap_or_default()
    }

    fn text_without_hash(&self) -> String {
        Self { hash: String::new(), ..self.clone() }.text()
    }

    /// Reads a line without its end. Only the one text of a record is one.
    pub(super) fn parse(line: &str) -> Result<Self, &'static str> {
        let record: Self = serde_json::from_str(line).map_err(|_| "is no record")?;
        if record.text() != line {
            return Err("is not written as a record is");
        }
        if record.hashed().to_string() != record.hash {
            return Err("has another hash than its text");
        }
        Ok(record)
    }

    /// When it was appended; the start of time where that can't be read.
    pub(super) fn time(&self) -> UnixMillis {
        UnixMillis::parse(&self.at).unwrap_or(UnixMillis(0))
    }

    pub(super) fn head(&self) -> Head {
        Head { seq: self.seq, hash: RecordHash::parse(&self.hash).unwrap_or(Head::EMPTY.hash) }
    }
}

/// What is to be recorded.
#[derive(Debug, Clone)]
pub struct Entry {
    /// See [`Record::caller`].
    pub caller: String,
    /// What is done.
    pub action: Action,
    /// The event times asked for.
    pub range: Option<(UnixMillis, UnixMillis)>,
    /// About whom or what; never a number or a name of a person.
    pub subject: Option<String>,
    /// What for.
    pub purpose: Option<Purpose>,
}

impl Entry {
    /// An entry without range, subject and purpose.
    pub fn new(caller: impl Into<String>, action: Action) -> Self {
        Self { caller: caller.into(), action, range: None, subject: None, purpose: None }
    }

    /// About a person.
    #[must_use]
    pub fn about(self, person: Pseudonym) -> Self {
        self.named(person.to_string())
    }

    /// About something by name.
    #[must_use]
    pub fn named(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Of event times from the first to before the second.
    #[must_use]
    pub fn over(mut self, from: UnixMillis, to: UnixMillis) -> Self {
        self.range = Some((from, to));
        self
    }

    /// For this purpose, if one was given.
    #[must_use]
    pub fn purpose(mut self, purpose: Option<Purpose>) -> Self {
        self.purpose = purpose;
        self
    }

    pub(super) fn record(
        &self,
        head: Head,
        now: UnixMillis,
        outcome: Outcome,
        (call, rows): (Option<u64>, Option<u64>),
    ) -> Record {
        let (from, to) = self.range.unzip();
        let record = Record {
            seq: head.seq + 1,
            at: now.to_string(),
            caller: self.caller.clone(),
            action: self.action,
            outcome,
            call,
            from: from.map(|at| at.to_string()),
            to: to.map(|at| at.to_string()),
            subject: self.subject.clone(),
            purpose: self.purpose.as_ref().map(|purpose| purpose.0.clone()),
            rows,
            prev: head.hash.to_string(),
            hash: String::new(),
        };
        record.seal()
    }
}

/// What a call is made for, in the caller's words: no longer than it should be, and without a number of a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purpose(String);

/// Why a text is no purpose. The text itself is never told: it may hold what must not be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PurposeError {
    /// Nothing, or too much.
    #[error("must have 1 to {PURPOSE_CHARS_MAX} characters; got {0}")]
    Length(usize),
    /// A character that would not show.
    #[error("must not hold control characters")]
    Control,
    /// A number as long as a person's.
    #[error("must not hold a number of {PURPOSE_DIGITS} digits or more: name the case, not a person")]
    Number,
}

impl Purpose {
    /// Checks a text.
    ///
    /// # Errors
    /// It is empty or too long, or holds what must not be kept.
    pub fn parse(text: &str) -> Result<Self, PurposeError> {
        let text = text.trim();
        let chars = text.chars().count();
        if !(1..=PURPOSE_CHARS_MAX).contains(&chars) {
            return Err(PurposeError::Length(chars));
        }
        if text.chars().any(char::is_control) {
            return Err(PurposeError::Control);
        }
        let mut digits = 0;
        for character in text.chars() {
            match character {
                // People write numbers in groups.
                ' ' | '.' | '-' => {}
                digit if digit.is_numeric() => digits += 1,
                _ => digits = 0,
            }
            if digits >= PURPOSE_DIGITS {
                return Err(PurposeError::Number);
            }
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let purpose = Purpose::parse("ca bệnh \"17\", phường Hàng Bạc").ok();
        let entry = Entry::new("token:cdc", Action::Trace).about(Pseudonym([7; 16])).purpose(purpose);
        let entry = entry.over(UnixMillis(0), UnixMillis(1_000));
        entry.record(Head::EMPTY, UnixMillis(5_000), Outcome::Begun, (None, None))
    }

    #[test]
    fn a_record_is_read_as_it_is_written_and_in_no_other_way() {
        let record = record();
        let text = record.text();
        assert_eq!(Record::parse(&text), Ok(record.clone()));
        assert!(text.len() as u64 * 2 < LINE_BYTES_MAX);
        for (other, why) in [
            (text.replace("\"seq\":1", "\"seq\": 1"), "is not written as a record is"),
            (text.replace("\"seq\":1", "\"seq\":2"), "has another hash than its text"),
            (text.replace('}', ",\"more\":1}"), "is no record"),
            (text.replace(&record.hash, &record.hash.to_uppercase()), "has another hash than its text"),
            (String::new(), "is no record"),
        ] {
            assert_eq!(Record::parse(&other).err(), Some(why), "{other}");
        }
    }

    #[test]
    fn a_purpose_names_a_case_and_no_person() {
        for good in ["ca bệnh 17", "ổ dịch chợ Đồng Xuân, 2021-11-24", "điều tra 12345678"] {
            assert!(Purpose::parse(good).is_ok(), "{good}");
        }
        assert_eq!(Purpose::parse(" "), Err(PurposeError::Length(0)));
        assert_eq!(Purpose::parse(&"ă".repeat(121)), Err(PurposeError::Length(121)));
        assert_eq!(Purpose::parse("a\nb"), Err(PurposeError::Control));
        for number in
            ["001090123456", "tìm 001 090 123 456", "012-345-678", "tel 0123.232.422", "０１２３４５６７８"]
        {
            assert_eq!(Purpose::parse(number), Err(PurposeError::Number), "{number}");
        }
        let longest = Purpose::parse(&"\"".repeat(PURPOSE_CHARS_MAX)).ok();
        let entry = Entry::new("token:".to_owned() + &"x".repeat(64), Action::Export).purpose(longest);
        let record =
            entry.record(Head::EMPTY, UnixMillis(0), Outcome::Done, (Some(u64::MAX), Some(u64::MAX)));
        assert!((record.text().len() as u64) < LINE_BYTES_MAX);
    }
}
