//! What the log holds of feedback. Variants and members are only ever added.

use serde::{Deserialize, Serialize};

use super::item::{Category, Language, State};

/// Bytes of a text that goes into the event itself. An event holds 4 KB, and JSON may escape each of them once.
pub const TEXT_BYTES_MAX: usize = 1_500;

/// A text, or where its parts were put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Text {
    /// Short enough.
    Here(String),
    /// So many events of parts came before this one, under this name.
    Parts {
        /// 32 random hexadecimal digits.
        draft: String,
        /// How many, numbered from 0.
        count: u8,
    },
}

/// Something that happened to feedback. Hashes are 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Told {
    /// A part of a text too long for one event.
    Part {
        /// Of which text.
        draft: String,
        /// Its number, from 0.
        number: u8,
        /// What it says.
        text: String,
    },
    /// Feedback was sent.
    Sent(Box<Sent>),
    /// An officer moved it on.
    Moved {
        /// The feedback's id.
        id: String,
        /// Where to.
        to: State,
        /// The revision that the officer saw.
        revision: u32,
        /// What the sender is told.
        answer: Option<Text>,
        /// Who: `token:NAME`.
        by: String,
    },
    /// A photo is on disk.
    Photo {
        /// Hash of its bytes, which is its name.
        id: String,
        /// How many bytes.
        bytes: u64,
    },
    /// The time of some is over.
    Expired {
        /// Of photos and parts of texts that nothing names, from before this moment.
        unused_before: i64,
        /// Of feedback that hasn't changed since.
        unchanged_before: i64,
    },
}

/// What was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Hash of the sender and of the id that the sender gave it.
    pub key: String,
    /// Hash of everything in it.
    pub content: String,
    /// Keyed hash of where it came from, category and text: what comes twice within minutes is one.
    pub repeat: String,
    /// Hash of the receipt.
    pub receipt: String,
    /// What it is about.
    pub category: Category,
    /// In which language.
    pub language: Language,
    /// The place's key.
    pub place: Option<String>,
    /// The photo's id.
    pub photo: Option<String>,
    /// What was written, numbers masked where nobody signed.
    pub text: Text,
    /// The pseudonym of who signed.
    pub sender: Option<String>,
    /// `feedback.anonymous_open_max` when it came: what was applied once must come out the same ever after.
    pub open_max: u64,
}

/// A text as events hold it, and the parts to be recorded before, if it is too long for one.
pub fn parted(text: String, draft: &str) -> (Vec<Told>, Text) {
    if text.len() <= TEXT_BYTES_MAX {
        return (vec![], Text::Here(text));
    }
    let mut parts: Vec<Told> = Vec::new();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (text, behind) = rest.split_at(rest.floor_char_boundary(TEXT_BYTES_MAX));
        let number = u8::try_from(parts.len()).unwrap_or(u8::MAX);
        parts.push(Told::Part { draft: draft.to_owned(), number, text: text.to_owned() });
        rest = behind;
    }
    let count = u8::try_from(parts.len()).unwrap_or(u8::MAX);
    (parts, Text::Parts { draft: draft.to_owned(), count })
}

#[cfg(test)]
mod tests {
    use super::super::item::TEXT_CHARS_MAX;
    use super::*;
    use crate::journal::EVENT_BODY_BYTES_MAX;

    #[test]
    fn the_longest_texts_fit_their_events() {
        for character in ["\n", "\"", "ế", "🙂"] {
            let text = character.repeat(TEXT_CHARS_MAX);
            let (parts, whole) = parted(text.clone(), "0123456789abcdef0123456789abcdef");
            let mut read = String::new();
            for (index, part) in parts.iter().enumerate() {
                assert!(serde_json::to_vec(part).expect("JSON").len() <= EVENT_BODY_BYTES_MAX);
                let Told::Part { number, text, .. } = part else { panic!("not a part") };
                assert_eq!(usize::from(*number), index);
                read.push_str(text);
            }
            assert_eq!(read, text);
            assert_eq!(
                whole,
                Text::Parts {
                    draft: "0123456789abcdef0123456789abcdef".to_owned(),
                    count: u8::try_from(parts.len()).expect("few")
                }
            );
        }
        let hash = "a".repeat(64);
        let (parts, text) = parted("\"".repeat(TEXT_BYTES_MAX), &hash);
        assert!(parts.is_empty());
        let sent = Told::Sent(Box::new(Sent {
            key: hash.clone(),
            content: hash.clone(),
            repeat: hash.clone(),
            receipt: hash.clone(),
            category: Category::DataCorrection,
            language: Language::Vietnamese,
            place: Some(hash.clone()),
            photo: Some(hash.clone()),
            text,
            sender: Some(hash),
            open_max: u64::MAX,
        }));
        assert!(serde_json::to_vec(&sent).expect("JSON").len() <= EVENT_BODY_BYTES_MAX);
    }
}
