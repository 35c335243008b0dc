//! One piece of feedback as it is kept, and how it may go on.

use serde::{Deserialize, Serialize};

use crate::scan::UnixMillis;

/// Characters of a text, and of an answer.
pub const TEXT_CHARS_MAX: usize = 2_000;

/// Receipts of one piece: each time it is sent again gives one more.
pub const RECEIPTS_MAX: usize = 8;

/// As many digits as the shortest number of a person has: the old identity card's.
const NUMBER_DIGITS: usize = 9;

macro_rules! words {
    ($(#[$doc:meta])* $Name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $Name { $($(#[$variant_doc])* #[serde(rename = $text)] $variant,)+ }

        impl $Name {
            /// Every one of them, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name in the API and in what is kept.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The one with this name.
            pub fn parse(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.name() == name)
            }
        }
    };
}

words!(
    /// What it is about.
    Category {
        /// A code isn't read, or is read wrongly.
        ScanProblem = "scan_problem",
        /// Something is wrong at a place.
        PlaceProblem = "place_problem",
        /// What is known of the sender is wrong.
        DataCorrection = "data_correction",
        /// Something could be better.
        Suggestion = "suggestion",
        /// Anything else.
        Other = "other",
    }
);

words!(
    /// The sender's language, which the answer should have as well.
    Language {
        /// Vietnamese.
        Vietnamese = "vi",
        /// English.
        English = "en",
    }
);

words!(
    /// How far it has come.
    State {
        /// Nobody has looked at it yet.
        Received = "received",
        /// Somebody sees to it.
        Triaged = "triaged",
        /// The sender can read the answer.
        Answered = "answered",
        /// Done.
        Closed = "closed",
        /// It is spam.
        Rejected = "rejected",
    }
);

impl State {
    /// Where it may go from here.
    pub const fn next(self) -> &'static [Self] {
        match self {
            Self::Received => &[Self::Triaged, Self::Rejected],
            Self::Triaged => &[Self::Answered, Self::Rejected],
            Self::Answered => &[Self::Closed],
            Self::Closed | Self::Rejected => &[],
        }
    }

    /// Whether somebody still has something to do.
    pub const fn is_open(self) -> bool {
        !self.next().is_empty()
    }

    /// Its number in the keys of the queue; 0 is the queue of all.
    pub const fn code(self) -> u8 {
        self as u8 + 1
    }
}

/// A step that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Where it led.
    pub to: State,
    /// When, milliseconds since 1970.
    pub at: i64,
    /// The officer's token: `token:NAME`.
    pub by: String,
}

/// One piece of feedback. Ids and hashes are lowercase hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The id of the event that it came with, 32 digits.
    pub id: String,
    /// When it came, milliseconds since 1970.
    pub at: i64,
    /// When it last changed.
    pub changed: i64,
    /// What it is about.
    pub category: Category,
    /// The sender's language.
    pub language: Language,
    /// What the sender wrote.
    pub text: String,
    /// The key of the place that it is about.
    pub place: Option<String>,
    /// The photo that belongs to it.
    pub photo: Option<String>,
    /// The sender's pseudonym; none if nobody signed it.
    pub sender: Option<String>,
    /// How far it has come.
    pub state: State,
    /// How many steps it has made.
    pub revision: u32,
    /// What it was answered.
    pub answer: Option<String>,
    /// The steps.
    pub history: Vec<Step>,
    /// Hash of all that was sent, by which another request of the same id is told.
    pub content: String,
    /// The keys under which it is found: hashes of its receipts, of the sender's ids, of its text.
    pub keys: Vec<String>,
}

impl Item {
    /// Its place in the queue of a state, or of all: those that wait longest come first.
    pub fn queue_key(&self, state: Option<State>) -> Vec<u8> {
        let (code, at) = match state {
            Some(state) => (state.code(), self.changed),
            None => (0, self.at),
        };
        let mut key = vec![code];
        key.extend_from_slice(&at.to_be_bytes());
        key.extend_from_slice(self.id.as_bytes());
        key
    }

    /// Whether it counts against `feedback.anonymous_open_max`.
    pub const fn is_open_anonymous(&self) -> bool {
        self.sender.is_none() && self.state.is_open()
    }

    /// How often it may still be sent again.
    pub fn has_room_for_a_receipt(&self) -> bool {
        self.keys.iter().filter(|key| key.starts_with('r')).count() < RECEIPTS_MAX
    }
}

/// A moment as answers write it.
pub fn written(at: i64) -> String {
    UnixMillis(at).to_string()
}

