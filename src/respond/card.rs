//! What a scan's answer tells of the person's card.

use crate::scan::UnixMillis;

/// A card, as a place sees it.
#[derive(Debug, Clone, Copy)]
pub struct Card<'a> {
    /// The colour's stable name.
    pub colour: &'static str,
    /// As of when the facts behind it are known.
    pub as_of: Option<UnixMillis>,
    /// The rule set that says so, `id@version`.
    pub rules: Option<&'a str>,
}

/// Puts a card into an answer, the last member of its object. `body` ends with that object and a line's end.
pub fn append_card(body: &mut Vec<u8>, card: &Card<'_>) {
    body.truncate(body.len().saturating_sub(2));
    body.extend_from_slice(b",\"card\":{\"colour\":\"");
    body.extend_from_slice(card.colour.as_bytes());
    if let Some(at) = card.as_of {
        body.extend_from_slice(b"\",\"as_of\":\"");
        at.write(body);
    }
    if let Some(rules) = card.rules {
        body.extend_from_slice(b"\",\"rules\":\"");
        // An id is of letters, digits and hyphens.
        body.extend_from_slice(rules.as_bytes());
    }
    body.extend_from_slice(b"\"}}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_the_last_member() {
        let mut body = b"{\"outcome\":\"recorded\"}\n".to_vec();
        append_card(&mut body, &Card { colour: "unknown", as_of: None, rules: None });
        assert_eq!(body, b"{\"outcome\":\"recorded\",\"card\":{\"colour\":\"unknown\"}}\n");
        let mut body = b"{\"a\":1}\n".to_vec();
        let at = UnixMillis(1_637_736_569_000);
        append_card(&mut body, &Card { colour: "green", as_of: Some(at), rules: Some("vn-01@3") });
        let text =
            r#"{"a":1,"card":{"colour":"green","as_of":"2021-11-24T06:49:29.000Z","rules":"vn-01@3"}}"#;
        assert_eq!(body, format!("{text}\n").as_bytes());
    }
}
