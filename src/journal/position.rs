//! A place in the journal.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A place in the journal at which a record begins, or would begin. Printed and parsed as
/// `segment:offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Position {
    /// Number of the segment.
    pub segment: u64,
    /// Byte offset in its file.
    pub offset: u64,
}

impl Position {
    /// Before everything.
    pub const START: Self = Self { segment: 0, offset: 0 };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment, self.offset)
    }
}

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let (segment, offset) = text.split_once(':').ok_or(InvalidPosition)?;
        let number = |digits: &str| digits.parse().map_err(|_| InvalidPosition);
        Ok(Self { segment: number(segment)?, offset: number(offset)? })
    }
}

/// The text was not a journal position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a journal position such as 3:4096")]
pub struct InvalidPosition;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_print_parse_and_sort() {
        let position = Position { segment: 3, offset: 4096 };
        assert_eq!(position.to_string().parse(), Ok(position));
        assert!(Position::START < position && position < Position { segment: 4, offset: 0 });
        for text in ["", "3", "3:", ":4", "3:x", "3:4:5"] {
            assert_eq!(text.parse::<Position>(), Err(InvalidPosition), "{text}");
        }
        let json = serde_json::to_string(&position).unwrap();
        assert_eq!(serde_json::from_str::<Position>(&json).unwrap(), position);
    }
}