/// Why a text can't be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Nothing, or too much.
    #[error("must have 1 to {TEXT_CHARS_MAX} characters")]
    Length(usize),
    /// A character that would not show.
    #[error("must not hold control characters but line breaks and tabs")]
    Control,
}

/// A text without what surrounds it, its lines ended by `\n`.
///
/// # Errors
/// It is empty or too long, or holds control characters.
pub fn text(text: &str) -> Result<String, TextError> {
    let text = text.trim().replace("\r\n", "\n");
    let chars = text.chars().count();
    if !(1..=TEXT_CHARS_MAX).contains(&chars) {
        return Err(TextError::Length(chars));
    }
    if text.chars().any(|character| character.is_control() && !matches!(character, '\n' | '\t')) {
        return Err(TextError::Control);
    }
    Ok(text)
}

/// The text with every digit of what may be a person's number or phone replaced by `*`: nine digits or more, together,
/// or in groups with a space, a full stop or a hyphen between them. Groups have three digits at least, or two behind a
/// first one that begins with 0, as phone numbers are written; so dates stay.
pub fn masked(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut rest = characters.as_slice();
    while let Some((first, after)) = rest.split_first() {
        let number = if first.is_numeric() { number_length(rest) } else { 0 };
        if number > 0 {
            let (number, behind) = rest.split_at(number);
            out.extend(number.iter().map(|one| if one.is_numeric() { '*' } else { *one }));
            rest = behind;
        } else if first.is_numeric() {
            // The whole group stays, or its end would be looked at as one of its own.
            let group = rest.iter().take_while(|one| one.is_numeric()).count();
            let (group, behind) = rest.split_at(group);
            out.extend(group);
            rest = behind;
        } else {
            out.push(*first);
            rest = after;
        }
    }
    out
}

/// How many characters, from the first on, are a number to be masked; 0 if none.
fn number_length(characters: &[char]) -> usize {
    let long = run(characters, 3);
    let phone = if characters.first() == Some(&'0') { run(characters, 2) } else { (0, 0) };
    [long, phone]
        .into_iter()
        .filter(|(digits, _)| *digits >= NUMBER_DIGITS)
        .map(|(_, length)| length)
        .max()
        .unwrap_or(0)
}

/// Digits and characters of a first group of three or more and of the groups behind it of at least `group_min` each.
fn run(characters: &[char], group_min: usize) -> (usize, usize) {
    let group = |from: usize| characters.iter().skip(from).take_while(|one| one.is_numeric()).count();
    let first = group(0);
    if first < 3 {
        return (0, 0);
    }
    let (mut digits, mut length) = (first, first);
    while characters.get(length).is_some_and(|one| matches!(one, ' ' | '.' | '-')) {
        let next = group(length + 1);
        if next < group_min {
            break;
        }
        digits += next;
        length += 1 + next;
    }
    (digits, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_masked_and_dates_are_not() {
        for (sent, kept) in [
            ("số của tôi là 001090123456.", "số của tôi là ************."),
            ("gọi 0123 232 422 nhé", "gọi **** *** *** nhé"),
            ("0123.23.24.22", "****.**.**.**"),
            ("CMND 012-345-678", "CMND ***-***-***"),
            ("lúc 24-11-2021 08.30, cổng 12345678", "lúc 24-11-2021 08.30, cổng 12345678"),
            ("2021-11-24 08.30 đến 12", "2021-11-24 08.30 đến 12"),
            ("001 090 12 và 3456", "001 090 12 và 3456"),
            ("đ０１２３４５６７８", "đ*********"),
        ] {
            assert_eq!(masked(sent), kept);
        }
    }

    #[test]
    fn a_text_is_bounded_and_plain() {
        assert_eq!(text("  a\r\nb\tc \n").as_deref(), Ok("a\nb\tc"));
        assert_eq!(text(&"ế".repeat(2_000)).map(|text| text.len()), Ok(6_000));
        assert_eq!(text(&"ế".repeat(2_001)), Err(TextError::Length(2_001)));
        assert_eq!(text(" \n "), Err(TextError::Length(0)));
        assert_eq!(text("a\u{1b}[0m"), Err(TextError::Control));
    }

    #[test]
    fn every_state_leads_to_an_end_and_only_forward() {
        for state in State::ALL {
            assert!(state.next().iter().all(|next| next.code() > state.code()), "{state:?}");
            assert_eq!(State::parse(state.name()), Some(*state));
        }
    }
}
