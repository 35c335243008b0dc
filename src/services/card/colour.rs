//! The colours of a card.

use serde::{Deserialize, Serialize};

/// What a card shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Colour {
    /// No rule says anything: nothing is known of the person, or too little.
    #[default]
    Unknown = 0,
    /// Free to go.
    Green = 1,
    /// Within limits.
    Yellow = 2,
    /// At risk of infecting others.
    Red = 3,
}

impl Colour {
    /// Its stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Green => "green",
            Self::Yellow => "yellow",
            Self::Red => "red",
        }
    }
}
